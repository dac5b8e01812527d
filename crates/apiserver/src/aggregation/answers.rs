//! What extension servers answer about themselves, in the form in which this server's pages show it.
//! Nothing of it is believed to be of any form.

use std::collections::BTreeMap;

use api::GroupVersion;
use serde_json::{Map, Value, json};

/// The type of a version in an aggregated document.
const VERSION: &str = "io.k8s.api.apidiscovery.v2.APIVersionDiscovery";

/// The resources of a version in an aggregated document; none if it is not in it.
pub fn entry(document: &Value, of: &GroupVersion) -> Value {
    let groups = document["items"].as_array().into_iter().flatten();
    let mut versions = groups
        .filter(|g| g["metadata"]["name"] == of.group.as_str())
        .flat_map(|g| g["versions"].as_array().into_iter().flatten());
    let found = versions.find(|v| v["version"] == of.version.as_str());
    found.map_or_else(|| json!([]), |v| v["resources"].clone())
}

/// Resources as the page of all groups may show them: in the types that its readers have. Of a page with
/// one value of another type they read nothing, of no group.
///
/// # Errors
/// Something has another type; in the words of Go's decoder.
pub fn checked(resources: Value) -> Result<Value, String> {
    let table = schema::builtin();
    let id = table.by_name(VERSION).ok_or("versions have no type")?;
    let version = json!({ "resources": resources });
    let read = schema::decode::value(table, id, version).map_err(|e| e.to_string())?;
    let mut version = read.value;
    let mut all = match version.get_mut("resources").map(Value::take) {
        Some(Value::Array(all)) => all,
        _ => Vec::new(),
    };
    for resource in &mut all {
        with_verbs(resource);
        let below = resource
            .get_mut("subresources")
            .and_then(Value::as_array_mut);
        below.into_iter().flatten().for_each(with_verbs);
    }
    Ok(all.into())
}

/// Verbs are a list, also where there are none: not every reader takes Go's null for that.
fn with_verbs(of: &mut Value) {
    if let Some(verbs) = of.get_mut("verbs").filter(|verbs| verbs.is_null()) {
        *verbs = json!([]);
    }
}

/// Where a resource stands among all of a list, which it joins if it is the first of its name.
fn place<'a>(
    all: &mut Vec<Map<String, Value>>,
    places: &mut BTreeMap<&'a str, usize>,
    name: &'a str,
) -> usize {
    *places.entry(name).or_insert_with(|| {
        let mut resource = Map::new();
        resource.insert("resource".into(), name.into());
        // Where it stands only as the parent of something.
        resource.insert("responseKind".into(), json!({}));
        all.push(resource);
        all.len() - 1
    })
}

/// The resources of an `APIResourceList` in the aggregated form.
pub fn from_list(group: &str, version: &str, list: &[Value]) -> Value {
    let mut all: Vec<Map<String, Value>> = Vec::new();
    let mut places = BTreeMap::new();
    for item in list {
        let text = |field: &str| item[field].as_str().unwrap_or_default();
        let or = |own: &str, other: &str| if own.is_empty() { other } else { own }.to_owned();
        let kind = json!({
            "group": or(text("group"), group), "version": or(text("version"), version),
            "kind": text("kind"),
        });
        let scope = if item["namespaced"] == true {
            "Namespaced"
        } else {
            "Cluster"
        };
        let name = item["name"].as_str().unwrap_or_default();
        if let Some((parent, sub)) = name.split_once('/') {
            let at = place(&mut all, &mut places, parent);
            let Some(parent) = all.get_mut(at) else {
                continue;
            };
            parent.entry("scope").or_insert_with(|| scope.into());
            let subs = parent.entry("subresources").or_insert_with(|| json!([]));
            if let Some(subs) = subs.as_array_mut() {
                subs.push(json!({
                    "subresource": sub, "responseKind": kind, "verbs": item["verbs"],
                }));
            }
            continue;
        }
        let at = place(&mut all, &mut places, name);
        let Some(resource) = all.get_mut(at) else {
            continue;
        };
        resource.insert("responseKind".into(), kind);
        resource.insert("scope".into(), scope.into());
        resource.insert("singularResource".into(), text("singularName").into());
        resource.insert("verbs".into(), item["verbs"].clone());
        for field in ["shortNames", "categories"] {
            if item[field].is_array() {
                resource.insert(field.into(), item[field].clone());
            }
        }
    }
    json!(all)
}

/// The paths of a group and version in an OpenAPI v2 document, and what they lead to.
pub fn own_part(document: &mut Value, of: &GroupVersion) -> Value {
    let own = format!("/apis/{of}");
    let mut paths = Map::new();
    let all = document.get_mut("paths").and_then(Value::as_object_mut);
    if let Some(all) = all {
        all.retain(|path, item| {
            let is_own = path
                .strip_prefix(&own)
                .is_some_and(|r| r.is_empty() || r.starts_with('/'));
            if is_own && item.is_object() {
                paths.insert(path.clone(), item.take());
            }
            !is_own
        });
    }
    let mut shared = SHARED.map(|section| (section, Map::new()));
    let mut open = Vec::new();
    paths.values().for_each(|item| references(item, &mut open));
    while let Some((section, name)) = open.pop() {
        let kept = shared.iter_mut().find(|(s, _)| *s == section);
        let found = document[section].get(&name).filter(|f| f.is_object());
        let (Some(found), Some((_, kept))) = (found, kept) else {
            continue;
        };
        if !kept.contains_key(&name) {
            references(found, &mut open);
            kept.insert(name, found.clone());
        }
    }
    let mut part = json!({ "paths": paths });
    for (section, all) in shared {
        part[section] = all.into();
    }
    part
}

