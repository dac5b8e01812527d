//! A volume for a claim, on the node that the scheduler has chosen for its first pod; where the
//! class does not wait for a pod, on the node with the most room; a copy, where its original is.

use std::sync::Arc;

use api::local_volumes::{
    CAPACITY, ENFORCED, EVICT, FINALIZER, NODE_LABEL, OVERUSE, OVERUSE_PARAMETER, PATH,
    PROVISIONED_BY, PROVISIONER, QUOTA, SOURCE, WARN,
};
use control::Plan;
use control::action::{Action, Target, reference};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::json;

use super::super::{SELECTED_NODE, annotation, class_of_claim, requested, waits_for_consumer};
use super::source::DataSource;
use crate::common::{key_of, uid_of, value_of};
use crate::volumes::protection::VOLUME_FINALIZER;

/// Until what a volume begins with is looked for again, milliseconds.
const AGAIN_MILLIS: u64 = 5_000;
/// Until it is looked again whether there is room.
const ROOM_AGAIN_MILLIS: u64 = 30_000;
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// A node, and what of it is given away.
pub struct Offer {
    pub node: Arc<Node>,
    pub promised_bytes: i64,
}

impl Offer {
    /// Bytes that are left; `None` where the node keeps no volumes.
    pub fn left_bytes(&self) -> Option<i64> {
        annotation(&*self.node, PATH)?;
        let capacity: api::Quantity = annotation(&*self.node, CAPACITY)?.parse().ok()?;
        Some(capacity.value().saturating_sub(self.promised_bytes))
    }
}

pub struct ClaimToProvision {
    pub claim: Arc<PersistentVolumeClaim>,
    pub class: Arc<StorageClass>,
    /// The node that the scheduler has chosen, or that has what the volume begins with.
    pub selected: Option<String>,
    /// That node, or all.
    pub offers: Vec<Offer>,
    /// What it begins with.
    pub source: DataSource,
}

/// The name of a claim's volume, as other provisioners give it.
pub fn name(uid: &str) -> String {
    format!("pvc-{uid}")
}

pub fn plan(seen: &ClaimToProvision) -> Plan {
    if let Some(why) = refusal(&seen.claim, &seen.class) {
        return failed(seen, &why).into();
    }
    if let DataSource::Missing(why) = &seen.source {
        let mut plan = Plan::from(failed(seen, why));
        plan.wake_after_millis = Some(AGAIN_MILLIS);
        return plan;
    }
    if seen.selected.is_none() && waits_for_consumer(&seen.class) {
        return Plan::nothing();
    }
    match choose(seen) {
        Ok(node) => make(seen, node),
        Err(why) => {
            let mut plan = Plan::from(failed(seen, &why));
            // The scheduler has no choice where there is an original.
            let again = choose_again(seen).filter(|_| seen.source == DataSource::Nothing);
            // Where it has none, nothing else says that there is room by now.
            plan.wake_after_millis = again.is_none().then_some(ROOM_AGAIN_MILLIS);
            plan.actions.extend(again);
            plan
        }
    }
}

/// What such a volume cannot be, whatever the node.
fn refusal(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let one_node = |m: &String| m == "ReadWriteOnce" || m == "ReadWriteOncePod";
    if let Some(mode) = modes.iter().find(|m| !one_node(m)) {
        return Some(format!(
            "a volume on one node's disk cannot be {mode}: only ReadWriteOnce and ReadWriteOncePod"
        ));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("a volume on a node's disk is a folder: it cannot be a block device".into());
    }
    if spec.selector.is_some() {
        return Some("claim.spec.selector is not supported: a new volume has no labels".into());
    }
    for (name, value) in class.parameters.iter().flatten() {
        if name != OVERUSE_PARAMETER {
            return Some(format!("class parameter {name:?} is not known"));
        }
        if ![EVICT, WARN].contains(&value.as_str()) {
            return Some(format!(
                "class parameter {name:?} is {value:?}, and can be {EVICT:?} or {WARN:?}"
            ));
        }
    }
    if class.mount_options.iter().flatten().next().is_some() {
        return Some("mount options have no effect on a folder of a node's disk".into());
    }
    None
}

