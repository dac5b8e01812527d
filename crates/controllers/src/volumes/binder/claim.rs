//! What to do for a claim: bind it, have a volume made for it, or say why it waits or what it has
//! lost.

use std::sync::Arc;

use api::Quantity;
use control::Plan;
use control::action::{Action, Target, reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::super::{
    BEFORE_GROWTH, BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONER_NAMES, SELECTED_NODE, annotate,
    annotation, claim_phase, class_of_claim, names_class, volume_name, waits_for_consumer,
};
use super::matching;
use crate::common::{key_of, uid_of, update_status, value_of};

pub struct ObservedClaim {
    pub claim: Arc<PersistentVolumeClaim>,
    /// The volume that the claim names.
    pub named: Option<Arc<PersistentVolume>>,
    /// Volumes of the claim's class, and those that name the claim.
    pub candidates: Vec<Arc<PersistentVolume>>,
    pub class: Option<Arc<StorageClass>>,
    /// The class of claims that name none.
    pub default_class: Option<String>,
    /// Pods that use the claim and have no node.
    pub waiting: Vec<String>,
}

pub fn plan(seen: &ObservedClaim) -> Plan {
    if annotation(&*seen.claim, BIND_COMPLETED).is_some() {
        return bound_once(seen);
    }
    if !volume_name(&seen.claim).is_empty() {
        return wants_one(seen);
    }
    let delayed = seen.class.as_deref().is_some_and(waits_for_consumer);
    match matching::best(&seen.claim, &seen.candidates, delayed) {
        Some(volume) => bind(&volume, &seen.claim),
        None => without_volume(seen, delayed),
    }
}

/// No volume suits the claim: one is made, or waited for.
fn without_volume(seen: &ObservedClaim, delayed: bool) -> Plan {
    let claim = &seen.claim;
    if !names_class(claim)
        && let Some(class) = &seen.default_class
    {
        let mut claim = PersistentVolumeClaim::clone(claim);
        claim.spec.get_or_insert_default().storage_class_name = Some(class.clone());
        return Plan::from(update(&claim)).because("the class of claims that name none");
    }
    let mut plan = if delayed && annotation(&**claim, SELECTED_NODE).is_none() {
        waits(seen)
    } else if !class_of_claim(claim).is_empty() {
        provision(seen)
    } else {
        let why = "no persistent volumes available for this claim and no storage class is set";
        say(claim, false, "FailedBinding", why.to_owned()).into()
    };
    // As upstream: the status is set only where nothing is being made.
    plan.actions.extend(set_phase(claim, "Pending", None));
    plan
}

fn waits(seen: &ObservedClaim) -> Plan {
    let (reason, message) = match &seen.waiting[..] {
        [] => (
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding".to_owned(),
        ),
        [one] => (
            "WaitForPodScheduled",
            format!("waiting for pod {one} to be scheduled"),
        ),
        more => (
            "WaitForPodScheduled",
            format!("waiting for pods {} to be scheduled", more.join(",")),
        ),
    };
    say(&seen.claim, false, reason, message).into()
}

/// Says who is to make a volume. None of them is the binder itself.
fn provision(seen: &ObservedClaim) -> Plan {
    let claim = &seen.claim;
    let failed = |text: String| say(claim, true, "ProvisioningFailed", text).into();
    let Some(class) = &seen.class else {
        let class = class_of_claim(claim);
        return failed(format!("storageclass.storage.k8s.io {class:?} not found"));
    };
    let provisioner = &class.provisioner;
    if provisioner.starts_with("kubernetes.io/") {
        return failed(format!("no volume plugin matched name: {provisioner}"));
    }
    let mut changed = PersistentVolumeClaim::clone(claim);
    let mut is_new = false;
    for name in PROVISIONER_NAMES {
        is_new |= annotate(&mut changed.metadata, name, provisioner);
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    let mut plan = Plan::from(say(claim, false, "ExternalProvisioning", message));
    if is_new {
        plan.actions.push(update(&changed));
    }
    plan
}

/// The claim names a volume, and was never bound to it.
fn wants_one(seen: &ObservedClaim) -> Plan {
    let claim = &seen.claim;
    let Some(volume) = &seen.named else {
        return pending(claim, None);
    };
    let claimed = volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_some());
    if matching::is_bound_to(volume, claim) {
        return bind(volume, claim);
    }
    if claimed {
        let name = volume.name_any();
        let text = format!("volume {name:?} already bound to a different claim.");
        return pending(claim, Some(say(claim, true, "FailedBinding", text)));
    }
    match matching::objection(claim, volume) {
        Some(why) => {
            let name = volume.name_any();
            let text = format!("Cannot bind to requested volume {name:?}: {why}");
            pending(claim, Some(say(claim, true, "VolumeMismatch", text)))
        }
        None => bind(volume, claim),
    }
}

/// The claim was bound once: it is bound, or has lost what it had.
fn bound_once(seen: &ObservedClaim) -> Plan {
    let claim = &seen.claim;
    let lost = |reason, text: &str| {
        if claim_phase(claim) == "Lost" {
            return Plan::nothing();
        }
        let mut plan = pending_as(claim, "Lost");
        plan.actions.push(say(claim, true, reason, text.to_owned()));
        plan
    };
    if volume_name(claim).is_empty() {
        let text =
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost("ClaimLost", text);
    }
    let Some(volume) = &seen.named else {
        let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lost("ClaimLost", text);
    };
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    match reference {
        Some(r) if r.uid.as_deref() != Some(&uid_of(&**claim)) && !is_named_only(r, claim) => {
            let text = "Two claims are bound to the same volume, this one is bound incorrectly";
            lost("ClaimMisbound", text)
        }
        _ => bind(volume, claim),
    }
}

/// Whether the reference names the claim, and no UID yet.
fn is_named_only(
    reference: &k8s_openapi::api::core::v1::ObjectReference,
    claim: &PersistentVolumeClaim,
) -> bool {
    let (namespace, name) = key_of(claim);
    reference.uid.as_deref().unwrap_or_default().is_empty()
        && reference.namespace.as_deref() == Some(&namespace)
        && reference.name.as_deref() == Some(&name)
}

/// The next step of a binding.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    if let Some(named) = naming(volume, claim) {
        let target = Target::of::<PersistentVolume>("", &volume.name_any());
        return Action::Update {
            target,
            subresource: "",
            object: value_of(&named),
        }
        .into();
    }
    let mut changed = claim.clone();
    let mut is_new = false;
    if volume_name(claim) != volume.name_any() {
        changed.spec.get_or_insert_default().volume_name = Some(volume.name_any());
        if annotation(claim, BOUND_BY_CONTROLLER).is_none() {
            annotate(&mut changed.metadata, BOUND_BY_CONTROLLER, "yes");
        }
        is_new = true;
    }
    if annotation(claim, BIND_COMPLETED).is_none() {
        is_new |= annotate(&mut changed.metadata, BIND_COMPLETED, "yes");
    }
    if is_new {
        return update(&changed).into();
    }
    let mut plan = Plan::nothing();
    plan.actions.extend(set_phase(claim, "Bound", Some(volume)));
    plan
}

