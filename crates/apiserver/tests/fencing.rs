//! A request that carries a fence is committed only while the Lease has not changed hands.

mod common;

use api::Fence;
use apiserver::ApiServer;
use common::{JSON, get, post, raw, request, server};
use http::Method;
use serde_json::{Value, json};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const CMS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn lease(holder: &str, transitions: i32) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "l" },
        "spec": { "holderIdentity": holder, "leaseTransitions": transitions,
                  "leaseDurationSeconds": 15 },
    })
}

async fn put(s: &ApiServer, mut lease: Value) -> Value {
    let uri = format!("{LEASES}/l");
    let (_, now) = get(s, &uri).await;
    lease["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
    let (code, done) = raw(s, request(Method::PUT, &uri, JSON, lease.to_string())).await;
    assert_eq!(code, 200, "{done}");
    done
}

fn fence(lease: &Value) -> Fence {
    let text = lease["metadata"]["resourceVersion"]
        .as_str()
        .expect("revision");
    Fence {
        namespace: "kube-system".into(),
        name: "l".into(),
        revision: text.parse().expect("number"),
    }
}

/// Asks with a fence.
async fn fenced(
    s: &ApiServer,
    fence: &Fence,
    method: Method,
    uri: &str,
    body: Value,
) -> (u16, Value) {
    let kind = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => JSON,
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut r = request(method, uri, kind, body);
    let value = fence.to_string().parse().expect("header");
    r.headers_mut().insert(Fence::HEADER, value);
    raw(s, r).await
}

fn cm(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    })
}

#[tokio::test]
async fn every_write_of_a_deposed_leader_fails() {
    let s = server().await;
    let (_, taken) = post(&s, LEASES, lease("a", 0)).await;
    let first = fence(&taken);
    assert_eq!(fenced(&s, &first, Method::POST, CMS, cm("c")).await.0, 201);
    for name in ["p", "q"] {
        assert_eq!(
            fenced(&s, &first, Method::POST, PODS, pod(name)).await.0,
            201
        );
    }
    let rs = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "r" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": {
            "metadata": { "labels": { "a": "b" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } } },
    });
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    assert_eq!(fenced(&s, &first, Method::POST, sets, rs).await.0, 201);
    let revision = get(&s, CMS).await.1["metadata"]["resourceVersion"].clone();

    let second = fence(&put(&s, lease("b", 1)).await);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "p" },
        "target": { "kind": "Node", "name": "n" },
    });
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "q" },
    });
    let (_, now) = get(&s, &format!("{CMS}/c")).await;
    let mut changed = now.clone();
    changed["data"] = json!({ "x": "y" });
    let late = [
        (Method::POST, CMS.to_owned(), cm("late")),
        (Method::PUT, format!("{CMS}/c"), changed),
        (
            Method::PATCH,
            format!("{CMS}/c"),
            json!({ "data": { "x": "y" } }),
        ),
        (Method::DELETE, format!("{CMS}/c"), Value::Null),
        (Method::DELETE, CMS.to_owned(), Value::Null),
        (Method::POST, format!("{PODS}/p/binding"), binding.clone()),
        (
            Method::POST,
            "/api/v1/namespaces/default/bindings".to_owned(),
            binding.clone(),
        ),
        (Method::POST, format!("{PODS}/q/eviction"), eviction),
        (
            Method::PATCH,
            format!("{PODS}/p/status"),
            json!({ "status": { "phase": "Failed" } }),
        ),
        (
            Method::PATCH,
            format!("{sets}/r/scale"),
            json!({ "spec": { "replicas": 5 } }),
        ),
    ];
    for (method, uri, body) in late {
        let (code, refused) = fenced(&s, &first, method.clone(), &uri, body).await;
        assert_eq!(
            (code, &refused["reason"]),
            (409, &json!("Conflict")),
            "{method} {uri} {refused}"
        );
        let message = refused["message"].as_str().expect("message");
        assert!(
            message.contains("leadership was lost"),
            "{method} {uri} {message}"
        );
    }
    assert_eq!(get(&s, &format!("{CMS}/c")).await.1, now);
    let list = get(
        &s,
        &format!("{CMS}?resourceVersion={}", revision.as_str().expect("text")),
    )
    .await;
    assert_eq!(
        list.1["items"].as_array().map(Vec::len),
        Some(1),
        "{}",
        list.1
    );
    // The leader may.
    let uri = format!("{PODS}/p/binding");
    assert_eq!(
        fenced(&s, &second, Method::POST, &uri, binding).await.0,
        201
    );
}

#[tokio::test]
async fn the_fence_stands_while_the_leader_does() {
    let s = server().await;
    let (_, taken) = post(&s, LEASES, lease("a", 0)).await;
    let held = fence(&taken);
    let mut renewed = lease("a", 0);
    renewed["spec"]["renewTime"] = "2030-01-01T00:00:00.000000Z".into();
    let renewed = put(&s, renewed).await;
    assert_ne!(fence(&renewed), held);
    assert_eq!(fenced(&s, &held, Method::POST, CMS, cm("c1")).await.0, 201);
    // A renewal's revision is nobody's fence.
    assert_eq!(
        fenced(&s, &fence(&renewed), Method::POST, CMS, cm("c2"))
            .await
            .0,
        409
    );
    // Given back, it counts no longer; taken again by the same one, it is another.
    put(&s, lease("", 0)).await;
    assert_eq!(fenced(&s, &held, Method::POST, CMS, cm("c3")).await.0, 409);
    let again = fence(&put(&s, lease("a", 1)).await);
    assert_eq!(fenced(&s, &held, Method::POST, CMS, cm("c4")).await.0, 409);
    assert_eq!(fenced(&s, &again, Method::POST, CMS, cm("c5")).await.0, 201);
    // With the lease goes its fence.
    let uri = format!("{LEASES}/l");
    assert_eq!(
        raw(&s, request(Method::DELETE, &uri, JSON, "")).await.0,
        200
    );
    assert_eq!(fenced(&s, &again, Method::POST, CMS, cm("c6")).await.0, 409);
}

#[tokio::test]
async fn a_fence_only_makes_stricter() {
    let s = server().await;
    let mut r = request(Method::POST, CMS, JSON, cm("c").to_string());
    r.headers_mut()
        .insert(Fence::HEADER, "nonsense".parse().expect("header"));
    assert_eq!(raw(&s, r).await.0, 400);
    let none = Fence {
        namespace: "kube-system".into(),
        name: "none".into(),
        revision: 1,
    };
    assert_eq!(fenced(&s, &none, Method::POST, CMS, cm("c")).await.0, 409);
    // Reads are free, and heartbeats of nodes have no fence at all.
    assert_eq!(
        fenced(&s, &none, Method::GET, CMS, Value::Null).await.0,
        200
    );
    let node = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let (code, made) = post(&s, node, lease("n", 0)).await;
    assert_eq!(code, 201, "{made}");
    let mut heartbeat = fence(&made);
    heartbeat.namespace = "kube-node-lease".into();
    assert_eq!(
        fenced(&s, &heartbeat, Method::POST, CMS, cm("c")).await.0,
        409
    );
}
