//! The node authorizer: a node may read the secrets, config maps and service accounts that pods
//! bound to it use, its own Node and Lease, and its own pods
//! (documentation "Using Node Authorization").

use std::collections::{BTreeMap, HashMap};

use api::local_volumes;
use serde_json::Value;

use crate::attributes::{Attributes, Decision, UserInfo};

/// Namespace and name.
type Key = (String, String);
/// What a pod uses: resource, namespace, name.
type Used = (&'static str, String, String);

/// Which node's pods use which objects.
#[derive(Default)]
pub struct NodeGraph {
    /// Pod (namespace, name) → its node and what it uses.
    pods: HashMap<Key, (String, Vec<Used>)>,
    /// (node, resource) → (namespace, name) → number of pods that use it.
    uses: HashMap<(String, &'static str), BTreeMap<Key, u32>>,
    /// PersistentVolume → namespace and name of its claim.
    volumes: HashMap<String, Key>,
    /// PersistentVolume → the secrets that its driver is given on nodes.
    volume_secrets: HashMap<String, Vec<Key>>,
    /// Such a secret → the PersistentVolumes that name it.
    secret_volumes: HashMap<Key, Vec<String>>,
    /// PersistentVolume that was made on a node's disk → that node.
    own_volumes: HashMap<String, String>,
    /// VolumeAttachment → its node.
    attachments: HashMap<String, String>,
}

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn items<'a>(v: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    v.pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// All that a pod's spec names.
fn uses_of(pod: &Value) -> Vec<Used> {
    let namespace = text(pod, "/metadata/namespace").to_owned();
    let mut out: Vec<Used> = Vec::new();
    let mut add = |resource: &'static str, name: &str| {
        if !name.is_empty() {
            out.push((resource, namespace.clone(), name.to_owned()));
        }
    };
    add("serviceaccounts", text(pod, "/spec/serviceAccountName"));
    for secret in items(pod, "/spec/imagePullSecrets") {
        add("secrets", text(secret, "/name"));
    }
    for volume in items(pod, "/spec/volumes") {
        add("secrets", text(volume, "/secret/secretName"));
        add("configmaps", text(volume, "/configMap/name"));
        add("secrets", text(volume, "/csi/nodePublishSecretRef/name"));
        add(
            "persistentvolumeclaims",
            text(volume, "/persistentVolumeClaim/claimName"),
        );
        for source in items(volume, "/projected/sources") {
            add("secrets", text(source, "/secret/name"));
            add("configmaps", text(source, "/configMap/name"));
        }
        if volume.get("ephemeral").is_some() {
            let claim = format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name"));
            add("persistentvolumeclaims", &claim);
        }
    }
    for list in [
        "/spec/initContainers",
        "/spec/containers",
        "/spec/ephemeralContainers",
    ] {
        for container in items(pod, list) {
            for env in items(container, "/env") {
                add("secrets", text(env, "/valueFrom/secretKeyRef/name"));
                add("configmaps", text(env, "/valueFrom/configMapKeyRef/name"));
            }
            for source in items(container, "/envFrom") {
                add("secrets", text(source, "/secretRef/name"));
                add("configmaps", text(source, "/configMapRef/name"));
            }
        }
    }
    for claim in items(pod, "/spec/resourceClaims") {
        add("resourceclaims", text(claim, "/resourceClaimName"));
    }
    for claim in items(pod, "/status/resourceClaimStatuses") {
        add("resourceclaims", text(claim, "/resourceClaimName"));
    }
    let extended = "/status/extendedResourceClaimStatus/resourceClaimName";
    add("resourceclaims", text(pod, extended));
    out.sort();
    out.dedup();
    out
}

/// The secrets of a volume that nodes read: what only the driver's controller uses is not theirs.
fn node_secrets(volume: &Value) -> Vec<Key> {
    let fields = [
        "nodePublishSecretRef",
        "nodeStageSecretRef",
        "nodeExpandSecretRef",
    ];
    let mut out: Vec<Key> = fields
        .map(|field| {
            let part = |name: &str| text(volume, &format!("/spec/csi/{field}/{name}")).to_owned();
            (part("namespace"), part("name"))
        })
        .into_iter()
        .filter(|(_, name)| !name.is_empty())
        .collect();
    out.sort();
    out.dedup();
    out
}

impl NodeGraph {
    /// Takes in a pod as it is now.
    pub fn put_pod(&mut self, pod: &Value) {
        let key = (
            text(pod, "/metadata/namespace").to_owned(),
            text(pod, "/metadata/name").to_owned(),
        );
        let node = text(pod, "/spec/nodeName").to_owned();
        self.delete_pod(&key.0, &key.1);
        if node.is_empty() {
            return;
        }
        let uses = uses_of(pod);
        for (resource, namespace, name) in &uses {
            let objects = self.uses.entry((node.clone(), resource)).or_default();
            *objects
                .entry((namespace.clone(), name.clone()))
                .or_default() += 1;
        }
        self.pods.insert(key, (node, uses));
    }

    pub fn delete_pod(&mut self, namespace: &str, name: &str) {
        let Some((node, uses)) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else {
            return;
        };
        for (resource, namespace, name) in uses {
            let Some(objects) = self.uses.get_mut(&(node.clone(), resource)) else {
                continue;
            };
            let key = (namespace, name);
            if let Some(count) = objects.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    objects.remove(&key);
                }
            }
        }
    }

    fn is_used(&self, node: &str, resource: &'static str, namespace: &str, name: &str) -> bool {
        self.uses
            .get(&(node.to_owned(), resource))
            .is_some_and(|o| o.contains_key(&(namespace.to_owned(), name.to_owned())))
    }

    /// Takes in a PersistentVolume: a node may read it while a pod of it uses its claim.
    pub fn put_volume(&mut self, volume: &Value) {
        let claim = (
            text(volume, "/spec/claimRef/namespace").to_owned(),
            text(volume, "/spec/claimRef/name").to_owned(),
        );
        let name = text(volume, "/metadata/name").to_owned();
        let value = |part: &str, key: &str| {
            let all = volume.pointer(part).and_then(|m| m.get(key));
            all.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let maker = value("/metadata/annotations", local_volumes::PROVISIONED_BY);
        let node = value("/metadata/labels", local_volumes::NODE_LABEL);
        if maker == local_volumes::PROVISIONER && !node.is_empty() {
            self.own_volumes.insert(name.clone(), node);
        } else {
            self.own_volumes.remove(&name);
        }
        self.put_volume_secrets(&name, node_secrets(volume));
        self.volumes.insert(name, claim);
    }

    pub fn delete_volume(&mut self, name: &str) {
        self.volumes.remove(name);
        self.own_volumes.remove(name);
        self.put_volume_secrets(name, Vec::new());
    }

    fn put_volume_secrets(&mut self, volume: &str, secrets: Vec<Key>) {
        for old in self.volume_secrets.remove(volume).unwrap_or_default() {
            if let Some(all) = self.secret_volumes.get_mut(&old) {
                all.retain(|v| v != volume);
                if all.is_empty() {
                    self.secret_volumes.remove(&old);
                }
            }
        }
        if secrets.is_empty() {
            return;
        }
        for secret in &secrets {
            let all = self.secret_volumes.entry(secret.clone()).or_default();
            all.push(volume.to_owned());
        }
        self.volume_secrets.insert(volume.to_owned(), secrets);
    }

    /// Whether a pod of the node uses the claim of the volume.
    fn mounts(&self, node: &str, volume: &str) -> bool {
        let claim = self.volumes.get(volume);
        claim.is_some_and(|(ns, name)| self.is_used(node, "persistentvolumeclaims", ns, name))
    }

    /// Whether a driver is given the secret for a volume of one of the node's pods.
    fn opens_volume(&self, node: &str, namespace: &str, secret: &str) -> bool {
        let key = (namespace.to_owned(), secret.to_owned());
        let volumes = self.secret_volumes.get(&key);
        volumes.is_some_and(|all| all.iter().any(|v| self.mounts(node, v)))
    }

    /// Whether the volume was made on the node's disk.
    fn keeps(&self, node: &str, volume: &str) -> bool {
        self.own_volumes.get(volume).is_some_and(|n| n == node)
    }

    /// What a node may do with the volumes on its own disk, which it keeps: see them, say to what
    /// size it holds them, and let go of one whose folder is removed. What it writes is cut down by the NodeRestriction admission.
    fn own_volume(&self, node: &str, a: &Attributes<'_>) -> bool {
        match a.verb {
            "list" | "watch" if a.name.is_empty() => {
                a.selects_label(local_volumes::NODE_LABEL, node)
            }
            "get" | "patch" => self.keeps(node, a.name),
            _ => false,
        }
    }

    /// What a node may do with snapshots on its own disk: see them, say how far they are, and let go
    /// of one whose folder is removed. That it is its own is seen to by the NodeRestriction admission.
    fn own_snapshot(node: &str, a: &Attributes<'_>) -> bool {
        match (a.verb, a.subresource) {
            ("list" | "watch", "") if a.name.is_empty() => {
                a.selects_label(local_volumes::NODE_LABEL, node)
            }
            ("patch", "" | "status") => !a.name.is_empty(),
            _ => false,
        }
    }

    /// Takes in a VolumeAttachment, which names the node it is for.
    pub fn put_attachment(&mut self, attachment: &Value) {
        let name = text(attachment, "/metadata/name").to_owned();
        self.attachments
            .insert(name, text(attachment, "/spec/nodeName").to_owned());
    }

    pub fn delete_attachment(&mut self, name: &str) {
        self.attachments.remove(name);
    }

    /// Whether the pod is bound to the node.
    fn runs(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.pods
            .get(&(namespace.to_owned(), name.to_owned()))
            .is_some_and(|(n, _)| n == node)
    }

    fn reaches(&self, node: &str, a: &Attributes<'_>) -> bool {
        if a.name.is_empty() {
            return false;
        }
        match a.resource {
            "pods" => self.runs(node, a.namespace, a.name),
            "secrets" => {
                self.is_used(node, "secrets", a.namespace, a.name)
                    || self.opens_volume(node, a.namespace, a.name)
            }
            "configmaps" => self.is_used(node, "configmaps", a.namespace, a.name),
            "serviceaccounts" => self.is_used(node, "serviceaccounts", a.namespace, a.name),
            "resourceclaims" => self.is_used(node, "resourceclaims", a.namespace, a.name),
            "persistentvolumeclaims" => {
                self.is_used(node, "persistentvolumeclaims", a.namespace, a.name)
            }
            "persistentvolumes" => self.mounts(node, a.name),
            "volumeattachments" => self.attachments.get(a.name).is_some_and(|n| n == node),
            _ => false,
        }
    }

    /// Allowed if a pod of the node leads to the object.
    fn related(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if a.name.is_empty() {
            no("No Object name found")
        } else if self.reaches(node, a) {
            yes()
        } else {
            Decision::NoOpinion(format!(
                "no relationship found between node '{node}' and this object"
            ))
        }
    }

    /// The node authorizer's answer; it has no opinion on users that are not nodes.
    /// `static_rules` says what RBAC's role `system:node` allows to every node.
    pub fn decide(
        &self,
        user: &UserInfo,
        a: &Attributes<'_>,
        static_rules: impl FnOnce(&Attributes<'_>) -> bool,
    ) -> Decision {
        let Some(node) = user.node() else {
            return Decision::NoOpinion(String::new());
        };
        let write = matches!(a.verb, "update" | "patch");
        if a.is_resource {
            match (a.group, a.resource, a.subresource) {
                ("", "secrets" | "configmaps", sub) => return self.read(node, a, sub),
                ("", "persistentvolumeclaims", "status") if write => return self.related(node, a),
                ("", "persistentvolumes", "") if self.own_volume(node, a) => return yes(),
                (local_volumes::SNAPSHOT_GROUP, "volumesnapshotcontents", _) => {
                    return match Self::own_snapshot(node, a) {
                        true => yes(),
                        false => {
                            no("can only read and patch contents of snapshots on its own disk")
                        }
                    };
                }
                ("", "persistentvolumeclaims" | "persistentvolumes", sub)
                | ("resource.k8s.io", "resourceclaims", sub)
                | ("storage.k8s.io", "volumeattachments", sub) => return self.get(node, a, sub),
                ("", "serviceaccounts", sub) => return self.account(node, a, sub),
                ("coordination.k8s.io", "leases", _) => return lease(node, a),
                ("certificates.k8s.io", "podcertificaterequests", sub) => {
                    return certificate(node, a, sub);
                }
                // Served only where their gate is on; upstream's role of nodes has a rule for them then.
                ("certificates.k8s.io", "clustertrustbundles", "") if reads(a) => return yes(),
                ("storage.k8s.io", "csinodes", "") => return csi_node(node, a),
                ("", "nodes", sub) => return own_node(node, a, sub),
                ("", "pods", sub) => return self.pod(node, a, sub),
                _ => {}
            }
        }
        if static_rules(a) { yes() } else { no("") }
    }

    fn read(&self, node: &str, a: &Attributes<'_>, sub: &str) -> Decision {
        if !matches!(a.verb, "get" | "list" | "watch") {
            no("can only read resources of this type")
        } else if !sub.is_empty() {
            no("cannot read subresource")
        } else if a.namespace.is_empty() {
            no("can only read namespaced object of this type")
        } else {
            self.related(node, a)
        }
    }

    fn get(&self, node: &str, a: &Attributes<'_>, sub: &str) -> Decision {
        if a.verb != "get" {
            no("can only get individual resources of this type")
        } else if !sub.is_empty() {
            no("cannot get subresource")
        } else {
            self.related(node, a)
        }
    }

    fn account(&self, node: &str, a: &Attributes<'_>, sub: &str) -> Decision {
        if a.verb == "get" && sub.is_empty() {
            return self.read(node, a, sub);
        }
        if a.verb != "create" || a.name.is_empty() {
            no("can only create tokens for individual service accounts")
        } else if sub != "token" {
            no("can only create token subresource of serviceaccount")
        } else {
            self.related(node, a)
        }
    }

    /// What a node writes of pods is cut down further by the NodeRestriction admission.
    fn pod(&self, node: &str, a: &Attributes<'_>, sub: &str) -> Decision {
        match (sub, a.verb) {
            ("", "get") => self.related(node, a),
            ("", "list" | "watch") if a.selects("spec.nodeName", node) => yes(),
            ("", "list" | "watch") if !a.name.is_empty() => self.related(node, a),
            ("", "list" | "watch") => {
                no("can only list/watch pods with spec.nodeName field selector")
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                yes()
            }
            _ => no(""),
        }
    }
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

fn no(why: &str) -> Decision {
    Decision::NoOpinion(why.to_owned())
}

const WRITES: &[&str] = &["get", "create", "update", "patch", "delete"];

fn lease(node: &str, a: &Attributes<'_>) -> Decision {
    if !WRITES.contains(&a.verb) {
        no("can only get, create, update, patch, or delete a node lease")
    } else if a.namespace != "kube-node-lease" {
        no("can only access leases in the \"kube-node-lease\" system namespace")
    } else if a.verb != "create" && a.name != node {
        no("can only access node lease with the same name as the requesting node")
    } else {
        yes()
    }
}

fn reads(a: &Attributes<'_>) -> bool {
    matches!(a.verb, "get" | "list" | "watch")
}

/// What a node asks for is cut down further by the NodeRestriction admission.
fn certificate(node: &str, a: &Attributes<'_>, sub: &str) -> Decision {
    match (sub, a.verb) {
        ("", "create") => yes(),
        ("", "list" | "watch") if a.selects("spec.nodeName", node) => yes(),
        ("", "list" | "watch") => {
            no("can only list/watch podcertificaterequests with nodeName field selector")
        }
        ("", verb) => Decision::NoOpinion(format!("nodes may not {verb} podcertificaterequests")),
        _ => no("nodes may not access the status subresource of PodCertificateRequests"),
    }
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Decision {
    if !WRITES.contains(&a.verb) {
        no("can only get, create, update, patch, or delete a CSINode")
    } else if a.verb != "create" && a.name != node {
        no("can only access CSINode with the same name as the requesting node")
    } else {
        yes()
    }
}

fn own_node(node: &str, a: &Attributes<'_>, sub: &str) -> Decision {
    match (sub, a.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") if a.name == node => yes(),
        ("", "get" | "list" | "watch") if a.name.is_empty() => Decision::NoOpinion(format!(
            "node '{node}' cannot read all nodes, only its own Node object"
        )),
        ("", "get" | "list" | "watch") => Decision::NoOpinion(format!(
            "node '{node}' cannot read '{}', only its own Node object",
            a.name
        )),
        _ => no(""),
    }
}

#[cfg(test)]
mod tests;
