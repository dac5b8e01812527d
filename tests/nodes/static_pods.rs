//! Pods that a node runs because a file of its own says so: with and without an API server.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::STAY;

use crate::faults::left;

const NODE: &str = "node-1";
/// As the suite's `kubelet.yaml` says.
const FOLDER: &str = "/run/kubernetes/manifests";

fn manifest(cx: &Context, name: &str, line: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": cx.ns, "labels": { "app": name } },
        "spec": { "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": tests::BUSYBOX,
                "command": ["sh", "-c", line] }] } })
}

/// Writes a file as editors and tools do: beside its place, then moved.
fn put(cx: &Context, name: &str, pod: &Value) -> Result<()> {
    let text = pod.to_string().replace('\'', "'\\''");
    let line = format!(
        "mkdir -p {FOLDER} && printf %s '{text}' > {FOLDER}/.{name} && mv {FOLDER}/.{name} {FOLDER}/{name}.yaml"
    );
    cx.cluster.in_node(NODE, &line)?.ok().map(drop)
}

fn remove(cx: &Context, name: &str) -> Result<()> {
    let line = format!("rm {FOLDER}/{name}.yaml");
    cx.cluster.in_node(NODE, &line)?.ok().map(drop)
}

fn container(cx: &Context, pod: &str) -> Result<String> {
    let path = ".status.containerStatuses[0].containerID";
    cx.field(&format!("pod {pod}"), path)
}

/// The UID under which the node itself knows it.
fn own_uid(cx: &Context, pod: &str) -> Result<String> {
    let path = r".metadata.annotations.kubernetes\.io/config\.hash";
    cx.field(&format!("pod {pod}"), path)
}

/// Whether the node runs a shell with this word in its command line.
fn runs(cx: &Context, word: &str) -> Result<bool> {
    // In brackets, or the shell that asks is found, which has the word in its line, too.
    let (first, rest) = word.split_at(1);
    let line = format!("pgrep -f '[{first}]{rest}'");
    Ok(cx.cluster.in_node(NODE, &line)?.code == 0)
}

pub fn files_of_a_node_are_its_pods(cx: &Context) -> Result<()> {
    let outcome = from_file_to_end(cx);
    // The node is given back, whatever came of it.
    let line = format!("rm -rf {FOLDER}/web.yaml {FOLDER}/alone.yaml {FOLDER}/bad.yaml");
    cx.cluster.in_node(NODE, &line)?.ok()?;
    outcome
}

fn from_file_to_end(cx: &Context) -> Result<()> {
    let (web, mut all) = (format!("web-{NODE}"), BTreeSet::new());
    put(
        cx,
        "web",
        &manifest(cx, "web", &format!("echo first; {STAY}")),
    )?;
    eventually("its mirror is there", || {
        cx.field(&format!("pod {web}"), ".metadata.uid")
    })?;
    cx.wait_ready(&web)?;
    cx.wait_logs(&web, "first\n")?;
    ensure!(cx.sh(&web, "hostname")?.trim() == web);
    ensure!(cx.field(&format!("pod {web}"), ".metadata.ownerReferences[0].kind")? == "Node");
    all.insert(own_uid(cx, &web)?);

    // Who deletes the mirror gets it back, and the pod goes on.
    let (was, mirror) = (
        container(cx, &web)?,
        cx.field(&format!("pod {web}"), ".metadata.uid")?,
    );
    cx.kubectl(&format!("delete pod {web} --wait=false"))?;
    eventually("the mirror is back", || {
        ensure!(cx.field(&format!("pod {web}"), ".metadata.uid")? != mirror);
        Ok(())
    })?;
    cx.wait_ready(&web)?;
    ensure!(container(cx, &web)? == was);

    // What is not a static pod is said, and harms nothing.
    let mut bad = manifest(cx, "bad", STAY);
    bad["spec"]["serviceAccountName"] = "default".into();
    put(cx, "bad", &bad)?;

    without_a_server(cx)?;
    let alone = format!("alone-{NODE}");
    eventually("its mirror is there, too", || own_uid(cx, &alone))?;
    cx.wait_ready(&alone)?;
    all.insert(own_uid(cx, &alone)?);
    ensure!(container(cx, &web)? == was);
    ensure!(cx.run(&format!("get pod bad-{NODE}"))?.code != 0);

    // Another content is another pod of the same name.
    put(
        cx,
        "web",
        &manifest(cx, "web", &format!("echo second; {STAY}")),
    )?;
    cx.wait_logs(&web, "second\n")
        .context("the new content runs")?;
    // It may run before its mirror is there, and the other one's be shown until then.
    let third = eventually("its mirror is there", || {
        let uid = own_uid(cx, &web)?;
        ensure!(!uid.is_empty() && !all.contains(&uid), "{uid}");
        Ok(uid)
    })?;
    all.insert(third);
    cx.wait_ready(&web)?;

    remove(cx, "web")?;
    remove(cx, "alone")?;
    cx.wait(&format!("pod/{web}"), "delete")?;
    eventually("nothing is left of them", || {
        let left = left(cx, NODE, &all)?;
        ensure!(left.is_empty(), "{}", left.join("\n"));
        let pods = cx.json("get pods")?;
        ensure!(
            pods["items"].as_array().is_some_and(Vec::is_empty),
            "{pods}"
        );
        Ok(())
    })
}

/// While no server answers, an agent that starts again runs what is there, and what comes.
fn without_a_server(cx: &Context) -> Result<()> {
    let server = Pid::from_raw(cx.cluster.pid("server")?);
    let signal = |signal| server.map(|pid| kill_process(pid, signal)).transpose();
    signal(Signal::STOP)?;
    let word = format!("alone-{}", cx.ns);
    let line = format!("while true; do echo {word}; sleep 1; done");
    let started = put(cx, "alone", &manifest(cx, "alone", &line)).and_then(|()| {
        eventually("it runs", || {
            ensure!(runs(cx, &word)?, "not yet");
            Ok(())
        })
    });
    signal(Signal::CONT)?;
    started
}
