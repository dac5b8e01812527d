//! `/stats/summary`: the use of everything as one JSON object, in upstream's words.

use super::{All, DiskUsage, Interface, OfClaim, OfContainer, OfImages, OfPod, Rates};
use crate::pod::spec;
use host::cgroup::{Lost, Pressure, Stats};
use host::mounts::FsUsage;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The summary; without network and file systems if only CPU and memory are asked for.
#[must_use]
pub fn of(all: &All, rates: &Rates, only_cpu_and_memory: bool) -> Value {
    let at = time(Some(all.at));
    rates.retain(&groups(all));
    let mut node = json!({
        "nodeName": all.node_name,
        "startTime": time(all.start_time),
        "cpu": cpu(all, rates, "/", &all.node),
        "memory": memory(all, &all.node, Some(all.memory_bytes)),
        "swap": swap(all, &all.node, all.swap_limit),
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
        let of = |images: &OfImages| on_own_disk(all, images.fs.as_ref(), images.taken);
        let images = of(&all.images);
        // Where they are not apart, layers are on the same one.
        let layers = all.layers.as_ref();
        let layers = layers.map_or_else(|| images.clone(), of);
        let (now, most) = crate::node::machine::pids();
        io(&mut node, all, &all.node);
        node["network"] = network(&at, &all.network);
        node["fs"] = fs;
        node["runtime"] = json!({ "imageFs": images, "containerFs": layers });
        node["rlimit"] = json!({"time": at, "maxpid": most, "curproc": now});
    }
    let pods: Vec<Value> = all
        .pods
        .iter()
        .map(|p| pod(all, rates, p, only_cpu_and_memory))
        .collect();
    json!({"node": node, "pods": pods})
}

/// The groups of which there are rates.
fn groups(all: &All) -> BTreeSet<&str> {
    let of_pods = all.pods.iter().flat_map(|p| {
        let of_containers = p.containers.iter().map(|c| c.group.as_str());
        of_containers.chain([p.group.as_str()])
    });
    of_pods.chain(["/"]).collect()
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
        "swap": swap(all, &p.stats, p.swap_limit),
    });
    if !only {
        let on_disk = p.on_disk().sum();
        io(&mut out, all, &p.stats);
        out["network"] = network(&at, &p.network);
        out["volume"] = p
            .volumes
            .iter()
            .map(|v| {
                let mut out = on_own_disk(all, v.fs.as_ref(), v.taken);
                out["name"] = json!(v.name);
                out
            })
            .chain(p.claims.iter().map(|c| claim(all, c)))
            .collect();
        let (bytes, inodes) = (Some(on_disk.bytes), Some(on_disk.inodes));
        out["ephemeral-storage"] = fs(all, &all.fs, bytes, inodes);
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
        "swap": swap(all, &c.stats, c.swap_limit),
    });
    if !only {
        io(&mut out, all, &c.stats);
        let of_layers = all.layers.as_ref().unwrap_or(&all.images);
        let of_layers = of_layers.fs.as_ref().unwrap_or(&all.fs);
        let (bytes, inodes) = (c.layer.map(|l| l.bytes), c.layer.map(|l| l.inodes));
        out["rootfs"] = fs(all, of_layers, bytes, inodes);
        out["logs"] = fs(all, &all.fs, Some(c.log_bytes), None);
    }
    out
}

/// What something takes of a file system.
fn fs(all: &All, fs: &FsUsage, bytes: Option<u64>, inodes: Option<u64>) -> Value {
    let mut out = json!({
        "time": time(Some(all.at)),
        "availableBytes": fs.available_bytes,
        "capacityBytes": fs.capacity_bytes,
        "inodes": fs.inodes,
        "inodesFree": fs.inodes_free,
    });
    for (name, value) in [("usedBytes", bytes), ("inodesUsed", inodes)] {
        if let Some(value) = value {
            out[name] = json!(value);
        }
    }
    out
}

