//! NodeRestriction: a node writes its own Node, Lease and CSINode, the status of the pods bound
//! to it, and asks for tokens of those pods; and it cannot label or taint itself into more.

use std::collections::BTreeSet;

use access::Attributes;
use api::local_volumes::SNAPSHOT_GROUP;
use api::{GroupResource, Status};
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{
    AdmissionAttributes, Admit, Need, Operation, Review, certificates, driver_tokens, list,
    node_volumes, pod_certificates, text,
};
use crate::filters::authz;
use crate::state::State;

const MIRROR: &str = "kubernetes.io/config.mirror";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels under Kubernetes' names that a node may give itself …
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// … and prefixes (also with something before them) under which it may.
const OWN_PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
const SIGNERS: &[&str] = &[
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/kube-apiserver-client-kubelet",
];

/// The labels of the pod and the node in question.
const POD: &str = "pod in question";
const NODE: &str = "node that asks";

pub struct NodeRestriction;

impl Admit for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }
    fn handles(&self, operation: Operation, row: &Row, _: &str) -> bool {
        operation != Operation::Connect
            && matches!(
                (&*row.group, &*row.resource),
                (
                    "",
                    "pods"
                        | "nodes"
                        | "persistentvolumeclaims"
                        | "persistentvolumes"
                        | "serviceaccounts"
                ) | ("coordination.k8s.io", "leases")
                    | ("storage.k8s.io", "csinodes")
                    | (SNAPSHOT_GROUP, "volumesnapshotcontents")
                    | ("resource.k8s.io", "resourceslices")
                    | (
                        "certificates.k8s.io",
                        "certificatesigningrequests" | "podcertificaterequests"
                    )
            )
    }
    /// Pods and nodes are written all the time; what is asked of them here, a pod's node and a UID,
    /// never changes.
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        let node = asked.user.node().unwrap_or_default();
        if node.is_empty() || !asked.user.is_in("system:nodes") {
            return Vec::new();
        }
        let pod = |name: &str| vec![Need::seen(POD, ("", "pods"), asked.namespace, name)];
        match (&*asked.row.resource, asked.subresource) {
            ("pods", "eviction") => pod(asked.name),
            ("pods", "") if asked.operation == Operation::Create => {
                vec![Need::seen(NODE, ("", "nodes"), "", node)]
            }
            ("podcertificaterequests", "") => pod_certificates::needs(asked, node),
            ("serviceaccounts", "token") => match asked.text("/spec/boundObjectRef/name") {
                "" => Vec::new(),
                name => pod(name),
            },
            _ => Vec::new(),
        }
    }
    fn mutate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !review.user.is_in("system:nodes") {
                return Ok(());
            }
            let Some(node) = review.user.node() else {
                // As upstream: members of the group with another name are not nodes.
                return Ok(());
            };
            if node.is_empty() {
                return Err(review.forbidden(&format!(
                    "could not determine node from user {:?}",
                    review.user.name
                )));
            }
            match &*review.row.resource {
                "pods" => pod(review, node),
                "nodes" => own_node(review, node).map_err(|why| review.forbidden(&why)),
                "persistentvolumeclaims" => {
                    claim(review, node).map_err(|why| review.forbidden(&why))
                }
                "persistentvolumes" => {
                    node_volumes::check(review, node).map_err(|why| review.forbidden(&why))
                }
                "volumesnapshotcontents" => {
                    node_volumes::check_snapshot(review, node).map_err(|why| review.forbidden(&why))
                }
                "serviceaccounts" => token(state, review, node).await,
                "leases" => lease(review, node).map_err(|why| review.forbidden(why)),
                "csinodes" if review.name != node => Err(review.forbidden(
                    "can only access CSINode with the same name as the requesting node",
                )),
                "resourceslices" => slice(review, node).map_err(|why| review.forbidden(why)),
                "certificatesigningrequests" => {
                    request(review, node).map_err(|why| review.forbidden(&why))
                }
                "podcertificaterequests" => {
                    pod_certificates::of_node(review, node).map_err(|why| review.forbidden(&why))
                }
                _ => Ok(()),
            }
        })
    }
}

