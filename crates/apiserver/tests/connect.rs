//! exec, logs and refusals through the API server to a kubelet, over TLS on both sides. The
//! kubelet is a stand-in that speaks both transports and knows two commands.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::dialer::Dialer;
use apiserver::filters::authn::ClientCertificates;
use apiserver::filters::authz::Masters;
use apiserver::subresources::connect::Kubelets;
use bytes::Bytes;
use common::{ask, get, post};
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::stream::remote::{self, Outcome, RequestedStreams};
use wire::stream::upgrade::{self, UpgradeError, UpgradeRequest};
use wire::stream::websocket;

const PIPES: RequestedStreams = RequestedStreams {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

struct Cluster {
    server: ApiServer,
    ca: Ca,
    now: i64,
    address: String,
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    (listener, port)
}

async fn cluster() -> Cluster {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("test", now).expect("ca");
    let local = "127.0.0.1".parse().expect("ip");
    let serving = |name: &str| {
        let pair = ca
            .issue(&Subject::server(name, &[], &[local]), now, 1)
            .expect("pair");
        wire::tls::server_config(&pair, Some(&ca.pair.cert_pem)).expect("tls")
    };
    let (kubelet, kubelet_port) = listen().await;
    tokio::spawn(wire::serve::serve(
        kubelet,
        serving("node"),
        answer,
        CancellationToken::new(),
    ));
    let subject = Subject::client("apiserver-kubelet-client", &["system:masters"]);
    let pair = ca.issue(&subject, now, 1).expect("pair");
    let (listener, port) = listen().await;
    let mut config = common::config_at("192.0.2.1", port);
    config.authenticators = vec![Arc::new(ClientCertificates::default())];
    config.authorizers = vec![Arc::new(Masters)];
    let dialer = Dialer::new(&pair, &ca.pair.cert_pem, false).expect("tls");
    config.connect = Some(Kubelets::new(Arc::new(dialer)));
    let server = common::server_with(config).await;
    let (running, tls) = (server.clone(), serving("apiserver"));
    tokio::spawn(async move { running.serve(listener, tls).await });
    let cluster = Cluster {
        server,
        address: format!("127.0.0.1:{port}"),
        ca,
        now,
    };
    cluster.fill(kubelet_port).await;
    cluster
}

impl Cluster {
    async fn fill(&self, kubelet_port: u16) {
        let s = &self.server;
        let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}});
        assert_eq!(post(s, "/api/v1/nodes", node).await.0, 201);
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
        }});
        let patched = ask(s, Method::PATCH, "/api/v1/nodes/n/status", status).await;
        assert_eq!(patched.0, 200, "{}", patched.1);
        for (name, node, containers) in [
            ("one", "n", vec!["a"]),
            ("two", "n", vec!["a", "b"]),
            ("nowhere", "", vec!["a"]),
        ] {
            let containers: Vec<Value> = containers
                .iter()
                .map(|c| json!({"name": c, "image": "x"}))
                .collect();
            let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name},
                "spec": {"containers": containers}});
            if !node.is_empty() {
                pod["spec"]["nodeName"] = node.into();
            }
            let made = post(s, "/api/v1/namespaces/default/pods", pod).await;
            assert_eq!(made.0, 201, "{}", made.1);
        }
        // Proxies look where the cache has it.
        assert_eq!(get(s, "/api/v1/nodes/n").await.0, 200);
    }

    async fn dial(&self, groups: &[&str]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let subject = Subject::client("somebody", groups);
        let pair = self.ca.issue(&subject, self.now, 1).expect("pair");
        let tls = wire::tls::client_config(&self.ca.pair.cert_pem, Some(&pair), &["http/1.1"]);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.expect("tls")));
        let socket = TcpStream::connect(&self.address).await.expect("server");
        let name = ServerName::try_from("127.0.0.1").expect("name");
        connector.connect(name, socket).await.expect("handshake")
    }

    async fn websocket(&self, path: &str) -> Result<remote::Client, UpgradeError> {
        let io = self.dial(&["system:masters"]).await;
        remote::connect_websocket(io, &self.address, &pod_path(path), PIPES).await
    }

    async fn spdy(&self, path: &str) -> Result<remote::Client, UpgradeError> {
        let io = self.dial(&["system:masters"]).await;
        remote::connect_spdy(io, &self.address, &pod_path(path), PIPES).await
    }

    /// The Status of a refused stream.
    async fn refused(&self, path: &str) -> Value {
        refusal(self.websocket(path).await)
    }
}

