//! cAdvisor's REST API, versions 1.3 and 2: the machine, and groups by their names, with what they used
//! lately. Of other sources than the kernel's groups nothing comes: no process is listed, and what
//! upstream's kubelet has cAdvisor not keep (events, figures of programs themselves) is empty here, too.

use super::cadvisor::{Subject, subjects};
use super::{All, Interface};
use host::cgroup::{DeviceUse, Stats};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Samples of an answer when the question does not say; cAdvisor's.
const USUAL_COUNT: usize = 60;
const DEFAULT_TYPE: &str = "name";

/// A question to the API.
#[derive(Debug, Default)]
pub struct RestRequest<'a> {
    /// What follows `/api/`.
    pub parts: &'a [&'a str],
    /// As the query says it.
    pub count: Option<&'a str>,
    /// Also the groups below.
    pub recursive: bool,
    /// How groups are named.
    pub kind: Option<&'a str>,
}

/// Why there is no answer: its code and words.
pub type Refused = (u16, String);

/// Answers from samples, the oldest first; there is at least one.
pub fn answer(samples: &[Arc<All>], asked: &RestRequest<'_>) -> Result<Value, Refused> {
    let Some(now) = samples.last() else {
        return Err((500, "nothing was measured".to_owned()));
    };
    let [version, resource, path @ ..] = asked.parts else {
        return Ok(json!(["v1.3", "v2.0", "v2.1"]));
    };
    let name = format!("/{}", path.join("/"));
    match (*version, *resource) {
        ("v1.3" | "v2.0" | "v2.1", "machine") => Ok(machine(now)),
        ("v1.3", "containers") => one(samples, &name, asked),
        ("v1.3", "subcontainers") => {
            let names = below(now, &name);
            names.iter().map(|n| one(samples, n, asked)).collect()
        }
        // By the names of Docker, of which there is none here.
        ("v1.3", "docker") => Ok(json!({})),
        ("v1.3" | "v2.0" | "v2.1", "events") => Ok(json!([])),
        ("v2.0" | "v2.1", "version") => Ok(json!("")),
        ("v2.0" | "v2.1", "attributes") => {
            let mut out = machine(now);
            out["kernel_version"] = json!(now.machine.identity.kernel);
            out["container_os_version"] = json!(now.machine.identity.os_image);
            Ok(out)
        }
        ("v2.0" | "v2.1", "storage") => Ok(json!([file_system(now)])),
        ("v2.1", "machinestats") => stats_of(samples, "/", asked, Form::Two),
        ("v2.0" | "v2.1", "stats" | "spec" | "summary" | "appmetrics") => {
            by_name(asked)?;
            let names = match asked.recursive {
                true => below(now, &name),
                false => vec![name.clone()],
            };
            let mut out = Map::new();
            for name in names {
                let of = find(now, &name)?;
                let stats = || stats_of(samples, &name, asked, Form::Two);
                let value = match (*version, *resource) {
                    (_, "spec") => spec(&of),
                    (_, "summary") => summary(samples, &name)?,
                    (_, "appmetrics") => json!({}),
                    ("v2.0", _) => stats()?,
                    _ => json!({ "spec": spec(&of), "stats": stats()? }),
                };
                out.insert(name, value);
            }
            Ok(out.into())
        }
        ("v2.0" | "v2.1", "ps") => Err((
            404,
            "processes are not listed: who may see a container's may run ps in it".to_owned(),
        )),
        ("v1.3" | "v2.0" | "v2.1", other) => {
            Err((404, format!("unknown request type \"{other}\"")))
        }
        (other, _) => Err((
            404,
            format!("unsupported API version \"{other}\": there are v1.3, v2.0 and v2.1"),
        )),
    }
}

fn by_name(asked: &RestRequest<'_>) -> Result<(), Refused> {
    match asked.kind.unwrap_or(DEFAULT_TYPE) {
        DEFAULT_TYPE => Ok(()),
        other => Err((
            400,
            format!("unknown 'type' \"{other}\": groups have names"),
        )),
    }
}

fn find<'a>(all: &'a All, name: &str) -> Result<Subject<'a>, Refused> {
    let mut subjects = subjects(all).into_iter();
    let found = subjects.find(|s| s.group == name);
    found.ok_or_else(|| (404, format!("unknown container \"{name}\"")))
}

