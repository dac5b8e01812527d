//! JSON of the small objects that the server writes about itself, with their members in the order in
//! which upstream writes them: programs that look for a piece of text find it. (Objects of the store
//! have an order of their own, see `cache/object.rs`.)

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value};

/// Members of each type, in order; a map has the first order that names all its members.
const ORDERS: &[&[&str]] = &[
    // StatusDetails.
    &[
        "name",
        "group",
        "kind",
        "uid",
        "causes",
        "retryAfterSeconds",
    ],
    // APIGroupList, APIGroup, APIVersions, APIResourceList, APIGroupDiscoveryList, and what is listed.
    &[
        "kind",
        "apiVersion",
        "groupVersion",
        "metadata",
        "name",
        "versions",
        "version",
        "preferredVersion",
        "serverAddressByClientCIDRs",
        "groups",
        "resources",
        "items",
    ],
    // Status.
    &[
        "kind",
        "apiVersion",
        "metadata",
        "status",
        "message",
        "reason",
        "details",
        "code",
    ],
    // StatusCause.
    &["reason", "message", "field"],
    // APIResource, GroupVersionKind.
    &[
        "name",
        "singularName",
        "namespaced",
        "group",
        "version",
        "kind",
        "verbs",
        "shortNames",
        "categories",
        "storageVersionHash",
    ],
    // APIVersionDiscovery.
    &["version", "resources", "freshness"],
    // APIResourceDiscovery.
    &[
        "resource",
        "responseKind",
        "scope",
        "singularResource",
        "verbs",
        "shortNames",
        "categories",
        "subresources",
    ],
    // APISubresourceDiscovery.
    &["subresource", "responseKind", "acceptedTypes", "verbs"],
    // version.Info.
    &[
        "major",
        "minor",
        "emulationMajor",
        "emulationMinor",
        "minCompatibilityMajor",
        "minCompatibilityMinor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ],
];

/// A value with its members in upstream's order; what no order knows is in the order of names.
pub struct Ordered<'v>(pub &'v Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => {
                let mut out = to.serialize_map(Some(map.len()))?;
                match order_of(map) {
                    Some(order) => {
                        for name in order {
                            if let Some(value) = map.get(*name) {
                                out.serialize_entry(name, &Ordered(value))?;
                            }
                        }
                    }
                    None => {
                        for (name, value) in map {
                            out.serialize_entry(name, &Ordered(value))?;
                        }
                    }
                }
                out.end()
            }
            Value::Array(items) => {
                let mut out = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    out.serialize_element(&Ordered(item))?;
                }
                out.end()
            }
            plain => plain.serialize(to),
        }
    }
}

fn order_of(map: &Map<String, Value>) -> Option<&'static [&'static str]> {
    let fits = |order: &&&[&str]| map.keys().all(|name| order.contains(&name.as_str()));
    ORDERS.iter().find(fits).copied()
}

/// On one line.
pub fn line(value: &Value) -> String {
    // Values have no keys that are no text, which is all that could fail.
    serde_json::to_string(&Ordered(value)).unwrap_or_default()
}

/// For people.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(&Ordered(value)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_in_upstreams_order() {
        for (value, text) in [
            (
                json!({"verbs": ["get"], "name": "pods", "kind": "Pod", "namespaced": true,
                    "singularName": "pod", "shortNames": ["po"], "storageVersionHash": "x"}),
                r#"{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get"],"shortNames":["po"],"storageVersionHash":"x"}"#,
            ),
            (
                json!({"code": 404, "details": {"kind": "pods", "name": "x"}, "kind": "Status",
                    "apiVersion": "v1", "message": "m", "metadata": {}, "reason": "NotFound",
                    "status": "Failure"}),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"m","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#,
            ),
            (
                json!({"version": "v1", "groupVersion": "apps/v1"}),
                r#"{"groupVersion":"apps/v1","version":"v1"}"#,
            ),
            (
                json!({"version": "v1", "resources": [], "freshness": "Current"}),
                r#"{"version":"v1","resources":[],"freshness":"Current"}"#,
            ),
            (json!({"z": 1, "a": 2}), r#"{"a":2,"z":1}"#),
        ] {
            assert_eq!(line(&value), text);
        }
    }
}
