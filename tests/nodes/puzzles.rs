//! `tiphys why` on prepared puzzles: a manifest each, made with kubectl, and the one true cause that
//! the command must name, and `/tiphys/why` as well. Questions that make no sense get clear errors.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::{self, Ran, eventually};
use tests::context::{STAY, pod};

fn why(cx: &Context, words: &[&str]) -> Result<Ran> {
    let mut command = cx.cluster.tiphys(&["why"]);
    command
        .args(words)
        .args(["--namespace", &cx.ns, "--kubeconfig"])
        .arg(cx.cluster.kubeconfig());
    command::run(command, "")
}

/// A puzzle: what is made, what is asked, and what must be answered.
struct Puzzle {
    about: &'static str,
    objects: Vec<Value>,
    question: &'static str,
    cause: &'static str,
}

fn puzzle(
    about: &'static str,
    objects: Vec<Value>,
    question: &'static str,
    cause: &'static str,
) -> Puzzle {
    Puzzle {
        about,
        objects,
        question,
        cause,
    }
}

/// A pod that stays, with changes of its specification.
fn with(name: &str, spec: Value) -> Value {
    let mut pod = pod(name, STAY);
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn asks(name: &str, requests: Value) -> Value {
    let mut pod = pod(name, STAY);
    pod["spec"]["containers"][0]["resources"] = json!({ "requests": requests });
    pod
}

fn claim(name: &str, class: &str, more: Value) -> Value {
    let mut claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": name },
        "spec": { "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "5Gi" } } } });
    for (key, value) in more.as_object().into_iter().flatten() {
        claim["spec"][key] = value.clone();
    }
    claim
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": name }, "provisioner": provisioner, "volumeBindingMode": mode })
}

fn volume(name: &str, class: &str, size: &str, claim: Value, node: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
        "spec": { "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "capacity": { "storage": size }, "hostPath": { "path": "/tmp" },
            "claimRef": claim, "nodeAffinity": node } })
}

fn uses(name: &str, claim: &str) -> Value {
    with(
        name,
        json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }] }),
    )
}

fn port(name: &str) -> Value {
    let mut pod = pod(name, STAY);
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "node-1" });
    pod["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 18_080 }]);
    pod
}

fn service(name: &str, app: &str, target: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": app }, "ports": [{ "port": 80, "targetPort": target }] } })
}

fn deployment(name: &str, image: &str, more: Value) -> Value {
    let mut pod = pod(name, STAY);
    pod["spec"]["containers"][0]["image"] = image.into();
    pod["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    let labels = json!({ "deployment": name });
    let mut spec = json!({ "replicas": 1, "selector": { "matchLabels": labels },
        "template": { "metadata": { "labels": labels }, "spec": pod["spec"] } });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": spec })
}

/// One whose pods fit nowhere.
fn stateful_set(name: &str) -> Value {
    let pod = asks(name, json!({ "memory": "9Gi" }));
    let labels = json!({ "set": name });
    json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": { "replicas": 2, "serviceName": name, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod["spec"] } } })
}

fn suspended_job(name: &str) -> Value {
    let mut pod = pod(name, STAY);
    pod["spec"]["restartPolicy"] = "Never".into();
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "suspend": true, "template": { "spec": pod["spec"] } } })
}

fn suspended_cron_job(name: &str) -> Value {
    let job = suspended_job(name);
    json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": name },
        "spec": { "schedule": "0 2 * * *", "suspend": true,
            "jobTemplate": { "spec": { "template": job["spec"]["template"] } } } })
}

fn autoscaler(name: &str, of: &str) -> Value {
    json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": name },
        "spec": { "maxReplicas": 2, "scaleTargetRef": {
            "apiVersion": "apps/v1", "kind": "Deployment", "name": of } } })
}

