//! Evictions against disruption budgets: what a budget allows is taken once, and never more.

mod common;

use apiserver::ApiServer;
use common::{JSON, ask, get, post, raw, request, server};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn patch_status(s: &ApiServer, uri: &str, status: Value) {
    let (uri, body) = (format!("{uri}/status"), json!({ "status": status }));
    let patch = request(
        Method::PATCH,
        &uri,
        "application/merge-patch+json",
        body.to_string(),
    );
    let (code, done) = raw(s, patch).await;
    assert_eq!(code, 200, "{done}");
}

/// A pod that runs on a node, so that its deletion waits for the node.
async fn pod(s: &ApiServer, name: &str, ready: bool) {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": "a" } },
        "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "i" }] } });
    let (code, made) = post(s, PODS, pod).await;
    assert_eq!(code, 201, "{made}");
    let ready = if ready { "True" } else { "False" };
    let status =
        json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] });
    patch_status(s, &format!("{PODS}/{name}"), status).await;
}

async fn evict(s: &ApiServer, name: &str) -> (u16, Value) {
    let eviction =
        json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name } });
    post(s, &format!("{PODS}/{name}/eviction"), eviction).await
}

async fn is_deleted(s: &ApiServer, name: &str) -> bool {
    let (code, pod) = get(s, &format!("{PODS}/{name}")).await;
    code == 404 || pod["metadata"]["deletionTimestamp"].is_string()
}

#[tokio::test]
async fn a_budget_is_never_overdrawn() {
    let s = server().await;
    for name in ["a", "b", "c"] {
        pod(&s, name, true).await;
    }
    let budget = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "d" },
        "spec": { "minAvailable": 2, "selector": { "matchLabels": { "app": "a" } } } });
    assert_eq!(post(&s, BUDGETS, budget).await.0, 201);
    // Nobody has counted yet.
    let (code, refused) = evict(&s, "a").await;
    assert_eq!((code, &refused["reason"]), (429, &json!("TooManyRequests")));
    let uri = format!("{BUDGETS}/d");
    let counts = json!({ "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3,
        "desiredHealthy": 2, "expectedPods": 3 });
    patch_status(&s, &uri, counts).await;
    // All at once: one of them goes.
    let (a, b, c) = tokio::join!(evict(&s, "a"), evict(&s, "b"), evict(&s, "c"));
    let mut codes = [a.0, b.0, c.0];
    codes.sort_unstable();
    assert_eq!(codes, [201, 429, 429]);
    let (_, budget) = get(&s, &uri).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    let noted = budget["status"]["disruptedPods"].as_object();
    assert_eq!(noted.map(serde_json::Map::len), Some(1), "{budget}");
    let mut gone = 0;
    for name in ["a", "b", "c"] {
        gone += u32::from(is_deleted(&s, name).await);
    }
    assert_eq!(gone, 1);
    // Without the budget everything goes, with the condition that says why.
    assert_eq!(ask(&s, Method::DELETE, &uri, Value::Null).await.0, 200);
    for name in ["a", "b", "c"] {
        assert_eq!(evict(&s, name).await.0, 201);
        let (_, pod) = get(&s, &format!("{PODS}/{name}")).await;
        let text = pod["status"]["conditions"].to_string();
        assert!(text.contains("EvictionByEvictionAPI"), "{pod}");
    }
}

#[tokio::test]
async fn sick_pods_go_when_nobody_misses_them() {
    let s = server().await;
    pod(&s, "sick", false).await;
    let budget = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "d" },
        "spec": { "minAvailable": 2, "selector": { "matchLabels": { "app": "a" } } } });
    let body = budget.to_string();
    let made = raw(&s, request(Method::POST, BUDGETS, JSON, body)).await;
    assert_eq!(made.0, 201);
    let uri = format!("{BUDGETS}/d");
    let counts = |healthy: i32| {
        json!({ "observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": healthy,
            "desiredHealthy": 2, "expectedPods": 3 })
    };
    patch_status(&s, &uri, counts(1)).await;
    let (code, refused) = evict(&s, "sick").await;
    assert_eq!(code, 429);
    let cause = &refused["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(
        cause["message"],
        "The disruption budget d needs 2 healthy pods and has 1 currently"
    );
    patch_status(&s, &uri, counts(2)).await;
    assert_eq!(evict(&s, "sick").await.0, 201);
    let (_, budget) = get(&s, &uri).await;
    assert!(budget["status"]["disruptedPods"].is_null(), "{budget}");
}
