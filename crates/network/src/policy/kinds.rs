//! Which kinds of administrators' policies the API has, and what it says of them. They are custom
//! kinds: they may be there or not, come and go. Each is watched while it is there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use client::reflector::Table;
use clock::Random;
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::oneshot;

use super::PolicyEvent;
use super::cluster_wide::{GROUP, KINDS, PolicyKind};

/// The first and the longest wait before a server that gave no answer is asked again.
const ASK_AGAIN_MILLISECONDS: (u64, u64) = (200, 3_000);

type Definition = PartialObjectMeta<DynamicObject>;

/// Tells of the kinds, first of those that are there at the beginning, and of their policies.
pub fn heard(client: Client, random: Random) -> impl Stream<Item = PolicyEvent> + Send + 'static {
    let begin = async move {
        let present = present(&client, &random).await;
        let watched = Watched::new(client, random, present);
        futures::stream::unfold(watched, |mut watched| async move {
            let heard = watched.next().await?;
            Some((heard, watched))
        })
    };
    futures::stream::once(begin).flatten()
}

fn resource(group: &str, (kind, version, plural): (&str, &str, &str)) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// The kinds that can be listed. What may not be listed is as good as not there: the client counts
/// and logs the refusal.
async fn present(client: &Client, random: &Random) -> BTreeSet<PolicyKind> {
    let mut found = BTreeSet::new();
    for kind in KINDS {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(GROUP, kind.names()));
        let mut wait = ASK_AGAIN_MILLISECONDS.0;
        loop {
            match api.list_metadata(&ListParams::default().limit(1)).await {
                Ok(_) => {
                    found.insert(kind);
                    break;
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => break,
                Err(error) => {
                    tracing::debug!(%error, kind = kind.names().0, "not known, asking again");
                    let part = 1.0 + random.fraction() / 2.0;
                    let wait_now = std::time::Duration::from_millis(wait).mul_f64(part);
                    tokio::time::sleep(wait_now).await;
                    wait = (wait * 2).min(ASK_AGAIN_MILLISECONDS.1);
                }
            }
        }
    }
    found
}

struct Watched {
    client: Client,
    random: Random,
    /// What the watches of definitions have shown.
    definitions: BTreeMap<PolicyKind, Table<String, ()>>,
    events: SelectAll<BoxStream<'static, (PolicyKind, Event<Definition>)>>,
    /// Dropping its sender ends a watch.
    running: BTreeMap<PolicyKind, oneshot::Sender<()>>,
    policies: SelectAll<BoxStream<'static, PolicyEvent>>,
    next: VecDeque<PolicyEvent>,
}

impl Watched {
    fn new(client: Client, random: Random, present: BTreeSet<PolicyKind>) -> Self {
        let definition = (
            "CustomResourceDefinition",
            "v1",
            "customresourcedefinitions",
        );
        let of_definitions = resource("apiextensions.k8s.io", definition);
        // Each alone: those of others may be many and long.
        let watch = |kind: PolicyKind| {
            let api: Api<Definition> = Api::all_with(client.clone(), &of_definitions);
            let one = Config::default().fields(&format!("metadata.name={}", kind.definition()));
            let events = client::events(random.clone(), api, one);
            events.map(move |event| (kind, event)).boxed()
        };
        let events = futures::stream::select_all(KINDS.map(watch));
        let mut watched = Self {
            client,
            random,
            definitions: BTreeMap::new(),
            events,
            running: BTreeMap::new(),
            policies: SelectAll::new(),
            next: VecDeque::new(),
        };
        watched.change(present);
        watched
    }

    async fn next(&mut self) -> Option<PolicyEvent> {
        loop {
            if let Some(heard) = self.next.pop_front() {
                return Some(heard);
            }
            tokio::select! {
                biased;
                event = self.events.next() => {
                    let (kind, event) = event?;
                    self.defined(kind, event);
                }
                Some(heard) = self.policies.next() => return Some(heard),
            }
        }
    }

    /// A definition has come or gone.
    fn defined(&mut self, kind: PolicyKind, event: Event<Definition>) {
        let table = self.definitions.entry(kind).or_default();
        table.take(event, |d| d.name_any(), |_| Some(()));
        let is_there = !table.is_empty();
        if !table.is_complete() || is_there == self.running.contains_key(&kind) {
            return;
        }
        let mut now: BTreeSet<PolicyKind> = self.running.keys().copied().collect();
        match is_there {
            true => now.insert(kind),
            false => now.remove(&kind),
        };
        self.change(now);
    }

    /// Watches these kinds from now on.
    fn change(&mut self, now: BTreeSet<PolicyKind>) {
        self.running.retain(|kind, _| now.contains(kind));
        for kind in &now {
            if self.running.contains_key(kind) {
                continue;
            }
            let (end, ended) = oneshot::channel();
            self.running.insert(*kind, end);
            let (kind, of_kind) = (*kind, resource(GROUP, kind.names()));
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &of_kind);
            let events = client::events(self.random.clone(), api, Config::default());
            let heard = events.map(move |event| PolicyEvent::ClusterWide(kind, Box::new(event)));
            self.policies.push(heard.take_until(ended).boxed());
        }
        self.next.push_back(PolicyEvent::Kinds(now));
    }
}
