//! Discovery documents: groups, versions, resources; one by one and aggregated.

use std::sync::Arc;

use registry::kinds::version_rank;
use registry::{Kinds, Row, Subresource, aggregation};
use serde_json::{Value, json};

use crate::aggregation::{ExtensionVersions, ShownVersion};

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

/// A group as discovery lists it: by whomever its versions are served.
pub struct Group {
    name: Arc<str>,
    /// In order of preference; with who serves it, if that is another server.
    versions: Vec<(Arc<str>, Option<usize>)>,
}

/// All groups in their order, the core group included.
pub fn merged(kinds: &Kinds, shown: &ExtensionVersions) -> Vec<Group> {
    let is_custom = |group: &str| {
        let mut rows = kinds.rows().iter().filter(|r| &*r.group == group);
        rows.all(|r| r.strategy.is_custom())
    };
    // With their priorities; those that come with the cluster are in upstream's order already.
    let mut groups: Vec<(i64, Group)> = Vec::new();
    let (built_in, mut others): (Vec<_>, Vec<_>) = kinds
        .groups()
        .into_iter()
        .partition(|(group, _)| !is_custom(group));
    others.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, versions) in built_in.into_iter().chain(others) {
        let local = versions.into_iter().map(|v| (v, None)).collect();
        let group = Group {
            name: name.clone(),
            versions: local,
        };
        groups.push((aggregation::group_priority(&name), group));
    }
    for (at, version) in shown.0.iter().enumerate() {
        let entry = (Arc::from(version.version.as_str()), Some(at));
        let known = groups.iter_mut().find(|(_, g)| *g.name == *version.group);
        let Some((priority, group)) = known else {
            let group = Group {
                name: version.group.as_str().into(),
                versions: vec![entry],
            };
            // Among those of the same priority by name.
            let (priority, name) = (version.group_priority, &group.name);
            let place = groups.iter().position(|(p, g)| {
                *p < priority || (*p == priority && is_custom(&g.name) && g.name > *name)
            });
            groups.insert(place.unwrap_or(groups.len()), (priority, group));
            continue;
        };
        *priority = (*priority).max(version.group_priority);
        group.versions.retain(|(v, _)| *v != entry.0);
        group.versions.push(entry);
    }
    groups.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    for (_, group) in &mut groups {
        let name = group.name.clone();
        group.versions.sort_by_key(|(version, by)| {
            let of = by.and_then(|at| shown.0.get(at));
            let priority = match of {
                Some(remote) => remote.version_priority,
                None => aggregation::version_priority(&name, version),
            };
            std::cmp::Reverse((priority, version_rank(version)))
        });
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// All paths that are worth asking for.
pub fn paths(kinds: &Kinds, shown: &ExtensionVersions) -> Value {
    let mut all: Vec<String> = ["/api", "/api/v1", "/apis"].map(String::from).into();
    for group in merged(kinds, shown).iter().filter(|g| !g.name.is_empty()) {
        let name = &group.name;
        all.push(format!("/apis/{name}"));
        all.extend(
            group
                .versions
                .iter()
                .map(|(v, _)| format!("/apis/{name}/{v}")),
        );
    }
    for p in [
        "/flagz",
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/statusz",
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

fn group(group: &Group) -> Value {
    let all: Vec<Value> = group
        .versions
        .iter()
        .map(|(v, _)| json!({ "groupVersion": group_version(&group.name, v), "version": v }))
        .collect();
    json!({ "name": group.name, "versions": all, "preferredVersion": all.first() })
}

/// `/apis`.
pub fn list(kinds: &Kinds, shown: &ExtensionVersions) -> Value {
    let all = merged(kinds, shown);
    let groups = all.iter().filter(|g| !g.name.is_empty());
    let groups: Vec<Value> = groups.map(group).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/{group}`.
pub fn one(kinds: &Kinds, shown: &ExtensionVersions, name: &str) -> Option<Value> {
    let all = merged(kinds, shown);
    let found = all.iter().find(|g| *g.name == *name && !name.is_empty())?;
    let mut v = group(found);
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
pub fn aggregated(kinds: &Kinds, shown: &ExtensionVersions, core: bool) -> Value {
    let mut items = Vec::new();
    for merged in merged(kinds, shown)
        .iter()
        .filter(|g| g.name.is_empty() == core)
    {
        let group = &merged.name;
        let versions: Vec<Value> = merged
            .versions
            .iter()
            .map(|(version, by)| {
                if let Some(remote) = by.and_then(|at| shown.0.get(at)) {
                    return remote_version(remote);
                }
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

/// A version of an extension server: what it said last, and whether that still holds.
fn remote_version(remote: &ShownVersion) -> Value {
    let freshness = match remote.pages.is_current {
        true => "Current",
        false => "Stale",
    };
    let mut version = json!({ "version": remote.version, "freshness": freshness });
    if let Some(resources) = &remote.pages.resources {
        version["resources"] = resources.clone();
    }
    version
}

/// As upstream: what a built-in kind answers with names its group and version only where they are
/// not those of the path; a custom kind names both everywhere.
fn response_kind(row: &Row, version: &str, group: &str, of: &str, kind: &str) -> Value {
    let is_own = *kind == *row.kind && *group == *row.group;
    if row.strategy.is_custom() {
        let of = if is_own { version } else { of };
        return json!({ "group": group, "version": of, "kind": kind });
    }
    let (group, of) = match *group == *row.group {
        false => (group, of),
        true if is_own || group.is_empty() => ("", ""),
        true => ("", of),
    };
    json!({ "group": group, "version": of, "kind": kind })
}

fn aggregated_resource(row: &Row, version: &str) -> Value {
    let mut v = json!({
        "resource": row.resource,
        "singularResource": row.singular,
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": response_kind(row, version, &row.group, version, &row.kind),
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
                "responseKind": response_kind(row, version, &s.group, &s.version, &s.kind),
                "verbs": s.verbs,
            })
        })
        .collect();
    if !subs.is_empty() {
        v["subresources"] = subs.into();
    }
    v
}
