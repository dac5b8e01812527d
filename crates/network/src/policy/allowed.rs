//! What a pod is allowed in one direction by all policies together: pure.
//!
//! Pods that are allowed the same have the same profile, and so the same chains. A profile says
//! what is allowed by ports of the answering end and by names of sets; what the sets hold changes
//! without it. That is why chains look again before they decide (see [`Profile::chains`]).
//! What becomes of what is not allowed, the chain [`REFUSED`] says for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use host::nft::{Chain, Field, Part, Rule, Verdict};

use super::blocks::blocks_name;
use super::cluster_wide::{Action, ClusterPolicy, Tier};
use super::model::{Allow, Block, Number, Peer, Pod, Policy};
use super::query::{Query, Whom};
use super::text::digest;

/// The chain of what is not allowed. It counts what is dropped; that it is led to is counted where
/// that was found.
pub const REFUSED: &str = "refused";

fn refused() -> Verdict {
    Verdict::Goto(REFUSED.to_owned())
}

/// Which way a connection goes, seen from the pod that a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It was opened to the pod.
    In,
    /// It was opened by the pod.
    Out,
}

/// What becomes of connections of a pod in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Isolation {
    /// No policy says anything of it.
    Open,
    /// Nothing passes: who the pod is is not known.
    Dark,
    /// What the profile allows passes.
    Only(Profile),
}

/// What is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// What administrators have decided before all others; the first that matches counts.
    pub first: Vec<Judgement>,
    /// What the policies of the pod's namespace allow, each once, by its own text; nothing else is
    /// allowed then. None if no such policy is for the pod.
    pub grants: Option<BTreeMap<String, Grant>>,
    /// What administrators have decided where nobody else has.
    pub last: Vec<Judgement>,
}

/// What becomes of some connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What.
    pub action: Action,
    /// Of which.
    pub of: Grant,
}

/// Some connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// To which ports of the end that answers.
    pub ports: Ports,
    /// From or to whom.
    pub peers: Peers,
}

/// Ports of the end that answers, whatever their names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// All traffic.
    All,
    /// All ports of a protocol.
    Protocol(u8),
    /// From the first to the last, both included.
    Range(u8, u16, u16),
}

/// The other ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Everybody.
    Anyone,
    /// Pods or nodes that a query finds.
    Found(Query),
    /// Addresses in any of these blocks.
    Blocks(Vec<Block>),
}

/// What a pod is allowed by the policies of its namespace, and by those of administrators for it,
/// which come in the order in which they are asked.
pub fn isolation<'a>(
    direction: Direction,
    pod: &Pod,
    policies: impl IntoIterator<Item = &'a Policy>,
    cluster_wide: &[&ClusterPolicy],
) -> Isolation {
    let mut profile = Profile {
        grants: granted(direction, pod, policies),
        ..Profile::default()
    };
    for policy in cluster_wide {
        let (judgements, rules) = match (policy.tier, direction) {
            (Tier::Admin, Direction::In) => (&mut profile.first, &policy.ingress),
            (Tier::Admin, Direction::Out) => (&mut profile.first, &policy.egress),
            (Tier::Baseline, Direction::In) => (&mut profile.last, &policy.ingress),
            (Tier::Baseline, Direction::Out) => (&mut profile.last, &policy.egress),
        };
        for rule in rules {
            let action = rule.action;
            let of = grants(direction, pod, &rule.of).into_iter();
            judgements.extend(of.map(|of| Judgement { action, of }));
        }
    }
    if profile.grants.is_some() {
        profile.last.clear();
    }
    let is_all = |grants: &BTreeMap<String, Grant>| grants.values().any(Grant::is_all);
    match profile.first.is_empty()
        && profile.last.is_empty()
        && profile.grants.as_ref().is_none_or(is_all)
    {
        true => Isolation::Open,
        false => Isolation::Only(profile),
    }
}

/// What the policies of its namespace allow a pod; none if they say nothing.
fn granted<'a>(
    direction: Direction,
    pod: &Pod,
    policies: impl IntoIterator<Item = &'a Policy>,
) -> Option<BTreeMap<String, Grant>> {
    let mut all: Option<BTreeMap<String, Grant>> = None;
    for policy in policies {
        let rules = match direction {
            Direction::In => &policy.ingress,
            Direction::Out => &policy.egress,
        };
        let Some(rules) = rules.as_ref().filter(|_| policy.selects(pod)) else {
            continue;
        };
        let all = all.get_or_insert_default();
        for grant in rules.iter().flat_map(|rule| grants(direction, pod, rule)) {
            if grant.is_all() {
                return Some([(grant.text(), grant)].into());
            }
            all.insert(grant.text(), grant);
        }
    }
    all
}