/// A group and those below it.
fn below(all: &All, name: &str) -> Vec<String> {
    let within = match name {
        "/" => "/".to_owned(),
        name => format!("{name}/"),
    };
    let names = subjects(all).into_iter().map(|s| s.group.to_owned());
    names
        .filter(|g| g == name || g.starts_with(&within))
        .collect()
}

fn count(asked: &RestRequest<'_>) -> Result<usize, Refused> {
    match asked.count {
        None => Ok(USUAL_COUNT),
        // As cAdvisor: all.
        Some("-1") => Ok(usize::MAX),
        Some(text) => text
            .parse()
            .map_err(|_| (400, format!("count={text} is not a number"))),
    }
}

fn one(samples: &[Arc<All>], name: &str, asked: &RestRequest<'_>) -> Result<Value, Refused> {
    let now = samples.last().map(|a| &**a);
    let now = now.ok_or_else(|| (500, "nothing was measured".to_owned()))?;
    let of = find(now, name)?;
    let direct = |n: &String| {
        let rest = n.strip_prefix(name).unwrap_or_default();
        let rest = rest.trim_start_matches('/');
        name != "/" && !rest.is_empty() && !rest.contains('/')
    };
    let children: Vec<Value> = below(now, name)
        .iter()
        .filter(|n| direct(n))
        .map(|n| json!({ "name": n }))
        .collect();
    Ok(json!({
        "id": of.name,
        "name": name,
        "aliases": if of.name.is_empty() { json!([]) } else { json!([of.name]) },
        "subcontainers": children,
        "spec": spec(&of),
        "stats": stats_of(samples, name, asked, Form::One)?,
    }))
}

fn spec(s: &Subject<'_>) -> Value {
    let limit = |value: Option<i64>| value.filter(|v| *v > 0);
    json!({
        "creation_time": s.started.map(|t| t.to_string()),
        "labels": {
            "io.kubernetes.container.name": s.container,
            "io.kubernetes.pod.name": s.pod,
            "io.kubernetes.pod.namespace": s.namespace,
        },
        "image": s.image,
        "has_cpu": true,
        "cpu": {
            "limit": s.limits.cpu_shares,
            "quota": limit(s.limits.cpu_quota),
            "period": s.limits.cpu_period,
        },
        "has_memory": true,
        "memory": {
            "limit": limit(s.limits.memory_bytes),
            "reservation": s.memory_reservation,
            "swap_limit": s.swap_limit,
        },
        "has_hugetlb": !s.stats.huge_pages.is_empty(),
        "has_custom_metrics": false,
        "has_diskio": !s.stats.devices.is_empty(),
        "has_network": !s.network.is_empty(),
        "has_filesystem": s.disk.is_some(),
        "has_processes": s.held.is_some(),
    })
}

/// How the versions write samples: the second one has rates besides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    One,
    Two,
}

fn stats_of(
    samples: &[Arc<All>],
    name: &str,
    asked: &RestRequest<'_>,
    form: Form,
) -> Result<Value, Refused> {
    let from = samples.len().saturating_sub(count(asked)?);
    let mut out = Vec::new();
    let mut before: Option<(Timestamp, &Stats)> = None;
    // The one before is there for rates.
    for (nth, all) in samples.iter().enumerate().skip(from.saturating_sub(1)) {
        let found = subjects(all).into_iter().find(|s| s.group == name);
        let Some(of) = found else { continue };
        if nth >= from {
            let mut value = stats(all, &of);
            if form == Form::Two {
                let rates = before.and_then(|before| rates(before, (all.at, of.stats)));
                value["cpu_inst"] = rates.unwrap_or_default();
                value["load_stats"] = of.held.map_or(Value::Null, |h| {
                    json!({
                        "nr_running": h.tasks.running,
                        "nr_sleeping": h.tasks.sleeping,
                        "nr_stopped": h.tasks.stopped,
                        "nr_uninterruptible": h.tasks.uninterruptible,
                    })
                });
            }
            out.push(value);
        }
        before = Some((all.at, of.stats));
    }
    Ok(out.into())
}

/// Thousand-millionths of a CPU between two samples.
fn rates(before: (Timestamp, &Stats), after: (Timestamp, &Stats)) -> Option<Value> {
    let of = |value: fn(&Stats) -> u64| {
        let used = u128::from(value(after.1).saturating_sub(value(before.1)));
        let passed = after.0.as_nanosecond() - before.0.as_nanosecond();
        let passed = u128::try_from(passed).ok().filter(|p| *p > 0)?;
        u64::try_from(used * 1_000_000_000 / passed).ok()
    };
    Some(json!({ "usage": {
        "total": of(|s| s.cpu_nanos)?,
        "user": of(|s| s.cpu_user_nanos)?,
        "system": of(|s| s.cpu_system_nanos)?,
    } }))
}

