//! ResourceQuota: counts what a namespace uses, when a quota comes or changes, when something that
//! it counts has gone, and now and then. The API server adds what is made ([`plan`] says why both
//! agree). Kinds are known at run time: only those that some quota counts are watched.

mod kinds;
pub mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::discovery::{Discovery, Served};
use client::{Change, Informer, Informers, ServedKinds};
use clock::{Clock, Random};
use control::{Controller, Keys, Plan, Watches};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::resource::v1::DeviceClass;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, Resource, ResourceExt};
use parking_lot::Mutex;
use quota::Evaluator;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::common::{Key, key_of, value_of};
use plan::{Content, Counted, Observed};

/// From the end of an object to the count: many end together, and are counted once.
const SOON: Duration = Duration::from_millis(100);
/// Counting takes no more than one part in so many of the time.
const SHARE: u32 = 10;
/// Longest wait for a count of a very large namespace.
const LATE: Duration = Duration::from_secs(5);
/// Kinds of one quota that are listed at once.
const AT_ONCE: usize = 4;

/// Counts quotas.
pub struct ResourceQuotas(Arc<Inner>);

struct Inner {
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    client: Client,
    clock: Clock,
    random: Random,
    discovery: Discovery,
    served: ServedKinds,
    /// How long the last count of each quota took.
    costs: Mutex<HashMap<Key, Duration>>,
    /// Quotas may count other kinds now.
    changed: Notify,
}

impl ResourceQuotas {
    /// `client` acts as [`Controller::ACCOUNT`].
    pub fn new(informers: &Informers, client: Client) -> Self {
        Self(Arc::new(Inner {
            quotas: informers.of(),
            pods: informers.of(),
            services: informers.of(),
            claims: informers.of(),
            clock: informers.clock(),
            random: informers.random().clone(),
            discovery: Discovery::new(client.clone()),
            served: informers.served(),
            client,
            costs: Mutex::default(),
            changed: Notify::new(),
        }))
    }
}

/// The names of the resources that a quota counts, or is to count.
fn counted(quota: &ResourceQuota) -> impl Iterator<Item = &str> + Clone {
    let wanted = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
    let taken = quota.status.as_ref().and_then(|s| s.hard.as_ref());
    wanted
        .into_iter()
        .chain(taken)
        .flatten()
        .map(|(name, _)| name.as_str())
}

impl Inner {
    /// The quotas of a namespace, or (empty) of all, that count such objects.
    fn concerned(&self, namespace: &str, evaluator: &Evaluator) -> Vec<Key> {
        let mut all = if namespace.is_empty() {
            self.quotas.list()
        } else {
            self.quotas.list_namespace(namespace)
        };
        all.retain(|q| !evaluator.concerned(counted(q)).is_empty());
        all.iter().map(|q| key_of(&**q)).collect()
    }

    /// Has quotas counted soon: the sooner, the less it takes.
    fn count_soon(&self, keys: &Keys<Key>, quotas: Vec<Key>) {
        for key in quotas {
            let cost = self.costs.lock().get(&key).copied().unwrap_or_default();
            keys.later(key, cost.saturating_mul(SHARE).clamp(SOON, LATE));
        }
    }

