//! The side that asks for a remote command.

use std::io;

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::{Keep, RequestedStreams, SPDY_PROTOCOLS, STREAM_TYPE, WEBSOCKET_PROTOCOLS, channel};
use crate::stream::spdy::{self, Headers};
use crate::stream::upgrade::{self, UpgradeError};
use crate::stream::websocket::{self, Channels, Codec};
use crate::stream::{BoxRead, BoxWrite, Io};

/// The most that is read of a status.
const MAX_STATUS_BYTES: u64 = 64 * 1024;

/// The asking side: stdin is written, what the command prints is read.
pub struct Client {
    /// Shutting it down is the end of stdin for the command.
    pub stdin: Option<BoxWrite>,
    pub stdout: Option<BoxRead>,
    pub stderr: Option<BoxRead>,
    pub resize: Option<BoxWrite>,
    error: BoxRead,
    keep: Keep,
}

/// Asks for a remote command over SPDY. `path` has the query.
pub async fn connect_spdy<I: Io>(
    io: I,
    host: &str,
    path: &str,
    wanted: RequestedStreams,
) -> Result<Client, UpgradeError> {
    let offered = SPDY_PROTOCOLS.get(..1).unwrap_or_default();
    let asked = upgrade::ask_spdy(host, path, offered)?;
    let (_, io) = upgrade::request(io, asked).await?;
    let opened = open_spdy(io, wanted).await;
    opened.map_err(|e| UpgradeError::Protocol(e.to_string()))
}

pub(super) async fn open_spdy<I: Io>(io: I, wanted: RequestedStreams) -> io::Result<Client> {
    let (connection, incoming) = spdy::Connection::start(io, spdy::Role::Client);
    let open = |kind| connection.open(Headers::new([(STREAM_TYPE, kind)]));
    let mut kept = Vec::new();
    // Our sides of the streams that we only read stay open: containerd takes streams that are
    // finished on both sides for gone.
    let (error, write) = open("error").await?.split();
    kept.push(write);
    let stdin = match wanted.stdin {
        true => Some(Box::new(open("stdin").await?.split().1) as BoxWrite),
        false => None,
    };
    let mut outputs = [None, None];
    for (kind, wanted, place) in [("stdout", wanted.stdout, 0), ("stderr", wanted.stderr, 1)] {
        if wanted && let Some(place) = outputs.get_mut(place) {
            let (read, write) = open(kind).await?.split();
            kept.push(write);
            *place = Some(Box::new(read) as BoxRead);
        }
    }
    let resize = match wanted.tty {
        true => Some(Box::new(open("resize").await?.split().1) as BoxWrite),
        false => None,
    };
    let [stdout, stderr] = outputs;
    Ok(Client {
        stdin,
        stdout,
        stderr,
        resize,
        error: Box::new(error),
        keep: Keep::Spdy {
            connection,
            _incoming: incoming,
            _unused: kept,
        },
    })
}

/// Asks for a remote command over WebSocket, version 5. `path` has the query.
pub async fn connect_websocket<I: Io>(
    io: I,
    host: &str,
    path: &str,
    wanted: RequestedStreams,
) -> Result<Client, UpgradeError> {
    let offered = WEBSOCKET_PROTOCOLS.get(..1).unwrap_or_default();
    let asked = upgrade::ask_websocket(host, path, offered)?;
    let (_, io) = upgrade::request(io, asked).await?;
    Ok(open_websocket(io, wanted).await)
}

pub(super) async fn open_websocket<I: Io>(io: I, wanted: RequestedStreams) -> Client {
    let role = websocket::Role::Client;
    let socket = websocket::open(io, role).await;
    let mut readable = vec![channel::ERROR];
    readable.extend(wanted.stdout.then_some(channel::STDOUT));
    readable.extend(wanted.stderr.then_some(channel::STDERR));
    let mut channels = Channels::start(socket, role, Codec::Binary, true, readable);
    let reader = |c: &mut Channels, n| c.take_reader(n).map(|r| Box::new(r) as BoxRead);
    let writer = |c: &Channels, n| Box::new(c.writer(n)) as BoxWrite;
    Client {
        stdin: wanted.stdin.then(|| writer(&channels, channel::STDIN)),
        stdout: reader(&mut channels, channel::STDOUT),
        stderr: reader(&mut channels, channel::STDERR),
        resize: wanted.tty.then(|| writer(&channels, channel::RESIZE)),
        error: reader(&mut channels, channel::ERROR)
            .unwrap_or_else(|| Box::new(tokio::io::empty())),
        keep: Keep::Channels(channels),
    }
}

impl Client {
    /// Cancelled when the server is gone.
    #[must_use]
    pub fn end_token(&self) -> CancellationToken {
        self.keep.end_token()
    }

    /// Waits for the `Status` of the command's end, as bytes; empty when the server went away.
    pub async fn status(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut limited = (&mut self.error).take(MAX_STATUS_BYTES);
        if let Err(e) = limited.read_to_end(&mut all).await {
            tracing::debug!("reading a command's status: {e}");
        }
        all
    }
}
