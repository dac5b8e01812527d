//! Whether pods and nodes say that they are ready.

use k8s_openapi::api::core::v1::{Node, Pod};

/// Whether a pod says that it is ready.
#[must_use]
pub fn is_pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut all = conditions.into_iter().flatten();
    all.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether a node says that it is ready.
#[must_use]
pub fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut all = conditions.into_iter().flatten();
    all.any(|c| c.type_ == "Ready" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_condition_that_is_true_says_so() {
        for (conditions, wanted) in [
            (json!(null), false),
            (json!([{ "type": "Ready", "status": "Unknown" }]), false),
            (json!([{ "type": "Other", "status": "True" }]), false),
            (
                json!([{ "type": "Other", "status": "False" }, { "type": "Ready", "status": "True" }]),
                true,
            ),
        ] {
            let object = json!({ "metadata": {}, "status": { "conditions": conditions } });
            let pod = serde_json::from_value(object.clone()).expect("a pod");
            let node = serde_json::from_value(object).expect("a node");
            assert_eq!((is_pod_ready(&pod), is_node_ready(&node)), (wanted, wanted));
        }
    }
}
