//! ReplicaSet and ReplicationController: so many pods of a template, no more and no fewer.

use std::sync::Arc;

use api::LabelSelector;
use client::{Informer, Informers};
use control::action::Target;
use control::{Controller, Plan, Watches};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::core::ApiResource;

use crate::common::{Key, controller_of, key_of, selector_of, uid_of, value_of};
use crate::last_failures::LastFailures;
use crate::ownership::{self, Parent};

pub mod plan;
#[cfg(test)]
mod tests;

pub use plan::{Counts, Observed};

/// Whether the status says that an action failed: one on a pod, not on the status itself, and not in
/// a namespace that ends, where none can be made any more.
fn is_reported(target: &Target, error: &kube::Error) -> bool {
    target.resource.plural == "pods" && !client::namespace_ends(error)
}

pub struct ReplicaSets {
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    failures: LastFailures,
}

impl ReplicaSets {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            sets: informers.of(),
            pods: informers.of(),
            failures: LastFailures::default(),
        };
        ownership::index(&all.pods);
        all
    }

    /// The pods of the other sets of a set's owner: of older and newer templates.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let sets = controller_of(set).map(|owner| self.sets.owned_by(&owner.uid));
        let others = sets.into_iter().flatten();
        let others = others.filter(|other| uid_of(&**other) != uid_of(set));
        others
            .flat_map(|other| self.pods.owned_by(&uid_of(&*other)))
            .collect()
    }
}

pub struct ReplicationControllers {
    sets: Informer<ReplicationController>,
    pods: Informer<Pod>,
    failures: LastFailures,
}

impl ReplicationControllers {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            sets: informers.of(),
            pods: informers.of(),
            failures: LastFailures::default(),
        };
        ownership::index(&all.pods);
        all
    }
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";
    const ACCOUNT: &'static str = "replicaset-controller";
    const ADOPTS: bool = true;
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.sets, |s| vec![key_of(s)]);
        let sets = self.sets.clone();
        watches.on(&self.pods, move |pod| {
            ownership::concerned(pod, "ReplicaSet", |ns| {
                let all = sets.list_namespace(ns);
                let selector = |s: &ReplicaSet| selector_of(s.spec.as_ref().map(|s| &s.selector));
                all.iter().map(|s| (key_of(&**s), selector(s))).collect()
            })
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        let (failure, (namespace, name)) = (self.failures.take(key), key);
        let set = self.sets.get(namespace, name)?;
        let spec = set.spec.as_ref()?;
        let selector = selector_of(Some(&spec.selector));
        let status = set.status.clone().unwrap_or_default();
        let pods = ownership::candidates(&self.pods, namespace, &uid_of(&*set), &selector);
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let related = match pods.len() > wanted {
            true => self.related(&set),
            false => Vec::new(),
        };
        Some(Observed {
            resource: ApiResource::erase::<ReplicaSet>(&()),
            pods,
            related,
            parent: Parent::new(&*set, selector),
            meta: set.metadata.clone(),
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            object: value_of(&*set),
            template_labels: spec
                .template
                .as_ref()
                .and_then(|t| t.metadata.as_ref()?.labels.clone())
                .unwrap_or_default(),
            published: Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: status.terminating_replicas,
            },
            reports_terminating: true,
            published_generation: status.observed_generation.unwrap_or(0),
            failure,
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }

    fn failed(&self, key: &Key, target: &Target, error: &kube::Error) {
        if is_reported(target, error) {
            self.failures.note(key, error);
        }
    }
}

impl Controller for ReplicationControllers {
    const NAME: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationmanager";
    const ACCOUNT: &'static str = "replication-controller";
    const ADOPTS: bool = true;
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.sets, |s| vec![key_of(s)]);
        let sets = self.sets.clone();
        watches.on(&self.pods, move |pod| {
            ownership::concerned(pod, "ReplicationController", |ns| {
                let all = sets.list_namespace(ns);
                all.iter()
                    .map(|s| (key_of(&**s), selector_of_rc(s)))
                    .collect()
            })
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        let (failure, (namespace, name)) = (self.failures.take(key), key);
        let set = self.sets.get(namespace, name)?;
        let spec = set.spec.as_ref()?;
        let selector = selector_of_rc(&set);
        let status = set.status.clone().unwrap_or_default();
        Some(Observed {
            resource: ApiResource::erase::<ReplicationController>(&()),
            pods: ownership::candidates(&self.pods, namespace, &uid_of(&*set), &selector),
            related: Vec::new(),
            parent: Parent::new(&*set, selector),
            meta: set.metadata.clone(),
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            object: value_of(&*set),
            template_labels: spec
                .template
                .as_ref()
                .and_then(|t| t.metadata.as_ref()?.labels.clone())
                .unwrap_or_default(),
            published: Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: None,
            },
            reports_terminating: false,
            published_generation: status.observed_generation.unwrap_or(0),
            failure,
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }

    fn failed(&self, key: &Key, target: &Target, error: &kube::Error) {
        if is_reported(target, error) {
            self.failures.note(key, error);
        }
    }
}

fn selector_of_rc(set: &ReplicationController) -> LabelSelector {
    match set.spec.as_ref().and_then(|s| s.selector.as_ref()) {
        Some(map) if !map.is_empty() => LabelSelector::from_map(map),
        _ => LabelSelector::nothing(),
    }
}
