//! What the names of the cluster stand for: a pure value made of Services, EndpointSlices and
//! Namespaces. It knows no messages and no sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use client::reflector::{Changed, Table};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Event;

/// Namespace and name, which several tables share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in it.
    pub name: Arc<str>,
}

impl Key {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// Keys in their order. Most often it is one: for that a tree would take half a kilobyte, of each
/// address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Keys(Vec<Key>);

impl Keys {
    fn insert(&mut self, key: &Key) {
        if let Err(at) = self.0.binary_search(key) {
            if self.0.is_empty() {
                self.0.reserve_exact(1);
            }
            self.0.insert(at, key.clone());
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Ok(at) = self.0.binary_search(key) {
            self.0.remove(at);
        }
    }
}

/// A port with a name; SRV records exist only for those.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its name; may be empty.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// Its number.
    pub number: u16,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// Addresses of its own.
    Addressed {
        /// The cluster addresses.
        ips: Vec<IpAddr>,
        /// The Service's ports.
        ports: Box<[Port]>,
    },
    /// The addresses of its endpoints.
    Headless,
    /// Another name.
    External(String),
}

impl Service {
    /// The part of a Service that names depend on.
    pub fn of(service: &core::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return Some(Self::External(spec.external_name.clone()?));
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            return Some(Self::Headless);
        }
        let texts = spec
            .cluster_ip
            .iter()
            .chain(spec.cluster_ips.iter().flatten());
        let ips: BTreeSet<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                number: u16::try_from(port.port).ok()?,
            })
        });
        Some(Self::Addressed {
            ips: ips.into_iter().collect(),
            ports: ports.collect(),
        })
    }
}

/// An endpoint that is ready.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its host name, or its address with dashes.
    pub label: String,
    /// The name of its pod, where it has no host name and that can stand for one.
    pub pod: Option<String>,
    /// Its address.
    pub ip: IpAddr,
    /// The ports of its slice.
    pub ports: Arc<[Port]>,
}

/// The label with the name of a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Where the control plane says when what a slice speaks of changed.
const CHANGED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The Service that a slice is of, and when the change happened that it was written for, as text; none if
/// it does not say.
pub fn change_of(slice: &EndpointSlice) -> Option<(Key, String)> {
    let at = slice.metadata.annotations.as_ref()?.get(CHANGED)?;
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    let namespace = slice.metadata.namespace.as_deref()?;
    Some((Key::new(namespace, service), at.clone()))
}

fn endpoints_of(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports: Arc<[Port]> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                number: u16::try_from(port.port?).ok()?,
            })
        })
        .collect();
    let mut endpoints = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let ready = endpoint
            .conditions
            .as_ref()
            .and_then(|c| c.ready)
            .unwrap_or(true);
        for ip in endpoint
            .addresses
            .iter()
            .filter_map(|a| a.parse().ok())
            .filter(|_| ready)
        {
            let host = endpoint.hostname.clone().filter(|name| !name.is_empty());
            let target = endpoint.target_ref.as_ref();
            let pod = target.filter(|t| host.is_none() && t.kind.as_deref() == Some("Pod"));
            // A label has 63 bytes at most, and no dots.
            let pod = pod.and_then(|t| t.name.clone());
            let pod = pod.filter(|name| name.len() <= 63 && !name.contains('.'));
            let label = host.map_or_else(|| dashed(ip), |name| name.to_lowercase());
            endpoints.push(Endpoint {
                label,
                pod,
                ip,
                ports: Arc::clone(&ports),
            });
        }
    }
    endpoints.shrink_to_fit();
    endpoints
}

/// An address as a label.
pub fn dashed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string().replace('.', "-"),
        // All groups in full, since a label must not begin with a dash.
        IpAddr::V6(ip) => ip.segments().map(|group| format!("{group:x}")).join("-"),
    }
}

fn protocol(name: Option<&str>) -> &'static str {
    match name {
        Some("UDP") => "udp",
        Some("SCTP") => "sctp",
        _ => "tcp",
    }
}

/// Everything that names are looked up in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    services: Table<Key, Service>,
    namespaces: Table<Arc<str>, ()>,
    /// Slices by their own names, with their Services' names.
    slices: Table<Key, (Key, Vec<Endpoint>)>,
    by_service: BTreeMap<Key, Keys>,
    by_ip: BTreeMap<IpAddr, Keys>,
    endpoints_by_ip: BTreeMap<IpAddr, Keys>,
    version: u32,
}

impl Index {
    /// Counts the changes; the serial number of the zone.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether the first lists are complete: before, a name that is not here may still exist.
    pub fn is_complete(&self) -> bool {
        self.services.is_complete() && self.slices.is_complete() && self.namespaces.is_complete()
    }

