//! What the proxy needs to know of Services and EndpointSlices, as plain values.

use std::net::{IpAddr, SocketAddr};

use host::nft::Prefix;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

/// A Service that has addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// The addresses inside the cluster.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses from outside that somebody routes to the nodes.
    pub external_ips: Vec<IpAddr>,
    /// Addresses that a load balancer forwards without translation.
    pub balancer_ips: Vec<IpAddr>,
    /// Which node announces which of those, where they belong to no interface.
    pub announcers: Vec<(IpAddr, String)>,
    /// Which node would, if that one were gone.
    pub standbys: Vec<Standby>,
    /// The sources that may use the load balancer's addresses; empty for everybody.
    pub source_ranges: Vec<Prefix>,
    /// The ports.
    pub ports: Vec<Port>,
    /// How long a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    /// Clients inside the cluster only get endpoints on their own node.
    pub internal_local: bool,
    /// Clients outside only get endpoints on the node that they reached.
    pub external_local: bool,
    /// Where load balancers ask whether this node has endpoints.
    pub health_port: Option<u16>,
}

/// The node that takes over an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// The address that is announced.
    pub ip: IpAddr,
    /// The node's name.
    pub node: String,
    /// Where it asks whether the node that announces the address is there.
    pub asks: IpAddr,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name; empty if it is the only one.
    pub name: String,
    /// The transport protocol's number.
    pub protocol: u8,
    /// The port at the Service's addresses.
    pub port: u16,
    /// The port at every node's addresses.
    pub node_port: Option<u16>,
}

/// An endpoint of a Service's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The name of the Service's port that it belongs to.
    pub port_name: String,
    /// The transport protocol's number.
    pub protocol: u8,
    /// Where it listens.
    pub address: SocketAddr,
    /// It takes new connections, and is not terminating.
    pub ready: bool,
    /// It would take new connections, terminating or not.
    pub serving: bool,
    /// It is going.
    pub terminating: bool,
    /// It is on this node.
    pub local: bool,
    /// The nodes whose clients should prefer it; empty if it has no such hint.
    pub for_nodes: Vec<String>,
    /// The zones whose clients should prefer it; empty if it has no such hint.
    pub for_zones: Vec<String>,
}

/// TCP's number.
pub const TCP: u8 = 6;
/// UDP's number.
pub const UDP: u8 = 17;
/// SCTP's number.
pub const SCTP: u8 = 132;

/// A protocol's number by its name in the API.
pub fn protocol(name: Option<&str>) -> u8 {
    match name {
        Some("UDP") => UDP,
        Some("SCTP") => SCTP,
        _ => TCP,
    }
}

/// A protocol's name in chain names.
pub fn protocol_word(number: u8) -> &'static str {
    match number {
        UDP => "udp",
        SCTP => "sctp",
        _ => "tcp",
    }
}

/// Labels of what a proxy leaves alone, whatever their values: what another one serves, and what has
/// its endpoints in DNS only. Both hold for Services and for slices.
const NOT_OURS: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];

fn is_ours(meta: &ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    !labels.is_some_and(|all| NOT_OURS.iter().any(|label| all.contains_key(*label)))
}

impl Service {
    /// The parts of a Service; `None` if it is headless, external or for another proxy.
    pub fn of(service: &core::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if !is_ours(&service.metadata) || spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let first = spec.cluster_ip.iter();
        let mut cluster_ips: Vec<IpAddr> = first
            .chain(spec.cluster_ips.iter().flatten())
            .filter_map(|ip| ip.parse().ok())
            .collect();
        cluster_ips.dedup();
        if cluster_ips.is_empty() {
            return None;
        }
        let is_external = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let timeout = || {
            let config = spec.session_affinity_config.as_ref()?.client_ip.as_ref()?;
            u32::try_from(config.timeout_seconds?).ok()
        };
        Some(Self {
            cluster_ips,
            external_ips: parsed(spec.external_ips.iter().flatten()),
            announcers: announcers(service),
            standbys: standbys(service),
            balancer_ips: balancer_ips(service),
            source_ranges: parsed(
                spec.load_balancer_source_ranges
                    .iter()
                    .flatten()
                    .map(|range| range.trim()),
            ),
            ports: spec
                .ports
                .iter()
                .flatten()
                .filter_map(|p| port_of(p, is_external))
                .collect(),
            // The API's default for the timeout is three hours.
            affinity_seconds: affinity.then(|| timeout().unwrap_or(10_800)),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            health_port: spec.health_check_node_port.and_then(number),
        })
    }
}

