//! Hollow nodes: objects of nodes without machines, and what a kubelet would write of their pods.
//! Values alone: who writes them, and when, is [`super::play`].

use std::collections::BTreeMap;
use std::time::Duration;

use api::local_volumes::{CAPACITY, PATH};
use control::trimmed;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::file::Pool;
use super::form::Span;

/// What annotations begin with that are for the simulation.
const OURS: &str = "simulate.tiphys.io/";
/// On a pod that runs to its end: how long it runs.
pub const RUNS_FOR: &str = "simulate.tiphys.io/runs-for";
/// The label of a node with its architecture.
const ARCH: &str = "kubernetes.io/arch";
/// Where the pods of an object are described: of one that has none of these it is the object itself.
const TEMPLATES: [&str; 2] = ["/spec/jobTemplate/spec/template", "/spec/template"];
/// Room for pods on a captured node that says nothing of what it has: the kubelet's default.
const MOST_PODS: &str = "110";

/// Says of the pods of an object, or of each in a List, how long they run.
pub fn set_runs_for(object: &mut Value, time: Duration) {
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        for item in items {
            set_runs_for(item, time);
        }
        return;
    }
    let mut templates = TEMPLATES.into_iter();
    let template = templates.find(|place| object.pointer(place).is_some());
    let pod = object.pointer_mut(template.unwrap_or_default());
    let annotations = pod
        .and_then(|pod| member(pod, "metadata"))
        .and_then(|metadata| member(metadata, "annotations"))
        .and_then(Value::as_object_mut);
    // What is something else there the server refuses.
    if let Some(annotations) = annotations {
        annotations.insert(
            RUNS_FOR.to_owned(),
            format!("{}ms", time.as_millis()).into(),
        );
    }
}

/// A member of an object, which is made where it is missing; none of what is not an object.
fn member<'a>(of: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let member = of.as_object_mut()?.entry(name).or_insert(Value::Null);
    if member.is_null() {
        *member = json!({});
    }
    Some(member)
}

/// The node with this number of a pool.
pub fn node(pool: &Pool, number: usize, now: &str) -> Value {
    let name = format!("{}-{number}", pool.name);
    let mut labels = pool.labels.clone();
    let usual = [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        (ARCH, api::version::architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", api::version::architecture()),
        ("simulate.tiphys.io/pool", pool.name.as_str()),
    ];
    for (key, value) in usual {
        labels
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    if let Some(zone) = pool.zones.get(number % pool.zones.len().max(1)) {
        labels.insert("topology.kubernetes.io/zone".to_owned(), zone.clone());
    }
    let capacity: BTreeMap<&String, String> = pool
        .capacity
        .iter()
        .map(|(k, q)| (k, q.to_string()))
        .collect();
    let mut out = of(
        &name,
        &json!(labels),
        &json!(pool.taints),
        &json!(capacity),
        now,
    );
    // What a node has of a disk it offers to volumes, too.
    if let Some(disk) = pool.capacity.get("ephemeral-storage") {
        out["metadata"]["annotations"] = json!({ PATH: "/volumes", CAPACITY: disk.to_string() });
    }
    out
}

fn of(name: &str, labels: &Value, taints: &Value, room: &Value, now: &str) -> Value {
    let architecture = labels.get(ARCH).and_then(Value::as_str);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": labels },
        "spec": { "taints": taints },
        "status": {
            "capacity": room, "allocatable": room,
            "conditions": [ready(true, now)],
            "declaredFeatures": api::declared_features::OURS,
            "nodeInfo": {
                "architecture": architecture.unwrap_or(api::version::architecture()),
                "operatingSystem": "linux", "osImage": "simulated", "kernelVersion": "6",
                "kubeletVersion": api::version::KUBERNETES, "kubeProxyVersion": "",
                "containerRuntimeVersion": "simulated://1", "machineID": name,
                "systemUUID": name, "bootID": name,
            },
        },
    })
}

