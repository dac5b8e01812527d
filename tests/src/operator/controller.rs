//! The controller of sites: each gets a ConfigMap with its pages and a Deployment of servers, both
//! applied and owned; what is seen of them becomes its status; and at its end a note is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event as Report, EventType, Recorder, Reporter};
use kube::runtime::{Controller, finalizer, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use super::kinds::v1::Site;

pub const MANAGER: &str = "site-operator";
const FINALIZER: &str = "programs.example.com/farewell";
/// How long after a failure a site is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a site is looked at without a change.
const SELDOM: Duration = Duration::from_secs(300);

/// Why a site was not brought in order.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("asking the API: {0}")]
    Api(#[from] kube::Error),
    #[error("an object that is built here: {0}")]
    Built(#[from] serde_json::Error),
    #[error("the site has no owner reference")]
    Nameless,
    #[error("the finalizer: {0}")]
    Finalizer(#[from] Box<finalizer::Error<Failed>>),
}

struct Shared {
    client: Client,
    recorder: Recorder,
    image: String,
}

/// Runs the controller of all sites in a namespace until it is asked to end by a signal.
pub async fn run(client: Client, namespace: &str, identity: &str, image: &str) {
    let sites = Api::<Site>::namespaced(client.clone(), namespace);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let reporter = Reporter {
        controller: MANAGER.into(),
        instance: Some(identity.into()),
    };
    let shared = Arc::new(Shared {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        image: image.into(),
    });
    // Both ways to begin a watch: a list, and a list that streams.
    Controller::new(sites, watcher::Config::default().streaming_lists())
        .owns(maps, watcher::Config::default())
        .owns(deployments, watcher::Config::default())
        .shutdown_on_signal()
        .run(reconcile, |_, _, _| Action::requeue(AGAIN), shared)
        .for_each(|outcome| async move {
            match outcome {
                Ok((site, _)) => println!("in order: {}", site.name),
                Err(e) => println!("not in order: {e}"),
            }
        })
        .await;
}

async fn reconcile(site: Arc<Site>, shared: Arc<Shared>) -> Result<Action, Failed> {
    let namespace = site.namespace().unwrap_or_default();
    let sites = Api::<Site>::namespaced(shared.client.clone(), &namespace);
    let outcome = finalizer::finalizer(&sites, FINALIZER, site, |event| async {
        match event {
            finalizer::Event::Apply(site) => bring_in_order(&site, &shared).await,
            finalizer::Event::Cleanup(site) => leave_a_note(&site, &shared).await,
        }
    });
    outcome.await.map_err(|e| Failed::Finalizer(Box::new(e)))
}

async fn bring_in_order(site: &Site, shared: &Shared) -> Result<Action, Failed> {
    let namespace = site.namespace().unwrap_or_default();
    let (name, client) = (site.name_any(), &shared.client);
    let owner = site.controller_owner_ref(&()).ok_or(Failed::Nameless)?;
    let labels = BTreeMap::from([("site", name.as_str())]);
    let apply = PatchParams::apply(MANAGER).force();
    let metadata = json!({ "name": name, "labels": labels, "ownerReferences": [owner] });
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
        "data": site.spec.pages });
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    maps.patch(&name, &apply, &Patch::Apply(map)).await?;
    let deployments = Api::<Deployment>::namespaced(client.clone(), &namespace);
    let wanted = deployment(&metadata, &labels, site, &shared.image);
    let seen = deployments
        .patch(&name, &apply, &Patch::Apply(wanted))
        .await?;
    let status = seen.status.unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or(0);
    let is_ready = ready >= site.spec.replicas
        && status.observed_generation.unwrap_or(0) >= seen.metadata.generation.unwrap_or(0);
    let condition = json!({ "type": "Ready", "status": if is_ready { "True" } else { "False" },
        "reason": if is_ready { "ServersAreReady" } else { "ServersAreComing" } });
    let status = json!({ "apiVersion": "programs.example.com/v1", "kind": "Site", "status": {
        "replicas": status.replicas.unwrap_or(0), "ready": ready, "selector": format!("site={name}"),
        "observedGeneration": site.metadata.generation, "conditions": [condition] } });
    let sites = Api::<Site>::namespaced(client.clone(), &namespace);
    let was_ready = site.status.as_ref().is_some_and(|s| {
        s.conditions
            .iter()
            .any(|c| c.kind == "Ready" && c.status == "True")
    });
    sites
        .patch_status(&name, &apply, &Patch::Apply(status))
        .await?;
    if is_ready && !was_ready {
        let report = Report {
            type_: EventType::Normal,
            reason: "Shown".into(),
            note: Some(format!("{ready} servers show {}", site.spec.title)),
            action: "Reconcile".into(),
            secondary: None,
        };
        shared
            .recorder
            .publish(&report, &site.object_ref(&()))
            .await?;
    }
    Ok(Action::requeue(SELDOM))
}

fn deployment(metadata: &Value, labels: &BTreeMap<&str, &str>, site: &Site, image: &str) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {
        "replicas": site.spec.replicas,
        "selector": { "matchLabels": labels },
        "template": { "metadata": { "labels": labels }, "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "web", "image": image,
                "volumeMounts": [{ "name": "pages", "mountPath": "/pages" }] }],
            "volumes": [{ "name": "pages", "configMap": { "name": site.name_any() } }] } } } })
}

async fn leave_a_note(site: &Site, shared: &Shared) -> Result<Action, Failed> {
    let namespace = site.namespace().unwrap_or_default();
    let name = format!("farewell-{}", site.name_any());
    let note = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
        "data": { "title": site.spec.title } });
    let maps = Api::<ConfigMap>::namespaced(shared.client.clone(), &namespace);
    maps.patch(&name, &PatchParams::apply(MANAGER), &Patch::Apply(note))
        .await?;
    Ok(Action::await_change())
}
