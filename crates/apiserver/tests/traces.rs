//! Requests as a collector of spans sees them: whose trace goes on, what is a part of what, and what a
//! webhook gets.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

#[path = "../../traces/tests/collector/mod.rs"]
mod collector;
mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use std::sync::Arc;

use base64::Engine;
use collector::{Collector, attribute, hex};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use over_tls::{ask, start};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serve::RequestBody;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POST: &str = "POST /api/v1/namespaces/{:namespace}/configmaps";

/// Makes a ConfigMap as a part of a trace that is recorded.
async fn make(client: &kube::Client, name: &str, value: &str) -> u16 {
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
        "data": { "value": value } });
    let request = Request::post(MAPS)
        .header("content-type", "application/json")
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .body(Body::from(object.to_string().into_bytes()));
    let answer = client.send(request.expect("a request")).await;
    let answer = answer.expect("an answer");
    let code = answer.status().as_u16();
    answer.into_body().collect().await.expect("a body");
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_who_is_believed_is_a_part_of_his_trace_and_others_are_linked() {
    let collector = Collector::start().await;
    let tracer = collector.tracer(0);
    let running = start(|config| config.settings.tracer = tracer.clone()).await;
    let (admin, user) = (running.admin().await, running.as_user("jo", &[]).await);
    assert_eq!(make(&admin, "small", "x").await, 201);
    // What is large is decoded beside the threads that serve connections.
    assert_eq!(make(&admin, "large", &"x".repeat(100_000)).await, 201);
    // A root of its own, of which none is recorded.
    assert_eq!(make(&user, "no", "x").await, 403);
    tracer.flush().await;
    let all = collector.spans();
    let of = |name: &str| all.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    let (requests, parts) = (of(POST), of("Create"));
    assert_eq!((requests.len(), parts.len()), (2, 2));
    for request in &requests {
        assert_eq!(hex(&request.trace_id), TRACE);
        assert_eq!(hex(&request.parent_span_id), PARENT);
        let said = |key| attribute(request, key).unwrap_or_default();
        assert_eq!(said("http.response.status_code"), "201");
        assert_eq!(said("http.target"), MAPS);
        assert_eq!(said("audit-id").len(), 36);
        let own = parts.iter().filter(|p| p.parent_span_id == request.span_id);
        let own: Vec<_> = own.collect();
        assert_eq!(own.len(), 1);
        assert!(own[0].start_time_unix_nano >= request.start_time_unix_nano);
        assert!(own[0].end_time_unix_nano <= request.end_time_unix_nano);
    }
    // Where every new trace is recorded, a stranger's has a link to his.
    let every = Collector::start().await;
    let tracer = every.tracer(1_000_000);
    let running = start(|config| config.settings.tracer = tracer.clone()).await;
    let user = running.as_user("jo", &[]).await;
    assert_eq!(make(&user, "no", "x").await, 403);
    tracer.finish().await;
    let span = every.one(POST);
    assert_ne!(hex(&span.trace_id), TRACE);
    assert!(span.parent_span_id.is_empty());
    assert_eq!(hex(&span.links.first().expect("a link").trace_id), TRACE);
    assert_eq!(
        attribute(&span, "http.response.status_code").as_deref(),
        Some("403")
    );
}

/// A pod's UID; its digits are [`TRACE`].
const UID: &str = "0af76519-16cd-43dd-8448-eb211c80319c";

#[tokio::test(flavor = "multi_thread")]
async fn what_components_ask_for_an_object_is_a_part_of_its_trace() {
    let collector = Collector::start().await;
    let (parts, never) = (collector.tracer(1_000_000), collector.tracer(0));
    let running = start(|config| config.settings.tracer = never.clone()).await;
    let now = clock::Clock::system().now();
    for (user, groups) in [
        ("system:kube-scheduler", &[][..]),
        ("system:node:one", &["system:nodes"][..]),
        ("jo", &[][..]),
    ] {
        let client = running.as_user(user, groups).await;
        let client = client::refusals::counted(client, "part");
        let asked = Request::get(format!("/version?by={user}")).body(Body::empty());
        let span = parts.work_for("work", UID, now).expect("it is on");
        let answer = span.over(client.send(asked.expect("a request"))).await;
        answer.expect("an answer");
        span.end();
    }
    parts.flush().await;
    never.flush().await;
    let all = collector.spans();
    let of = |name: &str| all.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    let (work, requests) = (of("work"), of("GET"));
    assert!(work.iter().all(|s| hex(&s.trace_id) == TRACE));
    // The server records nothing by itself, nor because of somebody whom it does not believe.
    let targets = requests.iter().filter_map(|s| attribute(s, "http.target"));
    let mut targets: Vec<_> = targets.collect();
    targets.sort();
    assert_eq!(
        targets,
        [
            "/version?by=system:kube-scheduler",
            "/version?by=system:node:one"
        ]
    );
    for request in requests {
        assert_eq!(hex(&request.trace_id), TRACE);
        assert!(work.iter().any(|w| w.span_id == request.parent_span_id));
    }
}

/// Answers reviews, and keeps the `traceparent` that it was sent.
async fn webhook(told: Arc<Mutex<Vec<String>>>) -> (u16, String) {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("hooks", now).expect("ca");
    let local = "127.0.0.1".parse().expect("ip");
    let serving = ca.issue(&Subject::server("hook", &[], &[local]), now, 1);
    let tls = wire::tls::server_config(&serving.expect("pair"), None).expect("tls");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    let handle = move |request: Request<RequestBody>| {
        let told = told.clone();
        async move {
            let (head, body) = request.into_parts();
            let header = head.headers.get("traceparent");
            let header = header.and_then(|v| v.to_str().ok()).unwrap_or_default();
            told.lock().push(header.to_owned());
            let body = body.collect().await.expect("body").to_bytes();
            let review: Value = serde_json::from_slice(&body).expect("json");
            let said = json!({ "kind": "AdmissionReview", "apiVersion": review["apiVersion"],
                "response": { "uid": review["request"]["uid"], "allowed": true } });
            Response::new(Full::from(said.to_string()))
        }
    };
    let stop = CancellationToken::new();
    tokio::spawn(wire::serve::serve(listener, tls, handle, stop));
    (port, ca.pair.cert_pem)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_what_it_is_a_part_of() {
    let collector = Collector::start().await;
    let tracer = collector.tracer(0);
    let running = start(|config| config.settings.tracer = tracer.clone()).await;
    let admin = running.admin().await;
    let told = Arc::default();
    let (port, ca_pem) = webhook(Arc::clone(&told)).await;
    let bundle = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "asked" },
        "webhooks": [{ "name": "asked.example.com", "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "clientConfig": { "url": format!("https://127.0.0.1:{port}/"), "caBundle": bundle },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["configmaps"] }] }],
    });
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    assert_eq!(ask(&admin, Method::POST, path, &hook).await.0, 200);
    assert_eq!(make(&admin, "judged", "x").await, 201);
    tracer.flush().await;
    let call = collector.one("Call validating webhook");
    assert_eq!(call.parent_span_id, collector.one("Create").span_id);
    assert_eq!(
        attribute(&call, "webhook").as_deref(),
        Some("asked.example.com")
    );
    let want = format!("00-{TRACE}-{}-01", hex(&call.span_id));
    assert_eq!(*told.lock(), [want]);
}
