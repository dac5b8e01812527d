//! Reads what a decision asks for and carries it out. Every write names the object by its UID;
//! a race with another write ends in another decision.

use std::sync::Arc;
use std::time::Duration;

use control::action::Propagation;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Collector;
use super::graph::{FOREGROUND, Node, ORPHAN, Place, Uid};
use super::plan::{Live, Reads, Step, decide, misplaced, misplaced_message};
use crate::discovery::Served;

/// Owners that are remembered as gone, and objects of which people were told.
const REMEMBERED: usize = 2_000;
/// Dependents that are let go at once.
const AT_ONCE: usize = 16;
/// Tries of a write that races with others.
const ATTEMPTS: usize = 5;
/// From the order to orphan to its execution: dependents that were written just before may still
/// be on their way to the graph by the watch of their kind, and one that is missed would be
/// deleted later.
const ORPHAN_AFTER: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("{0} changes all the time")]
    Contended(Box<str>),
    #[error("the owners of {0} have changed")]
    OwnersChanged(Box<str>),
}

fn code_of(e: &kube::Error) -> u16 {
    match e {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

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

    fn api_of(&self, node: &Node) -> Api<DynamicObject> {
        self.api(&node.served, &node.namespace)
    }

    fn node(&self, uid: &str) -> Option<Node> {
        self.graph.lock().get(uid).cloned()
    }

    /// Decides on an object, and does it.
    pub(super) async fn process(&self, uid: &Uid) -> Result<(), Error> {
        self.tell(uid);
        let mut reads = Reads::new();
        let mut step = decide(&self.graph.lock(), uid, &reads);
        // Owners may change meanwhile: those are another turn.
        if let Step::Read(places) = step {
            for place in places {
                let live = self.read(&place).await?;
                reads.insert(place, live);
            }
            step = decide(&self.graph.lock(), uid, &reads);
        }
        let Some(node) = self.node(uid) else {
            self.orphaning.lock().remove(uid);
            return Ok(());
        };
        match step {
            Step::Nothing => Ok(()),
            Step::Read(_) => Err(Error::OwnersChanged(node.name)),
            Step::AwaitKinds => {
                self.awaiting_kinds.lock().insert(uid.clone());
                Ok(())
            }
            Step::Dependents(all) => {
                self.enqueue(all);
                Ok(())
            }
            Step::Orphan(dependents) => self.orphan(uid, &node, dependents).await,
            Step::RemoveFinalizer(finalizer) => self.remove_finalizer(uid, &node, finalizer).await,
            Step::Strip(owners) => self.strip(uid, &node, &owners).await,
            Step::Delete(propagation) => self.delete(uid, &node, propagation).await,
        }
    }

    /// What the API says of an owner.
    async fn read(&self, place: &Place) -> Result<Live, Error> {
        if self.absent.lock().contains(place) {
            return Ok(Live::Absent);
        }
        let api = self.api(&place.served, &place.namespace);
        let live = match api.get_metadata(&place.name).await {
            Ok(o) if o.metadata.uid.as_deref() == Some(&*place.uid) => live_of(&o.metadata),
            Ok(_) => Live::Absent,
            Err(e) if is_absent(&e) => Live::Absent,
            Err(e) => return Err(e.into()),
        };
        if live == Live::Absent {
            let mut absent = self.absent.lock();
            if absent.len() >= REMEMBERED {
                absent.clear();
            }
            absent.insert(place.clone());
        }
        Ok(live)
    }

    async fn delete(&self, uid: &Uid, node: &Node, propagation: Propagation) -> Result<(), Error> {
        let version = (node.version > 0).then(|| node.version.to_string());
        let first = self.delete_at(uid, node, version, propagation).await;
        let Err(e) = first else { return Ok(()) };
        if code_of(&e) != 409 {
            return Err(e.into());
        }
        // Writes that do not concern its owners must not keep it alive.
        let live = match self.api_of(node).get_metadata(&node.name).await {
            Ok(o) => o.metadata,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if live.uid.as_deref() != Some(&**uid) {
            return Ok(());
        }
        let (_, now) = self.graph.lock().node(&node.served, &live);
        if now.owners != node.owners || now.deleting {
            return Err(Error::OwnersChanged(node.name.clone()));
        }
        Ok(self
            .delete_at(uid, node, live.resource_version, propagation)
            .await?)
    }

    async fn delete_at(
        &self,
        uid: &Uid,
        node: &Node,
        resource_version: Option<String>,
        propagation: Propagation,
    ) -> Result<(), kube::Error> {
        let params = DeleteParams {
            propagation_policy: Some(match propagation {
                Propagation::Background => PropagationPolicy::Background,
                Propagation::Foreground => PropagationPolicy::Foreground,
                Propagation::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_string()),
                resource_version,
            }),
            ..DeleteParams::default()
        };
        match self.api_of(node).delete(&node.name, &params).await {
            Err(e) if !is_absent(&e) => Err(e),
            _ => {
                tracing::debug!(controller = "garbage", kind = node.served.resource.kind, name = %node.name, "deleted");
                Ok(())
            }
        }
    }

    async fn orphan(&self, uid: &Uid, node: &Node, dependents: Vec<Uid>) -> Result<(), Error> {
        let since = *self
            .orphaning
            .lock()
            .entry(uid.clone())
            .or_insert_with(Instant::now);
        let passed = since.elapsed();
        if passed < ORPHAN_AFTER {
            self.queue.add_after(uid.clone(), ORPHAN_AFTER - passed);
            return Ok(());
        }
        let known: Vec<(Uid, Node)> = dependents
            .into_iter()
            .filter_map(|d| self.node(&d).map(|n| (d, n)))
            .collect();
        let outcomes: Vec<Result<(), Error>> = futures::stream::iter(known)
            .map(|(d, n)| {
                let owner = [uid.clone()];
                async move { self.strip(&d, &n, &owner).await }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        outcomes.into_iter().collect::<Result<(), Error>>()?;
        self.remove_finalizer(uid, node, ORPHAN).await?;
        self.orphaning.lock().remove(uid);
        Ok(())
    }

    /// Takes owners out of an object's references.
    async fn strip(&self, uid: &Uid, node: &Node, owners: &[Uid]) -> Result<(), Error> {
        self.change(uid, node, |meta| {
            let old = meta.owner_references.as_deref().unwrap_or(&[]);
            let kept: Vec<_> = old
                .iter()
                .filter(|r| !owners.iter().any(|o| **o == *r.uid))
                .collect();
            (kept.len() < old.len()).then(|| json!({ "ownerReferences": or_null(kept) }))
        })
        .await
    }

    async fn remove_finalizer(&self, uid: &Uid, node: &Node, finalizer: &str) -> Result<(), Error> {
        self.change(uid, node, |meta| {
            let old = meta.finalizers.as_deref().unwrap_or(&[]);
            let kept: Vec<_> = old.iter().filter(|f| *f != finalizer).collect();
            (kept.len() < old.len()).then(|| json!({ "finalizers": or_null(kept) }))
        })
        .await
    }

    /// Changes metadata as it is now; `make` gives what is to be merged, or nothing to do.
    async fn change(
        &self,
        uid: &Uid,
        node: &Node,
        make: impl Fn(&ObjectMeta) -> Option<Value>,
    ) -> Result<(), Error> {
        let api = self.api_of(node);
        for _ in 0..ATTEMPTS {
            let live = match api.get_metadata(&node.name).await {
                Ok(o) => o.metadata,
                Err(e) if is_absent(&e) => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            if live.uid.as_deref() != Some(&**uid) {
                return Ok(());
            }
            let Some(mut change) = make(&live) else {
                return Ok(());
            };
            change["uid"] = json!(live.uid);
            change["resourceVersion"] = json!(live.resource_version);
            let patch = Patch::Merge(json!({ "metadata": change }));
            let params = PatchParams::default();
            match api.patch_metadata(&node.name, &params, &patch).await {
                Err(e) if code_of(&e) == 409 => {}
                Err(e) if !is_absent(&e) => return Err(e.into()),
                _ => return Ok(()),
            }
        }
        Err(Error::Contended(node.name.clone()))
    }

    /// Tells people once of references that cannot be.
    fn tell(&self, uid: &Uid) {
        let graph = self.graph.lock();
        let Some(node) = graph.get(uid) else { return };
        for owner in misplaced(&graph, node) {
            let mut told = self.told.lock();
            if told.len() >= REMEMBERED {
                told.clear();
            }
            if told.insert((uid.clone(), owner.uid.clone())) {
                let message = misplaced_message(node, owner);
                let about = reference(uid, node);
                self.recorder
                    .event(&about, true, "OwnerRefInvalidNamespace", &message);
            }
        }
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

fn or_null<T: serde::Serialize>(list: Vec<T>) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

fn reference(uid: &Arc<str>, node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some(node.served.resource.api_version.clone()),
        kind: Some(node.served.resource.kind.clone()),
        namespace: Some(node.namespace.to_string()).filter(|n| !n.is_empty()),
        name: Some(node.name.to_string()),
        uid: Some(uid.to_string()),
        ..ObjectReference::default()
    }
}
