//! Pods that nobody else will ever remove: bound to a node that is no more, deleted before they
//! were bound, on a node that is declared out of service, or ended long ago in great number.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Informer, Informers};
use clock::Instant;
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::json;

use super::{BY_NODE, node_of};
use crate::common::{Key, is_deleting, is_finished, key_of};

/// How long a node must be missing before its pods are removed: it may be registering again.
const QUARANTINE_MILLIS: u64 = 40_000;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The pod garbage collector.
pub struct PodGc {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    missing_since: Mutex<HashMap<String, Instant>>,
}

impl PodGc {
    pub fn new(informers: &Informers) -> Self {
        let pods: Informer<Pod> = informers.of();
        pods.index(BY_NODE, node_of);
        Self {
            pods,
            nodes: informers.of(),
            missing_since: Mutex::default(),
        }
    }
}

/// What is known of a pod.
pub struct ObservedPod {
    pod: Arc<Pod>,
    /// The node is missing for so many milliseconds.
    orphaned_millis: Option<u64>,
    out_of_service: bool,
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector";
    const QUEUE: &'static str = "orphaned_pods_nodes";
    const ACCOUNT: &'static str = "pod-garbage-collector";
    type Key = Key;
    type Observed = ObservedPod;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.pods, |p| vec![key_of(p)]);
        let pods = self.pods.clone();
        watches.on(&self.nodes, move |n| {
            pods.by_index(BY_NODE, &n.name_any())
                .iter()
                .map(|p| key_of(&**p))
                .collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<ObservedPod> {
        let pod = self.pods.get(namespace, name)?;
        let Some(node_name) = node_of(&pod).pop() else {
            return Some(ObservedPod {
                pod,
                orphaned_millis: None,
                out_of_service: false,
            });
        };
        let node = self.nodes.get("", &node_name);
        let mut missing = self.missing_since.lock();
        let orphaned_millis = match node {
            Some(_) => {
                missing.remove(&node_name);
                None
            }
            None => {
                let since = missing
                    .entry(node_name)
                    .or_insert_with(Instant::now)
                    .elapsed();
                Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        };
        let out_of_service = node.is_some_and(|n| {
            n.spec
                .iter()
                .flat_map(|s| s.taints.iter().flatten())
                .any(|t| t.key == OUT_OF_SERVICE)
        });
        Some(ObservedPod {
            pod,
            orphaned_millis,
            out_of_service,
        })
    }

    fn plan(&self, seen: &ObservedPod, _: i64) -> Plan {
        plan(seen)
    }
}

fn plan(seen: &ObservedPod) -> Plan {
    let pod = &*seen.pod;
    let unbound = node_of(pod).is_empty();
    if let Some(millis) = seen.orphaned_millis {
        if millis >= QUARANTINE_MILLIS {
            return remove(pod, "its node is no more");
        }
        return Plan {
            wake_after_millis: Some(QUARANTINE_MILLIS - millis + 1),
            ..Plan::default()
        };
    }
    if is_deleting(pod) && (unbound || seen.out_of_service) {
        return remove(
            pod,
            if unbound {
                "it was never bound"
            } else {
                "its node is out of service"
            },
        );
    }
    Plan::nothing()
}

/// Removes a pod at once; one that had not ended is said to have failed before.
fn remove(pod: &Pod, why: &str) -> Plan {
    let (namespace, name) = key_of(pod);
    let target = Target::of::<Pod>(&namespace, &name);
    let mut plan = Plan::default().because(why);
    if !is_finished(pod) {
        plan.actions.push(Action::merge_status(
            target.clone(),
            json!({ "phase": "Failed" }),
        ));
    }
    plan.last.push(Action::Delete {
        target,
        uid: pod.uid(),
        resource_version: None,
        grace_seconds: Some(0),
        propagation: None,
    });
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn seen(node: &str, deleting: bool, orphaned: Option<u64>, out: bool) -> ObservedPod {
        let deletion = if deleting {
            json!("2026-01-01T00:00:00Z")
        } else {
            Value::Null
        };
        let value = json!({
            "metadata": { "name": "p", "namespace": "a", "uid": "u", "deletionTimestamp": deletion },
            "spec": { "containers": [], "nodeName": if node.is_empty() { Value::Null } else { json!(node) } },
        });
        ObservedPod {
            pod: Arc::new(serde_json::from_value(value).expect("pod")),
            orphaned_millis: orphaned,
            out_of_service: out,
        }
    }

    #[test]
    fn only_lost_pods_are_removed() {
        for (what, removed) in [
            (seen("n", false, None, false), false),
            (seen("n", true, None, false), false),
            (seen("n", true, None, true), true),
            (seen("", true, None, false), true),
            (seen("", false, None, false), false),
            (seen("n", false, Some(1_000), false), false),
            (seen("n", false, Some(40_000), false), true),
        ] {
            assert_eq!(
                !plan(&what).is_empty(),
                removed,
                "{:?} {:?}",
                what.pod.metadata,
                what.orphaned_millis
            );
        }
    }
}
