//! What an object wants of this node's disk: a volume its folder, the content of a snapshot a copy of
//! one, either of them that it goes. Pure.

use super::super::local_disk::{Disk, MeasuredVolume, size_of};
use api::local_volumes::{
    CONTENT_BOUND, EVICT, FINALIZER, OVERUSE, PROVISIONED_BY, PROVISIONER, SNAPSHOT_GROUP, SOURCE,
    snapshot_place,
};
use client::custom_kinds::text;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume};
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Resource, ResourceExt};
use std::path::Path;
use std::sync::Arc;

/// What folders of snapshots are named like.
pub const SNAPSHOT: &str = "snapshot-";

/// Whose folder it is.
#[derive(Clone, Debug)]
pub enum DiskObject {
    /// A volume.
    Volume(Arc<PersistentVolume>),
    /// The content of a snapshot.
    Content(Arc<DynamicObject>),
}

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It stays.
    No,
    /// Its folder goes, then its object.
    WithData,
    /// Its object goes, and the folder is kept.
    WithoutData,
}

/// What is to be done for an object.
#[derive(Clone, Debug)]
pub struct DiskTask {
    /// Whose it is.
    pub object: DiskObject,
    /// The folder that it begins as a copy of.
    pub from: Option<String>,
    /// Of a volume: its size.
    pub bytes: u64,
    /// Whether it goes.
    pub leaves: Removal,
}

/// The kind of the contents of snapshots.
#[must_use]
pub fn content_kind() -> ApiResource {
    let kind = GroupVersionKind::gvk(SNAPSHOT_GROUP, "v1", "VolumeSnapshotContent");
    ApiResource::from_gvk_with_plural(&kind, "volumesnapshotcontents")
}

/// How a volume is measured that nobody holds to its size.
#[must_use]
pub fn measured(volume: &PersistentVolume) -> MeasuredVolume {
    let claim = volume.spec.as_ref().and_then(|s| s.claim_ref.clone());
    let evicts = volume.annotations().get(OVERUSE);
    MeasuredVolume {
        bytes: size_of(volume),
        evicts: evicts.is_some_and(|word| word == EVICT),
        claim: claim.unwrap_or_else(|| volume.object_ref(&())),
    }
}

impl DiskObject {
    /// What events are about: the volume, or the snapshot.
    #[must_use]
    pub fn about(&self) -> ObjectReference {
        match self {
            Self::Volume(volume) => volume.object_ref(&()),
            Self::Content(content) => {
                let of = content.data.pointer("/spec/volumeSnapshotRef");
                let of = of.and_then(|r| serde_json::from_value(r.clone()).ok());
                let named = of.filter(|r: &ObjectReference| r.name.is_some());
                named.unwrap_or_else(|| content.object_ref(&content_kind()))
            }
        }
    }
}

/// Whether the volume was made for this disk, and is where such volumes are.
fn is_kept(disk: &Disk, volume: &PersistentVolume) -> bool {
    let maker = volume.annotations().get(PROVISIONED_BY);
    let local = volume.spec.as_ref().and_then(|s| s.local.as_ref());
    let folder = disk.folder(&volume.name_any());
    maker.is_some_and(|m| m == PROVISIONER)
        && folder.is_some_and(|f| local.is_some_and(|l| Path::new(&l.path) == f))
}

/// The folder of a snapshot, by its content: one that is made here is named by the snapshot's UID, one
/// that was there before by its handle.
#[must_use]
pub fn folder(content: &DynamicObject) -> Option<String> {
    if text(content, "/spec/driver") != PROVISIONER {
        return None;
    }
    let told = text(content, "/spec/source/snapshotHandle");
    if !told.is_empty() {
        let (_, folder) = snapshot_place(told)?;
        // Nobody removes a volume by naming it a snapshot.
        return folder.starts_with(SNAPSHOT).then(|| folder.to_owned());
    }
    let uid = text(content, "/spec/volumeSnapshotRef/uid");
    let plain = !uid.is_empty() && !uid.contains('/');
    plain.then(|| format!("{SNAPSHOT}{uid}"))
}

impl DiskTask {
    /// None: it is not this disk's, or has nothing to wait for.
    #[must_use]
    pub fn of_volume(disk: &Disk, volume: Arc<PersistentVolume>) -> Option<Self> {
        if !is_kept(disk, &volume) {
            return None;
        }
        let leaves = match volume.meta().deletion_timestamp {
            None => Removal::No,
            Some(_) => Removal::WithData,
        };
        let held = volume.finalizers().iter().any(|f| f == FINALIZER);
        (leaves == Removal::No || held).then(|| Self {
            from: volume.annotations().get(SOURCE).cloned(),
            bytes: size_of(&volume),
            leaves,
            object: DiskObject::Volume(volume),
        })
    }