/// What a group uses, in thousandths of a CPU and bytes: at the last sample, and over a while as far as
/// samples reach.
fn summary(samples: &[Arc<All>], name: &str) -> Result<Value, Refused> {
    let found = samples.iter().filter_map(|all| {
        let of = subjects(all).into_iter().find(|s| s.group == name)?;
        let stats: &Stats = of.stats;
        Some((all.at, stats.cpu_nanos, stats.working_set_bytes))
    });
    let found: Vec<(Timestamp, u64, u64)> = found.collect();
    let Some((now, _, memory)) = found.last().copied() else {
        return Err((404, format!("unknown container \"{name}\"")));
    };
    let mut cpu = Vec::new();
    for pair in found.windows(2) {
        if let [(begin, before, _), (end, after, _)] = pair {
            let passed = end.as_millisecond() - begin.as_millisecond();
            let micros = after.saturating_sub(*before) / 1_000;
            let rate = u64::try_from(passed)
                .ok()
                .and_then(|p| micros.checked_div(p));
            cpu.extend(rate.map(|rate| (*end, rate)));
        }
    }
    let bytes: Vec<(Timestamp, u64)> = found.iter().map(|(at, _, m)| (*at, *m)).collect();
    let first = found.first().map_or(now, |(at, ..)| *at);
    let usage = |seconds: i64| {
        let begin = now.as_second() - seconds;
        let reached = (now.as_second() - first.as_second()).clamp(0, seconds);
        let within = |all: &[(Timestamp, u64)]| {
            let lately = all.iter().filter(|(at, _)| at.as_second() >= begin);
            percentiles(lately.map(|(_, value)| *value).collect())
        };
        json!({
            "percent_complete": reached * 100 / seconds,
            "cpu": within(&cpu),
            "memory": within(&bytes),
        })
    };
    Ok(json!({
        "timestamp": now.to_string(),
        "latest_usage": { "cpu": cpu.last().map_or(0, |(_, rate)| *rate), "memory": memory },
        "minute_usage": usage(60),
        "hour_usage": usage(3_600),
        "day_usage": usage(24 * 3_600),
    }))
}

fn percentiles(mut all: Vec<u64>) -> Value {
    all.sort_unstable();
    let count = all.len();
    let sum: u128 = all.iter().map(|v| u128::from(*v)).sum();
    let mean = sum.checked_div(count as u128).unwrap_or(0);
    // Of few values the next one above, so that the greatest is among them.
    let at = |percent: usize| {
        let place = (count * percent).div_ceil(100).saturating_sub(1);
        all.get(place).copied().unwrap_or(0)
    };
    json!({
        "present": count > 0,
        "mean": u64::try_from(mean).unwrap_or(u64::MAX),
        "max": at(100),
        "fifty": at(50),
        "ninety": at(90),
        "ninetyfive": at(95),
        "count": count,
    })
}

fn stats(all: &All, of: &Subject<'_>) -> Value {
    let s: &Stats = of.stats;
    let faults = |minor, major| json!({ "pgfault": minor, "pgmajfault": major });
    let mut out = json!({
        "timestamp": all.at.to_string(),
        "cpu": {
            "usage": { "total": s.cpu_nanos, "user": s.cpu_user_nanos, "system": s.cpu_system_nanos },
            "cfs": {
                "periods": s.cpu_periods,
                "throttled_periods": s.cpu_throttled_periods,
                "throttled_time": s.cpu_throttled_nanos,
                "bursts_periods": s.cpu_burst_periods,
                "burst_time": s.cpu_burst_nanos,
            },
        },
        "memory": {
            "usage": s.memory_bytes,
            "max_usage": s.max_memory_bytes,
            "cache": s.cache_bytes,
            "rss": s.rss_bytes,
            "swap": s.swap_bytes,
            "mapped_file": s.mapped_file_bytes,
            "kernel": s.kernel_bytes,
            "working_set": s.working_set_bytes,
            "total_active_file": s.active_file_bytes,
            "total_inactive_file": s.inactive_file_bytes,
            "failcnt": s.memory_failures,
            "container_data": faults(s.own_page_faults, s.own_major_page_faults),
            "hierarchical_data": faults(s.page_faults, s.major_page_faults),
        },
        "diskio": {
            "io_service_bytes": io(all, s, |d| (d.read_bytes, d.written_bytes)),
            "io_serviced": io(all, s, |d| (d.reads, d.writes)),
        },
        "network": network(of.network),
        "processes": {
            "process_count": of.held.map(|h| h.processes),
            "fd_count": of.held.map(|h| h.open),
            "socket_count": of.held.map(|h| h.sockets),
            "threads_current": s.tasks,
            "threads_max": s.tasks_max,
        },
        "oom_events": s.oom_kills,
    });
    if !s.huge_pages.is_empty() {
        let sizes = s.huge_pages.iter().map(|h| {
            let value =
                json!({ "usage": h.bytes, "max_usage": h.max_bytes, "failcnt": h.failures });
            (h.size.clone(), value)
        });
        out["hugetlb"] = Value::Object(sizes.collect());
    }
    if let Some(disk) = &of.disk {
        out["filesystem"] = json!([{
            "device": disk.device,
            "capacity": disk.capacity_bytes,
            "usage": disk.used_bytes,
            "has_inodes": true,
            "inodes": disk.inodes,
            "inodes_free": disk.inodes_free,
        }]);
    }
    out
}

