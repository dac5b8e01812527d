//! A control plane that nobody uses: how soon it is ready, what it holds in memory, what it
//! spends.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::load::{Client, LoadRequest};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, memory_of, scratch};

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let dir = scratch()?;
    let first = Server::start(plan, "server", dir.path()).await?;
    report.add(Row::value(
        "start to ready, fresh data",
        "s",
        first.ready_after.as_secs_f64(),
    ));
    first.stop().await?;
    let server = Server::start(plan, "server", dir.path()).await?;
    report.add(Row::value(
        "start to ready, again",
        "s",
        server.ready_after.as_secs_f64(),
    ));
    let (settle, watched) = if plan.quick { (3, 7) } else { (20, 60) };
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let (cpu, begun) = (server.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(watched)).await;
    let used = (server.cpu() - cpu).as_secs_f64();
    let per_minute = used / begun.elapsed().as_secs_f64() * 60.0;
    let memory = memory_of(server.pid());
    report.add(Row::value(
        "idle control plane, resident",
        "MB",
        memory.resident_mb,
    ));
    report.add(Row::value(
        "… not backed by the binary's file",
        "MB",
        memory.own_mb,
    ));
    report.add(Row::value("… at its peak", "MB", memory.peak_mb));
    report.add(Row::value(
        "idle control plane, CPU per minute",
        "s",
        per_minute,
    ));
    let size = std::fs::metadata(&plan.binary)?.len() as f64 / 1e6;
    report.add(Row::value("binary", "MB", size));
    let page = console_page(&Client::connect(&server.access, 1).await?).await?;
    report.add(Row::value(
        "console, what a first visit is sent",
        "KB",
        page,
    ));
    server.stop().await
}

/// Compressed bytes of the console's page and of the files that it names; what is loaded later, such as
/// the terminal, is not among them.
async fn console_page(client: &Client) -> Result<f64> {
    let plain = client.get(0, "/console/").await?;
    let text = String::from_utf8_lossy(&plain.body).into_owned();
    let named: Vec<&str> = text.split('"').filter(|w| w.contains("app-")).collect();
    ensure!(
        !named.is_empty(),
        "the console's page names no files: {text}"
    );
    let mut bytes = 0;
    for file in std::iter::once("").chain(named) {
        let ask = LoadRequest {
            gzip: true,
            ..LoadRequest::get(format!("/console/{file}"))
        };
        let reply = client.send(0, ask).await?;
        ensure!(reply.status.is_success(), "{file}: {}", reply.status);
        bytes += reply.body.len();
    }
    Ok(bytes as f64 / 1e3)
}