    /// Follows the objects of an informer that others have anyway.
    async fn follow<K>(
        self: Arc<Self>,
        informer: Informer<K>,
        evaluator: Evaluator,
        keys: Keys<Key>,
    ) where
        K: Resource<DynamicType = ()>
            + Clone
            + Serialize
            + serde::de::DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let mut changes = informer.subscribe();
        while let Some(change) = changes.recv().await {
            let Some(old) = &change.old else { continue };
            let namespace = old.namespace().unwrap_or_default();
            let quotas = self.concerned(&namespace, &evaluator);
            if !quotas.is_empty() && frees(&evaluator, &change, self.clock.seconds()) {
                self.count_soon(&keys, quotas);
            }
        }
    }

    async fn content(
        &self,
        client: &Client,
        namespace: &str,
        served: &Served,
        evaluator: &Evaluator,
    ) -> Result<Content, kube::Error> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &served.resource);
        if matches!(evaluator, Evaluator::Count(_)) {
            // One object, and how many more there are.
            let page = api.list_metadata(&ListParams::default().limit(1)).await?;
            let more = page.metadata.remaining_item_count.unwrap_or(0);
            let here = i64::try_from(page.items.len()).unwrap_or(i64::MAX);
            return Ok(Content::Number(here.saturating_add(more)));
        }
        let all = api.list(&ListParams::default()).await?.items;
        let values = all.iter().map(serde_json::to_value);
        let values: Result<Vec<Value>, serde_json::Error> = values.collect();
        values
            .map(Content::Objects)
            .map_err(kube::Error::SerdeError)
    }

    async fn count(&self, client: &Client, mut seen: Observed) -> Observed {
        let found = match self.discovery.ask().await {
            Ok(found) => found,
            Err(e) => {
                tracing::debug!(controller = "resourcequota", "{e}; tried again later");
                seen.failed = true;
                return seen;
            }
        };
        let namespace = seen.quota.namespace().unwrap_or_default();
        let wanted = seen.quota.spec.as_ref().and_then(|s| s.hard.as_ref());
        let names = wanted.into_iter().flatten().map(|(name, _)| name.as_str());
        let kinds = Evaluator::counted_by(names);
        let kinds: Vec<(Evaluator, Served)> = kinds
            .iter()
            .filter_map(|(group, plural)| {
                let mut served = found.served.iter();
                let served = served.find(|s| s.is(group, plural) && s.namespaced && s.can("list"));
                Some((Evaluator::of(group, plural)?, served?.clone()))
            })
            .collect();
        let namespace = &namespace;
        let mut lists = futures::stream::iter(kinds)
            .map(|(evaluator, served)| async move {
                let content = self.content(client, namespace, &served, &evaluator).await;
                (evaluator, served, content)
            })
            .buffered(AT_ONCE);
        while let Some((evaluator, served, content)) = lists.next().await {
            match content {
                Ok(content) => seen.counted.push(Counted { evaluator, content }),
                Err(e) => {
                    let kind = &served.resource.plural;
                    tracing::warn!(controller = "resourcequota", "{kind} of {namespace}: {e}");
                    seen.unlisted.push(evaluator);
                    seen.failed = true;
                }
            }
        }
        let is_devices = |c: &Counted| matches!(c.evaluator, Evaluator::DeviceClaims(_));
        if seen.counted.iter().any(is_devices) {
            // What claims use depends on their classes.
            match classes(client).await {
                Ok(all) => seen.classes = all,
                Err(e) => {
                    tracing::warn!(controller = "resourcequota", "device classes: {e}");
                    seen.counted.retain(|c| !is_devices(c));
                    seen.unlisted.push(Evaluator::DeviceClaims(None));
                    seen.failed = true;
                }
            }
        }
        seen
    }
}

async fn classes(client: &Client) -> Result<Vec<Value>, kube::Error> {
    let api: Api<DeviceClass> = Api::all(client.clone());
    match api.list(&ListParams::default()).await {
        Ok(all) => Ok(all.items.iter().map(value_of).collect()),
        // This version of them is not served.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn frees<K: Serialize>(evaluator: &Evaluator, change: &Change<K>, now: i64) -> bool {
    let value = |object: &Arc<K>| value_of(&**object);
    let old = change.old.as_ref().map(value).unwrap_or_default();
    evaluator.frees(&old, change.new.as_ref().map(value).as_ref(), now)
}

impl Controller for ResourceQuotas {
    const NAME: &'static str = "resourcequota-controller";
    const QUEUE: &'static str = "resourcequota_primary";
    const ACCOUNT: &'static str = "resourcequota-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        let inner = self.0.clone();
        watches.on_change(&self.0.quotas, move |change| {
            let Some(new) = &change.new else {
                inner.changed.notify_one();
                let gone = change.old.as_ref().map(|q| key_of(&**q));
                return gone.into_iter().collect();
            };
            // Each charge changes the status; only what is wanted matters.
            let spec = |q: &Arc<ResourceQuota>| q.spec.clone();
            if change.old.as_ref().map(spec) == Some(new.spec.clone()) {
                return Vec::new();
            }
            inner.changed.notify_one();
            vec![key_of(&**new)]
        });
        let inner = self.0.clone();
        watches.feed(|keys| inner.follow_kinds(keys));
        let (inner, pods) = (self.0.clone(), self.0.pods.clone());
        watches.feed(|keys| inner.follow(pods, Evaluator::Pods, keys));
        let (inner, services) = (self.0.clone(), self.0.services.clone());
        watches.feed(|keys| inner.follow(services, Evaluator::Services, keys));
        let (inner, claims) = (self.0.clone(), self.0.claims.clone());
        watches.feed(|keys| inner.follow(claims, Evaluator::Claims, keys));
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let Some(quota) = self.0.quotas.get(namespace, name) else {
            self.0
                .costs
                .lock()
                .remove(&(namespace.clone(), name.clone()));
            return None;
        };
        Some(Observed {
            quota,
            counted: Vec::new(),
            classes: Vec::new(),
            unlisted: Vec::new(),
            failed: false,
        })
    }

    /// Lists what the quota counts, after the quota was seen: at its revision or later.
    async fn gather(&self, client: &Client, seen: Observed) -> Result<Observed, kube::Error> {
        let (key, began) = (key_of(&*seen.quota), Instant::now());
        let seen = self.0.count(client, seen).await;
        self.0.costs.lock().insert(key, began.elapsed());
        Ok(seen)
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        plan::plan(seen, now_millis)
    }
}
