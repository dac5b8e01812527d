//! Statistics of containers and of the machine: known loads must appear in them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::pod;

const MEMORY: u64 = 20_000_000;
const FILES: u64 = 30_000_000;
const SENT: u64 = 10_000_000;

fn ask_node(cx: &Context, node: &str, path: &str) -> Result<String> {
    cx.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/{path}"))
}

fn ask(cx: &Context, path: &str) -> Result<String> {
    ask_node(cx, "node-1", path)
}

fn summary(cx: &Context, node: &str) -> Result<Value> {
    Ok(serde_json::from_str(&ask_node(cx, node, "stats/summary")?)?)
}

/// A pod's part of the summary.
fn of_pod(cx: &Context, name: &str) -> Result<Value> {
    let summary = summary(cx, "node-1")?;
    let pods = summary["pods"].as_array().context("no pods")?;
    let own = pods
        .iter()
        .find(|p| p["podRef"]["namespace"] == cx.ns.as_str() && p["podRef"]["name"] == name);
    own.cloned().context("the pod is not there")
}

/// The value of a metric's first line that has all these labels.
fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let has = |line: &str| {
        labels
            .iter()
            .all(|(k, v)| line.contains(&format!("{k}=\"{v}\"")))
    };
    let line = text.lines().find(|l| {
        l.strip_prefix(name)
            .is_some_and(|r| r.starts_with(['{', ' ']))
            && has(l)
    });
    let line = line.with_context(|| format!("no {name} {labels:?}"))?;
    let value = line
        .rsplit('}')
        .next()
        .and_then(|r| r.split_whitespace().find(|w| *w != name));
    value
        .and_then(|v| v.parse().ok())
        .with_context(|| format!("no value: {line}"))
}

/// A pod that takes what one connection brings at port 9000, when it listens: who sends tries once.
fn listener(cx: &Context, name: &str) -> Result<()> {
    // An end of what it has to send would end the other side, too.
    cx.shell_pod(name, "sleep 1000000 | nc -l -p 9000 > /dev/null")?;
    eventually(&format!("{name} listens"), || {
        cx.sh(name, "cat /proc/net/tcp* | grep ':2328 .* 0A '")
    })
    .map(drop)
}

pub fn known_loads_appear(cx: &Context) -> Result<()> {
    listener(cx, "sink")?;
    let sink = cx.pod_ip("sink")?;
    // Half a core, memory, files, and bytes on the network.
    let line = format!(
        "head -c {SENT} /dev/zero | nc {sink} 9000; \
         x=$(head -c {MEMORY} /dev/zero | tr '\\0' x); head -c {FILES} /dev/zero > /file; sync /file; \
         while true; do :; done"
    );
    let mut pod = pod("p", &line);
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "500m" } });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    eventually("the load is in the summary", || {
        let own = of_pod(cx, "p")?;
        let container = &own["containers"][0];
        let is = |what: &Value, least: u64, most: u64| {
            let value = what.as_u64().unwrap_or(0);
            ensure!((least..most).contains(&value), "{value}: {own:#}");
            Ok(())
        };
        is(
            &container["cpu"]["usageNanoCores"],
            300_000_000,
            700_000_000,
        )?;
        is(&container["memory"]["workingSetBytes"], MEMORY, 5 * MEMORY)?;
        is(&container["rootfs"]["usedBytes"], FILES, 2 * FILES)?;
        is(&own["network"]["txBytes"], SENT, 2 * SENT)?;
        is(&of_pod(cx, "sink")?["network"]["rxBytes"], SENT, 2 * SENT)
    })?;
    let own = [("namespace", cx.ns.as_str()), ("pod", "p")];
    let container = [own[0], own[1], ("container", "main")];
    // Each page has looked at its own time.
    let cadvisor = eventually("the load is in the figures", || {
        let text = ask(cx, "metrics/cadvisor")?;
        for (name, labels, least) in [
            ("container_cpu_usage_seconds_total", &container[..], 0.1),
            (
                "container_memory_working_set_bytes",
                &container[..],
                MEMORY as f64,
            ),
            ("container_fs_usage_bytes", &container[..], FILES as f64),
            (
                "container_network_transmit_bytes_total",
                &own[..],
                SENT as f64,
            ),
        ] {
            let value = metric(&text, name, labels)?;
            ensure!(value >= least, "{name} is {value}, not {least}");
        }
        Ok(text)
    })?;
    // CPU time goes on as the container does.
    let before = metric(&cadvisor, "container_cpu_usage_seconds_total", &container)?;
    eventually("more CPU time is counted", || {
        let text = ask(cx, "metrics/cadvisor")?;
        let now = metric(&text, "container_cpu_usage_seconds_total", &container)?;
        ensure!(now >= before + 0.5, "{before}, now {now}");
        Ok(())
    })?;
    eventually("the page of resources is whole", || {
        let resource = ask(cx, "metrics/resource")?;
        metric(&resource, "node_cpu_usage_seconds_total", &[])?;
        metric(&resource, "container_cpu_usage_seconds_total", &container)?;
        metric(&resource, "container_swap_usage_bytes", &container)?;
        metric(&resource, "node_swap_usage_bytes", &[])?;
        ensure!(metric(&resource, "resource_scrape_error", &[])? == 0.0);
        Ok(())
    })?;
    cx.kubectl("delete pod p sink").map(drop)
}

