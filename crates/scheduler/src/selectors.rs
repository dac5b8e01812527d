//! The set that a pod is one of, where it does not say so itself: what its Services and its
//! controller select. The cluster's default constraints spread those.

use std::collections::{BTreeMap, HashMap};

use api::selector::LabelSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::pod::Pod;
use crate::selector_terms;

/// Kinds of controllers whose selectors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    ReplicationController,
    ReplicaSet,
    StatefulSet,
}

impl Owner {
    pub fn of(from: &meta::OwnerReference) -> Option<Self> {
        match (from.api_version.as_str(), from.kind.as_str()) {
            ("v1", "ReplicationController") => Some(Self::ReplicationController),
            ("apps/v1", "ReplicaSet") => Some(Self::ReplicaSet),
            ("apps/v1", "StatefulSet") => Some(Self::StatefulSet),
            _ => None,
        }
    }
}

#[derive(Default)]
pub struct Selectors {
    /// By namespace and name.
    services: HashMap<String, BTreeMap<String, LabelSelector>>,
    /// By kind, namespace and name.
    owners: HashMap<(Owner, String, String), LabelSelector>,
}

impl Selectors {
    pub fn set_service(
        &mut self,
        namespace: &str,
        name: &str,
        selector: Option<&BTreeMap<String, String>>,
    ) {
        let services = self.services.entry(namespace.to_owned()).or_default();
        match selector {
            Some(selector) => {
                services.insert(name.to_owned(), LabelSelector::from_map(selector));
            }
            None => {
                services.remove(name);
            }
        }
        if services.is_empty() {
            self.services.remove(namespace);
        }
    }

    pub fn set_owner(
        &mut self,
        kind: Owner,
        namespace: &str,
        name: &str,
        selector: Option<&meta::LabelSelector>,
    ) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        match selector {
            Some(selector) => self
                .owners
                .insert(key, selector_terms::selector(Some(selector))),
            None => self.owners.remove(&key),
        };
    }

    /// None for a pod that is of no set.
    pub fn of(&self, pod: &Pod) -> Option<LabelSelector> {
        let mut out = LabelSelector::default();
        for service in self
            .services
            .get(&*pod.namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
        {
            if service.matches(&pod.labels) {
                let new = service.requirements.iter();
                let new = new.filter(|r| !out.requirements.contains(r)).cloned();
                let new: Vec<_> = new.collect();
                out.requirements.extend(new);
            }
        }
        if let Some((kind, name)) = &pod.wants.owner {
            let key = (*kind, pod.namespace.to_string(), name.clone());
            if let Some(selector) = self.owners.get(&key) {
                out.requirements
                    .extend(selector.requirements.iter().cloned());
            }
        }
        (!out.requirements.is_empty()).then_some(out)
    }
}
