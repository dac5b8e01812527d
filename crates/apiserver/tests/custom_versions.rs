//! Custom kinds whose versions differ: each has its own schema, columns, subresources and selectable
//! fields; and a schema that changes says what objects of before are read as.

mod common;

use std::time::Duration;

use apiserver::ApiServer;
use common::ships::watch;
use common::{ask, get, post, raw, request, server};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/boats.sea.example.com";

fn path(version: &str) -> String {
    format!("/apis/sea.example.com/{version}/namespaces/default/boats")
}

fn version(name: &str, storage: bool, spec: &Value) -> Value {
    json!({
        "name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": spec},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}},
    })
}

fn definition(versions: &[Value]) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {
            "group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"}, "versions": versions,
        },
    })
}

/// Asks until the answer is as wanted.
async fn until(server: &ApiServer, uri: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let mut last = (0, Value::Null);
    for _ in 0..3000 {
        last = get(server, uri).await;
        if wanted(last.0, &last.1) {
            return last.1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{uri}: {last:?}");
}

async fn install(server: &ApiServer, versions: &[Value]) {
    let (code, made) = post(server, CRDS, definition(versions)).await;
    assert_eq!(code, 201, "{made}");
    // It is served before its status says so; from then on nobody but this test writes it.
    until(server, CRD, |_, crd| is_established(crd)).await;
    assert_eq!(get(server, &path("v1")).await.0, 200);
}

fn is_established(crd: &Value) -> bool {
    let all = crd["status"]["conditions"].as_array();
    let mut all = all.into_iter().flatten();
    all.any(|c| c["type"] == "Established" && c["status"] == "True")
}

fn boat(version: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("sea.example.com/{version}"), "kind": "Boat",
        "metadata": {"name": name}, "spec": spec,
    })
}

