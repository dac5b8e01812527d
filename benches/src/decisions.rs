//! How fast the scheduler decides by itself: no API server, no client, one thread. Each decision is
//! timed; what it reads is fed as its shell would feed it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use scheduler::core::{Core, Nomination, Step};
use scheduler::decide::Profile;
use scheduler::queue::Waits;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::memory_of;
use crate::shapes::{self, Shape};

/// Sizes of clusters, and pods that wait in each.
const NODES: [u64; 2] = [500, 5_000];
const PODS: u64 = 10_000;

fn typed<T: DeserializeOwned>(mut object: Value, uid: &str) -> Result<T> {
    object["metadata"]["uid"] = uid.into();
    Ok(serde_json::from_value(object)?)
}

fn pod(object: Value) -> Result<Pod> {
    let name = object["metadata"]["name"].as_str().context("no name")?;
    let uid = format!("uid-{name}");
    typed(object, &uid)
}

/// A scheduler that knows a cluster of this size and what was there before.
fn cluster(shape: Shape, nodes: u64, pods: u64) -> Result<(Core, Vec<Pod>)> {
    let mut core = Core::new(vec![Profile::default()], Waits::default());
    let namespace: Namespace = typed(shapes::namespace(), "namespace")?;
    core.namespace_changed(None, Some(&namespace));
    let room = crate::objects::node_status("2026-01-01T00:00:00Z");
    for i in 0..nodes {
        let mut node = shapes::node(i);
        node["status"] = room["status"].clone();
        let node: Node = typed(node, &format!("node-{i}"))?;
        core.node_changed(None, Some(&node));
    }
    if shape == Shape::Volumes {
        for i in 0..pods {
            let [mut volume, claim] = shapes::volume(i);
            let uid = format!("claim-{i}");
            volume["spec"]["claimRef"]["uid"] = uid.as_str().into();
            let volume: PersistentVolume = typed(volume, &format!("volume-{i}"))?;
            core.volume_changed(None, Some(&volume));
            let claim: PersistentVolumeClaim = typed(claim, &uid)?;
            core.claim_changed(None, Some(&claim));
        }
    }
    let mut settled = Vec::new();
    for i in 0..shapes::settled_pods(shape, nodes, pods) {
        let Some(mut object) = shapes::settled(shape, i, nodes) else {
            break;
        };
        object["spec"]["priority"] = 0.into();
        object["status"]["phase"] = "Running".into();
        let pod = pod(object)?;
        core.pod_changed(None, Some(&pod), 0);
        settled.push(pod);
    }
    Ok((core, settled))
}

/// How long each decision took, and how many found a node.
#[derive(Default)]
struct Decided {
    each: Vec<Duration>,
    placed: u64,
}

impl Decided {
    fn p99_ms(&mut self) -> f64 {
        self.each.sort_unstable();
        let at = self.each.len() * 99 / 100;
        let slow = self.each.get(at.min(self.each.len().saturating_sub(1)));
        slow.map_or(0.0, |d| d.as_secs_f64() * 1e3)
    }
}

/// Rounds without a decision, in which only the time goes on: pods that made room for themselves wait
/// for their turn.
const IDLE_ROUNDS: u32 = 1_000;

/// Decides until so many pods have a node. Pods that preemption takes are gone at once.
fn decide(core: &mut Core, settled: &[Pod], shape: Shape, pods: u64) -> Decided {
    let (mut out, mut churned) = (Decided::default(), settled.iter());
    let by_uid: HashMap<&str, &Pod> = settled
        .iter()
        .filter_map(|p| Some((p.metadata.uid.as_deref()?, p)))
        .collect();
    let (mut now_ms, mut idle) = (0, 0);
    while out.placed < pods && idle < IDLE_ROUNDS {
        let begun = Instant::now();
        let seed = u64::try_from(out.each.len()).unwrap_or(u64::MAX);
        let Some(step) = core.step(seed, now_ms) else {
            idle += 1;
            now_ms = core.next_due_ms().unwrap_or(now_ms).max(now_ms);
            continue;
        };
        out.each.push(begun.elapsed());
        match step {
            Step::Bind { .. } => out.placed += 1,
            Step::Prepare { pod, .. } => core.prepared(&pod.uid, Ok(()), now_ms),
            Step::Unschedulable {
                pod,
                nomination: Nomination::Begins(room),
                ..
            } => {
                for victim in &room.victims {
                    if let Some(old) = by_uid.get(&*victim.uid) {
                        core.pod_changed(Some(old), None, now_ms);
                    }
                }
                core.made_room(&pod.uid, true, now_ms);
            }
            Step::Unschedulable { .. } | Step::Failed { .. } | Step::Ask(_) => {}
        }
        if shape == Shape::Churn
            && let Some(old) = churned.next()
        {
            core.pod_changed(Some(old), None, now_ms);
        }
    }
    out
}

fn case(shape: Shape, nodes: u64) -> Result<Vec<Row>> {
    let pods = shape.pods(nodes, PODS);
    let (mut core, settled) = cluster(shape, nodes, pods)?;
    let mut waiting = Vec::new();
    for i in 0..pods {
        waiting.push(pod(shapes::pod(shape, i))?);
    }
    for pod in &waiting {
        core.pod_changed(None, Some(pod), 0);
    }
    let begun = Instant::now();
    if shape == Shape::Gates {
        for pod in &waiting {
            let mut open = pod.clone();
            if let Some(spec) = &mut open.spec {
                spec.scheduling_gates = None;
            }
            core.pod_changed(Some(pod), Some(&open), 0);
        }
    }
    let mut decided = decide(&mut core, &settled, shape, pods);
    let took = begun.elapsed();
    ensure!(
        decided.placed == pods,
        "{}: {} of {pods} pods have a node",
        shape.name(),
        decided.placed
    );
    let name = format!(
        "decisions alone, {}: {pods} pods on {nodes} nodes",
        shape.name()
    );
    let row = Row {
        case: name,
        per_second: Some(decided.placed as f64 / took.as_secs_f64()),
        p99_ms: Some(decided.p99_ms()),
        ..Row::default()
    };
    let memory = memory_of(std::process::id());
    let own = Row::value(
        "… resident, with the pods as objects",
        "MB",
        memory.resident_mb,
    );
    Ok(vec![row, own])
}

pub fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let sizes = if plan.quick { &NODES[..1] } else { &NODES[..] };
    for nodes in sizes {
        for shape in Shape::ALL {
            if !shape.name().contains(plan.only.as_str()) {
                continue;
            }
            for row in case(shape, *nodes)? {
                report.add(row);
            }
        }
    }
    Ok(())
}
