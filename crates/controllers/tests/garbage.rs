//! Namespaces and owners against the real API server in this process: what is deleted, what
//! stays, and in which order.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;
#[path = "common/server.rs"]
mod server;

use common::{TestKind, create, until};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use server::Cluster;
use store::{Op, Outcome, Txn};

async fn cluster() -> Cluster {
    let c = Cluster::start(|_| {}).await;
    let informers = c.informers();
    let namespaces = controllers::namespace::Namespaces::new(&informers, c.client.clone());
    c.run(namespaces);
    let garbage = controllers::garbage::Garbage::new(&informers, c.client.clone());
    c.run(garbage);
    c
}

fn names<K: TestKind>(objects: &[K]) -> Vec<String> {
    let mut all: Vec<String> = objects
        .iter()
        .map(ResourceExt::name_any)
        .filter(|n| n != "kube-root-ca.crt")
        .collect();
    all.sort();
    all
}

fn replica_set(name: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 0, "selector": { "matchLabels": { "a": name } },
            "template": {
                "metadata": { "labels": { "a": name } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    })
}

fn owner<K: TestKind>(object: &K, blocking: bool) -> Value {
    json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "name": object.name_any(), "uid": object.uid(), "blockOwnerDeletion": blocking,
    })
}

fn config_map(name: &str, owners: &[Value]) -> Value {
    json!({ "metadata": { "name": name, "ownerReferences": owners } })
}

