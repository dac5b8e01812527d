//! Objects as a file has them: one by one or in Lists. It knows no kind but by its name.

use serde_json::Value;

/// What is wrong with an object, with its path: it must say what it is, all else the API server says.
pub fn fault(path: &str, object: &Value) -> Option<(String, &'static str)> {
    each(path, object).into_iter().find_map(|(path, one)| {
        let mut required = ["/apiVersion", "/kind", "/metadata/name"].into_iter();
        let missing = required.find(|pointer| {
            let text = one.pointer(pointer).and_then(Value::as_str);
            text.is_none_or(str::is_empty)
        })?;
        let field = missing.replace('/', ".");
        Some((format!("{path}{field}"), "is missing, or not a text"))
    })
}

/// An object, or all of a List, with their paths.
pub fn each<'a>(path: &str, object: &'a Value) -> Vec<(String, &'a Value)> {
    let Some(items) = items(object) else {
        return vec![(path.to_owned(), object)];
    };
    let items = items.iter().enumerate();
    items
        .map(|(at, item)| (format!("{path}.items[{at}]"), item))
        .collect()
}

/// What must be there before others, of objects that are there from the beginning.
pub fn rank(object: &Value) -> u8 {
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => 0,
        "CustomResourceDefinition"
        | "LimitRange"
        | "PriorityClass"
        | "ResourceQuota"
        | "RuntimeClass"
        | "ServiceAccount"
        | "StorageClass" => 1,
        _ => 2,
    }
}

/// The objects of a List.
pub fn items(object: &Value) -> Option<&Vec<Value>> {
    let is_list = object["kind"].as_str().is_some_and(|k| k.ends_with("List"));
    object["items"].as_array().filter(|_| is_list)
}
