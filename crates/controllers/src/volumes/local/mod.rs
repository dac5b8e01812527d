//! Volumes on the nodes' own disks: the provisioner `tiphys.io/local`. Each node says in
//! annotations where it keeps such volumes and how much there is; here is decided that a claim
//! gets one, and that a released one goes. The folder itself is made and removed by the node's
//! agent, which holds the volume's object by a finalizer until the folder is gone. Snapshots are
//! folders, too, and their contents are held in the same way.

use std::sync::Arc;

use api::local_volumes::{self, PROVISIONER};
use client::custom_kinds::text;
use client::{Informer, Informers};
use clock::Random;
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::core::DynamicObject;
use kube::{Api, Client, Resource, ResourceExt};

use super::{
    BIND_COMPLETED, PROVISIONER_NAMES, SELECTED_NODE, annotation, class_of_claim, has_finalizer,
    is_local, local_node, volume_name,
};
use crate::common::{is_deleting, key_of, uid_of};

pub mod grow;
pub mod key;
pub mod make;
pub mod release;
pub mod room;
pub mod snapshot;
pub mod snapshot_objects;
#[cfg(test)]
mod snapshot_tests;
pub mod source;
#[cfg(test)]
mod tests;

use key::Key;
use snapshot_objects::{SnapshotKind, SnapshotObjects};
use source::{Caches, DataSource};

/// The index of our volumes by their node.
const BY_NODE: &str = "local by node";

pub enum Observed {
    /// A volume is to be made.
    Make(Box<make::ClaimToProvision>),
    /// A claim wants more than its volume has.
    Grow(grow::ClaimToExpand),
    Release(release::VolumeToReclaim),
    Room(room::NodeRoom),
    Snapshot(Box<snapshot::ObservedSnapshot>),
    Content(snapshot::ObservedContent),
    SnapshotNode(snapshot::SnapshotNode),
}

pub struct LocalVolumes {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    nodes: Informer<Node>,
    rooms: Informer<CSIStorageCapacity>,
    /// Snapshots.
    known: SnapshotObjects,
    /// With these they are followed.
    client: Client,
    random: Random,
}

