//! What is counted and shown of nodes, and of pods that are removed without theirs.

use std::sync::LazyLock;

use client::Informer;
use control::{Action, Count, Plan};
use k8s_openapi::api::core::v1::Node;
use metrics::{Counters, Gauges, Histograms, exponential};

use super::{Alive, counted, operation};
use crate::nodes::zones::{counts, zone_of};

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

    use super::super::{object, shows};
    use super::*;

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
}
