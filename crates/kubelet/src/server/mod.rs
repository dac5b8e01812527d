//! The kubelet's port: logs, exec, attach, port-forward, statistics, metrics. Every request
//! is authenticated by client certificate or token and authorized by the API server.

pub mod auth;
mod logs;
mod reach;
mod tunnel;

use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::pod::spec;
use crate::stats;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Body of an answer.
pub(crate) type Body = BoxBody<Bytes, Infallible>;
/// An answer.
pub(crate) type Answer = Response<Body>;

/// What requests are served from.
#[derive(Debug)]
pub struct Server {
    pub(crate) deps: Arc<Deps>,
    pub(crate) pods: Arc<Pods>,
    auth: auth::Gate,
    rates: stats::Rates,
    tunnels: Arc<tokio::sync::Semaphore>,
}

impl Server {
    /// A server over the pods of this node.
    #[must_use]
    pub fn new(deps: Arc<Deps>, pods: Arc<Pods>) -> Arc<Self> {
        let auth = auth::Gate::new(deps.client.clone(), &deps.config.node_name);
        Arc::new(Self {
            deps,
            pods,
            auth,
            rates: stats::Rates::default(),
            tunnels: Arc::new(tokio::sync::Semaphore::new(reach::TUNNELS)),
        })
    }

    /// Serves until the shutdown.
    pub async fn serve(
        self: Arc<Self>,
        listener: tokio::net::TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) {
        let handle = move |request: Request<wire::serve::RequestBody>| {
            let server = self.clone();
            async move { server.answer(request).await }
        };
        wire::serve::serve(listener, tls, handle, shutdown).await;
    }

    async fn answer(&self, mut request: Request<wire::serve::RequestBody>) -> Answer {
        // Bodies of requests are never needed: all questions are in the path and the query.
        let path = request.uri().path().to_owned();
        match self.auth.admit(&request).await {
            Ok(()) => {}
            Err(auth::Refusal::Unknown) => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Err(auth::Refusal::Forbidden(why)) => return text(StatusCode::FORBIDDEN, &why),
            Err(auth::Refusal::Failed(why)) => {
                return text(StatusCode::INTERNAL_SERVER_ERROR, &why);
            }
        }
        let query = query(request.uri().query().unwrap_or_default());
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        match (request.method(), parts.as_slice()) {
            (_, ["healthz", ..]) => text(StatusCode::OK, "ok"),
            (&Method::GET, ["pods"]) => self.list(|_| true),
            (&Method::GET, ["runningpods"]) => self.list(|over| !over),
            (&Method::GET, ["containerLogs", namespace, pod, container]) => {
                logs::serve(self, namespace, pod, container, &query).await
            }
            (&Method::GET | &Method::POST, ["exec" | "attach" | "portForward" | "run", ..]) => {
                tunnel::serve(self, &parts, &query, &mut request).await
            }
            (&Method::POST, [wire::stream::tunnel::PATH, namespace, pod, uid]) => {
                reach::serve(self, [namespace, pod, uid], &query, &mut request).await
            }
            (&Method::GET, ["stats", "summary"]) => self.summary(&query).await,
            (&Method::GET, ["metrics"]) => {
                metrics(stats::metrics::own(&self.pods) + &client::refusals::metrics())
            }
            (&Method::GET, ["metrics", "cadvisor"]) => metrics(stats::metrics::cadvisor(
                &stats::collect(&self.deps, &self.pods).await,
            )),
            (&Method::GET, ["metrics", "resource"]) => metrics(stats::metrics::resource(
                &stats::collect(&self.deps, &self.pods).await,
            )),
            (&Method::GET, ["metrics", "probes"]) => metrics(stats::metrics::probes()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn node(&self) -> &str {
        &self.deps.config.node_name
    }

    fn list(&self, wanted: impl Fn(bool) -> bool) -> Answer {
        let items: Vec<_> = self
            .pods
            .snapshots()
            .iter()
            .filter(|s| wanted(s.over))
            .map(|s| serde_json::to_value(&*s.pod).unwrap_or_default())
            .collect();
        json(
            &serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
        )
    }

    async fn summary(&self, query: &Query) -> Answer {
        let all = stats::collect(&self.deps, &self.pods).await;
        let only = query
            .get("only_cpu_and_memory")
            .is_some_and(|v| v == "true" || v == "1");
        json(&stats::summary::of(&all, &self.rates, only))
    }
}

/// Parameters of a request, several values of one name in order.
#[derive(Debug, Default)]
pub(crate) struct Query {
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

pub(crate) fn query(text: &str) -> Query {
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

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

pub(crate) fn text(code: StatusCode, words: &str) -> Answer {
    let mut answer = Response::new(full(words.to_owned()));
    *answer.status_mut() = code;
    answer.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

fn json(value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(full(value.to_string()));
    answer.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    answer
}

fn metrics(words: String) -> Answer {
    let mut answer = Response::new(full(words));
    answer.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    answer
}

/// A container of a pod here, by names; and the pod.
pub(crate) fn find_pod(
    server: &Server,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
) -> Result<Arc<crate::pod::handle::Snapshot>, Box<Answer>> {
    server
        .pods
        .find(namespace, pod)
        .filter(|s| uid.is_none_or(|uid| spec::uid(&s.pod) == uid))
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
