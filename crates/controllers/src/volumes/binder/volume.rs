//! What to do for a volume: its phase follows its claim, and without the claim it is given back
//! as its policy says. The binder itself deletes and empties no volume: who made one deletes it
//! (`pv.kubernetes.io/provisioned-by`), and what a person made is a person's to delete.

use std::sync::Arc;

use control::Plan;
use control::action::{Action, Target, reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::json;

use super::super::{BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, volume_name, volume_phase};
use super::matching;
use crate::common::{update_status, value_of};

pub struct ObservedVolume {
    pub volume: Arc<PersistentVolume>,
    /// The claim that the volume names: the very one, by its UID.
    pub claim: Option<Arc<PersistentVolumeClaim>>,
}

pub fn plan(seen: &ObservedVolume) -> Plan {
    let volume = &*seen.volume;
    let claim_ref = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let uid = claim_ref.and_then(|r| r.uid.as_deref()).unwrap_or_default();
    if uid.is_empty() {
        // Free, or kept for a claim that does not know of it yet.
        return phase(volume, "Available", None);
    }
    match seen.claim.as_deref() {
        None => released(volume),
        Some(claim) if volume_name(claim).is_empty() => unfinished(volume, claim),
        Some(claim) if volume_name(claim) == volume.name_any() => phase(volume, "Bound", None),
        Some(_) => unneeded(volume),
    }
}

/// The claim's own plan goes on with the binding; where it cannot, both get an event that says why.
fn unfinished(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    if !matching::differ_in_mode(claim, volume) {
        return Plan::nothing();
    }
    let say = |about, message| Action::Event {
        about,
        warning: true,
        reason: "VolumeMismatch",
        message,
    };
    let to_volume = format!(
        "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
        claim.name_any()
    );
    let to_claim = format!(
        "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
        volume.name_any()
    );
    let mut plan = Plan::from(say(reference(volume), to_volume));
    plan.actions.push(say(reference(claim), to_claim));
    plan
}

/// The claim is bound to another volume.
fn unneeded(volume: &PersistentVolume) -> Plan {
    let deletes = policy(volume) == "Delete";
    if deletes && annotation(volume, PROVISIONED_BY).is_some() {
        return released(volume);
    }
    let mut free = volume.clone();
    let spec = free.spec.get_or_insert_default();
    if annotation(volume, BOUND_BY_CONTROLLER).is_some() {
        spec.claim_ref = None;
        let all = free.metadata.annotations.as_mut();
        all.map(|a| a.remove(BOUND_BY_CONTROLLER));
    } else if let Some(reference) = &mut spec.claim_ref {
        // A person has kept it for that name.
        reference.uid = None;
    }
    Action::Update {
        target: Target::of::<PersistentVolume>("", &volume.name_any()),
        subresource: "",
        object: value_of(&free),
    }
    .into()
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|s| s.persistent_volume_reclaim_policy.as_deref())
        .unwrap_or("Retain")
}

/// The claim is gone. What could not be given back stays failed, so that it is seen.
fn released(volume: &PersistentVolume) -> Plan {
    if volume_phase(volume) != "Released" && volume_phase(volume) != "Failed" {
        return phase(volume, "Released", None);
    }
    match policy(volume) {
        "Retain" => Plan::nothing(),
        "Recycle" => failed(
            volume,
            "VolumeFailedRecycle",
            "No recycler plugin found for the volume!".into(),
        ),
        "Delete" => match no_deleter(volume) {
            Some(why) => failed(volume, "VolumeFailedDelete", why),
            None => Plan::nothing(),
        },
        _ => failed(
            volume,
            "VolumeUnknownReclaimPolicy",
            "Volume has unrecognized PersistentVolumeReclaimPolicy".into(),
        ),
    }
}

/// Why nobody will delete the volume; `None`: whoever made it does.
fn no_deleter(volume: &PersistentVolume) -> Option<String> {
    let maker = annotation(volume, PROVISIONED_BY).unwrap_or_default();
    if maker.starts_with("kubernetes.io/") {
        return Some(format!("no volume plugin matched name: {maker}"));
    }
    let is_csi = volume.spec.as_ref().is_some_and(|s| s.csi.is_some());
    if !maker.is_empty() || is_csi {
        return None;
    }
    Some(format!(
        "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
        volume.name_any()
    ))
}

fn failed(volume: &PersistentVolume, reason: &'static str, message: String) -> Plan {
    if volume_phase(volume) == "Failed" {
        return Plan::nothing();
    }
    let mut plan = phase(volume, "Failed", Some(&message));
    plan.actions.push(Action::Event {
        about: reference(volume),
        warning: true,
        reason,
        message,
    });
    plan
}

fn phase(volume: &PersistentVolume, phase: &str, message: Option<&str>) -> Plan {
    if volume_phase(volume) == phase {
        return Plan::nothing();
    }
    let mut status = value_of(&volume.status);
    if !status.is_object() {
        status = json!({});
    }
    status["phase"] = json!(phase);
    status["message"] = json!(message.unwrap_or_default());
    update_status(volume, status).into()
}
