//! Webhooks of admission, which are asked over TLS on this machine: what they are sent, what they
//! may change, whom they may refuse, and what becomes of a write when they fail.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::admission::{Options, standard};
use base64::Engine;
use common::{ask, get, post, request, send};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serve::RequestBody;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A server with all plugins, and webhooks that answer by their paths.
struct Cluster {
    server: ApiServer,
    port: u16,
    ca_pem: String,
    /// Path, query and request of each call, in order.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

/// A webhook's answer: to a path and a request.
fn answer(path: &str, request: &Value) -> Value {
    let uid = &request["uid"];
    let patch = |operations: Value| {
        json!({"uid": uid, "allowed": true, "patchType": "JSONPatch",
            "patch": base64(&operations.to_string())})
    };
    let add = |key: &str| {
        let mut operations = Vec::new();
        if request["object"]["data"].is_null() {
            operations.push(json!({"op": "add", "path": "/data", "value": {}}));
        }
        let seen = request["object"]["data"].as_object().map_or(0, |d| d.len());
        operations.push(json!({"op": "add", "path": format!("/data/{key}"),
            "value": seen.to_string()}));
        patch(Value::Array(operations))
    };
    match path {
        "/allow" => json!({"uid": uid, "allowed": true, "warnings": ["take care"],
            "auditAnnotations": {"seen": "yes"}}),
        "/deny" => json!({"uid": uid, "allowed": false,
            "status": {"code": 403, "reason": "Forbidden", "message": "not on a Sunday"}}),
        "/deny-silently" => json!({"uid": uid, "allowed": false}),
        "/first" => add("first"),
        "/second" => add("second"),
        "/once" if !request["object"]["data"]["first"].is_null() => {
            json!({"uid": uid, "allowed": true})
        }
        "/once" => add("first"),
        "/unknown" => patch(json!([
            {"op": "add", "path": "/nothing", "value": 1},
            {"op": "add", "path": "/metadata/labels", "value": {"by": "webhook"}},
        ])),
        "/unmanaged" => patch(json!([{"op": "remove", "path": "/metadata/managedFields"}])),
        "/replicas" => patch(json!([
            {"op": "replace", "path": "/spec/replicas", "value": 7},
        ])),
        "/bad-patch" => patch(json!([{"op": "remove", "path": "/not/there"}])),
        "/strange" => json!({"uid": "somebody else's", "allowed": true}),
        _ => Value::Null,
    }
}

async fn cluster() -> Cluster {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("hooks", now).expect("ca");
    let local = "127.0.0.1".parse().expect("ip");
    let serving = ca.issue(&Subject::server("hook", &[], &[local]), now, 1);
    let tls = wire::tls::server_config(&serving.expect("pair"), None).expect("tls");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let seen = asked.clone();
    let handle = move |request: Request<RequestBody>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("body").to_bytes();
            let review: Value = serde_json::from_slice(&body).expect("json");
            assert_eq!(review["kind"], "AdmissionReview");
            let (path, request) = (head.uri.path(), &review["request"]);
            seen.lock().push((path.to_owned(), request.clone()));
            if path == "/never" {
                return std::future::pending().await;
            }
            let said = json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"],
                "response": answer(path, request)});
            let mut response = Response::new(Full::from(said.to_string()));
            if path == "/broken" {
                *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        }
    };
    tokio::spawn(wire::serve::serve(
        listener,
        tls,
        handle,
        CancellationToken::new(),
    ));
    let mut config = common::open_config();
    config.admission = standard(&Options::default());
    Cluster {
        server: common::server_with(config).await,
        port,
        ca_pem: ca.pair.cert_pem.clone(),
        asked,
    }
}

fn rule(operations: &[&str], group: &str, version: &str, resources: &[&str]) -> Value {
    json!({"operations": operations, "apiGroups": [group], "apiVersions": [version],
        "resources": resources})
}

fn maps(operations: &[&str]) -> Value {
    json!({"rules": [rule(operations, "", "v1", &["configmaps"])]})
}

