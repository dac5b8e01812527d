//! What was heard of Services and EndpointSlices, and which Services that touches.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use client::reflector::{Changed, Table};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Event;

use crate::model::{Endpoint, Name, Service, endpoints_of};

/// The label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The state of the watches.
#[derive(Debug, Default)]
pub struct State {
    node: String,
    /// The zone of this node, if it is in one.
    zone: Table<(), String>,
    services: Table<Name, Service>,
    /// Slices by their own names: whose they are, and what they hold.
    slices: Table<Name, (Name, Vec<Endpoint>)>,
    by_service: BTreeMap<Name, BTreeSet<Name>>,
    touched: BTreeSet<Name>,
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

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &Service)> {
        self.services.iter()
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
        self.zone.get(&()).map(String::as_str)
    }

    /// Takes an event of the watch of this node's object. Nothing waits for it: without a zone,
    /// hints of zones do not count.
    pub fn node_event(&mut self, event: Event<core::Node>) {
        let keep = |node: core::Node| {
            let zone = node.metadata.labels?.remove(ZONE)?;
            (!zone.is_empty()).then_some(zone)
        };
        if !self.zone.take(event, |_| (), keep).is_empty() {
            let all = self.services.iter().map(|(name, _)| name.clone());
            self.touched.extend(all);
        }
    }

    /// Takes an event of the Services' watch.
    pub fn service_event(&mut self, event: Event<core::Service>) {
        let key = |s: &core::Service| name_of(&s.metadata);
        let changed = self.services.take(event, key, |s| Service::of(&s));
        self.touched.extend(changed.into_iter().map(|c| c.key));
    }

    /// Takes an event of the EndpointSlices' watch.
    pub fn slice_event(&mut self, event: Event<EndpointSlice>) {
        let key = |s: &EndpointSlice| name_of(&s.metadata);
        let node = &self.node;
        let keep = |s: EndpointSlice| endpoints_of(&s, node);
        for changed in self.slices.take(event, key, keep) {
            self.slice_changed(changed);
        }
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
