//! The collector's decisions against a small model of a cluster: nothing unowned is ever
//! deleted, and all turns come to an end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use client::discovery::Served;
use control::action::Propagation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::core::ApiResource;
use proptest::prelude::*;

use super::graph::{FOREGROUND, Graph, ORPHAN, Owner, OwnerLocation, Uid};
use super::plan::{Live, Reads, Step, decide, misplaced, misplaced_message};

fn served(kind: &str, namespaced: bool) -> Arc<Served> {
    Arc::new(Served {
        resource: ApiResource {
            group: "g".into(),
            version: "v1".into(),
            api_version: "g/v1".into(),
            kind: kind.into(),
            plural: format!("{}s", kind.to_lowercase()),
        },
        namespaced,
        verbs: Vec::new(),
    })
}

fn reference(kind: &str, name: &str, blocking: bool) -> OwnerReference {
    OwnerReference {
        api_version: "g/v1".into(),
        kind: kind.into(),
        name: name.into(),
        uid: name.into(),
        block_owner_deletion: Some(blocking),
        controller: None,
    }
}

/// The UID of an object is its name.
fn meta(namespace: &str, name: &str, owners: Vec<OwnerReference>) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.into()).filter(|n: &String| !n.is_empty()),
        name: Some(name.into()),
        uid: Some(name.into()),
        resource_version: Some("1".into()),
        owner_references: Some(owners),
        ..ObjectMeta::default()
    }
}

/// A cluster whose watches are never late, and the collector's queue.
#[derive(Default)]
struct World {
    objects: BTreeMap<String, ObjectMeta>,
    graph: Graph,
    queue: VecDeque<Uid>,
    /// What went, in order.
    gone: Vec<String>,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        world
            .graph
            .set_kinds([served("A", true), served("C", false)]);
        world
    }

    fn put(&mut self, meta: ObjectMeta) {
        let kind = served(
            if meta.namespace.is_some() { "A" } else { "C" },
            meta.namespace.is_some(),
        );
        let name = meta.name.clone().unwrap_or_default();
        let ends =
            meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().count() == 0;
        if ends {
            self.objects.remove(&name);
            self.gone.push(name.clone());
            self.queue.extend(self.graph.forget(&name));
        } else {
            let (uid, node) = self.graph.node(&kind, &meta);
            self.objects.insert(name, meta);
            self.queue.extend(self.graph.observe(uid, node));
        }
    }

    fn delete(&mut self, name: &str, propagation: Propagation) {
        let Some(mut meta) = self.objects.get(name).cloned() else {
            return;
        };
        let mut finalizers = meta.finalizers.take().unwrap_or_default();
        finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
        finalizers.extend(match propagation {
            Propagation::Background => None,
            Propagation::Foreground => Some(FOREGROUND.to_owned()),
            Propagation::Orphan => Some(ORPHAN.to_owned()),
        });
        meta.finalizers = Some(finalizers);
        meta.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        self.put(meta);
    }

    fn strip(&mut self, name: &str, owners: &[Uid]) {
        if let Some(mut meta) = self.objects.get(name).cloned() {
            let references = meta.owner_references.iter_mut();
            references.for_each(|r| r.retain(|r| !owners.iter().any(|o| **o == *r.uid)));
            self.put(meta);
        }
    }

    fn live(&self, name: &str) -> Live {
        match self.objects.get(name) {
            None => Live::Absent,
            Some(m)
                if m.deletion_timestamp.is_some()
                    && m.finalizers.iter().flatten().any(|f| f == FOREGROUND) =>
            {
                Live::Waiting
            }
            Some(_) => Live::Solid,
        }
    }

    /// What the API says of an owner; the graph takes it in.
    fn read(&mut self, place: &OwnerLocation) -> Live {
        self.graph.read_begins(&place.uid);
        let found = self.objects.get(&*place.uid);
        let turn = self.graph.adopt(&place.uid, &place.served, found);
        self.queue.extend(turn);
        self.live(&place.uid)
    }

    /// One turn. What it deletes must have had owners, none of which stays.
    fn turn(&mut self, uid: &Uid) {
        let mut reads = Reads::new();
        let mut step = decide(&self.graph, uid, &reads);
        if let Step::Read(places) = step {
            for place in places {
                let live = self.read(&place);
                reads.insert(place, live);
            }
            step = decide(&self.graph, uid, &reads);
        }
        match step {
            Step::Nothing | Step::AwaitKinds => {}
            Step::Read(more) => panic!("read again: {more:?}"),
            Step::Dependents(all) => self.queue.extend(all),
            Step::Orphan(all) => {
                for d in &all {
                    self.strip(d, std::slice::from_ref(uid));
                }
                self.unfinalize(uid, ORPHAN);
            }
            Step::RemoveFinalizer(f) => self.unfinalize(uid, f),
            Step::Strip(owners) => self.strip(uid, &owners),
            Step::Delete(propagation) => {
                let owners = self.objects[&**uid]
                    .owner_references
                    .clone()
                    .unwrap_or_default();
                assert!(!owners.is_empty(), "{uid} has no owners");
                let stays = owners.iter().find(|o| self.live(&o.uid) == Live::Solid);
                assert!(stays.is_none(), "{uid} is owned by {stays:?}");
                self.delete(uid, propagation);
            }
        }
    }

    fn unfinalize(&mut self, name: &str, finalizer: &str) {
        if let Some(mut meta) = self.objects.get(name).cloned() {
            meta.finalizers
                .iter_mut()
                .for_each(|f| f.retain(|f| f != finalizer));
            self.put(meta);
        }
    }

    fn run(&mut self, seed: usize) {
        for turns in 0.. {
            assert!(turns < 20_000, "no end: {:?}", self.queue);
            if self.queue.is_empty() {
                return;
            }
            let at = (seed.wrapping_mul(turns + 7)) % self.queue.len();
            if let Some(uid) = self.queue.remove(at) {
                self.turn(&uid);
            }
        }
    }

    fn left(&self) -> Vec<&str> {
        self.objects.keys().map(String::as_str).collect()
    }
}

