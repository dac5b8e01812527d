//! Who may do what, through the whole pipeline: identities, permissions, tokens, admission.

mod common;

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
    }
    let (code, _) = read(s.handle(show(s.now() - 90_000)).await).await;
    assert_eq!(code, 401);
}

#[tokio::test]
async fn a_grant_holds_at_once_and_so_does_its_withdrawal() {
    let (s, _) = secured().await;
    let jo = UserInfo::new("jo", &[]);
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    make(&s, &roles, role("reader", "pods", &["get", "list"])).await;
    let list = || {
        by(
            &s,
            &jo,
            Method::GET,
            "/api/v1/namespaces/default/pods",
            Value::Null,
        )
    };
    for _ in 0..30 {
        assert_eq!(list().await.0, 403);
        make(&s, &bindings, binding("b", "Role", "reader", "jo")).await;
        assert_eq!(list().await.0, 200);
        let other = by(
            &s,
            &jo,
            Method::GET,
            "/api/v1/namespaces/kube-system/pods",
            Value::Null,
        );
        assert_eq!(other.await.0, 403);
        let uri = format!("{bindings}/b");
        assert_eq!(
            by(&s, &admin(), Method::DELETE, &uri, Value::Null).await.0,
            200
        );
    }
    assert_eq!(list().await.0, 403);
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_hold() {
    let (s, _) = secured().await;
    let jo = UserInfo::new("jo", &["dev"]);
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    make(
        &s,
        &bindings,
        binding("jo-edits", "ClusterRole", "admin", "jo"),
    )
    .await;

    let (code, made) = by(&s, &jo, Method::POST, &roles, role("a", "pods", &["get"])).await;
    assert_eq!(code, 201, "{made}");
    let (code, refused) = by(
        &s,
        &jo,
        Method::POST,
        &roles,
        role("b", "nodes", &["get", "delete"]),
    )
    .await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&refused),
        "roles.rbac.authorization.k8s.io \"b\" is forbidden: user \"jo\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"delete\"]}"
    );
    let patch = json!({ "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }] });
    let uri = format!("{roles}/a");
    assert_eq!(by(&s, &jo, Method::PATCH, &uri, patch).await.0, 403);

    let give = |name: &'static str, role: &'static str| {
        by(
            &s,
            &jo,
            Method::POST,
            &bindings,
            binding(name, "ClusterRole", role, "mo"),
        )
    };
    assert_eq!(give("x", "view").await.0, 201);
    assert_eq!(give("y", "cluster-admin").await.0, 403);
    let (code, missing) = give("z", "nothing").await;
    assert_eq!(code, 404, "{missing}");

    let mut bind = role("binder", "clusterroles", &["bind"]);
    bind["rules"][0]["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    bind["rules"][0]["resourceNames"] = json!(["cluster-admin"]);
    make(&s, &roles, bind).await;
    make(&s, &bindings, binding("may-bind", "Role", "binder", "jo")).await;
    assert_eq!(give("y", "cluster-admin").await.0, 201);

    // A role that gathers others is not for those who hold less than everything.
    let roles_everywhere = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "writer" },
        "rules": [{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create"] }],
    });
    make(&s, &format!("{RBAC}/clusterroles"), roles_everywhere).await;
    let mut everywhere = binding("writer", "ClusterRole", "writer", "jo");
    everywhere["kind"] = "ClusterRoleBinding".into();
    make(&s, &format!("{RBAC}/clusterrolebindings"), everywhere).await;
    let gatherer = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "gatherer" },
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] },
    });
    let uri = format!("{RBAC}/clusterroles");
    let (code, refused) = by(&s, &jo, Method::POST, &uri, gatherer).await;
    assert_eq!(code, 403);
    assert!(
        message(&refused)
            .ends_with("must have cluster-admin privileges to use the aggregationRule")
    );

    let mut escalate = role("escalator", "roles", &["escalate"]);
    escalate["rules"][0]["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    let mo = UserInfo::new("eve", &[]);
    make(&s, &roles, escalate).await;
    make(
        &s,
        &bindings,
        binding("eve-edits", "ClusterRole", "admin", "eve"),
    )
    .await;
    make(
        &s,
        &bindings,
        binding("eve-may", "Role", "escalator", "eve"),
    )
    .await;
    let (code, made) = by(&s, &mo, Method::POST, &roles, role("b", "nodes", &["get"])).await;
    assert_eq!(code, 201, "{made}");
}

