//! One whole cluster with one node: how long a pod takes from its creation until it is bound,
//! ready, and after its deletion gone. Needs root; the images are those that `up` makes.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::load::{Ask, Client, percentile_ms};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Access, private_mb, scratch};

const IMAGE: &str = "tiphys.local/pause:1";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// Ranges that neither the defaults nor common networks use.
const RANGES: [&str; 3] = [
    "--service-cidr=10.213.0.0/16",
    "--pod-cidr=10.214.0.0/16",
    "--node-cidr=10.215.0.0/24",
];
/// A step of a pod that takes longer than this never comes.
const PATIENCE: Duration = Duration::from_secs(120);
const UP_PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

/// A cluster made by `tiphys up`; ended when dropped.
struct Cluster<'a> {
    plan: &'a Plan,
    dir: &'a Path,
    up: Child,
}

impl<'a> Cluster<'a> {
    fn start(plan: &'a Plan, dir: &'a Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = fs::File::create(dir.join("log"))?;
        let up = Command::new(&plan.binary)
            .arg("up")
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg(format!("--port={port}"))
            .args(RANGES)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", plan.binary.display()))?;
        Ok(Self { plan, dir, up })
    }

    async fn client(&mut self) -> Result<Arc<Client>> {
        let kubeconfig = self.dir.join("data/admin.kubeconfig");
        let begun = Instant::now();
        while begun.elapsed() < UP_PATIENCE {
            if self.up.try_wait()?.is_some() {
                break;
            }
            if let Ok(access) = Access::read(&kubeconfig)
                && let Ok(client) = Client::connect(&access, 2).await
                && node_is_ready(&client).await
            {
                return Ok(Arc::new(client));
            }
            tokio::time::sleep(LOOK).await;
        }
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        bail!("no ready node; what `up` said:\n{log}")
    }

    fn processes(&self) -> Result<String> {
        let output = Command::new(&self.plan.binary)
            .arg("status")
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.up.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.up.wait();
    }
}

async fn node_is_ready(client: &Client) -> bool {
    let Ok(nodes) = client.must(0, Ask::get("/api/v1/nodes")).await else {
        return false;
    };
    let of = |v: &Value, name: &str| v[name].as_array().cloned().unwrap_or_default();
    of(&nodes, "items").iter().any(|node| {
        of(&node["status"], "conditions")
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}

fn spec() -> Value {
    json!({ "terminationGracePeriodSeconds": 30,
        "containers": [{ "name": "pause", "image": IMAGE, "imagePullPolicy": "IfNotPresent" }] })
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}

/// All pods of the namespace as a watch shows them.
struct Pods {
    body: Incoming,
    rest: Vec<u8>,
    now: HashMap<String, Value>,
}

impl Pods {
    async fn watch(client: &Client) -> Result<Self> {
        let list = client.must(0, Ask::get(PODS)).await?;
        let revision = list["metadata"]["resourceVersion"]
            .as_str()
            .context("no resourceVersion")?;
        let path = format!("{PODS}?watch=1&resourceVersion={revision}");
        let body = client.begin(1, Ask::get(path)).await?.into_body();
        Ok(Self {
            body,
            rest: Vec::new(),
            now: HashMap::new(),
        })
    }

    /// Reads events until what was asked for is so.
    async fn until(
        &mut self,
        what: &str,
        so: impl Fn(&HashMap<String, Value>) -> bool,
    ) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        while !so(&self.now) {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.take()).await {
                Ok(done) => done?,
                Err(_) => bail!(
                    "not {what} within {PATIENCE:?}: {:?}",
                    self.now.values().next()
                ),
            }
        }
        Ok(Instant::now())
    }

    async fn take(&mut self) -> Result<()> {
        let frame = self.body.frame().await.context("the watch ended")??;
        self.rest
            .extend_from_slice(&frame.into_data().unwrap_or_default());
        let whole = memchr::memrchr(b'\n', &self.rest).map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let mut event: Value = serde_json::from_slice(line)?;
            let pod = event["object"].take();
            let name = pod["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if event["type"] == "DELETED" {
                self.now.remove(&name);
            } else {
                self.now.insert(name, pod);
            }
        }
        Ok(())
    }
}

