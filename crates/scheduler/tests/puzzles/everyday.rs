//! Puzzles of everyday life: what most often keeps a cluster's users waiting, a manifest each, and the
//! one true cause, which only events, probes or another object may say.

use serde_json::{Value, json};

use crate::asking::{node, notes, puzzle};

/// Nobody hears of it any more.
fn silent(name: &str) -> Value {
    let mut node = node(name);
    node["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown",
        "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}]);
    node["spec"]["taints"] = json!([
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]);
    node
}

fn pod(name: &str) -> Value {
    json!({"kind": "Pod",
           "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": name}},
           "spec": {"schedulerName": "default-scheduler",
                    "containers": [{"name": "c", "image": "i"}]},
           "status": {"phase": "Pending"}})
}

/// It runs there, and is not ready.
fn unready(name: &str, node: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["nodeName"] = json!(node);
    pod["status"] = json!({"phase": "Running",
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
        "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "restartCount": 0,
            "ready": false, "started": true, "state": {"running": {}}}]});
    pod
}

fn warning(of: &str, reason: &str, message: &str, at: &str) -> Value {
    json!({"kind": "Event", "metadata": {"name": format!("{of}.{at}"), "namespace": "d"},
           "involvedObject": {"uid": of, "name": of, "namespace": "d"}, "type": "Warning",
           "reason": reason, "message": message, "lastTimestamp": at})
}

