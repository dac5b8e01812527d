//! What becomes of a node and its pods, given for how long it has been silent. Pure.
//!
//! ```text
//! heard ──grace over──▶ Ready=Unknown, pods Ready=False, taint unreachable:NoSchedule
//!                            │ others are ready (else nobody is evicted), and it is its turn
//!                            ▼
//!                       taint unreachable:NoExecute ──tolerations over──▶ pods deleted
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::{Patch, Target, reference};
use control::{Action, Plan};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::taint_eviction::{Since, evict};
use super::zones::Eviction;
use crate::common::{is_ready, time_at, time_text, value_of};
use crate::pods;

/// What is known of a node.
pub struct ObservedNode {
    pub node: Arc<Node>,
    pub pods: Vec<Arc<Pod>>,
    /// Since the last heartbeat, by the controller's own clock.
    pub silence_millis: u64,
    pub grace_millis: u64,
    /// No node at all is ready: then the fault is more likely ours than theirs.
    pub is_disrupted: bool,
    /// When it may lose its pods, where [`asks_for_eviction`].
    pub eviction: Eviction,
    /// When taints that do not say it were first seen.
    pub since: Since,
    /// It is seen for the first time.
    pub is_new: bool,
}

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that show as taints while they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];
/// Conditions of which a silent node says nothing any more.
const REPORTED_BY_KUBELET: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Between looks at a silent node: others may be heard again meanwhile.
const LOOK_AGAIN_MILLIS: u64 = 2_000;

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == kind)
}

fn condition_is(node: &Node, kind: &str, status: &str) -> bool {
    condition(node, kind).is_some_and(|c| c.status == status)
}

fn target(node: &Node) -> Target {
    Target::of::<Node>("", &node.name_any())
}

pub fn plan(seen: &ObservedNode, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    if seen.is_new {
        let name = seen.node.name_any();
        plan.actions.push(Action::Event {
            about: reference(&*seen.node),
            warning: false,
            reason: "RegisteredNode",
            message: format!("Node {name} event: Registered Node {name} in Controller"),
        });
    }
    let silent = seen.silence_millis >= seen.grace_millis;
    if silent && !condition_is(&seen.node, "Ready", "Unknown") {
        plan = plan.because(format!("silent for {} ms", seen.silence_millis));
        mark_unknown(seen, now_millis, &mut plan);
        // Taints follow from the condition, once it is seen.
        return plan;
    }
    // A kubelet that says that its node is not ready still speaks for the pods: it would say again
    // that they are.
    if condition_is(&seen.node, "Ready", "Unknown") {
        pods_not_ready(seen, now_millis, &mut plan);
    }
    taint(seen, now_millis, &mut plan);
    let next_eviction = evict(seen, now_millis, &mut plan);
    // One write of the node at a time.
    if plan.actions.is_empty() {
        older_names(&seen.node, &mut plan);
    }
    // Just after the grace would be over if nothing more is heard.
    let grace_over = (!silent).then(|| seen.grace_millis - seen.silence_millis + 10);
    let others = silent.then_some(LOOK_AGAIN_MILLIS);
    let turn = match seen.eviction {
        Eviction::After(millis) => Some(millis + 1),
        Eviction::Now | Eviction::Never => None,
    };
    let looks = [grace_over, others, turn, next_eviction];
    plan.wake_after_millis = looks.into_iter().flatten().min();
    plan
}

/// The taint that a node has by its readiness.
fn readiness(node: &Node) -> Option<&'static str> {
    match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    }
}

/// Whether its pods are driven away for its readiness already.
fn is_evicting(node: &Node) -> bool {
    let mut all = taints(node).iter().filter(|t| t.effect == "NoExecute");
    all.any(|t| t.key == NOT_READY || t.key == UNREACHABLE)
}

/// Whether a node would lose its pods now if it were its turn.
pub(super) fn asks_for_eviction(node: &Node, is_silent: bool) -> bool {
    // It is marked first.
    let is_marked = !is_silent || condition_is(node, "Ready", "Unknown");
    is_marked && may_evict(node) && !is_evicting(node)
}

/// Whether its pods may be driven away for its readiness: one that has said nothing yet has only just
/// come, and has none that it could lose.
fn may_evict(node: &Node) -> bool {
    condition(node, "Ready").is_some() && readiness(node).is_some()
}

