//! The real API server in the test's process, with the controllers that a test starts beside it.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use apiserver::filters::authz::AlwaysAllow;
use apiserver::{ApiServer, UserInfo};
use client::Informers;
use control::{Controller, Recorder};
use kube::Client;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A server that allows everything; it ends with this value.
pub struct Cluster {
    pub client: Client,
    pub store: Arc<dyn store::Store>,
    stop: CancellationToken,
    _end: DropGuard,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// With a configuration that the test changes.
    pub async fn start(change: impl FnOnce(&mut apiserver::Config)) -> Self {
        let stop = CancellationToken::new();
        let dir = tempfile::tempdir().expect("folder");
        let store = store::Embedded::open(dir.path(), store::Options::default()).expect("store");
        let store: Arc<dyn store::Store> = Arc::new(store);
        let mut config = apiserver::Config::new(
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            6443,
            clock::Clock::system(),
            clock::Random::system(),
        );
        config.authorizers = vec![Arc::new(AlwaysAllow)];
        change(&mut config);
        let server = ApiServer::new(config, store.clone(), stop.clone())
            .await
            .expect("server");
        server.bootstrap().await.expect("first objects");
        let user = UserInfo::new("tester", &["system:masters"]);
        Self {
            client: client::in_process(server.local_service(user)),
            store,
            _end: stop.clone().drop_guard(),
            stop,
            _dir: dir,
        }
    }

    /// Caches of what is there, for controllers.
    pub fn informers(&self) -> Informers {
        let (clock, random) = (clock::Clock::system(), clock::Random::system());
        Informers::new(self.client.clone(), clock, random)
    }

    /// Has a controller do its work.
    pub fn run<C: Controller>(&self, controller: C) {
        let (client, stop) = (self.client.clone(), self.stop.clone());
        let recorder = Recorder::new(client.clone(), C::NAME, "", clock::Clock::system());
        tokio::spawn(control::run(controller, client, recorder, stop));
    }
}
