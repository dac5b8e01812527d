//! The node authorizer: a node may read the secrets, config maps and service accounts that pods
//! bound to it use, its own Node and Lease, and its own pods
//! (documentation "Using Node Authorization").

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::attributes::{Attributes, Decision, UserInfo};

/// What a pod uses: resource, namespace, name.
type Used = (&'static str, String, String);

/// Which node's pods use which objects.
#[derive(Default)]
pub struct NodeGraph {
    /// Pod (namespace, name) → its node and what it uses.
    pods: HashMap<(String, String), (String, Vec<Used>)>,
    /// (node, resource) → (namespace, name) → number of pods that use it.
    uses: HashMap<(String, &'static str), BTreeMap<(String, String), u32>>,
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

    /// The node authorizer's answer; users that are no nodes are none of its business.
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
        let no = |why: String| Decision::NoOpinion(why);
        if !a.is_resource {
            return no(String::new());
        }
        let reads = matches!(a.verb, "get" | "list" | "watch");
        match (a.group, a.resource) {
            ("", "secrets" | "configmaps" | "persistentvolumeclaims")
                if reads && a.subresource.is_empty() =>
            {
                let resource = match a.resource {
                    "secrets" => "secrets",
                    "configmaps" => "configmaps",
                    _ => "persistentvolumeclaims",
                };
                if a.name.is_empty() {
                    no(format!("can only read {resource} by name"))
                } else if self.is_used(node, resource, a.namespace, a.name) {
                    Decision::Allow("a pod of this node uses it".into())
                } else {
                    no(format!(
                        "no relationship found between node '{node}' and this object"
                    ))
                }
            }
            ("", "serviceaccounts") if matches!(a.subresource, "token" | "") => {
                let wanted = (a.subresource == "token" && a.verb == "create")
                    || (a.subresource.is_empty() && a.verb == "get");
                if wanted && self.is_used(node, "serviceaccounts", a.namespace, a.name) {
                    Decision::Allow("a pod of this node runs as it".into())
                } else {
                    no(format!(
                        "no relationship found between node '{node}' and this object"
                    ))
                }
            }
            ("coordination.k8s.io", "leases") => {
                let own =
                    a.namespace == "kube-node-lease" && (a.name == node || a.verb == "create");
                let verb = matches!(a.verb, "get" | "create" | "update" | "patch" | "delete");
                if own && verb {
                    Decision::Allow("its own lease".into())
                } else {
                    no("can only access the node's own lease".into())
                }
            }
            ("", "nodes") if a.verb == "get" && !a.name.is_empty() && a.name != node => {
                no(format!(
                    "node '{node}' cannot read '{}', only its own Node object",
                    a.name
                ))
            }
            _ if static_rules(a) => Decision::Allow("nodes may".into()),
            _ => no(String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str) -> Value {
        json!({
            "metadata": { "name": name, "namespace": "a" },
            "spec": {
                "nodeName": node, "serviceAccountName": "sa",
                "volumes": [{ "secret": { "secretName": "s" } }, { "projected": { "sources": [{ "configMap": { "name": "c" } }] } }],
                "containers": [{ "env": [{ "valueFrom": { "secretKeyRef": { "name": "e" } } }] }],
            },
        })
    }

    fn asks(graph: &NodeGraph, verb: &str, resource: &str, sub: &str, name: &str) -> bool {
        let user = UserInfo::new("system:node:n1", &["system:nodes"]);
        let a = Attributes {
            verb,
            is_resource: true,
            resource,
            subresource: sub,
            namespace: "a",
            name,
            ..Attributes::default()
        };
        graph.decide(&user, &a, |_| false).is_allowed()
    }

    #[test]
    fn a_node_reads_what_its_pods_use() {
        let mut graph = NodeGraph::default();
        graph.put_pod(&pod("p", "n1"));
        graph.put_pod(&pod("q", "n1"));
        for (resource, name) in [("secrets", "s"), ("secrets", "e"), ("configmaps", "c")] {
            assert!(asks(&graph, "get", resource, "", name), "{resource} {name}");
        }
        assert!(asks(&graph, "create", "serviceaccounts", "token", "sa"));
        assert!(!asks(&graph, "get", "secrets", "", "other"));
        assert!(!asks(&graph, "list", "secrets", "", ""));
        graph.delete_pod("a", "p");
        assert!(asks(&graph, "get", "secrets", "", "s"));
        graph.put_pod(&pod("q", "n2"));
        assert!(!asks(&graph, "get", "secrets", "", "s"));
    }

    #[test]
    fn leases_and_nodes_are_its_own() {
        let graph = NodeGraph::default();
        let user = UserInfo::new("system:node:n1", &["system:nodes"]);
        let lease = |name| Attributes {
            verb: "update",
            is_resource: true,
            group: "coordination.k8s.io",
            resource: "leases",
            namespace: "kube-node-lease",
            name,
            ..Attributes::default()
        };
        assert!(graph.decide(&user, &lease("n1"), |_| false).is_allowed());
        assert!(!graph.decide(&user, &lease("n2"), |_| true).is_allowed());
        let other = UserInfo::new("system:node:n1", &[]);
        assert!(!graph.decide(&other, &lease("n1"), |_| true).is_allowed());
    }
}
