//! `/stats/summary`: the use of everything as one JSON object, in upstream's words.

use super::{All, Interface, OfClaim, OfContainer, OfPod, Rates};
use crate::pod::spec;
use host::cgroup::Stats;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The summary; without network and file systems if only CPU and memory are asked for.
#[must_use]
pub fn of(all: &All, rates: &Rates, only_cpu_and_memory: bool) -> Value {
    let at = time(Some(all.at));
    let mut node = json!({
        "nodeName": all.node_name,
        "startTime": time(all.start_time),
        "cpu": cpu(all, rates, "/", &all.node),
        "memory": memory(all, &all.node, Some(all.memory_bytes)),
    });
    if !only_cpu_and_memory {
        let fs = json!({
            "time": at,
            "availableBytes": all.fs.available_bytes,
            "capacityBytes": all.fs.capacity_bytes,
            "usedBytes": all.fs.used_bytes,
            "inodes": all.fs.inodes,
            "inodesFree": all.fs.inodes_free,
            "inodesUsed": all.fs.inodes.saturating_sub(all.fs.inodes_free),
        });
        let mut images = fs.clone();
        images["usedBytes"] = json!(all.images_bytes);
        images["inodesUsed"] = json!(all.images_inodes);
        let (now, most) = crate::node::machine::pids();
        node["network"] = network(&at, &all.network);
        node["fs"] = fs;
        node["runtime"] = json!({ "imageFs": images });
        node["rlimit"] = json!({"time": at, "maxpid": most, "curproc": now});
    }
    let pods: Vec<Value> = all
        .pods
        .iter()
        .map(|p| pod(all, rates, p, only_cpu_and_memory))
        .collect();
    json!({"node": node, "pods": pods})
}

fn time(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, |t| {
        json!(t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    })
}

fn pod(all: &All, rates: &Rates, p: &OfPod, only: bool) -> Value {
    let at = time(Some(all.at));
    let containers: Vec<Value> = p
        .containers
        .iter()
        .map(|c| container(all, rates, c, only))
        .collect();
    let start = p
        .pod
        .status
        .as_ref()
        .and_then(|s| s.start_time.as_ref())
        .map(|t| t.0);
    let mut out = json!({
        "podRef": {
            "name": spec::name(&p.pod),
            "namespace": spec::namespace(&p.pod),
            "uid": spec::uid(&p.pod),
        },
        "startTime": time(start),
        "containers": containers,
        "cpu": cpu(all, rates, &p.group, &p.stats),
        "memory": memory(all, &p.stats, None),
    });
    if !only {
        let layers: u64 = p
            .containers
            .iter()
            .map(|c| c.layer_bytes + c.log_bytes)
            .sum();
        let volumes: u64 = p.volumes.iter().map(|v| v.1).sum();
        out["network"] = network(&at, &p.network);
        out["volume"] = p
            .volumes
            .iter()
            .map(|(name, bytes, inodes)| {
                let mut v = fs(all, *bytes, Some(*inodes));
                v["name"] = json!(name);
                v
            })
            .chain(p.claims.iter().map(|c| claim(all, c)))
            .collect();
        out["ephemeral-storage"] = fs(all, layers + volumes, None);
        out["process_stats"] = json!({"process_count": p.stats.tasks});
    }
    out
}

fn claim(all: &All, claim: &OfClaim) -> Value {
    let fs = &claim.fs;
    let mut out = json!({
        "time": time(Some(all.at)),
        "name": claim.name,
        "availableBytes": fs.available_bytes,
        "capacityBytes": fs.capacity_bytes,
        "usedBytes": fs.used_bytes,
        "inodes": fs.inodes,
        "inodesFree": fs.inodes_free,
        "inodesUsed": fs.inodes.saturating_sub(fs.inodes_free),
    });
    if let Some((namespace, name)) = &claim.claim {
        out["pvcRef"] = json!({ "name": name, "namespace": namespace });
    }
    out
}

fn container(all: &All, rates: &Rates, c: &OfContainer, only: bool) -> Value {
    let mut out = json!({
        "name": c.name,
        "startTime": time(c.started_at),
        "cpu": cpu(all, rates, &c.group, &c.stats),
        "memory": memory(all, &c.stats, c.memory_limit),
    });
    if !only {
        out["rootfs"] = fs(all, c.layer_bytes, Some(c.layer_inodes));
        out["logs"] = fs(all, c.log_bytes, None);
    }
    out
}

fn fs(all: &All, used: u64, inodes: Option<u64>) -> Value {
    let mut out = json!({
        "time": time(Some(all.at)),
        "availableBytes": all.fs.available_bytes,
        "capacityBytes": all.fs.capacity_bytes,
        "usedBytes": used,
        "inodes": all.fs.inodes,
        "inodesFree": all.fs.inodes_free,
    });
    if let Some(inodes) = inodes {
        out["inodesUsed"] = json!(inodes);
    }
    out
}

fn cpu(all: &All, rates: &Rates, group: &str, s: &Stats) -> Value {
    let mut out = json!({"time": time(Some(all.at)), "usageCoreNanoSeconds": s.cpu_nanos});
    if let Some(rate) = rates.nano_cores(group, all.at, s.cpu_nanos) {
        out["usageNanoCores"] = json!(rate);
    }
    out
}

fn memory(all: &All, s: &Stats, limit: Option<u64>) -> Value {
    let mut out = json!({
        "time": time(Some(all.at)),
        "usageBytes": s.memory_bytes,
        "workingSetBytes": s.working_set_bytes,
        "rssBytes": s.rss_bytes,
        "pageFaults": s.page_faults,
        "majorPageFaults": s.major_page_faults,
    });
    if let Some(limit) = limit {
        out["availableBytes"] = json!(limit.saturating_sub(s.working_set_bytes));
    }
    out
}

fn network(at: &Value, all: &[Interface]) -> Value {
    let one = |i: &Interface| {
        json!({
            "name": i.name,
            "rxBytes": i.rx_bytes,
            "rxErrors": i.rx_errors,
            "txBytes": i.tx_bytes,
            "txErrors": i.tx_errors,
        })
    };
    let mut out = all
        .iter()
        .find(|i| i.name == "eth0")
        .or(all.first())
        .map_or_else(|| json!({}), one);
    out["time"] = at.clone();
    out["interfaces"] = all.iter().map(one).collect();
    out
}
