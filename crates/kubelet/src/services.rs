//! All services, for the environments of containers.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How long a first container waits for the list. Without it, it would lack the API's address.
const FIRST_LIST: Duration = Duration::from_secs(10);

type Shared = RwLock<HashMap<(String, String), Arc<Service>>>;

/// Services by namespace and name.
#[derive(Clone, Debug)]
pub struct Services {
    table: Arc<Shared>,
    listed: watch::Receiver<bool>,
}

impl Services {
    /// Watches all services until the last clone is dropped.
    #[must_use]
    pub fn start(client: kube::Client) -> Self {
        let (sender, listed) = watch::channel(false);
        let table = Arc::new(RwLock::new(HashMap::new()));
        tokio::spawn(follow(client, Arc::downgrade(&table), sender));
        Self { table, listed }
    }

    /// All services, once they were listed.
    pub async fn all(&self) -> Vec<Arc<Service>> {
        let mut listed = self.listed.clone();
        if tokio::time::timeout(FIRST_LIST, listed.wait_for(|l| *l))
            .await
            .is_err()
        {
            tracing::warn!("services are not listed yet; the environment lacks them");
        }
        let mut all: Vec<_> = self.table.read().values().cloned().collect();
        all.sort_by(|a, b| {
            (&a.metadata.namespace, &a.metadata.name)
                .cmp(&(&b.metadata.namespace, &b.metadata.name))
        });
        all
    }
}

fn key(s: &Service) -> (String, String) {
    (
        s.metadata.namespace.clone().unwrap_or_default(),
        s.metadata.name.clone().unwrap_or_default(),
    )
}

async fn follow(client: kube::Client, table: Weak<Shared>, listed: watch::Sender<bool>) {
    let api: kube::Api<Service> = kube::Api::all(client);
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut fresh = HashMap::new();
    while let Some(event) = events.next().await {
        let Some(table) = table.upgrade() else { return };
        match event {
            Ok(watcher::Event::Apply(s)) => {
                table.write().insert(key(&s), Arc::new(s));
            }
            Ok(watcher::Event::Delete(s)) => {
                table.write().remove(&key(&s));
            }
            Ok(watcher::Event::Init) => fresh.clear(),
            Ok(watcher::Event::InitApply(s)) => {
                fresh.insert(key(&s), Arc::new(s));
            }
            Ok(watcher::Event::InitDone) => {
                *table.write() = std::mem::take(&mut fresh);
                let _ = listed.send(true);
            }
            Err(e) => tracing::debug!(error = %e, "watching services failed; trying again"),
        }
    }
}
