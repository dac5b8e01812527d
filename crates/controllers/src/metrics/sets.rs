//! What is shown of StatefulSets, of the nodes' ranges of addresses and of mirrored endpoints, under
//! upstream's names.

use std::sync::LazyLock;

use api::cidr::Cidr;
use client::Informer;
use control::{Count, Plan};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use metrics::{Counters, Gauges, Histograms, exponential};

use super::{Alive, counted};
use crate::common::int_or_percent;

struct Sets {
    most: Gauges<3>,
    unavailable: Gauges<3>,
}

static SETS: LazyLock<Sets> = LazyLock::new(|| {
    let labels = [
        "statefulset_namespace",
        "statefulset_name",
        "pod_management_policy",
    ];
    Sets {
        most: Gauges::new(
            "statefulset_controller_statefulset_max_unavailable",
            "Pods that may be unavailable while a StatefulSet is rolled out",
            labels,
        ),
        unavailable: Gauges::new(
            "statefulset_controller_statefulset_unavailable_replicas",
            "Pods of a StatefulSet that are missing or unavailable",
            labels,
        ),
    }
});

/// How many pods of a set may be unavailable, and how many are.
fn unavailable(set: &StatefulSet) -> (i32, i32) {
    let spec = set.spec.as_ref();
    let replicas = spec.and_then(|s| s.replicas).unwrap_or(1);
    let strategy = spec.and_then(|s| s.update_strategy.as_ref());
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let most = rolling.and_then(|r| r.max_unavailable.as_ref());
    let most = most.map_or(1, |m| int_or_percent(m, replicas, false).max(1));
    let status = set.status.as_ref();
    let available = status.and_then(|s| s.available_replicas).unwrap_or(0);
    (most, replicas.saturating_sub(available).max(0))
}

/// Shows how available StatefulSets are while the controller lives.
pub fn show_sets(sets: &Informer<StatefulSet>, alive: &Alive) {
    let sets = sets.clone();
    alive.show(move |lives| {
        SETS.most.clear();
        SETS.unavailable.clear();
        for set in sets.list().iter().filter(|_| lives) {
            let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
            let spec = set.spec.as_ref();
            let policy = spec.and_then(|s| s.pod_management_policy.as_deref());
            let policy = policy.unwrap_or("OrderedReady");
            let labels = [namespace.as_str(), name.as_str(), policy];
            let (most, unavailable) = unavailable(set);
            SETS.most.set(labels, f64::from(most));
            SETS.unavailable.set(labels, f64::from(unavailable));
        }
    });
}

struct Ranges {
    allocated: Counters<1>,
    most: Gauges<1>,
    usage: Gauges<1>,
}

static RANGES: LazyLock<Ranges> = LazyLock::new(|| {
    let (name, label) = (
        |n: &str| format!("node_ipam_controller_{n}"),
        ["clusterCIDR"],
    );
    Ranges {
        allocated: Counters::new(
            &name("cidrset_cidrs_allocations_total"),
            "Ranges that nodes were given",
            label,
        ),
        // Upstream's spelling.
        most: Gauges::new(
            &name("cirdset_max_cidrs"),
            "Ranges for nodes that there are at most",
            label,
        ),
        usage: Gauges::new(
            &name("cidrset_usage_cidrs"),
            "Part of the ranges for nodes that is in use",
            label,
        ),
    }
});

/// Shows how much of a cluster's range its nodes have: into how many parts it is cut, and how many of
/// these are in use.
pub fn range(of: Cidr, parts: u64, used: usize) {
    let name = of.to_string();
    RANGES.most.set([&name], parts as f64);
    RANGES.usage.set([&name], used as f64 / parts.max(1) as f64);
}

/// Of nodes that are given a part of each of these ranges.
pub fn ranges(of: Vec<Cidr>, plan: &Plan) -> Option<Count> {
    let nodes = counted(plan, "nodes", "update");
    (nodes > 0).then(|| -> Count {
        Box::new(move |_, well| {
            for range in of.iter().filter(|_| well) {
                RANGES.allocated.of([&range.to_string()]).inc_by(nodes);
            }
        })
    })
}

