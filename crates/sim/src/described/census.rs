//! What there is at one moment, and what happened until then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::Change;
use clock::Instant;
use control::ready::is_node_ready;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use scheduler::interned::Strings;
use scheduler::resources::{Resources, of_pod};

use super::hollow;
use super::report::{Evictions, Sample};

/// Notes of a report at most: more of them say the same.
const MOST_NOTES: usize = 50;

/// What is counted while pods come and go.
#[derive(Default)]
pub(super) struct Census {
    strings: Strings,
    /// By UID: since when a pod has no node.
    without_node: BTreeMap<String, Instant>,
    /// By UID: thousandths of a processor, and bytes.
    asks: BTreeMap<String, (i64, i64)>,
    pub waits: Vec<Duration>,
    pub evictions: Evictions,
    pub samples: Vec<Sample>,
    pub notes: BTreeSet<String>,
}

pub(super) fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.node_name.as_deref();
    node.filter(|n| !n.is_empty())
}

pub(super) fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Who said that a pod must go.
fn disruption(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let mut all = conditions.iter();
    let found = all.find(|c| c.type_ == "DisruptionTarget" && c.status == "True")?;
    Some(found.reason.as_deref().unwrap_or_default())
}

/// As much as can be, where nodes have or pods ask for more than there is.
fn add(to: &mut i64, more: i64) {
    *to = to.saturating_add(more);
}

impl Census {
    pub fn note(&mut self, text: String) {
        if self.notes.len() < MOST_NOTES {
            self.notes.insert(text);
        }
    }

    /// Takes a change of a pod in.
    pub fn take(&mut self, change: &Change<Pod>, now: Instant) {
        let old = change.old.as_deref();
        let Some(new) = change.new.as_deref() else {
            return self.forget(old);
        };
        let uid = uid_of(new);
        if old.is_some_and(|o| uid_of(o) != uid) {
            self.forget(old);
        }
        let old = old.filter(|o| uid_of(o) == uid);
        if old.is_none() {
            let (asks, _) = of_pod(new, &mut self.strings);
            let asks = (asks.cpu_millis, asks.memory_bytes);
            self.asks.insert(uid.to_owned(), asks);
            if let Some(fault) = hollow::fault(new) {
                self.note(fault);
            }
            self.without_node.insert(uid.to_owned(), now);
        }
        if node_of(new).is_some()
            && let Some(since) = self.without_node.remove(uid)
        {
            self.waits.push(now.saturating_duration_since(since));
        }
        match disruption(new).filter(|_| old.is_none_or(|o| disruption(o).is_none())) {
            None => {}
            Some("PreemptionByScheduler") => self.evictions.preempted += 1,
            Some("DeletionByTaintManager") => self.evictions.by_taints += 1,
            Some("EvictionByEvictionAPI") => self.evictions.by_request += 1,
            Some(_) => self.evictions.others += 1,
        }
    }

    fn forget(&mut self, pod: Option<&Pod>) {
        if let Some(pod) = pod {
            self.without_node.remove(uid_of(pod));
            self.asks.remove(uid_of(pod));
        }
    }

    /// Looks at the cluster.
    pub fn sample(&mut self, at: Duration, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) {
        let mut out = Sample {
            at_seconds: at.as_secs(),
            nodes: nodes.len(),
            evictions: self.evictions.all(),
            ..Sample::default()
        };
        let mut ready = BTreeSet::new();
        for node in nodes.iter().filter(|n| is_node_ready(n)) {
            let room = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
            let room = Resources::read(room, &mut self.strings);
            out.nodes_ready += 1;
            add(&mut out.cpu_allocatable_millis, room.cpu_millis);
            add(&mut out.memory_allocatable_bytes, room.memory_bytes);
            ready.insert(node.name_any());
        }
        for pod in pods {
            let node = node_of(pod);
            let place = match (is_finished(pod), node, phase(pod)) {
                (true, ..) => &mut out.finished,
                (_, None, _) => &mut out.pending,
                (_, Some(node), _) if !ready.contains(node) => &mut out.lost,
                (_, _, "Running") => &mut out.running,
                _ => &mut out.starting,
            };
            *place += 1;
            if !is_finished(pod) && node.is_some_and(|n| ready.contains(n)) {
                let (cpu, memory) = self.asks.get(uid_of(pod)).copied().unwrap_or_default();
                add(&mut out.cpu_requested_millis, cpu);
                add(&mut out.memory_requested_bytes, memory);
            }
        }
        self.samples.push(out);
    }
}