/// Objects as `name<owner,owner!`, where `!` blocks; the deletion; what is left; the order of
/// what went, where it is certain.
type Case = (
    &'static str,
    (&'static str, Propagation),
    &'static [&'static str],
    &'static [&'static str],
);

fn world(objects: &str) -> World {
    let mut world = World::new();
    for object in objects.split_whitespace() {
        let (name, owners) = object.split_once('<').unwrap_or((object, ""));
        let owners = owners
            .split(',')
            .filter(|o| !o.is_empty())
            .map(|o| reference("A", o.trim_end_matches('!'), o.ends_with('!')));
        world.put(meta("n", name, owners.collect()));
    }
    world
}

#[test]
fn deletions_reach_what_they_should() {
    use Propagation::{Background, Foreground, Orphan};
    let cases: [Case; 9] = [
        ("a b<a c<b d", ("a", Background), &["d"], &["a", "b", "c"]),
        ("a b c<a,b d<a", ("a", Background), &["b", "c"], &["a", "d"]),
        ("a b<a! c<b!", ("a", Foreground), &[], &["c", "b", "a"]),
        ("a b<a!,x x", ("a", Foreground), &["b", "x"], &["a"]),
        ("a b<a!", ("a", Orphan), &["b"], &["a"]),
        ("a b<a! c<b!", ("a", Orphan), &["b", "c"], &["a"]),
        ("a<b! b<a!", ("a", Foreground), &[], &[]),
        ("a<c! b<a! c<b!", ("b", Foreground), &[], &[]),
        ("a<a!", ("a", Foreground), &[], &["a"]),
    ];
    for (objects, (name, how), left, order) in cases {
        let mut w = world(objects);
        w.run(1);
        w.delete(name, how);
        w.run(1);
        assert_eq!(w.left(), left, "{objects} {name} {how:?}");
        if !order.is_empty() {
            assert_eq!(w.gone, order, "{objects} {name} {how:?}");
        }
    }
}

#[test]
fn what_cannot_be_judged_stays() {
    let mut w = World::new();
    w.put(meta("n", "unknown", vec![reference("Z", "z", false)]));
    w.put(meta("", "cluster", vec![reference("A", "gone", false)]));
    w.put(meta("m", "owner", vec![]));
    w.put(meta("n", "stray", vec![reference("A", "owner", false)]));
    let decided = |w: &World, name: &str| decide(&w.graph, name, &Reads::new());
    assert_eq!(decided(&w, "unknown"), Step::AwaitKinds);
    assert_eq!(decided(&w, "cluster"), Step::Nothing);
    // The API is asked where the reference points: in the dependent's namespace.
    let Step::Read(places) = decided(&w, "stray") else {
        panic!("not read");
    };
    assert_eq!(&*places[0].namespace, "n");
    let messages = |name: &str| -> Vec<String> {
        let Some(node) = w.graph.get(name) else {
            return Vec::new();
        };
        let message = |o: &Owner| misplaced_message(node, o);
        misplaced(&w.graph, node).into_iter().map(message).collect()
    };
    assert_eq!(
        messages("stray"),
        [
            "ownerRef [g/v1/A, namespace: n, name: owner, uid: owner] does not exist in namespace \"n\""
        ]
    );
    assert_eq!(messages("cluster").len(), 1);
    assert!(messages("unknown").is_empty() && messages("owner").is_empty());
}