    /// None: it is not this node's, or has nothing to wait for.
    #[must_use]
    pub fn of_content(node: &str, content: Arc<DynamicObject>) -> Option<Self> {
        folder(&content)?;
        let told = text(&content, "/spec/source/snapshotHandle");
        if snapshot_place(told).is_some_and(|(place, _)| place != node) {
            return None;
        }
        let has = |name: &str| content.finalizers().iter().any(|f| f == name);
        let leaves = match content.metadata.deletion_timestamp {
            None if is_ready(&content) => return None,
            None => Removal::No,
            // Somebody still has the snapshot; or it is not held by this node.
            Some(_) if has(CONTENT_BOUND) || !has(FINALIZER) => return None,
            Some(_) if text(&content, "/spec/deletionPolicy") == "Delete" => Removal::WithData,
            Some(_) => Removal::WithoutData,
        };
        let from = text(&content, "/spec/source/volumeHandle");
        Some(Self {
            from: Some(from).filter(|f| !f.is_empty()).map(str::to_owned),
            bytes: 0,
            leaves,
            object: DiskObject::Content(content),
        })
    }
}

fn is_ready(content: &DynamicObject) -> bool {
    let ready = content.data.pointer("/status/readyToUse");
    ready.and_then(|r| r.as_bool()) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_what_was_made_here_is_kept_here() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("v"), &dir.path().join("m")).unwrap();
        let volume = |name: &str, maker: &str, path: &Path| -> PersistentVolume {
            let volume = json!({ "metadata": { "name": name,
                "annotations": { PROVISIONED_BY: maker } }, "spec": { "local": { "path": path } } });
            serde_json::from_value(volume).unwrap()
        };
        let place = disk.dir().join("pvc-1");
        assert!(is_kept(&disk, &volume("pvc-1", PROVISIONER, &place)));
        assert!(!is_kept(&disk, &volume("pvc-1", "x.io/p", &place)));
        assert!(!is_kept(&disk, &volume("pvc-2", PROVISIONER, &place)));
        let outside = Path::new("/etc");
        assert!(!is_kept(&disk, &volume("pvc-1", PROVISIONER, outside)));
        let up = volume("..", PROVISIONER, &disk.dir().join(".."));
        assert!(!is_kept(&disk, &up));
    }

    fn content(change: impl FnOnce(&mut Value)) -> Arc<DynamicObject> {
        let mut content = json!({ "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshotContent",
            "metadata": { "name": "c", "finalizers": [FINALIZER, CONTENT_BOUND] },
            "spec": { "driver": PROVISIONER, "deletionPolicy": "Delete",
                "source": { "volumeHandle": "pvc-1" },
                "volumeSnapshotRef": { "namespace": "a", "name": "s", "uid": "u1" } } });
        change(&mut content);
        Arc::new(serde_json::from_value(content).unwrap())
    }

    #[test]
    fn a_snapshot_is_a_folder_of_its_own() {
        let name = |c: &Arc<DynamicObject>| folder(c);
        assert_eq!(name(&content(|_| ())).as_deref(), Some("snapshot-u1"));
        let other = content(|c| c["spec"]["driver"] = json!("x.io/p"));
        assert_eq!(name(&other), None);
        let told =
            |handle: &str| content(|c| c["spec"]["source"] = json!({ "snapshotHandle": handle }));
        assert_eq!(name(&told("n1/snapshot-7")).as_deref(), Some("snapshot-7"));
        for bad in [
            "n1/pvc-1",
            "n1/snapshot-1/..",
            "snapshot-1",
            "/snapshot-1",
            "n1/../x",
        ] {
            assert_eq!(name(&told(bad)), None, "{bad}");
        }
        assert!(DiskTask::of_content("n2", told("n1/snapshot-7")).is_none());
        assert!(DiskTask::of_content("n1", told("n1/snapshot-7")).is_some());
    }

    #[test]
    fn a_snapshot_is_made_once_and_goes_when_nobody_has_it() {
        let wanted = |c| DiskTask::of_content("n1", c);
        let first = wanted(content(|_| ())).unwrap();
        assert_eq!(first.from.as_deref(), Some("pvc-1"));
        assert_eq!(first.leaves, Removal::No);
        assert_eq!(first.object.about().name.as_deref(), Some("s"));
        assert!(wanted(content(|c| c["status"] = json!({ "readyToUse": true }))).is_none());
        let deleted = |finalizers: Value, policy: &str| {
            wanted(content(|c| {
                c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                c["metadata"]["finalizers"] = finalizers;
                c["spec"]["deletionPolicy"] = json!(policy);
            }))
            .map(|w| w.leaves)
        };
        assert_eq!(deleted(json!([FINALIZER, CONTENT_BOUND]), "Delete"), None);
        assert_eq!(
            deleted(json!([FINALIZER]), "Delete"),
            Some(Removal::WithData)
        );
        assert_eq!(
            deleted(json!([FINALIZER]), "Retain"),
            Some(Removal::WithoutData)
        );
        assert_eq!(deleted(json!(["x/y"]), "Delete"), None);
    }

    #[test]
    fn a_volume_that_is_only_measured_says_what_becomes_of_its_pods() {
        let volume = |annotations: Value| -> PersistentVolume {
            let volume = json!({ "metadata": { "name": "v", "annotations": annotations },
                "spec": { "capacity": { "storage": "1Mi" },
                    "claimRef": { "namespace": "a", "name": "c", "uid": "u" } } });
            serde_json::from_value(volume).unwrap()
        };
        let how = measured(&volume(json!({})));
        assert_eq!((how.bytes, how.evicts), (1 << 20, false));
        assert_eq!(how.claim.name.as_deref(), Some("c"));
        assert!(measured(&volume(json!({ OVERUSE: EVICT }))).evicts);
    }
}
