//! What the server serves: for parts that work on every kind there is, as the controllers of namespaces
//! and of garbage do, and for those whose kind may come and go ([`crate::served_kinds`]).
//! Asked in the aggregated form, two requests with ETags, so that asking again costs next to
//! nothing. A group that cannot be reached at the moment is reported, not forgotten.

use std::collections::HashSet;
use std::sync::Arc;

use http::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use http::{Request, StatusCode};
use kube::Client;
use kube::client::Body;
use kube::core::ApiResource;
use serde::Deserialize;
use tokio::sync::Mutex;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A resource as the server serves it, in the version that its group prefers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Served {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Served {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }
}

/// What a discovery found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DiscoveredResources {
    pub served: Vec<Served>,
    /// Groups with their version (`group/version`) whose server could not be asked.
    pub failed: Vec<String>,
    /// Versions that have no name.
    pub malformed: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("asking {path}: {cause}")]
    Ask {
        path: &'static str,
        cause: Box<kube::Error>,
    },
    #[error("asking {path}: the server answered {code}")]
    Refused { path: &'static str, code: u16 },
    #[error("asking {path}: {cause}")]
    Read {
        path: &'static str,
        cause: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct Document {
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Name,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct Name {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: String,
    #[serde(default)]
    freshness: String,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource: String,
    #[serde(default)]
    scope: String,
    response_kind: Option<ResponseKind>,
    /// Go writes an empty list as null.
    verbs: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ResponseKind {
    #[serde(default)]
    kind: String,
}

/// A document as it was read last, with its ETag.
#[derive(Default)]
struct CachedDocument {
    tag: Option<String>,
    found: DiscoveredResources,
}

#[derive(Default)]
struct State {
    core: CachedDocument,
    groups: CachedDocument,
    all: Option<Arc<DiscoveredResources>>,
}

/// Asks the server what it serves; remembers the answer.
pub struct Discovery {
    client: Client,
    state: Mutex<State>,
}

impl Discovery {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            state: Mutex::default(),
        }
    }

    /// What is served now. The same pointer as before when nothing has changed.
    pub async fn ask(&self) -> Result<Arc<DiscoveredResources>, DiscoveryError> {
        let mut state = self.state.lock().await;
        let mut changed = self.refresh("/api", &mut state.core).await?;
        changed |= self.refresh("/apis", &mut state.groups).await?;
        if let (false, Some(all)) = (changed, &state.all) {
            return Ok(all.clone());
        }
        let mut all = state.core.found.clone();
        all.served.extend_from_slice(&state.groups.found.served);
        all.failed.extend_from_slice(&state.groups.found.failed);
        all.malformed
            .extend_from_slice(&state.groups.found.malformed);
        if let Some(same) = state.all.as_ref().filter(|old| ***old == all) {
            return Ok(same.clone());
        }
        let all = Arc::new(all);
        state.all = Some(all.clone());
        Ok(all)
    }

    /// Whether the document may have changed.
    async fn refresh(
        &self,
        path: &'static str,
        known: &mut CachedDocument,
    ) -> Result<bool, DiscoveryError> {
        let ask = |cause: kube::Error| DiscoveryError::Ask {
            path,
            cause: Box::new(cause),
        };
        let mut request = Request::get(path).header(ACCEPT, AGGREGATED);
        if let Some(tag) = &known.tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let request = request
            .body(Body::empty())
            .map_err(|e| ask(kube::Error::HttpError(e)))?;
        let answer = self.client.send(request).await.map_err(ask)?;
        match answer.status() {
            StatusCode::NOT_MODIFIED => return Ok(false),
            StatusCode::OK => {}
            other => {
                let code = other.as_u16();
                return Err(DiscoveryError::Refused { path, code });
            }
        }
        let tag = answer.headers().get(ETAG).and_then(|v| v.to_str().ok());
        let tag = tag.map(str::to_owned);
        let bytes = answer.into_body().collect_bytes().await.map_err(ask)?;
        known.found = read(&bytes).map_err(|cause| DiscoveryError::Read { path, cause })?;
        known.tag = tag;
        Ok(true)
    }
}

/// Reads an aggregated document.
fn read(bytes: &[u8]) -> Result<DiscoveredResources, serde_json::Error> {
    let document: Document = serde_json::from_slice(bytes)?;
    let mut found = DiscoveredResources::default();
    for group in document.items {
        add_group(&mut found, group);
    }
    Ok(found)
}

/// Versions come in the order of preference: the first that has a resource counts.
fn add_group(found: &mut DiscoveredResources, group: Group) {
    let name = group.metadata.name;
    let mut had = HashSet::new();
    for version in group.versions {
        let api_version = match name.as_str() {
            "" => version.version.clone(),
            name => format!("{name}/{}", version.version),
        };
        if version.version.is_empty() || version.version.contains('/') {
            found.malformed.push(api_version);
            continue;
        }
        if version.freshness == "Stale" {
            found.failed.push(api_version.clone());
        }
        for r in version.resources {
            let Some(kind) = r.response_kind.filter(|k| !k.kind.is_empty()) else {
                continue;
            };
            if !had.insert(r.resource.clone()) {
                continue;
            }
            found.served.push(Served {
                resource: ApiResource {
                    group: name.clone(),
                    version: version.version.clone(),
                    api_version: api_version.clone(),
                    kind: kind.kind,
                    plural: r.resource,
                },
                namespaced: r.scope == "Namespaced",
                verbs: r.verbs.unwrap_or_default(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_version_of_each_resource_counts() {
        let text = r#"{"kind":"APIGroupDiscoveryList","items":[
            {"metadata":{},"versions":[{"version":"v1","freshness":"Current","resources":[
                {"resource":"pods","scope":"Namespaced","responseKind":{"kind":"Pod"},"verbs":["delete","list"]},
                {"resource":"odd","scope":"Namespaced","verbs":null}]}]},
            {"metadata":{"name":"g"},"versions":[
                {"version":"v2","freshness":"Current","resources":[
                    {"resource":"as","scope":"Cluster","responseKind":{"kind":"A"},"verbs":["get"]}]},
                {"version":"v1","freshness":"Stale","resources":[
                    {"resource":"as","scope":"Cluster","responseKind":{"kind":"A"},"verbs":["get"]},
                    {"resource":"bs","scope":"Cluster","responseKind":{"kind":"B"},"verbs":["get"]}]},
                {"version":"","resources":[]}]}]}"#;
        let found = read(text.as_bytes()).expect("document");
        let short = |s: &Served| {
            let r = &s.resource;
            format!("{} {} {} {}", r.api_version, r.plural, r.kind, s.namespaced)
        };
        assert_eq!(
            found.served.iter().map(short).collect::<Vec<_>>(),
            ["v1 pods Pod true", "g/v2 as A false", "g/v1 bs B false"]
        );
        assert_eq!(found.failed, ["g/v1"]);
        assert_eq!(found.malformed, ["g/"]);
        assert!(found.served[0].can("list") && !found.served[0].can("watch"));
        assert!(read(b"{}").is_err());
    }
}
