//! Puzzles of what makes pods, and of nodes: a manifest each, a question, and the one true cause.

use serde_json::{Value, json};

use crate::asking::{self, ask, node, notes, puzzle};

fn pod(name: &str, owner: (&str, &str), spec: Value) -> Value {
    let (kind, uid) = owner;
    let owner =
        json!({"apiVersion": "v1", "kind": kind, "name": uid, "uid": uid, "controller": true});
    asking::pod(name, json!({"ownerReferences": [owner]}), spec)
}

fn on(mut pod: Value, node: &str, ready: bool) -> Value {
    pod["spec"]["nodeName"] = json!(node);
    let is = if ready { "True" } else { "False" };
    pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": is}],
        "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "restartCount": 0,
            "ready": ready, "state": {"running": {}}}]});
    pod
}

fn asks(requests: &Value) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]})
}

fn workload(kind: &str, spec: Value, status: Value) -> Value {
    let mut object = json!({"kind": kind, "metadata": {"name": "w", "namespace": "d", "uid": "w"},
        "spec": {"selector": {"matchLabels": {"app": "w"}}, "serviceName": "w",
                 "template": {"metadata": {"labels": {"app": "w"}},
                              "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    if !status.is_null() {
        object["status"] = status;
    }
    object
}

const SET: (&str, &str) = ("StatefulSet", "w");

fn stateful(spec: Value) -> Value {
    workload("StatefulSet", spec, json!(null))
}

#[test]
fn a_stateful_set_is_held_by_its_lower_ordinal() {
    let objects = vec![
        node("a"),
        stateful(json!({"replicas": 4})),
        on(pod("w-0", SET, json!({})), "a", true),
        on(pod("w-1", SET, json!({})), "a", false),
    ];
    let answer = puzzle(
        objects,
        "sts/w",
        "1 of 4 pods are ready; pod d/w-1: it is on node a: container c runs and is not ready",
        "",
    );
    let note = "pods w-2 to w-3 wait for w-1: each comes when those before it are ready";
    assert!(answer.notes.contains(&note.to_owned()), "{answer}");
}

#[test]
fn a_stateful_set_waits_for_a_pod_that_has_no_node() {
    let objects = vec![
        node("a"),
        stateful(json!({"replicas": 2, "ordinals": {"start": 5}})),
        pod("w-5", SET, asks(&json!({"memory": "9Gi"}))),
    ];
    let answer = puzzle(
        objects,
        "statefulset/w",
        "0 of 2 pods are ready; pod d/w-5: no node fits: NodeResourcesFit refuses 1 of 1",
        "on node a: 1Gi more memory",
    );
    assert!(
        answer
            .notes
            .iter()
            .any(|n| n.contains("pod w-6 waits for w-5")),
        "{answer}"
    );
}

#[test]
fn pods_of_a_parallel_stateful_set_wait_for_nobody() {
    let objects = vec![
        node("a"),
        stateful(json!({"replicas": 3, "podManagementPolicy": "Parallel"})),
        on(pod("w-0", SET, json!({})), "a", true),
        pod("w-2", SET, asks(&json!({"cpu": "8"}))),
    ];
    let answer = puzzle(objects, "sts/w", "pod d/w-2: no node fits", "more cpu");
    assert!(!answer.notes.iter().any(|n| n.contains("wait")), "{answer}");
    let missing = vec![
        node("a"),
        stateful(json!({"replicas": 2, "podManagementPolicy": "Parallel"})),
        on(pod("w-0", SET, json!({})), "a", true),
    ];
    puzzle(missing, "sts/w", "pod w-1 has not been made yet", "");
}

#[test]
fn ready_pods_of_a_stateful_set_may_be_of_an_older_template() {
    let objects = |spec: Value, revision: &str| {
        let mut set = stateful(spec);
        set["status"] = json!({"replicas": 1, "updateRevision": "w-2"});
        let mut one = on(pod("w-0", SET, json!({})), "a", true);
        one["metadata"]["labels"] = json!({"controller-revision-hash": revision});
        vec![node("a"), set, one]
    };
    let plain = json!({"replicas": 1});
    puzzle(
        objects(plain.clone(), "w-2"),
        "sts/w",
        "all 1 pods are ready",
        "",
    );
    puzzle(
        objects(plain, "w-1"),
        "sts/w",
        "they are replaced one after another",
        "",
    );
    let by_hand = json!({"replicas": 1, "updateStrategy": {"type": "OnDelete"}});
    puzzle(
        objects(by_hand, "w-1"),
        "sts/w",
        "its update strategy is OnDelete",
        "delete w-0",
    );
    let kept = json!({"replicas": 1, "updateStrategy": {"rollingUpdate": {"partition": 1}}});
    puzzle(
        objects(kept, "w-1"),
        "sts/w",
        "pods below the partition 1 keep theirs",
        "lower updateStrategy.rollingUpdate.partition",
    );
}

const DAEMON: (&str, &str) = ("DaemonSet", "w");

/// As the controller makes it: for one node.
fn of_daemon(name: &str, node: &str, mut spec: Value) -> Value {
    spec["affinity"] = json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [node]}]}]}}});
    pod(name, DAEMON, spec)
}

