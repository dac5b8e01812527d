//! What extension servers say of themselves: whether they answer, their resources, their OpenAPI.

use std::sync::LazyLock;
use std::time::Duration;

use api::GroupVersion;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use metrics::Counters;
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

static UNREAD: LazyLock<Counters<2>> = LazyLock::new(|| {
    Counters::new(
        "tiphys_aggregator_unread_documents_total",
        "How often an extension server did not give a document of itself, by its APIService",
        ["name", "document"],
    )
});

/// Says and counts that a document was not read. Its server answers whether it is there, so this is
/// nothing that passes by itself.
fn unread(known: &ApiServiceSpec, document: &str, why: &str) {
    tracing::warn!("{document} of {}: {why}", known.name);
    UNREAD.add([&known.name, document]);
}

/// Asks for everything that the server's own pages show. What is not answered stands as it was.
pub async fn pages(state: &State, known: &ApiServiceSpec) -> Pages {
    let before = known.pages.load_full();
    let resources = match resources(state, known).await {
        Ok(resources) => resources,
        Err(why) => {
            unread(known, "discovery", &why);
            return before.stale();
        }
    };
    let (v3, v2) = (v3(state, known).await, v2(state, known).await);
    Pages {
        resources: Some(resources),
        is_current: true,
        v3_hash: v3.unwrap_or_else(|why| {
            unread(known, "OpenAPI v3", &why);
            before.v3_hash.clone()
        }),
        v2: v2.unwrap_or_else(|why| {
            unread(known, "OpenAPI v2", &why);
            before.v2.clone()
        }),
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
        let of = GroupVersion::new(&known.group, &known.version);
        return checked(entry(&object(&body)?, &of));
    }
    // Servers older than aggregated discovery.
    let (head, body) = ask(state, known, &own_path(known), JSON).await?;
    if !head.status.is_success() {
        return Err(format!("status {}", head.status.as_u16()));
    }
    let list = match object(&body)?.get_mut("resources").map(Value::take) {
        Some(Value::Array(list)) => list,
        // Go writes nothing as null.
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err("its resources are no list".into()),
    };
    checked(from_list(&known.group, &known.version, &list))
}

/// A body as the object that every document of a server is. What is none is a failure: it does not
/// say that there is nothing.
fn object(body: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    match value.is_object() {
        true => Ok(value),
        false => Err("the answer is no JSON object".into()),
    }
}

/// A document that not every server has: none where it is not found.
fn optional(status: StatusCode, body: &[u8]) -> Result<Option<Value>, String> {
    match status {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => object(body).map(Some),
        status => Err(format!("status {}", status.as_u16())),
    }
}

/// The hash of a server's OpenAPI v3, if it has that; the document itself is asked of the server whenever
/// a client asks for it.
///
/// # Errors
/// It does not answer now, or what it says cannot be read.
async fn v3(state: &State, known: &ApiServiceSpec) -> Result<Option<String>, String> {
    let (head, body) = ask(state, known, "/openapi/v3", JSON).await?;
    let of = GroupVersion::new(&known.group, &known.version);
    Ok(optional(head.status, &body)?.and_then(|index| hash(&index, &of)))
}

/// The hash of a version's document in an index of OpenAPI v3; none if it is not in it.
fn hash(index: &Value, of: &GroupVersion) -> Option<String> {
    let url = index["paths"][format!("apis/{of}")]["serverRelativeURL"].as_str()?;
    let (_, hash) = url.split_once("hash=")?;
    let hash = hash.split('&').next()?;
    Some(hash.to_owned()).filter(|hash| !hash.is_empty())
}

/// What a server's OpenAPI v2 says of its version, if it has that.
///
/// # Errors
/// It does not answer now, or what it says cannot be read.
async fn v2(state: &State, known: &ApiServiceSpec) -> Result<Option<Value>, String> {
    let (head, body) = ask(state, known, "/openapi/v2", JSON).await?;
    let of = GroupVersion::new(&known.group, &known.version);
    let document = optional(head.status, &body)?;
    Ok(document.map(|mut document| own_part(&mut document, &of)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_a_failure_and_not_nothing() {
        let (ok, index) = (StatusCode::OK, json!({"paths": {}}));
        let body = index.to_string();
        assert_eq!(optional(ok, body.as_bytes()), Ok(Some(index)));
        assert_eq!(optional(StatusCode::NOT_FOUND, b"404 page"), Ok(None));
        for (status, body) in [
            (ok, "<html>busy</html>"),
            (ok, ""),
            (ok, "[]"),
            (ok, "null"),
            (StatusCode::BAD_GATEWAY, "{}"),
            (StatusCode::FORBIDDEN, "{}"),
        ] {
            let read = optional(status, body.as_bytes());
            assert!(read.is_err(), "{status} {body}: {read:?}");
        }
    }

    #[test]
    fn a_hash_is_that_of_the_version() {
        let of = GroupVersion::new("x.io", "v1");
        let index = |url: &str| json!({"paths": {"apis/x.io/v1": {"serverRelativeURL": url}}});
        let url = "/openapi/v3/apis/x.io/v1?hash=A&b=c";
        assert_eq!(hash(&index(url), &of), Some("A".to_owned()));
        assert_eq!(hash(&index("/openapi/v3?hash="), &of), None);
        assert_eq!(hash(&index("/openapi/v3"), &of), None);
        assert_eq!(hash(&json!({"paths": []}), &of), None);
        assert_eq!(hash(&index(url), &GroupVersion::new("x.io", "v2")), None);
    }
}
