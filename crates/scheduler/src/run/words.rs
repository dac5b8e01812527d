//! Upstream's words for what happened, in figures.

use k8s_openapi::api::core::v1::Pod as ApiPod;

/// What happened to a pod, in upstream's words: which differ by whether it has a node.
pub(super) fn pod_event(old: Option<&ApiPod>, new: Option<&ApiPod>) -> &'static str {
    let has_node = |pod: &ApiPod| {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
        node.is_some_and(|n| !n.is_empty())
    };
    let had_node = old.is_some_and(has_node);
    match (old, new, new.or(old).is_some_and(has_node)) {
        (None, _, true) => "AssignedPodAdd",
        // For those with a node it is a new one.
        (Some(_), Some(_), true) if !had_node => "AssignedPodAdd",
        (None, _, false) => "UnschedulablePodAdd",
        (Some(_), Some(_), true) => "AssignedPodUpdate",
        (Some(_), Some(_), false) => "UnschedulablePodUpdate",
        (Some(_), None, true) => "AssignedPodDelete",
        (Some(_), None, false) => "UnschedulablePodDelete",
    }
}
