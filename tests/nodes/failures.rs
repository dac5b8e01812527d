//! What fails and is mended: containers, pods, nodes, the control plane.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod, service, web};
use tests::traffic::get;

fn kill(pid: i32) -> Result<()> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    Ok(rustix::process::kill_process(pid, Signal::KILL)?)
}

fn controller(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController",
        "metadata": { "name": name },
        "spec": {
            "replicas": 1,
            "selector": { "app": name },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{ "name": "main", "image": image }],
                },
            },
        },
    })
}

fn only_pod(cx: &Context, selector: &str) -> Result<String> {
    eventually("there is one pod", || {
        let pods = cx.pods(selector)?;
        ensure!(pods.len() == 1, "{pods:?}");
        Ok(pods[0].clone())
    })
}

pub fn a_killed_container_is_restarted_and_a_deleted_pod_replaced(cx: &Context) -> Result<()> {
    cx.apply_json(&controller("one", tests::DEMO))?;
    let name = only_pod(cx, "app=one")?;
    cx.wait_ready(&name)?;
    let node = cx.field(&format!("pod {name}"), ".spec.nodeName")?;
    // Its own server: pods of an earlier check may not all have ended.
    let uid = cx.field(&format!("pod {name}"), ".metadata.uid")?;
    let line = format!(
        "for p in $(find /sys/fs/cgroup -path '*pod{uid}*' -name cgroup.procs -exec cat {{}} + 2>/dev/null | sort -u); do \
             grep -q demo-server /proc/$p/cmdline && kill -9 $p && exit 0; \
         done; exit 1"
    );
    // It counts as ready when it is started; it may still become what it is.
    eventually("its server is found and killed", || {
        cx.cluster.in_node(&node, &line)?.ok()
    })?;
    cx.wait(
        &format!("pod/{name}"),
        "jsonpath={.status.containerStatuses[0].restartCount}=1",
    )?;
    cx.wait_ready(&name)?;
    ensure!(
        cx.field(&format!("pod {name}"), ".spec.nodeName")? == node,
        "it moved"
    );
    cx.kubectl(&format!("delete pod {name}"))?;
    let next = only_pod(cx, "app=one")?;
    ensure!(next != name);
    cx.wait_ready(&next)
}

/// Pods that ask for more than the nodes have; each a fifth of a core.
const PODS: usize = 200;
const POD_MILLIS: u64 = 200;

#[derive(Default)]
struct Bound {
    /// Pod → its node, or none while it waits.
    nodes: BTreeMap<String, Option<String>>,
    reasons: BTreeMap<String, String>,
}

impl Bound {
    fn take(&mut self, pod: &Pod) {
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|s| s.node_name.clone());
        self.nodes.insert(pod.name_any(), node);
        let conditions = pod
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        for c in conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False") {
            self.reasons
                .insert(pod.name_any(), c.message.clone().unwrap_or_default());
        }
    }
    fn most_on_a_node(&self) -> usize {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for node in self.nodes.values().flatten() {
            *counts.entry(node).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }
    fn bound(&self) -> usize {
        self.nodes.values().flatten().count()
    }
}