/// What the kernel says that a group has used.
struct Kernel {
    cpu_seconds: f64,
    working_set: f64,
    written: f64,
}

fn read(file: std::path::PathBuf) -> Result<String> {
    std::fs::read_to_string(&file).with_context(|| file.display().to_string())
}

fn field(text: &str, key: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
    line.and_then(|v| v.trim().parse().ok()).unwrap_or(0.0)
}

/// Reads the kernel's files, by whichever version of control groups this machine has.
fn kernel(group: &str) -> Result<Kernel> {
    let (root, group) = (Path::new("/sys/fs/cgroup"), group.trim_start_matches('/'));
    if root.join("cgroup.controllers").exists() {
        let at = |file: &str| read(root.join(group).join(file));
        let written = at("io.stat")?;
        let words = written
            .split_whitespace()
            .filter_map(|w| w.strip_prefix("wbytes="));
        return Ok(Kernel {
            cpu_seconds: field(&at("cpu.stat")?, "usage_usec") / 1e6,
            working_set: at("memory.current")?.trim().parse::<f64>()?
                - field(&at("memory.stat")?, "inactive_file"),
            written: words.filter_map(|w| w.parse::<f64>().ok()).sum(),
        });
    }
    let at = |controller: &str, file: &str| read(root.join(controller).join(group).join(file));
    let io = at("blkio", "blkio.throttle.io_service_bytes_recursive")?;
    let writes = io
        .lines()
        .filter_map(|l| l.split_once(" Write ")?.1.parse::<f64>().ok());
    Ok(Kernel {
        cpu_seconds: at("cpuacct", "cpuacct.usage")?.trim().parse::<f64>()? / 1e9,
        working_set: at("memory", "memory.usage_in_bytes")?
            .trim()
            .parse::<f64>()?
            - field(&at("memory", "memory.stat")?, "total_inactive_file"),
        written: writes.sum(),
    })
}

/// The id of a container, or of its pod, in the figures: its control group.
fn group(text: &str, pod: &str, container: &str) -> Result<String> {
    let wanted = [
        format!("pod=\"{pod}\""),
        format!("container=\"{container}\""),
    ];
    let line = text.lines().find(|l| {
        l.starts_with("container_start_time_seconds{")
            && wanted.iter().all(|w| l.contains(w))
            // Of a pod the group, not the sandbox in it.
            && (!container.is_empty() || l.contains("name=\"\""))
    });
    let line = line.with_context(|| format!("{pod} {container} is not in the figures"))?;
    let id = line.split("id=\"").nth(1).and_then(|r| r.split('"').next());
    Ok(id.context("no id")?.to_owned())
}

/// Between two looks at the kernel, figures that it could have had meanwhile, give or take a share.
fn lies_between(what: &str, value: f64, before: f64, after: f64, share: f64) -> Result<()> {
    let (least, most) = (
        before.min(after) * (1.0 - share),
        before.max(after) * (1.0 + share),
    );
    ensure!(
        (least..=most).contains(&value),
        "{what}: {value} is reported, the kernel says {before} and then {after}"
    );
    Ok(())
}

