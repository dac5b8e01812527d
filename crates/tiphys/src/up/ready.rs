//! What `up` waits for before it says that a node or the demo is ready: statuses that were written by
//! what runs now, and answers to real requests. What an earlier run left in the store counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::progress::Progress;
use crate::{demo, image};

/// How long one request to the demo may take, and the pause after any request that failed.
const ANSWER: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);
/// The pause after an answer of a pod that has answered before: each request is a connection, of which
/// machines remember only so many.
const AGAIN: Duration = Duration::from_millis(20);
/// After so long it is said what is wrong; a slow machine is waited for all the same.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most of an answer that is read, in bytes.
const ANSWER_BYTES: u64 = 4096;

/// When it was begun to wait for something.
struct Wait {
    begun: Instant,
    is_said: bool,
}

impl Wait {
    fn from(now: Instant) -> Self {
        Self {
            begun: now,
            is_said: false,
        }
    }

    /// True once: when it has lasted so long that it is to be said why.
    fn lasts(&mut self, now: Instant) -> bool {
        let is_due = !self.is_said && now.duration_since(self.begun) > PATIENCE;
        self.is_said |= is_due;
        is_due
    }
}

/// When each node that is stored last said that it is ready. The way to the servers may only begin to
/// listen: it is asked until they answer.
pub async fn heartbeats(client: &Client, progress: &Progress) -> BTreeMap<String, Time> {
    let nodes = Api::<Node>::all(client.clone());
    let mut wait = Wait::from(Instant::now());
    loop {
        match nodes.list(&ListParams::default()).await {
            Ok(nodes) => {
                let all = nodes.items.iter();
                return all
                    .filter_map(|node| Some((node.name_any(), heartbeat(conditions(node))?)))
                    .collect();
            }
            Err(e) => {
                if wait.lasts(Instant::now()) {
                    progress.failed(&format!("the control plane does not list nodes yet: {e}"));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn conditions(node: &Node) -> &[NodeCondition] {
    let status = node.status.as_ref();
    status.and_then(|s| s.conditions.as_deref()).unwrap_or(&[])
}

/// When the kubelet last said that its node is ready; `None` where it is not.
fn heartbeat(conditions: &[NodeCondition]) -> Option<Time> {
    let mut all = conditions.iter();
    let ready = all.find(|c| c.type_ == "Ready" && c.status == "True")?;
    ready.last_heartbeat_time.clone()
}

/// Whether the kubelet that runs now says that its node is ready: it writes a heartbeat when it takes the
/// node over. Heartbeats are compared, not clocks, which may have been set since.
fn is_ready(conditions: &[NodeCondition], before: Option<&Time>) -> bool {
    heartbeat(conditions).is_some_and(|now| Some(&now) != before)
}

/// Waits until a node says that it is ready, and not by the heartbeat `before`; gives what it is short of,
/// in the kubelet's words.
pub async fn node(client: &Client, name: &str, before: Option<&Time>) -> Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = watcher(nodes, only)
        .default_backoff()
        .applied_objects()
        .boxed();
    while let Some(node) = changes.next().await {
        let Ok(node) = node else { continue };
        if is_ready(conditions(&node), before) {
            return Ok(pressures(conditions(&node)));
        }
    }
    bail!("watching node {name} ended")
}

fn pressures(conditions: &[NodeCondition]) -> Vec<String> {
    let short = conditions
        .iter()
        .filter(|c| c.type_.ends_with("Pressure") && c.status == "True");
    short
        .map(|c| format!("{} ({})", c.type_, c.message.as_deref().unwrap_or_default()))
        .collect()
}

/// Deploys the demo and waits until each of its pods has answered at the node's address. Gives that
/// address, with the node port.
pub async fn demo(client: &Client, progress: &Progress, node: IpAddr) -> Result<SocketAddr> {
    let pods = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let counted = pods.clone();
    progress.waits_for("waiting for the demo's pods", move || {
        let (ready, wanted) = &*counted;
        (
            ready.load(Ordering::Relaxed),
            wanted.load(Ordering::Relaxed),
        )
    });
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let manager = PatchParams::apply("tiphys-demo").force();
    for object in demo::manifest(image::DEMO) {
        let patch = Patch::Apply(&object);
        if object["kind"] == "Deployment" {
            deployments.patch("demo", &manager, &patch).await?;
        } else {
            services.patch("demo", &manager, &patch).await?;
        }
    }
    let service = services.get("demo").await?;
    let ports = service.spec.and_then(|s| s.ports).unwrap_or_default();
    let port = ports.first().and_then(|p| p.node_port);
    let port = port.context("the demo's Service has no node port")?;
    let at = SocketAddr::new(node, u16::try_from(port)?);
    let wanted = deployments.get("demo").await?;
    let wanted = wanted.spec.and_then(|s| s.replicas).unwrap_or(1);
    let wanted = u64::try_from(wanted).unwrap_or(0);
    pods.1.store(wanted, Ordering::Relaxed);
    // New connections go to one pod after another: all have answered soon after the last is ready.
    let mut answered = BTreeSet::new();
    let mut wait = Wait::from(Instant::now());
    while (answered.len() as u64) < wanted {
        let answer = match tokio::time::timeout(ANSWER, ask(at)).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow!("no answer in {ANSWER:?}")),
        };
        let (pause, why) = match answer {
            Ok(name) => {
                if answered.insert(name) {
                    pods.0.store(answered.len() as u64, Ordering::Relaxed);
                    continue;
                }
                let some = answered.len();
                (AGAIN, format!("only {some} of its {wanted} pods answer"))
            }
            Err(e) => (PAUSE, format!("{e:#}")),
        };
        if wait.lasts(Instant::now()) {
            progress.failed(&format!("the demo is not ready at {at} yet: {why}"));
        }
        tokio::time::sleep(pause).await;
    }
    Ok(at)
}

/// The name of the pod that answers.
async fn ask(at: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    let request = format!("GET /hostname HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES)
        .read_to_string(&mut answer)
        .await?;
    let name = named(&answer);
    name.map(str::to_owned).context("not a pod's answer")
}

/// The pod that an answer of the demo names.
fn named(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let name = body.trim();
    (head.starts_with("HTTP/1.1 200 ") && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn ready(status: &str, second: i64) -> Vec<NodeCondition> {
        vec![NodeCondition {
            type_: "Ready".into(),
            status: status.into(),
            last_heartbeat_time: Timestamp::from_second(second).ok().map(Time),
            ..NodeCondition::default()
        }]
    }

    #[test]
    fn a_heartbeat_of_before_says_nothing_of_now() {
        let before = heartbeat(&ready("True", 100));
        assert!(before.is_some());
        assert!(!is_ready(&ready("True", 100), before.as_ref()));
        assert!(is_ready(&ready("True", 101), before.as_ref()));
        // The clock was set back.
        assert!(is_ready(&ready("True", 7), before.as_ref()));
        assert!(!is_ready(&ready("False", 101), before.as_ref()));
        assert!(is_ready(&ready("True", 100), None));
        assert!(!is_ready(&[], None));
    }

    #[test]
    fn what_is_waited_for_long_is_spoken_of_once() {
        let begun = Instant::now();
        let mut wait = Wait::from(begun);
        let second = Duration::from_secs(1);
        let said = [PATIENCE - second, PATIENCE + second, 9 * PATIENCE];
        let said = said.map(|after| wait.lasts(begun + after));
        assert_eq!(said, [false, true, false]);
    }

    #[test]
    fn an_answer_names_its_pod() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\ndemo-1\n";
        assert_eq!(named(ok), Some("demo-1"));
        assert_eq!(named("HTTP/1.1 503 Service Unavailable\r\n\r\nno"), None);
        assert_eq!(named("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(named("demo-1"), None);
    }

    #[test]
    fn what_a_node_is_short_of_is_printed() {
        let condition = |name: &str, status: &str| NodeCondition {
            type_: name.into(),
            status: status.into(),
            message: Some("kubelet has disk pressure".into()),
            ..NodeCondition::default()
        };
        let all = [
            condition("Ready", "True"),
            condition("MemoryPressure", "False"),
            condition("DiskPressure", "True"),
        ];
        assert_eq!(
            pressures(&all),
            ["DiskPressure (kubelet has disk pressure)"]
        );
    }
}
