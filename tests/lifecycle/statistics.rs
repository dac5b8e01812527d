//! Statistics of containers and of the machine: known loads must appear in them.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::pod;

const MEMORY: u64 = 20_000_000;
const FILES: u64 = 30_000_000;
const SENT: u64 = 10_000_000;

fn ask_node(cx: &Context, node: &str, path: &str) -> Result<String> {
    cx.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/{path}"))
}

fn ask(cx: &Context, path: &str) -> Result<String> {
    ask_node(cx, "node-1", path)
}

fn summary(cx: &Context, node: &str) -> Result<Value> {
    Ok(serde_json::from_str(&ask_node(cx, node, "stats/summary")?)?)
}

/// A pod's part of the summary.
fn of_pod(cx: &Context, name: &str) -> Result<Value> {
    let summary = summary(cx, "node-1")?;
    let pods = summary["pods"].as_array().context("no pods")?;
    let own = pods
        .iter()
        .find(|p| p["podRef"]["namespace"] == cx.ns.as_str() && p["podRef"]["name"] == name);
    own.cloned().context("the pod is not there")
}

/// The value of a metric's first line that has all these labels.
fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let has = |line: &str| {
        labels
            .iter()
            .all(|(k, v)| line.contains(&format!("{k}=\"{v}\"")))
    };
    let line = text.lines().find(|l| {
        l.strip_prefix(name)
            .is_some_and(|r| r.starts_with(['{', ' ']))
            && has(l)
    });
    let line = line.with_context(|| format!("no {name} {labels:?}"))?;
    let value = line
        .rsplit('}')
        .next()
        .and_then(|r| r.split_whitespace().find(|w| *w != name));
    value
        .and_then(|v| v.parse().ok())
        .with_context(|| format!("no value: {line}"))
}

pub fn known_loads_appear(cx: &Context) -> Result<()> {
    cx.shell_pod("sink", "sleep 1000000 | nc -l -p 9000 > /dev/null")?;
    let sink = cx.pod_ip("sink")?;
    // Half a core, memory, files, and bytes on the network.
    let line = format!(
        "head -c {SENT} /dev/zero | nc {sink} 9000; \
         x=$(head -c {MEMORY} /dev/zero | tr '\\0' x); head -c {FILES} /dev/zero > /file; sync; \
         while true; do :; done"
    );
    let mut pod = pod("p", &line);
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "500m" } });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    eventually("the load is in the summary", || {
        let own = of_pod(cx, "p")?;
        let container = &own["containers"][0];
        let is = |what: &Value, least: u64, most: u64| {
            let value = what.as_u64().unwrap_or(0);
            ensure!((least..most).contains(&value), "{value}: {own:#}");
            Ok(())
        };
        is(
            &container["cpu"]["usageNanoCores"],
            300_000_000,
            700_000_000,
        )?;
        is(&container["memory"]["workingSetBytes"], MEMORY, 5 * MEMORY)?;
        is(&container["rootfs"]["usedBytes"], FILES, 2 * FILES)?;
        is(&own["network"]["txBytes"], SENT, 2 * SENT)?;
        is(&of_pod(cx, "sink")?["network"]["rxBytes"], SENT, 2 * SENT)
    })?;
    let cadvisor = ask(cx, "metrics/cadvisor")?;
    let own = [("namespace", cx.ns.as_str()), ("pod", "p")];
    let container = [own[0], own[1], ("container", "main")];
    for (name, labels, least) in [
        ("container_cpu_usage_seconds_total", &container[..], 0.1),
        (
            "container_memory_working_set_bytes",
            &container[..],
            MEMORY as f64,
        ),
        ("container_fs_usage_bytes", &container[..], FILES as f64),
        (
            "container_network_transmit_bytes_total",
            &own[..],
            SENT as f64,
        ),
    ] {
        let value = metric(&cadvisor, name, labels)?;
        ensure!(value >= least, "{name} is {value}, not {least}");
    }
    // CPU time goes on as the container does.
    let before = metric(&cadvisor, "container_cpu_usage_seconds_total", &container)?;
    eventually("more CPU time is counted", || {
        let text = ask(cx, "metrics/cadvisor")?;
        let now = metric(&text, "container_cpu_usage_seconds_total", &container)?;
        ensure!(now >= before + 0.5, "{before}, now {now}");
        Ok(())
    })?;
    let resource = ask(cx, "metrics/resource")?;
    metric(&resource, "node_cpu_usage_seconds_total", &[])?;
    metric(&resource, "container_cpu_usage_seconds_total", &container)?;
    cx.kubectl("delete pod p sink").map(drop)
}

/// Busy time of all CPUs in seconds, and memory in all in bytes, as the kernel says.
fn machine() -> Result<(f64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks: Vec<f64> = stat
        .lines()
        .next()
        .context("no CPUs")?
        .split_whitespace()
        .skip(1)
        .filter_map(|w| w.parse().ok())
        .collect();
    // user, nice, system, then idle and iowait, which are not work, then irq and softirq.
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|i| ticks.get(*i))
        .sum::<f64>();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let total = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .context("no MemTotal")?;
    Ok((busy / 100.0, total * 1024))
}

/// A node that is given no part of its machine reports the whole machine's figures; `disk` is a
/// path on the disk of its pods.
pub fn machine_is_reported_as_it_is(cx: &Context, node: &str, disk: &Path) -> Result<()> {
    let text = ask_node(cx, node, "metrics/cadvisor")?;
    let (_, memory) = machine()?;
    let reported = metric(&text, "machine_memory_bytes", &[])?;
    ensure!(reported == memory as f64, "{reported}, not {memory}");
    // What the machine does between two looks is what the kernel counts meanwhile.
    let root = [("id", "/")];
    let name = "container_cpu_usage_seconds_total";
    let (reported_before, (busy_before, _)) = (metric(&text, name, &root)?, machine()?);
    let outcome = eventually("five seconds of work are counted", || {
        let (reported, (busy, _)) = (
            metric(&ask_node(cx, node, "metrics/cadvisor")?, name, &root)?,
            machine()?,
        );
        let (reported, busy) = (reported - reported_before, busy - busy_before);
        ensure!(busy >= 5.0, "{busy}");
        Ok((reported, busy))
    });
    let (reported, busy) = outcome?;
    ensure!(
        (0.7..1.4).contains(&(reported / busy)),
        "{reported} s reported, {busy} s counted"
    );
    let node = summary(cx, node)?["node"].clone();
    let used = node["memory"]["workingSetBytes"].as_u64().unwrap_or(0);
    ensure!(used > 0 && used < memory, "{node:#}");
    let fs = rustix::fs::statvfs(disk)?;
    let whole = fs.f_blocks * fs.f_frsize;
    ensure!(node["fs"]["capacityBytes"] == whole, "{whole}: {node:#}");
    Ok(())
}
