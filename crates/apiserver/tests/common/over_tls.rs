//! A server with everything that guards a cluster, over TLS, and clients of it by certificate and by
//! token.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;

use apiserver::filters::tokens::Tokens;
use apiserver::{ApiServer, Config, admission};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use wire::jwt::Signer;
use wire::kubeconfig::Credential;
use wire::pki::{Ca, Pair, Subject};

pub const ISSUER: &str = "https://kubernetes.default.svc";

pub struct Running {
    pub server: ApiServer,
    pub url: String,
    pub ca: Ca,
    pub now: i64,
}

/// Starts a server whose configuration was changed.
pub async fn start(change: impl FnOnce(&mut Config)) -> Running {
    start_believing(None, change).await
}

/// As [`start`]; clients may also show certificates of another authority.
#[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
pub async fn start_believing(other: Option<&Ca>, change: impl FnOnce(&mut Config)) -> Running {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("test", now).expect("ca");
    let ip = "127.0.0.1".parse().expect("ip");
    let pair = ca.issue(&Subject::server("apiserver", &["localhost"], &[ip]), now, 1);
    let more = other.map_or("", |ca| &ca.pair.cert_pem);
    let authorities = format!("{}\n{more}", ca.pair.cert_pem);
    let tls = wire::tls::server_config(&pair.expect("pair"), Some(&authorities));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let port = listener.local_addr().expect("address").port();
    let (signer, _) = Signer::generate().expect("key");
    let mut config = Config::new(
        "127.0.0.1".parse().expect("ip"),
        port,
        clock::Clock::system(),
        clock::Random::system(),
    )
    .secured(
        Tokens::new(Arc::new(signer), ISSUER),
        &admission::Options::default(),
    );
    change(&mut config);
    let server = crate::common::server_with(config).await;
    let serving = server.clone();
    let tls = tls.expect("tls");
    tokio::spawn(async move { serving.serve(listener, tls).await });
    Running {
        server,
        url: format!("https://127.0.0.1:{port}"),
        ca,
        now,
    }
}

impl Running {
    async fn client(&self, credential: Credential<'_>) -> kube::Client {
        let text = wire::kubeconfig::Kubeconfig {
            name: "test",
            server: &self.url,
            ca_pem: &self.ca.pair.cert_pem,
            credential,
        }
        .to_yaml();
        let file = Kubeconfig::from_yaml(&text).expect("kubeconfig");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options);
        kube::Client::try_from(config.await.expect("config")).expect("client")
    }

    /// As whoever a token names.
    pub async fn with_token(&self, token: &str) -> kube::Client {
        self.client(Credential::Token(token)).await
    }

    /// As a user with a certificate.
    pub async fn as_user(&self, user: &str, groups: &[&str]) -> kube::Client {
        let pair = self.ca.issue(&Subject::client(user, groups), self.now, 1);
        self.with_pair(&pair.expect("pair")).await
    }

    pub async fn with_pair(&self, pair: &Pair) -> kube::Client {
        self.client(Credential::Certificate(pair)).await
    }

    pub async fn admin(&self) -> kube::Client {
        self.as_user("admin", &["system:masters"]).await
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let request = Request::get("/metrics").body(Vec::new()).expect("request");
        self.admin()
            .await
            .request_text(request)
            .await
            .expect("metrics")
    }
}

/// Asks; gives code and body.
pub async fn ask(client: &kube::Client, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let body = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body)
        .expect("request");
    match client.request::<Value>(request).await {
        Ok(value) => (200, value),
        Err(kube::Error::Api(status)) => {
            let value = json!({ "message": status.message, "reason": status.reason });
            (status.code, value)
        }
        Err(e) => panic!("{path}: {e}"),
    }
}

/// Whom the server takes a client for.
pub async fn who(client: &kube::Client) -> (u16, Value) {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, said) = ask(client, Method::POST, path, &review).await;
    (code, said["status"]["userInfo"].clone())
}

/// An answer as it came.
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// Asks as the administrator, with these headers and nothing else.
pub async fn plain(
    running: &Running,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    use http_body_util::BodyExt;
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(kube::client::Body::empty()).expect("request");
    let client = running.admin().await;
    let answer = client.send(request).await.expect("an answer");
    let (head, body) = answer.into_parts();
    let body = body.collect().await.expect("a body").to_bytes().to_vec();
    Answer {
        code: head.status.as_u16(),
        headers: head.headers,
        body,
    }
}
