//! The Python client: what its programs print is read here, what they expect stands in them.

use std::process::Command;

use anyhow::{Result, ensure};
use tests::command::{self, Running};
use tests::{BUSYBOX, Context, DEMO, binary};

/// A program of the folder, for the check's namespace.
fn command(cx: &Context, program: &str, words: &[&str]) -> Result<Command> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/python");
    let mut command = Command::new("python3");
    command
        // No byte code is left among the sources.
        .args(["-B", "-u"])
        .arg(format!("{folder}/{program}"))
        .arg(&cx.ns)
        .args(words)
        .env("PYTHONPATH", binary::programs()?.join("python"))
        .env("KUBECONFIG", cx.cluster.kubeconfig());
    Ok(command)
}

fn run(cx: &Context, program: &str, words: &[&str]) -> Result<()> {
    let out = command::run(command(cx, program, words)?, "")?.ok()?;
    ensure!(out.lines().last() == Some("done"), "{out}");
    Ok(())
}

pub fn an_informer_survives_what_the_server_forgot(cx: &Context) -> Result<()> {
    run(cx, "informer.py", &[])
}

pub fn kinds_found_at_run_time_are_applied(cx: &Context) -> Result<()> {
    run(cx, "kinds.py", &[])
}

pub fn streams_reach_into_pods(cx: &Context) -> Result<()> {
    run(cx, "streams.py", &[BUSYBOX, DEMO])
}

pub fn an_election_has_one_winner(cx: &Context) -> Result<()> {
    let start = |name: &str| Running::start(command(cx, "leader.py", &[name])?);
    let first = start("first")?;
    first.line(|l| l == "first leads")?;
    let second = start("second")?;
    second.line(|l| l == "second waits")?;
    // Killed, so that nobody gives the place back.
    drop(first);
    second.line(|l| l == "second leads")?;
    let record = cx.field(
        "configmap election",
        r".metadata.annotations.control-plane\.alpha\.kubernetes\.io/leader",
    )?;
    ensure!(record.contains("second"), "{record}");
    Ok(())
}
