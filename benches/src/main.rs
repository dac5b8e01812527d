//! Figures of speed and memory: starts the release binary's server as a child, loads it over
//! TLS and HTTP/2, and prints a table with ratios to what upstream measured in the same way.
//! The load generator runs on the same cores as the server, as upstream's did.
#![forbid(unsafe_code)]

mod api;
mod decisions;
mod definitions;
mod disk;
mod figures;
mod fill;
mod flood;
mod hooks;
mod idle;
mod load;
mod memory;
mod network;
mod objects;
mod plan;
mod pods;
mod report;
mod rest;
mod scheduler;
mod server;
mod shapes;
mod stores;
mod watch;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use plan::Plan;
use report::Report;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// GET, LIST, CREATE, PATCH, apply and watch of the API server alone; a flood beside a quiet
    /// tenant.
    Api,
    /// The embedded store beside an etcd, and the disk's own rate of synchronous writes.
    Store,
    /// Pods per second that are given nodes through the API: of 500 and 5,000 nodes, pods of ten
    /// kinds.
    Scheduler,
    /// The same decisions alone, without an API, each timed.
    Decisions,
    /// Created to bound, ready and gone on one node; needs root.
    Pods,
    /// What statistics of 100 containers cost, asked for and not; needs root.
    Statistics,
    /// Launch to ready, memory and CPU time of a quiet control plane.
    Idle,
    /// What a control plane spends on 100 nodes with 5,000 pods when nothing happens, alone and while
    /// 20 consoles are open.
    Rest,
    /// Private memory with many objects and after their deletion: half an hour, or eight minutes
    /// with --quick, and so only when it is asked for.
    Memory,
    /// Many custom kinds that nobody uses, and many objects of one: memory, starts, lists, watches.
    Definitions,
    /// Services in the kernel: first programming, one change, memory, packets; needs root.
    Services,
    /// Network policies: first programming, a pod that starts, a label that changes; needs root.
    Policies,
    /// DNS queries, beside dnsmasq where there is one.
    Dns,
    /// All the others that this user can run.
    All,
}

impl Group {
    /// Whether it needs no binary: it measures parts as libraries.
    fn is_of_libraries(self) -> bool {
        matches!(
            self,
            Self::Store | Self::Decisions | Self::Services | Self::Policies | Self::Dns
        )
    }
}

/// Measures a Tiphys cluster.
#[derive(Parser)]
#[command(name = "benches")]
struct Args {
    #[arg(value_enum, default_value = "all")]
    group: Group,
    /// Short forms, under 90 seconds in all; figures scatter more.
    #[arg(long)]
    quick: bool,
    /// Only cases of the groups api, definitions, scheduler and decisions, or processes of the group
    /// memory, whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Seconds for each API case [default: 5, or 2 with --quick].
    #[arg(long)]
    seconds: Option<u64>,
    /// Where the figures are written as JSON.
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
    /// The static release binary; built when it is not given.
    #[arg(long, env = "TIPHYS_BINARY")]
    binary: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    wire::install_crypto();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    if stores::child().await? || network::child().await? {
        return Ok(());
    }
    let seconds = args.seconds.unwrap_or(if args.quick { 2 } else { 5 });
    let plan = Plan {
        binary: match args.binary {
            Some(binary) => binary,
            None if args.group.is_of_libraries() => PathBuf::new(),
            None => build()?,
        },
        quick: args.quick,
        only: args.only,
        time: Duration::from_secs(seconds.max(1)),
    };
    let mut report = Report::default();
    report::opening(&plan);
    let all = args.group == Group::All;
    let wants = |group| all || args.group == group;
    if wants(Group::Store) {
        stores::run(&plan, &mut report).await?;
    }
    if wants(Group::Idle) {
        idle::run(&plan, &mut report).await?;
    }
    if wants(Group::Api) {
        api::run(&plan, &mut report).await?;
    }
    if wants(Group::Definitions) {
        definitions::run(&plan, &mut report).await?;
    }
    if wants(Group::Decisions) {
        decisions::run(&plan, &mut report)?;
    }
    if wants(Group::Scheduler) {
        scheduler::run(&plan, &mut report).await?;
    }
    if wants(Group::Rest) {
        rest::run(&plan, &mut report).await?;
    }
    let is_root = rustix::process::geteuid().is_root();
    if args.group == Group::Pods || all && is_root {
        pods::run(&plan, &mut report).await?;
    }
    if args.group == Group::Statistics || all && is_root {
        pods::statistics(&plan, &mut report).await?;
    }
    if args.group == Group::Services || all && is_root {
        network::services(&plan, &mut report)?;
    }
    if args.group == Group::Policies || all && is_root {
        network::policies(&plan, &mut report)?;
    }
    if wants(Group::Dns) {
        network::names::run(&plan, &mut report).await?;
    }
    if args.group == Group::Memory {
        memory::run(&plan, &mut report).await?;
    }
    report.write(&args.out)?;
    println!("\nwritten to {}", args.out.display());
    Ok(())
}

fn build() -> Result<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["xtask", "build"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("running cargo xtask build")?;
    if !output.status.success() {
        bail!("cargo xtask build failed");
    }
    let text = String::from_utf8(output.stdout)?;
    let path = text.lines().last().context("the build names no binary")?;
    Ok(path.trim().into())
}
