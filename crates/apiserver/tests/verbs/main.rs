//! The verbs, for plain kinds, through the whole pipeline.

#[path = "../common/mod.rs"]
mod common;
mod patches;

use common::{ask, get, post, raw, request, send, server};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

/// Method, path, content type, body; then code, reason and a part of the message.
type Case = (
    Method,
    &'static str,
    &'static str,
    Vec<u8>,
    u16,
    &'static str,
    &'static str,
);

fn cm(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": "b" } })
}

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let s = server().await;
    let (code, made) = post(&s, CMS, cm("one")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(
        made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string()
    );
    let (code, read) = get(&s, &format!("{CMS}/one")).await;
    assert_eq!((code, &read), (200, &made));

    let (code, again) = post(&s, CMS, cm("one")).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again["message"], "configmaps \"one\" already exists");

    let mut changed = made.clone();
    changed["data"]["a"] = "c".into();
    let (code, put) = ask(&s, Method::PUT, &format!("{CMS}/one"), changed.clone()).await;
    assert_eq!(code, 200, "{put}");
    assert_ne!(
        put["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let (code, stale) = ask(&s, Method::PUT, &format!("{CMS}/one"), changed).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));

    let (code, same) = ask(&s, Method::PUT, &format!("{CMS}/one"), put.clone()).await;
    assert_eq!(code, 200);
    assert_eq!(
        same["metadata"]["resourceVersion"],
        put["metadata"]["resourceVersion"]
    );

    let (code, patched) = ask(
        &s,
        Method::PATCH,
        &format!("{CMS}/one"),
        json!({ "data": { "x": "y" } }),
    )
    .await;
    assert_eq!(
        (code, &patched["data"]["x"]),
        (200, &json!("y")),
        "{patched}"
    );

    let (code, gone) = ask(&s, Method::DELETE, &format!("{CMS}/one"), Value::Null).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")));
    let (code, missing) = get(&s, &format!("{CMS}/one")).await;
    assert_eq!((code, &missing["reason"]), (404, &json!("NotFound")));
    assert_eq!(missing["message"], "configmaps \"one\" not found");
}

#[tokio::test]
async fn bad_input_is_refused_and_nothing_is_written() {
    let s = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    let cases: Vec<Case> = vec![
        (Method::POST, CMS, common::JSON, b"{".to_vec(), 400, "BadRequest", "couldn't get version/kind"),
        (Method::POST, CMS, "application/yaml", b"a: [".to_vec(), 400, "BadRequest", "error converting YAML to JSON"),
        (Method::POST, CMS, "text/csv", b"x".to_vec(), 415, "UnsupportedMediaType", "unknown format"),
        (Method::POST, CMS, common::JSON, cm("Bad_Name").to_string().into(), 422, "Invalid", "metadata.name: Invalid value: \"Bad_Name\""),
        (Method::POST, CMS, common::JSON, json!({ "apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": { "name": "x" } }).to_string().into(), 400, "BadRequest", "the API version in the data (apps/v1) does not match the expected API version (v1)"),
        (Method::POST, CMS, common::JSON, json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x", "namespace": "other" } }).to_string().into(), 400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"),
        (Method::POST, CMS, common::JSON, json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "x" } }).to_string().into(), 400, "BadRequest", "cannot be handled as a ConfigMap"),
        (Method::POST, CMS, common::JSON, json!({ "apiVersion": "v1", "kind": "ConfigMap" }).to_string().into(), 422, "Invalid", "name or generateName is required"),
        (Method::POST, CMS, common::JSON, json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "x", "labels": { "a b": "c" } } }).to_string().into(), 422, "Invalid", "metadata.labels"),
        (Method::POST, CMS, common::JSON, json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "x", "labels": 7 } }).to_string().into(), 400, "BadRequest", "cannot unmarshal"),
        (Method::POST, "/api/v1/namespaces/default/configmaps?fieldValidation=Strict", common::JSON, json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "x" }, "foo": 1 }).to_string().into(), 400, "BadRequest", "strict decoding error: unknown field \"foo\""),
        (Method::POST, "/api/v1/namespaces/default/configmaps?dryRun=Some", common::JSON, cm("x").to_string().into(), 422, "Invalid", "dryRun: Unsupported value"),
        (Method::PUT, "/api/v1/namespaces/default/configmaps/y", common::JSON, cm("x").to_string().into(), 400, "BadRequest", "the name of the object (x) does not match the name on the URL (y)"),
        (Method::GET, "/api/v1/namespaces/default/frobs", common::JSON, vec![], 404, "NotFound", "the server could not find the requested resource"),
        (Method::GET, "/apis/apps/v9/deployments", common::JSON, vec![], 404, "NotFound", "could not find"),
        (Method::POST, "/api/v1/configmaps", common::JSON, cm("x").to_string().into(), 404, "NotFound", "could not find"),
        (Method::DELETE, "/api/v1/namespaces", common::JSON, vec![], 405, "MethodNotAllowed", "does not allow this method"),
        (Method::GET, "/api/v1/pods?labelSelector=a%20b", common::JSON, vec![], 400, "BadRequest", "unable to parse requirement"),
        (Method::GET, "/api/v1/configmaps?fieldSelector=data.x%3D1", common::JSON, vec![], 400, "BadRequest", "is not a known field selector"),
        (Method::GET, "/api/v1/pods?continue=xyz", common::JSON, vec![], 400, "BadRequest", "continue key is not valid"),
        (Method::GET, "/api/v1/pods?resourceVersion=abc", common::JSON, vec![], 400, "BadRequest", "resourceVersion"),
        (Method::GET, "/api/v1/pods?resourceVersionMatch=Exact", common::JSON, vec![], 422, "Invalid", "resourceVersionMatch is forbidden unless resourceVersion is provided"),
        (Method::PATCH, "/api/v1/namespaces/default/configmaps/x", common::JSON, b"{}".to_vec(), 415, "UnsupportedMediaType", "application/merge-patch+json"),
        (Method::POST, pods, common::JSON, vec![b' '; 3 * 1024 * 1024 + 1], 413, "RequestEntityTooLarge", "limit is 3145728"),
    ];
    // Without the list's own revision: the server may be writing something else.
    let stored = async || get(&s, "/api/v1/configmaps").await.1["items"].clone();
    let before = stored().await;
    assert!(before.is_array(), "{before}");
    for (method, uri, content_type, body, code, reason, text) in cases {
        let what = format!(
            "{method} {uri} {}",
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
        let (got, status) = raw(&s, request(method, uri, content_type, body)).await;
        assert_eq!(
            (got, &status["reason"]),
            (code, &json!(reason)),
            "{what}: {status}"
        );
        let message = status["message"].as_str().unwrap_or_default();
        assert!(message.contains(text), "{what}: {message}");
        assert_eq!(
            (&status["kind"], &status["status"]),
            (&json!("Status"), &json!("Failure"))
        );
    }
    assert_eq!(stored().await, before);
}

