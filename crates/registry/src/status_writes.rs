//! Which half of an object a write of it changes, and which a write of its status: the metadata that a
//! write of a status leaves as it was is named by each kind (`status_leaves` of its strategy).

use serde_json::Value;

/// A write of the object itself keeps the old status; a write of `status` keeps all but status
/// and metadata (labels and annotations may be written with the status; the owners may not).
pub fn keep_other_half(obj: &mut Value, old: &Value, subresource: &str) {
    let (Some(new), Some(old)) = (obj.as_object_mut(), old.as_object()) else {
        return;
    };
    if subresource == "status" {
        let own = |k: &str| ["apiVersion", "kind", "metadata", "status"].contains(&k);
        new.retain(|k, _| own(k) || old.contains_key(k));
        for (k, v) in old.iter().filter(|(k, _)| !own(k)) {
            // Mostly it is the same, and larger than the status.
            if new.get(k) != Some(v) {
                new.insert(k.clone(), v.clone());
            }
        }
        let owners = old.get("metadata").and_then(|m| m.get("ownerReferences"));
        if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
            match owners {
                Some(o) => meta.insert("ownerReferences".into(), o.clone()),
                None => meta.remove("ownerReferences"),
            };
        }
    } else {
        match old.get("status") {
            Some(s) if new.get("status") == Some(s) => {}
            Some(s) => {
                new.insert("status".into(), s.clone());
            }
            None => {
                new.remove("status");
            }
        }
    }
}

/// What clients say of an object in its metadata.
pub const METADATA: &[&str] = &["labels", "annotations", "finalizers"];

/// Fields of the metadata become what they were.
pub fn keep_metadata(obj: &mut Value, old: &Value, fields: &[&str]) {
    let Some(meta) = obj.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for field in fields {
        match old.get("metadata").and_then(|m| m.get(field)) {
            Some(was) => meta.insert((*field).to_owned(), was.clone()),
            None => meta.remove(*field),
        };
    }
}

/// A client does not set the status when it creates an object.
pub fn no_status(obj: &mut Value) {
    if let Some(o) = obj.as_object_mut() {
        o.remove("status");
    }
}
