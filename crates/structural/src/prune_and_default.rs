//! What a schema does to values before they are checked: unknown fields go, defaults come, nulls
//! that may not be there give way to defaults.

use serde_json::{Map, Value as Json};

use crate::model::{Additional, Structural};

/// Fields that every resource has, whatever its schema says.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes fields that the schema does not know; returns their paths (`spec.a[0].b`), in order.
/// `root` says that the value is a whole resource, whose `metadata` the schema does not describe.
pub fn prune(schema: &Structural, value: &mut Json, root: bool) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_node(Some(schema), root, value, &mut String::new(), &mut unknown);
    unknown.sort();
    unknown
}

fn with<T>(path: &mut String, part: &str, f: impl FnOnce(&mut String) -> T) -> T {
    let len = path.len();
    if len > 0 && !part.starts_with('[') {
        path.push('.');
    }
    path.push_str(part);
    let result = f(path);
    path.truncate(len);
    result
}

fn prune_node(
    schema: Option<&Structural>,
    root: bool,
    value: &mut Json,
    path: &mut String,
    unknown: &mut Vec<String>,
) {
    match value {
        Json::Object(map) => prune_map(schema, root, map, path, unknown),
        Json::Array(items) => {
            // What is preserved as a whole has no items of its own to look at.
            let below = schema.and_then(|s| s.items.as_deref());
            if schema.is_some_and(|s| s.preserve_unknown) && below.is_none() {
                return;
            }
            for (i, item) in items.iter_mut().enumerate() {
                with(path, &format!("[{i}]"), |path| {
                    prune_node(below, false, item, path, unknown);
                });
            }
        }
        _ => {}
    }
}

fn prune_map(
    schema: Option<&Structural>,
    root: bool,
    map: &mut Map<String, Json>,
    path: &mut String,
    unknown: &mut Vec<String>,
) {
    let meta = root || schema.is_some_and(|s| s.embedded);
    let keeps = schema.is_some_and(|s| s.preserve_unknown);
    map.retain(|key, value| {
        if meta && META.contains(&&**key) {
            return true;
        }
        let known = match schema {
            Some(s) => match (s.properties.get(&**key), &s.additional) {
                (Some(property), _) => Some(Some(property)),
                (None, Additional::Schema(schema)) => Some(Some(&**schema)),
                // Anything is let in, and nothing is known of what is below.
                (None, Additional::Bool(_)) if !keeps => Some(None),
                _ => None,
            },
            None => None,
        };
        match known {
            Some(below) => {
                with(path, key, |path| {
                    prune_node(below, false, value, path, unknown)
                });
                true
            }
            None if keeps => true,
            None => {
                with(path, key, |path| unknown.push(path.clone()));
                false
            }
        }
    });
}

/// Removes nulls where the schema allows none and has no default.
pub fn drop_nulls(schema: &Structural, value: &mut Json) {
    match value {
        Json::Object(map) => map.retain(|key, value| match (schema.field(key), value) {
            (Some(s), Json::Null) => s.nullable || s.default.is_some(),
            (Some(s), value) => {
                drop_nulls(s, value);
                true
            }
            (None, _) => true,
        }),
        Json::Array(items) => {
            if let Some(schema) = &schema.items {
                for item in items {
                    drop_nulls(schema, item);
                }
            }
        }
        _ => {}
    }
}

/// Puts defaults where nothing is given, or a null that is not allowed.
pub fn default(schema: &Structural, value: &mut Json) {
    match value {
        Json::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(given) = &property.default else {
                    continue;
                };
                let missing = map
                    .get(&**name)
                    .is_none_or(|v| v.is_null() && !property.nullable);
                if missing {
                    map.insert(name.to_string(), (**given).clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(below) = schema.field(name) {
                    default_item(below, value);
                }
            }
        }
        Json::Array(items) => {
            if let Some(below) = &schema.items {
                for item in items {
                    default_item(below, item);
                }
            }
        }
        _ => {}
    }
}

fn default_item(schema: &Structural, value: &mut Json) {
    if value.is_null()
        && !schema.nullable
        && let Some(given) = &schema.default
    {
        *value = (**given).clone();
    }
    default(schema, value);
}
