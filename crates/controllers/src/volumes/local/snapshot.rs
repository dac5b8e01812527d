//! Snapshots of volumes on the nodes' disks: a snapshot gets a content, whose node copies the
//! volume's folder and says so; the snapshot says what its content says. Pure.
//!
//! Other drivers' snapshots are left to their own controllers.

use std::sync::Arc;

use api::Quantity;
use api::local_volumes::{
    CONTENT_BOUND, FINALIZER, NODE_LABEL, PROVISIONER, SNAPSHOT_GROUP, SNAPSHOTS, snapshot_place,
};
use client::custom_kinds::text;
use control::Plan;
use control::action::{Action, Target};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::super::{
    BIND_COMPLETED, annotation, capacity, has_finalizer, is_local, local_node, volume_name,
};
use super::snapshot_objects::{SnapshotKind, is_held, is_ours, node_of};
use crate::common::{is_deleting, key_of, uid_of};

/// Holds a snapshot of ours until its content has gone.
const HOLDS: &str = "tiphys.io/local-snapshot";
/// Marks the class of snapshots that name none.
const IS_DEFAULT: &str = "snapshot.storage.kubernetes.io/is-default-class";
/// Until it is looked again whether there is room, milliseconds.
const AGAIN_MILLIS: u64 = 30_000;

pub struct ObservedSnapshot {
    pub snapshot: Arc<DynamicObject>,
    /// The class that it names, or the default one of ours.
    pub class: Option<Arc<DynamicObject>>,
    pub content: Option<Arc<DynamicObject>>,
    /// What it is to be of.
    pub claim: Option<Arc<PersistentVolumeClaim>>,
    pub volume: Option<Arc<PersistentVolume>>,
    /// What the volume's node has left.
    pub left_bytes: Option<i64>,
}

/// The content that a snapshot has, or will have.
pub fn content_name(snapshot: &DynamicObject) -> String {
    let named = text(snapshot, "/spec/source/volumeSnapshotContentName");
    let bound = text(snapshot, "/status/boundVolumeSnapshotContentName");
    match [named, bound].into_iter().find(|n| !n.is_empty()) {
        Some(name) => name.to_owned(),
        None => format!("snapcontent-{}", uid_of(snapshot)),
    }
}

/// Whether a class is the default one of ours.
pub fn is_default(class: &DynamicObject) -> bool {
    let marked = class.annotations().get(IS_DEFAULT);
    is_class_of_ours(class) && marked.is_some_and(|m| m == "true")
}

fn is_class_of_ours(class: &DynamicObject) -> bool {
    text(class, "/driver") == PROVISIONER
}

/// What to do for a snapshot.
pub fn plan(seen: &ObservedSnapshot) -> Plan {
    let snapshot = &*seen.snapshot;
    let content = seen.content.as_deref().filter(|c| is_ours(c));
    if is_deleting(snapshot) {
        return leave(snapshot, content);
    }
    if content.is_none() && !is_to_be_made(seen) {
        return Plan::nothing();
    }
    if !has_finalizer(snapshot, HOLDS) {
        let mut all = snapshot.finalizers().to_vec();
        all.push(HOLDS.to_owned());
        return finalizers(SnapshotKind::Snapshot, snapshot, &all).into();
    }
    match content {
        Some(content) => bind(snapshot, content),
        None => make(seen),
    }
}

/// Whether a snapshot without a content is ours: by the class that it names; by its volume, where it
/// names none.
fn is_to_be_made(seen: &ObservedSnapshot) -> bool {
    let names_content = "/spec/source/volumeSnapshotContentName";
    if seen.content.is_some() || !text(&seen.snapshot, names_content).is_empty() {
        return false;
    }
    let ours = seen.class.as_deref().is_some_and(is_class_of_ours);
    let names_class = !text(&seen.snapshot, "/spec/volumeSnapshotClassName").is_empty();
    ours && (names_class || seen.volume.as_deref().is_some_and(is_local))
}

fn finalizers(kind: SnapshotKind, object: &DynamicObject, all: &[String]) -> Action {
    let (namespace, name) = key_of(object);
    let version = object.metadata.resource_version.as_deref();
    let patch = json!({ "metadata": { "resourceVersion": version, "finalizers": all } });
    Action::merge(kind.target(&namespace, &name), patch)
}

fn without(kind: SnapshotKind, object: &DynamicObject, finalizer: &str) -> Plan {
    let all = object.finalizers().iter().filter(|f| *f != finalizer);
    finalizers(kind, object, &all.cloned().collect::<Vec<_>>()).into()
}

