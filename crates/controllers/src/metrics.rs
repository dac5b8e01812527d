//! What controllers count beside the work of their queues, under upstream's names. Each looks at what
//! was observed and planned; it changes neither.

pub mod device_claims;
pub mod sets;
pub mod volumes;

use std::sync::{Arc, LazyLock, Weak};

use client::Informer;
use control::{Action, Count, Plan};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use metrics::{Counters, Gauges, Histograms, exponential};
use serde_json::Value;

use crate::nodes::zones::{counts, zone_of};

/// Lives as long as a controller does: figures that are read from its caches are its own while it
/// leads, and nobody's after.
#[derive(Clone, Default)]
pub struct Alive(Arc<()>);

impl Alive {
    fn watch(&self) -> Weak<()> {
        Arc::downgrade(&self.0)
    }

    /// Has something shown before figures are read, with whether the controller lives; once it
    /// does not, that is shown, too.
    pub fn show(&self, mut show: impl FnMut(bool) + Send + 'static) {
        let alive = self.watch();
        metrics::before_reading(move || {
            let lives = alive.upgrade().is_some();
            show(lives);
            lives
        });
    }
}

static RUNNING: LazyLock<Gauges<2>> = LazyLock::new(|| {
    Gauges::new(
        "running_managed_controllers",
        "Indicates where instances of a controller are currently running",
        ["name", "manager"],
    )
});

/// A controller runs here, or no longer.
pub fn runs(name: &str, is_running: bool) {
    let value = if is_running { 1.0 } else { 0.0 };
    RUNNING.set([name, "kube-controller-manager"], value);
}

/// Whether an action writes this resource; as which of upstream's operations.
fn operation<'a>(action: &'a Action, plural: &str) -> Option<(&'static str, &'a Action)> {
    let target = action.target().filter(|t| t.resource.plural == plural)?;
    let word = match action {
        Action::Create { .. } => "create",
        Action::Patch { .. } | Action::Update { .. } => "update",
        Action::Delete { .. } | Action::DeleteCollection { .. } => "delete",
        Action::Noted { .. } | Action::Event { .. } => return None,
    };
    let _ = target;
    Some((word, action))
}

fn counted(plan: &Plan, plural: &str, word: &str) -> u64 {
    let all = plan.all().filter_map(|a| operation(a, plural));
    all.filter(|(w, _)| *w == word).count() as u64
}

/// The status that an action writes to this resource.
fn status<'a>(plan: &'a Plan, plural: &str) -> Option<&'a Value> {
    plan.all().find_map(|action| match action {
        Action::Update {
            target,
            subresource: "status",
            object,
        } if target.resource.plural == plural => object.get("status"),
        _ => None,
    })
}

struct Slices {
    changes: Counters<1>,
    syncs: Counters<1>,
    changed: Histograms<2>,
    slices: Gauges<0>,
    endpoints: Gauges<0>,
}

static SLICES: LazyLock<Slices> = LazyLock::new(|| {
    let name = |n: &str| format!("endpoint_slice_controller_{n}");
    Slices {
        changes: Counters::new(
            &name("changes"),
            "Number of EndpointSlice changes",
            ["operation"],
        ),
        syncs: Counters::new(&name("syncs"), "Number of EndpointSlice syncs", ["result"]),
        changed: Histograms::new(
            &name("endpointslices_changed_per_sync"),
            "Number of EndpointSlices changed on each Service sync",
            ["topology", "traffic_distribution"],
            &[
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ],
        ),
        slices: Gauges::new(&name("num_endpoint_slices"), "Number of EndpointSlices", []),
        endpoints: Gauges::new(
            &name("endpoints_desired"),
            "Number of endpoints desired",
            [],
        ),
    }
});

/// Of EndpointSlices: whether the Service asks for hints by the CPU of zones, and the traffic
/// distribution that holds where it does not.
pub fn slices(by_cpu: bool, distribution: Option<&str>, plan: &Plan) -> Option<Count> {
    let all = ["create", "update", "delete"].map(|w| (w, counted(plan, "endpointslices", w)));
    let wished = distribution.map(str::to_owned);
    Some(Box::new(move |_, well| {
        let metrics = &*SLICES;
        metrics.syncs.add([if well { "success" } else { "error" }]);
        if !well {
            return;
        }
        let mut changes = 0;
        for (word, count) in all {
            changes += count;
            metrics.changes.of([word]).inc_by(count);
        }
        let topology = if by_cpu { "Auto" } else { "Disabled" };
        let labels = [topology, wished.as_deref().unwrap_or_default()];
        metrics.changed.observe(labels, changes as f64);
    }))
}