const HELD: f64 = 200.0 * 1024.0 * 1024.0;
const WRITTEN: f64 = 50.0 * 1024.0 * 1024.0;
const PASSED: u64 = 50_000_000;

/// Looks at one container from both sides. Gives its group, its CPU time and when that was measured.
fn compare(cx: &Context) -> Result<(String, f64, f64)> {
    let first = ask(cx, "metrics/cadvisor")?;
    let id = group(&first, "exact", "main")?;
    let before = kernel(&id)?;
    let text = ask(cx, "metrics/cadvisor")?;
    let after = kernel(&id)?;
    let labels = [("id", id.as_str()), ("container", "main")];
    let of = |name: &str| metric(&text, name, &labels);
    let cpu = of("container_cpu_usage_seconds_total")?;
    lies_between("CPU time", cpu, before.cpu_seconds, after.cpu_seconds, 0.0)?;
    let held = of("container_memory_working_set_bytes")?;
    lies_between("memory", held, before.working_set, after.working_set, 0.05)?;
    let line = text
        .lines()
        .find(|l| l.starts_with("container_cpu_usage_seconds_total{") && l.contains(&id));
    let at = line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
    Ok((id, cpu, at.context("no time")? / 1000.0))
}

/// A container that burns half a core, holds 200 MiB, writes 50 MiB to its disk and sends 50 MB: what is
/// reported is what the kernel counts, also after restarts of the container and of the kubelet.
pub fn figures_are_the_kernels_through_restarts(cx: &Context) -> Result<()> {
    listener(cx, "receiver")?;
    let receiver = cx.pod_ip("receiver")?;
    let line = format!(
        "head -c {HELD} /dev/zero > /held/file; \
         dd if=/dev/zero of=/file bs=1M count=50 oflag=direct; \
         [ -e /held/sent ] || head -c {PASSED} /dev/zero | nc {receiver} 9000; \
         touch /held/sent /ready; while [ ! -e /held/stop ]; do :; done; rm /held/stop"
    );
    let mut exact = pod("exact", &line);
    let container = &mut exact["spec"]["containers"][0];
    container["resources"] = json!({ "limits": { "cpu": "500m" } });
    container["readinessProbe"] = json!({ "exec": { "command": ["test", "-e", "/ready"] }, "periodSeconds": 1, "timeoutSeconds": 60 });
    container["volumeMounts"] = json!([{ "name": "held", "mountPath": "/held" }]);
    exact["spec"]["volumes"] = json!([{ "name": "held", "emptyDir": { "medium": "Memory" } }]);
    cx.apply_json(&exact)?;
    cx.wait_ready("exact")?;
    let half_a_core = || {
        let (id, cpu, at) = compare(cx)?;
        let pod = id.rsplit_once('/').context("no pod")?.0.to_owned();
        let periods = |text: &str, name: &str| metric(text, name, &[("id", &id)]);
        let first = ask(cx, "metrics/cadvisor")?;
        std::thread::sleep(std::time::Duration::from_secs(5));
        let second = ask(cx, "metrics/cadvisor")?;
        let (all, held) = (
            "container_cpu_cfs_periods_total",
            "container_cpu_cfs_throttled_periods_total",
        );
        let all = periods(&second, all)? - periods(&first, all)?;
        let held = periods(&second, held)? - periods(&first, held)?;
        let (later, now, then) = compare(cx)?;
        ensure!(later == id, "another container");
        let cores = (now - cpu) / (then - at);
        ensure!(cores <= 0.525, "{cores} cores");
        // A machine with much else to do may give less: then its limit did not hold it back.
        ensure!(
            cores >= 0.475 || held < 0.95 * all,
            "held back in {held} of {all} periods, {cores} cores"
        );
        Ok((id, pod, now))
    };
    let (id, pod_group, cpu) = eventually("half a core is burnt and reported", half_a_core)?;
    eventually("known amounts are reported", || {
        known_amounts(cx, &id, &pod_group)
    })?;
    total_is_the_sum_of_its_parts(cx, &pod_group)?;
    let started = metric(
        &ask(cx, "metrics/cadvisor")?,
        "container_start_time_seconds",
        &[("id", &id)],
    )?;
    let of_pod = |text: &str| {
        let labels = [("id", pod_group.as_str())];
        metric(text, "container_cpu_usage_seconds_total", &labels)
    };
    // The container's figures begin again with it, the pod's go on.
    let before = of_pod(&ask(cx, "metrics/cadvisor")?)?;
    let ended = Instant::now();
    cx.sh("exact", "touch /held/stop")?;
    cx.wait(
        "pod/exact",
        "jsonpath={.status.containerStatuses[0].restartCount}=1",
    )?;
    cx.wait_ready("exact")?;
    let (next, again, _) = eventually("the new container is compared", || compare(cx))?;
    ensure!(next != id, "the same container");
    // No more than it can have burnt since.
    ensure!(
        again < 0.55 * ended.elapsed().as_secs_f64() + 1.0,
        "{again} s, after {cpu} s of the one before"
    );
    let text = eventually("the container that ended is reported no more", || {
        let text = ask(cx, "metrics/cadvisor")?;
        ensure!(!text.contains(&id), "it is");
        Ok(text)
    })?;
    ensure!(metric(&text, "container_start_time_seconds", &[("id", &next)])? >= started);
    ensure!(of_pod(&text)? >= before, "the pod's CPU time went back");
    // A kubelet that begins again begins nothing again.
    cx.cluster.kill_agent("node-1")?;
    let (same, goes_on, _) = eventually("the new kubelet reports", || compare(cx))?;
    ensure!(
        same == next && goes_on >= again,
        "{same} {goes_on}, before {next} {again}"
    );
    cx.cluster.wait_agent("node-1")?;
    cx.kubectl("delete pod exact receiver").map(drop)
}