#[tokio::test]
async fn lists_are_selected_and_paged_at_one_revision() {
    let s = server().await;
    for i in 0..7 {
        let mut c = cm(&format!("c{i}"));
        c["metadata"]["labels"] = json!({ "even": (i % 2 == 0).to_string() });
        assert_eq!(post(&s, CMS, c).await.0, 201);
    }
    let (_, some) = get(&s, &format!("{CMS}?labelSelector=even%3Dtrue,even")).await;
    assert_eq!(some["items"].as_array().map(Vec::len), Some(4));
    assert_eq!(
        (&some["kind"], &some["apiVersion"]),
        (&json!("ConfigMapList"), &json!("v1"))
    );
    assert!(some["items"][0].get("kind").is_none());
    let (_, one) = get(&s, &format!("{CMS}?fieldSelector=metadata.name%3Dc3")).await;
    assert_eq!(one["items"].as_array().map(Vec::len), Some(1));

    let (_, page) = get(&s, &format!("{CMS}?limit=3")).await;
    assert_eq!(page["metadata"]["remainingItemCount"], 4);
    let token = page["metadata"]["continue"]
        .as_str()
        .expect("more")
        .to_owned();
    ask(&s, Method::DELETE, &format!("{CMS}/c6"), Value::Null).await;
    post(&s, CMS, cm("c4a")).await;
    let (code, rest) = get(&s, &format!("{CMS}?limit=10&continue={token}")).await;
    assert_eq!(code, 200, "{rest}");
    let names: Vec<&str> = rest["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, ["c3", "c4", "c5", "c6"]);
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        page["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn a_watch_sees_changes_of_its_selection() {
    let s = server().await;
    let (_, list) = get(&s, CMS).await;
    let rv = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("revision")
        .to_owned();
    let uri = format!("{CMS}?watch=1&labelSelector=on&resourceVersion={rv}");
    let response = send(&s, request(Method::GET, &uri, common::JSON, "")).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    post(&s, CMS, cm("w")).await;
    let at = format!("{CMS}/w");
    for labels in [
        json!({ "on": "1" }),
        json!({ "on": "2" }),
        json!({ "on": null }),
        json!({ "on": "3" }),
    ] {
        ask(
            &s,
            Method::PATCH,
            &at,
            json!({ "metadata": { "labels": labels } }),
        )
        .await;
    }
    ask(&s, Method::DELETE, &at, Value::Null).await;
    let mut text = Vec::new();
    while text.iter().filter(|b| **b == b'\n').count() < 5 {
        let frame = body.frame().await.expect("more").expect("frame");
        text.extend_from_slice(&frame.into_data().expect("data"));
    }
    let events: Vec<Value> = text
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).expect("json"))
        .collect();
    let words: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    assert_eq!(words, ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]);
    assert_eq!(events[2]["object"]["metadata"]["labels"]["on"], "2");
    let rv = |i: usize| {
        events[i]["object"]["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|r| r.parse::<u64>().ok())
    };
    assert!(rv(2) > rv(1) && rv(4) > rv(3));
}

