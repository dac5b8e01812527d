//! Nodes: whether they live, what of them shows as taints, which pods must leave them, which
//! range of addresses their pods get, and how long kubelets may remember.

pub mod cidr;
pub mod lifecycle;
pub mod pod_gc;
pub(crate) mod taint_eviction;
pub mod terminated_pods;
pub mod ttl;
pub mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Informer, Informers};
use clock::{Clock, Instant};
use control::action::reference;
use control::{Action, Controller, Count, Plan, Watches};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::common::{millis_of, uid_of};
use crate::metrics::{self, Alive};
use lifecycle::{ObservedNode, plan};
use zones::{Eviction, Rates, Zones};

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
struct NodeHeartbeats {
    last: Mutex<HashMap<String, Instant>>,
}

impl NodeHeartbeats {
    fn note(&self, node: &str) {
        self.last.lock().insert(node.to_owned(), Instant::now());
    }
    fn forget(&self, node: &str) {
        self.last.lock().remove(node);
    }
    /// Nobody's silence until now counts.
    fn forgive(&self) {
        let now = Instant::now();
        self.last.lock().values_mut().for_each(|last| *last = now);
    }
    fn silence(&self, node: &str) -> Duration {
        self.last
            .lock()
            .entry(node.to_owned())
            .or_insert_with(Instant::now)
            .elapsed()
    }
}

/// Of which nodes there were events.
#[derive(Default)]
struct Registered {
    /// UIDs by name.
    known: HashMap<String, String>,
    gone: HashMap<String, ObjectReference>,
}

/// A node that was made so long before it is first seen is known to everybody: a new leader does not
/// report all nodes there are.
const NEW_MILLIS: i64 = 300_000;

impl Registered {
    /// Whether a node is to be reported.
    fn note(&mut self, node: &Node, now_millis: i64) -> bool {
        let uid = uid_of(node);
        let before = self.known.insert(node.name_any(), uid.clone());
        let made = millis_of(node.metadata.creation_timestamp.as_ref()).unwrap_or(0);
        before != Some(uid) && now_millis.saturating_sub(made) < NEW_MILLIS
    }

    fn remove(&mut self, node: &Node) {
        let name = node.name_any();
        self.known.remove(&name);
        self.gone.insert(name, reference(node));
    }
}

/// What is known under a name.
pub enum Observed {
    Node(ObservedNode),
    /// It is no more.
    Gone(ObjectReference),
}

fn removed(node: &ObjectReference) -> Plan {
    let name = node.name.as_deref().unwrap_or_default();
    let message = format!("Node {name} event: Removing Node {name} from Controller");
    Plan::from(Action::Event {
        about: node.clone(),
        warning: false,
        reason: "RemovingNode",
        message,
    })
}

/// The node lifecycle controller.
pub struct Nodes {
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    heard: Arc<NodeHeartbeats>,
    first_seen: taint_eviction::FirstSeen,
    /// UIDs of nodes by name, and nodes that are no more and that nobody has reported.
    registered: Arc<Mutex<Registered>>,
    zones: Arc<Mutex<Zones>>,
    /// Whether zones have all nodes that there were at the beginning.
    has_begun: AtomicBool,
    /// From when times of zones are counted.
    began: Instant,
    grace: Duration,
    clock: Clock,
    alive: Alive,
}

impl Nodes {
    /// `grace`: silence after which a node is taken for failed; `rates`: how fast those that have
    /// failed lose their pods.
    pub fn new(informers: &Informers, grace: Duration, rates: Rates) -> Self {
        let pods: Informer<Pod> = informers.of();
        pods.index(BY_NODE, node_of);
        Self {
            nodes: informers.of(),
            leases: informers.of(),
            pods,
            heard: Arc::default(),
            first_seen: taint_eviction::FirstSeen::default(),
            registered: Arc::default(),
            zones: Arc::new(Mutex::new(Zones::new(rates))),
            has_begun: AtomicBool::new(false),
            began: Instant::now(),
            grace,
            clock: informers.clock(),
            alive: Alive::default(),
        }
    }

