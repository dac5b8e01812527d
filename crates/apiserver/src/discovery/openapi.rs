//! OpenAPI v2 and v3 documents: schemas from the schema table, paths and operations from the
//! rows. Operations say what clients look for: the kind, the action, the parameters.

use std::sync::Arc;

use bytes::Bytes;
use registry::{Kinds, Row, ServedVersion, Subresource};
use schema::{Type, TypeTable};
use serde_json::{Map, Value, json};
use sha2::Digest;

use super::{Served, hashed};
use crate::aggregation::Shown;
use crate::subresources::connect::is_stream;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const FORMS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// Which edition of OpenAPI is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edition {
    V2,
    V3,
}

impl Edition {
    fn reference(self, name: &str) -> Value {
        let base = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({ "$ref": format!("{base}{name}") })
    }

    fn parameter(self, place: &str, name: &str, ty: &str) -> Value {
        let mut p = json!({ "name": name, "in": place });
        if place == "path" {
            p["required"] = true.into();
        }
        if self == Self::V2 {
            p["type"] = ty.into();
            p["uniqueItems"] = true.into();
        } else {
            p["schema"] = json!({ "type": ty, "uniqueItems": true });
        }
        p
    }

    /// Adds what a request's body is.
    fn body(self, op: &mut Value, schema: Value, forms: &[&str]) {
        if self == Self::V2 {
            op["consumes"] = json!(forms);
            let p = json!({ "name": "body", "in": "body", "required": true, "schema": schema });
            if let Some(all) = op["parameters"].as_array_mut() {
                all.push(p);
            }
        } else {
            let content = forms
                .iter()
                .map(|f| ((*f).to_owned(), json!({ "schema": schema })));
            op["requestBody"] =
                json!({ "content": content.collect::<Map<_, _>>(), "required": true });
        }
    }

    fn responses(self, op: &mut Value, codes: &[&str], schema: &Value) {
        let one = |schema: &Value| {
            if self == Self::V2 {
                json!({ "description": "OK", "schema": schema })
            } else {
                let content = FORMS
                    .iter()
                    .map(|f| ((*f).to_owned(), json!({ "schema": schema })));
                json!({ "description": "OK", "content": content.collect::<Map<_, _>>() })
            }
        };
        if self == Self::V2 {
            op["produces"] = json!(FORMS);
        }
        let mut all: Map<String, Value> = codes
            .iter()
            .map(|c| ((*c).to_owned(), one(schema)))
            .collect();
        all.insert("401".into(), json!({ "description": "Unauthorized" }));
        op["responses"] = all.into();
    }
}

/// `/openapi/v2`.
pub fn v2(kinds: &Kinds, shown: &Shown) -> Value {
    let (mut paths, mut custom) = (Map::new(), Roots::default());
    for row in kinds.rows() {
        for version in &row.versions {
            add_row(Edition::V2, row, version, &mut paths);
            if !row.strategy.is_custom() && !is_built_in(&version.ty) {
                custom.add_version(version);
            }
        }
    }
    let mut definitions = custom.schemas(schema::openapi::v2_closure);
    for row in kinds.rows() {
        for version in &row.versions {
            definitions.extend(row.strategy.published(&version.version, false));
        }
    }
    definitions.extend(schema::openapi::v2_definitions(schema::builtin()));
    let remotes = shown.0.iter().filter_map(|remote| remote.pages.v2.as_ref());
    for remote in remotes {
        add_remote(remote, &mut paths, &mut definitions);
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": super::GIT_VERSION },
        "paths": paths,
        "definitions": definitions,
    })
}

/// Adds what an extension server says of its own paths. Where a name means something else there, it
/// gets another one, as upstream: `_v2` behind it.
fn add_remote(remote: &Value, paths: &mut Map<String, Value>, all: &mut Map<String, Value>) {
    let Some(definitions) = remote["definitions"].as_object() else {
        return;
    };
    let mut renamed: Vec<(String, String)> = Vec::new();
    for (name, definition) in definitions {
        if all.get(name).is_some_and(|have| have != definition) {
            let mut number = 2;
            let taken = |n: &String| all.contains_key(n) || definitions.contains_key(n);
            let mut other = format!("{name}_v{number}");
            while taken(&other) {
                number += 1;
                other = format!("{name}_v{number}");
            }
            renamed.push((name.clone(), other));
        }
    }
    let changed = |value: &Value| {
        let mut value = value.clone();
        if !renamed.is_empty() {
            rename(&mut value, &renamed);
        }
        value
    };
    for (name, definition) in definitions {
        let other = renamed.iter().find(|(from, _)| from == name);
        let name = other.map_or(name, |(_, to)| to);
        all.insert(name.clone(), changed(definition));
    }
    for (path, item) in remote["paths"].as_object().into_iter().flatten() {
        paths.insert(path.clone(), changed(item));
    }
}

