//! Policies of admission on a server: validating and mutating ones with bindings and parameters,
//! from their creation, which holds at once, to their end.

#[path = "../common/mod.rs"]
mod common;
mod mutating;
mod validating;

use std::sync::Arc;

use apiserver::filters::tokens::Tokens;
use apiserver::{ApiServer, admission};
use common::{post, server_with};
use serde_json::{Value, json};
use wire::jwt::Signer;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server with all plugins of a cluster.
async fn server() -> ApiServer {
    let (signer, _) = Signer::generate().expect("key");
    let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
    let config =
        common::config_at("192.0.2.1", 6443).secured(tokens, &admission::Options::default());
    server_with(config).await
}

/// What policies of these tests match: ConfigMaps, but not those that the server keeps itself.
fn constraints(operations: &[&str]) -> Value {
    json!({
        "objectSelector": {"matchExpressions": [{"key": "t", "operator": "Exists"}]},
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
            "operations": operations}],
    })
}

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"t": "1"}}, "data": data})
}

async fn made(server: &ApiServer, uri: &str, object: Value) -> Value {
    let (code, made) = post(server, uri, object).await;
    assert_eq!(code, 201, "{made}");
    made
}

/// Makes a validating policy with a binding of the same name.
async fn validating(server: &ApiServer, name: &str, spec: Value, binding: Value) {
    let mut spec = spec;
    if spec.get("matchConstraints").is_none() {
        spec["matchConstraints"] = constraints(&["CREATE", "UPDATE"]);
    }
    let mut bound = json!({"policyName": name, "validationActions": ["Deny"]});
    for (key, value) in binding.as_object().expect("object") {
        bound[key] = value.clone();
    }
    let of = |spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let uri = |what: &str| format!("{GROUP}/validatingadmission{what}");
    made(server, &uri("policies"), of(spec)).await;
    made(server, &uri("policybindings"), of(bound)).await;
}
