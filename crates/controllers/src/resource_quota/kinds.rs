//! Watches of the kinds that quotas count and that no informer has: of their metadata, and only as
//! long as some quota counts them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use control::Keys;
use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use quota::Evaluator;
use tokio::task::{AbortHandle, JoinSet};

use super::{Inner, counted};
use crate::common::Key;
use crate::discovery::Served;

/// Between two looks at what is served: a kind that a quota counts may come later.
const DISCOVER_EVERY: Duration = Duration::from_secs(30);
const DISCOVER_AGAIN: Duration = Duration::from_secs(1);

/// Kinds whose informers are followed.
fn has_informer(group: &str, plural: &str) -> bool {
    group.is_empty() && ["pods", "services", "persistentvolumeclaims"].contains(&plural)
}

impl Inner {
    /// The kinds that some quota counts, by group and plural.
    fn wanted(&self) -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        for quota in self.quotas.list() {
            all.extend(Evaluator::counted_by(counted(&quota)));
        }
        all.retain(|(group, plural)| !has_informer(group, plural));
        all
    }

    /// Starts and ends watches, as quotas and kinds come and go.
    pub(super) async fn follow_kinds(self: Arc<Self>, keys: Keys<Key>) {
        self.quotas.synced().await;
        let mut running: HashMap<Served, AbortHandle> = HashMap::new();
        // Dropped with this function: ends all watches.
        let mut tasks = JoinSet::new();
        loop {
            let wanted = self.wanted();
            let mut wait = DISCOVER_EVERY;
            if wanted.is_empty() {
                running.drain().for_each(|(_, task)| task.abort());
            } else {
                match self.discovery.ask().await {
                    Ok(found) => {
                        let is_wanted = |s: &&Served| {
                            let r = &s.resource;
                            let watched = ["list", "watch", "delete"].iter().all(|v| s.can(v));
                            let named = (r.group.clone(), r.plural.clone());
                            s.namespaced && watched && wanted.contains(&named)
                        };
                        let kinds: Vec<&Served> = found.served.iter().filter(is_wanted).collect();
                        running.retain(|served, task| {
                            let stays = kinds.contains(&served);
                            if !stays {
                                task.abort();
                            }
                            stays
                        });
                        for served in kinds {
                            if !running.contains_key(served) {
                                let watch = self.clone().watch(served.clone(), keys.clone());
                                running.insert(served.clone(), tasks.spawn(watch));
                            }
                        }
                    }
                    Err(e) => {
                        tracing::debug!(controller = "resourcequota", "{e}; tried again later");
                        wait = DISCOVER_AGAIN;
                    }
                }
            }
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait), if !wanted.is_empty() => {}
            }
        }
    }

    /// Has quotas counted when an object of one kind has gone, or when ends may have been missed.
    async fn watch(self: Arc<Self>, served: Served, keys: Keys<Key>) {
        let resource = &served.resource;
        let Some(evaluator) = Evaluator::of(&resource.group, &resource.plural) else {
            return;
        };
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.client.clone(), resource);
        let mut events = client::events(self.random.clone(), api, Config::default()).boxed();
        while let Some(event) = events.next().await {
            let namespace = match event {
                Event::Delete(object) => object.metadata.namespace.unwrap_or_default(),
                Event::InitDone => String::new(),
                Event::Init | Event::InitApply(_) | Event::Apply(_) => continue,
            };
            let quotas = self.concerned(&namespace, &evaluator);
            self.count_soon(&keys, quotas);
        }
    }
}
