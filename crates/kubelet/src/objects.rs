//! ConfigMaps and Secrets that pods of this node use. Each is watched alone, by name, as the
//! node authorizer allows, and only while a pod holds it.

use client::reflector::Table;
use clock::{Random, watch};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::runtime::watcher::Config;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::broadcast;

/// How long a first answer is waited for before the object is asked for directly.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How many changes may wait for the reader. A reader that lags looks at everything.
const CHANGES: usize = 1024;

/// Which of the two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What volumes and environments need of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// Values by key.
    pub values: BTreeMap<String, Vec<u8>>,
    /// Type of a secret.
    pub secret_type: String,
    /// Which object of the name it is.
    pub uid: String,
}

#[derive(Clone, Debug)]
enum State {
    Unknown,
    Absent,
    Present(Arc<Data>),
}

/// Keeps an object watched as long as it is held.
#[derive(Debug)]
pub struct WatchedObject {
    state: watch::Receiver<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for WatchedObject {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An object could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It does not exist.
    #[error("{} \"{}\" not found", resource(.0), .0.name)]
    NotFound(Key),
    /// The API did not answer.
    #[error("failed to get {} {}/{}: {text}", resource(key), key.namespace, key.name)]
    Read {
        /// Which.
        key: Key,
        /// What the client said.
        text: String,
    },
}

fn resource(key: &Key) -> &'static str {
    match key.kind {
        ObjectKind::ConfigMap => "configmap",
        ObjectKind::Secret => "secret",
    }
}

/// All objects that are held.
pub struct Objects {
    client: kube::Client,
    random: Random,
    held: Mutex<HashMap<Key, Weak<WatchedObject>>>,
    changes: broadcast::Sender<Key>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", resource(self), self.namespace, self.name)
    }
}

impl Objects {
    /// Nothing is watched yet.
    #[must_use]
    pub fn new(client: kube::Client, random: Random) -> Self {
        Self {
            client,
            random,
            held: Mutex::default(),
            changes: broadcast::channel(CHANGES).0,
        }
    }

    /// Keys of objects that changed.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Key> {
        self.changes.subscribe()
    }

    /// Watches an object as long as the answer lives.
    #[must_use]
    pub fn hold(&self, key: &Key) -> Arc<WatchedObject> {
        let mut held = self.held.lock();
        if let Some(alive) = held.get(key).and_then(Weak::upgrade) {
            return alive;
        }
        held.retain(|_, weak| weak.strong_count() > 0);
        let sender = watch::Sender::new(State::Unknown);
        let state = sender.subscribe();
        let source = (self.client.clone(), self.random.clone());
        let (changes, k) = (self.changes.clone(), key.clone());
        let task = tokio::spawn(async move {
            match k.kind {
                ObjectKind::ConfigMap => follow(source, k, sender, changes, config_map).await,
                ObjectKind::Secret => follow(source, k, sender, changes, secret).await,
            }
        });
        let new = Arc::new(WatchedObject { state, task });
        held.insert(key.clone(), Arc::downgrade(&new));
        new
    }

    /// The object now. One that is not held is asked for directly.
    pub async fn get(&self, key: &Key) -> Result<Arc<Data>, Error> {
        let held = self.held.lock().get(key).and_then(Weak::upgrade);
        if let Some(held) = held {
            let mut state = held.state.clone();
            let known = state.wait_for(|s| !matches!(s, State::Unknown));
            // Whatever came of it: what is not there may have been made a moment ago, and the
            // direct question below decides.
            let _ = tokio::time::timeout(FIRST_ANSWER, known).await;
            if let State::Present(data) = &*state.borrow() {
                return Ok(data.clone());
            }
        }
        self.ask(key).await
    }

    async fn ask(&self, key: &Key) -> Result<Arc<Data>, Error> {
        let client = self.client.clone();
        let answer = match key.kind {
            ObjectKind::ConfigMap => kube::Api::namespaced(client, &key.namespace)
                .get_opt(&key.name)
                .await
                .map(|o| o.map(config_map)),
            ObjectKind::Secret => kube::Api::namespaced(client, &key.namespace)
                .get_opt(&key.name)
                .await
                .map(|o| o.map(secret)),
        };
        match answer {
            Ok(Some(data)) => Ok(Arc::new(data)),
            Ok(None) => Err(Error::NotFound(key.clone())),
            Err(e) => Err(Error::Read {
                key: key.clone(),
                text: e.to_string(),
            }),
        }
    }
}

