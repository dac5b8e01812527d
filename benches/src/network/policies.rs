//! Network policies: all of them for the first time, a pod that starts until it is protected, and
//! one label that changes.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use host::netns::NetNs;
use kube::runtime::watcher::Event;
use network::policy::door::Notice;
use network::policy::{Agent, Config, Heard};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::objects::{self, NODE};
use super::times::{Times, Watch};
use crate::report::Row;
use crate::server::memory_of;

/// Namespaces that all pods and policies are spread over.
const NAMESPACES: u32 = 20;
/// Kinds of pods in each.
const APPS: u32 = 50;
/// Pods of this node: as many as a node may have by default.
const HERE: u32 = 110;

/// What a child saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    first_ms: f64,
    started: Times,
    label: Times,
    policy: Times,
    resident_mb: f64,
}

impl Figures {
    pub fn rows(&self, case: &str) -> Vec<Row> {
        let name = |what: &str| format!("{case}: {what}");
        vec![
            Row::value(&name("first programming"), "ms", self.first_ms),
            self.started
                .row(name("one pod started until it is protected")),
            self.label.row(name("one label changed")),
            self.policy.row(name("one policy changed")),
            Row::value(&name("agent, resident"), "MB", self.resident_mb),
        ]
    }
}

/// In the child.
pub fn measure(policies: u32, pods: u32, times: u32) -> Result<Figures> {
    let node = NetNs::anonymous()?;
    node.run(move || program(policies, pods, times))?
}

fn space(index: u32) -> String {
    format!("ns{}", index % NAMESPACES)
}

fn app(index: u32) -> String {
    format!("a{}", index / NAMESPACES % APPS)
}

fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 2).to_bits() + index)
}

fn labels(index: u32) -> Value {
    json!({ "app": app(index) })
}

/// A policy lets one kind of pods be reached by another of its namespace and by all pods of a kind
/// in another one, and lets it reach a block of addresses and cluster DNS.
fn policy(index: u32, last: u16) -> Result<Heard> {
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
    Ok(Heard::Policy(Box::new(Event::Apply(made))))
}

fn pod(index: u32, here: bool, labels: Value) -> Result<Heard> {
    let name = format!("pod{index}");
    let made = objects::pod(&space(index), &name, address(index), here, labels)?;
    Ok(Heard::Pod(Box::new(Event::Apply(made))))
}

fn hear_all(agent: &mut Agent, policies: u32, pods: u32) -> Result<()> {
    agent.hear(Heard::Policy(Box::new(Event::Init)));
    agent.hear(Heard::Policy(Box::new(Event::InitDone)));
    agent.hear(Heard::Namespace(Box::new(Event::Init)));
    agent.hear(Heard::Namespace(Box::new(Event::InitDone)));
    agent.hear(Heard::Pod(Box::new(Event::Init)));
    agent.hear(Heard::Pod(Box::new(Event::InitDone)));
    for index in 0..NAMESPACES {
        let made = objects::namespace(&space(index))?;
        agent.hear(Heard::Namespace(Box::new(Event::Apply(made))));
    }
    for index in 0..pods {
        agent.hear(pod(index, index < HERE, labels(index))?);
    }
    for index in 0..policies {
        agent.hear(policy(index, 9_010)?);
    }
    Ok(())
}

fn program(policies: u32, pods: u32, times: u32) -> Result<Figures> {
    let mut agent = Agent::new(&Config {
        node_name: NODE.into(),
        door: None,
        tenants: Vec::new(),
    })?;
    hear_all(&mut agent, policies, pods)?;
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
        self::policy(
            index,
            if round.is_multiple_of(2) {
                9_020
            } else {
                9_010
            },
        )
    })?;
    Ok(Figures {
        first_ms: first.as_secs_f64() * 1e3,
        started,
        label,
        policy,
        resident_mb: memory_of(std::process::id()).resident_mb,
    })
}

fn hear_each(agent: &mut Agent, times: u32, event: impl Fn(u32) -> Result<Heard>) -> Result<Times> {
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
