//! OpenAPI v2 and v3 documents: definitions from the schema table, paths from the rows
//! (`operations.rs`). A document defines what its paths name, and what that needs; nothing else.

mod edition;
mod form;
mod gnostic;
mod operations;
mod parameters;
mod roots;

use std::sync::Arc;

use bytes::Bytes;
use registry::{Kinds, Row};
use schema::{Type, TypeTable};
use serde_json::{Map, Value, json};
use sha2::Digest;

pub use self::edition::Edition;
pub use self::form::Form;
pub use self::gnostic::written as in_protobuf;
use self::operations::Page;
use self::roots::{META, Roots};
use super::Served;
use crate::aggregation::ExtensionVersions;

/// How clients identify themselves, besides their certificates.
fn bearer() -> Value {
    json!({ "BearerToken": { "type": "apiKey", "in": "header", "name": "authorization",
        "description": "A bearer token" } })
}

/// The groups that have kinds of this binary; those of custom kinds alone have no pages of groups.
fn own_groups(kinds: &Kinds) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
    let mut groups = kinds.groups();
    groups.retain(|(group, _)| rows_of(kinds, group).any(|r| !r.strategy.is_custom()));
    groups
}

/// `/openapi/v2`.
pub fn v2(kinds: &Kinds, shown: &ExtensionVersions) -> Value {
    let (mut paths, mut roots) = (Map::new(), Roots::default());
    for page in operations::pages(&own_groups(kinds)) {
        page.write(Edition::V2, &mut paths, &mut roots);
    }
    for row in kinds.rows() {
        for version in &row.versions {
            operations::add_row(Edition::V2, row, version, &mut paths, &mut roots);
        }
    }
    // What custom kinds publish names these.
    for name in ["ObjectMeta", "ListMeta", "Status"] {
        roots.add(schema::builtin(), format!("{META}.{name}"));
    }
    let mut definitions = Map::new();
    for row in kinds.rows() {
        for version in &row.versions {
            definitions.extend(row.strategy.published(&version.version, false));
        }
    }
    definitions.extend(roots.schemas(schema::openapi::v2_closure));
    let mut parameters = roots.parameters.into_map();
    let remotes = shown.0.iter().filter_map(|remote| remote.pages.v2.as_ref());
    for remote in remotes {
        let shared = [
            ("definitions", &mut definitions),
            ("parameters", &mut parameters),
        ];
        add_remote(remote, &mut paths, shared);
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": super::GIT_VERSION },
        "paths": paths,
        "definitions": definitions,
        "parameters": parameters,
        "securityDefinitions": bearer(),
        "security": [{ "BearerToken": [] }],
    })
}

/// Adds what an extension server says of its own paths, and the entries of other sections that they
/// refer to. Where a name means something else there, it gets another one, as upstream: `_v2` behind
/// it.
fn add_remote(
    remote: &Value,
    paths: &mut Map<String, Value>,
    shared: [(&str, &mut Map<String, Value>); 2],
) {
    let entries = |section: &str| remote[section].as_object().into_iter().flatten();
    let reference = |section: &str, name: &str| format!("#/{section}/{name}");
    let mut renamed: Vec<(String, String)> = Vec::new();
    for (section, all) in &shared {
        let section = *section;
        for (name, entry) in entries(section) {
            if all.get(name).is_none_or(|have| have == entry) {
                continue;
            }
            let taken = |n: &str| all.contains_key(n) || remote[section].get(n).is_some();
            let mut number = 2;
            let mut other = format!("{name}_v{number}");
            while taken(&other) {
                number += 1;
                other = format!("{name}_v{number}");
            }
            renamed.push((reference(section, name), reference(section, &other)));
        }
    }
    let changed = |value: &Value| {
        let mut value = value.clone();
        if !renamed.is_empty() {
            rename(&mut value, &renamed);
        }
        value
    };
    for (section, all) in shared {
        let before = reference(section, "");
        for (name, entry) in entries(section) {
            let from = reference(section, name);
            let to = renamed.iter().find(|(old, _)| *old == from);
            let other = to.and_then(|(_, new)| new.strip_prefix(&before));
            all.insert(other.unwrap_or(name).to_owned(), changed(entry));
        }
    }
    for (path, item) in entries("paths") {
        paths.insert(path.clone(), changed(item));
    }
}

