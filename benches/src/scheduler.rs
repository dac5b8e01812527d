//! How fast waiting pods are given nodes. Nodes and pods are created while the API server runs
//! alone; then the whole control plane starts on the same data and finds all of them waiting.
//! The nodes are objects only: their heartbeats are faked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::load::{Ask, Client, closed_loop};
use crate::objects::{
    config_maps, lease, namespace, node, node_status, pods, service_account, waiting_pod,
};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, memory_of, scratch};

const NODES: u64 = 500;
const PODS: usize = 5_000;
/// Heartbeats come this often, well below every grace period.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// A scheduler that binds nothing for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
const FILL_TIME: Duration = Duration::from_secs(600);

fn node_name(i: u64) -> String {
    format!("node-{i:03}")
}

fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

async fn all(
    client: &Arc<Client>,
    count: u64,
    ask: impl Fn(u64) -> Ask + Send + Sync + 'static,
) -> Result<()> {
    closed_loop(client, 64, FILL_TIME, count, ask).await?;
    Ok(())
}

async fn fill(client: &Arc<Client>) -> Result<()> {
    client
        .must(0, Ask::post("/api/v1/namespaces", &namespace()))
        .await?;
    let accounts = config_maps().replace("configmaps", "serviceaccounts");
    client
        .must(0, Ask::post(accounts, &service_account()))
        .await?;
    all(client, NODES, |i| {
        Ask::post("/api/v1/nodes", &node(&node_name(i)))
    })
    .await?;
    all(client, NODES, |i| {
        let path = format!("/api/v1/nodes/{}/status", node_name(i));
        Ask::merge(path, &node_status(&now()))
    })
    .await?;
    // New nodes are tainted until a controller finds them ready; none runs yet.
    all(client, NODES, |i| {
        let path = format!("/api/v1/nodes/{}", node_name(i));
        Ask::merge(path, &json!({ "spec": { "taints": null } }))
    })
    .await?;
    all(client, NODES, |i| {
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        Ask::post(path, &lease(&node_name(i), &now()))
    })
    .await?;
    all(client, PODS as u64, |i| {
        Ask::post(pods(), &waiting_pod(&format!("waiting-{i:04}")))
    })
    .await
}

/// Renews the leases of all nodes, again and again, at an even pace.
async fn beat(client: Arc<Client>) {
    let mut pace = tokio::time::interval(HEARTBEAT / NODES as u32);
    for i in (0..NODES).cycle() {
        pace.tick().await;
        let name = node_name(i);
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        let change = json!({ "spec": { "renewTime": now() } });
        // A renewal that fails shows as a node that is taken for failed.
        if client.send(0, Ask::merge(path, &change)).await.is_err() {
            return;
        }
    }
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let dir = scratch()?;
    let server = Server::start(plan, "apiserver", dir.path()).await?;
    let client = Arc::new(Client::connect(&server.access, 4).await?);
    fill(&client).await?;
    drop(client);
    server.stop().await?;

    let server = Server::start(plan, "server", dir.path()).await?;
    let client = Arc::new(Client::connect(&server.access, 2).await?);
    let heart = tokio::spawn(beat(client.clone()));
    let cpu = server.cpu();
    let mut bound = Bound::default();
    let begun = Instant::now();
    let revision = bound.list(&client).await?;
    let first = bound.count();
    bound.follow(&client, &revision).await?;
    let elapsed = bound.last.map_or(begun.elapsed(), |last| last - begun);
    let used = server.cpu() - cpu;
    heart.abort();
    let counted = PODS - first;
    if counted == 0 {
        bail!("all pods were bound before the first look");
    }
    report.add(Row {
        case: "scheduling: 5,000 pods on 500 nodes".into(),
        per_second: Some(counted as f64 / elapsed.as_secs_f64()),
        cpu_ms: Some(used.as_secs_f64() * 1e3 / counted as f64),
        ..Row::default()
    });
    report.add(Row::value(
        "… of them bound before the first look",
        "pods",
        first as f64,
    ));
    let busiest = bound.nodes().into_values().max().unwrap_or_default();
    report.add(Row::value(
        "… on the fullest node (even: 10)",
        "pods",
        busiest as f64,
    ));
    let memory = memory_of(server.pid());
    report.add(Row::value(
        "control plane after scheduling, resident",
        "MB",
        memory.resident_mb,
    ));
    server.stop().await
}

/// Which pod is on which node, as the API shows it.
#[derive(Default)]
struct Bound {
    by_pod: HashMap<String, String>,
    last: Option<Instant>,
}

impl Bound {
    fn count(&self) -> usize {
        self.by_pod.len()
    }

    fn nodes(&self) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        for node in self.by_pod.values() {
            *counts.entry(node.as_str()).or_default() += 1;
        }
        counts
    }

    fn see(&mut self, pod: &Value) {
        let word = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
        if let (Some(name), Some(node)) = (word("/metadata/name"), word("/spec/nodeName")) {
            self.by_pod.insert(name.to_owned(), node.to_owned());
        }
    }

    async fn list(&mut self, client: &Client) -> Result<String> {
        let list = client.must(1, Ask::get(pods())).await?;
        let items = list["items"].as_array().context("no items")?;
        items.iter().for_each(|pod| self.see(pod));
        let revision = list["metadata"]["resourceVersion"].as_str();
        Ok(revision.context("no resourceVersion")?.to_owned())
    }

    /// Follows the pods until all are bound.
    async fn follow(&mut self, client: &Client, revision: &str) -> Result<()> {
        let path = format!("{}?watch=1&resourceVersion={revision}", pods());
        let mut body = client.begin(1, Ask::get(path)).await?.into_body();
        let mut rest = Vec::new();
        while self.count() < PODS {
            let before = self.count();
            match tokio::time::timeout(PATIENCE, self.take(&mut body, &mut rest)).await {
                Ok(done) => done?,
                Err(_) => bail!("only {before} of {PODS} pods are bound; nothing moves"),
            }
            if self.count() > before {
                self.last = Some(Instant::now());
            } else if self.last.is_some_and(|last| last.elapsed() > PATIENCE) {
                bail!("only {before} of {PODS} pods are bound; no more are");
            }
        }
        Ok(())
    }

    async fn take(&mut self, body: &mut Incoming, rest: &mut Vec<u8>) -> Result<()> {
        let frame = body.frame().await.context("the watch ended")??;
        rest.extend_from_slice(&frame.into_data().unwrap_or_default());
        let whole = memchr::memrchr(b'\n', rest).map_or(0, |at| at + 1);
        for line in rest.get(..whole).unwrap_or_default().split(|b| *b == b'\n') {
            if !line.is_empty() {
                let event: Value = serde_json::from_slice(line)?;
                self.see(&event["object"]);
            }
        }
        rest.drain(..whole);
        Ok(())
    }
}
