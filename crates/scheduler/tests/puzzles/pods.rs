//! Twenty puzzles: a manifest each, a question, and the one true cause.

use scheduler::why::{Question, State, answer};
use serde_json::{Value, json};

use crate::asking::{self, ask, puzzle};

#[test]
fn without_its_rules_nothing_is_answered() {
    let state = State::read([node("a"), pod("p", json!({}))]).expect("a manifest");
    let question: Question = "pod/p".parse().expect("a question");
    let none = || Err("no such file".to_owned());
    let told = answer(&state, "d", Some(&question), &[], &none).expect_err("no rules");
    assert_eq!(
        told.to_string(),
        "the scheduler's configuration cannot be read: no such file"
    );
}

fn node(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name, "labels": {
               "kubernetes.io/hostname": name, "zone": "z"}},
           "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})
}

fn node_with(name: &str, spec: Value) -> Value {
    let mut node = node(name);
    node["spec"] = spec;
    node
}

fn pod(name: &str, spec: Value) -> Value {
    asking::pod(name, json!({"labels": {"app": name}}), spec)
}

fn asks(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]})
}

fn on(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeName"] = json!(node);
    pod["status"]["phase"] = json!("Running");
    pod
}

fn ready(mut pod: Value) -> Value {
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    pod
}

fn claim(name: &str, class: &str) -> Value {
    json!({"kind": "PersistentVolumeClaim",
           "metadata": {"name": name, "namespace": "d", "uid": name},
           "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "5Gi"}}},
           "status": {"phase": "Pending"}})
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner,
           "volumeBindingMode": mode})
}

fn volume(name: &str, class: &str, size: &str) -> Value {
    json!({"kind": "PersistentVolume", "metadata": {"name": name},
           "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                    "capacity": {"storage": size}},
           "status": {"phase": "Available"}})
}

fn uses(claim: &str) -> Value {
    json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]})
}

fn service(selector: Value, target: Value) -> Value {
    json!({"kind": "Service", "metadata": {"name": "s", "namespace": "d"},
           "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": target}]}})
}

fn deployment(replicas: i32) -> Vec<Value> {
    let owner = |kind: &str, uid: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": uid, "uid": uid, "controller": true}]);
    let selector = json!({"matchLabels": {"app": "web"}});
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": asks(json!({"cpu": "2"}))});
    let mut out = vec![
        json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "d", "uid": "web"},
               "spec": {"replicas": replicas, "selector": selector, "template": template}}),
        json!({"kind": "ReplicaSet", "metadata": {"name": "web-1", "namespace": "d",
                   "uid": "web-1", "ownerReferences": owner("Deployment", "web")},
               "spec": {"selector": selector, "template": template}}),
    ];
    for i in 0..replicas {
        let mut pod = pod(&format!("web-1-{i}"), asks(json!({"cpu": "2"})));
        pod["metadata"]["labels"] = json!({"app": "web"});
        pod["metadata"]["ownerReferences"] = owner("ReplicaSet", "web-1");
        out.push(pod);
    }
    out
}

#[test]
fn p01_too_little_memory() {
    puzzle(
        vec![node("a"), pod("p", asks(json!({"memory": "9Gi"})))],
        "pod/p",
        "NodeResourcesFit refuses 1 of 1 (Insufficient memory)",
        "on node a: 1Gi more memory",
    );
}

#[test]
fn p02_the_room_is_taken() {
    let big = on(pod("big", asks(json!({"cpu": "3"}))), "a");
    puzzle(
        vec![node("a"), big, pod("p", asks(json!({"cpu": "1500m"})))],
        "pod/p",
        "Insufficient cpu",
        "500m more cpu",
    );
}

#[test]
fn p03_a_taint() {
    let tainted = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]});
    puzzle(
        vec![node_with("a", tainted), pod("p", json!({}))],
        "pod/p",
        "TaintToleration",
        "tolerate the taint gpu=yes:NoSchedule",
    );
}

#[test]
fn p04_a_closed_node() {
    puzzle(
        vec![
            node_with("a", json!({"unschedulable": true})),
            pod("p", json!({})),
        ],
        "pod/p",
        "NodeUnschedulable",
        "uncordon it",
    );
}

#[test]
fn p05_a_selector_that_no_node_has() {
    puzzle(
        vec![
            node("a"),
            pod("p", json!({"nodeSelector": {"disk": "ssd"}})),
        ],
        "pod/p",
        "NodeAffinity",
        "label it disk=ssd",
    );
}

#[test]
fn p06_a_port_that_is_taken() {
    let port =
        json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    puzzle(
        vec![
            node("a"),
            on(pod("first", port.clone()), "a"),
            pod("p", port),
        ],
        "pod/p",
        "NodePorts",
        "port 80/TCP is pod d/first's",
    );
}

