//! What a list and a watch say of one kind, folded into what is kept of its objects: values without
//! clock, client or lock. Each event gives the changes that follow from it; a list that lacks an
//! object says that the object is gone.
//!
//! [`Listing`] knows what a list has brought, [`Table`] keeps something of each object by a key,
//! [`Objects`] keeps objects whole, with look-ups by namespace, owner and index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

/// Namespace (empty for objects of the whole cluster) and name.
pub type Key = (String, String);

/// The list that a watch begins with, and each time that the watch has to begin again.
#[derive(Debug)]
pub struct Listing<I> {
    /// What the list that is under way has brought.
    seen: Option<BTreeSet<I>>,
    complete: bool,
}

impl<I> Default for Listing<I> {
    fn default() -> Self {
        Self {
            seen: None,
            complete: false,
        }
    }
}

impl<I: Ord> Listing<I> {
    pub fn begin(&mut self) {
        self.seen = Some(BTreeSet::new());
    }

    /// Notes an object while a list is under way.
    pub fn see(&mut self, key: I) {
        if let Some(seen) = &mut self.seen {
            seen.insert(key);
        }
    }

    /// Ends the list; gives what it has brought.
    pub fn end(&mut self) -> BTreeSet<I> {
        self.complete = true;
        self.seen.take().unwrap_or_default()
    }

    /// Whether a list was ever complete: before, nothing may be taken for absent.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// What is kept under a key has changed; what it is now stands in the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed<I, V> {
    pub key: I,
    pub old: Option<V>,
}

/// What is kept of each object of a list and a watch, in the order of the keys.
#[derive(Debug)]
pub struct Table<I, V> {
    // A tree gives its room back when most of it has gone, and has all of a namespace side by side.
    kept: BTreeMap<I, V>,
    listing: Listing<I>,
}

impl<I, V> Default for Table<I, V> {
    fn default() -> Self {
        Self {
            kept: BTreeMap::new(),
            listing: Listing::default(),
        }
    }
}

impl<I: Clone, V: Clone> Clone for Table<I, V> {
    /// A copy of what is kept; a list under way stays with the original.
    fn clone(&self) -> Self {
        Self {
            kept: self.kept.clone(),
            listing: Listing {
                seen: None,
                complete: self.listing.complete,
            },
        }
    }
}

impl<I: PartialEq, V: PartialEq> PartialEq for Table<I, V> {
    fn eq(&self, other: &Self) -> bool {
        self.kept == other.kept
    }
}

impl<I: Eq, V: Eq> Eq for Table<I, V> {}

impl<I: Ord + Clone, V: PartialEq> Table<I, V> {
    pub fn get(&self, key: &I) -> Option<&V> {
        self.kept.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&I, &V)> {
        self.kept.iter()
    }

    /// What is kept under this key and the keys behind it, in their order.
    pub fn starting(&self, from: I) -> impl Iterator<Item = (&I, &V)> {
        self.kept.range(from..)
    }

    pub fn len(&self) -> usize {
        self.kept.len()
    }
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether a list was ever complete: before, nothing may be taken for absent.
    pub fn is_complete(&self) -> bool {
        self.listing.is_complete()
    }

    /// Takes in an event, and gives what changed by it: nothing for what is as it was. `key` names
    /// an object, and `keep` gives what is kept of it; `None` for an object that does not matter.
    pub fn take<K>(
        &mut self,
        event: Event<K>,
        key: impl Fn(&K) -> I,
        keep: impl Fn(K) -> Option<V>,
    ) -> Vec<Changed<I, V>> {
        let change = match event {
            Event::Init => {
                self.listing.begin();
                None
            }
            Event::InitApply(object) => {
                let key = key(&object);
                self.listing.see(key.clone());
                self.set(key, keep(object))
            }
            Event::InitDone => {
                let listed = self.listing.end();
                let gone = self.kept.keys().filter(|k| !listed.contains(*k));
                let gone: Vec<I> = gone.cloned().collect();
                return gone.into_iter().filter_map(|k| self.set(k, None)).collect();
            }
            Event::Apply(object) => self.set(key(&object), keep(object)),
            Event::Delete(object) => self.set(key(&object), None),
        };
        change.into_iter().collect()
    }

    /// Keeps something else, or nothing, under a key.
    pub fn set(&mut self, key: I, value: Option<V>) -> Option<Changed<I, V>> {
        let old = match value {
            None => Some(self.kept.remove(&key)?),
            Some(value) => match self.kept.get_mut(&key) {
                Some(kept) if *kept == value => {
                    // Equal is not the same: what is newer may be shared with others.
                    *kept = value;
                    return None;
                }
                Some(kept) => Some(std::mem::replace(kept, value)),
                None => {
                    self.kept.insert(key.clone(), value);
                    None
                }
            },
        };
        Some(Changed { key, old })
    }
}

