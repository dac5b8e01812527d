//! What extension servers say of themselves: whether they answer, their resources, their OpenAPI.

use std::time::Duration;

use api::GroupVersion;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use registry::aggregation::{Available, unreachable};
use serde_json::Value;

use super::ApiServiceSpec;
use super::answers::{checked, entry, from_list, own_part};
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
        // It answers whether it is there, so this is nothing that passes by itself.
        tracing::warn!("discovery of {}: {why}", known.name);
        return before.stale();
    }
    let (v3, v2) = (v3(state, known).await, v2(state, known).await);
    Pages {
        resources: resources.ok(),
        is_current: true,
        v3_hash: v3.unwrap_or_else(|_| before.v3_hash.clone()),
        v2: v2.unwrap_or_else(|_| before.v2.clone()),
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
        let of = GroupVersion::new(&known.group, &known.version);
        return checked(entry(&value, &of));
    }
    // Servers older than aggregated discovery.
    let (head, body) = ask(state, known, &own_path(known), JSON).await?;
    if !head.status.is_success() {
        return Err(format!("status {}", head.status.as_u16()));
    }
    let value: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let list = value["resources"].as_array().cloned().unwrap_or_default();
    checked(from_list(&known.group, &known.version, &list))
}

/// The hash of a server's OpenAPI v3, if it has that; the document itself is asked of the server whenever
/// a client asks for it.
///
/// # Errors
/// It does not answer now.
async fn v3(state: &State, known: &ApiServiceSpec) -> Result<Option<String>, String> {
    let (head, body) = ask(state, known, "/openapi/v3", JSON).await?;
    if !head.status.is_success() {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = format!("apis/{}/{}", known.group, known.version);
    let url = value["paths"][name]["serverRelativeURL"].as_str();
    let hash = url.and_then(|url| url.split_once("hash="));
    let hash = hash.and_then(|(_, hash)| hash.split('&').next());
    Ok(hash.filter(|hash| !hash.is_empty()).map(str::to_owned))
}

/// What a server's OpenAPI v2 says of its version, if it has that.
///
/// # Errors
/// It does not answer now.
async fn v2(state: &State, known: &ApiServiceSpec) -> Result<Option<Value>, String> {
    let (head, body) = ask(state, known, "/openapi/v2", JSON).await?;
    let value = serde_json::from_slice::<Value>(&body).ok();
    let value = value.filter(|_| head.status.is_success());
    let of = GroupVersion::new(&known.group, &known.version);
    Ok(value.map(|mut document| own_part(&mut document, &of)))
}
