//! ReplicaSet and ReplicationController: so many pods of a template, no more and no fewer.

use std::sync::Arc;

use api::LabelSelector;
use client::{Informer, Informers};
use control::action::reference;
use control::{Controller, Plan, Watches};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::core::ApiResource;

use crate::common::{self, Key, controller_of, key_of, selector_of, uid_of, value_of};

pub mod plan;
#[cfg(test)]
mod tests;

pub use plan::{Counts, Observed};

pub struct ReplicaSets {
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

impl ReplicaSets {
    pub fn new(informers: &Informers) -> Self {
        Self {
            sets: informers.of(),
            pods: informers.of(),
        }
    }
}

pub struct ReplicationControllers {
    sets: Informer<ReplicationController>,
    pods: Informer<Pod>,
}

impl ReplicationControllers {
    pub fn new(informers: &Informers) -> Self {
        Self {
            sets: informers.of(),
            pods: informers.of(),
        }
    }
}

/// Pods of the namespace that are owned or could be.
fn candidates(
    pods: &Informer<Pod>,
    namespace: &str,
    uid: &str,
    selector: &LabelSelector,
) -> Vec<Arc<Pod>> {
    let mut found = pods.list_namespace(namespace);
    found.retain(|p| match controller_of(&**p) {
        Some(owner) => owner.uid == uid,
        None => selector.matches(&p.metadata.labels),
    });
    found
}

/// The keys that a pod concerns: its controller, or all that could adopt it.
fn concerned(
    pod: &Pod,
    kind: &str,
    adopters: impl Fn(&str) -> Vec<(Key, LabelSelector)>,
) -> Vec<Key> {
    let (namespace, _) = key_of(pod);
    match controller_of(pod) {
        Some(owner) if owner.kind == kind => vec![(namespace, owner.name.clone())],
        Some(_) => Vec::new(),
        None => {
            let all = adopters(&namespace);
            all.into_iter()
                .filter(|(_, s)| s.matches(&pod.metadata.labels))
                .map(|(k, _)| k)
                .collect()
        }
    }
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";
    const ACCOUNT: &'static str = "replicaset-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.sets, |s| vec![key_of(s)]);
        let sets = self.sets.clone();
        watches.on(&self.pods, move |pod| {
            concerned(pod, "ReplicaSet", |ns| {
                let all = sets.list_namespace(ns);
                let selector = |s: &ReplicaSet| selector_of(s.spec.as_ref().map(|s| &s.selector));
                all.iter().map(|s| (key_of(&**s), selector(s))).collect()
            })
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let set = self.sets.get(namespace, name)?;
        let spec = set.spec.as_ref()?;
        let selector = selector_of(Some(&spec.selector));
        let status = set.status.clone().unwrap_or_default();
        Some(Observed {
            resource: ApiResource::erase::<ReplicaSet>(&()),
            about: reference(&*set),
            owner: common::controller_reference(&*set),
            meta: set.metadata.clone(),
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            object: value_of(&*set),
            template_labels: spec
                .template
                .as_ref()
                .and_then(|t| t.metadata.as_ref()?.labels.clone())
                .unwrap_or_default(),
            pods: candidates(&self.pods, namespace, &uid_of(&*set), &selector),
            selector,
            told: Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: status.terminating_replicas,
            },
            tells_terminating: true,
            told_generation: status.observed_generation.unwrap_or(0),
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }
}

impl Controller for ReplicationControllers {
    const NAME: &'static str = "replication-controller";
    const ACCOUNT: &'static str = "replication-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.sets, |s| vec![key_of(s)]);
        let sets = self.sets.clone();
        watches.on(&self.pods, move |pod| {
            concerned(pod, "ReplicationController", |ns| {
                let all = sets.list_namespace(ns);
                all.iter()
                    .map(|s| (key_of(&**s), selector_of_rc(s)))
                    .collect()
            })
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let set = self.sets.get(namespace, name)?;
        let spec = set.spec.as_ref()?;
        let selector = selector_of_rc(&set);
        let status = set.status.clone().unwrap_or_default();
        Some(Observed {
            resource: ApiResource::erase::<ReplicationController>(&()),
            about: reference(&*set),
            owner: common::controller_reference(&*set),
            meta: set.metadata.clone(),
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            object: value_of(&*set),
            template_labels: spec
                .template
                .as_ref()
                .and_then(|t| t.metadata.as_ref()?.labels.clone())
                .unwrap_or_default(),
            pods: candidates(&self.pods, namespace, &uid_of(&*set), &selector),
            selector,
            told: Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: None,
            },
            tells_terminating: false,
            told_generation: status.observed_generation.unwrap_or(0),
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }
}

fn selector_of_rc(set: &ReplicationController) -> LabelSelector {
    match set.spec.as_ref().and_then(|s| s.selector.as_ref()) {
        Some(map) if !map.is_empty() => LabelSelector::from_map(map),
        _ => LabelSelector::nothing(),
    }
}
