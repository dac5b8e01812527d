//! Keeps the node alive when memory, disk or process ids run short: tells it in the node's
//! conditions and ends pods, one at a time, those first that use more than they asked for.

mod rank;

pub use rank::{Candidate, Signal, choose};

use crate::events::Severity;
use crate::node::machine;
use crate::node::{NodeKeeper, Pressure};
use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::pod::spec;
use crate::pod::worker::End;
use crate::quantity;
use crate::stats::{self, OfPod};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an evicted pod gets to end: the node cannot wait. Upstream's value.
const GRACE_SECONDS: i64 = 1;

/// How much is left of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Share of the disk in percent.
    pub disk_percent: u64,
    /// Share of its inodes in percent.
    pub inode_percent: u64,
    /// Share of process ids in percent.
    pub pid_percent: u64,
}

/// When each pressure was seen last; a condition stays for a while after.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    memory: Option<Instant>,
    disk: Option<Instant>,
    pid: Option<Instant>,
}

/// Looks at the signals for ever.
pub async fn run(deps: Arc<Deps>, pods: Arc<Pods>, keeper: Arc<NodeKeeper>) {
    let mut since = Since::default();
    let mut ticks = tokio::time::interval(deps.config.eviction.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let left = left(&deps);
        let short = short_of(&deps.config.eviction, &left);
        let now = Instant::now();
        let pressure = note(
            &mut since,
            &short,
            now,
            deps.config.eviction.transition_period,
        );
        let changed = {
            let mut shared = keeper.pressure.lock();
            let changed = *shared != pressure;
            *shared = pressure;
            changed
        };
        if changed {
            keeper.changed.notify_one();
        }
        over_their_own_limits(&deps, &pods).await;
        if let Some(signal) = short.first() {
            relieve(&deps, &pods, *signal, &left).await;
        }
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(100)
}

fn left(deps: &Deps) -> Left {
    let fs = host::mounts::fs_usage(&deps.config.root_dir).unwrap_or_default();
    let (pids, most) = machine::pids();
    let memory_bytes = match deps.config.capacity.memory_bytes {
        // A part of a machine: what its pods leave of what it declares, if the machine has it.
        Some(declared) => {
            let used = deps
                .cgroups
                .stats(&deps.config.kubepods())
                .map_or(0, |s| s.working_set_bytes);
            declared
                .saturating_sub(used)
                .min(machine::memory().available)
        }
        None => machine::memory().available,
    };
    Left {
        memory_bytes,
        disk_percent: percent(fs.available_bytes, fs.capacity_bytes),
        inode_percent: percent(fs.inodes_free, fs.inodes),
        pid_percent: percent(most.saturating_sub(pids), most),
    }
}

/// What is below its threshold, the most urgent first.
fn short_of(t: &crate::config::EvictionThresholds, left: &Left) -> Vec<Signal> {
    let mut out = Vec::new();
    if left.memory_bytes < t.memory_available_bytes {
        out.push(Signal::Memory);
    }
    if left.disk_percent < t.nodefs_available_percent
        || left.inode_percent < t.nodefs_inodes_free_percent
    {
        out.push(Signal::Disk);
    }
    if left.pid_percent < t.pid_available_percent {
        out.push(Signal::Pid);
    }
    out
}

fn note(since: &mut Since, short: &[Signal], now: Instant, stays: Duration) -> Pressure {
    let one = |signal: Signal, at: &mut Option<Instant>| {
        if short.contains(&signal) {
            *at = Some(now);
        }
        at.is_some_and(|t| now.duration_since(t) < stays || short.contains(&signal))
    };
    Pressure {
        memory: one(Signal::Memory, &mut since.memory),
        disk: one(Signal::Disk, &mut since.disk),
        pid: one(Signal::Pid, &mut since.pid),
    }
}

async fn relieve(deps: &Arc<Deps>, pods: &Arc<Pods>, signal: Signal, left: &Left) {
    if signal == Signal::Disk && crate::gc::remove_unused_images(deps, u64::MAX).await > 0 {
        return;
    }
    let all = stats::collect(deps, pods).await;
    let candidates: Vec<Candidate> = all
        .pods
        .iter()
        .map(|p| rank::candidate(p, signal))
        .collect();
    let Some(victim) = choose(&candidates).and_then(|i| all.pods.get(i)) else {
        tracing::warn!(?signal, "the node runs short, and there is no pod to end");
        return;
    };
    evict(deps, pods, victim, message(deps, victim, signal, left));
}

fn evict(deps: &Deps, pods: &Pods, victim: &OfPod, message: String) {
    tracing::warn!(
        pod = spec::full_name(&victim.pod),
        message,
        "evicting a pod"
    );
    deps.recorder.pod(
        &victim.pod,
        None,
        Severity::Warning,
        "Evicted",
        message.clone(),
    );
    let end = End {
        reason: "Evicted".into(),
        message,
        grace_seconds: GRACE_SECONDS,
    };
    pods.end(spec::uid(&victim.pod), end);
}

fn message(deps: &Deps, victim: &OfPod, signal: Signal, left: &Left) -> String {
    let t = &deps.config.eviction;
    let (resource, threshold, available) = match signal {
        Signal::Memory => (
            "memory",
            format!("{}Mi", t.memory_available_bytes >> 20),
            format!("{}Ki", left.memory_bytes >> 10),
        ),
        Signal::Disk => (
            "ephemeral-storage",
            format!("{}%", t.nodefs_available_percent),
            format!("{}%", left.disk_percent),
        ),
        Signal::Pid => (
            "pids",
            format!("{}%", t.pid_available_percent),
            format!("{}%", left.pid_percent),
        ),
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. "
    );
    for c in &victim.containers {
        let asked = spec::container(&victim.pod, &c.name)
            .and_then(|c| c.resources.as_ref())
            .and_then(|r| r.requests.as_ref());
        let (used, asked) = match signal {
            Signal::Memory => (c.stats.working_set_bytes, quantity::amount(asked, "memory")),
            Signal::Disk => (
                c.layer_bytes + c.log_bytes,
                quantity::amount(asked, "ephemeral-storage"),
            ),
            Signal::Pid => continue,
        };
        let asked = u64::try_from(asked.unwrap_or(0)).unwrap_or(0);
        if used > asked {
            let request = if asked == 0 {
                "0".to_owned()
            } else {
                format!("{}Ki", asked >> 10)
            };
            text.push_str(&format!(
                "Container {} was using {}Ki, request is {request}, has larger consumption of {resource}. ",
                c.name,
                used >> 10
            ));
        }
    }
    text
}

/// Ends pods whose disk volumes outgrew their own limits.
async fn over_their_own_limits(deps: &Arc<Deps>, pods: &Arc<Pods>) {
    let limited = |pod: &k8s_openapi::api::core::v1::Pod| {
        spec::of(pod)
            .volumes
            .iter()
            .flatten()
            .any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some()))
    };
    if !pods.snapshots().iter().any(|s| !s.over && limited(&s.pod)) {
        return;
    }
    let all = stats::collect(deps, pods).await;
    for pod in &all.pods {
        for volume in spec::of(&pod.pod).volumes.iter().flatten() {
            let Some(limit) = volume
                .empty_dir
                .as_ref()
                .and_then(|e| e.size_limit.as_ref())
            else {
                continue;
            };
            let most = quantity::units(&limit.0).unwrap_or(i128::MAX);
            let used = pod
                .volumes
                .iter()
                .find(|(name, ..)| name == &volume.name)
                .map_or(0, |v| v.1);
            if most > 0 && i128::from(used) > most {
                let text = format!(
                    "Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ",
                    volume.name, limit.0
                );
                evict(deps, pods, pod, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_outlasts_its_pressure_for_a_while() {
        let mut since = Since::default();
        let start = Instant::now();
        let stays = Duration::from_secs(300);
        assert!(note(&mut since, &[Signal::Memory], start, stays).memory);
        let soon = note(&mut since, &[], start + Duration::from_secs(299), stays);
        assert_eq!(
            soon,
            Pressure {
                memory: true,
                ..Default::default()
            }
        );
        assert!(!note(&mut since, &[], start + Duration::from_secs(301), stays).memory);
    }

    #[test]
    fn thresholds() {
        let t = crate::config::EvictionThresholds::default();
        let fine = Left {
            memory_bytes: 1 << 30,
            disk_percent: 50,
            inode_percent: 50,
            pid_percent: 50,
        };
        assert!(short_of(&t, &fine).is_empty());
        let bad = Left {
            memory_bytes: 1,
            disk_percent: 50,
            inode_percent: 1,
            pid_percent: 0,
        };
        assert_eq!(
            short_of(&t, &bad),
            [Signal::Memory, Signal::Disk, Signal::Pid]
        );
    }
}
