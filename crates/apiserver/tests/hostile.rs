//! Input that means no good, byte by byte on a real server over TLS: each gets upstream's status,
//! nothing is written, and the server goes on. What multiplies is in `bounds.rs`, connections that
//! dawdle are in `connections.rs`, proxies in `connect.rs`, extension servers and webhooks in
//! `hostile_outside.rs`, numbers in `hostile_numbers.rs`, memory in `hostile_memory.rs`, decoders in
//! the crate `fuzz`.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::filters::authn::ClientCertificates;
use apiserver::filters::authz::AlwaysAllow;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::ask;
use http::Method;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::pki::{Ca, Pair, Subject};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const STRICT: &str = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON: &str = "application/json";

struct Running {
    server: ApiServer,
    address: String,
    ca: Ca,
    pair: Pair,
}

async fn start() -> Running {
    let running = over_tls::start(|config| {
        config.authenticators = vec![Arc::new(ClientCertificates::default())];
        config.authorizers = vec![Arc::new(AlwaysAllow)];
    })
    .await;
    let client = Subject::client("jane", &["people"]);
    let pair = running.ca.issue(&client, running.now, 1).expect("pair");
    Running {
        server: running.server,
        address: running.url.trim_start_matches("https://").to_owned(),
        ca: running.ca,
        pair,
    }
}

impl Running {
    /// Sends bytes on a connection of its own; gives the first answer's code and what follows its
    /// head.
    async fn bytes(&self, request: &[u8]) -> (u16, Vec<u8>) {
        let (code, _, body) = self.answer(request).await;
        (code, body)
    }

    /// The same, with the head.
    async fn answer(&self, request: &[u8]) -> (u16, String, Vec<u8>) {
        let ca = &self.ca.pair.cert_pem;
        let tls = wire::tls::client_config(ca, Some(&self.pair), &["http/1.1"]).expect("tls");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let socket = TcpStream::connect(&self.address).await.expect("connect");
        let name = ServerName::try_from("127.0.0.1").expect("name");
        let io = connector.connect(name, socket).await.expect("handshake");
        let (mut read, mut write) = tokio::io::split(io);
        let sending = async {
            // The server may have seen enough.
            let _ = write.write_all(request).await;
        };
        let mut answer = Vec::new();
        let reading = async {
            // A reset after the answer is not a fault.
            let _ = read.read_to_end(&mut answer).await;
        };
        tokio::join!(sending, reading);
        let text = String::from_utf8_lossy(&answer);
        let code = text.split(' ').nth(1).and_then(|c| c.parse().ok());
        let code = code.unwrap_or_else(|| panic!("no answer: {text:?}"));
        let end = text.find("\r\n\r\n").map_or(answer.len(), |at| at + 4);
        let body = answer.split_off(end.min(answer.len()));
        (code, String::from_utf8_lossy(&answer).into_owned(), body)
    }

