//! CustomResourceDefinitions from their creation to their end: kinds that come, are used as any
//! other, change, conflict, survive a restart, and go with their objects.

mod common;

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use bytes::Bytes;
use common::{ask, get, post, raw, request, server};
use http::Method;
use serde_json::{Value, json};
use store::{Embedded, Op, Options, Outcome, Store, Txn};
use tokio_util::sync::CancellationToken;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ships.sea.example.com";
const SHIPS: &str = "/apis/sea.example.com/v1/namespaces/default/ships";
const ARGO: &str = "/apis/sea.example.com/v1/namespaces/default/ships/argo";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ships.sea.example.com"},
        "spec": {
            "group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "ships", "kind": "Ship", "shortNames": ["sh"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object", "required": ["helmsman"],
                            "properties": {
                                "helmsman": {"type": "string", "maxLength": 20},
                                "crew": {"type": "object", "properties": {"wanted": {"type": "integer"}}},
                                "sail": {"type": "string", "default": "white", "enum": ["white", "black"]},
                                "oars": {
                                    "type": "array", "maxItems": 50,
                                    "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                                    "items": {
                                        "type": "object", "required": ["name"],
                                        "properties": {"name": {"type": "string", "maxLength": 20}, "length": {"type": "integer"}},
                                    },
                                },
                            },
                            "x-kubernetes-validations": [
                                {"rule": "!has(self.oars) || self.oars.all(o, !has(o.length) || o.length > 0)", "message": "oars have a length"},
                                {"rule": "self.helmsman == oldSelf.helmsman || oldSelf.helmsman == 'tiphys'", "reason": "FieldValueForbidden", "fieldPath": ".helmsman"},
                            ],
                        },
                        "status": {"type": "object", "properties": {
                            "place": {"type": "string"}, "crew": {"type": "integer"}, "selector": {"type": "string"},
                        }},
                    },
                }},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.crew.wanted", "statusReplicasPath": ".status.crew",
                    "labelSelectorPath": ".status.selector",
                }},
                "additionalPrinterColumns": [{"name": "Helmsman", "type": "string", "jsonPath": ".spec.helmsman"}],
                "selectableFields": [{"jsonPath": ".spec.sail"}],
            }],
        },
    })
}

