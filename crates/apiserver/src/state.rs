//! What rules may see of the server: its settings, the store, the cache, the kinds, who may do
//! what, the time, the figures. It does not know the rules themselves, and no request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use access::{Attributes, Decision, UserInfo};
use api::Status;
use arc_swap::ArcSwap;
use clock::Random;
use futures::future::BoxFuture;
use registry::{Kinds, Row};
use serde_json::Value;
use store::{Revision, Store, StoreError};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::cache::{self, Cache, Contents, Newest, Object, ResourceCache, Selection};
use crate::configuration_objects::{Both, Configurations};
use crate::dialer::Reach;
use crate::errors;
use crate::flow_control::FlowControl;
use crate::metrics::{Metrics, StoreMetrics};
use crate::permissions::{Access, configures};
use crate::resource_samples::Samples;
use crate::settings::Settings;
use crate::storage;

/// Uses of tokens that wait to be written down. Each token has at most one a day; those that find
/// no place wait for their next use.
const TOKEN_USES: usize = 1024;
/// The group of the definitions of custom kinds.
const DEFINITIONS: &str = "apiextensions.k8s.io";

/// The state; clones share everything.
#[derive(Clone)]
pub struct State(Arc<Inner>);

struct Inner {
    settings: Settings,
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    kinds: ArcSwap<Kinds>,
    /// Held while the kinds change, so that two changes do not lose one another.
    changing: Mutex<()>,
    access: Arc<Access>,
    configurations: Arc<Configurations>,
    flow_control: Arc<FlowControl>,
    authorizers: Vec<Arc<dyn Authorizer>>,
    reach: Reach,
    samples: Samples,
    metrics: Metrics,
    ports: Arc<Mutex<()>>,
    token_uses: mpsc::Sender<TokenUse>,
    bootstrapped: AtomicBool,
    /// See [`State::knows_its_configuration`].
    configured: AtomicBool,
    leaving: AtomicBool,
    draining: CancellationToken,
    stop: CancellationToken,
}

/// A state that may be gone: for what it holds itself, such as its kinds.
#[derive(Clone)]
pub struct WeakState(Weak<Inner>);

impl WeakState {
    pub fn upgrade(&self) -> Option<State> {
        self.0.upgrade().map(State)
    }
}

/// One source of permissions.
pub trait Authorizer: Send + Sync + 'static {
    /// Errors are what could not be found out; they do not decide by themselves.
    fn authorize<'a>(
        &'a self,
        state: &'a State,
        user: &'a UserInfo,
        asked: &'a Attributes<'a>,
        errors: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Decision>;

    /// Adds the rules that hold for a user in a namespace, as far as they are known.
    fn rules(&self, _state: &State, _user: &UserInfo, _namespace: &str, _rules: &mut Rules) {}
}

/// Rules as a SelfSubjectRulesReview shows them.
#[derive(Debug, Default)]
pub struct Rules {
    pub resources: Vec<Value>,
    pub paths: Vec<Value>,
    /// Why there may be more.
    pub unknown: Vec<&'static str>,
}

impl Rules {
    pub fn incomplete(&mut self, why: &'static str) {
        self.unknown.push(why);
    }
}

/// A use of a token that lies in a Secret, which the server is to write down there.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenUse {
    pub namespace: String,
    pub secret: String,
    /// Since the epoch.
    pub day: i64,
}

impl State {
    /// Loads the cache and starts to follow the store, until `stop`. Gives with the state the
    /// uses of tokens that rules note. Watches end before it, when the server drains.
    pub async fn start(
        settings: Settings,
        authorizers: Vec<Arc<dyn Authorizer>>,
        reach: Reach,
        store: Arc<dyn Store>,
        stop: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<TokenUse>), StoreError> {
        let kinds = settings.kinds.clone();
        let metrics = StoreMetrics::default();
        let name = format!("{}:{}", settings.advertise_address, settings.secure_port);
        let store: Arc<dyn Store> = Arc::new(storage::Bounded::new(store, metrics.clone()));
        let rows = kinds.rows().iter().cloned();
        let access = Arc::new(Access::default());
        let configurations = Arc::new(Configurations::default());
        let observers = Arc::new(Both(access.clone(), configurations.clone()));
        let cache = Cache::start(store.clone(), rows, observers, stop.clone()).await?;
        if settings.features.on("DetectCacheInconsistency") {
            tokio::spawn(cache.clone().compare_with_store(stop.clone()));
        }
        let draining = stop.child_token();
        let (watched, door) = (cache.clone(), draining.clone());
        tokio::spawn(async move {
            door.cancelled().await;
            watched.end_watches();
        });
        let (token_uses, noted) = mpsc::channel(TOKEN_USES);
        let flow_control = FlowControl::new(&settings);
        let figures = Metrics::new(&metrics, &name);
        figures.features(&settings.features);
        let state = Self(Arc::new(Inner {
            settings,
            store,
            cache,
            kinds: ArcSwap::new(kinds),
            changing: Mutex::default(),
            access,
            configurations,
            flow_control,
            authorizers,
            reach,
            samples: Samples::default(),
            metrics: figures,
            ports: Arc::default(),
            token_uses,
            bootstrapped: AtomicBool::new(false),
            configured: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            draining,
            stop,
        }));
        // A server that starts with all of it is configured, whatever becomes unreadable later.
        state.knows_its_configuration();
        Ok((state, noted))
    }

