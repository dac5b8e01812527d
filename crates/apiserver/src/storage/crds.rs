//! CustomResourceDefinitions as upstream still stores them: in `v1beta1`, which is smaller. Here
//! such an object becomes one of `v1`; it is written back as `v1`, which upstream reads as well.

use serde_json::{Map, Value, json};

/// The version that upstream writes.
pub const OLD: &str = "apiextensions.k8s.io/v1beta1";

/// What `v1beta1` says once for all versions and `v1` says in each.
const PER_VERSION: &[(&str, &str)] = &[
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// Changes everything but `apiVersion`.
pub fn convert(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let version = spec.remove("version");
    if !spec.get("versions").is_some_and(Value::is_array) {
        let name = version.unwrap_or_default();
        let only = json!([{ "name": name, "served": true, "storage": true }]);
        spec.insert("versions".into(), only);
    }
    for (old, new) in PER_VERSION {
        if let Some(common) = spec.remove(*old) {
            for version in versions(spec) {
                version.entry(*new).or_insert_with(|| common.clone());
            }
        }
    }
    let preserve = spec.get("preserveUnknownFields") != Some(&Value::Bool(false));
    if preserve {
        // What `v1beta1` does when nothing is said.
        spec.insert("preserveUnknownFields".into(), true.into());
    } else {
        spec.remove("preserveUnknownFields");
    }
    for version in versions(spec) {
        let columns = version.get_mut("additionalPrinterColumns");
        for column in columns.and_then(Value::as_array_mut).into_iter().flatten() {
            rename(column.as_object_mut(), "JSONPath", "jsonPath");
        }
    }
    webhook(spec);
}

fn versions(spec: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let all = spec.get_mut("versions").and_then(Value::as_array_mut);
    all.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn rename(map: Option<&mut Map<String, Value>>, old: &str, new: &str) {
    if let Some(map) = map
        && let Some(value) = map.remove(old)
    {
        map.insert(new.into(), value);
    }
}

fn webhook(spec: &mut Map<String, Value>) {
    let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) else {
        return;
    };
    let mut webhook = Map::new();
    for (old, new) in [
        ("webhookClientConfig", "clientConfig"),
        ("conversionReviewVersions", "conversionReviewVersions"),
    ] {
        if let Some(value) = conversion.remove(old) {
            webhook.insert(new.into(), value);
        }
    }
    if webhook.contains_key("clientConfig") {
        conversion.insert("webhook".into(), webhook.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_once_is_said_in_each_version() {
        let mut crd = json!({
            "apiVersion": OLD, "kind": "CustomResourceDefinition",
            "metadata": { "name": "as.x.io" },
            "spec": {
                "group": "x.io", "version": "v1", "scope": "Namespaced",
                "names": { "plural": "as", "kind": "A" },
                "versions": [
                    { "name": "v1", "served": true, "storage": true },
                    { "name": "v2", "served": true, "storage": false,
                      "schema": { "openAPIV3Schema": { "type": "object" } } },
                ],
                "validation": { "openAPIV3Schema": { "type": "object", "nullable": true } },
                "subresources": { "status": {} },
                "additionalPrinterColumns": [{ "name": "a", "type": "string", "JSONPath": ".a" }],
                "preserveUnknownFields": false,
                "conversion": { "strategy": "Webhook", "conversionReviewVersions": ["v1"],
                    "webhookClientConfig": { "url": "https://x" } },
            },
        });
        convert(&mut crd);
        let columns = json!([{ "name": "a", "type": "string", "jsonPath": ".a" }]);
        assert_eq!(
            crd["spec"],
            json!({
                "group": "x.io", "scope": "Namespaced",
                "names": { "plural": "as", "kind": "A" },
                "versions": [
                    { "name": "v1", "served": true, "storage": true,
                      "schema": { "openAPIV3Schema": { "type": "object", "nullable": true } },
                      "subresources": { "status": {} }, "additionalPrinterColumns": columns },
                    { "name": "v2", "served": true, "storage": false,
                      "schema": { "openAPIV3Schema": { "type": "object" } },
                      "subresources": { "status": {} }, "additionalPrinterColumns": columns },
                ],
                "conversion": { "strategy": "Webhook", "webhook": {
                    "conversionReviewVersions": ["v1"],
                    "clientConfig": { "url": "https://x" } } },
            })
        );
    }
}
