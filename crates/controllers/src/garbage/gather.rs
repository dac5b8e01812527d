//! Reads what a decision asks for: owners, and objects as the API has them now, since every write
//! names the version that it changes.

use std::time::Duration;

use client::discovery::Served;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject};
use tokio::time::Instant;

use super::Collector;
use super::graph::{FOREGROUND, Node, OwnerLocation, Uid};
use super::plan::{
    AGAIN_MILLIS, Live, Observed, Reads, Step, decide, has_owner, misplaced, misplaced_message,
};

/// Owners that are remembered as gone, and objects that were reported in events.
const REMEMBERED: usize = 2_000;
/// Dependents that are read at once.
const AT_ONCE: usize = 16;
/// From the order to orphan to its execution: dependents that were written just before may still
/// be on their way to the graph by the watch of their kind, and one that is missed would be
/// deleted later.
const ORPHAN_AFTER: Duration = Duration::from_millis(250);

/// The object is not there. A path that is not served is another matter: its objects may well
/// be stored.
fn is_absent(e: &kube::Error) -> bool {
    let kube::Error::Api(status) = e else {
        return false;
    };
    let named = status.details.as_ref().is_some_and(|d| !d.name.is_empty());
    status.code == 404 && named
}

impl Collector {
    fn api(&self, served: &Served, namespace: &str) -> Api<DynamicObject> {
        let client = self.client.clone();
        if served.namespaced {
            Api::namespaced_with(client, namespace, &served.resource)
        } else {
            Api::all_with(client, &served.resource)
        }
    }

    fn node(&self, uid: &str) -> Option<Node> {
        self.graph.lock().get(uid).cloned()
    }

    /// Decides on an object, with all that the decision needs.
    pub(super) async fn gather(&self, mut seen: Observed) -> Result<Observed, kube::Error> {
        let uid = seen.uid.clone();
        seen.misplaced = self.misplaced(&uid);
        let mut reads = Reads::new();
        let mut step = decide(&self.graph.lock(), &uid, &reads);
        // Owners may change meanwhile: those are another turn.
        if let Step::Read(places) = step {
            for place in places {
                let live = self.read(&place).await?;
                reads.insert(place, live);
            }
            step = decide(&self.graph.lock(), &uid, &reads);
        }
        // As the decision saw it; when it has gone, there is nothing to be done.
        if let Some(node) = self.node(&uid) {
            seen.node = node;
        }
        match &step {
            Step::Nothing | Step::Read(_) => {}
            Step::AwaitKinds => {
                self.awaiting_kinds.lock().insert(uid);
            }
            Step::Dependents(all) => self.enqueue(all.clone()),
            Step::Orphan(dependents) => self.gather_orphans(&mut seen, dependents).await?,
            Step::RemoveFinalizer(_) | Step::Strip(_) => {
                seen.own = self.live(&uid, &seen.node).await?;
            }
            Step::Delete(_) => {
                if self.contended.lock().remove(&uid) {
                    self.look_closer(&mut seen).await?;
                }
            }
        }
        seen.step = step;
        Ok(seen)
    }

    /// What the API says of an owner.
    async fn read(&self, place: &OwnerLocation) -> Result<Live, kube::Error> {
        if self.absent.lock().contains(place) {
            return Ok(Live::Absent);
        }
        self.graph.lock().read_begins(&place.uid);
        let api = self.api(&place.served, &place.namespace);
        let read = match api.get_metadata(&place.name).await {
            Ok(o) => Ok(Some(o.metadata).filter(|m| m.uid.as_deref() == Some(&*place.uid))),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        };
        let found = read.as_ref().ok().and_then(Option::as_ref);
        let turn = self.graph.lock().adopt(&place.uid, &place.served, found);
        self.enqueue(turn);
        let live = read?.map_or(Live::Absent, |meta| live_of(&meta));
        if live == Live::Absent {
            let mut absent = self.absent.lock();
            if absent.len() >= REMEMBERED {
                absent.clear();
            }
            absent.insert(place.clone());
        }
        Ok(live)
    }

    /// The object as it is now, if it is there and still the same.
    async fn live(&self, uid: &str, node: &Node) -> Result<Option<ObjectMeta>, kube::Error> {
        let api = self.api(&node.served, &node.namespace);
        match api.get_metadata(&node.name).await {
            Ok(o) if o.metadata.uid.as_deref() == Some(uid) => Ok(Some(o.metadata)),
            Ok(_) => Ok(None),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes that do not concern its owners must not keep it alive.
    async fn look_closer(&self, seen: &mut Observed) -> Result<(), kube::Error> {
        let Some(live) = self.live(&seen.uid, &seen.node).await? else {
            seen.gone = true;
            return Ok(());
        };
        let (_, now) = self.graph.lock().node(&seen.node.served, &live);
        seen.later = (now.owners != seen.node.owners || now.deleting).then_some(AGAIN_MILLIS);
        seen.own = Some(live);
        Ok(())
    }

    /// Dependents that still name the object as an owner; the object itself when there is none.
    async fn gather_orphans(
        &self,
        seen: &mut Observed,
        dependents: &[Uid],
    ) -> Result<(), kube::Error> {
        let left = self.orphans_in(&seen.uid);
        let left = left.and_then(|left| u64::try_from(left.as_millis()).ok());
        if let Some(left) = left.filter(|left| *left > 0) {
            seen.later = Some(left);
            return Ok(());
        }
        let known = dependents
            .iter()
            .filter_map(|d| Some((d.clone(), self.node(d)?)));
        let known: Vec<(Uid, Node)> = known.collect();
        let mut reads = futures::stream::iter(known)
            .map(|(d, node)| async move { (self.live(&d, &node).await, node) })
            .buffer_unordered(AT_ONCE);
        while let Some((live, node)) = reads.next().await {
            if let Some(meta) = live?.filter(|meta| has_owner(meta, &seen.uid)) {
                seen.dependents.push((node, meta));
            }
        }
        drop(reads);
        if seen.dependents.is_empty() {
            seen.own = self.live(&seen.uid, &seen.node).await?;
        }
        Ok(())
    }

    /// How long dependents are still waited for.
    fn orphans_in(&self, uid: &Uid) -> Option<Duration> {
        let mut orphaning = self.orphaning.lock();
        let since = orphaning.entry(uid.clone()).or_insert_with(Instant::now);
        ORPHAN_AFTER.checked_sub(since.elapsed())
    }

    /// What is reported, once, of references that cannot be.
    fn misplaced(&self, uid: &Uid) -> Vec<String> {
        let graph = self.graph.lock();
        let Some(node) = graph.get(uid) else {
            return Vec::new();
        };
        let mut reported = self.reported.lock();
        let owners = misplaced(&graph, node).into_iter();
        let fresh = owners.filter(|owner| {
            if reported.len() >= REMEMBERED {
                reported.clear();
            }
            reported.insert((uid.clone(), owner.uid.clone()))
        });
        fresh.map(|owner| misplaced_message(node, owner)).collect()
    }
}

fn live_of(meta: &ObjectMeta) -> Live {
    let waits = meta.finalizers.iter().flatten().any(|f| f == FOREGROUND);
    if meta.deletion_timestamp.is_some() && waits {
        Live::Waiting
    } else {
        Live::Solid
    }
}
