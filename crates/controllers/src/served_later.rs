//! Kinds that are served where somebody asks for them: they are watched while they are served, and
//! nobody waits for them where they are not.

use std::fmt::Debug;

use client::ServedKinds;
use client::served_kinds::Looked;
use clock::Random;
use futures::StreamExt;
use kube::core::ApiResource;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Shows each object of a kind as it is there, comes and changes.
pub async fn each<K>(
    api: Api<K>,
    resource: ApiResource,
    random: Random,
    served: ServedKinds,
    show: impl Fn(K) + Send + Sync,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut looks = served.subscribe();
    let is_served = |looked: &Looked| looked.can_watch(&resource.group, &resource.plural);
    // The sender lives as long as we hold it.
    while looks.wait_for(is_served).await.is_ok() {
        let mut events = client::events(random.clone(), api.clone(), Config::default()).boxed();
        let all = async {
            while let Some(event) = events.next().await {
                if let Event::Apply(one) | Event::InitApply(one) = event {
                    show(one);
                }
            }
        };
        tokio::select! {
            biased;
            _ = looks.wait_for(|looked| !is_served(looked)) => {}
            () = all => {}
        }
    }
}
