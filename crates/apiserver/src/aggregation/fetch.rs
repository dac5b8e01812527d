//! What extension servers say of themselves: whether they answer, their resources, their OpenAPI.

use std::time::Duration;

use api::GroupVersion;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use registry::aggregation::{Available, unreachable};
use serde_json::{Map, Value, json};

use super::ApiServiceSpec;
use super::proxy::identify;
use crate::egress::{self, Bounds, OutgoingRequest};
use crate::filters::authn::{MASTERS, UserInfo};
use crate::state::State;

/// What a question may take; as upstream. The largest documents are OpenAPI's: Kubernetes' own has
/// 4 MiB.
const BOUNDS: Bounds = Bounds {
    within: Duration::from_secs(5),
    answer_bytes: 16 << 20,
};
/// Questions whether a server answers, until one is answered.
const ATTEMPTS: usize = 2;
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
const JSON: &str = "application/json";

/// What an extension server said last.
#[derive(Default)]
pub struct Pages {
    /// Its resources, as aggregated discovery lists them; none as long as it has not said.
    pub resources: Option<Value>,
    /// Whether the last question was answered.
    pub is_current: bool,
    /// The hash of its OpenAPI v3, if it has that.
    pub v3_hash: Option<String>,
    /// The paths of its OpenAPI v2, with the definitions and parameters that they lead to.
    pub v2: Option<Value>,
}

impl Pages {
    /// The same, of a server that does not answer any more.
    pub fn stale(&self) -> Self {
        Self {
            resources: self.resources.clone(),
            is_current: false,
            v3_hash: self.v3_hash.clone(),
            v2: self.v2.clone(),
        }
    }
}

impl PartialEq for Pages {
    fn eq(&self, other: &Self) -> bool {
        (self.is_current, &self.v3_hash) == (other.is_current, &other.v3_hash)
            && self.resources == other.resources
            && self.v2 == other.v2
    }
}

/// Asks one question as the server itself.
async fn ask(
    state: &State,
    known: &ApiServiceSpec,
    path: &str,
    accept: &'static str,
) -> Result<(http::response::Parts, Bytes), String> {
    let backend = known.backend.as_ref().map_err(Clone::clone)?;
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    identify(
        &mut headers,
        &UserInfo::new("system:kube-aggregator", &[MASTERS]),
    );
    let asked = OutgoingRequest {
        method: Method::GET,
        path: path.to_owned(),
        headers,
        body: Bytes::new(),
    };
    let answer = egress::call(state, backend, asked, BOUNDS).await;
    answer.map_err(|e| e.to_string())
}

fn own_path(known: &ApiServiceSpec) -> String {
    format!("/apis/{}/{}", known.group, known.version)
}

/// Whether an extension server can be used.
pub async fn check(state: &State, known: &ApiServiceSpec) -> Available {
    let (namespace, name, port) = &known.service;
    let service = state.lookup("", "services", namespace, name);
    let service = service.map(|s| s.to_value());
    let slices = state.lookup_all("discovery.k8s.io", "endpointslices", namespace);
    let of_service = |label: Option<&str>| label.is_some_and(|l| l == name);
    let slices: Vec<Value> = slices
        .iter()
        .filter(|s| of_service(s.label("kubernetes.io/service-name")))
        .map(|s| s.to_value())
        .collect();
    if let Some(why) = unreachable((namespace, name, *port), service.as_ref(), &slices) {
        return why;
    }
    let path = own_path(known);
    let url = format!("https://{name}.{namespace}.svc:{port}{path}");
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        last = match ask(state, known, &path, JSON).await {
            Ok((head, _)) if head.status.is_success() => return Available::passed(),
            Ok((head, _)) => format!("bad status from {url}: {}", head.status.as_u16()),
            Err(why) => why,
        };
    }
    let why = format!("failing or missing response from {url}: {last}");
    Available::not("FailedDiscoveryCheck", why)
}

