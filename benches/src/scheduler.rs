//! How fast waiting pods are given nodes through the API. Nodes and pods are created while the API
//! server runs alone; then the whole control plane starts on the same data and finds all of them
//! waiting. The nodes are objects only: nobody expects heartbeats of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::fill::{self, all};
use crate::load::{Client, LoadRequest, closed_loop};
use crate::objects::{config_maps, pods};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, memory_of, scratch};
use crate::shapes::{self, Shape};

/// A scheduler that binds nothing for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nodes without a kubelet are believed for as long as anything is measured.
const BELIEVED: &str = "--node-monitor-grace-period=86400";
/// What a controller writes into each node when it begins.
const FIRST_OF_NODES: &str = "node.alpha.kubernetes.io/ttl";
/// Between looks whether it has.
const LOOK: Duration = Duration::from_millis(200);
/// Gates that are being opened at the same time: so many that the scheduler always has some to bind.
const OPENED_AT_ONCE: usize = 64;

/// What is measured: nodes, pods that wait, and what those are like.
struct Case {
    nodes: u64,
    pods: u64,
    shape: Shape,
    name: String,
}

impl Case {
    fn new(nodes: u64, pods: u64, shape: Shape) -> Self {
        let pods = shape.pods(nodes, pods);
        Self {
            nodes,
            pods,
            shape,
            name: format!("scheduling, {}: {pods} pods on {nodes} nodes", shape.name()),
        }
    }
}

fn cases(plan: &Plan) -> Vec<Case> {
    let mut first = Case::new(500, 5_000, Shape::Plain);
    // Upstream was measured with this one.
    first.name = "scheduling: 5,000 pods on 500 nodes".into();
    let mut all = vec![first];
    if plan.quick {
        return all;
    }
    all.extend(Shape::ALL.map(|shape| Case::new(500, 10_000, shape)));
    all.extend(Shape::ALL.map(|shape| Case::new(5_000, 10_000, shape)));
    all.retain(|c| c.name.contains(plan.only.as_str()));
    all
}

async fn fill(client: &Arc<Client>, case: &Case) -> Result<()> {
    fill::namespace(client).await?;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    client
        .must(0, LoadRequest::post(classes, &shapes::priority_class()))
        .await?;
    let (nodes, shape) = (case.nodes, case.shape);
    fill::nodes(client, nodes).await?;
    // New nodes are tainted until a controller finds them ready; none runs yet.
    all(client, nodes, |i| {
        let path = format!("/api/v1/nodes/{}", shapes::node_name(i));
        LoadRequest::merge(path, &json!({ "spec": { "taints": null } }))
    })
    .await?;
    if shape == Shape::Volumes {
        volumes(client, case.pods).await?;
    }
    let settled = shapes::settled_pods(shape, nodes, case.pods);
    all(client, settled, move |i| {
        let pod = shapes::settled(shape, i, nodes).unwrap_or_default();
        LoadRequest::post(pods(), &pod)
    })
    .await?;
    all(client, case.pods, move |i| {
        LoadRequest::post(pods(), &shapes::pod(shape, i))
    })
    .await
}

/// Volumes and claims that are bound to each other, as their controller leaves them.
async fn volumes(client: &Arc<Client>, count: u64) -> Result<()> {
    let claims = config_maps().replace("configmaps", "persistentvolumeclaims");
    let path = claims.clone();
    all(client, count, move |i| {
        let [_, claim] = shapes::volume(i);
        LoadRequest::post(path.clone(), &claim)
    })
    .await?;
    let list = client.must(1, LoadRequest::get(claims.clone())).await?;
    let items = list["items"].as_array().context("no claims")?;
    let uid = |c: &Value| {
        let name = c["metadata"]["name"].as_str()?.to_owned();
        Some((name, c["metadata"]["uid"].clone()))
    };
    let uids: HashMap<String, Value> = items.iter().filter_map(uid).collect();
    all(client, count, move |i| {
        let [mut volume, _] = shapes::volume(i);
        let uid = uids.get(&shapes::pod_name(i)).cloned().unwrap_or_default();
        volume["spec"]["claimRef"]["uid"] = uid;
        LoadRequest::post("/api/v1/persistentvolumes", &volume)
    })
    .await?;
    let bound = json!({ "status": { "phase": "Bound" } });
    let status = bound.clone();
    all(client, count, move |i| {
        let name = shapes::pod_name(i);
        LoadRequest::merge(format!("/api/v1/persistentvolumes/{name}/status"), &status)
    })
    .await?;
    all(client, count, move |i| {
        let name = shapes::pod_name(i);
        LoadRequest::merge(format!("{claims}/{name}/status"), &bound)
    })
    .await
}