/// Replaces references to definitions by others.
fn rename(value: &mut Value, names: &[(String, String)]) {
    match value {
        Value::Object(map) => {
            for (key, below) in map.iter_mut() {
                let name = below
                    .as_str()
                    .and_then(|r| r.strip_prefix("#/definitions/"));
                let other = name.and_then(|name| names.iter().find(|(from, _)| from == name));
                match other.filter(|_| key == "$ref") {
                    Some((_, to)) => *below = format!("#/definitions/{to}").into(),
                    None => rename(below, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|below| rename(below, names)),
        _ => {}
    }
}

/// `/openapi/v2` in gnostic's protobuf: edition, title and version, without definitions. Clients
/// that still check objects by it (kubectl, for kinds that OpenAPI v3 does not offer a PATCH of)
/// then leave the check to the server, which does it anyway.
pub fn v2_gnostic() -> Vec<u8> {
    fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
        out.push(number << 3 | 2);
        // Everything here is shorter than 128 bytes: a length of one byte.
        out.push(u8::try_from(bytes.len()).unwrap_or(0));
        out.extend(bytes);
    }
    let (mut info, mut document) = (Vec::new(), Vec::new());
    field(&mut info, 1, b"Kubernetes");
    field(&mut info, 2, super::GIT_VERSION.as_bytes());
    field(&mut document, 1, b"2.0");
    field(&mut document, 2, &info);
    document
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
pub fn index(kinds: &Kinds, shown: &Shown) -> Value {
    let all = names(kinds).into_iter().map(|(name, group, version)| {
        let hash = content_hash(kinds, &name, &group, &version);
        let url = format!("/openapi/v3/{name}?hash={hash}");
        (name, json!({ "serverRelativeURL": url }))
    });
    let mut paths: Map<String, Value> = all.collect();
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

/// `/openapi/v3/{name}`.
pub fn v3(served: &Served, name: &str) -> Option<Arc<(Bytes, String)>> {
    if let Some(doc) = served.openapi_v3.lock().get(name) {
        return Some(doc.clone());
    }
    let kinds = &*served.kinds;
    let (_, group, version) = names(kinds).into_iter().find(|(n, _, _)| n == name)?;
    let bytes = hashed(&document(kinds, &group, &version)).0.clone();
    let doc = Arc::new((bytes, content_hash(kinds, name, &group, &version)));
    let mut all = served.openapi_v3.lock();
    all.insert(name.to_owned(), doc.clone());
    Some(doc)
}

fn document(kinds: &Kinds, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut roots = Roots::default();
    for name in ["Status", "DeleteOptions", "Patch", "WatchEvent"] {
        roots.add(schema::builtin(), format!("{META}.{name}"));
    }
    for row in rows_of(kinds, group) {
        let Some(served) = row.version(version) else {
            continue;
        };
        add_row(Edition::V3, row, served, &mut paths);
        if row.strategy.is_custom() {
            for name in ["ObjectMeta", "ListMeta"] {
                roots.add(schema::builtin(), format!("{META}.{name}"));
            }
        } else {
            roots.add_version(served);
        }
        let subs = row.subresources_of(served).iter();
        // A custom kind's own types are published by itself.
        let subs = subs.filter(|s| !row.strategy.is_custom() || s.group != row.group);
        for ty in subs.filter_map(|s| s.ty.as_ref()) {
            roots.add(ty.table(), ty.name().to_string());
        }
    }
    let mut schemas =
        roots.schemas(|table, names| schema::openapi::v3_components_of(table, group, names));
    for row in rows_of(kinds, group) {
        schemas.extend(row.strategy.published(version, true));
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": super::GIT_VERSION },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// The types that a document must define, by the table in which each lies.
#[derive(Default)]
struct Roots(Vec<(Arc<TypeTable>, Vec<String>)>);

impl Roots {
    fn add(&mut self, table: &Arc<TypeTable>, name: String) {
        match self.0.iter_mut().find(|(t, _)| Arc::ptr_eq(t, table)) {
            Some((_, names)) => names.push(name),
            None => self.0.push((table.clone(), vec![name])),
        }
    }

    /// A served version's type and its list.
    fn add_version(&mut self, version: &ServedVersion) {
        let (table, name) = (version.ty.table(), version.ty.name());
        self.add(table, name.to_string());
        self.add(table, format!("{name}List"));
    }

    fn schemas(
        &self,
        define: impl Fn(&TypeTable, &[&str]) -> Map<String, Value>,
    ) -> Map<String, Value> {
        let mut all = Map::new();
        // Built-in definitions last: a custom table's copy of `ObjectMeta` is not better.
        for (table, names) in self.0.iter().rev() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            all.extend(define(table, &names));
        }
        all
    }
}

fn add_row(edition: Edition, row: &Row, version: &ServedVersion, paths: &mut Map<String, Value>) {
    let root = match &*row.group {
        "" => format!("/api/{}", version.version),
        g => format!("/apis/{g}/{}", version.version),
    };
    let base = if row.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", row.resource)
    } else {
        format!("{root}/{}", row.resource)
    };
    let maker = Maker {
        edition,
        row,
        version,
    };
    let scope = &["namespace"][..usize::from(row.namespaced)];
    maker.path(
        paths,
        &base,
        scope,
        &["list", "create", "deletecollection"],
        None,
    );
    let named: Vec<&str> = scope.iter().copied().chain(["name"]).collect();
    let item = format!("{base}/{{name}}");
    maker.path(
        paths,
        &item,
        &named,
        &["get", "update", "patch", "delete"],
        None,
    );
    if row.namespaced {
        maker.path(
            paths,
            &format!("{root}/{}", row.resource),
            &[],
            &["list"],
            None,
        );
    }
    for sub in row.subresources_of(version) {
        let verbs: Vec<&str> = sub.verbs.iter().map(|v| &**v).collect();
        maker.path(
            paths,
            &format!("{item}/{}", sub.name),
            &named,
            &verbs,
            Some(sub),
        );
    }
}

/// Makes the operations of a row in a version.
struct Maker<'a> {
    edition: Edition,
    row: &'a Row,
    version: &'a ServedVersion,
}

impl Maker<'_> {
    fn path(
        &self,
        paths: &mut Map<String, Value>,
        path: &str,
        names: &[&str],
        verbs: &[&str],
        sub: Option<&Subresource>,
    ) {
        let mut item = Map::new();
        for verb in verbs {
            if sub.is_some() || self.row.has_verb(verb) {
                item.insert(method(verb).into(), self.operation(verb, path, sub));
            }
        }
        if item.is_empty() {
            return;
        }
        let names = names
            .iter()
            .map(|n| self.edition.parameter("path", n, "string"));
        item.insert("parameters".into(), names.collect());
        paths.insert(path.to_owned(), item.into());
    }

    fn operation(&self, verb: &str, path: &str, sub: Option<&Subresource>) -> Value {
        let (edition, row, version) = (self.edition, self.row, self.version);
        let (group, v, kind, ty) = match sub {
            Some(s) => (&s.group, &s.version, &s.kind, s.ty.as_ref()),
            None => (&row.group, &version.version, &row.kind, Some(&version.ty)),
        };
        let parameters: Vec<Value> = parameters(verb)
            .iter()
            .map(|(name, ty)| edition.parameter("query", name, ty))
            .collect();
        let connects = sub.is_some_and(|s| is_stream(&s.name) && &*s.name != "log");
        let action = match verb {
            _ if connects => "connect",
            "create" => "post",
            "update" => "put",
            other => other,
        };
        let mut op = json!({
            "operationId": operation_id(verb, path),
            "tags": [tag(&row.group, &version.version)],
            "parameters": parameters,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": { "group": group, "version": v, "kind": kind },
        });
        let own = match ty {
            Some(ty) => edition.reference(ty.name()),
            // Streams and other bodies that are not objects.
            None => json!({ "type": "string" }),
        };
        match verb {
            "create" => {
                edition.body(&mut op, own.clone(), FORMS);
                edition.responses(&mut op, &["200", "201", "202"], &own);
            }
            "update" => {
                edition.body(&mut op, own.clone(), FORMS);
                edition.responses(&mut op, &["200", "201"], &own);
            }
            "patch" => {
                edition.body(
                    &mut op,
                    edition.reference(&format!("{META}.Patch")),
                    PATCHES,
                );
                edition.responses(&mut op, &["200", "201"], &own);
            }
            "delete" | "deletecollection" => {
                let options = edition.reference(&format!("{META}.DeleteOptions"));
                edition.body(&mut op, options, FORMS);
                let status = edition.reference(&format!("{META}.Status"));
                edition.responses(&mut op, &["200", "202"], &status);
            }
            "list" => {
                let list = edition.reference(&format!("{}List", version.ty.name()));
                edition.responses(&mut op, &["200"], &list);
            }
            _ => edition.responses(&mut op, &["200"], &own),
        }
        op
    }
}

fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

/// The query parameters of a verb, with their types.
fn parameters(verb: &str) -> &'static [(&'static str, &'static str)] {
    match verb {
        "create" | "update" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("pretty", "string"),
        ],
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
            ("pretty", "string"),
        ],
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
            ("pretty", "string"),
        ],
        "list" | "deletecollection" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
            ("pretty", "string"),
        ],
        _ => &[("pretty", "string")],
    }
}

fn tag(group: &str, version: &str) -> String {
    let group = match group.split('.').next() {
        None | Some("") => "core",
        Some(g) => g,
    };
    format!("{group}_{version}")
}

/// Unique: the verb and the words of the path.
fn operation_id(verb: &str, path: &str) -> String {
    let words = path
        .split(['/', '.', '-', '{', '}'])
        .filter(|w| !w.is_empty());
    words.fold(verb.to_owned(), |mut id, word| {
        let mut letters = word.chars();
        id.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        id.push_str(letters.as_str());
        id
    })
}