/// Sections of an OpenAPI v2 document whose entries others refer to.
const SHARED: [&str; 2] = ["definitions", "parameters"];

/// The section and the name of what a reference means.
fn referred(reference: &str) -> Option<(&'static str, &str)> {
    let (section, name) = reference.strip_prefix("#/")?.split_once('/')?;
    let section = SHARED.into_iter().find(|s| *s == section)?;
    Some((section, name))
}

/// All that a part of a document refers to, by section and name.
fn references(value: &Value, open: &mut Vec<(&'static str, String)>) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                match below.as_str().and_then(referred).filter(|_| key == "$ref") {
                    Some((section, name)) => open.push((section, name.to_owned())),
                    None => references(below, open),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|below| references(below, open)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lists_become_the_aggregated_form() {
        let list = [
            json!({"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}),
            json!({"name": "flunders", "singularName": "flunder", "namespaced": true,
                "kind": "Flunder", "verbs": ["get", "list"], "shortNames": ["fl"]}),
            json!({"name": "flunders/scale", "group": "autoscaling", "version": "v1",
                "kind": "Scale", "namespaced": true, "verbs": ["get"]}),
        ];
        let made = from_list("x.io", "v1", &list);
        assert_eq!(
            made,
            json!([{
                "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced",
                "responseKind": {"group": "x.io", "version": "v1", "kind": "Flunder"},
                "verbs": ["get", "list"], "shortNames": ["fl"],
                "subresources": [
                    {"subresource": "status", "verbs": ["get"],
                        "responseKind": {"group": "x.io", "version": "v1", "kind": "Flunder"}},
                    {"subresource": "scale", "verbs": ["get"],
                        "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}},
                ],
            }])
        );
    }

    #[test]
    fn resources_of_other_types_are_refused() {
        let good = json!({"resource": "flunders", "singularResource": "flunder", "scope": "Cluster",
            "responseKind": {"group": "x.io", "version": "v1", "kind": "Flunder"}, "verbs": ["get"]});
        let all = json!([good]);
        assert_eq!(checked(all.clone()), Ok(all));
        for nothing in [Value::Null, json!([])] {
            assert_eq!(checked(nothing), Ok(json!([])));
        }
        // Go writes nothing as null.
        let bare = json!({"resource": "a", "verbs": null, "subresources": [{"subresource": "b"}]});
        let bare = checked(json!([bare])).expect("of these types");
        assert_eq!(bare[0]["verbs"], json!([]));
        assert_eq!(bare[0]["subresources"][0]["verbs"], json!([]));
        for (field, value) in [
            ("resource", json!(1)),
            ("scope", json!({})),
            ("verbs", json!("get")),
            ("shortNames", json!([1])),
            ("responseKind", json!("Flunder")),
            ("subresources", json!(["status"])),
        ] {
            let mut other = good.clone();
            other[field] = value;
            assert!(checked(json!([other])).is_err(), "{field}");
        }
        for other in [json!("a"), json!({}), json!([1])] {
            assert!(checked(other.clone()).is_err(), "{other}");
        }
    }

    #[test]
    fn of_what_is_no_document_nothing_is_taken() {
        let of = GroupVersion::new("x.io", "v1");
        let nothing = json!({ "paths": {}, "definitions": {}, "parameters": {} });
        for mut document in [
            json!([]),
            json!("a"),
            json!({ "paths": ["/apis/x.io/v1"] }),
            json!({ "paths": { "/apis/x.io/v1": "a" } }),
        ] {
            assert_eq!(own_part(&mut document, &of), nothing);
            assert_eq!(entry(&document, &of), json!([]));
        }
    }

    #[test]
    fn only_what_belongs_to_the_version_is_taken() {
        let mut document = json!({
            "paths": {
                "/apis/x.io/v1/a": {
                    "get": {"schema": {"$ref": "#/definitions/A"}},
                    "parameters": [{"$ref": "#/parameters/p-1"}, {"$ref": "#/elsewhere/A"}],
                },
                "/apis/x.io/v10/a": {"get": {"schema": {"$ref": "#/definitions/C"}}},
                "/version": {},
            },
            "definitions": {
                "A": {"properties": {"b": {"$ref": "#/definitions/B"}, "a": {"$ref": "#/definitions/A"}}},
                "B": {}, "C": {}, "D": {},
            },
            "parameters": {"p-1": {"schema": {"$ref": "#/definitions/D"}}, "q-1": {}},
        });
        let own = own_part(&mut document, &GroupVersion::new("x.io", "v1"));
        let names = |part: &str| -> Vec<&String> {
            let map = own[part].as_object();
            map.into_iter().flatten().map(|(name, _)| name).collect()
        };
        assert_eq!(names("paths"), ["/apis/x.io/v1/a"]);
        assert_eq!(names("definitions"), ["A", "B", "D"]);
        assert_eq!(names("parameters"), ["p-1"]);
    }
}