#[tokio::test]
async fn a_node_has_its_own_and_no_more() {
    let (s, _) = secured().await;
    let (n1, n2) = (node("n1"), node("n2"));
    make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("default"),
    )
    .await;
    for secret in ["used", "other"] {
        let object =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret } });
        make(&s, "/api/v1/namespaces/default/secrets", object).await;
    }
    // Its Node, tainted until it is ready.
    let (code, made) = by(&s, &n1, Method::POST, "/api/v1/nodes", node_object("n1")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"]["taints"],
        json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }])
    );
    assert_eq!(
        by(&s, &n1, Method::POST, "/api/v1/nodes", node_object("n2"))
            .await
            .0,
        403
    );
    assert_eq!(
        by(&s, &n2, Method::DELETE, "/api/v1/nodes/n1", Value::Null)
            .await
            .0,
        403
    );
    let labels =
        json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "" } } });
    let (code, refused) = by(&s, &n1, Method::PATCH, "/api/v1/nodes/n1", labels).await;
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("is not allowed to modify labels"),
        "{refused}"
    );
    let taints = json!({ "spec": { "taints": [] } });
    assert_eq!(
        by(&s, &n1, Method::PATCH, "/api/v1/nodes/n1", taints)
            .await
            .0,
        403
    );
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    let uri = "/api/v1/nodes/n1/status";
    assert_eq!(by(&s, &n1, Method::PATCH, uri, status.clone()).await.0, 200);
    assert_eq!(by(&s, &n2, Method::PATCH, uri, status).await.0, 403);

    // What its pods use.
    let secret = "/api/v1/namespaces/default/secrets/used";
    assert_eq!(by(&s, &n1, Method::GET, secret, Value::Null).await.0, 403);
    let mut own = bound_pod("p", "n1");
    own["spec"]["volumes"] = json!([{ "name": "v", "secret": { "secretName": "used" } }]);
    let pod = make(&s, "/api/v1/namespaces/default/pods", own).await;
    assert_eq!(by(&s, &n1, Method::GET, secret, Value::Null).await.0, 200);
    assert_eq!(by(&s, &n2, Method::GET, secret, Value::Null).await.0, 403);
    let other = "/api/v1/namespaces/default/secrets/other";
    assert_eq!(by(&s, &n1, Method::GET, other, Value::Null).await.0, 403);
    let listed = |u, q: &'static str| {
        let s = s.clone();
        async move { by(&s, u, Method::GET, q, Value::Null).await.0 }
    };
    assert_eq!(
        listed(&n1, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await,
        200
    );
    assert_eq!(
        listed(&n2, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await,
        403
    );
    assert_eq!(listed(&n1, "/api/v1/pods").await, 403);
    let phase = json!({ "status": { "phase": "Running" } });
    let uri = "/api/v1/namespaces/default/pods/p/status";
    assert_eq!(by(&s, &n2, Method::PATCH, uri, phase.clone()).await.0, 403);
    assert_eq!(by(&s, &n1, Method::PATCH, uri, phase).await.0, 200);
    let uri = "/api/v1/namespaces/default/pods/p";
    assert_eq!(by(&s, &n2, Method::DELETE, uri, Value::Null).await.0, 403);

    // Tokens of its pods' accounts.
    let ask = |uid: &str| {
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid },
        }})
    };
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(by(&s, &n1, Method::POST, uri, ask(uid)).await.0, 201);
    assert_eq!(by(&s, &n2, Method::POST, uri, ask(uid)).await.0, 403);
    assert_eq!(by(&s, &n1, Method::POST, uri, ask("wrong")).await.0, 403);
    let unbound =
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    assert_eq!(by(&s, &n1, Method::POST, uri, unbound).await.0, 403);

    // Its lease.
    let lease = |name: &str| json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name } });
    let uri = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(by(&s, &n1, Method::POST, uri, lease("n2")).await.0, 403);
    assert_eq!(by(&s, &n1, Method::POST, uri, lease("n1")).await.0, 201);
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
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let (s, signer) = secured().await;
    make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("default"),
    )
    .await;
    let pod = make(&s, "/api/v1/namespaces/default/pods", pod("p")).await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let ask = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "expirationSeconds": 3607,
        "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p" },
    }});
    let (code, made) = by(&s, &admin(), Method::POST, uri, ask.clone()).await;
    assert_eq!(code, 201, "{made}");
    let token = made["status"]["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let claims = signer.verify(&token).expect("ours");
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "p");
    assert_eq!(claims["aud"], json!([ISSUER]));
    assert!(claims["kubernetes.io"]["warnafter"].is_i64());

    let review = |audiences: Value| {
        let spec = json!({ "token": token, "audiences": audiences });
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec });
        let s = s.clone();
        async move {
            let uri = "/apis/authentication.k8s.io/v1/tokenreviews";
            by(&s, &admin(), Method::POST, uri, body).await.1["status"].clone()
        }
    };
    let status = review(json!([])).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["audiences"], json!([ISSUER]));
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:default"
    );
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/pod-uid"],
        json!([pod["metadata"]["uid"]])
    );
    let status = review(json!(["vault"])).await;
    assert_ne!(status["authenticated"], true, "{status}");

    // The account may do what is bound to it, at once.
    let pods = "/api/v1/namespaces/default/pods";
    let (code, refused) = with_token(&s, &token, Method::GET, pods).await;
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("User \"system:serviceaccount:default:default\" cannot list")
    );
    let mut grant = binding("b", "ClusterRole", "view", "");
    grant["subjects"] =
        json!([{ "kind": "ServiceAccount", "name": "default", "namespace": "default" }]);
    make(
        &s,
        &format!("{RBAC}/namespaces/default/rolebindings"),
        grant,
    )
    .await;
    assert_eq!(with_token(&s, &token, Method::GET, pods).await.0, 200);

    // As a WebSocket's protocol too.
    let protocol = format!(
        "base64url.bearer.authorization.k8s.io.{}, v5.channel.k8s.io",
        URL_SAFE_NO_PAD.encode(&token)
    );
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", protocol.as_str()),
    ];
    assert_eq!(
        with(&s, &headers, Method::GET, pods, Value::Null).await.0,
        200
    );

    for bad in [
        json!({ "expirationSeconds": 10 }),
        json!({ "boundObjectRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "x" } }),
        json!({ "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x" } }),
        json!({ "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "none" } }),
    ] {
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": bad });
        let (code, _) = by(&s, &admin(), Method::POST, uri, body).await;
        assert!((400..500).contains(&code), "{bad}: {code}");
    }

    let gone = "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0";
    assert_eq!(
        by(&s, &admin(), Method::DELETE, gone, Value::Null).await.0,
        200
    );
    assert_eq!(with_token(&s, &token, Method::GET, pods).await.0, 401);
}

async fn figure(s: &ApiServer, name: &str) -> String {
    let service = s.local_service(admin());
    let request = plain(Method::GET, "/metrics", &Value::Null);
    let answer = service.oneshot(request).await.expect("infallible");
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    let mut lines = text.lines().filter_map(|l| l.strip_prefix(name));
    lines.next().unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn uses_of_stale_tokens_are_counted() {
    let (s, signer) = secured().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let made = make(&s, accounts, account("default")).await;
    let now = s.now();
    let token = |warn_after: i64| {
        let claims = json!({
            "aud": [ISSUER], "iss": ISSUER, "exp": now + 1_000, "iat": now - 5_000, "nbf": now - 5_000,
            "sub": "system:serviceaccount:default:default",
            "kubernetes.io": {
                "namespace": "default", "warnafter": warn_after,
                "serviceaccount": { "name": "default", "uid": made["metadata"]["uid"] },
            },
        });
        signer.sign(&claims).expect("token")
    };
    let (fresh, stale) = (token(now + 500), token(now - 500));
    for token in [&fresh, &stale, &stale] {
        // Known, and allowed nothing.
        let pods = "/api/v1/namespaces/default/pods";
        assert_eq!(with_token(&s, token, Method::GET, pods).await.0, 403);
    }
    assert_eq!(figure(&s, "serviceaccount_stale_tokens_total").await, "2");
    assert_eq!(figure(&s, "serviceaccount_valid_tokens_total").await, "1");
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
async fn an_accounts_token_ends_with_the_account() {
    let (s, _) = secured().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    make(&s, accounts, account("x")).await;
    let ask =
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let (_, made) = by(
        &s,
        &admin(),
        Method::POST,
        &format!("{accounts}/x/token"),
        ask,
    )
    .await;
    let token = made["status"]["token"].as_str().unwrap_or_default();
    assert_eq!(with_token(&s, token, Method::GET, "/version").await.0, 200);
    let uri = format!("{accounts}/x");
    assert_eq!(
        by(&s, &admin(), Method::DELETE, &uri, Value::Null).await.0,
        200
    );
    assert_eq!(with_token(&s, token, Method::GET, "/version").await.0, 401);
    make(&s, accounts, account("x")).await;
    assert_eq!(with_token(&s, token, Method::GET, "/version").await.0, 401);
}

#[tokio::test]
async fn foreign_and_expired_tokens_are_refused() {
    let (s, signer) = secured().await;
    let made = make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("x"),
    )
    .await;
    let claims = |exp: i64, audience: &str| {
        json!({
            "iss": ISSUER, "aud": [audience], "exp": exp, "iat": exp - 600, "nbf": exp - 600,
            "sub": "system:serviceaccount:default:x",
            "kubernetes.io": { "namespace": "default",
                "serviceaccount": { "name": "x", "uid": made["metadata"]["uid"] } },
        })
    };
    let (other, _) = Signer::generate().expect("key");
    let now = s.now();
    let cases = [
        (signer.sign(&claims(now + 100, ISSUER)), 200),
        (signer.sign(&claims(now - 100, ISSUER)), 401),
        (signer.sign(&claims(now + 2000, ISSUER)), 401),
        (signer.sign(&claims(now + 100, "vault")), 401),
        (other.sign(&claims(now + 100, ISSUER)), 401),
    ];
    for (nth, (token, want)) in cases.into_iter().enumerate() {
        let token = token.expect("token");
        assert_eq!(
            with_token(&s, &token, Method::GET, "/version").await.0,
            want,
            "{nth}"
        );
    }
}

#[tokio::test]
async fn bootstrap_tokens_make_a_bootstrapper() {
    let (s, _) = secured().await;
    let data = |k: &str| STANDARD.encode(k);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": { "name": "bootstrap-token-abcdef" },
        "data": {
            "token-id": data("abcdef"), "token-secret": data("0123456789abcdef"),
            "usage-bootstrap-authentication": data("true"),
            "auth-extra-groups": data("system:bootstrappers:nodes"),
        },
    });
    make(&s, "/api/v1/namespaces/kube-system/secrets", secret).await;
    let token = "abcdef.0123456789abcdef";
    let (code, refused) = with_token(&s, token, Method::GET, "/api/v1/nodes").await;
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("system:bootstrap:abcdef"),
        "{refused}"
    );
    let wrong = "abcdef.0123456789abcdeg";
    assert_eq!(with_token(&s, wrong, Method::GET, "/version").await.0, 401);
}