#[test]
fn a_daemon_sets_pod_has_no_room_on_its_node() {
    let status = json!({"currentNumberScheduled": 2, "desiredNumberScheduled": 2,
        "numberMisscheduled": 0, "numberReady": 1});
    let objects = vec![
        node("a"),
        node("b"),
        workload("DaemonSet", json!({}), status),
        on(of_daemon("w-x", "a", json!({})), "a", true),
        of_daemon("w-y", "b", asks(&json!({"cpu": "6"}))),
    ];
    // What other nodes have against it says nothing.
    let cause = "1 of 2 pods are ready; pod d/w-y: no node fits: NodeResourcesFit refuses 1 of 1";
    let answer = puzzle(objects.clone(), "ds/w", cause, "on node b: 2 more cpu");
    assert_eq!(answer.nodes.len(), 1, "{answer}");
    puzzle(
        objects,
        "pod/w-y",
        "NodeResourcesFit refuses 1 of 1",
        "on node b",
    );
    let gone = vec![node("a"), of_daemon("w-z", "c", json!({}))];
    puzzle(gone, "pod/w-z", "it is for c alone, which is not there", "");
}

#[test]
fn a_daemon_set_that_no_node_is_to_have() {
    let mut tainted = node("a");
    tainted["spec"] = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]});
    let daemon = |spec: Value| workload("DaemonSet", spec, json!(null));
    puzzle(
        vec![tainted.clone(), daemon(json!({}))],
        "daemonset/w",
        "no node fits: TaintToleration refuses 1 of 1",
        "tolerate the taint gpu=yes:NoSchedule",
    );
    let mut selects = daemon(json!({}));
    selects["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    puzzle(
        vec![node("a"), node("b"), selects],
        "ds/w",
        "NodeAffinity refuses 2 of 2",
        "label it disk=ssd",
    );
    // Nodes that are not ready, or closed, get one nevertheless.
    let mut closed = node("a");
    closed["spec"] = json!({"unschedulable": true, "taints": [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]});
    puzzle(
        vec![closed, daemon(json!({}))],
        "ds/w",
        "0 of 1 pods are ready; the others have not been made yet",
        "",
    );
}

