//! One whole cluster with one node: how long a pod takes from its creation until it is bound,
//! ready, and after its deletion gone, and what of that the runtime takes; many pods at once; and
//! what we hold and spend beside pods that do nothing. Needs root; the images are those that `up`
//! makes.

mod starts;
mod statistics;

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::load::{Client, LoadRequest};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Access, cpu_of, memory_of, private_mb, scratch};

const PODS: &str = "/api/v1/namespaces/default/pods";
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
    let Ok(nodes) = client.must(0, LoadRequest::get("/api/v1/nodes")).await else {
        return false;
    };
    let of = |v: &Value, name: &str| v[name].as_array().cloned().unwrap_or_default();
    of(&nodes, "items").iter().any(|node| {
        of(&node["status"], "conditions")
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
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
        let list = client.must(0, LoadRequest::get(PODS)).await?;
        let revision = list["metadata"]["resourceVersion"]
            .as_str()
            .context("no resourceVersion")?;
        let path = format!("{PODS}?watch=1&resourceVersion={revision}");
        let body = client.begin(1, LoadRequest::get(path)).await?.into_body();
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

/// What our processes hold and spend while 100 pods of the node do nothing: `node` is kubelet, proxy,
/// DNS and network.
async fn idle(up: u32, dir: &Path, report: &mut Report) -> Result<()> {
    const SETTLE: Duration = Duration::from_secs(20);
    const WATCHED: Duration = Duration::from_secs(60);
    tokio::time::sleep(SETTLE).await;
    let all = of_cluster(up, dir)?;
    let before: Vec<Duration> = all.iter().map(|(_, pid)| cpu_of(*pid)).collect();
    let begun = Instant::now();
    tokio::time::sleep(WATCHED).await;
    let watched = begun.elapsed().as_secs_f64();
    for ((name, pid), before) in all.iter().zip(before) {
        let memory = memory_of(*pid);
        let cpu = (cpu_of(*pid).saturating_sub(before)).as_secs_f64();
        for (what, unit, value) in [
            ("of a core", "%", cpu / watched * 100.0),
            ("resident", "MB", memory.resident_mb),
            ("not backed by the binary's file", "MB", memory.own_mb),
        ] {
            let case = format!("100 idle pods: {name}, {what}");
            report.add(Row::value(&case, unit, value));
        }
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

/// What statistics cost, asked for and not.
pub async fn statistics(plan: &Plan, report: &mut Report) -> Result<()> {
    let dir = scratch()?;
    let mut cluster = Cluster::start(plan, dir.path())?;
    let client = cluster.client().await?;
    let many = starts::many(&client, statistics::CONTAINERS).await?;
    let all = of_cluster(cluster.up.id(), dir.path())?;
    let named = |name: &str| {
        let found = all.iter().find(|(command, _)| command == name);
        found.map(|(_, pid)| *pid)
    };
    let processes = statistics::Processes {
        agent: named("node").context("there is no agent")?,
        server: named("server").context("there is no server")?,
        runtime: runtime_of(dir.path()),
    };
    statistics::measure(plan, &client, &processes, report).await?;
    drop(many);
    Ok(())
}

/// The container runtime that was started for the cluster, where it is one of the cluster's own.
fn runtime_of(dir: &Path) -> Option<u32> {
    let dir = dir.to_string_lossy().into_owned();
    let of = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let text = String::from_utf8_lossy(&line).replace('\0', " ");
        let program = text.split(' ').next()?.rsplit('/').next()?.to_owned();
        (program == "containerd" && text.contains(&dir)).then_some(pid)
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(of)
}

async fn name_of_node(client: &Client) -> Result<String> {
    let nodes = client.must(0, LoadRequest::get("/api/v1/nodes")).await?;
    let name = nodes["items"][0]["metadata"]["name"].as_str();
    Ok(name.context("there is no node")?.to_owned())
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
    starts::one_by_one(plan, &client, report).await?;
    if !plan.quick {
        let fifty = starts::at_once(&client, 50, report).await?;
        fifty.end(report).await?;
        let hundred = starts::at_once(&client, 100, report).await?;
        idle(cluster.up.id(), dir.path(), report).await?;
        hundred.end(report).await?;
    }
    println!("{}", cluster.processes()?.trim_end());
    Ok(())
}
