//! Policies of administrators for pods of many namespaces, as plain values: ClusterNetworkPolicy,
//! and AdminNetworkPolicy with BaselineAdminNetworkPolicy, which it took the place of. Their kinds
//! are custom ones, so they are read from JSON.
//!
//! What cannot be read, such as a field of a later version, can only forbid: it makes an allowing
//! rule match nothing, and another one forbid everything. A subject that cannot be read is nobody.

use std::collections::BTreeMap;

use api::selector::LabelSelector;
use client::custom_kinds::CustomKind;
use serde_json::{Map, Value as Json};

use super::model::{Allow, Block, Namespaces, Number, Peer, Pod, Pods, Port, number};

/// The API group of all of them.
pub const GROUP: &str = "policy.networking.k8s.io";

/// A kind of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyKind {
    /// AdminNetworkPolicy.
    Admin,
    /// ClusterNetworkPolicy.
    Cluster,
    /// BaselineAdminNetworkPolicy.
    Baseline,
}

/// All kinds.
pub const KINDS: [PolicyKind; 3] = [PolicyKind::Admin, PolicyKind::Cluster, PolicyKind::Baseline];

/// Whether a rule is asked before the policies of namespaces, or after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Before; nobody else can overrule it.
    Admin,
    /// After, of pods that no policy of their namespace isolates.
    Baseline,
}

/// What becomes of what a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It passes.
    Accept,
    /// It does not.
    Deny,
    /// The next tier decides.
    Pass,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// What becomes of what it matches.
    pub action: Action,
    /// What it matches.
    pub of: Allow,
}

/// A policy of an administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// When it is asked.
    pub tier: Tier,
    /// The lower, the earlier among those of its tier.
    pub priority: i64,
    /// The pods that it is for; none if that could not be read.
    pub subject: Option<Pods>,
    /// What of connections to them.
    pub ingress: Vec<Ruling>,
    /// What of connections from them.
    pub egress: Vec<Ruling>,
    /// One of its rules is about nodes.
    pub names_nodes: bool,
    /// What of it could not be read.
    pub unreadable: Vec<String>,
}

impl CustomKind for PolicyKind {
    const GROUP: &'static str = GROUP;
    const ALL: &'static [Self] = &KINDS;

    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Admin => ("AdminNetworkPolicy", "v1alpha1", "adminnetworkpolicies"),
            Self::Cluster => ("ClusterNetworkPolicy", "v1alpha2", "clusternetworkpolicies"),
            Self::Baseline => (
                "BaselineAdminNetworkPolicy",
                "v1alpha1",
                "baselineadminnetworkpolicies",
            ),
        }
    }
}

impl ClusterPolicy {
    /// From an object's `spec`.
    pub fn of(kind: PolicyKind, spec: &Json) -> Self {
        let mut reader = Reader {
            kind,
            names_nodes: false,
            unreadable: Vec::new(),
        };
        let tier = match (kind, spec["tier"].as_str()) {
            (PolicyKind::Baseline, _) | (PolicyKind::Cluster, Some("Baseline")) => Tier::Baseline,
            _ => Tier::Admin,
        };
        // Of the old kind there is one alone; its rules are behind those of the new one.
        let priority = match kind {
            PolicyKind::Baseline => i64::MAX,
            _ => spec["priority"].as_i64().unwrap_or_default(),
        };
        Self {
            tier,
            priority,
            subject: reader.pods(&spec["subject"]),
            ingress: reader.rules(&spec["ingress"], "from"),
            egress: reader.rules(&spec["egress"], "to"),
            names_nodes: reader.names_nodes,
            unreadable: reader.unreadable,
        }
    }

    /// Whether it is for a pod in a namespace with these labels; nobody's, if they are not known.
    pub fn selects(&self, namespace: Option<&[(String, String)]>, pod: &Pod) -> bool {
        let of = |pods: &Pods| pods.pods.matches(&*pod.labels);
        self.may_select(namespace) && self.subject.as_ref().is_some_and(of)
    }

    /// Whether it is for some pods of a namespace with these labels, whatever theirs are.
    pub fn may_select(&self, namespace: Option<&[(String, String)]>) -> bool {
        let there = |pods: &Pods| match (&pods.namespaces, namespace) {
            (Namespaces::With(selector), Some(labels)) => selector.matches(labels),
            _ => false,
        };
        self.subject.as_ref().is_some_and(there)
    }
}

/// The only field that is set of those that may be.
fn only<'a>(object: &'a Json, fields: &[&'static str]) -> Option<(&'static str, &'a Json)> {
    let object: &Map<String, Json> = object.as_object()?;
    let mut set = object.iter().filter(|(_, value)| !value.is_null());
    let (name, value) = set.next()?;
    let field = fields.iter().find(|field| *field == name)?;
    set.next().is_none().then_some((*field, value))
}

