//! StatefulSet: pods with names, numbers and claims of their own, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::common::{Key, key_of, selector_of, uid_of};
use crate::failed_pods::Failures;
use crate::metrics::{Alive, sets as figures};
use crate::ownership;
use crate::revisions::TemplateDefaults;

pub mod claims;
mod identity;
mod names;
pub mod plan;
#[cfg(test)]
mod tests;

pub use plan::Observed;

pub struct StatefulSets {
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    claims: Informer<PersistentVolumeClaim>,
    /// Of pods that nodes refused; it begins again with the process.
    failures: Mutex<Failures>,
    defaults: TemplateDefaults,
    alive: Alive,
}

impl StatefulSets {
    pub fn new(informers: &Informers, defaults: TemplateDefaults) -> Self {
        let all = Self {
            sets: informers.of(),
            pods: informers.of(),
            revisions: informers.of(),
            claims: informers.of(),
            failures: Mutex::default(),
            defaults,
            alive: Alive::default(),
        };
        ownership::index(&all.pods);
        all
    }
}

fn selectors(sets: &Informer<StatefulSet>, namespace: &str) -> Vec<(Key, api::LabelSelector)> {
    let all = sets.list_namespace(namespace);
    let selector = |s: &StatefulSet| selector_of(s.spec.as_ref().map(|s| &s.selector));
    all.iter().map(|s| (key_of(&**s), selector(s))).collect()
}

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset-controller";
    const QUEUE: &'static str = "statefulset";
    const ACCOUNT: &'static str = "statefulset-controller";
    const ADOPTS: bool = true;
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        figures::show_sets(&self.sets, &self.alive);
        watches.on(&self.sets, |s| vec![key_of(s)]);
        let sets = self.sets.clone();
        watches.on(&self.pods, move |pod| {
            ownership::concerned(pod, "StatefulSet", |ns| selectors(&sets, ns))
        });
        let sets = self.sets.clone();
        watches.on(&self.revisions, move |revision| {
            ownership::concerned(revision, "StatefulSet", |ns| selectors(&sets, ns))
        });
        // A claim belongs to a set by its name alone.
        let sets = self.sets.clone();
        watches.on(&self.claims, move |claim| {
            let (namespace, name) = key_of(claim);
            let mut all = sets.list_namespace(&namespace);
            all.retain(|set| claims::is_named_by(set, &name));
            all.iter().map(|s| key_of(&**s)).collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let set = self.sets.get(namespace, name)?;
        let spec = set.spec.as_ref()?;
        let selector = selector_of(Some(&spec.selector));
        let pods = ownership::candidates(&self.pods, namespace, &uid_of(&*set), &selector);
        // Its own, those it could adopt, and those whose names it may not take.
        let mut revisions = self.revisions.list_namespace(namespace);
        revisions.retain(|r| {
            selector.matches(&r.metadata.labels) || r.name_any().starts_with(name.as_str())
        });
        let mut found = BTreeMap::new();
        for claim in claims::names(&set, &pods) {
            if let Some(known) = self.claims.get(namespace, &claim) {
                found.insert(claim, known);
            }
        }
        Some(Observed {
            set: Arc::clone(&set),
            pods,
            revisions,
            claims: found,
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, &self.failures, self.defaults, now_millis)
    }
}
