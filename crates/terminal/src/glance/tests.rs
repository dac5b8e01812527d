//! What a glance finds, and how it is shown.

use expect_test::expect;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::style::Style;

fn read<K: DeserializeOwned>(all: Value) -> Read<K> {
    Ok(serde_json::from_value(all).expect("objects"))
}

/// A cluster with one node that is ready, and nothing on it.
fn calm() -> ClusterSnapshot {
    ClusterSnapshot {
        now: "2026-01-01T01:00:00Z".parse().expect("time"),
        server: "https://127.0.0.1:6443".to_owned(),
        version: "v1.36.0".to_owned(),
        failing: Ok(Vec::new()),
        usage: Ok([(
            "node-1".to_owned(),
            Use {
                cpu_millis: 250,
                memory_bytes: 1 << 30,
            },
        )]
        .into()),
        nodes: read(json!([node("node-1", "True", "")])),
        pods: Ok(Vec::new()),
        deployments: Ok(Vec::new()),
        stateful_sets: Ok(Vec::new()),
        daemon_sets: Ok(Vec::new()),
        jobs: Ok(Vec::new()),
        claims: Ok(Vec::new()),
        volumes: Ok(Vec::new()),
        classes: read(
            json!([{ "metadata": { "name": "local" }, "provisioner": "x",
            "volumeBindingMode": "WaitForFirstConsumer" }]),
        ),
        namespaces: Ok(Vec::new()),
        api_services: Ok(Vec::new()),
    }
}

fn node(name: &str, ready: &str, message: &str) -> Value {
    json!({ "metadata": { "name": name }, "status": {
        "allocatable": { "cpu": "4", "memory": "8Gi" },
        "conditions": [{ "type": "Ready", "status": ready, "message": message,
            "lastTransitionTime": "2026-01-01T00:57:00Z" }] } })
}

fn crashing(name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1",
                "uid": "u1", "controller": true }] },
        "spec": { "nodeName": "node-1", "containers": [{ "name": "main",
            "resources": { "requests": { "cpu": "500m", "memory": "1Gi" } } }] },
        "status": { "phase": "Running", "containerStatuses": [{ "name": "main", "image": "", "imageID": "",
            "ready": false, "restartCount": 7, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 1 } } }] } })
}

fn shown(seen: &ClusterSnapshot) -> String {
    render(&glance(seen), false, Some(78), Style::PLAIN).join("\n")
}