fn io(all: &All, s: &Stats, of: fn(&DeviceUse) -> (u64, u64)) -> Vec<Value> {
    let each = s.devices.iter().map(|d| {
        let (reads, writes) = of(d);
        json!({
            "device": all.device(d.major, d.minor),
            "major": d.major,
            "minor": d.minor,
            "stats": { "Read": reads, "Write": writes, "Total": reads + writes },
        })
    });
    each.collect()
}

fn network(interfaces: &[Interface]) -> Value {
    let one = |i: &Interface| {
        json!({
            "name": i.name,
            "rx_bytes": i.rx_bytes, "rx_packets": i.rx_packets,
            "rx_errors": i.rx_errors, "rx_dropped": i.rx_dropped,
            "tx_bytes": i.tx_bytes, "tx_packets": i.tx_packets,
            "tx_errors": i.tx_errors, "tx_dropped": i.tx_dropped,
        })
    };
    json!({ "interfaces": interfaces.iter().map(one).collect::<Vec<_>>() })
}

fn file_system(all: &All) -> Value {
    json!({
        "device": all.disk_device,
        "capacity": all.fs.capacity_bytes,
        "usage": all.fs.used_bytes,
        "available": all.fs.available_bytes,
        "inodes": all.fs.inodes,
        "inodes_free": all.fs.inodes_free,
    })
}

