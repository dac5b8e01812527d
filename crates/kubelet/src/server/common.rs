//! What all pages of the kubelet's port have in common: what they are served from, parameters of
//! requests, bodies of answers.

use crate::pod::deps::Deps;
use crate::pod::handle::Snapshot;
use crate::pod::manager::Pods;
use crate::pod::spec;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Body of an answer.
pub type Body = BoxBody<Bytes, Infallible>;
/// An answer.
pub type Answer = Response<Body>;

/// What requests are served from.
#[derive(Debug)]
pub struct Shared {
    /// What all pods share.
    pub deps: Arc<Deps>,
    /// The pods of the node.
    pub pods: Arc<Pods>,
    /// Places for tunnels to pods.
    pub tunnels: Arc<Semaphore>,
}

impl Shared {
    /// Name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.deps.config.node_name
    }
}

/// Parameters of a request, several values of one name in order.
#[derive(Debug, Default)]
pub struct Query {
    values: HashMap<String, Vec<String>>,
}

impl Query {
    /// The first value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .and_then(|v| v.first())
            .map(String::as_str)
    }
    /// All values.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.values.get(name).cloned().unwrap_or_default()
    }
    /// Whether a flag is set: `1` or `true`.
    pub fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|n| {
            self.get(n)
                .is_some_and(|v| matches!(v, "1" | "true" | "True"))
        })
    }
}

pub fn query(text: &str) -> Query {
    let mut out = Query::default();
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        out.values
            .entry(decode(key))
            .or_default()
            .push(decode(value));
    }
    out
}

/// Undoes percent-encoding, and `+` for a space.
fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let pair: Vec<u8> = bytes.by_ref().take(2).collect();
                let code = std::str::from_utf8(&pair)
                    .ok()
                    .and_then(|h| u8::from_str_radix(h, 16).ok());
                out.extend(code);
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

pub fn text(code: StatusCode, words: &str) -> Answer {
    let mut answer = Response::new(full(words.to_owned()));
    *answer.status_mut() = code;
    answer.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

pub fn json(value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(full(value.to_string()));
    answer.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    answer
}

pub fn metrics(words: String) -> Answer {
    let mut answer = Response::new(full(words));
    answer.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    answer
}

/// A container of a pod here, by names; and the pod.
pub fn find_pod(
    server: &Shared,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
) -> Result<Arc<Snapshot>, Box<Answer>> {
    server
        .pods
        .find(namespace, pod)
        .filter(|s| {
            let knows =
                |uid: &str| spec::uid(&s.pod) == uid || s.mirror_uid.as_deref() == Some(uid);
            uid.is_none_or(knows)
        })
        .ok_or_else(|| {
            Box::new(text(
                StatusCode::NOT_FOUND,
                &format!("pod \"{pod}\" does not exist"),
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_keep_order_and_escapes() {
        let q = query("command=sh&command=-c&command=echo%20a%2Bb+c&tty=1");
        assert_eq!(q.all("command"), ["sh", "-c", "echo a+b c"]);
        assert!(q.flag(&["tty"]) && !q.flag(&["stdin", "input"]));
    }
}
