//! The paths of OpenAPI: each operation that a row has, and how an operation is written.
//! Query parameters are the fields of the options that a verb takes. Names, tags and identifiers
//! are upstream's, since clients are generated from them; the sentences are not.

mod pages;

use std::collections::BTreeMap;
use std::sync::Arc;

use registry::{Row, ServedVersion, Subresource};
use schema::{FieldType, TypeTable};
use serde_json::{Map, Value, json};

use super::edition::Edition;
use super::roots::{META, Roots};
use crate::http::negotiate::{JSON, PROTO, YAML};
use crate::subresources::connect::is_stream;

pub use pages::{Page, pages};

const FORMS: &[&str] = &[JSON, YAML, PROTO];
const LISTS: &[&str] = &[
    JSON,
    YAML,
    PROTO,
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const LOGS: &[&str] = &["text/plain", JSON, YAML, PROTO];
const ANY: &[&str] = &["*/*"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Of custom kinds, which have no protobuf form and no keys for strategic merges.
const CUSTOM_FORMS: &[&str] = &[JSON, YAML];
const CUSTOM_PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];
const CORE: &str = "io.k8s.api.core.v1";
/// What HTTP calls the methods of a proxy, in the order in which they are written.
const PROXIED: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];

/// What a body or an answer is.
#[derive(Clone)]
enum Shape {
    /// A type that lies in a table.
    Type(Arc<TypeTable>, String),
    /// A definition that the kind publishes by itself.
    Published(String),
    Text,
}

impl Shape {
    fn meta(name: &str) -> Self {
        Self::Type(schema::builtin().clone(), format!("{META}.{name}"))
    }

    fn write(&self, edition: Edition, roots: &mut Roots) -> Value {
        match self {
            Self::Text => json!({ "type": "string" }),
            Self::Published(name) => edition.reference(name),
            Self::Type(table, name) => {
                roots.add(table, name.clone());
                edition.reference(name)
            }
        }
    }
}

struct Operation {
    method: &'static str,
    id: String,
    tag: String,
    /// `x-kubernetes-action`.
    action: Option<&'static str>,
    /// Group, version and kind.
    kind: Option<[Arc<str>; 3]>,
    /// Query parameters with their types.
    query: BTreeMap<String, &'static str>,
    /// With whether there must be one.
    body: Option<(Shape, bool)>,
    consumes: &'static [&'static str],
    produces: &'static [&'static str],
    answers: &'static [(&'static str, &'static str)],
    answer: Option<Shape>,
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const MADE: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const DELETED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

impl Operation {
    fn write(&self, edition: Edition, shared: &[String], roots: &mut Roots) -> Value {
        let mut op = Map::new();
        let mut put = |name: &str, value: Value| drop(op.insert(name.to_owned(), value));
        put("operationId", self.id.as_str().into());
        put("tags", json!([self.tag]));
        if let Some(action) = self.action {
            put("x-kubernetes-action", action.into());
        }
        if let Some([group, version, kind]) = &self.kind {
            let kind = json!({ "group": group, "version": version, "kind": kind });
            put("x-kubernetes-group-version-kind", kind);
        }
        let own = self.query.iter().filter(|(name, _)| !shared.contains(name));
        let mut parameters: Vec<Value> = own
            .map(|(name, ty)| roots.parameters.of(edition, "query", name, ty))
            .collect();
        if edition == Edition::V2 {
            put("schemes", json!(["https"]));
            if !self.consumes.is_empty() {
                put("consumes", json!(self.consumes));
            }
            if !self.produces.is_empty() {
                put("produces", json!(self.produces));
            }
        }
        if let Some((shape, required)) = &self.body {
            let schema = shape.write(edition, roots);
            let mut body = match edition {
                Edition::V2 => json!({ "name": "body", "in": "body", "schema": schema }),
                Edition::V3 => json!({ "content": contents(self.consumes, &schema) }),
            };
            if *required {
                body["required"] = true.into();
            }
            match edition {
                Edition::V2 => parameters.insert(0, body),
                Edition::V3 => put("requestBody", body),
            }
        }
        if !parameters.is_empty() {
            put("parameters", parameters.into());
        }
        let mut responses = Map::new();
        for (code, words) in self.answers {
            let mut response = json!({ "description": words });
            if let Some(shape) = &self.answer {
                let schema = shape.write(edition, roots);
                match edition {
                    Edition::V2 => response["schema"] = schema,
                    Edition::V3 => response["content"] = contents(self.produces, &schema),
                }
            }
            responses.insert((*code).to_owned(), response);
        }
        responses.insert("401".into(), json!({ "description": "Unauthorized" }));
        put("responses", responses.into());
        op.into()
    }
}