/// What something takes of its own file system; of one that cannot be seen from here that alone.
fn on_own_disk(all: &All, of: Option<&FsUsage>, taken: DiskUsage) -> Value {
    match of {
        Some(of) => fs(all, of, Some(taken.bytes), Some(taken.inodes)),
        None => json!({
            "time": time(Some(all.at)),
            "usedBytes": taken.bytes,
            "inodesUsed": taken.inodes,
        }),
    }
}

fn cpu(all: &All, rates: &Rates, group: &str, s: &Stats) -> Value {
    let mut out = json!({"time": time(Some(all.at)), "usageCoreNanoSeconds": s.cpu_nanos});
    if let Some(rate) = rates.nano_cores(group, all.at, s.cpu_nanos) {
        out["usageNanoCores"] = json!(rate);
    }
    if let Some(p) = &s.pressure {
        out["psi"] = psi(&p.cpu);
    }
    out
}

fn swap(all: &All, s: &Stats, limit: Option<u64>) -> Value {
    let mut out = json!({"time": time(Some(all.at)), "swapUsageBytes": s.swap_bytes});
    if let Some(limit) = limit {
        out["swapAvailableBytes"] = json!(limit.saturating_sub(s.swap_bytes));
    }
    out
}

/// Of block devices only what tasks waited for them, where the kernel says it.
fn io(out: &mut Value, all: &All, s: &Stats) {
    if let Some(p) = &s.pressure {
        out["io"] = json!({"time": time(Some(all.at)), "psi": psi(&p.io)});
    }
}

