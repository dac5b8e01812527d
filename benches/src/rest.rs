//! A cluster at rest: 100 nodes with 5,000 pods that run. The nodes send their heartbeats and nothing
//! else happens, so the heartbeats should be all that is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::fill::{self, all, now};
use crate::load::{Ask, Client};
use crate::objects::{lease, pod, pod_status, pods};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, memory_of, scratch};
use crate::shapes;

const NODES: u64 = 100;
const PODS: u64 = 5_000;
/// As our kubelets renew their leases.
const HEARTBEAT: Duration = Duration::from_secs(2);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn pod_name(i: u64) -> String {
    format!("pod-{i:04}")
}

async fn fill(client: &Arc<Client>) -> Result<()> {
    fill::namespace(client).await?;
    fill::nodes(client, NODES).await?;
    all(client, NODES, |i| {
        Ask::post(LEASES, &lease(&shapes::node_name(i), &now()))
    })
    .await?;
    all(client, PODS, |i| {
        Ask::post(pods(), &pod(&pod_name(i), &shapes::node_name(i % NODES)))
    })
    .await?;
    all(client, PODS, |i| {
        let path = format!("{}/{}/status", pods(), pod_name(i));
        Ask::merge(path, &pod_status("at rest"))
    })
    .await
}

/// Renews the leases of all nodes, again and again, at an even pace; counts what it sent.
async fn beat(client: Arc<Client>, sent: Arc<AtomicU64>) {
    let every = HEARTBEAT / u32::try_from(NODES).unwrap_or(u32::MAX);
    let mut pace = tokio::time::interval(every);
    for i in (0..NODES).cycle() {
        pace.tick().await;
        let path = format!("{LEASES}/{}", shapes::node_name(i));
        let change = json!({ "spec": { "renewTime": now() } });
        // A renewal that fails shows as a node that is taken for failed.
        if client.send(0, Ask::merge(path, &change)).await.is_err() {
            return;
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many revisions the store has had.
async fn revision(client: &Client) -> Result<u64> {
    let list = client
        .must(1, Ask::get("/api/v1/namespaces?limit=1"))
        .await?;
    let text = list["metadata"]["resourceVersion"].as_str();
    Ok(text.context("no resourceVersion")?.parse()?)
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let dir = scratch()?;
    let server = Server::start(plan, "server", dir.path()).await?;
    let client = Arc::new(Client::connect(&server.access, 2).await?);
    let sent = Arc::new(AtomicU64::new(0));
    fill(&client).await?;
    let heart = tokio::spawn(beat(client.clone(), sent.clone()));
    let (settle, watched) = if plan.quick { (10, 10) } else { (60, 120) };
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let (cpu, begun) = (server.cpu(), Instant::now());
    let (revision_before, sent_before) = (revision(&client).await?, sent.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(watched)).await;
    let written = revision(&client).await? - revision_before;
    let beats = sent.load(Ordering::Relaxed) - sent_before;
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let used = (server.cpu() - cpu).as_secs_f64();
    heart.abort();
    let what = "at rest, 100 nodes with 5,000 pods";
    report.add(Row::value(
        &format!("{what}, CPU per hour"),
        "s",
        used / minutes * 60.0,
    ));
    report.add(Row::value(
        "… writes per minute",
        "writes",
        written as f64 / minutes,
    ));
    report.add(Row::value(
        "… of them not the nodes' heartbeats",
        "writes",
        written.saturating_sub(beats) as f64 / minutes,
    ));
    let memory = memory_of(server.pid());
    report.add(Row::value("… resident", "MB", memory.resident_mb));
    server.stop().await
}
