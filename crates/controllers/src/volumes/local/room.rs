//! How much room nodes' disks have for volumes of a class, reported to the scheduler in the words of CSI:
//! one CSIStorageCapacity for each node and class. Pure.

use std::sync::Arc;

use api::local_volumes::{NODE_LABEL, PROVISIONER};
use control::Plan;
use control::action::{Action, Target};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::make::{HOSTNAME, Offer};
use crate::common::{is_deleting, safe_hash, uid_of, value_of};

/// Where they are.
pub const NAMESPACE: &str = "kube-system";
/// Letters of the hash of class and node.
const LETTERS: usize = 16;

pub struct NodeRoom {
    pub class: String,
    pub node: String,
    /// The class, if there is one.
    pub found: Option<Arc<StorageClass>>,
    /// None where the node is gone.
    pub offer: Option<Offer>,
    pub known: Option<Arc<CSIStorageCapacity>>,
}

/// Whether the provisioner makes volumes of a class.
pub fn is_of_ours(class: &StorageClass) -> bool {
    class.provisioner == PROVISIONER && !is_deleting(class)
}

/// The name of the object for a class and a node.
pub fn name(class: &str, node: &str) -> String {
    let both = safe_hash(format!("{class}/{node}").as_bytes(), LETTERS);
    format!("tiphys-local-{both}")
}

/// Class and node of an object of ours.
pub fn of(capacity: &CSIStorageCapacity) -> Option<(String, String)> {
    let node = capacity.labels().get(NODE_LABEL)?;
    let class = &capacity.storage_class_name;
    (capacity.name_any() == name(class, node)).then(|| (class.clone(), node.clone()))
}

pub fn plan(seen: &NodeRoom) -> Plan {
    let class = seen.found.as_deref().filter(|c| is_of_ours(c));
    let offer = seen.offer.as_ref().filter(|_| class.is_some());
    let target = Target::of::<CSIStorageCapacity>(NAMESPACE, &name(&seen.class, &seen.node));
    let wanted = offer.and_then(|o| wanted(seen, o));
    match (wanted, seen.known.as_deref()) {
        (None, None) => Plan::nothing(),
        (None, Some(known)) => Action::delete(target, Some(uid_of(known))).into(),
        (Some(object), None) => Action::Create { target, object }.into(),
        (Some(object), Some(known)) => {
            let mut now = value_of(known);
            if now["nodeTopology"] != object["nodeTopology"] {
                // It cannot be changed; what goes is made again.
                return Action::delete(target, Some(uid_of(known))).into();
            }
            if now["capacity"] == object["capacity"] {
                return Plan::nothing();
            }
            now["capacity"] = object["capacity"].clone();
            Action::Update {
                target,
                subresource: "",
                object: now,
            }
            .into()
        }
    }
}

fn wanted(seen: &NodeRoom, offer: &Offer) -> Option<Value> {
    let left = offer.left_bytes()?.max(0);
    let host = offer.node.labels().get(HOSTNAME);
    Some(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity",
        "metadata": {
            "name": name(&seen.class, &seen.node), "namespace": NAMESPACE,
            "labels": { NODE_LABEL: seen.node },
        },
        "storageClassName": seen.class,
        "nodeTopology": { "matchLabels": { HOSTNAME: host.unwrap_or(&seen.node) } },
        "capacity": api::Quantity::from_bytes(left).to_string(),
    }))
}
