//! Which object owns which: a value without clock, client or lock. It keeps of each object only
//! what the decisions in [`super::plan`] need, and says after each change whose turn it is to be
//! decided.
//!
//! Most objects of a cluster own nothing and have no owner: of those it keeps that they are there,
//! and no more. When one gets its first dependent, a read of the API says what it is
//! ([`Graph::adopt`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use client::discovery::Served;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub type Uid = Arc<str>;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// What an owner reference names besides the object; shared by all references that are alike.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OwnerKind {
    pub api_version: String,
    pub kind: String,
}

impl OwnerKind {
    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(g, _)| g)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    pub kind: Arc<OwnerKind>,
    pub name: Box<str>,
    pub uid: Uid,
    /// The owner's deletion in the foreground waits for this dependent.
    pub blocking: bool,
}

/// An object, as the graph keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub served: Arc<Served>,
    /// Empty for objects of the whole cluster.
    pub namespace: Arc<str>,
    pub name: Box<str>,
    /// The resourceVersion; 0 when it is not a number.
    pub version: u64,
    pub owners: Box<[Owner]>,
    pub deleting: bool,
    /// Has the finalizer of deletion in the foreground.
    pub foreground: bool,
    /// Has the finalizer that orphans dependents.
    pub orphan: bool,
}

impl Node {
    /// Its deletion waits for its dependents.
    pub fn is_waiting(&self) -> bool {
        self.deleting && self.foreground
    }
    /// Its deletion waits until its dependents have been let go.
    pub fn is_orphaning(&self) -> bool {
        self.deleting && self.orphan
    }
    pub fn owner(&self, uid: &str) -> Option<&Owner> {
        self.owners.iter().find(|o| &*o.uid == uid)
    }
}

/// Where an owner should be, by a reference to it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OwnerLocation {
    pub served: Arc<Served>,
    pub namespace: Arc<str>,
    pub name: Box<str>,
    pub uid: Uid,
}

/// What a reference points to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pointed {
    At(OwnerLocation),
    /// A kind that is not served, or not yet.
    UnknownKind,
    /// An object of the whole cluster names an owner that lives in some namespace.
    OutOfScope,
}

/// Objects without owners and dependents: hash of the UID → hash of the namespace, or zero for
/// those of the whole cluster. Only what is reported depends on it, never a deletion.
type Others = HashMap<u64, u64>;

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() | 1
}

fn hash_of_namespace(namespace: &str) -> u64 {
    if namespace.is_empty() {
        0
    } else {
        hash(namespace)
    }
}

