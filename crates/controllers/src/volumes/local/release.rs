//! A volume that is not needed any more: it is deleted where its policy says so. The finalizer
//! holds it until its node has removed the folder; a node that is gone for good has nothing left to
//! remove.

use std::sync::Arc;

use api::local_volumes::FINALIZER;
use control::Plan;
use control::action::{Action, Target, reference};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;

use super::super::{has_finalizer, local_node, volume_phase};
use crate::common::{is_deleting, uid_of, value_of};

pub struct VolumeToReclaim {
    pub volume: Arc<PersistentVolume>,
    /// Whether its node exists.
    pub node: bool,
}

pub fn plan(seen: &VolumeToReclaim) -> Plan {
    let volume = &*seen.volume;
    let target = Target::of::<PersistentVolume>("", &volume.name_any());
    if is_deleting(volume) {
        if seen.node || !has_finalizer(volume, FINALIZER) {
            return Plan::nothing();
        }
        let mut free = volume.clone();
        let all = free.metadata.finalizers.get_or_insert_default();
        all.retain(|f| f != FINALIZER);
        let update = Action::Update {
            target,
            subresource: "",
            object: value_of(&free),
        };
        let said = format!(
            "node {:?} is gone: what it had of the volume is not removed",
            local_node(volume)
        );
        return Plan::from(update.noted(
            &reference(volume),
            ("VolumeDelete", said),
            ("VolumeFailedDelete", "{error}".into()),
        ));
    }
    let policy = volume.spec.as_ref();
    let policy = policy.and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    let is_free = matches!(volume_phase(volume), "Released" | "Failed");
    if is_free && policy == Some("Delete") {
        return Action::delete(target, Some(uid_of(volume))).into();
    }
    Plan::nothing()
}
