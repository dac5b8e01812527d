//! The console's page through the whole pipeline: for anybody, whatever he shows, and nothing else
//! with it.

mod common;

use std::sync::Arc;

use apiserver::filters::tokens::Tokens;
use apiserver::{ApiServer, admission};
use common::server_with;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use wire::jwt::Signer;

async fn secured() -> ApiServer {
    let (signer, _) = Signer::generate().expect("key");
    let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
    let config =
        common::config_at("127.0.0.1", 6443).secured(tokens, &admission::Options::default());
    server_with(config).await
}

/// Code and bytes of an answer, as somebody from outside gets it.
async fn ask(server: &ApiServer, method: Method, path: &str, token: &str) -> (u16, Vec<u8>) {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(bytes::Bytes::new()));
    let response = server.handle(request.expect("request")).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.expect("body");
    (code, body.to_bytes().to_vec())
}

#[tokio::test]
async fn the_page_is_for_anybody_and_the_api_is_not() {
    let server = secured().await;
    for token in ["", "one.that.ended"] {
        let (code, page) = ask(&server, Method::GET, "/console/", token).await;
        assert_eq!(code, 200, "{token:?}");
        assert!(page.starts_with(b"<!doctype html>"));
    }
    // Who is not allowed in is not, beside the page or below it.
    for path in [
        "/api/v1/pods",
        "/console/../api/v1/pods",
        "/consoles",
        "/console/api/v1/pods",
    ] {
        let (code, _) = ask(&server, Method::GET, path, "").await;
        assert!(matches!(code, 401 | 403 | 404), "{path}: {code}");
    }
}

#[tokio::test]
async fn only_reading_is_answered_and_head_has_no_body() {
    let server = secured().await;
    let (code, body) = ask(&server, Method::HEAD, "/console/", "").await;
    assert_eq!((code, body.len()), (200, 0));
    let (code, _) = ask(&server, Method::POST, "/console/", "").await;
    assert_eq!(code, 405);
}
