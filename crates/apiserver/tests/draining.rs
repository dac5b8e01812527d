//! The end of a server, over TLS: its door closes, what runs is answered as ever, watches end.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use access::{Attributes, Decision};
use apiserver::admission::{Options, standard};
use apiserver::state::Authorizer;
use apiserver::{ApiServer, State, UserInfo};
use bytes::Bytes;
use common::{JSON, memory, outside, post, request};
use futures::future::BoxFuture;
use http::header::RETRY_AFTER;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serve::RequestBody;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// A place at which a request is held: it says that it has come, and goes on when it may.
#[derive(Default)]
struct Gate {
    came: Notify,
    goes: Notify,
}

impl Gate {
    async fn pass(&self) {
        self.came.notify_one();
        self.goes.notified().await;
    }
}

/// Everybody may do everything, but lists of ConfigMaps are held.
struct HoldsLists(Arc<Gate>);

impl Authorizer for HoldsLists {
    fn authorize<'a>(
        &'a self,
        _: &'a State,
        _: &'a UserInfo,
        asked: &'a Attributes<'a>,
        _: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Decision> {
        let is_held = asked.verb == "list" && asked.resource == "configmaps";
        Box::pin(async move {
            if is_held {
                self.0.pass().await;
            }
            Decision::Allow(String::new())
        })
    }
}

/// A webhook that holds each write that it is asked about, and then allows it.
async fn webhook(gate: Arc<Gate>) -> outside::Outside {
    let handle = move |request: Request<RequestBody>| {
        let gate = gate.clone();
        async move {
            let body = request.into_body().collect().await.expect("body");
            let review: Value = serde_json::from_slice(&body.to_bytes()).expect("json");
            gate.pass().await;
            let said = json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"],
                "response": {"uid": review["request"]["uid"], "allowed": true}});
            Response::new(Full::<Bytes>::from(said.to_string()))
        }
    };
    outside::start("hook", None, handle).await
}

/// Who connects to a server.
struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

type Sender = SendRequest<Full<Bytes>>;

impl Client {
    async fn dial(&self) -> std::io::Result<Sender> {
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1").expect("name");
        let io = TokioIo::new(self.tls.connect(name, socket).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// Sends a request; its answer comes later.
fn begin(
    sender: &Sender,
    method: Method,
    path: &str,
    body: &'static str,
) -> JoinHandle<Response<Incoming>> {
    let request = request(method, &format!("https://127.0.0.1{path}"), JSON, body);
    let mut sender = sender.clone();
    tokio::spawn(async move { sender.send_request(request).await.expect("an answer") })
}

async fn read(answer: JoinHandle<Response<Incoming>>) -> (u16, Value) {
    let answer = answer.await.expect("an answer");
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("all of it");
    let value = serde_json::from_slice(&body.to_bytes()).expect("json");
    (code, value)
}

#[tokio::test]
async fn what_runs_is_answered_while_the_server_drains() {
    let (write, list) = (Arc::<Gate>::default(), Arc::<Gate>::default());
    let hook = webhook(write.clone()).await;
    let mut config = common::open_config();
    config.authorizers = vec![Arc::new(HoldsLists(list.clone()))];
    config.admission = standard(&Options::default());
    // Who asks here shows no credentials, and asks more than once on a connection.
    let gates = ["UnauthenticatedHTTP2DOSMitigation=false"];
    let features = registry::Features::read(&gates).expect("a known gate");
    config.settings.features = Arc::new(features);
    let stop = CancellationToken::new();
    let server = ApiServer::new(config, memory::Checked::new(), stop.clone())
        .await
        .expect("the store is readable");
    server.bootstrap().await.expect("first objects");
    let held = json!({"metadata": {"name": "held"}, "webhooks": [{
        "name": "held.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 30,
        "clientConfig": {"url": format!("https://127.0.0.1:{}/", hook.port),
            "caBundle": hook.bundle},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["secrets"]}]}]});
    let (code, said) = post(&server, WEBHOOKS, held).await;
    assert_eq!(code, 201, "{said}");

    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("test", now).expect("ca");
    let ip = "127.0.0.1".parse().expect("ip");
    let pair = ca.issue(&Subject::server("apiserver", &[], &[ip]), now, 1);
    let tls = wire::tls::server_config(&pair.expect("pair"), None).expect("tls");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    let served = server.clone();
    let serving = tokio::spawn(async move { served.serve(listener, tls).await });
    let tls = wire::tls::client_config(&ca.pair.cert_pem, None, &["h2"]).expect("tls");
    let tls = TlsConnector::from(Arc::new(tls));
    let client = Client { address, tls };
    let sender = client.dial().await.expect("a connection");

    let watch = begin(&sender, Method::GET, &format!("{MAPS}?watch=1"), "");
    let watch = watch.await.expect("a watch");
    assert_eq!(watch.status(), 200);
    let made = begin(
        &sender,
        Method::POST,
        SECRETS,
        r#"{"metadata": {"name": "held"}}"#,
    );
    write.came.notified().await;
    let newest = format!("{MAPS}?resourceVersion=");
    let listed = begin(&sender, Method::GET, &newest, "");
    list.came.notified().await;

    server.drain();
    while client.dial().await.is_ok() {}
    let frames = watch.into_body().collect().await;
    frames.expect("it ends, and is not cut off");
    let late = server.handle(request(Method::GET, "/version", JSON, ""));
    let late = late.await;
    assert_eq!(late.status(), 503);
    assert_eq!(late.headers()[RETRY_AFTER], "1");
    // The list waits until the cache has what was written meanwhile.
    let meanwhile = json!({"metadata": {"name": "meanwhile"}});
    let (code, said) = post(&server, MAPS, meanwhile).await;
    assert_eq!(code, 201, "{said}");
    list.goes.notify_one();
    let (code, found) = read(listed).await;
    assert_eq!(code, 200, "{found}");
    assert_eq!(found["items"][0]["metadata"]["name"], "meanwhile");
    assert!(!serving.is_finished());
    write.goes.notify_one();
    let (code, said) = read(made).await;
    assert_eq!(code, 201, "{said}");
    serving.await.expect("served");
    stop.cancel();
}