fn mark_unknown(seen: &ObservedNode, now_millis: i64, plan: &mut Plan) {
    let mut conditions = Vec::new();
    for kind in REPORTED_BY_KUBELET {
        // One that is unknown already stays as it is.
        let (reason, message, beat) = match condition(&seen.node, kind) {
            Some(old) if old.status == "Unknown" => continue,
            Some(old) => (
                "NodeStatusUnknown",
                "Kubelet stopped posting node status.",
                &old.last_heartbeat_time,
            ),
            None => (
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
                &seen.node.metadata.creation_timestamp,
            ),
        };
        conditions.push(json!({
            "type": kind, "status": "Unknown", "reason": reason, "message": message,
            "lastHeartbeatTime": beat, "lastTransitionTime": time_text(now_millis),
        }));
    }
    let status = json!({ "status": { "conditions": conditions } });
    plan.actions.push(Action::Patch {
        target: target(&seen.node),
        subresource: "status",
        patch: Patch::Strategic(status),
    });
    if condition_is(&seen.node, "Ready", "True") {
        let name = seen.node.name_any();
        plan.actions.push(Action::Event {
            about: reference(&*seen.node),
            warning: false,
            reason: "NodeNotReady",
            message: format!("Node {name} status is now: NodeNotReady"),
        });
    }
    pods_not_ready(seen, now_millis, plan);
}

/// Traffic leaves the pods of a node that nobody hears of at once, long before they are evicted.
fn pods_not_ready(seen: &ObservedNode, now_millis: i64, plan: &mut Plan) {
    for pod in seen.pods.iter().filter(|p| is_ready(p)) {
        let status = json!({ "conditions": [{
            "type": "Ready", "status": "False", "reason": "NodeNotReady",
            "lastTransitionTime": time_text(now_millis),
        }] });
        plan.actions.push(pods::status_patch(pod, status));
        plan.actions.push(Action::Event {
            about: reference(&**pod),
            warning: true,
            reason: "NodeNotReady",
            message: "Node is not ready".to_owned(),
        });
    }
}

/// Labels of a node that have an older name, which follows.
const OLDER_NAMES: [(&str, &str); 2] = [
    ("kubernetes.io/os", "beta.kubernetes.io/os"),
    ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
];

/// Gives a node's labels their older names, too: nodes that others register may lack them.
fn older_names(node: &Node, plan: &mut Plan) {
    let labels = node.labels();
    let changed = OLDER_NAMES.iter().filter_map(|(name, older)| {
        let value = labels.get(*name)?;
        (labels.get(*older) != Some(value)).then_some((*older, value))
    });
    let changed: BTreeMap<&str, &String> = changed.collect();
    if !changed.is_empty() {
        let patch = json!({ "metadata": { "labels": changed } });
        plan.actions.push(Action::merge(target(node), patch));
    }
}

/// Whether this controller sets and removes a taint.
fn is_ours(taint: &Taint) -> bool {
    let by_condition =
        PRESSURES.iter().any(|(_, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
    let by_readiness = taint.key == NOT_READY || taint.key == UNREACHABLE;
    match taint.effect.as_str() {
        "NoSchedule" => by_condition || by_readiness,
        "NoExecute" => by_readiness,
        _ => false,
    }
}

/// Key and effect of every taint that the node's conditions call for.
fn wanted(seen: &ObservedNode) -> Vec<(&'static str, &'static str)> {
    let node = &seen.node;
    let mut out = Vec::new();
    if let Some(key) = readiness(node) {
        out.push((key, "NoSchedule"));
        // From one taint to the other it goes at once.
        let may = is_evicting(node) || seen.eviction == Eviction::Now;
        if may && may_evict(node) && !seen.is_disrupted {
            out.push((key, "NoExecute"));
        }
    }
    for (kind, key) in PRESSURES {
        if condition_is(node, kind, "True") {
            out.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        out.push((UNSCHEDULABLE, "NoSchedule"));
    }
    out
}

pub(super) fn taints(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|s| s.taints.as_deref())
        .unwrap_or_default()
}

fn taint(seen: &ObservedNode, now_millis: i64, plan: &mut Plan) {
    let wanted = wanted(seen);
    let is_wanted = |t: &Taint| wanted.iter().any(|(k, e)| t.key == *k && t.effect == *e);
    let have = taints(&seen.node);
    let mut next: Vec<Taint> = have
        .iter()
        .filter(|t| !is_ours(t) || is_wanted(t))
        .cloned()
        .collect();
    let mut changed = next.len() != have.len();
    for (key, effect) in &wanted {
        if !next.iter().any(|t| t.key == *key && t.effect == *effect) {
            // Evictions are counted from when the taint was set.
            let added = Some(time_at(now_millis));
            next.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: added,
                value: None,
            });
            changed = true;
        }
    }
    if changed {
        let list: Value = if next.is_empty() {
            Value::Null
        } else {
            value_of(&next)
        };
        // The version guards taints that somebody else sets at the same time.
        let patch = json!({
            "metadata": { "resourceVersion": seen.node.resource_version() },
            "spec": { "taints": list },
        });
        plan.actions.push(Action::merge(target(&seen.node), patch));
    }
}

#[cfg(test)]
mod tests;
