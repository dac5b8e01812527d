//! The audit log of a server that is asked over TLS: what is recorded at which stage, with which
//! notes, and what never is.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use apiserver::audit::log::{LogFile, Rotation};
use apiserver::audit::policy::{DEFAULT, Policy};
use apiserver::audit::sink::Mode;
use apiserver::audit::webhook::{Batches, Webhook};
use apiserver::audit::{Feed, Plan, QUEUE};
use apiserver::filters::tokens::Tokens;
use apiserver::{ApiServer, Config, admission};
use bytes::Bytes;
use common::{ask, outside};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};
use wire::jwt::Signer;
use wire::kubeconfig::Remote;
use wire::pki::{Ca, Subject};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// A server that is asked over TLS, and its audit log.
struct Cluster {
    server: ApiServer,
    port: u16,
    ca: Ca,
    now: i64,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

fn feed(mode: Mode) -> Feed {
    Feed {
        mode,
        queue: QUEUE,
        truncate: None,
    }
}

async fn cluster(policy: &str) -> Cluster {
    cluster_with(policy, feed(Mode::Blocking)).await
}

async fn cluster_with(policy: &str, feed: Feed) -> Cluster {
    let clock = clock::Clock::system();
    let dir = tempfile::tempdir().expect("dir");
    let log = dir.path().join("audit.log");
    let rotation = Rotation {
        max_size_mib: 0,
        max_backups: 0,
        max_age_days: 0,
    };
    let file = LogFile::open(&log, rotation, clock).expect("log");
    let plan = Plan::new(Policy::read(policy.as_bytes()).expect("policy"));
    started(plan.with_log(file, feed), log, dir).await
}

async fn started(plan: Plan, log: PathBuf, dir: tempfile::TempDir) -> Cluster {
    let clock = clock::Clock::system();
    let now = clock.seconds();
    let ca = Ca::generate("test", now).expect("ca");
    let ip = "127.0.0.1".parse().expect("ip");
    let subject = Subject::server("apiserver", &["localhost"], &[ip]);
    let pair = ca.issue(&subject, now, 1).expect("pair");
    let tls = wire::tls::server_config(&pair, Some(&ca.pair.cert_pem)).expect("tls");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let port = listener.local_addr().expect("address").port();
    let (signer, _) = Signer::generate().expect("key");
    let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
    let mut config = Config::new(ip, port, clock, clock::Random::system())
        .secured(tokens, &admission::Options::default());
    config.audit = Some(plan);
    let server = common::server_with(config).await;
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, tls).await });
    Cluster {
        server,
        port,
        ca,
        now,
        log,
        _dir: dir,
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

impl Cluster {
    /// A connection, as a user of a client certificate; as nobody without a name.
    async fn connect(&self, user: &str, groups: &[&str]) -> Sender {
        let subject = Subject::client(user, groups);
        let pair = self.ca.issue(&subject, self.now, 1).expect("pair");
        let pair = (!user.is_empty()).then_some(&pair);
        let ca = &self.ca.pair.cert_pem;
        let tls = wire::tls::client_config(ca, pair, &["http/1.1"]).expect("tls");
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port))
            .await
            .expect("tcp");
        let name = "localhost".try_into().expect("name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let stream = connector.connect(name, stream).await.expect("tls");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .expect("http");
        tokio::spawn(async move {
            // It ends with the test.
            let _ = connection.await;
        });
        sender
    }

    async fn send(
        &self,
        (user, groups): (&str, &[&str]),
        headers: &[(&str, &str)],
        method: Method,
        uri: &str,
        body: Value,
    ) -> Response<hyper::body::Incoming> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "localhost")
            .header("user-agent", "test/1");
        if !headers.iter().any(|(k, _)| *k == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).expect("request");
        let mut sender = self.connect(user, groups).await;
        sender.send_request(request).await.expect("answer")
    }

    async fn admin(&self, method: Method, uri: &str, body: Value) -> (u16, Value) {
        let response = self.send(ADMIN, &[], method, uri, body).await;
        let code = response.status().as_u16();
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("body")
            .to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// All events so far of requests whose number is this; back ends that block have them all. The
    /// last line may be just being written: it counts once its end is there.
    fn events(&self, id: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).expect("log");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let all = whole
            .lines()
            .map(|l| serde_json::from_str(l).expect("json"));
        all.filter(|e: &Value| e["auditID"] == id).collect()
    }

    /// Waits for the events of streams, whose ends nobody waits for.
    async fn awaited(&self, id: &str, count: usize) -> Vec<Value> {
        loop {
            let events = self.events(id);
            if events.len() >= count {
                return events;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

const ADMIN: (&str, &[&str]) = ("ann", &["system:masters"]);

fn all(level: &str) -> String {
    format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{{level: {level}}}]\n")
}

fn map(name: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"a": "b"}})
}

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
async fn admission_has_its_say() {
    let cluster = cluster(&all("Metadata")).await;
    const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"kind": "ValidatingAdmissionPolicy", "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": "p.example.com"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "object.metadata.name != 'loud'", "message": "too loud"}],
            "auditAnnotations": [{"key": "name", "valueExpression": "'it is ' + object.metadata.name"}]}});
    let binding = json!({"kind": "ValidatingAdmissionPolicyBinding", "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": "b"}, "spec": {"policyName": "p.example.com", "validationActions": ["Audit"]}});
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    assert_eq!(cluster.admin(Method::POST, &policies, policy).await.0, 201);
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    let made = cluster
        .send(ADMIN, &[], Method::POST, &bindings, binding)
        .await;
    assert_eq!(made.status(), 201);
    assert!(!made.headers().contains_key("warning"));

    let made = cluster
        .send(ADMIN, &[("audit-id", "l")], Method::POST, MAPS, map("loud"))
        .await;
    assert_eq!(made.status(), 201);
    assert!(!made.headers().contains_key("warning"));
    let notes = cluster.events("l")[1]["annotations"].clone();
    assert_eq!(notes["p.example.com/name"], "it is loud");
    let failures = notes["validation.policy.admission.k8s.io/validation_failure"].as_str();
    let failures: Value = serde_json::from_str(failures.expect("a failure")).expect("json");
    assert_eq!(failures[0]["message"], "too loud");
    assert_eq!(failures[0]["validationActions"], json!(["Audit"]));

    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    ask(
        &cluster.server,
        Method::PATCH,
        "/api/v1/namespaces/default",
        label,
    )
    .await;
    let account =
        json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}});
    cluster
        .admin(
            Method::POST,
            "/api/v1/namespaces/default/serviceaccounts",
            account,
        )
        .await;
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    let made = cluster
        .send(ADMIN, &[("audit-id", "pod")], Method::POST, pods, pod)
        .await;
    assert_eq!(made.status(), 201);
    let notes = cluster.events("pod")[1]["annotations"].clone();
    let violation = notes["pod-security.kubernetes.io/audit-violations"].as_str();
    assert!(
        violation.is_some_and(|v| v.contains("allowPrivilegeEscalation")),
        "{notes}"
    );
}

