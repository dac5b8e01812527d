//! Pods one by one and at once. Where the time goes is read from the kubelet's own figures: what the
//! runtime's calls took, which are one after another for one pod; the rest is the API server, the
//! scheduler and the kubelet. The network is the runtime's call of our plugin: pods on the node's own
//! network show what it adds; pods without a token's volume show what volumes add.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::{PODS, Pods, is_ready, name_of_node};
use crate::load::{Client, LoadRequest, percentile_ms};
use crate::plan::Plan;
use crate::report::{Report, Row};

const IMAGE: &str = "tiphys.local/pause:1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn spec() -> Value {
    json!({ "terminationGracePeriodSeconds": 30,
        "containers": [{ "name": "pause", "image": IMAGE, "imagePullPolicy": "IfNotPresent" }] })
}

/// Nanoseconds of each pod.
#[derive(Default)]
struct Took {
    bound: Vec<u64>,
    ready: Vec<u64>,
    gone: Vec<u64>,
}

pub(super) async fn one_by_one(plan: &Plan, client: &Client, report: &mut Report) -> Result<()> {
    let count = if plan.quick { 4 } else { 100 };
    let before = Spent::read(client).await?;
    let took = several(client, "one", count, &spec()).await?;
    let spent = Spent::read(client).await?.since(&before);
    let starts = mean_ms(&took.ready);
    for (case, mut all) in [
        ("pod: created to bound", took.bound),
        ("pod: created to Ready", took.ready),
        ("pod: deleted to gone", took.gone),
    ] {
        add(report, case, &mut all);
    }
    spent.report(starts, count, report);
    for (case, name, fields) in [
        (
            "pod on the node's network: created to Ready",
            "host",
            json!({ "hostNetwork": true }),
        ),
        (
            "pod without a volume: created to Ready",
            "bare",
            json!({ "automountServiceAccountToken": false }),
        ),
    ] {
        let mut spec = spec();
        for (field, value) in fields.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let mut took = several(client, name, count.div_ceil(4), &spec).await?;
        add(report, case, &mut took.ready);
    }
    Ok(())
}

fn add(report: &mut Report, case: &str, all: &mut [u64]) {
    all.sort_unstable();
    report.add(Row {
        case: case.into(),
        concurrency: 1,
        p50_ms: Some(percentile_ms(all, 50.0)),
        p99_ms: Some(percentile_ms(all, 99.0)),
        ..Row::default()
    });
}

fn mean_ms(all: &[u64]) -> f64 {
    let sum: u64 = all.iter().sum();
    sum as f64 / 1e6 / all.len().max(1) as f64
}

/// Each is gone before the next one is made.
async fn several(client: &Client, prefix: &str, count: usize, spec: &Value) -> Result<Took> {
    let mut pods = Pods::watch(client).await?;
    let mut took = Took::default();
    for i in 0..count {
        let name = format!("{prefix}-{i}");
        let object = json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name }, "spec": spec });
        let begun = Instant::now();
        client.must(0, LoadRequest::post(PODS, &object)).await?;
        let is = |so: fn(&Value) -> bool| {
            let name = name.clone();
            move |all: &HashMap<String, Value>| all.get(&name).is_some_and(so)
        };
        let at = pods
            .until("bound", is(|p| p["spec"]["nodeName"].is_string()))
            .await?;
        took.bound.push((at - begun).as_nanos() as u64);
        let at = pods.until("ready", is(is_ready)).await?;
        took.ready.push((at - begun).as_nanos() as u64);
        let begun = Instant::now();
        delete(client, format!("{PODS}/{name}")).await?;
        let at = pods.until("gone", |all| !all.contains_key(&name)).await?;
        took.gone.push((at - begun).as_nanos() as u64);
    }
    Ok(took)
}

async fn delete(client: &Client, path: String) -> Result<()> {
    let delete = LoadRequest {
        method: Method::DELETE,
        ..LoadRequest::get(path)
    };
    client.must(0, delete).await.map(drop)
}