/// Replaces references by others.
fn rename(value: &mut Value, references: &[(String, String)]) {
    match value {
        Value::Object(map) => {
            for (key, below) in map.iter_mut() {
                let reference = below.as_str().filter(|_| key == "$ref");
                let other = reference.and_then(|r| references.iter().find(|(from, _)| from == r));
                match other {
                    Some((_, to)) => *below = to.as_str().into(),
                    None => rename(below, references),
                }
            }
        }
        Value::Array(items) => {
            let each = items.iter_mut();
            each.for_each(|below| rename(below, references));
        }
        _ => {}
    }
}

/// The documents there are: `api/v1`, `apis/apps/v1`, …
fn names(kinds: &Kinds) -> Vec<(String, Arc<str>, Arc<str>)> {
    let mut all = Vec::new();
    for (group, versions) in kinds.groups() {
        for v in versions {
            let name = match &*group {
                "" => format!("api/{v}"),
                g => format!("apis/{g}/{v}"),
            };
            all.push((name, group.clone(), v));
        }
    }
    all
}

/// The rows that a document describes.
fn rows_of<'a>(kinds: &'a Kinds, group: &'a str) -> impl Iterator<Item = &'a Arc<Row>> {
    kinds.rows().iter().filter(move |r| &*r.group == group)
}

/// What a document's content follows from: the build, the built-in table, and the types of kinds
/// that came while the server runs.
fn content_hash(kinds: &Kinds, name: &str, group: &str, version: &str) -> String {
    let mut hasher = sha2::Sha512::new();
    let mut add = |table: &TypeTable| {
        let fields: usize = table.types().iter().map(|t| t.fields.len()).sum();
        hasher.update(format!(" {} {fields}", table.types().len()));
    };
    add(schema::builtin());
    let own = rows_of(kinds, group).filter_map(|r| Some((r, r.version(version)?)));
    let mut texts = String::new();
    for (row, served) in own {
        // A custom kind's types are not made for it: most are idle.
        let schemas: Map<String, Value> = if row.strategy.is_custom() {
            row.strategy.published(version, true).into_iter().collect()
        } else if is_built_in(&served.ty) {
            continue;
        } else {
            add(served.ty.table());
            // A table that changed has other fields somewhere, if not more of them.
            schema::openapi::v3_components(served.ty.table(), &[served.ty.name()])
        };
        let subs: Vec<&str> = row
            .subresources_of(served)
            .iter()
            .map(|s| &*s.name)
            .collect();
        texts.push_str(&format!(
            "{} {subs:?} {}",
            row.resource,
            Value::from(schemas)
        ));
    }
    hasher.update(format!("{name} {}", env!("CARGO_PKG_VERSION")));
    hasher.update(texts);
    let hash = hasher.finalize();
    hash.iter().map(|b| format!("{b:02X}")).collect()
}

fn is_built_in(ty: &Type) -> bool {
    Arc::ptr_eq(ty.table(), schema::builtin())
}