/// What goes on while pods are bound, and how fast that went.
async fn meanwhile(
    client: Arc<Client>,
    shape: Shape,
    nodes: u64,
    count: u64,
) -> Result<Option<Row>> {
    match shape {
        Shape::Gates => {
            let open = json!({ "spec": { "schedulingGates": null } });
            let ask =
                move |i| LoadRequest::merge(format!("{}/{}", pods(), shapes::pod_name(i)), &open);
            let opened = closed_loop(&client, OPENED_AT_ONCE, fill::TIME, count, ask).await?;
            Ok(Some(Row {
                case: "… their gates opened by the load generator".into(),
                per_second: Some(opened.per_second()),
                ..Row::default()
            }))
        }
        Shape::Churn => {
            let gone = shapes::settled_pods(shape, nodes, count);
            let ask = |i| LoadRequest::delete(format!("{}/settled-{i:05}", pods()));
            closed_loop(&client, 4, fill::TIME, gone, ask).await?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Waits until the control plane has written what it writes into each node when it begins. Pods that
/// wait are bound beside that; those that are opened afterwards would be measured with all of it.
async fn nodes_are_known(client: &Client, nodes: u64) -> Result<()> {
    let (begun, wanted) = (Instant::now(), usize::try_from(nodes)?);
    let mut before = None;
    loop {
        let list = client.must(0, LoadRequest::get("/api/v1/nodes")).await?;
        let items = list["items"].as_array().context("no items")?;
        let known = |n: &&Value| n["metadata"]["annotations"].get(FIRST_OF_NODES).is_some();
        let count = items.iter().filter(known).count();
        let revision = |n: &Value| {
            n["metadata"]["resourceVersion"]
                .as_str()?
                .parse::<u64>()
                .ok()
        };
        let latest = items.iter().filter_map(revision).max();
        if count >= wanted && latest == before {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{count} of {nodes} nodes have {FIRST_OF_NODES}, the last at {latest:?}");
        }
        before = latest;
        tokio::time::sleep(LOOK).await;
    }
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    for case in cases(plan) {
        one(plan, report, &case)
            .await
            .with_context(|| case.name.clone())?;
    }
    Ok(())
}

async fn one(plan: &Plan, report: &mut Report, case: &Case) -> Result<()> {
    let dir = scratch()?;
    let server = Server::start(plan, "apiserver", dir.path()).await?;
    let client = Arc::new(Client::connect(&server.access, 4).await?);
    fill(&client, case).await?;
    drop(client);
    server.stop().await?;

    let server = Server::start_with(plan, "server", dir.path(), &[BELIEVED]).await?;
    let client = Arc::new(Client::connect(&server.access, 4).await?);
    if case.shape == Shape::Gates {
        nodes_are_known(&client, case.nodes).await?;
    }
    let cpu = server.cpu();
    let writes = writes_of(&figures_of(&client).await?);
    let mut bound = Bound::new(case.pods);
    let begun = Instant::now();
    let revision = bound.list(&client).await?;
    let first = bound.count();
    let work = meanwhile(client.clone(), case.shape, case.nodes, case.pods);
    let work = tokio::spawn(work);
    bound.follow(&client, &revision).await?;
    let elapsed = bound.last.map_or(begun.elapsed(), |last| last - begun);
    let used = server.cpu() - cpu;
    let beside = work.await??;
    let counted = bound.count() - first;
    if counted == 0 {
        bail!("all pods were bound before the first look");
    }
    report.add(Row {
        case: case.name.clone(),
        per_second: Some(counted as f64 / elapsed.as_secs_f64()),
        cpu_ms: Some(used.as_secs_f64() * 1e3 / counted as f64),
        ..Row::default()
    });
    if let Some(row) = beside {
        report.add(row);
    }
    report.add(Row::value(
        "… of them bound before the first look",
        "pods",
        first as f64,
    ));
    let busiest = bound.nodes().into_values().max().unwrap_or_default();
    let even = case.pods.div_ceil(case.nodes);
    report.add(Row::value(
        &format!("… on the fullest node (even: {even})"),
        "pods",
        busiest as f64,
    ));
    let figures = figures_of(&client).await?;
    let written = writes_of(&figures).saturating_sub(writes);
    let row = "… writes for each pod, by scheduler and controllers";
    report.add(Row::value(row, "requests", written as f64 / counted as f64));
    if let Some(most) = p99_of_decisions(&figures) {
        let row = Row::value("… 99 of 100 decisions took at most", "ms", most * 1e3);
        report.add(row);
    }
    let memory = memory_of(server.pid());
    let memory_row = if case.shape == Shape::Plain && case.nodes == 500 && case.pods == 5_000 {
        "control plane after scheduling, resident"
    } else {
        "… control plane, resident"
    };
    report.add(Row::value(memory_row, "MB", memory.resident_mb));
    server.stop().await
}

async fn figures_of(client: &Client) -> Result<String> {
    let page = client.send(0, LoadRequest::get("/metrics")).await?;
    Ok(String::from_utf8_lossy(&page.body).into_owned())
}

/// How many requests that write the server has answered.
fn writes_of(figures: &str) -> u64 {
    let count = |line: &str| {
        let rest = line.strip_prefix("apiserver_request_total{")?;
        let (labels, count) = rest.split_once("} ")?;
        let (_, verb) = labels.split_once("verb=\"")?;
        let verb = verb.split('"').next()?;
        let is_write = matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE");
        is_write.then(|| count.trim().parse::<u64>().ok())?
    };
    figures.lines().filter_map(count).sum()
}

/// In which time 99 of 100 decisions were made, in seconds: the bound of their bucket in the
/// scheduler's own figures. None where those have no such bucket.
fn p99_of_decisions(figures: &str) -> Option<f64> {
    let bucket = |line: &str| {
        let rest = line.strip_prefix("scheduler_scheduling_algorithm_duration_seconds_bucket{")?;
        let (labels, count) = rest.split_once("} ")?;
        let (_, bound) = labels.split_once("le=\"")?;
        let bound: f64 = bound.split('"').next()?.parse().ok()?;
        Some((bound, count.trim().parse::<f64>().ok()?))
    };
    let mut buckets: Vec<(f64, f64)> = figures.lines().filter_map(bucket).collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all = buckets.last()?.1;
    let reached = buckets.iter().find(|(_, count)| *count >= all * 0.99);
    reached.map(|(bound, _)| *bound).filter(|b| b.is_finite())
}

/// Which pod is on which node, as the API shows it.
struct Bound {
    wanted: usize,
    by_pod: HashMap<String, String>,
    last: Option<Instant>,
}

impl Bound {
    fn new(wanted: u64) -> Self {
        Self {
            wanted: usize::try_from(wanted).unwrap_or(usize::MAX),
            by_pod: HashMap::new(),
            last: None,
        }
    }

    fn count(&self) -> usize {
        self.by_pod.len()
    }

    fn nodes(&self) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        for node in self.by_pod.values() {
            *counts.entry(node.as_str()).or_default() += 1;
        }
        counts
    }

    fn see(&mut self, pod: &Value) {
        let word = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
        if let (Some(name), Some(node)) = (word("/metadata/name"), word("/spec/nodeName"))
            && name.starts_with("waiting-")
        {
            self.by_pod.insert(name.to_owned(), node.to_owned());
        }
    }

    async fn list(&mut self, client: &Client) -> Result<String> {
        let list = client.must(1, LoadRequest::get(pods())).await?;
        let items = list["items"].as_array().context("no items")?;
        items.iter().for_each(|pod| self.see(pod));
        let revision = list["metadata"]["resourceVersion"].as_str();
        Ok(revision.context("no resourceVersion")?.to_owned())
    }

    /// Follows the pods until all are bound.
    async fn follow(&mut self, client: &Client, revision: &str) -> Result<()> {
        let path = format!("{}?watch=1&resourceVersion={revision}", pods());
        let mut body = client.begin(1, LoadRequest::get(path)).await?.into_body();
        let mut rest = Vec::new();
        while self.count() < self.wanted {
            let before = self.count();
            match tokio::time::timeout(PATIENCE, self.take(&mut body, &mut rest)).await {
                Ok(done) => done?,
                Err(_) => bail!(
                    "only {before} of {} pods are bound; nothing moves",
                    self.wanted
                ),
            }
            if self.count() > before {
                self.last = Some(Instant::now());
            } else if self.last.is_some_and(|last| last.elapsed() > PATIENCE) {
                bail!(
                    "only {before} of {} pods are bound; no more are",
                    self.wanted
                );
            }
        }
        Ok(())
    }

    async fn take(&mut self, body: &mut Incoming, rest: &mut Vec<u8>) -> Result<()> {
        let frame = body.frame().await.context("the watch ended")??;
        rest.extend_from_slice(&frame.into_data().unwrap_or_default());
        let whole = memchr::memrchr(b'\n', rest).map_or(0, |at| at + 1);
        for line in rest.get(..whole).unwrap_or_default().split(|b| *b == b'\n') {
            if !line.is_empty() {
                let event: Value = serde_json::from_slice(line)?;
                self.see(&event["object"]);
            }
        }
        rest.drain(..whole);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_and_reads_are_not() {
        let text = "apiserver_request_total{code=\"201\",verb=\"POST\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"200\",verb=\"GET\",version=\"v1\"} 50\n\
            apiserver_request_total{code=\"200\",verb=\"PATCH\",version=\"v1\"} 4\n\
            apiserver_request_terminations_total{verb=\"POST\"} 9\n";
        assert_eq!(writes_of(text), 7);
    }

    #[test]
    fn the_bucket_of_99_of_100_decisions_is_found() {
        let name = "scheduler_scheduling_algorithm_duration_seconds_bucket";
        let text = |counts: [u32; 3]| {
            let [a, b, all] = counts;
            format!(
                "other 1\n{name}{{le=\"0.002\"}} {b}\n{name}{{le=\"0.001\"}} {a}\n{name}{{le=\"+Inf\"}} {all}\n"
            )
        };
        assert_eq!(p99_of_decisions(&text([995, 999, 1000])), Some(0.001));
        assert_eq!(p99_of_decisions(&text([900, 995, 1000])), Some(0.002));
        assert_eq!(p99_of_decisions(&text([900, 901, 1000])), None);
        assert_eq!(p99_of_decisions("other 1"), None);
    }
}