fn owned(kind: &str, mut pod: Value) -> Value {
    pod["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "apps/v1", "kind": kind, "name": "w", "uid": "w", "controller": true}]);
    pod
}

fn workload(kind: &str) -> Value {
    json!({"kind": kind, "metadata": {"name": "w", "namespace": "d", "uid": "w"},
        "spec": {"selector": {"matchLabels": {"app": "w"}}, "serviceName": "w", "replicas": 1,
                 "template": {"metadata": {"labels": {"app": "w"}},
                              "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[test]
fn a_probe_that_never_succeeds_is_named() {
    let mut ready = unready("p", "a");
    ready["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/healthz", "port": 8080}});
    let told = warning(
        "p",
        "Unhealthy",
        "Readiness probe failed: HTTP probe failed with statuscode: 500",
        "2026-01-01T00:00:00Z",
    );
    let answer = puzzle(
        vec![node("a"), ready.clone(), told],
        "pod/p",
        "container c runs and is not ready: its readiness probe (GET /healthz on port 8080) does \
         not succeed",
        "",
    );
    notes(
        &answer,
        "Unhealthy: Readiness probe failed: HTTP probe failed",
    );
    ready["spec"]["containers"][0]["startupProbe"] = json!({"tcpSocket": {"port": "web"}});
    ready["status"]["containerStatuses"][0]["started"] = json!(false);
    puzzle(
        vec![node("a"), ready],
        "pod/p",
        "its startup probe (a connection to port web) has not succeeded yet",
        "",
    );
}

#[test]
fn a_readiness_gate_that_nobody_opens() {
    let mut gated = unready("p", "a");
    gated["spec"]["readinessGates"] = json!([{"conditionType": "lb.example.com/registered"}]);
    gated["status"]["containerStatuses"][0]["ready"] = json!(true);
    puzzle(
        vec![node("a"), gated],
        "pod/p",
        "its readiness gate lb.example.com/registered is not True",
        "",
    );
}

#[test]
fn an_init_container_that_fails_or_does_not_end() {
    let mut waits = unready("p", "a");
    waits["spec"]["initContainers"] = json!([{"name": "migrate", "image": "i"}]);
    waits["status"]["phase"] = json!("Pending");
    waits["status"]["containerStatuses"][0]["state"] =
        json!({"waiting": {"reason": "PodInitializing"}});
    let with = |state: Value, last: Value| {
        let mut pod = waits.clone();
        pod["status"]["initContainerStatuses"] = json!([{"name": "migrate", "image": "i",
            "imageID": "", "restartCount": 4, "ready": false, "started": true,
            "state": state, "lastState": last}]);
        vec![node("a"), pod]
    };
    puzzle(
        with(
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}),
            json!({"terminated": {"exitCode": 2, "reason": "Error"}}),
        ),
        "pod/p",
        "container migrate: CrashLoopBackOff: back-off 40s; last: Error, exit code 2",
        "",
    );
    puzzle(
        with(json!({"running": {}}), json!({})),
        "pod/p",
        "init container migrate has not ended yet, the others wait",
        "",
    );
}

#[test]
fn what_a_node_could_not_do_is_read_from_events() {
    let mut creating = unready("p", "a");
    creating["status"] = json!({"phase": "Pending", "containerStatuses": [{"name": "c",
        "image": "i", "imageID": "", "restartCount": 0, "ready": false,
        "state": {"waiting": {"reason": "ContainerCreating"}}}]});
    let objects = vec![
        node("a"),
        creating,
        warning("p", "FailedScheduling", "0/1", "2026-01-01T00:00:00Z"),
        warning(
            "p",
            "FailedMount",
            "secret \"old\" not found",
            "2026-01-01T00:00:10Z",
        ),
        warning(
            "p",
            "FailedMount",
            "secret \"keys\" not found",
            "2026-01-01T00:01:00Z",
        ),
        warning("other", "FailedMount", "of another", "2026-01-01T00:02:00Z"),
    ];
    puzzle(
        objects,
        "pod/p",
        "it is on node a: FailedMount: secret \"keys\" not found",
        "",
    );
}

#[test]
fn a_node_that_is_dead_holds_its_pods() {
    let on_it = unready("p", "dead");
    puzzle(
        vec![node("a"), silent("dead"), on_it.clone()],
        "pod/p",
        "it is on node dead: it is not heard from: NodeStatusUnknown",
        "start its agent",
    );
    let mut leaves = on_it;
    leaves["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    puzzle(
        vec![silent("dead"), leaves],
        "pod/p",
        "it is being deleted, and its node dead cannot confirm its end: it is not heard from",
        "kubectl delete node dead",
    );
    // Nobody wins by tolerating that.
    puzzle(
        vec![silent("dead"), pod("q")],
        "pod/q",
        "TaintToleration refuses 1 of 1",
        "mend the node: node.kubernetes.io/unreachable:NoSchedule says how it is",
    );
}

#[test]
fn a_closed_node_needs_one_word() {
    let mut closed = node("a");
    closed["spec"] = json!({"unschedulable": true, "taints": [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]});
    let answer = puzzle(
        vec![closed, pod("p")],
        "pod/p",
        "NodeUnschedulable refuses 1 of 1",
        "",
    );
    assert_eq!(answer.change.as_deref(), Some("on node a: uncordon it"));
}

#[test]
fn a_pod_that_its_node_evicted_says_so() {
    let mut evicted = pod("p");
    evicted["spec"]["nodeName"] = json!("a");
    evicted["status"] = json!({"phase": "Failed", "reason": "Evicted",
        "message": "The node was low on resource: memory."});
    puzzle(
        vec![node("a"), evicted],
        "pod/p",
        "it has run to its end (Failed): Evicted: The node was low on resource: memory.",
        "",
    );
}

#[test]
fn a_volume_that_is_not_made() {
    let mut uses = pod("p");
    uses["spec"]["volumes"] =
        json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    let objects = vec![
        node("a"),
        uses,
        json!({"kind": "StorageClass", "metadata": {"name": "fast"},
               "provisioner": "csi.example.com", "volumeBindingMode": "WaitForFirstConsumer"}),
        json!({"kind": "CSIDriver", "metadata": {"name": "csi.example.com"}, "spec": {}}),
        json!({"kind": "PersistentVolumeClaim",
               "metadata": {"name": "data", "namespace": "d", "uid": "data",
                   "annotations": {"volume.kubernetes.io/selected-node": "a"}},
               "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "5Gi"}}},
               "status": {"phase": "Pending"}}),
        warning(
            "data",
            "ProvisioningFailed",
            "out of space",
            "2026-01-01T00:00:00Z",
        ),
    ];
    let answer = puzzle(
        objects,
        "pod/p",
        "and waits for a volume: persistentvolumeclaim d/data: its volume is being made by \
         csi.example.com",
        "",
    );
    notes(&answer, "ProvisioningFailed: out of space");
}

#[test]
fn pods_that_are_refused_say_by_what() {
    let at = "2026-01-01T00:00:00Z";
    let quota = "create Pod w-0 in StatefulSet w failed error: pods \"w-0\" is forbidden: exceeded \
                 quota: team, requested: cpu=1, used: cpu=3, limited: cpu=3";
    puzzle(
        vec![
            node("a"),
            workload("StatefulSet"),
            warning("w", "FailedCreate", quota, at),
        ],
        "sts/w",
        "pod w-0 has not been made yet: create Pod w-0 in StatefulSet w failed",
        "raise resourcequota team",
    );
    let hook = "Error creating: admission webhook \"check.example.com\" denied the request: no";
    puzzle(
        vec![workload("Job"), warning("w", "FailedCreate", hook, at)],
        "job/w",
        "its pods have not been made yet: Error creating: admission webhook",
        "mend what admission webhook check.example.com objects to",
    );
    let account = "Error creating: pods \"w-\" is forbidden: error looking up service account \
                   d/robot: serviceaccount \"robot\" not found";
    puzzle(
        vec![
            node("a"),
            workload("DaemonSet"),
            warning("w", "FailedCreate", account, at),
        ],
        "ds/w",
        "0 of 1 pods are ready; the others have not been made yet: Error creating",
        "create serviceaccount robot",
    );
    let mut deployment = workload("Deployment");
    deployment["status"] = json!({"conditions": [{"type": "ReplicaFailure", "status": "True",
        "reason": "FailedCreate", "message": quota}]});
    puzzle(
        vec![node("a"), deployment],
        "deploy/w",
        "its pods cannot be created",
        "raise resourcequota team",
    );
}

#[test]
fn a_node_that_a_daemon_set_leaves_out_is_named() {
    let mut tainted = node("gpu");
    tainted["spec"]["taints"] = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
    let mut one = owned("DaemonSet", unready("w-x", "a"));
    one["status"]["conditions"][0]["status"] = json!("True");
    one["status"]["containerStatuses"][0]["ready"] = json!(true);
    let mut set = workload("DaemonSet");
    set["status"] = json!({"currentNumberScheduled": 1, "desiredNumberScheduled": 1,
        "numberMisscheduled": 0, "numberReady": 1, "updatedNumberScheduled": 1});
    let answer = puzzle(
        vec![node("a"), tainted, set, one],
        "ds/w",
        "all 1 pods are ready",
        "",
    );
    notes(
        &answer,
        "gpu is to have no pod: node(s) had untolerated taint(s) (tolerate the taint gpu=yes:NoSchedule",
    );
}

#[test]
fn a_namespace_that_an_extension_server_holds() {
    let message = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list \
                   of server APIs: widgets.example.com/v1: stale GroupVersion discovery";
    puzzle(
        vec![json!({"kind": "Namespace",
            "metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Terminating", "conditions": [
                {"type": "NamespaceDeletionDiscoveryFailure", "status": "True",
                 "reason": "DiscoveryFailed", "message": message}]}})],
        "ns/n",
        "widgets.example.com/v1",
        "kubectl get apiservices",
    );
}

fn budget(spec: Value, status: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "p"}});
    json!({"kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "d"},
           "spec": spec, "status": status})
}