    async fn send(&self, method: &str, target: &str, media: &str, body: &[u8]) -> (u16, Value) {
        let (code, body) = self.bytes(&whole(method, target, media, body)).await;
        (code, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn get(&self, target: &str) -> (u16, Value) {
        self.send("GET", target, JSON, b"").await
    }

    /// What is stored, of the kinds that tests try to write.
    async fn stored(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for path in ["/api/v1/configmaps", DEPLOYMENTS, DEFINITIONS] {
            let (code, list) = ask(&self.server, Method::GET, path, Value::Null).await;
            assert_eq!(code, 200);
            all.push(list["items"].clone());
        }
        all
    }
}

/// A request with a body, as it is sent.
fn whole(method: &str, target: &str, media: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {media}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_a_size() {
    let s = start().await;
    let before = s.stored().await;
    let long = format!("{MAPS}?labelSelector={}", "a".repeat(100_000));
    let (code, _) = s.get(&long).await;
    assert!(matches!(code, 414 | 431), "{code}");
    let header = |name: &str, value: &str| {
        let text = format!(
            "GET {MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{name}: {value}\r\n\r\n"
        );
        text.into_bytes()
    };
    let (code, _) = s.bytes(&header("x-long", &"a".repeat(2 << 20))).await;
    assert_eq!(code, 431);
    let many: String = (0..5_000).map(|i| format!("x-{i}: y\r\n")).collect();
    let (code, _) = s
        .bytes(&header("x-many", &format!("y\r\n{}", many.trim_end())))
        .await;
    assert_eq!(code, 431);
    // Long, and still within bounds.
    assert_eq!(s.bytes(&header("x-long", &"a".repeat(20_000))).await.0, 200);
    assert_eq!(s.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_selectors_are_read_in_no_time() {
    let s = start().await;
    let many = |one: &str| vec![one; 50_000 / (one.len() + 1)].join(",");
    for (parameter, selector) in [
        ("labelSelector", many("a=b")),
        ("labelSelector", many("!a")),
        ("labelSelector", format!("a+in+({})", many("b"))),
        ("fieldSelector", many("metadata.name=b")),
    ] {
        let (code, answer) = s.get(&format!("{MAPS}?{parameter}={selector}")).await;
        assert_eq!(code, 200, "{answer}");
    }
    // As deep as it gets, and not one.
    let (code, _) = s
        .get(&format!("{MAPS}?labelSelector={}", "(".repeat(50_000)))
        .await;
    assert_eq!(code, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_has_ten_thousand_operations_at_most() {
    let s = start().await;
    let map = json!({ "metadata": { "name": "m" }, "data": { "a": "b" } }).to_string();
    assert_eq!(s.send("POST", MAPS, JSON, map.as_bytes()).await.0, 201);
    let before = s.stored().await;
    let at = format!("{MAPS}/m");
    let patch = |count: usize| {
        let op = json!({ "op": "replace", "path": "/data/a", "value": "c" });
        Value::Array(vec![op; count]).to_string()
    };
    const MEDIA: &str = "application/json-patch+json";
    let (code, status) = s.send("PATCH", &at, MEDIA, patch(10_001).as_bytes()).await;
    assert_eq!(code, 413, "{status}");
    let why = "The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert!(message(&status).contains(why), "{status}");
    assert_eq!(s.stored().await, before);
    let (code, status) = s.send("PATCH", &at, MEDIA, patch(10_000).as_bytes()).await;
    assert_eq!(code, 200, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_is_refused() {
    let s = start().await;
    let before = s.stored().await;
    let bodies: [&[u8]; 2] = [
        b"{\"metadata\":{\"name\":\"a\"},\"data\":{\"a\":\"\xff\xfe\"}}",
        b"{\"metadata\":{\"name\":\"a\"},\"data\":{\"\xc3\x28\":\"b\"}}",
    ];
    for body in bodies {
        let (code, status) = s.send("POST", MAPS, "application/yaml", body).await;
        assert_eq!(code, 400, "{body:?}: {status}");
        // In JSON each stands for U+FFFD, as upstream's decoder has it; that is not a key.
        let (code, made) = s.send("POST", MAPS, JSON, body).await;
        if code == 201 {
            assert_eq!(made["data"]["a"], "\u{fffd}\u{fffd}");
            let path = format!("{MAPS}/a");
            assert_eq!(s.send("DELETE", &path, JSON, b"").await.0, 200);
        } else {
            assert_eq!(code, 422, "{body:?}: {made}");
        }
    }
    let half: &[u8] = b"{\"metadata\":{\"name\":\"a\\ud800\"}}";
    assert_eq!(s.send("POST", MAPS, JSON, half).await.0, 422);
    for target in [
        format!("{MAPS}/%ff"),
        format!("{MAPS}/a%00b"),
        format!("{MAPS}/%c3%28"),
        "/api/v1/namespaces/%ff/configmaps/a".to_owned(),
    ] {
        let (code, status) = s.get(&target).await;
        assert_eq!(code, 404, "{target}: {status}");
    }
    // Bytes that are no URL at all.
    let (code, _) = s
        .bytes(b"GET /api/v1/\xff\xfe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(matches!(code, 400 | 404), "{code}");
    assert_eq!(s.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_counts_once() {
    let s = start().await;
    let body = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","name":"b"},"data":{"x":"1","x":"2"}}"#;
    let before = s.stored().await;
    let (code, status) = s.send("POST", STRICT, JSON, body).await;
    assert_eq!(code, 400, "{status}");
    assert!(
        message(&status).contains("duplicate field \"metadata.name\""),
        "{status}"
    );
    assert_eq!(s.stored().await, before);
    // Without strictness the last one counts, as upstream, and nobody sees two.
    let (code, made) = s.send("POST", MAPS, JSON, body).await;
    assert_eq!(
        (code, &made["metadata"]["name"]),
        (201, &json!("b")),
        "{made}"
    );
    assert_eq!(made["data"], json!({ "x": "2" }));
    let (code, status) = s
        .send(
            "POST",
            STRICT,
            "application/yaml",
            b"metadata:\n  name: a\n  name: c\n",
        )
        .await;
    assert_eq!(code, 400, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_stay_within_their_types() {
    let s = start().await;
    let before = s.stored().await;
    let deployment = |replicas: &str| {
        format!(
            r#"{{"metadata":{{"name":"d"}},"spec":{{"replicas":{replicas},"selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}}}}}"#
        )
    };
    for number in [
        "2147483648",
        "-2147483649",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1e400",
        "-1e400",
        "1.5",
        "NaN",
        "Infinity",
        "0x10",
        "01",
        "1e",
        "--1",
        &"9".repeat(100_000),
    ] {
        for media in [JSON, "application/yaml"] {
            let (code, status) = s
                .send("POST", DEPLOYMENTS, media, deployment(number).as_bytes())
                .await;
            let shown = &number[..number.len().min(30)];
            if media == "application/yaml" && matches!(number, "0x10" | "01") {
                // Numbers in YAML.
                assert_eq!(code, 201, "{shown}: {status}");
                let path = format!("{DEPLOYMENTS}/d");
                assert_eq!(s.send("DELETE", &path, JSON, b"").await.0, 200);
                continue;
            }
            assert_eq!(code, 400, "{media} {shown}: {status}");
        }
    }
    for (parameter, code) in [
        ("limit=9223372036854775808", 400),
        ("limit=-1", 200),
        ("watch=1&timeoutSeconds=1e400", 400),
        ("watch=1&timeoutSeconds=9223372036854775808", 400),
        ("watch=1&timeoutSeconds=-1", 200),
        ("resourceVersion=18446744073709551616", 400),
        ("resourceVersion=-1", 400),
    ] {
        let (got, status) = s.get(&format!("{MAPS}?{parameter}")).await;
        assert_eq!(got, code, "{parameter}: {status}");
    }
    // So long that no clock knows the end: it begins as any other.
    let longest = format!("{MAPS}?watch=1&timeoutSeconds={}", i64::MAX);
    let asked = common::request(Method::GET, &longest, JSON, "");
    assert_eq!(common::send(&s.server, asked).await.status(), 200);
    assert_eq!(s.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_lead_nowhere_else() {
    let s = start().await;
    let secret =
        json!({ "metadata": { "name": "hidden" }, "stringData": { "a": "word" } }).to_string();
    let path = "/api/v1/namespaces/default/secrets";
    assert_eq!(s.send("POST", path, JSON, secret.as_bytes()).await.0, 201);
    let before = s.stored().await;
    // An encoded slash is a slash, `..` is a name like any other, and one that no object has.
    let ns = "/api/v1/namespaces";
    for (target, wanted) in [
        (format!("{MAPS}/.."), 400),
        (format!("{MAPS}/%2e"), 400),
        (format!("{MAPS}/../secrets/hidden"), 404),
        (format!("{MAPS}/%2e%2e/secrets/hidden"), 404),
        (format!("{MAPS}/..%2fsecrets%2fhidden"), 404),
        (format!("{MAPS}/..%2f..%2fsecrets%2fdefault%2fhidden"), 404),
        (format!("{ns}/default%2fsecrets/configmaps/hidden"), 404),
        (
            format!("{ns}/..%2fsecrets%2fdefault/configmaps/hidden"),
            404,
        ),
        (format!("/healthz/..{ns}/default/secrets/hidden"), 404),
        (format!("{MAPS}/%252e%252e%252fsecrets"), 400),
    ] {
        let (code, answer) = s.get(&target).await;
        assert_eq!(code, wanted, "{target}: {answer}");
        assert!(!answer.to_string().contains("d29yZA"), "{target}: {answer}");
    }
    for name in ["..", ".", "a/b", "a%b", "../x", "a\\u0000b"] {
        let body = format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}");
        let (code, status) = s.send("POST", MAPS, JSON, body.as_bytes()).await;
        assert_eq!(code, 422, "{name}: {status}");
    }
    assert_eq!(s.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_is_not_two() {
    let s = start().await;
    let before = s.stored().await;
    let inner = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: 33\r\n\r\n{{\"metadata\":{{\"name\":\"smuggled\"}}}}"
    );
    for headers in [
        // Two lengths, or a length and chunks: what follows must not be read as a request.
        format!("content-length: {}\r\ncontent-length: 0", inner.len()),
        "content-length: 0, 5".to_owned(),
        "content-length: +5".to_owned(),
        "content-length: 0\r\ntransfer-encoding: xchunked".to_owned(),
        "transfer-encoding : chunked".to_owned(),
        "x-a: b\r\n c: d".to_owned(),
    ] {
        let request = format!("GET /version HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{inner}");
        let (code, _) = s.bytes(request.as_bytes()).await;
        assert_eq!(code, 400, "{headers}");
        let maps = s.stored().await;
        assert_eq!(maps, before, "{headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_a_list_is_not_made_up() {
    let s = start().await;
    for name in ["a", "b", "c"] {
        let body = json!({ "metadata": { "name": name } }).to_string();
        assert_eq!(s.send("POST", MAPS, JSON, body.as_bytes()).await.0, 201);
    }
    let (_, page) = s.get(&format!("{MAPS}?limit=1")).await;
    let token = page["metadata"]["continue"]
        .as_str()
        .expect("token")
        .to_owned();
    let told = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut forged = vec![
        "x".to_owned(),
        "%00".to_owned(),
        "=".repeat(10_000),
        URL_SAFE_NO_PAD.encode([0xff; 64]),
        told(json!({})),
        told(json!([])),
        told(json!({ "v": "meta.k8s.io/v1", "rv": 0, "start": "" })),
        told(json!({ "v": "meta.k8s.io/v9", "rv": 1, "start": "a" })),
        told(json!({ "v": "meta.k8s.io/v1", "rv": 1, "start": "../../secrets/" })),
        told(json!({ "v": "meta.k8s.io/v1", "rv": "1", "start": 7 })),
        told(json!({ "v": "meta.k8s.io/v1", "rv": 1e300, "start": "a" })),
    ];
    for cut in 1..token.len() {
        forged.push(token[..cut].to_owned());
    }
    for token in &forged {
        let (code, answer) = s.get(&format!("{MAPS}?limit=1&continue={token}")).await;
        assert!(matches!(code, 400 | 410), "{token}: {code} {answer}");
    }
    // From the future: it may come true.
    let future = told(json!({ "v": "meta.k8s.io/v1", "rv": i64::MAX, "start": "a" }));
    let (code, answer) = s.get(&format!("{MAPS}?limit=1&continue={future}")).await;
    assert!(matches!(code, 400 | 410 | 504), "{code} {answer}");
    // The real one, on another resource, shows nothing of this one.
    let (code, answer) = s
        .get(&format!(
            "/api/v1/namespaces/default/secrets?limit=1&continue={token}"
        ))
        .await;
    assert!(
        code == 400 || answer["items"] == json!([]),
        "{code} {answer}"
    );
    let (code, _) = s.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!(code, 200);
}

fn definition(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "things.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": schema } }],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_explode_are_refused() {
    let s = start().await;
    let before = s.stored().await;
    let rule = |text: &str, inner: Value| json!({ "type": "object", "properties": { "spec": inner }, "x-kubernetes-validations": [{ "rule": text }] });
    let list = |inner: Value| json!({ "type": "array", "items": inner });
    let word = json!({ "type": "string" });
    // Made as text: building it as a value would take the test's own stack.
    let deep = format!(
        "{}{{\"type\":\"string\"}}{}",
        "{\"type\":\"object\",\"properties\":{\"a\":".repeat(5_000),
        "}}".repeat(5_000)
    );
    let deep = definition(json!("deep"))
        .to_string()
        .replace("\"deep\"", &deep);
    let (code, status) = s.send("POST", DEFINITIONS, JSON, deep.as_bytes()).await;
    assert!(matches!(code, 400 | 422), "deep: {code} {status}");
    let long = "true && ".repeat(20_000) + "true";
    let triple = list(list(list(word.clone())));
    for (what, schema) in [
        // Each bound alone is fine; a rule over all of it costs too much.
        (
            "three loops",
            rule(
                "self.spec.all(a, a.all(b, b.all(c, c.matches('^(a+)+$'))))",
                triple,
            ),
        ),
        (
            "pairs",
            rule(
                "self.spec.all(a, self.spec.all(b, a == b))",
                list(word.clone()),
            ),
        ),
        ("long", rule(&long, word.clone())),
        (
            "a pattern",
            json!({ "type": "object", "properties": { "a": { "type": "string", "pattern": "(((a{1,1000}){1,1000}){1,1000})" } } }),
        ),
        (
            "no pattern",
            json!({ "type": "object", "properties": { "a": { "type": "string", "pattern": "(" } } }),
        ),
        (
            "a reference",
            json!({ "type": "object", "properties": { "a": { "$ref": "#" } } }),
        ),
    ] {
        let body = definition(schema).to_string();
        let (code, status) = s.send("POST", DEFINITIONS, JSON, body.as_bytes()).await;
        let shown = message(&status).chars().take(300).collect::<String>();
        assert!(matches!(code, 400 | 422), "{what}: {code} {shown}");
    }
    assert_eq!(s.stored().await, before);
    assert_eq!(s.get("/version").await.0, 200);
}

/// Each of these, compared pair by pair or shown once for each of its items, would take minutes or
/// all memory.
#[tokio::test(flavor = "multi_thread")]
async fn wide_lists_are_judged_and_warned_of_within_bounds() {
    let s = start().await;
    let deployment = |field: &str, list: Value| {
        json!({
            "metadata": { "name": field },
            "spec": {
                "replicas": 0, "selector": { "matchLabels": { "a": "b" } },
                "template": {
                    "metadata": { "labels": { "a": "b" } },
                    "spec": { "containers": [{ "name": "c", "image": "i", field: list }] },
                },
            },
        })
    };
    for (field, item) in [
        ("ports", json!({ "containerPort": 1 })),
        ("env", json!({ "name": "A", "value": "1" })),
    ] {
        let body = deployment(field, vec![item; 20_000].into()).to_string();
        let request = whole("POST", DEPLOYMENTS, JSON, body.as_bytes());
        let (code, head, _) = s.answer(&request).await;
        assert_eq!(code, 201, "{field}: {head}");
        let warnings = head.lines().filter(|l| l.starts_with("warning: 299 - "));
        let count = warnings.count();
        assert!(
            (10..100).contains(&count) && head.len() < 16 << 10,
            "{head}"
        );
    }
    // A name in any script is warned of, too.
    let odd = deployment("env", json!([])).to_string();
    let odd = odd.replace("\"replicas\":0", "\"replicas\":0,\"größe\":1");
    let (code, head, _) = s
        .answer(&whole("POST", DEPLOYMENTS, JSON, odd.as_bytes()))
        .await;
    assert_eq!(code, 409, "{head}");
    assert!(head.contains("unknown field \\\"spec.größe\\\""), "{head}");
    let owner = |n: usize| json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": n.to_string(), "controller": true });
    for (path, body) in [
        (
            "/api/v1/namespaces/default/resourcequotas",
            json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "1" }, "scopes": vec!["Odd"; 100_000] } }),
        ),
        (
            MAPS,
            json!({ "metadata": { "name": "m", "ownerReferences": (0..10_000).map(owner).collect::<Vec<_>>() } }),
        ),
    ] {
        let (code, status) = s
            .send("POST", path, JSON, body.to_string().as_bytes())
            .await;
        assert_eq!(code, 422, "{path}: {status}");
        let causes = status["details"]["causes"].as_array().map(Vec::len);
        assert!(causes.is_some_and(|n| n < 10), "{path}: {causes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_named_by_urls_without_surprises() {
    let s = start().await;
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    for url in [
        "http://192.0.2.1/",
        "file:///etc/passwd",
        "https://",
        "https://user:word@192.0.2.1/",
        "https://192.0.2.1/?a=b",
        "https://192.0.2.1/#a",
        "gopher://192.0.2.1/",
    ] {
        let hook = json!({
            "metadata": { "name": "w" },
            "webhooks": [{
                "name": "a.example.com", "clientConfig": { "url": url }, "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"] }],
            }],
        });
        let (code, status) = s
            .send("POST", path, JSON, hook.to_string().as_bytes())
            .await;
        assert_eq!(code, 422, "{url}: {status}");
    }
}
