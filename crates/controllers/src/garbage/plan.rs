//! Decides about one object of the graph, and says how it is done. Nothing is deleted on the
//! graph's word alone: an owner counts as gone only when a read of the API has said so. Every write
//! names the object by its UID and version; a race with another write ends in another decision.

use std::collections::HashMap;

use control::action::{Patch, Propagation, Target};
use control::{Action, Plan};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::graph::{FOREGROUND, Graph, Node, ORPHAN, Owner, OwnerLocation, Pointed, Uid};

/// What a read said of an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Live {
    /// Not there, or another object by this name.
    Absent,
    /// There, and it stays (or goes in some way that is not ours).
    Solid,
    /// There, but its deletion waits for its dependents.
    Waiting,
}

pub type Reads = HashMap<OwnerLocation, Live>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Nothing,
    /// Read these owners, then decide again.
    Read(Vec<OwnerLocation>),
    /// An owner is of a kind that is not served: decide again when kinds have changed.
    AwaitKinds,
    /// These dependents are to be decided on; the object's own turn comes when they are gone.
    Dependents(Vec<Uid>),
    /// Take the object out of these dependents' owners, then remove its finalizer.
    Orphan(Vec<Uid>),
    RemoveFinalizer(&'static str),
    /// Take these owners out of the object's references; others keep it.
    Strip(Vec<Uid>),
    Delete(Propagation),
}

/// When a decision met a change that the graph does not show yet.
pub const AGAIN_MILLIS: u64 = 20;

/// An object, what was decided about it, and what the API says of those that are to be written.
pub struct Observed {
    pub uid: Uid,
    pub node: Node,
    pub step: Step,
    /// The object as it is now, where it is written or somebody else has just written it.
    pub own: Option<ObjectMeta>,
    /// It went while it was looked at.
    pub gone: bool,
    /// Dependents that are to be orphaned, as they are now.
    pub dependents: Vec<(Node, ObjectMeta)>,
    /// What is to be reported in events.
    pub misplaced: Vec<String>,
    /// Not yet: decide again after so many milliseconds.
    pub later: Option<u64>,
}

impl Observed {
    pub fn new(uid: Uid, node: Node) -> Self {
        Self {
            uid,
            node,
            step: Step::Nothing,
            own: None,
            gone: false,
            dependents: Vec::new(),
            misplaced: Vec::new(),
            later: None,
        }
    }
}

/// How what was decided is done.
pub fn plan(seen: &Observed) -> Plan {
    let mut plan = Plan::nothing();
    plan.actions
        .extend(seen.misplaced.iter().map(|message| Action::Event {
            about: reference(&seen.uid, &seen.node),
            warning: true,
            reason: "OwnerRefInvalidNamespace",
            message: message.clone(),
        }));
    if let Some(later) = seen.later {
        plan.wake_after_millis = Some(later);
        return plan;
    }
    let own = |make: fn(&ObjectMeta, &str) -> Option<Value>, what: &str| {
        let meta = seen.own.as_ref()?;
        Some(change(&seen.node, meta, make(meta, what)?))
    };
    match &seen.step {
        Step::Nothing | Step::AwaitKinds | Step::Dependents(_) => {}
        // Its owners changed while they were read.
        Step::Read(_) => plan.wake_after_millis = Some(AGAIN_MILLIS),
        Step::Orphan(_) if seen.dependents.is_empty() => {
            plan.actions.extend(own(without_finalizer, ORPHAN));
        }
        Step::Orphan(_) => {
            let strip = |(node, meta): &(Node, ObjectMeta)| {
                let owners = std::slice::from_ref(&seen.uid);
                Some(change(node, meta, without_owners(meta, owners)?))
            };
            plan.actions
                .extend(seen.dependents.iter().filter_map(strip));
            // The finalizer goes when none of them names the object any more.
            plan.wake_after_millis = Some(0);
        }
        Step::RemoveFinalizer(finalizer) => plan.actions.extend(own(without_finalizer, finalizer)),
        Step::Strip(owners) => {
            let meta = seen.own.as_ref();
            let changed =
                meta.and_then(|m| Some(change(&seen.node, m, without_owners(m, owners)?)));
            plan.actions.extend(changed);
        }
        Step::Delete(_) if seen.gone => {}
        Step::Delete(propagation) => plan.actions.push(delete(seen, *propagation)),
    }
    plan
}

fn target(node: &Node) -> Target {
    Target {
        resource: node.served.resource.clone(),
        namespace: node.namespace.to_string(),
        name: node.name.to_string(),
    }
}

fn delete(seen: &Observed, propagation: Propagation) -> Action {
    let known = (seen.node.version > 0).then(|| seen.node.version.to_string());
    let live = seen.own.as_ref().map(|m| m.resource_version.clone());
    Action::Delete {
        target: target(&seen.node),
        uid: Some(seen.uid.to_string()),
        resource_version: live.unwrap_or(known),
        grace_seconds: None,
        propagation: Some(propagation),
    }
}

/// Changes metadata of the object as it was read.
fn change(node: &Node, meta: &ObjectMeta, mut change: Value) -> Action {
    change["uid"] = json!(meta.uid);
    change["resourceVersion"] = json!(meta.resource_version);
    Action::Patch {
        target: target(node),
        subresource: "",
        patch: Patch::Merge(json!({ "metadata": change })),
    }
}

