//! The API server: one pipeline from socket to store. `serve` takes requests, `filters` decide
//! who asks and whether they may, `verbs` holds one function per verb for all kinds, `cache`
//! serves reads and watches from once-serialized bytes. It knows no kind: rows do.
#![forbid(unsafe_code)]
#![expect(
    clippy::result_large_err,
    reason = "a Status is what errors of this crate are; the way of an error is not the hot one"
)]

pub mod admission;
pub mod bootstrap;
pub mod cache;
pub mod call;
pub mod claims;
pub mod codec;
pub mod config;
pub mod discovery;
pub mod endpoints;
pub mod errors;
pub mod fence;
pub mod filters;
pub mod http;
pub mod metrics;
pub mod object;
mod published;
mod render;
pub mod serve;
mod served;
pub mod storage;
pub mod subresources;
mod table;
pub mod verbs;

use std::sync::Arc;

use api::Status;
use registry::{Kinds, Row};
use serde_json::Value;
use store::{Revision, Store, StoreError};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use filters::authn::UserInfo;

use arc_swap::ArcSwap;
use cache::{Cache, Object};
use served::Served;

/// The server; clones share everything.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    config: Config,
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    served: ArcSwap<Served>,
    /// Held while the kinds change, so that two changes do not lose one another.
    changing: tokio::sync::Mutex<()>,
    metrics: metrics::Metrics,
    bootstrapped: bootstrap::Done,
    access: Arc<filters::index::Access>,
    places: filters::inflight::Places,
    ports: Arc<tokio::sync::Mutex<()>>,
    presence: endpoints::Presence,
    heavy: Arc<tokio::sync::Semaphore>,
    stop: CancellationToken,
}

/// Requests with much to decode that run at once: as many as there are processors, since they only
/// compute, and two at least, so that one waiting for the store does not hold up all others.
fn heavy_places() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().max(2))
}

impl ApiServer {
    /// Loads the cache and starts to follow the store; serves nothing yet. `stop` ends watches
    /// and the cache.
    pub async fn new(
        config: Config,
        store: Arc<dyn Store>,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let kinds = registry::kinds();
        let figures = metrics::StoreFigures::default();
        let store: Arc<dyn Store> = Arc::new(storage::Bounded::new(store, figures.clone()));
        let rows = kinds.rows().iter().cloned();
        let access = Arc::new(filters::index::Access::default());
        let cache = Cache::start(store.clone(), rows, access.clone(), stop.clone()).await?;
        let places = filters::inflight::Places::new(config.max_reads, config.max_writes);
        Ok(Self(Arc::new(Inner {
            config,
            store,
            cache,
            served: ArcSwap::from_pointee(Served::new(kinds.clone())),
            changing: tokio::sync::Mutex::default(),
            metrics: metrics::Metrics::new(&figures),
            bootstrapped: bootstrap::Done::default(),
            access,
            places,
            ports: Arc::default(),
            presence: endpoints::Presence::default(),
            heavy: Arc::new(tokio::sync::Semaphore::new(heavy_places())),
            stop,
        })))
    }

    pub fn config(&self) -> &Config {
        &self.0.config
    }
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }
    pub fn cache(&self) -> &Arc<Cache> {
        &self.0.cache
    }
    /// The kinds of this moment; a request uses those that it began with ([`call::Call::kinds`]).
    pub fn kinds(&self) -> Arc<Kinds> {
        self.0.served.load().kinds.clone()
    }
    /// The kinds of this moment with their documents.
    pub(crate) fn served(&self) -> Arc<Served> {
        self.0.served.load_full()
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
        let served = Served::new(Arc::new(Kinds::new(rows)));
        self.0.served.store(Arc::new(served));
        Ok(())
    }
    pub fn metrics(&self) -> &metrics::Metrics {
        &self.0.metrics
    }
    /// Who may do what, as new as the cache.
    pub fn access(&self) -> &filters::index::Access {
        &self.0.access
    }
    /// Places for requests with large bodies; see [`serve`].
    pub(crate) fn heavy(&self) -> &Arc<tokio::sync::Semaphore> {
        &self.0.heavy
    }
    pub(crate) fn places(&self) -> &filters::inflight::Places {
        &self.0.places
    }
    /// Taken by who changes the allocation of node ports.
    pub(crate) fn ports(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.0.ports.clone()
    }
    /// Cancelled when the server shuts down.
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Makes the objects that a cluster starts with; `/readyz` waits for it. From then on the
    /// server shows itself to the others and does its part of the store's upkeep.
    pub async fn bootstrap(&self) -> Result<(), Status> {
        bootstrap::run(self).await?;
        tokio::spawn(published::keep(self.clone()));
        if let Some(shared) = self.config().shared.clone() {
            tokio::spawn(endpoints::keep(self.clone(), shared.renew));
            if let Some(interval) = shared.compaction {
                let (store, stop) = (self.store().clone(), self.stop().clone());
                tokio::spawn(async move { storage::compact::run(&*store, interval, stop).await });
            }
        }
        Ok(())
    }

    /// Takes this server out of the endpoints of the `kubernetes` Service; call it before `stop`
    /// is cancelled. It goes on serving.
    pub async fn leave(&self) -> Result<(), Status> {
        endpoints::leave(self).await
    }
    pub(crate) fn presence(&self) -> &endpoints::Presence {
        &self.0.presence
    }
    pub(crate) fn set_bootstrapped(&self) {
        self.0.bootstrapped.set();
    }
    pub(crate) fn is_bootstrapped(&self) -> bool {
        self.0.bootstrapped.get()
    }

    /// Seconds since the epoch.
    pub fn now(&self) -> i64 {
        jiff::Timestamp::now().as_second()
    }

    /// A stored object, for authenticators, authorizers and admission; as new as the cache.
    pub fn lookup(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        let kinds = self.kinds();
        let row = kinds.resource(group, resource)?;
        self.cache().of(row)?.get(&row.key(namespace, name))
    }

    /// All objects of a resource, in a namespace or (empty) everywhere.
    pub fn lookup_all(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let Some(cache) = self
            .kinds()
            .resource(group, resource)
            .and_then(|r| self.cache().of(r))
        else {
            return Vec::new();
        };
        cache::walk(&cache.snapshot(), namespace, None)
            .cloned()
            .collect()
    }

    /// The key in the store of a row's object.
    pub(crate) fn store_key(row: &Row, key: &str) -> bytes::Bytes {
        format!("{}/{key}", row.storage_prefix).into()
    }

    /// Waits until reads see a revision.
    pub async fn reach(&self, revision: Revision) -> Result<(), Status> {
        self.cache()
            .reach(revision)
            .await
            .map_err(|current| Status::too_large_resource_version(current, revision))
    }

    /// Creates an object in the server's own name, past authentication and authorization: for
    /// the objects that a cluster starts with.
    pub async fn create_own(
        &self,
        group: &str,
        resource: &str,
        object: Value,
    ) -> Result<Arc<Object>, Status> {
        verbs::create::own(self, group, resource, object).await
    }
}
