//! Quotas under writers at two servers: never exceeded, nothing charged for what was not written.

use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::admission::Admit;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::common::{ask, get, post};
use crate::held_creations::Gate;
use crate::test_store::TestStore;

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

on_both_stores!(a_quota_is_never_exceeded, a_quota_that_comes_is_known);

fn pod(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "i",
            "resources": { "requests": { "cpu": "100m" } } }] } })
}

async fn account(s: &ApiServer) {
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    let uri = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(post(s, uri, account).await.0, 201);
}

async fn quota(s: &ApiServer, name: &str, hard: &Value) {
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": { "name": name }, "spec": { "hard": hard } });
    let (code, made) = post(s, QUOTAS, quota).await;
    assert_eq!(code, 201, "{made}");
}

/// What the controller does: a count is stored at the revision that was seen before it was made.
async fn count(s: &ApiServer, name: &str) {
    let uri = format!("{QUOTAS}/{name}");
    loop {
        let mut quota = get(s, &uri).await.1;
        let pods = get(s, PODS).await.1;
        let n = pods["items"].as_array().map_or(0, Vec::len);
        let hard = quota["spec"]["hard"].clone();
        let mut used = json!({});
        for (resource, _) in hard.as_object().expect("hard") {
            used[resource] = match resource.as_str() {
                "requests.cpu" => json!(format!("{}m", 100 * n)),
                _ => json!(n.to_string()),
            };
        }
        quota["status"] = json!({ "hard": hard, "used": used });
        match ask(s, Method::PUT, &format!("{uri}/status"), quota).await {
            (200, _) => return,
            (409, _) => {}
            (code, answer) => panic!("{code} {answer}"),
        }
    }
}

async fn used(s: &ApiServer, name: &str) -> Value {
    get(s, &format!("{QUOTAS}/{name}")).await.1["status"]["used"].clone()
}

async fn a_quota_is_never_exceeded(place: TestStore) {
    let servers = place.two_that_admit(&[]).await;
    account(&servers[0]).await;
    quota(
        &servers[0],
        "few",
        &json!({ "pods": "7", "count/pods": "9" }),
    )
    .await;
    quota(&servers[1], "cpu", &json!({ "requests.cpu": "5" })).await;
    for name in ["few", "cpu"] {
        count(&servers[0], name).await;
    }
    let writers = (0..24).map(|n| {
        let server = servers[n % 2].clone();
        tokio::spawn(async move { post(&server, PODS, pod(&format!("p{n}"))).await })
    });
    // Beside them somebody counts again, over and over.
    let counting = servers[1].clone();
    let counter = tokio::spawn(async move {
        for _ in 0..5 {
            count(&counting, "few").await;
        }
    });
    let mut made = 0;
    for answer in join_all(writers).await {
        match answer.expect("no panic") {
            (201, _) => made += 1,
            (403, status) => {
                let why = status["message"].as_str().unwrap_or_default();
                assert!(
                    why.contains("exceeded quota: few, requested: pods=1"),
                    "{why}"
                );
            }
            (code, answer) => panic!("{code} {answer}"),
        }
    }
    counter.await.expect("counts");
    let stored = get(&servers[0], PODS).await.1;
    assert_eq!(stored["items"].as_array().map(Vec::len), Some(7));
    assert_eq!(made, 7);
    for server in &servers {
        assert_eq!(
            used(server, "few").await,
            json!({ "pods": "7", "count/pods": "7" })
        );
        assert_eq!(used(server, "cpu").await, json!({ "requests.cpu": "700m" }));
    }
}

/// A pod that was admitted before the quota came is committed after the quota was counted.
async fn a_quota_that_comes_is_known(place: TestStore) {
    let gate = Gate::of("pods");
    let plugins: [Arc<dyn Admit>; 1] = [gate.clone()];
    let [a, b] = place.two_that_admit(&plugins).await;
    account(&a).await;
    let late = {
        let a = a.clone();
        tokio::spawn(async move { post(&a, PODS, pod("late")).await })
    };
    gate.holds().await;
    quota(&b, "q", &json!({ "pods": "1" })).await;
    count(&b, "q").await;
    gate.open();
    let (code, made) = late.await.expect("no panic");
    assert_eq!(code, 201, "{made}");
    assert_eq!(used(&b, "q").await, json!({ "pods": "1" }));
    assert_eq!(post(&b, PODS, pod("more")).await.0, 403);
}