/// The node for the volume, or why there is none.
fn choose(seen: &ClaimToProvision) -> Result<&Node, String> {
    let wanted = requested(&seen.claim).value();
    if let DataSource::Copy { bytes, folder, .. } = &seen.source
        && *bytes > wanted
    {
        return Err(format!(
            "the volume begins as a copy of {folder}, which has {}, and the claim asks for {}",
            api::Quantity::from_bytes(*bytes),
            requested(&seen.claim)
        ));
    }
    let allowed = |o: &&Offer| is_allowed(&seen.class, &o.node);
    if let Some(node) = &seen.selected {
        let offer = seen.offers.first();
        let offer = offer.ok_or_else(|| format!("node {node:?} not found"))?;
        let left = offer.left_bytes();
        let left = left.ok_or_else(|| format!("node {node:?} does not offer local volumes"))?;
        if !allowed(&offer) {
            return Err(format!("node {node:?} is not among the class's topologies"));
        }
        if left < wanted {
            return Err(format!(
                "node {node:?} has {} left for local volumes, and the claim asks for {}",
                api::Quantity::from_bytes(left.max(0)),
                requested(&seen.claim)
            ));
        }
        return Ok(&offer.node);
    }
    let can_run = |o: &&Offer| {
        let spec = o.node.spec.as_ref();
        spec.is_none_or(|s| s.unschedulable != Some(true))
    };
    let offers = seen.offers.iter().filter(allowed).filter(can_run);
    let with_room = offers.filter_map(|o| Some((o.left_bytes()?, o)));
    with_room
        .filter(|(left, _)| *left >= wanted)
        .max_by_key(|(left, o)| (*left, std::cmp::Reverse(o.node.name_any())))
        .map(|(_, o)| &*o.node)
        .ok_or_else(|| "no node has that much left for local volumes".into())
}

/// Whether the class lets its volumes be on the node.
fn is_allowed(class: &StorageClass, node: &Node) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|t| !t.is_empty()) else {
        return true;
    };
    let labels = node.labels();
    terms.iter().any(|term| {
        let mut all = term.match_label_expressions.iter().flatten();
        all.all(|e| labels.get(&e.key).is_some_and(|v| e.values.contains(v)))
    })
}

fn make(seen: &ClaimToProvision, node: &Node) -> Plan {
    let (namespace, claim) = key_of(&*seen.claim);
    let name = name(&uid_of(&*seen.claim));
    let folder = annotation(node, PATH).unwrap_or_default();
    let host = node.labels().get(HOSTNAME).cloned();
    let host = host.unwrap_or_else(|| node.name_any());
    let mut annotations = json!({ PROVISIONED_BY: PROVISIONER });
    if let DataSource::Copy { folder, .. } = &seen.source {
        annotations[SOURCE] = json!(folder);
    }
    let parameters = seen.class.parameters.as_ref();
    let evicts = parameters
        .and_then(|p| p.get(OVERUSE_PARAMETER))
        .is_some_and(|v| v == EVICT);
    if evicts {
        annotations[OVERUSE] = json!(EVICT);
    }
    let size = match (annotation(node, QUOTA) == Some(ENFORCED), evicts) {
        (true, _) => "Its size is enforced by the file system of its node",
        (false, true) => {
            "The file system of its node has no quotas: its size is not enforced, and pods are evicted that have more in it"
        }
        (false, false) => {
            "The file system of its node has no quotas: its size is not enforced, and an event says when there is more in it"
        }
    };
    let object = json!({
        "metadata": {
            "name": name,
            "labels": { NODE_LABEL: node.name_any() },
            "annotations": annotations,
            "finalizers": [VOLUME_FINALIZER, FINALIZER],
        },
        "spec": {
            "capacity": { "storage": requested(&seen.claim).to_string() },
            "accessModes": seen.claim.spec.as_ref().and_then(|s| s.access_modes.clone()),
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": seen.class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class_of_claim(&seen.claim),
            "claimRef": reference(&*seen.claim),
            "local": { "path": format!("{}/{name}", folder.trim_end_matches('/')) },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions":
                [{ "key": HOSTNAME, "operator": "In", "values": [host] }] }] } },
        },
    });
    let target = Target::of::<PersistentVolume>("", &name);
    let success = format!("Successfully provisioned volume {name}. {size}");
    let what = format!("failed to provision volume for claim \"{namespace}/{claim}\"");
    Plan::from(Action::Create { target, object }.noted(
        &reference(&*seen.claim),
        ("ProvisioningSucceeded", success),
        ("ProvisioningFailed", format!("{what}: {{error}}")),
    ))
}

fn failed(seen: &ClaimToProvision, why: &str) -> Action {
    let (namespace, name) = key_of(&*seen.claim);
    let class = class_of_claim(&seen.claim);
    Action::Event {
        about: reference(&*seen.claim),
        warning: true,
        reason: "ProvisioningFailed",
        message: format!(
            "failed to provision volume for claim \"{namespace}/{name}\" with StorageClass {class:?}: {why}"
        ),
    }
}

/// Gives the choice of a node back to the scheduler.
fn choose_again(seen: &ClaimToProvision) -> Option<Action> {
    let mut claim = PersistentVolumeClaim::clone(&seen.claim);
    claim.metadata.annotations.as_mut()?.remove(SELECTED_NODE)?;
    let (namespace, name) = key_of(&claim);
    Some(Action::Update {
        target: Target::of::<PersistentVolumeClaim>(&namespace, &name),
        subresource: "",
        object: value_of(&claim),
    })
}
