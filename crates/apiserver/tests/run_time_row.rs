//! A kind that comes while the server runs, is used as any other, survives a restart, changes its
//! shape, and goes. Nothing of the server knows that it is not built in.

mod common;

use std::sync::Arc;

use apiserver::ApiServer;
use common::ships::{GROUP, install, ships, watch};
use common::{ask, get, post, raw, request};
use http::{Method, Request};
use http_body_util::Full;
use registry::Row;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const ALL: &str = "/apis/sea.example.com/v1/namespaces/default/ships";
const ARGO: &str = "/apis/sea.example.com/v1/namespaces/default/ships/argo";

async fn remove(server: &ApiServer) {
    let change = |rows: &mut Vec<Arc<Row>>| rows.retain(|r| &*r.group != GROUP);
    server.change_rows(change).await.expect("rows change");
}

fn argo() -> Value {
    json!({
        "apiVersion": "sea.example.com/v1", "kind": "Ship",
        "metadata": { "name": "argo", "labels": { "built": "argus" } },
        "spec": { "helmsman": "tiphys", "oars": [{ "name": "a", "length": 3 }] },
        "status": { "place": "a client does not say this" },
    })
}

async fn patch(server: &ApiServer, uri: &str, media: &str, body: &Value) -> (u16, Value) {
    raw(server, request(Method::PATCH, uri, media, body.to_string())).await
}

async fn accept(server: &ApiServer, uri: &str, media: &str) -> (u16, Value) {
    let r = Request::get(uri)
        .header("accept", media)
        .body(Full::default())
        .expect("request");
    raw(server, r).await
}

#[tokio::test]
async fn a_row_that_comes_is_used_and_goes() {
    let store = common::memory::Checked::new();
    let config = common::open_config;
    let stop = CancellationToken::new();
    let server = ApiServer::new(config(), store.clone(), stop.clone())
        .await
        .expect("the store is readable");
    server.bootstrap().await.expect("first objects");

    assert_eq!(get(&server, ALL).await.0, 404, "before it comes");
    install(&server, ships(&[])).await;
    verbs(&server).await;
    deletions(&server).await;
    patches(&server).await;
    selections(&server).await;
    forms(&server).await;
    documents(&server).await;

    // A restart: the objects are in the store, and there when the row is.
    stop.cancel();
    let server = ApiServer::new(config(), store, CancellationToken::new())
        .await
        .expect("the store is readable");
    assert_eq!(get(&server, ARGO).await.0, 404, "no row yet");
    install(&server, ships(&[])).await;
    let (code, found) = get(&server, ARGO).await;
    assert_eq!((code, &found["spec"]["helmsman"]), (200, &json!("ancaeus")));

    changes(&server).await;
    goes(&server).await;
}

async fn verbs(server: &ApiServer) {
    let (code, made) = post(server, ALL, argo()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made.get("status"), None, "status is a subresource");
    let (code, again) = post(server, ALL, argo()).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));

    let mut strict = argo();
    strict["spec"]["sail"] = "black".into();
    strict["metadata"]["name"] = "other".into();
    let (code, refused) = post(server, &format!("{ALL}?fieldValidation=Strict"), strict).await;
    assert_eq!(code, 400, "{refused}");
    assert!(
        refused["message"].to_string().contains("spec.sail"),
        "{refused}"
    );

    let (_, mut ship) = get(server, ARGO).await;
    ship["spec"]["helmsman"] = "erginus".into();
    let (code, put) = ask(server, Method::PUT, ARGO, ship.clone()).await;
    assert_eq!((code, &put["spec"]["helmsman"]), (200, &json!("erginus")));
    let (code, stale) = ask(server, Method::PUT, ARGO, ship).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));

    let status = json!({ "status": { "place": "lemnos" }, "spec": { "helmsman": "nobody" } });
    let (code, now) = ask(server, Method::PATCH, &format!("{ARGO}/status"), status).await;
    assert_eq!(code, 200, "{now}");
    assert_eq!(now["status"]["place"], "lemnos");
    assert_eq!(
        now["spec"]["helmsman"], "erginus",
        "a write of status keeps the spec"
    );
}

/// One object goes: at once, or when nothing holds it any more.
async fn deletions(server: &ApiServer) {
    let uri = format!("{ALL}/pelias");
    let mut pelias = argo();
    pelias["metadata"]["name"] = "pelias".into();
    let (code, made) = post(server, ALL, pelias.clone()).await;
    assert_eq!(code, 201, "{made}");
    let other = json!({ "preconditions": { "uid": "of another one" } });
    let (code, refused) = ask(server, Method::DELETE, &uri, other).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")));
    let (code, gone) = ask(server, Method::DELETE, &uri, Value::Null).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")), "{gone}");
    assert_eq!(get(server, &uri).await.0, 404);
    let (code, missing) = ask(server, Method::DELETE, &uri, Value::Null).await;
    assert_eq!((code, &missing["reason"]), (404, &json!("NotFound")));

    pelias["metadata"]["finalizers"] = json!(["sea.example.com/hold"]);
    assert_eq!(post(server, ALL, pelias).await.0, 201);
    let (code, pending) = ask(server, Method::DELETE, &uri, Value::Null).await;
    assert_eq!(code, 200, "{pending}");
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(get(server, &uri).await.0, 200, "it is held");
    let free = json!({ "metadata": { "finalizers": null } });
    assert_eq!(ask(server, Method::PATCH, &uri, free).await.0, 200);
    assert_eq!(get(server, &uri).await.0, 404);
}

