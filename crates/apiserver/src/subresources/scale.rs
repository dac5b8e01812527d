//! `scale`: the number of replicas of a scalable kind, in one form for all.

use std::sync::Arc;

use api::{FieldError, FieldPath, GroupKind, Status};
use registry::Scale;
use serde_json::{Map, Value, json};

use crate::cache::Object;
use crate::call::{Answer, Call};
use crate::object::{meta, meta_text};
use crate::verbs::decode::{decode_body, match_name};
use crate::verbs::patch;
use crate::verbs::update::change;

/// Gets, updates or patches the scale of the path's object.
pub async fn run(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let name = &call.info.name;
    let object = match call.info.verb.as_str() {
        "get" => call.stored(name).await?,
        "update" => {
            let mut scale = decode_body(call, body)?;
            match_name(call, &mut scale)?;
            set(call, |_| Ok(scale.clone())).await?
        }
        _ => {
            let patch = patch::Patch::read(call, body)?;
            set(call, |now| patch.apply_to_part(call, now)).await?
        }
    };
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    Ok(Answer::Value {
        code: 200,
        value: scale_of(
            &object.to_value(),
            &call.row.strategy.scale(&call.version.version),
        ),
        ty: sub.ty.clone(),
    })
}

async fn set<F>(call: &Call, mut make: F) -> Result<Arc<Object>, Status>
where
    F: FnMut(Value) -> Result<Value, Status> + Send,
{
    let dry_run = call.write_options()?;
    let places = call.row.strategy.scale(&call.version.version);
    change(call, &call.info.name, "scale", dry_run, |_, old| {
        let scale = make(scale_of(old, &places))?;
        let replicas = scale
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if replicas < 0 {
            let path = FieldPath::new("spec").child("replicas");
            let e = FieldError::invalid(
                &path,
                &replicas.into(),
                "must be greater than or equal to 0",
            );
            return Err(Status::invalid(
                &GroupKind::new("autoscaling", "Scale"),
                &call.info.name,
                &[e],
            ));
        }
        let mut new = old.clone();
        put(&mut new, &places.replicas, replicas.into());
        for precondition in ["uid", "resourceVersion"] {
            let asked = meta_text(&scale, precondition);
            if !asked.is_empty() {
                new["metadata"][precondition] = asked.into();
            }
        }
        Ok(new)
    })
    .await
}

/// Puts a value at a JSON pointer; objects on the way are made where there are none.
fn put(object: &mut Value, pointer: &str, value: Value) {
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
fn scale_of(object: &Value, places: &Scale) -> Value {
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