async fn follow<K>(
    (client, random): (kube::Client, Random),
    key: Key,
    state: watch::Sender<State>,
    changes_of: broadcast::Sender<Key>,
    read: fn(K) -> Data,
) where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
    K::DynamicType: Default,
{
    let api: kube::Api<K> = kube::Api::namespaced(client, &key.namespace);
    let config = Config::default().fields(&format!("metadata.name={}", key.name));
    let mut events = std::pin::pin!(client::events(random, api, config));
    // Of one object: it is there or not.
    let mut table: Table<(), Arc<Data>> = Table::default();
    while let Some(event) = events.next().await {
        let known = table.is_complete();
        let changes = table.take(event, |_| (), |o| Some(Arc::new(read(o))));
        if !table.is_complete() || known && changes.is_empty() {
            continue;
        }
        let next = table.get(&()).cloned();
        // When nobody holds the object any more, this task is ended.
        state.send_replace(next.map_or(State::Absent, State::Present));
        let _ = changes_of.send(key.clone());
    }
}

fn config_map(object: ConfigMap) -> Data {
    let uid = object.metadata.uid.unwrap_or_default();
    let mut values: BTreeMap<String, Vec<u8>> = object
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(k, v)| (k, v.into_bytes()))
        .collect();
    values.extend(
        object
            .binary_data
            .unwrap_or_default()
            .into_iter()
            .map(|(k, v)| (k, v.0)),
    );
    Data {
        values,
        secret_type: String::new(),
        uid,
    }
}

fn secret(object: Secret) -> Data {
    let uid = object.metadata.uid.unwrap_or_default();
    let values = object
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(k, v)| (k, v.0))
        .collect();
    Data {
        values,
        secret_type: object.type_.unwrap_or_default(),
        uid,
    }
}

/// All objects that a pod names, for pulling, environment and volumes.
#[must_use]
pub fn of_pod(pod: &Pod) -> BTreeSet<Key> {
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut keys = BTreeSet::new();
    let mut add = |kind: ObjectKind, name: &str| {
        if !name.is_empty() {
            keys.insert(Key {
                kind,
                namespace: namespace.clone(),
                name: name.to_owned(),
            });
        }
    };
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(ObjectKind::Secret, &secret.name);
    }
    for container in spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
    {
        for from in container.env_from.iter().flatten() {
            from.config_map_ref
                .iter()
                .for_each(|r| add(ObjectKind::ConfigMap, &r.name));
            from.secret_ref
                .iter()
                .for_each(|r| add(ObjectKind::Secret, &r.name));
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.value_from.as_ref())
        {
            source
                .config_map_key_ref
                .iter()
                .for_each(|r| add(ObjectKind::ConfigMap, &r.name));
            source
                .secret_key_ref
                .iter()
                .for_each(|r| add(ObjectKind::Secret, &r.name));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        volume
            .config_map
            .iter()
            .for_each(|v| add(ObjectKind::ConfigMap, &v.name));
        volume.secret.iter().for_each(|v| {
            add(
                ObjectKind::Secret,
                v.secret_name.as_deref().unwrap_or_default(),
            )
        });
        for source in volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten())
        {
            source
                .config_map
                .iter()
                .for_each(|v| add(ObjectKind::ConfigMap, &v.name));
            source
                .secret
                .iter()
                .for_each(|v| add(ObjectKind::Secret, &v.name));
        }
    }
    keys
}
