//! A claim that wants more: the volume is a folder, so more is promised, in writes each of which may
//! be repeated: the volume has it, its node says that it holds the volume to it, the claim has it.

use std::sync::Arc;

use control::Plan;
use control::action::{Action, Target, reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::super::{capacity, is_held_to_size, is_to_grow, local_node, requested};
use super::make::Offer;
use crate::common::{update_status, value_of};

/// The condition of a claim whose node has to act.
const PENDING: &str = "FileSystemResizePending";

pub struct ClaimToExpand {
    pub claim: Arc<PersistentVolumeClaim>,
    pub volume: Arc<PersistentVolume>,
    /// The volume's node; `None` when it is gone.
    pub offer: Option<Offer>,
}

pub fn plan(seen: &ClaimToExpand) -> Plan {
    if !is_to_grow(&seen.claim) {
        return Plan::nothing();
    }
    let (has, wants) = (capacity(&seen.volume), requested(&seen.claim));
    let say = |warning, reason, message| Action::Event {
        about: reference(&*seen.claim),
        warning,
        reason,
        message,
    };
    let name = seen.volume.name_any();
    if has >= wants && !is_held_to_size(&seen.volume) {
        let mut plan = Plan::nothing();
        plan.actions.extend(waits(seen));
        return plan;
    }
    if has >= wants {
        let mut plan = Plan::from(granted(seen));
        let message = format!("Resize volume succeeded: {name} has {has}");
        plan.then
            .push(say(false, "VolumeResizeSuccessful", message));
        return plan;
    }
    let left = seen.offer.as_ref().and_then(Offer::left_bytes).unwrap_or(0);
    if left < wants.value().saturating_sub(has.value()) {
        let left = api::Quantity::from_bytes(left.max(0));
        let message = format!("resize volume {name} failed: its node has {left} left");
        return say(true, "VolumeResizeFailed", message).into();
    }
    let mut volume = PersistentVolume::clone(&seen.volume);
    let spec = volume.spec.get_or_insert_default();
    let capacity = spec.capacity.get_or_insert_default();
    capacity.insert("storage".into(), Quantity(wants.to_string()));
    Action::Update {
        target: Target::of::<PersistentVolume>("", &name),
        subresource: "",
        object: value_of(&volume),
    }
    .into()
}

/// The claim says once that its node has to act.
fn waits(seen: &ClaimToExpand) -> Option<Action> {
    let mut status = value_of(&seen.claim.status);
    let conditions = status["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default();
    if conditions.iter().any(|c| c["type"] == PENDING) {
        return None;
    }
    let node = local_node(&seen.volume);
    conditions.push(json!({ "type": PENDING, "status": "True",
        "message": format!("Waiting for node {node} to hold the volume to its new size.") }));
    status["conditions"] = conditions.into();
    Some(update_status(&*seen.claim, status))
}

/// The claim's status with all of its volume; nothing is under way any more.
fn granted(seen: &ClaimToExpand) -> Action {
    let mut status = value_of(&seen.claim.status);
    status["capacity"] = json!({ "storage": capacity(&seen.volume).to_string() });
    if let Some(conditions) = status["conditions"].as_array_mut() {
        let resizing = |c: &Value| {
            let ty = c["type"].as_str().unwrap_or_default();
            ["Resizing", PENDING, "ControllerResizeError"].contains(&ty)
        };
        conditions.retain(|c| !resizing(c));
    }
    if let Some(all) = status.as_object_mut() {
        for field in ["allocatedResources", "allocatedResourceStatuses"] {
            all.remove(field);
        }
    }
    update_status(&*seen.claim, status)
}
