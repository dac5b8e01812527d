//! Discovery documents: groups, versions, resources; one by one and aggregated.

use std::sync::Arc;

use registry::{Kinds, Row, Subresource};
use serde_json::{Value, json};

fn group_version(group: &str, version: &str) -> String {
    api::GroupVersion::new(group, version).to_string()
}

fn rows_of<'a>(
    kinds: &'a Kinds,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Arc<Row>> {
    let mut rows: Vec<_> = kinds
        .rows()
        .iter()
        .filter(|r| &*r.group == group && r.version(version).is_some())
        .collect();
    rows.sort_by(|a, b| a.resource.cmp(&b.resource));
    rows.into_iter()
}

/// All paths that are worth asking for.
pub fn paths(kinds: &Kinds) -> Value {
    let mut all: Vec<String> = ["/api", "/api/v1", "/apis"].map(String::from).into();
    for (group, versions) in kinds.groups().iter().filter(|(g, _)| !g.is_empty()) {
        all.push(format!("/apis/{group}"));
        all.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    for p in [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ] {
        all.push(p.to_owned());
    }
    json!({ "paths": all })
}

/// `/api`.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }],
    })
}

fn group(name: &str, versions: &[Arc<str>]) -> Value {
    let all: Vec<Value> = versions
        .iter()
        .map(|v| json!({ "groupVersion": group_version(name, v), "version": v }))
        .collect();
    json!({ "name": name, "versions": all, "preferredVersion": all.first() })
}

/// `/apis`.
pub fn list(kinds: &Kinds) -> Value {
    let all = kinds.groups();
    let groups = all.iter().filter(|(g, _)| !g.is_empty());
    let groups: Vec<Value> = groups.map(|(g, vs)| group(g, vs)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/{group}`.
pub fn one(kinds: &Kinds, name: &str) -> Option<Value> {
    let all = kinds.groups();
    let (g, versions) = all.iter().find(|(g, _)| &**g == name && !g.is_empty())?;
    let mut v = group(g, versions);
    v["kind"] = "APIGroup".into();
    v["apiVersion"] = "v1".into();
    Some(v)
}

/// `/api/v1`, `/apis/{group}/{version}`.
pub fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut all = Vec::new();
    for row in rows_of(kinds, group, version) {
        all.push(resource(row, version));
        let mut subs = subresources_of(row, version);
        subs.sort_by(|a, b| a.name.cmp(&b.name));
        all.extend(subs.into_iter().map(|s| subresource(row, s)));
    }
    if all.is_empty() {
        return None;
    }
    let mut v = json!({
        "kind": "APIResourceList",
        "groupVersion": group_version(group, version),
        "resources": all,
    });
    if !group.is_empty() {
        v["apiVersion"] = "v1".into();
    }
    Some(v)
}

fn resource(row: &Row, version: &str) -> Value {
    let mut v = json!({
        "name": row.resource,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        v["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        v["categories"] = json!(row.categories);
    }
    if !row.virtual_kind {
        v["storageVersionHash"] = storage_hash(row, version).into();
    }
    v
}

/// Changes when the stored form does; as upstream, of group, version and kind.
fn storage_hash(row: &Row, _version: &str) -> String {
    use base64::Engine;
    use sha2::Digest;
    let text = format!("{}/{}/{}", row.storage_group, row.storage_version, row.kind);
    let sum = sha2::Sha256::digest(text.as_bytes());
    let head: Vec<u8> = sum.iter().take(8).copied().collect();
    base64::engine::general_purpose::STANDARD.encode(head)
}

/// The subresources of a version that is served.
fn subresources_of<'r>(row: &'r Row, version: &str) -> Vec<&'r Subresource> {
    let served = row.version(version);
    let all = served.map(|served| row.subresources_of(served));
    all.unwrap_or_default().iter().collect()
}

fn subresource(row: &Row, sub: &Subresource) -> Value {
    let mut v = json!({
        "name": format!("{}/{}", row.resource, sub.name),
        "singularName": "",
        "namespaced": row.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if sub.group != row.group {
        v["group"] = json!(sub.group);
        v["version"] = json!(sub.version);
    } else if *sub.kind != *row.kind && !row.group.is_empty() {
        v["version"] = json!(sub.version);
    }
    v
}

/// The aggregated form: the core group, or all others.
pub fn aggregated(kinds: &Kinds, core: bool) -> Value {
    let mut items = Vec::new();
    for (group, versions) in kinds.groups().iter().filter(|(g, _)| g.is_empty() == core) {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                let resources: Vec<Value> = rows_of(kinds, group, version)
                    .map(|r| aggregated_resource(r, version))
                    .collect();
                json!({ "version": version, "freshness": "Current", "resources": resources })
            })
            .collect();
        let meta = if core {
            json!({})
        } else {
            json!({ "name": group })
        };
        items.push(json!({ "metadata": meta, "versions": versions }));
    }
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(row: &Row, version: &str) -> Value {
    let mut v = json!({
        "resource": row.resource,
        "singularResource": row.singular,
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": { "group": row.group, "version": version, "kind": row.kind },
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        v["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        v["categories"] = json!(row.categories);
    }
    let mut subs = subresources_of(row, version);
    subs.sort_by(|a, b| a.name.cmp(&b.name));
    let subs: Vec<Value> = subs
        .into_iter()
        .map(|s| {
            json!({
                "subresource": s.name,
                "responseKind": { "group": s.group, "version": s.version, "kind": s.kind },
                "verbs": s.verbs,
            })
        })
        .collect();
    if !subs.is_empty() {
        v["subresources"] = subs.into();
    }
    v
}