fn balancer_ips(service: &core::Service) -> Vec<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    status
        .into_iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        // A balancer in mode Proxy sends to the node ports; its address is none of ours.
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

/// The class of Services whose addresses nodes announce, beside none.
const OUR_CLASS: &str = "tiphys.io/node";
/// Where the control plane says which node announces which address: `192.0.2.1=a,192.0.2.2=b`.
const ANNOUNCED_BY: &str = "tiphys.io/load-balancer-nodes";

/// Where it says which node would announce it instead, and where that asks for the one that does:
/// `192.0.2.1=b@10.0.0.1`.
const STANDBY: &str = "tiphys.io/load-balancer-standby";

fn announcers(service: &core::Service) -> Vec<(IpAddr, String)> {
    let noted = noted(service, ANNOUNCED_BY).into_iter();
    noted.map(|(ip, node)| (ip, node.to_owned())).collect()
}

fn standbys(service: &core::Service) -> Vec<Standby> {
    let one = |(ip, text): (IpAddr, &str)| {
        let (node, asks) = text.split_once('@')?;
        let (node, asks) = (node.to_owned(), asks.parse().ok()?);
        Some(Standby { ip, node, asks })
    };
    let noted = noted(service, STANDBY).into_iter();
    noted.filter_map(one).collect()
}

/// What an annotation says of addresses. Only of those that the status has, which few may write, and
/// of none of another's.
fn noted<'a>(service: &'a core::Service, name: &str) -> Vec<(IpAddr, &'a str)> {
    let class = service
        .spec
        .as_ref()
        .and_then(|s| s.load_balancer_class.as_deref());
    if class.is_some_and(|class| class != OUR_CLASS) {
        return Vec::new();
    }
    let ips = balancer_ips(service);
    let notes = service.metadata.annotations.as_ref();
    let text = notes.and_then(|notes| notes.get(name));
    let parts = text.into_iter().flat_map(|text| text.split(','));
    parts
        .filter_map(|part| part.split_once('='))
        .filter_map(|(ip, said)| Some((ip.parse().ok()?, said)))
        .filter(|(ip, _)| ips.contains(ip))
        .collect()
}

fn port_of(port: &core::ServicePort, is_external: bool) -> Option<Port> {
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port.protocol.as_deref()),
        port: number(port.port)?,
        node_port: port.node_port.filter(|_| is_external).and_then(number),
    })
}

/// A port in its range; zero is none.
fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn parsed<T: std::str::FromStr>(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<T> {
    texts
        .into_iter()
        .filter_map(|text| text.as_ref().parse().ok())
        .collect()
}

/// Where the control plane says when what a slice speaks of changed.
const CHANGED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// When the change happened that a slice was written for; none if it does not say.
pub fn changed_at(slice: &EndpointSlice) -> Option<Timestamp> {
    let notes = slice.metadata.annotations.as_ref()?;
    notes.get(CHANGED)?.parse().ok()
}

/// The Service that a slice belongs to, and its endpoints, seen from a node; `None` if no proxy or
/// another one sends to them.
pub fn endpoints_of(slice: &EndpointSlice, node: &str) -> Option<(Name, Vec<Endpoint>)> {
    let labels = slice
        .metadata
        .labels
        .as_ref()
        .filter(|_| is_ours(&slice.metadata))?;
    let name = Name {
        namespace: slice.metadata.namespace.clone()?,
        name: labels
            .get("kubernetes.io/service-name")
            .filter(|name| !name.is_empty())?
            .clone(),
    };
    let mut endpoints = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
            continue;
        };
        let hints = endpoint.hints.as_ref();
        let nodes = hints.into_iter().flat_map(|h| h.for_nodes.iter().flatten());
        let zones = hints.into_iter().flat_map(|h| h.for_zones.iter().flatten());
        let for_nodes: Vec<String> = nodes.map(|n| n.name.clone()).collect();
        let for_zones: Vec<String> = zones.map(|z| z.name.clone()).collect();
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(number) else {
                continue;
            };
            endpoints.push(Endpoint {
                port_name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                address: SocketAddr::new(ip, number),
                ready,
                serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
                terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                local: endpoint.node_name.as_deref() == Some(node),
                for_nodes: for_nodes.clone(),
                for_zones: for_zones.clone(),
            });
        }
    }
    Some((name, endpoints))
}