/// What each process of a quiet cluster with one node holds after a minute.
pub async fn memory(plan: &Plan, report: &mut Report) -> Result<()> {
    let dir = scratch()?;
    let mut cluster = Cluster::start(plan, dir.path())?;
    drop(cluster.client().await?);
    tokio::time::sleep(Duration::from_secs(60)).await;
    for (name, pid) in of_cluster(cluster.up.id(), dir.path())? {
        report.add(Row::value(
            &format!("cluster with one node: {name}"),
            "MB",
            private_mb(pid),
        ));
    }
    Ok(())
}

/// The processes of this binary that know this folder, by their commands.
fn of_cluster(up: u32, dir: &Path) -> Result<Vec<(String, u32)>> {
    let mut found = vec![("up".to_owned(), up)];
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line).replace('\0', " ");
        let command = text.split(' ').nth(1).unwrap_or_default();
        let ours = text.contains(&*dir.to_string_lossy()) && text.contains("tiphys");
        if ours && pid != up {
            found.push((command.to_owned(), pid));
        }
    }
    Ok(found)
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let dir = scratch()?;
    let begun = Instant::now();
    let mut cluster = Cluster::start(plan, dir.path())?;
    let client = cluster.client().await?;
    report.add(Row::value(
        "up: launch to ready node",
        "s",
        begun.elapsed().as_secs_f64(),
    ));
    one_by_one(plan, &client, report).await?;
    if !plan.quick {
        fifty(&client, report).await?;
    }
    println!("{}", cluster.processes()?.trim_end());
    Ok(())
}

async fn one_by_one(plan: &Plan, client: &Client, report: &mut Report) -> Result<()> {
    let mut pods = Pods::watch(client).await?;
    let (mut bound, mut ready, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..if plan.quick { 4 } else { 20 } {
        let name = format!("one-{i}");
        let object = json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name }, "spec": spec() });
        let begun = Instant::now();
        client.must(0, Ask::post(PODS, &object)).await?;
        let is = |so: fn(&Value) -> bool| {
            let name = name.clone();
            move |all: &HashMap<String, Value>| all.get(&name).is_some_and(so)
        };
        let at = pods
            .until("bound", is(|p| p["spec"]["nodeName"].is_string()))
            .await?;
        bound.push((at - begun).as_nanos() as u64);
        let at = pods.until("ready", is(is_ready)).await?;
        ready.push((at - begun).as_nanos() as u64);
        let begun = Instant::now();
        let path = format!("{PODS}/{name}");
        let delete = Ask {
            method: Method::DELETE,
            ..Ask::get(path)
        };
        client.must(0, delete).await?;
        let at = pods.until("gone", |all| !all.contains_key(&name)).await?;
        gone.push((at - begun).as_nanos() as u64);
    }
    for (case, mut all) in [
        ("pod: created to bound", bound),
        ("pod: created to Ready", ready),
        ("pod: deleted to gone", gone),
    ] {
        all.sort_unstable();
        report.add(Row {
            case: case.into(),
            concurrency: 1,
            p50_ms: Some(percentile_ms(&all, 50.0)),
            p99_ms: Some(percentile_ms(&all, 99.0)),
            ..Row::default()
        });
    }
    Ok(())
}

async fn fifty(client: &Client, report: &mut Report) -> Result<()> {
    const REPLICAS: usize = 50;
    let mut pods = Pods::watch(client).await?;
    let labels = json!({ "app": "fifty" });
    let object = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "fifty" },
        "spec": { "replicas": REPLICAS, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec() } } });
    let begun = Instant::now();
    client.must(0, Ask::post(DEPLOYMENTS, &object)).await?;
    let at = pods
        .until("fifty ready pods", |all| {
            all.values().filter(|p| is_ready(p)).count() == REPLICAS
        })
        .await?;
    let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64();
    report.add(Row::value(
        "Deployment of 50: created to all Ready",
        "s",
        seconds(begun, at),
    ));
    let begun = Instant::now();
    let delete = Ask {
        method: Method::DELETE,
        ..Ask::get(format!("{DEPLOYMENTS}/fifty"))
    };
    client.must(0, delete).await.map_err(|e| anyhow!(e))?;
    let at = pods.until("all gone", HashMap::is_empty).await?;
    report.add(Row::value(
        "Deployment of 50: deleted to all gone",
        "s",
        seconds(begun, at),
    ));
    Ok(())
}