#[test]
fn p07_uneven_spreading() {
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "p"}}}]});
    let mut other = on(pod("other", json!({})), "a");
    other["metadata"]["labels"] = json!({"app": "p"});
    puzzle(
        vec![
            node("a"),
            node_with("b", json!({"unschedulable": true})),
            other,
            pod("p", spread),
        ],
        "pod/p",
        "PodTopologySpread",
        "uncordon it",
    );
}

#[test]
fn p08_a_pod_that_must_not_be_near() {
    let apart = json!({"affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone",
            "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    puzzle(
        vec![
            node("a"),
            node("b"),
            on(pod("db", json!({})), "a"),
            pod("p", apart),
        ],
        "pod/p",
        "InterPodAffinity refuses 2 of 2",
        "without pod d/db in zone=z",
    );
}

#[test]
fn p09_scheduling_gates() {
    puzzle(
        vec![
            node("a"),
            pod(
                "p",
                json!({"schedulingGates": [{"name": "x.example/wait"}]}),
            ),
        ],
        "pod/p",
        "SchedulingGates",
        "remove the scheduling gates x.example/wait",
    );
}

#[test]
fn p10_another_scheduler() {
    puzzle(
        vec![node("a"), pod("p", json!({"schedulerName": "gang"}))],
        "pod/p",
        "it is for scheduler \"gang\"",
        "run a scheduler of that name",
    );
}

#[test]
fn p11_a_claim_that_is_missing() {
    puzzle(
        vec![node("a"), pod("p", uses("data"))],
        "pod/p",
        "persistentvolumeclaim \"data\" not found",
        "a claim d/data is created",
    );
}

#[test]
fn p12_a_volume_on_another_node() {
    let mut there = volume("v", "x", "9Gi");
    there["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
            "values": ["gone"]}]}]}});
    let mut bound = claim("data", "x");
    bound["spec"]["volumeName"] = json!("v");
    bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    puzzle(
        vec![node("a"), there, bound, pod("p", uses("data"))],
        "pod/p",
        "VolumeBinding refuses 1 of 1 (node(s) didn't match PersistentVolume's node affinity)",
        "VolumeBinding",
    );
}

#[test]
fn p13_a_class_that_nobody_serves() {
    puzzle(
        vec![
            node("a"),
            class("fast", "csi.example", "Immediate"),
            claim("data", "fast"),
            pod("p", uses("data")),
        ],
        "pod/p",
        "there is no CSI driver csi.example",
        "install csi.example",
    );
}

#[test]
fn p14_a_claim_of_no_class() {
    puzzle(
        vec![
            class("fast", "csi.example", "Immediate"),
            claim("data", "slow"),
        ],
        "pvc/data",
        "its storage class \"slow\" does not exist",
        "name one of: fast",
    );
}

#[test]
fn p15_a_volume_that_is_too_small() {
    puzzle(
        vec![
            class("local", "kubernetes.io/no-provisioner", "Immediate"),
            volume("v", "local", "1Gi"),
            claim("data", "local"),
        ],
        "pvc/data",
        "v: it has 1Gi of 5Gi",
        "",
    );
}

#[test]
fn p16_a_claim_that_waits_for_its_pod() {
    puzzle(
        vec![
            class("late", "csi.example", "WaitForFirstConsumer"),
            claim("data", "late"),
        ],
        "pvc/data",
        "waits for the first pod that uses it",
        "create a pod",
    );
}

#[test]
fn p17_a_deployment_whose_image_is_missing() {
    let mut all = deployment(1);
    let last = all.last_mut().expect("a pod");
    last["spec"]["nodeName"] = json!("a");
    last["status"] = json!({"phase": "Pending", "containerStatuses": [{"name": "c",
        "ready": false, "restartCount": 0, "image": "i", "imageID": "",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]});
    all.push(node("a"));
    puzzle(
        all,
        "deployment/web",
        "container c: ImagePullBackOff: no such image",
        "",
    );
}

#[test]
fn p18_a_namespace_that_a_finalizer_holds() {
    let mut held = on(pod("p", json!({})), "a");
    held["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    held["metadata"]["finalizers"] = json!(["x.example/keep"]);
    let message = "Some content in the namespace has finalizers remaining: x.example/keep in 1 \
                   resource instances";
    puzzle(
        vec![
            held,
            json!({"kind": "Namespace",
                "metadata": {"name": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"phase": "Terminating", "conditions": [
                    {"type": "NamespaceContentRemaining", "status": "True", "message": "1 pods"},
                    {"type": "NamespaceFinalizersRemaining", "status": "True",
                     "message": message}]}}),
        ],
        "namespace/d",
        "finalizers hold what is in it",
        "whoever set x.example/keep on pod p must remove it",
    );
}

#[test]
fn whose_finalizer_it_is_is_read_from_the_managed_fields() {
    let owns = |manager: &str, finalizer: &str| {
        let set = json!({format!("v:\"{finalizer}\""): {}});
        json!({"manager": manager, "operation": "Update", "fieldsType": "FieldsV1",
               "fieldsV1": {"f:metadata": {"f:finalizers": set}}})
    };
    let held = json!({"kind": "Widget", "metadata": {"name": "w", "namespace": "d",
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["x.example/keep", "y.example/keep"],
        "managedFields": [owns("kubectl", "z"), owns("widget-operator", "x.example/keep")]}});
    puzzle(
        vec![
            held,
            json!({"kind": "Namespace",
                "metadata": {"name": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"phase": "Terminating", "conditions": [
                    {"type": "NamespaceFinalizersRemaining", "status": "True", "message": "m"}]}}),
        ],
        "namespace/d",
        "finalizers hold what is in it",
        "widget-operator, which set x.example/keep, and whoever set y.example/keep on widget w \
         must remove it",
    );
}

#[test]
fn p19_a_service_whose_selector_is_off() {
    puzzle(
        vec![
            service(json!({"app": "web"}), json!(80)),
            ready(on(pod("wep", json!({})), "a")),
        ],
        "service/s",
        "no pod has the labels app=web",
        "nearest is pod wep: app=wep is not app=web",
    );
}

#[test]
fn p20_a_service_whose_port_has_no_name() {
    let ports = json!({"containers": [{"name": "c", "ports": [
        {"name": "web", "containerPort": 80}]}]});
    puzzle(
        vec![
            service(json!({"app": "p"}), json!("http")),
            ready(on(pod("p", ports), "a")),
            // As the controller writes it: with the pod, and without a port.
            json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": { "name": "s-1", "namespace": "d",
                    "labels": { "kubernetes.io/service-name": "s" } },
                "addressType": "IPv4", "ports": [],
                "endpoints": [{ "addresses": ["10.0.0.9"], "conditions": { "ready": true } }] }),
        ],
        "service/s",
        "its target port \"http\" is the name of no port of its pods",
        "name a container's port \"http\"",
    );
}

