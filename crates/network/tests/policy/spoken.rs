//! What the API says, read slowly: the verdict of its words for a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::DynamicObject;
use network::policy::cluster_wide::PolicyKind;
use serde_json::Value as Json;

use crate::planned::Call;

#[derive(Debug, Clone)]
pub enum Change {
    Policy(Box<NetworkPolicy>),
    NoPolicy(Box<NetworkPolicy>),
    Namespace(Box<core::Namespace>),
    Node(Box<core::Node>),
    NoNode(Box<core::Node>),
    Pod(Box<core::Pod>),
    NoPod(Box<core::Pod>),
    Kinds(BTreeSet<PolicyKind>),
    ClusterWide(PolicyKind, Box<DynamicObject>),
    NoClusterWide(PolicyKind, Box<DynamicObject>),
}

/// All objects, by what they are and their names.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    policies: BTreeMap<(String, String), Json>,
    kinds: BTreeSet<PolicyKind>,
    cluster_wide: BTreeMap<(PolicyKind, String), Json>,
    namespaces: BTreeMap<String, Json>,
    nodes: BTreeMap<String, Json>,
    pods: BTreeMap<(String, String), Json>,
}

fn text<'a>(object: &'a Json, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Json::as_str).unwrap_or("")
}

fn list<'a>(object: &'a Json, pointer: &str) -> &'a [Json] {
    let found = object.pointer(pointer).and_then(Json::as_array);
    found.map_or(&[], Vec::as_slice)
}

impl Objects {
    pub fn hear(&mut self, change: &Change) {
        let json = |object: Json| {
            let key = (
                text(&object, "/metadata/namespace").to_owned(),
                text(&object, "/metadata/name").to_owned(),
            );
            (key, object)
        };
        let of = |object: &dyn erased::Json| json(object.json());
        match change {
            Change::Policy(p) => drop({
                let (key, object) = of(&**p);
                self.policies.insert(key, object)
            }),
            Change::NoPolicy(p) => drop(self.policies.remove(&of(&**p).0)),
            Change::Namespace(n) => {
                let (key, object) = of(&**n);
                self.namespaces.insert(key.1, object);
            }
            Change::Pod(p) => drop({
                let (key, object) = of(&**p);
                self.pods.insert(key, object)
            }),
            Change::Node(n) => {
                let (key, object) = of(&**n);
                self.nodes.insert(key.1, object);
            }
            Change::NoNode(n) => drop(self.nodes.remove(&of(&**n).0.1)),
            Change::Kinds(kinds) => {
                self.kinds = kinds.clone();
                self.cluster_wide
                    .retain(|(kind, _), _| kinds.contains(kind));
            }
            Change::ClusterWide(kind, o) => {
                let (key, object) = of(&**o);
                if self.kinds.contains(kind) {
                    self.cluster_wide.insert((*kind, key.1), object);
                }
            }
            Change::NoClusterWide(kind, o) => {
                let (key, _) = of(&**o);
                self.cluster_wide.remove(&(*kind, key.1));
            }
            Change::NoPod(p) => drop(self.pods.remove(&of(&**p).0)),
        }
    }

    /// The pods that have an address: on the pod network, and not ended.
    fn at(&self, address: IpAddr) -> Option<&Json> {
        self.pods.values().find(|pod| {
            let ips = list(pod, "/status/podIPs").iter();
            pod["spec"]["hostNetwork"] != true
                && text(pod, "/status/phase") == "Running"
                && ips
                    .map(|ip| text(ip, "/ip"))
                    .any(|ip| ip == address.to_string())
        })
    }

    pub fn allows(&self, call: &Call) -> bool {
        call.client == call.server
            || self.allows_in("Egress", call.client, call)
                && self.allows_in("Ingress", call.server, call)
    }

