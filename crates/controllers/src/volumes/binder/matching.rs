//! Which volume suits a claim: one that names it already, else the smallest that has all it asks
//! for and offers as few more ways of access as possible.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::super::{capacity, class_of_claim, class_of_volume, requested, volume_phase};
use crate::common::{is_deleting, key_of, selector_of, uid_of};

/// Whether the volume names the claim, and no other one of that name.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let (namespace, name) = key_of(claim);
    reference.is_some_and(|r| {
        let uid = r.uid.as_deref().unwrap_or_default();
        r.namespace.as_deref() == Some(&namespace)
            && r.name.as_deref() == Some(&name)
            && (uid.is_empty() || uid == uid_of(claim))
    })
}

fn is_claimed(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_some())
}

/// Whether one is a block device and the other a file system.
pub fn differ_in_mode(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    of_claim.unwrap_or("Filesystem") != of_volume.unwrap_or("Filesystem")
}

fn differ_in_attributes(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let of_claim = claim.spec.as_ref();
    let of_claim = of_claim.and_then(|s| s.volume_attributes_class_name.as_deref());
    let of_volume = volume.spec.as_ref();
    let of_volume = of_volume.and_then(|s| s.volume_attributes_class_name.as_deref());
    of_claim.unwrap_or_default() != of_volume.unwrap_or_default()
}

fn modes(volume: &PersistentVolume) -> &[String] {
    let modes = volume.spec.as_ref().and_then(|s| s.access_modes.as_deref());
    modes.unwrap_or_default()
}

fn has_modes(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let wanted = claim.spec.as_ref().and_then(|s| s.access_modes.as_ref());
    let mut wanted = wanted.into_iter().flatten();
    wanted.all(|m| modes(volume).contains(m))
}

/// Why a claim cannot have the volume that it names, in upstream's words.
pub fn objection(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    if is_deleting(volume) {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    let why = if capacity(volume).value() < requested(claim).value() {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if differ_in_attributes(claim, volume) {
        "volumeAttributesClassName does not match"
    } else if differ_in_mode(claim, volume) {
        "incompatible volumeMode"
    } else if !has_modes(claim, volume) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// The volume for a claim. `delayed`: the scheduler chooses, so only one that names the claim
/// counts.
pub fn best(
    claim: &PersistentVolumeClaim,
    candidates: &[Arc<PersistentVolume>],
    delayed: bool,
) -> Option<Arc<PersistentVolume>> {
    // As upstream, those with the fewest ways of access come first.
    let mut groups: BTreeMap<(usize, Vec<String>), Vec<&Arc<PersistentVolume>>> = BTreeMap::new();
    for volume in candidates.iter().filter(|v| has_modes(claim, v)) {
        let mut modes = modes(volume).to_vec();
        modes.sort();
        modes.dedup();
        groups.entry((modes.len(), modes)).or_default().push(volume);
    }
    groups
        .values()
        .find_map(|group| best_of(claim, group, delayed))
        .cloned()
}

fn best_of<'a>(
    claim: &PersistentVolumeClaim,
    group: &[&'a Arc<PersistentVolume>],
    delayed: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let wanted = requested(claim);
    let possible = |v: &&&Arc<PersistentVolume>| {
        (!is_claimed(v) || is_bound_to(v, claim))
            && capacity(v) >= wanted
            && !differ_in_mode(claim, v)
            && !differ_in_attributes(claim, v)
            && !is_deleting(&****v)
    };
    let possible: Vec<_> = group.iter().filter(possible).copied().collect();
    if let Some(named) = possible.iter().find(|v| is_bound_to(v, claim)) {
        return Some(named);
    }
    if delayed {
        return None;
    }
    let asked = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    let selector = asked.map(|s| selector_of(Some(s)));
    let fits = |v: &&Arc<PersistentVolume>| {
        volume_phase(v) == "Available"
            && class_of_volume(v) == class_of_claim(claim)
            && selector
                .as_ref()
                .is_none_or(|s| s.matches(&v.metadata.labels))
    };
    possible
        .into_iter()
        .filter(fits)
        .min_by(|a, b| capacity(a).cmp(&capacity(b)))
}
