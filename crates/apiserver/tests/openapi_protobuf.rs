//! OpenAPI's documents in gnostic's protobuf, read by messages of its own: they say what the JSON
//! form says. client-go's `OpenAPISchema`, older kubectl and Helm ask for this form.

mod common;

use std::io::Read;

use apiserver::ApiServer;
use bytes::Bytes;
use common::{request, send, server};
use http::Method;
use http::response::Parts;
use http_body_util::BodyExt;
use prost::Message as _;
use serde_json::{Map, Value, json};

const V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// As client-go asks for it.
const V2_BY_CLIENTS: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V3: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
const V3_BY_CLIENTS: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
const KIND: &str = "x-kubernetes-group-version-kind";

#[derive(Clone, PartialEq, prost::Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Schemas>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    all: Vec<NamedPath>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedPath {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PathItem {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Operation {
    #[prost(string, tag = "5")]
    id: String,
    #[prost(string, repeated, tag = "7")]
    consumes: Vec<String>,
    #[prost(message, repeated, tag = "13")]
    extensions: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Schemas {
    #[prost(message, repeated, tag = "1")]
    all: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, optional, tag = "21")]
    additional: Option<Additional>,
    #[prost(message, optional, tag = "22")]
    kind: Option<Texts>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Schemas>,
    #[prost(message, repeated, tag = "31")]
    extensions: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Additional {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
    #[prost(bool, optional, tag = "2")]
    flag: Option<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Schema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Texts {
    #[prost(string, repeated, tag = "1")]
    all: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

/// Of the third edition, whose numbers are others.
#[derive(Clone, PartialEq, prost::Message)]
struct Document3 {
    #[prost(string, tag = "1")]
    openapi: String,
    #[prost(message, optional, tag = "5")]
    components: Option<Components3>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Components3 {
    #[prost(message, optional, tag = "1")]
    schemas: Option<Schemas3>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Schemas3 {
    #[prost(message, repeated, tag = "1")]
    all: Vec<NamedSchema3>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedSchema3 {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<SchemaOrReference3>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SchemaOrReference3 {
    #[prost(message, optional, tag = "1")]
    schema: Option<Schema3>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Schema3 {
    #[prost(string, tag = "25")]
    kind: String,
    #[prost(string, tag = "34")]
    description: String,
    #[prost(message, repeated, tag = "36")]
    extensions: Vec<NamedAny>,
}

/// Asks for a page with a header of this name.
async fn page(server: &ApiServer, path: &str, header: (&'static str, &str)) -> (Parts, Bytes) {
    let mut asked = request(Method::GET, path, common::JSON, "");
    let value = header.1.parse().expect("a header");
    asked.headers_mut().insert(header.0, value);
    let (head, body) = send(server, asked).await.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head, body)
}

/// Vendor extensions as JSON has them.
fn extensions(read: &[NamedAny]) -> Map<String, Value> {
    let all = read.iter().map(|extension| {
        let any = extension.value.as_ref().expect("a value");
        let value: Value = serde_norway::from_str(&any.yaml).expect("YAML");
        (extension.name.clone(), value)
    });
    all.collect()
}

fn wanted_extensions(json: &Value) -> Map<String, Value> {
    let members = json.as_object().into_iter().flatten();
    let all = members.filter(|(name, _)| name.starts_with("x-"));
    all.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn texts(json: &Value) -> Vec<&str> {
    let items = json.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).collect()
}

/// Compares a schema and all that lies in it.
fn compare(place: &str, json: &Value, read: &Schema) {
    let text = |name: &str| json[name].as_str().unwrap_or_default();
    assert_eq!(read.reference, text("$ref"), "{place}");
    assert_eq!(read.format, text("format"), "{place}");
    assert_eq!(read.description, text("description"), "{place}");
    assert_eq!(read.required, texts(&json["required"]), "{place}");
    let kinds = read.kind.clone().unwrap_or_default().all;
    let kind = json["type"].as_str();
    assert_eq!(kinds, kind.as_slice(), "{place}");
    assert_eq!(
        extensions(&read.extensions),
        wanted_extensions(json),
        "{place}"
    );
    match &read.additional {
        None => assert!(json.get("additionalProperties").is_none(), "{place}"),
        Some(Additional {
            schema: Some(schema),
            ..
        }) => compare(place, &json["additionalProperties"], schema),
        Some(other) => assert_eq!(json["additionalProperties"], json!(other.flag), "{place}"),
    }
    match read.items.as_ref().map(|items| &items.all[..]) {
        None => assert!(json.get("items").is_none(), "{place}"),
        Some([item]) => compare(place, &json["items"], item),
        Some(several) => panic!("{place}: {} items", several.len()),
    }
    assert_eq!(
        read.properties.is_some(),
        json.get("properties").is_some(),
        "{place}"
    );
    let properties = read.properties.clone().unwrap_or_default();
    compare_all(place, &json["properties"], &properties);
}

/// Compares schemas by their names.
fn compare_all(place: &str, json: &Value, read: &Schemas) {
    let wanted = json.as_object().map_or(0, Map::len);
    assert_eq!(read.all.len(), wanted, "{place}");
    for named in &read.all {
        let place = format!("{place}.{}", named.name);
        let wanted = json.get(&named.name);
        let wanted = wanted.unwrap_or_else(|| panic!("{place} is in protobuf alone"));
        let schema = named.value.as_ref().expect("a schema");
        compare(&place, wanted, schema);
    }
}

#[tokio::test]
async fn the_document_of_the_second_edition_says_the_same() {
    let server = server().await;
    let (head, body) = page(&server, "/openapi/v2", ("accept", common::JSON)).await;
    let json: Value = serde_json::from_slice(&body).expect("JSON");
    let tag = &head.headers["etag"];
    let mut bytes = Bytes::new();
    for accept in [V2, V2_BY_CLIENTS] {
        let (head, body) = page(&server, "/openapi/v2", ("accept", accept)).await;
        assert_eq!(head.status.as_u16(), 200, "{accept}");
        assert_eq!(head.headers["content-type"], V2, "{accept}");
        assert_eq!(head.headers["vary"], "Accept", "{accept}");
        assert_eq!(&head.headers["etag"], tag, "{accept}");
        bytes = body;
    }
    let document = Document::decode(bytes).expect("gnostic's message");
    assert_eq!(document.swagger, "2.0");
    let definitions = document.definitions.expect("definitions");
    compare_all("definitions", &json["definitions"], &definitions);
    // By this clients find the schema of a kind.
    let mut named = definitions.all.iter();
    let deployment = named.find(|d| d.name == "io.k8s.api.apps.v1.Deployment");
    let schema = deployment.and_then(|d| d.value.as_ref());
    let schema = schema.expect("Deployment is defined");
    let kinds = &extensions(&schema.extensions)[KIND];
    assert_eq!(
        *kinds,
        json!([{ "group": "apps", "kind": "Deployment", "version": "v1" }])
    );
    let paths = document.paths.expect("paths").all;
    assert_eq!(paths.len(), json["paths"].as_object().map_or(0, Map::len));
    for path in paths {
        let wanted = &json["paths"][&path.name];
        let item = path.value.expect("an item");
        for (method, operation) in [("get", item.get), ("patch", item.patch)] {
            let wanted = wanted.get(method);
            assert_eq!(operation.is_some(), wanted.is_some(), "{}", path.name);
            let (Some(operation), Some(wanted)) = (operation, wanted) else {
                continue;
            };
            assert_eq!(wanted["operationId"], operation.id, "{}", path.name);
            assert_eq!(operation.consumes, texts(&wanted["consumes"]));
            assert_eq!(
                extensions(&operation.extensions),
                wanted_extensions(wanted),
                "{}",
                path.name
            );
        }
    }
}

#[tokio::test]
async fn a_document_of_the_third_edition_says_the_same() {
    let server = server().await;
    let path = "/openapi/v3/apis/apps/v1";
    let (plain, body) = page(&server, path, ("accept", common::JSON)).await;
    let json: Value = serde_json::from_slice(&body).expect("JSON");
    let (head, body) = page(&server, path, ("accept", V3_BY_CLIENTS)).await;
    assert_eq!(head.status.as_u16(), 200);
    assert_eq!(head.headers["content-type"], V3);
    assert_eq!(head.headers["etag"], plain.headers["etag"]);
    let document = Document3::decode(body).expect("gnostic's message");
    assert_eq!(document.openapi, "3.0.0");
    let components = document.components.expect("components");
    let schemas = components.schemas.expect("schemas").all;
    let wanted = &json["components"]["schemas"];
    assert_eq!(schemas.len(), wanted.as_object().map_or(0, Map::len));
    for named in schemas {
        let wanted = &wanted[&named.name];
        let schema = named.value.and_then(|value| value.schema);
        let schema = schema.expect("a schema");
        let text = |name: &str| wanted[name].as_str().unwrap_or_default();
        assert_eq!(schema.kind, text("type"), "{}", named.name);
        assert_eq!(schema.description, text("description"), "{}", named.name);
        assert_eq!(
            extensions(&schema.extensions),
            wanted_extensions(wanted),
            "{}",
            named.name
        );
    }
}

#[tokio::test]
async fn what_there_is_not_is_refused() {
    let server = server().await;
    for (path, accept, code) in [
        ("/openapi/v2", "*/*", 200),
        ("/openapi/v2", "application/yaml", 406),
        ("/openapi/v2", "text/html", 406),
        ("/openapi/v2", V3, 406),
        ("/openapi/v3/apis/apps/v1", "*/*", 200),
        ("/openapi/v3/apis/apps/v1", "text/html", 406),
        ("/openapi/v3/apis/apps/v1", V2, 406),
        // Of this page there is one form, whatever is asked for.
        ("/openapi/v3", "text/html", 200),
    ] {
        let (head, _) = page(&server, path, ("accept", accept)).await;
        assert_eq!(head.status.as_u16(), code, "{path} {accept}");
    }
}

#[tokio::test]
async fn the_large_document_is_compressed_for_who_takes_that() {
    let server = server().await;
    let (_, plain) = page(&server, "/openapi/v2", ("accept", common::JSON)).await;
    let (head, zipped) = page(&server, "/openapi/v2", ("accept-encoding", "gzip")).await;
    assert_eq!(head.headers["content-encoding"], "gzip");
    let vary: Vec<_> = head.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["Accept", "Accept-Encoding"]);
    let mut whole = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(&zipped[..]);
    reader.read_to_end(&mut whole).expect("gzip");
    assert_eq!(whole, plain);
}
