//! Protobuf both ways, judged by an independent implementation, and other encodings.

mod common;

use bytes::Bytes;
use common::{JSON, get, post, raw, request, send, server};
use http::Method;
use http_body_util::BodyExt;
use k8s_pb::api::core::v1::{ConfigMap, ConfigMapList};
use k8s_pb::apimachinery::pkg::apis::meta::v1::WatchEvent;
use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message;
use serde_json::{Value, json};

const CMS: &str = "/api/v1/namespaces/default/configmaps";
const PROTO: &str = "application/vnd.kubernetes.protobuf";

fn open<M: Message + Default>(bytes: &[u8], kind: &str) -> M {
    let raw = bytes.strip_prefix(b"k8s\0").expect("magic");
    let unknown = Unknown::decode(raw).expect("envelope");
    assert_eq!(
        unknown.type_meta.and_then(|t| t.kind).as_deref(),
        Some(kind)
    );
    M::decode(unknown.raw.unwrap_or_default().as_slice()).expect("message")
}

async fn proto(s: &apiserver::ApiServer, uri: &str) -> Bytes {
    let mut r = request(Method::GET, uri, JSON, "");
    r.headers_mut()
        .insert("accept", PROTO.parse().expect("header"));
    let r = send(s, r).await;
    assert!(
        r.headers()["content-type"]
            .to_str()
            .expect("text")
            .starts_with(PROTO)
    );
    r.into_body().collect().await.expect("body").to_bytes()
}

#[tokio::test]
async fn protobuf_is_read_and_written() {
    let s = server().await;
    let mut cm = ConfigMap::default();
    cm.metadata.get_or_insert_default().name = Some("p".into());
    cm.data.insert("a".into(), "b".into());
    let unknown = Unknown {
        raw: Some(cm.encode_to_vec()),
        ..Unknown::default()
    };
    let mut body = b"k8s\0".to_vec();
    body.extend(unknown.encode_to_vec());
    let (code, made) = raw(&s, request(Method::POST, CMS, PROTO, body)).await;
    assert_eq!((code, &made["data"]["a"]), (201, &json!("b")), "{made}");

    let one: ConfigMap = open(&proto(&s, &format!("{CMS}/p")).await, "ConfigMap");
    assert_eq!(one.data, cm.data);
    let meta = one.metadata.expect("metadata");
    assert_eq!(
        meta.resource_version.as_deref(),
        made["metadata"]["resourceVersion"].as_str()
    );
    let list: ConfigMapList = open(&proto(&s, CMS).await, "ConfigMapList");
    assert_eq!(list.items.len(), 1);
    assert!(list.metadata.and_then(|m| m.resource_version).is_some());

    let frames = proto(&s, &format!("{CMS}?watch=1&timeoutSeconds=1")).await;
    let (len, rest) = frames.split_at(4);
    let len = u32::from_be_bytes(len.try_into().expect("length")) as usize;
    assert_eq!(rest.len(), len);
    let event = WatchEvent::decode(rest).expect("event");
    assert_eq!(event.r#type.as_deref(), Some("ADDED"));
    let inner: ConfigMap = open(
        &event.object.and_then(|o| o.raw).expect("object"),
        "ConfigMap",
    );
    assert_eq!(inner.data, cm.data);
    assert_eq!(
        raw(&s, request(Method::POST, CMS, PROTO, "junk")).await.0,
        400
    );
}

#[tokio::test]
async fn yaml_and_large_lists_are_served() {
    let s = server().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: b}\n";
    assert_eq!(
        raw(&s, request(Method::POST, CMS, "application/yaml", yaml))
            .await
            .0,
        201
    );
    for i in 0..100 {
        let cm = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("c{i}") },
            "data": { "text": "x".repeat(3000) } });
        assert_eq!(post(&s, CMS, cm).await.0, 201);
    }
    let plain = get(&s, CMS).await.1;
    assert_eq!(plain["items"].as_array().map(Vec::len), Some(101));
    let mut r = request(Method::GET, CMS, JSON, "");
    r.headers_mut()
        .insert("accept-encoding", "gzip".parse().expect("header"));
    let r = send(&s, r).await;
    assert_eq!(r.headers()["content-encoding"], "gzip");
    let bytes = r.into_body().collect().await.expect("body").to_bytes();
    let unzipped: Value =
        serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).expect("gzip of json");
    // Each list has the revision of its moment.
    assert_eq!(unzipped["items"], plain["items"]);
}

#[tokio::test]
async fn openapi_says_what_clients_look_for() {
    let s = server().await;
    let (_, index) = get(&s, "/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .expect("url")
        .to_owned();
    let (code, doc) = get(&s, &url).await;
    assert_eq!(code, 200);
    let op = &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(op["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let names = op["parameters"].as_array().expect("list");
    assert!(
        names
            .iter()
            .any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
    );
    assert!(doc["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let (_, doc) = get(&s, "/openapi/v2").await;
    let op = &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let inline: Vec<&str> = op["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert_eq!(inline, ["body", "dryRun", "fieldValidation"]);
    let text = doc.to_string();
    for reference in text.split("\"$ref\":\"#/parameters/").skip(1) {
        let name = reference.split('"').next().unwrap_or_default();
        let parameter = &doc["parameters"][name];
        assert!(
            parameter["description"].is_string(),
            "{name} is not described"
        );
    }
    // What upstream's scripts look for.
    for words in [
        "list of returned",
        "List of services",
        "Watch for changes to the described resources",
    ] {
        assert!(text.contains(words), "{words}");
    }
}
