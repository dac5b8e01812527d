//! One connection to a port of a pod, through the node agent of the pod's node: how the API server
//! reaches pods where it is not on their network.
//!
//! ```text
//! POST /podTunnel/NAMESPACE/NAME/UID?port=N    with Connection: Upgrade, Upgrade:
//! tiphys-pod-tunnel 101   from here on the bytes are those of the connection to the pod, each way
//! with its own end 404   this kubelet has no tunnels (upstream's) 410   the pod is not on the
//! node, or it is another one of its name 409   the pod has no address (yet, or any more) 502   the
//! pod's port could not be connected to; the body says why
//! ```
//! POST, so that a user that may only read (`get` of `nodes/proxy`) opens none.

use std::io;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use super::upgrade::{self, UpgradeError};
use super::{BoxIo, CHUNK_BYTES, Io};

/// The first segment of the path.
pub const PATH: &str = "podTunnel";
/// The word in `Upgrade`.
pub const PROTOCOL: &str = "tiphys-pod-tunnel";

/// A pod's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod: never one that came after it.
    pub uid: String,
    /// The port, which is not 0.
    pub port: u16,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The kubelet does not know tunnels.
    #[error("the node's kubelet has no tunnels to pods")]
    Unknown,
    /// The kubelet refused, with its words: the pod is not there, or does not accept.
    #[error("{0}")]
    Refused(String),
    /// The kubelet did not answer as it should.
    #[error("the node's kubelet: {0}")]
    Upgrade(UpgradeError),
}

impl Target {
    fn request(&self, host: &str) -> Result<Request<()>, http::Error> {
        let Self {
            namespace,
            name,
            uid,
            port,
        } = self;
        Request::post(format!("/{PATH}/{namespace}/{name}/{uid}?port={port}"))
            .header(HOST, host)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, PROTOCOL)
            .body(())
    }
}

/// Asks the kubelet at the other end of `io`, whose name is `host`, for a tunnel.
pub async fn open<I: Io>(io: I, host: &str, target: &Target) -> Result<BoxIo, TunnelError> {
    let request = target
        .request(host)
        .map_err(|e| TunnelError::Upgrade(e.into()))?;
    match upgrade::request(io, request).await {
        Ok((_, io)) => Ok(Box::new(io)),
        Err(UpgradeError::Refused(head, _)) if head.status == StatusCode::NOT_FOUND => {
            Err(TunnelError::Unknown)
        }
        Err(UpgradeError::Refused(head, words)) => {
            let words = String::from_utf8_lossy(&words).trim().to_owned();
            Err(TunnelError::Refused(if words.is_empty() {
                format!("the node's kubelet answers {}", head.status)
            } else {
                words
            }))
        }
        Err(e) => Err(TunnelError::Upgrade(e)),
    }
}

/// Whether a request asks for a tunnel.
#[must_use]
pub fn is_asked(headers: &HeaderMap) -> bool {
    let to = headers.get(UPGRADE).and_then(|v| v.to_str().ok());
    upgrade::is_upgrade(headers) && to.is_some_and(|t| t.eq_ignore_ascii_case(PROTOCOL))
}

/// The answer that opens one.
#[must_use]
pub fn accept<B: Default>() -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// Passes bytes both ways until both sides have ended, or one has failed.
pub async fn relay(mut one: impl Io, mut other: impl Io) {
    let (a, b) = (CHUNK_BYTES, CHUNK_BYTES);
    if let Err(e) = tokio::io::copy_bidirectional_with_sizes(&mut one, &mut other, a, b).await {
        tracing::debug!("a tunnel to a pod: {e}");
    }
}

/// Why `address` (with its port) could not be connected to, in the words that clients know from
/// upstream.
#[must_use]
pub fn dial_error(address: &str, e: &io::Error) -> String {
    let why = match e.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => e.to_string(),
    };
    format!("dial tcp {address}: {why}")
}
