//! One question to a container: by command, HTTP, TCP or gRPC.

use host::cri::proto::grpc::health::v1::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use host::runtime::Runtime;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Empty, Limited};
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
        return command(target, exec.command.as_deref().unwrap_or_default(), limit).await;
    }
    let asked = async {
        if let Some(get) = &probe.http_get {
            http_get(target, get).await
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
            url(target, get)
        ),
        None => "timeout: failed to connect service within the timeout: context deadline exceeded"
            .into(),
    }
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

fn is_https(get: &HTTPGetAction) -> bool {
    get.scheme
        .as_deref()
        .is_some_and(|s| s.eq_ignore_ascii_case("https"))
}

fn url(target: &Target<'_>, get: &HTTPGetAction) -> String {
    let host = get
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(target.host);
    let port = port(target.container, &get.port).unwrap_or(0);
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let scheme = if is_https(get) { "https" } else { "http" };
    let at = api::host_port(host, port);
    format!("{scheme}://{at}{slash}{path}")
}

/// GET with the action's headers; any status from 200 to 399 is good.
pub async fn http_get(target: &Target<'_>, get: &HTTPGetAction) -> Answer {
    let host = get
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(target.host)
        .to_owned();
    let port = match port(target.container, &get.port) {
        Ok(port) => port,
        Err(text) => return Answer::Unknown(text),
    };
    let wrap = |text: String| Answer::Bad(format!("Get \"{}\": {text}", url(target, get)));
    let stream = match connect(&host, port).await {
        Ok(stream) => stream,
        Err(text) => return wrap(text),
    };
    let request = match request(get, &host, port) {
        Ok(request) => request,
        Err(e) => return Answer::Unknown(e.to_string()),
    };
    let outcome = if is_https(get) {
        match unverified_tls(&host, stream).await {
            Ok(stream) => send(stream, request).await,
            Err(e) => Err(e.to_string()),
        }
    } else {
        send(stream, request).await
    };
    match outcome {
        Ok(status) if (200..400).contains(&status) => Answer::Good,
        Ok(status) => Answer::Bad(format!("HTTP probe failed with statuscode: {status}")),
        Err(text) => wrap(text),
    }
}

fn request(
    get: &HTTPGetAction,
    host: &str,
    port: u16,
) -> http::Result<Request<Empty<bytes::Bytes>>> {
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut request = Request::get(path)
        .header("host", api::host_port(host, port))
        .header("user-agent", "kube-probe/1.36")
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::new())?;
    for header in get.http_headers.iter().flatten() {
        let name = HeaderName::from_bytes(header.name.as_bytes())?;
        request
            .headers_mut()
            .insert(name, HeaderValue::from_str(&header.value)?);
    }
    Ok(request)
}

async fn send<S>(stream: S, request: Request<Empty<bytes::Bytes>>) -> Result<u16, String>
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
        let status = answer.status().as_u16();
        // Read so that the server does not see a torn connection; what it says is not needed.
        let _ = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        Ok(status)
    }
    .await;
    driving.abort();
    outcome
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
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_name() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"name": "http", "containerPort": 8080}]
        }))
        .unwrap();
        assert_eq!(
            port(&container, &IntOrString::String("http".into())),
            Ok(8080)
        );
        assert_eq!(port(&container, &IntOrString::Int(1)), Ok(1));
        assert!(port(&container, &IntOrString::String("x".into())).is_err());
        assert!(port(&container, &IntOrString::Int(70_000)).is_err());
    }
}
