//! The HTTP/1.1 side of streaming: what a request wants to be upgraded to, the answers to it,
//! asking for an upgrade, and passing an upgraded connection on untouched.

use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Io;

/// Versions of a stream protocol that a SPDY client speaks, one header each or joined.
pub const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
/// The word in `Upgrade`.
pub const SPDY: &str = "SPDY/3.1";

/// The most that is read of an answer that refuses an upgrade.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// What a request wants to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeRequest {
    WebSocket {
        /// The client's key, to be answered.
        key: String,
        /// Subprotocols in the client's order; may be empty.
        protocols: Vec<String>,
    },
    Spdy {
        /// Stream protocols in the client's order.
        protocols: Vec<String>,
    },
}

/// Why an upgrade did not come about.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the request to upgrade: {0}")]
    Request(#[from] http::Error),
    /// The server answered something else; its head and the beginning of its body.
    #[error("the server refused to upgrade: {} {}", .0.status, String::from_utf8_lossy(.1))]
    Refused(Box<Parts>, Vec<u8>),
    #[error("the server's answer to the WebSocket key is wrong")]
    Key,
    #[error("the server chose the protocol {0:?}, which was not offered")]
    Protocol(String),
}

fn listed(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let texts = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    let words = texts.flat_map(|t| t.split(',')).map(str::trim);
    words.filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// Whether a request asks for any upgrade.
#[must_use]
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let wanted = |w: &String| w.eq_ignore_ascii_case("upgrade");
    headers.contains_key(UPGRADE) && listed(headers, &CONNECTION).iter().any(wanted)
}

impl UpgradeRequest {
    /// What the request wants; none when it wants nothing that is known here.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        if !is_upgrade(headers) {
            return None;
        }
        let to = headers.get(UPGRADE)?.to_str().ok()?.to_ascii_lowercase();
        if to == "websocket" {
            return Some(Self::WebSocket {
                key: headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?.to_owned(),
                protocols: listed(headers, &SEC_WEBSOCKET_PROTOCOL),
            });
        }
        to.contains("spdy/3.1").then(|| Self::Spdy {
            protocols: listed(headers, &STREAM_PROTOCOL),
        })
    }

    /// The first of the client's protocols that is `supported`.
    #[must_use]
    pub fn choose(&self, supported: &[&str]) -> Option<String> {
        let (Self::WebSocket { protocols, .. } | Self::Spdy { protocols }) = self;
        let found = protocols.iter().find(|p| supported.contains(&p.as_str()));
        found.cloned()
    }

    /// The answer that upgrades; an empty protocol is not mentioned.
    #[must_use]
    pub fn accept<B: Default>(&self, protocol: &str) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let protocol = HeaderValue::from_str(protocol)
            .ok()
            .filter(|p| !p.is_empty());
        match self {
            Self::WebSocket { key, .. } => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                if let Ok(v) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, v);
                }
                protocol.map(|p| headers.insert(SEC_WEBSOCKET_PROTOCOL, p));
            }
            Self::Spdy { .. } => {
                headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
                protocol.map(|p| headers.insert(STREAM_PROTOCOL, p));
            }
        }
        response
    }

    /// The answer to a client that offers no protocol we know; upstream's words.
    #[must_use]
    pub fn refuse<B: From<String>>(&self, supported: &[&str]) -> Response<B> {
        let (Self::WebSocket { protocols, .. } | Self::Spdy { protocols }) = self;
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            protocols.join(" "),
            supported.join(" ")
        );
        let mut response = Response::new(B::from(text));
        *response.status_mut() = StatusCode::FORBIDDEN;
        for name in supported {
            if let Ok(v) = HeaderValue::from_str(name) {
                response.headers_mut().append(ACCEPTED_PROTOCOLS, v);
            }
        }
        response
    }
}

/// A request for an upgrade to SPDY.
pub fn ask_spdy(host: &str, path: &str, protocols: &[&str]) -> Result<Request<()>, http::Error> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, host)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY);
    for name in protocols {
        request = request.header(STREAM_PROTOCOL, *name);
    }
    request.body(())
}

