//! What a client may make this server say to others: extension servers and webhooks hear of a
//! request what this server says, as one request, and never what a client hid in it. Webhooks may be
//! anywhere, this server included, as upstream.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use std::sync::Arc;
use std::time::Duration;

use apiserver::UserInfo;
use apiserver::filters::authn::ClientCertificates;
use apiserver::filters::authz::AlwaysAllow;
use apiserver::settings::FrontProxy;
use base64::Engine;
use bytes::Bytes;
use common::outside::{self, Outside};
use common::{ask, get, post};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;
use wire::pki::{Ca, Pair, Subject};
use wire::serve::RequestBody;

const EXT: &str = "/apis/ext.example.com/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// All that the server outside was asked, in order.
type Seen = Arc<Mutex<Vec<Value>>>;

struct Running {
    tls: over_tls::Running,
    pair: Pair,
    outside: Outside,
    seen: Seen,
}

/// An extension server and webhook: it writes down what it hears, and agrees.
async fn hear(seen: &Seen, request: Request<RequestBody>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("body").to_bytes();
    let mut headers = Map::new();
    for (name, value) in &head.headers {
        let all = headers.entry(name.as_str()).or_insert_with(|| json!([]));
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        all.as_array_mut().expect("an array").push(text.into());
    }
    seen.lock().push(json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(|p| p.as_str()),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }));
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "response": {"uid": review["request"]["uid"], "allowed": true},
    });
    let mut response = Response::new(Full::from(said.to_string()));
    let media = "application/json".parse().expect("media");
    response.headers_mut().insert("content-type", media);
    response
}

async fn start() -> Running {
    let tls = over_tls::start(|config| {
        config.authenticators = vec![Arc::new(ClientCertificates::default())];
        config.authorizers = vec![Arc::new(AlwaysAllow)];
        let now = config.settings.clock.seconds();
        let ca = Ca::generate("front-proxy-ca", now).expect("ca");
        let pair = ca.issue(&Subject::client(FrontProxy::NAME, &[]), now, 1);
        config.settings.front_proxy = Some(FrontProxy {
            ca_pem: ca.pair.cert_pem.clone(),
            pair: pair.expect("pair"),
        });
    })
    .await;
    let seen = Seen::default();
    let all = seen.clone();
    let handle = move |request: Request<RequestBody>| {
        let all = all.clone();
        async move { hear(&all, request).await }
    };
    let outside = outside::start("echo.default.svc", None, handle).await;
    let client = Subject::client("jane", &["people"]);
    let pair = tls.ca.issue(&client, tls.now, 1).expect("pair");
    Running {
        tls,
        pair,
        outside,
        seen,
    }
}

impl Running {
    /// Makes the server outside an extension server, and waits until it is asked.
    async fn register(&self) {
        let s = &self.tls.server;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo"},
            "spec": {"type": "ExternalName", "externalName": "localhost"}});
        let (code, made) = post(s, "/api/v1/namespaces/default/services", service).await;
        assert_eq!(code, 201, "{made}");
        let api = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1.ext.example.com"},
            "spec": {"group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000,
                "versionPriority": 10, "caBundle": self.outside.bundle,
                "service": {"namespace": "default", "name": "echo", "port": self.outside.port}}});
        let services = "/apis/apiregistration.k8s.io/v1/apiservices";
        let (code, made) = post(s, services, api).await;
        assert_eq!(code, 201, "{made}");
        let mut last = (0, Value::Null);
        for _ in 0..3000 {
            last = get(s, &format!("{EXT}/echoes")).await;
            if last.0 == 200 {
                self.heard();
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{last:?}");
    }

    /// A webhook that is asked of the creation of maps.
    async fn hook(&self, name: &str, url: &str, bundle: &str, rules: Value) {
        let body = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration", "metadata": {"name": name},
            "webhooks": [{
                "name": format!("{name}.example.com"), "timeoutSeconds": 10,
                "clientConfig": {"url": url, "caBundle": bundle},
                "sideEffects": "None", "admissionReviewVersions": ["v1"], "rules": rules,
            }],
        });
        let (code, made) = post(&self.tls.server, HOOKS, body).await;
        assert_eq!(code, 201, "{url}: {made}");
    }

    /// What was asked of things and of webhooks since the last time, without what this server asks
    /// for itself.
    fn heard(&self) -> Vec<Value> {
        let mut all = std::mem::take(&mut *self.seen.lock());
        all.retain(|said| {
            let path = said["path"].as_str().unwrap_or_default();
            ["echoes", "smuggled", "hook"]
                .iter()
                .any(|word| path.contains(word))
        });
        all
    }

    /// Sends bytes on a connection of its own; gives the first answer's code.
    async fn bytes(&self, request: &str) -> u16 {
        let ca = &self.tls.ca.pair.cert_pem;
        let tls = wire::tls::client_config(ca, Some(&self.pair), &["http/1.1"]).expect("tls");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let address = self.tls.url.trim_start_matches("https://");
        let socket = TcpStream::connect(address).await.expect("connect");
        let name = ServerName::try_from("127.0.0.1").expect("name");
        let io = connector.connect(name, socket).await.expect("handshake");
        let (mut read, mut write) = tokio::io::split(io);
        let sending = async {
            // The server may have seen enough.
            let _ = write.write_all(request.as_bytes()).await;
        };
        let mut answer = Vec::new();
        let reading = async {
            // A reset after the answer is not a fault.
            let _ = read.read_to_end(&mut answer).await;
        };
        tokio::join!(sending, reading);
        let text = String::from_utf8_lossy(&answer);
        let code = text.split(' ').nth(1).and_then(|c| c.parse().ok());
        code.unwrap_or_else(|| panic!("no answer: {text:?}"))
    }
}

