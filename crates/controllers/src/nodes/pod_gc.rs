//! Pods that nobody else will ever remove: bound to a node that is no more, deleted before they
//! were bound, or on a node that is declared out of service. Those that ended are `terminated_pods`'s.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Informer, Informers};
use clock::Instant;
use control::{Action, Controller, Count, Plan, Watches};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{BY_NODE, node_of};
use crate::common::{Key, is_deleting, is_finished, is_node_ready, key_of};
use crate::metrics;
use crate::pods::{disruption_target, status_patch, target};

/// How long a node must be missing before its pods are removed: it may be registering again.
const QUARANTINE_MILLIS: u64 = 40_000;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A node that the cache does not know.
struct Missing {
    since: Instant,
    /// The API does not know it either.
    is_confirmed: bool,
}

/// The pod garbage collector.
pub struct PodGc {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    missing: Arc<Mutex<HashMap<String, Missing>>>,
}

impl PodGc {
    pub fn new(informers: &Informers) -> Self {
        let pods: Informer<Pod> = informers.of();
        pods.index(BY_NODE, node_of);
        Self {
            pods,
            nodes: informers.of(),
            missing: Arc::default(),
        }
    }

    /// How a pod's node is, as far as the caches know.
    fn place(&self, node_name: String) -> AssignedNode {
        let Some(node) = self.nodes.get("", &node_name) else {
            let mut all = self.missing.lock();
            let missing = all.entry(node_name).or_insert_with(|| Missing {
                since: Instant::now(),
                is_confirmed: false,
            });
            let millis = u64::try_from(missing.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            return match (
                QUARANTINE_MILLIS.saturating_sub(millis),
                missing.is_confirmed,
            ) {
                (0, true) => AssignedNode::Gone,
                (0, false) => AssignedNode::Unconfirmed,
                (wait, _) => AssignedNode::Missing {
                    for_another_millis: wait,
                },
            };
        };
        match is_out_of_service(&node) {
            true => AssignedNode::OutOfService,
            false => AssignedNode::Node,
        }
    }
}

/// Whether somebody says that nothing runs there any more, and the node does not say otherwise.
fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.any(|t| t.key == OUT_OF_SERVICE) && !is_node_ready(node)
}

/// Where a pod is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AssignedNode {
    Unbound,
    Node,
    OutOfService,
    /// Its node may be registering again.
    Missing {
        for_another_millis: u64,
    },
    /// Long missing in the cache, which may be old.
    Unconfirmed,
    Gone,
}

