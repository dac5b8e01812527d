//! What a file says of how CPUs are given.

use super::values::{At, duration};
use crate::config::Config;
use crate::cpus::policy::Policy as CpuPolicy;
use crate::topology::merge::Policy;
use serde_json::Value;
use std::time::Duration;

/// The period of CPU limits.
pub(super) fn quota_period(at: &mut At, v: &Value) -> Result<(), String> {
    let period = duration(v)?;
    if period < Duration::from_millis(1) || period > Duration::from_secs(1) {
        return Err("it must be from 1ms to 1s".into());
    }
    at.config.cpus.quota_period_micros = i64::try_from(period.as_micros()).ok();
    Ok(())
}

/// Options of the static policy, in upstream's words.
pub(super) fn options(policy: &mut CpuPolicy, v: &Value) -> Result<(), String> {
    for (name, value) in v.as_object().ok_or("it is not a map")? {
        let said = value.as_str();
        let on = match said.ok_or_else(|| format!("{value} is not a text"))? {
            "true" => true,
            "false" => false,
            other => return Err(format!("{name}: {other:?} is neither true nor false")),
        };
        match name.as_str() {
            "full-pcpus-only" => policy.full_cores_only = on,
            "strict-cpu-reservation" => policy.strict_reservation = on,
            "distribute-cpus-across-numa" => policy.over_numa = on,
            "distribute-cpus-across-cores" => policy.over_cores = on,
            "prefer-align-cpus-by-uncorecache" => policy.by_cache = on,
            "align-by-socket" => policy.by_socket = on,
            other => return Err(format!("unknown CPU Manager Policy option: {other:?}")),
        }
    }
    Ok(())
}

/// Options of the CPU manager that cannot be together.
pub(super) fn contradictions(config: &Config) -> Vec<String> {
    let cpus = &config.cpus;
    let (cores, numa) = (
        "distribute-cpus-across-cores",
        "distribute-cpus-across-numa",
    );
    let cache = "prefer-align-cpus-by-uncorecache";
    let pairs = [
        (
            cpus.full_cores_only && cpus.over_cores,
            "full-pcpus-only",
            cores,
        ),
        (cpus.over_numa && cpus.over_cores, numa, cores),
        (cpus.by_cache && cpus.over_cores, cache, cores),
        (cpus.by_cache && cpus.over_numa, cache, numa),
    ];
    let both = pairs.into_iter().filter(|(both, ..)| *both);
    let mut out: Vec<String> = both
        .map(|(_, a, b)| {
            format!("static policy options {a} and {b} can not be used at the same time")
        })
        .collect();
    if cpus.by_socket && config.topology.policy == Policy::SingleNumaNode {
        out.push(
            "Topology manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option"
                .into(),
        );
    }
    out
}