#[tokio::test]
async fn a_bookmark_shows_what_others_changed_meanwhile() {
    let s = server().await;
    // Nothing has this label: no event wakes the watch.
    let uri = format!(
        "{CMS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&labelSelector=on%3Dnothing&timeoutSeconds=100"
    );
    let response = send(&s, request(Method::GET, &uri, common::JSON, "")).await;
    let sent = tokio::spawn(response.into_body().collect());
    // It waits before the other object is made.
    tokio::task::yield_now().await;
    let (_, made) = post(&s, CMS, cm("other")).await;
    // From here to the bookmark and the end at once.
    tokio::time::pause();
    let text = sent.await.expect("no panic").expect("clean end").to_bytes();
    let bookmark: Value = serde_json::from_slice(&text).expect("one event");
    assert_eq!(bookmark["type"], "BOOKMARK");
    let revision = |object: &Value| {
        let text = object["metadata"]["resourceVersion"].as_str();
        text.and_then(|t| t.parse::<u64>().ok())
            .expect("a revision")
    };
    assert!(
        revision(&bookmark["object"]) >= revision(&made),
        "{bookmark}"
    );
}

#[tokio::test]
async fn a_streaming_list_ends_its_initial_events_with_a_bookmark() {
    let s = server().await;
    post(&s, CMS, cm("w")).await;
    let uri = format!(
        "{CMS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"
    );
    let response = send(&s, request(Method::GET, &uri, common::JSON, "")).await;
    let text = response
        .into_body()
        .collect()
        .await
        .expect("clean end")
        .to_bytes();
    let events: Vec<Value> = text
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).expect("json"))
        .collect();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[1]["type"], "BOOKMARK");
    assert_eq!(
        events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn finalizers_and_preconditions_hold_a_deletion() {
    let s = server().await;
    let mut c = cm("held");
    c["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let (_, made) = post(&s, CMS, c).await;
    let at = format!("{CMS}/held");
    let wrong =
        json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": "other" } });
    let (code, refused) = ask(&s, Method::DELETE, &at, wrong).await;
    assert_eq!(
        (code, &refused["reason"]),
        (409, &json!("Conflict")),
        "{refused}"
    );
    let (code, pending) = ask(&s, Method::DELETE, &at, Value::Null).await;
    assert_eq!(code, 200);
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    let (code, _) = ask(
        &s,
        Method::PATCH,
        &at,
        json!({ "metadata": { "finalizers": ["example.com/hold", "example.com/new"] } }),
    )
    .await;
    assert_eq!(code, 422);
    let (code, last) = ask(
        &s,
        Method::PATCH,
        &at,
        json!({ "metadata": { "finalizers": null } }),
    )
    .await;
    assert_eq!(
        (code, &last["metadata"]["uid"]),
        (200, &made["metadata"]["uid"])
    );
    assert_eq!(get(&s, &at).await.0, 404);
}

#[tokio::test]
async fn other_forms_are_negotiated() {
    let s = server().await;
    post(&s, CMS, cm("t")).await;
    let table = |uri: &str| {
        let mut r = request(Method::GET, uri, common::JSON, "");
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        r.headers_mut()
            .insert("accept", accept.parse().expect("header"));
        r
    };
    let (_, t) = raw(&s, table(CMS)).await;
    assert_eq!(t["kind"], "Table");
    assert_eq!(t["rows"].as_array().map(Vec::len), Some(1), "{t}");
    assert_eq!(t["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let (_, one) = raw(&s, table(&format!("{CMS}/t"))).await;
    assert_eq!(one["rows"][0]["cells"][0], "t");
    let mut r = request(Method::GET, CMS, common::JSON, "");
    r.headers_mut()
        .insert("accept", "text/html".parse().expect("header"));
    assert_eq!(raw(&s, r).await.0, 406);
}

#[tokio::test]
async fn labels_of_slices_of_endpoints_count() {
    let s = server().await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({ "metadata": { "name": "a" }, "addressType": "IPv4",
        "endpoints": [{ "addresses": ["192.0.2.7"], "deprecatedTopology": { "a": "b" } }],
        "ports": [{ "port": 70_000 }] });
    let (code, made) = post(&s, slices, slice).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["endpoints"][0].get("deprecatedTopology").is_none());
    let path = format!("{slices}/a");
    for (patch, generation) in [
        (json!({ "metadata": { "annotations": { "a": "b" } } }), 1),
        (json!({ "metadata": { "labels": { "a": "b" } } }), 2),
        (json!({ "ports": [] }), 3),
    ] {
        let (code, changed) = ask(&s, Method::PATCH, &path, patch).await;
        assert_eq!(code, 200, "{changed}");
        assert_eq!(changed["metadata"]["generation"], generation, "{changed}");
    }
}