async fn table(server: &ApiServer, uri: &str) -> Value {
    let request = Request::builder()
        .uri(uri)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Full::default())
        .expect("request");
    raw(server, request).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_has_its_own_parts() {
    let server = server().await;
    let oars = json!({"oars": {"type": "integer"}, "sail": {"type": "string"}});
    let mut v1 = version("v1", true, &oars);
    v1["deprecated"] = true.into();
    v1["additionalPrinterColumns"] = json!([
        {"name": "Oars", "type": "integer", "jsonPath": ".spec.oars"},
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
    ]);
    v1["selectableFields"] = json!([{"jsonPath": ".spec.sail"}]);
    let sail = json!({"sail": {"type": "string", "enum": ["white", "black"]}, "oars": {"type": "integer", "default": 4}});
    let mut v2 = version("v2", false, &sail);
    v2["schema"]["openAPIV3Schema"]["properties"]["spec"]["required"] = json!(["sail"]);
    v2["subresources"] = json!({"status": {}, "scale": {
        "specReplicasPath": ".spec.oars", "statusReplicasPath": ".status.oars"}});
    install(&server, &[v1, v2]).await;

    // Schemas judge the version of the request.
    let (code, refused) = post(
        &server,
        &path("v2"),
        boat("v2", "argo", &json!({"oars": 2})),
    )
    .await;
    assert_eq!(code, 422, "{refused}");
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|m| m.contains("spec.sail: Required value")),
        "{refused}"
    );
    let made = boat("v1", "argo", &json!({"oars": 2, "sail": "red"}));
    let mut made = made;
    made["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let (code, made) = post(&server, &path("v1"), made).await;
    assert_eq!(code, 201, "{made}");
    assert!(
        made["status"].is_object(),
        "v1 has no subresource of status"
    );

    // Columns.
    let shown = table(&server, &format!("{}/argo", path("v1"))).await;
    let names: Vec<&Value> = shown["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["Name", "Oars", "Ready"], "{shown}");
    assert_eq!(shown["rows"][0]["cells"], json!(["argo", 2, "True"]));
    let shown = table(&server, &path("v2")).await;
    assert_eq!(shown["columnDefinitions"][1]["name"], "Age", "{shown}");
    assert_eq!(shown["rows"][0]["cells"][0], "argo");

    // Subresources.
    let named = |version: &str, sub: &str| format!("{}/argo/{sub}", path(version));
    for (version, sub, code) in [
        ("v1", "status", 404),
        ("v1", "scale", 404),
        ("v2", "status", 200),
        ("v2", "scale", 200),
    ] {
        let (have, answer) = get(&server, &named(version, sub)).await;
        assert_eq!(have, code, "{version} {sub}: {answer}");
    }
    let (_, scale) = get(&server, &named("v2", "scale")).await;
    assert_eq!(scale["spec"]["replicas"], 2);
    let (_, resources) = get(&server, "/apis/sea.example.com/v1").await;
    assert_eq!(resources["resources"].as_array().map(Vec::len), Some(1));
    let (_, resources) = get(&server, "/apis/sea.example.com/v2").await;
    assert_eq!(resources["resources"].as_array().map(Vec::len), Some(3));

    // Selectable fields.
    let selector = "?fieldSelector=spec.sail%3Dred";
    let (code, list) = get(&server, &format!("{}{selector}", path("v1"))).await;
    assert_eq!(
        (code, &list["items"][0]["metadata"]["name"]),
        (200, &json!("argo"))
    );
    let (code, refused) = get(&server, &format!("{}{selector}", path("v2"))).await;
    assert_eq!(code, 400, "{refused}");

    // Deprecated versions say so.
    let asked = request(Method::GET, &path("v1"), common::JSON, "");
    let response = common::send(&server, asked).await;
    let warning = response.headers().get("warning").cloned();
    response.into_body().collect().await.expect("body");
    assert_eq!(
        warning.as_ref().and_then(|w| w.to_str().ok()),
        Some("299 - \"sea.example.com/v1 Boat is deprecated; use sea.example.com/v2 Boat\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_type_is_the_schemas_business() {
    let server = server().await;
    let spec = json!({
        "oars": {"type": "integer"}, "name": {"type": "string", "nullable": true},
        "list": {"type": "array", "items": {"type": "string"}},
        "port": {"x-kubernetes-int-or-string": true},
        "plain": {"type": "string"},
    });
    install(&server, &[version("v1", true, &spec)]).await;
    let wrong = json!({"oars": "many", "list": {"a": 1}, "port": [1]});
    let (code, refused) = post(&server, &path("v1"), boat("v1", "argo", &wrong)).await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().unwrap_or_default();
    for want in [
        "spec.oars: Invalid value: \"string\": spec.oars in body must be of type integer: \"string\"",
        "spec.list: Invalid value: \"object\": spec.list in body must be of type array: \"object\"",
        "spec.port: Invalid value: \"array\": spec.port in body must be of type integer,string: \"array\"",
    ] {
        assert!(message.contains(want), "{want}\n{message}");
    }
    let nulls = json!({"oars": 2, "name": null, "plain": null});
    let (code, made) = post(&server, &path("v1"), boat("v1", "argo", &nulls)).await;
    assert_eq!(
        (code, &made["spec"]),
        (201, &json!({"oars": 2, "name": null}))
    );
    let uri = format!("{}/argo", path("v1"));
    let (code, refused) = ask(&server, Method::PATCH, &uri, json!({"spec": {"oars": "x"}})).await;
    assert_eq!(code, 422, "{refused}");
    // What every object has is checked as in built-in kinds.
    let mut odd = boat("v1", "odd", &json!({}));
    odd["metadata"]["labels"] = json!({"a": 1});
    let (code, refused) = post(&server, &path("v1"), odd).await;
    assert_eq!(code, 400, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn null_that_is_applied_keeps_a_default_away() {
    let server = server().await;
    let spec = json!({"name": {"type": "string", "nullable": true, "default": "argo"}});
    install(&server, &[version("v1", true, &spec)]).await;
    let uri = format!("{}/a?fieldManager=me", path("v1"));
    let apply = |spec: Value| {
        let body = boat("v1", "a", &spec).to_string();
        let media = "application/apply-patch+yaml";
        raw(&server, request(Method::PATCH, &uri, media, body))
    };
    let (code, made) = apply(json!({})).await;
    assert_eq!((code, &made["spec"]), (201, &json!({"name": "argo"})));
    let (code, null) = apply(json!({"name": null})).await;
    assert_eq!((code, &null["spec"]), (200, &json!({"name": null})));
    let (code, again) = apply(json!({"name": null})).await;
    assert_eq!((code, again), (200, null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_applies_to_what_is_stored() {
    let server = server().await;
    let spec = json!({"oars": {"type": "integer"}, "old": {"type": "string"}});
    install(&server, &[version("v1", true, &spec)]).await;
    let made = boat("v1", "argo", &json!({"oars": 2, "old": "x"}));
    let (code, made) = post(&server, &path("v1"), made).await;
    assert_eq!(code, 201, "{made}");

    let (_, mut crd) = get(&server, CRD).await;
    let new = json!({"oars": {"type": "integer"}, "sail": {"type": "string", "default": "white"}});
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
        new;
    crd["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.sail"}]);
    let (code, put) = ask(&server, Method::PUT, CRD, crd).await;
    assert_eq!(code, 200, "{put}");
    let uri = format!("{}/argo", path("v1"));
    let want = json!({"oars": 2, "sail": "white"});
    let read = until(&server, &uri, |_, boat| boat["spec"] == want).await;
    assert_eq!(
        read["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"],
        "nothing was written"
    );
    let selected = format!("{}?fieldSelector=spec.sail%3Dwhite", path("v1"));
    let (_, list) = get(&server, &selected).await;
    assert_eq!(list["items"][0]["spec"], want);
    let mut events = watch(&server, &format!("{}?watch=1", path("v1"))).await;
    let event = events.next().await.expect("an event");
    assert_eq!(event["object"]["spec"], want);
    // A write without a change stores what is read.
    let (code, put) = ask(&server, Method::PUT, &uri, read.clone()).await;
    assert_eq!(code, 200, "{put}");
    assert_ne!(
        read["metadata"]["resourceVersion"],
        put["metadata"]["resourceVersion"]
    );
    let (_, put_again) = ask(&server, Method::PUT, &uri, put.clone()).await;
    assert_eq!(put_again, put);

    // Another version of storage: what lies there is read in it.
    let (_, mut crd) = get(&server, CRD).await;
    crd["spec"]["versions"][0]["storage"] = false.into();
    let mut v2 = crd["spec"]["versions"][0].clone();
    v2["name"] = "v2".into();
    v2["storage"] = true.into();
    crd["spec"]["versions"]
        .as_array_mut()
        .expect("versions")
        .push(v2);
    let (code, put) = ask(&server, Method::PUT, CRD, crd).await;
    assert_eq!(code, 200, "{put}");
    for version in ["v2", "v1"] {
        let uri = format!("{}/argo", path(version));
        let read = until(&server, &uri, |code, _| code == 200).await;
        assert_eq!(read["apiVersion"], format!("sea.example.com/{version}"));
        assert_eq!(read["spec"], want);
    }
}