fn about_nodes() -> Vec<Puzzle> {
    let apart = json!({ "affinity": { "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/os",
            "labelSelector": { "matchLabels": { "app": "loner" } } }] } } });
    let loner = pod("loner", STAY);
    let spread = json!({ "topologySpreadConstraints": [{ "maxSkew": 1,
        "topologyKey": "example.com/rack", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "spread" } } }] });
    vec![
        puzzle(
            "more memory than any node has",
            vec![asks("big", json!({ "memory": "9Gi" }))],
            "pod/big",
            "NodeResourcesFit refuses 3 of 3 (Insufficient memory)",
        ),
        puzzle(
            "more CPU than any node has",
            vec![asks("busy", json!({ "cpu": "9" }))],
            "pod/busy",
            "NodeResourcesFit refuses 3 of 3 (Insufficient cpu)",
        ),
        puzzle(
            "a label that no node has",
            vec![with("picky", json!({ "nodeSelector": { "disk": "ssd" } }))],
            "pod/picky",
            "NodeAffinity refuses 3 of 3 (node(s) didn't match Pod's node affinity/selector)",
        ),
        puzzle(
            "a port that is taken",
            vec![port("first"), port("late")],
            "pod/late",
            "NodePorts refuses 1 of 3 (node(s) didn't have free ports",
        ),
        puzzle(
            "a key to spread over that no node has",
            vec![with("spread", spread)],
            "pod/spread",
            "PodTopologySpread refuses 3 of 3 (node(s) didn't match pod topology spread \
             constraints (missing required label))",
        ),
        puzzle(
            "a pod that must not be near",
            vec![loner, with("apart", apart)],
            "pod/apart",
            "InterPodAffinity refuses 3 of 3 (node(s) didn't match pod anti-affinity rules)",
        ),
        puzzle(
            "a gate",
            vec![with(
                "gated",
                json!({ "schedulingGates": [{ "name": "example.com/wait" }] }),
            )],
            "pod/gated",
            "SchedulingGates",
        ),
        puzzle(
            "another scheduler",
            vec![with("foreign", json!({ "schedulerName": "gang" }))],
            "pod/foreign",
            "it is for scheduler \"gang\", which is not this one",
        ),
    ]
}

fn about_storage(ns: &str) -> Vec<Puzzle> {
    let name = |part: &str| format!("{ns}-{part}");
    let gone = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
        "key": "kubernetes.io/hostname", "operator": "In", "values": ["gone"] }] }] } });
    let owner = json!({ "namespace": ns, "name": "far" });
    vec![
        puzzle(
            "a claim that is missing",
            vec![uses("claimless", "nothing")],
            "pod/claimless",
            "persistentvolumeclaim \"nothing\" not found",
        ),
        puzzle(
            "a volume on a node that is gone",
            vec![
                volume(&name("far"), "by-hand", "9Gi", owner, gone),
                claim("far", "by-hand", json!({ "volumeName": name("far") })),
                uses("traveller", "far"),
            ],
            "pod/traveller",
            "VolumeBinding refuses 3 of 3 (node(s) didn't match PersistentVolume's node affinity)",
        ),
        puzzle(
            "a driver that is not installed",
            vec![
                class(&name("driverless"), "csi.example", "Immediate"),
                claim("driverless", &name("driverless"), json!({})),
                uses("waiter", "driverless"),
            ],
            "pod/waiter",
            "there is no CSI driver csi.example",
        ),
        puzzle(
            "a class that does not exist",
            vec![claim("classless", "no-such-class", json!({}))],
            "pvc/classless",
            "its storage class \"no-such-class\" does not exist",
        ),
        puzzle(
            "a volume that is too small",
            vec![
                class(&name("small"), "kubernetes.io/no-provisioner", "Immediate"),
                volume(
                    &name("small"),
                    &name("small"),
                    "1Gi",
                    Value::Null,
                    Value::Null,
                ),
                claim("small", &name("small"), json!({})),
            ],
            "pvc/small",
            "it has 1Gi of 5Gi",
        ),
        puzzle(
            "a claim that waits for its first pod",
            vec![
                class(&name("late"), "csi.example", "WaitForFirstConsumer"),
                claim("patient", &name("late"), json!({})),
            ],
            "pvc/patient",
            "waits for the first pod that uses it",
        ),
    ]
}