#[test]
fn a_job_at_its_back_off_limit() {
    let mut failed = pod("w-x", ("Job", "w"), json!({}));
    failed["status"] = json!({"phase": "Failed", "containerStatuses": [
        {"name": "c", "image": "i", "imageID": "", "restartCount": 0, "ready": false,
         "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]});
    let ended = json!({"failed": 7, "conditions": [{"type": "Failed", "status": "True",
        "reason": "BackoffLimitExceeded",
        "message": "Job has reached the specified backoff limit"}]});
    let answer = puzzle(
        vec![workload("Job", json!({}), ended), failed.clone()],
        "job/w",
        "it has failed: BackoffLimitExceeded: Job has reached the specified backoff limit",
        "mend what its pods fail on",
    );
    let note = "pod w-x failed: container c: Error, exit code 3".to_owned();
    assert!(answer.notes.contains(&note), "{answer}");
    // Before that, the next pod waits.
    let waits = workload("Job", json!({"completions": 2}), json!({"failed": 1}));
    let answer = puzzle(
        vec![waits, failed],
        "jobs/w",
        "0 of 2 completions are there; 1 pods have failed, of at most 6",
        "",
    );
    assert!(answer.notes.contains(&note), "{answer}");
}

#[test]
fn a_job_that_is_suspended_or_waits_for_room() {
    puzzle(
        vec![workload("Job", json!({"suspend": true}), json!(null))],
        "job/w",
        "it is suspended",
        "set spec.suspend to false",
    );
    puzzle(
        vec![workload(
            "Job",
            json!({"managedBy": "x.io/queue"}),
            json!(null),
        )],
        "job/w",
        "x.io/queue is to look after it",
        "run x.io/queue",
    );
    let job = workload("Job", json!({"completions": 1}), json!({"active": 1}));
    puzzle(
        vec![
            node("a"),
            job,
            pod("w-x", ("Job", "w"), asks(&json!({"cpu": "6"}))),
        ],
        "job/w",
        "0 of 1 completions are there; pod d/w-x: no node fits",
        "on node a: 2 more cpu",
    );
    let done = json!({"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]});
    puzzle(
        vec![workload("Job", json!({}), done)],
        "job/w",
        "it is complete",
        "",
    );
}

#[test]
fn a_node_that_is_not_ready_says_why() {
    let with = |status: &str, reason: &str, message: &str| {
        let mut one = node("a");
        one["status"]["conditions"] = json!([
            {"type": "Ready", "status": status, "reason": reason, "message": message},
            {"type": "DiskPressure", "status": "False", "reason": "KubeletHasNoDiskPressure"}]);
        one
    };
    puzzle(
        vec![with(
            "Unknown",
            "NodeStatusUnknown",
            "Kubelet stopped posting node status.",
        )],
        "node/a",
        "it is not heard from: NodeStatusUnknown: Kubelet stopped posting node status.",
        "start its agent",
    );
    puzzle(
        vec![with("False", "KubeletNotReady", "no network yet")],
        "node/a",
        "it is not ready: KubeletNotReady: no network yet",
        "",
    );
    let mut full = with("True", "KubeletReady", "");
    full["spec"] = json!({"unschedulable": true, "taints": [
        {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]});
    full["status"]["conditions"][1]["status"] = json!("True");
    full["status"]["conditions"][1]["reason"] = json!("KubeletHasDiskPressure");
    let answer = puzzle(
        vec![full],
        "no/a",
        "it is ready, and closed",
        "kubectl uncordon a",
    );
    for note in [
        "DiskPressure: KubeletHasDiskPressure",
        "pods must tolerate its taint node.kubernetes.io/disk-pressure:NoSchedule",
    ] {
        assert!(answer.notes.contains(&note.to_owned()), "{answer}");
    }
    puzzle(vec![node("a")], "nodes/a", "it is ready", "");
}

#[test]
fn an_autoscaler_without_figures() {
    let with = |conditions: Value| {
        vec![json!({"kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "w", "namespace": "d"},
            "spec": {"maxReplicas": 5, "scaleTargetRef": {
                "apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
            "status": {"currentReplicas": 2, "desiredReplicas": 3, "conditions": conditions}})]
    };
    let is = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message});
    let inactive = |reason: &str, message: &str| {
        with(json!([
            is("AbleToScale", "True", "SucceededGetScale", ""),
            is("ScalingActive", "False", reason, message)
        ]))
    };
    puzzle(
        inactive(
            "FailedGetResourceMetric",
            "the HPA was unable to compute the replica count: no metrics returned",
        ),
        "hpa/w",
        "it does not know how many pods Deployment web needs: FailedGetResourceMetric",
        "their use is measured",
    );
    puzzle(
        inactive(
            "FailedGetResourceMetric",
            "missing request for cpu in container c",
        ),
        "hpa/w",
        "missing request for cpu",
        "a request for what is measured",
    );
    puzzle(
        inactive("FailedGetPodsMetric", "unable to fetch"),
        "hpa/w",
        "FailedGetPodsMetric",
        "custom.metrics.k8s.io",
    );
    puzzle(
        inactive("ScalingDisabled", "scaling is disabled"),
        "hpa/w",
        "Deployment web is to have no pods",
        "scale Deployment web up by hand",
    );
    let unknown = is("AbleToScale", "False", "FailedGetScale", "not found");
    puzzle(
        with(json!([unknown])),
        "hpa/w",
        "it cannot scale Deployment web: FailedGetScale: not found",
        "create Deployment web",
    );
    let limited = is(
        "ScalingLimited",
        "True",
        "TooManyReplicas",
        "more than the maximum",
    );
    puzzle(
        with(json!([limited])),
        "horizontalpodautoscaler/w",
        "TooManyReplicas: more than the maximum",
        "raise maxReplicas",
    );
    let fine = is("ScalingLimited", "False", "DesiredWithinRange", "");
    puzzle(
        with(json!([fine])),
        "hpa/w",
        "Deployment web has 2 pods, and needs 3",
        "",
    );
    puzzle(with(json!([])), "hpa/w", "nobody has looked at it yet", "");
}

#[test]
fn each_workload_can_be_supposed_to_be_larger() {
    let template =
        json!({"metadata": {"labels": {"app": "w"}}, "spec": asks(&json!({"cpu": "2"}))});
    // Where a Deployment's pods come from.
    let mut newest = workload("ReplicaSet", json!({}), json!(null));
    newest["metadata"] = json!({"name": "w-1", "namespace": "d", "uid": "w-1", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "w", "uid": "w", "controller": true}]});
    for (kind, asked, selector) in [
        ("Deployment", "deploy", json!({"matchLabels": {"app": "w"}})),
        ("ReplicaSet", "rs", json!({"matchLabels": {"app": "w"}})),
        ("StatefulSet", "sts", json!({"matchLabels": {"app": "w"}})),
        ("ReplicationController", "rc", json!({"app": "w"})),
        ("Job", "job", json!({"matchLabels": {"app": "w"}})),
    ] {
        let spec = json!({"selector": selector, "template": template});
        let objects = [node("a"), workload(kind, spec, json!(null)), newest.clone()];
        let change = format!("scale/{asked}/w=3");
        let answer = ask(&objects, "", &[&change]).expect("an answer");
        let expected = "2 of 3 pods would get a node, 1 would wait";
        assert_eq!(answer.cause, expected, "{kind}: {answer}");
        let none = ask(&objects[..1], "", &[&change]).expect_err("there is none");
        let expected = format!("{} d/w not found", kind.to_lowercase());
        assert_eq!(none.to_string(), expected);
        // Up and down again.
        let less = format!("scale/{asked}/w=0");
        let answer = ask(&objects, "", &[&change, &less]).expect("an answer");
        assert_eq!(answer.cause, "no pod would get another node", "{kind}");
    }
}

#[test]
fn the_pods_of_a_stateful_set_come_and_go_by_their_numbers() {
    let two = asks(&json!({"cpu": "2"}));
    let set = stateful(json!({"replicas": 2,
        "template": {"metadata": {"labels": {"app": "w"}}, "spec": two},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
    let mut objects = vec![node("a"), node("b"), set];
    for (number, on_node) in [(0, "a"), (1, "b")] {
        let mut own = pod(&format!("w-{number}"), SET, two.clone());
        own["spec"]["volumes"] = json!([{"name": "data",
            "persistentVolumeClaim": {"claimName": format!("data-w-{number}")}}]);
        objects.push(on(own, on_node, true));
    }
    let larger = ask(&objects, "", &["scale/sts/w=6"]).expect("an answer");
    let expected = "2 of 4 pods would get a node, 2 would wait";
    assert_eq!(larger.cause, expected, "{larger}");
    notes(&larger, "pod d/w-4 would wait");
    notes(&larger, "pod d/w-5 would wait");
    notes(
        &larger,
        "the volumes of new pods of statefulset d/w are taken for made, wherever they go",
    );
    // A claim that an earlier pod left is the one that its next pod uses.
    objects.push(json!({"kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-w-2", "namespace": "d", "uid": "c"},
        "spec": {"storageClassName": "none", "accessModes": ["ReadWriteOnce"],
                 "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}}));
    let left = ask(&objects, "", &["scale/sts/w=4"]).expect("an answer");
    notes(&left, "pod d/w-2 would wait");
    let smaller = ["scale/statefulset/w=1"];
    let gone = ask(&objects, "pod/w-1", &smaller).expect_err("the last one goes");
    assert_eq!(gone.to_string(), "pod d/w-1 not found");
    ask(&objects, "pod/w-0", &smaller).expect("the first one stays");
}

#[test]
fn what_else_limits_the_pods_of_a_workload_is_said() {
    let job = |spec: Value, status: Value| [node("a"), workload("Job", spec, status)];
    for (objects, cause, said) in [
        (
            job(json!({"completions": 3}), json!({"succeeded": 2})),
            "1 of 1 pods would get a node, 0 would wait",
            "job d/w would have 1 pods, not 5: no more completions are left",
        ),
        (
            job(json!({"suspend": true}), json!(null)),
            "no pod would get another node",
            "job d/w would have 0 pods, not 5: it is suspended",
        ),
        (
            job(
                json!({}),
                json!({"conditions": [{"type": "Complete", "status": "True"}]}),
            ),
            "no pod would get another node",
            "job d/w would have 0 pods, not 5: it has ended",
        ),
    ] {
        let answer = ask(&objects, "", &["scale/jobs/w=5"]).expect("an answer");
        assert_eq!(answer.cause, cause, "{answer}");
        notes(&answer, said);
    }
    let mut set = workload("ReplicaSet", json!({}), json!(null));
    set["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment",
        "name": "web", "uid": "web", "controller": true}]);
    let answer = ask(&[node("a"), set], "", &["scale/rs/w=2"]).expect("an answer");
    notes(
        &answer,
        "deployment web sets how many pods replicaset d/w has, and may set it back",
    );
}
