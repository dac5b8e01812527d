//! A kind of object that the node follows from the moment on that a pod first needs it: on most
//! nodes nobody ever does, and on many servers the kind is not served at all.

use client::reflector::{Key, Table};
use clock::{Random, watch};
use futures::StreamExt;
use kube::api::ListParams;
use kube::runtime::watcher::Config;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long the first list is waited for before it is asked directly what is in its way.
const FIRST_LIST: Duration = Duration::from_secs(2);

/// What is kept of objects, by namespace and name.
pub type FollowedObjects<V> = Table<Key, Arc<V>>;

/// A kind that is followed once it was asked for.
pub struct Followed<K, V> {
    api: kube::Api<K>,
    fields: Option<String>,
    random: Random,
    keep: fn(K) -> V,
    /// Hears of what is kept of an object that came, changed or went.
    told: Arc<dyn Fn(&V) + Send + Sync>,
    kept: Arc<watch::Sender<FollowedObjects<V>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl<K, V> std::fmt::Debug for Followed<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Followed").finish_non_exhaustive()
    }
}

impl<K, V> Drop for Followed<K, V> {
    fn drop(&mut self) {
        self.task.lock().take().iter().for_each(JoinHandle::abort);
    }
}

impl<K, V> Followed<K, V>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
    V: PartialEq + Send + Sync + 'static,
{
    /// Nothing is followed yet. `fields`: which objects are meant, as a field selector.
    pub fn new(
        api: kube::Api<K>,
        fields: Option<String>,
        random: Random,
        keep: fn(K) -> V,
        told: impl Fn(&V) + Send + Sync + 'static,
    ) -> Self {
        Self {
            api,
            fields,
            random,
            keep,
            told: Arc::new(told),
            kept: Arc::new(watch::Sender::new(FollowedObjects::default())),
            task: Mutex::default(),
        }
    }

    /// All of them as they were seen last. An error says why they are not known.
    pub async fn all(&self) -> Result<FollowedObjects<V>, String> {
        self.begin();
        let mut kept = self.kept.subscribe();
        let listed = kept.wait_for(|k| k.is_complete());
        if let Ok(Ok(_)) = tokio::time::timeout(FIRST_LIST, listed).await {
            return Ok(self.kept.borrow().clone());
        }
        let mut how = ListParams::default().limit(1);
        how.field_selector.clone_from(&self.fields);
        let why = self.api.list(&how).await;
        if let Err(kube::Error::Api(e)) = &why
            && e.code == 404
        {
            // A kind that is not served is not asked for without end.
            self.task.lock().take().iter().for_each(JoinHandle::abort);
            let resource = K::plural(&());
            return Err(format!("the API server does not serve {resource}"));
        }
        let why = why.err().map(|e| e.to_string());
        Err(why.unwrap_or_else(|| format!("{} are not listed yet", K::plural(&()))))
    }

    fn begin(&self) {
        let mut task = self.task.lock();
        if task.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        let mut config = Config::default();
        if let Some(fields) = &self.fields {
            config = config.fields(fields);
        }
        let events = client::events(self.random.clone(), self.api.clone(), config);
        let (kept, keep, told) = (self.kept.clone(), self.keep, self.told.clone());
        *task = Some(tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                let mut about = Vec::new();
                kept.send_modify(|table| {
                    let changes = table.take(event, key, |o| Some(Arc::new(keep(o))));
                    for change in changes {
                        about.extend(table.get(&change.key).cloned());
                        about.extend(change.old);
                    }
                });
                about.iter().for_each(|value| told(value));
            }
        }));
    }
}

fn key<K: kube::Resource>(object: &K) -> Key {
    let meta = object.meta();
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}