fn grants(direction: Direction, pod: &Pod, rule: &Allow) -> Vec<Grant> {
    let peers = peers_of(rule);
    let mut grants = Vec::new();
    let mut allow = |ports: Ports, peers: Peers| grants.push(Grant { ports, peers });
    let Some(ports) = &rule.ports else {
        peers.into_iter().for_each(|p| allow(Ports::All, p));
        return grants;
    };
    for port in ports {
        let protocol = port.protocol;
        match (&port.number, direction) {
            (Number::Any, _) => {
                let ports = Ports::Protocol(protocol);
                peers.iter().for_each(|p| allow(ports, p.clone()));
            }
            (Number::Range(first, last), _) => {
                let ports = Ports::Range(protocol, *first, *last);
                peers.iter().for_each(|p| allow(ports, p.clone()));
            }
            // The pod itself answers: its name is a number here and now.
            (Number::Named(name), Direction::In) => {
                let named =
                    |p: &&super::model::NamedPort| p.protocol == protocol && p.name == *name;
                for found in pod.ports.iter().filter(named) {
                    let ports = Ports::Range(protocol, found.port, found.port);
                    peers.iter().for_each(|p| allow(ports, p.clone()));
                }
            }
            // Each pod that answers may mean another number by it.
            (Number::Named(name), Direction::Out) => {
                for peers in &peers {
                    let whom = match peers {
                        Peers::Anyone => Whom::Anyone,
                        Peers::Found(query) => query.whom.clone(),
                        Peers::Blocks(blocks) => Whom::Blocks(blocks.clone()),
                    };
                    let port = Some((protocol, name.clone()));
                    allow(Ports::All, Peers::Found(Query { whom, port }));
                }
            }
        }
    }
    grants
}

/// The other ends of a rule: all its blocks are one.
fn peers_of(rule: &Allow) -> Vec<Peers> {
    let Some(list) = &rule.peers else {
        return vec![Peers::Anyone];
    };
    let mut peers = Vec::new();
    let mut blocks = Vec::new();
    for peer in list {
        match peer {
            Peer::Block(block) => blocks.push(block.clone()),
            Peer::Pods(pods) => peers.push(Peers::Found(Query {
                whom: Whom::Pods(pods.clone()),
                port: None,
            })),
            Peer::Nodes(nodes) => peers.push(Peers::Found(Query {
                whom: Whom::Nodes(nodes.clone()),
                port: None,
            })),
        }
    }
    if !blocks.is_empty() {
        peers.push(Peers::Blocks(blocks));
    }
    peers
}

impl Profile {
    /// All connections that it says anything of.
    pub fn parts(&self) -> impl Iterator<Item = &Grant> {
        let first = self.first.iter().map(|j| &j.of);
        let own = self.grants.iter().flat_map(BTreeMap::values);
        first.chain(own).chain(self.last.iter().map(|j| &j.of))
    }

    /// The name of its chain: the same for the same content, also after a restart.
    pub fn chain_name(&self, direction: Direction) -> String {
        let word = match direction {
            Direction::In => "in",
            Direction::Out => "out",
        };
        let mut text = String::new();
        let mut judged = |judgements: &[Judgement]| {
            for judgement in judgements {
                let Judgement { action, of } = judgement;
                let _ = writeln!(text, "{action:?} {}", of.text());
            }
            let _ = writeln!(text, "then");
        };
        if !self.first.is_empty() || !self.last.is_empty() {
            judged(&self.first);
            judged(&self.last);
        }
        for grant in self.grants.iter().flat_map(BTreeMap::keys) {
            let _ = writeln!(text, "{grant}");
        }
        if self.grants.is_none() {
            let _ = writeln!(text, "no policy");
        }
        digest(word, &text)
    }

