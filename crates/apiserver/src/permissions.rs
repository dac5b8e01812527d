//! What authorization decides from, kept up to date by the cache: the RBAC objects and their
//! index, and which node's pods use what. It is
//! notified of a change before the cache shows it, so a reader of an object can rely on what
//! follows from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use access::rbac::Objects;
use access::{Attributes, Decision, NodeGraph, Policy, Rule, UserInfo};
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use registry::Row;

use crate::cache::{Object, Observe};
use crate::configuration_objects;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The state of authorization.
pub struct Access {
    objects: Mutex<Objects>,
    policy: ArcSwap<Policy>,
    /// `policy` is older than `objects`. Set and cleared with `objects` locked.
    stale: AtomicBool,
    graph: RwLock<NodeGraph>,
    /// What every node may do: the rules of the role `system:node` as built in.
    node_rules: Vec<Rule>,
}

impl Default for Access {
    fn default() -> Self {
        let mut built_in = Objects::default();
        for object in access::bootstrap_policy::bootstrap() {
            if object["metadata"]["name"] == "system:node" && object["kind"] == "ClusterRole" {
                built_in.put_role(&object);
            }
        }
        let rules = built_in.rules("", "system:node").unwrap_or_default();
        Self {
            objects: Mutex::default(),
            policy: ArcSwap::default(),
            stale: AtomicBool::new(false),
            graph: RwLock::default(),
            node_rules: rules.to_vec(),
        }
    }
}

impl Access {
    /// The index over all roles and bindings; built when it is first asked for after a change,
    /// so that many changes in a row cost one building.
    pub fn policy(&self) -> Arc<Policy> {
        if self.stale.load(Ordering::Acquire) {
            let objects = self.objects.lock();
            if self.stale.load(Ordering::Acquire) {
                self.policy.store(Arc::new(objects.policy()));
                self.stale.store(false, Ordering::Release);
            }
        }
        self.policy.load_full()
    }

    /// The node authorizer's answer.
    pub fn node(&self, user: &UserInfo, asked: &Attributes<'_>) -> Decision {
        if user.node().is_none() {
            return Decision::NoOpinion(String::new());
        }
        let statics = |a: &Attributes<'_>| self.node_rules.iter().any(|r| r.allows(a));
        self.graph.read().decide(user, asked, statics)
    }

    /// The rules of a role as they count, aggregation included; `None`: there is no such role.
    pub fn rules_of(&self, namespace: &str, name: &str) -> Option<Arc<Vec<Rule>>> {
        self.objects.lock().rules(namespace, name)
    }

    fn pod(&self, row: &Row, old: Option<&Object>, new: Option<&Object>) {
        match (old, new) {
            (Some(old), Some(new)) if same_uses(row, old, new) => {}
            _ => graph_change(&mut self.graph.write(), "pods", old, new),
        }
    }
}

fn rbac_change(objects: &mut Objects, resource: &str, old: Option<&Object>, new: Option<&Object>) {
    let role = matches!(resource, "roles" | "clusterroles");
    match (new, old) {
        (Some(o), _) if role => objects.put_role(&o.to_value()),
        (Some(o), _) => objects.put_binding(&o.to_value()),
        (None, Some(o)) if role => objects.delete_role(o.namespace(), o.name()),
        (None, Some(o)) => objects.delete_binding(o.namespace(), o.name()),
        (None, None) => {}
    }
}

fn graph_change(graph: &mut NodeGraph, resource: &str, old: Option<&Object>, new: Option<&Object>) {
    match (resource, new, old) {
        ("pods", Some(o), _) => graph.put_pod(&o.to_value()),
        ("pods", None, Some(o)) => graph.delete_pod(o.namespace(), o.name()),
        ("persistentvolumes", Some(o), _) => graph.put_volume(&o.to_value()),
        ("persistentvolumes", None, Some(o)) => graph.delete_volume(o.name()),
        ("volumeattachments", Some(o), _) => graph.put_attachment(&o.to_value()),
        ("volumeattachments", None, Some(o)) => graph.delete_attachment(o.name()),
        _ => {}
    }
}

/// What a pod uses is fixed once it has its node, but for ephemeral containers. This spares
/// parsing each status that a kubelet writes.
fn same_uses(row: &Row, old: &Object, new: &Object) -> bool {
    let nth = row
        .selectable_fields
        .iter()
        .position(|f| &*f.name == "spec.nodeName");
    let Some(nth) = nth else { return false };
    old.field(nth) == new.field(nth)
        && memchr::memmem::find(new.stored(), b"\"ephemeralContainers\"").is_none()
}

impl Observe for Access {
    fn replaced(&self, all: &[(&Row, &Object)]) {
        let (mut objects, mut graph) = (Objects::default(), NodeGraph::default());
        for (row, object) in all {
            match (&*row.group, &*row.resource) {
                (RBAC, resource) => rbac_change(&mut objects, resource, None, Some(object)),
                ("" | "storage.k8s.io", resource) => {
                    graph_change(&mut graph, resource, None, Some(object));
                }
                _ => {}
            }
        }
        *self.graph.write() = graph;
        let mut held = self.objects.lock();
        *held = objects;
        self.stale.store(true, Ordering::Release);
    }

    fn changed(&self, row: &Row, old: Option<&Object>, new: Option<&Object>) {
        match (&*row.group, &*row.resource) {
            (RBAC, resource) => {
                let mut objects = self.objects.lock();
                rbac_change(&mut objects, resource, old, new);
                self.stale.store(true, Ordering::Release);
            }
            ("", "pods") => self.pod(row, old, new),
            ("", "persistentvolumes") | ("storage.k8s.io", "volumeattachments") => {
                graph_change(&mut self.graph.write(), &row.resource, old, new);
            }
            _ => {}
        }
    }
}

/// Whether a server is configured by such objects: by those that decide who may do what, which webhooks
/// and policies are asked, and who waits.
pub fn configures(row: &Row) -> bool {
    matches!(
        &*row.group,
        RBAC | configuration_objects::GROUP | flowcontrol::GROUP
    )
}

/// Whether a write's acknowledgement waits until this server has taken it in: objects that
/// permissions, identities and limits rest on, so that neither a grant nor a withdrawal comes late.
pub fn is_relied_on(row: &Row, deletion: bool) -> bool {
    match (&*row.group, &*row.resource) {
        _ if configures(row) => true,
        ("", "namespaces" | "serviceaccounts" | "secrets") => true,
        // What the next pod of a namespace is held against.
        ("", "limitranges" | "resourcequotas") => true,
        // Tokens end with the pod or node that they are bound to.
        ("", "pods" | "nodes") => deletion,
        _ => false,
    }
}
