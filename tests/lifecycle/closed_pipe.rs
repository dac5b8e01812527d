//! `tiphys up | tee log`, where Ctrl-C ends `tee` first.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::command::eventually;
use tests::slot::Slot;
use tests::{Context, traces};

pub fn a_reader_that_is_gone_stops_nothing(cx: &Context) -> Result<()> {
    let (slot, dir) = (Slot::take()?, tempfile::tempdir()?);
    let data = dir.path().join("data");
    let mut up = cx.cluster.tiphys(&["up", "--nodes=1"]);
    up.arg(format!("--data-dir={}", data.display()))
        .arg(format!("--port={}", slot.port()))
        .arg(format!("--service-cidr={}", slot.service_cidr()))
        .arg(format!("--pod-cidr={}", slot.pod_cidr()))
        .arg(format!("--node-cidr={}", slot.node_cidr()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = up.spawn()?;
    let mut seen = String::new();
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    while !seen.contains("The cluster is up") {
        ensure!(output.read_line(&mut seen)? > 0, "it ended: {seen}");
    }
    drop(output);
    let ids = traces::ids(&data);
    ensure!(!ids.is_empty(), "the cluster has no name");
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("pid 0")?;
    kill_process(pid, Signal::INT)?;
    let status = eventually("it ends", || child.try_wait()?.context("it still runs"))?;
    ensure!(status.success(), "{status}");
    let left = traces::of(&data, &ids);
    ensure!(left.is_empty(), "it left:\n{}", left.join("\n"));
    Ok(())
}