fn refusal(outcome: Result<remote::Client, UpgradeError>) -> Value {
    match outcome {
        Err(UpgradeError::Refused(_, body)) => serde_json::from_slice(&body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into()),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("not refused"),
    }
}

fn pod_path(path: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{path}")
}

/// The stand-in kubelet.
async fn answer(mut request: Request<wire::serve::RequestBody>) -> Response<Full<Bytes>> {
    let peer = request
        .extensions()
        .get::<wire::serve::Peer>()
        .expect("peer");
    assert!(
        !peer.certificates.is_empty(),
        "the API server shows who it is"
    );
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let text = |code: StatusCode, words: String| {
        let mut response = Response::new(Full::from(words));
        *response.status_mut() = code;
        response
    };
    match path.as_str() {
        "/containerLogs/default/one/a" => text(StatusCode::OK, format!("said with {query}\n")),
        "/containerLogs/default/two/b" => text(
            StatusCode::BAD_REQUEST,
            "container \"b\" in pod \"two\" is waiting".into(),
        ),
        _ if path.starts_with("/podTunnel/") => {
            let target = format!("{path}?{query}");
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let io = TokioIo::new(upgrading.await.expect("upgrade"));
                web(io, target).await;
            });
            wire::stream::tunnel::accept()
        }
        "/exec/default/one/a" | "/exec/default/two/b" => {
            assert!(
                query.starts_with("input=1&output=1&error=1&command="),
                "{query}"
            );
            let wish = UpgradeRequest::of(request.headers()).expect("wish");
            let protocol = remote::choose(&wish).expect("protocol");
            let response = wish.accept(&protocol);
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let io = TokioIo::new(upgrading.await.expect("upgrade"));
                run(
                    remote::serve(io, &wish, &protocol, PIPES)
                        .await
                        .expect("streams"),
                    &query,
                )
                .await;
            });
            response
        }
        _ => text(
            StatusCode::NOT_FOUND,
            format!("container not found (\"{path}\")"),
        ),
    }
}

/// The pod at the end of a tunnel: it answers which one was asked for, and what was asked; an
/// upgraded connection is sent back when it has ended.
async fn web<I: wire::stream::Io>(io: I, target: String) {
    let serve = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let target = target.clone();
        async move {
            let path = request.uri().to_string();
            if !wire::stream::upgrade::is_upgrade(request.headers()) {
                let text = format!("{target} {} {path}", request.method());
                return Ok::<_, std::convert::Infallible>(Response::new(Full::from(text)));
            }
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let io = TokioIo::new(upgrading.await.expect("upgrade"));
                let (mut from, mut to) = tokio::io::split(io);
                let mut all = Vec::new();
                from.read_to_end(&mut all).await.expect("to its end");
                to.write_all(&all).await.expect("sent");
                to.shutdown().await.expect("ended");
            });
            let mut answer: Response<Full<Bytes>> = Response::default();
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = answer.headers_mut();
            headers.insert("connection", "Upgrade".parse().expect("value"));
            headers.insert("upgrade", "echo".parse().expect("value"));
            Ok(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new();
    let connection = connection.serve_connection(TokioIo::new(io), serve);
    // The client may close first.
    let _ = connection.with_upgrades().await;
}

async fn run(mut server: remote::Server, query: &str) {
    let (mut input, mut output) = (
        server.stdin.take().expect("in"),
        server.stdout.take().expect("out"),
    );
    let outcome = if query.ends_with("command=cat") {
        tokio::io::copy(&mut input, &mut output)
            .await
            .expect("copy");
        Outcome::Success
    } else {
        Outcome::Exit(42)
    };
    server.stdout = Some(output);
    server.finish(&outcome).await;
}

