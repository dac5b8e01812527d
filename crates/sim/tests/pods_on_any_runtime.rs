//! The rules of pods' lives on the runtime in memory.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../tests/src/pods_on_any_runtime.rs"]
mod listed;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use listed::Program;
use serde_json::json;
use sim::{Cluster, Plan, Size};

/// Longest that anything may take, in virtual time.
const MOST: Duration = Duration::from_secs(120);

#[test]
fn pods_live_by_their_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan {
        size: Size { cpus: 4, pods: 40 },
        ..Plan::steady(folder.path())
    };
    let runtime = sim::runtime().expect("runtime");
    let image = |does: Program| match does {
        Program::Stays => json!({ "image": "web:1" }),
        Program::Ends(0) => json!({ "image": "job:1" }),
        Program::Ends(1) => json!({ "image": "bad:1" }),
        Program::Ends(42) => json!({ "image": "again:1" }),
        other => panic!("no image does {other:?}"),
    };
    let rules = listed::rules(&image);
    runtime.block_on(async {
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let pods: Api<Pod> = Api::default_namespaced(cluster.admin().clone());
        for rule in &rules {
            let pod = serde_json::from_value(rule.pod.clone()).unwrap();
            pods.create(&PostParams::default(), &pod).await.unwrap();
        }
        for rule in &rules {
            let lacks = || async {
                let pod = pods.get(rule.name).await.unwrap();
                (rule.holds)(&serde_json::to_value(pod).unwrap()).err()
            };
            let holds = || async { lacks().await.is_none() };
            if cluster.until(rule.name, MOST, holds).await.is_err() {
                panic!("{}: {:?}", rule.name, lacks().await);
            }
        }
        for rule in &rules {
            pods.delete(rule.name, &DeleteParams::default())
                .await
                .unwrap();
        }
        let nothing = || async {
            let left = pods.list(&Default::default()).await.unwrap();
            left.items.is_empty() && cluster.nodes()[0].running().is_empty()
        };
        cluster
            .until("the end of all", MOST, nothing)
            .await
            .unwrap();
    });
}
