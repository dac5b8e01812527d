//! The kubelet's port: logs, exec, attach, port-forward, statistics, metrics. Every request
//! is authenticated by client certificate or token and authorized by the API server.

pub mod auth;
mod checkpoints;
mod common;
mod logs;
mod pod_tunnel;
mod system_logs;
mod tunnel;

use crate::config::Handlers;
use crate::metrics::{self as counted, METRICS};
use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::stats::{self, Detail, Statistics};
use clock::Instant;
use common::{Answer, Query, Shared, json, metrics, query, text};
use http::{Method, Request, StatusCode};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use traces::Caller;

const COMPONENT: zpages::Component = zpages::Component {
    name: "kubelet",
    paths: &[
        "/api",
        "/attach",
        "/containerLogs",
        "/exec",
        "/healthz",
        "/metrics",
        "/pods",
        "/portForward",
        "/run",
        "/runningpods",
        "/stats",
    ],
};

/// Answers a page for looking into the kubelet.
async fn looked_into(request: Request<wire::serve::RequestBody>) -> Answer {
    let (head, body) = request.into_parts();
    match COMPONENT.answer(&head, body).await {
        Ok(page) => page.map(common::full),
        Err(_) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// The server of the kubelet's port.
#[derive(Debug)]
pub struct Server {
    shared: Shared,
    auth: auth::Gate,
    statistics: Arc<Statistics>,
    rates: stats::Rates,
    history: Arc<stats::history::History>,
}

impl Server {
    /// A server over the pods of this node.
    #[must_use]
    pub fn new(deps: Arc<Deps>, pods: Arc<Pods>, statistics: Arc<Statistics>) -> Arc<Self> {
        let auth = auth::Gate::new(deps.client.clone(), &deps.config.node_name);
        Arc::new(Self {
            shared: Shared {
                deps,
                pods,
                tunnels: Arc::new(Semaphore::new(pod_tunnel::TUNNELS)),
            },
            auth,
            statistics,
            rates: stats::Rates::default(),
            history: Arc::default(),
        })
    }

    /// Serves until the shutdown.
    pub async fn serve(
        self: Arc<Self>,
        listener: tokio::net::TcpListener,
        tls: wire::tls::ServerTls,
        shutdown: CancellationToken,
    ) {
        let handle = move |request: Request<wire::serve::RequestBody>| {
            let server = self.clone();
            async move {
                let (method, began) = (request.method().clone(), Instant::now());
                let page = counted::page(request.uri().path());
                let answer = server.traced(request, page).await;
                METRICS.answered(&method, page, began.elapsed());
                answer
            }
        };
        wire::serve::serve(listener, tls, handle, shutdown).await;
    }

    /// Answers, under a span where that is wanted. Who asks is not known yet: his trace is linked.
    async fn traced(
        &self,
        request: Request<wire::serve::RequestBody>,
        page: &'static str,
    ) -> Answer {
        let deps = &self.shared.deps;
        let name = || format!("{} /{page}", request.method());
        let headers = request.headers();
        let since = deps.clock.now();
        match deps.tracer.received(name, headers, Caller::Stranger, since) {
            None => self.answer(request).await,
            Some(span) => {
                span.set("http.request.method", request.method().as_str().to_owned());
                let answer = span.over(Box::pin(self.answer(request))).await;
                let code = i64::from(answer.status().as_u16());
                span.set("http.response.status_code", code);
                answer
            }
        }
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
        let accept = request.headers().get("accept");
        let accept = accept.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let figures_page = |lines: &str| {
            let (kind, page) = ::metrics::page_for(accept.as_deref(), lines);
            let mut page = metrics(page);
            let kind = http::HeaderValue::from_static(kind);
            page.headers_mut().insert("content-type", kind);
            page
        };
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        if let Some(why) = switched_off(self.shared.deps.config.handlers, &parts) {
            return text(StatusCode::METHOD_NOT_ALLOWED, why);
        }
        match (request.method(), parts.as_slice()) {
            (_, ["healthz", ..]) => {
                ::metrics::slis::observe("ping", "healthz", true);
                text(StatusCode::OK, "ok")
            }
            _ if zpages::serves(&path) => looked_into(request).await,
            (&Method::GET, ["pods"]) => self.list(|_| true),
            (&Method::GET, ["runningpods"]) => self.list(|over| !over),
            (&Method::GET, ["containerLogs", namespace, pod, container]) => {
                logs::serve(&self.shared, namespace, pod, container, &query).await
            }
            (&Method::GET | &Method::POST, ["exec" | "attach" | "portForward" | "run", ..]) => {
                tunnel::serve(&self.shared, &parts, &query, &mut request).await
            }
            (&Method::POST, ["checkpoint", namespace, pod, container]) => {
                checkpoints::serve(&self.shared, [namespace, pod, container], &query).await
            }
            (&Method::POST, [wire::stream::tunnel::PATH, namespace, pod, uid]) => {
                pod_tunnel::serve(&self.shared, [namespace, pod, uid], &query, &mut request).await
            }
            (&Method::GET, ["logs", path @ ..]) => {
                let allowed = self.shared.deps.config.system_logs;
                system_logs::serve(allowed, path, &query).await
            }
            (&Method::GET, ["stats", "summary"]) => self.summary(&query).await,
            (&Method::GET, ["metrics"]) => {
                let Shared { deps, pods, .. } = &self.shared;
                let claims = self.statistics.of_claims().await;
                let own = stats::metrics::own(deps, pods, &claims);
                figures_page(&(own + &::metrics::lines() + &client::refusals::metrics()))
            }
            (&Method::GET, ["metrics", "slis"]) => figures_page(&::metrics::slis::lines()),
            (&Method::GET, ["metrics", "cadvisor"]) => {
                let all = self.statistics.collect(Detail::Whole).await;
                all.map_or_else(|e| unread(&e), |all| metrics(stats::cadvisor::page(&all)))
            }
            (&Method::GET, ["metrics", "resource"]) => {
                let all = self.statistics.collect(Detail::Groups).await;
                metrics(stats::metrics::resource(all.as_ref().ok()))
            }
            (&Method::GET | &Method::POST, ["api", parts @ ..]) => {
                self.cadvisor_api(parts, &query).await
            }
            (&Method::GET, ["metrics", "probes"]) => metrics(stats::metrics::probes()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn list(&self, wanted: impl Fn(bool) -> bool) -> Answer {
        let items: Vec<_> = self
            .shared
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

    /// cAdvisor's REST API. The first question begins samples, which end some time after the last.
    async fn cadvisor_api(&self, parts: &[&str], query: &Query) -> Answer {
        if self.history.ask() {
            self.sample();
        }
        let now = match self.statistics.collect(Detail::Whole).await {
            Ok(all) => Arc::new(all),
            Err(e) => return unread(&e),
        };
        let mut samples = self.history.last(usize::MAX);
        samples.push(now);
        let asked = stats::rest::RestRequest {
            parts,
            count: query.get("count"),
            recursive: query.flag(&["recursive"]),
            kind: query.get("type"),
        };
        match stats::rest::answer(&samples, &asked) {
            Ok(value) => json(&value),
            Err((code, why)) => {
                let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                text(code, &format!("{why}\n"))
            }
        }
    }

    /// Takes samples until nobody asks any more.
    fn sample(&self) {
        let (statistics, history) = (self.statistics.clone(), self.history.clone());
        tokio::spawn(async move {
            while history.goes_on() {
                // What could not be read is not a sample.
                if let Ok(all) = statistics.collect(Detail::Whole).await {
                    history.keep(Arc::new(all));
                }
                tokio::time::sleep(stats::history::EVERY).await;
            }
        });
    }

    async fn summary(&self, query: &Query) -> Answer {
        let only = query
            .get("only_cpu_and_memory")
            .is_some_and(|v| v == "true" || v == "1");
        let detail = if only { Detail::Groups } else { Detail::Usual };
        match self.statistics.collect(detail).await {
            Ok(all) => json(&stats::summary::of(&all, &self.rates, only)),
            Err(e) => unread(&e),
        }
    }
}

/// Why a page is not shown that the configuration switches off, in upstream's words.
fn switched_off(handlers: Handlers, parts: &[&str]) -> Option<&'static str> {
    match parts {
        [
            "run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "logs",
            ..,
        ] if !handlers.debugging => Some("Debug endpoints are disabled.\n"),
        ["debug", "pprof", ..] if !handlers.debugging || !handlers.profiling => {
            Some("profiling endpoint is disabled.\n")
        }
        ["debug", "flags", ..] if !handlers.debugging || !handlers.debug_flags => {
            Some("flags endpoint is disabled.\n")
        }
        _ => None,
    }
}

/// The answer where something could not be read: zeros would be taken for figures.
fn unread(error: &stats::Error) -> Answer {
    text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_can_be_switched_off() {
        let all = Handlers::default();
        let without = Handlers {
            debugging: false,
            ..all
        };
        let plain = Handlers {
            profiling: false,
            debug_flags: false,
            ..all
        };
        for (handlers, path, off) in [
            (all, "exec/n/p/c", false),
            (all, "debug/pprof/heap", false),
            (without, "exec/n/p/c", true),
            (without, "containerLogs/n/p/c", true),
            (without, "logs", true),
            (without, "debug/flags/v", true),
            (without, "metrics", false),
            (without, "pods", false),
            // The API server's own way to pods is not a page.
            (without, "podTunnel/n/p/u", false),
            (plain, "exec/n/p/c", false),
            (plain, "debug/pprof/heap", true),
            (plain, "debug/flags/v", true),
        ] {
            let parts: Vec<&str> = path.split('/').collect();
            let found = switched_off(handlers, &parts);
            assert_eq!(found.is_some(), off, "{path}");
        }
    }
}
