//! A pod that the cluster needs comes to a node that is full: a lower one ends for it, and no more
//! than one.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use sim::{Cluster, Plan};

/// Longest that anything may take, in virtual time.
const MOST: Duration = Duration::from_secs(120);

/// A pod that goes to the node without asking the scheduler.
fn pod(name: &str, cpus: u32, class: &str) -> Pod {
    let requests = json!({ "cpu": cpus.to_string() });
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "nodeName": "node-0", "automountServiceAccountToken": false,
            "priorityClassName": class, "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "c", "image": "web:1", "resources": { "requests": requests } }] } }))
    .unwrap()
}

#[test]
fn a_critical_pod_gets_the_place_of_one_that_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan::steady(folder.path());
    let runtime = sim::runtime().expect("runtime");
    runtime.block_on(async {
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let pods: Api<Pod> = Api::default_namespaced(cluster.admin().clone());
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.admin().clone());
        let there = || async { nodes.get_opt("node-0").await.unwrap().is_some() };
        cluster.until("the node", MOST, there).await.unwrap();
        let make = async |pod: Pod| pods.create(&PostParams::default(), &pod).await.unwrap();
        let status = async |name: &str| {
            let pod: Pod = pods.get(name).await.unwrap();
            let status = pod.status.unwrap_or_default();
            (
                status.phase.unwrap_or_default(),
                status.reason.unwrap_or_default(),
            )
        };
        let running = |name: &'static str| {
            let status = &status;
            move || async move { status(name).await.0 == "Running" }
        };
        for (name, cpus) in [("small", 1), ("large", 2)] {
            make(pod(name, cpus, "")).await;
            cluster.until(name, MOST, running(name)).await.unwrap();
        }
        // Too large for what is free, and needed by nobody.
        make(pod("plain", 3, "")).await;
        let refused = || async { status("plain").await == ("Failed".into(), "OutOfcpu".into()) };
        cluster.until("a refusal", MOST, refused).await.unwrap();
        make(pod("needed", 3, "system-node-critical")).await;
        cluster
            .until("needed", MOST, running("needed"))
            .await
            .unwrap();
        assert_eq!(
            status("large").await,
            ("Failed".into(), "Preempting".into())
        );
        assert_eq!(status("small").await.0, "Running");
        let large = serde_json::to_value(pods.get("large").await.unwrap()).unwrap();
        let conditions = large["status"]["conditions"].as_array().unwrap();
        let ended = |c: &&Value| c["type"] == "DisruptionTarget" && c["status"] == "True";
        let ended = conditions.iter().find(ended).unwrap();
        assert_eq!(ended["reason"], "TerminationByKubelet");
        let events: Api<Event> = Api::default_namespaced(cluster.admin().clone());
        let told = || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            all.iter()
                .any(|e| e.reason.as_deref() == Some("Preempting"))
        };
        cluster.until("an event", MOST, told).await.unwrap();
        // What no end of others makes room for is refused, and nobody ends for it.
        make(pod("huge", 5, "system-node-critical")).await;
        let refused = || async {
            status("huge").await == ("Failed".into(), "UnexpectedAdmissionError".into())
        };
        cluster.until("a refusal", MOST, refused).await.unwrap();
        assert_eq!(status("small").await.0, "Running");
    });
}
