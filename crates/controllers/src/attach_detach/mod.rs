//! Volumes that must be attached to a node before a pod there can have them: for each node, what
//! its pods want is compared with what is attached. The attachments' own objects are worked on by
//! the drivers' controllers; here they are made and deleted, and the node's status says which are
//! there.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use client::{Informer, Informers};
use clock::Clock;
use control::action::reference;
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{
    Node, NodeStatus, PersistentVolume, PersistentVolumeClaim, Pod, Taint,
};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::common::{is_deleting, is_finished};
use crate::metrics::{Alive, volumes as figures};
use crate::nodes::{BY_NODE, node_of};
use crate::volumes::{PODS_BY_CLAIM, claims_of, index_pods, volume_name};
use plan::{DesiredVolume, Observed};

/// The index of attachments by node.
const ATTACHMENTS_BY_NODE: &str = "by node";
/// The index of attachments by persistent volume.
const ATTACHMENTS_BY_VOLUME: &str = "by volume";

/// What this process remembers: since when attachments are not wanted, and what pods have heard.
#[derive(Default)]
struct Memory {
    unwanted: HashMap<String, i64>,
    told: HashSet<(String, String)>,
}

/// The most that is remembered of what pods have heard: then all is forgotten, and some hear twice.
const MOST_TOLD: usize = 10_000;

pub struct Attachments {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
    memory: Mutex<Memory>,
    alive: Alive,
    clock: Clock,
}

impl Attachments {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            nodes: informers.of(),
            pods: informers.of(),
            claims: informers.of(),
            volumes: informers.of(),
            drivers: informers.of(),
            attachments: informers.of(),
            memory: Mutex::default(),
            alive: Alive::default(),
            clock: informers.clock(),
        };
        index_pods(&all.pods);
        all.pods.index(BY_NODE, node_of);
        all.attachments
            .index(ATTACHMENTS_BY_NODE, |a| vec![a.spec.node_name.clone()]);
        all.attachments.index(ATTACHMENTS_BY_VOLUME, |a| {
            let name = a.spec.source.persistent_volume_name.clone();
            name.into_iter().collect()
        });
        all
    }

    /// Volumes that pods of the node want and that are attached, by the name of the attachment.
    fn wanted(&self, node: &str) -> BTreeMap<String, DesiredVolume> {
        let mut out: BTreeMap<String, DesiredVolume> = BTreeMap::new();
        for pod in self.pods.by_index(BY_NODE, node) {
            if !needs_volumes(&pod) {
                continue;
            }
            for volume in claims_of(&pod).iter().filter_map(|c| self.attached_of(c)) {
                let Some((id, wanted)) = plan::wanted(&volume, node) else {
                    continue;
                };
                let entry = out.entry(id).or_insert(wanted);
                entry.pods.push(reference(&*pod));
            }
        }
        out
    }

    fn attached_of(&self, claim: &str) -> Option<Arc<PersistentVolume>> {
        attached_of(&self.claims, &self.volumes, &self.drivers, claim)
    }

    /// Where else a volume is attached, and which pods there have it.
    fn elsewhere(&self, wanted: &DesiredVolume, node: &str) -> Option<plan::Elsewhere> {
        let all = self
            .attachments
            .by_index(ATTACHMENTS_BY_VOLUME, &wanted.volume);
        let mut others = all.iter().filter(|a| a.spec.node_name != node);
        let other = others.next()?;
        let volume = self.volumes.get("", &wanted.volume);
        let claim = volume.and_then(|v| {
            let claim = v.spec.as_ref()?.claim_ref.clone()?;
            Some(format!("{}/{}", claim.namespace?, claim.name?))
        });
        let pods = claim.map(|c| self.pods.by_index(PODS_BY_CLAIM, &c));
        let there = |p: &&Arc<Pod>| node_of(p).contains(&other.spec.node_name);
        let pods = pods.unwrap_or_default();
        let pods = pods.iter().filter(there);
        Some(plan::Elsewhere {
            pods: pods.map(|p| p.name_any()).collect(),
        })
    }
}

/// The volume of a claim, if its driver attaches volumes; one without an object of its own does.
fn attached_of(
    claims: &Informer<PersistentVolumeClaim>,
    volumes: &Informer<PersistentVolume>,
    drivers: &Informer<CSIDriver>,
    claim: &str,
) -> Option<Arc<PersistentVolume>> {
    let (namespace, name) = claim.split_once('/')?;
    let claim = claims.get(namespace, name)?;
    let volume = volumes.get("", volume_name(&claim))?;
    let spec = volume.spec.as_ref()?;
    // A claim may name a volume that is another one's, or no one's yet.
    let bound = spec.claim_ref.as_ref()?.uid.as_deref();
    if bound.is_none() || bound != claim.metadata.uid.as_deref() {
        return None;
    }
    let driver = drivers.get("", &spec.csi.as_ref()?.driver);
    let attaches = driver.is_none_or(|d| d.spec.attach_required != Some(false));
    attaches.then_some(volume)
}