fn about_workloads() -> Vec<Puzzle> {
    let mut unready = pod("unready", STAY);
    unready["spec"]["containers"][0]["readinessProbe"] =
        json!({ "exec": { "command": ["false"] } });
    let mut named = pod("named", STAY);
    named["spec"]["containers"][0]["ports"] = json!([{ "name": "web", "containerPort": 80 }]);
    let missing = deployment("imageless", "tiphys.local/none:1", json!({}));
    let mut refused = stateful_set("robotless");
    refused["spec"]["template"]["spec"]["serviceAccountName"] = "nobody".into();
    vec![
        puzzle(
            "pods that are refused",
            vec![refused],
            "statefulset/robotless",
            "pod robotless-0 has not been made yet",
        ),
        puzzle(
            "an account that does not exist, as the events say",
            vec![],
            "statefulset/robotless",
            "serviceaccount \"nobody\" not found",
        ),
        puzzle(
            "a CronJob that is suspended",
            vec![suspended_cron_job("nightly")],
            "cronjob/nightly",
            "it is suspended",
        ),
        puzzle(
            "a budget that selects nothing",
            vec![
                json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                "metadata": { "name": "empty" },
                "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "nobody" } } } }),
            ],
            "pdb/empty",
            "it selects no pod",
        ),
        puzzle(
            "an image that is not there",
            vec![missing],
            "deployment/imageless",
            "container main: ErrImageNeverPull",
        ),
        puzzle(
            "a rollout that is paused",
            vec![deployment(
                "paused",
                tests::BUSYBOX,
                json!({ "paused": true }),
            )],
            "deployment/paused",
            "it is paused",
        ),
        puzzle(
            "no pod has a Service's labels",
            vec![service("lost", "nobody", json!(80))],
            "service/lost",
            "no pod has the labels app=nobody",
        ),
        puzzle(
            "no pod of a Service is ready",
            vec![unready, service("quiet", "unready", json!(80))],
            "service/quiet",
            "none of its 1 pods is ready; unready: container main runs and is not ready",
        ),
        puzzle(
            "a port's name that no pod has",
            vec![named, service("misnamed", "named", json!("http"))],
            "service/misnamed",
            "its target port \"http\" is the name of no port of its pods",
        ),
        puzzle(
            "a StatefulSet is held by its first pod",
            vec![stateful_set("tall")],
            "statefulset/tall",
            "0 of 2 pods are ready; pod",
        ),
        puzzle(
            "a Job that is suspended",
            vec![suspended_job("later")],
            "job/later",
            "it is suspended",
        ),
        puzzle(
            "an autoscaler of what is not there",
            vec![autoscaler("of-nothing", "nothing")],
            "hpa/of-nothing",
            "it cannot scale Deployment nothing: FailedGetScale",
        ),
    ]
}

fn is_solved(cx: &Context, puzzle: &Puzzle) -> Result<()> {
    for object in &puzzle.objects {
        cx.apply_json(object)?;
    }
    eventually(puzzle.about, || {
        let told = why(cx, &[puzzle.question])?.ok()?;
        let first = told.lines().next().unwrap_or_default();
        let any = |text: &str| puzzle.cause.split('|').any(|c| text.contains(c));
        ensure!(any(first), "{told}");
        // The same over the API, with kubectl.
        let path = format!(
            "get --raw '/tiphys/why?of={}&namespace={}'",
            puzzle.question, cx.ns
        );
        let over: Value = serde_json::from_str(&cx.kubectl(&path)?)?;
        ensure!(any(over["cause"].as_str().context("no cause")?), "{over}");
        Ok(())
    })
}

pub fn why_names_the_one_true_cause(cx: &Context) -> Result<()> {
    solved(cx)?;
    cleared(cx)
}

/// A namespace that does not go, and suppositions about a pod that fits nowhere.
pub fn why_says_what_stays_and_what_would_be(cx: &Context) -> Result<()> {
    let big = about_nodes().into_iter().find(|p| p.question == "pod/big");
    is_solved(cx, &big.context("no such puzzle")?)?;
    a_namespace_that_stays(cx)?;
    suppositions_are_tried(cx)?;
    cx.kubectl("delete pod big --now").map(drop)
}

fn solved(cx: &Context) -> Result<()> {
    let puzzles = about_nodes().into_iter();
    let puzzles = puzzles
        .chain(about_storage(&cx.ns))
        .chain(about_workloads());
    for puzzle in puzzles {
        is_solved(cx, &puzzle)?;
    }
    nodes_that_take_nothing(cx)
}

fn cleared(cx: &Context) -> Result<()> {
    cx.kubectl("delete statefulset,job,cronjob,hpa,pdb --all --wait=false")?;
    cx.kubectl("delete pod --all --now --wait=false")?;
    let ns = &cx.ns;
    let of = |kind: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| format!("{ns}-{n}")).collect();
        cx.kubectl(&format!("delete {kind} {}", names.join(" ")))
    };
    cx.kubectl("delete pvc --all --wait=false")?;
    of("pv", &["far", "small"])?;
    of("storageclass", &["driverless", "small", "late"]).map(drop)
}

