//! Watches of the kinds that quotas count and that no informer has: of their metadata, and only as
//! long as some quota counts them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use client::discovery::Served;
use control::Keys;
use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use quota::Evaluator;
use tokio::task::{AbortHandle, JoinSet};

use super::{Inner, counted};
use crate::common::Key;

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
        let mut looks = self.served.subscribe();
        let mut running: HashMap<Served, AbortHandle> = HashMap::new();
        // Dropped with this function: ends all watches.
        let mut tasks = JoinSet::new();
        loop {
            let wanted = self.wanted();
            let found = looks.borrow_and_update().found();
            if let Some(found) = &found {
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
            // What is counted and not known may just have come.
            if running.len() < wanted.len() {
                self.served.look_again();
            }
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                // The sender lives as long as we do.
                news = looks.changed() => if news.is_err() {
                    return;
                },
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
