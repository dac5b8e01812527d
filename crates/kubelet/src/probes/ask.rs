//! One question to a container: by command, HTTP, TCP or gRPC.

use super::redirects::{self, ProbeUrl};
use crate::pod::env;
use host::cri::proto::grpc::health::v1::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use host::runtime::Runtime;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The most of an answer's body that is read, bytes; upstream's value.
const MAX_BODY: usize = 10 << 10;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All is well.
    Good,
    /// All is well, but somebody should know this.
    Warned(String),
    /// It answered badly or not at all.
    Bad(String),
    /// It could not be asked.
    Unknown(String),
}

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// For commands.
    pub runtime: &'a dyn Runtime,
    /// For names of ports.
    pub container: &'a Container,
    /// Id of the container.
    pub id: &'a str,
    /// Address of the pod.
    pub host: &'a str,
}

/// Asks once.
pub async fn probe(target: &Target<'_>, probe: &Probe, limit: Duration) -> Answer {
    if let Some(exec) = &probe.exec {
        let words = exec.command.as_deref().unwrap_or_default();
        return command(target, &expanded(words, target.container), limit).await;
    }
    let asked = async {
        if let Some(get) = &probe.http_get {
            http_get(target, get, PROBE).await
        } else if let Some(tcp) = &probe.tcp_socket {
            let host = tcp
                .host
                .as_deref()
                .filter(|h| !h.is_empty())
                .unwrap_or(target.host);
            match port(target.container, &tcp.port) {
                Ok(port) => connect(host, port)
                    .await
                    .map_or_else(Answer::Bad, |_| Answer::Good),
                Err(text) => Answer::Unknown(text),
            }
        } else if let Some(grpc) = &probe.grpc {
            health(target, grpc).await
        } else {
            Answer::Unknown("missing probe handler".into())
        }
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer,
        Err(_) => Answer::Bad(late(probe, target)),
    }
}

fn late(probe: &Probe, target: &Target<'_>) -> String {
    match &probe.http_get {
        Some(get) => format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            first(target, get).map_or_else(|text| text, |place| place.to_string())
        ),
        None => "timeout: failed to connect service within the timeout: context deadline exceeded"
            .into(),
    }
}

/// The words of a command with the container's own variables in them. Only those whose values the
/// spec says are known here; one whose value is elsewhere is empty, as upstream.
fn expanded(words: &[String], container: &Container) -> Vec<String> {
    let known = |name: &str| {
        let mut all = container.env.iter().flatten().rev();
        let found = all.find(|v| v.name == name)?;
        Some(found.value.clone().unwrap_or_default())
    };
    words.iter().map(|word| env::expand(word, known)).collect()
}

async fn command(target: &Target<'_>, command: &[String], limit: Duration) -> Answer {
    match target
        .runtime
        .exec_sync(target.id, command, Some(limit))
        .await
    {
        Ok(answer) if answer.exit_code == 0 => Answer::Good,
        Ok(answer) => {
            let mut text = answer.stdout;
            text.extend_from_slice(&answer.stderr);
            text.truncate(MAX_BODY);
            Answer::Bad(String::from_utf8_lossy(&text).into_owned())
        }
        Err(e) if e.is_timeout() => Answer::Bad(format!(
            "command {command:?} timed out after {}s",
            limit.as_secs()
        )),
        Err(e) => Answer::Unknown(e.to_string()),
    }
}

/// A port by number or by its name in the container.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_ref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| {
            format!(
                "couldn't find port: {port:?} in container {}",
                container.name
            )
        })
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|e| {
        let why = if e.kind() == std::io::ErrorKind::ConnectionRefused {
            "connection refused".to_owned()
        } else {
            e.to_string()
        };
        let at = api::host_port(host, port);
        format!("dial tcp {at}: connect: {why}")
    })
}

/// The most requests of one probe, as upstream: the first, and those that its answers lead to.
const MOST_REQUESTS: usize = 10;

/// What an HTTP probe asks first.
pub(super) fn first(target: &Target<'_>, get: &HTTPGetAction) -> Result<ProbeUrl, String> {
    let https = get.scheme.as_deref();
    let https = https.is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let host = get.host.as_deref().filter(|h| !h.is_empty());
    let port = port(target.container, &get.port)?;
    let path = get.path.as_deref().unwrap_or_default();
    Ok(ProbeUrl::new(
        https,
        host.unwrap_or(target.host),
        port,
        path,
    ))
}

/// As whom probes ask, where the action's headers say nothing of it; upstream's words.
pub const PROBE: &str = "kube-probe/1.36";
/// As whom hooks do.
pub const HOOK: &str = "kube-lifecycle/1.36";

/// GET with the action's headers, as some agent. Answers that lead elsewhere on the same host are
/// followed; of the last one any status from 200 to 299 is good, and one that leads to another host is
/// a warning.
pub async fn http_get(target: &Target<'_>, get: &HTTPGetAction, agent: &'static str) -> Answer {
    match first(target, get) {
        Ok(place) => follow(place, get, agent).await,
        Err(text) => Answer::Unknown(text),
    }
}

