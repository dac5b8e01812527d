//! A pod's way to its node as a collector of spans sees it, in a whole control plane: what is done for
//! the pod is one trace, whose ID is the pod's UID; what a controller asks for is a part of its work.

#[path = "../../../traces/tests/collector/mod.rs"]
mod collector;

use std::time::Duration;

use collector::{Collector, attribute, hex};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::devices_test::{LOOK, create, node, traced_control_plane};
use super::local;

/// Longest that any of it may take; all comes by itself.
const LIMIT: Duration = Duration::from_secs(300);

/// A pod of a Deployment; its UID when it has a node.
async fn bound(admin: &Client) -> String {
    node(admin).await;
    let deployments: Api<Deployment> = Api::namespaced(admin.clone(), "default");
    let labels = json!({"app": "traced"});
    let template = json!({"metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template});
    create(
        &deployments,
        json!({"metadata": {"name": "traced"}, "spec": spec}),
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    loop {
        let all = pods.list(&ListParams::default()).await.expect("pods");
        let has_node = |p: &&Pod| p.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        if let Some(pod) = all.items.iter().find(has_node) {
            return pod.metadata.uid.clone().expect("a UID");
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_for_a_pod_is_one_trace() {
    let collector = Collector::start().await;
    // The server records what its components do, and nothing by itself.
    let (server, parts) = (collector.tracer(0), collector.tracer(1_000_000));
    let stop = CancellationToken::new();
    let running = traced_control_plane(&stop, (&server, &parts)).await;
    let admin = local(&running, "admin", &["system:masters"]);
    let uid = tokio::time::timeout(LIMIT, bound(&admin)).await;
    let uid = uid.expect("the pod has no node");
    let post = "POST /api/v1/namespaces/{:namespace}/pods";
    let bind = format!("{post}/{{:name}}/binding");
    // A span is reported at its end, which may come long after what is done in it.
    let all_told = || {
        let all = collector.spans();
        let has = |name: &str| all.iter().any(|s| s.name == name);
        let made = all.iter().find(|s| s.name == post);
        let of_what = made.map(|made| &made.parent_span_id);
        let has_parent = of_what.is_some_and(|id| all.iter().any(|s| s.span_id == *id));
        has("Scheduling") && has(&bind) && has_parent
    };
    let ended = async {
        while !all_told() {
            parts.flush().await;
            server.flush().await;
            tokio::time::sleep(LOOK).await;
        }
    };
    let ended = tokio::time::timeout(LIMIT, ended).await;
    ended.expect("not all that was done is told");
    stop.cancel();
    let scheduling = collector.one("Scheduling");
    assert_eq!(hex(&scheduling.trace_id), uid.replace('-', ""));
    assert_eq!(
        attribute(&scheduling, "k8s.node.name").as_deref(),
        Some("n")
    );
    let binding = collector.one(&bind);
    assert_eq!(binding.trace_id, scheduling.trace_id);
    assert_eq!(binding.parent_span_id, scheduling.span_id);
    // Whoever made it did so as a part of something else.
    let made = collector.one(post);
    assert_ne!(made.trace_id, scheduling.trace_id);
    let all = collector.spans();
    let work = all.iter().find(|s| s.span_id == made.parent_span_id);
    let work = work.expect("somebody's work");
    assert_eq!(work.name, "reconcile");
    let by = attribute(work, "tiphys.controller");
    assert_eq!(by.as_deref(), Some("replicaset-controller"));
}
