//! Which kinds a replacement needs a version for, and which it makes.

use http::Method;
use serde_json::{Value, json};

use crate::over_tls::{ask, start};
use crate::{JSON, MAPS, get};

async fn put(client: &kube::Client, path: &str, body: &Value) -> (u16, Value) {
    use http_body_util::BodyExt;
    let body = kube::client::Body::from(body.to_string().into_bytes());
    let request = http::Request::put(path).header("content-type", JSON);
    let answer = client.send(request.body(body).expect("request")).await;
    let (head, body) = answer.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let value = serde_json::from_slice(&body).expect("JSON");
    (head.status.as_u16(), value)
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

#[tokio::test(flavor = "multi_thread")]
async fn some_kinds_are_replaced_only_by_version() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    let budget = json!({ "minAvailable": 1, "selector": { "matchLabels": { "a": "b" } } });
    for (collection, part, named) in [
        (LEASES, "", "leases.coordination.k8s.io"),
        (BUDGETS, "", "poddisruptionbudgets.policy"),
        (BUDGETS, "/status", "poddisruptionbudgets.policy"),
    ] {
        let name = format!("n{}", part.len());
        let mut object = json!({ "metadata": { "name": name }, "spec": {} });
        if collection == BUDGETS {
            object["spec"] = budget.clone();
        }
        let (code, made) = ask(&admin, Method::POST, collection, &object).await;
        assert_eq!(code, 200, "{made}");
        let path = format!("{collection}/{name}{part}");
        for version in [Value::Null, "".into(), "0".into()] {
            object["metadata"]["resourceVersion"] = version;
            let (code, refused) = put(&admin, &path, &object).await;
            let want = format!(
                "{named} {name:?} is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
            );
            assert_eq!((code, refused["message"].as_str()), (422, Some(&*want)));
            assert_eq!(refused["reason"], "Invalid");
        }
        // Another object of the same name is answered so first, one that is missing too.
        object["metadata"]["uid"] = "another".into();
        assert_eq!(put(&admin, &path, &object).await.0, 409);
        object["metadata"] = made["metadata"].clone();
        assert_eq!(put(&admin, &path, &object).await.0, 200, "{path}");
    }
    let missing = json!({ "metadata": { "name": "none" }, "spec": budget });
    assert_eq!(
        put(&admin, &format!("{BUDGETS}/none"), &missing).await.0,
        404
    );
    // Of others the last one counts.
    let map = json!({ "metadata": { "name": "m" }, "data": { "a": "b" } });
    assert_eq!(ask(&admin, Method::POST, MAPS, &map).await.0, 200);
    assert_eq!(put(&admin, &format!("{MAPS}/m"), &map).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn some_kinds_are_made_by_a_replacement() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    let role = |name: &str| json!({ "metadata": { "name": name, "resourceVersion": "7" }, "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }] });
    let at = |name: &str| format!("{ROLES}/{name}");
    // Who may replace it and not make it does neither.
    let rule = json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["get", "update"] });
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let changer = json!({ "metadata": { "name": "changer" }, "rules": [rule] });
    let (code, made) = put(&admin, &format!("{roles}/changer"), &changer).await;
    assert_eq!(code, 201, "{made}");
    let binding = json!({
        "metadata": { "name": "changer" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "changer" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane" }],
    });
    let (code, made) = put(&admin, &format!("{bindings}/changer"), &binding).await;
    assert_eq!(code, 201, "{made}");
    let jane = running.as_user("jane", &[]).await;
    let (code, refused) = put(&jane, &at("r"), &role("r")).await;
    assert_eq!(code, 403, "{refused}");
    let why = refused["message"].as_str().unwrap_or_default();
    assert!(why.contains("cannot create resource \"roles\""), "{why}");
    // A dry run makes nothing.
    let (code, _) = put(&admin, &format!("{}?dryRun=All", at("r")), &role("r")).await;
    assert_eq!(code, 201);
    assert_eq!(get(&running, &at("r"), &[]).await.code, 404);
    let (code, made) = put(&admin, &at("r"), &role("r")).await;
    assert_eq!(
        (code, &made["metadata"]["name"]),
        (201, &json!("r")),
        "{made}"
    );
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update");
    // One that says which object it replaces does not make another.
    let mut gone = role("s");
    gone["metadata"]["uid"] = made["metadata"]["uid"].clone();
    assert_eq!(put(&admin, &at("s"), &gone).await.0, 409);
    let service = json!({ "metadata": { "name": "s" }, "spec": { "ports": [{ "port": 80 }] } });
    let path = "/api/v1/namespaces/default/services/s";
    let (code, made) = put(&admin, path, &service).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["spec"]["clusterIP"].is_string(), "{made}");
    let map = json!({ "metadata": { "name": "m" } });
    assert_eq!(put(&admin, &format!("{MAPS}/m"), &map).await.0, 404);
}