#[test]
fn suppositions_are_tried_on_a_copy() {
    let objects = || vec![node("a"), pod("p", asks(json!({"memory": "9Gi"})))];
    let with = ask(&objects(), "pod/p", &["node/a+memory=2Gi"]).expect("an answer");
    assert!(with.cause.contains("it fits on 1 of 1 nodes"), "{with}");
    let short = ask(&objects(), "pod/p", &["node/a+memory=500Mi"]).expect("an answer");
    assert!(short.cause.contains("no node fits"), "{short}");
    let missing = ask(&objects(), "pod/p", &["drain/b"]).expect_err("no such node");
    assert_eq!(missing.to_string(), "node b not found");
}

#[test]
fn a_drain_and_a_scale_say_what_would_happen() {
    let mut objects = deployment(2);
    objects.extend([node("a"), node("b")]);
    for (pod, node) in objects
        .iter_mut()
        .filter(|o| o["kind"] == "Pod")
        .zip(["a", "b"])
    {
        *pod = ready(on(pod.clone(), node));
    }
    let scaled = ask(&objects, "", &["scale/deploy/web=5"]).expect("an answer");
    assert_eq!(
        scaled.cause, "2 of 3 pods would get a node, 1 would wait",
        "{scaled}"
    );
    let drained = ask(&objects, "", &["drain/a"]).expect("an answer");
    assert_eq!(
        drained.cause, "1 of 1 pods would get a node, 0 would wait",
        "{drained}"
    );
    assert!(
        drained.notes.contains(&"1 on node b".to_owned()),
        "{drained}"
    );
    let both = ask(&objects, "", &["drain/a", "scale/deploy/web=1"]).expect("an answer");
    assert_eq!(both.cause, "no pod would get another node", "{both}");
    let fine = ask(&objects, "deployment/web", &[]).expect("an answer");
    assert_eq!(fine.cause, "all 2 pods are ready");
}

#[test]
fn a_pod_of_a_gang_waits_for_the_others() {
    let group = json!({"kind": "PodGroup", "metadata": {"name": "g", "namespace": "d"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 3}}}});
    let member = |name: &str| pod(name, json!({"schedulingGroup": {"podGroupName": "g"}}));
    let mut objects = vec![node("a"), group, member("p"), on(member("q"), "a")];
    puzzle(
        objects.clone(),
        "pod/p",
        "GangScheduling: waiting for minCount pods from a gang",
        "",
    );
    objects.push(member("r"));
    puzzle(
        objects.clone(),
        "pod/p",
        "it waits until 1 more pods of its group have nodes",
        "",
    );
    objects.push(on(member("s"), "a"));
    puzzle(objects.clone(), "pod/p", "it waits for its turn", "");
    // Where the kind is not served, each goes by itself.
    objects.retain(|o| o["kind"] != "PodGroup");
    puzzle(objects, "pod/p", "it waits for its turn", "");
}

#[test]
fn what_is_not_there_is_not_explained() {
    for (question, error) in [
        ("pod/x", "pod d/x not found"),
        ("namespace/x", "namespace x not found"),
        ("deploy/x", "deployment d/x not found"),
    ] {
        let told = ask(&[node("a")], question, &[]).expect_err("nothing is there");
        assert_eq!(told.to_string(), error);
    }
}
