//! `tiphys status`: the cluster at a glance, what is wrong first.

mod findings;
mod render;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde::Serialize;

use crate::style::Tone;
use crate::{pods, words};

pub use render::render;

/// All objects of a kind, or why they could not be read.
pub type Read<K> = Result<Vec<K>, String>;

/// What a node uses: thousandths of a core, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
}

/// All that is looked at.
pub struct ClusterSnapshot {
    pub now: Timestamp,
    pub server: String,
    pub version: String,
    /// The checks of the server's `/readyz` that fail; why it was not answered, if so.
    pub failing: Result<Vec<String>, String>,
    /// What nodes use, by name; why nobody says, if so.
    pub usage: Result<BTreeMap<String, Use>, String>,
    pub nodes: Read<Node>,
    pub pods: Read<Pod>,
    pub deployments: Read<Deployment>,
    pub stateful_sets: Read<StatefulSet>,
    pub daemon_sets: Read<DaemonSet>,
    pub jobs: Read<Job>,
    pub claims: Read<PersistentVolumeClaim>,
    pub volumes: Read<PersistentVolume>,
    pub classes: Read<StorageClass>,
    pub namespaces: Read<Namespace>,
    pub api_services: Read<APIService>,
}

/// How bad something is; the worst comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It does not work.
    Wrong,
    /// It works and should be looked at.
    Notice,
}

impl Level {
    pub const fn tone(self) -> Tone {
        match self {
            Self::Wrong => Tone::Bad,
            Self::Notice => Tone::Warn,
        }
    }
    const fn of(tone: Tone) -> Option<Self> {
        match tone {
            Tone::Bad => Some(Self::Wrong),
            Tone::Warn => Some(Self::Notice),
            _ => None,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    pub level: Level,
    /// Such as `node` or `deployment`, as kubectl takes it.
    pub kind: String,
    /// Empty for what is in no namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    /// How many are the same, such as all pods of a Deployment; 1 for one.
    pub count: usize,
    /// A word or two.
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// A command that says more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub more: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Ready>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<BTreeMap<String, usize>>,
    /// Deployments, StatefulSets and DaemonSets, by whether all their pods are available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Ready>,
    /// Claims, by whether they are bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Ready>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Ready {
    pub ready: usize,
    pub all: usize,
}

impl Ready {
    fn of<T>(all: &[T], ready: impl Fn(&T) -> bool) -> Self {
        Self {
            ready: all.iter().filter(|one| ready(one)).count(),
            all: all.len(),
        }
    }
    fn plus(self, other: Self) -> Self {
        Self {
            ready: self.ready + other.ready,
            all: self.all + other.all,
        }
    }
}

/// Of CPU (thousandths of a core) or memory (bytes): what nodes can give, what pods asked for, what
/// is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Room {
    pub allocatable: i64,
    pub requested: i64,
    /// None where nobody measures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<i64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Glance {
    pub server: String,
    pub version: String,
    pub findings: Vec<Finding>,
    pub counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<Room>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Room>,
    /// Kinds and figures that could not be read, with the reason.
    pub unread: BTreeMap<&'static str, String>,
}

/// What there is to say of what was seen.
pub fn glance(seen: &ClusterSnapshot) -> Glance {
    let (cpu, memory) = match (&seen.nodes, &seen.pods) {
        (Ok(nodes), Ok(pods)) => {
            let (cpu, memory) = room(nodes, pods, seen.usage.as_ref().ok());
            (Some(cpu), Some(memory))
        }
        _ => (None, None),
    };
    Glance {
        server: seen.server.clone(),
        version: seen.version.clone(),
        findings: findings::all(seen),
        counts: counts(seen),
        cpu_millis: cpu,
        memory_bytes: memory,
        unread: unread(seen),
    }
}

fn unread(seen: &ClusterSnapshot) -> BTreeMap<&'static str, String> {
    fn why<K>(read: &Read<K>) -> Option<String> {
        read.as_ref().err().cloned()
    }
    [
        ("checks of the server", seen.failing.as_ref().err().cloned()),
        ("usage of nodes", seen.usage.as_ref().err().cloned()),
        ("nodes", why(&seen.nodes)),
        ("pods", why(&seen.pods)),
        ("deployments", why(&seen.deployments)),
        ("statefulsets", why(&seen.stateful_sets)),
        ("daemonsets", why(&seen.daemon_sets)),
        ("jobs", why(&seen.jobs)),
        ("persistentvolumeclaims", why(&seen.claims)),
        ("persistentvolumes", why(&seen.volumes)),
        ("storageclasses", why(&seen.classes)),
        ("namespaces", why(&seen.namespaces)),
        ("apiservices", why(&seen.api_services)),
    ]
    .into_iter()
    .filter_map(|(kind, why)| Some((kind, why?)))
    .collect()
}

fn counts(seen: &ClusterSnapshot) -> Counts {
    let workloads = [
        seen.deployments
            .as_deref()
            .map(|all| Ready::of(all, |d| findings::deployment_pods(d).is_ready())),
        seen.stateful_sets
            .as_deref()
            .map(|all| Ready::of(all, |s| findings::stateful_pods(s).is_ready())),
        seen.daemon_sets
            .as_deref()
            .map(|all| Ready::of(all, |d| findings::daemon_pods(d).is_ready())),
    ];
    let known: Vec<Ready> = workloads.into_iter().filter_map(Result::ok).collect();
    let bound = |c: &PersistentVolumeClaim| {
        let phase = c.status.as_ref().and_then(|s| s.phase.as_deref());
        phase == Some("Bound")
    };
    Counts {
        nodes: seen
            .nodes
            .as_deref()
            .ok()
            .map(|all| Ready::of(all, findings::is_ready)),
        pods: seen.pods.as_deref().ok().map(|all| {
            all.iter().fold(BTreeMap::new(), |mut out, pod| {
                *out.entry(pods::phase(pod).to_lowercase()).or_default() += 1;
                out
            })
        }),
        workloads: (!known.is_empty())
            .then(|| known.into_iter().fold(Ready::default(), Ready::plus)),
        claims: seen.claims.as_deref().ok().map(|all| Ready::of(all, bound)),
    }
}

/// What pods that have not ended ask for on nodes, of the sum of all nodes.
fn room(nodes: &[Node], pods: &[Pod], usage: Option<&BTreeMap<String, Use>>) -> (Room, Room) {
    let (mut cpu, mut memory) = (Room::default(), Room::default());
    for node in nodes {
        let can = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        let of = |what: &str| can.and_then(|c| c.get(what));
        cpu.allocatable += words::millis(of("cpu")).unwrap_or(0);
        memory.allocatable += words::units(of("memory")).unwrap_or(0);
    }
    for pod in pods.iter().filter(|p| !pods::has_ended(p)) {
        let Some(spec) = pod.spec.as_ref().filter(|s| s.node_name.is_some()) else {
            continue;
        };
        let all = spec.containers.iter().filter_map(|c| c.resources.as_ref());
        for asked in all.filter_map(|r| r.requests.as_ref()) {
            cpu.requested += words::millis(asked.get("cpu")).unwrap_or(0);
            memory.requested += words::units(asked.get("memory")).unwrap_or(0);
        }
    }
    if let Some(usage) = usage.filter(|all| !all.is_empty()) {
        cpu.used = Some(usage.values().map(|u| u.cpu_millis).sum());
        memory.used = Some(usage.values().map(|u| u.memory_bytes).sum());
    }
    (cpu, memory)
}

#[cfg(test)]
mod tests;