async fn cat(mut client: remote::Client, bytes: usize) {
    let sent = vec![b'y'; bytes];
    let (mut input, mut output) = (
        client.stdin.take().expect("in"),
        client.stdout.take().expect("out"),
    );
    let mut got = Vec::new();
    let sending = async {
        input.write_all(&sent).await.expect("stdin");
        input.shutdown().await.expect("end of stdin");
    };
    let (_, read, status) = tokio::join!(sending, output.read_to_end(&mut got), client.status());
    read.expect("stdout");
    assert!(got == sent);
    assert_eq!(Outcome::read(&status), Outcome::Success);
}

const CAT: &str = "exec?stdin=true&stdout=true&stderr=true&command=cat";

#[tokio::test]
async fn commands_run_over_both_transports() {
    let c = cluster().await;
    for bytes in [0, 3, 300_000] {
        cat(
            c.websocket(&format!("one/{CAT}")).await.expect("exec"),
            bytes,
        )
        .await;
        cat(
            c.spdy(&format!("one/{CAT}&container=a"))
                .await
                .expect("exec"),
            bytes,
        )
        .await;
        cat(
            c.spdy(&format!("two/{CAT}&container=b"))
                .await
                .expect("exec"),
            bytes,
        )
        .await;
    }
    let failing = "one/exec?stdin=true&stdout=true&stderr=true&command=false";
    for mut client in [
        c.websocket(failing).await.expect("exec"),
        c.spdy(failing).await.expect("exec"),
    ] {
        assert_eq!(Outcome::read(&client.status().await), Outcome::Exit(42));
    }
}

#[tokio::test]
async fn refusals_are_statuses() {
    let c = cluster().await;
    let cases = [
        ("missing", 404, "pods \"missing\" not found"),
        ("nowhere", 400, "pod nowhere does not have a host assigned"),
        (
            "two",
            400,
            "a container name must be specified for pod two, choose one of: [a b]",
        ),
    ];
    for (pod, code, message) in cases {
        let status = c.refused(&format!("{pod}/{CAT}")).await;
        assert_eq!(
            (&status["code"], &status["message"]),
            (&code.into(), &message.into())
        );
    }
    let status = c.refused(&format!("one/{CAT}&container=z")).await;
    assert_eq!(status["message"], "container z is not valid for pod one");
    // What the kubelet itself refuses comes as it said it.
    let message = c.refused(&format!("two/{CAT}&container=a")).await;
    assert_eq!(message, "container not found (\"/exec/default/two/a\")");
    let (code, status) = get(&c.server, &pod_path(&format!("one/{CAT}"))).await;
    assert_eq!(
        (code, &status["message"]),
        (400, &"Upgrade request required".into())
    );
    let stranger = c.dial(&[]).await;
    let path = pod_path(&format!("one/{CAT}"));
    let status = refusal(remote::connect_websocket(stranger, &c.address, &path, PIPES).await);
    assert_eq!(status["reason"], "Forbidden");
}

#[tokio::test]
async fn logs_are_streamed_through() {
    let c = cluster().await;
    let log = |path: &str| {
        let uri = pod_path(path);
        let server = c.server.clone();
        async move { get(&server, &uri).await }
    };
    assert_eq!(
        log("one/log?tailLines=3").await,
        (200, "said with tailLines=3\n".into())
    );
    let (code, status) = log("two/log").await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .is_some_and(|m| m.contains("choose one of: [a b]"))
    );
    let (code, status) = log("two/log?container=b").await;
    assert_eq!((code, &status["reason"]), (400, &"BadRequest".into()));
    assert_eq!(
        status["message"],
        "container \"b\" in pod \"two\" is waiting"
    );
    assert_eq!(log("nowhere/log").await.0, 204);
    assert_eq!(log("missing/log").await.0, 404);
    assert_eq!(log("one/log?tailLines=-1").await.0, 422);
}

/// The log as a WebSocket client reads it, with the chosen protocol; to the end of the connection.
async fn heard(c: &Cluster, path: &str, protocols: &[&str]) -> Result<Vec<Bytes>, UpgradeError> {
    let io = c.dial(&["system:masters"]).await;
    let asked = upgrade::ask_websocket(&c.address, &pod_path(path), protocols)?;
    let (_, io) = upgrade::request(io, asked).await?;
    let mut socket = websocket::open(io, websocket::Role::Client).await;
    let mut all = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_close() {
            all.push(message.into_data());
        }
    }
    Ok(all)
}

