//! Empties namespaces that are being deleted, and lets them go. It works on every kind that the
//! server serves and knows none but pods, which come first. What it decides is in [`plan`].

pub mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use client::discovery::{DiscoveredResources, Discovery, Served};
use client::{Change, Informer, Informers};
use control::action::Target;
use control::{Controller, Plan, Watches};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;

use crate::common::is_deleting;
use plan::{Content, Failures, Observed, has_finalizer, longest_grace};

/// Resources of one namespace that are listed at once: enough to hide a network's round trips.
const AT_ONCE: usize = 8;

/// Empties namespaces.
pub struct Namespaces {
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
    discovery: Discovery,
    /// By namespace.
    failures: Mutex<HashMap<String, Failures>>,
    /// Namespace → the objects that the last look saw and that nobody had deleted.
    fresh: Mutex<HashMap<String, u64>>,
}

impl Namespaces {
    /// `client` acts as [`Controller::ACCOUNT`].
    pub fn new(informers: &Informers, client: Client) -> Self {
        Self {
            namespaces: informers.of(),
            pods: informers.of(),
            discovery: Discovery::new(client),
            failures: Mutex::default(),
            fresh: Mutex::default(),
        }
    }

    async fn content(&self, client: &Client, name: &str) -> Content {
        let found = match self.discovery.ask().await {
            Ok(found) => found,
            Err(e) => return Content::unknown(e.to_string()),
        };
        let mut content = Content::of(&found);
        if let Err(e) = definitions(client, &found).await {
            let failure = &mut content.round.discovery_failure;
            failure.get_or_insert_with(|| e.to_string());
        }
        let (pods, rest) = plan::content(&found);
        if let Some(served) = pods {
            let pods = pods_of(client, name).await;
            content.add(served, pods);
            // Nothing that pods use goes before them.
            if !content.is_empty() {
                return content;
            }
        }
        let served = rest.into_iter().cloned();
        let mut lists = futures::stream::iter(served)
            .map(|served| async move {
                let items = items_of(client, name, &served).await;
                (served, items)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((served, items)) = lists.next().await {
            content.add(&served, items);
        }
        content
    }
}

/// Whether all definitions of kinds can be read. Those of others are not discovered, and what there is
/// of their objects would be left behind.
async fn definitions(client: &Client, found: &DiscoveredResources) -> Result<(), kube::Error> {
    let is_it = |s: &&Served| s.is("apiextensions.k8s.io", "customresourcedefinitions");
    let Some(served) = found.served.iter().find(is_it) else {
        return Ok(());
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &served.resource);
    // One says it of all.
    let some = api.list_metadata(&ListParams::default().limit(1)).await;
    some.map(drop)
}

async fn pods_of(client: &Client, namespace: &str) -> Result<plan::Items, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = api.list(&ListParams::default()).await?.items;
    Ok(plan::Items {
        grace_seconds: longest_grace(&pods),
        items: pods.iter().map(|p| plan::Item::of(&p.metadata)).collect(),
    })
}

/// What cannot be listed cannot be seen to be there: it is deleted once, in the dark.
async fn items_of(
    client: &Client,
    namespace: &str,
    served: &Served,
) -> Result<plan::Items, kube::Error> {
    if !served.can("list") {
        return Ok(plan::Items::default());
    }
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &served.resource);
    let items = api.list_metadata(&ListParams::default()).await?.items;
    Ok(plan::Items {
        grace_seconds: 0,
        items: items.iter().map(|i| plan::Item::of(&i.metadata)).collect(),
    })
}

/// A namespace is to be looked at when its deletion begins and when its finalizers change. This
/// controller's own writes of conditions are not a reason to hurry.
fn concerns(change: &Change<Namespace>) -> bool {
    let Some(new) = change.new.as_ref().filter(|ns| is_deleting(&***ns)) else {
        return false;
    };
    let held = |ns: &Namespace| {
        let spec = ns.spec.as_ref().and_then(|s| s.finalizers.clone());
        (spec, ns.metadata.finalizers.clone())
    };
    let old = change.old.as_ref().filter(|ns| is_deleting(&***ns));
    old.is_none_or(|old| held(old) != held(new))
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespace-controller";
    const QUEUE: &'static str = "namespace";
    const ACCOUNT: &'static str = "namespace-controller";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on_change(&self.namespaces, |change| {
            let named = change.object().filter(|_| concerns(change));
            named.map(|ns| ns.name_any()).into_iter().collect()
        });
        // A pod that has gone may have been the last one that its namespace waits for.
        let namespaces = self.namespaces.clone();
        watches.on_change(&self.pods, move |change| {
            let gone = change.old.as_ref().filter(|_| change.new.is_none());
            let name = gone.and_then(|pod| pod.namespace());
            let ends = |name: &String| namespaces.get("", name).is_some_and(|ns| is_deleting(&*ns));
            name.filter(ends).into_iter().collect()
        });
    }

    fn observe(&self, name: &String) -> Option<Observed> {
        let failures = self.failures.lock().remove(name).unwrap_or_default();
        let namespace = self.namespaces.get("", name);
        let ends = |ns: &Arc<Namespace>| is_deleting(&**ns) && has_finalizer(ns);
        let Some(namespace) = namespace.filter(ends) else {
            self.fresh.lock().remove(name);
            return None;
        };
        Some(Observed {
            namespace,
            content: Content::default(),
            failures,
            again: false,
        })
    }

    async fn gather(&self, client: &Client, known: Observed) -> Result<Observed, kube::Error> {
        let name = known.namespace.name_any();
        let content = self.content(client, &name).await;
        let fresh = content.fresh();
        let before = self.fresh.lock().insert(name, fresh);
        Ok(Observed {
            content,
            again: fresh != 0 && before == Some(fresh),
            ..known
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }

    fn failed(&self, name: &String, target: &Target, error: &kube::Error) {
        if is_of::<Namespace>(&target.resource) {
            return;
        }
        let resource = (
            target.resource.group.clone(),
            target.resource.plural.clone(),
        );
        let why = plan::failure(&target.resource, error);
        let mut failures = self.failures.lock();
        failures
            .entry(name.clone())
            .or_default()
            .insert(resource, why);
    }

    /// Most of a namespace's end is waiting for answers.
    fn workers(&self) -> usize {
        8
    }
}

fn is_of<K: kube::Resource<DynamicType = ()>>(resource: &ApiResource) -> bool {
    resource.group == K::group(&()) && resource.plural == K::plural(&())
}