/// The nodes of all pods that use a volume.
fn nodes_of_volume(pods: &Informer<Pod>, volume: &PersistentVolume) -> Vec<String> {
    let claim = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let Some((namespace, name)) =
        claim.and_then(|c| Some((c.namespace.as_ref()?, c.name.as_ref()?)))
    else {
        return Vec::new();
    };
    let using = pods.by_index(PODS_BY_CLAIM, &format!("{namespace}/{name}"));
    using.iter().flat_map(|p| node_of(p)).collect()
}

/// Whether a pod may still have its volumes mounted: one whose containers have all ended does not
/// need them, though its object may stay.
fn needs_volumes(pod: &Pod) -> bool {
    if is_finished(pod) {
        return false;
    }
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let mut states = statuses
        .into_iter()
        .flatten()
        .filter_map(|s| s.state.as_ref());
    !is_deleting(pod) || states.any(|s| s.running.is_some())
}

type Concern = (Option<NodeStatus>, Option<Vec<Taint>>, bool);

/// What counts of a node: heartbeats wake nobody.
fn concern(node: &Node) -> Concern {
    let status = node.status.as_ref();
    let kept = status.map(|s| NodeStatus {
        volumes_attached: s.volumes_attached.clone(),
        volumes_in_use: s.volumes_in_use.clone(),
        ..NodeStatus::default()
    });
    let taints = node.spec.as_ref().and_then(|s| s.taints.clone());
    (kept, taints, control::ready::is_node_ready(node))
}

impl Controller for Attachments {
    const NAME: &'static str = "attachdetach-controller";
    const QUEUE: &'static str = "attachdetach";
    const ACCOUNT: &'static str = "attachdetach-controller";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        let (claims, volumes) = (self.claims.clone(), self.volumes.clone());
        let drivers = self.drivers.clone();
        let attached = move |claim: &str| attached_of(&claims, &volumes, &drivers, claim);
        figures::show_attachments(&self.pods, &self.attachments, attached, &self.alive);
        watches.on(&self.pods, |pod| {
            if claims_of(pod).is_empty() {
                return Vec::new();
            }
            node_of(pod)
        });
        watches.on_change(&self.nodes, |change| {
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            if old.map(concern) == new.map(concern) {
                return Vec::new();
            }
            let name = new.or(old).map(|n| n.name_any());
            name.into_iter().collect()
        });
        let (volumes, pods) = (self.volumes.clone(), self.pods.clone());
        watches.on(&self.attachments, move |a| {
            let volume = a.spec.source.persistent_volume_name.as_deref();
            let volume = volume.and_then(|name| volumes.get("", name));
            let using = volume.map(|v| nodes_of_volume(&pods, &v));
            let mut keys = using.unwrap_or_default();
            keys.push(a.spec.node_name.clone());
            keys.sort();
            keys.dedup();
            keys
        });
        let pods = self.pods.clone();
        watches.on(&self.claims, move |claim| {
            let key = format!(
                "{}/{}",
                claim.namespace().unwrap_or_default(),
                claim.name_any()
            );
            let using = pods.by_index(PODS_BY_CLAIM, &key);
            using.iter().flat_map(|p| node_of(p)).collect()
        });
        let nodes = self.nodes.clone();
        watches.on(&self.drivers, move |_| {
            nodes.list().iter().map(|n| n.name_any()).collect()
        });
        // It may be heard of after the claim that names it.
        let pods = self.pods.clone();
        watches.on(&self.volumes, move |volume| nodes_of_volume(&pods, volume));
    }

    fn observe(&self, name: &String) -> Option<Observed> {
        let node = self.nodes.get("", name);
        let attachments = self.attachments.by_index(ATTACHMENTS_BY_NODE, name);
        let mut wanted = self.wanted(name);
        let listed = node.as_ref().is_some_and(|n| plan::lists_any(n));
        if attachments.is_empty() && wanted.is_empty() && !listed {
            return None;
        }
        for wanted in wanted.values_mut() {
            wanted.elsewhere = self.elsewhere(wanted, name);
        }
        let now = self.clock.millis();
        let mut memory = self.memory.lock();
        let mut since = BTreeMap::new();
        for id in attachments.iter().map(|a| a.name_any()) {
            if wanted.contains_key(&id) {
                memory.unwanted.remove(&id);
            } else {
                since.insert(id.clone(), *memory.unwanted.entry(id).or_insert(now));
            }
        }
        if memory.told.len() > MOST_TOLD {
            memory.told.clear();
        }
        if memory.unwanted.len() > MOST_TOLD {
            let all = &self.attachments;
            memory.unwanted.retain(|id, _| all.get("", id).is_some());
        }
        for (id, wanted) in &mut wanted {
            let why = plan::trouble(wanted, attachments.iter().find(|a| a.name_any() == *id));
            let Some(why) = why else { continue };
            wanted.pods.retain(|pod| {
                let uid = pod.uid.clone().unwrap_or_default();
                memory.told.insert((uid, why.clone()))
            });
            wanted.trouble = Some(why);
        }
        Some(Observed {
            name: name.clone(),
            node,
            wanted,
            attachments,
            since,
        })
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        plan::plan(seen, now_millis)
    }
}
