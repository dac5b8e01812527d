//! Network policies, of namespaces or of administrators: all of them for the first time, a pod that
//! starts until it is protected, one label that changes; and what packets pay whom no policy is for.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use client::custom_kinds::CustomKind;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use network::policy::cluster_wide::{GROUP, PolicyKind};
use network::policy::door::Notice;
use network::policy::{Agent, Config, PolicyEvent};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::objects::{self, NODE};
use super::packets::Lab;
use super::services;
use super::times::{Times, Watch};
use crate::report::Row;
use crate::server::memory_of;

/// Namespaces that all pods and policies are spread over.
const NAMESPACES: u32 = 20;
/// Kinds of pods in each.
const APPS: u32 = 50;
/// Pods of this node: as many as a node may have by default.
const HERE: u32 = 110;

/// Rules of a policy of an administrator.
pub const WIDE_RULES: u32 = 10;

/// Makes a policy by its number, with this port as its last.
pub type Make = fn(u32, u16) -> Result<PolicyEvent>;

/// What a child saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    first_ms: f64,
    started: Times,
    label: Times,
    policy: Times,
    resident_mb: f64,
    /// Microseconds of packets of pods without policies, while there are none, and beside them all.
    alone: (f64, f64),
    beside: (f64, f64),
}

impl Figures {
    pub fn rows(&self, case: &str) -> Vec<Row> {
        let name = |what: &str| format!("{case}: {what}");
        let packet = |what: &str, own: f64, other: f64| {
            let what = format!("{what} of pods without policies, against a node without any");
            Row::value(&name(&what), "µs", own).against(&Row::value("", "µs", other))
        };
        vec![
            Row::value(&name("first programming"), "ms", self.first_ms),
            self.started
                .row(name("one pod started until it is protected")),
            self.label.row(name("one label changed")),
            self.policy.row(name("one policy changed")),
            Row::value(&name("agent, resident"), "MB", self.resident_mb),
            packet("packet of an open connection", self.beside.0, self.alone.0),
            packet("first packet of a connection", self.beside.1, self.alone.1),
        ]
    }
}

/// In the child.
pub fn measure(make: Make, policies: u32, pods: u32, times: u32) -> Result<Figures> {
    let lab = &Lab::new()?;
    lab.node
        .run(move || program(lab, make, policies, pods, times))?
}

fn space(index: u32) -> String {
    format!("ns{}", index % NAMESPACES)
}

fn app(index: u32) -> String {
    format!("a{}", index / NAMESPACES % APPS)
}

fn address(index: u32) -> Ipv4Addr {
    // Before them are those that packets are sent between.
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 1, 0).to_bits() + index)
}

fn labels(index: u32) -> Value {
    json!({ "app": app(index) })
}

/// A policy lets one kind of pods be reached by another of its namespace and by all pods of a kind
/// in another one, and lets it reach a block of addresses and cluster DNS.
pub fn policy(index: u32, last: u16) -> Result<PolicyEvent> {
    let pods = |index: u32| json!({ "matchLabels": { "app": app(index) } });
    let team = json!({ "matchLabels": { "team": space(index + 1) } });
    let spec = json!({
        "podSelector": pods(index),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": [
                { "podSelector": pods(index + NAMESPACES) },
                { "namespaceSelector": team, "podSelector": pods(index + 2 * NAMESPACES) },
            ],
            "ports": [{ "port": "http" }, { "port": 9000, "endPort": last }],
        }],
        "egress": [
            { "to": [{ "ipBlock": { "cidr": "192.0.2.0/24", "except": [format!("192.0.2.{}/32", index % 250)] } }] },
            { "ports": [{ "protocol": "UDP", "port": 53 }] },
        ],
    });
    let made = objects::policy(&space(index), &format!("p{index}"), spec)?;
    Ok(PolicyEvent::Policy(Box::new(Event::Apply(made))))
}

/// A policy of an administrator is for all pods of a namespace; each of its rules is about one kind of
/// pods of another one. They are of both tiers.
pub fn wide_policy(index: u32, last: u16) -> Result<PolicyEvent> {
    let team = |index: u32| json!({ "matchLabels": { "team": space(index) } });
    let rule = |direction: &str, nth: u32| {
        let number = index * WIDE_RULES + nth;
        let app = json!({ "matchLabels": { "app": app(number) } });
        let pods = json!({ "namespaceSelector": team(number), "podSelector": app });
        let range = json!({ "start": 9000, "end": last });
        json!({
            "action": if nth.is_multiple_of(2) { "Accept" } else { "Deny" },
            direction: [{ "pods": pods }],
            "protocols": [{ "tcp": { "destinationPort": { "range": range } } }],
        })
    };
    let (half, all) = (WIDE_RULES / 2, WIDE_RULES);
    let ingress: Vec<Value> = (0..half).map(|nth| rule("from", nth)).collect();
    let egress: Vec<Value> = (half..all).map(|nth| rule("to", nth)).collect();
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": format!("{GROUP}/{}", PolicyKind::Cluster.names().1),
        "kind": PolicyKind::Cluster.names().0,
        "metadata": { "name": format!("c{index}") },
        "spec": {
            "tier": if index.is_multiple_of(2) { "Admin" } else { "Baseline" },
            "priority": index, "subject": { "namespaces": team(index / 2) },
            "ingress": ingress, "egress": egress,
        },
    }))?;
    let event = Box::new(Event::Apply(object));
    Ok(PolicyEvent::ClusterWide(PolicyKind::Cluster, event))
}

