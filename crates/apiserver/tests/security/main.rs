//! Who may do what, through the whole pipeline: identities, permissions, tokens, admission.

mod claims;
#[path = "../common/mod.rs"]
mod common;
mod nodes;
mod permissions;
mod signers;
mod tokens;

use std::sync::Arc;

use apiserver::filters::tokens::Tokens;
use apiserver::http::Body;
use apiserver::{ApiServer, UserInfo, admission};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{JSON, request, server_with};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use wire::jwt::Signer;
use wire::pki::{Ca, Subject};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ISSUER: &str = "https://kubernetes.default.svc";

/// A server with everything that guards a cluster, and the key of its tokens.
async fn secured() -> (ApiServer, Arc<Signer>) {
    let (signer, _) = Signer::generate().expect("key");
    let signer = Arc::new(signer);
    let tokens = Tokens::new(signer.clone(), ISSUER);
    let config =
        common::config_at("127.0.0.1", 6443).secured(tokens, &admission::Options::default());
    (server_with(config).await, signer)
}

async fn read(response: Response<Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("body")
        .to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn body_of(body: &Value) -> String {
    if body.is_null() {
        String::new()
    } else {
        body.to_string()
    }
}

fn plain(method: Method, uri: &str, body: &Value) -> Request<Full<bytes::Bytes>> {
    let media = if method == Method::PATCH {
        "application/merge-patch+json"
    } else {
        JSON
    };
    request(method, uri, media, body_of(body))
}

/// Asks as a user of this process.
async fn by(
    s: &ApiServer,
    user: &UserInfo,
    method: Method,
    uri: &str,
    body: Value,
) -> (u16, Value) {
    let service = s.local_service(user.clone());
    read(
        service
            .oneshot(plain(method, uri, &body))
            .await
            .expect("infallible"),
    )
    .await
}

/// Asks with headers, as from outside.
async fn with(
    s: &ApiServer,
    headers: &[(&str, &str)],
    method: Method,
    uri: &str,
    body: Value,
) -> (u16, Value) {
    let mut r = plain(method, uri, &body);
    for (k, v) in headers {
        let name: http::HeaderName = k.parse().expect("name");
        r.headers_mut().append(name, v.parse().expect("value"));
    }
    read(s.handle(r).await).await
}

async fn with_token(s: &ApiServer, token: &str, method: Method, uri: &str) -> (u16, Value) {
    let shown = format!("Bearer {token}");
    with(s, &[("authorization", &shown)], method, uri, Value::Null).await
}

fn admin() -> UserInfo {
    UserInfo::new("admin", &["system:masters"])
}

fn node(name: &str) -> UserInfo {
    UserInfo::new(&format!("system:node:{name}"), &["system:nodes"])
}

async fn make(s: &ApiServer, uri: &str, body: Value) -> Value {
    let (code, made) = by(s, &admin(), Method::POST, uri, body).await;
    assert_eq!(code, 201, "{uri}: {made}");
    made
}

fn message(v: &Value) -> &str {
    v["message"].as_str().unwrap_or_default()
}

fn account(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    })
}

fn role(name: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": name },
        "rules": [{ "apiGroups": [""], "resources": [resource], "verbs": verbs }],
    })
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    })
}

fn bound_pod(name: &str, node: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["nodeName"] = node.into();
    pod["spec"]["serviceAccountName"] = "default".into();
    pod
}

fn node_object(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } })
}

#[tokio::test]
async fn the_first_policy_is_there_and_is_mended() {
    let (s, _) = secured().await;
    let (_, roles) = by(
        &s,
        &admin(),
        Method::GET,
        &format!("{RBAC}/clusterroles"),
        Value::Null,
    )
    .await;
    assert!(roles["items"].as_array().is_some_and(|r| r.len() > 60));
    let uri = format!("{RBAC}/clusterroles/view");
    let (_, view) = by(&s, &admin(), Method::GET, &uri, Value::Null).await;
    assert!(
        view["rules"].as_array().is_some_and(|r| r.len() > 5),
        "{view}"
    );

    let uri = format!("{RBAC}/clusterroles/system:kube-scheduler");
    let (code, _) = by(&s, &admin(), Method::PATCH, &uri, json!({ "rules": [] })).await;
    assert_eq!(code, 200);
    let gone = format!("{RBAC}/clusterrolebindings/system:discovery");
    assert_eq!(
        by(&s, &admin(), Method::DELETE, &gone, Value::Null).await.0,
        200
    );
    s.bootstrap().await.expect("again");
    let (_, mended) = by(&s, &admin(), Method::GET, &uri, Value::Null).await;
    assert!(mended["rules"].as_array().is_some_and(|r| !r.is_empty()));
    assert_eq!(
        by(&s, &admin(), Method::GET, &gone, Value::Null).await.0,
        200
    );
}

