//! All services, for the environments of containers.

use client::Informer;
use clock::Random;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::Config;
use std::sync::Arc;
use std::time::Duration;

/// How long a first container waits for the list. Without it, it would lack the API's address.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// Services by namespace and name.
#[derive(Clone)]
pub struct Services(Informer<Service>);

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    /// Watches all services until the last clone is dropped.
    #[must_use]
    pub fn start(client: kube::Client, random: Random) -> Self {
        let all = kube::Api::all(client);
        Self(Informer::start(random, all, Config::default()))
    }

    /// All services, once they were listed, by namespace and name.
    pub async fn all(&self) -> Vec<Arc<Service>> {
        let listed = tokio::time::timeout(FIRST_LIST, self.0.synced()).await;
        if listed.is_err() {
            tracing::warn!("services are not listed yet; the environment lacks them");
        }
        self.0.list()
    }
}
