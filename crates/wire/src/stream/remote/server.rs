//! The side that serves a remote command.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::outcome::Outcome;
use super::{Keep, RequestedStreams, SPDY_PROTOCOLS, STREAM_TYPE, WEBSOCKET_PROTOCOLS, channel};
use crate::stream::spdy;
use crate::stream::upgrade::UpgradeRequest;
use crate::stream::websocket::{self, Channels, Codec};
use crate::stream::{BoxRead, BoxWrite, Io};

/// How long a client may take to open all its streams; as upstream.
const OPENING: Duration = Duration::from_secs(30);

/// The serving side: what the client sends is read here, what the command prints is written.
/// Dropping it closes the connection after what was written has been sent.
pub struct Server {
    pub stdin: Option<BoxRead>,
    pub stdout: Option<BoxWrite>,
    pub stderr: Option<BoxWrite>,
    /// JSON objects `{"Width":…,"Height":…}`, one after the other.
    pub resize: Option<BoxRead>,
    error: BoxWrite,
    /// The error stream carries a JSON `Status`.
    json: bool,
    keep: Keep,
}

/// The protocol to serve a client with; none when there is no common one.
#[must_use]
pub fn choose(wish: &UpgradeRequest) -> Option<String> {
    match wish {
        // A WebSocket client that names none gets the first version, as upstream.
        UpgradeRequest::WebSocket { protocols, .. } if protocols.is_empty() => Some(String::new()),
        UpgradeRequest::WebSocket { .. } => wish.choose(WEBSOCKET_PROTOCOLS),
        UpgradeRequest::Spdy { .. } => wish.choose(SPDY_PROTOCOLS),
    }
}

/// Serves a remote command over an upgraded connection.
pub async fn serve<I: Io>(
    io: I,
    wish: &UpgradeRequest,
    protocol: &str,
    wanted: RequestedStreams,
) -> io::Result<Server> {
    match wish {
        UpgradeRequest::WebSocket { .. } => Ok(serve_websocket(io, protocol, wanted).await),
        UpgradeRequest::Spdy { .. } => serve_spdy(io, protocol, wanted).await,
    }
}

async fn serve_websocket<I: Io>(io: I, protocol: &str, wanted: RequestedStreams) -> Server {
    let role = websocket::Role::Server;
    let codec = if protocol.contains("base64.") {
        Codec::Base64
    } else {
        Codec::Binary
    };
    let version_5 = protocol.starts_with("v5.");
    let socket = websocket::open(io, role).await;
    let mut readable = vec![channel::RESIZE];
    readable.extend(wanted.stdin.then_some(channel::STDIN));
    let mut channels = Channels::start(socket, role, codec, version_5, readable);
    let lowest = match wanted {
        RequestedStreams { stdout: true, .. } => channel::STDOUT,
        RequestedStreams { stderr: true, .. } => channel::STDERR,
        _ => channel::ERROR,
    };
    channels.greet(lowest).await;
    let reader = |c: &mut Channels, n| c.take_reader(n).map(|r| Box::new(r) as BoxRead);
    let writer = |c: &Channels, n| Box::new(c.writer(n)) as BoxWrite;
    Server {
        stdin: reader(&mut channels, channel::STDIN),
        stdout: wanted.stdout.then(|| writer(&channels, channel::STDOUT)),
        stderr: wanted.stderr.then(|| writer(&channels, channel::STDERR)),
        resize: reader(&mut channels, channel::RESIZE),
        error: writer(&channels, channel::ERROR),
        json: version_5 || protocol.starts_with("v4."),
        keep: Keep::Channels(channels),
    }
}

async fn serve_spdy<I: Io>(io: I, protocol: &str, wanted: RequestedStreams) -> io::Result<Server> {
    let (connection, mut incoming) = spdy::Connection::start(io, spdy::Role::Server);
    let resizes = protocol.starts_with("v4.") || protocol.starts_with("v3.");
    let mut expected = vec!["error"];
    expected.extend(wanted.stdin.then_some("stdin"));
    expected.extend(wanted.stdout.then_some("stdout"));
    expected.extend(wanted.stderr.then_some("stderr"));
    expected.extend((wanted.tty && resizes).then_some("resize"));
    let taking = take_streams(&mut incoming, &expected);
    let mut streams = tokio::time::timeout(OPENING, taking).await.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "timed out waiting for client to create streams",
        )
    })??;
    let mut kept = Vec::new();
    let mut reader = |name: &str| {
        let (read, write) = streams.remove(name)?.split();
        kept.push(write);
        Some(Box::new(read) as BoxRead)
    };
    let (stdin, resize) = (reader("stdin"), reader("resize"));
    let mut writer = |name: &str| {
        let (_, write) = streams.remove(name)?.split();
        Some(Box::new(write) as BoxWrite)
    };
    let error = writer("error").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Server {
        stdin,
        stdout: writer("stdout"),
        stderr: writer("stderr"),
        resize,
        error,
        json: protocol.starts_with("v4."),
        keep: Keep::Spdy {
            connection,
            _incoming: incoming,
            _unused: kept,
        },
    })
}

async fn take_streams(
    incoming: &mut spdy::Incoming,
    expected: &[&str],
) -> io::Result<HashMap<String, spdy::Stream>> {
    let mut streams = HashMap::new();
    while streams.len() < expected.len() {
        let stream = incoming.next().await.ok_or(io::ErrorKind::UnexpectedEof)?;
        let kind = stream.headers().get(STREAM_TYPE).unwrap_or_default();
        let kind = kind.to_owned();
        if expected.contains(&kind.as_str()) {
            streams.insert(kind, stream);
        } else {
            tracing::debug!("a stream of type {kind:?} was not expected");
            stream.split().1.reset();
        }
    }
    Ok(streams)
}

impl Server {
    /// Cancelled when the client is gone.
    #[must_use]
    pub fn end_token(&self) -> CancellationToken {
        self.keep.end_token()
    }

    /// Reports to the client how the command ended and closes the connection.
    pub async fn finish(self, outcome: &Outcome) {
        let status = outcome.status().to_string();
        self.finish_with(status.as_bytes()).await;
    }

    /// As [`Server::finish`], with a `Status` that somebody else has made.
    pub async fn finish_with(mut self, status: &[u8]) {
        let text;
        let bytes = if self.json {
            status
        } else {
            text = match Outcome::read(status) {
                Outcome::Success => String::new(),
                Outcome::Exit(code) => {
                    format!("command terminated with non-zero exit code: exit status {code}")
                }
                Outcome::Error(text) => text,
            };
            text.as_bytes()
        };
        if let Some(mut out) = self.stdout.take() {
            let _ = out.shutdown().await;
        }
        if let Some(mut out) = self.stderr.take() {
            let _ = out.shutdown().await;
        }
        let sent = async {
            self.error.write_all(bytes).await?;
            self.error.shutdown().await
        };
        if let Err(e) = sent.await {
            tracing::debug!("reporting to a client how its command ended: {e}");
        }
    }
}
