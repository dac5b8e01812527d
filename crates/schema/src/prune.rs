//! Removes what a type does not name.

use serde_json::Value;

use crate::model::*;

/// Removes fields that the type does not have, at every depth; returns their paths
/// (`spec.foo`, `spec.containers[0].bar`), in document order. Values of a wrong type stay.
pub fn prune(table: &TypeTable, id: TypeId, value: &mut Value) -> Vec<String> {
    let mut gone = Vec::new();
    object(table, id, value, &mut String::new(), &mut gone);
    gone
}

fn object(t: &TypeTable, id: TypeId, value: &mut Value, path: &mut String, gone: &mut Vec<String>) {
    let def = t.get(id);
    let Value::Object(map) = value else { return };
    if !def.preserve_unknown {
        map.retain(|k, _| {
            let known = def.field(k).is_some();
            if !known {
                gone.push(if path.is_empty() {
                    k.clone()
                } else {
                    format!("{path}.{k}")
                });
            }
            known
        });
    }
    for field in &def.fields {
        if let Some(v) = map.get_mut(&*field.json) {
            below(t, &field.ty, v, &field.json, path, gone);
        }
    }
}

fn below(
    t: &TypeTable,
    ty: &FieldType,
    v: &mut Value,
    name: &str,
    path: &mut String,
    gone: &mut Vec<String>,
) {
    let len = path.len();
    if !path.is_empty() && !name.starts_with('[') {
        path.push('.');
    }
    path.push_str(name);
    match (ty, v) {
        (FieldType::Object(id), v) => object(t, *id, v, path, gone),
        (FieldType::List(item, _), Value::Array(items)) => {
            for (i, v) in items.iter_mut().enumerate() {
                below(t, item, v, &format!("[{i}]"), path, gone);
            }
        }
        (FieldType::Map(item, _), Value::Object(map)) => {
            for (k, v) in map.iter_mut() {
                below(t, item, v, k, path, gone);
            }
        }
        _ => {}
    }
    path.truncate(len);
}
