//! A claim of devices on its whole way through API server, controllers and scheduler, each with the
//! rights that it has in a cluster.

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::filters::tokens::Tokens;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::resource::v1::{
    DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use traces::Tracer;
use wire::jwt::Signer;

use super::local;
use crate::components::local_accounts;

/// Between two looks. What is waited for comes by itself, or the test's own limit ends it.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// API server, controllers and a scheduler in this process.
pub(super) async fn control_plane(
    stop: &CancellationToken,
    scheduling: scheduler::Config,
) -> ApiServer {
    started(stop, scheduling, &Tracer::default()).await
}

/// The same, with a tracer of the server and one of all other parts.
pub(super) async fn traced_control_plane(
    stop: &CancellationToken,
    (server, parts): (&Tracer, &Tracer),
) -> ApiServer {
    let scheduling = scheduler::Config {
        tracer: parts.clone(),
        ..scheduler::Config::default()
    };
    started(stop, scheduling, server).await
}

/// Controllers have the scheduler's tracer.
async fn started(
    stop: &CancellationToken,
    scheduling: scheduler::Config,
    tracer: &Tracer,
) -> ApiServer {
    let (signer, _) = Signer::generate().expect("a key");
    let signer = Arc::new(signer);
    let tokens = Tokens::new(signer.clone(), "https://kubernetes.default.svc");
    let mut config = apiserver::Config::new(
        "127.0.0.1".parse().expect("an address"),
        6443,
        clock::Clock::system(),
        clock::Random::system(),
    )
    .secured(tokens, &apiserver::admission::Options::default());
    config.settings.tracer = tracer.clone();
    let store = Arc::new(store::Memory::new(clock::Clock::system()));
    let server = ApiServer::new(config, store, stop.clone());
    let server = server.await.expect("a server");
    server.bootstrap().await.expect("its first objects");
    let accounts = local_accounts(&server);
    let informers = control::trimmed::informers(
        accounts.own().clone(),
        clock::Clock::system(),
        clock::Random::system(),
    );
    let scheduler = local(&server, "system:kube-scheduler", &[]);
    let (own, end) = (informers.clone(), stop.clone());
    let tracer = scheduling.tracer.clone();
    tokio::spawn(async move { scheduler::run(&own, scheduler, scheduling, end).await });
    let end = stop.clone();
    tokio::spawn(async move {
        let config = controllers::Config {
            // The node of this test has nobody who says that it lives.
            node_grace: Duration::from_secs(3_600),
            token_signer: Some(signer),
            tracer,
            ..controllers::Config::default()
        };
        controllers::run(&informers, &accounts, config, end).await
    });
    // Pods are refused until their account is there.
    let admin = local(&server, "admin", &["system:masters"]);
    let own: Api<ServiceAccount> = Api::namespaced(admin, "default");
    while own.get_opt("default").await.expect("an answer").is_none() {
        tokio::time::sleep(LOOK).await;
    }
    server
}

pub(super) async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).expect("an object");
    let made = api.create(&PostParams::default(), &object).await;
    made.expect("created")
}

/// The first claim of the namespace, when it is so.
async fn claim_that(
    api: &Api<ResourceClaim>,
    so: impl Fn(&ResourceClaim) -> bool,
) -> ResourceClaim {
    loop {
        let all = api.list(&ListParams::default()).await.expect("claims");
        if let Some(claim) = all.items.into_iter().find(|c| so(c)) {
            return claim;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn devices_of(client: &Client) {
    let classes: Api<DeviceClass> = Api::all(client.clone());
    let selector = json!({"cel": {"expression": "device.attributes[\"d.example\"].fast"}});
    create(
        &classes,
        json!({"metadata": {"name": "fast"}, "spec": {"selectors": [selector]}}),
    )
    .await;
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    create(
        &slices,
        json!({"metadata": {"name": "s"}, "spec": {"driver": "d.example", "nodeName": "n",
            "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "slow", "attributes": {"fast": {"bool": false}}},
                        {"name": "quick", "attributes": {"fast": {"bool": true}}}]}}),
    )
    .await;
    node(client).await;
}

/// A node that is ready.
pub(super) async fn node(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    create(&nodes, json!({"metadata": {"name": "n"}})).await;
    let ready = json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "9"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "m"}]}});
    let patch = Patch::Merge(ready);
    let done = nodes
        .patch_status("n", &PatchParams::default(), &patch)
        .await;
    done.expect("a status");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_made_allocated_and_freed() {
    let stop = CancellationToken::new();
    let server = control_plane(&stop, scheduler::Config::default()).await;
    let admin = local(&server, "admin", &["system:masters"]);
    let whole = async {
        devices_of(&admin).await;
        let templates: Api<ResourceClaimTemplate> = Api::namespaced(admin.clone(), "default");
        let request = json!({"name": "r", "exactly": {"deviceClassName": "fast"}});
        create(
            &templates,
            json!({"metadata": {"name": "t"},
                   "spec": {"spec": {"devices": {"requests": [request]}}}}),
        )
        .await;
        let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "i"}],
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]}});
        create(&pods, pod).await;
        let claims: Api<ResourceClaim> = Api::namespaced(admin.clone(), "default");
        let claim = claim_that(&claims, |c| {
            let status = c.status.as_ref();
            status.is_some_and(|s| s.reserved_for.as_ref().is_some_and(|r| !r.is_empty()))
        })
        .await;
        let results: Vec<_> = scheduler::devices::results(&claim).collect();
        assert_eq!(results.len(), 1);
        assert_eq!(results.first().map(|r| r.device.as_str()), Some("quick"));
        let name = claim.name_any();
        assert!(name.starts_with("p-gpu-"), "{name}");
        let bound = loop {
            let pod = pods.get("p").await.expect("the pod");
            if pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) {
                break pod;
            }
            tokio::time::sleep(LOOK).await;
        };
        let known = bound.status.and_then(|s| s.resource_claim_statuses);
        let known = known.and_then(|s| s.into_iter().next()?.resource_claim_name);
        assert_eq!(known, Some(name));
        let now = DeleteParams::default().grace_period(0);
        pods.delete("p", &now).await.expect("deleted");
        // Its owner is gone, and with the last user the devices.
        while !claims
            .list(&ListParams::default())
            .await
            .expect("claims")
            .items
            .is_empty()
        {
            tokio::time::sleep(LOOK).await;
        }
    };
    let limit = Duration::from_secs(300);
    tokio::time::timeout(limit, whole)
        .await
        .expect("it does not end");
    stop.cancel();
}
