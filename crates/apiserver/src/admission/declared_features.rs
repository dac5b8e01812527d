//! NodeDeclaredFeatureValidator: a pod that is on a node is changed only as that node can follow.

use api::{Status, declared_features};
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::pod_resize::{NODE, is_resize, its_node};
use super::{AdmissionAttributes, Admit, Need, Operation, Review, text};
use crate::state::State;

pub struct NodeDeclaredFeatureValidator;

impl Admit for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }
    /// Other changes of pods on nodes need nothing that is declared.
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        is_resize(operation, row, subresource)
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        its_node(asked)
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let is_on = state.has_feature("NodeDeclaredFeatures");
        let checked = if is_on { check(review) } else { Ok(()) };
        Box::pin(std::future::ready(checked))
    }
}

fn check(review: &Review<'_>) -> Result<(), Status> {
    let (Some(pod), Some(old)) = (review.object.as_deref(), review.old) else {
        return Ok(());
    };
    let name = text(pod, "/spec/nodeName");
    let needed = declared_features::of_change(old, pod);
    if name.is_empty() || needed.is_empty() {
        return Ok(());
    }
    let Some(node) = review.found.get(NODE) else {
        return Err(review.forbidden(&format!("node {name:?} not found")));
    };
    match missing(&needed, &node.to_value()) {
        None => Ok(()),
        Some(missing) => Err(review.forbidden(&format!(
            "pod update requires features {missing} which are not available on node {name:?}"
        ))),
    }
}

/// What is needed and not declared.
fn missing(needed: &[&'static str], node: &Value) -> Option<String> {
    let declared = node.pointer("/status/declaredFeatures");
    let declared = declared
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let has = |feature: &&&str| declared.iter().any(|d| d == **feature);
    let missing: Vec<&str> = needed.iter().filter(|f| !has(f)).copied().collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_node_does_not_declare_is_missing() {
        let both = [
            declared_features::POD_LEVEL_RESIZE,
            declared_features::INIT_CONTAINER_RESIZE,
        ];
        let node = |declared: Value| json!({ "status": { "declaredFeatures": declared } });
        assert_eq!(missing(&both, &node(json!(declared_features::OURS))), None);
        let one = node(json!([declared_features::POD_LEVEL_RESIZE]));
        assert_eq!(
            missing(&both, &one).as_deref(),
            Some(declared_features::INIT_CONTAINER_RESIZE)
        );
        assert!(missing(&both, &json!({})).is_some_and(|m| m.contains(", ")));
    }
}
