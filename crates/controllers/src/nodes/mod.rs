//! Nodes: whether they live, what of them shows as taints, which pods must leave them, which
//! range of addresses their pods get, and how long kubelets may remember.

pub mod cidr;
pub mod ended;
pub mod lifecycle;
pub mod pods;
pub(crate) mod taint_eviction;
pub mod ttl;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers};
use clock::{Clock, Instant};
use control::{Controller, Count, Plan, Watches};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::metrics::{self, Alive};
use lifecycle::{ObservedNode, plan};

/// Name of the index of pods by node.
pub const BY_NODE: &str = "node";

/// The node of a pod, as an index.
pub fn node_of(pod: &Pod) -> Vec<String> {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.clone())
        .into_iter()
        .collect()
}

/// When each node was last heard of, by this process's own clock: it starts again with the
/// process, so that a control plane that was away blames nobody for its own absence.
#[derive(Default)]
struct Heard {
    last: Mutex<HashMap<String, Instant>>,
}

impl Heard {
    fn note(&self, node: &str) {
        self.last.lock().insert(node.to_owned(), Instant::now());
    }
    fn forget(&self, node: &str) {
        self.last.lock().remove(node);
    }
    fn silence(&self, node: &str) -> Duration {
        self.last
            .lock()
            .entry(node.to_owned())
            .or_insert_with(Instant::now)
            .elapsed()
    }
}

/// The node lifecycle controller.
pub struct Nodes {
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    heard: Arc<Heard>,
    first_seen: taint_eviction::FirstSeen,
    grace: Duration,
    clock: Clock,
    alive: Alive,
}

impl Nodes {
    /// `grace`: silence after which a node is taken for failed.
    pub fn new(informers: &Informers, grace: Duration) -> Self {
        let pods: Informer<Pod> = informers.of();
        pods.index(BY_NODE, node_of);
        Self {
            nodes: informers.of(),
            leases: informers.of(),
            pods,
            heard: Arc::default(),
            first_seen: taint_eviction::FirstSeen::default(),
            grace,
            clock: informers.clock(),
            alive: Alive::default(),
        }
    }
}

/// The heartbeat that the node's status itself is: upstream's kubelet without leases.
fn status_beat(node: &Node) -> Option<i64> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .filter_map(|c| Some(c.last_heartbeat_time.as_ref()?.0.as_second()))
        .max()
}

impl Controller for Nodes {
    const NAME: &'static str = "node-controller";
    const QUEUE: &'static str = "node_lifecycle_controller";
    const ACCOUNT: &'static str = "node-controller";
    type Key = String;
    type Observed = ObservedNode;

    fn watches(&self, watches: &mut Watches<String>) {
        metrics::show_nodes(&self.nodes, &self.alive);
        let (heard, seen_beats) = (
            self.heard.clone(),
            Mutex::new(HashMap::<String, i64>::new()),
        );
        watches.on(&self.nodes, move |node| {
            let name = node.name_any();
            let beat = status_beat(node).unwrap_or(0);
            let mut beats = seen_beats.lock();
            // Changes come as the object was and as it is: only a newer beat is one.
            if beats.get(&name).is_none_or(|old| *old < beat) {
                beats.insert(name.clone(), beat);
                heard.note(&name);
            }
            vec![name]
        });
        let (heard, versions) = (
            self.heard.clone(),
            Mutex::new(HashMap::<String, String>::new()),
        );
        watches.on(&self.leases, move |lease| {
            if lease.namespace().as_deref() != Some("kube-node-lease") {
                return Vec::new();
            }
            let (name, version) = (
                lease.name_any(),
                lease.resource_version().unwrap_or_default(),
            );
            let mut versions = versions.lock();
            let newer = |old: &String| {
                old.parse::<u64>().unwrap_or(0) < version.parse::<u64>().unwrap_or(0)
            };
            if versions.get(&name).is_none_or(newer) {
                versions.insert(name.clone(), version);
                heard.note(&name);
            }
            // A heartbeat alone changes nothing; a node that returns writes its status, too.
            Vec::new()
        });
        watches.on(&self.pods, node_of);
    }

    fn observe(&self, name: &String) -> Option<ObservedNode> {
        let Some(node) = self.nodes.get("", name) else {
            self.heard.forget(name);
            self.first_seen.forget(name);
            return None;
        };
        let silent = |n: &str| self.heard.silence(n) >= self.grace;
        let everyone_silent = self.nodes.list().iter().all(|n| silent(&n.name_any()));
        let silence = u64::try_from(self.heard.silence(name).as_millis()).unwrap_or(u64::MAX);
        let grace = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        let now_millis = self.clock.millis();
        Some(ObservedNode {
            since: self.first_seen.note(&node, now_millis),
            pods: self.pods.by_index(BY_NODE, name),
            node,
            silence_millis: silence,
            grace_millis: grace,
            everyone_silent,
        })
    }

    fn plan(&self, seen: &ObservedNode, now_millis: i64) -> Plan {
        plan(seen, now_millis)
    }

    fn metrics(&self, seen: &ObservedNode, plan: &Plan) -> Option<Count> {
        metrics::nodes(&seen.node, plan)
    }
}
