//! Persistent volumes: claims and volumes find each other (`binder`), stay while they are used
//! (`protection`), are made for pods that bring their own (`ephemeral`), grow (`expand`), and come
//! from the nodes' disks (`local`). Here is what these know in common: annotations, finalizers,
//! classes, and which pods use a claim.

pub use api::local_volumes::PROVISIONED_BY;
use api::{Quantity, local_volumes};
use client::Informer;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use std::sync::Arc;

use crate::common::{controller_of, uid_of};
pub use crate::finalizers::has as has_finalizer;

pub mod binder;
pub mod ephemeral;
pub mod expand;
pub mod local;
pub mod protection;

/// The claim's binding was completed once: what is missing since then is lost.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was made by the binder, not by a person: it may be undone.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The node that the scheduler has chosen for the first pod of a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who is to make a volume for a claim; the second is the name that it had before.
pub const PROVISIONER_NAMES: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];
/// What a volume had before it grew, until its file system has grown, too.
pub const BEFORE_GROWTH: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
/// The annotation of a class that was once how it was named.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Marks the class of claims that name none.
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// The index of pods by the claims that they use, as `namespace/claim`.
pub const PODS_BY_CLAIM: &str = "by claim";

pub fn annotation<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    let all = object.meta().annotations.as_ref()?;
    all.get(key).map(String::as_str)
}

/// Whether it was changed.
pub fn annotate(meta: &mut ObjectMeta, key: &str, value: &str) -> bool {
    let all = meta.annotations.get_or_insert_default();
    all.insert(key.to_owned(), value.to_owned()).as_deref() != Some(value)
}

/// The class that a claim asks for; empty: none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    annotation(claim, OLD_CLASS)
        .or_else(|| spec.and_then(|s| s.storage_class_name.as_deref()))
        .unwrap_or_default()
}

/// Whether a claim says which class it wants, be it none.
pub fn names_class(claim: &PersistentVolumeClaim) -> bool {
    let spec = claim.spec.as_ref();
    annotation(claim, OLD_CLASS).is_some() || spec.is_some_and(|s| s.storage_class_name.is_some())
}

pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    annotation(volume, OLD_CLASS)
        .or_else(|| spec.and_then(|s| s.storage_class_name.as_deref()))
        .unwrap_or_default()
}

/// Whether claims of the class are bound only when the scheduler has chosen a node.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The class of claims that name none: of several the newest, then the first by name.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let is_default = |c: &&Arc<StorageClass>| annotation(&***c, IS_DEFAULT) == Some("true");
    let newest_first = |c: &&Arc<StorageClass>| {
        let made = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (std::cmp::Reverse(made), c.name_any())
    };
    let found = classes.iter().filter(is_default).min_by_key(newest_first);
    found.map(|c| c.name_any())
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    amount(requests.and_then(|r| r.get("storage")))
}

/// How large a volume is.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    amount(capacity.and_then(|c| c.get("storage")))
}

/// A quantity that the API has checked; what is none counts as nothing.
pub fn amount(text: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> Quantity {
    text.and_then(|q| q.0.parse().ok())
        .unwrap_or(Quantity::ZERO)
}

pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    let status = claim.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

pub fn volume_phase(volume: &PersistentVolume) -> &str {
    let status = volume.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The volume that a claim names; empty: none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    spec.and_then(|s| s.volume_name.as_deref())
        .unwrap_or_default()
}

/// The claim that a volume of a pod uses.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume
        .ephemeral
        .as_ref()
        .map(|_| ephemeral_name(pod, &volume.name))
}

/// The name of the claim that is made for an ephemeral volume of a pod.
pub fn ephemeral_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.name_any())
}

/// Whether the claim was made for this pod.
pub fn is_made_for(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    controller_of(claim).is_some_and(|o| o.uid == uid_of(pod))
}

/// All claims that a pod uses, as `namespace/claim`.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let names = volumes.into_iter().flatten();
    names
        .filter_map(|v| claim_name(pod, v))
        .map(|name| format!("{namespace}/{name}"))
        .collect()
}

/// Lets pods be found by their claims.
pub fn index_pods(pods: &Informer<Pod>) {
    pods.index(PODS_BY_CLAIM, claims_of);
}

/// How much a bound claim was given.
pub fn given(claim: &PersistentVolumeClaim) -> Quantity {
    let capacity = claim.status.as_ref().and_then(|s| s.capacity.as_ref());
    amount(capacity.and_then(|c| c.get("storage")))
}

/// Whether a bound claim asks for more than it has.
pub fn is_to_grow(claim: &PersistentVolumeClaim) -> bool {
    let is_bound = annotation(claim, BIND_COMPLETED).is_some();
    let has = given(claim);
    is_bound && !has.is_zero() && requested(claim) > has
}

/// Whether the provisioner of the nodes' disks made the volume.
pub fn is_local(volume: &PersistentVolume) -> bool {
    annotation(volume, PROVISIONED_BY) == Some(local_volumes::PROVISIONER)
}

/// Whether the node of such a volume holds it to the size that it has now, or has said that it cannot.
pub fn is_held_to_size(volume: &PersistentVolume) -> bool {
    let Some(limit) = annotation(volume, local_volumes::LIMIT) else {
        return false;
    };
    let held = |limit: Quantity| limit >= capacity(volume);
    limit == local_volumes::MEASURED || limit.parse().is_ok_and(held)
}

/// The node whose disk such a volume is on.
pub fn local_node(volume: &PersistentVolume) -> &str {
    let label = volume.metadata.labels.as_ref();
    label
        .and_then(|l| l.get(local_volumes::NODE_LABEL))
        .map(String::as_str)
        .unwrap_or_default()
}
