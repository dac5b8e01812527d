//! Declarations of kinds from what a server publishes of them: a document of OpenAPI v3.

use std::collections::BTreeMap;
use std::sync::Arc;

use cel::decl::MAX_REQUEST_BYTES;
use cel::{Decl, DeclKind, Field, ListKind, escape};
use serde_json::Value as Json;

/// Nodes of one declaration, at most: the largest built-in kinds have some 2,000. What is beyond
/// is anything.
const MAX_NODES: usize = 50_000;
/// Levels of one declaration.
const MAX_DEPTH: usize = 60;

/// The declaration of a kind in a document (`/openapi/v3/apis/GROUP/VERSION`). None when the
/// document does not describe it.
pub fn declare(document: &Json, group: &str, version: &str, kind: &str) -> Option<Arc<Decl>> {
    let schemas = document["components"]["schemas"].as_object()?;
    let is_it = |schema: &&Json| {
        let named = schema["x-kubernetes-group-version-kind"].as_array();
        named
            .into_iter()
            .flatten()
            .any(|gvk| gvk["group"] == group && gvk["version"] == version && gvk["kind"] == kind)
    };
    let schema = schemas.values().find(is_it)?;
    let mut reader = Reader {
        schemas,
        within: Vec::new(),
        nodes: 0,
    };
    reader.node(schema, true, kind)
}

struct Reader<'d> {
    schemas: &'d serde_json::Map<String, Json>,
    /// References that are being followed.
    within: Vec<&'d str>,
    nodes: usize,
}

fn scalar(name: &str, kind: DeclKind) -> Option<Arc<Decl>> {
    Some(Arc::new(Decl::new(name, kind, MAX_REQUEST_BYTES - 2, 1)))
}

/// The name that a schema refers to, also where that stands in an `allOf` beside a description.
fn reference(schema: &Json) -> Option<&str> {
    let own = schema["$ref"].as_str();
    let nested = || {
        let all = schema["allOf"].as_array()?;
        all.iter().find_map(|s| s["$ref"].as_str())
    };
    own.or_else(nested)?.rsplit('/').next()
}

impl<'d> Reader<'d> {
    /// None where expressions see nothing: of values without a type.
    fn node(&mut self, schema: &'d Json, root: bool, name: &str) -> Option<Arc<Decl>> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || self.within.len() > MAX_DEPTH {
            return Some(Decl::any());
        }
        if let Some(to) = reference(schema) {
            if self.within.contains(&to) {
                // As upstream: of what holds itself, the inner one is empty.
                return Some(Arc::new(Decl::object(name, [])));
            }
            let schemas = self.schemas;
            self.within.push(to);
            let decl = schemas.get(to).and_then(|s| self.typed(s, root, name));
            self.within.pop();
            return decl;
        }
        self.typed(schema, root, name)
    }

    fn typed(&mut self, schema: &'d Json, root: bool, name: &str) -> Option<Arc<Decl>> {
        let on = |field: &str| schema[field] == true;
        if on("x-kubernetes-int-or-string") || schema["format"] == "int-or-string" {
            return Some(Decl::any());
        }
        let root = root || on("x-kubernetes-embedded-resource");
        match schema["type"].as_str().unwrap_or_default() {
            "array" => {
                let item = self.node(&schema["items"], false, &format!("{name}.@idx"))?;
                let kind = match schema["x-kubernetes-list-type"].as_str() {
                    Some("set") => ListKind::Set,
                    Some("map") => ListKind::Map(keys(schema)),
                    _ => ListKind::Atomic,
                };
                scalar("list", DeclKind::List(item, kind))
            }
            "object" => self.object(schema, root, name),
            "string" => match schema["format"].as_str() {
                Some("byte") => scalar("bytes", DeclKind::Bytes),
                Some("duration") => scalar("duration", DeclKind::Duration),
                Some("date") => scalar("timestamp", DeclKind::Date),
                Some("date-time") => scalar("timestamp", DeclKind::Timestamp),
                _ => scalar("string", DeclKind::String),
            },
            "boolean" => scalar("bool", DeclKind::Bool),
            "number" => scalar("double", DeclKind::Double),
            "integer" => scalar("int", DeclKind::Int),
            // A quantity is a text or a number; upstream does not see it at all and warns of each
            // field that holds one.
            _ if schema["oneOf"].is_array() => Some(Decl::any()),
            _ if root => self.object(schema, root, name),
            _ => None,
        }
    }

    fn object(&mut self, schema: &'d Json, root: bool, name: &str) -> Option<Arc<Decl>> {
        let values = &schema["additionalProperties"];
        if values.is_object() && !root {
            let value = self.node(values, false, &format!("{name}.@elem"))?;
            return scalar("map", DeclKind::Map(value));
        }
        let mut fields = BTreeMap::new();
        let mut add = |json: &str, decl| {
            if let Some(escaped) = escape(json) {
                let json = Arc::from(json);
                fields.insert(Arc::from(escaped), Field { json, decl });
            }
        };
        if root {
            let text = || {
                Arc::new(Decl::new(
                    "string",
                    DeclKind::String,
                    MAX_REQUEST_BYTES - 2,
                    2,
                ))
            };
            add("kind", text());
            add("apiVersion", text());
            let names = ["name", "generateName"].map(|n| (n.to_owned(), text()));
            let metadata = Decl::object(&format!("{name}.metadata"), names);
            add("metadata", Arc::new(metadata));
        }
        for (json, property) in schema["properties"].as_object().into_iter().flatten() {
            let below = format!("{name}.{}", escape(json).unwrap_or_default());
            if let Some(decl) = self.node(property, false, &below)
                // Of an embedded resource without a schema of its own.
                && !(root && json == "metadata" && matches!(&decl.kind, DeclKind::Object(f) if f.is_empty()))
            {
                add(json, decl);
            }
        }
        Some(Arc::new(Decl::new(name, DeclKind::Object(fields), 0, 2)))
    }
}

fn keys(schema: &Json) -> Vec<Arc<str>> {
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    keys.into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .map(Arc::from)
        .collect()
}
