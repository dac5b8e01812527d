//! What is read of claims, volumes, classes and of what drivers say about nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::storage::v1 as api_storage;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::interned::{Labels, Strings};
use crate::node::Node;
use crate::selector_terms::{self, NodeTerm};

const BOUND: &str = "pv.kubernetes.io/bind-completed";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.annotations.as_ref()?.get(key)
}

fn class_of(meta: &ObjectMeta, class: Option<&String>) -> String {
    annotation(meta, OLD_CLASS)
        .or(class)
        .cloned()
        .unwrap_or_default()
}

fn bytes(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> i64 {
    list.and_then(|l| l.get(name)).map_or(0, quantity)
}

fn quantity(from: &Quantity) -> i64 {
    let read = from.0.parse::<api::quantity::Quantity>();
    read.map_or(0, |q| q.value())
}

/// How claims are named here: namespace and name.
pub fn key_of(namespace: &str, name: &str, strings: &mut Strings) -> Arc<str> {
    strings.get(&format!("{namespace}/{name}"))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub version: String,
    /// The volume's name; empty without.
    pub volume: String,
    /// The binder is through with it.
    completed: bool,
    pub selected_node: Option<Arc<str>>,
    pub class: String,
    pub lost: bool,
    pub deleting: bool,
    pub bytes: i64,
    pub modes: Vec<String>,
    pub block: bool,
    pub selector: Option<LabelSelector>,
    /// UID of the owner that controls it.
    pub controller: Option<String>,
    pub attributes_class: String,
}

impl Claim {
    pub fn read(from: &k8s::PersistentVolumeClaim, strings: &mut Strings) -> Self {
        let meta = &from.metadata;
        let empty = k8s::PersistentVolumeClaimSpec::default();
        let spec = from.spec.as_ref().unwrap_or(&empty);
        let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
        let phase = from.status.as_ref().and_then(|s| s.phase.as_deref());
        let owners = meta.owner_references.iter().flatten();
        let mut controllers = owners.filter(|o| o.controller == Some(true));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            volume: spec.volume_name.clone().unwrap_or_default(),
            completed: annotation(meta, BOUND).is_some(),
            selected_node: annotation(meta, SELECTED_NODE)
                .filter(|n| !n.is_empty())
                .map(|n| strings.get(n)),
            class: class_of(meta, spec.storage_class_name.as_ref()),
            lost: phase == Some("Lost"),
            deleting: meta.deletion_timestamp.is_some(),
            bytes: bytes(requests, "storage"),
            modes: spec.access_modes.clone().unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            selector: spec
                .selector
                .as_ref()
                .map(|s| selector_terms::selector(Some(s))),
            controller: controllers.next().map(|o| o.uid.clone()),
            attributes_class: spec
                .volume_attributes_class_name
                .clone()
                .unwrap_or_default(),
        }
    }

    pub fn is_bound(&self) -> bool {
        self.completed && !self.volume.is_empty()
    }

    /// At most one pod may use it.
    pub fn is_for_one_pod(&self) -> bool {
        self.modes.iter().any(|m| m == "ReadWriteOncePod")
    }
}

/// The claim that a volume says it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub key: Arc<str>,
    /// Empty where a person named the claim.
    pub uid: String,
}

#[derive(Clone, Debug)]
pub struct Volume {
    pub version: String,
    pub class: String,
    pub bytes: i64,
    pub modes: Vec<String>,
    pub block: bool,
    pub claim: Option<Owner>,
    affinity: Option<Vec<NodeTerm>>,
    pub labels: Labels,
    pub available: bool,
    pub deleting: bool,
    /// Driver and handle.
    pub csi: Option<(String, String)>,
    pub attributes_class: String,
}

impl Volume {
    pub fn read(from: &k8s::PersistentVolume, strings: &mut Strings) -> Self {
        let meta = &from.metadata;
        let empty = k8s::PersistentVolumeSpec::default();
        let spec = from.spec.as_ref().unwrap_or(&empty);
        let phase = from.status.as_ref().and_then(|s| s.phase.as_deref());
        let required = spec
            .node_affinity
            .as_ref()
            .and_then(|a| a.required.as_ref());
        let claim = spec.claim_ref.as_ref().map(|c| Owner {
            key: key_of(
                c.namespace.as_deref().unwrap_or_default(),
                c.name.as_deref().unwrap_or_default(),
                strings,
            ),
            uid: c.uid.clone().unwrap_or_default(),
        });
        Self {
            version: meta.resource_version.clone().unwrap_or_default(),
            class: class_of(meta, spec.storage_class_name.as_ref()),
            bytes: bytes(spec.capacity.as_ref(), "storage"),
            modes: spec.access_modes.clone().unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            claim,
            affinity: required.map(selector_terms::node_terms),
            labels: strings.labels(meta.labels.as_ref()),
            available: phase == Some("Available"),
            deleting: meta.deletion_timestamp.is_some(),
            csi: spec
                .csi
                .as_ref()
                .map(|c| (c.driver.clone(), c.volume_handle.clone())),
            attributes_class: spec
                .volume_attributes_class_name
                .clone()
                .unwrap_or_default(),
        }
    }