fn pod(index: u32, here: bool, labels: Value) -> Result<PolicyEvent> {
    let name = format!("pod{index}");
    let made = objects::pod(&space(index), &name, address(index), here, labels)?;
    Ok(PolicyEvent::Pod(Box::new(Event::Apply(made))))
}

fn hear_all(agent: &mut Agent, make: Make, policies: u32, pods: u32) -> Result<()> {
    agent.hear(PolicyEvent::Kinds([PolicyKind::Cluster].into()));
    for event in [Event::Init, Event::InitDone] {
        agent.hear(PolicyEvent::ClusterWide(
            PolicyKind::Cluster,
            Box::new(event),
        ));
    }
    agent.hear(PolicyEvent::Policy(Box::new(Event::Init)));
    agent.hear(PolicyEvent::Policy(Box::new(Event::InitDone)));
    agent.hear(PolicyEvent::Namespace(Box::new(Event::Init)));
    agent.hear(PolicyEvent::Namespace(Box::new(Event::InitDone)));
    agent.hear(PolicyEvent::Pod(Box::new(Event::Init)));
    agent.hear(PolicyEvent::Pod(Box::new(Event::InitDone)));
    for index in 0..NAMESPACES {
        let made = objects::namespace(&space(index))?;
        agent.hear(PolicyEvent::Namespace(Box::new(Event::Apply(made))));
    }
    for index in 0..pods {
        agent.hear(pod(index, index < HERE, labels(index))?);
    }
    for index in 0..policies {
        agent.hear(make(index, 9_010)?);
    }
    Ok(())
}

fn program(lab: &Lab, make: Make, policies: u32, pods: u32, times: u32) -> Result<Figures> {
    // Its rules have connections tracked.
    let _proxy = services::program_none()?;
    let alone = lab.measure_plain()?;
    let mut agent = Agent::new(&Config {
        node_name: NODE.into(),
        door: None,
        tenants: Vec::new(),
    })?;
    hear_all(&mut agent, make, policies, pods)?;
    let watch = Watch::start()?;
    agent.sync();
    let (first, _) = watch.seen()?;
    let started = start(&mut agent, pods, times)?;
    // One comes to be what a policy lets in, and is something else again.
    let changed = |round: u32| {
        let index = HERE + (round / 2).wrapping_mul(7919) % (pods - HERE);
        let labels = match round % 2 {
            0 => json!({ "app": app(index + NAMESPACES) }),
            _ => labels(index),
        };
        pod(index, false, labels)
    };
    let label = hear_each(&mut agent, times, changed)?;
    let policy = hear_each(&mut agent, times, |round| {
        let index = (round / 2).wrapping_mul(7919) % policies;
        let is_other = round.is_multiple_of(2);
        make(index, if is_other { 9_020 } else { 9_010 })
    })?;
    Ok(Figures {
        first_ms: first.as_secs_f64() * 1e3,
        started,
        label,
        policy,
        resident_mb: memory_of(std::process::id()).resident_mb,
        alone,
        beside: lab.measure_plain()?,
    })
}

fn hear_each(
    agent: &mut Agent,
    times: u32,
    event: impl Fn(u32) -> Result<PolicyEvent>,
) -> Result<Times> {
    let events = (0..times).map(event).collect::<Result<Vec<_>>>()?;
    Watch::each(events, |event| {
        agent.hear(event);
        agent.sync();
        Ok(())
    })
}

/// The plugin says that a pod has an address, the API shows the pod; then it may start.
fn start(agent: &mut Agent, pods: u32, times: u32) -> Result<Times> {
    let one = |round: u32| {
        let index = pods + round;
        let (namespace, name) = (space(index), format!("pod{index}"));
        let notice = Notice::Added {
            uid: format!("{namespace}-{name}"),
            namespace,
            name,
            sandbox: format!("s{index}"),
            addresses: vec![address(index).into()],
        };
        Ok((pod(index, true, labels(index))?, notice))
    };
    let steps = (0..times).map(one).collect::<Result<Vec<_>>>()?;
    Watch::each(steps, |(shown, notice)| {
        agent.hear(shown);
        let (done, mut answered) = tokio::sync::oneshot::channel();
        agent.ask((notice, done));
        agent.sync();
        ensure!(answered.try_recv().is_ok(), "the pod still waits");
        Ok(())
    })
}
