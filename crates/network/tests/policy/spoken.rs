//! What the API says, read slowly: the verdict of its words for a connection.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value as Json;

use crate::planned::Call;

#[derive(Debug, Clone)]
pub enum Change {
    Policy(Box<NetworkPolicy>),
    NoPolicy(Box<NetworkPolicy>),
    Namespace(Box<core::Namespace>),
    Pod(Box<core::Pod>),
    NoPod(Box<core::Pod>),
}

/// All objects, by what they are and their names.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    policies: BTreeMap<(String, String), Json>,
    namespaces: BTreeMap<String, Json>,
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
        policies.is_empty()
            || policies.iter().any(|policy| {
                list(policy, rules).iter().any(|rule| {
                    self.by_port(list(rule, "/ports"), call)
                        && self.by_peer(namespace, list(rule, peers), other)
                })
            })
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
