//! A server for tests, and short ways to ask it.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod memory;
pub mod outside;
pub mod ships;

use std::path::Path;
use std::sync::Arc;

use apiserver::filters::authz::AlwaysAllow;
use apiserver::http::Body;
use apiserver::{ApiServer, Config, UserInfo};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub const JSON: &str = "application/json";

/// Puts a file in the place of another, so that whoever follows it never reads half of one.
pub fn replace_file(path: &Path, bytes: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).expect("file");
    std::fs::rename(&new, path).expect("in its place");
}

/// What every server of these tests begins with, at an address: nobody may do anything.
#[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
pub fn config_at(address: &str, port: u16) -> Config {
    let address = address.parse().expect("address");
    let (clock, random) = (clock::Clock::system(), clock::Random::system());
    Config::new(address, port, clock, random)
}

/// A server's at which everybody may do everything.
pub fn open_config() -> Config {
    let mut config = config_at("192.0.2.1", 6443);
    config.authorizers = vec![Arc::new(AlwaysAllow)];
    config
}

/// A server on a store in memory, with the objects that a cluster starts with.
pub async fn server() -> ApiServer {
    server_with(open_config()).await
}

pub async fn server_with(config: Config) -> ApiServer {
    let store = memory::Checked::new();
    let server = ApiServer::new(config, store, CancellationToken::new())
        .await
        .expect("the store is readable");
    server.bootstrap().await.expect("first objects");
    server
}

pub async fn send(server: &ApiServer, request: Request<Full<Bytes>>) -> Response<Body> {
    let user = UserInfo::new("tester", &["system:masters"]);
    server
        .local_service(user)
        .oneshot(request)
        .await
        .expect("infallible")
}

pub fn request(
    method: Method,
    uri: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", content_type)
        .header("user-agent", "test/1")
        .body(Full::new(body.into()))
        .expect("request")
}

/// Asks; gives code and JSON body.
pub async fn ask(server: &ApiServer, method: Method, uri: &str, body: Value) -> (u16, Value) {
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let content_type = if method == Method::PATCH {
        "application/merge-patch+json"
    } else {
        JSON
    };
    raw(server, request(method, uri, content_type, text)).await
}

pub async fn raw(server: &ApiServer, r: Request<Full<Bytes>>) -> (u16, Value) {
    let r = send(server, r).await;
    let code = r.status().as_u16();
    let bytes = r.into_body().collect().await.expect("body").to_bytes();
    let value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (code, value)
}

pub async fn get(server: &ApiServer, uri: &str) -> (u16, Value) {
    ask(server, Method::GET, uri, Value::Null).await
}

pub async fn post(server: &ApiServer, uri: &str, body: Value) -> (u16, Value) {
    ask(server, Method::POST, uri, body).await
}
