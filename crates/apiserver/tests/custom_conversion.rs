//! A custom kind whose versions a webhook converts: it is asked over TLS, believed as far as upstream
//! believes one, and what it cannot do is an error of the request.

mod common;

use std::time::Duration;

use apiserver::ApiServer;
use common::outside::{self, Outside};
use common::ships::watch;
use common::{ask, get, post, server};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use wire::serve::RequestBody;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/hosts";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/hosts";

/// What `v1` has in one text, `v2` has in two. Objects named `odd` come back under another name.
fn convert(mut object: Value, to: &str) -> Value {
    object["apiVersion"] = to.into();
    let text = |o: &Value, field: &str| o[field].as_str().unwrap_or_default().to_owned();
    if to.ends_with("/v2") {
        let both = text(&object, "hostPort");
        let (host, port) = both.split_once(':').unwrap_or((&both, ""));
        (object["host"], object["port"]) = (host.into(), port.into());
        object.as_object_mut().expect("object").remove("hostPort");
    } else {
        let both = format!("{}:{}", text(&object, "host"), text(&object, "port"));
        object["hostPort"] = both.into();
        let map = object.as_object_mut().expect("object");
        map.remove("host");
        map.remove("port");
    }
    if object["metadata"]["name"] == "odd" {
        object["metadata"]["name"] = "even".into();
    }
    object["metadata"]["labels"] = json!({ "converted": "yes" });
    object
}

async fn webhook() -> Outside {
    let handle = |request: Request<RequestBody>| async move {
        assert_eq!(request.method(), Method::POST);
        let body = request
            .into_body()
            .collect()
            .await
            .expect("body")
            .to_bytes();
        let review: Value = serde_json::from_slice(&body).expect("json");
        let asked = &review["request"];
        let to = asked["desiredAPIVersion"].as_str().expect("a version");
        let objects = asked["objects"].as_array().expect("objects");
        let made = objects.iter().map(|o| convert(o.clone(), to));
        let answer = json!({
            "kind": "ConversionReview", "apiVersion": review["apiVersion"],
            "response": {
                "uid": asked["uid"], "result": {"status": "Success"},
                "convertedObjects": made.collect::<Vec<_>>(),
            },
        });
        Response::new(Full::from(answer.to_string()))
    };
    outside::start("hook", None, handle).await
}

fn definition(webhook: &Outside) -> Value {
    let version = |name: &str, storage: bool, fields: &[&str]| {
        let properties = fields
            .iter()
            .map(|f| ((*f).to_owned(), json!({"type": "string"})));
        let selectable = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")}));
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object",
                "properties": properties.collect::<serde_json::Map<_, _>>()}},
            "selectableFields": selectable.collect::<Vec<_>>(),
            "additionalPrinterColumns": [
                {"name": "First", "type": "string", "jsonPath": format!(".{}", fields[0])}],
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "hosts.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "hosts", "kind": "Host"},
            "versions": [version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v2", "v1"],
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{}/convert", webhook.port),
                    "caBundle": webhook.bundle,
                },
            }},
        },
    })
}