fn leave(snapshot: &DynamicObject, content: Option<&DynamicObject>) -> Plan {
    if !has_finalizer(snapshot, HOLDS) {
        return Plan::nothing();
    }
    let uid = uid_of(snapshot);
    let own = content.filter(|c| text(c, "/spec/volumeSnapshotRef/uid") == uid);
    match own {
        Some(content) if text(content, "/spec/deletionPolicy") == "Delete" => {
            if is_deleting(content) {
                return Plan::nothing().because("its content goes first");
            }
            let target = SnapshotKind::Content.target("", &content.name_any());
            Action::delete(target, Some(uid_of(content))).into()
        }
        _ => without(SnapshotKind::Snapshot, snapshot, HOLDS),
    }
}

/// A snapshot of a claim gets a content.
fn make(seen: &ObservedSnapshot) -> Plan {
    let snapshot = &*seen.snapshot;
    let (volume, class) = match (source(seen), &seen.class) {
        (Ok(volume), Some(class)) => (volume, class),
        (Ok(_), None) => return Plan::nothing(),
        (Err(why), _) => {
            let mut plan = Plan::nothing();
            plan.actions.extend(say_error(snapshot, &why));
            plan.wake_after_millis = Some(AGAIN_MILLIS);
            return plan;
        }
    };
    let (namespace, name) = key_of(snapshot);
    let content = content_name(snapshot);
    let object = json!({
        "apiVersion": format!("{SNAPSHOT_GROUP}/v1"), "kind": "VolumeSnapshotContent",
        "metadata": {
            "name": content,
            "labels": { NODE_LABEL: local_node(volume) },
            "finalizers": [FINALIZER, CONTENT_BOUND],
        },
        "spec": {
            "deletionPolicy": class.data["deletionPolicy"],
            "driver": PROVISIONER,
            "source": { "volumeHandle": volume.name_any() },
            "sourceVolumeMode": "Filesystem",
            "volumeSnapshotClassName": class.name_any(),
            "volumeSnapshotRef": {
                "apiVersion": format!("{SNAPSHOT_GROUP}/v1"), "kind": "VolumeSnapshot",
                "namespace": namespace, "name": name, "uid": uid_of(snapshot),
            },
        },
    });
    let success = format!("Waiting for a snapshot {namespace}/{name} to be created by its node");
    let target = SnapshotKind::Content.target("", &content);
    Plan::from(Action::Create { target, object }.noted(
        &SnapshotKind::Snapshot.reference(snapshot),
        ("CreatingSnapshot", success),
        ("SnapshotContentCreationFailed", "{error}".into()),
    ))
}

/// The volume that the snapshot is of, or why it cannot be taken now.
fn source(seen: &ObservedSnapshot) -> Result<&PersistentVolume, String> {
    let name = text(&seen.snapshot, "/spec/source/persistentVolumeClaimName");
    let claim = seen.claim.as_deref();
    let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
    if annotation(claim, BIND_COMPLETED).is_none() {
        return Err(format!("persistentvolumeclaim {name:?} is not bound"));
    }
    let volume = seen.volume.as_deref();
    let gone = || format!("persistentvolume {:?} not found", volume_name(claim));
    let volume = volume.ok_or_else(gone)?;
    let named = volume.name_any();
    if !is_local(volume) {
        return Err(format!(
            "persistentvolume {named:?} was not made by {PROVISIONER}, whose class takes the snapshot"
        ));
    }
    if is_deleting(volume) {
        return Err(format!("persistentvolume {named:?} is being deleted"));
    }
    let (left, size) = (seen.left_bytes.unwrap_or(0), capacity(volume));
    if left < size.value() {
        let left = Quantity::from_bytes(left.max(0));
        return Err(format!(
            "node {:?} has {left} left for local volumes, and the snapshot may take {size}",
            local_node(volume)
        ));
    }
    Ok(volume)
}

