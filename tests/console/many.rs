//! Lists of thousands: only the rows in sight are drawn, and what changes is shown soon.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tests::Context;

use crate::page::{go, quiet, signed_in};

/// Pods in the list.
const MANY: usize = 2_000;
/// Rows that may be drawn at once: those in sight and some around them.
const ROWS: u64 = 80;

pub fn thousands_of_pods_stay_smooth(cx: &Context) -> Result<()> {
    make(cx)?;
    let mut page = signed_in(cx)?;
    go(&mut page, "pods")?;
    let count = "document.querySelector('.count')?.innerText";
    page.until("all are counted", &format!("{count} === '{MANY}'"))?;
    let rows = "document.querySelectorAll('tbody tr').length";
    let drawn = page.value(rows)?.as_u64().context("no rows")?;
    ensure!(drawn < ROWS, "{drawn} rows are drawn");
    page.value("scrollTo(0, document.body.scrollHeight)")?;
    page.until_shown(&format!("held-{:04}", MANY - 1))?;
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
    let metrics = "JSON.stringify({ heap: performance.memory.usedJSHeapSize, \
        interactive: performance.getEntriesByType('navigation')[0].domInteractive })";
    println!("  {MANY} pods: {}", page.value(metrics)?);
    quiet(&mut page)
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