/// Seconds that the runtime's calls took in all, by their names.
struct Spent(BTreeMap<String, f64>);

impl Spent {
    async fn read(client: &Client) -> Result<Self> {
        let name = name_of_node(client).await?;
        let path = format!("/api/v1/nodes/{name}/proxy/metrics");
        let page = client.get(0, &path).await?.body;
        let page = String::from_utf8_lossy(&page);
        let one = |line: &str| {
            let rest = line.strip_prefix("kubelet_runtime_operations_duration_seconds_sum")?;
            let rest = rest.strip_prefix("{operation_type=\"")?;
            let (name, value) = rest.split_once("\"} ")?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Ok(Self(page.lines().filter_map(one).collect()))
    }

    fn since(mut self, before: &Self) -> Self {
        for (name, seconds) in &mut self.0 {
            *seconds -= before.0.get(name).copied().unwrap_or_default();
        }
        self
    }

    /// What of a pod's start the calls are that only starts need; the rest is ours, with the looks
    /// at the runtime, of which some belong to the pods' ends.
    fn report(&self, start_ms: f64, pods: usize, report: &mut Report) {
        let mut rest = start_ms;
        for (call, what) in [
            ("run_podsandbox", "sandbox, with its network"),
            ("create_container", "container made"),
            ("start_container", "container started"),
        ] {
            let seconds = self.0.get(call).copied().unwrap_or_default();
            let ms = seconds * 1e3 / pods.max(1) as f64;
            rest -= ms;
            let case = format!("pod: of its start, runtime: {what}");
            report.add(Row::value(&case, "ms", ms));
        }
        let case = "pod: of its start, all else (us)";
        report.add(Row::value(case, "ms", rest));
        let looks = ["list_podsandbox", "list_containers", "podsandbox_status"];
        let looks = looks.iter().chain(&["container_status", "image_status"]);
        let seconds: f64 = looks.filter_map(|call| self.0.get(*call)).sum();
        let ms = seconds * 1e3 / pods.max(1) as f64;
        let case = "pod: looks at the runtime in its life";
        report.add(Row::value(case, "ms", ms));
    }
}

/// A Deployment whose pods are all ready.
pub(super) struct Many<'a> {
    client: &'a Client,
    count: usize,
    pods: Pods,
}

/// Makes so many pods at once.
pub(super) async fn at_once<'a>(
    client: &'a Client,
    count: usize,
    report: &mut Report,
) -> Result<Many<'a>> {
    let begun = Instant::now();
    let many = many(client, count).await?;
    let case = format!("Deployment of {count}: created to all Ready");
    report.add(Row::value(&case, "s", begun.elapsed().as_secs_f64()));
    Ok(many)
}

/// So many pods that are all ready.
pub(super) async fn many(client: &Client, count: usize) -> Result<Many<'_>> {
    let mut pods = Pods::watch(client).await?;
    let labels = json!({ "app": "many" });
    let object = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "many" },
        "spec": { "replicas": count, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec() } } });
    client
        .must(0, LoadRequest::post(DEPLOYMENTS, &object))
        .await?;
    let all_ready =
        |all: &HashMap<String, Value>| all.values().filter(|p| is_ready(p)).count() == count;
    pods.until("all ready", all_ready).await?;
    Ok(Many {
        client,
        count,
        pods,
    })
}

impl Many<'_> {
    /// Deletes it.
    pub(super) async fn end(mut self, report: &mut Report) -> Result<()> {
        let begun = Instant::now();
        delete(self.client, format!("{DEPLOYMENTS}/many")).await?;
        let at = self.pods.until("all gone", HashMap::is_empty).await?;
        let case = format!("Deployment of {}: deleted to all gone", self.count);
        let seconds = (at - begun).as_secs_f64();
        report.add(Row::value(&case, "s", seconds));
        Ok(())
    }
}