    /// For what the state holds itself.
    pub fn downgrade(&self) -> WeakState {
        WeakState(Arc::downgrade(&self.0))
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }
    pub fn cache(&self) -> &Arc<Cache> {
        &self.0.cache
    }
    /// Whether a feature of upstream's is on.
    pub fn has_feature(&self, name: &str) -> bool {
        self.0.settings.features.on(name)
    }
    /// The kinds of this moment; a request uses those that it began with
    /// ([`crate::call::Call::kinds`]).
    pub fn kinds(&self) -> Arc<Kinds> {
        self.0.kinds.load_full()
    }

    /// Changes the kinds that are served: `change` gets the rows and puts in, takes out or
    /// replaces some. When it is done, objects of new rows are read from the store and served,
    /// documents name them, and watches of rows that are gone or replaced have ended. Nothing
    /// changes when the store cannot be read.
    pub async fn change_rows(
        &self,
        change: impl FnOnce(&mut Vec<Arc<Row>>),
    ) -> Result<(), StoreError> {
        let _changing = self.0.changing.lock().await;
        let mut rows = self.kinds().rows().to_vec();
        change(&mut rows);
        self.cache().set_rows(rows.clone()).await?;
        self.0.kinds.store(Arc::new(Kinds::new(rows)));
        Ok(())
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
    /// Who may do what, as new as the cache.
    pub fn access(&self) -> &Access {
        &self.0.access
    }
    /// What admission is configured by, as new as the cache.
    pub fn configurations(&self) -> &Configurations {
        &self.0.configurations
    }
    /// The priority levels of requests.
    pub fn flow_control(&self) -> &Arc<FlowControl> {
        &self.0.flow_control
    }
    /// In order; the first that allows or denies decides.
    pub fn authorizers(&self) -> &[Arc<dyn Authorizer>] {
        &self.0.authorizers
    }
    /// What kubelets have said of late about the use of nodes and pods.
    pub fn samples(&self) -> &Samples {
        &self.0.samples
    }
    /// The ways out of this server.
    pub fn ways(&self) -> &Reach {
        &self.0.reach
    }
    /// Taken by a request that changes the allocation of node ports.
    pub fn ports(&self) -> Arc<Mutex<()>> {
        self.0.ports.clone()
    }
    /// Says to whoever asks whether the server is ready that it will soon be gone; it goes on serving.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Release);
    }
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Acquire) || self.draining().is_cancelled()
    }
    /// Cancelled when the server takes no new requests any more, at the latest when it stops; those
    /// that run still have the cache and the store.
    pub fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }
    /// Cancelled when the server stops: nobody is served any more.
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Has a use of a token written down; whether there was a place for it.
    pub fn note(&self, seen: TokenUse) -> bool {
        self.0.token_uses.try_send(seen).is_ok()
    }

    /// Called when the objects that a cluster starts with are there.
    pub fn set_bootstrapped(&self) {
        self.0.bootstrapped.store(true, Ordering::Release);
    }
    pub fn is_bootstrapped(&self) -> bool {
        self.0.bootstrapped.load(Ordering::Acquire)
    }

    /// Whether this server has read, at some time, all that it is configured by: a webhook that it has
    /// never been able to read would not be asked, and a kind not be served. What cannot be read later
    /// holds as it was, as in upstream's informers.
    pub fn knows_its_configuration(&self) -> bool {
        let configured = &self.0.configured;
        if configured.load(Ordering::Acquire) {
            return true;
        }
        let all = self.cache().all();
        let is_of_it = |row: &Row| configures(row) || *row.group == *DEFINITIONS;
        let mut of_it = all.iter().filter(|cache| is_of_it(&cache.row));
        let knows = !of_it.any(|cache| cache.has_unknown());
        if knows {
            configured.store(true, Ordering::Release);
        }
        knows
    }

    /// Seconds since the epoch.
    pub fn now(&self) -> i64 {
        self.0.settings.clock.seconds()
    }

    /// A handle to the server's random numbers.
    pub fn random(&self) -> Random {
        self.0.settings.random.clone()
    }

    /// A stored object, for authenticators, authorizers and admission; as new as the cache. One that
    /// cannot be read any more is as it was. Who destroys or lets pass what an object protects that is
    /// not there asks [`State::fresh`] or [`State::all_of`].
    pub fn lookup(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        let kinds = self.kinds();
        let row = kinds.resource(group, resource)?;
        self.cache().of(row)?.last_known(&row.key(namespace, name))
    }

    /// Whether there is such an object, readable or not; as new as the cache.
    pub fn is_stored(&self, group: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let kinds = self.kinds();
        let row = kinds.resource(group, resource);
        let found = row.and_then(|row| Some((self.cache().of(row)?, row.key(namespace, name))));
        found.is_some_and(|(cache, key)| !matches!(cache.find(&key), Ok(None)))
    }

    /// The keys below a resource's prefix of all its objects, readable or not.
    pub fn stored_keys(&self, group: &str, resource: &str) -> Vec<Arc<str>> {
        let kinds = self.kinds();
        let cache = kinds
            .resource(group, resource)
            .and_then(|row| self.cache().of(row));
        cache.map(|cache| cache.keys()).unwrap_or_default()
    }

    /// As [`State::lookup`]; what the cache does not have is looked for in the newest state, so that
    /// an object can be relied on as soon as its creation is acknowledged. An error: the store does
    /// not answer, and nobody knows whether there is such an object; or it cannot be read.
    pub async fn fresh(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Status> {
        let kinds = self.kinds();
        if let Some(row) = kinds.resource(group, resource)
            && let Some(cache) = self.cache().of(row)
            && let Some(found) = cache.get(&row.key(namespace, name))
        {
            return Ok(Some(found));
        }
        self.newest(group, resource, namespace, name).await
    }

    /// An object in the newest state, whatever the cache has of it. An error is as in
    /// [`State::fresh`].
    pub async fn newest(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Status> {
        let newest = self.cache().newest().await;
        let newest = newest.map_err(|e| errors::from_store(&e))?;
        let kinds = self.kinds();
        let row = kinds.resource(group, resource);
        let Some(cache) = row.and_then(|row| self.cache().of(row)) else {
            return Ok(None);
        };
        let key = cache.row.key(namespace, name);
        self.object_in(newest, &cache, &key).await
    }

    /// The object of a key below its resource's prefix, in the newest state, where that is; an error
    /// where it cannot be read.
    pub async fn object_in(
        &self,
        newest: Newest,
        cache: &ResourceCache,
        key: &str,
    ) -> Result<Option<Arc<Object>>, Status> {
        if let Newest::Cached(_) = newest {
            return cache.find(key);
        }
        // Rare, so in a box: every request would carry its state otherwise.
        Box::pin(async {
            let stored = self.store().get(Self::store_key(&cache.row, key), 0).await;
            let stored = stored.map_err(|e| errors::from_store(&e))?;
            let stored = Contents::of(&cache.row, stored.into_iter().collect());
            match stored.unreadable.first() {
                Some(unreadable) => Err(unreadable.status(&cache.row)),
                None => Ok(stored.objects.into_iter().next()),
            }
        })
        .await
    }

    /// Waits for the cache if the store has something newer than `seen`; whether there was. An
    /// error: the store does not say, or the cache does not come to it. Who waits judges by what
    /// the cache alone has: by roles that are compiled as it changes, or by many objects.
    pub async fn catch_up(&self, seen: u64) -> Result<bool, Status> {
        let newest = self.cache().reach_newest().await;
        let newest = newest.map_err(|e| errors::from_store(&e))?;
        Ok(newest > seen)
    }

    /// All objects of a resource, in a namespace or (empty) everywhere. Those that cannot be read any
    /// more are as they were.
    pub fn lookup_all(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let Some(cache) = self
            .kinds()
            .resource(group, resource)
            .and_then(|r| self.cache().of(r))
        else {
            return Vec::new();
        };
        let snapshot = cache.snapshot();
        let objects = cache::walk(&snapshot, namespace, None).cloned();
        let is_gone = |o: &Arc<Object>| !snapshot.contains_key(&o.key);
        let lost = cache.lost(namespace).into_iter().filter(is_gone);
        objects.chain(lost).collect()
    }

    /// As [`State::lookup_all`], for who takes what is not in the list for what is not there: an error
    /// where one cannot be read.
    pub fn all_of(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, Status> {
        let kinds = self.kinds();
        let row = kinds.resource(group, resource);
        let Some((row, cache)) = row.and_then(|row| Some((row, self.cache().of(row)?))) else {
            return Ok(Vec::new());
        };
        let selection = Selection::new(row, namespace, "", "")?;
        let (objects, _) = cache.candidates(&selection)?;
        Ok(cache::walk(&objects, namespace, None).cloned().collect())
    }

    /// The key in the store of a row's object.
    pub fn store_key(row: &Row, key: &str) -> bytes::Bytes {
        format!("{}/{key}", row.storage_prefix).into()
    }

    /// Waits until reads see a revision.
    pub async fn reach(&self, revision: Revision) -> Result<(), Status> {
        self.cache()
            .reach(revision)
            .await
            .map_err(|current| Status::too_large_resource_version(current, revision))
    }
}