impl Cluster {
    /// A webhook under a path; `more` has its rules and whatever else is to be said.
    fn hook(&self, path: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": format!("{}.example.com", path.trim_start_matches('/')),
            "clientConfig": {
                "url": format!("https://127.0.0.1:{}{path}", self.port),
                "caBundle": base64(&self.ca_pem),
            },
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        });
        let hook_map = hook.as_object_mut().expect("object");
        hook_map.extend(more.as_object().expect("object").clone());
        hook
    }

    async fn register(&self, mutating: bool, name: &str, hooks: Vec<Value>) {
        let kind = if mutating { "Mutating" } else { "Validating" };
        let resource = format!("{}webhookconfigurations", kind.to_lowercase());
        let object = json!({"kind": format!("{kind}WebhookConfiguration"),
            "apiVersion": "admissionregistration.k8s.io/v1",
            "metadata": {"name": name}, "webhooks": hooks});
        let (code, said) = post(&self.server, &format!("{REGISTRATION}/{resource}"), object).await;
        assert_eq!(code, 201, "{said}");
    }

    async fn map(&self, name: &str) -> (u16, Value) {
        let map = json!({"metadata": {"name": name}});
        post(&self.server, MAPS, map).await
    }

    fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.asked.lock())
    }

    fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|(path, _)| path).collect()
    }
}

#[tokio::test]
async fn a_webhook_is_sent_all_of_a_write() {
    let c = cluster().await;
    let all = maps(&["*"]);
    c.register(false, "all", vec![c.hook("/allow", all)]).await;
    let map = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}});
    let uri = format!("{MAPS}?fieldManager=me&dryRun=All");
    let made = send(
        &c.server,
        request(Method::POST, &uri, common::JSON, map.to_string()),
    )
    .await;
    assert_eq!(made.status(), 201);
    assert_eq!(made.headers()["warning"], "299 - \"take care\"");
    let (path, asked) = c.asked().remove(0);
    assert_eq!(path, "/allow");
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    for (field, value) in [
        ("kind", &kind),
        ("requestKind", &kind),
        ("resource", &resource),
        ("requestResource", &resource),
        ("name", &json!("a")),
        ("namespace", &json!("default")),
        ("operation", &json!("CREATE")),
        ("dryRun", &json!(true)),
        (
            "userInfo",
            &json!({"username": "tester", "groups": ["system:masters", "system:authenticated"]}),
        ),
        (
            "options",
            &json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1",
                "fieldManager": "me", "dryRun": ["All"]}),
        ),
        ("oldObject", &Value::Null),
    ] {
        assert_eq!(&asked[field], value, "{field}");
    }
    let object = &asked["object"];
    assert_eq!(object["data"], json!({"k": "v"}));
    assert_eq!(object["metadata"]["managedFields"][0]["manager"], "me");
    assert!(
        object["metadata"]["uid"].is_string(),
        "as it will be stored"
    );

    assert_eq!(c.map("a").await.0, 201);
    let patched = json!({"data": {"k": "w"}});
    let one = format!("{MAPS}/a");
    let (code, made) = ask(&c.server, Method::PATCH, &one, patched).await;
    assert_eq!(code, 200);
    let asked = c.asked().remove(1).1;
    assert_eq!(asked["operation"], "UPDATE");
    assert_eq!(asked["options"]["kind"], "UpdateOptions");
    assert_eq!(asked["object"]["data"], json!({"k": "w"}));
    assert_eq!(asked["oldObject"]["data"], Value::Null);
    assert!(asked["oldObject"]["metadata"]["resourceVersion"].is_string());
    assert_eq!(made["data"]["k"], "w");

    let (code, _) = ask(
        &c.server,
        Method::DELETE,
        &one,
        json!({"gracePeriodSeconds": 3}),
    )
    .await;
    assert_eq!(code, 200);
    let asked = c.asked().remove(0).1;
    assert_eq!(asked["operation"], "DELETE");
    assert_eq!(asked["object"], Value::Null);
    assert_eq!(asked["oldObject"]["data"], json!({"k": "w"}));
    assert_eq!(
        asked["options"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 3})
    );
}

