//! What is recorded of a request, at which stage and at which level.

use apiserver::audit::policy::DEFAULT;
use http::Method;
use serde_json::{Value, json};

use crate::cluster::{ADMIN, MAPS, SECRETS, all, cluster, map};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_recorded_with_who_what_whence_and_why() {
    let cluster = cluster(&all("Metadata")).await;
    let headers = [("audit-id", "one"), ("x-forwarded-for", "10.1.2.3")];
    let made = cluster
        .send(ADMIN, &headers, Method::POST, MAPS, map("m"))
        .await;
    assert_eq!(made.status(), 201);
    assert_eq!(made.headers()["audit-id"], "one");
    let events = cluster.events("one");
    let stages: Vec<&Value> = events.iter().map(|e| &e["stage"]).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
    let event = &events[1];
    assert_eq!(event["kind"], "Event");
    assert_eq!(event["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(event["level"], "Metadata");
    assert_eq!(event["verb"], "create");
    assert_eq!(event["requestURI"], MAPS);
    assert_eq!(event["user"]["username"], "ann");
    assert_eq!(
        event["user"]["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    assert_eq!(event["sourceIPs"], json!(["10.1.2.3", "127.0.0.1"]));
    assert_eq!(event["userAgent"], "test/1");
    assert_eq!(
        event["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "m", "apiVersion": "v1"})
    );
    assert_eq!(
        event["responseStatus"],
        json!({"metadata": {}, "code": 201})
    );
    assert_eq!(
        event["annotations"]["authorization.k8s.io/decision"],
        "allow"
    );
    assert!(event["requestObject"].is_null() && event["responseObject"].is_null());
    assert!(event["requestReceivedTimestamp"].as_str() <= event["stageTimestamp"].as_str());

    // Who chooses no number gets one.
    let again = cluster.send(ADMIN, &[], Method::POST, MAPS, map("m")).await;
    let id = again.headers()["audit-id"]
        .to_str()
        .expect("text")
        .to_owned();
    assert_eq!(id.len(), 36);
    let status = &cluster.events(&id)[1]["responseStatus"];
    assert_eq!(status["code"], 409);
    assert_eq!(status["reason"], "AlreadyExists");
    assert_eq!(status["details"]["name"], "m");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_strangers_are_recorded() {
    let cluster = cluster(&all("Metadata")).await;
    let bob = ("bob", &[][..]);
    let get = format!("{MAPS}/m");
    let asked = cluster
        .send(bob, &[("audit-id", "bob")], Method::GET, &get, Value::Null)
        .await;
    assert_eq!(asked.status(), 403);
    let event = &cluster.events("bob")[1];
    assert_eq!(
        event["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(event["annotations"]["authorization.k8s.io/reason"], "");
    assert_eq!(event["responseStatus"]["reason"], "Forbidden");

    // RBAC says why, in upstream's words.
    let path = "/api/v1/namespaces/default/pods/x";
    let headers = [("audit-id", "may")];
    let role = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "see"}, "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"}});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(cluster.admin(Method::POST, bindings, role).await.0, 201);
    cluster
        .send(bob, &headers, Method::GET, path, Value::Null)
        .await;
    assert_eq!(
        cluster.events("may")[1]["annotations"]["authorization.k8s.io/reason"],
        "RBAC: allowed by ClusterRoleBinding \"see\" of ClusterRole \"view\" to User \"bob\""
    );

    let wrong = [("audit-id", "who"), ("authorization", "Bearer wrong")];
    let asked = cluster
        .send(("", &[]), &wrong, Method::GET, MAPS, Value::Null)
        .await;
    assert_eq!(asked.status(), 401);
    let events = cluster.events("who");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["stage"], "ResponseStarted");
    assert_eq!(events[0]["user"], json!({}));
    assert_eq!(events[0]["responseStatus"]["code"], 401);

    let as_bob = [
        ("audit-id", "as"),
        ("impersonate-user", "bob"),
        ("impersonate-group", "g"),
    ];
    cluster
        .send(ADMIN, &as_bob, Method::GET, path, Value::Null)
        .await;
    let event = &cluster.events("as")[1];
    assert_eq!(event["user"]["username"], "ann");
    assert_eq!(
        event["impersonatedUser"],
        json!({"username": "bob", "groups": ["g", "system:authenticated"]})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_recorded_at_their_levels() {
    let cluster = cluster(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
         - {level: Request, verbs: [create, delete]}\n\
         - {level: RequestResponse, verbs: [patch, list], omitManagedFields: true}\n\
         - {level: RequestResponse}\n",
    )
    .await;
    let of = |id: &str| {
        let events = cluster.events(id);
        assert_eq!(events.len(), 1, "{id}");
        events.into_iter().next().expect("one")
    };
    cluster
        .send(
            ADMIN,
            &[("audit-id", "create")],
            Method::POST,
            MAPS,
            map("m"),
        )
        .await;
    let event = of("create");
    assert_eq!(event["requestObject"]["kind"], "ConfigMap");
    assert_eq!(event["requestObject"]["data"], json!({"a": "b"}));
    assert!(event["responseObject"].is_null());

    let one = format!("{MAPS}/m");
    let headers = [
        ("audit-id", "patch"),
        ("content-type", "application/apply-patch+yaml"),
    ];
    let applied = format!("{one}?fieldManager=me&force=true");
    let patch = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"c": "d"}});
    let done = cluster
        .send(ADMIN, &headers, Method::PATCH, &applied, patch.clone())
        .await;
    assert_eq!(done.status(), 200);
    let event = of("patch");
    assert_eq!(event["requestObject"]["data"], patch["data"]);
    assert_eq!(event["responseObject"]["data"], json!({"a": "b", "c": "d"}));
    assert!(event["responseObject"]["metadata"]["managedFields"].is_null());

    // Also where the client gets something else.
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (id, accept) in [
        ("table", table),
        ("proto", "application/vnd.kubernetes.protobuf"),
    ] {
        let headers = [("audit-id", id), ("accept", accept)];
        cluster
            .send(ADMIN, &headers, Method::GET, &one, Value::Null)
            .await;
        let event = of(id);
        assert_eq!(event["responseObject"]["kind"], "ConfigMap", "{id}");
        assert!(event["responseObject"]["metadata"]["managedFields"].is_array());
    }
    cluster
        .send(
            ADMIN,
            &[("audit-id", "list")],
            Method::GET,
            MAPS,
            Value::Null,
        )
        .await;
    let listed = &of("list")["responseObject"];
    assert_eq!(listed["kind"], "ConfigMapList");
    let item = &listed["items"][0];
    assert!(item["metadata"]["name"].is_string() && item["metadata"]["managedFields"].is_null());

    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
    cluster
        .send(
            ADMIN,
            &[("audit-id", "delete")],
            Method::DELETE,
            &one,
            options,
        )
        .await;
    let event = of("delete");
    assert_eq!(event["requestObject"]["gracePeriodSeconds"], 0);
    assert_eq!(event["responseStatus"]["status"], "Success");
    let missing = [("audit-id", "missing")];
    cluster
        .send(ADMIN, &missing, Method::GET, &one, Value::Null)
        .await;
    assert_eq!(of("missing")["responseObject"]["reason"], "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_recorded_when_it_begins_and_when_it_ends() {
    let cluster = cluster(&all("RequestResponse")).await;
    let uri = format!("{MAPS}?watch=true");
    let watch = cluster
        .send(ADMIN, &[("audit-id", "w")], Method::GET, &uri, Value::Null)
        .await;
    let events = cluster.events("w");
    let stages = |events: &[Value]| -> Vec<String> {
        let stages = events
            .iter()
            .map(|e| e["stage"].as_str().unwrap_or_default().into());
        stages.collect()
    };
    assert_eq!(stages(&events), ["RequestReceived", "ResponseStarted"]);
    assert!(events[1]["annotations"]["audit.k8s.io/truncated"].is_null());
    drop(watch);
    let events = cluster.awaited("w", 3).await;
    assert_eq!(events[2]["stage"], "ResponseComplete");
    assert_eq!(events[2]["responseStatus"]["code"], 200);
    // A refusal of what would last is whole, with a length, and has ended.
    let uri = "/api/v1/namespaces/default/pods/none/exec?command=id";
    let refused = cluster
        .send(ADMIN, &[("audit-id", "x")], Method::GET, uri, Value::Null)
        .await;
    assert!(!refused.status().is_success(), "{}", refused.status());
    assert!(http_body::Body::size_hint(refused.body()).exact() > Some(0));
    drop(refused);
    let events = cluster.awaited("x", 3).await;
    let all = ["RequestReceived", "ResponseStarted", "ResponseComplete"];
    assert_eq!(stages(&events), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_writes_are_recorded_and_no_secret_is() {
    let cluster = cluster(DEFAULT).await;
    let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"},
        "stringData": {"password": "correct horse"}, "data": {"b": "Y29ycmVjdCBob3JzZQ=="}});
    cluster
        .send(ADMIN, &[("audit-id", "s")], Method::POST, SECRETS, secret)
        .await;
    let one = format!("{SECRETS}/s");
    let patch = json!({"stringData": {"password": "correct horse battery"}});
    let merge = [
        ("audit-id", "p"),
        ("content-type", "application/merge-patch+json"),
    ];
    cluster
        .send(ADMIN, &merge, Method::PATCH, &one, patch)
        .await;
    cluster
        .send(ADMIN, &[("audit-id", "g")], Method::GET, &one, Value::Null)
        .await;
    for (id, verb) in [("s", "create"), ("p", "patch")] {
        let events = cluster.events(id);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["verb"], verb);
        assert_eq!(events[0]["objectRef"]["name"], "s");
    }
    assert!(cluster.events("g").is_empty());
    let text = std::fs::read_to_string(&cluster.log).expect("log");
    assert!(!text.contains("correct") && !text.contains("Y29ycm"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deprecated_is_said_to_the_client_and_noted() {
    let cluster = cluster(&all("Metadata")).await;
    let uri = "/api/v1/namespaces/default/endpoints";
    let headers = [("audit-id", "old")];
    let listed = cluster
        .send(ADMIN, &headers, Method::GET, uri, Value::Null)
        .await;
    let warning = listed.headers()["warning"].to_str().expect("text");
    assert!(
        warning.contains("v1 Endpoints is deprecated in v1.33+"),
        "{warning}"
    );
    let notes = &cluster.events("old")[1]["annotations"];
    assert_eq!(notes["k8s.io/deprecated"], "true");
}
