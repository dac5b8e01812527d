//! A cluster at rest: 100 nodes with 5,000 pods that run. The nodes send their heartbeats and nothing
//! else happens, so the heartbeats should be all that is written. Then the same while people have
//! their consoles open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::task::JoinSet;

use crate::fill::{self, all, now};
use crate::load::{Client, LoadRequest};
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
        LoadRequest::post(LEASES, &lease(&shapes::node_name(i), &now()))
    })
    .await?;
    all(client, PODS, |i| {
        LoadRequest::post(pods(), &pod(&pod_name(i), &shapes::node_name(i % NODES)))
    })
    .await?;
    all(client, PODS, |i| {
        let path = format!("{}/{}/status", pods(), pod_name(i));
        LoadRequest::merge(path, &pod_status("at rest"))
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
        if client
            .send(0, LoadRequest::merge(path, &change))
            .await
            .is_err()
        {
            return;
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many revisions the store has had.
async fn revision(client: &Client) -> Result<u64> {
    let list = client
        .must(1, LoadRequest::get("/api/v1/namespaces?limit=1"))
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
    let sent = beats as f64 / minutes;
    report.add(Row::value("… heartbeats sent per minute", "writes", sent));
    let memory = memory_of(server.pid());
    report.add(Row::value("… resident", "MB", memory.resident_mb));
    consoles(&server, Duration::from_secs(watched), report).await?;
    heart.abort();
    server.stop().await
}

const CONSOLES: usize = 20;
/// What the console's overview lists and watches.
const OVERVIEW: [&str; 10] = [
    "/api/v1/namespaces",
    "/api/v1/nodes",
    "/api/v1/pods",
    "/api/v1/persistentvolumeclaims",
    "/api/v1/events",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/daemonsets",
    "/apis/batch/v1/jobs",
    "/apis/batch/v1/cronjobs",
];
/// Objects of one page of its lists.
const PAGE: usize = 500;

/// What open consoles cost the server: to open one, and to leave it open.
async fn consoles(server: &Server, watched: Duration, report: &mut Report) -> Result<()> {
    let before = memory_of(server.pid()).own_mb;
    let (cpu, begun) = (server.cpu(), Instant::now());
    let mut open = JoinSet::new();
    let mut bytes = 0;
    for _ in 0..CONSOLES {
        bytes += console(server, &mut open).await?;
    }
    let each = CONSOLES as f64;
    let took = begun.elapsed().as_secs_f64() / each;
    let spent = (server.cpu() - cpu).as_secs_f64() / each;
    report.add(Row::value("a console opens there", "ms", took * 1e3));
    report.add(Row::value("… CPU time of the server", "ms", spent * 1e3));
    report.add(Row::value("… it is sent", "MB", bytes as f64 / each / 1e6));
    let (cpu, begun) = (server.cpu(), Instant::now());
    tokio::time::sleep(watched).await;
    if open.try_join_next().is_some() {
        bail!("a watch of a console has ended");
    }
    let hours = begun.elapsed().as_secs_f64() / 3600.0;
    let used = (server.cpu() - cpu).as_secs_f64();
    let what = format!("at rest, {CONSOLES} consoles open");
    report.add(Row::value(
        &format!("{what}, CPU per hour"),
        "s",
        used / hours,
    ));
    let more = memory_of(server.pid()).own_mb - before;
    report.add(Row::value("… memory of each", "MB", more / each));
    Ok(())
}

/// Opens one, over a connection of its own: its lists, then its watches, which go on. The bytes of
/// its lists.
async fn console(server: &Server, open: &mut JoinSet<Result<()>>) -> Result<usize> {
    let client = Arc::new(Client::connect(&server.access, 1).await?);
    let mut bytes = 0;
    for path in OVERVIEW {
        let mut next = String::new();
        let version = loop {
            let page = format!("{path}?limit={PAGE}&continue={next}");
            let reply = client.send(0, LoadRequest::get(page)).await?;
            if !reply.status.is_success() {
                bail!("{path}: {}", reply.status);
            }
            bytes += reply.body.len();
            let list: serde_json::Value = serde_json::from_slice(&reply.body)?;
            let of = |field: &str| {
                list["metadata"][field]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            next = of("continue");
            if next.is_empty() {
                break of("resourceVersion");
            }
        };
        let watch = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={version}");
        let mut body = client.begin(0, LoadRequest::get(watch)).await?.into_body();
        let held = client.clone();
        open.spawn(async move {
            while let Some(frame) = body.frame().await {
                frame?;
            }
            drop(held);
            Ok(())
        });
    }
    Ok(bytes)
}