#[tokio::test]
async fn clients_without_credentials_are_anonymous_and_wrong_ones_are_refused() {
    let (s, _) = secured().await;
    let get = |headers: &'static [(&'static str, &'static str)], uri: &'static str| {
        let s = s.clone();
        async move { with(&s, headers, Method::GET, uri, Value::Null).await }
    };
    assert_eq!(get(&[], "/version").await.0, 200);
    assert_eq!(get(&[], "/healthz").await.0, 200);
    let (code, refused) = get(&[], "/api/v1/pods").await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&refused),
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
    );
    let (code, refused) = get(&[], "/logs").await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&refused),
        "forbidden: User \"system:anonymous\" cannot get path \"/logs\""
    );
    for shown in ["Bearer x", "Bearer a.b.c", "Bearer abcdef.0123456789abcdef"] {
        let (code, refused) = with(
            &s,
            &[("authorization", shown)],
            Method::GET,
            "/version",
            Value::Null,
        )
        .await;
        assert_eq!(
            (code, &refused["reason"]),
            (401, &json!("Unauthorized")),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn certificates_name_user_and_groups() {
    let (s, _) = secured().await;
    let ca = Ca::generate("c", s.now() - 100_000).expect("ca");
    let show = |issued: i64| {
        let pair = ca
            .issue(&Subject::client("jo", &["dev"]), issued, 1)
            .expect("pair");
        let text: String = pair
            .cert_pem
            .lines()
            .filter(|l| !l.starts_with('-'))
            .collect();
        let der = STANDARD.decode(text).expect("base64");
        let mut r = plain(
            Method::POST,
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            &json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" }),
        );
        r.extensions_mut().insert(wire::serve::Peer {
            addr: "127.0.0.1:1".parse().expect("address"),
            certificates: Arc::new(vec![der.into()]),
        });
        r
    };
    for _ in 0..2 {
        let (code, review) = read(s.handle(show(s.now())).await).await;
        assert_eq!(code, 201, "{review}");
        let user = &review["status"]["userInfo"];
        assert_eq!(user["username"], "jo");
        assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
        let id = &user["extra"]["authentication.kubernetes.io/credential-id"][0];
        let id = id.as_str().unwrap_or_default();
        assert!(id.starts_with("X509SHA256="), "{user}");
    }
    let (code, _) = read(s.handle(show(s.now() - 90_000)).await).await;
    assert_eq!(code, 401);
}

#[tokio::test]
async fn a_new_pod_gets_account_token_priority_and_tolerations() {
    let (s, _) = secured().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut named = pod("p");
    named["spec"]["serviceAccountName"] = "robot".into();
    let (code, refused) = by(&s, &admin(), Method::POST, pods, named.clone()).await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&refused),
        "pods \"p\" is forbidden: error looking up service account default/robot: serviceaccount \"robot\" not found"
    );
    let mut robot = account("robot");
    robot["imagePullSecrets"] = json!([{ "name": "pull" }]);
    make(&s, "/api/v1/namespaces/default/serviceaccounts", robot).await;
    named["spec"]["priorityClassName"] = "system-node-critical".into();
    let made = make(&s, pods, named.clone()).await;
    let spec = &made["spec"];
    assert_eq!(spec["priority"], 2_000_001_000);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "pull" }]));
    let volume = spec["volumes"][0]["name"].as_str().unwrap_or_default();
    assert!(volume.starts_with("kube-api-access-"), "{spec}");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
    assert_eq!(
        spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"],
        json!({ "expirationSeconds": 3607, "path": "token" })
    );
    let seconds: Vec<_> = spec["tolerations"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|t| &t["tolerationSeconds"])
        .collect();
    assert_eq!(seconds, [&json!(30), &json!(30)]);

    named["metadata"]["name"] = "q".into();
    named["spec"]["priorityClassName"] = "none".into();
    let (code, refused) = by(&s, &admin(), Method::POST, pods, named).await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&refused),
        "pods \"q\" is forbidden: no PriorityClass with name none was found"
    );
}

