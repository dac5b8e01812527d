//! What a node may write of the persistent volumes and snapshots on its own disk: to what size it
//! holds a volume, how far a snapshot is, and that it lets go of one that is to be deleted, when the
//! folder is removed.

use api::local_volumes::{FINALIZER, LIMIT, NODE_LABEL};
use serde_json::Value;

use super::{Operation, Review, text};

/// Why a node may not write what it asks for of a volume.
pub fn check(review: &Review<'_>, node: &str) -> Result<(), String> {
    match (review.operation, review.subresource) {
        (Operation::Update, "") => {
            let (new, old) = both(review);
            changes(new, old, node)
        }
        _ => Err(format!(
            "node {node:?} can only change persistent volumes on its own disk"
        )),
    }
}

/// The same of the content of a snapshot.
pub fn check_snapshot(review: &Review<'_>, node: &str) -> Result<(), String> {
    let (new, old) = both(review);
    match (review.operation, review.subresource) {
        (Operation::Update, "") => changes(new, old, node),
        (Operation::Update, "status") => says(new, old, node),
        _ => Err(format!(
            "node {node:?} can only change snapshots on its own disk"
        )),
    }
}

fn both<'a>(review: &'a Review<'_>) -> (&'a Value, &'a Value) {
    let new = review.object.as_deref().unwrap_or(&Value::Null);
    (new, review.old.unwrap_or(&Value::Null))
}

fn is_own(old: &Value, node: &str) -> Result<(), String> {
    let label = old.pointer("/metadata/labels");
    let label = label
        .and_then(|l| l.get(NODE_LABEL))
        .and_then(Value::as_str);
    if label == Some(node) {
        return Ok(());
    }
    let what = "can only change volumes and snapshots on its own disk";
    Err(format!("node {node:?} {what}"))
}

fn changes(new: &Value, old: &Value, node: &str) -> Result<(), String> {
    is_own(old, node)?;
    let held = |object: &Value| object.pointer("/metadata/finalizers").cloned();
    if text(old, "/metadata/deletionTimestamp").is_empty() && held(new) != held(old) {
        let what = "can only let go of what is being deleted";
        return Err(format!("node {node:?} {what}"));
    }
    if rest(new) != rest(old) {
        let what =
            format!("can only change annotation {LIMIT:?} and remove finalizer {FINALIZER:?}");
        return Err(format!("node {node:?} {what}"));
    }
    Ok(())
}

/// Of a status, everything else stays as it is.
fn says(new: &Value, old: &Value, node: &str) -> Result<(), String> {
    is_own(old, node)?;
    let others = |object: &Value| {
        let mut rest = rest(object);
        if let Some(all) = rest.as_object_mut() {
            all.remove("status");
        }
        rest
    };
    if others(new) != others(old) {
        return Err(format!("node {node:?} can only change the status"));
    }
    Ok(())
}

/// The object without what is the node's of it, and without what every write changes.
fn rest(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(meta) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "generation"] {
            meta.remove(field);
        }
        if let Some(all) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            all.remove(LIMIT);
            if all.is_empty() {
                meta.remove("annotations");
            }
        }
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
    fn a_node_says_how_far_its_snapshots_are() {
        let content = json!({
            "metadata": { "name": "c", "labels": { NODE_LABEL: "n1" }, "finalizers": [FINALIZER] },
            "spec": { "driver": "d" },
        });
        let mut ready = content.clone();
        ready["status"] = json!({ "readyToUse": true });
        ready["metadata"]["resourceVersion"] = json!("2");
        assert_eq!(says(&ready, &content, "n1"), Ok(()));
        assert!(says(&ready, &content, "n2").is_err());
        ready["spec"]["driver"] = json!("other");
        assert!(says(&ready, &content, "n1").is_err());
        let mut free = content.clone();
        free["metadata"]["finalizers"] = json!([]);
        assert!(changes(&free, &content, "n1").is_err());
        let mut leaving = content.clone();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        free["metadata"]["deletionTimestamp"] = leaving["metadata"]["deletionTimestamp"].clone();
        assert_eq!(changes(&free, &leaving, "n1"), Ok(()));
    }

    #[test]
    fn a_node_says_to_what_size_it_holds_a_volume() {
        let volume = json!({ "metadata": { "name": "v", "labels": { NODE_LABEL: "n1" } },
            "spec": { "capacity": { "storage": "1Gi" } } });
        let mut held = volume.clone();
        held["metadata"]["annotations"] = json!({ LIMIT: "1Gi" });
        assert_eq!(changes(&held, &volume, "n1"), Ok(()));
        assert!(changes(&held, &volume, "n2").is_err());
        held["metadata"]["annotations"]["other"] = json!("x");
        assert!(changes(&held, &volume, "n1").is_err());
    }

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
