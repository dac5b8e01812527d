//! A node that is cut off from all others, for seconds and for minutes: what runs on it goes on, an
//! identity is never given to a second pod, what has none is started elsewhere; and a node that a
//! person calls out of service gives its identities up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};

use crate::faults::{left, restarts};

const NODE: &str = "node-3";
const OTHER: &str = "node-2";

/// How long a node stays cut off after everything has happened that others do for it.
fn long() -> Duration {
    Duration::from_secs(if tests::is_soak() { 300 } else { 10 })
}

/// Cuts a node off from all others, or connects it again: by a table of its own in its namespace.
fn cut(cx: &Context, node: &str, off: bool) -> Result<()> {
    let line = if off {
        let address = cx.field(&format!("node {node}"), ".status.addresses[0].address")?;
        format!(
            "link=$(ip -o -4 addr show | grep ' {address}/' | head -n 1 | awk '{{print $2}}'); \
             nft add table inet cut && \
             nft 'add chain inet cut in {{ type filter hook prerouting priority -300; }}' && \
             nft 'add chain inet cut out {{ type filter hook postrouting priority 300; }}' && \
             nft add rule inet cut in iifname $link drop && \
             nft add rule inet cut out oifname $link drop"
        )
    } else {
        "nft delete table inet cut".to_owned()
    };
    cx.cluster.in_node(node, &line)?.ok().map(drop)
}

/// What a pod says that starts on one node where it can, and leaves it a few seconds after the node
/// was lost.
fn leaving(app: &str) -> Value {
    json!({ "metadata": { "labels": { "app": app } }, "spec": {
        // With 0 it would be gone at once, as by `kubectl delete --force`.
        "terminationGracePeriodSeconds": 1,
        "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 100, "preference": { "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [NODE] }] } }] } },
        "tolerations": [{ "key": "node.kubernetes.io/unreachable", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 3 }],
        "containers": [{ "name": "main", "image": tests::BUSYBOX,
            "command": ["sh", "-c", STAY] }] } })
}

/// Sets of one such pod: one whose pod has an identity, and one whose pod has none.
fn sets(cx: &Context) -> Result<()> {
    eventually("the node takes pods", || {
        let taints = cx.field(&format!("node {NODE}"), ".spec.taints")?;
        ensure!(taints.is_empty(), "{taints}");
        Ok(())
    })?;
    cx.apply_json(
        &json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "one" },
        "spec": { "serviceName": "one", "replicas": 1,
            "selector": { "matchLabels": { "app": "one" } }, "template": leaving("one") } }),
    )?;
    cx.apply_json(
        &json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "any" },
        "spec": { "replicas": 1,
            "selector": { "matchLabels": { "app": "any" } }, "template": leaving("any") } }),
    )?;
    cx.wait_rollout("statefulset/one")?;
    cx.wait_rollout("deployment/any")?;
    for app in ["one", "any"] {
        let name = cx.pods(&format!("app={app}"))?;
        let name = name.first().context("no pod")?;
        let was = cx.field(&format!("pod {name}"), ".spec.nodeName")?;
        ensure!(was == NODE, "{name} is on {was}");
    }
    Ok(())
}

fn wait_node(cx: &Context, status: &str) -> Result<()> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    cx.wait(&format!("node/{NODE}"), &format!("{path}={status}"))
}

/// Processes of a pod that run on the node, whatever anybody else knows of it.
fn processes(cx: &Context, uid: &str) -> Result<usize> {
    let line = format!(
        "find /sys/fs/cgroup -path '*pod{uid}*' -name cgroup.procs -exec cat {{}} + 2>/dev/null | sort -u | wc -l"
    );
    Ok(cx.cluster.in_node(NODE, &line)?.out.trim().parse()?)
}

