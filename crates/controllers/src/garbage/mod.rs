//! The garbage collector: what has owners goes when all of them are gone; deletion in the
//! foreground and orphaning are carried out. It watches the metadata of every kind that can be
//! deleted. [`graph`] and [`plan`] decide, [`gather`] reads what they ask for.

mod gather;
pub mod graph;
pub mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::discovery::{DiscoveredResources, Served};
use client::reflector::Listing;
use client::{Informers, ServedKinds};
use clock::{Random, watch};
use control::action::Target;
use control::{Controller, Keys, Plan, Watches};
use futures::StreamExt;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use graph::{Graph, OwnerLocation, Uid};
use plan::Observed;

/// Decisions wait so long for the first lists of all kinds; a kind that cannot be listed must
/// not stop the others for ever.
const SYNC_AT_MOST: Duration = Duration::from_secs(10);

/// Collects garbage.
pub struct Garbage(Arc<Collector>);

impl Garbage {
    /// `client` acts as [`Controller::ACCOUNT`].
    pub fn new(informers: &Informers, client: Client) -> Self {
        Self(Arc::new(Collector {
            random: informers.random().clone(),
            client,
            served: informers.served(),
            graph: Mutex::default(),
            keys: OnceLock::new(),
            awaiting_kinds: Mutex::default(),
            absent: Mutex::default(),
            orphaning: Mutex::default(),
            reported: Mutex::default(),
            contended: Mutex::default(),
            unsynced: watch::Sender::new(None),
        }))
    }
}

impl Controller for Garbage {
    const NAME: &'static str = "garbage-collector-controller";
    const QUEUE: &'static str = "garbage_collector_attempt_to_delete";
    const ACCOUNT: &'static str = "generic-garbage-collector";
    type Key = Uid;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Uid>) {
        let collector = self.0.clone();
        watches.feed(|keys| {
            // Set once: a controller runs once.
            let _ = collector.keys.set(keys);
            collector.follow_kinds()
        });
    }

    fn observe(&self, uid: &Uid) -> Option<Observed> {
        let node = self.0.graph.lock().get(uid).cloned();
        let Some(node) = node else {
            self.0.orphaning.lock().remove(uid);
            self.0.contended.lock().remove(uid);
            return None;
        };
        Some(Observed::new(uid.clone(), node))
    }

    async fn gather(&self, _client: &Client, seen: Observed) -> Result<Observed, kube::Error> {
        self.0.synced().await;
        self.0.gather(seen).await
    }

    fn plan(&self, seen: &Observed, _now_millis: i64) -> Plan {
        plan::plan(seen)
    }

    fn failed(&self, uid: &Uid, _target: &Target, error: &kube::Error) {
        if matches!(error, kube::Error::Api(s) if s.code == 409) {
            self.0.contended.lock().insert(uid.clone());
        }
    }

    /// Objects that are decided on at once; as upstream.
    fn workers(&self) -> usize {
        20
    }
}

/// Kinds whose first list is still to come, and until when they are waited for.
struct Unsynced {
    kinds: HashSet<Arc<Served>>,
    until: Instant,
}

struct Collector {
    random: Random,
    client: Client,
    served: ServedKinds,
    graph: Mutex<Graph>,
    keys: OnceLock<Keys<Uid>>,
    /// Objects with an owner of a kind that is not served.
    awaiting_kinds: Mutex<BTreeSet<Uid>>,
    /// Owners that are known to be gone; UIDs never come back.
    absent: Mutex<HashSet<OwnerLocation>>,
    /// Since when objects are to let their dependents go.
    orphaning: Mutex<HashMap<Uid, Instant>>,
    /// Dependents and owners that were reported in events.
    reported: Mutex<HashSet<(Uid, Uid)>>,
    /// Objects that somebody else wrote in the moment of their deletion.
    contended: Mutex<HashSet<Uid>>,
    /// `None` until the first discovery.
    unsynced: watch::Sender<Option<Unsynced>>,
}

/// Events come and go in masses, and own nothing.
fn is_watched(served: &Served) -> bool {
    let events = served.resource.plural == "events"
        && matches!(served.resource.group.as_str(), "" | "events.k8s.io");
    !events && ["delete", "list", "watch"].iter().all(|v| served.can(v))
}

fn defines_resources(served: &Served) -> bool {
    served.is("apiextensions.k8s.io", "customresourcedefinitions")
        || served.is("apiregistration.k8s.io", "apiservices")
}

impl Collector {
    fn enqueue(&self, turn: Vec<Uid>) {
        if let Some(keys) = self.keys.get() {
            keys.add(turn);
        }
    }