    pub fn allows_in(&self, direction: &str, subject: IpAddr, call: &Call) -> bool {
        let Some(pod) = self.at(subject) else {
            return true;
        };
        let namespace = text(pod, "/metadata/namespace");
        if !self.cluster_wide.is_empty() && !self.namespaces.contains_key(namespace) {
            // Nobody can say whom these policies are for.
            return false;
        }
        match self.tier(true, direction, pod, call) {
            Some("Accept" | "Allow") => return true,
            Some("Deny") => return false,
            _ => {}
        }
        let for_pod = |policy: &&Json| {
            text(policy, "/metadata/namespace") == namespace
                && list(policy, "/spec/policyTypes")
                    .iter()
                    .any(|t| t == direction)
                && selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"])
        };
        let policies: Vec<&Json> = self.policies.values().filter(for_pod).collect();
        let (rules, peers, other) = match direction {
            "Ingress" => ("/spec/ingress", "/from", call.client),
            _ => ("/spec/egress", "/to", call.server),
        };
        if policies.is_empty() {
            return self.tier(false, direction, pod, call) != Some("Deny");
        }
        policies.iter().any(|policy| {
            list(policy, rules).iter().any(|rule| {
                self.by_port(list(rule, "/ports"), call)
                    && self.by_peer(namespace, list(rule, peers), other)
            })
        })
    }

    /// The word of the first rule of administrators that matches, of one tier.
    fn tier(&self, admin: bool, direction: &str, pod: &Json, call: &Call) -> Option<&str> {
        let of_tier = |((kind, name), policy): (&(PolicyKind, String), &'_ Json)| {
            let is_admin = match kind {
                PolicyKind::Admin => true,
                PolicyKind::Cluster => text(policy, "/spec/tier") == "Admin",
                PolicyKind::Baseline => false,
            };
            let priority = match kind {
                PolicyKind::Baseline => u64::MAX,
                _ => policy["spec"]["priority"].as_u64().unwrap_or(0),
            };
            (is_admin == admin).then(|| (priority, *kind, name.clone()))
        };
        let all = self.cluster_wide.iter();
        let all: BTreeMap<_, &Json> = all.filter_map(|p| Some((of_tier(p)?, p.1))).collect();
        let (rules, peers, other) = match direction {
            "Ingress" => ("/spec/ingress", "from", call.client),
            _ => ("/spec/egress", "to", call.server),
        };
        for policy in all.into_values() {
            if !self.is_among(&policy["spec"]["subject"], pod) {
                continue;
            }
            for rule in list(policy, rules) {
                let action = text(rule, "/action");
                let strange = |peer: &Json| {
                    peer.get("domainNames").is_some()
                        || peers == "from" && peer.get("nodes").is_some()
                };
                let of = list(rule, &format!("/{peers}"));
                if of.iter().any(strange) && !matches!(action, "Accept" | "Allow") {
                    return Some("Deny");
                }
                let from = |peer: &Json| match (peer.get("networks"), peer.get("nodes")) {
                    (Some(_), _) => list(peer, "/networks").iter().any(|network| {
                        let network = network.as_str().unwrap_or("");
                        let prefix: host::nft::Prefix = network.parse().expect("a prefix");
                        prefix.contains(other)
                    }),
                    (_, Some(nodes)) => peers == "to" && self.is_node(nodes, other),
                    _ => self.at(other).is_some_and(|pod| self.is_among(peer, pod)),
                };
                // The name of a port is a pod's, whichever the peer is.
                if of.iter().any(from) && self.by_protocol(rule, call) {
                    return Some(action);
                }
            }
        }
        None
    }

    /// Whether one of the nodes with such labels has an address.
    fn is_node(&self, selector: &Json, address: IpAddr) -> bool {
        let has = |node: &Json| {
            let all = list(node, "/status/addresses").iter();
            all.map(|a| text(a, "/address"))
                .any(|a| a == address.to_string())
        };
        let mut nodes = self.nodes.values();
        nodes.any(|node| has(node) && selects(selector, &node["metadata"]["labels"]))
    }

    /// Whether a pod is meant by `namespaces` or `pods`.
    fn is_among(&self, said: &Json, pod: &Json) -> bool {
        let everything = Json::Object(serde_json::Map::new());
        let (namespaces, pods) = match (said.get("namespaces"), said.get("pods")) {
            (Some(namespaces), _) => (namespaces, &everything),
            (_, Some(both)) => (&both["namespaceSelector"], &both["podSelector"]),
            _ => return false,
        };
        let namespace = self.namespaces.get(text(pod, "/metadata/namespace"));
        let there = |n: &Json| selects(namespaces, &n["metadata"]["labels"]);
        namespace.is_some_and(there) && selects(pods, &pod["metadata"]["labels"])
    }