/// Pressure as the kernel says it: its totals are microseconds, and so are upstream's, whatever the
/// description of the type says.
fn psi(p: &Pressure) -> Value {
    let lost = |l: &Lost| {
        let [avg10, avg60, avg300] = l.averages.map(|h| f64::from(h) / 100.0);
        json!({"total": l.total_micros, "avg10": avg10, "avg60": avg60, "avg300": avg300})
    };
    json!({"full": lost(&p.full), "some": lost(&p.some)})
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
    if let Some(p) = &s.pressure {
        out["psi"] = psi(&p.memory);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::OfVolume;
    use host::cgroup::Pressures;
    use std::sync::Arc;

    fn with_pressure(some: u64) -> Stats {
        let lost = Lost {
            total_micros: some,
            averages: [50, 1207, 10_000],
        };
        let of = |total_micros| Pressure {
            some: Lost {
                total_micros,
                ..lost
            },
            full: Lost::default(),
        };
        Stats {
            swap_bytes: 30,
            pressure: Some(Pressures {
                cpu: of(some),
                memory: of(some + 1),
                io: of(some + 2),
            }),
            ..Stats::default()
        }
    }

    fn sample(stats: &Stats) -> All {
        let container = OfContainer {
            name: "c".into(),
            group: "/g/c".into(),
            stats: stats.clone(),
            layer: Some(DiskUsage {
                bytes: 11,
                inodes: 2,
            }),
            log_bytes: 5,
            swap_limit: Some(100),
            ..OfContainer::default()
        };
        let pod = json!({ "spec": { "containers": [], "volumes": [
            { "name": "v", "emptyDir": {} },
            { "name": "m", "emptyDir": { "medium": "Memory" } }] } });
        let volume = |name: &str, capacity_bytes| OfVolume {
            name: name.into(),
            taken: DiskUsage {
                bytes: 1000,
                inodes: 3,
            },
            fs: Some(FsUsage {
                capacity_bytes,
                ..FsUsage::default()
            }),
        };
        All {
            node: stats.clone(),
            swap_limit: Some(40),
            fs: FsUsage {
                capacity_bytes: 7,
                ..FsUsage::default()
            },
            images: OfImages {
                taken: DiskUsage {
                    bytes: 2,
                    inodes: 1,
                },
                fs: Some(FsUsage {
                    capacity_bytes: 9,
                    ..FsUsage::default()
                }),
            },
            pods: vec![OfPod {
                pod: Arc::new(serde_json::from_value(pod).unwrap()),
                group: "/g".into(),
                stats: stats.clone(),
                containers: vec![container],
                volumes: vec![volume("v", 7), volume("m", 70)],
                ..OfPod::default()
            }],
            ..All::default()
        }
    }

    #[test]
    fn layers_are_shown_where_they_are() {
        let mut all = sample(&with_pressure(12));
        let shown = |all: &All| {
            let found = of(all, &Rates::default(), false);
            let runtime = &found["node"]["runtime"];
            let of = |fs: &str| runtime[fs]["capacityBytes"].as_u64();
            let layer = found["pods"][0]["containers"][0]["rootfs"]["capacityBytes"].as_u64();
            (of("imageFs"), of("containerFs"), layer)
        };
        assert_eq!(shown(&all), (Some(9), Some(9), Some(9)));
        all.layers = Some(OfImages {
            fs: Some(FsUsage {
                capacity_bytes: 7,
                ..FsUsage::default()
            }),
            ..OfImages::default()
        });
        assert_eq!(shown(&all), (Some(9), Some(7), Some(7)));
    }

    #[test]
    fn pressure_and_swap_are_shown_of_node_pod_and_container() {
        let all = sample(&with_pressure(12));
        let found = of(&all, &Rates::default(), false);
        let pod = &found["pods"][0];
        for of in [&found["node"], pod, &pod["containers"][0]] {
            let some = json!({ "total": 12, "avg10": 0.5, "avg60": 12.07, "avg300": 100.0 });
            let none = json!({ "total": 0, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0 });
            assert_eq!(
                of["cpu"]["psi"],
                json!({ "some": some, "full": none }),
                "{of}"
            );
            assert_eq!(of["memory"]["psi"]["some"]["total"], 13);
            assert_eq!(of["io"]["psi"]["some"]["total"], 14);
            assert_eq!(of["swap"]["swapUsageBytes"], 30);
        }
        assert_eq!(found["node"]["swap"]["swapAvailableBytes"], 10);
        assert_eq!(pod["containers"][0]["swap"]["swapAvailableBytes"], 70);
        assert!(pod["swap"].get("swapAvailableBytes").is_none(), "{pod}");
        // CPU and memory alone have no block devices.
        let short = of(&all, &Rates::default(), true);
        assert!(short["node"].get("io").is_none() && short["node"].get("fs").is_none());
        assert_eq!(short["node"]["memory"]["psi"]["some"]["total"], 13);
    }

    #[test]
    fn a_kernel_that_says_nothing_of_pressure_shows_none() {
        let found = of(&sample(&Stats::default()), &Rates::default(), false);
        assert!(!found.to_string().contains("psi"), "{found}");
        assert!(found["node"].get("io").is_none());
    }

    #[test]
    fn disks_are_those_that_things_lie_on() {
        let found = of(&sample(&Stats::default()), &Rates::default(), false);
        let pod = &found["pods"][0];
        let used = |of: &Value| (of["capacityBytes"].clone(), of["usedBytes"].clone());
        let is = |capacity: u64, used: u64| (json!(capacity), json!(used));
        assert_eq!(used(&found["node"]["runtime"]["imageFs"]), is(9, 2));
        assert_eq!(used(&pod["containers"][0]["rootfs"]), is(9, 11));
        assert_eq!(used(&pod["containers"][0]["logs"]), is(7, 5));
        assert_eq!(used(&pod["volume"][0]), is(7, 1000));
        assert_eq!(used(&pod["volume"][1]), is(70, 1000));
        // What is in memory is not on the disk.
        assert_eq!(used(&pod["ephemeral-storage"]), is(7, 1016));
    }

    #[test]
    fn a_volume_whose_file_system_nobody_knows_shows_what_it_takes_and_no_size() {
        let mut all = sample(&Stats::default());
        all.pods[0].volumes[0].fs = None;
        let found = of(&all, &Rates::default(), false);
        let volume = &found["pods"][0]["volume"][0];
        assert_eq!(volume["usedBytes"], 1000);
        for size in ["capacityBytes", "availableBytes", "inodes", "inodesFree"] {
            assert!(volume.get(size).is_none(), "{size}: {volume}");
        }
    }
}