#[tokio::test]
async fn access_is_reviewed() {
    let (s, _) = secured().await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    make(&s, &bindings, binding("b", "ClusterRole", "view", "jo")).await;
    let jo = UserInfo::new("jo", &[]);
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let can = |user: UserInfo, verb: &'static str, namespace: &'static str| {
        let spec = json!({ "resourceAttributes": { "verb": verb, "resource": "pods", "namespace": namespace } });
        let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec });
        let s = s.clone();
        async move { by(&s, &user, Method::POST, uri, body).await }
    };
    let (code, yes) = can(jo.clone(), "list", "default").await;
    assert_eq!(
        (code, &yes["status"]["allowed"]),
        (201, &json!(true)),
        "{yes}"
    );
    assert!(
        yes["status"]["reason"]
            .as_str()
            .is_some_and(|r| r.starts_with("RBAC: allowed by"))
    );
    assert_eq!(
        can(jo.clone(), "delete", "default").await.1["status"]["allowed"],
        false
    );
    assert_eq!(
        can(jo.clone(), "list", "").await.1["status"]["allowed"],
        false
    );
    assert_eq!(
        can(admin(), "delete", "").await.1["status"]["allowed"],
        true
    );

    let spec =
        json!({ "user": "jo", "nonResourceAttributes": { "path": "/metrics", "verb": "get" } });
    let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec });
    let uri = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (code, no) = by(&s, &admin(), Method::POST, uri, body.clone()).await;
    assert_eq!((code, &no["status"]["allowed"]), (201, &json!(false)));
    assert_eq!(by(&s, &jo, Method::POST, uri, body).await.0, 403);

    let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview",
        "metadata": { "namespace": "default" },
        "spec": { "user": "jo", "resourceAttributes": { "verb": "get", "resource": "pods", "namespace": "other" } } });
    let uri = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    assert_eq!(by(&s, &admin(), Method::POST, uri, body).await.0, 422);

    let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": "default" } });
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (code, rules) = by(&s, &jo, Method::POST, uri, body).await;
    assert_eq!(code, 201, "{rules}");
    assert_eq!(rules["status"]["incomplete"], false);
    assert!(
        rules["status"]["resourceRules"]
            .as_array()
            .is_some_and(|r| r.len() > 5)
    );
    assert!(
        rules["status"]["nonResourceRules"]
            .as_array()
            .is_some_and(|r| !r.is_empty())
    );
}

