//! Volumes on the nodes' own disks: the provisioner `tiphys.io/local`. Each node says in
//! annotations where it keeps such volumes and how much there is; here is decided that a claim
//! gets one, and that a released one goes. The folder itself is made and removed by the node's
//! agent, which holds the volume's object by a finalizer until the folder is gone.

use std::sync::Arc;

use api::local_volumes::PROVISIONER;
use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client, ResourceExt};

use super::{
    BIND_COMPLETED, PROVISIONER_NAMES, SELECTED_NODE, annotation, class_of_claim, has_finalizer,
    is_local, local_node, volume_name,
};
use crate::common::{is_deleting, key_of, uid_of};

pub mod grow;
pub mod make;
pub mod release;
#[cfg(test)]
mod tests;

/// The index of our volumes by their node.
const BY_NODE: &str = "local by node";

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    /// Namespace and name.
    Claim(String, String),
    Volume(String),
}

pub enum Observed {
    /// A volume is to be made.
    Make(Box<make::ClaimToProvision>),
    /// A claim wants more than its volume has.
    Grow(grow::ClaimToExpand),
    Release(release::VolumeToReclaim),
}

pub struct LocalVolumes {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    nodes: Informer<Node>,
}

impl LocalVolumes {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            claims: informers.of(),
            volumes: informers.of(),
            classes: informers.of(),
            nodes: informers.of(),
        };
        all.volumes.index(BY_NODE, |v| {
            if is_local(v) {
                vec![local_node(v).to_owned()]
            } else {
                Vec::new()
            }
        });
        all
    }

    fn offer(&self, node: Arc<Node>) -> make::Offer {
        let volumes = self.volumes.by_index(BY_NODE, &node.name_any());
        make::Offer {
            promised_bytes: volumes.iter().map(|v| super::capacity(v).value()).sum(),
            node,
        }
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<Observed> {
        let claim = self.claims.get(namespace, name)?;
        if annotation(&*claim, BIND_COMPLETED).is_some() {
            let volume = self.volumes.get("", volume_name(&claim))?;
            if !is_local(&volume) {
                return None;
            }
            let node = self.nodes.get("", local_node(&volume));
            return Some(Observed::Grow(grow::ClaimToExpand {
                claim,
                offer: node.map(|n| self.offer(n)),
                volume,
            }));
        }
        let asked = PROVISIONER_NAMES
            .iter()
            .find_map(|p| annotation(&*claim, p));
        let made = self.volumes.get("", &make::name(&uid_of(&*claim)));
        let wanted = asked == Some(PROVISIONER) && volume_name(&claim).is_empty();
        if !wanted || made.is_some() || is_deleting(&*claim) {
            return None;
        }
        let class = self.classes.get("", class_of_claim(&claim))?;
        let selected = annotation(&*claim, SELECTED_NODE).map(str::to_owned);
        let nodes = match &selected {
            Some(node) => self.nodes.get("", node).into_iter().collect(),
            None => self.nodes.list(),
        };
        Some(Observed::Make(Box::new(make::ClaimToProvision {
            offers: nodes.into_iter().map(|n| self.offer(n)).collect(),
            claim,
            class,
            selected,
        })))
    }
}

impl Controller for LocalVolumes {
    const NAME: &'static str = "tiphys.io/local";
    const ACCOUNT: &'static str = "local-volume-provisioner";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.claims, |claim| {
            let (namespace, name) = key_of(claim);
            vec![Key::Claim(namespace, name)]
        });
        watches.on(&self.volumes, |volume| {
            if !is_local(volume) {
                return Vec::new();
            }
            let mut keys = vec![Key::Volume(volume.name_any())];
            let claim = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            if let Some(r) = claim {
                let part = |text: &Option<String>| text.clone().unwrap_or_default();
                keys.push(Key::Claim(part(&r.namespace), part(&r.name)));
            }
            keys
        });
        let volumes = self.volumes.clone();
        watches.on_change(&self.nodes, move |change| {
            let (Some(old), None) = (&change.old, &change.new) else {
                return Vec::new();
            };
            let gone = volumes.by_index(BY_NODE, &old.name_any());
            gone.iter().map(|v| Key::Volume(v.name_any())).collect()
        });
        watches.expect_from(&self.classes);
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        match key {
            Key::Claim(namespace, name) => self.claim(namespace, name),
            Key::Volume(name) => {
                let volume = self.volumes.get("", name).filter(|v| is_local(v))?;
                let node = self.nodes.get("", local_node(&volume)).is_some();
                Some(Observed::Release(release::VolumeToReclaim { volume, node }))
            }
        }
    }

    /// That a node is gone is asked of the API, not of a cache: with it goes the data.
    async fn gather(&self, client: &Client, observed: Observed) -> Result<Observed, kube::Error> {
        let Observed::Release(mut seen) = observed else {
            return Ok(observed);
        };
        let held = is_deleting(&*seen.volume)
            && has_finalizer(&*seen.volume, api::local_volumes::FINALIZER);
        if held && !seen.node {
            let nodes: Api<Node> = Api::all(client.clone());
            seen.node = nodes.get_opt(local_node(&seen.volume)).await?.is_some();
        }
        Ok(Observed::Release(seen))
    }

    fn plan(&self, observed: &Observed, _: i64) -> Plan {
        match observed {
            Observed::Make(seen) => make::plan(seen),
            Observed::Grow(seen) => grow::plan(seen),
            Observed::Release(seen) => release::plan(seen),
        }
    }

    /// One after another, so that two claims are not promised the same room.
    fn workers(&self) -> usize {
        1
    }
}
