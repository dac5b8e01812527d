//! From requests and limits to quality of service, control groups and scores.

use super::spec;
use crate::quantity::{amount, cpu_millis};
use host::cgroup::{Limits, OomScores};
use host::cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::fmt;

/// Quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// Nothing asked: evicted first.
    BestEffort,
    /// Something asked.
    Burstable,
    /// Limits equal to requests everywhere.
    Guaranteed,
}

impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        })
    }
}

/// The class of a pod: as the API server noted it, else computed.
#[must_use]
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => Qos::Guaranteed,
        Some("Burstable") => Qos::Burstable,
        Some("BestEffort") => Qos::BestEffort,
        _ => compute_qos(pod),
    }
}

fn compute_qos(pod: &Pod) -> Qos {
    let all = || {
        spec::init_containers(pod)
            .iter()
            .chain(spec::containers(pod))
    };
    let asks = |c: &Container| {
        let r = c.resources.clone().unwrap_or_default();
        let (requests, limits) = (r.requests.as_ref(), r.limits.as_ref());
        [requests, limits]
            .iter()
            .any(|m| cpu_millis(*m).unwrap_or(0) > 0 || amount(*m, "memory").unwrap_or(0) > 0)
    };
    if !all().any(asks) {
        return Qos::BestEffort;
    }
    let fixed = |c: &Container| {
        let r = c.resources.clone().unwrap_or_default();
        let (requests, limits) = (r.requests.as_ref(), r.limits.as_ref());
        let (cpu, memory) = (cpu_millis(limits), amount(limits, "memory"));
        cpu.is_some_and(|v| v > 0)
            && memory.is_some_and(|v| v > 0)
            && cpu_millis(requests).or(cpu) == cpu
            && amount(requests, "memory").or(memory) == memory
    };
    if all().all(fixed) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// Microseconds of the period of CPU limits: the kernel's default and upstream's.
const CPU_PERIOD: i64 = 100_000;

/// Weight for thousandths of a CPU; 2 is the kernel's least.
#[must_use]
pub fn shares(millis: i64) -> i64 {
    (millis * 1024 / 1000).clamp(2, 262_144)
}

/// Microseconds per period for thousandths of a CPU; 1 ms is the kernel's least.
#[must_use]
pub fn quota(millis: i64) -> i64 {
    (millis * CPU_PERIOD / 1000).max(1000)
}

/// What the runtime is told of a container's resources.
#[must_use]
pub fn container(
    pod: &Pod,
    c: &Container,
    memory_capacity: i64,
    oom: OomScores,
) -> v1::LinuxContainerResources {
    let r = c.resources.clone().unwrap_or_default();
    let (requests, limits) = (r.requests.as_ref(), r.limits.as_ref());
    let limit = cpu_millis(limits).filter(|v| *v > 0);
    let asked = cpu_millis(requests).or(limit).unwrap_or(0);
    let memory = amount(limits, "memory").unwrap_or(0);
    let score = oom_score(pod, c, memory_capacity);
    v1::LinuxContainerResources {
        cpu_period: if limit.is_some() { CPU_PERIOD } else { 0 },
        cpu_quota: limit.map_or(0, quota),
        cpu_shares: shares(asked),
        memory_limit_in_bytes: memory,
        // No swap for pods: memory and swap together are as large as memory alone.
        memory_swap_limit_in_bytes: memory,
        oom_score_adj: oom.clamp(score),
        ..Default::default()
    }
}

/// Upstream's score: the less of its memory a container asked for, the sooner it goes.
fn oom_score(pod: &Pod, c: &Container, memory_capacity: i64) -> i64 {
    if spec::of(pod).priority.unwrap_or(0) >= 2_000_000_000 {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
            let asked = amount(requests, "memory").unwrap_or(0);
            let share = 1000i64.saturating_mul(asked) / memory_capacity.max(1);
            (1000 - share).clamp(3, 999)
        }
    }
}

/// The group of a pod below that of all pods.
#[must_use]
pub fn pod_group(kubepods: &str, pod: &Pod) -> String {
    let class = match qos(pod) {
        Qos::Guaranteed => "",
        Qos::Burstable => "/burstable",
        Qos::BestEffort => "/besteffort",
    };
    format!("{kubepods}{class}/pod{}", spec::uid(pod))
}

/// Limits of a pod's group: the sum of its containers, where every one has a limit.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Limits {
    let mut cpu_asked = 0;
    let mut cpu_limit = Some(0);
    let mut memory_limit = Some(0);
    let mut init = (0, Some(0), Some(0));
    for c in spec::init_containers(pod)
        .iter()
        .chain(spec::containers(pod))
    {
        let r = c.resources.clone().unwrap_or_default();
        let (requests, limits) = (r.requests.as_ref(), r.limits.as_ref());
        let limit = cpu_millis(limits).filter(|v| *v > 0);
        let asked = cpu_millis(requests).or(limit).unwrap_or(0);
        let memory = amount(limits, "memory").filter(|v| *v > 0);
        if spec::is_init(pod, &c.name) && !spec::is_sidecar(c) {
            init.0 = init.0.max(asked);
            init.1 = max_of(init.1, limit);
            init.2 = max_of(init.2, memory);
        } else {
            cpu_asked += asked;
            cpu_limit = cpu_limit.zip(limit).map(|(a, b)| a + b);
            memory_limit = memory_limit.zip(memory).map(|(a, b)| a + b);
        }
    }
    let cpu_limit = max_of(cpu_limit, init.1).filter(|v| *v > 0);
    let memory_limit = max_of(memory_limit, init.2).filter(|v| *v > 0);
    let weight = shares(cpu_asked.max(init.0));
    Limits {
        cpu_shares: u64::try_from(weight).ok(),
        cpu_quota: cpu_limit.map(quota),
        cpu_period: cpu_limit.and(u64::try_from(CPU_PERIOD).ok()),
        memory_bytes: memory_limit,
        pids: None,
    }
}

/// The larger of two limits; none (unlimited) is the largest.
fn max_of(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.zip(b).map(|(a, b)| a.max(b))
}
