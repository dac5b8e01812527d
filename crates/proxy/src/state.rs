//! What was heard of Services, EndpointSlices and ranges of Services' addresses, and which Services
//! that touches.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use client::reflector::{Changed, Table};
use host::nft::Prefix;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Event;

use crate::model::{Endpoint, Name, Service, changed_at, endpoints_of};

/// The label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A node that the cluster autoscaler is about to remove.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// So many times of changes at most wait for the kernel: of more, as while it refuses, the figure
/// says nothing.
const CHANGES: usize = 4096;

/// What matters of this node's own object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Here {
    zone: Option<String>,
    /// It is about to be removed.
    leaving: bool,
}

impl Here {
    fn of(node: core::Node) -> Self {
        let taints = node.spec.and_then(|s| s.taints).unwrap_or_default();
        let gone = node.metadata.deletion_timestamp.is_some();
        let zone = node.metadata.labels.and_then(|mut l| l.remove(ZONE));
        Self {
            zone: zone.filter(|zone| !zone.is_empty()),
            leaving: gone || taints.iter().any(|t| t.key == LEAVING),
        }
    }
}

/// The state of the watches.
#[derive(Debug, Default)]
pub struct State {
    node: String,
    here: Table<(), Here>,
    services: Table<Name, Service>,
    /// Slices by their own names: whose they are, and what they hold.
    slices: Table<Name, (Name, Vec<Endpoint>)>,
    by_service: BTreeMap<Name, BTreeSet<Name>>,
    /// Services that ask for more than rules, so that not all have to be looked through.
    special: BTreeSet<Name>,
    touched: BTreeSet<Name>,
    /// The ranges of Services' addresses, by the names of their objects.
    ranges: Table<String, Vec<Prefix>>,
    ranges_changed: bool,
    /// When what was heard of endpoints happened.
    changes: Vec<Timestamp>,
}

impl State {
    /// Nothing heard yet.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            ..Self::default()
        }
    }

    /// Whether both first listings are complete: before, nothing may be concluded.
    pub fn is_complete(&self) -> bool {
        self.services.is_complete() && self.slices.is_complete()
    }

    /// The Services that changed, or whose endpoints did, since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<Name> {
        mem::take(&mut self.touched)
    }

    /// When that happened, as far as it was said, since the last call.
    pub fn take_changes(&mut self) -> Vec<Timestamp> {
        mem::take(&mut self.changes)
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &Service)> {
        self.services.iter()
    }

    /// How many there are.
    pub fn services_count(&self) -> usize {
        self.services.len()
    }

    /// Those with a health check node port, or with an address that a node announces.
    pub fn special(&self) -> impl Iterator<Item = (&Name, &Service)> {
        let all = self.special.iter();
        all.filter_map(|name| Some((name, self.services.get(name)?)))
    }

    /// A Service.
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    /// The endpoints of a Service, of all its slices.
    pub fn endpoints(&self, service: &Name) -> Vec<Endpoint> {
        let slices = self.by_service.get(service).into_iter().flatten();
        slices
            .filter_map(|slice| self.slices.get(slice))
            .flat_map(|(_, e)| e.clone())
            .collect()
    }

    /// The zone that the node is in.
    pub fn zone(&self) -> Option<&str> {
        self.here.get(&())?.zone.as_deref()
    }

    /// Whether load balancers may send to this node: not when it is about to go, or gone. Before
    /// anything was heard of it, nothing speaks against it.
    pub fn is_eligible(&self) -> bool {
        match self.here.get(&()) {
            Some(here) => !here.leaving,
            None => !self.here.is_complete(),
        }
    }

    /// Takes an event of the watch of this node's object. Nothing waits for it: without a zone,
    /// hints of zones do not count.
    pub fn node_event(&mut self, event: Event<core::Node>) {
        let before = self.zone().map(str::to_owned);
        self.here.take(event, |_| (), |node| Some(Here::of(node)));
        if self.zone() != before.as_deref() {
            let all = self.services.iter().map(|(name, _)| name.clone());
            self.touched.extend(all);
        }
    }

    /// The ranges of Services' addresses, each once.
    pub fn ranges(&self) -> Vec<Prefix> {
        let mut all = Vec::new();
        for range in self.ranges.iter().flat_map(|(_, ranges)| ranges) {
            if !all.contains(range) {
                all.push(*range);
            }
        }
        all
    }

    /// Whether they changed since the last call.
    pub fn take_ranges_changed(&mut self) -> bool {
        mem::take(&mut self.ranges_changed)
    }

    /// Takes an event of the ServiceCIDRs' watch. Nothing waits for it: rules of Services lead by
    /// addresses.
    pub fn range_event(&mut self, event: Event<ServiceCIDR>) {
        let key = |range: &ServiceCIDR| range.metadata.name.clone().unwrap_or_default();
        let changed = self.ranges.take(event, key, |range| {
            let cidrs = range.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
            Some(cidrs.iter().filter_map(|text| text.parse().ok()).collect())
        });
        self.ranges_changed |= !changed.is_empty();
    }

    /// Takes an event of the Services' watch; gives how many changed.
    pub fn service_event(&mut self, event: Event<core::Service>) -> usize {
        let key = |s: &core::Service| name_of(&s.metadata);
        let changed = self.services.take(event, key, |s| Service::of(&s));
        let count = changed.len();
        for name in changed.into_iter().map(|c| c.key) {
            let service = self.services.get(&name);
            if service.is_some_and(|s| s.health_port.is_some() || !s.announcers.is_empty()) {
                self.special.insert(name.clone());
            } else {
                self.special.remove(&name);
            }
            self.touched.insert(name);
        }
        count
    }

    /// Takes an event of the EndpointSlices' watch; gives how many changed.
    pub fn slice_event(&mut self, event: Event<EndpointSlice>) -> usize {
        let key = |s: &EndpointSlice| name_of(&s.metadata);
        let node = &self.node;
        let keep = |s: EndpointSlice| endpoints_of(&s, node);
        let at = match &event {
            Event::Apply(slice) | Event::InitApply(slice) => changed_at(slice),
            _ => None,
        };
        let all = self.slices.take(event, key, keep);
        let count = all.len();
        if count > 0 && self.changes.len() < CHANGES {
            self.changes.extend(at);
        }
        for changed in all {
            self.slice_changed(changed);
        }
        count
    }

    fn slice_changed(&mut self, changed: Changed<Name, (Name, Vec<Endpoint>)>) {
        let slice = changed.key;
        if let Some((owner, _)) = changed.old {
            if let Some(slices) = self.by_service.get_mut(&owner) {
                slices.remove(&slice);
                if slices.is_empty() {
                    self.by_service.remove(&owner);
                }
            }
            self.touched.insert(owner);
        }
        if let Some((owner, _)) = self.slices.get(&slice) {
            self.touched.insert(owner.clone());
            let slices = self.by_service.entry(owner.clone()).or_default();
            slices.insert(slice);
        }
    }
}

fn name_of(metadata: &ObjectMeta) -> Name {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    Name {
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
    }
}
