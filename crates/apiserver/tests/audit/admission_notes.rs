//! What admission notes of a request: policies, Pod Security, webhooks.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::cluster::{ADMIN, MAPS, all, cluster, map};
use crate::common::{ask, outside};

#[tokio::test(flavor = "multi_thread")]
async fn admission_has_its_say() {
    let cluster = cluster(&all("Metadata")).await;
    const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"kind": "ValidatingAdmissionPolicy", "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": "p.example.com"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "object.metadata.name != 'loud'", "message": "too loud"}],
            "auditAnnotations": [{"key": "name", "valueExpression": "'it is ' + object.metadata.name"}]}});
    let binding = json!({"kind": "ValidatingAdmissionPolicyBinding", "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": "b"}, "spec": {"policyName": "p.example.com", "validationActions": ["Audit"]}});
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    assert_eq!(cluster.admin(Method::POST, &policies, policy).await.0, 201);
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    let made = cluster
        .send(ADMIN, &[], Method::POST, &bindings, binding)
        .await;
    assert_eq!(made.status(), 201);
    assert!(!made.headers().contains_key("warning"));

    let made = cluster
        .send(ADMIN, &[("audit-id", "l")], Method::POST, MAPS, map("loud"))
        .await;
    assert_eq!(made.status(), 201);
    assert!(!made.headers().contains_key("warning"));
    let notes = cluster.events("l")[1]["annotations"].clone();
    assert_eq!(notes["p.example.com/name"], "it is loud");
    let failures = notes["validation.policy.admission.k8s.io/validation_failure"].as_str();
    let failures: Value = serde_json::from_str(failures.expect("a failure")).expect("json");
    assert_eq!(failures[0]["message"], "too loud");
    assert_eq!(failures[0]["validationActions"], json!(["Audit"]));

    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    ask(
        &cluster.server,
        Method::PATCH,
        "/api/v1/namespaces/default",
        label,
    )
    .await;
    let account =
        json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}});
    cluster
        .admin(
            Method::POST,
            "/api/v1/namespaces/default/serviceaccounts",
            account,
        )
        .await;
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    let made = cluster
        .send(ADMIN, &[("audit-id", "pod")], Method::POST, pods, pod)
        .await;
    assert_eq!(made.status(), 201);
    let notes = cluster.events("pod")[1]["annotations"].clone();
    let violation = notes["pod-security.kubernetes.io/audit-violations"].as_str();
    assert!(
        violation.is_some_and(|v| v.contains("allowPrivilegeEscalation")),
        "{notes}"
    );
}

/// Webhooks by their paths: one changes what it sees, one has nothing against it, one fails.
async fn judged(request: Request<wire::serve::RequestBody>) -> Response<Full<Bytes>> {
    use base64::Engine;
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("body").to_bytes();
    let review: Value = serde_json::from_slice(&body).expect("json");
    let path = head.uri.path();
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true,
        "auditAnnotations": {"seen": path}});
    if path == "/labels" {
        let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"by": "hook"}}]);
        let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
        response["patchType"] = "JSONPatch".into();
        response["patch"] = patch.into();
    }
    let said = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "response": response});
    let mut answer = Response::new(Full::from(said.to_string()));
    if path == "/broken" {
        *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_webhooks_did_is_noted() {
    let outside = outside::start("hooks", None, judged).await;
    let hook = |path: &str| {
        json!({"name": format!("{path}.example.com"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
            "clientConfig": {"caBundle": outside.bundle,
                "url": format!("https://127.0.0.1:{}/{path}", outside.port)},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"]}]})
    };
    for level in ["Metadata", "Request"] {
        let cluster = cluster(&all(level)).await;
        for (kind, paths) in [
            ("Mutating", &["labels", "silent", "broken"][..]),
            ("Validating", &["silent", "broken"]),
        ] {
            let hooks: Vec<Value> = paths.iter().map(|path| hook(path)).collect();
            let object = json!({"kind": format!("{kind}WebhookConfiguration"),
                "apiVersion": "admissionregistration.k8s.io/v1",
                "metadata": {"name": "hooks"}, "webhooks": hooks});
            let resource = format!("{}webhookconfigurations", kind.to_lowercase());
            let uri = format!("/apis/admissionregistration.k8s.io/v1/{resource}");
            assert_eq!(cluster.admin(Method::POST, &uri, object).await.0, 201);
        }
        let made = cluster
            .send(ADMIN, &[("audit-id", "m")], Method::POST, MAPS, map("m"))
            .await;
        assert_eq!(made.status(), 201);
        let notes = cluster.events("m")[1]["annotations"].clone();
        let noted = |key: &str| -> Value {
            let text = notes[key].as_str().unwrap_or("null");
            serde_json::from_str(text).expect("json")
        };
        assert_eq!(notes["labels.example.com/seen"], "/labels", "{notes}");
        for (nth, name, mutated) in [(0, "labels", true), (1, "silent", false)] {
            assert_eq!(
                noted(&format!(
                    "mutation.webhook.admission.k8s.io/round_0_index_{nth}"
                )),
                json!({"configuration": "hooks", "webhook": format!("{name}.example.com"),
                    "mutated": mutated}),
                "{notes}"
            );
        }
        // What was changed is a part of the body, and noted where bodies are.
        let patch = noted("patch.webhook.admission.k8s.io/round_0_index_0");
        match level {
            "Metadata" => assert_eq!(patch, Value::Null),
            _ => {
                assert_eq!(patch["webhook"], "labels.example.com", "{notes}");
                assert_eq!(patch["patch"][0]["path"], "/metadata/labels", "{notes}");
                assert_eq!(patch["patchType"], "JSONPatch", "{notes}");
            }
        }
        for (step, nth) in [("mutation", 2), ("validating", 1)] {
            let key = format!("failed-open.{step}.webhook.admission.k8s.io/round_0_index_{nth}");
            assert_eq!(notes[&key], "broken.example.com", "{notes}");
        }
    }
}