/// Gives room back after a mass deletion: a table would stay as large as it ever was.
fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    others: HashMap<Arc<Served>, Others>,
    /// Owners that are being read, and whether they went meanwhile.
    reading: HashMap<Uid, bool>,
    /// Owner → dependents, also of owners that are not there.
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    kinds: HashMap<(String, String), Arc<Served>>,
    texts: HashSet<Arc<str>>,
    owner_kinds: HashSet<Arc<OwnerKind>>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }
    /// Objects of which more is kept than that they are there.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// Objects of which only that is kept.
    pub fn others(&self) -> usize {
        self.others.values().map(HashMap::len).sum()
    }

    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Uid, &Node)> {
        let all = self.dependents.get(uid).into_iter().flatten();
        all.filter_map(|d| self.nodes.get_key_value(d))
    }

    /// Dependents for which the deletion of their owner waits. One that itself waits for the
    /// owner, directly or through others, does not count: a circle would never end.
    pub fn blocking<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = (&'a Uid, &'a Node)> {
        self.blocks(uid)
            .filter(move |(d, n)| !(n.is_waiting() && self.waits_for(d, uid)))
    }

    fn blocks<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = (&'a Uid, &'a Node)> {
        self.dependents(uid)
            .filter(move |(d, n)| &***d != uid && n.owner(uid).is_some_and(|o| o.blocking))
    }

    fn waits_for(&self, from: &str, target: &str) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for (d, n) in self.blocks(at) {
                if &**d == target {
                    return true;
                }
                if n.is_waiting() && seen.insert(&**d) {
                    open.push(d);
                }
            }
        }
        false
    }

    /// All kinds that are served, whether their objects are watched or not.
    pub fn set_kinds(&mut self, served: impl IntoIterator<Item = Arc<Served>>) {
        self.kinds.clear();
        for s in served {
            let key = (s.resource.group.clone(), s.resource.kind.clone());
            self.kinds.entry(key).or_insert(s);
        }
    }

    /// Where an owner of an object in `namespace` should be.
    pub fn pointed(&self, namespace: &Arc<str>, owner: &Owner) -> Pointed {
        let key = (owner.kind.group().to_owned(), owner.kind.kind.clone());
        let Some(served) = self.kinds.get(&key) else {
            return Pointed::UnknownKind;
        };
        if served.namespaced && namespace.is_empty() {
            return Pointed::OutOfScope;
        }
        Pointed::At(OwnerLocation {
            served: served.clone(),
            namespace: if served.namespaced {
                namespace.clone()
            } else {
                Arc::from("")
            },
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        })
    }

    /// The owner is there, where the reference says, and stays.
    pub fn is_solid(&self, node: &Node, owner: &Owner) -> bool {
        self.nodes
            .get(&owner.uid)
            .is_some_and(|o| !o.is_waiting() && is_at(node, owner, o))
    }

    /// The owner is there, but in another namespace than it may be.
    pub fn is_misplaced(&self, node: &Node, owner: &Owner) -> bool {
        if let Some(o) = self.nodes.get(&owner.uid) {
            return !o.namespace.is_empty() && o.namespace != node.namespace;
        }
        let (uid, here) = (hash(&owner.uid), hash_of_namespace(&node.namespace));
        let mut there = self.others.values().filter_map(|others| others.get(&uid));
        there.any(|namespace| *namespace != 0 && *namespace != here)
    }

    /// More than its being there matters.
    fn matters(&self, uid: &str, node: &Node) -> bool {
        !node.owners.is_empty()
            || node.is_waiting()
            || node.is_orphaning()
            || self.dependents.contains_key(uid)
    }

    fn keep(&mut self, uid: Uid, node: Node) {
        if self.matters(&uid, &node) {
            if let Some(others) = self.others.get_mut(&node.served) {
                others.remove(&hash(&uid));
            }
            self.nodes.insert(uid, node);
        } else {
            let namespace = hash_of_namespace(&node.namespace);
            self.nodes.remove(&uid);
            let others = self.others.entry(node.served).or_default();
            others.insert(hash(&uid), namespace);
        }
    }

    /// An owner is about to be read.
    pub fn read_begins(&mut self, uid: &Uid) {
        self.reading.entry(uid.clone()).or_insert(false);
    }

    /// A read of an owner has ended: with what it said, if the owner is there. One that went while
    /// it was read is not taken in, since nobody would say once more that it is gone.
    pub fn adopt(
        &mut self,
        uid: &Uid,
        served: &Arc<Served>,
        live: Option<&ObjectMeta>,
    ) -> Vec<Uid> {
        let went = self.reading.remove(uid).unwrap_or(true);
        match live {
            Some(meta) if !went && !self.nodes.contains_key(uid) => {
                let (uid, node) = self.node(served, meta);
                self.observe(uid, node)
            }
            _ => Vec::new(),
        }
    }

    fn needs_decision(&self, node: &Node) -> bool {
        if node.deleting {
            return node.foreground || node.orphan;
        }
        node.owners.iter().any(|o| !self.is_solid(node, o))
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let made: Arc<str> = Arc::from(text);
        self.texts.insert(made.clone());
        made
    }

    fn uid(&self, uid: &str) -> Uid {
        if let Some((known, _)) = self.nodes.get_key_value(uid) {
            return known.clone();
        }
        let known = self.dependents.get_key_value(uid);
        known.map_or_else(|| Arc::from(uid), |(k, _)| k.clone())
    }

    fn owner_of(&mut self, reference: &OwnerReference) -> Owner {
        let kind = OwnerKind {
            api_version: reference.api_version.clone(),
            kind: reference.kind.clone(),
        };
        let kind = match self.owner_kinds.get(&kind) {
            Some(known) => known.clone(),
            None => {
                let made = Arc::new(kind);
                self.owner_kinds.insert(made.clone());
                made
            }
        };
        Owner {
            kind,
            name: reference.name.as_str().into(),
            uid: self.uid(&reference.uid),
            blocking: reference.block_owner_deletion == Some(true),
        }
    }

    /// The node of an object that was seen.
    pub fn node(&mut self, served: &Arc<Served>, meta: &ObjectMeta) -> (Uid, Node) {
        let has = |f: &str| meta.finalizers.iter().flatten().any(|x| x == f);
        let references = meta.owner_references.as_deref().unwrap_or(&[]);
        let node = Node {
            served: served.clone(),
            namespace: self.text(meta.namespace.as_deref().unwrap_or_default()),
            name: meta.name.as_deref().unwrap_or_default().into(),
            version: meta
                .resource_version
                .as_deref()
                .and_then(|v| v.parse().ok())
                .unwrap_or(0),
            owners: references.iter().map(|r| self.owner_of(r)).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        };
        (self.uid(meta.uid.as_deref().unwrap_or_default()), node)
    }

    /// An object is new or has changed. Gives the objects that are to be decided on now.
    pub fn observe(&mut self, uid: Uid, node: Node) -> Vec<Uid> {
        let old = self.nodes.get(&uid).cloned();
        let mut turn = Vec::new();
        if old.as_ref().is_none_or(|o| o.owners != node.owners) {
            for o in old.iter().flat_map(|o| o.owners.iter()) {
                self.unlink(&o.uid, &uid);
                // It may have been the last that its owner waited for.
                turn.extend(self.waiting(&o.uid));
            }
            for o in &node.owners {
                let dependents = self.dependents.entry(o.uid.clone()).or_default();
                dependents.insert(uid.clone());
            }
        }
        let (news, waits) = (old.is_none(), node.is_waiting());
        let began = waits && !old.is_some_and(|o| o.is_waiting());
        if waits || self.needs_decision(&node) {
            turn.push(uid.clone());
        }
        if waits {
            // A circle may have closed.
            let owners = node.owners.iter();
            turn.extend(owners.flat_map(|o| self.waiting(&o.uid)));
        }
        self.keep(uid.clone(), node);
        if began || news {
            let concerned = self.dependents(&uid).filter(|(_, d)| {
                !d.deleting && (began || d.owner(&uid).is_some_and(|o| !self.is_solid(d, o)))
            });
            let concerned: Vec<Uid> = concerned.map(|(d, _)| d.clone()).collect();
            turn.extend(concerned);
        }
        turn
    }

    fn waiting(&self, uid: &str) -> Option<Uid> {
        let (uid, node) = self.nodes.get_key_value(uid)?;
        (node.is_waiting() || node.is_orphaning()).then(|| uid.clone())
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(all) = self.dependents.get_mut(owner) {
            all.remove(dependent);
            if all.is_empty() {
                self.dependents.remove(owner);
                shrink(&mut self.dependents);
                if let Some((uid, node)) = self.nodes.remove_entry(owner) {
                    self.keep(uid, node);
                }
            }
        }
    }

    /// An object has gone. Gives the objects that are to be decided on now.
    pub fn forget(&mut self, uid: &str) -> Vec<Uid> {
        if let Some(went) = self.reading.get_mut(uid) {
            *went = true;
        }
        let mut turn = Vec::new();
        match self.nodes.remove_entry(uid) {
            Some((uid, node)) => {
                for o in &node.owners {
                    self.unlink(&o.uid, &uid);
                    turn.extend(self.waiting(&o.uid));
                }
                shrink(&mut self.nodes);
            }
            None => {
                for others in self.others.values_mut() {
                    others.remove(&hash(uid));
                    shrink(others);
                }
            }
        }
        turn.extend(self.dependents(uid).map(|(d, _)| d.clone()));
        turn
    }

    /// Those of a resource that are not listed; gives the hashes of their UIDs.
    fn forget_others(&mut self, served: &Served, listed: &BTreeSet<Uid>) -> HashSet<u64> {
        let Some(others) = self.others.get_mut(served) else {
            return HashSet::new();
        };
        let here: HashSet<u64> = listed.iter().map(|uid| hash(uid)).collect();
        let gone: HashSet<u64> = others
            .keys()
            .filter(|uid| !here.contains(*uid))
            .copied()
            .collect();
        others.retain(|uid, _| here.contains(uid));
        shrink(others);
        if others.is_empty() {
            self.others.remove(served);
        }
        gone
    }

    /// After a list of a resource: what is not in it has gone.
    pub fn retain(&mut self, served: &Served, listed: &BTreeSet<Uid>) -> Vec<Uid> {
        let mut gone: Vec<Uid> = self
            .nodes
            .iter()
            .filter(|(uid, n)| *n.served == *served && !listed.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        // The map has no order of its own.
        gone.sort();
        for (_, went) in self
            .reading
            .iter_mut()
            .filter(|(uid, _)| !listed.contains(*uid))
        {
            // Perhaps of another kind; then it is read once more than needed.
            *went = true;
        }
        let went = self.forget_others(served, listed);
        let mut turn: Vec<Uid> = gone.iter().flat_map(|uid| self.forget(uid)).collect();
        let owners = self.dependents.iter();
        let lost = owners.filter(|(uid, _)| went.contains(&hash(uid)));
        turn.extend(lost.flat_map(|(_, dependents)| dependents.iter().cloned()));
        turn.retain(|uid| self.nodes.contains_key(uid));
        // Namespaces that came and went leave their names behind.
        self.texts.retain(|t| Arc::strong_count(t) > 1);
        self.owner_kinds.retain(|k| Arc::strong_count(k) > 1);
        turn
    }
}

/// Whether `found` is what the reference of `node` describes.
fn is_at(node: &Node, owner: &Owner, found: &Node) -> bool {
    let r = &found.served.resource;
    owner.kind.kind == r.kind
        && owner.kind.group() == r.group
        && owner.name == found.name
        && (found.namespace.is_empty() || found.namespace == node.namespace)
}
