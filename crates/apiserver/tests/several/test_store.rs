//! One store and servers on it, wired as the binary wires them.

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::admission::{self, Admit};
use apiserver::filters::authz::AlwaysAllow;
use apiserver::settings::Shared;
use apiserver::storage::Upstream;
use bytes::Bytes;
use store::{Embedded, KeyValue, Op, Options, Outcome, Revision, Store, Txn};
use tokio_util::sync::CancellationToken;

use crate::stores::etcd::Cluster;

/// No busy machine starves a server for so long.
pub const LONG_SECONDS: u32 = 120;

/// A store, and what has to live as long.
pub struct TestStore {
    backing: Backing,
    raw: Arc<dyn Store>,
}

enum Backing {
    Embedded {
        store: Arc<Embedded>,
        _dir: tempfile::TempDir,
    },
    Etcd(Box<Cluster>),
}

impl TestStore {
    pub fn embedded() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let store = Arc::new(Embedded::open(dir.path(), Options::default()).expect("open"));
        Self {
            raw: store.clone(),
            backing: Backing::Embedded { store, _dir: dir },
        }
    }

    pub async fn etcd() -> Self {
        Self::etcd_with(&[]).await
    }

    /// On an etcd with flags of its own.
    pub async fn etcd_with(flags: &[&str]) -> Self {
        Self::on(Cluster::start(1, flags).await).await
    }

    pub async fn on(cluster: Cluster) -> Self {
        Self {
            raw: Arc::new(cluster.connect().await),
            backing: Backing::Etcd(Box::new(cluster)),
        }
    }

    pub fn is_etcd(&self) -> bool {
        matches!(self.backing, Backing::Etcd(_))
    }

    /// The members of the etcd, and which of them leads.
    pub async fn leader(&mut self) -> (&mut Cluster, usize) {
        let Backing::Etcd(cluster) = &mut self.backing else {
            panic!("no etcd");
        };
        let leader = cluster.leader(&cluster.connect().await).await;
        (cluster, leader)
    }

    /// The store without the layout's translation.
    pub fn raw(&self) -> &Arc<dyn Store> {
        &self.raw
    }

    /// The store as a server has it: with connections of its own, where there are any.
    pub async fn store(&self) -> Arc<dyn Store> {
        match &self.backing {
            Backing::Embedded { store, .. } => store.clone(),
            Backing::Etcd(cluster) => {
                let store = Arc::new(cluster.connect().await);
                Arc::new(Upstream::new(store, registry::kinds()))
            }
        }
    }

    /// A server at an address, with its first objects made.
    pub async fn server(&self, address: &str) -> ApiServer {
        self.server_that_lives(address, LONG_SECONDS).await
    }

    /// One that counts as dead after so many seconds of silence.
    pub async fn server_that_lives(&self, address: &str, seconds: u32) -> ApiServer {
        self.serve(address, seconds, Vec::new()).await
    }

    /// Two servers with the admission plugins of every cluster, and `more` behind them.
    pub async fn two_that_admit(&self, more: &[Arc<dyn Admit>]) -> [ApiServer; 2] {
        let plugins = || {
            let mut all = admission::standard(&admission::Options::default());
            all.extend(more.iter().cloned());
            all
        };
        [
            self.serve("192.0.2.1", LONG_SECONDS, plugins()).await,
            self.serve("192.0.2.2", LONG_SECONDS, plugins()).await,
        ]
    }

    async fn serve(
        &self,
        address: &str,
        seconds: u32,
        admission: Vec<Arc<dyn Admit>>,
    ) -> ApiServer {
        let mut config = crate::common::config_at(address, 6443);
        config.authorizers = vec![Arc::new(AlwaysAllow)];
        config.admission = admission;
        config.settings.shared = Some(Shared {
            lease_seconds: seconds,
            renew: Duration::from_millis(300),
            compaction: None,
        });
        let server = ApiServer::new(config, self.store().await, CancellationToken::new())
            .await
            .expect("the store is readable");
        server.bootstrap().await.expect("first objects");
        server
    }

    pub async fn two(&self) -> [ApiServer; 2] {
        [
            self.server("192.0.2.1").await,
            self.server("192.0.2.2").await,
        ]
    }

    pub async fn all(&self) -> Vec<KeyValue> {
        let page = self.raw.range(Bytes::new(), Bytes::new(), 0, 0).await;
        page.expect("range").items
    }

    pub async fn put(&self, key: &str, value: &str) -> Revision {
        let op = Op::Put {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            expires_after_seconds: None,
        };
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![op],
        };
        match self.raw.commit(txn).await.expect("commit") {
            Outcome::Committed(revision) => revision,
            Outcome::Refused(_) => panic!("nothing was compared"),
        }
    }
}

/// Waits for a condition that comes by itself; the runner's own limit ends a test in which it
/// does not.
pub async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
