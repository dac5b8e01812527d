//! What follows a creation that failed: one whose outcome is open may still come to be, so the shell waits
//! until it has settled; one in a namespace that ends is not tried again.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::{Informer, Informers};
use control::Watches;
use control::action::{Action, Plan, Target};
use control::controller::{Controller, run};
use control::events::Recorder;
use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Makes another ConfigMap whenever it is asked to plan.
struct Maker(Informer<ConfigMap>);

impl Controller for Maker {
    const NAME: &'static str = "maker";
    const ACCOUNT: &'static str = "maker";
    type Key = ();
    type Observed = ();

    fn watches(&self, watches: &mut Watches<()>) {
        watches.on(&self.0, |_| vec![()]);
    }
    fn observe(&self, (): &()) -> Option<()> {
        Some(())
    }
    fn plan(&self, (): &(), _now_millis: i64) -> Plan {
        Plan {
            actions: vec![Action::Create {
                target: Target::of::<ConfigMap>("default", "made"),
                object: map("made"),
            }],
            ..Plan::default()
        }
    }
}

fn map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": "default", "uid": name, "resourceVersion": "1" },
    })
}

/// A refusal (403) is that of a namespace that ends.
fn failure(code: u16) -> Value {
    let causes = if code == 403 {
        json!([{ "reason": "NamespaceTerminating" }])
    } else {
        json!([])
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code, "reason": "R", "message": "m", "details": { "causes": causes },
    })
}

/// Lists one object, and answers each creation with the next of `codes`, the last one again and
/// again. Reports when they came.
fn api(codes: &'static [u16]) -> (kube::Client, mpsc::UnboundedReceiver<Instant>) {
    let (sender, creations) = mpsc::unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (sender, count) = (sender.clone(), count.clone());
        async move {
            let (code, body) = if *request.method() == Method::POST {
                let _ = sender.send(Instant::now());
                let turn = count.fetch_add(1, Ordering::SeqCst).min(codes.len() - 1);
                (codes[turn], failure(codes[turn]))
            } else if request.uri().query().is_some_and(|q| q.contains("watch")) {
                std::future::pending().await
            } else {
                let list = json!({
                    "apiVersion": "v1", "kind": "ConfigMapList",
                    "metadata": { "resourceVersion": "1" }, "items": [map("one")],
                });
                (200, list)
            };
            let answer = Response::builder().status(code);
            answer.body(Body::from(body.to_string().into_bytes()))
        }
    });
    (kube::Client::new(service, "default"), creations)
}

/// The time between the first creation and the second; none where an hour brings no second one.
async fn between(codes: &'static [u16]) -> Option<Duration> {
    let (client, mut creations) = api(codes);
    let informer = Informers::new(
        client.clone(),
        clock::Clock::system(),
        clock::Random::system(),
    )
    .of();
    let recorder = Recorder::new(client.clone(), "maker", "", clock::Clock::system());
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(Maker(informer), client, recorder, stop.clone()));
    let first = creations.recv().await.expect("a creation");
    let second = tokio::time::timeout(Duration::from_secs(3_600), creations.recv()).await;
    stop.cancel();
    running.await.expect("no panic");
    second.ok().map(|again| again.expect("another one") - first)
}

#[tokio::test(start_paused = true)]
async fn only_a_clear_answer_is_followed_at_once() {
    let at_once = between(&[503, 504]).await.expect("another try");
    assert!(at_once < Duration::from_secs(1));
    let settled = between(&[504, 503]).await.expect("another try");
    assert!(settled >= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_any_more_is_not_tried_again() {
    assert_eq!(between(&[403]).await, None);
}