/// Shows how many slices there are, and what they hold, while the controller lives.
pub fn show_slices(
    slices: &Informer<EndpointSlice>,
    is_own: fn(&EndpointSlice) -> bool,
    alive: &Alive,
) {
    let (slices, alive) = (slices.clone(), alive.watch());
    metrics::before_reading(move || {
        let lives = alive.upgrade().is_some();
        let mut all = slices.list();
        all.retain(|s| lives && is_own(s));
        SLICES.slices.set([], all.len() as f64);
        let held: usize = all
            .iter()
            .flat_map(|s| s.endpoints.iter().flatten())
            .count();
        SLICES.endpoints.set([], held as f64);
        lives
    });
}

struct Jobs {
    syncs: Counters<3>,
    seconds: Histograms<3>,
    finished: Counters<3>,
    pods_finished: Counters<2>,
    pods_created: Counters<2>,
}

static JOBS: LazyLock<Jobs> = LazyLock::new(|| {
    let name = |n: &str| format!("job_controller_{n}");
    let sync = ["completion_mode", "result", "action"];
    Jobs {
        syncs: Counters::new(&name("job_syncs_total"), "The number of job syncs", sync),
        seconds: Histograms::new(
            &name("job_sync_duration_seconds"),
            "The time it took to sync a job",
            sync,
            &exponential(0.004, 2.0, 15),
        ),
        finished: Counters::new(
            &name("jobs_finished_total"),
            "The number of finished jobs",
            ["completion_mode", "result", "reason"],
        ),
        pods_finished: Counters::new(
            &name("job_pods_finished_total"),
            "The number of finished Pods that are fully tracked",
            ["completion_mode", "result"],
        ),
        pods_created: Counters::new(
            &name("job_pods_creation_total"),
            "The number of Pods created by the Job controller labelled with a reason for the Pod creation",
            ["reason", "status"],
        ),
    }
});

/// How a status says that its Job ended: the result and its reason.
fn ending(status: &JobStatus) -> Option<(&'static str, String)> {
    let conditions = status.conditions.iter().flatten();
    let mut ended = conditions.filter(|c| c.status == "True");
    ended.find_map(|c| {
        let result = match c.type_.as_str() {
            "Complete" => "succeeded",
            "Failed" => "failed",
            _ => return None,
        };
        Some((result, c.reason.clone().unwrap_or_default()))
    })
}

fn mode(job: &Job) -> &'static str {
    let mode = job.spec.as_ref().and_then(|s| s.completion_mode.as_deref());
    match mode {
        Some("Indexed") => "Indexed",
        _ => "NonIndexed",
    }
}

/// Why a Job makes pods: the first ones, or in the place of others.
fn why_made(job: &Job, status: &JobStatus) -> &'static str {
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let named = uncounted.and_then(|u| u.failed.as_ref());
    let failed = status.failed.is_some_and(|n| n > 0) || named.is_some_and(|n| !n.is_empty());
    let spec = job.spec.as_ref();
    match spec.and_then(|s| s.pod_replacement_policy.as_deref()) {
        Some("Failed") if failed => "recreate_failed",
        _ if failed || status.terminating.is_some_and(|n| n > 0) => {
            "recreate_terminating_or_failed"
        }
        _ => "new",
    }
}

/// Of a Job.
pub fn jobs(job: Option<&Arc<Job>>, plan: &Plan) -> Option<Count> {
    let job = job?.clone();
    let (created, deleted) = (
        counted(plan, "pods", "create"),
        counted(plan, "pods", "delete"),
    );
    let action = match (created, deleted) {
        (0, 0) => "reconciling",
        (0, _) => "pods_deleted",
        _ => "pods_created",
    };
    let written =
        status(plan, "jobs").and_then(|s| serde_json::from_value::<JobStatus>(s.clone()).ok());
    let known = written.as_ref().or(job.status.as_ref());
    let why = known.map_or("new", |status| why_made(&job, status));
    Some(Box::new(move |took, well| {
        let (metrics, mode) = (&*JOBS, mode(&job));
        let labels = [mode, if well { "success" } else { "error" }, action];
        metrics.syncs.add(labels);
        metrics.seconds.observe(labels, took.as_secs_f64());
        let outcome = if well { "succeeded" } else { "failed" };
        metrics.pods_created.of([why, outcome]).inc_by(created);
        let Some(status) = written.filter(|_| well) else {
            return;
        };
        let before = job.status.clone().unwrap_or_default();
        let more = |now: Option<i32>, then: Option<i32>| {
            u64::try_from(now.unwrap_or(0) - then.unwrap_or(0)).unwrap_or(0)
        };
        let pods = &metrics.pods_finished;
        pods.of([mode, "succeeded"])
            .inc_by(more(status.succeeded, before.succeeded));
        pods.of([mode, "failed"])
            .inc_by(more(status.failed, before.failed));
        if let Some((result, reason)) = ending(&status).filter(|_| ending(&before).is_none()) {
            metrics.finished.add([mode, result, &reason]);
        }
    }))
}

