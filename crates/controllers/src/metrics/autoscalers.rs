//! What is counted and shown of HorizontalPodAutoscalers.

use std::sync::LazyLock;

use client::Informer;
use control::{Action, Count, Plan};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::ResourceExt;
use metrics::{Counters, Gauges, Histograms, exponential};

use super::Alive;

struct Scalers {
    runs: Counters<2>,
    seconds: Histograms<2>,
    computed: Counters<3>,
    count: Gauges<0>,
    desired: Gauges<2>,
}

static SCALERS: LazyLock<Scalers> = LazyLock::new(|| {
    let name = |n: &str| format!("horizontal_pod_autoscaler_controller_{n}");
    Scalers {
        runs: Counters::new(
            &name("reconciliations_total"),
            "Number of reconciliations of HPA controller, by what it did and which error it met",
            ["action", "error"],
        ),
        seconds: Histograms::new(
            &name("reconciliation_duration_seconds"),
            "The time(seconds) that the HPA controller takes to reconcile once",
            ["action", "error"],
            &exponential(0.001, 2.0, 15),
        ),
        computed: Counters::new(
            &name("metric_computation_total"),
            "Number of metric computations, by the type of the metric",
            ["action", "error", "metric_type"],
        ),
        count: Gauges::new(
            &name("num_horizontal_pod_autoscalers"),
            "Current number of controlled HPA objects.",
            [],
        ),
        desired: Gauges::new(
            &name("desired_replicas"),
            "Current desired replica count for HPA objects.",
            ["namespace", "hpa_name"],
        ),
    }
});

/// What an autoscaler had to go by.
pub struct OfScaler {
    /// The size that was found; none: it could not be read.
    pub from: Option<i32>,
    /// Each metric's type, and whether it could not be read.
    pub metrics: Vec<(String, bool)>,
}

/// Of an autoscaler.
pub fn scalers(seen: OfScaler, plan: &Plan) -> Option<Count> {
    let from = seen.from;
    let to = plan.all().find_map(|action| match action {
        Action::Update {
            subresource: "scale",
            object,
            ..
        } => object.pointer("/spec/replicas")?.as_i64(),
        _ => None,
    });
    let action = match (from.map(i64::from), to) {
        (Some(from), Some(to)) if to > from => "scale_up",
        (Some(from), Some(to)) if to < from => "scale_down",
        _ => "none",
    };
    let fault = |failed: bool| if failed { "internal" } else { "none" };
    let error = fault(from.is_none() || seen.metrics.iter().any(|(_, failed)| *failed));
    Some(Box::new(move |took, well| {
        let error = if well { error } else { "internal" };
        let metrics = &*SCALERS;
        metrics.runs.add([action, error]);
        metrics.seconds.observe([action, error], took.as_secs_f64());
        for (kind, failed) in seen.metrics {
            metrics.computed.add([action, fault(failed), &kind]);
        }
    }))
}

/// Shows how many autoscalers there are and what they want, while the controller lives.
pub fn show_scalers(all: &Informer<HorizontalPodAutoscaler>, alive: &Alive) {
    let (all, alive) = (all.clone(), alive.watch());
    metrics::before_reading(move || {
        let lives = alive.upgrade().is_some();
        SCALERS.desired.clear();
        let all = if lives { all.list() } else { Vec::new() };
        SCALERS.count.set([], all.len() as f64);
        for hpa in &all {
            let namespace = hpa.namespace().unwrap_or_default();
            let wanted = hpa.status.as_ref().map_or(0, |s| s.desired_replicas);
            SCALERS
                .desired
                .set([&namespace, &hpa.name_any()], f64::from(wanted));
        }
        lives
    });
}