impl Cluster {
    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: TestKind + Resource<Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
    fn all<K: TestKind>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Puts a value in the place of a stored one, or (none) removes it, past the server; gives what
    /// was there.
    async fn write(&self, key: &'static str, value: Option<&[u8]>) -> Option<Vec<u8>> {
        let before = self.store.get(key.into(), 0).await.expect("get");
        let op = match value {
            Some(value) => Op::Put {
                key: key.into(),
                value: value.to_vec().into(),
                expires_after_seconds: None,
            },
            None => Op::Delete { key: key.into() },
        };
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![op],
        };
        let done = self.store.commit(txn).await.expect("commit");
        assert!(matches!(done, Outcome::Committed(_)), "{key}");
        before.map(|kv| kv.value.to_vec())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_emptied_and_vanishes() {
    let c = cluster().await;
    let namespaces: Api<Namespace> = c.all();
    create(&namespaces, json!({ "metadata": { "name": "n" } })).await;
    let (maps, pods, sets): (Api<ConfigMap>, Api<Pod>, Api<ReplicaSet>) =
        (c.api("n"), c.api("n"), c.api("n"));
    for name in ["a", "b"] {
        create(&maps, config_map(name, &[])).await;
    }
    create(&sets, replica_set("s")).await;
    let pod = json!({
        "metadata": { "name": "p", "finalizers": ["test/hold"] },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    create(&pods, pod).await;

    namespaces
        .delete("n", &DeleteParams::default())
        .await
        .expect("delete");
    let condition = |all: &[Namespace], type_: &str| -> Option<(String, String)> {
        let ns = all.iter().find(|n| n.name_any() == "n")?;
        let conditions = ns.status.as_ref()?.conditions.as_ref()?;
        let c = conditions.iter().find(|c| c.type_ == type_)?;
        Some((c.status.clone(), c.message.clone()?))
    };
    let seen = until(&namespaces, |all| {
        condition(all, "NamespaceFinalizersRemaining").is_some_and(|c| c.0 == "True")
    })
    .await;
    assert_eq!(
        condition(&seen, "NamespaceFinalizersRemaining")
            .map(|c| c.1)
            .as_deref(),
        Some(
            "Some content in the namespace has finalizers remaining: test/hold in 1 resource instances"
        )
    );
    assert_eq!(
        condition(&seen, "NamespaceContentRemaining")
            .map(|c| c.1)
            .as_deref(),
        Some("Some resources are remaining: pods. has 1 resource instances")
    );
    // What the pod may use is still there.
    assert_eq!(
        names(&maps.list(&ListParams::default()).await.expect("list").items),
        ["a", "b"]
    );

    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    pods.patch("p", &PatchParams::default(), &free)
        .await
        .expect("patch");
    // A pod that no node runs ends as a kubelet would end it.
    let now = DeleteParams::default().grace_period(0);
    let _ = pods.delete("p", &now).await;
    until(&namespaces, |all| !names(all).contains(&"n".to_owned())).await;
    for left in [
        names(&maps.list(&ListParams::default()).await.expect("list").items),
        names(&sets.list(&ListParams::default()).await.expect("list").items),
    ] {
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_go_in_the_background() {
    let c = cluster().await;
    let (maps, sets): (Api<ConfigMap>, Api<ReplicaSet>) = (c.api("default"), c.api("default"));
    let one = create(&sets, replica_set("one")).await;
    let two = create(&sets, replica_set("two")).await;
    create(&maps, config_map("free", &[])).await;
    create(&maps, config_map("of-one", &[owner(&one, false)])).await;
    create(
        &maps,
        config_map("of-both", &[owner(&one, true), owner(&two, true)]),
    )
    .await;
    let middle = create(&maps, config_map("middle", &[owner(&one, false)])).await;
    create(&maps, config_map("leaf", &[owner(&middle, false)])).await;

    sets.delete("one", &DeleteParams::background())
        .await
        .expect("delete");
    let left = until(&maps, |all| {
        names(all) == ["free", "of-both"] && all.iter().all(|m| m.owner_references().len() < 2)
    })
    .await;
    let both = left
        .iter()
        .find(|m| m.name_any() == "of-both")
        .expect("kept");
    assert_eq!(both.owner_references()[0].name, "two");
    assert_eq!(
        names(&sets.list(&ListParams::default()).await.expect("list").items),
        ["two"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_foreground_dependents_go_first() {
    let c = cluster().await;
    let (maps, sets): (Api<ConfigMap>, Api<ReplicaSet>) = (c.api("default"), c.api("default"));
    let one = create(&sets, replica_set("one")).await;
    let mut held = config_map("held", &[owner(&one, true)]);
    held["metadata"]["finalizers"] = json!(["test/hold"]);
    create(&maps, held).await;
    create(&maps, config_map("blocking", &[owner(&one, true)])).await;

    sets.delete("one", &DeleteParams::foreground())
        .await
        .expect("delete");
    let left = until(&maps, |all| {
        names(all) == ["held"] && all.iter().any(|m| m.metadata.deletion_timestamp.is_some())
    })
    .await;
    assert_eq!(names(&left), ["held"]);
    let waits = sets.get("one").await.expect("still there");
    assert_eq!(waits.finalizers(), ["foregroundDeletion"]);
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    maps.patch("held", &PatchParams::default(), &free)
        .await
        .expect("patch");
    until(&sets, <[ReplicaSet]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_stay_without_their_owner() {
    let c = cluster().await;
    let (maps, sets): (Api<ConfigMap>, Api<ReplicaSet>) = (c.api("default"), c.api("default"));
    let one = create(&sets, replica_set("one")).await;
    for i in 0..20 {
        create(&maps, config_map(&format!("m{i}"), &[owner(&one, true)])).await;
    }
    sets.delete("one", &DeleteParams::orphan())
        .await
        .expect("delete");
    until(&sets, <[ReplicaSet]>::is_empty).await;
    let left = maps.list(&ListParams::default()).await.expect("list").items;
    assert_eq!(names(&left).len(), 20);
    assert!(left.iter().all(|m| m.owner_references().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_in_other_namespaces_are_no_owners() {
    let c = cluster().await;
    let (maps, elsewhere): (Api<ConfigMap>, Api<ConfigMap>) =
        (c.api("default"), c.api("kube-system"));
    let roles: Api<ClusterRole> = c.all();
    let one = create(&maps, config_map("one", &[])).await;
    let role = json!({ "metadata": { "name": "owned", "ownerReferences": [owner(&one, false)] }, "rules": [] });
    create(&roles, role).await;
    create(&elsewhere, config_map("stray", &[owner(&one, false)])).await;
    until(&elsewhere, |all| !names(all).contains(&"stray".to_owned())).await;
    let events: Api<Event> = c.all();
    let wrong = |all: &[Event], kind: &str| {
        all.iter().any(|e| {
            e.reason.as_deref() == Some("OwnerRefInvalidNamespace")
                && e.involved_object.kind.as_deref() == Some(kind)
        })
    };
    until(&events, |all| {
        wrong(all, "ClusterRole") && wrong(all, "ConfigMap")
    })
    .await;
    // Also when the owner has gone, the object of the whole cluster stays.
    maps.delete("one", &DeleteParams::background())
        .await
        .expect("delete");
    create(&maps, config_map("mark", &[owner(&one, false)])).await;
    until(&maps, |all| !names(all).contains(&"mark".to_owned())).await;
    roles.get("owned").await.expect("kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_cannot_be_read_is_not_gone() {
    const ONE: &str = "/registry/replicasets/default/one";
    // Nobody has seen the owner while it could be read.
    let c = Cluster::start(|_| {}).await;
    let (maps, sets): (Api<ConfigMap>, Api<ReplicaSet>) = (c.api("default"), c.api("default"));
    let one = create(&sets, replica_set("one")).await;
    let gone = create(&sets, replica_set("gone")).await;
    create(&maps, config_map("of-one", &[owner(&one, false)])).await;
    create(&maps, config_map("of-gone", &[owner(&gone, false)])).await;
    sets.delete("gone", &DeleteParams::background())
        .await
        .expect("delete");
    let good = c.write(ONE, Some(b"?")).await;

    let informers = c.informers();
    c.run(controllers::garbage::Garbage::new(
        &informers,
        c.client.clone(),
    ));
    until(&maps, |all| !names(all).contains(&"of-gone".to_owned())).await;
    c.write(ONE, good.as_deref()).await;
    let mark = owner(&gone, false);
    create(&maps, config_map("mark", &[mark])).await;
    let left = until(&maps, |all| !names(all).contains(&"mark".to_owned())).await;
    assert_eq!(names(&left), ["of-one"]);
    sets.get("one").await.expect("it is there");
    // It was only left alone: when the owner goes, so does it.
    sets.delete("one", &DeleteParams::background())
        .await
        .expect("delete");
    until(&maps, |all| names(all).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_does_not_go_over_what_cannot_be_read() {
    const A: &str = "/registry/configmaps/n/a";
    const DEFINITION: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/as.x.io";
    let c = cluster().await;
    let namespaces: Api<Namespace> = c.all();
    create(&namespaces, json!({ "metadata": { "name": "n" } })).await;
    let maps: Api<ConfigMap> = c.api("n");
    create(&maps, config_map("a", &[])).await;
    // A definition that nobody can read may be one of a kind that the namespace has objects of.
    let good = c.write(A, Some(b"?")).await;
    c.write(DEFINITION, Some(b"?")).await;
    namespaces
        .delete("n", &DeleteParams::default())
        .await
        .expect("delete");
    let fails = |n: &Namespace, what: &str| {
        let conditions = n.status.as_ref().and_then(|s| s.conditions.as_ref());
        let mut all = conditions.into_iter().flatten();
        n.name_any() == "n" && all.any(|c| c.type_ == what && c.status == "True")
    };
    let (content, discovery) = (
        "NamespaceDeletionContentFailure",
        "NamespaceDeletionDiscoveryFailure",
    );
    until(&namespaces, |all| {
        all.iter().any(|n| fails(n, content) && fails(n, discovery))
    })
    .await;
    c.write(A, good.as_deref()).await;
    until(&namespaces, |all| {
        all.iter()
            .any(|n| !fails(n, content) && fails(n, discovery))
    })
    .await;
    c.write(DEFINITION, None).await;
    until(&namespaces, |all| !names(all).contains(&"n".to_owned())).await;
    let left = c.store.get(A.into(), 0).await.expect("get");
    assert!(left.is_none());
}
