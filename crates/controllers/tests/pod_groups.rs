//! Groups of pods with the controller that lets them go, against the real API server in this process.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;
#[path = "common/server.rs"]
mod server;

use std::sync::Arc;

use apiserver::admission::{self, Options};
use common::{create, until};
use controllers::pod_groups::PodGroupProtection;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::scheduling::v1alpha2::{PodGroup, Workload};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use server::Cluster;

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

/// A server that serves groups of pods, with a namespace, and the controller at work.
async fn cluster() -> Cluster {
    let gates = ["GenericWorkload=true"];
    let features = registry::Features::read(&gates).expect("a known gate");
    let apis = ["scheduling.k8s.io/v1alpha2=true"];
    let served = registry::served_versions::configured(&apis, &features).expect("a known API");
    let c = Cluster::start(|config| {
        config.settings.kinds = served.kinds;
        config.settings.features = Arc::new(features);
        config.admission = admission::standard(&Options::default());
    })
    .await;
    let namespaces: Api<Namespace> = Api::all(c.client.clone());
    create(&namespaces, json!({ "metadata": { "name": "n" } })).await;
    let account = json!({ "metadata": { "name": "default" } });
    create(&api::<ServiceAccount>(&c.client), account).await;
    c.run(PodGroupProtection::new(&c.informers(), c.client.clone()));
    c
}

fn api<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), "n")
}

fn group(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "schedulingPolicy": { "gang": { "minCount": 1 } } } })
}

fn member(name: &str, group: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i" }],
        "schedulingGroup": { "podGroupName": group } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_stays_while_pods_use_it() {
    let c = cluster().await;
    let (groups, pods) = (api::<PodGroup>(&c.client), api::<Pod>(&c.client));
    for name in ["one", "two", "idle"] {
        let made = create(&groups, group(name)).await;
        assert_eq!(made.finalizers(), [FINALIZER], "{name}");
    }
    create(&pods, member("first", "one")).await;
    create(&pods, member("second", "two")).await;
    for name in ["one", "two", "idle"] {
        let deleted = groups.delete(name, &DeleteParams::default()).await;
        deleted.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let gone =
        |name: &'static str| move |all: &[PodGroup]| all.iter().all(|g| g.name_any() != name);
    // The last of them has no pods, and goes; the others wait.
    let left = until(&groups, gone("idle")).await;
    let mut left: Vec<String> = left.iter().map(ResourceExt::name_any).collect();
    left.sort();
    assert_eq!(left, ["one", "two"]);
    // A pod that has gone, and one that has ended.
    let at_once = DeleteParams::default().grace_period(0);
    pods.delete("first", &at_once).await.expect("deleted");
    until(&groups, gone("one")).await;
    let ended = Patch::Merge(json!({ "status": { "phase": "Succeeded" } }));
    let params = PatchParams::default();
    let patched = pods.patch_status("second", &params, &ended).await;
    patched.expect("patched");
    until(&groups, gone("two")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_made_of_a_workload_that_is_there() {
    let c = cluster().await;
    let groups = api::<PodGroup>(&c.client);
    let of = |name: &str, template: &str| {
        let mut group = group(name);
        group["spec"]["podGroupTemplateRef"] = json!({ "workload": {
            "workloadName": "w", "podGroupTemplateName": template } });
        group
    };
    let refused = async |group: Value| {
        let group: PodGroup = serde_json::from_value(group).expect("a group");
        match groups.create(&PostParams::default(), &group).await {
            Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
            other => panic!("{other:?}"),
        }
    };
    let forbidden = |name: &str, why: &str| {
        let what = format!("podgroups.scheduling.k8s.io \"{name}\" is forbidden");
        (403_u16, format!("{what}: PodGroup rejected: {why}"))
    };
    assert_eq!(
        refused(of("a", "workers")).await,
        forbidden("a", "Workload \"w\" not found")
    );
    let workload = json!({ "metadata": { "name": "w" }, "spec": { "podGroupTemplates": [
        { "name": "workers", "schedulingPolicy": { "gang": { "minCount": 1 } } }] } });
    create(&api::<Workload>(&c.client), workload).await;
    assert_eq!(
        refused(of("b", "drivers")).await,
        forbidden(
            "b",
            "PodGroupTemplate \"drivers\" not found in Workload \"w\""
        )
    );
    create(&groups, of("c", "workers")).await;
}