    fn by_protocol(&self, rule: &Json, call: &Call) -> bool {
        let word = match call.protocol {
            6 => "TCP",
            17 => "UDP",
            _ => "SCTP",
        };
        let number = |port: &Json| port.as_u64() == Some(call.port.into());
        let within = |ends: &Json| {
            let port = Some(u64::from(call.port));
            ends["start"].as_u64() <= port && port <= ends["end"].as_u64()
        };
        let matches = |port: &Json| {
            for name in ["namedPort", "destinationNamedPort"] {
                if let Some(name) = port.get(name) {
                    return self.has_port(call, word, name.as_str().unwrap_or(""));
                }
            }
            if let Some(of) = port.get("portNumber") {
                return of["protocol"] == word && number(&of["port"]);
            }
            if let Some(of) = port.get("portRange") {
                return of["protocol"] == word && within(of);
            }
            let Some(of) = port.get(word.to_lowercase()) else {
                return false;
            };
            match of.get("destinationPort") {
                None => true,
                Some(port) => match port.get("number") {
                    Some(port) => number(port),
                    None => within(&port["range"]),
                },
            }
        };
        let ports = rule.get("ports").or_else(|| rule.get("protocols"));
        let Some(ports) = ports else { return true };
        ports.as_array().into_iter().flatten().any(matches)
    }

    fn by_port(&self, ports: &[Json], call: &Call) -> bool {
        let word = match call.protocol {
            6 => "TCP",
            17 => "UDP",
            _ => "SCTP",
        };
        ports.is_empty()
            || ports.iter().any(|port| {
                let number = port["port"].as_u64();
                let last = port["endPort"].as_u64().or(number);
                text(port, "/protocol") == word
                    && match (&port["port"], number, last) {
                        (Json::Null, ..) => true,
                        (Json::String(name), ..) => self.has_port(call, word, name),
                        (_, first, last) => {
                            first <= Some(call.port.into()) && last >= Some(call.port.into())
                        }
                    }
            })
    }

    fn has_port(&self, call: &Call, word: &str, name: &str) -> bool {
        self.at(call.server).is_some_and(|pod| {
            list(pod, "/spec/containers").iter().any(|container| {
                list(container, "/ports").iter().any(|port| {
                    text(port, "/name") == name
                        && text(port, "/protocol") == word
                        && port["containerPort"] == call.port
                })
            })
        })
    }

    fn by_peer(&self, namespace: &str, peers: &[Json], other: IpAddr) -> bool {
        peers.is_empty()
            || peers.iter().any(|peer| {
                if peer.get("ipBlock").is_some() {
                    let within = |text: &str| {
                        let prefix: host::nft::Prefix = text.parse().expect("a prefix");
                        prefix.contains(other)
                    };
                    return within(text(peer, "/ipBlock/cidr"))
                        && !list(peer, "/ipBlock/except")
                            .iter()
                            .any(|e| within(e.as_str().unwrap_or("")));
                }
                let Some(pod) = self.at(other) else {
                    return false;
                };
                let theirs = text(pod, "/metadata/namespace");
                let there = match peer.get("namespaceSelector") {
                    None => theirs == namespace,
                    Some(selector) => self
                        .namespaces
                        .get(theirs)
                        .is_some_and(|n| selects(selector, &n["metadata"]["labels"])),
                };
                let labels = &pod["metadata"]["labels"];
                there && peer.get("podSelector").is_none_or(|s| selects(s, labels))
            })
    }
}

fn selects(selector: &Json, labels: &Json) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = list(selector, "/matchExpressions").iter();
    equal.into_iter().all(|(k, v)| labels.get(k) == Some(v))
        && expressions.all(|e| {
            let value = labels.get(text(e, "/key"));
            let listed = value.is_some_and(|v| list(e, "/values").contains(v));
            match text(e, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

/// Objects of any kind as JSON.
mod erased {
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }
    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).expect("an object")
        }
    }
}