/// What happened to an object. Both are set when it changed.
#[derive(Debug)]
pub struct Change<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        Self {
            old: self.old.clone(),
            new: self.new.clone(),
        }
    }
}

impl<K> Change<K> {
    /// The object as it is, or as it was before its deletion.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// An object as a watch brought it; alike are those of one version.
struct ComparedByVersion<K>(Arc<K>);

impl<K: Resource> PartialEq for ComparedByVersion<K> {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.0.meta(), other.0.meta());
        a.resource_version.is_some() && a.resource_version == b.resource_version
    }
}

/// Computes the values under which an object is found.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

/// How an index is computed, and what it has under each value.
type Index<K> = (IndexFn<K>, HashMap<String, BTreeSet<Key>>);

/// The objects of one kind.
pub struct Objects<K> {
    objects: Table<Key, ComparedByVersion<K>>,
    /// UID of an owner → keys of what it owns.
    owned: HashMap<String, BTreeSet<Key>>,
    indexes: HashMap<&'static str, Index<K>>,
    /// The highest resourceVersion seen, deletions included.
    latest: u64,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self {
            objects: Table::default(),
            owned: HashMap::new(),
            indexes: HashMap::new(),
            latest: 0,
        }
    }
}

/// Namespace and name of an object.
pub fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    (text(&meta.namespace), text(&meta.name))
}

fn link<I: Hash + Eq>(map: &mut HashMap<I, BTreeSet<Key>>, at: I, key: &Key) {
    map.entry(at).or_default().insert(key.clone());
}

fn unlink<I: Hash + Eq>(map: &mut HashMap<I, BTreeSet<Key>>, at: &I, key: &Key) {
    if let Some(set) = map.get_mut(at) {
        set.remove(key);
        if set.is_empty() {
            map.remove(at);
            // After a mass deletion the table would stay as large as it ever was.
            if map.len() < map.capacity() / 8 {
                map.shrink_to(map.len() * 2);
            }
        }
    }
}

