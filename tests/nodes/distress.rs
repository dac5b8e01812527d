//! A node whose surroundings fail it: its clock is set by hours, and its container runtime answers
//! slowly, late, or not at all. What runs is left alone, what is new starts, and nothing stays behind.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use rustix::process::Signal;
use tests::Context;
use tests::command::eventually;
use tests::context::pod;

use crate::drivers::{Plugin, plugin};
use crate::faults::{Before, NODE, ran_once, restarts, tenant, uids, wait_nothing_left};

/// A node beside it whose clock is right.
const OTHER: &str = "node-2";
const HOURS: i64 = 5 * 3_600;
/// What a clock may be away from another one where both are right: a renewal may be some seconds old.
const NEAR: i64 = 600;

/// Sets the clock of the node's agent so many seconds ahead of the machine's. All nodes have one kernel,
/// whose clock is not a test's to set.
fn set_clock(cx: &Context, seconds: i64) -> Result<()> {
    let line = format!("echo {seconds} > /run/clock-shift");
    cx.cluster.in_node(NODE, &line)?.ok()?;
    eventually("the agent has heard of it", || {
        let ahead = renewed(cx, NODE)? - renewed(cx, OTHER)?;
        ensure!((ahead - seconds).abs() < NEAR, "{ahead} s ahead");
        Ok(())
    })
}

/// When a node renewed its Lease, by its own clock.
fn renewed(cx: &Context, node: &str) -> Result<i64> {
    let lease = format!("lease {node} -n kube-node-lease");
    let text = cx.field(&lease, ".spec.renewTime")?;
    let time: Timestamp = text.parse().with_context(|| text.clone())?;
    Ok(time.as_second())
}

fn ready_since(cx: &Context) -> Result<String> {
    cx.field(
        &format!("node {NODE}"),
        ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime",
    )
}

fn count(cx: &Context, pod: &str) -> Result<u32> {
    Ok(restarts(cx, pod)?.parse().unwrap_or(0))
}

pub fn clocks_that_jump_restart_nothing(cx: &Context) -> Result<()> {
    let before = Before::of(cx, NODE)?;
    let mut still = tenant("still");
    // Long after this test, but before a clock that is set ahead.
    still["spec"]["activeDeadlineSeconds"] = (HOURS - 3_600).into();
    cx.apply_json(&still)?;
    cx.wait_ready("still")?;
    cx.wait(&format!("node/{NODE}"), "condition=Ready")?;
    let jumped = jumps(cx);
    // The node is given back with the right time, whatever came of it.
    set_clock(cx, 0)?;
    jumped?;
    let uids = uids(cx, "tenant=yes")?;
    cx.kubectl("delete pods -l tenant=yes")?;
    wait_nothing_left(cx, NODE, &uids, &before)
}

/// A pod that ends at once, again and again.
fn crashing(name: &str) -> serde_json::Value {
    let mut crash = pod(name, "exit 1");
    crash["spec"]["nodeName"] = NODE.into();
    crash["metadata"]["labels"] = serde_json::json!({ "tenant": "yes" });
    crash
}

fn jumps(cx: &Context) -> Result<()> {
    let mut clock = 0;
    for (nth, seconds) in [HOURS, -HOURS, 0].into_iter().enumerate() {
        if !stays_ready(cx, seconds, &nth.to_string())? {
            // A machine that stood still for as long as a node may be silent is not a clock that was set: the
            // same once more.
            set_clock(cx, clock)?;
            cx.wait(&format!("node/{NODE}"), "condition=Ready")?;
            let again = format!("{nth}-again");
            ensure!(stays_ready(cx, seconds, &again)?, "twice not Ready");
        }
        clock = seconds;
    }
    Ok(())
}

/// Sets the clock; what runs goes on, what is new starts, and what waits is tried again. Whether the node was
/// Ready all the time.
fn stays_ready(cx: &Context, seconds: i64, nth: &str) -> Result<bool> {
    let (crash, new) = (format!("crash-{nth}"), format!("new-{nth}"));
    let container = cx.field("pod still", ".status.containerStatuses[0].containerID")?;
    let since = ready_since(cx)?;
    // Another one each time: its back-off is still short when the clock is set.
    cx.apply_json(&crashing(&crash))?;
    eventually("the one that fails has been started again", || {
        ensure!(count(cx, &crash)? > 0);
        Ok(())
    })?;
    let tried = count(cx, &crash)?;
    set_clock(cx, seconds)?;
    cx.apply_json(&tenant(&new))?;
    cx.wait_ready(&new)?;
    ensure!(cx.sh(&new, "cat /about/name")? == new);
    // What waits for its next try waits no longer than its back-off.
    eventually("the one that fails is tried again", || {
        let now = count(cx, &crash)?;
        ensure!(now > tried, "{now} restarts");
        Ok(())
    })?;
    cx.kubectl(&format!("delete pods {new} {crash}"))?;
    ensure!(cx.field("pod still", ".status.containerStatuses[0].containerID")? == container);
    ensure!(restarts(cx, "still")? == "0");
    ensure!(cx.sh("still", "cat /about/name")? == "still");
    Ok(ready_since(cx)? == since)
}

/// Where the node's containerd listens.
const SOCKET: &str = "/run/tiphys/containerd/containerd.sock";

/// What is done to the runtime's answers: milliseconds, and after how many of them one is lost.
const TROUBLES: [(&str, &str); 3] = [
    ("slow", "500 0"),
    ("late", "4000 0"),
    // Whoever asked does not know what became of it.
    ("lost", "0 12"),
];

/// Says what is done to answers from now on.
fn trouble(cx: &Context, what: &str) -> Result<()> {
    let line = format!("echo {what} > /run/trouble");
    cx.cluster.in_node(NODE, &line)?.ok().map(drop)
}

