//! What a node may write of the persistent volumes on its own disk: it lets go of one that is to
//! be deleted, when the folder is removed.

use api::local_volumes::{FINALIZER, NODE_LABEL};
use serde_json::Value;

use super::{Operation, Review, text};

/// Why a node may not write what it asks for.
pub fn check(review: &Review<'_>, node: &str) -> Result<(), String> {
    match (review.operation, review.subresource) {
        (Operation::Update, "") => {
            let new = review.object.as_deref().unwrap_or(&Value::Null);
            changes(new, review.old.unwrap_or(&Value::Null), node)
        }
        _ => Err(format!(
            "node {node:?} can only let go of persistent volumes"
        )),
    }
}

fn changes(new: &Value, old: &Value, node: &str) -> Result<(), String> {
    let label = old.pointer("/metadata/labels");
    let label = label
        .and_then(|l| l.get(NODE_LABEL))
        .and_then(Value::as_str);
    if label != Some(node) {
        let what = "can only change persistent volumes on its own disk";
        return Err(format!("node {node:?} {what}"));
    }
    if text(old, "/metadata/deletionTimestamp").is_empty() {
        let what = "can only change persistent volumes that are being deleted";
        return Err(format!("node {node:?} {what}"));
    }
    if rest(new) != rest(old) {
        let what = format!("can only remove the finalizer {FINALIZER:?} of a persistent volume");
        return Err(format!("node {node:?} {what}"));
    }
    Ok(())
}

/// The object without the node's finalizer, and without what every write changes.
fn rest(volume: &Value) -> Value {
    let mut rest = volume.clone();
    if let Some(meta) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
        meta.remove("resourceVersion");
        let finalizers = meta.remove("finalizers").unwrap_or_default();
        let all = finalizers.as_array().into_iter().flatten();
        let others = all.filter(|f| f.as_str() != Some(FINALIZER));
        let others: Vec<Value> = others.cloned().collect();
        meta.insert("finalizers".into(), others.into());
    }
    rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_only_lets_go() {
        let volume = json!({
            "metadata": { "name": "v", "labels": { NODE_LABEL: "n1" }, "resourceVersion": "1",
                "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b", FINALIZER] },
            "spec": { "local": { "path": "/x" } },
        });
        let mut free = volume.clone();
        free["metadata"]["finalizers"] = json!(["a/b"]);
        assert_eq!(changes(&free, &volume, "n1"), Ok(()));
        assert!(changes(&free, &volume, "n2").is_err());
        let mut living = volume.clone();
        living["metadata"]["deletionTimestamp"] = Value::Null;
        assert!(changes(&free, &living, "n1").is_err());
        for (at, to) in [
            ("/metadata/finalizers", json!([])),
            ("/metadata/labels", json!({})),
            ("/spec/local/path", json!("/etc")),
        ] {
            let mut other = free.clone();
            if let Some(part) = other.pointer_mut(at) {
                *part = to;
            }
            assert!(changes(&other, &volume, "n1").is_err(), "{at}");
        }
    }
}