struct Crons {
    skew: Histograms<0>,
}

static CRONS: LazyLock<Crons> = LazyLock::new(|| Crons {
    skew: Histograms::new(
        "cronjob_controller_job_creation_skew_duration_seconds",
        "Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
        [],
        &exponential(1.0, 2.0, 10),
    ),
});

/// Of a CronJob; `annotation` of a Job says when it should have begun, `now_millis` is when it was
/// planned.
pub fn crons(plan: &Plan, annotation: &str, now_millis: i64) -> Option<Count> {
    let scheduled = plan.all().find_map(|action| match action {
        Action::Create { object, .. } => {
            let path = ["metadata", "annotations", annotation];
            let found = path.iter().try_fold(object, |o, key| o.get(key))?;
            found.as_str()?.parse::<jiff::Timestamp>().ok()
        }
        _ => None,
    })?;
    Some(Box::new(move |took, well| {
        if well {
            let late = (now_millis - scheduled.as_millisecond()) as f64 / 1000.0;
            CRONS.skew.observe([], late.max(0.0) + took.as_secs_f64());
        }
    }))
}

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

struct OfNodes {
    health: Gauges<1>,
    size: Gauges<1>,
    unhealthy: Gauges<1>,
    evictions: Counters<1>,
    updates: Histograms<0>,
    deletions: Counters<0>,
}

static NODES: LazyLock<OfNodes> = LazyLock::new(|| OfNodes {
    health: Gauges::new(
        "node_collector_zone_health",
        "Gauge measuring percentage of healthy nodes per zone.",
        ["zone"],
    ),
    size: Gauges::new(
        "node_collector_zone_size",
        "Gauge measuring number of registered Nodes per zones.",
        ["zone"],
    ),
    unhealthy: Gauges::new(
        "node_collector_unhealthy_nodes_in_zone",
        "Gauge measuring number of not Ready Nodes per zones.",
        ["zone"],
    ),
    evictions: Counters::new(
        "node_collector_evictions_total",
        "Number of Node evictions that happened since current instance of NodeController started.",
        ["zone"],
    ),
    updates: Histograms::new(
        "node_collector_update_node_health_duration_seconds",
        "Duration in seconds for NodeController to update the health of a single node.",
        [],
        &exponential(0.001, 4.0, 8),
    ),
    deletions: Counters::new(
        "taint_eviction_controller_pod_deletions_total",
        "Total number of Pods deleted by TaintEvictionController since its start.",
        [],
    ),
});

/// Of a node.
pub fn nodes(node: &Node, plan: &Plan) -> Option<Count> {
    let (gone, zone) = (counted(plan, "pods", "delete"), zone_of(node));
    // The taint that drives pods away is set now.
    let evicts =
        plan.all().any(|action| match action {
            Action::Patch { target, patch, .. } if target.resource.plural == "nodes" => {
                let (control::Patch::Merge(v)
                | control::Patch::Strategic(v)
                | control::Patch::Json(v)) = patch;
                v.to_string().contains("NoExecute")
            }
            _ => false,
        });
    Some(Box::new(move |took, well| {
        NODES.updates.observe([], took.as_secs_f64());
        if well {
            NODES.deletions.of([]).inc_by(gone);
            NODES.evictions.of([&zone]).inc_by(u64::from(evicts));
        }
    }))
}

struct Forced {
    deleted: Counters<2>,
    errors: Counters<2>,
}

static FORCED: LazyLock<Forced> = LazyLock::new(|| {
    let labels = ["namespace", "reason"];
    Forced {
        deleted: Counters::new(
            "pod_gc_collector_force_delete_pods_total",
            "Number of pods that are being forcefully deleted since the Pod GC Controller started.",
            labels,
        ),
        errors: Counters::new(
            "pod_gc_collector_force_delete_pod_errors_total",
            "Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.",
            labels,
        ),
    }
});

/// Of pods that are removed without their nodes, for one of upstream's reasons.
pub fn forced(reason: &'static str, plan: &Plan) -> Option<Count> {
    let all = plan.all().filter_map(|a| operation(a, "pods"));
    let gone = all.filter(|(word, _)| *word == "delete");
    let namespaces: Vec<String> = gone
        .filter_map(|(_, a)| Some(a.target()?.namespace.clone()))
        .collect();
    (!namespaces.is_empty()).then(|| -> Count {
        Box::new(move |_, well| {
            for namespace in &namespaces {
                FORCED.deleted.add([namespace, reason]);
                if !well {
                    FORCED.errors.add([namespace, reason]);
                }
            }
        })
    })
}