struct Mirrored {
    changes: Counters<1>,
    seconds: Histograms<0>,
    slices: Gauges<0>,
    endpoints: Gauges<0>,
}

static MIRRORED: LazyLock<Mirrored> = LazyLock::new(|| {
    let name = |n: &str| format!("endpoint_slice_mirroring_controller_{n}");
    Mirrored {
        changes: Counters::new(
            &name("changes"),
            "Number of EndpointSlice changes",
            ["operation"],
        ),
        seconds: Histograms::new(
            &name("endpoints_sync_duration"),
            "Time that a sync of Endpoints took, in seconds",
            [],
            &exponential(0.001, 2.0, 15),
        ),
        slices: Gauges::new(&name("num_endpoint_slices"), "Number of EndpointSlices", []),
        endpoints: Gauges::new(
            &name("endpoints_desired"),
            "Number of endpoints desired",
            [],
        ),
    }
});

/// Of Endpoints that are mirrored.
pub fn mirrored(plan: &Plan) -> Option<Count> {
    let all = ["create", "update", "delete"].map(|w| (w, counted(plan, "endpointslices", w)));
    Some(Box::new(move |took, well| {
        MIRRORED.seconds.observe([], took.as_secs_f64());
        for (word, count) in all.into_iter().filter(|_| well) {
            MIRRORED.changes.of([word]).inc_by(count);
        }
    }))
}

/// Shows how many mirrored slices there are, and what they hold, while the controller lives.
pub fn show_mirrored(
    slices: &Informer<EndpointSlice>,
    is_own: fn(&EndpointSlice) -> bool,
    alive: &Alive,
) {
    let slices = slices.clone();
    alive.show(move |lives| {
        let mut all = slices.list();
        all.retain(|s| lives && is_own(s));
        MIRRORED.slices.set([], all.len() as f64);
        let held = all.iter().flat_map(|s| s.endpoints.iter().flatten());
        MIRRORED.endpoints.set([], held.count() as f64);
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use control::Action;
    use control::action::Target;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_set_lacks_is_counted() {
        let of = |rolling: serde_json::Value| {
            let set = json!({
                "metadata": { "name": "s", "namespace": "n" },
                "spec": { "replicas": 5, "selector": {}, "serviceName": "s", "template": {},
                    "updateStrategy": { "rollingUpdate": rolling } },
                "status": { "replicas": 5, "availableReplicas": 2 },
            });
            unavailable(&serde_json::from_value(set).expect("a set"))
        };
        assert_eq!(of(json!({ "maxUnavailable": "40%" })), (2, 3));
        assert_eq!(of(json!({})), (1, 3));
    }

    #[test]
    fn ranges_and_mirrored_slices_have_upstreams_names() {
        let all: Cidr = "10.9.0.0/22".parse().expect("a range");
        range(all, 4, 1);
        let given = Action::merge(Target::of::<Node>("", "a"), json!({}));
        let plan = Plan::from(given);
        ranges(vec![all], &plan).expect("a count")(Duration::ZERO, true);
        let gone = Action::delete(Target::of::<EndpointSlice>("n", "s"), None);
        let plan = Plan::from(gone);
        mirrored(&plan).expect("a count")(Duration::ZERO, true);
        let text = metrics::prometheus(&metrics::lines());
        for line in [
            "node_ipam_controller_cirdset_max_cidrs{clusterCIDR=\"10.9.0.0/22\"} 4",
            "node_ipam_controller_cidrset_usage_cidrs{clusterCIDR=\"10.9.0.0/22\"} 0.25",
            "node_ipam_controller_cidrset_cidrs_allocations_total{clusterCIDR=\"10.9.0.0/22\"} 1",
            "endpoint_slice_mirroring_controller_changes{operation=\"delete\"}",
            "endpoint_slice_mirroring_controller_endpoints_sync_duration_count",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
