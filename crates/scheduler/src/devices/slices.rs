//! Slices of devices as the allocator sees them: read once when they appear.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Quantity;
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::node::Node;
use crate::selector_terms::{self, NodeTerm};

/// A device, by its driver, its pool and its name in that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    pub driver: Arc<str>,
    pub pool: Arc<str>,
    pub device: Arc<str>,
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// A value that says what a device is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    Bool(bool),
    Int(i64),
    Text(String),
    Version(String),
    /// A list, which v1.36 does not serve by default, or something newer.
    Unknown,
}

/// How much there is of something in a device, and in which parts it is given out.
#[derive(Clone, Debug)]
pub struct Capacity {
    pub value: Quantity,
    pub policy: Option<Policy>,
}

#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub default: Option<Quantity>,
    pub range: Option<Steps>,
    pub values: Vec<Quantity>,
}

#[derive(Clone, Debug)]
pub struct Steps {
    pub least: Quantity,
    pub most: Option<Quantity>,
    pub step: Option<Quantity>,
}

/// Where something can be used.
#[derive(Clone, Debug)]
pub enum NodeScope {
    Node(String),
    All,
    Selected(NodeSelector, Vec<NodeTerm>),
    /// Something newer.
    Unknown,
}

impl NodeScope {
    fn read(name: Option<&String>, all: Option<bool>, selector: Option<&NodeSelector>) -> Self {
        match (name.filter(|n| !n.is_empty()), selector) {
            (Some(name), _) => Self::Node(name.clone()),
            (None, _) if all == Some(true) => Self::All,
            (None, Some(selector)) => {
                Self::Selected(selector.clone(), selector_terms::node_terms(selector))
            }
            (None, None) => Self::Unknown,
        }
    }
    pub fn has(&self, node: &Node) -> bool {
        match self {
            Self::Node(name) => **name == *node.name,
            Self::All => true,
            Self::Selected(_, terms) => terms.iter().any(|t| t.matches(&node.name, &node.labels)),
            Self::Unknown => false,
        }
    }
}

/// Counters by the names of their set and their own.
pub type Counters = BTreeMap<(String, String), Quantity>;

#[derive(Clone, Debug)]
pub struct Device {
    pub name: Arc<str>,
    pub attributes: BTreeMap<String, Attribute>,
    pub capacity: BTreeMap<String, Capacity>,
    /// Several claims may have it at once.
    pub shared: bool,
    pub taints: Vec<k8s::DeviceTaint>,
    pub consumes: Counters,
    /// Where its slice leaves that to its devices.
    pub place: NodeScope,
    pub binds_to_node: bool,
    pub binding: Option<Vec<String>>,
    pub binding_failure: Option<Vec<String>>,
}

/// A slice of a pool.
#[derive(Clone, Debug)]
pub struct Slice {
    pub name: String,
    pub driver: Arc<str>,
    pub pool: Arc<str>,
    pub generation: i64,
    /// Slices that the pool has.
    pub count: i64,
    /// None where each device says it.
    pub place: Option<NodeScope>,
    pub devices: Vec<Device>,
    /// A slice has counters or devices.
    pub counters: Option<Counters>,
    /// Names of sets that it has twice.
    pub doubled_set: Option<String>,
}

pub fn quantity(text: &Text) -> Quantity {
    text.0.parse().unwrap_or_default()
}

fn counters<'a>(
    sets: impl Iterator<Item = (&'a String, &'a BTreeMap<String, k8s::Counter>)>,
) -> Counters {
    let each = sets.flat_map(|(set, counters)| {
        let all = counters.iter();
        all.map(move |(name, c)| ((set.clone(), name.clone()), quantity(&c.value)))
    });
    each.collect()
}

fn attribute(from: &k8s::DeviceAttribute) -> Attribute {
    let text = from.string.clone().map(Attribute::Text);
    from.int
        .map(Attribute::Int)
        .or_else(|| from.bool.map(Attribute::Bool))
        .or(text)
        .or_else(|| from.version.clone().map(Attribute::Version))
        .unwrap_or(Attribute::Unknown)
}