fn pod(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let refuse = |why: String| Err(review.forbidden(&why));
    let bound = |v: Option<&Value>| v.is_some_and(|v| text(v, "/spec/nodeName") == node);
    match (review.subresource, review.operation) {
        ("", Operation::Create) => mirror(review, node),
        ("", Operation::Delete) if bound(review.old) => Ok(()),
        ("", Operation::Delete) => refuse(format!(
            "node {node:?} can only delete pods with spec.nodeName set to itself"
        )),
        ("", _) => refuse(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
        ("status", Operation::Update) => {
            if !bound(review.old) {
                return refuse(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            status(review, node).map_err(|why| review.forbidden(&why))
        }
        ("eviction", Operation::Create) => {
            let found = review.found.get(POD);
            let found = found
                .ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), review.name))?;
            if bound(Some(&found.to_value())) {
                return Ok(());
            }
            refuse(format!(
                "node {node} can only evict pods with spec.nodeName set to itself"
            ))
        }
        (other, _) => refuse(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
    }
}

fn status(review: &Review<'_>, node: &str) -> Result<(), String> {
    let same = |pointer: &str| {
        let part = |v: Option<&Value>| v.and_then(|v| v.pointer(pointer)).cloned();
        part(review.object.as_deref()).unwrap_or_default() == part(review.old).unwrap_or_default()
    };
    if !same("/metadata/labels") {
        return Err(format!(
            "node {node:?} cannot update labels through pod status"
        ));
    }
    if !same("/status/resourceClaimStatuses") {
        return Err(format!(
            "node {node:?} cannot update resource claim statues"
        ));
    }
    if !same("/status/extendedResourceClaimStatus") {
        return Err(format!(
            "node {node:?} cannot update extended resource claim status"
        ));
    }
    Ok(())
}

/// A node creates only the mirrors of its own static pods.
fn mirror(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let Some(pod) = review.object.as_deref() else {
        return Ok(());
    };
    check_mirror(pod, node).map_err(|why| review.forbidden(&why))?;
    let owner = text(pod, "/metadata/ownerReferences/0/uid");
    let nodes = GroupResource::new("", "nodes");
    let found = review.found.get(NODE);
    let found = found
        .ok_or_else(|| Status::not_found(&nodes, node))?
        .to_value();
    let uid = text(&found, "/metadata/uid");
    if owner != uid {
        return Err(review.forbidden(&format!(
            "node {node} UID mismatch: expected {owner} got {uid}"
        )));
    }
    Ok(())
}

fn check_mirror(pod: &Value, node: &str) -> Result<(), String> {
    let annotations = pod.pointer("/metadata/annotations");
    if annotations.and_then(|a| a.get(MIRROR)).is_none() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return Err(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    let owner = match list(pod, "/metadata/ownerReferences") {
        [one] => one,
        [] => {
            return Err(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if text(owner, "/apiVersion") != "v1"
        || text(owner, "/kind") != "Node"
        || text(owner, "/name") != node
    {
        return Err(format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        ));
    }
    if owner.get("controller") != Some(&Value::Bool(true)) {
        return Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)) {
        return Err(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        ));
    }
    if let Some(what) = referenced(pod) {
        return Err(format!(
            "node {node:?} can not create pods that reference {what}"
        ));
    }
    Ok(())
}

/// What of the API a pod names, if anything.
fn referenced(pod: &Value) -> Option<&'static str> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    if !list(pod, "/spec/resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    if !list(pod, "/spec/imagePullSecrets").is_empty() {
        return Some("secrets");
    }
    for volume in list(pod, "/spec/volumes") {
        for (field, what) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims"),
            ("csi", "csidrivers"),
        ] {
            if volume.get(field).is_some() {
                return Some(what);
            }
        }
        for source in list(volume, "/projected/sources") {
            for (field, what) in [
                ("secret", "secrets"),
                ("configMap", "configmaps"),
                ("serviceAccountToken", "serviceaccounts"),
                ("clusterTrustBundle", "clustertrustbundles"),
                ("podCertificate", "podcertificates"),
            ] {
                if source.get(field).is_some() {
                    return Some(what);
                }
            }
        }
    }
    let containers = ["/spec/initContainers", "/spec/containers"];
    for container in containers.into_iter().flat_map(|l| list(pod, l)) {
        for env in list(container, "/env") {
            if env.pointer("/valueFrom/secretKeyRef").is_some() {
                return Some("secrets");
            }
            if env.pointer("/valueFrom/configMapKeyRef").is_some() {
                return Some("configmaps");
            }
        }
        for from in list(container, "/envFrom") {
            if from.get("secretRef").is_some() {
                return Some("secrets");
            }
            if from.get("configMapRef").is_some() {
                return Some("configmaps");
            }
        }
    }
    None
}