fn argo() -> Value {
    json!({
        "apiVersion": "sea.example.com/v1", "kind": "Ship", "metadata": {"name": "argo"},
        "spec": {"helmsman": "tiphys", "oars": [{"name": "a", "length": 3}], "anchor": "stone"},
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

fn condition<'a>(crd: &'a Value, ty: &str) -> &'a Value {
    let all = crd["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == ty);
    found.unwrap_or(&Value::Null)
}

async fn install(server: &ApiServer) {
    let (code, made) = post(server, CRDS, definition()).await;
    assert_eq!(code, 201, "{made}");
    until(server, CRD, |_, crd| {
        condition(crd, "Established")["status"] == "True"
    })
    .await;
    assert_eq!(get(server, SHIPS).await.0, 200, "established means served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_kind_lives() {
    let server = server().await;
    assert_eq!(get(&server, SHIPS).await.0, 404);
    install(&server).await;
    let (_, crd) = get(&server, CRD).await;
    assert_eq!(condition(&crd, "NamesAccepted")["reason"], "NoConflicts");
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "ShipList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));

    let (code, made) = post(&server, SHIPS, argo()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["sail"], "white", "defaulted");
    assert_eq!(made["spec"].get("anchor"), None, "pruned");
    assert_eq!(made["metadata"]["generation"], 1);

    let mut wrong = argo();
    wrong["metadata"]["name"] = "other".into();
    wrong["spec"] = json!({"sail": "red"});
    let (code, refused) = post(&server, SHIPS, wrong).await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(
        message.contains(
            "spec.sail: Unsupported value: \"red\": supported values: \"white\", \"black\""
        ),
        "{message}"
    );
    assert!(
        message.contains("spec.helmsman: Required value"),
        "{message}"
    );
    assert!(
        message.contains("some validation rules were not checked"),
        "{message}"
    );

    let (_, mut ship) = get(&server, ARGO).await;
    ship["spec"]["oars"][0]["length"] = (-1).into();
    let (code, refused) = ask(&server, Method::PUT, ARGO, ship.clone()).await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(
        refused["details"]["causes"][0]["message"],
        "Invalid value: oars have a length"
    );
    ship["spec"]["oars"][0]["length"] = 4.into();
    ship["spec"]["helmsman"] = "ancaeus".into();
    let (code, put) = ask(&server, Method::PUT, ARGO, ship.clone()).await;
    assert_eq!(
        (code, &put["metadata"]["generation"]),
        (200, &json!(2)),
        "{put}"
    );
    ship = put;
    ship["spec"]["helmsman"] = "erginus".into();
    let (code, refused) = ask(&server, Method::PUT, ARGO, ship).await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.helmsman");
    assert_eq!(
        refused["details"]["causes"][0]["reason"],
        "FieldValueForbidden"
    );

    // The labels of a custom object are nothing of its status.
    let mut status = json!({"status": {"place": "lemnos", "crew": 3, "selector": "on=argo"}});
    status["metadata"] = json!({"labels": {"by": "status"}});
    let (code, now) = ask(&server, Method::PATCH, &format!("{ARGO}/status"), status).await;
    assert_eq!(
        (code, &now["status"]["place"]),
        (200, &json!("lemnos")),
        "{now}"
    );
    assert_eq!(now["metadata"]["labels"]["by"], json!(null), "{now}");
    let scale = format!("{ARGO}/scale");
    // Nobody has said yet how many.
    for (method, wanted) in [
        (
            Method::GET,
            (
                500,
                "Internal error occurred: the spec replicas field \".spec.crew.wanted\" does not exist",
            ),
        ),
        (
            Method::PATCH,
            (
                400,
                "the spec replicas field \".spec.crew.wanted\" cannot be empty",
            ),
        ),
    ] {
        let body = if method == Method::GET {
            Value::Null
        } else {
            json!({"spec": {}})
        };
        let (code, said) = ask(&server, method, &scale, body).await;
        assert_eq!((code, said["message"].as_str().unwrap_or_default()), wanted);
    }
    let (code, now) = ask(
        &server,
        Method::PATCH,
        &scale,
        json!({"spec": {"replicas": 50}}),
    )
    .await;
    assert_eq!((code, &now["spec"]["replicas"]), (200, &json!(50)), "{now}");
    assert_eq!(now["status"], json!({"replicas": 3, "selector": "on=argo"}));
    let (_, ship) = get(&server, ARGO).await;
    assert_eq!(ship["spec"]["crew"]["wanted"], 50);
    let (code, refused) = ask(
        &server,
        Method::PATCH,
        &scale,
        json!({"spec": {"replicas": -1}}),
    )
    .await;
    assert_eq!(code, 422, "{refused}");
    let body = json!({
        "apiVersion": "sea.example.com/v1", "kind": "Ship",
        "spec": {"helmsman": "ancaeus", "oars": [{"name": "b", "length": 5}]},
    });
    let apply = request(
        Method::PATCH,
        &format!("{ARGO}?fieldManager=crew&force=true"),
        "application/apply-patch+yaml",
        body.to_string(),
    );
    let (code, applied) = raw(&server, apply).await;
    assert_eq!(code, 200, "{applied}");
    assert_eq!(
        applied["spec"]["oars"].as_array().map(Vec::len),
        Some(2),
        "lists have keys"
    );
    let (_, list) = get(&server, &format!("{SHIPS}?fieldSelector=spec.sail%3Dwhite")).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));

    let (_, document) = get(&server, "/openapi/v3/apis/sea.example.com/v1").await;
    let schemas = &document["components"]["schemas"];
    let ship = &schemas["com.example.sea.v1.Ship"];
    assert_eq!(ship["properties"]["spec"]["required"], json!(["helmsman"]));
    assert_eq!(
        ship["properties"]["spec"]["properties"]["sail"]["enum"],
        json!(["white", "black"])
    );
    assert!(schemas["com.example.sea.v1.ShipList"].is_object());
    assert!(schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
    let (_, document) = get(&server, "/openapi/v2").await;
    let ship = &document["definitions"]["com.example.sea.v1.Ship"];
    assert_eq!(
        ship["properties"]["spec"]["properties"]["oars"]["x-kubernetes-list-type"],
        "map"
    );

    // It goes: its objects first.
    let (code, gone) = ask(&server, Method::DELETE, CRD, Value::Null).await;
    assert_eq!(code, 200, "{gone}");
    until(&server, CRD, |code, _| code == 404).await;
    until(&server, SHIPS, |code, _| code == 404).await;
    install(&server).await;
    let (_, list) = get(&server, SHIPS).await;
    assert_eq!(list["items"], json!([]), "nothing of before is left");
}

/// A second definition that goes says when the first was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn one_stays_while_an_object_of_its_kind_cannot_be_read() {
    const STORED: &str = "/registry/sea.example.com/ships/default/argo";
    const OTHER: &str =
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/zones.sea.example.com";
    let dir = tempfile::tempdir().expect("folder");
    let store = Arc::new(Embedded::open(dir.path(), Options::default()).expect("store"));
    let config = common::open_config();
    let server = ApiServer::new(config, store.clone(), CancellationToken::new())
        .await
        .expect("the store is readable");
    server.bootstrap().await.expect("first objects");
    install(&server).await;
    let (code, made) = post(&server, SHIPS, argo()).await;
    assert_eq!(code, 201, "{made}");
    let mut other = definition();
    other["metadata"]["name"] = "zones.sea.example.com".into();
    other["spec"]["names"] = json!({ "plural": "zones", "kind": "Zone" });
    let (code, made) = post(&server, CRDS, other).await;
    assert_eq!(code, 201, "{made}");
    until(&server, OTHER, |_, crd| {
        condition(crd, "Established")["status"] == "True"
    })
    .await;

    let put = async |value: Bytes| {
        let op = Op::Put {
            key: STORED.into(),
            value,
            expires_after_seconds: None,
        };
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![op],
        };
        let done = store.commit(txn).await.expect("written");
        assert!(matches!(done, Outcome::Committed(_)));
    };
    let found = store.get(STORED.into(), 0).await.expect("get");
    let good = found.expect("it is stored").value;
    put("?".into()).await;
    for crd in [CRD, OTHER] {
        let (code, gone) = ask(&server, Method::DELETE, crd, Value::Null).await;
        assert_eq!(code, 200, "{gone}");
    }
    until(&server, OTHER, |code, _| code == 404).await;
    let (code, crd) = get(&server, CRD).await;
    assert_eq!(code, 200, "{crd}");
    put(good).await;
    until(&server, CRD, |code, _| code == 404).await;
    let left = store.get(STORED.into(), 0).await.expect("get");
    assert!(left.is_none(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_conflict_change_and_last() {
    let store = common::memory::Checked::new();
    let config = common::open_config;
    let stop = CancellationToken::new();
    let server = ApiServer::new(config(), store.clone(), stop.clone())
        .await
        .expect("the store is readable");
    server.bootstrap().await.expect("first objects");
    install(&server).await;

    let mut boats = definition();
    boats["metadata"]["name"] = "boats.sea.example.com".into();
    boats["spec"]["names"]["plural"] = "boats".into();
    let (code, made) = post(&server, CRDS, boats).await;
    assert_eq!(code, 201, "{made}");
    let uri = format!("{CRDS}/boats.sea.example.com");
    let crd = until(&server, &uri, |_, c| {
        !condition(c, "NamesAccepted").is_null()
    })
    .await;
    assert_eq!(
        condition(&crd, "NamesAccepted")["reason"],
        "ListKindConflict"
    );
    assert_eq!(condition(&crd, "Established")["status"], "False");
    let boats_path = "/apis/sea.example.com/v1/namespaces/default/boats";
    assert_eq!(get(&server, boats_path).await.0, 404);

    let (code, refused) = post(&server, CRDS, {
        let mut bad = definition();
        bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
            json!([{"rule": "self.nothing == 1"}]);
        bad["metadata"]["name"] = "x.sea.example.com".into();
        bad["spec"]["names"]["plural"] = "x".into();
        bad
    })
    .await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("undefined field 'nothing'"), "{message}");

    let (code, made) = post(&server, SHIPS, argo()).await;
    assert_eq!(code, 201, "{made}");
    // Another field: it is kept from now on.
    let (_, mut crd) = get(&server, CRD).await;
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["anchor"] =
        json!({"type": "string", "default": "stone"});
    let (code, put) = ask(&server, Method::PUT, CRD, crd).await;
    assert_eq!(code, 200, "{put}");
    let patch = json!({"spec": {"anchor": "iron"}});
    for _ in 0..3000 {
        let (_, ship) = ask(&server, Method::PATCH, ARGO, patch.clone()).await;
        if ship["spec"]["anchor"] == "iron" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    stop.cancel();
    let server = ApiServer::new(config(), store, CancellationToken::new())
        .await
        .expect("the store is readable");
    server.bootstrap().await.expect("first objects");
    // Ready means that custom kinds are served.
    let (code, ship) = get(&server, ARGO).await;
    assert_eq!(
        (code, &ship["spec"]["anchor"]),
        (200, &json!("iron")),
        "{ship}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_come_at_once_one_gets_the_names() {
    let server = server().await;
    for nth in 0..5 {
        let group = format!("sea{nth}.example.com");
        let of = |plural: &str| {
            let mut crd = definition();
            crd["metadata"]["name"] = format!("{plural}.{group}").into();
            crd["spec"]["group"] = group.as_str().into();
            crd["spec"]["names"]["plural"] = plural.into();
            crd
        };
        let (one, two) = tokio::join!(
            post(&server, CRDS, of("boats")),
            post(&server, CRDS, of("ships"))
        );
        assert_eq!((one.0, two.0), (201, 201));
        let mut accepted = 0;
        for plural in ["boats", "ships"] {
            let uri = format!("{CRDS}/{plural}.{group}");
            let crd = until(&server, &uri, |_, c| !condition(c, "Established").is_null()).await;
            let has = condition(&crd, "NamesAccepted")["status"] == "True";
            accepted += usize::from(has);
            let served = format!("/apis/{group}/v1/namespaces/default/{plural}");
            let code = if has { 200 } else { 404 };
            assert_eq!(get(&server, &served).await.0, code, "{crd}");
        }
        assert_eq!(accepted, 1, "{group}");
    }
}

/// The versions of the definition, with the field `anchor` or without it.
fn versions(anchored: bool) -> Value {
    let mut versions = definition()["spec"]["versions"].take();
    if anchored {
        versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["anchor"] =
            json!({"type": "string", "default": "iron"});
    }
    versions
}

/// A schema comes and goes while objects are written: each write is judged by one of them, none is
/// lost, and in the end all objects are of the last one.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_changes_under_its_writers() {
    const WRITERS: usize = 3;
    const EACH: usize = 40;
    let server = server().await;
    install(&server).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let server = server.clone();
        writers.spawn(async move {
            for n in 0..EACH {
                let mut ship = argo();
                ship["metadata"]["name"] = format!("ship-{writer}-{n}").into();
                let (code, made) = post(&server, SHIPS, ship).await;
                assert_eq!(code, 201, "{made}");
                let anchor = &made["spec"]["anchor"];
                assert!(anchor.is_null() || anchor == "stone", "{made}");
                assert_eq!(made["spec"]["sail"], "white", "{made}");
                let uri = format!("{SHIPS}/ship-{writer}-{n}");
                let patch = json!({"spec": {"oars": [{"name": "b", "length": n + 1}]}});
                let (code, now) = ask(&server, Method::PATCH, &uri, patch).await;
                assert_eq!(code, 200, "{now}");
                let wrong = json!({"spec": {"oars": [{"name": "b", "length": -1}]}});
                let (code, refused) = ask(&server, Method::PATCH, &uri, wrong).await;
                assert_eq!(code, 422, "{refused}");
            }
        });
    }
    let mut anchored = false;
    while !writers.is_empty() {
        anchored = !anchored;
        let change = json!({"spec": {"versions": versions(anchored)}});
        let (code, changed) = ask(&server, Method::PATCH, CRD, change).await;
        assert_eq!(code, 200, "{changed}");
        while let Some(done) = writers.try_join_next() {
            done.expect("a writer");
        }
        tokio::task::yield_now().await;
    }
    let last = json!({"spec": {"versions": versions(true)}});
    let (code, changed) = ask(&server, Method::PATCH, CRD, last).await;
    assert_eq!(code, 200, "{changed}");
    let list = until(&server, SHIPS, |_, list| {
        let mut all = list["items"].as_array().into_iter().flatten();
        all.all(|ship| ship["spec"]["anchor"].is_string())
    })
    .await;
    let all = list["items"].as_array().expect("a list");
    assert_eq!(all.len(), WRITERS * EACH);
    for ship in all {
        assert_eq!(
            ship["spec"]["oars"].as_array().map(Vec::len),
            Some(1),
            "{ship}"
        );
    }
}