pub fn nodes_are_never_overcommitted(cx: &Context) -> Result<()> {
    let allocatable = cx.field("node node-1", ".status.allocatable.cpu")?;
    let millis: api::Quantity = allocatable.parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    let fits = usize::try_from(u64::try_from(millis.milli_value())? / POD_MILLIS)?;
    let mut many = web("many", u32::try_from(PODS)?);
    let spec = &mut many["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(0);
    spec["containers"][0] = json!({
        "name": "main", "image": tests::BUSYBOX, "command": ["sh", "-c", STAY],
        "resources": { "requests": { "cpu": format!("{POD_MILLIS}m") } },
    });
    let (client, ns) = (cx.cluster.client()?, cx.ns.clone());
    cx.apply_json(&many)?;
    let watched = cx.cluster.block_on(async move {
        let api: Api<Pod> = Api::namespaced(client, &ns);
        watch_bindings(&api, fits).await
    })?;
    ensure!(
        watched.bound() == 3 * fits,
        "{} bound, {} fit",
        watched.bound(),
        3 * fits
    );
    for (pod, why) in &watched.reasons {
        ensure!(
            why.contains("nodes are available") && why.contains("Insufficient cpu"),
            "{pod}: {why}"
        );
    }
    cx.kubectl("delete deployment many --wait=false").map(drop)
}

/// Looks at every event until as many pods are bound as fit, and all others have said why not.
async fn watch_bindings(api: &Api<Pod>, fits: usize) -> Result<Bound> {
    let mut seen = Bound::default();
    let list = api.list(&ListParams::default()).await?;
    list.items.iter().for_each(|p| seen.take(p));
    let version = list.metadata.resource_version.unwrap_or_default();
    let mut events = api
        .watch(&WatchParams::default().timeout(280), &version)
        .await?
        .boxed();
    loop {
        ensure!(
            seen.most_on_a_node() <= fits,
            "a node has {} of {fits}",
            seen.most_on_a_node()
        );
        let waiting = seen.nodes.iter().filter(|(_, n)| n.is_none());
        let all_explained = waiting.clone().all(|(p, _)| seen.reasons.contains_key(p));
        if seen.nodes.len() == PODS && seen.bound() >= 3 * fits && all_explained {
            return Ok(seen);
        }
        match events.next().await.transpose()? {
            Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => seen.take(&pod),
            Some(WatchEvent::Deleted(pod)) => {
                seen.nodes.remove(&pod.name_any());
            }
            Some(WatchEvent::Bookmark(_)) => {}
            Some(WatchEvent::Error(e)) => bail!("watch: {e:?}"),
            None => bail!(
                "{} of {PODS} pods, {} bound",
                seen.nodes.len(),
                seen.bound()
            ),
        }
    }
}

/// Kills of a node whose neighbours are looked at.
const NODE_KILLS: usize = 3;

pub fn a_dead_node_takes_no_other_with_it(cx: &Context) -> Result<()> {
    let nodes = cx.cluster.node_names();
    let (dead, others) = nodes.split_last().context("no nodes")?;
    let ready = |node: &str, field: &str| {
        let path = format!(".status.conditions[?(@.type==\"Ready\")].{field}");
        cx.field(&format!("node {node}"), &path)
    };
    let (mut kills, mut stalls) = (0, Vec::new());
    while kills < NODE_KILLS {
        let mut since = Vec::new();
        for node in others {
            cx.wait(&format!("node/{node}"), "condition=Ready")?;
            since.push(ready(node, "lastTransitionTime")?);
        }
        cx.cluster
            .tiphys_on_data(&format!("node kill {dead}"))?
            .ok()?;
        // By then, one that fell silent at the same time is found out as well.
        cx.wait(
            &format!("node/{dead}"),
            "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=Unknown",
        )?;
        cx.cluster
            .tiphys_on_data(&format!("node start {dead}"))?
            .ok()?;
        cx.wait(&format!("node/{dead}"), "condition=Ready")?;
        let mut changes = Vec::new();
        for (node, since) in others.iter().zip(&since) {
            let now = ready(node, "lastTransitionTime")?;
            if now != *since {
                changes.push(format!("{node} changed at {now}, after {since}"));
            }
        }
        // Where the machine stood still for as long as a node may be silent, they change as well: then one kill
        // says nothing, and there is another. What comes again is not a stall.
        match changes.is_empty() {
            true => kills += 1,
            false => stalls.push(changes.join(", ")),
        }
        ensure!(stalls.len() < NODE_KILLS, "{}", stalls.join("\n"));
    }
    Ok(())
}

pub fn a_dead_node_is_replaced_and_returns(cx: &Context) -> Result<()> {
    cx.apply_json(&controller("sole", tests::DEMO))?;
    cx.apply_json(&service("sole", "sole", "NodePort"))?;
    let first = only_pod(cx, "app=sole")?;
    cx.wait_ready(&first)?;
    let dead = cx.field(&format!("pod {first}"), ".spec.nodeName")?;
    let started = Instant::now();
    cx.cluster
        .tiphys_on_data(&format!("node kill {dead}"))?
        .ok()?;
    cx.wait(
        &format!("node/{dead}"),
        "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=Unknown",
    )?;
    println!(
        "    node NotReady after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let second = eventually("another pod is made", || {
        let pods = cx.pods("app=sole")?;
        pods.into_iter().find(|p| *p != first).context("not yet")
    })?;
    cx.wait_ready(&second)?;
    println!(
        "    pod Ready elsewhere after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let elsewhere = cx.field(&format!("pod {second}"), ".spec.nodeName")?;
    ensure!(elsewhere != dead);
    let ip = cx.field(&format!("node {elsewhere}"), ".status.addresses[0].address")?;
    let port: u16 = cx
        .field("service sole", ".spec.ports[0].nodePort")?
        .parse()?;
    let address = std::net::SocketAddr::new(ip.parse()?, port);
    eventually("traffic flows again", || {
        let name = get(address, "/hostname")?;
        ensure!(name.trim() == second, "{name}");
        Ok(())
    })?;
    cx.cluster
        .tiphys_on_data(&format!("node start {dead}"))?
        .ok()?;
    cx.wait(&format!("node/{dead}"), "condition=Ready")?;
    cx.wait(&format!("pod/{first}"), "delete")?;
    eventually("its taint goes", || {
        let taints = cx.field(&format!("node {dead}"), ".spec.taints")?;
        ensure!(!taints.contains("unreachable"), "{taints}");
        Ok(())
    })
}

/// Kills of the control plane: few every day, as many as asked for in the soak.
fn kills() -> usize {
    if tests::is_soak() { 50 } else { 5 }
}

/// Writes between two kills at least.
const WRITES: usize = 20;

pub fn a_killed_control_plane_loses_no_write(cx: &Context) -> Result<()> {
    cx.apply_json(&pod("still", STAY))?;
    cx.wait_ready("still")?;
    let container = cx.field("pod still", ".status.containerStatuses[0].containerID")?;
    let api: Api<ConfigMap> = Api::namespaced(cx.cluster.client()?, &cx.ns);
    let mut acknowledged = Vec::new();
    let mut next = 0;
    for _ in 0..kills() {
        for _ in 0..WRITES {
            let name = format!("w{next}");
            next += 1;
            if write(cx, &api, &name).is_ok() {
                acknowledged.push(name);
            }
        }
        let pid = cx.cluster.pid("server")?;
        let written = AtomicUsize::new(0);
        let writer = std::thread::scope(|scope| -> Result<Vec<String>> {
            // One stream of writes runs into the kill.
            let stream = scope.spawn(|| {
                let mut done = Vec::new();
                for i in 0.. {
                    let name = format!("s{next}-{i}");
                    match write(cx, &api, &name) {
                        Ok(()) => done.push(name),
                        Err(_) => break,
                    }
                    written.fetch_add(1, Ordering::Relaxed);
                }
                done
            });
            eventually("the stream flows", || {
                ensure!(written.load(Ordering::Relaxed) >= WRITES || stream.is_finished());
                Ok(())
            })?;
            kill(pid)?;
            stream
                .join()
                .map_err(|_| anyhow::anyhow!("the writer panicked"))
        })?;
        acknowledged.extend(writer);
        eventually("the control plane is back", || {
            cx.kubectl("get --raw /readyz")
        })?;
    }
    let found: Vec<String> = cx.names("configmaps", "")?;
    let lost: Vec<&String> = acknowledged.iter().filter(|n| !found.contains(n)).collect();
    ensure!(lost.is_empty(), "lost {lost:?} of {}", acknowledged.len());
    println!(
        "    {} acknowledged writes, {} kills, none lost",
        acknowledged.len(),
        kills()
    );
    ensure!(cx.field("pod still", ".status.containerStatuses[0].containerID")? == container);
    cx.apply_json(&web("after", 2))?;
    cx.wait_rollout("deployment/after")
}

fn write(cx: &Context, api: &Api<ConfigMap>, name: &str) -> Result<()> {
    let object: ConfigMap =
        serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "a": "b" } }))?;
    cx.cluster
        .block_on(async { api.create(&PostParams::default(), &object).await })?;
    Ok(())
}