/// Asks for everything that the server's own pages show. What is not answered stands as it was.
pub async fn pages(state: &State, known: &ApiServiceSpec) -> Pages {
    let before = known.pages.load_full();
    let resources = resources(state, known).await;
    if let Err(why) = &resources {
        tracing::debug!("discovery of {}: {why}", known.name);
        return before.stale();
    }
    Pages {
        resources: resources.ok(),
        is_current: true,
        v3_hash: v3(state, known).await,
        v2: v2(state, known).await,
    }
}

async fn resources(state: &State, known: &ApiServiceSpec) -> Result<Value, String> {
    let (head, body) = ask(state, known, "/apis", DISCOVERY).await?;
    let kind = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let aggregated = kind.is_some_and(|k| k.contains("as=APIGroupDiscoveryList"));
    if head.status.as_u16() == 503 {
        return Err("service unavailable".into());
    }
    if head.status.is_success() && aggregated {
        let value: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        return Ok(entry(&value, known));
    }
    // Servers older than aggregated discovery.
    let (head, body) = ask(state, known, &own_path(known), JSON).await?;
    if !head.status.is_success() {
        return Err(format!("status {}", head.status.as_u16()));
    }
    let value: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let list = value["resources"].as_array().cloned().unwrap_or_default();
    Ok(from_list(&known.group, &known.version, &list))
}

/// The resources of a version in an aggregated document; none if it is not in it.
fn entry(document: &Value, known: &ApiServiceSpec) -> Value {
    let groups = document["items"].as_array().into_iter().flatten();
    let mut versions = groups
        .filter(|g| g["metadata"]["name"] == known.group.as_str())
        .flat_map(|g| g["versions"].as_array().into_iter().flatten());
    let found = versions.find(|v| v["version"] == known.version.as_str());
    found.map_or_else(|| json!([]), |v| v["resources"].clone())
}

/// The resources of an `APIResourceList` in the aggregated form.
fn from_list(group: &str, version: &str, list: &[Value]) -> Value {
    let mut all: Vec<Map<String, Value>> = Vec::new();
    let place = |all: &mut Vec<Map<String, Value>>, name: &str| -> usize {
        let found = all
            .iter()
            .position(|r| r.get("resource") == Some(&name.into()));
        found.unwrap_or_else(|| {
            let mut resource = Map::new();
            resource.insert("resource".into(), name.into());
            // Where it stands only as the parent of something.
            resource.insert("responseKind".into(), json!({}));
            all.push(resource);
            all.len() - 1
        })
    };
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
        let name = text("name");
        if let Some((parent, sub)) = name.split_once('/') {
            let at = place(&mut all, parent);
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
        let at = place(&mut all, name);
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

/// The hash of a server's OpenAPI v3; the document itself is asked of the server whenever a client
/// asks for it.
async fn v3(state: &State, known: &ApiServiceSpec) -> Option<String> {
    let (head, body) = ask(state, known, "/openapi/v3", JSON).await.ok()?;
    let value: Value = serde_json::from_slice(&body).ok()?;
    let name = format!("apis/{}/{}", known.group, known.version);
    let url = value["paths"][name]["serverRelativeURL"].as_str()?;
    let (_, hash) = url.split_once("hash=")?;
    let hash = hash.split('&').next().unwrap_or_default();
    (head.status.is_success() && !hash.is_empty()).then(|| hash.to_owned())
}

async fn v2(state: &State, known: &ApiServiceSpec) -> Option<Value> {
    let (head, body) = ask(state, known, "/openapi/v2", JSON).await.ok()?;
    let mut value: Value = serde_json::from_slice(&body).ok()?;
    if !head.status.is_success() {
        return None;
    }
    Some(own_part(
        &mut value,
        &GroupVersion::new(&known.group, &known.version),
    ))
}

/// The paths of a group and version in an OpenAPI v2 document, and what they lead to.
fn own_part(document: &mut Value, of: &GroupVersion) -> Value {
    let own = format!("/apis/{of}");
    let mut paths = Map::new();
    if let Some(all) = document["paths"].as_object_mut() {
        all.retain(|path, item| {
            let is_own = path
                .strip_prefix(&own)
                .is_some_and(|r| r.is_empty() || r.starts_with('/'));
            if is_own {
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
        let (Some(found), Some((_, kept))) = (document[section].get(&name), kept) else {
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
