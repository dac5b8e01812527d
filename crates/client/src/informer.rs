//! Shared caches of what a component watches: one watch per kind and process, however many
//! readers. Readers look things up by key, namespace, owner or an index of their own, and hear
//! of every change.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use clock::{Clock, Random, watch as signal};
use futures::StreamExt;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};

use crate::events::noted;
use crate::reflector::{Change, IndexFn, Objects};
use crate::served_kinds::{OfProcess, ServedKinds};

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

/// Takes away what no reader needs of an object.
pub type Trim<K> = fn(&mut K);

struct Inner<K> {
    objects: RwLock<Objects<K>>,
    trim: Trim<K>,
    // Unbounded, because a reader that waits for the cache may not stop the cache; what is queued
    // are shared pointers, and readers only note keys.
    subscribers: Mutex<Vec<mpsc::UnboundedSender<Change<K>>>>,
    synced: signal::Sender<bool>,
}

impl<K: Resource> Inner<K> {
    fn new(synced: bool, trim: Trim<K>) -> Self {
        Self {
            objects: RwLock::default(),
            trim,
            subscribers: Mutex::default(),
            synced: signal::Sender::new(synced),
        }
    }

    fn take(&self, mut event: Event<K>) {
        if let Event::Apply(object) | Event::InitApply(object) = &mut event {
            (self.trim)(object);
        }
        let done = matches!(event, Event::InitDone);
        // Both locks, so that a new subscriber misses nothing and hears nothing twice.
        let mut subscribers = self.subscribers.lock();
        let changes = self.objects.write().take(event);
        for change in changes {
            subscribers.retain(|s| s.send(change.clone()).is_ok());
        }
        drop(subscribers);
        if done {
            self.synced.send_replace(true);
        }
    }
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Watches all that `api` and `config` select, until the last clone is dropped. `random` is
    /// drawn from when the watch has to begin again.
    pub fn start(random: Random, api: Api<K>, config: Config) -> Self {
        Self::trimmed(random, api, config, |_| {})
    }

    /// As [`Informer::start`], keeping of each object what `trim` leaves.
    pub fn trimmed(random: Random, api: Api<K>, config: Config, trim: Trim<K>) -> Self {
        Self::follow(random, api, config, trim, None)
    }

