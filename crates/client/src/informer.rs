//! Shared caches of what a component watches: one watch per kind and process, however many
//! readers. Readers look things up by key, namespace, owner or an index of their own, and hear
//! of every change.

use std::any::{Any, TypeId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch as signal};

/// Waits before a broken watch is tried again: from the first, doubled, up to the longest. A
/// server that restarts is back within a second; what depends on the watch should not lag behind
/// it by the half minute that is kube's default.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

struct Waits(Duration);

impl Iterator for Waits {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let next = (self.0 * 2).min(LONGEST_WAIT);
        Some(std::mem::replace(&mut self.0, next))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.0 = FIRST_WAIT;
    }
}

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

struct Content<K> {
    objects: HashMap<Key, Arc<K>>,
    namespaces: HashMap<String, BTreeSet<String>>,
    /// UID of an owner → keys of what it owns.
    owned: HashMap<String, BTreeSet<Key>>,
    indexes: HashMap<&'static str, Index<K>>,
}

fn key_of<K: ResourceExt>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn owners<K: ResourceExt>(object: &K) -> Vec<String> {
    object
        .owner_references()
        .iter()
        .map(|o| o.uid.clone())
        .collect()
}

fn unlink<I: Hash + Eq, V: Ord>(map: &mut HashMap<I, BTreeSet<V>>, at: &I, value: &V) {
    if let Some(set) = map.get_mut(at) {
        set.remove(value);
        if set.is_empty() {
            map.remove(at);
        }
    }
}

impl<K: Resource> Content<K> {
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
        match &object {
            None => unlink(&mut self.namespaces, &key.0, &key.1),
            Some(new) => {
                self.namespaces
                    .entry(key.0.clone())
                    .or_default()
                    .insert(key.1.clone());
                for owner in owners(&**new) {
                    self.owned.entry(owner).or_default().insert(key.clone());
                }
                for (index, map) in self.indexes.values_mut() {
                    for value in index(new) {
                        map.entry(value).or_default().insert(key.clone());
                    }
                }
            }
        }
        old
    }

    fn all<'a>(&'a self, keys: impl IntoIterator<Item = &'a Key>) -> Vec<Arc<K>> {
        keys.into_iter()
            .filter_map(|k| self.objects.get(k).cloned())
            .collect()
    }
}

/// The cache of one kind. Clones share it.
pub struct Informer<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

struct Inner<K> {
    content: RwLock<Content<K>>,
    // Unbounded, because a reader that waits for the cache may not stop the cache; what is queued
    // are shared pointers, and readers only note keys.
    subscribers: Mutex<Vec<mpsc::UnboundedSender<Change<K>>>>,
    synced: signal::Sender<bool>,
    /// The highest resourceVersion seen, deletions included.
    latest: AtomicU64,
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Watches all that `api` and `config` select, until the last clone is dropped.
    pub fn start(api: Api<K>, config: watcher::Config) -> Self {
        let inner = Arc::new(Inner {
            content: RwLock::new(Content {
                objects: HashMap::new(),
                namespaces: HashMap::new(),
                owned: HashMap::new(),
                indexes: HashMap::new(),
            }),
            subscribers: Mutex::default(),
            synced: signal::Sender::new(false),
            latest: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let mut events = watch(api, config).backoff(Waits(FIRST_WAIT)).boxed();
            // What a list has brought so far.
            let mut listed: HashSet<Key> = HashSet::new();
            while let Some(event) = events.next().await {
                let Some(inner) = weak.upgrade() else { return };
                match event {
                    Ok(event) => inner.take(event, &mut listed),
                    Err(e) => tracing::debug!("watching {}: {e}", std::any::type_name::<K>()),
                }
            }
        });
        Self { inner }
    }

    /// A cache that is filled by hand: for tests of what reads it.
    pub fn fixed(objects: impl IntoIterator<Item = K>) -> Self {
        let inner = Inner {
            content: RwLock::new(Content {
                objects: HashMap::new(),
                namespaces: HashMap::new(),
                owned: HashMap::new(),
                indexes: HashMap::new(),
            }),
            subscribers: Mutex::default(),
            synced: signal::Sender::new(true),
            latest: AtomicU64::new(0),
        };
        for object in objects {
            inner.put(object);
        }
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Keeps an index from now on; what is there already is indexed, too.
    pub fn index(&self, name: &'static str, of: IndexFn<K>) {
        let mut content = self.inner.content.write();
        if content.indexes.contains_key(name) {
            return;
        }
        let mut map: HashMap<String, BTreeSet<Key>> = HashMap::new();
        for (key, object) in &content.objects {
            for value in of(object) {
                map.entry(value).or_default().insert(key.clone());
            }
        }
        content.indexes.insert(name, (of, map));
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.inner.content.read().objects.get(&key).cloned()
    }

    /// Everything, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner
            .content
            .read()
            .objects
            .values()
            .cloned()
            .collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let content = self.inner.content.read();
        let names = content.namespaces.get(namespace).into_iter().flatten();
        names
            .filter_map(|n| {
                content
                    .objects
                    .get(&(namespace.to_owned(), n.clone()))
                    .cloned()
            })
            .collect()
    }