async fn follow(mut place: ProbeUrl, get: &HTTPGetAction, agent: &'static str) -> Answer {
    let host = place.host.clone();
    let mut is_relative = true;
    for _ in 0..MOST_REQUESTS {
        let failed = |text: String| Answer::Bad(format!("Get \"{place}\": {text}"));
        let request = match request((get, agent), &place, is_relative) {
            Ok(request) => request,
            Err(e) => return Answer::Unknown(e.to_string()),
        };
        let got = match once(&place, request).await {
            Ok(got) => got,
            Err(text) => return failed(text),
        };
        let leads_on = matches!(got.status, 301 | 302 | 303 | 307 | 308);
        let location = got
            .location
            .as_deref()
            .filter(|l| leads_on && !l.is_empty());
        let Some(location) = location else {
            return judge(&got);
        };
        let next = match place.follow(location) {
            Ok(next) => next,
            Err(text) => return failed(text),
        };
        if next.host != host {
            return judge(&got);
        }
        is_relative = redirects::scheme(location).is_none();
        place = next;
    }
    Answer::Bad(format!(
        "Get \"{place}\": stopped after {MOST_REQUESTS} redirects"
    ))
}

/// What of an HTTP answer counts.
struct Got {
    status: u16,
    location: Option<String>,
    body: Vec<u8>,
}

fn judge(got: &Got) -> Answer {
    match got.status {
        200..=299 => Answer::Good,
        300..=399 => {
            let body = String::from_utf8_lossy(&got.body);
            Answer::Warned(format!("Probe terminated redirects, Response body: {body}"))
        }
        status => Answer::Bad(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// One request: all of the action's headers, and others where it does not say them. A host that it
/// names is the one it is asked for (`own_host`), until an answer leads to a whole URL.
fn request(
    (get, agent): (&HTTPGetAction, &'static str),
    place: &ProbeUrl,
    own_host: bool,
) -> http::Result<Request<Empty<bytes::Bytes>>> {
    let mut request = Request::get(place.path.as_str())
        .header(header::CONNECTION, "close")
        .body(Empty::new())?;
    let headers = request.headers_mut();
    for wanted in get.http_headers.iter().flatten() {
        let name = HeaderName::from_bytes(wanted.name.as_bytes())?;
        headers.try_append(name, HeaderValue::from_str(&wanted.value)?)?;
    }
    let named = headers.remove(header::HOST);
    let host = match named.filter(|h| own_host && !h.is_empty()) {
        Some(host) => host,
        None => HeaderValue::from_str(&api::host_port(&place.host, place.port))?,
    };
    headers.insert(header::HOST, host);
    if !headers.contains_key(header::USER_AGENT) {
        let agent = HeaderValue::from_static(agent);
        headers.insert(header::USER_AGENT, agent);
    }
    match headers.get(header::ACCEPT).map(HeaderValue::is_empty) {
        None => drop(headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"))),
        Some(true) => drop(headers.remove(header::ACCEPT)),
        Some(false) => {}
    }
    Ok(request)
}

async fn once(place: &ProbeUrl, request: Request<Empty<bytes::Bytes>>) -> Result<Got, String> {
    let stream = connect(&place.host, place.port).await?;
    if place.https {
        let stream = unverified_tls(&place.host, stream).await;
        let why = |e: std::io::Error| match is_plain(&e) {
            true => PLAIN.to_owned(),
            false => e.to_string(),
        };
        send(stream.map_err(why)?, request).await
    } else {
        send(stream, request).await
    }
}

async fn send<S>(stream: S, request: Request<Empty<bytes::Bytes>>) -> Result<Got, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let driving = tokio::spawn(connection);
    let outcome = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let location = answer.headers().get(header::LOCATION);
        let location = location.map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned());
        Ok(Got {
            status: answer.status().as_u16(),
            location,
            // Also so that the server does not see a torn connection.
            body: beginning(answer.into_body()).await,
        })
    }
    .await;
    driving.abort();
    outcome
}

/// What a body begins with.
async fn beginning(mut body: Incoming) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < MAX_BODY
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            out.extend_from_slice(&data);
        }
    }
    out.truncate(MAX_BODY);
    out
}

/// What is said of a server that does not speak TLS; upstream's words.
pub(super) const PLAIN: &str = "http: server gave HTTP response to HTTPS client";

/// Whether a server has answered with what TLS does not know.
fn is_plain(e: &std::io::Error) -> bool {
    let inner = e
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let unknown = rustls::InvalidMessage::InvalidContentType;
    inner.is_some_and(|e| *e == rustls::Error::InvalidMessage(unknown))
}

async fn unverified_tls(
    host: &str,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, std::io::Error> {
    wire::install_crypto();
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let name =
        rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Probes do not verify the container's certificate: they ask whether it answers, as upstream's do.
#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

async fn health(target: &Target<'_>, grpc: &GRPCAction) -> Answer {
    let at = api::host_port(target.host, grpc.port);
    let endpoint = match tonic::transport::Endpoint::from_shared(format!("http://{at}")) {
        Ok(endpoint) => endpoint,
        Err(e) => return Answer::Unknown(e.to_string()),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(e) => {
            return Answer::Bad(format!(
                "timeout: failed to connect service \"{at}\" within the timeout: {e}"
            ));
        }
    };
    let service = grpc.service.clone().unwrap_or_default();
    match HealthClient::new(channel)
        .check(HealthCheckRequest { service })
        .await
    {
        Ok(answer) if answer.get_ref().status == ServingStatus::Serving as i32 => Answer::Good,
        Ok(answer) => Answer::Bad(format!(
            "service unhealthy (responded with \"{}\")",
            ServingStatus::try_from(answer.get_ref().status)
                .unwrap_or_default()
                .as_str_name()
        )),
        Err(e) => Answer::Bad(format!("error: health rpc probe failed: {e}")),
    }
}

#[cfg(test)]
mod tests;