    /// A Service.
    pub fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key)
    }

    /// Whether the namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get(&name.into()).is_some()
    }

    /// Whether the namespace has a Service.
    pub fn has_service_in(&self, namespace: &str) -> bool {
        // No name is before the empty one.
        let mut from_there = self.services.starting(Key::new(namespace, ""));
        let first = from_there.next();
        first.is_some_and(|(key, _)| &*key.namespace == namespace)
    }

    /// The ready endpoints of a Service, without duplicates.
    pub fn endpoints(&self, key: &Key) -> Vec<&Endpoint> {
        let slices = keys(self.by_service.get(key));
        let all = slices
            .filter_map(|slice| self.slices.get(slice))
            .flat_map(|(_, e)| e);
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The Services that have this cluster address.
    pub fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = &Key> {
        keys(self.by_ip.get(&ip))
    }

    /// The Services that have an endpoint at this address, with it.
    pub fn endpoints_at(&self, ip: IpAddr) -> Vec<(&Key, &Endpoint)> {
        let slices = keys(self.endpoints_by_ip.get(&ip));
        let found: BTreeSet<_> = slices
            .filter_map(|slice| self.slices.get(slice))
            .filter(|(service, _)| self.services.get(service).is_some())
            .flat_map(|(service, endpoints)| {
                let here = endpoints.iter().filter(|endpoint| endpoint.ip == ip);
                here.map(move |endpoint| (service, endpoint))
            })
            .collect();
        let mut found: Vec<_> = found.into_iter().collect();
        // Ports make no other name.
        found.dedup_by(|(a, e), (b, f)| a == b && e.label == f.label && e.pod == f.pod);
        found
    }

    /// Takes an event of the Namespaces' watch.
    pub fn namespace_event(&mut self, event: Event<core::Namespace>) {
        let changed = self
            .namespaces
            .take(event, |n| key_of(&n.metadata).name, |_| Some(()));
        self.count(changed.len());
    }

    /// Takes an event of the Services' watch.
    pub fn service_event(&mut self, event: Event<core::Service>) {
        let key = |s: &core::Service| key_of(&s.metadata);
        for changed in self.services.take(event, key, |s| Service::of(&s)) {
            self.service_changed(changed);
        }
    }

    /// Takes an event of the EndpointSlices' watch.
    pub fn slice_event(&mut self, event: Event<EndpointSlice>) {
        let key = |s: &EndpointSlice| key_of(&s.metadata);
        for changed in self.slices.take(event, key, |s| content_of(&s)) {
            self.slice_changed(changed);
        }
    }

    fn count(&mut self, changes: usize) {
        let changes = u32::try_from(changes).unwrap_or(u32::MAX);
        self.version = self.version.wrapping_add(changes);
    }

    fn service_changed(&mut self, changed: Changed<Key, Service>) {
        self.count(1);
        let key = changed.key;
        if let Some(Service::Addressed { ips, .. }) = changed.old {
            ips.iter().for_each(|ip| forget(&mut self.by_ip, ip, &key));
        }
        if let Some(Service::Addressed { ips, .. }) = self.services.get(&key) {
            for ip in ips {
                self.by_ip.entry(*ip).or_default().insert(&key);
            }
        }
    }

    fn slice_changed(&mut self, changed: Changed<Key, (Key, Vec<Endpoint>)>) {
        self.count(1);
        let key = changed.key;
        if let Some((service, endpoints)) = changed.old {
            forget(&mut self.by_service, &service, &key);
            for endpoint in &endpoints {
                forget(&mut self.endpoints_by_ip, &endpoint.ip, &key);
            }
        }
        if let Some((service, endpoints)) = self.slices.get(&key) {
            let slices = self.by_service.entry(service.clone()).or_default();
            slices.insert(&key);
            for endpoint in endpoints {
                let slices = self.endpoints_by_ip.entry(endpoint.ip).or_default();
                slices.insert(&key);
            }
        }
    }
}

fn key_of(metadata: &ObjectMeta) -> Key {
    let text = |part: &Option<String>| -> Arc<str> { part.as_deref().unwrap_or_default().into() };
    Key {
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
    }
}

/// What a slice holds, and whose; `None` when it belongs to no Service.
fn content_of(slice: &EndpointSlice) -> Option<(Key, Vec<Endpoint>)> {
    let labels = slice.metadata.labels.as_ref()?;
    let name = labels.get(SERVICE_NAME)?;
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some((Key::new(namespace, name), endpoints_of(slice)))
}

fn keys(keys: Option<&Keys>) -> impl Iterator<Item = &Key> {
    keys.into_iter().flat_map(|keys| &keys.0)
}

fn forget<K: Ord>(map: &mut BTreeMap<K, Keys>, from: &K, key: &Key) {
    if let Some(keys) = map.get_mut(from) {
        keys.remove(key);
        if keys.0.is_empty() {
            map.remove(from);
        }
    }
}