async fn install(server: &ApiServer, webhook: &Outside) {
    let (code, made) = post(server, CRDS, definition(webhook)).await;
    assert_eq!(code, 201, "{made}");
    for _ in 0..3000 {
        if get(server, V1).await.0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not served");
}

fn host(name: &str, at: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "Host", "metadata": {"name": name},
        "hostPort": at})
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_converted_by_the_webhook() {
    let (server, webhook) = (server().await, webhook().await);
    install(&server, &webhook).await;
    for (name, at) in [("a", "host1:80"), ("b", "host1:8080"), ("c", "host2:80")] {
        assert_eq!(post(&server, V1, host(name, at)).await.0, 201);
    }
    let (code, found) = get(&server, &format!("{V2}/a")).await;
    assert_eq!(
        (code, &found["host"], &found["port"]),
        (200, &json!("host1"), &json!("80"))
    );
    assert_eq!(found["metadata"]["labels"], json!({"converted": "yes"}));
    assert_eq!(found.get("hostPort"), None);

    // Fields are those of the version that is asked for.
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().into_iter().flatten();
        items
            .map(|i| {
                i["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    };
    let selected = |uri: &str, fields: &str| format!("{uri}?fieldSelector={fields}");
    let (_, list) = get(&server, &selected(V2, "host%3Dhost1")).await;
    assert_eq!(names(&list), ["a", "b"]);
    let (_, list) = get(&server, &selected(V2, "host%3Dhost1,port%3D80")).await;
    assert_eq!(names(&list), ["a"]);
    let (_, list) = get(&server, &selected(V1, "hostPort%3Dhost1:80")).await;
    assert_eq!(names(&list), ["a"]);
    assert_eq!(get(&server, &selected(V1, "host%3Dhost1")).await.0, 400);

    let uri = format!("{V2}?watch=1&fieldSelector=host%3Dhost1");
    let mut events = watch(&server, &uri).await;
    for _ in 0..2 {
        let event = events.next().await.expect("an initial event");
        assert_eq!(
            (&event["type"], &event["object"]["host"]),
            (&json!("ADDED"), &json!("host1"))
        );
    }
    // One leaves what is selected, another comes in.
    for (name, at) in [("a", "host3:80"), ("c", "host1:1")] {
        let change = json!({ "hostPort": at });
        let uri = format!("{V1}/{name}");
        assert_eq!(ask(&server, Method::PATCH, &uri, change).await.0, 200);
    }
    let event = events.next().await.expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["host"]),
        (&json!("DELETED"), &json!("host1"))
    );
    let event = events.next().await.expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["port"]),
        (&json!("ADDED"), &json!("1"))
    );

    let (_, document) = get(&server, "/openapi/v2").await;
    assert_eq!(
        document["definitions"]["com.example.stable.v2.Host"]["x-kubernetes-selectable-fields"],
        json!([{"fieldPath": "host"}, {"fieldPath": "port"}])
    );

    let (_, metrics) = get(&server, "/metrics").await;
    let metrics = metrics.as_str().unwrap_or_default();
    assert!(
        metrics.contains(
            "apiserver_conversion_webhook_request_total{result=\"success\",failure_type=\"\"}"
        ),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_webhook_cannot_do_is_an_error() {
    let (server, webhook) = (server().await, webhook().await);
    install(&server, &webhook).await;
    assert_eq!(post(&server, V1, host("odd", "h:1")).await.0, 201);
    let message = |answer: &Value| answer["message"].as_str().unwrap_or_default().to_owned();
    let (code, refused) = get(&server, &format!("{V2}/odd")).await;
    assert_eq!(
        (code, message(&refused).as_str()),
        (
            500,
            "conversion webhook for stable.example.com/v1, Kind=Host returned invalid object: must have the same name: odd != even"
        )
    );
    webhook.stop.cancel();
    let want =
        "conversion webhook for stable.example.com/v1, Kind=Host failed: Post \"https://127.0.0.1";
    let (mut code, mut refused) = get(&server, &format!("{V2}/odd")).await;
    for _ in 0..500 {
        if message(&refused).starts_with(want) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        (code, refused) = get(&server, &format!("{V2}/odd")).await;
    }
    assert_eq!(code, 500);
    assert!(message(&refused).starts_with(want), "{refused}");
    let other = json!({"apiVersion": "stable.example.com/v2", "kind": "Host",
        "metadata": {"name": "x"}, "host": "h"});
    assert_eq!(post(&server, V2, other).await.0, 500);
    assert_eq!(
        get(&server, &format!("{V1}/x")).await.0,
        404,
        "nothing is written"
    );
    assert_eq!(get(&server, &format!("{V1}/odd")).await.0, 200);
}