    /// Whether the node can have it.
    pub fn reaches(&self, node: &Node) -> bool {
        let terms = self.affinity.as_ref();
        terms.is_none_or(|all| all.iter().any(|t| t.matches(&node.name, &node.labels)))
    }

    /// Whether it is for this claim: by UID, or named by a person.
    pub fn is_for(&self, key: &str, claim: &Claim) -> bool {
        let owner = self.claim.as_ref();
        owner.is_some_and(|o| *o.key == *key && (o.uid.is_empty() || o.uid == claim.uid))
    }
}

/// One of several sets of node labels for which volumes can be made: all keys must have one of
/// their values.
pub type Topology = Vec<(String, Vec<String>)>;

#[derive(Clone, Debug)]
pub struct Class {
    pub provisioner: String,
    /// Volumes are bound when a pod needs them.
    pub waits: bool,
    topologies: Vec<Topology>,
}

impl Class {
    pub fn read(from: &api_storage::StorageClass) -> Self {
        let terms = from.allowed_topologies.iter().flatten();
        let topologies = terms.map(|term| {
            let keys = term.match_label_expressions.iter().flatten();
            keys.map(|e| (e.key.clone(), e.values.clone())).collect()
        });
        Self {
            provisioner: from.provisioner.clone(),
            waits: from.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            topologies: topologies.collect(),
        }
    }

    /// Whether volumes are made by somebody.
    pub fn provisions(&self) -> bool {
        !matches!(
            self.provisioner.as_str(),
            "" | "kubernetes.io/no-provisioner"
        )
    }

    /// Whether volumes can be made for this node.
    pub fn allows(&self, node: &Node) -> bool {
        let has = |(key, values): &(String, Vec<String>)| {
            let value = node.labels.get(key);
            value.is_some_and(|v| values.iter().any(|allowed| **allowed == **v))
        };
        let means = |term: &Topology| !term.is_empty() && term.iter().all(has);
        self.topologies.is_empty() || self.topologies.iter().any(means)
    }
}

/// How many volumes of each driver a node can have: of a CSINode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(Vec<(String, i64)>);

impl Limits {
    pub fn read(from: &api_storage::CSINode) -> Self {
        let drivers = from.spec.drivers.iter();
        let limited = drivers.filter_map(|d| {
            let count = d.allocatable.as_ref()?.count?;
            Some((d.name.clone(), i64::from(count)))
        });
        Self(limited.collect())
    }

    pub fn of(&self, driver: &str) -> Option<i64> {
        self.0.iter().find(|(d, _)| d == driver).map(|(_, n)| *n)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver {
    /// It says how much room there is where.
    pub reports_capacity: bool,
}

impl Driver {
    pub fn read(from: &api_storage::CSIDriver) -> Self {
        Self {
            reports_capacity: from.spec.storage_capacity.unwrap_or(false),
        }
    }
}

/// Room for volumes of a class in a part of the cluster.
#[derive(Clone, Debug)]
pub struct Capacity {
    pub class: String,
    topology: LabelSelector,
    largest_bytes: Option<i64>,
}

impl Capacity {
    pub fn read(from: &api_storage::CSIStorageCapacity) -> Self {
        let largest = from.maximum_volume_size.as_ref().or(from.capacity.as_ref());
        Self {
            class: from.storage_class_name.clone(),
            topology: selector_terms::selector(from.node_topology.as_ref()),
            largest_bytes: largest.map(quantity),
        }
    }

    pub fn has_room(&self, bytes: i64, node: &Node) -> bool {
        self.largest_bytes.is_some_and(|most| most >= bytes) && self.topology.matches(&node.labels)
    }
}

/// A volume that is attached to a node, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub node: String,
    pub driver: String,
    pub volume: String,
}

impl Attachment {
    /// None of one that names no PersistentVolume.
    pub fn read(from: &api_storage::VolumeAttachment) -> Option<Self> {
        Some(Self {
            node: from.spec.node_name.clone(),
            driver: from.spec.attacher.clone(),
            volume: from.spec.source.persistent_volume_name.clone()?,
        })
    }
}
