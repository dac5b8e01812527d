//! Snapshots, their contents and their classes, as far as the cluster has these kinds: they are
//! custom ones, which an administrator installs.

use std::pin::pin;
use std::sync::Arc;

use api::local_volumes::{CONTENT_BOUND, NODE_LABEL, PROVISIONER, SNAPSHOT_GROUP};
use client::custom_kinds::{self, CustomKind, CustomKindEvent, text};
use client::reflector::Objects;
use client::{Change, Informer};
use clock::Random;
use control::Keys;
use control::action::Target;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::core::DynamicObject;
use kube::{Client, Resource, ResourceExt};
use parking_lot::RwLock;

use super::key::Key;
use crate::common::key_of;

/// One of the kinds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SnapshotKind {
    Class,
    Snapshot,
    Content,
}

impl CustomKind for SnapshotKind {
    const GROUP: &'static str = SNAPSHOT_GROUP;
    const ALL: &'static [Self] = &[Self::Class, Self::Snapshot, Self::Content];

    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Class => ("VolumeSnapshotClass", "v1", "volumesnapshotclasses"),
            Self::Snapshot => ("VolumeSnapshot", "v1", "volumesnapshots"),
            Self::Content => ("VolumeSnapshotContent", "v1", "volumesnapshotcontents"),
        }
    }
}

impl SnapshotKind {
    pub fn target(self, namespace: &str, name: &str) -> Target {
        Target {
            resource: self.resource(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub fn reference(self, object: &DynamicObject) -> ObjectReference {
        object.object_ref(&self.resource())
    }
}

/// Whether a content is of the provisioner of the nodes' disks.
pub fn is_ours(content: &DynamicObject) -> bool {
    text(content, "/spec/driver") == PROVISIONER
}

/// The node that has a snapshot, by its content.
pub fn node_of(content: &DynamicObject) -> Option<&str> {
    let label = content.labels().get(NODE_LABEL);
    label.map(String::as_str).filter(|_| is_ours(content))
}

/// Whether the content still has its snapshot, as it says itself.
pub fn is_held(content: &DynamicObject) -> bool {
    content.finalizers().iter().any(|f| f == CONTENT_BOUND)
}

#[derive(Default)]
struct Tables {
    classes: Objects<DynamicObject>,
    snapshots: Objects<DynamicObject>,
    contents: Objects<DynamicObject>,
}

impl Tables {
    fn of(&self, kind: SnapshotKind) -> &Objects<DynamicObject> {
        match kind {
            SnapshotKind::Class => &self.classes,
            SnapshotKind::Snapshot => &self.snapshots,
            SnapshotKind::Content => &self.contents,
        }
    }

    fn of_mut(&mut self, kind: SnapshotKind) -> &mut Objects<DynamicObject> {
        match kind {
            SnapshotKind::Class => &mut self.classes,
            SnapshotKind::Snapshot => &mut self.snapshots,
            SnapshotKind::Content => &mut self.contents,
        }
    }
}

/// What is known of all of them. Clones share it.
#[derive(Clone, Default)]
pub struct SnapshotObjects(Arc<RwLock<Tables>>);

impl SnapshotObjects {
    pub fn get(
        &self,
        kind: SnapshotKind,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<DynamicObject>> {
        self.0.read().of(kind).get(namespace, name)
    }

    pub fn list(&self, kind: SnapshotKind) -> Vec<Arc<DynamicObject>> {
        self.0.read().of(kind).iter().cloned().collect()
    }

    /// The snapshots that are to be taken of a claim.
    pub fn of_claim(&self, namespace: &str, claim: &str) -> Vec<Key> {
        let all = self.0.read().snapshots.in_namespace(namespace);
        let named = "/spec/source/persistentVolumeClaimName";
        let of_it = all.iter().filter(|s| text(s, named) == claim);
        of_it.map(|s| snapshot_key(s)).collect()
    }

    /// The contents on a node.
    pub fn on(&self, node: &str) -> Vec<Arc<DynamicObject>> {
        let all = self.list(SnapshotKind::Content).into_iter();
        all.filter(|c| node_of(c) == Some(node)).collect()
    }

    /// Takes in what was heard; which keys it concerns.
    pub fn take(&self, heard: CustomKindEvent<SnapshotKind>, nodes: &Informer<Node>) -> Vec<Key> {
        let mut all = self.0.write();
        match heard {
            CustomKindEvent::Kinds(now) => {
                for kind in SnapshotKind::ALL.iter().filter(|k| !now.contains(*k)) {
                    *all.of_mut(*kind) = Objects::default();
                }
                if !now.is_empty() {
                    tracing::info!(kinds = ?now, "snapshots of volumes are watched");
                }
                let nodes = nodes.list().into_iter();
                nodes.map(|n| Key::SnapshotNode(n.name_any())).collect()
            }
            CustomKindEvent::Objects(kind, event) => {
                let changes = all.of_mut(kind).take(*event);
                let concerned = changes.iter().flat_map(|c| concerned(kind, c, &all));
                concerned.collect()
            }
        }
    }
}

fn snapshot_key(snapshot: &DynamicObject) -> Key {
    let (namespace, name) = key_of(snapshot);
    Key::Snapshot(namespace, name)
}

fn concerned(kind: SnapshotKind, change: &Change<DynamicObject>, all: &Tables) -> Vec<Key> {
    let Some(object) = change.object() else {
        return Vec::new();
    };
    match kind {
        // Somebody may have waited for it.
        SnapshotKind::Class => all.snapshots.iter().map(|s| snapshot_key(s)).collect(),
        SnapshotKind::Snapshot => {
            let content = super::snapshot::content_name(object);
            vec![snapshot_key(object), Key::Content(content)]
        }
        SnapshotKind::Content => {
            let of =
                |part: &str| text(object, &format!("/spec/volumeSnapshotRef/{part}")).to_owned();
            let mut keys = vec![
                Key::Content(object.name_any()),
                Key::Snapshot(of("namespace"), of("name")),
            ];
            keys.extend(node_of(object).map(|n| Key::SnapshotNode(n.to_owned())));
            keys
        }
    }
}

/// With these, the rooms of the nodes that have other snapshots now: those take of a node's room, too.
pub fn with_rooms(mut keys: Vec<Key>, rooms: impl Fn(&str) -> Vec<Key>) -> Vec<Key> {
    let nodes = keys.iter().filter_map(|key| match key {
        Key::SnapshotNode(node) => Some(node.as_str()),
        _ => None,
    });
    let more: Vec<Key> = nodes.flat_map(rooms).collect();
    keys.extend(more);
    keys
}

/// Follows the kinds as long as the controller runs. `rooms`: those of a node, for each class.
pub async fn follow(
    client: Client,
    random: Random,
    known: SnapshotObjects,
    nodes: Informer<Node>,
    rooms: impl Fn(&str) -> Vec<Key> + Send + Sync,
    keys: Keys<Key>,
) {
    let mut heard = pin!(custom_kinds::events_of::<SnapshotKind>(client, random));
    while let Some(heard) = heard.next().await {
        keys.add(with_rooms(known.take(heard, &nodes), &rooms));
    }
}