#[test]
fn a_calm_cluster_is_a_few_lines() {
    expect![[r#"
        Nothing is wrong.

        server     v1.36.0 https://127.0.0.1:6443
        nodes      1 of 1 ready
        pods       none
        workloads  0 of 0 available
        cpu        250m (6%) used, 0m (0%) requested of 4
        memory     1 GiB (12%) used, 0 B (0%) requested of 8 GiB"#]]
    .assert_eq(&shown(&calm()));
}

#[test]
fn what_is_wrong_comes_first_and_what_is_the_same_once() {
    let mut seen = calm();
    seen.nodes = read(json!([
        node("node-1", "True", ""),
        node("node-2", "Unknown", "Kubelet stopped posting node status."),
    ]));
    seen.pods = read(json!([
        crashing("web-1-a"),
        crashing("web-1-b"),
        crashing("web-1-c")
    ]));
    seen.deployments = read(json!([{ "metadata": { "name": "web", "namespace": "shop",
            "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "replicas": 4, "selector": {}, "template": {} },
        "status": { "availableReplicas": 1 } }]));
    seen.claims = read(json!([{ "metadata": { "name": "data", "namespace": "shop",
            "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "storageClassName": "none" }, "status": { "phase": "Pending" } }]));
    seen.jobs = Err("forbidden".to_owned());
    expect![[r#"
        3 things are wrong, 1 should be looked at:
          Not heard of  node/node-2
              for 3m: Kubelet stopped posting node status.
          CrashLoopBackOff  pod/web-1-a in shop and 2 like it
              container main keeps ending: exit code 1, after 7 restarts
              tiphys why pod/web-1-a -n shop
          Pending  persistentvolumeclaim/data in shop
              it has no volume
              tiphys why pvc/data -n shop
          Not available  deployment/web in shop
              1 of 4 pods are available
              tiphys why deployment/web -n shop

        server     v1.36.0 https://127.0.0.1:6443
        nodes      1 of 2 ready
        pods       3 running
        workloads  0 of 1 available
        claims     0 of 1 bound
        cpu        250m (3%) used, 1.5 (18%) requested of 8
        memory     1 GiB (6%) used, 3 GiB (18%) requested of 16 GiB
        jobs could not be read: forbidden"#]]
    .assert_eq(&shown(&seen));
}

#[test]
fn a_claim_whose_class_waits_for_a_pod_is_no_trouble_until_there_is_one() {
    let mut seen = calm();
    seen.claims = read(json!([{ "metadata": { "name": "data", "namespace": "shop",
            "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "storageClassName": "local" }, "status": { "phase": "Pending" } }]));
    assert_eq!(glance(&seen).findings, []);
    seen.pods = read(json!([{ "metadata": { "name": "db", "namespace": "shop",
            "creationTimestamp": "2026-01-01T00:59:59Z" },
        "spec": { "containers": [], "volumes": [{ "name": "d",
            "persistentVolumeClaim": { "claimName": "data" } }] } }]));
    let found = glance(&seen).findings;
    assert_eq!(found.first().map(|f| f.reason.as_str()), Some("Pending"));
}

#[test]
fn what_could_not_be_read_is_not_called_well() {
    let mut seen = calm();
    seen.nodes = Err("you may not list nodes".to_owned());
    let text = shown(&seen);
    assert!(
        text.starts_with("Nothing is wrong in what may be read."),
        "{text}"
    );
    assert!(
        text.ends_with("nodes could not be read: you may not list nodes"),
        "{text}"
    );
}

#[test]
fn figures_that_cannot_be_read_are_not_left_out_in_silence() {
    let mut seen = calm();
    seen.usage = Err("no answer within 10 s".to_owned());
    seen.failing = Err("you may not get /readyz".to_owned());
    let text = shown(&seen);
    assert!(
        text.contains("Nothing is wrong in what may be read."),
        "{text}"
    );
    for line in [
        "usage of nodes could not be read: no answer within 10 s",
        "checks of the server could not be read: you may not get /readyz",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("used"), "{text}");
}

#[test]
fn short_nodes_failed_checks_and_lingering_namespaces_are_found() {
    let mut seen = calm();
    seen.failing = Ok(vec!["etcd".to_owned()]);
    seen.nodes = read(
        json!([{ "metadata": { "name": "n" }, "spec": { "unschedulable": true },
        "status": { "conditions": [{ "type": "Ready", "status": "True" },
            { "type": "DiskPressure", "status": "True", "message": "disk is full" }] } }]),
    );
    seen.namespaces = read(
        json!([{ "metadata": { "name": "old", "deletionTimestamp": "2026-01-01T00:30:00Z" },
        "status": { "conditions": [{ "type": "NamespaceContentRemaining", "status": "True",
            "message": "pods. has 1 resource instances" }] } }]),
    );
    seen.api_services = read(
        json!([{ "metadata": { "name": "v1.example.com" }, "status": { "conditions": [
        { "type": "Available", "status": "False", "reason": "MissingEndpoints", "message": "no endpoints" }] } }]),
    );
    let found = glance(&seen).findings;
    let short: Vec<_> = found
        .iter()
        .map(|f| format!("{} {}: {}", f.kind, f.reason, f.message))
        .collect();
    assert_eq!(
        short,
        [
            "api Not ready: its check etcd fails",
            "node DiskPressure: disk is full",
            "apiservice MissingEndpoints: no endpoints",
            "namespace Terminating: for 30m: pods. has 1 resource instances",
        ]
    );
}

#[test]
fn many_findings_are_cut_and_said_so() {
    let mut seen = calm();
    let nodes: Vec<Value> = (0..20)
        .map(|i| node(&format!("n{i}"), "False", "x"))
        .collect();
    seen.nodes = read(Value::Array(nodes));
    let text = shown(&seen);
    assert!(text.contains("  5 more: --all shows them"), "{text}");
}