#[tokio::test]
async fn impersonation_needs_its_verb() {
    let (s, _) = secured().await;
    let uri = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = |user: UserInfo, headers: &'static [(&'static str, &'static str)]| {
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let mut r = plain(Method::POST, uri, &body);
        for (k, v) in headers {
            r.headers_mut().append(*k, v.parse().expect("value"));
        }
        let service = s.local_service(user);
        async move { read(service.oneshot(r).await.expect("infallible")).await }
    };
    let (code, me) = who(
        admin(),
        &[
            ("impersonate-user", "jo"),
            ("impersonate-group", "dev"),
            ("impersonate-extra-reason", "test"),
        ],
    )
    .await;
    assert_eq!(code, 201, "{me}");
    let user = &me["status"]["userInfo"];
    assert_eq!(user["username"], "jo");
    assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(user["extra"], json!({ "reason": ["test"] }));
    let (code, refused) = who(UserInfo::new("mo", &[]), &[("impersonate-user", "jo")]).await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&refused),
        "selfsubjectreviews.authentication.k8s.io is forbidden: User \"mo\" cannot impersonate-on:user-info:create resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope"
    );
    assert_eq!(who(admin(), &[("impersonate-group", "dev")]).await.0, 400);
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
async fn certificate_requests_are_guarded() {
    let (s, _) = secured().await;
    let uri = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let csr = |name: &str, user: &str, groups: &[&str], signer: &str| {
        let (pem, _) = wire::pki::make_request(&Subject::client(user, groups)).expect("request");
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "name": name },
            "spec": { "request": STANDARD.encode(pem), "signerName": signer, "usages": ["client auth"],
                "username": "somebody-else" },
        })
    };
    let client = "kubernetes.io/kube-apiserver-client";
    let made = make(&s, uri, csr("a", "jo", &["dev"], client)).await;
    assert_eq!(made["spec"]["username"], "admin");
    let (code, refused) = by(
        &s,
        &admin(),
        Method::POST,
        uri,
        csr("b", "jo", &["system:masters"], client),
    )
    .await;
    assert_eq!(code, 403, "{refused}");
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    let n1 = node("n1");
    let (code, refused) = by(
        &s,
        &n1,
        Method::POST,
        uri,
        csr("c", "system:node:n2", &["system:nodes"], kubelet),
    )
    .await;
    assert_eq!(code, 403, "{refused}");
    let (code, made) = by(
        &s,
        &n1,
        Method::POST,
        uri,
        csr("c", "system:node:n1", &["system:nodes"], kubelet),
    )
    .await;
    assert_eq!(code, 201, "{made}");

    // May write approvals, but for no signer.
    let mut grant = role(
        "approver",
        "certificatesigningrequests/approval",
        &["update", "patch"],
    );
    grant["kind"] = "ClusterRole".into();
    grant["rules"][0]["apiGroups"] = json!(["certificates.k8s.io"]);
    make(&s, &format!("{RBAC}/clusterroles"), grant).await;
    let mut bind = binding("approver", "ClusterRole", "approver", "jo");
    bind["kind"] = "ClusterRoleBinding".into();
    make(&s, &format!("{RBAC}/clusterrolebindings"), bind).await;
    let approve = json!({ "status": { "conditions": [{ "type": "Approved", "status": "True", "reason": "r" }] } });
    let approval = format!("{uri}/a/approval");
    let jo = UserInfo::new("jo", &[]);
    let (code, refused) = by(&s, &jo, Method::PATCH, &approval, approve.clone()).await;
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("user not permitted to approve requests with signerName"),
        "{refused}"
    );
    let (code, done) = by(&s, &admin(), Method::PATCH, &approval, approve).await;
    assert_eq!(code, 200, "{done}");
}

