//! What the API gets of events that repeat: one object that is counted up, and not all of a flood.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use control::Recorder;
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

type Write = (Method, String, Value);

/// A client of an API that takes events, and says that patched ones have expired if asked to.
fn api(expired: bool) -> (kube::Client, mpsc::UnboundedReceiver<Write>) {
    let (writes, seen) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let writes = writes.clone();
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect_bytes().await.expect("body");
            let body: Value = serde_json::from_slice(&bytes).expect("JSON");
            let path = head.uri.path().to_owned();
            let missing = expired && head.method == Method::PATCH;
            // The test may have seen enough.
            let _ = writes.send((head.method, path, body));
            let (code, answer) = if missing {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Failure", "message": "gone", "reason": "NotFound", "code": 404 });
                (StatusCode::NOT_FOUND, status)
            } else {
                let event = json!({ "kind": "Event", "apiVersion": "v1",
                    "metadata": { "name": "e" }, "involvedObject": {} });
                (StatusCode::OK, event)
            };
            let response = Response::builder().status(code);
            let response = response.body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, std::convert::Infallible>(response.expect("response"))
        }
    });
    (kube::Client::new(service, "default"), seen)
}

fn about(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some("a".into()),
        name: Some(name.into()),
        uid: Some(format!("uid of {name}")),
        ..ObjectReference::default()
    }
}

#[tokio::test]
async fn a_flood_becomes_one_object_that_is_counted_up() {
    let (client, mut seen) = api(false);
    let recorder = Recorder::new(client, "tester", "here", clock::Clock::system());
    for _ in 0..100 {
        recorder.event(&about("p"), true, "Failed", "again");
    }
    recorder.event(&about("q"), false, "Started", "once");
    let mut of_p = Vec::new();
    let mut of_q = None;
    while of_p.len() < 25 || of_q.is_none() {
        let write = seen.recv().await.expect("a write");
        let name = |part: &str| write.2["involvedObject"]["name"] == part;
        if name("q") {
            of_q = Some(write);
        } else {
            of_p.push(write);
        }
    }
    let (method, path, made) = &of_p[0];
    assert_eq!(
        (method, path.as_str()),
        (&Method::POST, "/api/v1/namespaces/a/events")
    );
    assert_eq!(made["type"], "Warning");
    assert_eq!(
        made["source"],
        json!({ "component": "tester", "host": "here" })
    );
    let made = made["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    for (nth, (method, path, patch)) in of_p.iter().enumerate().skip(1) {
        assert_eq!(method, Method::PATCH);
        assert!(path.ends_with(&made), "{path} is not of {made}");
        assert_eq!(patch["count"], nth + 1);
    }
    assert_eq!(of_q.expect("written").0, Method::POST);
    assert!(seen.try_recv().is_err(), "more than a burst was written");
}

#[tokio::test]
async fn an_event_that_has_expired_is_made_again_with_its_count() {
    let (client, mut seen) = api(true);
    let recorder = Recorder::new(client, "tester", "", clock::Clock::system());
    recorder.event(&about("p"), false, "Started", "again");
    recorder.event(&about("p"), false, "Started", "again");
    let mut next = async || seen.recv().await.expect("a write");
    let (first, patch, second) = (next().await, next().await, next().await);
    assert_eq!(
        (first.0, patch.0, second.0),
        (Method::POST, Method::PATCH, Method::POST)
    );
    assert_eq!(first.2["metadata"]["name"], second.2["metadata"]["name"]);
    assert_eq!(
        (&first.2["count"], &second.2["count"]),
        (&json!(1), &json!(2))
    );
}
