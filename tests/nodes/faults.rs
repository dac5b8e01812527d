//! What may happen to a node at any time: its runtime dies, its agent dies while pods come and go, its
//! disk is full, and all its pods come and go at once. Each ends with the right state, and with
//! nothing left behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};

pub const NODE: &str = "node-1";
/// The kubelet's folder within a node.
const ROOT: &str = "/var/lib/kubelet";

pub fn restarts(cx: &Context, pod: &str) -> Result<String> {
    cx.field(
        &format!("pod {pod}"),
        ".status.containerStatuses[0].restartCount",
    )
}

/// A pod of the node with volumes of several kinds.
pub fn tenant(name: &str) -> Value {
    let mut pod = pod(name, STAY);
    pod["metadata"]["labels"] = json!({ "tenant": "yes" });
    pod["spec"]["nodeName"] = NODE.into();
    // With 0 its object would be gone before its containers.
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    pod["spec"]["volumes"] = json!([
        { "name": "scratch", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        { "name": "about", "downwardAPI": { "items": [
            { "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        { "name": "scratch", "mountPath": "/scratch" },
        { "name": "about", "mountPath": "/about" }]);
    pod
}

/// What of a node must be as it was when its pods are gone: its links and the addresses given out.
#[derive(Debug, PartialEq, Eq)]
pub struct Before {
    links: usize,
    addresses: usize,
}

impl Before {
    /// How it is now, when those have left whom earlier checks deleted.
    pub fn of(cx: &Context, node: &str) -> Result<Self> {
        nobody_leaves(cx, node)?;
        Self::now(cx, node)
    }

    fn now(cx: &Context, node: &str) -> Result<Self> {
        let count = |line: &str| -> Result<usize> {
            let text = cx.cluster.in_node(node, line)?.ok()?;
            Ok(text.trim().parse()?)
        };
        let data = cx.cluster.data();
        let leases = format!(
            "find {}/nodes/{node}/cni-state -type f ! -name last ! -name lock | wc -l",
            data.display()
        );
        Ok(Self {
            links: count("ip -o link | wc -l")?,
            addresses: count(&leases)?,
        })
    }
}

/// Waits until nothing is left on a node of pods that earlier checks deleted: their namespaces end beside
/// the next checks.
pub fn nobody_leaves(cx: &Context, node: &str) -> Result<()> {
    eventually("nobody leaves the node any more", || {
        let leaving = leaving(cx, node)?;
        ensure!(leaving.is_empty(), "{}", leaving.join("\n"));
        Ok(())
    })
}

/// What is on a node of pods that are being deleted, or whose objects are gone, one line each.
fn leaving(cx: &Context, node: &str) -> Result<Vec<String>> {
    let ended = cx.kubectl("get namespaces --field-selector status.phase=Terminating -o name")?;
    let ended: BTreeSet<&str> = ended
        .lines()
        .filter_map(|l| l.strip_prefix("namespace/"))
        .collect();
    let pods = cx.json(&format!(
        "get pods --all-namespaces --field-selector spec.nodeName={node}"
    ))?;
    let pods = pods["items"].as_array().context("no items")?;
    let (mut stay, mut leaving) = (Vec::new(), Vec::new());
    for pod in pods {
        let of = &pod["metadata"];
        let name = |field: &str| of[field].as_str().unwrap_or_default();
        if of["deletionTimestamp"].is_null() && !ended.contains(name("namespace")) {
            stay.push(name("uid").to_owned());
            // A static pod is known to its node by another one.
            let own = of["annotations"]["kubernetes.io/config.hash"].as_str();
            stay.extend(own.map(str::to_owned));
        } else {
            leaving.push(format!("{}/{}", name("namespace"), name("name")));
        }
    }
    let folders = cx
        .cluster
        .in_node(node, &format!("ls {ROOT}/pods 2>/dev/null; true"))?;
    let folders = folders.ok()?;
    let left = folders.lines().filter(|f| !stay.iter().any(|s| s == f));
    leaving.extend(left.map(str::to_owned));
    Ok(leaving)
}

/// What is left on a node of pods with these UIDs, one line each.
pub fn left(cx: &Context, node: &str, uids: &BTreeSet<String>) -> Result<Vec<String>> {
    let data = cx.cluster.data();
    let line = format!(
        "ls -d {ROOT}/pods/* 2>/dev/null; cat /proc/self/mountinfo; \
         find /sys/fs/cgroup -type d -name 'pod*' 2>/dev/null; \
         ls -d {}/nodes/{node}/pod-logs/* 2>/dev/null; true",
        data.display()
    );
    let all = cx.cluster.in_node(node, &line)?.ok()?;
    let of_them = |line: &&str| uids.iter().any(|uid| line.contains(uid.as_str()));
    Ok(all.lines().filter(of_them).map(str::to_owned).collect())
}

pub fn wait_nothing_left(
    cx: &Context,
    node: &str,
    uids: &BTreeSet<String>,
    before: &Before,
) -> Result<()> {
    eventually("nothing is left of the pods", || {
        let left = left(cx, node, uids)?;
        ensure!(left.is_empty(), "{}", left.join("\n"));
        let now = Before::now(cx, node)?;
        ensure!(now == *before, "{now:?}, not {before:?}");
        Ok(())
    })
}

pub fn uids(cx: &Context, selector: &str) -> Result<BTreeSet<String>> {
    let list = cx.json(&format!("get pods -l {selector}"))?;
    let items = list["items"].as_array().context("no items")?;
    let uids = items.iter().filter_map(|p| p["metadata"]["uid"].as_str());
    Ok(uids.map(str::to_owned).collect())
}

pub fn a_killed_runtime_leaves_containers_alone(cx: &Context) -> Result<()> {
    let before = Before::of(cx, NODE)?;
    cx.apply_json(&tenant("still"))?;
    cx.wait_ready("still")?;
    let container = cx.field("pod still", ".status.containerStatuses[0].containerID")?;
    for round in 0..3 {
        // A pod comes just when the runtime is away, and another one goes.
        cx.apply_json(&tenant(&format!("new-{round}")))?;
        cx.cluster
            .in_node(NODE, "kill -9 $(pgrep -x containerd | head -n 1)")?
            .ok()?;
        cx.wait_ready(&format!("new-{round}"))?;
        cx.kubectl(&format!("delete pod new-{round} --wait=false"))?;
        cx.cluster
            .in_node(NODE, "kill -9 $(pgrep -x containerd | head -n 1)")?
            .ok()?;
        cx.wait(&format!("pod/new-{round}"), "delete")?;
    }
    let text = eventually("exec works again", || cx.sh("still", "cat /about/name"))?;
    ensure!(text == "still");
    ensure!(cx.field("pod still", ".status.containerStatuses[0].containerID")? == container);
    ensure!(restarts(cx, "still")? == "0");
    cx.wait(&format!("node/{NODE}"), "condition=Ready")?;
    let uids = uids(cx, "tenant=yes")?;
    cx.kubectl("delete pod still")?;
    wait_nothing_left(cx, NODE, &uids, &before)
}

/// Kills of the kubelet while pods come and go.
fn kills() -> u64 {
    if tests::is_soak() { 60 } else { 3 }
}

/// Kills the agent, or the one that is started in its place.
fn kill_agent(cx: &Context) -> Result<()> {
    eventually("an agent is killed", || cx.cluster.kill_agent(NODE))
}

/// The container of a pod ran once. A start that the kubelet's death broke off is an attempt that
/// counts; the runtime says of it that nothing was started.
pub fn ran_once(cx: &Context, pod: &str) -> Result<()> {
    let object = cx.json(&format!("get pod {pod}"))?;
    let status = &object["status"]["containerStatuses"][0];
    let broken_off = status["lastState"]["terminated"]["reason"] == "StartError";
    let attempts_before = u64::from(broken_off);
    ensure!(
        status["restartCount"] == attempts_before,
        "{pod} was started twice: {status}"
    );
    Ok(())
}

pub fn a_kubelet_killed_at_any_time_leaves_nothing_behind(cx: &Context) -> Result<()> {
    let seed = tests::seed()?;
    println!("    TIPHYS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let before = Before::of(cx, NODE)?;
    let mut all = BTreeSet::new();
    for round in 0..kills() {
        let names: Vec<String> = (0..3).map(|n| format!("p{round}-{n}")).collect();
        for name in &names {
            cx.apply_json(&tenant(name))?;
        }
        // Starts take about this long, ends as well.
        std::thread::sleep(Duration::from_millis(random.random_range(0..700)));
        kill_agent(cx)?;
        for name in &names {
            cx.wait_ready(name)
                .with_context(|| format!("round {round} of seed {seed}"))?;
            // It may be Ready since before the kill, and nobody be there yet to ask.
            eventually(&format!("a command in {name}"), || {
                ensure!(cx.sh(name, "cat /about/name")? == *name);
                Ok(())
            })?;
            ran_once(cx, name)?;
        }
        all.extend(uids(cx, "tenant=yes")?);
        cx.kubectl("delete pods -l tenant=yes --wait=false")?;
        std::thread::sleep(Duration::from_millis(random.random_range(0..700)));
        kill_agent(cx)?;
        for name in &names {
            cx.wait(&format!("pod/{name}"), "delete")
                .with_context(|| format!("round {round} of seed {seed}"))?;
        }
    }
    cx.cluster.wait_agent(NODE)?;
    wait_nothing_left(cx, NODE, &all, &before)
        .with_context(|| format!("what is left of seed {seed}"))
}

/// The machine loses its power and has it again: its pods are the same, begin again, and have what they
/// wrote to the disk.
pub fn a_rebooted_node_goes_on_with_its_pods(cx: &Context) -> Result<()> {
    let before = Before::of(cx, NODE)?;
    let mut still = tenant("still");
    // A slow machine may be missed meanwhile.
    still["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
    if let Some(all) = still["spec"]["volumes"].as_array_mut() {
        all.push(json!({ "name": "disk", "emptyDir": {} }));
    }
    if let Some(all) = still["spec"]["containers"][0]["volumeMounts"].as_array_mut() {
        all.push(json!({ "name": "disk", "mountPath": "/disk" }));
    }
    cx.apply_json(&still)?;
    cx.wait_ready("still")?;
    cx.sh(
        "still",
        "echo kept > /disk/mark; echo lost > /scratch/mark; sync /disk/mark",
    )?;
    let (uid, container) = (
        cx.field("pod still", ".metadata.uid")?,
        cx.field("pod still", ".status.containerStatuses[0].containerID")?,
    );
    let boot = || cx.field(&format!("node {NODE}"), ".status.nodeInfo.bootID");
    let booted = boot()?;
    for verb in ["kill", "start"] {
        cx.cluster
            .tiphys_on_data(&format!("node {verb} {NODE}"))?
            .ok()?;
    }
    eventually("the node has booted again", || {
        ensure!(boot()? != booted);
        Ok(())
    })?;
    cx.wait(&format!("node/{NODE}"), "condition=Ready")?;
    eventually("another container runs", || {
        let now = cx.field("pod still", ".status.containerStatuses[0].containerID")?;
        ensure!(!now.is_empty() && now != container);
        Ok(())
    })?;
    cx.wait_ready("still")?;
    ensure!(cx.field("pod still", ".metadata.uid")? == uid);
    ensure!(restarts(cx, "still")? == "1");
    let has = eventually("exec works again", || {
        cx.sh(
            "still",
            "cat /disk/mark; cat /scratch/mark 2>/dev/null; true",
        )
    })?;
    ensure!(has == "kept\n", "{has}");
    eventually("an event says so", || {
        let events = cx.cluster.kubectl(&format!(
            "get events -n default --field-selector involvedObject.name={NODE},reason=Rebooted -o json"
        ))?;
        ensure!(events.ok()?.contains("has been rebooted, boot id: "));
        Ok(())
    })?;
    let uids = uids(cx, "tenant=yes")?;
    cx.kubectl("delete pod still")?;
    wait_nothing_left(cx, NODE, &uids, &before)
}

/// Pods of one node that start and end at once: as many as a node takes, in the soak.
fn many() -> usize {
    if tests::is_soak() { 110 } else { 25 }
}

pub fn many_pods_come_and_go_at_once(cx: &Context) -> Result<()> {
    let node = "node-2";
    // Those that have left count no more.
    let before = Before::of(cx, node)?;
    let taken = cx.json(&format!(
        "get pods --all-namespaces --field-selector spec.nodeName={node}"
    ))?;
    let taken = taken["items"].as_array().map_or(0, Vec::len);
    let count = many() - taken.min(many());
    let mut template = tenant("many");
    template["spec"]["nodeName"] = node.into();
    cx.apply_json(
        &json!({ "apiVersion": "v1", "kind": "ReplicationController",
        "metadata": { "name": "many" }, "spec": { "replicas": count,
            "selector": { "tenant": "yes" }, "template": {
                "metadata": { "labels": { "tenant": "yes" } }, "spec": template["spec"] } } }),
    )?;
    let begin = Instant::now();
    cx.wait(
        "rc/many",
        &format!("jsonpath={{.status.readyReplicas}}={count}"),
    )?;
    println!(
        "    {count} pods ready after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let uids = uids(cx, "tenant=yes")?;
    ensure!(uids.len() == count, "{} pods, not {count}", uids.len());
    let begin = Instant::now();
    cx.kubectl("delete rc many")?;
    eventually("all are gone", || {
        let left = cx.json("get pods -l tenant=yes")?;
        let left = left["items"].as_array().map_or(0, Vec::len);
        ensure!(left == 0, "{left} are left");
        Ok(())
    })?;
    println!("    gone after {:.1} s", begin.elapsed().as_secs_f64());
    wait_nothing_left(cx, node, &uids, &before)
}

/// The folder of pods is a small disk of its own, which a pod fills.
pub fn a_full_disk_is_relieved(cx: &Context) -> Result<()> {
    let node = "node-3";
    let at = format!("{ROOT}/pods");
    let on = |line: &str| cx.cluster.in_node(node, line)?.ok();
    eventually("no pod is on the node", || {
        let all = cx.json(&format!(
            "get pods --all-namespaces --field-selector spec.nodeName={node}"
        ))?;
        let names: Vec<_> = all["items"].as_array().into_iter().flatten().collect();
        ensure!(names.is_empty(), "{} pods", names.len());
        Ok(())
    })?;
    on(&format!("mount -t tmpfs -o size=4m,mode=750 tmpfs {at}"))?;
    let outcome = fill_and_relieve(cx, node);
    // Whatever came of it, the node is given back as it was.
    cx.kubectl("delete pods --all --now")?;
    eventually("the small disk is taken away", || {
        on(&format!("umount {at}"))
    })?;
    outcome
}

fn fill_and_relieve(cx: &Context, node: &str) -> Result<()> {
    let mut filler = pod("filler", STAY);
    filler["spec"]["nodeName"] = node.into();
    filler["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    filler["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    cx.apply_json(&filler)?;
    cx.wait_ready("filler")?;
    cx.sh("filler", "cat /dev/zero > /v/all 2>/dev/null; true")?;
    cx.apply_json(
        &json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "big" },
        "data": { "text": "x".repeat(100_000) } }),
    )?;
    let mut late = pod("late", STAY);
    late["spec"]["nodeName"] = node.into();
    late["spec"]["volumes"] = json!([{ "name": "v", "configMap": { "name": "big" } }]);
    late["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    cx.apply_json(&late)?;
    eventually("it is said that there is no room", || {
        let events = cx.json("get events --field-selector involvedObject.name=late")?;
        let text = events.to_string();
        ensure!(text.contains("No space left"), "{text}");
        Ok(())
    })?;
    ensure!(cx.field("pod late", ".status.phase")? == "Pending");
    // The one that runs is not harmed; when it makes room, all is well.
    ensure!(restarts(cx, "filler")? == "0");
    cx.sh("filler", "rm /v/all")?;
    cx.wait_ready("late")?;
    ensure!(cx.sh("late", "wc -c < /v/text")?.trim() == "100000");
    Ok(())
}
