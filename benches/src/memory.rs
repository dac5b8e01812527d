//! What the API server alone and the whole server hold in memory, beside the JSON of the objects
//! that live: at the start, with many small objects, with very many, and after all were deleted.
//! Private memory counts: what the kernel would get back if the process ended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http::Method;

use crate::Plan;
use crate::load::{Ask, Client, closed_loop};
use crate::objects::{config_map, config_maps, namespace};
use crate::report::{Report, Row};
use crate::server::{Server, private_mb, scratch};

const CONNECTIONS: usize = 4;
const CONCURRENCY: usize = 64;
/// Small ones, of some 800 bytes of JSON with what the server adds.
const SMALL: u64 = 11_000;
const SMALL_BYTES: usize = 32;
const LARGE_BYTES: usize = 1024;
/// Enough for a server that has nothing to free.
const SHORT: Duration = Duration::from_secs(20);
/// Far above what any of these fills or deletions takes.
const MOST: Duration = Duration::from_secs(3_600);

struct Stage<'a> {
    command: &'static str,
    server: &'a Server,
    client: Arc<Client>,
    report: &'a mut Report,
    settle: Duration,
}

impl Stage<'_> {
    /// One figure after the server had time to free what it needs no longer: private memory, and
    /// how often it holds the JSON of what is live.
    async fn note(&mut self, stage: &str) -> Result<()> {
        let now = private_mb(self.server.pid());
        tokio::time::sleep(self.settle).await;
        let settled = private_mb(self.server.pid());
        let json = self.json_mb().await?;
        let name = format!("{}, {stage}", self.command);
        self.report.add(Row::value(
            &format!("{name}: live objects as JSON"),
            "MB",
            json,
        ));
        self.report
            .add(Row::value(&format!("{name}: private, at once"), "MB", now));
        self.report.add(Row::value(
            &format!("{name}: private, settled"),
            "MB",
            settled,
        ));
        Ok(())
    }

    async fn json_mb(&self) -> Result<f64> {
        let ask = || Ask::get(format!("{}?resourceVersion=0&limit=0", config_maps()));
        let seen = closed_loop(&self.client, 1, MOST, 1, move |_| ask()).await?;
        Ok(seen.bytes as f64 / 1e6)
    }

    async fn create(&self, name: &'static str, count: u64, bytes: usize) -> Result<()> {
        let ask = move |i| Ask::post(config_maps(), &config_map(&format!("{name}-{i:06}"), bytes));
        closed_loop(&self.client, CONCURRENCY, MOST, count, ask).await?;
        Ok(())
    }

    async fn delete(&self, name: &'static str, count: u64) -> Result<()> {
        let ask = move |i| Ask {
            method: Method::DELETE,
            ..Ask::get(format!("{}/{name}-{i:06}", config_maps()))
        };
        closed_loop(&self.client, CONCURRENCY, MOST, count, ask).await?;
        Ok(())
    }
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let large = if plan.quick { 20_000 } else { 100_000 };
    // The embedded store forgets after five to ten minutes.
    let settle = Duration::from_secs(if plan.quick { 100 } else { 660 });
    for command in ["apiserver", "server"] {
        let dir = scratch()?;
        let server = Server::start(plan, command, dir.path()).await?;
        let client = Arc::new(Client::connect(&server.access, CONNECTIONS).await?);
        client
            .must(0, Ask::post("/api/v1/namespaces", &namespace()))
            .await?;
        let mut stage = Stage {
            command,
            server: &server,
            client,
            report,
            settle: SHORT,
        };
        stage.note("start").await?;
        stage.settle = settle.min(Duration::from_secs(100));
        stage.create("small", SMALL, SMALL_BYTES).await?;
        stage.note("11,000 small ConfigMaps").await?;
        stage.create("large", large, LARGE_BYTES).await?;
        stage.note(&format!("{large} more of 1 KiB")).await?;
        stage.settle = settle;
        stage.delete("large", large).await?;
        stage.delete("small", SMALL).await?;
        stage.note("all deleted").await?;
        let data = files_mb(&dir.path().join("data"));
        stage.report.add(Row::value(
            &format!("{command}, all deleted: data on disk"),
            "MB",
            data,
        ));
        server.stop().await?;
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
