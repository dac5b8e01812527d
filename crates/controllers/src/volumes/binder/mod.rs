//! The binder: claims get volumes, volumes know what became of their claims. A binding is a chain
//! of writes, each of which may be the last before a crash: the volume names the claim, the claim
//! names the volume, both say that they are bound. Each plan does the next one, and of each
//! object's status there is one writer: the plan of its own key.

use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client, ResourceExt};
use std::sync::Arc;

use super::{
    BIND_COMPLETED, PODS_BY_CLAIM, annotation, class_of_claim, class_of_volume, default_class,
    index_pods, volume_name, volume_phase,
};
use crate::common::{is_finished, key_of, uid_of};
use crate::metrics::{Alive, volumes as figures};

pub mod claim;
mod matching;
#[cfg(test)]
mod tests;
pub mod volume;

pub use matching::is_bound_to;

/// The index of volumes by the claim that they name, as `namespace/claim`.
const VOLUMES_BY_CLAIM: &str = "by claim";
/// The index of volumes by class.
const VOLUMES_BY_CLASS: &str = "by class";
/// The index of claims that are not bound yet, by class.
const WAITING_BY_CLASS: &str = "waiting by class";

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    /// Namespace and name.
    Claim(String, String),
    Volume(String),
}

pub enum Observed {
    Claim(claim::ObservedClaim),
    Volume(volume::ObservedVolume),
}

pub struct Binder {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    alive: Alive,
}

impl Binder {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            claims: informers.of(),
            volumes: informers.of(),
            classes: informers.of(),
            pods: informers.of(),
            alive: Alive::default(),
        };
        index_pods(&all.pods);
        all.volumes
            .index(VOLUMES_BY_CLAIM, |v| claim_of(v).into_iter().collect());
        all.volumes
            .index(VOLUMES_BY_CLASS, |v| vec![class_of_volume(v).to_owned()]);
        all.claims.index(WAITING_BY_CLASS, |c| {
            if annotation(c, BIND_COMPLETED).is_some() {
                return Vec::new();
            }
            vec![class_of_claim(c).to_owned()]
        });
        all
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<claim::ObservedClaim> {
        let claim = self.claims.get(namespace, name)?;
        let class = class_of_claim(&claim).to_owned();
        let key = format!("{namespace}/{name}");
        let mut candidates = Vec::new();
        if annotation(&*claim, BIND_COMPLETED).is_none() && volume_name(&claim).is_empty() {
            candidates = self.volumes.by_index(VOLUMES_BY_CLASS, &class);
            candidates.extend(self.volumes.by_index(VOLUMES_BY_CLAIM, &key));
            candidates.sort_by_cached_key(|v| v.name_any());
            candidates.dedup_by(|a, b| a.metadata.name == b.metadata.name);
        }
        let pods = self.pods.by_index(PODS_BY_CLAIM, &key);
        let unscheduled = |p: &&Arc<Pod>| {
            let node = p.spec.as_ref().and_then(|s| s.node_name.as_deref());
            node.unwrap_or_default().is_empty() && !is_finished(p)
        };
        let mut waiting: Vec<String> = pods
            .iter()
            .filter(unscheduled)
            .map(|p| p.name_any())
            .collect();
        waiting.sort();
        Some(claim::ObservedClaim {
            named: self.volumes.get("", volume_name(&claim)),
            class: self.classes.get("", &class),
            default_class: default_class(&self.classes.list()),
            waiting,
            candidates,
            claim,
        })
    }

    fn volume(&self, name: &str) -> Option<volume::ObservedVolume> {
        let volume = self.volumes.get("", name)?;
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        let claim = reference.and_then(|r| {
            let (namespace, name) = (r.namespace.as_deref()?, r.name.as_deref()?);
            self.claims.get(namespace, name)
        });
        Some(volume::ObservedVolume { volume, claim })
    }
}

/// The claim that a volume names, as `namespace/claim`.
fn claim_of(volume: &PersistentVolume) -> Option<String> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let (namespace, name) = (reference.namespace.as_ref()?, reference.name.as_ref()?);
    Some(format!("{namespace}/{name}"))
}

fn claim_key(claim: &PersistentVolumeClaim) -> Key {
    let (namespace, name) = key_of(claim);
    Key::Claim(namespace, name)
}

impl Controller for Binder {
    const NAME: &'static str = "persistentvolume-controller";
    const QUEUE: &'static str = "claims";
    const ACCOUNT: &'static str = "persistent-volume-binder";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        figures::show_volumes(&self.volumes, &self.claims, &self.alive);
        let volumes = self.volumes.clone();
        watches.on(&self.claims, move |claim| {
            let (namespace, name) = key_of(claim);
            let naming = volumes.by_index(VOLUMES_BY_CLAIM, &format!("{namespace}/{name}"));
            let mut keys: Vec<Key> = naming.iter().map(|v| Key::Volume(v.name_any())).collect();
            keys.push(claim_key(claim));
            let named = volume_name(claim);
            if !named.is_empty() {
                keys.push(Key::Volume(named.to_owned()));
            }
            keys
        });
        let claims = self.claims.clone();
        watches.on(&self.volumes, move |volume| {
            let mut keys = vec![Key::Volume(volume.name_any())];
            if let Some((namespace, name)) = claim_of(volume)
                .as_deref()
                .and_then(|key| key.split_once('/'))
            {
                keys.push(Key::Claim(namespace.into(), name.into()));
            } else if volume_phase(volume) == "Available" {
                // Somebody may have waited for it.
                let waiting = claims.by_index(WAITING_BY_CLASS, class_of_volume(volume));
                keys.extend(waiting.iter().map(|c| claim_key(c)));
            }
            keys
        });
        let claims = self.claims.clone();
        watches.on(&self.classes, move |class| {
            // Of those that name none, it may be the default from now on.
            let names = [class.name_any(), String::new()];
            let waiting = names
                .iter()
                .flat_map(|n| claims.by_index(WAITING_BY_CLASS, n));
            waiting.map(|c| claim_key(&c)).collect()
        });
        watches.expect_from(&self.pods);
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        match key {
            Key::Claim(namespace, name) => self.claim(namespace, name).map(Observed::Claim),
            Key::Volume(name) => self.volume(name).map(Observed::Volume),
        }
    }

    /// Before a volume is released, the API is asked whether its claim is really gone: a cache may
    /// not have seen the claim of a volume that somebody else has bound yet.
    async fn gather(&self, client: &Client, observed: Observed) -> Result<Observed, kube::Error> {
        let Observed::Volume(mut seen) = observed else {
            return Ok(observed);
        };
        let reference = seen.volume.spec.as_ref().and_then(|s| s.claim_ref.clone());
        let Some(reference) = reference.filter(|r| r.uid.as_ref().is_some_and(|u| !u.is_empty()))
        else {
            return Ok(Observed::Volume(seen));
        };
        let is_it = |c: &PersistentVolumeClaim| Some(uid_of(c)) == reference.uid;
        let known = seen.claim.as_deref().is_some_and(is_it);
        if !known && !matches!(volume_phase(&seen.volume), "Released" | "Failed") {
            let namespace = reference.namespace.clone().unwrap_or_default();
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
            let name = reference.name.clone().unwrap_or_default();
            seen.claim = api.get_opt(&name).await?.map(Arc::new);
        }
        seen.claim = seen.claim.filter(|c| is_it(c));
        Ok(Observed::Volume(seen))
    }

    fn plan(&self, observed: &Observed, _: i64) -> Plan {
        match observed {
            Observed::Claim(seen) => claim::plan(seen),
            Observed::Volume(seen) => volume::plan(seen),
        }
    }
}
