//! What a request may ask for at most: bodies and patches that would cost far more than they
//! weigh, pages of deletions, lists that are continued too late, forms that a kind does not have.

mod common;

use std::sync::Arc;

use apiserver::ApiServer;
use common::{JSON, ask, raw, request, server};
use http::Method;
use serde_json::{Value, json};
use store::{Embedded, Options};
use tokio_util::sync::CancellationToken;

const YAML: &str = "application/yaml";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn post(
    s: &ApiServer,
    uri: &str,
    media: &str,
    body: impl Into<bytes::Bytes>,
) -> (u16, Value) {
    raw(s, request(Method::POST, uri, media, body)).await
}

async fn map(s: &ApiServer, name: &str, data: Value) {
    let body = json!({ "metadata": { "name": name, "labels": { "of": "test" } }, "data": data });
    let (code, made) = ask(s, Method::POST, MAPS, body).await;
    assert_eq!(code, 201, "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_multiply_are_refused() {
    let s = server().await;
    let yaml = [
        "[".repeat(60_000),
        "{a: ".repeat(60_000),
        "- ".repeat(60_000),
        format!(
            "a: &a {}\nb: [{}]",
            "x".repeat(300_000),
            "*a, ".repeat(1_500)
        ),
    ];
    for body in yaml {
        let (code, answer) = post(&s, REVIEWS, YAML, body).await;
        assert_eq!(code, 400, "{}", answer["message"]);
    }
    // Objects that take far more than the two bytes that each has here.
    let many = format!(
        "{{\"spec\":{{\"containers\":[{}{{}}]}}}}",
        "{},".repeat(900_000)
    );
    let (code, answer) = post(&s, "/api/v1/namespaces/default/pods", JSON, many).await;
    assert_eq!(code, 400);
    let why = answer["message"].as_str().unwrap_or_default();
    assert!(
        why.contains("too many values"),
        "{}",
        &why[..why.len().min(300)]
    );
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    assert_eq!(post(&s, REVIEWS, JSON, deep).await.0, 400);
    // An honest one, with an anchor.
    let body = "metadata:\n  name: anchored\ndata: &d\n  a: b\n  c: d\n";
    assert_eq!(post(&s, MAPS, YAML, body).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_that_multiply_are_refused() {
    let s = server().await;
    map(&s, "big", json!({ "a": "x".repeat(400_000) })).await;
    let at = format!("{MAPS}/big");
    let copy = |i: usize| json!({ "op": "copy", "from": "/data/a", "path": format!("/data/b{i}") });
    let patch = Value::Array((0..2_000).map(copy).collect());
    let r = request(
        Method::PATCH,
        &at,
        "application/json-patch+json",
        patch.to_string(),
    );
    let (code, answer) = raw(&s, r).await;
    assert_eq!(code, 413, "{}", answer["message"]);
    // A large object, a large strategic patch: answered, beside the threads that serve others.
    let data: serde_json::Map<String, Value> =
        (0..20_000).map(|i| (format!("k{i}"), "v".into())).collect();
    map(&s, "many", data.clone().into()).await;
    let patch = json!({ "data": data }).to_string();
    let media = "application/strategic-merge-patch+json";
    let r = request(Method::PATCH, &format!("{MAPS}/many"), media, patch);
    assert_eq!(raw(&s, r).await.0, 200);
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    items
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect()
}

#[tokio::test]
async fn a_collection_is_deleted_page_by_page() {
    let s = server().await;
    for name in ["m1", "m2", "m3", "m4", "m5"] {
        map(&s, name, json!({})).await;
    }
    let of = format!("{MAPS}?labelSelector=of%3Dtest");
    let (code, page) = ask(&s, Method::DELETE, &format!("{of}&limit=2"), Value::Null).await;
    assert_eq!((code, names(&page)), (200, vec!["m1", "m2"]));
    let next = page["metadata"]["continue"]
        .as_str()
        .expect("more")
        .to_owned();
    let (_, left) = ask(&s, Method::GET, &of, Value::Null).await;
    assert_eq!(names(&left), ["m3", "m4", "m5"]);
    let more = format!("{of}&limit=2&continue={next}");
    let (_, page) = ask(&s, Method::DELETE, &more, Value::Null).await;
    assert_eq!(names(&page), ["m3", "m4"]);
    let (_, page) = ask(&s, Method::DELETE, &of, Value::Null).await;
    assert_eq!(names(&page), ["m5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continue_token_whose_state_is_forgotten_offers_another() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Arc::new(Embedded::open(dir.path(), Options::default()).expect("open"));
    let config = common::open_config();
    let s = ApiServer::new(config, store, CancellationToken::new())
        .await
        .expect("start");
    s.bootstrap().await.expect("first objects");
    for name in ["m1", "m2", "m3"] {
        map(&s, name, json!({})).await;
    }
    let of = format!("{MAPS}?labelSelector=of%3Dtest");
    let (_, page) = ask(&s, Method::GET, &format!("{of}&limit=1"), Value::Null).await;
    let token = page["metadata"]["continue"]
        .as_str()
        .expect("more")
        .to_owned();
    let revision = page["metadata"]["resourceVersion"].clone();
    map(&s, "m4", json!({})).await;
    // What the store does by itself when five minutes have passed.
    let newest = s.store().revision().await.expect("revision");
    s.store().compact(newest).await.expect("compacted");
    let again = format!("{of}&limit=1&continue={token}");
    let (_, refused) = ask(&s, Method::GET, &again, Value::Null).await;
    assert_eq!(
        (&refused["code"], &refused["reason"]),
        (&json!(410), &json!("Expired"))
    );
    let other = refused["metadata"]["continue"]
        .as_str()
        .expect("another token");
    let rest = format!("{of}&continue={other}");
    let (code, rest) = ask(&s, Method::GET, &rest, Value::Null).await;
    assert_eq!((code, names(&rest)), (200, vec!["m2", "m3", "m4"]));
    assert_ne!(rest["metadata"]["resourceVersion"], revision);
}

#[tokio::test]
async fn what_has_no_table_says_so() {
    let s = server().await;
    let mut r = request(Method::POST, REVIEWS, JSON, "{}");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    r.headers_mut()
        .insert("accept", table.parse().expect("value"));
    let (code, answer) = raw(&s, r).await;
    assert_eq!((code, &answer["reason"]), (406, &json!("NotAcceptable")));
}

/// Every request's state is moved a few times on its way, so it must not grow with what only some
/// requests need: that has a box of its own.
#[tokio::test]
async fn the_state_of_a_request_is_small() {
    let s = common::server().await;
    let request = request(Method::GET, "/healthz", JSON, "");
    let state = s.handle(request);
    let bytes = size_of_val(&state);
    assert!(bytes <= 7 << 10, "{bytes}");
    drop(state);
}
