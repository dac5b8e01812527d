//! What is counted and shown of EndpointSlices.

use std::sync::LazyLock;

use client::Informer;
use control::{Count, Plan};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use metrics::{Counters, Gauges, Histograms};

use super::{Alive, counted};

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
