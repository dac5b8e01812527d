//! Empties namespaces that are being deleted, and lets them go. It works on every kind that the
//! server serves and knows none but pods, which come first. What it decides is in [`plan`].

pub mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers};
use control::queue::Queue;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::common::{is_deleting, millis_of, time_at};
use crate::discovery::{Discovery, Served};
use plan::{FINALIZER, Patience, Round};

/// Namespaces that are worked on at once.
const WORKERS: usize = 8;
/// Resources of one namespace that are deleted at once: enough to hide a network's round trips.
const AT_ONCE: usize = 8;

/// As which service account it acts.
pub const ACCOUNT: &str = "namespace-controller";

/// Runs the controller until `shutdown`; `client` acts as [`ACCOUNT`].
pub async fn run(informers: Informers, client: Client, shutdown: CancellationToken) {
    let namespaces: Informer<Namespace> = informers.of();
    let pods: Informer<Pod> = informers.of();
    let deleter = Arc::new(Deleter {
        discovery: Discovery::new(client.clone()),
        client,
        queue: Queue::default(),
        waiting: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(deleter.clone(), namespaces));
    tasks.spawn(follow_pods(deleter.clone(), pods));
    for _ in 0..WORKERS {
        tasks.spawn(work(deleter.clone()));
    }
    tokio::select! {
        () = shutdown.cancelled() => {}
        Some(ended) = tasks.join_next() => {
            if let Err(e) = ended {
                tracing::error!(controller = "namespace", "a worker ended badly: {e}");
            }
            shutdown.cancelled().await;
        }
    }
    tasks.shutdown().await;
}

struct Deleter {
    client: Client,
    discovery: Discovery,
    queue: Queue<String>,
    /// Namespaces that are being deleted and not yet empty.
    waiting: Mutex<HashMap<String, Patience>>,
}

/// Namespaces that are being deleted are worked on.
async fn follow(deleter: Arc<Deleter>, namespaces: Informer<Namespace>) {
    let mut changes = namespaces.subscribe();
    while let Some(change) = changes.recv().await {
        match &change.new {
            Some(ns) if is_deleting(&**ns) => {
                // Its own writes of conditions come back here: they are no reason to hurry.
                if !deleter.waiting.lock().contains_key(&ns.name_any()) {
                    deleter.queue.add(ns.name_any());
                }
            }
            Some(_) => {}
            None => {
                let name = change.object().map(|ns| ns.name_any());
                deleter.waiting.lock().remove(&name.unwrap_or_default());
            }
        }
    }
}

/// A pod that has gone may have been the last one that its namespace waits for.
async fn follow_pods(deleter: Arc<Deleter>, pods: Informer<Pod>) {
    let mut changes = pods.subscribe();
    while let Some(change) = changes.recv().await {
        let (None, Some(old)) = (&change.new, &change.old) else {
            continue;
        };
        let namespace = old.namespace().unwrap_or_default();
        if deleter.waiting.lock().contains_key(&namespace) {
            deleter.queue.add(namespace);
        }
    }
}

async fn work(deleter: Arc<Deleter>) {
    loop {
        let name = deleter.queue.next().await;
        match deleter.sync(&name).await {
            Ok(None) => {
                deleter.waiting.lock().remove(&name);
                deleter.queue.forget(&name);
            }
            Ok(Some(left)) => {
                let mut waiting = deleter.waiting.lock();
                let millis = waiting.entry(name.clone()).or_default().wait_millis(left);
                drop(waiting);
                deleter.queue.forget(&name);
                deleter
                    .queue
                    .add_after(name.clone(), Duration::from_millis(millis));
            }
            Err(e) => {
                tracing::debug!(controller = "namespace", name, "{e}; tried again later");
                deleter.queue.retry(name.clone());
            }
        }
        deleter.queue.done(&name);
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the namespace as a body: {0}")]
    Encode(#[from] serde_json::Error),
}

/// The API says that there is no such thing, or no such verb for it.
fn is_unsupported(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(s) if matches!(s.code, 404 | 405))
}

impl Deleter {
    fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.client.clone())
    }

    /// One round; what is left is to be looked at again, `None` when there is nothing to do.
    async fn sync(&self, name: &str) -> Result<Option<usize>, Error> {
        let Some(ns) = self.namespaces().get_opt(name).await? else {
            return Ok(None);
        };
        if !is_deleting(&ns) || !has_finalizer(&ns) {
            return Ok(None);
        }
        let round = self.empty(&ns).await;
        let done = round.is_clean();
        // A namespace that vanishes the next moment need not say so.
        let vanishes = done
            && ns.finalizers().is_empty()
            && ns.spec.iter().flat_map(|s| &s.finalizers).flatten().count() == 1;
        if !vanishes {
            self.report(&ns, &round).await?;
        }
        if !done {
            return Ok(Some(round.count()));
        }
        self.finalize(name, ns).await?;
        Ok(None)
    }

    /// Deletes all content, as far as it goes.
    async fn empty(&self, ns: &Namespace) -> Round {
        let found = match self.discovery.ask().await {
            Ok(found) => found,
            Err(e) => {
                return Round {
                    discovery_failure: Some(e.to_string()),
                    ..Round::default()
                };
            }
        };
        let mut round = Round::of(&found);
        let (pods, rest) = plan::content(&found);
        if let Some(pods) = pods {
            self.delete(pods, ns, &mut round).await;
            if !round.left.is_empty() {
                return round;
            }
        }
        let parts: Vec<Round> = futures::stream::iter(rest.into_iter().cloned())
            .map(|served| async move {
                let mut part = Round::default();
                self.delete(&served, ns, &mut part).await;
                part
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for part in parts {
            round.left.extend(part.left);
            round.content_failures.extend(part.content_failures);
        }
        round
    }

    /// Deletes all objects of one resource.
    async fn delete(&self, served: &Served, ns: &Namespace, round: &mut Round) {
        let name = ns.name_any();
        match self.delete_resource(served, ns).await {
            Ok((linger, items)) => {
                let finalizers = items.iter().map(ResourceExt::finalizers);
                let (left, wrong) = plan::judge(served, &name, linger, finalizers);
                round.left.extend(left);
                round.content_failures.extend(wrong);
            }
            Err(e) if is_unsupported(&e) => {}
            Err(e) => {
                let r = &served.resource;
                round.content_failures.push(format!(
                    "{}/{}, Resource={}: {e}",
                    r.group, r.version, r.plural
                ));
            }
        }
    }

    /// What is left after the deletion, and whether it may linger.
    async fn delete_resource(
        &self,
        served: &Served,
        ns: &Namespace,
    ) -> Result<(bool, Vec<PartialObjectMeta<DynamicObject>>), kube::Error> {
        let name = ns.name_any();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &name, &served.resource);
        let params = DeleteParams::background();
        let all = ListParams::default();
        let can_list = served.can("list");
        // Most resources of a namespace have no objects: a read tells, and writes nothing.
        let before = if can_list {
            api.list_metadata(&all).await?.items
        } else {
            Vec::new()
        };
        if can_list && before.is_empty() {
            return Ok((false, before));
        }
        let linger = served.is("", "pods") && self.pods_may_linger(ns).await?;
        if served.can("deletecollection") {
            api.delete_collection(&params, &all).await?;
        } else {
            for item in &before {
                match api.delete(&item.name_any(), &params).await {
                    Err(e) if !is_unsupported(&e) => return Err(e),
                    _ => {}
                }
            }
        }
        if !can_list {
            return Ok((linger, Vec::new()));
        }
        Ok((linger, api.list_metadata(&all).await?.items))
    }

    async fn pods_may_linger(&self, ns: &Namespace) -> Result<bool, kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &ns.name_any());
        let pods = api.list(&ListParams::default()).await?.items;
        let deleted = millis_of(ns.metadata.deletion_timestamp.as_ref()).unwrap_or(0);
        let now = jiff::Timestamp::now().as_millisecond();

        Ok(plan::may_linger(&pods, deleted, now))
    }

    async fn report(&self, ns: &Namespace, round: &Round) -> Result<(), Error> {
        let status = ns.status.as_ref();
        let old = status.and_then(|s| s.conditions.as_deref()).unwrap_or(&[]);
        let now = time_at(jiff::Timestamp::now().as_second() * 1_000);
        let changed = plan::conditions(old, round, &now);
        let terminating = status.and_then(|s| s.phase.as_deref()) == Some("Terminating");
        if changed.is_empty() && terminating {
            return Ok(());
        }
        // Upstream's role lets this controller update the status and not patch it; the version
        // that was read guards what others say.
        let mut told = ns.clone();
        let status = told.status.get_or_insert_default();
        status.phase = Some("Terminating".into());
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|c| changed.iter().all(|new| new.type_ != c.type_));
        conditions.extend(changed);
        let params = PostParams::default();
        match self
            .namespaces()
            .replace_status(&ns.name_any(), &params, &told)
            .await
        {
            Err(e) if !is_unsupported(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Takes the finalizer away; a namespace without others is gone then.
    async fn finalize(&self, name: &str, mut ns: Namespace) -> Result<(), Error> {
        // The conditions may just have been written.
        ns.metadata.resource_version = None;
        ns.metadata.managed_fields = None;
        if let Some(spec) = &mut ns.spec
            && let Some(finalizers) = &mut spec.finalizers
        {
            finalizers.retain(|f| f != FINALIZER);
        }
        let params = PostParams::default();
        match self
            .namespaces()
            .replace_subresource("finalize", name, &params, &ns)
            .await
        {
            Err(e) if !is_unsupported(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn has_finalizer(ns: &Namespace) -> bool {
    let finalizers = ns.spec.iter().flat_map(|s| &s.finalizers).flatten();
    finalizers.into_iter().any(|f| f == FINALIZER)
}
