//! A cluster as it is, from what `kubectl get … -o yaml` prints: the objects as they would be made
//! again, without what their cluster made of them.

use std::collections::BTreeSet;

use controllers::volumes::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONER_NAMES, SELECTED_NODE};
use serde::Deserialize;
use serde_json::Value;

use super::form::DescriptionError;
use super::listed::items;

/// What only the API server, or a controller, writes.
const WRITTEN_BY_SERVERS: [&str; 10] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
];
/// Kinds whose objects controllers make and nodes write.
const MADE_BY_CONTROLLERS: [&str; 7] = [
    "Event",
    "Lease",
    "Endpoints",
    "EndpointSlice",
    "ControllerRevision",
    "CSINode",
    "VolumeAttachment",
];
/// Objects that each cluster begins with.
const IN_EACH_CLUSTER: [(&str, &str); 8] = [
    ("Namespace", "default"),
    ("Namespace", "kube-system"),
    ("Namespace", "kube-public"),
    ("Namespace", "kube-node-lease"),
    ("Service", "kubernetes"),
    ("ServiceAccount", "default"),
    ("ConfigMap", "kube-root-ca.crt"),
    ("ServiceCIDR", "kubernetes"),
];
const TOKEN_VOLUME: &str = "kube-api-access-";

/// Reads documents, each an object or a List.
///
/// # Errors
/// When it is not YAML, or not of objects.
pub(super) fn objects(text: &str) -> Result<Vec<Value>, DescriptionError> {
    let mut out = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let document = Value::deserialize(document)?;
        match items(&document) {
            Some(all) => out.extend(all.iter().filter_map(as_new)),
            None => out.extend(as_new(&document)),
        }
    }
    name_volumes(&mut out);
    Ok(out)
}

/// Claims keep the volumes that are there, too: so data stays where it is. Of others new ones are made.
fn name_volumes(all: &mut [Value]) {
    let volumes = all.iter().filter(|o| o["kind"] == "PersistentVolume");
    let name = |o: &Value| {
        o.pointer("/metadata/name")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let volumes: BTreeSet<String> = volumes.filter_map(name).collect();
    for claim in all
        .iter_mut()
        .filter(|o| o["kind"] == "PersistentVolumeClaim")
    {
        let volume = claim.pointer("/spec/volumeName").and_then(Value::as_str);
        if volume.is_none_or(|v| !volumes.contains(v)) {
            without(claim, "/spec", &["volumeName"]);
        }
    }
}

/// Whether it has come to its end, or is about to: it does not begin again.
fn is_over(object: &Value) -> bool {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let is_true = |kind: &str| {
        let mut all = conditions.into_iter().flatten();
        all.any(|c| c["type"] == kind && c["status"] == "True")
    };
    let phase = object.pointer("/status/phase").and_then(Value::as_str);
    let has_ended = match object["kind"].as_str() {
        Some("Job") => is_true("Complete") || is_true("Failed"),
        Some("Pod") => matches!(phase, Some("Succeeded" | "Failed")),
        _ => false,
    };
    has_ended || object.pointer("/metadata/deletionTimestamp").is_some()
}

/// The object as it would be made again; none where something else makes it.
fn as_new(object: &Value) -> Option<Value> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    let owners = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let is_made = owners
        .into_iter()
        .flatten()
        .any(|o| o["controller"] == true)
        || MADE_BY_CONTROLLERS.contains(&kind)
        || IN_EACH_CLUSTER.contains(&(kind, name))
        || (kind == "PriorityClass" && name.starts_with("system-"))
        || (kind == "Secret" && text("/type") == "kubernetes.io/service-account-token");
    if is_made || kind.is_empty() || is_over(object) {
        return None;
    }
    let mut out = object.clone();
    // What a node has is the one status that decides something.
    if kind != "Node" {
        out.as_object_mut()?.remove("status");
    }
    let meta = out.get_mut("metadata").and_then(Value::as_object_mut)?;
    meta.retain(|key, _| !WRITTEN_BY_SERVERS.contains(&key.as_str()));
    match kind {
        "Pod" => pod(&mut out),
        "Job" => job(&mut out),
        "Service" => without(
            &mut out,
            "/spec",
            &["clusterIP", "clusterIPs", "healthCheckNodePort"],
        ),
        "PersistentVolumeClaim" | "PersistentVolume" => volume(&mut out),
        _ => {}
    }
    Some(out)
}

fn without(object: &mut Value, pointer: &str, fields: &[&str]) {
    if let Some(all) = object.pointer_mut(pointer).and_then(Value::as_object_mut) {
        all.retain(|key, _| !fields.contains(&key.as_str()));
    }
}