fn machine(all: &All) -> Value {
    let (m, cpus) = (&all.machine, all.cpu_millis.div_ceil(1000));
    let disks: Map<String, Value> = all
        .device_names
        .iter()
        .map(|((major, minor), name)| {
            let key = format!("{major}:{minor}");
            let name = name.trim_start_matches("/dev/");
            (key, json!({ "name": name, "major": major, "minor": minor }))
        })
        .collect();
    let networks: Vec<Value> = all
        .network
        .iter()
        .map(|i| json!({ "name": i.name }))
        .collect();
    json!({
        "timestamp": all.at.to_string(),
        "num_cores": cpus,
        "num_physical_cores": m.cores,
        "num_sockets": m.sockets,
        "memory_capacity": all.memory_bytes,
        "swap_capacity": m.swap_bytes,
        "machine_id": m.identity.machine_id,
        "system_uuid": m.identity.system_uuid,
        "boot_id": m.identity.boot_id,
        "filesystems": [file_system(all)],
        "disk_map": disks,
        "network_devices": networks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{OfContainer, OfPod};
    use k8s_openapi::api::core::v1::Pod;

    fn sample(cpu_nanos: u64) -> Arc<All> {
        let stats = Stats {
            cpu_nanos,
            ..Stats::default()
        };
        let container = OfContainer {
            name: "c".into(),
            id: "id".into(),
            group: "/g/pod/id".into(),
            stats: stats.clone(),
            ..OfContainer::default()
        };
        let pod = OfPod {
            pod: Arc::new(Pod::default()),
            group: "/g/pod".into(),
            stats,
            containers: vec![container],
            ..OfPod::default()
        };
        Arc::new(All {
            node_name: "n".into(),
            memory_bytes: 7,
            pods: vec![pod],
            ..All::default()
        })
    }

    fn ask(path: &str, asked: RestRequest<'_>) -> Result<Value, Refused> {
        let parts: Vec<&str> = path.split('/').collect();
        let asked = RestRequest {
            parts: &parts,
            ..asked
        };
        answer(&[sample(1), sample(2), sample(3)], &asked)
    }

    #[test]
    fn groups_and_the_machine_are_answered_in_all_versions() {
        assert_eq!(
            ask("v1.3/machine", RestRequest::default()).unwrap()["memory_capacity"],
            7
        );
        let pod = ask("v1.3/containers/g/pod", RestRequest::default()).unwrap();
        assert_eq!(pod["name"], "/g/pod");
        assert_eq!(pod["subcontainers"], json!([{ "name": "/g/pod/id" }]));
        let totals = |v: &Value| -> Vec<u64> {
            let all = v.as_array().unwrap().iter();
            all.map(|s| s["cpu"]["usage"]["total"].as_u64().unwrap())
                .collect()
        };
        assert_eq!(totals(&pod["stats"]), [1, 2, 3]);
        let last = RestRequest {
            count: Some("1"),
            ..RestRequest::default()
        };
        let two = ask("v2.0/stats/g/pod/id", last).unwrap();
        assert_eq!(totals(&two["/g/pod/id"]), [3]);
        let recursive = RestRequest {
            recursive: true,
            ..RestRequest::default()
        };
        let all = ask("v2.1/stats/g", recursive).unwrap();
        let names: Vec<&String> = all.as_object().unwrap().keys().collect();
        assert_eq!(names, ["/g/pod", "/g/pod/id"]);
        assert_eq!(
            all["/g/pod/id"]["spec"]["labels"]["io.kubernetes.container.name"],
            "c"
        );
        assert_eq!(
            ask("v1.3/subcontainers/g/pod", RestRequest::default())
                .unwrap()
                .as_array()
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn the_second_version_has_rates_and_summaries() {
        // A tenth of a second of CPU in each second, and a byte more.
        let at = |n: u64| {
            let second = i64::try_from(n).unwrap();
            let mut all = Arc::unwrap_or_clone(sample(n * 100_000_000));
            all.at = Timestamp::from_second(1_800_000_000 + second).unwrap();
            all.pods[0].stats.working_set_bytes = n;
            Arc::new(all)
        };
        let samples: Vec<Arc<All>> = (0..=90).map(at).collect();
        let asked = |parts: &[&str]| {
            let asked = RestRequest {
                parts,
                count: Some("1"),
                ..RestRequest::default()
            };
            answer(&samples, &asked).unwrap()
        };
        let stats = &asked(&["v2.0", "stats", "g", "pod"])["/g/pod"];
        assert_eq!(stats[0]["cpu_inst"]["usage"]["total"], 100_000_000);
        assert_eq!(
            asked(&["v1.3", "containers", "g", "pod"])["stats"][0]["cpu_inst"],
            Value::Null
        );
        let summary = &asked(&["v2.0", "summary", "g", "pod"])["/g/pod"];
        assert_eq!(summary["latest_usage"], json!({ "cpu": 100, "memory": 90 }));
        let minute = &summary["minute_usage"];
        assert_eq!(
            (&minute["percent_complete"], &minute["cpu"]["mean"]),
            (&json!(100), &json!(100))
        );
        // From the thirtieth to the ninetieth.
        assert_eq!(
            (&minute["memory"]["fifty"], &minute["memory"]["max"]),
            (&json!(60), &json!(90))
        );
        assert_eq!(summary["hour_usage"]["percent_complete"], 2);
        assert_eq!(
            asked(&["v2.1", "machinestats"]).as_array().map(Vec::len),
            Some(1)
        );
        assert_eq!(asked(&["v2.0", "events"]), json!([]));
        assert_eq!(percentiles(Vec::new())["present"], false);
    }

    #[test]
    fn what_is_not_there_is_refused_with_a_reason() {
        let code = |path: &str, asked| ask(path, asked).unwrap_err().0;
        assert_eq!(code("v1.3/containers/absent", RestRequest::default()), 404);
        assert_eq!(code("v9/machine", RestRequest::default()), 404);
        assert_eq!(code("v2.0/ps/g", RestRequest::default()), 404);
        let docker = RestRequest {
            kind: Some("docker"),
            ..RestRequest::default()
        };
        assert_eq!(code("v2.0/stats/g/pod", docker), 400);
        let wrong = RestRequest {
            count: Some("many"),
            ..RestRequest::default()
        };
        assert_eq!(code("v1.3/containers/g/pod", wrong), 400);
    }
}
