//! The kubelet's port: logs, exec, attach, port-forward, statistics, metrics. Every request
//! is authenticated by client certificate or token and authorized by the API server.

pub mod auth;
mod common;
mod logs;
mod pod_tunnel;
mod system_logs;
mod tunnel;

use crate::counted::FIGURES;
use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::stats;
use clock::Instant;
use common::{Answer, Query, Shared, json, metrics, query, text};
use http::{Method, Request, StatusCode};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The server of the kubelet's port.
#[derive(Debug)]
pub struct Server {
    shared: Shared,
    auth: auth::Gate,
    rates: stats::Rates,
}

impl Server {
    /// A server over the pods of this node.
    #[must_use]
    pub fn new(deps: Arc<Deps>, pods: Arc<Pods>) -> Arc<Self> {
        let auth = auth::Gate::new(deps.client.clone(), &deps.config.node_name);
        Arc::new(Self {
            shared: Shared {
                deps,
                pods,
                tunnels: Arc::new(Semaphore::new(pod_tunnel::TUNNELS)),
            },
            auth,
            rates: stats::Rates::default(),
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
            async move {
                let (method, began) = (request.method().clone(), Instant::now());
                let path = request.uri().path().trim_start_matches('/');
                let page = path.split('/').next().unwrap_or_default().to_owned();
                let answer = server.answer(request).await;
                FIGURES.answered(&method, &page, began.elapsed());
                answer
            }
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
                logs::serve(&self.shared, namespace, pod, container, &query).await
            }
            (&Method::GET | &Method::POST, ["exec" | "attach" | "portForward" | "run", ..]) => {
                tunnel::serve(&self.shared, &parts, &query, &mut request).await
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
                let own = stats::metrics::own(&self.shared.pods);
                let lines = own + &figures::lines() + &client::refusals::metrics();
                metrics(figures::prometheus(&lines))
            }
            (&Method::GET, ["metrics", "cadvisor"]) => metrics(stats::metrics::cadvisor(
                &stats::collect(&self.shared.deps, &self.shared.pods).await,
            )),
            (&Method::GET, ["metrics", "resource"]) => metrics(stats::metrics::resource(
                &stats::collect(&self.shared.deps, &self.shared.pods).await,
            )),
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

    async fn summary(&self, query: &Query) -> Answer {
        let all = stats::collect(&self.shared.deps, &self.shared.pods).await;
        let only = query
            .get("only_cpu_and_memory")
            .is_some_and(|v| v == "true" || v == "1");
        json(&stats::summary::of(&all, &self.rates, only))
    }
}
