//! What matters of NetworkPolicies, Namespaces, Pods and Nodes, as plain values.
//!
//! A part of a policy that cannot be read can only forbid: a peer or a port that is not understood
//! matches nothing, and a policy whose pods are not understood is for all of its namespace.

use std::net::IpAddr;

use api::selector::LabelSelector;
use host::nft::{Family, Prefix};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The annotation of a mirror pod that holds the static pod's identity.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Namespace and name.
pub type Name = (String, String);

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The pods of its namespace that it is for.
    pub pods: LabelSelector,
    /// What may reach them; `None` where it says nothing of that direction.
    pub ingress: Option<Vec<Allow>>,
    /// What they may reach; `None` where it says nothing of that direction.
    pub egress: Option<Vec<Allow>>,
    /// What of it could not be read.
    pub unreadable: Vec<String>,
}

/// A rule: what matches one of the ports and one of the peers is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    /// The ports; `None` for all traffic.
    pub ports: Option<Vec<Port>>,
    /// The other ends; `None` for all.
    pub peers: Option<Vec<Peer>>,
}

/// A port of the end that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The transport protocol's number.
    pub protocol: u8,
    /// Which ports of it.
    pub number: Number,
}

/// Which ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Number {
    /// All.
    Any,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The one that a container of the answering pod has under this name.
    Named(String),
}

/// Another end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Pods.
    Pods(Pods),
    /// Addresses.
    Block(Block),
    /// Nodes, by their labels.
    Nodes(LabelSelector),
}

/// Pods by their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pods {
    /// In which namespaces.
    pub namespaces: Namespaces,
    /// Which of them.
    pub pods: LabelSelector,
}

/// Some namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// The one of this name.
    Of(String),
    /// Those with such labels.
    With(LabelSelector),
}

/// A range of addresses but for some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The range.
    pub within: Prefix,
    /// Ranges that do not belong to it.
    pub except: Vec<Prefix>,
}

impl Block {
    /// Whether an address belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.within.contains(address) && !self.except.iter().any(|e| e.contains(address))
    }
}

/// What matters of a pod. Pods on their node's network and those that have ended are not subject
/// to policies, nor are they meant by selectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its identity, as the container runtime knows it.
    pub uid: String,
    /// Its labels, sorted by their keys.
    pub labels: Box<[(String, String)]>,
    /// Its addresses, as its status says.
    pub addresses: Vec<IpAddr>,
    /// The named ports of its containers.
    pub ports: Vec<NamedPort>,
    /// It is on this node.
    pub local: bool,
}

/// A container's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// The transport protocol's number.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

/// What matters of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its labels, sorted by their keys.
    pub labels: Box<[(String, String)]>,
    /// Its addresses, of whichever type.
    pub addresses: Vec<IpAddr>,
}

impl Node {
    /// From an object.
    pub fn of(node: core::Node) -> Self {
        let addresses = node.status.unwrap_or_default().addresses;
        let addresses = addresses.into_iter().flatten();
        // Others are names.
        let mut addresses: Vec<IpAddr> = addresses.filter_map(|a| a.address.parse().ok()).collect();
        addresses.sort();
        addresses.dedup();
        Self {
            labels: node
                .metadata
                .labels
                .unwrap_or_default()
                .into_iter()
                .collect(),
            addresses,
        }
    }
}

/// The number of a protocol of the API; the first is the default.
fn protocol(name: Option<&str>) -> Option<u8> {
    match name {
        None | Some("TCP" | "") => Some(6),
        Some("UDP") => Some(17),
        Some("SCTP") => Some(132),
        Some(_) => None,
    }
}

pub(super) fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

impl Pod {
    /// From an object, seen from a node; `None` for one that policies do not know.
    pub fn of(pod: core::Pod, node: &str) -> Option<Self> {
        let spec = pod.spec?;
        let status = pod.status.unwrap_or_default();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if spec.host_network == Some(true) || ended {
            return None;
        }
        let local = spec.node_name.as_deref() == Some(node);
        let ips = status.pod_ips.into_iter().flatten().map(|p| p.ip);
        let mut addresses: Vec<IpAddr> = ips
            .chain(status.pod_ip)
            .filter_map(|ip| ip.parse().ok())
            .collect();
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() && !local {
            return None;
        }
        let sidecars = spec.init_containers.into_iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = spec
            .containers
            .into_iter()
            .chain(sidecars)
            .flat_map(|container| container.ports.into_iter().flatten())
            .filter_map(|port| {
                Some(NamedPort {
                    name: port.name?,
                    protocol: protocol(port.protocol.as_deref())?,
                    port: number(port.container_port)?,
                })
            });
        // A static pod has another identity on its node than its mirror in the API.
        let mirrored = pod.metadata.annotations.unwrap_or_default().remove(MIRROR);
        Some(Self {
            uid: mirrored.or(pod.metadata.uid).unwrap_or_default(),
            ports: ports.collect(),
            labels: pod
                .metadata
                .labels
                .unwrap_or_default()
                .into_iter()
                .collect(),
            addresses,
            local,
        })
    }
}