/// Whether the object names this owner.
pub fn has_owner(meta: &ObjectMeta, owner: &str) -> bool {
    meta.owner_references
        .iter()
        .flatten()
        .any(|r| r.uid == owner)
}

fn without_owners(meta: &ObjectMeta, owners: &[Uid]) -> Option<Value> {
    let old = meta.owner_references.as_deref().unwrap_or(&[]);
    let goes = |uid: &str| owners.iter().any(|o| **o == *uid);
    let kept: Vec<_> = old.iter().filter(|r| !goes(&r.uid)).collect();
    (kept.len() < old.len()).then(|| json!({ "ownerReferences": or_null(kept) }))
}

fn without_finalizer(meta: &ObjectMeta, finalizer: &str) -> Option<Value> {
    let old = meta.finalizers.as_deref().unwrap_or(&[]);
    let kept: Vec<_> = old.iter().filter(|f| *f != finalizer).collect();
    (kept.len() < old.len()).then(|| json!({ "finalizers": or_null(kept) }))
}

fn or_null<T: serde::Serialize>(list: Vec<T>) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

fn reference(uid: &str, node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some(node.served.resource.api_version.clone()),
        kind: Some(node.served.resource.kind.clone()),
        namespace: Some(node.namespace.to_string()).filter(|n| !n.is_empty()),
        name: Some(node.name.to_string()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// Decides about one object with what was read of its owners so far.
pub fn decide(graph: &Graph, uid: &str, reads: &Reads) -> Step {
    let Some(node) = graph.get(uid) else {
        return Step::Nothing;
    };
    match (node.deleting, node.orphan, node.foreground) {
        (true, true, _) => Step::Orphan(
            graph
                .dependents(uid)
                .filter(|(d, _)| &***d != uid)
                .map(|(d, _)| d.clone())
                .collect(),
        ),
        (true, false, true) => in_foreground(graph, uid),
        // The last finalizer or the grace period ends it; its dependents come then.
        (true, false, false) => Step::Nothing,
        (false, ..) => by_owners(graph, uid, node, reads),
    }
}

fn in_foreground(graph: &Graph, uid: &str) -> Step {
    let blocking: Vec<(&Uid, &Node)> = graph.blocking(uid).collect();
    if blocking.is_empty() {
        return Step::RemoveFinalizer(FOREGROUND);
    }
    let alive = blocking.iter().filter(|(_, n)| !n.deleting);
    Step::Dependents(alive.map(|(d, _)| (*d).clone()).collect())
}

fn by_owners(graph: &Graph, uid: &str, node: &Node, reads: &Reads) -> Step {
    if node.owners.is_empty() {
        return Step::Nothing;
    }
    let (mut solid, mut absent, mut waiting, mut unread) = (0, vec![], vec![], vec![]);
    for owner in &node.owners {
        if graph.is_solid(node, owner) {
            solid += 1;
            continue;
        }
        let place = match graph.pointed(&node.namespace, owner) {
            Pointed::At(place) => place,
            Pointed::UnknownKind => return Step::AwaitKinds,
            // Wrong, but no reason to delete anything.
            Pointed::OutOfScope => return Step::Nothing,
        };
        match reads.get(&place) {
            None => unread.push(place),
            Some(Live::Solid) => solid += 1,
            Some(Live::Absent) => absent.push(owner.uid.clone()),
            Some(Live::Waiting) => waiting.push(owner.uid.clone()),
        }
    }
    if !unread.is_empty() {
        return Step::Read(unread);
    }
    let waited_for = !waiting.is_empty();
    match (solid, absent.is_empty() && !waited_for) {
        (_, true) => Step::Nothing,
        (0, false) => Step::Delete(propagation(graph, uid, node, waited_for)),
        (_, false) => {
            // Without this an owner would wait for an object that stays.
            absent.append(&mut waiting);
            Step::Strip(absent)
        }
    }
}

fn propagation(graph: &Graph, uid: &str, node: &Node, waited_for: bool) -> Propagation {
    if waited_for && graph.dependents(uid).next().is_some() {
        // The owner waits for the whole tree, not for its first branches.
        return Propagation::Foreground;
    }
    match (node.orphan, node.foreground) {
        (true, _) => Propagation::Orphan,
        (false, true) => Propagation::Foreground,
        (false, false) => Propagation::Background,
    }
}

/// References to owners in a namespace where they cannot own the object; an event reports them.
pub fn misplaced<'a>(graph: &'a Graph, node: &'a Node) -> Vec<&'a Owner> {
    let wrong = |o: &&Owner| {
        graph.is_misplaced(node, o) || graph.pointed(&node.namespace, o) == Pointed::OutOfScope
    };
    node.owners.iter().filter(wrong).collect()
}

/// The text of the event about such a reference.
pub fn misplaced_message(node: &Node, owner: &Owner) -> String {
    format!(
        "ownerRef [{}/{}, namespace: {ns}, name: {}, uid: {}] does not exist in namespace {ns:?}",
        owner.kind.api_version,
        owner.kind.kind,
        owner.name,
        owner.uid,
        ns = &*node.namespace,
    )
}