/// A schema in each of its forms.
fn contents(forms: &[&str], schema: &Value) -> Value {
    let all = forms
        .iter()
        .map(|form| ((*form).to_owned(), json!({ "schema": schema })));
    all.collect::<Map<_, _>>().into()
}

/// A path with its operations, before it is written.
struct Item {
    path: String,
    operations: Vec<Operation>,
}

impl Item {
    /// Writes it; a parameter that all operations have stands once, for the path.
    fn write(self, edition: Edition, paths: &mut Map<String, Value>, roots: &mut Roots) {
        let Some((first, rest)) = self.operations.split_first() else {
            return;
        };
        let everywhere = |name: &&String| rest.iter().all(|op| op.query.contains_key(*name));
        let shared: Vec<String> = first.query.keys().filter(everywhere).cloned().collect();
        let mut item = Map::new();
        let all = &mut roots.parameters;
        let mut parameters: Vec<(String, Value)> = names(&self.path)
            .map(|name| (name.to_owned(), all.of(edition, "path", name, "string")))
            .collect();
        for (name, ty) in first.query.iter().filter(|(n, _)| shared.contains(n)) {
            parameters.push((name.clone(), all.of(edition, "query", name, ty)));
        }
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        if !parameters.is_empty() {
            let all = parameters.into_iter().map(|(_, written)| written);
            item.insert("parameters".into(), all.collect());
        }
        for op in &self.operations {
            item.insert(op.method.into(), op.write(edition, &shared, roots));
        }
        paths.insert(self.path, item.into());
    }
}

/// The names in braces of a path.
fn names(path: &str) -> impl Iterator<Item = &str> {
    let words = path.split('/');
    words.filter_map(|w| w.strip_prefix('{').and_then(|w| w.strip_suffix('}')))
}

