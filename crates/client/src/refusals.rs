//! Refusals that this process's components get from the API: each is logged and counted, so that
//! a component that may not do its work does not fail silently; and that its requests are parts of
//! what they are sent for. It changes no answer.
//!
//! A creation in a namespace that ends is also answered with 403, as upstream does. That is daily
//! life and no matter of rights, so it is neither logged nor counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use clock::Instant;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use tower::BoxError;

use crate::requests;

/// What was refused: component, method, path without names of objects, code.
type Key = (String, String, String, u16);

struct Refused {
    count: u64,
    logged: Instant,
}

static REFUSED: Mutex<BTreeMap<Key, Refused>> = Mutex::new(BTreeMap::new());
/// Different refusals that are counted separately; further ones are counted together. There are
/// some twenty components, each with a few resources.
const MOST: usize = 1_000;
/// The same refusal is logged again after this time: components try again all the time.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// The same client, whose refusals (401, 403) are logged and counted as those of `component`. What it
/// asks says of which trace it is a part.
pub fn counted(client: Client, component: &str) -> Client {
    let namespace = client.default_namespace().to_owned();
    let component = component.to_owned();
    let service = tower::service_fn(move |mut request: http::Request<Body>| {
        let (client, component) = (client.clone(), component.clone());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        async move {
            let began = Instant::now();
            // Here, where the caller's task is: what it does may be a part of something.
            traces::pass_on(request.headers_mut());
            let answer = client.send(request).await;
            let code = answer.as_ref().map(|a| a.status());
            requests::answered(&method, code.ok(), began.elapsed());
            let answer = answer?;
            if !is_refusal(answer.status()) {
                return Ok(answer);
            }
            let (head, body) = answer.into_parts();
            let (body, said) = read(body).await?;
            if !said.namespace_ends() {
                note(&component, &method, &path, head.status, &said.message);
            }
            Ok::<_, BoxError>(http::Response::from_parts(head, body))
        }
    });
    Client::new(service, namespace)
}

/// What is kept of an answer's body, as far as it is a Status.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct StatusBody {
    message: String,
    details: Details,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl StatusBody {
    fn namespace_ends(&self) -> bool {
        let mut causes = self.details.causes.iter();
        causes.any(|c| c.reason == "NamespaceTerminating")
    }
}

/// A Status is a few hundred bytes long; of a longer body, which no API server sends with a
/// refusal, the rest is lost.
const STATUS_BYTES: usize = 64 << 10;

/// The body, read to its end, and what it says.
async fn read(body: Body) -> Result<(Body, StatusBody), BoxError> {
    let bytes = Limited::new(body, STATUS_BYTES).collect().await?.to_bytes();
    let said = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok((Body::from(bytes.to_vec()), said))
}

fn is_refusal(code: StatusCode) -> bool {
    matches!(code, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Group, version and resource of a path: what a role would have to grant.
fn resource(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let start = match parts.first() {
        Some(&"api") => 2,
        Some(&"apis") => 3,
        _ => return path.to_owned(),
    };
    if parts.get(start) == Some(&"namespaces") && parts.len() > start + 2 {
        parts.drain(start..start + 2);
    }
    let tail = parts.get(start + 2).copied();
    parts.truncate(start + 1);
    parts.extend(tail);
    parts.join("/")
}

fn note(component: &str, method: &Method, path: &str, code: StatusCode, message: &str) {
    let (resource, code) = (resource(path), code.as_u16());
    let mut all = REFUSED.lock();
    let mut key = (component.to_owned(), method.to_string(), resource, code);
    if all.len() >= MOST && !all.contains_key(&key) {
        key = (component.to_owned(), String::new(), String::new(), code);
    }
    let now = Instant::now();
    let mut due = false;
    let refused = all.entry(key).or_insert_with(|| {
        due = true;
        Refused {
            count: 0,
            logged: now,
        }
    });
    refused.count += 1;
    if due || now.duration_since(refused.logged) >= LOG_AGAIN {
        refused.logged = now;
        let count = refused.count;
        drop(all);
        tracing::warn!(
            component,
            code,
            count,
            "the API refuses {method} {path}: {message}"
        );
    }
}

/// All counts, as lines of a metrics page.
pub fn metrics() -> String {
    let all = REFUSED.lock();
    let mut out = String::from(
        "# HELP tiphys_client_refusals Requests of this process's components that the API refused.\n# TYPE tiphys_client_refusals counter\n",
    );
    for ((component, method, resource, code), refused) in &*all {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "tiphys_client_refusals_total{{component={component:?},method={method:?},resource={resource:?},code=\"{code}\"}} {}",
            refused.count
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_a_role_lacks() {
        for (path, want) in [
            ("/api/v1/nodes/n/status", "api/v1/nodes/status"),
            ("/api/v1/namespaces/a/pods/p", "api/v1/pods"),
            ("/api/v1/namespaces/a", "api/v1/namespaces"),
            (
                "/apis/apps/v1/namespaces/a/replicasets/r/scale",
                "apis/apps/v1/replicasets/scale",
            ),
            ("/metrics", "/metrics"),
        ] {
            assert_eq!(resource(path), want, "{path}");
        }
    }

    #[tokio::test]
    async fn refusals_are_counted_and_nothing_else() {
        let service = tower::service_fn(|request: http::Request<Body>| async move {
            let refuse = request.uri().path().ends_with("secrets");
            let code = if refuse { 403 } else { 200 };
            let ends = r#"{"details":{"causes":[{"reason":"NamespaceTerminating"}]}}"#;
            let (code, body) = match request.uri().path() {
                "/api/v1/namespaces/ends/pods" => (403, ends),
                _ => (code, "{}"),
            };
            http::Response::builder()
                .status(code)
                .body(Body::from(body.as_bytes().to_vec()))
        });
        let client = counted(Client::new(service, "default"), "tester");
        for path in [
            "/api/v1/secrets",
            "/api/v1/secrets",
            "/api/v1/pods",
            "/api/v1/namespaces/ends/pods",
        ] {
            let request = http::Request::get(path)
                .body(Body::empty())
                .expect("request");
            let answer = client.send(request).await.expect("answer");
            let body = answer.into_body().collect().await.expect("body");
            assert!(!body.to_bytes().is_empty());
        }
        let text = metrics();
        let line = "tiphys_client_refusals_total{component=\"tester\",method=\"GET\",resource=\"api/v1/secrets\",code=\"403\"} 2";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("api/v1/pods"), "{text}");
    }
}
