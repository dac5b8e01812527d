//! Roles and what they allow: granted, withdrawn, given on, reviewed, and acted with as somebody else.

use super::*;

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