fn own_node(review: &Review<'_>, node: &str) -> Result<(), String> {
    if review.name != node {
        return Err(format!(
            "node {node:?} is not allowed to modify node {:?}",
            review.name
        ));
    }
    let Some(new) = review.object.as_deref() else {
        return Ok(());
    };
    let Some(old) = review.old else {
        let forbidden = forbidden_labels(new, &Value::Null);
        if new
            .pointer("/spec/configSource")
            .is_some_and(|v| !v.is_null())
        {
            return Err(format!(
                "node {node:?} is not allowed to create pods with a non-nil configSource"
            ));
        }
        if !forbidden.is_empty() {
            return Err(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                forbidden.join(", ")
            ));
        }
        return Ok(());
    };
    if new
        .pointer("/spec/configSource")
        .is_some_and(|v| !v.is_null())
        && new.pointer("/spec/configSource") != old.pointer("/spec/configSource")
    {
        return Err(format!(
            "node {node:?} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    // A status write keeps the stored spec whatever it carries.
    if review.subresource.is_empty() && list(new, "/spec/taints") != list(old, "/spec/taints") {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let owners = "/metadata/ownerReferences";
    if list(new, owners) != list(old, owners) {
        return Err(format!(
            "node {node:?} is not allowed to modify ownerReferences"
        ));
    }
    let forbidden = forbidden_labels(new, old);
    if !forbidden.is_empty() {
        return Err(format!(
            "is not allowed to modify labels: {}",
            forbidden.join(", ")
        ));
    }
    Ok(())
}

/// Labels that differ and that a node may not choose.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let labels = |v: &Value| -> serde_json::Map<String, Value> {
        let all = v.pointer("/metadata/labels").and_then(Value::as_object);
        all.cloned().unwrap_or_default()
    };
    let (new, old) = (labels(new), labels(old));
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    keys.into_iter()
        .filter(|k| new.get(*k) != old.get(*k) && !may_label(k))
        .cloned()
        .collect()
}

/// Whether a node may choose the value of a label.
fn may_label(key: &str) -> bool {
    let prefix = key.split_once('/').map_or("", |(p, _)| p);
    let below = |domain: &str| {
        prefix == domain
            || prefix
                .strip_suffix(domain)
                .is_some_and(|head| head.ends_with('.'))
    };
    if below(RESTRICTED) {
        return false;
    }
    if !below("kubernetes.io") && !below("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&key) || OWN_PREFIXES.iter().any(|p| below(p))
}

fn claim(review: &Review<'_>, node: &str) -> Result<(), String> {
    if review.subresource != "status" || review.operation != Operation::Update {
        return Err("may only update PVC status".into());
    }
    let bare = |v: Option<&Value>| {
        let mut v = v.cloned().unwrap_or_default();
        if let Some(meta) = v.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
            meta.remove("managedFields");
        }
        if let Some(status) = v.get_mut("status").and_then(Value::as_object_mut) {
            for field in [
                "capacity",
                "conditions",
                "allocatedResourceStatuses",
                "allocatedResources",
            ] {
                status.remove(field);
            }
        }
        v
    };
    if bare(review.object.as_deref()) != bare(review.old) {
        return Err(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        ));
    }
    Ok(())
}

