//! The scale of an object, as a part of it: what clients of `scale` and those who judge their writes
//! see.

use registry::Scale;
use serde_json::{Map, Value, json};

use crate::object::meta;

/// Puts a value at a JSON pointer; objects on the way are made where there are none.
pub fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for part in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    *at = value;
}

/// The scale of an object.
pub fn scale_of(object: &Value, places: &Scale) -> Value {
    let mut kept = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(v) = meta(object).get(field) {
            kept.insert(field.into(), v.clone());
        }
    }
    let number = |p: &str| object.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({ "replicas": number(&places.status_replicas) });
    let selector = match &places.selector {
        None => selector_text(object.pointer("/spec/selector")),
        Some(place) if place.is_empty() => String::new(),
        Some(place) => {
            let text = object.pointer(place).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        }
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": kept,
        "spec": { "replicas": number(&places.replicas) },
        "status": status,
    })
}

/// A label selector as text: a plain map, or matchLabels and matchExpressions.
fn selector_text(selector: Option<&Value>) -> String {
    let Some(map) = selector.and_then(Value::as_object) else {
        return String::new();
    };
    let structured = map.contains_key("matchLabels") || map.contains_key("matchExpressions");
    let labels = if structured {
        map.get("matchLabels").and_then(Value::as_object)
    } else {
        Some(map)
    };
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?)))
        .collect();
    let expressions = map.get("matchExpressions").and_then(Value::as_array);
    for e in expressions.into_iter().flatten() {
        let text = |f: &str| e.get(f).and_then(Value::as_str).unwrap_or_default();
        let values: Vec<&str> = e
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let (key, values) = (text("key"), values.join(","));
        terms.push(match text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_text() {
        let s = json!({ "matchLabels": { "a": "b" }, "matchExpressions": [
            { "key": "c", "operator": "In", "values": ["d", "e"] },
            { "key": "f", "operator": "DoesNotExist" },
        ]});
        assert_eq!(selector_text(Some(&s)), "a=b,c in (d,e),!f");
        assert_eq!(selector_text(Some(&json!({ "x": "y" }))), "x=y");
    }
}
