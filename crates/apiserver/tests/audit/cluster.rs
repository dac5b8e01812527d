//! A server with an audit log, that log, and ways to ask the server over TLS.

use std::path::PathBuf;
use std::sync::Arc;

use apiserver::audit::log::{LogFile, Rotation};
use apiserver::audit::policy::Policy;
use apiserver::audit::sink::Mode;
use apiserver::audit::{Feed, Plan, QUEUE};
use apiserver::filters::tokens::Tokens;
use apiserver::{ApiServer, Config, admission};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use wire::jwt::Signer;
use wire::pki::{Ca, Subject};

use crate::common;

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// A server that is asked over TLS, and its audit log.
pub struct Cluster {
    pub server: ApiServer,
    port: u16,
    ca: Ca,
    now: i64,
    pub log: PathBuf,
    _dir: tempfile::TempDir,
}

pub fn feed(mode: Mode) -> Feed {
    Feed {
        mode,
        queue: QUEUE,
        truncate: None,
    }
}

pub async fn cluster(policy: &str) -> Cluster {
    cluster_with(policy, feed(Mode::Blocking)).await
}

pub async fn cluster_with(policy: &str, feed: Feed) -> Cluster {
    let clock = clock::Clock::system();
    let dir = tempfile::tempdir().expect("dir");
    let log = dir.path().join("audit.log");
    let rotation = Rotation {
        max_size_mib: 0,
        max_backups: 0,
        max_age_days: 0,
    };
    let file = LogFile::open(&log, rotation, clock).expect("log");
    let plan = Plan::new(Policy::read(policy.as_bytes()).expect("policy"));
    started(plan.with_log(file, feed), log, dir).await
}

pub async fn started(plan: Plan, log: PathBuf, dir: tempfile::TempDir) -> Cluster {
    let clock = clock::Clock::system();
    let now = clock.seconds();
    let ca = Ca::generate("test", now).expect("ca");
    let ip = "127.0.0.1".parse().expect("ip");
    let subject = Subject::server("apiserver", &["localhost"], &[ip]);
    let pair = ca.issue(&subject, now, 1).expect("pair");
    let tls = wire::tls::server_config(&pair, Some(&ca.pair.cert_pem)).expect("tls");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let port = listener.local_addr().expect("address").port();
    let (signer, _) = Signer::generate().expect("key");
    let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
    let mut config = Config::new(ip, port, clock, clock::Random::system())
        .secured(tokens, &admission::Options::default());
    config.audit = Some(plan);
    let server = common::server_with(config).await;
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, tls).await });
    Cluster {
        server,
        port,
        ca,
        now,
        log,
        _dir: dir,
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

impl Cluster {
    /// A connection, as a user of a client certificate; as nobody without a name.
    async fn connect(&self, user: &str, groups: &[&str]) -> Sender {
        let subject = Subject::client(user, groups);
        let pair = self.ca.issue(&subject, self.now, 1).expect("pair");
        let pair = (!user.is_empty()).then_some(&pair);
        let ca = &self.ca.pair.cert_pem;
        let tls = wire::tls::client_config(ca, pair, &["http/1.1"]).expect("tls");
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port))
            .await
            .expect("tcp");
        let name = "localhost".try_into().expect("name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let stream = connector.connect(name, stream).await.expect("tls");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .expect("http");
        tokio::spawn(async move {
            // It ends with the test.
            let _ = connection.await;
        });
        sender
    }

    pub async fn send(
        &self,
        (user, groups): (&str, &[&str]),
        headers: &[(&str, &str)],
        method: Method,
        uri: &str,
        body: Value,
    ) -> Response<hyper::body::Incoming> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "localhost")
            .header("user-agent", "test/1");
        if !headers.iter().any(|(k, _)| *k == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).expect("request");
        let mut sender = self.connect(user, groups).await;
        sender.send_request(request).await.expect("answer")
    }

    pub async fn admin(&self, method: Method, uri: &str, body: Value) -> (u16, Value) {
        let response = self.send(ADMIN, &[], method, uri, body).await;
        let code = response.status().as_u16();
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("body")
            .to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// All events so far of requests whose number is this; back ends that block have them all. The
    /// last line may be just being written: it counts once its end is there.
    pub fn events(&self, id: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).expect("log");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let all = whole
            .lines()
            .map(|l| serde_json::from_str(l).expect("json"));
        all.filter(|e: &Value| e["auditID"] == id).collect()
    }

    /// Waits for the events of streams, whose ends nobody waits for.
    pub async fn awaited(&self, id: &str, count: usize) -> Vec<Value> {
        loop {
            let events = self.events(id);
            if events.len() >= count {
                return events;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

pub const ADMIN: (&str, &[&str]) = ("ann", &["system:masters"]);

pub fn all(level: &str) -> String {
    format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{{level: {level}}}]\n")
}

pub fn map(name: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"a": "b"}})
}