impl LocalVolumes {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            claims: informers.of(),
            volumes: informers.of(),
            classes: informers.of(),
            nodes: informers.of(),
            rooms: informers.of(),
            known: SnapshotObjects::default(),
            client: informers.client().clone(),
            random: informers.random().clone(),
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
        let name = node.name_any();
        let volumes = self.volumes.by_index(BY_NODE, &name);
        let volumes = volumes.iter().map(|v| super::capacity(v).value());
        let snapshots = self.known.on(&name).into_iter();
        let snapshots = snapshots.map(|c| self.bytes_of(&c));
        make::Offer {
            promised_bytes: volumes.chain(snapshots).fold(0, i64::saturating_add),
            node,
        }
    }

    /// What a snapshot may take, by its content: as much as its volume.
    fn bytes_of(&self, content: &DynamicObject) -> i64 {
        let told = content.data["status"]["restoreSize"].as_i64();
        let of_volume = || {
            let volume = text(content, "/spec/source/volumeHandle");
            let volume = self.volumes.get("", volume);
            volume.map_or(0, |v| super::capacity(&v).value())
        };
        told.unwrap_or_else(of_volume)
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
        let wanted = asked == Some(PROVISIONER) || source::names_one(&claim);
        let wanted = wanted && volume_name(&claim).is_empty();
        if !wanted || made.is_some() || is_deleting(&*claim) {
            return None;
        }
        let class = self.classes.get("", class_of_claim(&claim))?;
        // Others' copies are theirs; one of ours does not wait until somebody asks for it.
        if class.provisioner != PROVISIONER {
            return None;
        }
        let caches = Caches {
            claims: &self.claims,
            volumes: &self.volumes,
            known: &self.known,
        };
        let source = caches.source(&claim);
        let selected = match &source {
            DataSource::Copy { node, .. } => Some(node.clone()),
            _ => annotation(&*claim, SELECTED_NODE).map(str::to_owned),
        };
        let nodes = match &selected {
            Some(node) => self.nodes.get("", node).into_iter().collect(),
            None => self.nodes.list(),
        };
        Some(Observed::Make(Box::new(make::ClaimToProvision {
            offers: nodes.into_iter().map(|n| self.offer(n)).collect(),
            claim,
            class,
            selected,
            source,
        })))
    }

    fn room(&self, class: &str, node: &str) -> room::NodeRoom {
        let found = self.nodes.get("", node);
        room::NodeRoom {
            class: class.to_owned(),
            node: node.to_owned(),
            found: self.classes.get("", class),
            offer: found.map(|n| self.offer(n)),
            known: self.rooms.get(room::NAMESPACE, &room::name(class, node)),
        }
    }

    fn snapshot(&self, namespace: &str, name: &str) -> Option<snapshot::ObservedSnapshot> {
        let snapshot = self.known.get(SnapshotKind::Snapshot, namespace, name)?;
        let class = match text(&snapshot, "/spec/volumeSnapshotClassName") {
            "" => {
                let mut all = self.known.list(SnapshotKind::Class).into_iter();
                all.find(|c| snapshot::is_default(c))
            }
            name => self.known.get(SnapshotKind::Class, "", name),
        };
        let claim = text(&snapshot, "/spec/source/persistentVolumeClaimName");
        let claim = self.claims.get(namespace, claim);
        let volume = claim.as_deref().map(volume_name);
        let volume = volume.and_then(|v| self.volumes.get("", v));
        let node = volume.as_deref().filter(|v| is_local(v)).map(local_node);
        let node = node.and_then(|n| self.nodes.get("", n));
        let content = snapshot::content_name(&snapshot);
        Some(snapshot::ObservedSnapshot {
            class,
            content: self.known.get(SnapshotKind::Content, "", &content),
            left_bytes: node.and_then(|n| self.offer(n).left_bytes()),
            claim,
            volume,
            snapshot,
        })
    }

    fn content(&self, name: &str) -> Option<snapshot::ObservedContent> {
        let content = self.known.get(SnapshotKind::Content, "", name)?;
        let of = |part: &str| text(&content, &format!("/spec/volumeSnapshotRef/{part}"));
        let snapshot = self
            .known
            .get(SnapshotKind::Snapshot, of("namespace"), of("name"));
        let node = snapshot_objects::node_of(&content).and_then(|n| self.nodes.get("", n));
        Some(snapshot::ObservedContent {
            node: node.is_some(),
            snapshot,
            content,
        })
    }
}

/// Whether an object waits until its node has removed its folder.
fn is_leaving<K: Resource>(object: &K) -> bool {
    is_deleting(object) && has_finalizer(object, local_volumes::FINALIZER)
}

/// What a node says of its disk.
fn said(node: &Node) -> [Option<&str>; 4] {
    let host = node.labels().get(make::HOSTNAME).map(String::as_str);
    let of = |key| annotation(node, key);
    let snapshots = of(local_volumes::SNAPSHOTS);
    let (path, size) = (of(local_volumes::PATH), of(local_volumes::CAPACITY));
    [path, size, snapshots, host]
}

/// The rooms of a node for each class of ours.
fn rooms(classes: &Informer<StorageClass>, node: &str) -> Vec<Key> {
    let ours = classes.list().into_iter().filter(|c| room::is_of_ours(c));
    ours.map(|c| Key::Room(c.name_any(), node.to_owned()))
        .collect()
}