#[tokio::test]
async fn a_refusal_has_the_webhooks_words_and_nothing_is_written() {
    let c = cluster().await;
    let one = vec![
        c.hook("/allow", maps(&["CREATE", "DELETE"])),
        c.hook("/deny", maps(&["CREATE", "DELETE"])),
        c.hook("/deny-silently", maps(&["CREATE"])),
    ];
    c.register(false, "some", one).await;
    let (code, said) = c.map("a").await;
    assert_eq!(code, 403);
    assert_eq!(said["reason"], "Forbidden");
    assert_eq!(
        said["message"],
        "admission webhook \"deny.example.com\" denied the request: not on a Sunday"
    );
    assert_eq!(get(&c.server, &format!("{MAPS}/a")).await.0, 404);
    let mut paths = c.paths();
    paths.sort();
    assert_eq!(paths, ["/allow", "/deny", "/deny-silently"], "all at once");

    let metrics = get(&c.server, "/metrics").await.1;
    let metrics = metrics.as_str().expect("text");
    for line in [
        "apiserver_admission_webhook_rejection_count{name=\"deny.example.com\",type=\"validating\",operation=\"CREATE\",error_type=\"no_error\",rejection_code=\"403\"} 1",
        "apiserver_admission_webhook_request_total{name=\"allow.example.com\",type=\"validating\",operation=\"CREATE\",code=\"200\",rejected=\"false\"} 1",
        "apiserver_admission_webhook_admission_duration_seconds_count{name=\"allow.example.com\",type=\"validating\",operation=\"CREATE\",rejected=\"false\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    // A configuration that refuses everything can be taken back.
    let everything = json!({"rules": [rule(&["*"], "*", "*", &["*"])]});
    c.register(false, "trap", vec![c.hook("/deny", everything)])
        .await;
    let trap = format!("{REGISTRATION}/validatingwebhookconfigurations/trap");
    assert_eq!(
        ask(&c.server, Method::DELETE, &trap, Value::Null).await.0,
        200
    );
}

#[tokio::test]
async fn objects_are_changed_in_order_and_once_more_when_asked_for() {
    let c = cluster().await;
    c.register(true, "b", vec![c.hook("/second", maps(&["CREATE"]))])
        .await;
    let mut again = maps(&["CREATE"]);
    again["reinvocationPolicy"] = "IfNeeded".into();
    c.register(true, "a", vec![c.hook("/once", again)]).await;
    let map = json!({"metadata": {"name": "a"}, "data": {"own": "v"}});
    let (code, made) = post(&c.server, MAPS, map).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["data"],
        json!({"own": "v", "first": "1", "second": "2"})
    );
    assert_eq!(c.paths(), ["/once", "/second", "/once"]);
    let owned = made["metadata"]["managedFields"].to_string();
    assert!(
        owned.contains("f:own") && !owned.contains("f:first"),
        "what the server sets is nobody's: {owned}"
    );

    // What a webhook leaves is read as any object.
    let unknown = c.hook("/unknown", maps(&["UPDATE"]));
    let unmanaged = c.hook("/unmanaged", maps(&["UPDATE"]));
    c.register(true, "c", vec![unknown, unmanaged]).await;
    let one = format!("{MAPS}/a");
    let (code, made) = ask(&c.server, Method::PATCH, &one, json!({"data": {"k": "v"}})).await;
    assert_eq!(code, 200, "{made}");
    assert_eq!(made["nothing"], Value::Null);
    assert_eq!(made["metadata"]["labels"], json!({"by": "webhook"}));
    assert_eq!(made["metadata"]["managedFields"], Value::Null);
}

#[tokio::test]
async fn a_generated_name_is_chosen_after_all_changes() {
    let c = cluster().await;
    c.register(true, "m", vec![c.hook("/first", maps(&["CREATE"]))])
        .await;
    c.register(false, "v", vec![c.hook("/allow", maps(&["CREATE"]))])
        .await;
    let map = json!({"metadata": {"generateName": "x-"}});
    let (code, made) = post(&c.server, MAPS, map).await;
    assert_eq!(code, 201);
    let name = made["metadata"]["name"].as_str().expect("name");
    let asked = c.asked();
    assert_eq!(asked[0].1["name"], Value::Null);
    assert_eq!(asked[0].1["object"]["metadata"]["uid"], Value::Null);
    assert_eq!((asked[1].1["name"].as_str(), asked.len()), (Some(name), 2));
}