/// A node of another cluster, as far as it decides where pods go. What its controllers set is set
/// again.
pub fn captured(node: &Value, now: &str) -> Value {
    let name = node
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let taints = node.pointer("/spec/taints").and_then(Value::as_array);
    let kept: Vec<&Value> = taints
        .into_iter()
        .flatten()
        .filter(|t| {
            !t["key"]
                .as_str()
                .is_some_and(|k| k.starts_with("node.kubernetes.io/"))
        })
        .collect();
    let room = ["/status/allocatable", "/status/capacity"]
        .iter()
        .find_map(|at| node.pointer(at))
        .cloned()
        .unwrap_or_else(|| json!({ "cpu": "1", "memory": "1Gi", "pods": MOST_PODS }));
    let labels = node.pointer("/metadata/labels").unwrap_or(&Value::Null);
    let mut out = of(name, labels, &json!(kept), &room, now);
    for key in [PATH, CAPACITY] {
        let annotations = node.pointer("/metadata/annotations");
        if let Some(value) = annotations.and_then(|all| all.get(key)) {
            out["metadata"]["annotations"][key] = value.clone();
        }
    }
    // Closed nodes stay closed.
    if let Some(closed) = node.pointer("/spec/unschedulable") {
        out["spec"]["unschedulable"] = closed.clone();
    }
    out
}

