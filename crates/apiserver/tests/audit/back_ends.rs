//! How events reach the log and the webhook: whole or without their bodies, in batches, once more
//! after a failure, and when the server ends.

use std::sync::Arc;

use apiserver::audit::policy::Policy;
use apiserver::audit::sink::Mode;
use apiserver::audit::webhook::{Batches, Webhook};
use apiserver::audit::{Feed, Plan};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::Value;
use wire::kubeconfig::Remote;

use crate::cluster::{ADMIN, MAPS, all, cluster_with, feed, map, started};
use crate::common::{ask, outside};

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
