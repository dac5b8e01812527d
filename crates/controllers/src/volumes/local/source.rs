//! What a claim's volume begins with: nothing, a copy of another claim's volume, or a snapshot. Then
//! it is on the same node, whatever the scheduler would choose.

use api::local_volumes::{PROVISIONER, SNAPSHOT_GROUP, snapshot_place};
use client::Informer;
use client::custom_kinds::text;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use super::super::{BIND_COMPLETED, annotation, capacity, is_local, local_node, volume_name};
use super::snapshot::content_name;
use super::snapshot_objects::{SnapshotKind, SnapshotObjects};
use crate::common::{is_deleting, key_of};

/// What a volume begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataSource {
    Nothing,
    /// A copy of a folder.
    Copy {
        node: String,
        folder: String,
        /// The least that the volume must have.
        bytes: i64,
    },
    /// Why not yet, or never.
    Missing(String),
}

/// What a claim names.
struct NamedSource<'a> {
    group: &'a str,
    kind: &'a str,
    name: &'a str,
    /// Of another namespace.
    elsewhere: bool,
}

fn named(claim: &PersistentVolumeClaim) -> Option<NamedSource<'_>> {
    let spec = claim.spec.as_ref()?;
    let own = claim.metadata.namespace.as_deref();
    if let Some(r) = &spec.data_source_ref {
        let namespace = r.namespace.as_deref();
        return Some(NamedSource {
            group: r.api_group.as_deref().unwrap_or_default(),
            kind: &r.kind,
            name: &r.name,
            elsewhere: namespace.is_some_and(|n| !n.is_empty() && Some(n) != own),
        });
    }
    let r = spec.data_source.as_ref()?;
    Some(NamedSource {
        group: r.api_group.as_deref().unwrap_or_default(),
        kind: &r.kind,
        name: &r.name,
        elsewhere: false,
    })
}

/// Whether a claim names something that its volume begins with.
pub fn names_one(claim: &PersistentVolumeClaim) -> bool {
    named(claim).is_some()
}

/// Where it is looked for.
pub struct Caches<'a> {
    pub claims: &'a Informer<PersistentVolumeClaim>,
    pub volumes: &'a Informer<PersistentVolume>,
    pub known: &'a SnapshotObjects,
}

impl Caches<'_> {
    pub fn source(&self, claim: &PersistentVolumeClaim) -> DataSource {
        let Some(named) = named(claim) else {
            return DataSource::Nothing;
        };
        let (namespace, _) = key_of(claim);
        let (kind, name) = (named.kind, named.name);
        let found = match (named.group, kind) {
            _ if named.elsewhere => Err(format!(
                "{kind} {name:?} is in another namespace, which this provisioner does not copy from"
            )),
            ("", "PersistentVolumeClaim") => self.of_claim(&namespace, name),
            (SNAPSHOT_GROUP, "VolumeSnapshot") => self.of_snapshot(&namespace, name),
            (group, _) => Err(format!(
                "a volume on a node's disk cannot be made from a {kind} of {group:?}"
            )),
        };
        found.unwrap_or_else(DataSource::Missing)
    }

    fn of_claim(&self, namespace: &str, name: &str) -> Result<DataSource, String> {
        let claim = self.claims.get(namespace, name);
        let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        if annotation(&*claim, BIND_COMPLETED).is_none() {
            return Err(format!("persistentvolumeclaim {name:?} is not bound"));
        }
        let volume = self.volumes.get("", volume_name(&claim));
        let volume = volume.filter(|v| is_local(v) && !is_deleting(&**v));
        let volume = volume.ok_or_else(|| {
            format!("persistentvolumeclaim {name:?} has no volume that {PROVISIONER} made")
        })?;
        Ok(DataSource::Copy {
            node: local_node(&volume).to_owned(),
            folder: volume.name_any(),
            bytes: capacity(&volume).value(),
        })
    }

    fn of_snapshot(&self, namespace: &str, name: &str) -> Result<DataSource, String> {
        let snapshot = self.known.get(SnapshotKind::Snapshot, namespace, name);
        let snapshot = snapshot.ok_or_else(|| format!("volumesnapshot {name:?} not found"))?;
        if snapshot.data["status"]["readyToUse"].as_bool() != Some(true) {
            return Err(format!("volumesnapshot {name:?} is not ready to use"));
        }
        let content = self
            .known
            .get(SnapshotKind::Content, "", &content_name(&snapshot));
        let content = content.filter(|c| text(c, "/spec/driver") == PROVISIONER);
        let content = content.ok_or_else(|| {
            format!("volumesnapshot {name:?} has no content that {PROVISIONER} made")
        })?;
        // Of a name that somebody else has written into a snapshot's status nothing is believed.
        let of = |part: &str| text(&content, &format!("/spec/volumeSnapshotRef/{part}"));
        if of("namespace") != namespace || of("name") != name {
            return Err(format!(
                "the content of volumesnapshot {name:?} is another's"
            ));
        }
        let handle = text(&content, "/status/snapshotHandle");
        let (node, folder) = snapshot_place(handle)
            .ok_or_else(|| format!("volumesnapshot {name:?} has no place: {handle:?}"))?;
        Ok(DataSource::Copy {
            node: node.to_owned(),
            folder: folder.to_owned(),
            bytes: content.data["status"]["restoreSize"].as_i64().unwrap_or(0),
        })
    }
}