#[tokio::test]
async fn the_default_account_of_a_namespace_is_waited_for() {
    let (s, _) = secured().await;
    let pods = "/api/v1/namespaces/default/pods";
    let boss = admin();
    let first = by(&s, &boss, Method::POST, pods, pod("p"));
    let then = make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("default"),
    );
    let ((code, made), _) = tokio::join!(first, then);
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
}

#[tokio::test]
async fn extension_servers_find_what_they_need() {
    let (signer, _) = Signer::generate().expect("key");
    let mut config = common::config_at("127.0.0.1", 6443).secured(
        Tokens::new(Arc::new(signer), ISSUER),
        &admission::Options::default(),
    );
    let ca = Ca::generate("test-ca", 1_790_000_000).expect("ca");
    config.settings.client_ca_pem = Some(ca.pair.cert_pem.clone());
    let s = server_with(config).await;
    let maps = "/api/v1/namespaces/kube-system/configmaps";
    let read = |user: UserInfo, name: &str| {
        let (s, uri) = (s.clone(), format!("{maps}/{name}"));
        async move { by(&s, &user, Method::GET, &uri, Value::Null).await }
    };
    let scheduler = UserInfo::new("system:kube-scheduler", &[]);
    let (code, map) = read(scheduler, "extension-apiserver-authentication").await;
    assert_eq!(code, 200, "{map}");
    let shown = map["data"]["client-ca-file"].as_str().unwrap_or_default();
    assert_eq!(
        wire::pki::ca_hash(shown).expect("certificate"),
        wire::pki::ca_hash(&ca.pair.cert_pem).expect("certificate")
    );
    let name = "kube-apiserver-legacy-service-account-token-tracking";
    let (code, map) = read(admin(), name).await;
    assert_eq!(code, 200, "{map}");
    let since = map["data"]["since"].as_str().unwrap_or_default();
    assert_eq!(since.len(), "2026-01-01".len(), "{map}");
}

#[tokio::test]
async fn nothing_is_made_in_a_namespace_that_ends() {
    let (s, _) = secured().await;
    let cm = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" } });
    let (code, refused) = by(
        &s,
        &admin(),
        Method::POST,
        "/api/v1/namespaces/no/configmaps",
        cm.clone(),
    )
    .await;
    assert_eq!(
        (code, message(&refused)),
        (404, "namespaces \"no\" not found")
    );
    let ns = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "ends" } });
    make(&s, "/api/v1/namespaces", ns).await;
    make(&s, "/api/v1/namespaces/ends/configmaps", cm.clone()).await;
    let (code, _) = by(
        &s,
        &admin(),
        Method::DELETE,
        "/api/v1/namespaces/ends",
        Value::Null,
    )
    .await;
    assert_eq!(code, 200);
    let mut second = cm;
    second["metadata"]["name"] = "d".into();
    let (code, refused) = by(
        &s,
        &admin(),
        Method::POST,
        "/api/v1/namespaces/ends/configmaps",
        second,
    )
    .await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&refused),
        "configmaps \"d\" is forbidden: unable to create new content in namespace ends because it is being terminated"
    );
    assert_eq!(
        refused["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    let (code, refused) = by(
        &s,
        &admin(),
        Method::DELETE,
        "/api/v1/namespaces/kube-system",
        Value::Null,
    )
    .await;
    assert_eq!(code, 403);
    assert!(message(&refused).ends_with("this namespace may not be deleted"));
}

#[tokio::test]
async fn nobody_owns_what_admission_has_set() {
    let (s, _) = secured().await;
    let admin = UserInfo::new("admin", &["system:masters"]);
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    let uri = "/api/v1/namespaces/default/serviceaccounts";
    let (code, made) = by(&s, &admin, Method::POST, uri, account).await;
    assert_eq!(code, 201, "{made}");
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "busybox" }] } });
    let uri = "/api/v1/namespaces/default/pods";
    let (code, made) = by(&s, &admin, Method::POST, uri, pod).await;
    assert_eq!(code, 201, "{made}");
    let owned = &made["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    // Defaults of the version are the client's, as upstream.
    assert!(
        owned["f:containers"].is_object() && owned["f:dnsPolicy"].is_object(),
        "{owned}"
    );
    for field in ["tolerations", "volumes", "serviceAccountName", "priority"] {
        assert!(!made["spec"][field].is_null(), "{field} of {made}");
        assert!(owned[format!("f:{field}")].is_null(), "{field} of {owned}");
    }
}
