//! DaemonSet: one pod on every node that fits, which the scheduler puts there.

use client::{Change, Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::common::{Key, key_of, selector_of, uid_of};
use crate::failed_pods::Failures;
use crate::ownership;

mod place;
pub mod plan;
mod rolling;
mod state;
mod status;
#[cfg(test)]
mod tests;

pub use plan::Observed;

pub struct DaemonSets {
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    /// It begins again with the process, as upstream's.
    failures: Mutex<Failures>,
}

impl DaemonSets {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            sets: informers.of(),
            pods: informers.of(),
            nodes: informers.of(),
            revisions: informers.of(),
            failures: Mutex::default(),
        };
        ownership::index(&all.pods);
        all
    }
}

fn selectors(sets: &Informer<DaemonSet>, namespace: &str) -> Vec<(Key, api::LabelSelector)> {
    let all = sets.list_namespace(namespace);
    let selector = |s: &DaemonSet| selector_of(s.spec.as_ref().map(|s| &s.selector));
    all.iter().map(|s| (key_of(&**s), selector(s))).collect()
}

/// Whether a change of a node may make pods fit that did not, or the other way. Nodes report
/// their state all the time.
fn concerns(change: &Change<Node>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        return true;
    };
    let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
    old.metadata.labels != new.metadata.labels
        || old.metadata.uid != new.metadata.uid
        || taints(old) != taints(new)
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset-controller";
    const QUEUE: &'static str = "daemonset";
    const ACCOUNT: &'static str = "daemon-set-controller";
    const ADOPTS: bool = true;
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.sets, |s| vec![key_of(s)]);
        let sets = self.sets.clone();
        watches.on(&self.pods, move |pod| {
            ownership::concerned(pod, "DaemonSet", |ns| selectors(&sets, ns))
        });
        let sets = self.sets.clone();
        watches.on(&self.revisions, move |revision| {
            ownership::concerned(revision, "DaemonSet", |ns| selectors(&sets, ns))
        });
        let sets = self.sets.clone();
        watches.on_change(&self.nodes, move |change| {
            let all = if concerns(change) {
                sets.list()
            } else {
                Vec::new()
            };
            all.iter().map(|s| key_of(&**s)).collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let set = self.sets.get(namespace, name)?;
        let selector = selector_of(set.spec.as_ref().map(|s| &s.selector));
        let pods = ownership::candidates(&self.pods, namespace, &uid_of(&*set), &selector);
        // Its own, those it could adopt, and those whose names it may not take.
        let mut revisions = self.revisions.list_namespace(namespace);
        revisions.retain(|r| {
            selector.matches(&r.metadata.labels) || r.name_any().starts_with(name.as_str())
        });
        let nodes = self.nodes.list();
        Some(Observed {
            set,
            nodes,
            pods,
            revisions,
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, &mut self.failures.lock(), now_millis)
    }
}
