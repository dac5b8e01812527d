//! The server as its owner holds it: made of a configuration and a store, asked to make its first
//! objects, served, and taken out again. What the rules see of it is its [`State`].

use std::sync::Arc;

use api::Status;
use registry::{Kinds, Row};
use store::{Store, StoreError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::serve::Lanes;

use crate::aggregation::{self, Aggregation};
use crate::audit::Audit;
use crate::config::Config;
use crate::dialer::Reach;
use crate::discovery::Documents;
use crate::filters::impersonate::Ways;
use crate::hooks::Plugins;
use crate::loopback::{self, Loopback, endpoints};
use crate::state::State;
use crate::storage;

/// The server; clones share everything.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    loopback: Loopback,
    presence: endpoints::Presence,
    documents: Documents,
    aggregation: Arc<Aggregation>,
    audit: Option<Arc<Audit>>,
    ways: Ways,
    heavy: Arc<Semaphore>,
    lanes: Lanes,
    in_flight: TaskTracker,
}

/// Requests with much to decode that run at once: as many as there are processors, since they only
/// compute, and two at least, so that one waiting for the store does not hold up all others.
fn heavy_places() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().max(2))
}

impl ApiServer {
    /// Loads the cache and starts to follow the store; serves nothing yet. `stop` ends everything,
    /// so [`ApiServer::drain`] comes before it.
    pub async fn new(
        config: Config,
        store: Arc<dyn Store>,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let reach = Reach::new(config.dialer);
        let started = State::start(config.settings, config.authorizers, reach, store, stop);
        let (state, noted) = started.await?;
        let plugins = Plugins {
            authenticators: config.authenticators,
            admission: config.admission,
            connect: config.connect,
            explain: config.explain,
        };
        let loopback = Loopback {
            state,
            plugins: Arc::new(plugins),
        };
        tokio::spawn(loopback::token_uses::keep(loopback.clone(), noted));
        let audit = config.audit.map(|plan| Audit::start(plan, &loopback.state));
        for one in config.background {
            tokio::spawn(one.run(loopback.state.clone()));
        }
        tokio::spawn(loopback::flow_control::lend(loopback.state.clone()));
        Ok(Self(Arc::new(Inner {
            loopback,
            presence: endpoints::Presence::default(),
            documents: Documents::default(),
            aggregation: Arc::default(),
            audit,
            ways: Ways::default(),
            heavy: Arc::new(Semaphore::new(heavy_places())),
            lanes: config.lanes,
            in_flight: TaskTracker::new(),
        })))
    }

    /// What rules see of the server.
    pub fn state(&self) -> &State {
        &self.0.loopback.state
    }
    pub(crate) fn plugins(&self) -> &Arc<Plugins> {
        &self.0.loopback.plugins
    }
    pub(crate) fn documents(&self) -> &Documents {
        &self.0.documents
    }
    pub(crate) fn aggregation(&self) -> &Arc<Aggregation> {
        &self.0.aggregation
    }
    /// Where requests are recorded, if they are.
    pub(crate) fn audit(&self) -> Option<&Arc<Audit>> {
        self.0.audit.as_ref()
    }
    /// Places for requests with large bodies; see [`crate::serve`].
    pub(crate) fn heavy(&self) -> &Arc<Semaphore> {
        &self.0.heavy
    }
    /// Where connections run.
    pub(crate) fn lanes(&self) -> &Lanes {
        &self.0.lanes
    }
    /// Requests that the end of serving waits for: all but watches and other streams. It is closed
    /// when no more are taken.
    pub(crate) fn in_flight(&self) -> &TaskTracker {
        &self.0.in_flight
    }
    /// How users were last allowed to act as others.
    pub(crate) fn ways(&self) -> &Ways {
        &self.0.ways
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        self.state().store()
    }
    /// The kinds of this moment.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.state().kinds()
    }
    /// See [`State::change_rows`].
    pub async fn change_rows(
        &self,
        change: impl FnOnce(&mut Vec<Arc<Row>>),
    ) -> Result<(), StoreError> {
        self.state().change_rows(change).await
    }
    /// See [`State::stop`].
    pub fn stop(&self) -> &CancellationToken {
        self.state().stop()
    }
    /// Seconds since the epoch.
    pub fn now(&self) -> i64 {
        self.state().now()
    }

    /// Makes the objects that a cluster starts with; `/readyz` waits for it. From then on the
    /// server shows itself to the others and does its part of the store's upkeep.
    pub async fn bootstrap(&self) -> Result<(), Status> {
        let mut told = loopback::service_range::LastReported::default();
        loopback::bootstrap::run(&self.0.loopback, &self.0.presence, &mut told).await?;
        // Custom kinds are there before the server is ready, as after a restart they must be.
        let mut rows = loopback::definitions::Rows::default();
        if let Err(e) = loopback::definitions::turn(&self.0.loopback, &mut rows).await {
            tracing::warn!("custom resources: {e}");
        }
        tokio::spawn(loopback::definitions::keep(self.0.loopback.clone(), rows));
        let (loopback, aggregation) = (self.0.loopback.clone(), self.0.aggregation.clone());
        let mut done = aggregation::keep::Done::default();
        if let Err(e) = aggregation::keep::turn(&loopback, &aggregation, &mut done).await {
            tracing::warn!("APIServices: {e}");
        }
        tokio::spawn(aggregation::keep::keep(loopback, aggregation, done));
        tokio::spawn(loopback::published::keep(self.0.loopback.clone()));
        tokio::spawn(loopback::flow_control::keep(self.0.loopback.clone()));
        tokio::spawn(loopback::addresses::keep(self.0.loopback.clone()));
        tokio::spawn(loopback::service_range::keep(self.0.loopback.clone(), told));
        let host = self.state().settings().host.clone();
        if let Some(host) = host.filter(|_| self.state().has_feature("APIServerIdentity")) {
            tokio::spawn(loopback::identity::keep(self.0.loopback.clone(), host));
        }
        let server = self.0.clone();
        tokio::spawn(async move {
            loopback::bootstrap::keep(&server.loopback, &server.presence).await;
        });
        let shared = self.state().settings().shared.as_ref();
        if let Some(interval) = shared.and_then(|shared| shared.compaction) {
            let (store, stop) = (self.store().clone(), self.stop().clone());
            tokio::spawn(async move { storage::compact::run(&*store, interval, stop).await });
        }
        Ok(())
    }

    /// Lets the audit log end with what is on its way to it; call it when nothing is served any more.
    pub async fn finish_audit(&self) {
        if let Some(audit) = self.audit() {
            audit.finish().await;
        }
    }

    /// Takes this server out of the endpoints of the `kubernetes` Service, and is not ready any more;
    /// call it before [`ApiServer::drain`]. It goes on serving.
    pub async fn leave(&self) -> Result<(), Status> {
        self.state().leave();
        endpoints::leave(&self.0.loopback, &self.0.presence).await
    }

    /// Takes no new connections and requests from now on, and ends watches; [`ApiServer::serve`]
    /// returns when the requests that run have their answers. Only then is `stop` to be cancelled.
    pub fn drain(&self) {
        self.state().draining().cancel();
    }
}
