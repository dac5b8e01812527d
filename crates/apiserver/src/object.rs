//! What every object has, whatever its kind: metadata, and times as the API writes them.

use serde_json::{Map, Value, json};

/// An object's metadata.
pub fn meta(object: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    object
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&EMPTY)
}

/// An object's metadata, made when there is none.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else {
        unreachable!("set above")
    };
    let meta = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if !meta.is_object() {
        *meta = Value::Object(Map::new());
    }
    let Value::Object(meta) = meta else {
        unreachable!("set above")
    };
    meta
}

/// A text of the metadata; empty when there is none.
pub fn meta_text<'a>(object: &'a Value, field: &str) -> &'a str {
    meta(object)
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Seconds since the epoch as the API writes times.
pub fn time_text(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

/// `PartialObjectMetadata` of a value.
pub fn partial_metadata(meta_version: &str, value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{meta_version}"),
        "metadata": value.get("metadata").cloned().unwrap_or_default(),
    })
}

/// A label of an object.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// The value without the managed fields of itself, and of its items where it is a list.
pub fn without_managed_fields(mut value: Value) -> Value {
    let drop = |object: &mut Value| {
        let meta = object.get_mut("metadata").and_then(Value::as_object_mut);
        meta.map(|meta| meta.remove("managedFields"));
    };
    drop(&mut value);
    let items = value.get_mut("items").and_then(Value::as_array_mut);
    items.into_iter().flatten().for_each(drop);
    value
}
