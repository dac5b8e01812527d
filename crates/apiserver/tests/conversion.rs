//! A kind with two versions whose conversion is asked of somebody else, slowly: every
//! verb waits for him before it judges, stores or answers, and a list asks him once.

mod common;

use std::pin::Pin;
use std::sync::Arc;

use apiserver::ApiServer;
use common::ships::{install, ship, ships, watch};
use common::{ask, get, post, raw, request};
use http::Method;
use parking_lot::Mutex;
use registry::{Conversion, Convert, Row, ServedVersion};
use serde_json::{Value, json};

const V1: &str = "/apis/sea.example.com/v1/namespaces/default/ships";
const V2: &str = "/apis/sea.example.com/v2/namespaces/default/ships";
const ARGO: &str = "/apis/sea.example.com/v2/namespaces/default/ships/argo";

/// What `v1` calls `helmsman`, `v2` calls `steersman`.
#[derive(Default)]
struct Webhook {
    /// How many objects each call had.
    calls: Mutex<Vec<usize>>,
    fails: Mutex<Option<&'static str>>,
}

impl Convert for Webhook {
    fn convert<'a>(
        &'a self,
        objects: Vec<Value>,
        api_version: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Value>, String>> + Send + 'a>> {
        Box::pin(async move {
            // As an answer over the network would come.
            tokio::task::yield_now().await;
            self.calls.lock().push(objects.len());
            if let Some(why) = *self.fails.lock() {
                return Err(why.to_owned());
            }
            Ok(objects
                .into_iter()
                .map(|o| converted(o, api_version))
                .collect())
        })
    }
}

fn converted(mut object: Value, api_version: &str) -> Value {
    let (old, new) = match api_version {
        "sea.example.com/v2" => ("helmsman", "steersman"),
        _ => ("steersman", "helmsman"),
    };
    object["apiVersion"] = api_version.into();
    if let Some(spec) = object["spec"].as_object_mut()
        && let Some(who) = spec.remove(old)
    {
        spec.insert(new.into(), who);
    }
    object
}

/// A server with the kind, stored as `v1`.
async fn server() -> (ApiServer, Arc<Webhook>) {
    let server = common::server().await;
    let webhook = Arc::new(Webhook::default());
    let mut row = Row::clone(&ships(&[]));
    row.versions.push(ServedVersion {
        version: "v2".into(),
        ty: ship("v2", "steersman", &[]),
        deprecated: false,
        own: None,
    });
    row.conversion = Conversion::Asked(webhook.clone());
    install(&server, Arc::new(row)).await;
    (server, webhook)
}

fn argo(name: &str) -> Value {
    json!({
        "apiVersion": "sea.example.com/v2", "kind": "Ship", "metadata": { "name": name },
        "spec": { "steersman": "tiphys" },
    })
}

fn steersman(object: &Value) -> (&str, &str) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    (
        text("/apiVersion").unwrap_or_default(),
        text("/spec/steersman").unwrap_or_default(),
    )
}

async fn patch(server: &ApiServer, uri: &str, media: &str, body: &Value) -> (u16, Value) {
    raw(server, request(Method::PATCH, uri, media, body.to_string())).await
}

