//! What admission relied on still holds when a write is committed, whichever server changed it
//! meanwhile.

use std::sync::Arc;

use apiserver::admission::Admit;
use http::Method;
use serde_json::{Value, json};

use crate::common::{ask, post};
use crate::held_creations::Gate;
use crate::test_store::TestStore;

on_both_stores!(a_pod_is_not_made_with_what_is_gone);

const PODS: &str = "/api/v1/namespaces/default/pods";

/// What a pod may name: where it is, the object, the pod's field, and what a server says that does
/// not find it.
fn named() -> [(&'static str, Value, &'static str, &'static str); 3] {
    let meta = json!({ "name": "brief" });
    [
        (
            "/api/v1/namespaces/default/serviceaccounts",
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta }),
            "serviceAccountName",
            "serviceaccount \"brief\" not found",
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                "metadata": meta, "value": 7 }),
            "priorityClassName",
            "no PriorityClass with name brief was found",
        ),
        (
            "/apis/node.k8s.io/v1/runtimeclasses",
            json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
                "metadata": meta, "handler": "h" }),
            "runtimeClassName",
            "RuntimeClass \"brief\" not found",
        ),
    ]
}

async fn a_pod_is_not_made_with_what_is_gone(place: TestStore) {
    for (uri, object, field, message) in named() {
        let gate = Gate::of("pods");
        let plugins: [Arc<dyn Admit>; 1] = [gate.clone()];
        let [a, b] = place.two_that_admit(&plugins).await;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default" } });
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        // There is one from the second round on.
        assert!(matches!(post(&a, accounts, account).await.0, 201 | 409));
        assert_eq!(post(&a, uri, object).await.0, 201, "{field}");
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": field.to_lowercase() },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        });
        pod["spec"][field] = json!("brief");
        let late = tokio::spawn({
            let a = a.clone();
            async move { post(&a, PODS, pod).await }
        });
        gate.holds().await;
        let gone = ask(&b, Method::DELETE, &format!("{uri}/brief"), Value::Null).await;
        assert_eq!(gone.0, 200, "{}", gone.1);
        gate.open();
        let (code, answer) = late.await.expect("no panic");
        assert_eq!(code, 403, "{field}: {answer}");
        let said = answer["message"].as_str().unwrap_or_default();
        assert!(said.contains(message), "{said}");
    }
}
