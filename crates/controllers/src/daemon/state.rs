//! What the decisions about a DaemonSet look at: its nodes with its pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::place::{Fit, node_of};
use crate::common::{int_or_percent, is_available, is_deleting, is_finished};
use crate::revisions::{HASH_LABEL, History, hash_of};

const GENERATION: &str = "deprecated.daemonset.template.generation";
pub(super) const GENERATION_LABEL: &str = "pod-template-generation";

/// The pods of one node.
pub(super) type Pods<'a> = Vec<&'a Arc<Pod>>;

pub(super) struct Daemon<'a> {
    pub set: &'a DaemonSet,
    pub spec: &'a DaemonSetSpec,
    pub fits: BTreeMap<String, Fit>,
    /// By node; those that fit and have none are not there.
    pub pods: BTreeMap<String, Pods<'a>>,
    /// The hash of the current revision, and those of equal ones.
    pub hash: String,
    equal: Vec<String>,
    pub now_millis: i64,
}

/// The template's generation, as the API server counts it.
pub(super) fn generation(set: &DaemonSet) -> Option<&str> {
    let text = set.metadata.annotations.as_ref()?.get(GENERATION)?;
    text.parse::<i64>().ok().map(|_| text.as_str())
}

/// Scheduled ones first, then the older.
pub(super) fn sorted<'a>(pods: impl IntoIterator<Item = &'a Arc<Pod>>) -> Pods<'a> {
    let mut pods: Pods<'a> = pods.into_iter().collect();
    pods.sort_by_cached_key(|p| {
        let node = p.spec.as_ref().and_then(|s| s.node_name.as_deref());
        let created = p.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (node.unwrap_or_default().is_empty(), created, p.name_any())
    });
    pods
}

impl<'a> Daemon<'a> {
    pub fn new(
        set: &'a DaemonSet,
        spec: &'a DaemonSetSpec,
        current: &ControllerRevision,
        history: &History<'_>,
        own: &[&'a Arc<Pod>],
        now_millis: i64,
    ) -> Self {
        let mut pods: BTreeMap<String, Pods<'a>> = BTreeMap::new();
        for pod in own {
            // What has ended and is being deleted is the kubelet's.
            if is_finished(pod) && is_deleting(&***pod) {
                continue;
            }
            if let Some(node) = node_of(pod) {
                pods.entry(node.to_owned()).or_default().push(pod);
            }
        }
        Self {
            set,
            spec,
            fits: BTreeMap::new(),
            pods,
            hash: hash_of(current).to_owned(),
            equal: history
                .equal
                .iter()
                .map(|r| hash_of(r).to_owned())
                .collect(),
            now_millis,
        }
    }

    /// Notes which nodes the pods fit.
    pub fn with_nodes(mut self, nodes: &[Arc<Node>], fit: impl Fn(&Node) -> Fit) -> Self {
        self.fits = nodes.iter().map(|n| (n.name_any(), fit(n))).collect();
        self
    }

    pub fn should_run(&self, node: &str) -> bool {
        self.fits.get(node).is_some_and(|f| f.should_run)
    }

    /// Nodes that should have a pod.
    pub fn desired(&self) -> i32 {
        crate::common::count(self.fits.values().filter(|f| f.should_run))
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        let least = self.spec.min_ready_seconds.unwrap_or(0);
        is_available(pod, least, self.now_millis)
    }

    /// Whether a pod is of the template as it is now.
    pub fn is_updated(&self, pod: &Pod) -> bool {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key));
        let of_hash = label(HASH_LABEL).is_some_and(|h| self.equal.contains(h));
        let of_generation = label(GENERATION_LABEL).map(String::as_str);
        of_hash || (of_generation.is_some() && of_generation == generation(self.set))
    }

    pub fn rolls(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    fn bound(&self, of: i32, surge: bool) -> i32 {
        let strategy = self.spec.update_strategy.as_ref().filter(|_| self.rolls());
        let Some(rolling) = strategy.and_then(|s| s.rolling_update.as_ref()) else {
            return 0;
        };
        let (given, default) = if surge {
            (&rolling.max_surge, IntOrString::Int(0))
        } else {
            (&rolling.max_unavailable, IntOrString::Int(1))
        };
        int_or_percent(given.as_ref().unwrap_or(&default), of, true)
    }

    pub fn surges(&self) -> bool {
        self.bound(1, true) > 0
    }

    pub fn max_surge(&self) -> i32 {
        self.bound(self.desired(), true)
    }

    pub fn max_unavailable(&self) -> i32 {
        let desired = self.desired();
        match self.bound(desired, false) {
            // Both nought would never move.
            0 if desired > 0 && self.max_surge() == 0 => 1,
            n => n,
        }
    }
}
