//! Deployment: replaces the pods of one template by those of another, step by step.

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::Target;
use control::{Controller, Plan, Watches};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::common::{Key, controller_of, is_finished, key_of, selector_of, uid_of};
use crate::last_failures::{LastFailures, is_taken};

pub mod plan;
mod progress;
#[cfg(test)]
mod tests;

pub use plan::Observed;

pub struct Deployments {
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    failures: LastFailures,
}

impl Deployments {
    pub fn new(informers: &Informers) -> Self {
        Self {
            deployments: informers.of(),
            sets: informers.of(),
            pods: informers.of(),
            failures: LastFailures::default(),
        }
    }
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";
    const QUEUE: &'static str = "deployment";
    const ACCOUNT: &'static str = "deployment-controller";
    const ADOPTS: bool = true;
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.deployments, |d| vec![key_of(d)]);
        let deployments = self.deployments.clone();
        watches.on(&self.sets, move |set| {
            let (namespace, _) = key_of(set);
            match controller_of(set) {
                Some(owner) if owner.kind == "Deployment" => vec![(namespace, owner.name.clone())],
                Some(_) => Vec::new(),
                None => {
                    let all = deployments.list_namespace(&namespace);
                    let fits = |d: &&Arc<Deployment>| {
                        selector_of(d.spec.as_ref().map(|s| &s.selector))
                            .matches(&set.metadata.labels)
                    };
                    all.iter().filter(fits).map(|d| key_of(&**d)).collect()
                }
            }
        });
        // Recreate waits for the end of pods.
        let sets = self.sets.clone();
        watches.on(&self.pods, move |pod| {
            let (namespace, _) = key_of(pod);
            let ending = pod.metadata.deletion_timestamp.is_some() || is_finished(pod);
            let set = controller_of(pod).filter(|o| ending && o.kind == "ReplicaSet");
            let set = set.and_then(|o| sets.get(&namespace, &o.name));
            let owner = set
                .as_ref()
                .and_then(|s| controller_of(&**s))
                .filter(|o| o.kind == "Deployment");
            owner
                .map(|o| (namespace, o.name.clone()))
                .into_iter()
                .collect()
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        let (failure, (namespace, name)) = (self.failures.take(key), key);
        let deployment = self.deployments.get(namespace, name)?;
        let uid = uid_of(&*deployment);
        let selector = selector_of(deployment.spec.as_ref().map(|s| &s.selector));
        // Its own, those it could adopt, and those whose names it may not take.
        let prefix = plan::name_prefix(name);
        let mut sets = self.sets.list_namespace(namespace);
        sets.retain(|s| {
            let is_candidate = match controller_of(&**s) {
                Some(owner) => owner.uid == uid,
                None => selector.matches(&s.metadata.labels),
            };
            is_candidate || s.name_any().starts_with(prefix)
        });
        let owned = |set: &Arc<ReplicaSet>| self.pods.owned_by(&uid_of(&**set));
        let running_pods = sets
            .iter()
            .flat_map(owned)
            .filter(|p| !is_finished(p))
            .map(|p| {
                controller_of(&*p)
                    .map(|o| o.uid.clone())
                    .unwrap_or_default()
            });
        Some(Observed {
            running_pods: running_pods.collect(),
            deployment,
            sets,
            failure,
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }

    fn failed(&self, key: &Key, target: &Target, error: &kube::Error) {
        // What is there was not to be made.
        let is_there = self.sets.get(&target.namespace, &target.name).is_some();
        if target.resource.plural == "replicasets"
            && !is_there
            && !is_taken(error)
            && !client::namespace_ends(error)
        {
            self.failures.note(key, error);
        }
    }
}