fn capacity(from: &k8s::DeviceCapacity) -> Capacity {
    let policy = from.request_policy.as_ref().map(|p| Policy {
        default: p.default.as_ref().map(quantity),
        range: p.valid_range.as_ref().map(|r| Steps {
            least: quantity(&r.min),
            most: r.max.as_ref().map(quantity),
            step: r.step.as_ref().map(quantity),
        }),
        values: p.valid_values.iter().flatten().map(quantity).collect(),
    });
    Capacity {
        value: quantity(&from.value),
        policy,
    }
}

impl Device {
    fn read(from: &k8s::Device) -> Self {
        let attributes = from.attributes.iter().flatten();
        let capacities = from.capacity.iter().flatten();
        let consumes = from.consumes_counters.iter().flatten();
        Self {
            name: from.name.as_str().into(),
            attributes: attributes
                .map(|(name, a)| (name.clone(), attribute(a)))
                .collect(),
            capacity: capacities
                .map(|(name, c)| (name.clone(), capacity(c)))
                .collect(),
            shared: from.allow_multiple_allocations == Some(true),
            taints: from.taints.clone().unwrap_or_default(),
            consumes: counters(consumes.map(|c| (&c.counter_set, &c.counters))),
            place: NodeScope::read(
                from.node_name.as_ref(),
                from.all_nodes,
                from.node_selector.as_ref(),
            ),
            binds_to_node: from.binds_to_node == Some(true),
            binding: from.binding_conditions.clone().filter(|c| !c.is_empty()),
            binding_failure: from
                .binding_failure_conditions
                .clone()
                .filter(|c| !c.is_empty()),
        }
    }

    /// An attribute by its whole name; one without a domain is of the driver.
    pub fn attribute(&self, driver: &str, name: &str) -> Option<&Attribute> {
        self.attributes.get(name).or_else(|| {
            let (domain, id) = name.split_once('/')?;
            (domain == driver).then(|| self.attributes.get(id))?
        })
    }
}

impl Slice {
    pub fn read(from: &k8s::ResourceSlice) -> Self {
        let spec = &from.spec;
        let each_says = spec.per_device_node_selection == Some(true);
        let place = NodeScope::read(
            spec.node_name.as_ref(),
            spec.all_nodes,
            spec.node_selector.as_ref(),
        );
        let sets = spec.shared_counters.as_ref().filter(|s| !s.is_empty());
        let mut names: Vec<&String> = sets
            .iter()
            .flat_map(|s| s.iter())
            .map(|s| &s.name)
            .collect();
        names.sort();
        let doubled = names.windows(2).find(|w| w.first() == w.last());
        Self {
            name: from.metadata.name.clone().unwrap_or_default(),
            driver: spec.driver.as_str().into(),
            pool: spec.pool.name.as_str().into(),
            generation: spec.pool.generation,
            count: spec.pool.resource_slice_count,
            place: (!each_says).then_some(place),
            devices: spec.devices.iter().flatten().map(Device::read).collect(),
            counters: sets.map(|s| counters(s.iter().map(|s| (&s.name, &s.counters)))),
            doubled_set: doubled.and_then(|w| w.first()).map(|n| (*n).clone()),
        }
    }

    /// Where one of its devices can be used.
    pub fn place_of<'a>(&'a self, device: &'a Device) -> &'a NodeScope {
        self.place.as_ref().unwrap_or(&device.place)
    }

    /// Whether anything of it matters on a node.
    pub fn concerns(&self, node: &Node) -> bool {
        self.counters.is_some()
            || match &self.place {
                Some(place) => place.has(node),
                None => self.devices.iter().any(|d| d.place.has(node)),
            }
    }

    pub fn id(&self, device: &Device) -> DeviceId {
        DeviceId {
            driver: self.driver.clone(),
            pool: self.pool.clone(),
            device: device.name.clone(),
        }
    }
}
