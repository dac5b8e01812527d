//! exec, attach and port-forward: between the client's connection and the container.
//!
//! The client (the API server passes its bytes through) speaks WebSocket or SPDY. For a command
//! the runtime gives a URL of its streaming server, which is asked by SPDY: containerd 1.6 knows
//! WebSocket only up to version 4, which has no end of stdin. Forwarded connections are made
//! directly, inside the pod's network namespace. Whether the request may be made, and which
//! container it means, is decided before. A command ends with its client: runtimes go on running
//! what nobody listens to any more.

pub mod client_commands;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use host::netns::NetNs;
use host::runtime::{Error, ErrorKind, Runtime};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wire::stream::remote::{self, Ended, RequestedStreams};
use wire::stream::upgrade::{UpgradeError, UpgradeRequest};
use wire::stream::{BoxIo, ports};

use client_commands::ExpectedCommand;

/// How long a connection to a container's port or to the runtime may take to come about.
const DIALLING: Duration = Duration::from_secs(10);

/// The answer to a request to upgrade.
pub type Answer = Response<Full<Bytes>>;

fn text(code: StatusCode, words: impl Into<String>) -> Answer {
    let mut answer = Response::new(Full::from(words.into()));
    *answer.status_mut() = code;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, plain);
    answer
}

/// What the client wants to upgrade to and the protocol chosen for it, or the refusal.
fn agree<B>(
    request: &Request<B>,
    choose: fn(&UpgradeRequest) -> Option<String>,
    known: [&[&str]; 2],
) -> Result<(UpgradeRequest, String), Box<Answer>> {
    let Some(wish) = UpgradeRequest::of(request.headers()) else {
        let why = "unable to upgrade: missing upgrade headers in request";
        return Err(Box::new(text(StatusCode::BAD_REQUEST, why)));
    };
    match choose(&wish) {
        Some(protocol) => Ok((wish, protocol)),
        None => {
            let known = match wish {
                UpgradeRequest::WebSocket { .. } => known[0],
                UpgradeRequest::Spdy { .. } => known[1],
            };
            Err(Box::new(wish.refuse(known)))
        }
    }
}

/// The streams of a command, or of a container's own process.
#[derive(Debug)]
pub struct CommandStreams {
    /// Where the runtime serves them, once.
    pub url: String,
    /// What the runtime was asked for.
    pub wanted: RequestedStreams,
    /// The command, which ends with its client; none: the container's own process, which does not.
    pub command: Option<ExpectedCommand>,
    /// How long nothing may flow; none: for ever.
    pub idle: Option<Duration>,
}

/// Serves exec and attach: connects the client to the streams.
pub async fn command<B>(streams: CommandStreams, request: &mut Request<B>) -> Answer {
    let CommandStreams {
        url,
        wanted,
        command,
        idle,
    } = streams;
    let wanted = match wanted.checked() {
        Ok(w) => w,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let known = [remote::WEBSOCKET_PROTOCOLS, remote::SPDY_PROTOCOLS];
    let (wish, protocol) = match agree(request, remote::choose, known) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let runtime = match ask_runtime(&url, wanted).await {
        Ok(client) => client,
        Err(refusal) => return *refusal,
    };
    let answer = wish.accept(&protocol);
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let served = async {
            let io = TokioIo::new(upgrading.await.map_err(io::Error::other)?);
            remote::serve(io, &wish, &protocol, wanted).await
        };
        let ended = match served.await {
            Ok(server) => remote::bridge(server, runtime, idle).await,
            Err(e) => {
                tracing::debug!("a client's streams did not come about: {e}");
                Ended::ClientGone
            }
        };
        match (ended, command) {
            (Ended::ClientGone | Ended::Idle, Some(command)) => command.hang_up().await,
            (Ended::Command, _) | (_, None) => {}
        }
    });
    answer
}

/// Asks the runtime's streaming server; what it refuses is passed on in its words.
async fn ask_runtime(url: &str, wanted: RequestedStreams) -> Result<remote::Client, Box<Answer>> {
    let failed = |why: String| {
        let words = format!("the runtime's streaming server: {why}");
        Box::new(text(StatusCode::BAD_GATEWAY, words))
    };
    let (host, path) = parts(url).ok_or_else(|| failed(format!("bad address {url}")))?;
    let connecting = tokio::time::timeout(DIALLING, TcpStream::connect(&host));
    let socket = match connecting.await {
        Ok(Ok(socket)) => socket,
        Ok(Err(e)) => return Err(failed(e.to_string())),
        Err(_) => return Err(failed("timed out".into())),
    };
    // Keystrokes are small and must not wait for more.
    let _ = socket.set_nodelay(true);
    remote::connect_spdy(socket, &host, &path, wanted)
        .await
        .map_err(|e| match e {
            UpgradeError::Refused(head, body) => {
                Box::new(text(head.status, String::from_utf8_lossy(&body)))
            }
            other => failed(other.to_string()),
        })
}