/// The volume with the claim's name in it; `None` when it has it.
fn naming(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let now = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let is_full = now.is_some_and(|r| r.uid.as_deref() == Some(&uid_of(claim)));
    let by_us = !matching::is_bound_to(volume, claim);
    if is_full && !by_us {
        return None;
    }
    let mut named = volume.clone();
    named.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    if by_us {
        annotate(&mut named.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    Some(named)
}

fn pending(claim: &PersistentVolumeClaim, event: Option<Action>) -> Plan {
    let mut plan = pending_as(claim, "Pending");
    plan.actions.extend(event);
    plan
}

fn pending_as(claim: &PersistentVolumeClaim, phase: &str) -> Plan {
    let mut plan = Plan::nothing();
    plan.actions.extend(set_phase(claim, phase, None));
    plan
}

/// The claim's status, where it is another one. What a volume has is taken when the claim becomes
/// bound, and not later: a difference then says that the volume is growing.
fn set_phase(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<Action> {
    let now = value_of(&claim.status);
    let mut status = if now.is_object() {
        now.clone()
    } else {
        json!({})
    };
    let before = claim_phase(claim);
    status["phase"] = json!(phase);
    let smaller = volume.and_then(|v| annotation(v, BEFORE_GROWTH));
    let smaller = smaller.filter(|text| text.parse::<Quantity>().is_ok());
    match volume.map(|v| value_of(&v.spec)) {
        None => {
            for field in [
                "accessModes",
                "capacity",
                "currentVolumeAttributesClassName",
            ] {
                status[field] = Value::Null;
            }
        }
        Some(spec) => {
            status["accessModes"] = spec["accessModes"].clone();
            if before != phase {
                status["capacity"] = spec["capacity"].clone();
                // Its file system is still of that size.
                if let Some(size) = smaller {
                    status["capacity"]["storage"] = json!(size);
                }
            }
            if before == "Pending" {
                let class = "volumeAttributesClassName";
                status["currentVolumeAttributesClassName"] = spec[class].clone();
            }
        }
    }
    if let Some(all) = status.as_object_mut() {
        all.retain(|_, v| !v.is_null());
    }
    (status != now).then(|| update_status(claim, status))
}

fn update(claim: &PersistentVolumeClaim) -> Action {
    let (namespace, name) = key_of(claim);
    Action::Update {
        target: Target::of::<PersistentVolumeClaim>(&namespace, &name),
        subresource: "",
        object: value_of(claim),
    }
}

fn say(
    claim: &PersistentVolumeClaim,
    warning: bool,
    reason: &'static str,
    message: String,
) -> Action {
    Action::Event {
        about: reference(claim),
        warning,
        reason,
        message,
    }
}
