//! Whoever may change objects of a kind does not make one by that.

use http::Method;
use serde_json::{Value, json};

use crate::common::{JSON, ask};
use crate::{as_jane, grant, make, secured, whole};

#[tokio::test(flavor = "multi_thread")]
async fn what_creates_needs_the_right_to_create() {
    let s = secured().await;
    make(
        &s,
        "/api/v1/namespaces",
        json!({ "metadata": { "name": "a" } }),
    )
    .await;
    let verbs = ["get", "patch", "update"];
    let all = [
        "configmaps",
        "secrets",
        "pods",
        "namespaces",
        "services",
        "endpoints",
        "limitranges",
    ];
    grant(
        &s,
        "change",
        json!({ "apiGroups": [""], "resources": all, "verbs": verbs }),
    )
    .await;
    let leases =
        json!({ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs });
    grant(&s, "leases", leases).await;
    const APPLY: &str = "application/apply-patch+yaml";
    let cases = [
        (
            "/api/v1/namespaces/a/configmaps",
            "v1",
            "ConfigMap",
            json!({}),
        ),
        ("/api/v1/namespaces/a/secrets", "v1", "Secret", json!({})),
        ("/api/v1/namespaces", "v1", "Namespace", json!({})),
        (
            "/api/v1/namespaces/a/limitranges",
            "v1",
            "LimitRange",
            json!({ "spec": { "limits": [] } }),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/a/leases",
            "coordination.k8s.io/v1",
            "Lease",
            json!({}),
        ),
        (
            "/api/v1/namespaces/a/services",
            "v1",
            "Service",
            json!({ "spec": { "ports": [{ "port": 80 }] } }),
        ),
        (
            "/api/v1/namespaces/a/endpoints",
            "v1",
            "Endpoints",
            json!({}),
        ),
        (
            "/api/v1/namespaces/a/pods",
            "v1",
            "Pod",
            json!({ "spec": { "containers": [{ "name": "c", "image": "i", "securityContext": { "privileged": true } }] } }),
        ),
    ];
    for (collection, version, kind, more) in &cases {
        let mut body = more.clone();
        body["apiVersion"] = (*version).into();
        body["kind"] = (*kind).into();
        body["metadata"] = json!({ "name": "new" });
        let at = format!("{collection}/new");
        let apply = format!("{at}?fieldManager=jane");
        let (code, answer) =
            whole(as_jane(&s, Method::PATCH, &apply, APPLY, body.clone()).await).await;
        assert_eq!(code, 403, "{at}: {answer}");
        let why = answer["message"].as_str().unwrap_or_default();
        assert!(why.contains("cannot create resource"), "{why}");
        let dry = format!("{apply}&dryRun=All&force=true");
        let r = as_jane(&s, Method::PATCH, &dry, APPLY, body.clone()).await;
        assert_eq!(r.status().as_u16(), 403, "{dry}");
        // Other patches and replacements do not create.
        for media in [
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ] {
            let r = as_jane(&s, Method::PATCH, &at, media, body.clone()).await;
            assert_eq!(r.status().as_u16(), 404, "{media} {at}");
        }
        let r = as_jane(
            &s,
            Method::PATCH,
            &at,
            "application/json-patch+json",
            json!([]),
        )
        .await;
        assert_eq!(r.status().as_u16(), 404, "{at}");
        let r = as_jane(&s, Method::PUT, &at, JSON, body.clone()).await;
        assert!(
            matches!(r.status().as_u16(), 403 | 404),
            "PUT {at}: {}",
            r.status()
        );
        let (code, _) = ask(&s, Method::GET, &at, Value::Null).await;
        assert_eq!(code, 404, "{at} was made");
    }
    // With the right, by name, it does.
    let rule = json!({ "apiGroups": [""], "resources": ["configmaps", "namespaces"], "resourceNames": ["new"], "verbs": ["create"] });
    grant(&s, "create-new", rule).await;
    for (collection, kind) in [
        ("/api/v1/namespaces/a/configmaps", "ConfigMap"),
        ("/api/v1/namespaces", "Namespace"),
    ] {
        let body =
            |name: &str| json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } });
        for (name, want) in [("new", 201), ("newer", 403), ("new", 200)] {
            let uri = format!("{collection}/{name}?fieldManager=jane");
            let (code, answer) =
                whole(as_jane(&s, Method::PATCH, &uri, APPLY, body(name)).await).await;
            assert_eq!(code, want, "{uri}: {answer}");
        }
    }
}
