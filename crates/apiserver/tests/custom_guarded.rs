//! Custom kinds are counted by quotas and guarded by roles as built-in ones are.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use http::Method;
use over_tls::{Running, ask, start};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHIPS: &str = "/apis/sea.example.com/v1/namespaces/default/ships";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

fn ship(name: &str) -> Value {
    json!({"apiVersion": "sea.example.com/v1", "kind": "Ship", "metadata": {"name": name}})
}

/// A server that serves ships.
async fn with_ships() -> (Running, kube::Client) {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ships.sea.example.com"},
        "spec": {
            "group": "sea.example.com", "scope": "Namespaced", "names": {"plural": "ships", "kind": "Ship"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    let (code, said) = ask(&admin, Method::POST, CRDS, &definition).await;
    assert_eq!(code, 200, "{said}");
    while ask(&admin, Method::GET, SHIPS, &Value::Null).await.0 != 200 {
        tokio::task::yield_now().await;
    }
    (running, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_counts_custom_objects() {
    let (_running, admin) = with_ships().await;
    let hard = json!({"count/ships.sea.example.com": "1"});
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    let (code, mut made) = ask(&admin, Method::POST, QUOTAS, &quota).await;
    assert_eq!(code, 200, "{made}");
    // What the controller would do.
    made["status"] = json!({"hard": hard, "used": {"count/ships.sea.example.com": "0"}});
    let status = format!("{QUOTAS}/q/status");
    assert_eq!(ask(&admin, Method::PUT, &status, &made).await.0, 200);
    assert_eq!(ask(&admin, Method::POST, SHIPS, &ship("a")).await.0, 200);
    let (code, said) = ask(&admin, Method::POST, SHIPS, &ship("b")).await;
    let words = "ships.sea.example.com \"b\" is forbidden: exceeded quota: q, requested: count/ships.sea.example.com=1, used: count/ships.sea.example.com=1, limited: count/ships.sea.example.com=1";
    assert_eq!((code, said["message"].as_str()), (403, Some(words)));
    let (_, quota) = ask(&admin, Method::GET, &format!("{QUOTAS}/q"), &Value::Null).await;
    assert_eq!(quota["status"]["used"]["count/ships.sea.example.com"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_guard_custom_objects() {
    let (running, admin) = with_ships().await;
    let jane = running.as_user("jane", &[]).await;
    let (code, said) = ask(&jane, Method::GET, SHIPS, &Value::Null).await;
    let words = "ships.sea.example.com is forbidden: User \"jane\" cannot list resource \"ships\" in API group \"sea.example.com\" in the namespace \"default\"";
    assert_eq!((code, said["message"].as_str()), (403, Some(words)));
    let role = json!({"metadata": {"name": "sailors"},
        "rules": [{"apiGroups": ["sea.example.com"], "resources": ["ships"], "verbs": ["get", "list"]}]});
    let binding = json!({"metadata": {"name": "sailors"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sailors"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    for (kind, object) in [("roles", role), ("rolebindings", binding)] {
        let (code, said) = ask(&admin, Method::POST, &format!("{ROLES}/{kind}"), &object).await;
        assert_eq!(code, 200, "{said}");
    }
    assert_eq!(ask(&jane, Method::GET, SHIPS, &Value::Null).await.0, 200);
    assert_eq!(ask(&jane, Method::POST, SHIPS, &ship("a")).await.0, 403);
    let everywhere = "/apis/sea.example.com/v1/ships";
    assert_eq!(
        ask(&jane, Method::GET, everywhere, &Value::Null).await.0,
        403
    );
}