/// It is scheduled again, and gets a token of its own.
fn pod(object: &mut Value) {
    without(
        object,
        "/spec",
        &["nodeName", "priority", "preemptionPolicy"],
    );
    let keep = |list: Option<&mut Value>| {
        if let Some(list) = list.and_then(Value::as_array_mut) {
            list.retain(|v| {
                !v["name"]
                    .as_str()
                    .is_some_and(|n| n.starts_with(TOKEN_VOLUME))
            });
        }
    };
    keep(object.pointer_mut("/spec/volumes"));
    for field in ["/spec/containers", "/spec/initContainers"] {
        let all = object.pointer_mut(field).and_then(Value::as_array_mut);
        for container in all.into_iter().flatten() {
            keep(container.get_mut("volumeMounts"));
        }
    }
}

/// It is bound again, to the same one where that is there; whose UID is another one then.
fn volume(object: &mut Value) {
    let [provisioner, before] = PROVISIONER_NAMES;
    let of_binding = [
        BIND_COMPLETED,
        BOUND_BY_CONTROLLER,
        SELECTED_NODE,
        provisioner,
        before,
    ];
    without(object, "/metadata/annotations", &of_binding);
    without(object, "/spec/claimRef", &["uid", "resourceVersion"]);
}

/// Its selector and labels have the UID of the one that it was.
fn job(object: &mut Value) {
    if object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    without(object, "/spec", &["selector"]);
    let labels = [
        "controller-uid",
        "job-name",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
    ];
    without(object, "/metadata/labels", &labels);
    without(object, "/spec/template/metadata/labels", &labels);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_cluster_made_is_made_anew() {
        let text = "
apiVersion: v1
kind: List
items:
- apiVersion: batch/v1
  kind: Job
  metadata: { name: j, namespace: a, uid: u, labels: { x: y, controller-uid: u } }
  spec:
    selector: { matchLabels: { controller-uid: u } }
    template: { metadata: { labels: { controller-uid: u } } }
  status: { active: 1 }
- apiVersion: v1
  kind: Pod
  metadata: { name: j-1, ownerReferences: [{ kind: Job, name: j, controller: true }] }
- { apiVersion: v1, kind: Namespace, metadata: { name: kube-system } }
---
apiVersion: v1
kind: Pod
metadata: { name: alone, resourceVersion: '7' }
spec:
  nodeName: n
  volumes: [{ name: kube-api-access-x }, { name: mine }]
  containers: [{ name: c, volumeMounts: [{ name: kube-api-access-x }] }]
";
        let all = objects(text).expect("objects");
        let expected = json!([
            { "apiVersion": "batch/v1", "kind": "Job",
              "metadata": { "name": "j", "namespace": "a", "labels": { "x": "y" } },
              "spec": { "template": { "metadata": { "labels": {} } } } },
            { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "alone" },
              "spec": { "volumes": [{ "name": "mine" }],
                "containers": [{ "name": "c", "volumeMounts": [] }] } },
        ]);
        assert_eq!(Value::Array(all), expected);
        assert!(objects("a: [").is_err());
    }

    #[test]
    fn claims_keep_the_volumes_that_are_there() {
        let text = "
kind: List
items:
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: kept
    annotations: { pv.kubernetes.io/bind-completed: 'yes', team: shop }
  spec: { volumeName: there }
- { apiVersion: v1, kind: PersistentVolumeClaim, metadata: { name: new }, spec: { volumeName: gone } }
- apiVersion: v1
  kind: PersistentVolume
  metadata: { name: there }
  spec: { claimRef: { namespace: d, name: kept, uid: u, resourceVersion: '3' } }
";
        let all = objects(text).expect("objects");
        let expected = json!([
            { "apiVersion": "v1", "kind": "PersistentVolumeClaim",
              "metadata": { "name": "kept", "annotations": { "team": "shop" } },
              "spec": { "volumeName": "there" } },
            { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "new" },
              "spec": {} },
            { "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "there" },
              "spec": { "claimRef": { "namespace": "d", "name": "kept" } } },
        ]);
        assert_eq!(Value::Array(all), expected);
    }

    #[test]
    fn what_has_ended_does_not_begin_again() {
        let text = "
kind: Job
metadata: { name: done }
status: { conditions: [{ type: Complete, status: 'True' }] }
---
kind: Pod
metadata: { name: failed }
status: { phase: Failed }
---
kind: ConfigMap
metadata: { name: goes, deletionTimestamp: '2026-01-01T00:00:00Z' }
---
kind: Job
metadata: { name: runs }
status: { conditions: [{ type: Suspended, status: 'False' }] }
";
        let all = objects(text).expect("objects");
        let names: Vec<&Value> = all.iter().map(|o| &o["metadata"]["name"]).collect();
        assert_eq!(names, ["runs"]);
    }
}