/// Webhooks by their paths: one changes what it sees, one has nothing against it, one fails.
async fn judged(request: Request<wire::serve::RequestBody>) -> Response<Full<Bytes>> {
    use base64::Engine;
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("body").to_bytes();
    let review: Value = serde_json::from_slice(&body).expect("json");
    let path = head.uri.path();
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true,
        "auditAnnotations": {"seen": path}});
    if path == "/labels" {
        let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"by": "hook"}}]);
        let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
        response["patchType"] = "JSONPatch".into();
        response["patch"] = patch.into();
    }
    let said = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "response": response});
    let mut answer = Response::new(Full::from(said.to_string()));
    if path == "/broken" {
        *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_webhooks_did_is_noted() {
    let outside = outside::start("hooks", None, judged).await;
    let hook = |path: &str| {
        json!({"name": format!("{path}.example.com"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
            "clientConfig": {"caBundle": outside.bundle,
                "url": format!("https://127.0.0.1:{}/{path}", outside.port)},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"]}]})
    };
    for level in ["Metadata", "Request"] {
        let cluster = cluster(&all(level)).await;
        for (kind, paths) in [
            ("Mutating", &["labels", "silent", "broken"][..]),
            ("Validating", &["silent", "broken"]),
        ] {
            let hooks: Vec<Value> = paths.iter().map(|path| hook(path)).collect();
            let object = json!({"kind": format!("{kind}WebhookConfiguration"),
                "apiVersion": "admissionregistration.k8s.io/v1",
                "metadata": {"name": "hooks"}, "webhooks": hooks});
            let resource = format!("{}webhookconfigurations", kind.to_lowercase());
            let uri = format!("/apis/admissionregistration.k8s.io/v1/{resource}");
            assert_eq!(cluster.admin(Method::POST, &uri, object).await.0, 201);
        }
        let made = cluster
            .send(ADMIN, &[("audit-id", "m")], Method::POST, MAPS, map("m"))
            .await;
        assert_eq!(made.status(), 201);
        let notes = cluster.events("m")[1]["annotations"].clone();
        let noted = |key: &str| -> Value {
            let text = notes[key].as_str().unwrap_or("null");
            serde_json::from_str(text).expect("json")
        };
        assert_eq!(notes["labels.example.com/seen"], "/labels", "{notes}");
        for (nth, name, mutated) in [(0, "labels", true), (1, "silent", false)] {
            assert_eq!(
                noted(&format!(
                    "mutation.webhook.admission.k8s.io/round_0_index_{nth}"
                )),
                json!({"configuration": "hooks", "webhook": format!("{name}.example.com"),
                    "mutated": mutated}),
                "{notes}"
            );
        }
        // What was changed is a part of the body, and noted where bodies are.
        let patch = noted("patch.webhook.admission.k8s.io/round_0_index_0");
        match level {
            "Metadata" => assert_eq!(patch, Value::Null),
            _ => {
                assert_eq!(patch["webhook"], "labels.example.com", "{notes}");
                assert_eq!(patch["patch"][0]["path"], "/metadata/labels", "{notes}");
                assert_eq!(patch["patchType"], "JSONPatch", "{notes}");
            }
        }
        for (step, nth) in [("mutation", 2), ("validating", 1)] {
            let key = format!("failed-open.{step}.webhook.admission.k8s.io/round_0_index_{nth}");
            assert_eq!(notes[&key], "broken.example.com", "{notes}");
        }
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn large_events_lose_their_bodies_where_that_is_asked_for() {
    let feed = Feed {
        truncate: Some(2048),
        ..feed(Mode::Blocking)
    };
    let cluster = cluster_with(&all("Request"), feed).await;
    let mut large = map("large");
    large["data"]["a"] = "x".repeat(4096).into();
    cluster
        .send(ADMIN, &[("audit-id", "l")], Method::POST, MAPS, large)
        .await;
    cluster
        .send(
            ADMIN,
            &[("audit-id", "s")],
            Method::POST,
            MAPS,
            map("small"),
        )
        .await;
    let (large, small) = (&cluster.events("l")[1], &cluster.events("s")[1]);
    assert_eq!(large["annotations"]["audit.k8s.io/truncated"], "true");
    assert!(large["requestObject"].is_null());
    assert!(small["requestObject"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_arrives_when_the_server_ends() {
    let cluster = cluster_with(&all("Metadata"), feed(Mode::Batch)).await;
    for n in 0..50 {
        let name = format!("m{n}");
        ask(&cluster.server, Method::POST, MAPS, map(&name)).await;
    }
    cluster.server.finish_audit().await;
    let text = std::fs::read_to_string(&cluster.log).expect("log");
    let made = text
        .lines()
        .filter(|l| l.contains("\"ResponseComplete\"") && l.contains("configmaps"));
    assert!(made.count() >= 50);
    // Who asks afterwards is answered all the same.
    let (code, _) = cluster.admin(Method::GET, "/version", Value::Null).await;
    assert_eq!(code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_batches_and_is_asked_again() {
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let (posted, tries) = (seen.clone(), Arc::new(Mutex::new(0)));
    let handle = move |request: Request<wire::serve::RequestBody>| {
        let (posted, tries) = (posted.clone(), tries.clone());
        async move {
            assert_eq!(request.uri().path(), "/events");
            assert_eq!(request.headers()["authorization"], "Bearer secret");
            let body = request
                .into_body()
                .collect()
                .await
                .expect("body")
                .to_bytes();
            let mut response = Response::new(Full::from("ok"));
            let mut tries = tries.lock();
            *tries += 1;
            if *tries == 1 {
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                return response;
            }
            let list: Value = serde_json::from_slice(&body).expect("json");
            assert_eq!(list["kind"], "EventList");
            let items = list["items"].as_array().expect("items");
            posted.lock().extend(items.iter().cloned());
            response
        }
    };
    let collector = outside::start("collector", None, handle).await;
    let pem = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD
            .decode(&collector.bundle)
            .expect("base64")
    };
    let remote = Remote {
        server: format!("https://127.0.0.1:{}/events", collector.port),
        server_name: Some("collector".into()),
        ca_pem: Some(pem),
        token: Some("secret".into()),
        ..Remote::default()
    };
    let batches = Batches {
        wait: std::time::Duration::from_millis(50),
        backoff: std::time::Duration::from_millis(10),
        ..Batches::default()
    };
    let webhook = Webhook::new(&remote, batches).expect("webhook");
    let mut plan = Plan::new(Policy::read(all("Metadata").as_bytes()).expect("policy"));
    plan.webhook = Some((webhook, feed(Mode::Batch)));
    let dir = tempfile::tempdir().expect("dir");
    let cluster = started(plan, dir.path().join("none"), dir).await;
    cluster
        .send(ADMIN, &[("audit-id", "one")], Method::POST, MAPS, map("m"))
        .await;
    cluster.server.finish_audit().await;
    let seen = seen.lock();
    let of_one = seen.iter().filter(|e| e["auditID"] == "one");
    assert_eq!(of_one.count(), 2);
}