async fn patches(server: &ApiServer) {
    let body = json!([{ "op": "replace", "path": "/spec/helmsman", "value": "nauplius" }]);
    let (code, now) = patch(server, ARGO, "application/json-patch+json", &body).await;
    assert_eq!((code, &now["spec"]["helmsman"]), (200, &json!("nauplius")));

    // Two managers, each with an oar of the list that is keyed by name.
    let apply = |manager: &str, oar: &str, length: i64| {
        let uri = format!("{ARGO}?fieldManager={manager}");
        let body = json!({
            "apiVersion": "sea.example.com/v1", "kind": "Ship",
            "spec": { "oars": [{ "name": oar, "length": length }] },
        });
        (uri, body)
    };
    let media = "application/apply-patch+yaml";
    for (manager, oar, length) in [("left", "b", 4), ("right", "c", 5)] {
        let (uri, body) = apply(manager, oar, length);
        let (code, now) = patch(server, &uri, media, &body).await;
        assert_eq!(code, 200, "{now}");
    }
    let (uri, body) = apply("left", "c", 9);
    let (code, conflict) = patch(server, &uri, media, &body).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    let (uri, body) = apply("left", "d", 6);
    let (_, now) = patch(server, &uri, media, &body).await;
    let oars = now["spec"]["oars"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<&str> = oars.iter().filter_map(|o| o["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["a", "c", "d"],
        "what left no longer applies is gone"
    );
}

async fn selections(server: &ApiServer) {
    let mut events = watch(
        server,
        &format!("{ALL}?watch=1&fieldSelector=spec.helmsman%3Dancaeus"),
    )
    .await;
    let (code, _) = ask(
        server,
        Method::PATCH,
        ARGO,
        json!({ "spec": { "helmsman": "ancaeus" } }),
    )
    .await;
    assert_eq!(code, 200);
    let event = events.next().await.expect("it came into the selection");
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("argo"))
    );
    let count = async |selector: &str| {
        let (code, list) = get(server, &format!("{ALL}?{selector}")).await;
        assert_eq!(code, 200, "{list}");
        list["items"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count("fieldSelector=spec.helmsman%3Dancaeus").await, 1);
    assert_eq!(count("fieldSelector=spec.helmsman%3Dtiphys").await, 0);
    assert_eq!(count("labelSelector=built%3Dargus").await, 1);
    let (code, _) = get(server, &format!("{ALL}?fieldSelector=spec.oars%3D1")).await;
    assert_eq!(code, 400, "a field that is not selectable");
}

async fn forms(server: &ApiServer) {
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, shown) = accept(server, ALL, table).await;
    assert_eq!(shown["rows"][0]["cells"], json!(["argo", "ancaeus"]));
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let (_, shown) = accept(server, ARGO, metadata).await;
    assert_eq!(shown["kind"], "PartialObjectMetadata");
    assert_eq!(shown.get("spec"), None);
    let (code, _) = accept(server, ARGO, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(code, 406, "it has no protobuf form");
}

async fn documents(server: &ApiServer) {
    let (_, found) = get(server, "/apis/sea.example.com/v1").await;
    let names: Vec<&str> = found["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| r["name"].as_str())
        .collect();
    assert_eq!(names, ["ships", "ships/status"]);
    let (_, v2) = get(server, "/openapi/v2").await;
    assert!(
        v2["paths"]
            .get(format!(
                "{}{{name}}",
                "/apis/sea.example.com/v1/namespaces/{namespace}/ships/"
            ))
            .is_some()
    );
    let helmsman = "/properties/helmsman/type";
    let spec = &v2["definitions"]["com.example.sea.v1.ShipSpec"];
    assert_eq!(spec.pointer(helmsman), Some(&json!("string")), "{spec}");
    let (_, v3) = get(server, "/openapi/v3/apis/sea.example.com/v1").await;
    let spec = &v3["components"]["schemas"]["com.example.sea.v1.ShipSpec"];
    assert_eq!(spec.pointer(helmsman), Some(&json!("string")), "{spec}");
}

/// The row is replaced by one with a further field: watches end, documents change, objects stay.
async fn changes(server: &ApiServer) {
    let hash = async || {
        let (_, index) = get(server, "/openapi/v3").await;
        index["paths"]["apis/sea.example.com/v1"]["serverRelativeURL"].clone()
    };
    let before = hash().await;
    let mut events = watch(server, &format!("{ALL}?watch=1")).await;
    let first = events.next().await.expect("the object");
    assert_eq!(first["object"]["metadata"]["name"], "argo");
    install(server, ships(&["sail"])).await;
    assert!(events.next().await.is_none(), "the watch has ended");
    assert_ne!(hash().await, before);
    let (code, now) = ask(
        server,
        Method::PATCH,
        &format!("{ARGO}?fieldValidation=Strict"),
        json!({ "spec": { "sail": "black" } }),
    )
    .await;
    assert_eq!((code, &now["spec"]["sail"]), (200, &json!("black")));
}

async fn goes(server: &ApiServer) {
    let mut events = watch(server, &format!("{ALL}?watch=1")).await;
    events.next().await.expect("the object");
    let (code, gone) = ask(server, Method::DELETE, ALL, Value::Null).await;
    assert_eq!(code, 200, "{gone}");
    let event = events.next().await.expect("its end");
    assert_eq!(event["type"], "DELETED");
    assert_eq!(get(server, ARGO).await.0, 404);
    remove(server).await;
    assert!(events.next().await.is_none(), "the watch has ended");
    assert_eq!(get(server, ALL).await.0, 404);
    assert_eq!(get(server, "/apis/sea.example.com/v1").await.0, 404);
    let (_, v2) = get(server, "/openapi/v2").await;
    assert!(
        v2["definitions"]
            .get("com.example.sea.v1.ShipSpec")
            .is_none()
    );
}