/// What is known of a pod.
pub struct ObservedPod {
    pod: Arc<Pod>,
    place: AssignedNode,
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector";
    const QUEUE: &'static str = "orphaned_pods_nodes";
    const ACCOUNT: &'static str = "pod-garbage-collector";
    type Key = Key;
    type Observed = ObservedPod;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.pods, |p| vec![key_of(p)]);
        let (pods, missing) = (self.pods.clone(), Arc::clone(&self.missing));
        watches.on_change(&self.nodes, move |change| {
            if let Some(node) = &change.new {
                missing.lock().remove(&node.name_any());
            }
            // Heartbeats change nothing for the pods.
            let now = change.new.as_ref().map(|n| is_out_of_service(n));
            let before = change.old.as_ref().map(|n| is_out_of_service(n));
            let node = change.new.as_ref().or(change.old.as_ref());
            let node = node.filter(|_| now != before);
            let pods = node.map(|n| pods.by_index(BY_NODE, &n.name_any()));
            pods.iter().flatten().map(|p| key_of(&**p)).collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<ObservedPod> {
        let pod = self.pods.get(namespace, name)?;
        let place = match node_of(&pod).pop().filter(|n| !n.is_empty()) {
            Some(node) => self.place(node),
            None => AssignedNode::Unbound,
        };
        Some(ObservedPod { pod, place })
    }

    async fn gather(
        &self,
        client: &Client,
        mut seen: ObservedPod,
    ) -> Result<ObservedPod, kube::Error> {
        let node = node_of(&seen.pod).pop();
        let (AssignedNode::Unconfirmed, Some(node)) = (seen.place, node) else {
            return Ok(seen);
        };
        let found = Api::<Node>::all(client.clone()).get_opt(&node).await?;
        let mut all = self.missing.lock();
        match found {
            None => {
                seen.place = AssignedNode::Gone;
                if let Some(missing) = all.get_mut(&node) {
                    missing.is_confirmed = true;
                }
            }
            // It has come back: the cache will show it.
            Some(_) => {
                seen.place = AssignedNode::Missing {
                    for_another_millis: QUARANTINE_MILLIS,
                };
                all.remove(&node);
            }
        }
        drop(all);
        Ok(seen)
    }

    fn plan(&self, seen: &ObservedPod, now_millis: i64) -> Plan {
        plan(seen, now_millis)
    }

    fn metrics(&self, seen: &ObservedPod, plan: &Plan) -> Option<Count> {
        let reason = match seen.place {
            AssignedNode::Unbound => "unscheduled",
            AssignedNode::OutOfService => "out-of-service",
            _ => "orphaned",
        };
        metrics::forced(reason, plan)
    }
}

fn plan(seen: &ObservedPod, now_millis: i64) -> Plan {
    let pod = &*seen.pod;
    match seen.place {
        AssignedNode::Gone => {
            let (reason, message) = ("DeletionByPodGC", "PodGC: node no longer exists");
            let why = disruption_target(pod, reason, message, now_millis);
            remove(pod, Some(why), "its node is no more")
        }
        AssignedNode::Missing { for_another_millis } => Plan {
            wake_after_millis: Some(for_another_millis + 1),
            ..Plan::default()
        },
        AssignedNode::Unbound if is_deleting(pod) => remove(pod, None, "it was never bound"),
        AssignedNode::OutOfService if is_deleting(pod) => {
            remove(pod, None, "its node is out of service")
        }
        AssignedNode::Unbound
        | AssignedNode::OutOfService
        | AssignedNode::Node
        | AssignedNode::Unconfirmed => Plan::nothing(),
    }
}

/// Removes a pod at once; one that had not ended is said to have failed before, and by which
/// condition.
fn remove(pod: &Pod, condition: Option<Value>, why: &str) -> Plan {
    let mut plan = Plan::default().because(why);
    if !is_finished(pod) {
        let mut status = json!({
            "phase": "Failed", "observedGeneration": pod.metadata.generation,
        });
        if let Some(condition) = condition {
            status["conditions"] = json!([condition]);
        }
        plan.actions.push(status_patch(pod, status));
    }
    plan.last.push(delete_at_once(pod));
    plan
}

/// Deletes a pod without a wait for its node.
pub(super) fn delete_at_once(pod: &Pod) -> Action {
    Action::Delete {
        target: target(pod),
        uid: pod.uid(),
        resource_version: None,
        grace_seconds: Some(0),
        propagation: None,
    }
}

#[cfg(test)]
mod tests {
    use control::action::Patch;

    use super::*;

    #[test]
    fn a_ready_node_is_in_service_whatever_its_taint_says() {
        for (key, ready, lost) in [
            (OUT_OF_SERVICE, "True", false),
            (OUT_OF_SERVICE, "Unknown", true),
            (OUT_OF_SERVICE, "False", true),
            ("other", "False", false),
        ] {
            let node = json!({
                "spec": { "taints": [{ "key": key, "effect": "NoExecute" }] },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            });
            let node: Node = serde_json::from_value(node).expect("a node");
            assert_eq!(is_out_of_service(&node), lost, "{key} {ready}");
        }
    }

    fn seen(place: AssignedNode, deleting: bool, phase: &str) -> ObservedPod {
        let deletion = match deleting {
            true => json!("2026-01-01T00:00:00Z"),
            false => Value::Null,
        };
        let node = match place {
            AssignedNode::Unbound => Value::Null,
            _ => json!("n"),
        };
        let value = json!({
            "metadata": { "name": "p", "namespace": "a", "uid": "u", "generation": 3,
                "deletionTimestamp": deletion },
            "spec": { "containers": [], "nodeName": node },
            "status": { "phase": phase },
        });
        ObservedPod {
            pod: Arc::new(serde_json::from_value(value).expect("pod")),
            place,
        }
    }

    #[test]
    fn only_lost_pods_are_removed() {
        let missing = AssignedNode::Missing {
            for_another_millis: 7,
        };
        for (place, deleting, removed) in [
            (AssignedNode::Node, false, false),
            (AssignedNode::Node, true, false),
            (AssignedNode::OutOfService, true, true),
            (AssignedNode::OutOfService, false, false),
            (AssignedNode::Unbound, true, true),
            (AssignedNode::Unbound, false, false),
            (missing, false, false),
            (missing, true, false),
            (AssignedNode::Unconfirmed, true, false),
            (AssignedNode::Gone, false, true),
            (AssignedNode::Gone, true, true),
        ] {
            let planned = plan(&seen(place, deleting, "Running"), 0);
            assert_eq!(!planned.is_empty(), removed, "{place:?} {deleting}");
        }
        let wake = plan(&seen(missing, false, "Running"), 0).wake_after_millis;
        assert_eq!(wake, Some(8));
    }

    #[test]
    fn the_pods_of_a_lost_node_say_why_they_failed() {
        let planned = plan(&seen(AssignedNode::Gone, false, "Running"), 10_000);
        let [
            Action::Patch {
                subresource: "status",
                patch: Patch::Strategic(patch),
                ..
            },
        ] = planned.actions.as_slice()
        else {
            panic!("{planned:?}");
        };
        let expected = json!({
            "metadata": { "uid": "u" },
            "status": {
                "phase": "Failed", "observedGeneration": 3,
                "conditions": [{
                    "type": "DisruptionTarget", "status": "True",
                    "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists",
                    "observedGeneration": 3, "lastTransitionTime": "1970-01-01T00:00:10Z",
                }],
            },
        });
        assert_eq!(*patch, expected);
        // What ended stays as it ended.
        let planned = plan(&seen(AssignedNode::Gone, false, "Succeeded"), 10_000);
        assert!(planned.actions.is_empty() && planned.last.len() == 1);
        // Nothing disrupts a pod that somebody else has deleted.
        let planned = plan(&seen(AssignedNode::Unbound, true, "Pending"), 10_000);
        let [Action::Patch { patch, .. }] = planned.actions.as_slice() else {
            panic!("{planned:?}");
        };
        let (Patch::Strategic(patch) | Patch::Merge(patch) | Patch::Json(patch)) = patch;
        assert_eq!(patch["status"]["phase"], "Failed");
        assert!(patch["status"]["conditions"].is_null());
    }
}
