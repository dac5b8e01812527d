//! Acting as somebody else for named requests alone: constrained impersonation, as v1.36 has it.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use std::collections::BTreeMap;

use apiserver::UserInfo;
use http::Method;
use over_tls::{Running, ask, start};
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn";

/// Lets a user do what the rules say.
async fn grant(running: &Running, name: &str, subject: Value, rules: Value) {
    let admin = running.admin().await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name}, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
    });
    for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let path = format!("{RBAC}/{resource}");
        let (code, said) = ask(&admin, Method::POST, &path, &object).await;
        assert_eq!(code, 200, "{said}");
    }
}

fn user(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name})
}

/// Asks as a user who wants to be somebody else; gives code and message.
async fn acting(
    running: &Running,
    user: &UserInfo,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String) {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let mut request = common::request(Method::GET, path, common::JSON, "");
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().expect("name");
        request
            .headers_mut()
            .append(name, value.parse().expect("value"));
    }
    let service = running.server.local_service(user.clone());
    let response = service.oneshot(request).await.expect("infallible");
    let code = response.status().as_u16();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("body")
        .to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    (
        code,
        body["message"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn an_agent_acts_as_its_own_node_where_it_may() {
    let running = start(|_| {}).await;
    let subject = json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": "agent"});
    let rules = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["nodes"], "verbs": ["impersonate:associated-node"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["impersonate-on:associated-node:list"]},
    ]);
    grant(&running, "agent", subject, rules).await;
    let agent = UserInfo {
        extra: BTreeMap::from([(
            "authentication.kubernetes.io/node-name".to_owned(),
            vec!["n".to_owned()],
        )]),
        ..UserInfo::of_service_account("kube-system", "agent", "u")
    };
    let own = [("impersonate-user", "system:node:n")];
    assert_eq!(acting(&running, &agent, PODS, &own).await.0, 200);
    // What the node may and the agent was not given.
    let (code, why) = acting(&running, &agent, "/api/v1/nodes/n", &own).await;
    assert_eq!(code, 403);
    assert!(
        why.contains("cannot impersonate-on:associated-node:get resource \"nodes\""),
        "{why}"
    );
    let other = [("impersonate-user", "system:node:m")];
    let (code, why) = acting(&running, &agent, PODS, &other).await;
    assert!(
        code == 403 && why.contains("impersonate-on:arbitrary-node:list"),
        "{why}"
    );
    let metrics = running.metrics().await;
    let line =
        "apiserver_impersonation_attempts_total{mode=\"associated-node\",decision=\"allowed\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_person_acts_as_another_where_he_may() {
    let running = start(|_| {}).await;
    let rules = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["jo"], "verbs": ["impersonate:user-info"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["groups"], "verbs": ["impersonate:user-info"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "resourceNames": ["7"], "verbs": ["impersonate:user-info"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/x.io/a"], "resourceNames": ["v"], "verbs": ["impersonate:user-info"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["impersonate-on:user-info:list"]},
    ]);
    grant(&running, "helper", user("mo"), rules).await;
    let mo = UserInfo::new("mo", &[]);
    let maps = "/api/v1/namespaces/default/configmaps";
    let view = json!([{"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": ["list"]}]);
    grant(&running, "jo", user("jo"), view).await;
    let full = [
        ("impersonate-user", "jo"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-x.io%2fa", "v"),
    ];
    assert_eq!(acting(&running, &mo, maps, &full).await.0, 200);
    let pods = "/api/v1/namespaces/default/pods";
    let (code, why) = acting(&running, &mo, pods, &full).await;
    assert!(
        code == 403 && why.contains("impersonate-on:user-info:list"),
        "{why}"
    );
    for (name, value) in [
        ("impersonate-uid", "8"),
        ("impersonate-extra-x.io%2fa", "w"),
        ("impersonate-group", "system:masters"),
        ("impersonate-group", ""),
        ("impersonate-extra-short", "v"),
    ] {
        let headers = [("impersonate-user", "jo"), (name, value)];
        assert_eq!(
            acting(&running, &mo, maps, &headers).await.0,
            403,
            "{name} {value}"
        );
    }
    let other = [("impersonate-user", "al")];
    assert_eq!(acting(&running, &mo, maps, &other).await.0, 403);
    // The oldest way stays as it was.
    let rules = json!([{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}]);
    grant(&running, "old", user("ed"), rules).await;
    let ed = UserInfo::new("ed", &[]);
    let jo = [("impersonate-user", "jo")];
    for _ in 0..2 {
        assert_eq!(acting(&running, &ed, pods, &jo).await.0, 200);
    }
    let line = "apiserver_impersonation_attempts_total{mode=\"legacy\",decision=\"allowed\"} 2";
    assert!(running.metrics().await.contains(line));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
async fn a_proxy_in_front_says_who_asks() {
    use apiserver::filters::front_proxy::{FrontProxy, Headers};
    use std::sync::Arc;
    use wire::pki::{Ca, Subject};
    use wire::trust::Clients;

    let now = clock::Clock::system().seconds();
    let proxies = Ca::generate("proxies", now).expect("ca");
    let running = over_tls::start_believing(Some(&proxies), |c| {
        let name = http::HeaderName::from_static;
        let proxy = FrontProxy {
            authority: Clients::of(proxies.pair.cert_pem.as_bytes()).expect("an authority"),
            names: vec!["front".into()],
            headers: Headers {
                users: vec![name("x-remote-user")],
                uids: vec![name("x-remote-uid")],
                groups: vec![name("x-remote-group")],
                extra_prefixes: vec!["x-remote-extra-".into()],
            },
        };
        c.authenticators.insert(0, Arc::new(proxy));
    })
    .await;
    let pair = |ca: &Ca, name: &str| {
        let pair = ca.issue(&Subject::client(name, &[]), now, 1);
        pair.expect("pair")
    };
    let as_jane = async |client: kube::Client| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = http::Request::builder()
            .method(Method::POST)
            .uri("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("content-type", "application/json")
            .header("x-remote-user", "jane")
            .header("x-remote-uid", "7")
            .header("x-remote-group", "dev")
            .header("x-remote-extra-acme.io%2fteam", "blue")
            .body(review.to_string().into_bytes())
            .expect("request");
        match client.request::<Value>(request).await {
            Ok(said) => (200, said["status"]["userInfo"].clone()),
            Err(kube::Error::Api(status)) => (status.code, Value::Null),
            Err(e) => panic!("{e}"),
        }
    };
    let front = running.with_pair(&pair(&proxies, "front")).await;
    let jane = json!({
        "username": "jane", "uid": "7", "groups": ["dev", "system:authenticated"],
        "extra": {"acme.io/team": ["blue"]},
    });
    assert_eq!(as_jane(front).await, (200, jane));
    // Headers of others say nothing.
    let person = running.with_pair(&pair(&running.ca, "mo")).await;
    let (code, user) = as_jane(person).await;
    assert_eq!((code, &user["username"]), (200, &json!("mo")));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
async fn a_proxys_certificate_is_nobodys_own() {
    use apiserver::filters::authn::ClientCertificates;
    use std::sync::Arc;
    use wire::pki::{Ca, Subject};
    use wire::trust::Clients;

    let now = clock::Clock::system().seconds();
    let (proxies, people) = (
        Ca::generate("proxies", now).expect("ca"),
        Ca::generate("people", now).expect("ca"),
    );
    // As the flags do it: TLS believes both, certificates of people are of one alone.
    let running = over_tls::start_believing(Some(&proxies), |c| {
        let own = Clients::of(people.pair.cert_pem.as_bytes()).expect("an authority");
        for way in &mut c.authenticators {
            if way.is_of_certificates() {
                *way = Arc::new(ClientCertificates::of(own.clone()));
            }
        }
    })
    .await;
    let admin = proxies.issue(&Subject::client("admin", &["system:masters"]), now, 1);
    let admin = running.with_pair(&admin.expect("pair")).await;
    let (_, user) = over_tls::who(&admin).await;
    assert_ne!(user["username"], "admin");
    let (code, _) = ask(&admin, Method::GET, "/api/v1/namespaces", &Value::Null).await;
    assert_eq!(code, 403);
}