impl<K: Resource> Objects<K> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.objects.get(&key).map(|held| held.0.clone())
    }

    /// Everything, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.iter().map(|(_, held)| &held.0)
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = (namespace.to_owned(), String::new());
        let rest = self.objects.kept.range(from..);
        let here = rest.take_while(|((ns, _), _)| ns == namespace);
        here.map(|(_, held)| held.0.clone()).collect()
    }

    /// What has the object with this UID among its owners.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.all(self.owned.get(uid).into_iter().flatten())
    }

    /// What an index (see [`Objects::index`]) has under a value.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let found = self.indexes.get(name).and_then(|(_, map)| map.get(value));
        self.all(found.into_iter().flatten())
    }

    fn all<'a>(&'a self, keys: impl IntoIterator<Item = &'a Key>) -> Vec<Arc<K>> {
        let found = keys.into_iter().filter_map(|k| self.objects.get(k));
        found.map(|held| held.0.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether a list was ever complete: before, nothing may be taken for absent.
    pub fn is_complete(&self) -> bool {
        self.objects.is_complete()
    }

    /// The highest resourceVersion that was seen, deletions included; 0 before anything came.
    pub fn latest_version(&self) -> u64 {
        self.latest
    }

    /// Keeps an index from now on; what is there already is indexed, too.
    pub fn index(&mut self, name: &'static str, of: IndexFn<K>) {
        if self.indexes.contains_key(name) {
            return;
        }
        let mut map = HashMap::new();
        for (key, held) in self.objects.iter() {
            of(&held.0).into_iter().for_each(|v| link(&mut map, v, key));
        }
        self.indexes.insert(name, (of, map));
    }

    /// Takes in an event, and gives what changed by it: nothing for an object that is listed
    /// again as it was.
    pub fn take(&mut self, mut event: Event<K>) -> Vec<Change<K>> {
        match &mut event {
            Event::Apply(object) | Event::InitApply(object) => {
                // Nobody reads here who set which field, and as trees these records are larger
                // than the rest of most objects.
                object.meta_mut().managed_fields = None;
                self.saw(object);
            }
            Event::Delete(object) => self.saw(object),
            Event::Init | Event::InitDone => {}
        }
        let hold = |object| Some(ComparedByVersion(Arc::new(object)));
        let changed = self.objects.take(event, key_of, hold);
        changed.into_iter().map(|c| self.relink(c)).collect()
    }

    fn saw(&mut self, object: &K) {
        let version = object.meta().resource_version.as_deref();
        if let Some(version) = version.and_then(|v| v.parse().ok()) {
            self.latest = self.latest.max(version);
        }
    }

    /// Brings the look-ups up to date.
    fn relink(&mut self, changed: Changed<Key, ComparedByVersion<K>>) -> Change<K> {
        let key = changed.key;
        let old = changed.old.map(|held| held.0);
        let new = self.objects.get(&key).map(|held| held.0.clone());
        if let Some(old) = &old {
            for owner in old.owner_references() {
                unlink(&mut self.owned, &owner.uid, &key);
            }
            for (index, map) in self.indexes.values_mut() {
                index(old).iter().for_each(|value| unlink(map, value, &key));
            }
        }
        if let Some(new) = &new {
            for owner in new.owner_references() {
                link(&mut self.owned, owner.uid.clone(), &key);
            }
            for (index, map) in self.indexes.values_mut() {
                index(new).into_iter().for_each(|v| link(map, v, &key));
            }
        }
        Change { old, new }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn map(name: &str, version: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("a".into());
        map.metadata.resource_version = Some(version.into());
        map
    }

    fn reported(changes: &[Change<ConfigMap>]) -> Vec<(bool, bool)> {
        let both = |c: &Change<ConfigMap>| (c.old.is_some(), c.new.is_some());
        changes.iter().map(both).collect()
    }

    #[test]
    fn events_give_the_changes_that_follow_from_them() {
        let mut objects = Objects::default();
        assert_eq!(reported(&objects.take(Event::Init)), []);
        let first = objects.take(Event::InitApply(map("x", "1")));
        assert_eq!(reported(&first), [(false, true)]);
        assert_eq!(
            reported(&objects.take(Event::InitApply(map("y", "2")))),
            [(false, true)]
        );
        assert_eq!(reported(&objects.take(Event::InitDone)), []);
        assert_eq!(
            reported(&objects.take(Event::Apply(map("x", "3")))),
            [(true, true)]
        );
        assert_eq!(
            reported(&objects.take(Event::Delete(map("x", "4")))),
            [(true, false)]
        );
        assert_eq!(reported(&objects.take(Event::Delete(map("x", "4")))), []);
        assert_eq!(objects.latest_version(), 4);
        // A later list: y is as it was, z is new.
        objects.take(Event::Init);
        assert_eq!(reported(&objects.take(Event::InitApply(map("y", "2")))), []);
        assert_eq!(
            reported(&objects.take(Event::InitApply(map("z", "5")))),
            [(false, true)]
        );
        assert_eq!(reported(&objects.take(Event::InitDone)), []);
        // And one that lacks both.
        objects.take(Event::Init);
        assert_eq!(reported(&objects.take(Event::InitDone)), [(true, false); 2]);
        assert!(objects.is_empty() && objects.in_namespace("a").is_empty());
    }

    #[test]
    fn a_namespace_has_its_own_objects_only() {
        let mut objects = Objects::default();
        for (namespace, name) in [("a", "x"), ("a-b", "y"), ("a", "z"), ("", "w"), ("b", "v")] {
            let mut object = map(name, "1");
            object.metadata.namespace = Some(namespace.into()).filter(|n: &String| !n.is_empty());
            object.metadata.managed_fields = Some(Vec::new());
            objects.take(Event::Apply(object));
        }
        let names = |namespace: &str| -> Vec<String> {
            let all = objects.in_namespace(namespace);
            all.iter().map(|o| o.name_any()).collect()
        };
        assert_eq!(names("a"), ["x", "z"]);
        assert_eq!(names(""), ["w"]);
        assert_eq!(names("c"), [""; 0]);
        assert!(objects.iter().all(|o| o.metadata.managed_fields.is_none()));
    }

    #[test]
    fn a_table_keeps_what_matters_and_says_what_differs() {
        let mut table = Table::default();
        // Kept is the first letter; objects whose name begins with `_` do not matter.
        let mut take = |event| {
            let key = |name: &&'static str| *name;
            table.take(event, key, |n| n.chars().next().filter(|c| *c != '_'))
        };
        assert_eq!(take(Event::Init), []);
        let news = |key, old| vec![Changed { key, old }];
        assert_eq!(take(Event::InitApply("x")), news("x", None));
        assert_eq!(take(Event::InitApply("_")), []);
        assert_eq!(take(Event::InitDone), []);
        assert_eq!(take(Event::Apply("x")), []);
        assert_eq!(take(Event::Delete("_")), []);
        // A list that lacks it, and another that is not complete.
        assert_eq!(take(Event::Init), []);
        assert_eq!(take(Event::InitApply("y")), news("y", None));
        assert_eq!(take(Event::Init), []);
        assert_eq!(take(Event::InitApply("y")), []);
        assert_eq!(take(Event::InitDone), news("x", Some('x')));
        assert!(table.is_complete() && table.len() == 1);
    }
}