#[test]
fn a_budget_that_holds_a_drain_says_why() {
    let mut closed = node("a");
    closed["spec"]["unschedulable"] = json!(true);
    let never = budget(
        json!({"minAvailable": 1}),
        json!({"expectedPods": 1, "currentHealthy": 1, "desiredHealthy": 1,
               "disruptionsAllowed": 0}),
    );
    let answer = puzzle(
        vec![closed, unready("p", "a"), never.clone()],
        "node/a",
        "it is ready, and closed",
        "kubectl uncordon a",
    );
    notes(
        &answer,
        "poddisruptionbudget d/b lets no pod go, such as p: ask why pdb/b",
    );
    puzzle(
        vec![node("a"), unready("p", "a"), never],
        "pdb/b",
        "it never lets a pod go: 1 of its 1 pods must be healthy",
        "have more pods",
    );
    let now = json!({"expectedPods": 3, "currentHealthy": 2, "desiredHealthy": 2,
        "disruptionsAllowed": 0});
    puzzle(
        vec![
            node("a"),
            unready("p", "a"),
            budget(json!({"maxUnavailable": 1}), now),
        ],
        "pdb/b",
        "it lets no pod go now: 2 of its 3 pods are healthy, and 2 must be; pod d/p: it is on node \
         a: container c runs and is not ready",
        "",
    );
    let none = json!({"expectedPods": 0, "currentHealthy": 0, "desiredHealthy": 1,
        "disruptionsAllowed": 0});
    puzzle(
        vec![budget(json!({"minAvailable": 1}), none)],
        "poddisruptionbudget/b",
        "it selects no pod",
        "let its selector have the labels",
    );
}

fn cron_job(change: Value, status: Value) -> Value {
    let mut spec = json!({"schedule": "0 2 * * *", "jobTemplate": {"spec": {"template": {
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}}});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"kind": "CronJob", "metadata": {"name": "w", "namespace": "d", "uid": "w"},
           "spec": spec, "status": status})
}

#[test]
fn a_cron_job_that_starts_nothing() {
    for (spec, cause, change) in [
        (json!({"suspend": true}), "it is suspended", "spec.suspend"),
        (
            json!({"timeZone": "Europe/Brelin"}),
            "its time zone \"Europe/Brelin\" is not known",
            "IANA",
        ),
        (
            json!({"schedule": "at night"}),
            "its schedule \"at night\" cannot be read",
            "five fields",
        ),
        (
            json!({}),
            "no time of its schedule \"0 2 * * *\" has come yet",
            "",
        ),
    ] {
        puzzle(vec![cron_job(spec, json!({}))], "cronjob/w", cause, change);
    }
    let missed = warning(
        "w",
        "TooManyMissedTimes",
        "too many missed start times: 101",
        "2026-01-01T00:00:00Z",
    );
    puzzle(
        vec![cron_job(json!({}), json!({})), missed],
        "cj/w",
        "what went wrong last: TooManyMissedTimes: too many missed start times: 101",
        "",
    );
    let mut job = owned("CronJob", workload("Job"));
    job["metadata"]["name"] = json!("w-1");
    job["metadata"]["uid"] = json!("w-1");
    job["status"] = json!({"active": 1});
    let mut stuck = owned("Job", pod("w-1-x"));
    stuck["metadata"]["ownerReferences"][0]["uid"] = json!("w-1");
    stuck["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    let runs = json!({"active": [{"name": "w-1", "uid": "w-1"}]});
    puzzle(
        vec![
            node("a"),
            cron_job(json!({"concurrencyPolicy": "Forbid"}), runs),
            job,
            stuck,
        ],
        "cronjob/w",
        "by its concurrencyPolicy no other comes before; job d/w-1: 0 pods have succeeded; pod \
         d/w-1-x: no node fits",
        "label it disk=ssd",
    );
}