fn ready(is: bool, now: &str) -> Value {
    let (status, reason, message) = if is {
        ("True", "KubeletReady", "the simulated node is ready")
    } else {
        // The words of the node controller.
        (
            "Unknown",
            "NodeStatusUnknown",
            "Kubelet stopped posting node status.",
        )
    };
    json!({ "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now })
}

/// The part of a node's status that says whether it is ready.
pub fn readiness(is: bool, now: &str) -> Value {
    json!({ "status": { "conditions": [ready(is, now)] } })
}

/// How long a pod runs; none of one that runs until it is stopped.
pub fn runs_for(pod: &Pod, usual: Duration) -> Option<Duration> {
    let always = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if always.is_none_or(|p| p == "Always") {
        return None;
    }
    let given = pod.annotations().get(RUNS_FOR);
    let read = given.and_then(|text| serde_json::from_value::<Span>(json!(text)).ok());
    Some(read.map_or(usual, |s| s.0))
}

/// What is wrong with a pod's annotations.
pub fn fault(pod: &Pod) -> Option<String> {
    let of = pod
        .metadata
        .generate_name
        .clone()
        .unwrap_or_else(|| pod.name_any());
    let mut keys = pod.annotations().keys();
    if let Some(unknown) = keys.find(|k| k.starts_with(OURS) && *k != RUNS_FOR) {
        return Some(format!(
            "{unknown} of {of}: has no effect, there is {RUNS_FOR} alone"
        ));
    }
    let given = pod.annotations().get(RUNS_FOR)?;
    if runs_for(pod, Duration::ZERO).is_none() {
        return Some(format!(
            "{RUNS_FOR} of {of}: has no effect, since its restartPolicy is Always"
        ));
    }
    let read = serde_json::from_value::<Span>(json!(given));
    read.err().map(|e| format!("{RUNS_FOR} of {of}: {e}"))
}

/// Where a pod has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Running,
    Succeeded,
    Failed,
}

/// What a kubelet would write of a pod.
pub fn status(pod: &Pod, phase: Phase, address: &str, now: &str) -> Value {
    let is_ready = phase == Phase::Running;
    let state = match phase {
        Phase::Running => json!({ "running": { "startedAt": now } }),
        Phase::Succeeded => json!({ "terminated": { "exitCode": 0, "reason": "Completed",
            "startedAt": now, "finishedAt": now } }),
        Phase::Failed => json!({ "terminated": { "exitCode": 143, "reason": "Error",
            "startedAt": now, "finishedAt": now } }),
    };
    let containers = |all: Option<&Vec<k8s_openapi::api::core::v1::Container>>, state: &Value| {
        let all = all.into_iter().flatten();
        let each = all.map(|c| {
            json!({ "name": c.name, "image": c.image, "imageID": "simulated", "restartCount": 0,
                "ready": is_ready, "started": is_ready, "state": state })
        });
        each.collect::<Vec<_>>()
    };
    let spec = pod.spec.as_ref();
    let conditions: Vec<Value> = [
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    ]
    .iter()
    .map(|kind| {
        let holds = is_ready || *kind == "Initialized";
        let reason = (phase == Phase::Succeeded && !holds).then_some("PodCompleted");
        json!({ "type": kind, "status": if holds { "True" } else { "False" },
                "reason": reason, "lastTransitionTime": now })
    })
    .collect();
    let name = match phase {
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    };
    let mut status = json!({
        "phase": name, "conditions": conditions,
        "podIP": address, "podIPs": [{ "ip": address }],
        "containerStatuses": containers(spec.map(|s| &s.containers), &state),
    });
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    if phase == Phase::Running && started.is_none() {
        status["startTime"] = json!(now);
    }
    json!({ "metadata": { "uid": pod.metadata.uid }, "status": status })
}

/// What is kept of the pods in the cache.
pub fn trim(pod: &mut Pod) {
    trimmed::pod(pod);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str, annotation: Option<&str>) -> Pod {
        let annotations = annotation.map(|a| json!({ RUNS_FOR: a }));
        let pod = json!({ "metadata": { "name": "p", "annotations": annotations },
            "spec": { "restartPolicy": policy, "containers": [{ "name": "c" }] } });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn pods_run_as_long_as_they_say() {
        let usual = Duration::from_secs(60);
        assert_eq!(runs_for(&pod("Always", None), usual), None);
        assert_eq!(runs_for(&pod("Never", None), usual), Some(usual));
        let said = pod("OnFailure", Some("1h"));
        assert_eq!(runs_for(&said, usual), Some(Duration::from_secs(3_600)));
        assert_eq!(fault(&said), None);
        let mut misspelt = pod("Never", None);
        let annotation = ("simulate.tiphys.io/run-for".to_owned(), "1h".to_owned());
        misspelt.annotations_mut().extend([annotation]);
        for bad in [
            pod("Always", Some("1h")),
            pod("Never", Some("soon")),
            misspelt,
        ] {
            assert!(fault(&bad).is_some());
        }
    }

    #[test]
    fn a_captured_node_keeps_what_decides_where_pods_go() {
        let whole = json!({ "metadata": { "name": "n", "labels": { "a": "b" }, "uid": "u" },
            "spec": { "providerID": "x", "unschedulable": true, "taints": [
                { "key": "dedicated", "effect": "NoSchedule" },
                { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute" } ] },
            "status": { "capacity": { "cpu": "4" }, "allocatable": { "cpu": "3" } } });
        let node = captured(&whole, "now");
        assert_eq!(
            node["metadata"],
            json!({ "name": "n", "labels": { "a": "b" } })
        );
        assert_eq!(
            node["spec"]["taints"],
            json!([{ "key": "dedicated", "effect": "NoSchedule" }])
        );
        assert_eq!(node["status"]["allocatable"], json!({ "cpu": "3" }));
        assert_eq!(node["spec"]["unschedulable"], true);
    }

    #[test]
    fn nodes_have_the_architecture_of_their_label_or_of_this_machine() {
        let of_node = |labels: Value| {
            let pool = json!({ "name": "p", "count": 1, "capacity": {}, "labels": labels });
            let node = node(&serde_json::from_value(pool).expect("a pool"), 0, "now");
            let text = |at: &str| node.pointer(at).and_then(Value::as_str).map(str::to_owned);
            let said = text("/status/nodeInfo/architecture");
            assert_eq!(text("/metadata/labels/kubernetes.io~1arch"), said);
            said
        };
        assert_eq!(
            of_node(json!({})).as_deref(),
            Some(api::version::architecture())
        );
        assert_eq!(of_node(json!({ ARCH: "s390x" })).as_deref(), Some("s390x"));
    }

    #[test]
    fn a_pod_that_is_reported_again_began_when_it_did() {
        let (first, later) = ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z");
        let started = |pod: &Pod| {
            status(pod, Phase::Running, "10.0.0.1", later)["status"]["startTime"].clone()
        };
        let mut new = pod("Always", None);
        assert_eq!(started(&new), later);
        new.status = serde_json::from_value(json!({ "startTime": first })).expect("a status");
        assert_eq!(started(&new), Value::Null, "it stays");
    }

    #[test]
    fn the_time_that_pods_run_is_written_where_they_are_described() {
        let place = "/metadata/annotations/simulate.tiphys.io~1runs-for";
        let cases = [
            (json!({ "kind": "Pod", "metadata": { "name": "p" } }), ""),
            (
                json!({ "spec": { "template": { "spec": {} } } }),
                TEMPLATES[1],
            ),
            (
                json!({ "spec": { "jobTemplate": { "spec": { "template": { "metadata": null } } } } }),
                TEMPLATES[0],
            ),
        ];
        for (mut object, template) in cases {
            set_runs_for(&mut object, Duration::from_millis(1_500));
            let written = object.pointer(&format!("{template}{place}"));
            assert_eq!(written, Some(&json!("1500ms")), "{object}");
        }
        let odd = json!({ "spec": { "template": { "metadata": "odd" } } });
        let mut object = odd.clone();
        set_runs_for(&mut object, Duration::ZERO);
        assert_eq!(object, odd);
    }
}
