//! What the names of the cluster stand for: a pure value made of Services, EndpointSlices and
//! Namespaces. It knows no messages and no sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

impl Key {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
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
        ports: Vec<Port>,
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
    /// Its address.
    pub ip: IpAddr,
    /// The ports of its slice.
    pub ports: Vec<Port>,
}

fn endpoints_of(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports: Vec<Port> = slice
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
            let label = host.map_or_else(|| dashed(ip), |name| name.to_lowercase());
            endpoints.push(Endpoint {
                label,
                ip,
                ports: ports.clone(),
            });
        }
    }
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
    services: BTreeMap<Key, Service>,
    namespaces: BTreeSet<String>,
    /// Slices by their own names, with their Services' names.
    slices: BTreeMap<Key, (Key, Vec<Endpoint>)>,
    by_service: BTreeMap<Key, BTreeSet<Key>>,
    by_ip: BTreeMap<IpAddr, BTreeSet<Key>>,
    endpoints_by_ip: BTreeMap<IpAddr, BTreeSet<Key>>,
    version: u32,
}

impl Index {
    /// Counts the changes; the serial number of the zone.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A Service.
    pub fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key)
    }

    /// Whether the namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// The ready endpoints of a Service, without duplicates.
    pub fn endpoints(&self, key: &Key) -> Vec<&Endpoint> {
        let slices = self.by_service.get(key).into_iter().flatten();
        let all = slices
            .filter_map(|slice| self.slices.get(slice))
            .flat_map(|(_, e)| e);
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The Services that have this cluster address.
    pub fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = &Key> {
        self.by_ip.get(&ip).into_iter().flatten()
    }

    /// The Services that have an endpoint at this address, with its label.
    pub fn endpoints_at(&self, ip: IpAddr) -> Vec<(&Key, String)> {
        let slices = self.endpoints_by_ip.get(&ip).into_iter().flatten();
        let found: BTreeSet<_> = slices
            .filter_map(|slice| self.slices.get(slice))
            .filter(|(service, _)| self.services.contains_key(service))
            .flat_map(|(service, endpoints)| {
                let here = endpoints.iter().filter(|endpoint| endpoint.ip == ip);
                here.map(move |endpoint| (service, endpoint.label.clone()))
            })
            .collect();
        found.into_iter().collect()
    }

    /// The names of all Services.
    pub fn service_keys(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// The names of all slices.
    pub fn slice_keys(&self) -> impl Iterator<Item = &Key> {
        self.slices.keys()
    }

    /// The names of all namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.namespaces.iter()
    }

    /// Takes note of a namespace, or that it is gone.
    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        self.version = self.version.wrapping_add(1);
        if exists {
            self.namespaces.insert(name.to_owned());
        } else {
            self.namespaces.remove(name);
        }
    }

    /// Takes note of a Service, or that it is gone.
    pub fn set_service(&mut self, key: Key, service: Option<Service>) {
        if self.services.get(&key) == service.as_ref() {
            return;
        }
        self.version = self.version.wrapping_add(1);
        if let Some(Service::Addressed { ips, .. }) = self.services.remove(&key) {
            ips.iter().for_each(|ip| forget(&mut self.by_ip, ip, &key));
        }
        if let Some(service) = service {
            if let Service::Addressed { ips, .. } = &service {
                for ip in ips {
                    self.by_ip.entry(*ip).or_default().insert(key.clone());
                }
            }
            self.services.insert(key, service);
        }
    }

    /// Takes note of an EndpointSlice.
    pub fn set_slice(&mut self, key: Key, slice: &EndpointSlice) {
        let labels = slice.metadata.labels.as_ref();
        let owner = labels.and_then(|l| l.get("kubernetes.io/service-name"));
        let content = owner.map(|name| (Key::new(&key.namespace, name), endpoints_of(slice)));
        self.replace_slice(key, content);
    }

    /// Takes note that an EndpointSlice is gone.
    pub fn remove_slice(&mut self, key: Key) {
        self.replace_slice(key, None);
    }

    fn replace_slice(&mut self, key: Key, content: Option<(Key, Vec<Endpoint>)>) {
        if self.slices.get(&key) == content.as_ref() {
            return;
        }
        self.version = self.version.wrapping_add(1);
        if let Some((service, endpoints)) = self.slices.remove(&key) {
            forget(&mut self.by_service, &service, &key);
            for endpoint in &endpoints {
                forget(&mut self.endpoints_by_ip, &endpoint.ip, &key);
            }
        }
        if let Some((service, endpoints)) = content {
            self.by_service
                .entry(service.clone())
                .or_default()
                .insert(key.clone());
            for endpoint in &endpoints {
                self.endpoints_by_ip
                    .entry(endpoint.ip)
                    .or_default()
                    .insert(key.clone());
            }
            self.slices.insert(key, (service, endpoints));
        }
    }
}

fn forget<K: Ord>(map: &mut BTreeMap<K, BTreeSet<Key>>, from: &K, key: &Key) {
    if let Some(keys) = map.get_mut(from) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(from);
        }
    }
}