pub fn a_killed_agent_leaves_containers_alone(cx: &Context) -> Result<()> {
    cx.apply_json(&pod("still", STAY))?;
    cx.wait_ready("still")?;
    let node = cx.field("pod still", ".spec.nodeName")?;
    let container = cx.field("pod still", ".status.containerStatuses[0].containerID")?;
    cx.cluster.kill_agent(&node)?;
    cx.cluster.wait_agent(&node)?;
    let text = eventually("exec works again", || cx.sh("still", "echo here"))?;
    ensure!(text.trim() == "here");
    ensure!(cx.field("pod still", ".status.containerStatuses[0].containerID")? == container);
    ensure!(cx.field("pod still", ".status.containerStatuses[0].restartCount")? == "0");
    Ok(())
}

/// A node that was silent for a while, though nothing on it ended: whoever took it for dead
/// meanwhile is corrected, without a restart of anything.
pub fn a_paused_agent_goes_on(cx: &Context) -> Result<()> {
    let mut still = pod("still", STAY);
    // However long it takes here until all have missed it.
    still["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
    cx.apply_json(&still)?;
    cx.apply_json(&service("still", "still", "ClusterIP"))?;
    cx.wait_ready("still")?;
    let node = cx.field("pod still", ".spec.nodeName")?;
    let agent = |signal: &str| {
        let line = format!("pkill -{signal} -f 'tiphys nod[e] --server'");
        cx.cluster.in_node(&node, &line)?.ok()
    };
    agent("STOP")?;
    let silent = cx.wait(&format!("node/{node}"), "condition=Ready=Unknown");
    let unready = silent.and_then(|()| cx.wait("pod/still", "condition=Ready=False"));
    agent("CONT")?;
    unready?;
    cx.wait(&format!("node/{node}"), "condition=Ready")?;
    cx.wait_ready("still")?;
    cx.wait_endpoints("still", 1)?;
    ensure!(cx.field("pod still", ".status.containerStatuses[0].restartCount")? == "0");
    Ok(())
}

/// As of a pod's status (`workloads`), the kubelet repairs what others say of its node. Nobody else's pods are
/// there: they count as not ready meanwhile.
pub fn what_others_write_over_a_nodes_status_is_repaired(cx: &Context) -> Result<()> {
    let node = "node-2";
    cx.wait(&format!("node/{node}"), "condition=Ready")?;
    let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "reason": "Test", "message": "by hand" });
    let conditions = [
        condition("Ready", "Unknown"),
        condition("MemoryPressure", "True"),
    ];
    let body = json!({ "status": { "conditions": conditions } });
    cx.kubectl(&format!(
        "patch node {node} --subresource=status -p '{body}'"
    ))?;
    cx.wait(&format!("node/{node}"), "condition=Ready")?;
    cx.wait(&format!("node/{node}"), "condition=MemoryPressure=False")?;
    eventually("the node takes pods", || {
        let taints = cx.field(&format!("node {node}"), ".spec.taints")?;
        ensure!(taints.is_empty(), "{taints}");
        Ok(())
    })
}
