//! Tables of configurations.

use serde_json::{Value, json};

use super::config::AuthorizationConfiguration;

/// What is wrong with a list of authorizers, as it is said.
fn wrong(authorizers: &Value) -> String {
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": authorizers,
    });
    let read = AuthorizationConfiguration::read(text.to_string().as_bytes());
    read.err().unwrap_or_default()
}

fn webhook(changes: &Value) -> Value {
    let path = std::env::current_exe().expect("a regular file");
    let mut webhook = json!({
        "timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": path},
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        webhook[field] = value.clone();
    }
    json!({"type": "Webhook", "name": "hook", "webhook": webhook})
}

#[test]
fn chains_are_checked() {
    let node = json!({"type": "Node", "name": "node"});
    let rbac = json!({"type": "RBAC", "name": "rbac"});
    assert_eq!(wrong(&json!([node, rbac, webhook(&json!({}))])), "");
    assert_eq!(
        wrong(&json!([{"type": "AlwaysDeny", "name": "alwaysdeny"}])),
        ""
    );
    let table = [
        (
            json!([]),
            "authorizers: Required value: at least one authorization mode must be defined",
        ),
        (
            json!([{"name": "x"}]),
            "authorizers[0].type: Required value",
        ),
        (
            json!([{"type": "ABAC", "name": "abac"}]),
            "authorizers[0].type: Unsupported value: \"ABAC\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"",
        ),
        (
            json!([rbac, rbac]),
            "authorizers[1].type: Duplicate value: \"RBAC\"",
        ),
        (
            json!([{"type": "RBAC"}]),
            "authorizers[0].name: Required value",
        ),
        (
            json!([{"type": "RBAC", "name": "other"}]),
            "expected name rbac for authorizer RBAC instead of other",
        ),
        (
            json!([{"type": "Webhook", "name": "A"}]),
            "[authorizers[0].name: Invalid value: \"A\": authorizer name is invalid: ",
        ),
        (
            json!([{"type": "RBAC", "name": "rbac", "webhook": {}}]),
            "authorizers[0].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
        ),
    ];
    for (authorizers, want) in table {
        let got = wrong(&authorizers);
        assert!(got.starts_with(want), "{authorizers}: {got}");
    }
    let two = json!([webhook(&json!({})), webhook(&json!({}))]);
    assert_eq!(
        wrong(&two),
        "authorizers[1].name: Duplicate value: \"hook\""
    );
}

#[test]
fn webhooks_are_checked() {
    let path = "authorizers[0]";
    let table = [
        (json!({"timeout": "0s"}), "timeout: Required value"),
        (
            json!({"timeout": "31s"}),
            "timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
        ),
        (
            json!({"authorizedTTL": "-1s"}),
            "authorizedTTL: Invalid value: \"-1s\": must be > 0s",
        ),
        (
            json!({"subjectAccessReviewVersion": ""}),
            "subjectAccessReviewVersion: Required value",
        ),
        (
            json!({"subjectAccessReviewVersion": "v2"}),
            "subjectAccessReviewVersion: Unsupported value: \"v2\": supported values: \"v1\", \"v1beta1\"",
        ),
        (
            json!({"matchConditions": [{"expression": "true"}]}),
            "matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified",
        ),
        (
            json!({"failurePolicy": "Ignore"}),
            "failurePolicy: Unsupported value: \"Ignore\": supported values: \"NoOpinion\", \"Deny\"",
        ),
        (
            json!({"connectionInfo": {}}),
            "connectionInfo.type: Required value",
        ),
        (
            json!({"connectionInfo": {"type": "KubeConfigFile"}}),
            "connectionInfo.kubeConfigFile: Required value",
        ),
        (
            json!({"connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "x"}}),
            "connectionInfo.kubeConfigFile: Invalid value: \"x\": must be an absolute path",
        ),
        (
            json!({"connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/nowhere"}}),
            "connectionInfo.kubeConfigFile: Invalid value: \"/nowhere\": error loading file: ",
        ),
        (
            json!({"connectionInfo": {"type": "InClusterConfig"}}),
            "connectionInfo.type: Unsupported value: \"InClusterConfig\"",
        ),
        (
            json!({
                "matchConditionSubjectAccessReviewVersion": "v1",
                "matchConditions": [{"expression": " "}],
            }),
            "matchConditions[0].expression: Required value",
        ),
        (
            json!({
                "matchConditionSubjectAccessReviewVersion": "v1",
                "matchConditions": [{"expression": "request.user"}],
            }),
            "matchConditions[0].expression: Invalid value: \"request.user\": must evaluate to bool but got string",
        ),
    ];
    for (changes, want) in table {
        let got = wrong(&json!([webhook(&changes)]));
        assert!(
            got.starts_with(&format!("{path}.{want}")),
            "{changes}: {got}"
        );
    }
}
