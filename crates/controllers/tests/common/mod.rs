//! What the tests of controllers against a real API server share: objects are made, and a condition
//! on what a selection holds is waited for.

use futures::StreamExt;
use kube::Resource;
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Kinds that the tests use.
pub trait TestKind:
    Resource<DynamicType = ()>
    + Clone
    + Serialize
    + DeserializeOwned
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
}
impl<K> TestKind for K where
    K: Resource<DynamicType = ()>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static
{
}

pub async fn create<K: TestKind>(api: &Api<K>, object: Value) -> K {
    let object: K = serde_json::from_value(object).expect("object");
    let made = api.create(&PostParams::default(), &object).await;
    made.unwrap_or_else(|e| panic!("{object:?}: {e}"))
}

/// Waits until what the API selects is as wanted.
pub async fn until<K: TestKind>(api: &Api<K>, good: impl Fn(&[K]) -> bool) -> Vec<K> {
    let mut events = watcher(api.clone(), watcher::Config::default())
        .default_backoff()
        .boxed();
    loop {
        let now = api.list(&ListParams::default()).await.expect("list").items;
        if good(&now) {
            return now;
        }
        // Any change is a reason to look again.
        events.next().await;
    }
}