/// A node asks for tokens of accounts only in the name of a pod that is bound to it, and only
/// for audiences that the pod itself names, or a driver of its volumes.
async fn token(state: &State, review: &Review<'_>, node: &str) -> Result<(), Status> {
    if review.operation != Operation::Create || review.subresource != "token" {
        return Ok(());
    }
    let Some(request) = review.object.as_deref() else {
        return Ok(());
    };
    let bound = |field: &str| text(request, &format!("/spec/boundObjectRef/{field}"));
    if bound("apiVersion") != "v1" || bound("kind") != "Pod" || bound("name").is_empty() {
        return Err(review.forbidden("node requested token not bound to a pod"));
    }
    if bound("uid").is_empty() {
        return Err(review.forbidden("node requested token with a pod binding without a uid"));
    }
    let name = bound("name");
    let pod = review.found.get(POD);
    let pod = pod
        .ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))?
        .to_value();
    if text(&pod, "/metadata/uid") != bound("uid") {
        return Err(review.forbidden(&format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            bound("uid")
        )));
    }
    if text(&pod, "/spec/nodeName") != node {
        return Err(
            review.forbidden("node requested token bound to a pod scheduled on a different node")
        );
    }
    let audience = match list(request, "/spec/audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err(review.forbidden("node may only request 0 or 1 audiences")),
    };
    // In a pod, no audience means this server.
    let own = state.settings().audiences();
    let default = audience.is_empty() || own.iter().any(|a| a == audience);
    let named = names_audience(&pod, audience) || driver_tokens::is_wanted(state, &pod, audience);
    if named || default && names_audience(&pod, "") {
        return Ok(());
    }
    let asked = Attributes {
        verb: "request-serviceaccounts-token-audience",
        is_resource: true,
        version: "v1",
        resource: audience,
        namespace: review.namespace,
        name: review.name,
        ..Attributes::default()
    };
    if authz::decide(state, review.user, &asked).await.is_allowed() {
        return Ok(());
    }
    Err(review.forbidden(&format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        review.user.name
    )))
}

fn names_audience(pod: &Value, audience: &str) -> bool {
    list(pod, "/spec/volumes")
        .iter()
        .flat_map(|v| list(v, "/projected/sources"))
        .filter_map(|s| s.get("serviceAccountToken"))
        .any(|t| text(t, "/audience") == audience)
}

fn lease(review: &Review<'_>, node: &str) -> Result<(), &'static str> {
    if review.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if review.name != node {
        return Err("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn slice(review: &Review<'_>, node: &str) -> Result<(), &'static str> {
    let own = |v: Option<&Value>| v.is_some_and(|v| text(v, "/spec/nodeName") == node);
    match review.operation {
        Operation::Create if !own(review.object.as_deref()) => {
            Err("can only create ResourceSlice with the same NodeName as the requesting node")
        }
        Operation::Delete if !own(review.old) => {
            Err("can only delete ResourceSlice with the same NodeName as the requesting node")
        }
        _ => Ok(()),
    }
}

/// A node asks for certificates in its own name only.
fn request(review: &Review<'_>, node: &str) -> Result<(), String> {
    let Some(object) = review.object.as_deref() else {
        return Ok(());
    };
    if review.operation != Operation::Create || !SIGNERS.contains(&text(object, "/spec/signerName"))
    {
        return Ok(());
    }
    let names = certificates::names(object).map_err(|e| format!("unable to parse csr: {e}"))?;
    if names.common_name != format!("system:node:{node}") {
        return Err(format!(
            "can only create a node CSR with CN=system:node:{node}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_that_place_workloads_are_not_the_nodes() {
        for good in [
            "kubernetes.io/hostname",
            "x",
            "example.com/a",
            "node.kubernetes.io/a",
            "a.kubelet.kubernetes.io/b",
        ] {
            assert!(may_label(good), "{good}");
        }
        for bad in [
            "node-restriction.kubernetes.io/a",
            "x.node-restriction.kubernetes.io/a",
            "node-role.kubernetes.io/control-plane",
            "foo.k8s.io/x",
            "kubernetes.io/role",
        ] {
            assert!(!may_label(bad), "{bad}");
        }
        let with =
            |v: &str| json!({ "metadata": { "labels": { "kubernetes.io/role": v, "a": v } } });
        assert_eq!(
            forbidden_labels(&with("1"), &with("2")),
            ["kubernetes.io/role"]
        );
        assert!(forbidden_labels(&with("1"), &with("1")).is_empty());
    }

    #[test]
    fn mirror_pods_are_the_nodes_own() {
        let pod = json!({
            "metadata": {
                "annotations": { MIRROR: "x" },
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n", "controller": true }],
            },
            "spec": { "nodeName": "n", "containers": [{ "name": "c" }] },
        });
        assert_eq!(check_mirror(&pod, "n"), Ok(()));
        assert!(check_mirror(&pod, "m").is_err());
        let mut secret = pod.clone();
        secret["spec"]["volumes"] = json!([{ "secret": {} }]);
        assert!(check_mirror(&secret, "n").is_err());
        let mut plain = pod.clone();
        plain["metadata"]["annotations"] = json!({});
        assert!(check_mirror(&plain, "n").is_err());
    }
}