    /// Starts and ends watches as kinds come and go.
    async fn follow_kinds(self: Arc<Self>) {
        let mut looks = self.served.subscribe();
        let mut monitors: HashMap<Arc<Served>, AbortHandle> = HashMap::new();
        // Dropped with this function: ends all watches.
        let mut tasks = JoinSet::new();
        loop {
            let found = looks.borrow_and_update().found();
            if let Some(found) = found {
                self.take_kinds(&found, &mut monitors, &mut tasks);
            }
            while tasks.try_join_next().is_some() {}
            // The sender lives as long as we do.
            if looks.changed().await.is_err() {
                return;
            }
        }
    }

    fn take_kinds(
        self: &Arc<Self>,
        found: &DiscoveredResources,
        monitors: &mut HashMap<Arc<Served>, AbortHandle>,
        tasks: &mut JoinSet<()>,
    ) {
        let served: Vec<Arc<Served>> = found.served.iter().cloned().map(Arc::new).collect();
        let wanted: HashSet<Arc<Served>> =
            served.iter().filter(|s| is_watched(s)).cloned().collect();
        // What a group serves whose server is away is not known: its watches stay.
        let failed = |s: &Served| found.failed.contains(&s.resource.api_version);
        let ended: Vec<Arc<Served>> = monitors
            .keys()
            .filter(|s| !wanted.contains(*s) && !failed(s))
            .cloned()
            .collect();
        let kept: Vec<Arc<Served>> = monitors.keys().filter(|s| failed(s)).cloned().collect();
        // In the order in which they are served: watches begin in the same one every time.
        let is_fresh = |s: &&Arc<Served>| wanted.contains(*s) && !monitors.contains_key(*s);
        let fresh: Vec<Arc<Served>> = served.iter().filter(is_fresh).cloned().collect();
        self.unsynced.send_modify(|u| {
            let u = u.get_or_insert_with(|| Unsynced {
                kinds: HashSet::new(),
                until: Instant::now(),
            });
            u.until = Instant::now() + SYNC_AT_MOST;
            u.kinds.retain(|k| !ended.contains(k));
            u.kinds.extend(fresh.iter().cloned());
        });
        let mut turn = Vec::new();
        {
            let mut graph = self.graph.lock();
            graph.set_kinds(served.into_iter().chain(kept));
            for gone in &ended {
                if let Some(task) = monitors.remove(gone) {
                    task.abort();
                }
                turn.extend(graph.retain(gone, &BTreeSet::new()));
            }
        }
        turn.extend(std::mem::take(&mut *self.awaiting_kinds.lock()));
        self.enqueue(turn);
        for kind in fresh {
            let task = tasks.spawn(self.clone().monitor(kind.clone()));
            monitors.insert(kind, task);
        }
    }

    /// Feeds the graph from the watch of one kind.
    async fn monitor(self: Arc<Self>, served: Arc<Served>) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.client.clone(), &served.resource);
        let mut events = client::events(self.random.clone(), api, Config::default()).boxed();
        let mut listing = Listing::default();
        while let Some(event) = events.next().await {
            self.take(&served, event, &mut listing);
        }
    }

    fn take(
        &self,
        served: &Arc<Served>,
        event: Event<PartialObjectMeta<DynamicObject>>,
        listing: &mut Listing<Uid>,
    ) {
        let changes = matches!(event, Event::Apply(_) | Event::Delete(_));
        let complete = matches!(event, Event::InitDone);
        let turn = match event {
            Event::Init => {
                listing.begin();
                Vec::new()
            }
            Event::InitApply(o) | Event::Apply(o) => {
                let mut graph = self.graph.lock();
                let (uid, node) = graph.node(served, &o.metadata);
                listing.see(uid.clone());
                graph.observe(uid, node)
            }
            Event::Delete(o) => {
                let uid = o.metadata.uid.unwrap_or_default();
                self.graph.lock().forget(&uid)
            }
            Event::InitDone => self.graph.lock().retain(served, &listing.end()),
        };
        self.enqueue(turn);
        if complete {
            self.unsynced.send_if_modified(|u| {
                u.as_mut()
                    .is_some_and(|u| u.kinds.remove(served) && u.kinds.is_empty())
            });
        }
        if changes && defines_resources(served) {
            self.served.look_again();
        }
    }

    /// Waits until all kinds have been listed, so that an owner is not taken for gone that has
    /// just not been seen.
    async fn synced(&self) {
        let mut state = self.unsynced.subscribe();
        loop {
            let until = match &*state.borrow_and_update() {
                None => None,
                Some(u) if u.kinds.is_empty() || Instant::now() >= u.until => return,
                Some(u) => Some(u.until),
            };
            // The sender lives as long as we do.
            match until {
                None => drop(state.changed().await),
                Some(until) => drop(tokio::time::timeout_at(until, state.changed()).await),
            }
        }
    }
}