/// Nodes that are closed, and then tainted.
fn nodes_that_take_nothing(cx: &Context) -> Result<()> {
    let told =
        |cause: &'static str| puzzle(cause, vec![pod("homeless", STAY)], "pod/homeless", cause);
    cx.kubectl("cordon node-1 node-2 node-3")?;
    let closed = is_solved(
        cx,
        &told("NodeUnschedulable refuses 3 of 3 (node(s) were unschedulable)"),
    );
    // The taint is there before the nodes are open, so that the pod stays what it is.
    cx.kubectl("taint node --all example.com/why=yes:NoSchedule")?;
    cx.kubectl("uncordon node-1 node-2 node-3")?;
    let tainted = closed.and_then(|()| {
        is_solved(
            cx,
            &told("TaintToleration refuses 3 of 3 (node(s) had untolerated taint(s))"),
        )
    });
    cx.kubectl("taint node --all example.com/why-")?;
    tainted?;
    cx.wait_ready("homeless")
}

/// A namespace that somebody's finalizer holds.
fn a_namespace_that_stays(cx: &Context) -> Result<()> {
    let other = format!("{}-held", cx.ns);
    cx.kubectl(&format!("create namespace {other}"))?;
    let keeper = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "keeper", "finalizers": ["example.com/keep"] } });
    cx.run_with(
        &format!("create --namespace={other} -f -"),
        &keeper.to_string(),
    )?
    .ok()?;
    cx.kubectl(&format!("delete namespace {other} --wait=false"))?;
    eventually("the finalizer is named, and whose it is", || {
        let told = why(cx, &[&format!("namespace/{other}")])?.ok()?;
        ensure!(told.contains("finalizers hold what is in it"), "{told}");
        ensure!(
            told.contains("which set example.com/keep on configmap keeper must remove it"),
            "{told}"
        );
        Ok(())
    })?;
    let patch = "--type=merge -p '{\"metadata\":{\"finalizers\":null}}'";
    cx.kubectl(&format!("patch configmap keeper -n {other} {patch}"))?;
    cx.wait(&format!("namespace/{other}"), "delete")
}

/// What a change would do is tried on a copy.
fn suppositions_are_tried(cx: &Context) -> Result<()> {
    let more = why(cx, &["pod/big", "--if", "node/node-2+memory=8Gi"])?.ok()?;
    ensure!(
        more.contains("it fits on 1 of 3 nodes, best on node-2"),
        "{more}"
    );
    let scaled = deployment("scaled", tests::BUSYBOX, json!({}));
    cx.apply_json(&scaled)?;
    cx.wait_rollout("deployment/scaled")?;
    let many = why(cx, &["--if", "scale/deploy/scaled=3"])?.ok()?;
    ensure!(many.contains("2 of 2 pods would get a node"), "{many}");
    let node = cx.json("get pod -l deployment=scaled")?["items"][0]["spec"]["nodeName"].clone();
    let node = node.as_str().context("no node")?;
    let drained = why(cx, &["--if", &format!("drain/{node}")])?.ok()?;
    ensure!(drained.contains("pods would get a node"), "{drained}");
    ensure!(!drained.contains(&format!("on node {node}")), "{drained}");
    // Nothing of it has happened.
    let now = cx.field("deployment scaled", ".spec.replicas")?;
    let open = cx.field(&format!("node {node}"), ".spec.unschedulable")?;
    ensure!(now == "1" && open.is_empty(), "{now} {open}");
    cx.kubectl("delete deployment scaled").map(drop)
}

pub fn why_says_what_is_wrong_with_a_question(cx: &Context) -> Result<()> {
    for (words, told) in [
        (&["web"][..], "cannot be asked about: ask pod/NAME"),
        (&["secret/a"], "cannot be asked about: ask pod/NAME"),
        (&["pod/none"], "not found"),
        (&["node/none"], "node none not found"),
        (&["sts/none"], "statefulset"),
        (&["deployment/none"], "not found"),
        (&["--if", "node/none+memory=1Gi"], "node none not found"),
        (
            &["--if", "node/node-1+memory=lots"],
            "cannot be supposed: suppose node/NAME",
        ),
        (&[], "name what is asked about"),
    ] {
        let complained = why(cx, words)?.failed()?;
        ensure!(complained.contains(told), "{words:?}: {complained}");
    }
    let over = cx.refused(&format!(
        "get --raw '/tiphys/why?of=web&namespace={}'",
        cx.ns
    ))?;
    ensure!(over.contains("ask pod/NAME"), "{over}");
    let over = cx.refused(&format!(
        "get --raw '/tiphys/why?of=pod/none&namespace={}'",
        cx.ns
    ))?;
    ensure!(over.contains("not found"), "{over}");
    Ok(())
}