pub fn a_partitioned_node_goes_on(cx: &Context) -> Result<()> {
    let node = NODE;
    let mut still = pod("still", STAY);
    still["spec"]["nodeName"] = node.into();
    still["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
    cx.apply_json(&still)?;
    cx.wait_ready("still")?;
    // For seconds. Where everything takes its time, so may that: then another cut is a short one.
    eventually("nobody hears of a short cut", || is_cut_unheard(cx))?;
    sets(cx)?;
    let uid = cx.field("pod one-0", ".metadata.uid")?;
    // For longer than it may be silent.
    cut(cx, node, true)?;
    let lost = while_it_is_lost(cx, &uid);
    // The node is given back, whatever came of it.
    cut(cx, node, false)?;
    let all = lost?;
    wait_node(cx, "True")?;
    eventually("the identity is another pod's", || {
        ensure!(cx.field("pod one-0", ".metadata.uid")? != uid);
        // Not before the old one has ended on its node.
        let still = processes(cx, &uid)?;
        ensure!(still == 0, "{still} processes of the old one");
        Ok(())
    })?;
    cx.wait_ready("one-0")?;
    eventually("nothing is left of the old ones", || {
        let left = left(cx, node, &all)?;
        ensure!(left.is_empty(), "{}", left.join("\n"));
        Ok(())
    })?;
    cx.wait_ready("still")?;
    ensure!(restarts(cx, "still")? == "0");
    let any = cx.pods("app=any")?;
    ensure!(any.len() == 1, "{any:?}");
    Ok(())
}

/// The node misses a renewal of its Lease, and is Ready all the time.
fn is_cut_unheard(cx: &Context) -> Result<()> {
    wait_node(cx, "True")?;
    let since = || {
        let path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime";
        cx.field(&format!("node {NODE}"), path)
    };
    let before = since()?;
    cut(cx, NODE, true)?;
    let missed = misses_a_renewal(cx);
    cut(cx, NODE, false)?;
    missed?;
    eventually("exec works again", || cx.sh("still", "true"))?;
    let now = since()?;
    ensure!(now == before, "{now}, not {before}");
    Ok(())
}

/// A pod of the node that is cut off still gets an answer to the name of a Service: by a command in its
/// namespaces, since nobody gets there by the API.
fn names_resolve(cx: &Context, uid: &str) -> Result<()> {
    let address = cx
        .cluster
        .kubectl("get service kubernetes -n default -o 'jsonpath={.spec.clusterIP}'")?
        .ok()?;
    // Of its processes the one that holds its place has no commands.
    let line = format!(
        "for p in $(find /sys/fs/cgroup -path '*pod{uid}*' -name cgroup.procs -exec cat {{}} + 2>/dev/null | sort -u); do \
             nsenter --target $p --mount --net nslookup -type=a kubernetes.default.svc.cluster.local. && break; \
         done 2>&1; true"
    );
    eventually("a name resolves in a pod of the node", || {
        let said = cx.cluster.in_node(NODE, &line)?.ok()?;
        // As a word: that of the server which is asked begins with it.
        ensure!(said.split_whitespace().any(|w| w == address), "{said}");
        Ok(())
    })
}

/// By how much a node's renewal of its Lease is older than another's when it has missed one: they come
/// every two seconds, and at the fifth that is missed a node counts as failed. What is not sent is sent
/// again later each time, so it is no more than is needed.
const BEHIND_MILLIS: i64 = 2_200;

/// When nodes renewed their Leases last, in milliseconds, as one answer says it.
fn renewed(cx: &Context, nodes: [&str; 2]) -> Result<[i64; 2]> {
    let line = format!("get leases {} -n kube-node-lease", nodes.join(" "));
    let all = cx.json(&line)?;
    let of = |nth: usize| -> Result<i64> {
        let text = all["items"][nth]["spec"]["renewTime"].as_str();
        let time: Timestamp = text.context("no renewal")?.parse()?;
        Ok(time.as_millisecond())
    };
    Ok([of(0)?, of(1)?])
}

/// Waits until the node that is cut off has missed a renewal of its Lease, by those of another node.
fn misses_a_renewal(cx: &Context) -> Result<()> {
    eventually("it misses a renewal", || {
        let [own, others] = renewed(cx, [NODE, OTHER])?;
        ensure!(others - own >= BEHIND_MILLIS, "{own} and {others}");
        Ok(())
    })
}

/// What others do for a node that is cut off: a pod without an identity is started elsewhere; an
/// identity stays with the pod that has it, which goes on there. Gives the UIDs of both.
fn while_it_is_lost(cx: &Context, uid: &str) -> Result<BTreeSet<String>> {
    let old = cx.pods("app=any")?;
    let old = old.first().context("no pod")?;
    let old_uid = cx.field(&format!("pod {old}"), ".metadata.uid")?;
    wait_node(cx, "Unknown")?;
    cx.wait("pod/one-0", "jsonpath={.metadata.deletionTimestamp}")?;
    eventually("another pod serves in its place", || {
        let now = cx.pods("app=any")?;
        let new = now.iter().find(|n| *n != old).context("none")?;
        let on = cx.field(&format!("pod {new}"), ".spec.nodeName")?;
        ensure!(on != NODE, "on {on}");
        let ready = ".status.conditions[?(@.type==\"Ready\")].status";
        ensure!(cx.field(&format!("pod {new}"), ready)? == "True");
        Ok(())
    })?;
    names_resolve(cx, uid)?;
    let begin = Instant::now();
    while begin.elapsed() < long() {
        let all = cx.json("get pods -l app=one")?;
        let all = all["items"].as_array().context("no items")?;
        let ids: Vec<_> = all.iter().map(|p| p["metadata"]["uid"].as_str()).collect();
        ensure!(
            ids == [Some(uid)],
            "there are others of one identity: {ids:?}"
        );
        ensure!(processes(cx, uid)? > 0, "it does not run any more");
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok([uid.to_owned(), old_uid].into())
}

/// Nobody knows what a dead node does, until a person vouches that it does nothing.
pub fn a_node_out_of_service_gives_its_identities_up(cx: &Context) -> Result<()> {
    sets(cx)?;
    let uid = cx.field("pod one-0", ".metadata.uid")?;
    let on_node = |verb: &str| {
        let line = format!("node {verb} {NODE}");
        cx.cluster.tiphys_on_data(&line)?.ok()
    };
    on_node("kill")?;
    let given_up = vouch(cx, &uid);
    // The node is given back, whatever came of it.
    on_node("start")?;
    let untainted = cx.run(&format!("taint node {NODE} {OUT_OF_SERVICE}-"))?;
    given_up?;
    untainted.ok()?;
    wait_node(cx, "True")?;
    let old: BTreeSet<String> = [uid].into();
    eventually("nothing is left of the old one", || {
        let left = left(cx, NODE, &old)?;
        ensure!(left.is_empty(), "{}", left.join("\n"));
        Ok(())
    })
}

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

fn vouch(cx: &Context, uid: &str) -> Result<()> {
    cx.wait("pod/one-0", "jsonpath={.metadata.deletionTimestamp}")?;
    ensure!(cx.field("pod one-0", ".metadata.uid")? == uid);
    cx.kubectl(&format!(
        "taint node {NODE} {OUT_OF_SERVICE}=nodeshutdown:NoExecute"
    ))?;
    eventually("the identity is another pod's", || {
        ensure!(cx.field("pod one-0", ".metadata.uid")? != uid);
        Ok(())
    })?;
    cx.wait_ready("one-0")?;
    let on = cx.field("pod one-0", ".spec.nodeName")?;
    ensure!(on != NODE, "on {on}");
    Ok(())
}