#[tokio::test]
async fn what_fails_stops_a_write_unless_that_is_ignored() {
    let c = cluster().await;
    let port = c.port;
    // Only the time of the one that never answers is to be over.
    for (path, seconds, why) in [
        (
            "/never",
            1,
            format!(
                "failed to call webhook: Post \"https://127.0.0.1:{port}/never?timeout=1s\": context deadline exceeded"
            ),
        ),
        (
            "/broken",
            30,
            "failed to call webhook: an error on the server".to_owned(),
        ),
        (
            "/strange",
            30,
            "received invalid webhook response: expected response.uid=".to_owned(),
        ),
        (
            "/nothing",
            30,
            "received invalid webhook response: webhook response was absent".to_owned(),
        ),
    ] {
        for mutating in [true, false] {
            let mut more = maps(&["CREATE"]);
            more["timeoutSeconds"] = json!(seconds);
            c.register(mutating, "x", vec![c.hook(path, more)]).await;
            let (code, said) = c.map("a").await;
            assert_eq!(
                (code, said["reason"].as_str()),
                (500, Some("InternalError"))
            );
            let message = said["message"].as_str().expect("message");
            let name = path.trim_start_matches('/');
            let want = format!(
                "Internal error occurred: failed calling webhook \"{name}.example.com\": {why}"
            );
            assert!(message.starts_with(&want), "{message}");
            let kind = if mutating { "mutating" } else { "validating" };
            let x = format!("{REGISTRATION}/{kind}webhookconfigurations/x");
            let hook = json!({"webhooks": [{"name": format!("{name}.example.com"),
                "failurePolicy": "Ignore"}]});
            let changed = send(
                &c.server,
                request(
                    Method::PATCH,
                    &x,
                    "application/strategic-merge-patch+json",
                    hook.to_string(),
                ),
            )
            .await;
            assert_eq!(changed.status(), 200);
            assert_eq!(c.map(&format!("{name}-{kind}")).await.0, 201);
            assert_eq!(ask(&c.server, Method::DELETE, &x, Value::Null).await.0, 200);
        }
    }
    // A patch that does not fit is not a failure to call.
    c.register(true, "x", vec![c.hook("/bad-patch", maps(&["CREATE"]))])
        .await;
    assert_eq!(c.map("z").await.0, 500);
    let mut effects = maps(&["CREATE"]);
    effects["sideEffects"] = "NoneOnDryRun".into();
    c.register(false, "y", vec![c.hook("/allow", effects)])
        .await;
}

#[tokio::test]
async fn selectors_and_conditions_choose() {
    let c = cluster().await;
    let mut chosen = maps(&["CREATE"]);
    chosen["namespaceSelector"] =
        json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    chosen["objectSelector"] = json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]});
    chosen["matchConditions"] = json!([
        {"name": "no-system", "expression": "!('system:nodes' in request.userInfo.groups)"},
        {"name": "named", "expression": "object.metadata.name != 'b'"},
        {"name": "asked", "expression": "authorizer.group('').resource('pods').check('get').allowed()"},
    ]);
    c.register(false, "chosen", vec![c.hook("/deny", chosen)])
        .await;
    let map = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let other = "/api/v1/namespaces/kube-system/configmaps";
    assert_eq!(
        post(&c.server, MAPS, map("a", json!({"x": "1"}))).await.0,
        403
    );
    assert_eq!(post(&c.server, MAPS, map("a", json!({}))).await.0, 201);
    assert_eq!(
        post(&c.server, MAPS, map("b", json!({"x": "1"}))).await.0,
        201
    );
    assert_eq!(
        post(&c.server, other, map("a", json!({"x": "1"}))).await.0,
        201
    );
    // What cannot be decided refuses, or passes by the webhook where failures are ignored.
    for (policy, code) in [("Fail", 403), ("Ignore", 201)] {
        let mut broken = maps(&["CREATE"]);
        broken["failurePolicy"] = policy.into();
        broken["matchConditions"] =
            json!([{"name": "a", "expression": "object.missing.field == 'x'"}]);
        c.register(
            false,
            policy.to_lowercase().as_str(),
            vec![c.hook("/deny", broken)],
        )
        .await;
        let (have, said) = post(&c.server, MAPS, map("c", json!({}))).await;
        assert_eq!(have, code, "{said}");
        let one = format!(
            "{REGISTRATION}/validatingwebhookconfigurations/{}",
            policy.to_lowercase()
        );
        assert_eq!(
            ask(&c.server, Method::DELETE, &one, Value::Null).await.0,
            200
        );
    }
}