/// Amounts that are known from the outside; and the pod's figures against the sum of its parts'.
fn known_amounts(cx: &Context, id: &str, pod_group: &str) -> Result<()> {
    eventually("the layer's size is known", || {
        let text = ask(cx, "metrics/cadvisor")?;
        let used = metric(&text, "container_fs_usage_bytes", &[("id", id)])?;
        lies_between("the layer", used, WRITTEN, WRITTEN, 0.05)
    })?;
    let before = kernel(id)?;
    let text = ask(cx, "metrics/cadvisor")?;
    let after = kernel(id)?;
    let written = metric(&text, "container_fs_writes_bytes_total", &[("id", id)])?;
    lies_between("written", written, before.written, after.written, 0.05)?;
    lies_between("written", written, WRITTEN, WRITTEN, 0.05)?;
    let held = metric(&text, "container_memory_working_set_bytes", &[("id", id)])?;
    lies_between("held", held, HELD, HELD, 0.05)?;
    let sent =
        SENT_BY.map(|(name, pod)| metric(&text, name, &[("pod", pod), ("interface", "eth0")]));
    for (value, (name, pod)) in sent.into_iter().zip(SENT_BY) {
        lies_between(
            &format!("{name} of {pod}"),
            value?,
            PASSED as f64,
            PASSED as f64,
            0.05,
        )?;
    }
    let sum = |name: &str| -> f64 {
        let parts = text.lines().filter(|l| {
            l.starts_with(&format!("{name}{{")) && l.contains(&format!("id=\"{pod_group}/"))
        });
        let value = |l: &str| {
            l.rsplit_once("} ")?
                .1
                .split(' ')
                .next()?
                .parse::<f64>()
                .ok()
        };
        parts.filter_map(value).sum()
    };
    for name in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
    ] {
        let whole = metric(&text, name, &[("id", pod_group)])?;
        lies_between(
            &format!("{name} of the pod"),
            whole,
            sum(name),
            sum(name),
            0.05,
        )?;
    }
    Ok(())
}

/// CPU time of a node as it reports it: of the whole, and of each of its pods.
fn reported(cx: &Context) -> Result<(f64, BTreeMap<String, f64>)> {
    let name = "container_cpu_usage_seconds_total";
    let text = ask(cx, "metrics/cadvisor")?;
    let pods: BTreeMap<String, f64> = text
        .lines()
        .filter(|l| l.starts_with(name) && l.contains("container=\"\"") && l.contains("name=\"\""))
        .filter(|l| !l.contains("pod=\"\""))
        .filter_map(|l| {
            let id = l.split("id=\"").nth(1)?.split('"').next()?;
            let value = l.rsplit_once("} ")?.1.split(' ').next()?.parse().ok()?;
            Some((id.to_owned(), value))
        })
        .collect();
    Ok((metric(&text, name, &[("id", "/")])?, pods))
}