#[tokio::test]
async fn every_verb_speaks_the_version_of_its_request() {
    let (server, _) = server().await;
    let (code, made) = post(&server, V2, argo("argo")).await;
    assert_eq!(
        (code, steersman(&made)),
        (201, ("sea.example.com/v2", "tiphys"))
    );
    // It is stored in the other version.
    let (_, stored) = get(&server, &format!("{V1}/argo")).await;
    assert_eq!(stored["spec"], json!({ "helmsman": "tiphys" }));
    assert_eq!(stored["metadata"]["uid"], made["metadata"]["uid"]);

    let (code, mut found) = get(&server, ARGO).await;
    assert_eq!(
        (code, steersman(&found)),
        (200, ("sea.example.com/v2", "tiphys"))
    );
    found["spec"]["steersman"] = "erginus".into();
    let (code, put) = ask(&server, Method::PUT, ARGO, found.clone()).await;
    assert_eq!(
        (code, steersman(&put)),
        (200, ("sea.example.com/v2", "erginus"))
    );
    let (code, stale) = ask(&server, Method::PUT, ARGO, found).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));

    for (media, body) in [
        (
            "application/merge-patch+json",
            json!({ "spec": { "steersman": "ancaeus" } }),
        ),
        (
            "application/json-patch+json",
            json!([{ "op": "test", "path": "/spec/steersman", "value": "ancaeus" },
                   { "op": "replace", "path": "/spec/steersman", "value": "nauplius" }]),
        ),
    ] {
        let (code, now) = patch(&server, ARGO, media, &body).await;
        assert_eq!(
            (code, steersman(&now).0),
            (200, "sea.example.com/v2"),
            "{now}"
        );
    }
    let uri = format!("{ARGO}?fieldManager=me&force=true");
    let media = "application/apply-patch+yaml";
    let (code, now) = patch(&server, &uri, media, &argo("argo")).await;
    assert_eq!(
        (code, steersman(&now)),
        (200, ("sea.example.com/v2", "tiphys")),
        "{now}"
    );
    let uri = format!("{V2}/other?fieldManager=me");
    let (code, now) = patch(&server, &uri, media, &argo("other")).await;
    assert_eq!(
        (code, steersman(&now)),
        (201, ("sea.example.com/v2", "tiphys")),
        "{now}"
    );

    let status = json!({ "status": { "place": "lemnos" } });
    let (code, now) = ask(&server, Method::PATCH, &format!("{ARGO}/status"), status).await;
    assert_eq!((code, &now["status"]["place"]), (200, &json!("lemnos")));
    assert_eq!(steersman(&now), ("sea.example.com/v2", "tiphys"));
    let (_, stored) = get(&server, &format!("{V1}/argo")).await;
    assert_eq!(stored["spec"], json!({ "helmsman": "tiphys" }));

    let (code, _) = ask(&server, Method::DELETE, ARGO, Value::Null).await;
    assert_eq!(code, 200);
    let (code, gone) = ask(&server, Method::DELETE, V2, Value::Null).await;
    assert_eq!(
        (code, steersman(&gone["items"][0]).1),
        (200, "tiphys"),
        "{gone}"
    );
}

#[tokio::test]
async fn a_list_asks_once_and_what_is_stored_so_asks_nobody() {
    let (server, webhook) = server().await;
    for name in ["a", "b", "c"] {
        assert_eq!(post(&server, V2, argo(name)).await.0, 201);
    }
    webhook.calls.lock().clear();
    let (code, list) = get(&server, V2).await;
    assert_eq!(
        (code, &list["apiVersion"]),
        (200, &json!("sea.example.com/v2"))
    );
    for item in list["items"].as_array().expect("items") {
        assert_eq!(item["spec"], json!({ "steersman": "tiphys" }));
    }
    assert_eq!(*webhook.calls.lock(), [3]);
    let (_, list) = get(&server, V1).await;
    assert_eq!(list["items"][2]["spec"], json!({ "helmsman": "tiphys" }));
    assert_eq!(*webhook.calls.lock(), [3]);
}

#[tokio::test]
async fn a_watch_waits_for_what_it_shows() {
    let (server, webhook) = server().await;
    for name in ["a", "b"] {
        assert_eq!(post(&server, V2, argo(name)).await.0, 201);
    }
    webhook.calls.lock().clear();
    let mut events = watch(&server, &format!("{V2}?watch=1")).await;
    for _ in 0..2 {
        let event = events.next().await.expect("an initial event");
        assert_eq!(
            (&event["type"], steersman(&event["object"])),
            (&json!("ADDED"), ("sea.example.com/v2", "tiphys"))
        );
    }
    assert_eq!(*webhook.calls.lock(), [2]);
    let change = json!({ "spec": { "helmsman": "erginus" } });
    let (code, _) = ask(&server, Method::PATCH, &format!("{V1}/a"), change).await;
    assert_eq!(code, 200);
    let event = events.next().await.expect("a change");
    assert_eq!(event["type"], "MODIFIED");
    assert_eq!(
        steersman(&event["object"]),
        ("sea.example.com/v2", "erginus")
    );
    let rv = event["object"]["metadata"]["resourceVersion"].clone();
    let (_, now) = get(&server, &format!("{V1}/a")).await;
    assert_eq!(now["metadata"]["resourceVersion"], rv);
}

#[tokio::test]
async fn without_an_answer_nothing_is_written_or_shown_wrong() {
    let (server, webhook) = server().await;
    assert_eq!(post(&server, V2, argo("argo")).await.0, 201);
    *webhook.fails.lock() = Some("no ship is at hand");
    let (code, refused) = post(&server, V2, argo("other")).await;
    assert_eq!(code, 500, "{refused}");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("no ship is at hand"), "{message}");
    assert_eq!(get(&server, &format!("{V1}/other")).await.0, 404);
    assert_eq!(get(&server, ARGO).await.0, 500);
    assert_eq!(get(&server, V2).await.0, 500);
    let change = json!({ "spec": { "steersman": "erginus" } });
    assert_eq!(ask(&server, Method::PATCH, ARGO, change).await.0, 500);
    let (code, stored) = get(&server, &format!("{V1}/argo")).await;
    assert_eq!((code, &stored["spec"]["helmsman"]), (200, &json!("tiphys")));
}
