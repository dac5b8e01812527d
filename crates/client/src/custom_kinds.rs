//! Which of some custom kinds the API has, and what it says of their objects: they may be there or
//! not, come and go. Each is watched while it is there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clock::Random;
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::oneshot;

use crate::events::events;
use crate::reflector::Table;

/// The first and the longest wait before a server that gave no answer is asked again.
const ASK_AGAIN_MILLISECONDS: (u64, u64) = (200, 3_000);

type Definition = PartialObjectMeta<DynamicObject>;

/// One of several custom kinds of a group.
pub trait CustomKind: Copy + Ord + Send + Sync + 'static {
    /// Their API group.
    const GROUP: &'static str;
    /// All of them.
    const ALL: &'static [Self];

    /// Its name, its version, and its name in paths.
    fn names(self) -> (&'static str, &'static str, &'static str);

    /// The resource.
    fn resource(self) -> ApiResource {
        resource(Self::GROUP, self.names())
    }
}

/// What becomes known of them.
#[derive(Debug, Clone)]
pub enum CustomKindEvent<K> {
    /// The kinds that there are now.
    Kinds(BTreeSet<K>),
    /// Of objects of one of them.
    Objects(K, Box<Event<DynamicObject>>),
}

/// Tells of the kinds, first of those that are there at the beginning, and of their objects.
pub fn events_of<K: CustomKind>(
    client: Client,
    random: Random,
) -> impl Stream<Item = CustomKindEvent<K>> + Send + 'static {
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
async fn present<K: CustomKind>(client: &Client, random: &Random) -> BTreeSet<K> {
    let mut found = BTreeSet::new();
    for &kind in K::ALL {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
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

struct Watched<K> {
    client: Client,
    random: Random,
    /// What the watches of definitions have shown.
    definitions: BTreeMap<K, Table<String, ()>>,
    events: SelectAll<BoxStream<'static, (K, Event<Definition>)>>,
    /// Dropping its sender ends a watch.
    running: BTreeMap<K, oneshot::Sender<()>>,
    objects: SelectAll<BoxStream<'static, CustomKindEvent<K>>>,
    next: VecDeque<CustomKindEvent<K>>,
}

impl<K: CustomKind> Watched<K> {
    fn new(client: Client, random: Random, present: BTreeSet<K>) -> Self {
        let definition = (
            "CustomResourceDefinition",
            "v1",
            "customresourcedefinitions",
        );
        let of_definitions = resource("apiextensions.k8s.io", definition);
        // Each alone: those of others may be many and long.
        let watch = |&kind: &K| {
            let api: Api<Definition> = Api::all_with(client.clone(), &of_definitions);
            let one =
                Config::default().fields(&format!("metadata.name={}.{}", kind.names().2, K::GROUP));
            let events = events(random.clone(), api, one);
            events.map(move |event| (kind, event)).boxed()
        };
        let events = futures::stream::select_all(K::ALL.iter().map(watch));
        let mut watched = Self {
            client,
            random,
            definitions: BTreeMap::new(),
            events,
            running: BTreeMap::new(),
            objects: SelectAll::new(),
            next: VecDeque::new(),
        };
        watched.change(present);
        watched
    }

    async fn next(&mut self) -> Option<CustomKindEvent<K>> {
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
                Some(heard) = self.objects.next() => return Some(heard),
            }
        }
    }

    /// A definition has come or gone.
    fn defined(&mut self, kind: K, event: Event<Definition>) {
        let table = self.definitions.entry(kind).or_default();
        table.take(event, |d| d.name_any(), |_| Some(()));
        let is_there = !table.is_empty();
        if !table.is_complete() || is_there == self.running.contains_key(&kind) {
            return;
        }
        let mut now: BTreeSet<K> = self.running.keys().copied().collect();
        match is_there {
            true => now.insert(kind),
            false => now.remove(&kind),
        };
        self.change(now);
    }

    /// Watches these kinds from now on.
    fn change(&mut self, now: BTreeSet<K>) {
        self.running.retain(|kind, _| now.contains(kind));
        for kind in &now {
            if self.running.contains_key(kind) {
                continue;
            }
            let (end, ended) = oneshot::channel();
            self.running.insert(*kind, end);
            let kind = *kind;
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind.resource());
            let events = events(self.random.clone(), api, Config::default());
            let heard = events.map(move |event| CustomKindEvent::Objects(kind, Box::new(event)));
            self.objects.push(heard.take_until(ended).boxed());
        }
        self.next.push_back(CustomKindEvent::Kinds(now));
    }
}

/// A text of an object, by its JSON pointer; empty: none.
#[must_use]
pub fn text<'a>(object: &'a DynamicObject, pointer: &str) -> &'a str {
    let found = object.data.pointer(pointer);
    found.and_then(|v| v.as_str()).unwrap_or_default()
}
