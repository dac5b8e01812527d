//! The one binary: reads the command line and wires the parts together. It holds no logic of
//! the cluster itself.
#![forbid(unsafe_code)]

mod admission;
mod apis;
mod audit;
mod authentication;
mod authorization;
mod balancer;
mod cli;
mod components;
mod console;
mod demo;
mod flags;
mod image;
mod images;
mod machine;
mod node;
mod say;
mod secrets;
mod server;
mod show;
mod snapshot;
mod token;
mod up;
mod why;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use say::complain;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before the first allocation. Most of what this binary does is small; and of what a server has
    // freed, the kernel would make huge pages again, most of them empty.
    supervisor::process::allow_huge_pages(false);
    let name = std::env::args_os().next().unwrap_or_default();
    let by_name = |n: &std::ffi::OsStr| n == "tiphys-cni" || n == "loopback";
    if Path::new(&name).file_name().is_some_and(by_name) {
        return network::cni::main();
    }
    // A pause container waits in every pod: nothing else may cost memory there.
    if std::env::args_os().nth(1).is_some_and(|a| a == "pause") {
        return node::pause();
    }
    supervisor::process::detach_if_asked();
    // So is the init of every node: the whole command line costs megabytes, and so do filters of
    // logs.
    if std::env::args_os().nth(1).is_some_and(|a| a == "node-init") {
        let level = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO);
        level.with_writer(std::io::stderr).with_ansi(false).init();
        return ended(cli::node_init());
    }
    let cli = cli::Cli::parse();
    log_to_stderr(&cli.log);
    wire::install_crypto();
    apiserver::discovery::show_build();
    ended(cli::run(cli.command))
}

fn ended(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(e) => {
            complain!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
