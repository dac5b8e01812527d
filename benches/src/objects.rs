//! The objects that cases create: as large as those that upstream was measured with.

use serde_json::{Value, json};

pub const NAMESPACE: &str = "bench";

pub fn config_maps() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps")
}
pub fn pods() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

pub fn deployments() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
}

pub fn namespace() -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } })
}

/// Without controllers nobody else makes it, and pods need it.
pub fn service_account() -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "default", "namespace": NAMESPACE } })
}

/// A ConfigMap that holds `bytes` bytes of data.
pub fn config_map(name: &str, bytes: usize) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app": "bench" } },
        "data": { "text": "x".repeat(bytes) } })
}

/// A Deployment as an applier states it; `text` varies it.
pub fn deployment(name: &str, text: &str) -> Value {
    let labels = json!({ "app": name });
    json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels,
            "annotations": { "text": text } },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": {
                "containers": [{
                    "name": "web", "image": "registry.example/team/web:1.2.3",
                    "args": ["--port=8080", "--verbose"],
                    "ports": [{ "name": "http", "containerPort": 8080 }],
                    "env": [{ "name": "LEVEL", "value": "info" }, { "name": "ZONE", "value": "a" }],
                    "resources": { "requests": { "cpu": "10m", "memory": "64Mi" } },
                    "readinessProbe": { "httpGet": { "path": "/healthz", "port": "http" } },
                    "volumeMounts": [{ "name": "settings", "mountPath": "/settings" }],
                }],
                "volumes": [{ "name": "settings", "configMap": { "name": "settings" } }],
            } },
        } })
}

/// A pod of a size that is common in clusters: about 2.8 KB with status and managed fields.
pub fn pod(name: &str, node: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app": "web" } },
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "web", "image": "registry.example/team/web:1.2.3",
                "resources": { "requests": { "cpu": "10m" } },
            }],
        } })
}

/// The status that a kubelet would report; `text` varies it.
pub fn pod_status(text: &str) -> Value {
    let time = "2026-01-01T00:00:00Z";
    let condition =
        |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": time });
    json!({ "status": {
        "phase": "Running", "podIP": "10.244.0.7", "startTime": time, "message": text,
        "conditions": [condition("Ready")],
    } })
}

/// A pod that waits for the scheduler.
pub fn waiting_pod(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app": "load" } },
        "spec": { "containers": [{ "name": "c", "image": "registry.example/pause",
            "resources": { "requests": { "cpu": "100m", "memory": "200Mi" } } }] } })
}

pub fn node(name: &str) -> Value {
    // With the older name, too, as kubelets register themselves: else a controller adds it.
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": {
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
        "beta.kubernetes.io/os": "linux" } } })
}

/// A node that is up and has room; `now` in RFC 3339.
pub fn node_status(now: &str) -> Value {
    let room = json!({ "cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti" });
    json!({ "status": {
        "capacity": room, "allocatable": room,
        "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "faked by the benchmark", "lastHeartbeatTime": now, "lastTransitionTime": now }],
    } })
}

pub fn lease(name: &str, now: &str) -> Value {
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": "kube-node-lease" },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now } })
}

/// Paths of validating policies and of their bindings.
pub const POLICIES: [&str; 2] = [
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
];

/// A policy of a usual size that judges new ConfigMaps, and its binding: a variable, three
/// validations that hold, and a match condition.
pub fn policy(nth: usize) -> [Value; 2] {
    let name = format!("bench-{nth}.example.com");
    let policy = json!({ "metadata": { "name": name }, "spec": {
        "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["configmaps"] }] },
        "matchConditions": [{ "name": "people",
            "expression": "!request.userInfo.username.startsWith('system:node:')" }],
        "variables": [{ "name": "labels",
            "expression": "has(object.metadata.labels) ? object.metadata.labels : {}" }],
        "validations": [
            { "expression": "'app' in variables.labels && variables.labels['app'].matches('^[a-z]+$')" },
            { "expression": "object.data.all(key, key.size() < 64 && object.data[key].size() < 4096)",
                "messageExpression": "'too large: ' + object.metadata.name" },
            { "expression": "object.metadata.name.size() < 253 && !object.metadata.name.contains('..')" },
        ],
    } });
    let binding = json!({ "metadata": { "name": name },
        "spec": { "policyName": name, "validationActions": ["Deny"] } });
    [policy, binding]
}
