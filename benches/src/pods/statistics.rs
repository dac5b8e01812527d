//! What statistics of 100 containers cost their node: while nobody asks, while samples are kept for
//! cAdvisor's API, and for each page that a Prometheus, `kubectl top` or the console asks for. The
//! runtime's own work for them is counted, too: it is the node's as well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::name_of_node;
use crate::load::{Client, LoadRequest, percentile_ms};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{cpu_of, memory_of};

pub(super) const CONTAINERS: usize = 100;
/// Pages of the node, and what asks for them.
const OF_NODE: [(&str, &str); 5] = [
    ("metrics/cadvisor", "containers for Prometheus"),
    ("metrics/resource", "usage for metrics.k8s.io"),
    ("stats/summary", "summary"),
    ("metrics", "kubelet, proxy and DNS"),
    ("metrics/probes", "probes"),
];
/// Pages of the control plane.
const OF_SERVER: [(&str, &str); 3] = [
    ("/metrics", "API server, controllers and scheduler"),
    (
        "/apis/metrics.k8s.io/v1beta1/pods",
        "usage of all pods, as `kubectl top` asks",
    ),
    ("/apis/metrics.k8s.io/v1beta1/nodes", "usage of the nodes"),
];
/// As Prometheus' configuration in `docs/prometheus.yml` asks for all pages of a node.
const SCRAPED_EVERY: Duration = Duration::from_secs(30);

/// The processes whose work it is.
pub(super) struct Processes {
    pub(super) agent: u32,
    pub(super) server: u32,
    pub(super) runtime: Option<u32>,
}

impl Processes {
    fn cpu(&self) -> [Duration; 3] {
        let runtime = self.runtime.map_or(Duration::ZERO, cpu_of);
        [cpu_of(self.agent), cpu_of(self.server), runtime]
    }
}

/// What a page costs: milliseconds of agent, server and runtime.
fn ms_each(before: [Duration; 3], after: [Duration; 3], asks: u32) -> [f64; 3] {
    let each = |i: usize| {
        let spent = after.get(i).copied().unwrap_or_default();
        let spent = spent.saturating_sub(before.get(i).copied().unwrap_or_default());
        spent.as_secs_f64() * 1e3 / f64::from(asks)
    };
    [each(0), each(1), each(2)]
}

pub(super) async fn measure(
    plan: &Plan,
    client: &Client,
    all: &Processes,
    report: &mut Report,
) -> Result<()> {
    let (settle, watched, asks) = match plan.quick {
        true => (5, 10, 5),
        false => (20, 60, 50),
    };
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let watched = Duration::from_secs(watched);
    let what = format!("statistics of {CONTAINERS} containers");
    let memory = memory_of(all.agent).own_mb;
    let idle = share(all.agent, watched).await;
    let case = format!("{what}: nobody asks, agent");
    report.add(Row::value(&case, "% of a core", idle));
    let node = name_of_node(client).await?;
    let mut scrapes = [0.0; 3];
    for (page, whose) in OF_NODE {
        let path = format!("/api/v1/nodes/{node}/proxy/{page}");
        let cost = asked(client, all, &path, asks, report, whose).await?;
        let sums = scrapes.iter_mut().zip(cost);
        sums.for_each(|(sum, ms)| *sum += ms);
    }
    for (who, ms) in ["agent", "server, which passes it on", "runtime"]
        .iter()
        .zip(scrapes)
    {
        let percent = ms / 1e3 / SCRAPED_EVERY.as_secs_f64() * 100.0;
        let case = format!("{what}: all pages every 30 s, {who}");
        report.add(Row::value(&case, "% of a core", percent));
    }
    for (path, whose) in OF_SERVER {
        asked(client, all, path, asks, report, whose).await?;
    }
    // The first question begins samples every ten seconds.
    let path = format!("/api/v1/nodes/{node}/proxy/api/v1.3/machine");
    let begun = client.get(0, &path).await?.status;
    if !begun.is_success() {
        bail!("{path}: {begun}");
    }
    let sampled = share(all.agent, watched).await;
    let case = format!("{what}: a sample every 10 s, agent");
    report.add(Row::value(&case, "% of a core", sampled));
    let more = memory_of(all.agent).own_mb - memory;
    let case = format!("{what}: memory that asking has cost the agent");
    report.add(Row::value(&case, "MB", more));
    Ok(())
}

/// Percent of a core that a process uses.
async fn share(pid: u32, time: Duration) -> f64 {
    let (before, begun) = (cpu_of(pid), Instant::now());
    tokio::time::sleep(time).await;
    let used = cpu_of(pid).saturating_sub(before).as_secs_f64();
    used / begun.elapsed().as_secs_f64() * 100.0
}

/// Asks for a page again and again; what one answer costs.
async fn asked(
    client: &Client,
    all: &Processes,
    path: &str,
    asks: u32,
    report: &mut Report,
    whose: &str,
) -> Result<[f64; 3]> {
    let (mut took, mut bytes) = (Vec::new(), 0);
    let before = all.cpu();
    for _ in 0..asks {
        let begun = Instant::now();
        let reply = client.send(0, LoadRequest::get(path)).await?;
        took.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if !reply.status.is_success() {
            bail!("{path}: {}", reply.status);
        }
        bytes = reply.body.len();
    }
    let cost = ms_each(before, all.cpu(), asks);
    took.sort_unstable();
    let page = path.rsplit("/proxy").next().context("no path")?;
    report.add(Row {
        case: format!("{page}: {whose}"),
        concurrency: 1,
        p50_ms: Some(percentile_ms(&took, 50.0)),
        p99_ms: Some(percentile_ms(&took, 99.0)),
        cpu_ms: Some(cost.iter().take(2).sum()),
        bytes: Some(bytes as f64),
        ..Row::default()
    });
    Ok(cost)
}