/// Shows how the nodes are, by zone, while the controller lives.
pub fn show_nodes(all: &Informer<Node>, alive: &Alive) {
    let (all, alive) = (all.clone(), alive.watch());
    metrics::before_reading(move || {
        let lives = alive.upgrade().is_some();
        for gauges in [&NODES.size, &NODES.health, &NODES.unhealthy] {
            gauges.clear();
        }
        let mut zones = std::collections::BTreeMap::<String, (f64, f64)>::new();
        let all = all.list();
        for node in all.iter().filter(|n| lives && counts(n)) {
            let (size, well) = zones.entry(zone_of(node)).or_default();
            *size += 1.0;
            *well += f64::from(u8::from(crate::common::is_node_ready(node)));
        }
        for (zone, (size, well)) in zones {
            let zone = [zone.as_str()];
            NODES.size.set(zone, size);
            NODES.unhealthy.set(zone, size - well);
            NODES.health.set(zone, 100.0 * well / size);
        }
        lives
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use control::action::Target;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object")
    }

    fn shows(line: &str) -> bool {
        let text = metrics::prometheus(&metrics::lines());
        text.lines().any(|l| l == line)
    }

    #[test]
    fn a_job_that_ends_is_counted_once_with_its_pods() {
        let before: Job = object(json!({
            "metadata": { "name": "j", "namespace": "n" },
            "spec": { "completionMode": "Indexed", "template": {} },
            "status": { "succeeded": 1 },
        }));
        let ended = json!({
            "succeeded": 3, "failed": 1,
            "conditions": [{ "type": "Complete", "status": "True", "reason": "CompletionsReached" }],
        });
        let plan = Plan::from(crate::common::update_status(&before, ended));
        jobs(Some(&Arc::new(before)), &plan).expect("a count")(Duration::from_secs(1), true);
        for line in [
            "job_controller_job_syncs_total{completion_mode=\"Indexed\",result=\"success\",action=\"reconciling\"} 1",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"succeeded\"} 2",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"failed\"} 1",
            "job_controller_jobs_finished_total{completion_mode=\"Indexed\",result=\"succeeded\",reason=\"CompletionsReached\"} 1",
        ] {
            assert!(shows(line), "{line} in {}", metrics::lines());
        }
    }

    #[test]
    fn pods_of_a_job_are_made_first_or_again() {
        for (policy, status, why) in [
            ("Failed", json!({}), "new"),
            ("Failed", json!({ "failed": 1 }), "recreate_failed"),
            (
                "Failed",
                json!({ "terminating": 1 }),
                "recreate_terminating_or_failed",
            ),
            (
                "TerminatingOrFailed",
                json!({ "uncountedTerminatedPods": { "failed": ["a"] } }),
                "recreate_terminating_or_failed",
            ),
            ("TerminatingOrFailed", json!({ "succeeded": 1 }), "new"),
        ] {
            let job: Job = object(json!({ "metadata": { "name": "j" },
                "spec": { "podReplacementPolicy": policy, "template": {} } }));
            let found = why_made(&job, &object(status.clone()));
            assert_eq!(found, why, "{policy} {status}");
        }
    }

    #[test]
    fn pods_that_leave_a_node_are_counted_when_they_were_deleted() {
        let node: Node = object(json!({ "metadata": { "name": "a", "labels": {
            "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z" } } }));
        assert_eq!(zone_of(&node), "r::z");
        let gone = Action::delete(Target::of::<Pod>("n", "p"), None);
        let plan = Plan::from(gone.noted(
            &k8s_openapi::api::core::v1::ObjectReference::default(),
            ("A", String::new()),
            ("B", String::new()),
        ));
        nodes(&node, &plan).expect("a count")(Duration::ZERO, false);
        nodes(&node, &plan).expect("a count")(Duration::ZERO, true);
        assert!(shows("taint_eviction_controller_pod_deletions_total 1"));
        assert!(shows("node_collector_evictions_total{zone=\"r::z\"} 0"));
    }

    #[test]
    fn a_job_of_a_cron_is_late_from_its_scheduled_time() {
        let job = json!({ "metadata": { "name": "j", "annotations": {
            "scheduled": "1970-01-01T00:00:10Z" } } });
        let plan = Plan::from(Action::Create {
            target: Target::of::<Job>("n", "j"),
            object: job,
        });
        crons(&plan, "scheduled", 13_000).expect("a count")(Duration::ZERO, true);
        assert!(shows(
            "cronjob_controller_job_creation_skew_duration_seconds_sum 3.0"
        ));
        assert!(crons(&Plan::nothing(), "scheduled", 0).is_none());
    }
}
