//! What came of a described cluster: values, for people and programs.

use std::time::Duration;

use serde::Serialize;

/// The end, and how it came to it.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub seed: u64,
    pub virtual_seconds: u64,
    pub nodes: usize,
    /// Changes of the store.
    pub revisions: u64,
    /// From when a pod was made until it had a node.
    pub waits: Waits,
    pub evictions: Evictions,
    pub workloads: Vec<Workload>,
    /// What has no node in the end, and why.
    pub pending: Vec<Pending>,
    /// What the simulation does otherwise than a cluster would, and what went wrong.
    pub notes: Vec<String>,
    pub samples: Vec<Sample>,
}

/// In seconds, of the pods that got a node.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    pub pods: usize,
    pub median_seconds: f64,
    pub p99_seconds: f64,
    pub longest_seconds: f64,
}

impl Waits {
    pub(super) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |part: usize| {
            let place = (all.len() * part / 100).min(all.len().saturating_sub(1));
            let found = all.get(place).map_or(0.0, Duration::as_secs_f64);
            (found * 1_000.0).round() / 1_000.0
        };
        Self {
            pods: all.len(),
            median_seconds: at(50),
            p99_seconds: at(99),
            longest_seconds: at(100),
        }
    }
}

/// Pods that had to leave their nodes, by who said so.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Evictions {
    /// For pods of higher priority.
    pub preempted: usize,
    /// From nodes with taints that they do not tolerate, such as those that failed.
    pub by_taints: usize,
    /// By the eviction API.
    pub by_request: usize,
    pub others: usize,
}

impl Evictions {
    pub fn all(&self) -> usize {
        self.preempted + self.by_taints + self.by_request + self.others
    }
}

/// How far a workload has come in the end.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub wanted: i64,
    /// Ready; of a Job, succeeded.
    pub ready: i64,
}

/// Pods of one owner that have no node.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    pub owner: String,
    pub namespace: String,
    pub pods: usize,
    /// Of one of them.
    pub cause: String,
    /// The smallest change that would help it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// The cluster at one moment.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    pub at_seconds: u64,
    pub nodes_ready: usize,
    pub nodes: usize,
    /// Without a node.
    pub pending: usize,
    /// With a node, and not running yet.
    pub starting: usize,
    pub running: usize,
    /// On nodes that are not ready, whatever becomes of them there.
    pub lost: usize,
    pub finished: usize,
    /// What pods on nodes that are ready ask for, and what those have.
    pub cpu_requested_millis: i64,
    pub cpu_allocatable_millis: i64,
    pub memory_requested_bytes: i64,
    pub memory_allocatable_bytes: i64,
    /// Since the beginning.
    pub evictions: usize,
}