/// Claims that nobody but this server may make.
const FORGED: &str = "x-remote-user: admin\r\nX-Remote-Group: system:masters\r\nx-remote-uid: 0\r\n\
    x-remote-extra-scopes: all\r\nauthorization: Basic eDp5\r\nproxy-authorization: Basic eDp5\r\n\
    cookie: a=b\r\nx-evil: yes\r\nx-forwarded-for: 192.0.2.7\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_server_hears_who_asks_from_this_server_alone() {
    let r = start().await;
    r.register().await;
    for connection in [
        "close",
        "close, X-Remote-User, X-Remote-Group, Authorization",
        "close\r\nconnection: x-remote-user\r\nkeep-alive: timeout=5",
    ] {
        let request = format!(
            "GET {EXT}/echoes/a HTTP/1.1\r\nhost: x\r\n{FORGED}connection: {connection}\r\n\r\n"
        );
        assert_eq!(r.bytes(&request).await, 200, "{connection}");
        let heard = r.heard();
        assert_eq!(heard.len(), 1, "{heard:?}");
        let headers = &heard[0]["headers"];
        assert_eq!(headers["x-remote-user"], json!(["jane"]), "{headers}");
        let groups = json!(["people", "system:authenticated"]);
        assert_eq!(headers["x-remote-group"], groups, "{headers}");
        let forwarded = json!(["192.0.2.7, 127.0.0.1"]);
        assert_eq!(headers["x-forwarded-for"], forwarded, "{headers}");
        for gone in [
            "x-remote-uid",
            "x-remote-extra-scopes",
            "authorization",
            "proxy-authorization",
            "keep-alive",
        ] {
            assert!(headers[gone].is_null(), "{gone}: {headers}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_server_hears_one_request_for_one() {
    let r = start().await;
    r.register().await;
    let hidden = format!("GET {EXT}/smuggled HTTP/1.1\r\nhost: x\r\n\r\n");
    let length = hidden.len();
    let chunked = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    for (headers, body, code) in [
        // Chunks count, and no length beside them; as upstream.
        (
            "content-length: 4\r\ntransfer-encoding: chunked".to_owned(),
            &chunked,
            200,
        ),
        (
            "transfer-encoding: chunked\r\ncontent-length: 4".to_owned(),
            &chunked,
            200,
        ),
        (
            "transfer-encoding: chunked\r\nconnection: transfer-encoding, content-length"
                .to_owned(),
            &chunked,
            200,
        ),
        (
            format!("content-length: {length}\r\ncontent-length: {length}"),
            &hidden,
            200,
        ),
        (
            format!("content-length: 4\r\ncontent-length: {length}"),
            &hidden,
            400,
        ),
        (
            format!("content-length: {length}\r\nx-a: b\rx-remote-user: admin"),
            &hidden,
            400,
        ),
        (
            format!("content-length: {length}\r\nx-a: b\0c"),
            &hidden,
            400,
        ),
    ] {
        let request = format!(
            "POST {EXT}/echoes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n\r\n{body}"
        );
        assert_eq!(r.bytes(&request).await, code, "{headers}");
        let heard = r.heard();
        if code == 200 {
            assert_eq!(heard.len(), 1, "{headers}: {heard:?}");
            assert_eq!(heard[0]["body"], json!(hidden), "{headers}");
            assert_eq!(heard[0]["headers"]["x-remote-user"], json!(["jane"]));
        } else {
            assert_eq!(heard.len(), 0, "{headers}: {heard:?}");
        }
    }
    // A name that would be two headers says nothing at all; upstream's client refuses it, too.
    let user = UserInfo::new("a\r\nx-remote-group: system:masters", &[]);
    let asked = common::request(Method::GET, &format!("{EXT}/echoes"), common::JSON, "");
    let answer = r.tls.server.local_service(user).oneshot(asked).await;
    assert_eq!(answer.expect("infallible").status(), 503);
    assert_eq!(r.heard().len(), 0);
}

/// As upstream: written again from what was read here, so that both read the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_extension_server_hears_the_path_that_was_authorized() {
    let r = start().await;
    r.register().await;
    for (came, sent) in [
        (
            "/namespaces/a/echoes/x%2Fstatus",
            "/namespaces/a/echoes/x/status",
        ),
        ("/echoes/../y", "/echoes/../y"),
        ("/echoes/%2e%2e/y", "/echoes/../y"),
        ("/echoes/%252e%252e%252fy", "/echoes/%252e%252e%252fy"),
        ("/echoes/a%0d%0ab%3fc", "/echoes/a%0D%0Ab%3Fc"),
        ("/echoes?a=%2e%2e", "/echoes?a=%2e%2e"),
    ] {
        let request = format!("GET {EXT}{came} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert_eq!(r.bytes(&request).await, 200, "{came}");
        let heard = r.heard();
        assert_eq!(heard.len(), 1, "{came}: {heard:?}");
        assert_eq!(heard[0]["path"], json!(format!("{EXT}{sent}")), "{came}");
    }
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

fn creations_of_maps() -> Value {
    json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["configmaps"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_hears_no_header_of_a_client() {
    let r = start().await;
    let url = format!("https://127.0.0.1:{}/hook", r.outside.port);
    let rules = json!([creations_of_maps()]);
    r.hook("a", &url, &r.outside.bundle, rules).await;
    let body = map("m").to_string();
    let request = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{FORGED}content-type: {}\r\ncontent-length: {}\r\n\r\n{body}",
        common::JSON,
        body.len()
    );
    assert_eq!(r.bytes(&request).await, 201);
    let heard = r.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    let headers = heard[0]["headers"].as_object().expect("headers");
    for name in headers.keys() {
        let own = [
            "accept",
            "accept-encoding",
            "content-length",
            "content-type",
            "host",
            "traceparent",
            "tracestate",
            "user-agent",
        ];
        assert!(own.contains(&name.as_str()), "{name}: {headers:?}");
    }
    let review = heard[0]["body"].as_str().expect("a body");
    let review: Value = serde_json::from_str(review).expect("JSON");
    assert_eq!(review["request"]["userInfo"]["username"], "jane");
}

/// Who may register webhooks may name any place, as upstream; one that leads back here fails like any
/// other, and can be taken away, since webhooks are not asked of webhooks.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_may_be_anywhere_and_leads_round_no_circle() {
    let r = start().await;
    let s = &r.tls.server;
    let nothing = json!([{"apiGroups": ["none.example.com"], "apiVersions": ["v1"],
        "operations": ["CREATE"], "resources": ["nothings"]}]);
    for (at, url) in [
        "https://127.0.0.1/",
        "https://localhost:6443/",
        "https://[::1]:8443/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/",
        "https://kubernetes.default.svc/",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("w{at}");
        r.hook(&name, url, "", nothing.clone()).await;
    }
    let ca = &r.tls.ca.pair.cert_pem;
    let bundle = base64::engine::general_purpose::STANDARD.encode(ca);
    let own = format!("{}{MAPS}", r.tls.url);
    let all = json!([creations_of_maps(), {"apiGroups": ["admissionregistration.k8s.io"],
        "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]);
    r.hook("own", &own, &bundle, all).await;
    let (code, status) = post(s, MAPS, map("m")).await;
    assert_eq!((code, &status["reason"]), (500, &json!("InternalError")));
    let said = status["message"].as_str().unwrap_or_default();
    let start = "Internal error occurred: failed calling webhook \"own.example.com\": ";
    assert!(said.starts_with(start), "{said}");
    assert_eq!(get(s, &format!("{MAPS}/m")).await.0, 404);
    let hook = format!("{HOOKS}/own");
    assert_eq!(ask(s, Method::DELETE, &hook, Value::Null).await.0, 200);
    assert_eq!(post(s, MAPS, map("m")).await.0, 201);
}