/// A request for an upgrade to WebSocket.
pub fn ask_websocket(
    host: &str,
    path: &str,
    protocols: &[&str],
) -> Result<Request<()>, http::Error> {
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(HOST, host)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, generate_key());
    if !protocols.is_empty() {
        request = request.header(SEC_WEBSOCKET_PROTOCOL, protocols.join(", "));
    }
    request.body(())
}

/// Sends a request over a fresh connection and upgrades it; the head of the 101 and the
/// connection behind it.
pub async fn request<I: Io>(
    io: I,
    request: Request<()>,
) -> Result<(Parts, TokioIo<Upgraded>), UpgradeError> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    let offered: Vec<String> = listed(request.headers(), &SEC_WEBSOCKET_PROTOCOL);
    let response = send(io, request.map(|()| Empty::<bytes::Bytes>::new())).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_REFUSAL_BYTES).collect().await;
        let body = body.map(|b| b.to_bytes().to_vec()).unwrap_or_default();
        return Err(UpgradeError::Refused(Box::new(head), body));
    }
    if let Some(key) = key {
        check_websocket(response.headers(), key.as_bytes(), &offered)?;
    }
    let (head, body) = response.into_parts();
    let upgraded = hyper::upgrade::on(Response::from_parts(head.clone(), body)).await?;
    Ok((head, TokioIo::new(upgraded)))
}

fn check_websocket(
    headers: &HeaderMap,
    key: &[u8],
    offered: &[String],
) -> Result<(), UpgradeError> {
    let answer = headers.get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if answer != Some(derive_accept_key(key).as_bytes()) {
        return Err(UpgradeError::Key);
    }
    let chosen = headers.get(SEC_WEBSOCKET_PROTOCOL);
    let chosen = chosen.and_then(|v| v.to_str().ok()).unwrap_or_default();
    if chosen.is_empty() || offered.iter().any(|o| o == chosen) {
        return Ok(());
    }
    Err(UpgradeError::Protocol(chosen.to_owned()))
}

/// Sends one request over a fresh connection, which may be upgraded by its answer.
pub async fn send<I, B>(io: I, request: Request<B>) -> Result<Response<Incoming>, hyper::Error>
where
    I: Io,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(io))
        .await?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!("a connection to a backend: {e}");
        }
    });
    sender.send_request(request).await
}

/// Passes bytes both ways between two upgraded connections until both have ended.
pub async fn relay(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(pair) => pair,
        Err(e) => return tracing::debug!("an upgrade did not complete: {e}"),
    };
    super::tunnel::relay(TokioIo::new(client), TokioIo::new(backend)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (k, v) in pairs {
            let name: HeaderName = k.parse().unwrap();
            map.append(name, v.parse().unwrap());
        }
        map
    }

    #[test]
    fn wishes_are_read_from_headers() {
        let ws = headers(&[
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "WebSocket"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", "v9.x, v5.channel.k8s.io"),
        ]);
        let wish = UpgradeRequest::of(&ws).unwrap();
        let chosen = wish.choose(&["v4.channel.k8s.io", "v5.channel.k8s.io"]);
        assert_eq!(chosen.as_deref(), Some("v5.channel.k8s.io"));
        let answer: Response<String> = wish.accept("v5.channel.k8s.io");
        // RFC 6455, section 1.3.
        assert_eq!(
            answer.headers()[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        let spdy = headers(&[
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
            (
                "X-Stream-Protocol-Version",
                "v3.channel.k8s.io,channel.k8s.io",
            ),
        ]);
        let protocols = ["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"];
        assert_eq!(
            UpgradeRequest::of(&spdy),
            Some(UpgradeRequest::Spdy {
                protocols: protocols.map(str::to_owned).to_vec()
            })
        );
        assert_eq!(
            UpgradeRequest::of(&headers(&[("Connection", "close"), ("Upgrade", "x")])),
            None
        );
        assert_eq!(
            UpgradeRequest::of(&headers(&[("Connection", "Upgrade"), ("Upgrade", "h2c")])),
            None
        );
    }

    #[test]
    fn a_refusal_names_both_sides() {
        let wish = UpgradeRequest::Spdy {
            protocols: vec!["v9".into()],
        };
        let answer: Response<String> = wish.refuse(&["v4", "v3"]);
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert!(
            answer
                .body()
                .contains("client supports [v9], server accepts [v4 v3]")
        );
    }
}