/// `/openapi/v3`: where each document is, with its hash; no document is made for it.
pub fn index(kinds: &Kinds, shown: &ExtensionVersions) -> Value {
    let all = names(kinds).into_iter().map(|(name, group, version)| {
        let hash = content_hash(kinds, &name, &group, &version);
        let url = format!("/openapi/v3/{name}?hash={hash}");
        (name, json!({ "serverRelativeURL": url }))
    });
    let mut paths: Map<String, Value> = all.collect();
    for page in lone_pages(kinds) {
        let url = format!("/openapi/v3/{}?hash={}", page.name, page_hash(&page.name));
        paths.insert(page.name, json!({ "serverRelativeURL": url }));
    }
    for remote in &shown.0 {
        let name = format!("apis/{}/{}", remote.group, remote.version);
        // Whoever serves the version says of it.
        paths.remove(&name);
        if let Some(hash) = &remote.pages.v3_hash {
            let url = format!("/openapi/v3/{name}?hash={hash}");
            paths.insert(name, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/{name}`. Its hash is the same in each form, as upstream.
pub fn v3(served: &Served, name: &str, form: Form) -> Option<Arc<(Bytes, String)>> {
    let key = (name.to_owned(), form);
    if let Some(doc) = served.openapi_v3.lock().get(&key) {
        return Some(doc.clone());
    }
    let kinds = &*served.kinds;
    let (value, hash) = match names(kinds).into_iter().find(|(n, _, _)| n == name) {
        Some((_, group, version)) => (
            document(kinds, &group, &version),
            content_hash(kinds, name, &group, &version),
        ),
        None => {
            let page = lone_pages(kinds).into_iter().find(|p| p.name == name)?;
            let hash = page_hash(&page.name);
            (of_page(page), hash)
        }
    };
    let bytes = match form {
        Form::Json => Bytes::from(value.to_string()),
        Form::Protobuf => in_protobuf(Edition::V3, &value).into(),
    };
    let doc = Arc::new((bytes, hash));
    let mut all = served.openapi_v3.lock();
    all.insert(key, doc.clone());
    Some(doc)
}

/// Pages that have a document to themselves; the others stand with the kinds of their version.
fn lone_pages(kinds: &Kinds) -> Vec<Page> {
    let with_kinds = names(kinds);
    let mut all = operations::pages(&own_groups(kinds));
    all.retain(|page| with_kinds.iter().all(|(name, _, _)| *name != page.name));
    all
}

/// What such a page's document follows from: the build alone.
fn page_hash(name: &str) -> String {
    let text = format!(
        "{name} {} {}",
        super::GIT_VERSION,
        env!("CARGO_PKG_VERSION")
    );
    let hash = sha2::Sha512::digest(text.as_bytes());
    hash.iter().map(|b| format!("{b:02X}")).collect()
}

fn of_page(page: Page) -> Value {
    let (mut paths, mut roots) = (Map::new(), Roots::default());
    page.write(Edition::V3, &mut paths, &mut roots);
    written(paths, roots.schemas(schema::openapi::v3_components))
}

fn document(kinds: &Kinds, group: &str, version: &str) -> Value {
    let (mut paths, mut roots) = (Map::new(), Roots::default());
    let own = operations::root(group, version);
    for page in operations::pages(&own_groups(kinds)) {
        if own.trim_start_matches('/') == page.name {
            page.write(Edition::V3, &mut paths, &mut roots);
        }
    }
    for row in rows_of(kinds, group) {
        let Some(served) = row.version(version) else {
            continue;
        };
        operations::add_row(Edition::V3, row, served, &mut paths, &mut roots);
        if row.strategy.is_custom() {
            for name in ["ObjectMeta", "ListMeta", "Status"] {
                roots.add(schema::builtin(), format!("{META}.{name}"));
            }
        }
    }
    let mut schemas = roots
        .schemas(|table, names| schema::openapi::v3_components_of(table, group, version, names));
    for row in rows_of(kinds, group).filter(|r| r.version(version).is_some()) {
        schemas.extend(row.strategy.published(version, true));
    }
    written(paths, schemas)
}

fn written(paths: Map<String, Value>, schemas: Map<String, Value>) -> Value {
    let mut document = json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": super::GIT_VERSION },
        "paths": paths,
        "components": { "securitySchemes": bearer() },
    });
    if !schemas.is_empty() {
        document["components"]["schemas"] = schemas.into();
    }
    document
}
