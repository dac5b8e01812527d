//! Lists of thousands: only the rows in sight are drawn, and what changes is shown soon. What the page
//! costs its browser and the server is printed: it depends on the machine, so nothing is held against it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tests::Context;

use crate::browser::Browser;
use crate::page::{go, quiet, signed_in};

/// Pods in the list.
const MANY: usize = 2_000;
/// Rows that may be drawn at once: those in sight and some around them.
const ROWS: u64 = 80;

/// For which CPU time is counted while nobody does anything: what is measured is measured in the soak.
fn watched() -> Duration {
    Duration::from_secs(if tests::is_soak() { 10 } else { 2 })
}

pub fn thousands_of_pods_stay_smooth(cx: &Context) -> Result<()> {
    make(cx)?;
    let server = cx.cluster.pid("server")?;
    let before = own_kib(server)?;
    let mut page = signed_in(cx)?;
    go(&mut page, "pods")?;
    let count = "document.querySelector('.count')?.innerText";
    page.until("all are counted", &format!("{count} === '{MANY}'"))?;
    let watches = own_kib(server)?.saturating_sub(before);
    let (spent, begun) = (cpu_seconds(server)?, Instant::now());
    std::thread::sleep(watched());
    let used = (cpu_seconds(server)? - spent) / begun.elapsed().as_secs_f64();
    println!(
        "  {MANY} pods: an open console has cost the server {watches} KiB; with it and its cluster at \
         rest the server uses {:.2} % of a core",
        used * 100.0
    );
    let rows = "document.querySelectorAll('tbody tr').length";
    let drawn = page.value(rows)?.as_u64().context("no rows")?;
    ensure!(drawn < ROWS, "{drawn} rows are drawn");
    // Again and again: the page may grow below where it was scrolled to.
    let last = format!(
        "(scrollTo(0, document.body.scrollHeight), document.body.innerText.includes('held-{:04}'))",
        MANY - 1
    );
    page.until("the last one is shown", &last)?;
    let drawn = page.value(rows)?.as_u64().context("no rows")?;
    ensure!(drawn < ROWS, "{drawn} rows are drawn at the end");
    page.picture("many")?;
    // What changes meanwhile is seen without asking.
    cx.kubectl("delete pod held-0000 --wait=false")?;
    page.until("one is gone", &format!("{count} === '{}'", MANY - 1))?;
    page.fill(".filter", "held-0042")?;
    page.until(
        "the filter finds one",
        &format!("{count} === '1 of {}'", MANY - 1),
    )?;
    figures(&mut page, count)?;
    quiet(&mut page)
}

/// From an empty page until all are there; what that took of memory and of the network; and for how long
/// the page did not answer at the most.
fn figures(page: &mut Browser, count: &str) -> Result<()> {
    page.ask("Page.reload", json!({}))?;
    page.until(
        "all are counted again",
        &format!("{count} === '{}'", MANY - 1),
    )?;
    let figures = "new Promise((done) => { \
        const all = performance.now(), [first] = performance.getEntriesByType('navigation'); \
        const files = [first, ...performance.getEntriesByType('resource')]; \
        const own = files.filter((f) => new URL(f.name).pathname.startsWith('/console')); \
        let longest = 0; \
        const seen = (list) => list.getEntries().forEach((e) => { longest = Math.max(longest, e.duration); }); \
        new PerformanceObserver(seen).observe({ type: 'longtask', buffered: true }); \
        setTimeout(() => done(JSON.stringify({ \
            interactiveMs: Math.round(first.domInteractive), allShownMs: Math.round(all), \
            longestTaskMs: longest, heapKiB: Math.round(performance.memory.usedJSHeapSize / 1024), \
            pageKiB: Math.round(own.reduce((n, f) => n + f.encodedBodySize, 0) / 1024) })), 500); })";
    let figures = page.value(figures)?;
    println!(
        "  {MANY} pods in the browser: {}",
        figures.as_str().context("no figures")?
    );
    Ok(())
}

/// Memory that is a process's own, in KiB.
fn own_kib(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    number.context("the kernel does not say how much memory it has")
}

/// CPU time of a process; the kernel counts in hundredths of a second.
fn cpu_seconds(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").context("no name")?;
    let ticks = rest.split(' ').skip(11).take(2);
    let ticks: Vec<f64> = ticks.filter_map(|t| t.parse().ok()).collect();
    ensure!(ticks.len() == 2, "{text}");
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Pods that nobody places, so that they cost no node anything.
fn make(cx: &Context) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cx.cluster.client()?, &cx.ns);
    let one = |i: usize| {
        let pods = pods.clone();
        async move {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": format!("held-{i:04}"), "labels": { "app": "held" } },
                "spec": { "schedulingGates": [{ "name": "example.com/held" }],
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{ "name": "main", "image": tests::BUSYBOX }] },
            }))?;
            pods.create(&PostParams::default(), &pod).await?;
            Ok::<(), anyhow::Error>(())
        }
    };
    let all = futures::stream::iter((0..MANY).map(one)).buffer_unordered(16);
    cx.cluster.block_on(all.try_collect::<Vec<()>>())?;
    Ok(())
}