impl Policy {
    /// From an object.
    pub fn of(policy: &networking::NetworkPolicy) -> Self {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let mut reader = Reader {
            namespace,
            unreadable: Vec::new(),
        };
        let spec = policy.spec.clone().unwrap_or_default();
        // Without `podSelector` it is for all pods.
        let pods = spec.pod_selector.unwrap_or_default();
        let pods = reader
            .selector(&pods)
            .unwrap_or_else(LabelSelector::everything);
        let types = spec.policy_types.unwrap_or_default();
        let has = |word: &str| types.iter().any(|t| t == word);
        let out = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        // The API fills in the types; the same is done here for whoever did not pass it.
        let (inward, outward) = match types.is_empty() {
            true => (true, out),
            false => (has("Ingress"), has("Egress")),
        };
        let ingress = spec.ingress.unwrap_or_default();
        let ingress = ingress.into_iter().map(|r| reader.allow(r.ports, r.from));
        let ingress: Vec<Allow> = ingress.collect();
        let egress = spec.egress.unwrap_or_default();
        let egress = egress.into_iter().map(|r| reader.allow(r.ports, r.to));
        let egress: Vec<Allow> = egress.collect();
        Self {
            pods,
            ingress: inward.then_some(ingress),
            egress: outward.then_some(egress),
            unreadable: reader.unreadable,
        }
    }

    /// Whether it is for a pod of its namespace.
    pub fn selects(&self, pod: &Pod) -> bool {
        self.pods.matches(&*pod.labels)
    }
}

struct Reader<'a> {
    namespace: &'a str,
    unreadable: Vec<String>,
}

impl Reader<'_> {
    fn allow(
        &mut self,
        ports: Option<Vec<networking::NetworkPolicyPort>>,
        peers: Option<Vec<networking::NetworkPolicyPeer>>,
    ) -> Allow {
        let ports = ports.filter(|list| !list.is_empty());
        let peers = peers.filter(|list| !list.is_empty());
        Allow {
            ports: ports.map(|list| list.iter().filter_map(|p| self.port(p)).collect()),
            peers: peers.map(|list| list.iter().filter_map(|p| self.peer(p)).collect()),
        }
    }

    fn fail<T>(&mut self, what: String) -> Option<T> {
        self.unreadable.push(what);
        None
    }

    fn port(&mut self, port: &networking::NetworkPolicyPort) -> Option<Port> {
        let word = port.protocol.as_deref();
        let Some(protocol) = protocol(word) else {
            return self.fail(format!("protocol {word:?}"));
        };
        let range = |first: i32, last: i32| Some((number(first)?, number(last)?));
        let number = match (&port.port, port.end_port) {
            (None, _) => Number::Any,
            (Some(IntOrString::String(name)), None) => Number::Named(name.clone()),
            (Some(IntOrString::Int(first)), last) => match range(*first, last.unwrap_or(*first)) {
                Some((first, last)) => Number::Range(first, last),
                None => return self.fail(format!("port {first} to {last:?}")),
            },
            (Some(IntOrString::String(name)), Some(last)) => {
                return self.fail(format!("port {name:?} to {last}"));
            }
        };
        Some(Port { protocol, number })
    }

    fn peer(&mut self, peer: &networking::NetworkPolicyPeer) -> Option<Peer> {
        if let Some(block) = &peer.ip_block {
            let within = self.prefix(&block.cidr)?;
            // What should be left out and cannot be read leaves all out.
            let mut except = Vec::new();
            for text in block.except.iter().flatten() {
                except.push(self.prefix(text)?);
            }
            return Some(Peer::Block(Block { within, except }));
        }
        let namespaces = match &peer.namespace_selector {
            None => Namespaces::Of(self.namespace.to_owned()),
            Some(selector) => Namespaces::With(self.selector(selector)?),
        };
        let pods = match (&peer.pod_selector, &peer.namespace_selector) {
            (Some(selector), _) => self.selector(selector)?,
            (None, Some(_)) => LabelSelector::everything(),
            (None, None) => return self.fail("a peer that says nothing".into()),
        };
        Some(Peer::Pods(Pods { namespaces, pods }))
    }

    fn prefix(&mut self, text: &str) -> Option<Prefix> {
        match text.parse() {
            Ok(prefix) => Some(prefix),
            Err(why) => self.fail(why),
        }
    }

    fn selector(&mut self, selector: &meta::LabelSelector) -> Option<LabelSelector> {
        let read = serde_json::to_value(selector)
            .map_err(|e| e.to_string())
            .and_then(|value| LabelSelector::from_json(&value));
        match read {
            Ok(selector) => Some(selector),
            Err(why) => self.fail(why),
        }
    }
}

/// The two families, in the order of everything that is kept for each.
pub const FAMILIES: [Family; 2] = [Family::Ip4, Family::Ip6];
