//! Items of lists that are sets or maps: each is there once.

use std::collections::HashMap;

use api::{FieldError, FieldPath};
use serde_json::Value as Json;

use crate::model::{List, Structural};

/// Items that are there twice, and those of map lists that are not objects.
pub fn validate(schema: &Structural, path: &FieldPath, value: &Json) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node(schema, path, value, &mut errors);
    errors
}

fn node(schema: &Structural, path: &FieldPath, value: &Json, errors: &mut Vec<FieldError>) {
    match value {
        Json::Object(map) => {
            for (key, value) in map {
                match schema.properties.get(&**key) {
                    Some(below) => node(below, &path.child(key), value, errors),
                    None => {
                        if let Some(below) = schema.field(key) {
                            node(below, &path.key(key), value, errors);
                        }
                    }
                }
            }
        }
        Json::Array(items) => {
            match &schema.list {
                List::Set => duplicates(path, items.iter().map(Json::to_string), items, errors),
                List::Map(keys) => map_list(keys, path, items, errors),
                _ => {}
            }
            if let Some(below) = &schema.items {
                for (i, item) in items.iter().enumerate() {
                    node(below, &path.index(i), item, errors);
                }
            }
        }
        _ => {}
    }
}

/// Reports the second of equal items, once.
fn duplicates(
    path: &FieldPath,
    keys: impl Iterator<Item = String>,
    items: &[Json],
    errors: &mut Vec<FieldError>,
) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (i, key) in keys.enumerate() {
        let times = seen.entry(key).or_default();
        *times += 1;
        if *times == 2 {
            errors.push(FieldError::duplicate(&path.index(i), &items[i]));
        }
    }
}

fn map_list(
    keys: &[std::sync::Arc<str>],
    path: &FieldPath,
    items: &[Json],
    errors: &mut Vec<FieldError>,
) {
    for (i, item) in items.iter().enumerate() {
        if !item.is_object() && !item.is_null() {
            let what = "must be an object for an array of list-type map";
            errors.push(FieldError::invalid(&path.index(i), item, what));
            return;
        }
    }
    let mut shown = Vec::with_capacity(items.len());
    let texts: Vec<String> = items
        .iter()
        .map(|item| {
            let mut key = serde_json::Map::new();
            for name in keys {
                if let Some(value) = item.get(&**name) {
                    key.insert(name.to_string(), value.clone());
                }
            }
            let text = Json::Object(key.clone()).to_string();
            shown.push(Json::Object(key));
            text
        })
        .collect();
    duplicates(path, texts.into_iter(), &shown, errors);
}
