//! A control plane that nobody uses: how soon it is ready, what it holds in memory, what it
//! spends.

use std::time::{Duration, Instant};

use anyhow::Result;

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
    server.stop().await
}
