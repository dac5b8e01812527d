//! What was heard of Services and EndpointSlices, and which Services that touches.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;

use crate::model::{Endpoint, Name, Service, endpoints_of};

/// The label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A listing that is under way: what was seen so far, so that what was not is gone at its end.
#[derive(Debug, Default)]
struct Listing {
    seen: BTreeSet<Name>,
    running: bool,
    /// Whether a listing was ever complete.
    complete: bool,
}

/// The state of the watches.
#[derive(Debug, Default)]
pub struct State {
    node: String,
    zone: Option<String>,
    services: BTreeMap<Name, Service>,
    /// Slices by their own names: whose they are, and what they hold.
    slices: BTreeMap<Name, (Name, Vec<Endpoint>)>,
    by_service: BTreeMap<Name, BTreeSet<Name>>,
    service_listing: Listing,
    slice_listing: Listing,
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
        self.service_listing.complete && self.slice_listing.complete
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
        self.zone.as_deref()
    }

    /// Takes an event of the watch of this node's object. Nothing waits for it: without a zone,
    /// hints of zones do not count.
    pub fn node_event(&mut self, event: Event<core::Node>) {
        let (Event::InitApply(node) | Event::Apply(node)) = event else {
            return;
        };
        let labels = node.metadata.labels.unwrap_or_default();
        let zone = labels.get(ZONE).filter(|z| !z.is_empty()).cloned();
        if self.zone != zone {
            self.zone = zone;
            self.touched.extend(self.services.keys().cloned());
        }
    }

    /// Takes an event of the Services' watch.
    pub fn service_event(&mut self, event: Event<core::Service>) {
        match event {
            Event::Init => self.service_listing.begin(),
            Event::InitApply(service) | Event::Apply(service) => {
                let Some(name) = name_of(&service.metadata) else {
                    return;
                };
                self.service_listing.see(&name);
                self.set_service(name, Service::of(&service));
            }
            Event::Delete(service) => {
                if let Some(name) = name_of(&service.metadata) {
                    self.set_service(name, None);
                }
            }
            Event::InitDone => {
                for name in self.service_listing.end(self.services.keys()) {
                    self.set_service(name, None);
                }
            }
        }
    }

    /// Takes an event of the EndpointSlices' watch.
    pub fn slice_event(&mut self, event: Event<EndpointSlice>) {
        match event {
            Event::Init => self.slice_listing.begin(),
            Event::InitApply(slice) | Event::Apply(slice) => {
                let Some(name) = name_of(&slice.metadata) else {
                    return;
                };
                self.slice_listing.see(&name);
                let content = endpoints_of(&slice, &self.node);
                self.set_slice(name, content);
            }
            Event::Delete(slice) => {
                if let Some(name) = name_of(&slice.metadata) {
                    self.set_slice(name, None);
                }
            }
            Event::InitDone => {
                for name in self.slice_listing.end(self.slices.keys()) {
                    self.set_slice(name, None);
                }
            }
        }
    }

    fn set_service(&mut self, name: Name, service: Option<Service>) {
        let changed = match service {
            Some(service) => {
                let same = self.services.get(&name) == Some(&service);
                self.services.insert(name.clone(), service);
                !same
            }
            None => self.services.remove(&name).is_some(),
        };
        if changed {
            self.touched.insert(name);
        }
    }

    fn set_slice(&mut self, slice: Name, content: Option<(Name, Vec<Endpoint>)>) {
        if self.slices.get(&slice) == content.as_ref() {
            return;
        }
        if let Some((owner, _)) = self.slices.remove(&slice) {
            if let Some(slices) = self.by_service.get_mut(&owner) {
                slices.remove(&slice);
                if slices.is_empty() {
                    self.by_service.remove(&owner);
                }
            }
            self.touched.insert(owner);
        }
        if let Some((owner, endpoints)) = content {
            self.by_service
                .entry(owner.clone())
                .or_default()
                .insert(slice.clone());
            self.touched.insert(owner.clone());
            self.slices.insert(slice, (owner, endpoints));
        }
    }
}

impl Listing {
    fn begin(&mut self) {
        self.seen.clear();
        self.running = true;
    }

    fn see(&mut self, name: &Name) {
        if self.running {
            self.seen.insert(name.clone());
        }
    }

    /// Ends the listing; gives what is known but was not seen.
    fn end<'a>(&mut self, known: impl Iterator<Item = &'a Name>) -> Vec<Name> {
        self.running = false;
        self.complete = true;
        let seen = mem::take(&mut self.seen);
        known
            .filter(|name| !seen.contains(*name))
            .cloned()
            .collect()
    }
}

fn name_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<Name> {
    let namespace = metadata.namespace.clone().unwrap_or_default();
    Some(Name {
        namespace,
        name: metadata.name.clone()?,
    })
}
