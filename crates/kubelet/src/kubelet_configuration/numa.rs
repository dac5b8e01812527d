//! What a file says of NUMA nodes.

use super::values::{amount, member, number, text};
use crate::topology::ledger::Amounts;
use crate::topology::merge::{MOST_NODES, Policy, Rules, Scope};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) fn policy(text: &str) -> Result<Policy, String> {
    Ok(match text {
        "none" | "" => Policy::None,
        "best-effort" => Policy::BestEffort,
        "restricted" => Policy::Restricted,
        "single-numa-node" => Policy::SingleNumaNode,
        other => return Err(format!("unknown policy: {other:?}")),
    })
}

pub(super) fn scope(text: &str) -> Result<Scope, String> {
    Ok(match text {
        "container" | "" => Scope::Container,
        "pod" => Scope::Pod,
        other => return Err(format!("unknown scope: {other:?}")),
    })
}

pub(super) fn options(rules: &mut Rules, v: &Value) -> Result<(), String> {
    for (name, value) in v.as_object().ok_or("it is not a map")? {
        let said = text(value)?;
        let bad = |why: &str| format!("bad value for option {name:?}: {why}");
        match name.as_str() {
            "prefer-closest-numa-nodes" => {
                rules.closest = said.parse().map_err(|_| bad("neither true nor false"))?;
            }
            "max-allowable-numa-nodes" => {
                let most: usize = said.parse().map_err(|_| bad("not a whole number"))?;
                if most < MOST_NODES {
                    return Err(format!(
                        "the minimum value of {name:?} should not be less than {MOST_NODES}"
                    ));
                }
                if most > MOST_SETS {
                    return Err(bad("the sets of more than 16 nodes are too many to try"));
                }
                rules.most_nodes = most;
            }
            other => return Err(format!("unknown Topology Manager Policy option: {other:?}")),
        }
    }
    Ok(())
}

/// The most NUMA nodes that may be asked for: all sets of them are tried for each pod, 65,535 of 16.
const MOST_SETS: usize = 16;

/// A list of NUMA nodes with what is kept of each.
pub(super) fn reserved(v: &Value) -> Result<BTreeMap<u32, Amounts>, String> {
    let mut all: BTreeMap<u32, Amounts> = BTreeMap::new();
    for entry in v.as_array().ok_or("it is not a list")? {
        let node: u32 = number(member(entry, "numaNode"), 0)?;
        let limits = member(entry, "limits").as_object();
        for (kind, value) in limits.ok_or("limits is not a map")? {
            if kind != "memory" && !kind.starts_with("hugepages-") {
                return Err(format!(
                    "the limit type {kind:?} for NUMA node {node} is not supported"
                ));
            }
            let bytes = amount(value)?;
            let twice = all.entry(node).or_default().insert(kind.clone(), bytes);
            if twice.is_some() {
                return Err(format!("{kind:?} of NUMA node {node} is reserved twice"));
            }
        }
    }
    Ok(all)
}