#[tokio::test]
async fn logs_come_over_websockets() {
    let c = cluster().await;
    let said = heard(&c, "one/log?tailLines=3", &["binary.k8s.io"]).await;
    assert_eq!(said.expect("log").concat(), b"said with tailLines=3\n");
    let said = heard(&c, "one/log?tailLines=3", &[]).await;
    assert_eq!(said.expect("log").concat(), b"said with tailLines=3\n");
    let said = heard(&c, "one/log", &["base64.binary.k8s.io"]).await;
    assert_eq!(said.expect("log").concat(), b"c2FpZCB3aXRoIAo=");
    for (path, protocol, want) in [
        ("missing/log", "binary.k8s.io", 404),
        ("two/log?container=b", "binary.k8s.io", 400),
        ("one/log", "v5.channel.k8s.io", 403),
    ] {
        match heard(&c, path, &[protocol]).await {
            Err(UpgradeError::Refused(head, _)) => assert_eq!(head.status, want, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn proxies_refuse_what_leads_to_the_servers_own_machine() {
    let c = cluster().await;
    let (code, status) = get(&c.server, "/api/v1/nodes/n/proxy/metrics").await;
    assert_eq!(
        (code, &status["message"]),
        (400, &"address not allowed".into())
    );
    let (code, _) = get(&c.server, "/api/v1/nodes/missing/proxy/metrics").await;
    assert_eq!(code, 404);
    let (code, _) = get(
        &c.server,
        "/api/v1/namespaces/default/services/https:kubernetes:x/proxy/",
    )
    .await;
    assert_eq!(code, 503);
}

impl Cluster {
    /// A pod with an address that nothing here has, of a Service with endpoints.
    async fn serve_pod(&self) -> String {
        let s = &self.server;
        let ns = "/api/v1/namespaces/default";
        let (code, pod) = get(s, &pod_path("one")).await;
        assert_eq!(code, 200);
        let status = json!({"status": {"podIP": "192.0.2.10", "podIPs": [{"ip": "192.0.2.10"}]}});
        let patched = ask(s, Method::PATCH, &pod_path("one/status"), status).await;
        assert_eq!(patched.0, 200, "{}", patched.1);
        let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"},
            "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080}]}});
        let made = post(s, &format!("{ns}/services"), service).await;
        assert_eq!(made.0, 201, "{}", made.1);
        let target = |name: &str| json!({"kind": "Pod", "namespace": "default", "name": name});
        let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
        "endpoints": [
            {"addresses": ["192.0.2.10"], "targetRef": target("one")},
            // Not the pod's address, no pod at all, and no pod of that name.
            {"addresses": ["192.0.2.11"], "targetRef": target("one")},
            {"addresses": ["192.0.2.12"]},
            {"addresses": ["192.0.2.10"], "targetRef": target("missing")},
        ]});
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let made = post(s, slices, slice).await;
        assert_eq!(made.0, 201, "{}", made.1);
        // Proxies look where the cache has it.
        assert_eq!(get(s, &format!("{slices}/s-1")).await.0, 200);
        pod["metadata"]["uid"].as_str().expect("uid").to_owned()
    }
}

#[tokio::test]
async fn pods_and_services_are_reached_through_the_kubelet() {
    let c = cluster().await;
    let uid = c.serve_pod().await;
    let reached = |path: &str| {
        let (server, path) = (
            c.server.clone(),
            format!("/api/v1/namespaces/default/{path}"),
        );
        async move { get(&server, &path).await }
    };
    let tunnel = |port: u16| format!("/podTunnel/default/one/{uid}?port={port}");
    for (path, port) in [
        ("pods/one/proxy/x?y=z", 80),
        ("pods/one:81/proxy/x?y=z", 81),
        ("pods/http:one:82/proxy/x?y=z", 82),
    ] {
        let expected = format!("{} GET /x?y=z", tunnel(port));
        assert_eq!(reached(path).await, (200, expected.into()), "{path}");
    }
    // Without a path only what a browser follows is sent to one; the rest goes through as it is.
    for method in ["DELETE", "OPTIONS", "PATCH", "POST", "PUT"] {
        for (path, port) in [("pods/one/proxy", 80), ("services/s:web/proxy", 8080)] {
            let method: Method = method.parse().expect("method");
            let path = format!("/api/v1/namespaces/default/{path}?a=b");
            let expected = format!("{} {method} /?a=b", tunnel(port));
            let answer = ask(&c.server, method, &path, Value::Null).await;
            assert_eq!(answer, (200, expected.into()), "{path}");
        }
    }
    for method in [Method::GET, Method::HEAD] {
        let (code, _) = ask(&c.server, method, &pod_path("one/proxy"), Value::Null).await;
        assert_eq!(code, 301);
    }
    // Whichever endpoint comes first, only the pod's own is used.
    for _ in 0..20 {
        for path in ["services/s:web/proxy/", "services/s:80/proxy/"] {
            let expected = format!("{} GET /", tunnel(8080));
            assert_eq!(reached(path).await, (200, expected.into()), "{path}");
        }
    }
    let (code, status) = reached("services/s:81/proxy/").await;
    assert_eq!(
        (code, &status["message"]),
        (503, &"no service port 81 found for service \"s\"".into())
    );
    // The stand-in's pod does not speak TLS.
    let (code, status) = reached("pods/https:one:443/proxy/").await;
    assert_eq!(
        (code, &status["reason"]),
        (503, &"ServiceUnavailable".into())
    );
}

/// As upstream: decoded once, joined without empty segments, `.` and `..`, and encoded again. Nothing
/// leads out of what a name was authorized for.
#[tokio::test]
async fn paths_to_a_pod_lead_nowhere_else() {
    let c = cluster().await;
    let uid = c.serve_pod().await;
    let tunnel = |port: u16| format!("/podTunnel/default/one/{uid}?port={port}");
    for (came, sent) in [
        ("../../../secrets/x", "/secrets/x"),
        ("%2e%2e/%2E%2E/x", "/x"),
        ("a/..%2f..%2fb", "/b"),
        ("a%2fb//c/", "/a/b/c/"),
        ("%252e%252e%252fx", "/%252e%252e%252fx"),
        ("a%00%0d%0aHost:%20evil", "/a%00%0D%0AHost:%20evil"),
        ("a%3fb?c=../d", "/a%3Fb?c=../d"),
    ] {
        for (of, port) in [("pods/one", 80), ("services/s:web", 8080)] {
            let path = format!("/api/v1/namespaces/default/{of}/proxy/{came}");
            let wanted = format!("{} GET {sent}", tunnel(port));
            let answer = get(&c.server, &path).await;
            assert_eq!(answer, (200, wanted.into()), "{path}");
        }
    }
    // Where the slashes are encoded it is the same path.
    let hidden = "/api/v1/namespaces/default/pods/one%2Fproxy%2Fx";
    let wanted = format!("{} GET /x", tunnel(80));
    assert_eq!(get(&c.server, hidden).await, (200, wanted.into()));
    for (path, code) in [
        ("pods/one:80:90/proxy/x", 400),
        ("pods/../proxy/x", 400),
        ("pods/..:80/proxy/x", 400),
        ("pods/http:%252e%252e:80/proxy/x", 400),
        ("services/../proxy/x", 400),
    ] {
        let path = format!("/api/v1/namespaces/default/{path}");
        let (got, status) = get(&c.server, &path).await;
        assert_eq!(got, code, "{path}: {status}");
    }
}

#[tokio::test]
async fn an_upgrade_to_a_pod_ends_each_way_by_itself() {
    let c = cluster().await;
    c.serve_pod().await;
    for path in ["pods/one:80/proxy/", "services/s:web/proxy/"] {
        let io = c.dial(&["system:masters"]).await;
        let request = Request::get(format!("/api/v1/namespaces/default/{path}"))
            .header("host", &c.address)
            .header("connection", "Upgrade")
            .header("upgrade", "echo")
            .body(())
            .expect("request");
        let upgraded = wire::stream::upgrade::request(io, request).await;
        let (_, mut io) = upgraded.expect("upgraded");
        let sent = vec![b'x'; 200_000];
        io.write_all(&sent).await.expect("sent");
        io.shutdown().await.expect("one way is ended");
        let mut back = Vec::new();
        io.read_to_end(&mut back).await.expect("the other goes on");
        assert!(back == sent, "{} bytes of {}", back.len(), sent.len());
    }
}