/// While a pod burns half a core: what the node's total grows by is what its pods grow by, and what
/// the kernel counts in the node's group beside the group of all pods.
fn total_is_the_sum_of_its_parts(cx: &Context, pod_group: &str) -> Result<()> {
    let (node, _) = pod_group.split_once("/kubepods").context("no kubepods")?;
    let beside = || -> Result<f64> {
        let pods = kernel(&format!("{node}/kubepods"))?.cpu_seconds;
        Ok(kernel(node)?.cpu_seconds - pods)
    };
    let look = || -> Result<_> { Ok((beside()?, reported(cx)?, beside()?)) };
    eventually("the total is the sum", || {
        let (before, (total, pods), begun) = look()?;
        let burnt = pods.get(pod_group).context("the pod is not reported")? + 5.0;
        eventually("five seconds of CPU are burnt", || {
            let now = reported(cx)?.1.get(pod_group).copied();
            ensure!(now >= Some(burnt), "{now:?}");
            Ok(())
        })?;
        let (ending, (later, ended), after) = look()?;
        ensure!(pods.keys().eq(ended.keys()), "other pods meanwhile");
        let grown: f64 = ended.values().sum::<f64>() - pods.values().sum::<f64>();
        let (least, most) = (grown + ending - begun, grown + after - before);
        lies_between("the node's CPU time", later - total, least, most, 0.05)
    })
}

const SENT_BY: [(&str, &str); 2] = [
    ("container_network_transmit_bytes_total", "exact"),
    ("container_network_receive_bytes_total", "receiver"),
];

/// Busy time of all CPUs in seconds, and memory in all in bytes, as the kernel says.
fn machine() -> Result<(f64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks: Vec<f64> = stat
        .lines()
        .next()
        .context("no CPUs")?
        .split_whitespace()
        .skip(1)
        .filter_map(|w| w.parse().ok())
        .collect();
    // user, nice, system, then idle and iowait, which are not work, then irq and softirq.
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|i| ticks.get(*i))
        .sum::<f64>();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let total = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .context("no MemTotal")?;
    Ok((busy / 100.0, total * 1024))
}

/// Memory of the machine that could not be used otherwise at once, bytes.
fn used_memory() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kib = |key: &str| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok())
            .with_context(|| format!("no {key}"))
    };
    Ok((kib("MemTotal")? - kib("MemAvailable")?) * 1024.0)
}

/// A node that is given no part of its machine reports the whole machine's figures; `disk` is a
/// path on the disk of its pods.
pub fn machine_is_reported_as_it_is(cx: &Context, node: &str, disk: &Path) -> Result<()> {
    let text = ask_node(cx, node, "metrics/cadvisor")?;
    let (_, memory) = machine()?;
    let reported = metric(&text, "machine_memory_bytes", &[])?;
    ensure!(reported == memory as f64, "{reported}, not {memory}");
    // Between two looks at the kernel, what it could have counted meanwhile; its fields are rounded to
    // hundredths of a second each.
    let root = [("id", "/")];
    let name = "container_cpu_usage_seconds_total";
    let (before, _) = machine()?;
    let reported = metric(&ask_node(cx, node, "metrics/cadvisor")?, name, &root)?;
    let (after, _) = machine()?;
    ensure!(
        (before - 0.1..=after + 0.1).contains(&reported),
        "{reported} s reported, {before} s and then {after} s counted"
    );
    let used_before = used_memory()?;
    let node = summary(cx, node)?["node"].clone();
    let used = node["memory"]["workingSetBytes"].as_f64().unwrap_or(0.0);
    lies_between(
        "memory of the machine",
        used,
        used_before,
        used_memory()?,
        0.05,
    )?;
    let fs = rustix::fs::statvfs(disk)?;
    let whole = fs.f_blocks * fs.f_frsize;
    ensure!(node["fs"]["capacityBytes"] == whole, "{whole}: {node:#}");
    Ok(())
}
