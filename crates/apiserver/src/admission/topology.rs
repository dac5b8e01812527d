//! PodTopologyLabels: a pod learns zone and region from the node that it gets, as labels that its
//! containers can read.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::{Value, json};

use super::{AdmissionAttributes, Admit, Need, Operation, Review};
use crate::state::State;

const COPIED: &[&str] = &[
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// The label of the pod's node.
const NODE: &str = "node of the pod";

pub struct PodTopologyLabels;

impl Admit for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create
            && matches!(subresource, "" | "binding")
            && row.group.is_empty()
            && &*row.resource == "pods"
    }
    /// Nodes are written all the time (heartbeats), and their zone hardly ever.
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        let field = if asked.subresource.is_empty() {
            "/spec/nodeName"
        } else {
            "/target/name"
        };
        match asked.text(field) {
            "" => Vec::new(),
            name => vec![Need::seen(NODE, ("", "nodes"), "", name)],
        }
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(object) = review.object.as_deref_mut()
            && let Some(node) = review.found.get(NODE)
        {
            for key in COPIED {
                if let Some(value) = node.label(key) {
                    set_label(object, key, value);
                }
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn set_label(object: &mut Value, key: &str, value: &str) {
    let labels = &mut crate::object::meta_mut(object)
        .entry("labels")
        .or_insert_with(|| json!({}));
    if !labels.is_object() {
        **labels = json!({});
    }
    labels[key] = value.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_whatever_was_there() {
        let mut pod = json!({ "metadata": { "labels": null } });
        set_label(&mut pod, "a", "b");
        set_label(&mut pod, "a", "c");
        assert_eq!(pod["metadata"]["labels"], json!({ "a": "c" }));
    }
}
