//! Extension servers behind APIServices: found out about, passed requests with who asks, listed
//! beside the server's own groups; and one that dies is missing from its own group alone.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::settings::FrontProxy;
use common::outside::{self, Outside};
use common::{ask, get, post, request, send};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serve::{Peer, RequestBody};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.ext.example.com";
const EXT: &str = "/apis/ext.example.com/v1";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A server that passes on requests as `front-proxy-client`, and the CA of that.
async fn front() -> (ApiServer, Ca) {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("front-proxy-ca", now).expect("ca");
    let pair = ca.issue(&Subject::client(FrontProxy::NAME, &[]), now, 1);
    let mut config = common::open_config();
    config.settings.front_proxy = Some(FrontProxy {
        ca_pem: ca.pair.cert_pem.clone(),
        pair: pair.expect("pair"),
    });
    (common::server_with(config).await, ca)
}

fn text(code: u16, body: impl Into<String>) -> Response<Full<bytes::Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = code.try_into().expect("code");
    let json = "application/json".parse().expect("media");
    response.headers_mut().insert("content-type", json);
    response
}

async fn answer(mut request: Request<RequestBody>) -> Response<Full<bytes::Bytes>> {
    let peer = request.extensions().get::<Peer>().expect("peer");
    if peer.certificates.is_empty() {
        return text(401, "{}");
    }
    let resources = json!([{"resource": "echoes", "singularResource": "echo", "scope": "Cluster",
        "responseKind": {"group": "ext.example.com", "version": "v1", "kind": "Echo"}, "verbs": ["get"]}]);
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/apis" => {
            let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
                "items": [{"metadata": {"name": "ext.example.com"},
                    "versions": [{"version": "v1", "resources": resources}]}]});
            let mut response = text(200, list.to_string());
            let media = AGGREGATED.parse().expect("media");
            response.headers_mut().insert("content-type", media);
            response
        }
        EXT => text(
            200,
            json!({"kind": "APIResourceList", "resources": []}).to_string(),
        ),
        "/openapi/v3" => text(
            200,
            json!({"paths": {"apis/ext.example.com/v1":
                {"serverRelativeURL": "/openapi/v3/apis/ext.example.com/v1?hash=ABC"}}})
            .to_string(),
        ),
        "/openapi/v3/apis/ext.example.com/v1" => text(200, json!({"openapi": "3.0.0"}).to_string()),
        "/openapi/v2" => text(
            200,
            json!({
                "paths": {"/apis/ext.example.com/v1/echoes": {
                    "get": {"schema": {"$ref": "#/definitions/Echo"}},
                    "parameters": [{"$ref": "#/parameters/watch"}, {"$ref": "#/parameters/deep-1"}],
                }},
                "definitions": {"Echo": {"type": "object"}, "Other": {}},
                "parameters": {"watch": {"name": "watch", "in": "query", "type": "string"},
                    "deep-1": {"name": "deep", "in": "query", "type": "string"}},
            })
            .to_string(),
        ),
        "/apis/ext.example.com/v1/elsewhere" => {
            let mut response = text(302, "");
            let to = "https://192.0.2.9/".parse().expect("url");
            response.headers_mut().insert("location", to);
            response
        }
        "/apis/ext.example.com/v1/stream" => {
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let io = upgrading.await.expect("an upgrade");
                let mut io = hyper_util::rt::TokioIo::new(io);
                let mut word = [0; 5];
                io.read_exact(&mut word).await.expect("a word");
                io.write_all(&word).await.expect("sent");
                io.shutdown().await.expect("the end");
            });
            let mut response = text(101, "");
            for (name, value) in [("connection", "Upgrade"), ("upgrade", "words")] {
                response
                    .headers_mut()
                    .insert(name, value.parse().expect("value"));
            }
            response
        }
        _ => {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("body").to_bytes();
            let all = |name: &str| -> Vec<String> {
                let values = head.headers.get_all(name).iter();
                values
                    .map(|v| v.to_str().expect("text").to_owned())
                    .collect()
            };
            let said = json!({
                "method": head.method.as_str(),
                "path": head.uri.path_and_query().map(|p| p.as_str()),
                "user": all("x-remote-user"), "groups": all("x-remote-group"),
                "authorization": all("authorization"), "agent": all("user-agent"),
                "body": String::from_utf8_lossy(&body),
            });
            text(201, said.to_string())
        }
    }
}

