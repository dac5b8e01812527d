//! Decides about one object of the graph. Nothing is deleted on the graph's word alone: an owner
//! counts as gone only when a read of the API has said so.

use std::collections::HashMap;

use control::action::Propagation;

use super::graph::{FOREGROUND, Graph, Node, Owner, Place, Pointed, Uid};

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

pub type Reads = HashMap<Place, Live>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Nothing,
    /// Read these owners, then decide again.
    Read(Vec<Place>),
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

/// References to owners in a namespace where they cannot own the object; people are told.
pub fn misplaced<'a>(graph: &'a Graph, node: &'a Node) -> Vec<&'a Owner> {
    let wrong = |o: &&Owner| {
        graph.is_misplaced(node, o) || graph.pointed(&node.namespace, o) == Pointed::OutOfScope
    };
    node.owners.iter().filter(wrong).collect()
}

/// What people are told about such a reference.
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