    /// `lost` is woken when the watch has failed.
    fn follow(
        random: Random,
        api: Api<K>,
        config: Config,
        trim: Trim<K>,
        lost: Option<Arc<Notify>>,
    ) -> Self {
        let inner = Arc::new(Inner::new(false, trim));
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let mut events = noted(random, api, config, lost).boxed();
            while let Some(event) = events.next().await {
                let Some(inner) = weak.upgrade() else { return };
                inner.take(event);
            }
        });
        Self { inner }
    }

    /// A cache that is filled by hand: for tests of what reads it.
    pub fn fixed(objects: impl IntoIterator<Item = K>) -> Self {
        let inner = Inner::new(true, |_| {});
        for object in objects {
            inner.take(Event::Apply(object));
        }
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Keeps an index from now on; what is there already is indexed, too.
    pub fn index(&self, name: &'static str, of: IndexFn<K>) {
        self.inner.objects.write().index(name, of);
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.inner.objects.read().get(namespace, name)
    }

    /// Everything, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.objects.read().iter().cloned().collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.inner.objects.read().in_namespace(namespace)
    }

    /// What has the object with this UID among its owners.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.inner.objects.read().owned_by(uid)
    }

    /// What an index (see [`Informer::index`]) has under a value.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.inner.objects.read().by_index(name, value)
    }

    pub fn len(&self) -> usize {
        self.inner.objects.read().len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every change from now on, after all that is there already (as additions).
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Change<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // Both locks, so that nothing comes between the state and the changes after it.
        let mut subscribers = self.inner.subscribers.lock();
        for object in self.inner.objects.read().iter() {
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
        self.inner.objects.read().latest_version()
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

type InformerTable = HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>;

/// The informers of a process: one per kind and selection, for as long as somebody reads it. Clones
/// share them. With them goes what else its parts share: the client, time and chance.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    clock: Clock,
    random: Random,
    /// By type and field selector: `Weak<Inner<K>>`.
    made: Arc<Mutex<InformerTable>>,
    /// By type: `Trim<K>`.
    trims: Arc<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
    kinds: OfProcess,
}

impl Informers {
    /// None yet.
    pub fn new(client: Client, clock: Clock, random: Random) -> Self {
        Self {
            client,
            clock,
            random,
            made: Arc::default(),
            trims: Arc::default(),
            kinds: OfProcess::default(),
        }
    }

    /// The same, keeping of objects of one kind what `trim` leaves.
    #[must_use]
    pub fn keeping<K: 'static>(mut self, trim: Trim<K>) -> Self {
        // Nobody shares it yet, or its clones keep the trims that they have.
        if let Some(trims) = Arc::get_mut(&mut self.trims) {
            trims.insert(TypeId::of::<K>(), Box::new(trim));
        }
        self
    }

    pub fn client(&self) -> &Client {
        &self.client
    }
    pub fn clock(&self) -> Clock {
        self.clock
    }
    pub fn random(&self) -> &Random {
        &self.random
    }

    /// Which kinds the server serves: one look for all parts of the process.
    pub fn served(&self) -> ServedKinds {
        self.kinds.served(&self.client)
    }

    /// The informer of all objects of a kind.
    pub fn of<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.selected("")
    }

    /// The informer of a kind's objects with this name, in all namespaces: a part that needs one
    /// object of each namespace does not hold everybody's.
    pub fn named<K>(&self, name: &str) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.selected(&format!("metadata.name={name}"))
    }

    /// The informer of a kind's objects of this `type`, as Secrets have one: a part that is about one
    /// type does not hold the others.
    pub fn of_type<K>(&self, name: &str) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.selected(&format!("type={name}"))
    }

    fn selected<K>(&self, fields: &str) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let key = (TypeId::of::<K>(), fields.to_owned());
        let mut made = self.made.lock();
        let known = made.get(&key).and_then(|any| any.downcast_ref());
        if let Some(inner) = known.and_then(Weak::<Inner<K>>::upgrade) {
            return Informer { inner };
        }
        let mut config = Config::default();
        if !fields.is_empty() {
            config = config.fields(fields);
        }
        let trim = self.trims.get(&key.0).and_then(|any| any.downcast_ref());
        let trim: Trim<K> = trim.copied().unwrap_or(|_| {});
        let informer = Informer::follow(
            self.random.clone(),
            Api::all(self.client.clone()),
            config,
            trim,
            Some(self.kinds.look().clone()),
        );
        made.insert(key, Box::new(Arc::downgrade(&informer.inner)));
        informer
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
        ManagedFieldsEntry, ObjectMeta, OwnerReference,
    };
    use kube::ResourceExt;

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
                managed_fields: Some(vec![ManagedFieldsEntry::default()]),
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
        informer.inner.take(Event::Apply(object("x", "3", "o2")));
        let held = informer.get("a", "x").expect("held");
        assert_eq!(held.metadata.managed_fields, None);
        assert_eq!(informer.owned_by("o1").len(), 0);
        assert_eq!(informer.owned_by("o2").len(), 2);
        assert_eq!(informer.by_index("version", "3").len(), 1);
        assert_eq!(informer.by_index("version", "1").len(), 0);
        // A list that lacks y removes it.
        informer.inner.take(Event::Init);
        informer
            .inner
            .take(Event::InitApply(object("x", "3", "o2")));
        informer.inner.take(Event::InitDone);
        assert_eq!(informer.list_namespace("a").len(), 1);
        let mut seen = Vec::new();
        while let Ok(change) = changes.try_recv() {
            seen.push((change.old.is_some(), change.new.is_some()));
        }
        assert_eq!(informer.latest_version(), 3);
        // Two that were there, one changed, one gone; the unchanged one is not reported again.
        assert_eq!(
            seen,
            [(false, true), (false, true), (true, true), (true, false)]
        );
    }
}
