//! Quotas with their controller, against the real API server in this process: what is used is
//! counted, what ends is given back, kinds that come later are counted, too.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;
#[path = "common/server.rs"]
mod server;

use apiserver::admission::{self, Options};
use common::{create, until};
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use server::Cluster;

async fn cluster() -> Cluster {
    let c =
        Cluster::start(|config| config.admission = admission::standard(&Options::default())).await;
    let quotas = controllers::resource_quota::ResourceQuotas::new(&c.informers(), c.client.clone());
    c.run(quotas);
    let namespaces: Api<Namespace> = Api::all(c.client.clone());
    create(&namespaces, json!({ "metadata": { "name": "n" } })).await;
    let account = json!({ "metadata": { "name": "default" } });
    create(&c.api::<ServiceAccount>(), account).await;
    c
}

impl Cluster {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "n")
    }

    async fn quota(&self, name: &str, spec: Value) {
        let object = json!({ "metadata": { "name": name }, "spec": spec });
        create(&self.api::<ResourceQuota>(), object).await;
    }

    /// Waits until a quota says this of what is used.
    async fn used(&self, name: &str, want: Value) {
        until(&self.api::<ResourceQuota>(), |all| {
            let found = all
                .iter()
                .find(|q| q.metadata.name.as_deref() == Some(name));
            let status = found.and_then(|q| q.status.as_ref());
            let used = status.and_then(|s| s.used.as_ref());
            used.is_some_and(|used| serde_json::to_value(used).ok().as_ref() == Some(&want))
        })
        .await;
    }
}

fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i",
        "resources": { "requests": { "cpu": "200m" } } }] } })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_is_given_back() {
    let c = cluster().await;
    let pods: Api<Pod> = c.api();
    create(&pods, pod("before")).await;
    let hard = json!({ "pods": "2", "requests.cpu": "1", "secrets": "1", "services.nodeports": "2", "count/secrets": "9" });
    c.quota("q", json!({ "hard": hard })).await;
    let used = |pods: u32, cpu: &str, secrets: u32, ports: u32| {
        json!({ "pods": pods.to_string(), "requests.cpu": cpu, "secrets": secrets.to_string(),
            "count/secrets": secrets.to_string(), "services.nodeports": ports.to_string() })
    };
    c.used("q", used(1, "200m", 0, 0)).await;
    create(&pods, pod("second")).await;
    c.used("q", used(2, "400m", 0, 0)).await;
    let third: Pod = serde_json::from_value(pod("third")).expect("pod");
    let refused = pods.create(&PostParams::default(), &third).await;
    assert!(
        matches!(&refused, Err(kube::Error::Api(s)) if s.code == 403),
        "{refused:?}"
    );
    // One has run to its end, the other is deleted.
    let ended = Patch::Merge(json!({ "status": { "phase": "Succeeded" } }));
    let params = PatchParams::default();
    pods.patch_status("before", &params, &ended)
        .await
        .expect("status");
    c.used("q", used(1, "200m", 0, 0)).await;
    pods.delete("second", &DeleteParams::default())
        .await
        .expect("deleted");
    c.used("q", used(0, "0", 0, 0)).await;
    let secrets: Api<Secret> = c.api();
    create(&secrets, json!({ "metadata": { "name": "s" } })).await;
    c.used("q", used(0, "0", 1, 0)).await;
    secrets
        .delete("s", &DeleteParams::default())
        .await
        .expect("deleted");
    c.used("q", used(0, "0", 0, 0)).await;
    let services: Api<Service> = c.api();
    let service = json!({ "metadata": { "name": "s" }, "spec": { "type": "NodePort", "ports": [{ "port": 80 }] } });
    create(&services, service).await;
    c.used("q", used(0, "0", 0, 1)).await;
    let inside = Patch::Merge(json!({ "spec": { "type": "ClusterIP" } }));
    services
        .patch("s", &params, &inside)
        .await
        .expect("patched");
    c.used("q", used(0, "0", 0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_divide_what_is_counted() {
    let c = cluster().await;
    let pods: Api<Pod> = c.api();
    c.quota(
        "brief",
        json!({ "hard": { "pods": "5" }, "scopes": ["Terminating"] }),
    )
    .await;
    c.quota(
        "high",
        json!({ "hard": { "pods": "5" }, "scopeSelector": { "matchExpressions": [
        { "scopeName": "PriorityClass", "operator": "DoesNotExist" }] } }),
    )
    .await;
    let one = |n: u32| json!({ "pods": n.to_string() });
    c.used("brief", one(0)).await;
    c.used("high", one(0)).await;
    create(&pods, pod("p")).await;
    c.used("high", one(1)).await;
    c.used("brief", one(0)).await;
    // From now on it ends some day, and lies in the other scope.
    let deadline = Patch::Merge(json!({ "spec": { "activeDeadlineSeconds": 60 } }));
    pods.patch("p", &PatchParams::default(), &deadline)
        .await
        .expect("patched");
    c.used("brief", one(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_come_later_are_counted() {
    let c = cluster().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(c.client.clone());
    let schema = json!({ "openAPIV3Schema": { "type": "object" } });
    create(
        &definitions,
        json!({ "metadata": { "name": "things.example.com" }, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": { "plural": "things", "kind": "Thing" },
        "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }] } }),
    )
    .await;
    until(&definitions, |all| {
        let conditions = all
            .iter()
            .filter_map(|d| d.status.as_ref()?.conditions.as_ref());
        conditions
            .flatten()
            .any(|c| c.type_ == "Established" && c.status == "True")
    })
    .await;
    c.quota("q", json!({ "hard": { "count/things.example.com": "1" } }))
        .await;
    let one = |n: u32| json!({ "count/things.example.com": n.to_string() });
    c.used("q", one(0)).await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Thing"));
    let things: Api<DynamicObject> = Api::namespaced_with(c.client.clone(), "n", &kind);
    let thing = |name: &str| DynamicObject::new(name, &kind);
    let params = PostParams::default();
    things.create(&params, &thing("a")).await.expect("made");
    c.used("q", one(1)).await;
    let refused = things.create(&params, &thing("b")).await;
    assert!(
        matches!(&refused, Err(kube::Error::Api(s)) if s.message.contains("exceeded quota: q")),
        "{refused:?}"
    );
    things
        .delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    c.used("q", one(0)).await;
}
