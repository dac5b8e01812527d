//! Accessors of `metadata` on objects as values. A missing or ill-typed part reads as empty:
//! structure was checked when the object was decoded.

use serde_json::{Map, Value};

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "name")
}
pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}
/// As written; empty when there is none.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}
pub fn creation_timestamp(object: &Value) -> &str {
    text(object, "creationTimestamp")
}
/// `None` when the object is not being deleted.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(text(object, "deletionTimestamp")).filter(|t| !t.is_empty())
}
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    object
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
}
pub fn generation(object: &Value) -> i64 {
    object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

fn map<'a>(object: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    object.get("metadata")?.get(field)?.as_object()
}
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    map(object, "labels")
}
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    map(object, "annotations")
}
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}
pub fn owner_references(object: &Value) -> &[Value] {
    list(object, "ownerReferences")
}
/// The owner that controls the object, if one does.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object)
        .iter()
        .find(|o| o.get("controller") == Some(&Value::Bool(true)))
}
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "finalizers").iter().filter_map(Value::as_str)
}
pub fn managed_fields(object: &Value) -> &[Value] {
    list(object, "managedFields")
}

/// `metadata` for writing; made if it is missing. `None` when the value is not an object.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let fields = object.as_object_mut()?;
    let meta = fields
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if !meta.is_object() {
        *meta = Value::Object(Map::new());
    }
    meta.as_object_mut()
}

/// Sets a field of `metadata`; an empty string, list, map or null removes it.
pub fn set(object: &mut Value, field: &str, value: Value) {
    let empty = match &value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    if let Some(meta) = metadata_mut(object) {
        if empty {
            meta.remove(field);
        } else {
            meta.insert(field.to_owned(), value);
        }
    }
}

/// Removes a finalizer; says whether it was there.
pub fn remove_finalizer(object: &mut Value, finalizer: &str) -> bool {
    let kept: Vec<Value> = list(object, "finalizers")
        .iter()
        .filter(|f| f.as_str() != Some(finalizer))
        .cloned()
        .collect();
    let found = kept.len() != list(object, "finalizers").len();
    if found {
        set(object, "finalizers", Value::Array(kept));
    }
    found
}

/// Adds a finalizer unless it is there.
pub fn add_finalizer(object: &mut Value, finalizer: &str) {
    if finalizers(object).any(|f| f == finalizer) {
        return;
    }
    let mut all = list(object, "finalizers").to_vec();
    all.push(Value::String(finalizer.to_owned()));
    set(object, "finalizers", Value::Array(all));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_read_and_set() {
        let mut o =
            json!({ "metadata": { "name": "a", "labels": { "x": "y" }, "finalizers": ["f"] } });
        assert_eq!(
            (name(&o), label(&o, "x"), namespace(&o)),
            ("a", Some("y"), "")
        );
        add_finalizer(&mut o, "g");
        add_finalizer(&mut o, "g");
        assert!(remove_finalizer(&mut o, "f"));
        assert!(!remove_finalizer(&mut o, "f"));
        assert_eq!(finalizers(&o).collect::<Vec<_>>(), ["g"]);
        set(&mut o, "labels", json!({}));
        assert!(labels(&o).is_none());
        let mut odd = json!(3);
        set(&mut odd, "name", json!("x"));
        assert_eq!(name(&odd), "");
    }
}