/// Puts the program between the kubelet and containerd; a kubelet that starts takes it for containerd.
fn put_between(cx: &Context) -> Result<Plugin> {
    let (front, back) = (format!("{SOCKET}.front"), format!("{SOCKET}.back"));
    let between = plugin(cx, &["runtime", &front, &back, "/run/trouble"])?;
    between.0.line(|l| l == "listening")?;
    let line = format!("mv {SOCKET} {back} && mv {front} {SOCKET}");
    cx.cluster.in_node(NODE, &line)?.ok()?;
    eventually("an agent is killed", || cx.cluster.kill_agent(NODE))?;
    cx.cluster.wait_agent(NODE)?;
    Ok(between)
}

/// Gives the socket back before the program ends: nobody may find that containerd is away.
fn take_away(cx: &Context, between: &Plugin) -> Result<()> {
    let line = format!("mv {SOCKET}.back {SOCKET}");
    cx.cluster.in_node(NODE, &line)?.ok()?;
    between.send(Signal::KILL)?;
    cx.cluster.wait_agent(NODE)
}

pub fn a_runtime_that_answers_badly_loses_nothing(cx: &Context) -> Result<()> {
    let before = Before::of(cx, NODE)?;
    trouble(cx, "0 0")?;
    cx.apply_json(&tenant("still"))?;
    cx.wait_ready("still")?;
    let between = put_between(cx)?;
    let came = under_troubles(cx);
    let well = trouble(cx, "0 0");
    // The node is given back, whatever came of it.
    take_away(cx, &between)?;
    well?;
    came?;
    ensure!(restarts(cx, "still")? == "0");
    cx.wait(&format!("node/{NODE}"), "condition=Ready")?;
    let uids = uids(cx, "tenant=yes")?;
    cx.kubectl("delete pods -l tenant=yes")?;
    wait_nothing_left(cx, NODE, &uids, &before)
}

/// Processes of a pod on the node, whatever the kubelet knows of it.
fn processes(cx: &Context, uid: &str) -> Result<usize> {
    let line = format!(
        "find /sys/fs/cgroup -path '*pod{uid}*' -name cgroup.procs -exec cat {{}} + 2>/dev/null | sort -u | wc -l"
    );
    Ok(cx.cluster.in_node(NODE, &line)?.ok()?.trim().parse()?)
}

/// Has a process run in a pod's group as if a container of it did of which the runtime knows nothing: what a
/// runtime leaves that is given up in the middle of a start.
fn forget_one(cx: &Context, pod: &str, uid: &str) -> Result<()> {
    let id = "f".repeat(64);
    // Some controllers take nobody before they are set up; that of memory does.
    let line = format!(
        "setsid sleep 1000000 >/dev/null 2>&1 & \
         for group in $(find /sys/fs/cgroup -type d -name 'pod{uid}'); do \
         mkdir -p $group/{id} && echo $! > $group/{id}/cgroup.procs; done; true"
    );
    cx.cluster.in_node(NODE, &line)?.ok()?;
    let found = processes(cx, uid)?;
    ensure!(found == 3, "{found} processes of {pod}");
    Ok(())
}

pub fn what_the_runtime_forgot_is_ended(cx: &Context) -> Result<()> {
    let before = Before::of(cx, NODE)?;
    cx.apply_json(&tenant("forgotten"))?;
    cx.wait_ready("forgotten")?;
    let uid = cx.field("pod forgotten", ".metadata.uid")?;
    forget_one(cx, "forgotten", &uid)?;
    // The next start looks for it.
    let id = cx.field("pod forgotten", ".status.containerStatuses[0].containerID")?;
    let id = id.rsplit('/').next().context("no id")?;
    let kill =
        format!("cat $(find /sys/fs/cgroup -path '*{id}/cgroup.procs') | sort -u | xargs kill -9");
    cx.cluster.in_node(NODE, &kill)?.ok()?;
    eventually("it runs again, and what was forgotten does not", || {
        ensure!(count(cx, "forgotten")? == 1);
        let found = processes(cx, &uid)?;
        ensure!(found == 2, "{found} processes");
        Ok(())
    })?;
    // And the end of the pod.
    forget_one(cx, "forgotten", &uid)?;
    let uids = uids(cx, "tenant=yes")?;
    cx.kubectl("delete pods -l tenant=yes")?;
    wait_nothing_left(cx, NODE, &uids, &before)
}

fn under_troubles(cx: &Context) -> Result<()> {
    for (name, what) in TROUBLES {
        trouble(cx, what)?;
        let names: Vec<String> = (0..3).map(|n| format!("{name}-{n}")).collect();
        for pod in &names {
            cx.apply_json(&tenant(pod))?;
        }
        for pod in &names {
            cx.wait_ready(pod).with_context(|| name.to_owned())?;
            eventually(&format!("a command in {pod}"), || {
                ensure!(cx.sh(pod, "cat /about/name")? == *pod);
                Ok(())
            })?;
            // An attempt counts whose answer was lost; that it runs once is what matters.
            let uid = cx.field(&format!("pod {pod}"), ".metadata.uid")?;
            eventually(
                "one container runs, beside what holds the pod's place",
                || {
                    let found = processes(cx, &uid)?;
                    ensure!(found == 2, "{found} processes of {pod}");
                    Ok(())
                },
            )?;
            if name != "lost" {
                ran_once(cx, pod)?;
            }
        }
        cx.kubectl(&format!("delete pods {} --wait=false", names.join(" ")))?;
        for pod in &names {
            cx.wait(&format!("pod/{pod}"), "delete")
                .with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}