    /// What has the object with this UID among its owners.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let content = self.inner.content.read();
        content.all(content.owned.get(uid).into_iter().flatten())
    }

    /// What an index (see [`Informer::index`]) has under a value.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let content = self.inner.content.read();
        let Some((_, map)) = content.indexes.get(name) else {
            return Vec::new();
        };
        content.all(map.get(value).into_iter().flatten())
    }

    pub fn len(&self) -> usize {
        self.inner.content.read().objects.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every change from now on, after all that is there already (as additions).
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Change<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // Both locks, so that nothing comes between the state and the changes after it.
        let mut subscribers = self.inner.subscribers.lock();
        for object in self.inner.content.read().objects.values() {
            // The receiver is in our hands: it cannot be closed.
            let _ = sender.send(Change {
                old: None,
                new: Some(object.clone()),
            });
        }
        subscribers.push(sender);
        receiver
    }

    /// All changes of this kind up to this resourceVersion are in the cache: it is the highest
    /// that the watch has brought, deletions included. 0 before anything came.
    pub fn latest_version(&self) -> u64 {
        self.inner.latest.load(Ordering::Acquire)
    }

    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        // Fails only when the sender is gone, which lives as long as we do.
        let _ = self.inner.synced.subscribe().wait_for(|done| *done).await;
    }
}

impl<K: Resource> Inner<K> {
    fn put(&self, object: K) {
        let key = key_of(&object);
        let mut subscribers = self.subscribers.lock();
        let new = Arc::new(object);
        let old = self.content.write().set(&key, Some(new.clone()));
        self.saw(&new);
        let same = old.as_ref().is_some_and(|o| {
            let (a, b) = (&o.meta().resource_version, &new.meta().resource_version);
            a.is_some() && a == b
        });
        if !same {
            subscribers.retain(|s| {
                s.send(Change {
                    old: old.clone(),
                    new: Some(new.clone()),
                })
                .is_ok()
            });
        }
    }

    /// After the cache was changed, so that who reads the version finds the change.
    fn saw(&self, object: &K) {
        let version = object.meta().resource_version.as_deref();
        if let Some(version) = version.and_then(|v| v.parse().ok()) {
            self.latest.fetch_max(version, Ordering::AcqRel);
        }
    }

    fn remove(&self, key: &Key) {
        let mut subscribers = self.subscribers.lock();
        let old = self.content.write().set(key, None);
        if old.is_some() {
            subscribers.retain(|s| {
                s.send(Change {
                    old: old.clone(),
                    new: None,
                })
                .is_ok()
            });
        }
    }

    fn take(&self, event: Event<K>, listed: &mut HashSet<Key>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert(key_of(&object));
                self.put(object);
            }
            Event::InitDone => {
                let gone: Vec<Key> = {
                    let content = self.content.read();
                    content
                        .objects
                        .keys()
                        .filter(|k| !listed.contains(*k))
                        .cloned()
                        .collect()
                };
                for key in gone {
                    self.remove(&key);
                }
                listed.clear();
                listed.shrink_to_fit();
                self.synced.send_replace(true);
            }
            Event::Apply(object) => self.put(object),
            Event::Delete(object) => {
                self.remove(&key_of(&object));
                self.saw(&object);
            }
        }
    }
}

/// The informers of a process: one per kind, made when first asked for.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    made: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>>,
}

impl Informers {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            made: Arc::default(),
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer of all objects of a kind.
    pub fn of<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let mut made = self.made.lock();
        let any = made.entry(TypeId::of::<K>()).or_insert_with(|| {
            let api: Api<K> = Api::all(self.client.clone());
            Box::new(Informer::start(api, watcher::Config::default()))
        });
        match any.downcast_ref::<Informer<K>>() {
            Some(informer) => informer.clone(),
            // The map's key is the type: this cannot be another one.
            None => Informer::start(Api::all(self.client.clone()), watcher::Config::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    use super::*;

    fn object(name: &str, version: &str, owner: &str) -> ConfigMap {
        let owner = OwnerReference {
            uid: owner.into(),
            ..OwnerReference::default()
        };
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("a".into()),
                resource_version: Some(version.into()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    #[test]
    fn lookups_follow_changes() {
        let informer = Informer::fixed([object("x", "1", "o1"), object("y", "2", "o2")]);
        informer.index("version", |o: &ConfigMap| {
            vec![o.resource_version().unwrap_or_default()]
        });
        let mut changes = informer.subscribe();
        informer.inner.put(object("x", "3", "o2"));
        assert_eq!(informer.owned_by("o1").len(), 0);
        assert_eq!(informer.owned_by("o2").len(), 2);
        assert_eq!(informer.by_index("version", "3").len(), 1);
        assert_eq!(informer.by_index("version", "1").len(), 0);
        // A list that lacks y removes it.
        let mut listed = HashSet::new();
        informer.inner.take(Event::Init, &mut listed);
        informer
            .inner
            .take(Event::InitApply(object("x", "3", "o2")), &mut listed);
        informer.inner.take(Event::InitDone, &mut listed);
        assert_eq!(informer.list_namespace("a").len(), 1);
        let mut seen = Vec::new();
        while let Ok(change) = changes.try_recv() {
            seen.push((change.old.is_some(), change.new.is_some()));
        }
        assert_eq!(informer.latest_version(), 3);
        // Two that were there, one changed, one gone; the unchanged one is not told again.
        assert_eq!(
            seen,
            [(false, true), (false, true), (true, true), (true, false)]
        );
    }
}