/// Host with port, and path with query, of a runtime's URL. Without TLS: containerd serves on
/// the loopback address, and one that serves by TLS would need its certificate's authority.
fn parts(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri
        .authority()
        .filter(|_| uri.scheme_str() == Some("http"))?;
    let host = match authority.port_u16() {
        Some(_) => authority.to_string(),
        None => format!("{}:80", authority.host()),
    };
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    Some((host, path.to_owned()))
}

/// A pod whose ports are forwarded.
#[derive(Clone, Debug)]
pub struct Pod {
    /// For messages.
    pub name: String,
    /// For messages.
    pub uid: String,
    /// Its network namespace; none: the node's own.
    pub namespace: Option<PathBuf>,
}

impl Pod {
    /// Finds the network of a sandbox.
    pub async fn of_sandbox(
        runtime: &dyn Runtime,
        sandbox: &str,
        name: &str,
        uid: &str,
    ) -> Result<Self, Error> {
        let network = runtime.sandbox_network(sandbox).await?;
        let namespace = if network.is_nodes {
            None
        } else {
            let pid = runtime.sandbox_pid(sandbox).await?;
            let unknown = "the runtime does not say which process a sandbox has";
            let pid = pid.ok_or_else(|| Error::new(ErrorKind::Other, unknown))?;
            Some(PathBuf::from(format!("/proc/{pid}/ns/net")))
        };
        Ok(Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace,
        })
    }
}

impl ports::Dial for Pod {
    async fn dial(&self, port: u16) -> Result<BoxIo, String> {
        let namespace = self.namespace.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "a thread of its own enters the pod's network namespace"
        )]
        let dialling = tokio::task::spawn_blocking(move || match namespace {
            None => dial_local(port),
            Some(path) => NetNs::open(&path)?.run(|| dial_local(port))?,
        });
        let socket = match dialling.await {
            Ok(done) => done.and_then(TcpStream::from_std),
            Err(e) => Err(io::Error::other(e)),
        };
        match socket {
            Ok(socket) => Ok(Box::new(socket)),
            Err(e) => Err(format!(
                "error forwarding port {port} to pod {}, uid {}: failed to connect to localhost:{port} inside the pod's network: {e}",
                self.name, self.uid
            )),
        }
    }
}

/// Connects to a port of the loopback address, in either family. The socket belongs to the
/// namespace of this thread for good.
fn dial_local(port: u16) -> io::Result<std::net::TcpStream> {
    let first = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let second = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let socket = std::net::TcpStream::connect_timeout(&first, DIALLING).or_else(|e| {
        // The first refusal is what the client understands.
        std::net::TcpStream::connect_timeout(&second, DIALLING).map_err(|_| e)
    })?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Serves port-forward. `wanted`: ports of the request; only some WebSocket clients name them.
/// `idle`: how long nothing may flow; none: for ever.
pub fn forward<B, D: ports::Dial>(
    dial: D,
    wanted: Vec<u16>,
    idle: Option<Duration>,
    request: &mut Request<B>,
) -> Answer {
    let known: [&[&str]; 2] = [
        &[
            ports::TUNNEL_PROTOCOL,
            "v4.channel.k8s.io",
            "v4.base64.channel.k8s.io",
        ],
        &[ports::PROTOCOL],
    ];
    let (wish, protocol) = match agree(request, ports::choose, known) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let answer = wish.accept(&protocol);
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(io) => {
                let protocol = (&wish, protocol.as_str());
                ports::serve(TokioIo::new(io), protocol, &wanted, dial, idle).await;
            }
            Err(e) => tracing::debug!("a client's streams did not come about: {e}"),
        }
    });
    answer
}

/// The ports of a request's `port` parameters, which may be lists.
pub fn ports_of<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<u16> {
    let all = values.into_iter().flat_map(|v| v.split(','));
    all.filter_map(|p| p.trim().parse().ok())
        .filter(|p| *p > 0)
        .collect()
}

#[cfg(test)]
mod tests;