/// Words of any spelling as one word of an identifier: `rbac.authorization` → `rbacAuthorization`.
fn identifier(text: &str, capital: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut raise = capital;
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() {
            raise = true;
        } else if std::mem::take(&mut raise) {
            out.push(c.to_ascii_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// A group and perhaps a version, as identifiers and as tags.
fn place(group: &str, version: Option<&str>) -> (String, String) {
    let group = match group {
        "" => "core",
        other => other.strip_suffix(".k8s.io").unwrap_or(other),
    };
    let (mut id, mut tag) = (identifier(group, true), identifier(group, false));
    if let Some(version) = version {
        id.push_str(&identifier(version, true));
        tag = format!("{tag}_{}", identifier(version, false));
    }
    (id, tag)
}

/// Query parameters: the fields of a type that fit into a query.
fn fields_of(name: &str, query: &mut BTreeMap<String, &'static str>) {
    let table = schema::builtin();
    let Some(id) = table.by_name(name) else {
        return;
    };
    for field in &table.get(id).fields {
        if matches!(&*field.json, "kind" | "apiVersion") {
            continue;
        }
        let one = match &field.ty {
            FieldType::List(item, _) => item,
            other => other,
        };
        let ty = match one {
            FieldType::Bool => "boolean",
            FieldType::Int32 | FieldType::Int64 => "integer",
            FieldType::String => "string",
            _ => continue,
        };
        query.insert(field.json.to_string(), ty);
    }
}

/// The root of a group's version.
pub fn root(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{version}"),
        g => format!("/apis/{g}/{version}"),
    }
}

/// Adds all paths of a row in a version.
pub fn add_row(
    edition: Edition,
    row: &Row,
    version: &ServedVersion,
    paths: &mut Map<String, Value>,
    roots: &mut Roots,
) {
    let maker = Maker::new(row, version);
    for item in maker.items() {
        item.write(edition, paths, roots);
    }
}

/// Makes the operations of a row in a version.
struct Maker<'a> {
    row: &'a Row,
    version: &'a ServedVersion,
    is_custom: bool,
    /// `AppsV1`, `apps_v1`.
    id: String,
    tag: String,
    own: Shape,
    list: Shape,
}

impl<'a> Maker<'a> {
    fn new(row: &'a Row, version: &'a ServedVersion) -> Self {
        let (id, tag) = place(&row.group, Some(&version.version));
        let is_custom = row.strategy.is_custom();
        // A custom kind's types are not made for a document: most kinds are idle.
        let of = |name: String| match is_custom {
            true => Shape::Published(name),
            false => Shape::Type(version.ty.table().clone(), name),
        };
        Self {
            row,
            version,
            is_custom,
            id,
            tag,
            own: of(version.ty.name().to_string()),
            list: of(format!("{}List", version.ty.name())),
        }
    }

    fn items(&self) -> Vec<Item> {
        let (row, root) = (self.row, root(&self.row.group, &self.version.version));
        let resource = &row.resource;
        let base = match row.namespaced {
            true => format!("namespaces/{{namespace}}/{resource}"),
            false => resource.to_string(),
        };
        let mut all = Vec::new();
        let mut add = |path: &str, operations: Vec<Operation>| {
            all.push(Item {
                path: format!("{root}/{path}"),
                operations,
            });
        };
        let has = |verb: &&&str| row.has_verb(verb);
        let of = |verbs: &[&'static str]| -> Vec<Operation> {
            verbs.iter().filter(has).map(|v| self.verb(v)).collect()
        };
        add(&base, of(&["deletecollection", "list", "create"]));
        add(
            &format!("{base}/{{name}}"),
            of(&["delete", "get", "patch", "update"]),
        );
        for sub in row.subresources_of(self.version) {
            let path = format!("{base}/{{name}}/{}", sub.name);
            add(&path, self.subresource(sub, ""));
            if &*sub.name == "proxy" {
                add(
                    &format!("{path}/{{path}}"),
                    self.subresource(sub, "WithPath"),
                );
            }
        }
        if row.namespaced && row.has_verb("list") {
            add(resource, vec![self.list("list", "ForAllNamespaces")]);
        }
        if !row.has_verb("watch") || self.is_custom {
            return all;
        }
        add(&format!("watch/{base}"), vec![self.list("watchlist", "")]);
        add(
            &format!("watch/{base}/{{name}}"),
            vec![self.list("watch", "")],
        );
        if row.namespaced {
            let everywhere = self.list("watchlist", "ForAllNamespaces");
            add(&format!("watch/{resource}"), vec![everywhere]);
        }
        all
    }

    fn named(&self, verb: &str, rest: &str, scoped: bool) -> String {
        let scope = if self.row.namespaced && scoped {
            "Namespaced"
        } else {
            ""
        };
        format!("{verb}{}{rest}{scope}{}", self.id, self.row.kind)
    }

    fn plain(&self, method: &'static str, id: String) -> Operation {
        let kind = [&self.row.group, &self.version.version, &self.row.kind].map(Clone::clone);
        let forms = if self.is_custom { CUSTOM_FORMS } else { FORMS };
        Operation {
            method,
            id,
            tag: self.tag.clone(),
            action: None,
            kind: Some(kind),
            query: BTreeMap::from([("pretty".to_owned(), "string")]),
            body: None,
            consumes: if self.is_custom { CUSTOM_FORMS } else { ANY },
            produces: forms,
            answers: OK,
            answer: Some(self.own.clone()),
        }
    }

    /// `list`, and the paths that watch: `everywhere` names the one of all namespaces.
    fn list(&self, action: &'static str, everywhere: &str) -> Operation {
        let scoped = everywhere.is_empty();
        let mut id = self.named(if action == "list" { "list" } else { "watch" }, "", scoped);
        if action == "watchlist" {
            id.push_str("List");
        }
        let mut op = self.plain("get", id + everywhere);
        op.action = Some(action);
        op.answer = Some(match action {
            "list" => self.list.clone(),
            _ => Shape::meta("WatchEvent"),
        });
        if !self.is_custom {
            op.produces = LISTS;
        }
        fields_of(&format!("{META}.ListOptions"), &mut op.query);
        op
    }

    fn verb(&self, verb: &'static str) -> Operation {
        match verb {
            "list" => self.list("list", ""),
            "deletecollection" => {
                let mut op = self.changed(verb, "");
                op.id = self.named("delete", "Collection", true);
                op
            }
            "get" => self.read(""),
            _ => self.changed(verb, ""),
        }
    }

    fn read(&self, sub: &str) -> Operation {
        let id = self.named("read", "", true) + &identifier(sub, true);
        let mut op = self.plain("get", id);
        op.action = Some("get");
        if self.is_custom {
            fields_of(&format!("{META}.GetOptions"), &mut op.query);
        }
        op
    }

    /// A verb that changes something; of the kind itself or of a subresource.
    fn changed(&self, verb: &str, sub: &str) -> Operation {
        let (method, word, options) = match verb {
            "create" => ("post", "create", "CreateOptions"),
            "update" => ("put", "replace", "UpdateOptions"),
            "patch" => ("patch", "patch", "PatchOptions"),
            _ => ("delete", "delete", "DeleteOptions"),
        };
        let mut op = self.plain(method, self.named(word, "", true) + &identifier(sub, true));
        fields_of(&format!("{META}.{options}"), &mut op.query);
        op.body = Some((self.own.clone(), true));
        op.action = Some(method);
        match verb {
            "create" => op.answers = CREATED,
            "update" => op.answers = MADE,
            "patch" => {
                op.answers = if self.is_custom { OK } else { MADE };
                op.body = Some((Shape::meta("Patch"), true));
                op.consumes = if self.is_custom {
                    CUSTOM_PATCHES
                } else {
                    PATCHES
                };
            }
            _ => {
                op.body = Some((Shape::meta("DeleteOptions"), false));
                let is_collection = verb == "deletecollection";
                op.answers = if is_collection { OK } else { DELETED };
                if is_collection {
                    op.action = Some("deletecollection");
                    self.of_collection(&mut op);
                }
                if is_collection || !self.row.returns_deleted {
                    op.answer = Some(Shape::meta("Status"));
                }
            }
        }
        op
    }

    /// What is deleted is chosen as for a list.
    fn of_collection(&self, op: &mut Operation) {
        let list = format!("{META}.ListOptions");
        if self.is_custom {
            // As upstream, which offers no options of deletions here.
            op.body = None;
            op.query = BTreeMap::from([("pretty".to_owned(), "string")]);
            return fields_of(&list, &mut op.query);
        }
        fields_of(&list, &mut op.query);
        op.query.remove("watch");
        op.query.remove("allowWatchBookmarks");
    }

    /// The operations of a subresource; `rest` ends their names.
    fn subresource(&self, sub: &Subresource, rest: &str) -> Vec<Operation> {
        let name = &*sub.name;
        if is_stream(name) && name != "log" {
            return self.connected(sub, rest);
        }
        // The kind itself is meant in the version of the path.
        let is_own = sub.group == self.row.group && sub.kind == self.row.kind;
        let shape = match &sub.ty {
            _ if is_own => self.own.clone(),
            None => Shape::Text,
            Some(ty) => Shape::Type(ty.table().clone(), ty.name().to_string()),
        };
        let made = sub.verbs.iter().map(|verb| {
            let mut op = match &**verb {
                "get" => self.read(name),
                verb => self.changed(verb, name),
            };
            // Custom kinds name themselves everywhere, as upstream.
            if !is_own && !self.is_custom {
                op.kind = Some([&sub.group, &sub.version, &sub.kind].map(Clone::clone));
            }
            op.answer = Some(shape.clone());
            if matches!(&**verb, "create" | "update") {
                op.body = Some((shape.clone(), true));
            }
            if name == "log" {
                fields_of(&format!("{CORE}.PodLogOptions"), &mut op.query);
                op.produces = LOGS;
                op.answer = Some(Shape::Text);
            }
            op
        });
        made.collect()
    }

    /// A subresource that hands its connection on: the options of the connection are a query.
    fn connected(&self, sub: &Subresource, rest: &str) -> Vec<Operation> {
        let methods: &[&'static str] = match &*sub.name {
            "proxy" => &PROXIED,
            _ => &["get", "post"],
        };
        let made = methods.iter().map(|method| {
            let id = self.named("connect", &identifier(method, true), true);
            let id = id + &identifier(&sub.name, true) + rest;
            let mut op = self.plain(method, id);
            op.action = Some("connect");
            op.kind = Some([&sub.group, &sub.version, &sub.kind].map(Clone::clone));
            op.query.clear();
            fields_of(&format!("{CORE}.{}", sub.kind), &mut op.query);
            op.answer = Some(Shape::Text);
            op.produces = ANY;
            op
        });
        made.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_become_words_of_identifiers_and_tags() {
        let of = |group, version| place(group, version);
        let pair = |id: &str, tag: &str| (id.to_owned(), tag.to_owned());
        assert_eq!(of("", Some("v1")), pair("CoreV1", "core_v1"));
        assert_eq!(
            of("rbac.authorization.k8s.io", Some("v1")),
            pair("RbacAuthorizationV1", "rbacAuthorization_v1")
        );
        assert_eq!(
            of("stable.example-x.com", Some("v1alpha1")),
            pair("StableExampleXComV1alpha1", "stableExampleXCom_v1alpha1")
        );
        assert_eq!(of("apps", None), pair("Apps", "apps"));
        assert_eq!(identifier(".well-known", false), "WellKnown");
    }

    #[test]
    fn parameters_are_the_fields_of_the_options() {
        let mut query = BTreeMap::new();
        fields_of(&format!("{META}.DeleteOptions"), &mut query);
        let names: Vec<&str> = query.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "dryRun",
                "gracePeriodSeconds",
                "ignoreStoreReadErrorWithClusterBreakingPotential",
                "orphanDependents",
                "propagationPolicy"
            ]
        );
        assert_eq!(query["gracePeriodSeconds"], "integer");
    }
}