#[tokio::test]
async fn others_can_check_our_tokens() {
    let (s, signer) = secured().await;
    let (code, keys) = by(&s, &admin(), Method::GET, "/openid/v1/jwks", Value::Null).await;
    assert_eq!((code, keys), (200, signer.jwks()));
    let uri = "/.well-known/openid-configuration";
    let (code, document) = by(&s, &admin(), Method::GET, uri, Value::Null).await;
    assert_eq!((code, &document["issuer"]), (200, &json!(ISSUER)));
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

#[tokio::test]
async fn a_node_asks_for_the_tokens_that_drivers_want() {
    let (s, _) = secured().await;
    make(&s, "/api/v1/nodes", node_object("n1")).await;
    let driver = |name: &str, audience: &str| {
        json!({ "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": { "name": name },
            "spec": { "attachRequired": false, "requiresRepublish": true,
                "volumeLifecycleModes": ["Persistent", "Ephemeral"],
                "tokenRequests": [{ "audience": audience }] } })
    };
    let drivers = "/apis/storage.k8s.io/v1/csidrivers";
    make(&s, drivers, driver("own.io", "vault")).await;
    make(&s, drivers, driver("other.io", "bank")).await;
    make(&s, drivers, driver("claimed.io", "safe")).await;
    let volume = json!({ "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": "pv" },
        "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "csi": { "driver": "claimed.io", "volumeHandle": "h" } } });
    make(&s, "/api/v1/persistentvolumes", volume).await;
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "c" },
        "spec": { "accessModes": ["ReadWriteOnce"], "volumeName": "pv", "storageClassName": "",
            "resources": { "requests": { "storage": "1Gi" } } } });
    make(
        &s,
        "/api/v1/namespaces/default/persistentvolumeclaims",
        claim,
    )
    .await;
    make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("app"),
    )
    .await;
    let mut pod = bound_pod("p", "n1");
    pod["spec"]["serviceAccountName"] = "app".into();
    pod["spec"]["volumes"] = json!([{ "name": "v", "csi": { "driver": "own.io" } },
        { "name": "c", "persistentVolumeClaim": { "claimName": "c" } }]);
    let pod = make(&s, "/api/v1/namespaces/default/pods", pod).await;
    let ask = |audience: &'static str| {
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "audiences": [audience], "boundObjectRef": { "apiVersion": "v1",
                "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"] } } });
        let uri = "/api/v1/namespaces/default/serviceaccounts/app/token";
        let (s, user) = (s.clone(), node("n1"));
        async move { by(&s, &user, Method::POST, uri, request).await.0 }
    };
    assert_eq!(ask("vault").await, 201);
    assert_eq!(ask("safe").await, 201);
    assert_eq!(ask("bank").await, 403);
}
