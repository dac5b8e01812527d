//! What the API server alone and the whole server hold in memory, beside the JSON of the objects
//! that live: at the start, with many small objects, with very many, and after all were deleted;
//! and, for root, what the processes of a small cluster hold.
//! Private memory counts: what the kernel would get back if the process ended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use crate::load::{Client, LoadRequest, closed_loop};
use crate::objects::{config_map, config_maps, namespace, pod, pods, service_account};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, private_mb, scratch};

const CONNECTIONS: usize = 4;
const CONCURRENCY: usize = 64;
/// Small ConfigMaps, of some 450 bytes of JSON with what the server adds.
const SMALL: u64 = 8_000;
const SMALL_BYTES: usize = 32;
const LARGE_BYTES: usize = 1024;
/// Pods that no scheduler knows, so that they stay as they are; some 2 KB of JSON.
const PODS: u64 = 3_000;
/// Enough for a server that has nothing to free.
const SHORT: Duration = Duration::from_secs(20);
/// Far above what any of these fills or deletions takes.
const MOST: Duration = Duration::from_secs(3_600);
/// Objects of one page: a list of all would itself be most of what the server holds.
const PAGE: usize = 1_000;

struct Stage<'a> {
    command: &'static str,
    server: &'a Server,
    report: &'a mut Report,
    settle: Duration,
}

impl Stage<'_> {
    /// New for each use: connections that say nothing for a while are closed.
    async fn client(&self) -> Result<Arc<Client>> {
        Ok(Arc::new(
            Client::connect(&self.server.access, CONNECTIONS).await?,
        ))
    }

    /// One figure after the server had time to free what it needs no longer: private memory, and
    /// how often it holds the JSON of what is live.
    async fn note(&mut self, stage: &str) -> Result<()> {
        let now = private_mb(self.server.pid());
        tokio::time::sleep(self.settle).await;
        let settled = private_mb(self.server.pid());
        let client = self.client().await?;
        let json = json_mb(&client, &config_maps()).await? + json_mb(&client, &pods()).await?;
        let name = format!("{}, {stage}", self.command);
        let rows = [
            ("live objects as JSON", json),
            ("private, at once", now),
            ("private, settled", settled),
        ];
        for (what, mb) in rows {
            let row = Row::value(&format!("{name}: {what}"), "MB", mb);
            self.report.add(row);
        }
        Ok(())
    }

    async fn all(
        &self,
        count: u64,
        ask: impl Fn(u64) -> LoadRequest + Send + Sync + 'static,
    ) -> Result<()> {
        let client = self.client().await?;
        closed_loop(&client, CONCURRENCY, MOST, count, ask).await?;
        Ok(())
    }

    async fn create(&self, name: &'static str, count: u64, bytes: usize) -> Result<()> {
        let ask = move |i| {
            LoadRequest::post(config_maps(), &config_map(&format!("{name}-{i:06}"), bytes))
        };
        self.all(count, ask).await
    }

    async fn create_pods(&self) -> Result<()> {
        let ask = |i| {
            let mut pod = pod(&format!("pod-{i:06}"), "");
            pod["spec"]["schedulerName"] = json!("nobody");
            LoadRequest::post(pods(), &pod)
        };
        self.all(PODS, ask).await
    }

    async fn delete(&self, of: String, name: &'static str, count: u64) -> Result<()> {
        let ask = move |i| LoadRequest {
            method: Method::DELETE,
            ..LoadRequest::get(format!("{of}/{name}-{i:06}"))
        };
        self.all(count, ask).await
    }
}

/// The JSON of a collection's objects, in MB of 1,000,000 bytes.
async fn json_mb(client: &Client, path: &str) -> Result<f64> {
    let (mut bytes, mut next) = (0, String::new());
    loop {
        let reply = client
            .get(0, &format!("{path}?limit={PAGE}&continue={next}"))
            .await?;
        bytes += reply.body.len();
        let page: Value = serde_json::from_slice(&reply.body)?;
        let metadata = page.get("metadata").context("no list")?;
        match metadata["continue"].as_str().filter(|c| !c.is_empty()) {
            Some(token) => token.clone_into(&mut next),
            None => return Ok(bytes as f64 / 1e6),
        }
    }
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let large = if plan.quick { 20_000 } else { 100_000 };
    // The embedded store forgets after five to ten minutes.
    let settle = Duration::from_secs(if plan.quick { 100 } else { 660 });
    let commands = ["apiserver", "server"];
    for command in commands.into_iter().filter(|c| c.contains(&plan.only)) {
        let dir = scratch()?;
        let server = Server::start(plan, command, dir.path()).await?;
        let mut stage = Stage {
            command,
            server: &server,
            report,
            settle: SHORT,
        };
        let client = stage.client().await?;
        client
            .must(0, LoadRequest::post("/api/v1/namespaces", &namespace()))
            .await?;
        let accounts = format!(
            "/api/v1/namespaces/{}/serviceaccounts",
            crate::objects::NAMESPACE
        );
        // A controller may have been faster.
        client
            .send(0, LoadRequest::post(accounts, &service_account()))
            .await?;
        drop(client);
        stage.note("start").await?;
        stage.settle = settle.min(Duration::from_secs(100));
        stage.create("small", SMALL, SMALL_BYTES).await?;
        stage.create_pods().await?;
        stage.note("8,000 small ConfigMaps, 3,000 pods").await?;
        stage.create("large", large, LARGE_BYTES).await?;
        stage.note(&format!("{large} more of 1 KiB")).await?;
        stage.settle = settle;
        stage.delete(config_maps(), "large", large).await?;
        stage.delete(config_maps(), "small", SMALL).await?;
        stage.delete(pods(), "pod", PODS).await?;
        stage.note("all deleted").await?;
        let data = files_mb(&dir.path().join("data"));
        stage.report.add(Row::value(
            &format!("{command}, all deleted: data on disk"),
            "MB",
            data,
        ));
        server.stop().await?;
    }
    if rustix::process::geteuid().is_root() && "cluster".contains(&plan.only) {
        crate::pods::memory(plan, report).await?;
    }
    Ok(())
}

/// What a folder and those below it hold.
fn files_mb(dir: &std::path::Path) -> f64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => files_mb(&entry.path()),
        Ok(meta) => meta.len() as f64 / 1e6,
        Err(_) => 0.0,
    });
    sizes.sum()
}