#[test]
fn a_list_forgets_what_it_lacks() {
    let mut w = world("a b<a c");
    let kind = served("A", true);
    let kept = ["b", "c"].into_iter().map(Uid::from).collect();
    // Before the first dependent was decided on, and after it: then its owner is known.
    assert_eq!((w.graph.len(), w.graph.others()), (1, 2));
    assert_eq!(w.graph.retain(&kind, &kept), [Uid::from("b")]);
    let mut w = world("a b<a c");
    w.run(1);
    assert_eq!((w.graph.len(), w.graph.others()), (2, 1));
    assert_eq!(w.graph.retain(&kind, &kept), [Uid::from("b")]);
    assert_eq!((w.graph.len(), w.graph.others()), (1, 1));
    assert!(
        w.graph
            .retain(&served("C", false), &Default::default())
            .is_empty()
    );
}

#[test]
fn an_object_matters_while_it_has_owners_or_dependents() {
    let mut w = world("a b c");
    assert_eq!((w.graph.len(), w.graph.others()), (0, 3));
    w.put(meta("n", "d", vec![reference("A", "a", false)]));
    w.run(1);
    assert_eq!((w.graph.len(), w.graph.others()), (2, 2));
    // Its owner is known by now: nothing is to be decided.
    w.put(meta("n", "e", vec![reference("A", "a", false)]));
    assert!(w.queue.is_empty());
    for (name, len) in [("d", 2), ("e", 0)] {
        w.delete(name, Propagation::Background);
        assert_eq!(
            (w.graph.len(), w.left().contains(&name)),
            (len, false),
            "{name}"
        );
    }
    assert_eq!(w.graph.others(), 3);
    w.delete("a", Propagation::Background);
    assert_eq!(w.graph.others(), 2);
}

#[test]
fn an_owner_that_went_while_it_was_read_is_not_taken_in() {
    let kind = served("A", true);
    for relisted in [false, true] {
        let mut w = world("a b<a");
        let (owner, found) = (Uid::from("a"), w.objects["a"].clone());
        w.queue.clear();
        w.graph.read_begins(&owner);
        // What says that it is gone comes before the answer that it is there.
        let turn = if relisted {
            let kept = [Uid::from("b")].into_iter().collect();
            w.graph.retain(&kind, &kept)
        } else {
            w.graph.forget("a")
        };
        assert_eq!(turn, [Uid::from("b")]);
        assert!(w.graph.adopt(&owner, &kind, Some(&found)).is_empty());
        assert_eq!((w.graph.len(), w.graph.others()), (1, 0));
        w.objects.remove("a");
        w.queue.extend(turn);
        w.run(1);
        assert!(w.left().is_empty());
    }
}

#[derive(Clone, Debug)]
struct OwnedObject {
    /// Owners by number (some never exist), and whether they are blocked.
    owners: Vec<(usize, bool)>,
}

fn made() -> impl Strategy<Value = OwnedObject> {
    proptest::collection::vec((0..14usize, any::<bool>()), 0..3)
        .prop_map(|owners| OwnedObject { owners })
}

proptest! {
    #[test]
    fn nothing_unowned_is_deleted_and_all_comes_to_rest(
        objects in proptest::collection::vec(made(), 1..12),
        deletions in proptest::collection::vec((0..12usize, 0..3u8), 0..5),
        seed in 1..1_000usize,
    ) {
        let mut w = World::new();
        for (i, m) in objects.iter().enumerate() {
            let owners = m.owners.iter().map(|(o, b)| reference("A", &format!("o{o}"), *b)).collect();
            w.put(meta("n", &format!("o{i}"), owners));
        }
        w.run(seed);
        let mut ordered = Vec::new();
        for (i, how) in deletions {
            let name = format!("o{i}");
            let how = [Propagation::Background, Propagation::Foreground, Propagation::Orphan][usize::from(how)];
            w.delete(&name, how);
            ordered.push(name);
        }
        w.run(seed);
        for (i, m) in objects.iter().enumerate() {
            let name = format!("o{i}");
            if m.owners.is_empty() && !ordered.contains(&name) {
                prop_assert!(w.objects.contains_key(&name), "{name} had no owner");
            }
        }
        for (name, meta) in &w.objects {
            prop_assert!(meta.deletion_timestamp.is_none(), "{name} waits for ever");
            let owners = meta.owner_references.as_deref().unwrap_or(&[]);
            let dangling = owners.iter().filter(|o| !w.objects.contains_key(&o.uid)).count();
            prop_assert_eq!(dangling, 0, "{} is left with a dangling owner", name);
        }
    }
}
