//! Calls to somebody outside, who answers on this machine: whom the server believes, what it keeps,
//! and what it makes of bad answers.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::egress::{Backend, Bounds, CallError, post};
use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serve::{Peer, RequestBody};

const BOUNDS: Bounds = Bounds {
    within: Duration::from_secs(30),
    answer_bytes: 1000,
};

/// Answers by its path; gives its port, the CA that its certificate is of, and whose connections
/// it has seen.
async fn outside() -> (u16, String, Arc<AtomicUsize>) {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("outside", now).expect("ca");
    let local = "127.0.0.1".parse().expect("ip");
    let serving = ca.issue(&Subject::server("hook", &[], &[local]), now, 1);
    let tls = wire::tls::server_config(&serving.expect("pair"), None).expect("tls");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    let peers = Arc::new(parking_lot::Mutex::new(std::collections::BTreeSet::new()));
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let handle = move |request: Request<RequestBody>| {
        let (peers, counted) = (peers.clone(), counted.clone());
        async move {
            let peer = request.extensions().get::<Peer>().expect("peer").addr;
            if peers.lock().insert(peer.port()) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("body").to_bytes();
            let query = head.uri.query().unwrap_or_default();
            let answer = |code: u16, text: String| {
                let mut response = Response::new(Full::from(text));
                *response.status_mut() = code.try_into().expect("code");
                response
            };
            match head.uri.path() {
                "/echo" => {
                    let body: Value = serde_json::from_slice(&body).expect("json");
                    let headers: Vec<&str> = head.headers.keys().map(|n| n.as_str()).collect();
                    let said = json!({"body": body, "query": query, "headers": headers});
                    answer(200, said.to_string())
                }
                "/large" => answer(200, "x".repeat(1001)),
                "/status" => {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "message": "not today", "reason": "Forbidden", "code": 403});
                    answer(403, status.to_string())
                }
                "/elsewhere" => {
                    let mut response = answer(307, String::new());
                    let to = format!("https://127.0.0.1:{port}/echo");
                    response
                        .headers_mut()
                        .insert("location", to.parse().expect("url"));
                    response
                }
                "/never" => std::future::pending().await,
                _ => answer(500, "out of order".into()),
            }
        }
    };
    tokio::spawn(wire::serve::serve(
        listener,
        tls,
        handle,
        CancellationToken::new(),
    ));
    (port, ca.pair.cert_pem.clone(), seen)
}

fn backend(url: &str, ca_pem: &str) -> Backend {
    let bundle = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    Backend::read(&json!({"url": url, "caBundle": bundle})).expect("a backend")
}

async fn said(server: &ApiServer, backend: &Backend, bounds: Bounds) -> Result<Value, String> {
    let body = Bytes::from_static(b"{\"a\":1}");
    let done = post(server.state(), backend, body, bounds).await;
    let answer = done.map_err(|e| e.to_string())?;
    Ok(serde_json::from_slice(&answer).expect("json"))
}

#[tokio::test]
async fn what_is_said_arrives_and_connections_are_kept() {
    let server = common::server().await;
    let (port, ca, seen) = outside().await;
    let backend = backend(&format!("https://127.0.0.1:{port}/echo"), &ca);
    const TIMES: usize = 6;
    for _ in 0..TIMES {
        let said = said(&server, &backend, BOUNDS).await.expect("an answer");
        let headers = [
            "content-type",
            "accept",
            "user-agent",
            "host",
            "content-length",
        ];
        assert_eq!(
            said,
            json!({"body": {"a": 1}, "query": "timeout=30s", "headers": headers})
        );
    }
    // A request may come before the last one's connection is back among those that are kept.
    let connections = seen.load(Ordering::Relaxed);
    assert!(connections < TIMES, "{connections}");
}

#[tokio::test]
async fn bad_answers_are_told_in_upstreams_words() {
    let server = common::server().await;
    let (port, ca, _) = outside().await;
    let text = async |path: &str, within: Duration| {
        let backend = backend(&format!("https://127.0.0.1:{port}{path}"), &ca);
        let bounds = Bounds { within, ..BOUNDS };
        said(&server, &backend, bounds)
            .await
            .expect_err("no success")
    };
    let soon = Duration::from_secs(30);
    assert_eq!(
        text("/broken", soon).await,
        "an error on the server (\"out of order\") has prevented the request from succeeding"
    );
    assert_eq!(text("/status", soon).await, "not today");
    assert_eq!(
        text("/elsewhere", soon).await,
        "the server responded with the status code 307 but did not return more information"
    );
    assert_eq!(
        text("/large", soon).await,
        format!(
            "Post \"https://127.0.0.1:{port}/large?timeout=30s\": the answer is larger than 1000 bytes"
        )
    );
    assert_eq!(
        // Room for a connection on a loaded machine.
        text("/never", Duration::from_secs(1)).await,
        format!("Post \"https://127.0.0.1:{port}/never?timeout=1s\": context deadline exceeded")
    );
}

#[tokio::test]
async fn strangers_are_not_believed() {
    let server = common::server().await;
    let (port, ca, _) = outside().await;
    let now = clock::Clock::system().seconds();
    let other = Ca::generate("other", now).expect("ca").pair.cert_pem;
    let strange = backend(&format!("https://127.0.0.1:{port}/echo"), &other);
    assert_eq!(
        said(&server, &strange, BOUNDS).await.expect_err("refused"),
        format!(
            "Post \"https://127.0.0.1:{port}/echo?timeout=30s\": tls: failed to verify certificate: x509: certificate signed by unknown authority"
        )
    );
    let misnamed = backend(&format!("https://localhost:{port}/echo"), &ca);
    let error = said(&server, &misnamed, BOUNDS).await.expect_err("refused");
    assert!(
        error.ends_with("x509: certificate is valid for 127.0.0.1, not localhost"),
        "{error}"
    );
    let nobody = Backend::read(&json!({"service": {"namespace": "n", "name": "s"}}));
    let error = said(&server, &nobody.expect("a backend"), BOUNDS).await;
    assert_eq!(
        error.expect_err("not there"),
        "Post \"https://s.n.svc:443/?timeout=30s\": service \"s\" not found"
    );
    let refused = Backend::read(&json!({"url": "http://127.0.0.1/", "caBundle": ""}));
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_server_that_went_away_is_reported() {
    let server = common::server().await;
    // Bound, so that nobody else gets the port, and not listened at.
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = "127.0.0.1:0".parse().expect("an address");
    socket.bind(any).expect("a port");
    let port = socket.local_addr().expect("address").port();
    let backend = backend(&format!("https://127.0.0.1:{port}/"), &outside().await.1);
    let body = Bytes::from_static(b"{}");
    let done = post(server.state(), &backend, body, BOUNDS).await;
    let error = done.expect_err("nobody there");
    assert!(matches!(error, CallError::Unreachable { .. }));
    let text = format!(
        "Post \"https://127.0.0.1:{port}/?timeout=30s\": dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    assert_eq!(error.to_string(), text);
}