fn list(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

const PROTOCOLS: [(&str, u8); 3] = [("TCP", 6), ("UDP", 17), ("SCTP", 132)];

struct Reader {
    kind: PolicyKind,
    names_nodes: bool,
    unreadable: Vec<String>,
}

impl Reader {
    fn note<T>(&mut self, what: &str, value: &Json) -> Option<T> {
        self.unreadable.push(format!("{what} {value}"));
        None
    }

    fn rules(&mut self, rules: &Json, peers: &str) -> Vec<Ruling> {
        list(rules).iter().map(|r| self.rule(r, peers)).collect()
    }

    fn rule(&mut self, rule: &Json, peers: &str) -> Ruling {
        let action = match rule["action"].as_str() {
            Some("Accept" | "Allow") => Some(Action::Accept),
            Some("Deny") => Some(Action::Deny),
            Some("Pass") => Some(Action::Pass),
            _ => self.note("action", &rule["action"]),
        };
        let before = self.unreadable.len();
        let of = Allow {
            peers: Some(
                list(&rule[peers])
                    .iter()
                    .flat_map(|p| self.peers(p, peers))
                    .collect(),
            ),
            ports: self.ports(rule),
        };
        let is_whole = self.unreadable.len() == before;
        match action {
            Some(action) if is_whole || action == Action::Accept => Ruling { action, of },
            _ => Ruling {
                action: Action::Deny,
                of: Allow::default(),
            },
        }
    }

    fn ports(&mut self, rule: &Json) -> Option<Vec<Port>> {
        let field = match self.kind {
            PolicyKind::Cluster => "protocols",
            PolicyKind::Admin | PolicyKind::Baseline => "ports",
        };
        let ports = rule.get(field).filter(|ports| !ports.is_null())?;
        let read = list(ports).iter().flat_map(|port| match self.kind {
            PolicyKind::Cluster => self.protocol(port),
            PolicyKind::Admin | PolicyKind::Baseline => self.port(port),
        });
        Some(read.flatten().collect())
    }

    /// As ClusterNetworkPolicy says it.
    fn protocol(&mut self, value: &Json) -> Option<Vec<Port>> {
        let fields = ["tcp", "udp", "sctp", "destinationNamedPort"];
        let Some((field, said)) = only(value, &fields) else {
            return self.note("protocol", value);
        };
        let protocol = match field {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            _ => return self.named(said),
        };
        let number = match only(said, &["destinationPort"]) {
            Some((_, port)) => match only(port, &["number", "range"]) {
                Some(("number", number)) => range(number, number),
                Some((_, ends)) => range(&ends["start"], &ends["end"]),
                None => None,
            },
            None if said.as_object().is_some_and(Map::is_empty) => Some(Number::Any),
            None => None,
        };
        match number {
            Some(number) => Some(vec![Port { protocol, number }]),
            None => self.note("protocol", value),
        }
    }

    /// As AdminNetworkPolicy says it.
    fn port(&mut self, value: &Json) -> Option<Vec<Port>> {
        let fields = ["portNumber", "portRange", "namedPort"];
        let (number, said) = match only(value, &fields) {
            Some(("portNumber", said)) => (range(&said["port"], &said["port"]), said),
            Some(("portRange", said)) => (range(&said["start"], &said["end"]), said),
            Some((_, name)) => return self.named(name),
            None => return self.note("port", value),
        };
        let word = said["protocol"].as_str().unwrap_or("TCP");
        let protocol = PROTOCOLS.iter().find(|(name, _)| *name == word);
        match (number, protocol) {
            (Some(number), Some((_, protocol))) => {
                let protocol = *protocol;
                Some(vec![Port { protocol, number }])
            }
            _ => self.note("port", value),
        }
    }

    /// A name says a port of whichever protocol.
    fn named(&mut self, name: &Json) -> Option<Vec<Port>> {
        let Some(name) = name.as_str() else {
            return self.note("port", name);
        };
        let port = |(_, protocol): (&str, u8)| Port {
            protocol,
            number: Number::Named(name.to_owned()),
        };
        Some(PROTOCOLS.map(port).to_vec())
    }

    fn peers(&mut self, peer: &Json, direction: &str) -> Vec<Peer> {
        match only(peer, &["networks", "nodes"]) {
            Some(("networks", networks)) => {
                let networks = list(networks).iter();
                networks.filter_map(|n| self.network(n)).collect()
            }
            // The API has them where connections go to. Names of hosts are nowhere understood.
            Some((_, nodes)) if direction == "to" => {
                self.names_nodes = true;
                self.selector(nodes).map(Peer::Nodes).into_iter().collect()
            }
            _ => self.pods(peer).map(Peer::Pods).into_iter().collect(),
        }
    }

    fn network(&mut self, text: &Json) -> Option<Peer> {
        match text.as_str().unwrap_or_default().parse() {
            Ok(within) => {
                let except = Vec::new();
                Some(Peer::Block(Block { within, except }))
            }
            Err(_) => self.note("network", text),
        }
    }

    /// Pods, as a peer or as the subject.
    fn pods(&mut self, value: &Json) -> Option<Pods> {
        let everything = Json::Object(Map::new());
        let (namespaces, pods) = match only(value, &["namespaces", "pods"]) {
            Some(("namespaces", namespaces)) => (namespaces, &everything),
            Some((_, both)) => (&both["namespaceSelector"], &both["podSelector"]),
            None => return self.note("pods", value),
        };
        let (Some(namespaces), Some(pods)) = (self.selector(namespaces), self.selector(pods))
        else {
            return None;
        };
        Some(Pods {
            namespaces: Namespaces::With(namespaces),
            pods,
        })
    }

    fn selector(&mut self, selector: &Json) -> Option<LabelSelector> {
        match LabelSelector::from_json(selector) {
            Ok(read) => Some(read),
            Err(_) => self.note("selector", selector),
        }
    }
}

fn range(first: &Json, last: &Json) -> Option<Number> {
    let of = |end: &Json| number(i32::try_from(end.as_i64()?).ok()?);
    Some(Number::Range(of(first)?, of(last)?))
}

/// Policies by when they are asked.
pub fn in_order<'a>(
    all: impl IntoIterator<Item = (PolicyKind, &'a str, &'a ClusterPolicy)>,
) -> Vec<&'a ClusterPolicy> {
    let key = |(kind, name, policy): &(PolicyKind, &'a str, &'a ClusterPolicy)| {
        (policy.tier, policy.priority, *kind, *name)
    };
    let ordered: BTreeMap<_, _> = all.into_iter().map(|p| (key(&p), p.2)).collect();
    ordered.into_values().collect()
}