#[tokio::test]
async fn equivalent_kinds_are_shown_as_the_rule_names_them() {
    let c = cluster().await;
    let v1 = json!({"rules": [rule(&["*"], "autoscaling", "v1", &["horizontalpodautoscalers"])]});
    let mut exact = v1.clone();
    exact["matchPolicy"] = "Exact".into();
    let hooks = vec![c.hook("/allow", v1), c.hook("/deny", exact)];
    c.register(false, "v1", hooks).await;
    let scaler = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 70}}}]}});
    let uri = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let (code, said) = post(&c.server, uri, scaler).await;
    assert_eq!(code, 201, "{said}");
    let asked = c.asked();
    assert_eq!(asked.len(), 1);
    let asked = &asked[0].1;
    assert_eq!(asked["kind"]["version"], "v1");
    assert_eq!(asked["resource"]["version"], "v1");
    assert_eq!(asked["requestKind"]["version"], "v2");
    assert_eq!(asked["requestResource"]["version"], "v2");
    assert_eq!(asked["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(
        asked["object"]["spec"]["targetCPUUtilizationPercentage"],
        70
    );
}

#[tokio::test]
async fn what_lies_below_an_object_is_shown_as_its_own_kind() {
    let c = cluster().await;
    let labels = json!({"app": "a"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(post(&c.server, deployments, deployment).await.0, 201);
    let scale = json!({"rules": [rule(&["UPDATE"], "apps", "v1", &["deployments/scale"])]});
    c.register(true, "scale", vec![c.hook("/replicas", scale)])
        .await;
    let uri = format!("{deployments}/d/scale");
    let (code, scale) = ask(
        &c.server,
        Method::PATCH,
        &uri,
        json!({"spec": {"replicas": 2}}),
    )
    .await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(7)));
    let asked = &c.asked()[0].1;
    assert_eq!(
        asked["kind"],
        json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
    );
    assert_eq!(asked["subResource"], "scale");
    assert_eq!(asked["requestSubResource"], "scale");
    assert_eq!(asked["object"]["spec"]["replicas"], 2);
    assert_eq!(asked["oldObject"]["spec"]["replicas"], 1);

    // Evictions, connections and questions that are never stored.
    let below = json!({"rules": [
        rule(&["CREATE"], "", "v1", &["pods/eviction"]),
        rule(&["CONNECT"], "", "v1", &["pods/exec"]),
        rule(&["CREATE"], "authorization.k8s.io", "v1", &["*"]),
    ]});
    c.register(false, "below", vec![c.hook("/deny", below)])
        .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(post(&c.server, accounts, account).await.0, 201);
    assert_eq!(post(&c.server, pods, pod).await.0, 201);
    let eviction =
        json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"}});
    let (code, _) = post(&c.server, &format!("{pods}/p/eviction"), eviction).await;
    assert_eq!(code, 403);
    assert_eq!(c.asked()[0].1["kind"]["kind"], "Eviction");
    assert_eq!(get(&c.server, &format!("{pods}/p")).await.0, 200);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(post(&c.server, uri, review).await.0, 403);
}

#[tokio::test]
async fn each_object_of_a_collection_is_judged() {
    let c = cluster().await;
    for name in ["a", "b"] {
        assert_eq!(c.map(name).await.0, 201);
    }
    c.register(false, "d", vec![c.hook("/allow", maps(&["DELETE"]))])
        .await;
    assert_eq!(
        ask(&c.server, Method::DELETE, MAPS, Value::Null).await.0,
        200
    );
    let asked = c.asked();
    let mut names: Vec<_> = asked
        .iter()
        .map(|(_, r)| {
            r["oldObject"]["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
        })
        .filter(|n| *n != "kube-root-ca.crt")
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
}