impl Controller for LocalVolumes {
    const NAME: &'static str = "tiphys.io/local";
    const ACCOUNT: &'static str = "local-volume-provisioner";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        let known = self.known.clone();
        watches.on(&self.claims, move |claim| {
            let (namespace, name) = key_of(claim);
            let mut keys = known.of_claim(&namespace, &name);
            keys.push(Key::Claim(namespace, name));
            keys
        });
        let classes = self.classes.clone();
        watches.on(&self.volumes, move |volume| {
            if !is_local(volume) {
                return Vec::new();
            }
            let mut keys = rooms(&classes, local_node(volume));
            keys.push(Key::Volume(volume.name_any()));
            let claim = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            if let Some(r) = claim {
                let part = |text: &Option<String>| text.clone().unwrap_or_default();
                keys.push(Key::Claim(part(&r.namespace), part(&r.name)));
            }
            keys
        });
        let (volumes, classes) = (self.volumes.clone(), self.classes.clone());
        let known = self.known.clone();
        watches.on_change(&self.nodes, move |change| {
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            if old.map(said) == new.map(said) {
                return Vec::new();
            }
            let Some(name) = change.object().map(|n| n.name_any()) else {
                return Vec::new();
            };
            let mut keys = rooms(&classes, &name);
            keys.push(Key::SnapshotNode(name.clone()));
            if new.is_none() {
                let gone = volumes.by_index(BY_NODE, &name);
                keys.extend(gone.iter().map(|v| Key::Volume(v.name_any())));
                let gone = known.on(&name).into_iter();
                keys.extend(gone.map(|c| Key::Content(c.name_any())));
            }
            keys
        });
        let nodes = self.nodes.clone();
        watches.on(&self.classes, move |class| {
            let nodes = nodes.list().into_iter();
            let room = |n: Arc<Node>| Key::Room(class.name_any(), n.name_any());
            match class.provisioner == PROVISIONER {
                true => nodes.map(room).collect(),
                false => Vec::new(),
            }
        });
        watches.on(&self.rooms, |known| {
            let of = room::of(known).into_iter();
            of.map(|(class, node)| Key::Room(class, node)).collect()
        });
        let (client, random) = (self.client.clone(), self.random.clone());
        let (known, nodes) = (self.known.clone(), self.nodes.clone());
        let classes = self.classes.clone();
        let rooms = move |node: &str| rooms(&classes, node);
        watches
            .feed(move |keys| snapshot_objects::follow(client, random, known, nodes, rooms, keys));
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        match key {
            Key::Claim(namespace, name) => self.claim(namespace, name),
            Key::Volume(name) => {
                let volume = self.volumes.get("", name).filter(|v| is_local(v))?;
                let node = self.nodes.get("", local_node(&volume)).is_some();
                Some(Observed::Release(release::VolumeToReclaim { volume, node }))
            }
            Key::Room(class, node) => Some(Observed::Room(self.room(class, node))),
            Key::Snapshot(namespace, name) => {
                let seen = self.snapshot(namespace, name)?;
                Some(Observed::Snapshot(Box::new(seen)))
            }
            Key::Content(name) => self.content(name).map(Observed::Content),
            Key::SnapshotNode(name) => Some(Observed::SnapshotNode(snapshot::SnapshotNode {
                node: self.nodes.get("", name)?,
                has: !self.known.on(name).is_empty(),
            })),
        }
    }

    /// That a node is gone is asked of the API, not of a cache: with it goes the data.
    async fn gather(&self, client: &Client, observed: Observed) -> Result<Observed, kube::Error> {
        let nodes: Api<Node> = Api::all(client.clone());
        match observed {
            Observed::Release(mut seen) => {
                if is_leaving(&*seen.volume) && !seen.node {
                    seen.node = nodes.get_opt(local_node(&seen.volume)).await?.is_some();
                }
                Ok(Observed::Release(seen))
            }
            Observed::Content(mut seen) => {
                let node = snapshot_objects::node_of(&seen.content).unwrap_or_default();
                if is_leaving(&*seen.content) && !seen.node && !node.is_empty() {
                    seen.node = nodes.get_opt(node).await?.is_some();
                }
                Ok(Observed::Content(seen))
            }
            other => Ok(other),
        }
    }

    fn plan(&self, observed: &Observed, _: i64) -> Plan {
        match observed {
            Observed::Make(seen) => make::plan(seen),
            Observed::Grow(seen) => grow::plan(seen),
            Observed::Release(seen) => release::plan(seen),
            Observed::Room(seen) => room::plan(seen),
            Observed::Snapshot(seen) => snapshot::plan(seen),
            Observed::Content(seen) => snapshot::plan_content(seen),
            Observed::SnapshotNode(seen) => snapshot::plan_node(seen),
        }
    }

    /// One after another, so that two claims are not promised the same room.
    fn workers(&self) -> usize {
        1
    }
}