    /// Its chains, the one of its own name first: back to the caller for what is allowed.
    ///
    /// Between two look-ups of a packet, another end may move from one set to another, so that
    /// neither look-up finds it. Therefore what is not found to be allowed is looked for once more
    /// before it is refused: one of both times, all look-ups saw the same.
    pub fn chains(&self, direction: Direction) -> Vec<(String, Chain)> {
        let name = self.chain_name(direction);
        let moves = |grant: &&Grant| matches!(grant.peers, Peers::Found(_));
        let found = self.parts().filter_map(|grant| match &grant.peers {
            Peers::Found(query) => Some(query.set_name()),
            Peers::Anyone | Peers::Blocks(_) => None,
        });
        // Within one set nobody moves.
        let is_one = found.collect::<BTreeSet<String>>().len() < 2;
        if self.first.is_empty() && self.last.is_empty() {
            let grants = || self.grants.iter().flat_map(BTreeMap::values);
            let mut again: Vec<&Grant> = grants().filter(moves).collect();
            // What was looked for last has seen the latest.
            again.pop();
            again.retain(|_| !is_one);
            let all = grants().chain(again);
            let mut rules: Vec<Rule> = all.map(|g| g.rule(direction, Verdict::Return)).collect();
            rules.push(end(refused()));
            return vec![(name, Chain { hook: None, rules })];
        }
        if is_one {
            return self.judged(direction, &name, &refused());
        }
        let again = format!("{name}-again");
        let mut chains = self.judged(direction, &name, &Verdict::Goto(again.clone()));
        chains.extend(self.judged(direction, &again, &refused()));
        chains
    }

    /// Chains that judge once, and do so with what is forbidden: the first has the name.
    fn judged(&self, direction: Direction, name: &str, no: &Verdict) -> Vec<(String, Chain)> {
        let yes = &Verdict::Return;
        let next = format!("{name}-next");
        let passes = self.first.iter().any(|j| j.action == Action::Pass);
        let rule = |judgement: &Judgement, pass: &Verdict| {
            let verdict = match judgement.action {
                Action::Accept => yes,
                Action::Deny => no,
                Action::Pass => pass,
            };
            judgement.of.rule(direction, verdict.clone())
        };
        let to_next = Verdict::Goto(next.clone());
        let mut rules: Vec<Rule> = self.first.iter().map(|j| rule(j, &to_next)).collect();
        let mut then: Vec<Rule> = match &self.grants {
            Some(grants) => {
                let grants = grants.values();
                grants.map(|g| g.rule(direction, yes.clone())).collect()
            }
            None => self.last.iter().map(|j| rule(j, yes)).collect(),
        };
        then.push(end(match &self.grants {
            Some(_) => no.clone(),
            None => yes.clone(),
        }));
        if !passes {
            rules.extend(then);
            return vec![(name.to_owned(), Chain { hook: None, rules })];
        }
        rules.push(Rule(vec![Part::Verdict(to_next)]));
        vec![
            (name.to_owned(), Chain { hook: None, rules }),
            (
                next,
                Chain {
                    hook: None,
                    rules: then,
                },
            ),
        ]
    }
}

/// The end of a chain.
fn end(verdict: Verdict) -> Rule {
    Rule(counted(verdict).collect())
}

/// The end of a rule.
fn counted(verdict: Verdict) -> impl Iterator<Item = Part> {
    let counter = (verdict == refused()).then_some(Part::Counter);
    counter.into_iter().chain([Part::Verdict(verdict)])
}

impl Grant {
    /// What it says, the same for the same meaning.
    pub fn text(&self) -> String {
        let ports = match self.ports {
            Ports::All => "all".to_owned(),
            Ports::Protocol(protocol) => format!("{protocol}"),
            Ports::Range(protocol, first, last) => format!("{protocol}/{first}-{last}"),
        };
        let peers = match &self.peers {
            Peers::Anyone => "anyone".to_owned(),
            Peers::Found(query) => query.set_name(),
            Peers::Blocks(blocks) => blocks_name(blocks),
        };
        format!("{ports} {peers}")
    }

    /// Whether it is every connection.
    fn is_all(&self) -> bool {
        matches!((&self.ports, &self.peers), (Ports::All, Peers::Anyone))
    }

    fn rule(&self, direction: Direction, verdict: Verdict) -> Rule {
        let other = match direction {
            Direction::In => Field::Client,
            Direction::Out => Field::Server,
        };
        let mut parts = Vec::new();
        match self.ports {
            Ports::All => {}
            Ports::Protocol(protocol) => parts.push(Part::ConnectionProtocol(protocol)),
            Ports::Range(protocol, first, last) => {
                parts.push(Part::ConnectionProtocol(protocol));
                parts.push(Part::ServerPorts { first, last });
            }
        }
        let (fields, set) = match &self.peers {
            Peers::Anyone => (Vec::new(), String::new()),
            Peers::Found(query) if query.port.is_some() => {
                let fields = vec![Field::Server, Field::ConnectionProtocol, Field::ServerPort];
                (fields, query.set_name())
            }
            Peers::Found(query) => (vec![other], query.set_name()),
            Peers::Blocks(blocks) => (vec![other], blocks_name(blocks)),
        };
        if !fields.is_empty() {
            let negate = false;
            parts.push(Part::InSet {
                fields,
                set,
                negate,
            });
        }
        parts.extend(counted(verdict));
        Rule(parts)
    }
}