    /// Whether the cluster is disrupted as a whole, and when this node may lose its pods, where that
    /// is the question.
    fn disruption(&self, node: &Node, asks: bool) -> (bool, Eviction) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut zones = self.zones.lock();
        // No zone is judged by the first of its nodes that were heard of.
        if !self.has_begun.swap(true, Ordering::Relaxed) {
            for node in self.nodes.list() {
                zones.set(&node);
            }
        }
        if zones.settle(now) {
            self.heard.forgive();
        }
        let eviction = match asks {
            true => zones.ask(node, now),
            false => Eviction::Never,
        };
        (zones.is_disrupted(), eviction)
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
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        metrics::show_nodes(&self.nodes, &self.alive);
        let (heard, zones, registered, seen_beats) = (
            self.heard.clone(),
            Arc::clone(&self.zones),
            Arc::clone(&self.registered),
            Mutex::new(HashMap::<String, i64>::new()),
        );
        watches.on_change(&self.nodes, move |change| {
            let Some(node) = change.new.as_ref().or(change.old.as_ref()) else {
                return Vec::new();
            };
            let name = node.name_any();
            let mut zones = zones.lock();
            let is_other = match change.new.is_some() {
                true => zones.set(node),
                false => {
                    registered.lock().remove(node);
                    zones.remove(&name)
                }
            };
            // Others wait for that.
            let waiting = zones.not_ready().filter(|_| is_other);
            let mut keys: Vec<String> = waiting.cloned().collect();
            drop(zones);
            let beat = status_beat(node).unwrap_or(0);
            let mut beats = seen_beats.lock();
            if beats.get(&name).is_none_or(|old| *old < beat) {
                beats.insert(name.clone(), beat);
                heard.note(&name);
            }
            keys.push(name);
            keys
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

    fn observe(&self, name: &String) -> Option<Observed> {
        let gone = self.registered.lock().gone.remove(name);
        let Some(node) = self.nodes.get("", name) else {
            self.heard.forget(name);
            self.first_seen.forget(name);
            return gone.map(Observed::Gone);
        };
        let is_silent = self.heard.silence(name) >= self.grace;
        let asks = lifecycle::asks_for_eviction(&node, is_silent);
        let (is_disrupted, eviction) = self.disruption(&node, asks);
        let silence = u64::try_from(self.heard.silence(name).as_millis()).unwrap_or(u64::MAX);
        let grace = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        let now_millis = self.clock.millis();
        Some(Observed::Node(ObservedNode {
            is_new: self.registered.lock().note(&node, now_millis),
            since: self.first_seen.note(&node, now_millis),
            pods: self.pods.by_index(BY_NODE, name),
            node,
            silence_millis: silence,
            grace_millis: grace,
            is_disrupted,
            eviction,
        }))
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        match seen {
            Observed::Node(seen) => plan(seen, now_millis),
            Observed::Gone(node) => removed(node),
        }
    }

    fn metrics(&self, seen: &Observed, plan: &Plan) -> Option<Count> {
        match seen {
            Observed::Node(seen) => metrics::nodes(&seen.node, plan),
            Observed::Gone(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(uid: &str, made: i64) -> Node {
        let made = crate::common::time_text(made);
        serde_json::from_value(json!({
            "metadata": { "name": "n", "uid": uid, "creationTimestamp": made },
        }))
        .expect("a node")
    }

    #[test]
    fn a_node_is_told_of_once_when_it_is_new_and_when_it_goes() {
        let now = 1_000_000_000;
        let mut all = Registered::default();
        assert!(!all.note(&node("old", now - NEW_MILLIS), now));
        assert!(all.note(&node("new", now - 5_000), now));
        assert!(!all.note(&node("new", now - 5_000), now), "once");
        all.remove(&node("new", now));
        let gone = all.gone.remove("n").expect("a reference");
        let told = removed(&gone);
        let [
            Action::Event {
                reason, message, ..
            },
        ] = &told.actions[..]
        else {
            panic!("{told:?}");
        };
        assert_eq!(*reason, "RemovingNode");
        assert_eq!(message, "Node n event: Removing Node n from Controller");
        assert!(all.note(&node("again", now), now));
    }
}