/// An extension server that is found by its name, and its APIService.
async fn register(server: &ApiServer, front: &Ca) -> Outside {
    let front = front.pair.cert_pem.clone();
    let outside = outside::start("echo.default.svc", Some(&front), answer).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let (code, made) = post(server, "/api/v1/namespaces/default/services", service).await;
    assert_eq!(code, 201, "{made}");
    let api = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.ext.example.com"},
        "spec": {"group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000,
            "versionPriority": 10, "caBundle": outside.bundle,
            "service": {"namespace": "default", "name": "echo", "port": outside.port}}});
    let (code, made) = post(server, SERVICES, api).await;
    assert_eq!(code, 201, "{made}");
    outside
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

fn available(service: &Value) -> &Value {
    &service["status"]["conditions"][0]
}

async fn aggregated(server: &ApiServer) -> Value {
    let asked = Request::builder()
        .uri("/apis")
        .header("accept", AGGREGATED)
        .body(Full::default())
        .expect("request");
    common::raw(server, asked).await.1
}

fn ext_version(document: &Value) -> Value {
    let groups = document["items"].as_array().into_iter().flatten();
    let mut found = groups.filter(|g| g["metadata"]["name"] == "ext.example.com");
    found
        .next()
        .map_or(Value::Null, |g| g["versions"][0].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_serves_itself_has_apiservices() {
    let (server, _) = front().await;
    let (_, list) = get(&server, SERVICES).await;
    let items = list["items"].as_array().expect("items");
    assert!(items.len() > 18, "{}", items.len());
    for item in items {
        assert_eq!(available(item)["reason"], "Local", "{item}");
        assert_eq!(
            item["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
            "onstart"
        );
    }
    let (_, apps) = get(&server, &format!("{SERVICES}/v1.apps")).await;
    assert_eq!(apps["spec"]["groupPriorityMinimum"], 17_800);
    let core = get(&server, &format!("{SERVICES}/v1.")).await;
    assert_eq!(
        (core.0, &core.1["spec"]["versionPriority"]),
        (200, &json!(1))
    );

    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Cluster", "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(post(&server, crds, crd).await.0, 201);
    let uri = format!("{SERVICES}/v1.sea.example.com");
    let made = until(&server, &uri, |code, _| code == 200).await;
    assert_eq!(made["spec"]["versionPriority"], 100);
    // What is kept comes again.
    assert_eq!(ask(&server, Method::DELETE, &uri, Value::Null).await.0, 200);
    let other = made["metadata"]["uid"].clone();
    until(&server, &uri, |code, s| {
        code == 200 && s["metadata"]["uid"] != other
    })
    .await;
    let gone = format!("{crds}/boats.sea.example.com");
    assert_eq!(
        ask(&server, Method::DELETE, &gone, Value::Null).await.0,
        200
    );
    until(&server, &uri, |code, _| code == 404).await;

    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let (_, map) = get(&server, map).await;
    assert_eq!(
        map["data"]["requestheader-allowed-names"],
        "[\"front-proxy-client\"]"
    );
    assert!(map["data"]["requestheader-client-ca-file"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_server_is_reached_and_listed() {
    let (server, ca) = front().await;
    let _outside = register(&server, &ca).await;
    let service = until(&server, SERVICE, |_, s| available(s)["status"] == "True").await;
    assert_eq!(available(&service)["message"], "all checks passed");
    assert_eq!(available(&service)["reason"], "Passed");

    let asked = Request::builder()
        .method(Method::POST)
        .uri(format!("{EXT}/echoes?a=b"))
        .header("x-remote-user", "admin")
        .header("authorization", "Bearer secret")
        .header("user-agent", "me")
        .body(Full::from("a body"))
        .expect("request");
    // The proxy learns of its availability with the next event.
    until(&server, &format!("{EXT}/echoes"), |code, _| code == 201).await;
    let (code, said) = common::raw(&server, asked).await;
    assert_eq!(code, 201, "{said}");
    assert_eq!(
        said,
        json!({"method": "POST", "path": "/apis/ext.example.com/v1/echoes?a=b", "user": ["tester"],
            "groups": ["system:masters", "system:authenticated"], "authorization": [],
            "agent": ["me"], "body": "a body"})
    );
    let turned = request(Method::GET, &format!("{EXT}/elsewhere"), common::JSON, "");
    let response = send(&server, turned).await;
    assert_eq!(response.status(), 502);
    assert!(!response.headers().contains_key("location"));

    // Served first, and listed a moment later.
    let groups = until(&server, "/apis", |_, listed| {
        let mut all = listed["groups"].as_array().into_iter().flatten();
        all.any(|g| g["name"] == "ext.example.com")
    })
    .await;
    let names: Vec<&Value> = groups["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|g| &g["name"])
        .collect();
    let last = &names[names.len() - 2..];
    assert_eq!(
        last,
        [&json!("ext.example.com"), &json!("metrics.k8s.io")],
        "{names:?}"
    );
    assert_eq!(names.first(), Some(&&json!("apiregistration.k8s.io")));
    let (_, group) = get(&server, "/apis/ext.example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let mut version = Value::Null;
    for _ in 0..3000 {
        version = ext_version(&aggregated(&server).await);
        if version["resources"].is_array() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(version["freshness"], "Current");
    assert_eq!(version["resources"][0]["resource"], "echoes", "{version}");
    let index = until(&server, "/openapi/v3", |_, d| {
        d["paths"]["apis/ext.example.com/v1"].is_object()
    })
    .await;
    let url = index["paths"]["apis/ext.example.com/v1"]["serverRelativeURL"].as_str();
    let (code, document) = get(&server, url.expect("a URL")).await;
    assert_eq!((code, document), (200, json!({"openapi": "3.0.0"})));
    let document = until(&server, "/openapi/v2", |_, d| {
        d["definitions"]["Echo"].is_object()
    })
    .await;
    assert!(document["definitions"].get("Other").is_none());
    let path = &document["paths"]["/apis/ext.example.com/v1/echoes"];
    // The name means something else here, so that server's parameter has another one.
    let parameters = json!([{"$ref": "#/parameters/watch_v2"}, {"$ref": "#/parameters/deep-1"}]);
    assert_eq!(path["parameters"], parameters);
    assert_eq!(document["parameters"]["watch_v2"]["type"], "string");
    assert_eq!(document["parameters"]["watch"]["type"], "boolean");
    assert_eq!(document["parameters"]["deep-1"]["name"], "deep");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_metrics_takes_the_place_of_the_own_one() {
    let (server, ca) = front().await;
    let outside = register(&server, &ca).await;
    let own = "/apis/metrics.k8s.io/v1beta1/nodes";
    let (code, list) = get(&server, own).await;
    assert_eq!((code, &list["kind"]), (200, &json!("NodeMetricsList")));
    // Beside it adapters of other metrics, which this server has none of.
    let custom = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/a/pods/*/rate";
    let external = "/apis/external.metrics.k8s.io/v1beta1/namespaces/a/length";
    assert_eq!(get(&server, custom).await.0, 404);
    for (group, version, path) in [
        ("metrics.k8s.io", "v1beta1", own),
        ("custom.metrics.k8s.io", "v1beta2", custom),
        ("external.metrics.k8s.io", "v1beta1", external),
    ] {
        let api = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{version}.{group}")},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": 100,
                "versionPriority": 100, "caBundle": outside.bundle,
                "service": {"namespace": "default", "name": "echo", "port": outside.port}}});
        let (code, made) = post(&server, SERVICES, api).await;
        assert_eq!(code, 201, "{made}");
        let said = until(&server, path, |code, _| code == 201).await;
        assert_eq!(
            (&said["path"], &said["method"]),
            (&json!(path), &json!("GET"))
        );
        assert_eq!(said["user"], json!(["tester"]), "{said}");
    }
    // When it goes, this server answers again.
    let service = format!("{SERVICES}/v1beta1.metrics.k8s.io");
    let (code, gone) = ask(&server, Method::DELETE, &service, Value::Null).await;
    assert_eq!(code, 200, "{gone}");
    let list = until(&server, own, |code, _| code == 200).await;
    assert_eq!(list["kind"], "NodeMetricsList");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_extension_server_harms_nobody_else() {
    let (server, ca) = front().await;
    let outside = register(&server, &ca).await;
    until(&server, &format!("{EXT}/echoes"), |code, _| code == 201).await;
    for _ in 0..3000 {
        if ext_version(&aggregated(&server).await)["freshness"] == "Current" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    outside.stop.cancel();
    // It is asked again when something changes beside it.
    let note = json!({"metadata": {"annotations": {"note": "changed"}}});
    let uri = "/api/v1/namespaces/default/services/echo";
    assert_eq!(ask(&server, Method::PATCH, uri, note).await.0, 200);
    let service = until(&server, SERVICE, |_, s| available(s)["status"] == "False").await;
    assert_eq!(available(&service)["reason"], "FailedDiscoveryCheck");
    let told = until(&server, &format!("{EXT}/echoes"), |code, said| {
        code == 503 && said.as_str() == Some("service unavailable\n")
    })
    .await;
    assert!(told.is_string());
    assert_eq!(get(&server, "/apis/apps/v1").await.0, 200);
    assert_eq!(get(&server, "/apis").await.0, 200);
    assert_eq!(get(&server, "/openapi/v3").await.0, 200);
    let mut version = Value::Null;
    for _ in 0..3000 {
        version = ext_version(&aggregated(&server).await);
        if version["freshness"] == "Stale" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(version["freshness"], "Stale");
    assert_eq!(
        version["resources"][0]["resource"], "echoes",
        "what it said last"
    );
    let line = "aggregator_unavailable_apiservice{name=\"v1.ext.example.com\"} 1";
    until(&server, "/metrics", |_, figures| {
        figures.as_str().is_some_and(|f| f.contains(line))
    })
    .await;

    // Without its Service it says so, and without its APIService the group is gone.
    assert_eq!(ask(&server, Method::DELETE, uri, Value::Null).await.0, 200);
    until(&server, SERVICE, |_, s| {
        available(s)["reason"] == "ServiceNotFound"
    })
    .await;
    assert_eq!(
        ask(&server, Method::DELETE, SERVICE, Value::Null).await.0,
        200
    );
    until(&server, &format!("{EXT}/echoes"), |code, said| {
        code == 404 && said["kind"] == "Status"
    })
    .await;
    until(&server, "/apis/ext.example.com", |code, _| code == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_passes_through() {
    let (server, ca) = front().await;
    let _outside = register(&server, &ca).await;
    until(&server, &format!("{EXT}/echoes"), |code, _| code == 201).await;

    let now = clock::Clock::system().seconds();
    let cluster = Ca::generate("cluster", now).expect("ca");
    let local = "127.0.0.1".parse().expect("ip");
    let serving = cluster.issue(&Subject::server("kube", &[], &[local]), now, 1);
    let admin = cluster.issue(&Subject::client("jo", &["system:masters"]), now, 1);
    let trusted = cluster.pair.cert_pem.as_str();
    let tls = wire::tls::server_config(&serving.expect("pair"), Some(trusted)).expect("tls");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let address = listener.local_addr().expect("address");
    let stop = CancellationToken::new();
    let serve = server.clone();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = serve.serve(listener, tls) => {}
            () = stop.cancelled() => {}
        }
    });
    let client = wire::tls::client_config(trusted, Some(&admin.expect("pair")), &["http/1.1"]);
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client.expect("tls")));
    let name = "127.0.0.1".try_into().expect("name");
    let mut io = connector.connect(name, socket).await.expect("TLS");
    let asked = format!(
        "GET {EXT}/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: words\r\n\r\n"
    );
    io.write_all(asked.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    io.write_all(b"there").await.expect("sent");
    let mut back = [0; 5];
    io.read_exact(&mut back).await.expect("and back");
    assert_eq!(&back, b"there");
}
