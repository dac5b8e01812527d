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
mod runtime;
mod say;
mod secrets;
mod server;
mod service_manager;
mod show;
mod shown_flags;
mod simulate;
mod snapshot;
mod token;
mod tracing_file;
mod up;
mod why;

use std::path::Path;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};

use say::{complain, with_causes};

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
    let matches = cli::Cli::command().get_matches();
    let cli = match cli::Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.format(&mut cli::Cli::command()).exit(),
    };
    // What the parts of a simulated cluster log is of interest to those who ask for it.
    let is_default = matches.value_source("log") == Some(ValueSource::DefaultValue);
    let is_simulation = matches!(cli.command, cli::Command::Simulate(_));
    let filter = if is_default && is_simulation {
        "warn"
    } else {
        &cli.log
    };
    if let Err(e) = log_to_stderr(filter, cli.logging_format) {
        complain!("error: {}", with_causes(&e));
        return ExitCode::FAILURE;
    }
    zpages::show_flags(shown_flags::of(&cli::Cli::command(), &matches));
    wire::install_crypto();
    apiserver::discovery::show_build();
    ended(cli::run(cli.command))
}

fn ended(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(e) => {
            complain!("error: {}", with_causes(&e));
            ExitCode::FAILURE
        }
    }
}

/// Logs what the filter lets through; the filter can be exchanged while the process runs.
fn log_to_stderr(filter: &str, format: cli::LoggingFormat) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let read = |filter: &str| EnvFilter::try_new(filter).map_err(|e| e.to_string());
    let wanted = read(filter).map_err(|e| anyhow::anyhow!("--log {filter:?}: {e}"))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(wanted)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match format {
        cli::LoggingFormat::Text => {
            let logs = logs.with_filter_reloading();
            let handle = logs.reload_handle();
            zpages::set_logs_by(move |f| handle.reload(read(f)?).map_err(|e| e.to_string()));
            logs.init();
        }
        cli::LoggingFormat::Json => {
            let logs = logs.json().with_filter_reloading();
            let handle = logs.reload_handle();
            zpages::set_logs_by(move |f| handle.reload(read(f)?).map_err(|e| e.to_string()));
            logs.init();
        }
    }
    Ok(())
}