/// Says in the snapshot what its content says.
fn bind(snapshot: &DynamicObject, content: &DynamicObject) -> Plan {
    let (namespace, name) = key_of(snapshot);
    let of = |part: &str| text(content, &format!("/spec/volumeSnapshotRef/{part}"));
    let other = of("namespace") != namespace || of("name") != name;
    if other || ![uid_of(snapshot).as_str(), ""].contains(&of("uid")) {
        let why = format!(
            "volumesnapshotcontent {:?} is for another snapshot",
            content.name_any()
        );
        let mut plan = Plan::nothing();
        plan.actions.extend(say_error(snapshot, &why));
        return plan;
    }
    if of("uid").is_empty() {
        let target = SnapshotKind::Content.target("", &content.name_any());
        let patch = json!({ "spec": { "volumeSnapshotRef": { "uid": uid_of(snapshot) } } });
        return Action::merge(target, patch).into();
    }
    let told = &content.data["status"];
    let made = told["creationTime"].as_i64().map(i128::from);
    let made = made.and_then(|t| jiff::Timestamp::from_nanosecond(t).ok());
    let size = told["restoreSize"].as_i64().map(Quantity::from_bytes);
    let mut plan = Plan::nothing();
    plan.actions.extend(say(
        snapshot,
        json!({
            "boundVolumeSnapshotContentName": content.name_any(),
            "readyToUse": told["readyToUse"].as_bool().unwrap_or(false),
            "creationTime": made.map(|t| api::time::format_seconds(t.as_second())),
            "restoreSize": size.map(|s| s.to_string()),
            "error": told["error"],
        }),
    ));
    plan
}

fn say_error(snapshot: &DynamicObject, why: &str) -> Option<Action> {
    if text(snapshot, "/status/error/message") == why {
        return None;
    }
    say(
        snapshot,
        json!({ "readyToUse": false, "error": { "message": why } }),
    )
}

/// These fields in the snapshot's status, where one of them is another.
fn say(snapshot: &DynamicObject, status: Value) -> Option<Action> {
    let now = &snapshot.data["status"];
    let same = |(field, value): (&String, &Value)| now[field] == *value;
    if status.as_object()?.iter().all(same) {
        return None;
    }
    let (namespace, name) = key_of(snapshot);
    let target = SnapshotKind::Snapshot.target(&namespace, &name);
    Some(Action::merge_status(target, status))
}

pub struct ObservedContent {
    pub content: Arc<DynamicObject>,
    /// What it is for.
    pub snapshot: Option<Arc<DynamicObject>>,
    /// Whether its node exists.
    pub node: bool,
}

/// What to do for a content.
pub fn plan_content(seen: &ObservedContent) -> Plan {
    let content = &*seen.content;
    if !is_ours(content) {
        return Plan::nothing();
    }
    if !is_deleting(content) {
        return hold(content);
    }
    let uid = text(content, "/spec/volumeSnapshotRef/uid");
    let snapshot = seen.snapshot.as_deref();
    let is_needed = snapshot.is_some_and(|s| uid_of(s) == uid && !is_deleting(s));
    match (is_held(content), is_needed) {
        (true, false) => without(SnapshotKind::Content, content, CONTENT_BOUND),
        // Its node is gone, and its data with it.
        (false, _) if !seen.node && has_finalizer(content, FINALIZER) => {
            without(SnapshotKind::Content, content, FINALIZER)
        }
        _ => Plan::nothing(),
    }
}

/// One that a person made, of a snapshot that is there, is shown to its node, and held by it.
fn hold(content: &DynamicObject) -> Plan {
    let missing = |f: &&str| !has_finalizer(content, f);
    let missing: Vec<&str> = [FINALIZER, CONTENT_BOUND]
        .into_iter()
        .filter(missing)
        .collect();
    let told = snapshot_place(text(content, "/spec/source/snapshotHandle"));
    let node = node_of(content).or(told.map(|(node, _)| node));
    let Some(node) = node.filter(|n| !missing.is_empty() || node_of(content) != Some(*n)) else {
        return Plan::nothing();
    };
    let mut all = content.finalizers().to_vec();
    all.extend(missing.into_iter().map(str::to_owned));
    let patch = json!({ "metadata": {
        "resourceVersion": content.metadata.resource_version,
        "labels": { NODE_LABEL: node }, "finalizers": all } });
    Action::merge(SnapshotKind::Content.target("", &content.name_any()), patch).into()
}

pub struct SnapshotNode {
    pub node: Arc<Node>,
    /// Whether it has snapshots.
    pub has: bool,
}

/// Tells a node whether it has snapshots, so that only those follow them that do.
pub fn plan_node(seen: &SnapshotNode) -> Plan {
    let told = annotation(&*seen.node, SNAPSHOTS).is_some();
    if told == seen.has {
        return Plan::nothing();
    }
    let value = seen.has.then_some("true");
    let patch = json!({ "metadata": { "annotations": { SNAPSHOTS: value } } });
    Action::merge(Target::of::<Node>("", &seen.node.name_any()), patch).into()
}
