//! What a controller listens to: informers whose changes give keys, and other sources of keys.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer};
use kube::Resource;
use kube::core::ApiResource;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::expectation::{LookUp, LookUps, known_of, name_of};
use crate::queue::Queue;

/// The informers that a controller listens to.
pub struct Watches<Q> {
    pub(crate) queue: Queue<Q>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) look_up: LookUps,
    pub(crate) synced: Vec<futures::future::BoxFuture<'static, ()>>,
}

/// Where a source of keys puts them.
pub struct Keys<Q>(Queue<Q>);

impl<Q> Clone for Keys<Q> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Q: Clone + Eq + Hash + Debug> Keys<Q> {
    pub fn add(&self, keys: impl IntoIterator<Item = Q>) {
        keys.into_iter().for_each(|key| self.0.add(key));
    }

    /// Puts a key there after a while, or at an earlier time that was asked for before.
    pub fn later(&self, key: Q, wait: Duration) {
        self.0.add_after(key, wait);
    }
}

impl<Q: Clone + Eq + Hash + Debug + Send + Sync + 'static> Watches<Q> {
    /// Each change of a kind, as it was and as it is, gives the keys that it concerns.
    pub fn on<K>(
        &mut self,
        informer: &Informer<K>,
        keys: impl Fn(&K) -> Vec<Q> + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.on_change(informer, move |change| {
            let both = change.old.iter().chain(&change.new);
            both.flat_map(|o| keys(o)).collect()
        });
    }

    /// As [`Watches::on`], for those whom not every change of an object concerns.
    pub fn on_change<K>(
        &mut self,
        informer: &Informer<K>,
        keys: impl Fn(&Change<K>) -> Vec<Q> + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.on_change_after(informer, move |change| {
            let all = keys(change).into_iter();
            all.map(|key| (key, Duration::ZERO)).collect()
        });
    }

    /// As [`Watches::on_change`], for those who gather what changes: each key with the wait after
    /// which it is worked on. Of several waits of one key that which ends first counts.
    pub fn on_change_after<K>(
        &mut self,
        informer: &Informer<K>,
        keys: impl Fn(&Change<K>) -> Vec<(Q, Duration)> + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let mut changes = informer.subscribe();
        let queue = self.queue.clone();
        self.tasks.spawn(async move {
            while let Some(change) = changes.recv().await {
                for (key, wait) in keys(&change) {
                    queue.add_after(key, wait);
                }
            }
        });
        self.expect_from(informer);
    }

    /// Another source of keys than an informer, such as watches of kinds that are known only when
    /// the server is asked. It runs as long as the controller does.
    pub fn feed<F>(&mut self, source: impl FnOnce(Keys<Q>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(source(Keys(self.queue.clone())));
    }

    /// The informer is read, and its kind may be written, but its changes wake nobody.
    pub fn expect_from<K>(&mut self, informer: &Informer<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (cache, waits) = (informer.clone(), informer.clone());
        let look: LookUp = Arc::new(move |ns, name| {
            // The version first: what it promises is in the cache then.
            let latest = cache.latest_version();
            (cache.get(ns, name).map(|o| known_of(o.meta())), latest)
        });
        self.look_up
            .insert(name_of(&ApiResource::erase::<K>(&())), look);
        self.synced
            .push(Box::pin(async move { waits.synced().await }));
    }
}
