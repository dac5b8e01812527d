//! What a list and a watch say of one kind, folded into objects with look-ups: a value without
//! clock, client or lock. Each event gives the changes that follow from it; a list that lacks an
//! object says that the object is gone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

/// Namespace (empty for objects of the whole cluster) and name.
pub type Key = (String, String);

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

/// Computes the values under which an object is found.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

/// How an index is computed, and what it has under each value.
type Index<K> = (IndexFn<K>, HashMap<String, BTreeSet<Key>>);

/// The objects of one kind.
pub struct Objects<K> {
    objects: HashMap<Key, Arc<K>>,
    namespaces: HashMap<String, BTreeSet<String>>,
    /// UID of an owner → keys of what it owns.
    owned: HashMap<String, BTreeSet<Key>>,
    indexes: HashMap<&'static str, Index<K>>,
    /// What a list that is not complete yet has brought.
    listed: HashSet<Key>,
    /// The highest resourceVersion seen, deletions included.
    latest: u64,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            namespaces: HashMap::new(),
            owned: HashMap::new(),
            indexes: HashMap::new(),
            listed: HashSet::new(),
            latest: 0,
        }
    }
}

fn key_of<K: ResourceExt>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn owners<K: ResourceExt>(object: &K) -> impl Iterator<Item = String> {
    object.owner_references().iter().map(|o| o.uid.clone())
}

fn unlink<I: Hash + Eq, V: Ord>(map: &mut HashMap<I, BTreeSet<V>>, at: &I, value: &V) {
    if let Some(set) = map.get_mut(at) {
        set.remove(value);
        if set.is_empty() {
            map.remove(at);
        }
    }
}

impl<K> Objects<K> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.objects.get(&key).cloned()
    }

    /// Everything, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let names = self.namespaces.get(namespace).into_iter().flatten();
        names.filter_map(|name| self.get(namespace, name)).collect()
    }

    /// What has the object with this UID among its owners.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.all(self.owned.get(uid).into_iter().flatten())
    }

    /// What an index (see [`Objects::index`]) has under a value.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let index = self.indexes.get(name);
        self.all(
            index
                .and_then(|(_, map)| map.get(value))
                .into_iter()
                .flatten(),
        )
    }

    fn all<'a>(&'a self, keys: impl IntoIterator<Item = &'a Key>) -> Vec<Arc<K>> {
        let found = keys.into_iter().filter_map(|k| self.objects.get(k));
        found.cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
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
        let mut map: HashMap<String, BTreeSet<Key>> = HashMap::new();
        for (key, object) in &self.objects {
            for value in of(object) {
                map.entry(value).or_default().insert(key.clone());
            }
        }
        self.indexes.insert(name, (of, map));
    }
}

impl<K: Resource> Objects<K> {
    /// Takes in an event, and gives what changed by it: nothing for an object that is listed
    /// again as it was.
    pub fn take(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                self.listed = HashSet::new();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listed.insert(key_of(&object));
                self.put(object).into_iter().collect()
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let gone = self.objects.keys().filter(|k| !listed.contains(*k));
                let gone: Vec<Key> = gone.cloned().collect();
                gone.iter().filter_map(|key| self.remove(key)).collect()
            }
            Event::Apply(object) => self.put(object).into_iter().collect(),
            Event::Delete(object) => {
                let change = self.remove(&key_of(&object));
                self.saw(&object);
                change.into_iter().collect()
            }
        }
    }

    fn put(&mut self, object: K) -> Option<Change<K>> {
        let key = key_of(&object);
        self.saw(&object);
        let new = Arc::new(object);
        let old = self.set(&key, Some(new.clone()));
        let same = old.as_ref().is_some_and(|o| {
            let (a, b) = (&o.meta().resource_version, &new.meta().resource_version);
            a.is_some() && a == b
        });
        (!same).then_some(Change {
            old,
            new: Some(new),
        })
    }

    fn remove(&mut self, key: &Key) -> Option<Change<K>> {
        let old = self.set(key, None)?;
        // After a mass deletion the tables would stay as large as they ever were.
        if self.objects.len() < self.objects.capacity() / 8 {
            self.objects.shrink_to(self.objects.len() * 2);
        }
        Some(Change {
            old: Some(old),
            new: None,
        })
    }

    fn saw(&mut self, object: &K) {
        let version = object.meta().resource_version.as_deref();
        if let Some(version) = version.and_then(|v| v.parse().ok()) {
            self.latest = self.latest.max(version);
        }
    }

    fn set(&mut self, key: &Key, object: Option<Arc<K>>) -> Option<Arc<K>> {
        let old = match &object {
            Some(new) => self.objects.insert(key.clone(), new.clone()),
            None => self.objects.remove(key),
        };
        if let Some(old) = &old {
            for owner in owners(&**old) {
                unlink(&mut self.owned, &owner, key);
            }
            for (index, map) in self.indexes.values_mut() {
                for value in index(old) {
                    unlink(map, &value, key);
                }
            }
        }
        let Some(new) = &object else {
            unlink(&mut self.namespaces, &key.0, &key.1);
            return old;
        };
        let names = self.namespaces.entry(key.0.clone()).or_default();
        names.insert(key.1.clone());
        for owner in owners(&**new) {
            self.owned.entry(owner).or_default().insert(key.clone());
        }
        for (index, map) in self.indexes.values_mut() {
            for value in index(new) {
                map.entry(value).or_default().insert(key.clone());
            }
        }
        old
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

    fn told(changes: &[Change<ConfigMap>]) -> Vec<(bool, bool)> {
        let both = |c: &Change<ConfigMap>| (c.old.is_some(), c.new.is_some());
        changes.iter().map(both).collect()
    }

    #[test]
    fn events_give_the_changes_that_follow_from_them() {
        let mut objects = Objects::default();
        assert_eq!(told(&objects.take(Event::Init)), []);
        let first = objects.take(Event::InitApply(map("x", "1")));
        assert_eq!(told(&first), [(false, true)]);
        assert_eq!(
            told(&objects.take(Event::InitApply(map("y", "2")))),
            [(false, true)]
        );
        assert_eq!(told(&objects.take(Event::InitDone)), []);
        assert_eq!(
            told(&objects.take(Event::Apply(map("x", "3")))),
            [(true, true)]
        );
        assert_eq!(
            told(&objects.take(Event::Delete(map("x", "4")))),
            [(true, false)]
        );
        assert_eq!(told(&objects.take(Event::Delete(map("x", "4")))), []);
        assert_eq!(objects.latest_version(), 4);
        // A later list: y is as it was, z is new.
        objects.take(Event::Init);
        assert_eq!(told(&objects.take(Event::InitApply(map("y", "2")))), []);
        assert_eq!(
            told(&objects.take(Event::InitApply(map("z", "5")))),
            [(false, true)]
        );
        assert_eq!(told(&objects.take(Event::InitDone)), []);
        // And one that lacks both.
        objects.take(Event::Init);
        assert_eq!(told(&objects.take(Event::InitDone)), [(true, false); 2]);
        assert!(objects.is_empty() && objects.in_namespace("a").is_empty());
    }
}
