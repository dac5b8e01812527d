//! Pods with users of their own (`hostUsers: false`), on a runtime that cannot give them and then can:
//! no two have the same, whichever kubelet gave them, and what a pod had is another's when it has gone.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;
use sim::{Cluster, Plan};

/// Longest that anything may take, in virtual time.
const MOST: Duration = Duration::from_secs(120);

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "nodeName": "node-0", "automountServiceAccountToken": false,
            "hostUsers": false, "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "c", "image": "web:1" }] } }))
    .unwrap()
}

#[test]
fn no_two_pods_have_the_same_users() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan::steady(folder.path());
    let runtime = sim::runtime().expect("runtime");
    runtime.block_on(async {
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let pods: Api<Pod> = Api::default_namespaced(cluster.admin().clone());
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.admin().clone());
        let there = || async { nodes.get_opt("node-0").await.unwrap().is_some() };
        cluster.until("the node", MOST, there).await.unwrap();
        let make = async |name: &str| {
            pods.create(&PostParams::default(), &pod(name))
                .await
                .unwrap()
        };
        let running = |name: &'static str| {
            let pods = &pods;
            move || async move {
                let pod = pods.get(name).await.unwrap();
                pod.status.and_then(|s| s.phase).as_deref() == Some("Running")
            }
        };
        let node = &cluster.nodes()[0];
        make("a").await;
        let events: Api<Event> = Api::default_namespaced(cluster.admin().clone());
        let why = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
        let refused = || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            let says = |e: &Event| e.message.as_deref().is_some_and(|m| m.contains(why));
            all.iter().any(says)
        };
        cluster.until("a refusal", MOST, refused).await.unwrap();
        assert!(node.users_of("a").is_empty());
        node.give_users();
        cluster.until("a", MOST, running("a")).await.unwrap();
        make("b").await;
        cluster.until("b", MOST, running("b")).await.unwrap();
        let (a, b) = (node.users_of("a"), node.users_of("b"));
        assert!(a.len() == 1 && b.len() == 1 && a != b, "{a:?} {b:?}");
        assert!(a[0] >= 65_536 && a[0] % 65_536 == 0);
        // Another kubelet knows which are given.
        node.restart_kubelet().expect("a kubelet");
        make("c").await;
        cluster.until("c", MOST, running("c")).await.unwrap();
        let c = node.users_of("c");
        assert!(c != a && c != b, "{a:?} {b:?} {c:?}");
        pods.delete("a", &DeleteParams::default()).await.unwrap();
        let gone = || async {
            let left = pods.get_opt("a").await.unwrap();
            left.is_none() && node.folders().len() == 2
        };
        cluster.until("the end of a", MOST, gone).await.unwrap();
        make("d").await;
        cluster.until("d", MOST, running("d")).await.unwrap();
        assert_eq!(node.users_of("d"), a);
    });
}
