//! A remote command's streams (stdin, stdout, stderr, error, resize) over WebSocket or SPDY,
//! from the side that serves it and from the side that asks for it, and a bridge between two.
//!
//! The error stream carries one `Status` as JSON from version 4 on, before that plain text that
//! is empty on success. The exit code is a cause of reason `ExitCode`.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::idle::Activity;
use super::spdy::{self, Headers};
use super::upgrade::{self, UpgradeError, UpgradeRequest};
use super::websocket::{self, Channels, Codec};
use super::{BoxRead, BoxWrite, CHUNK_BYTES, Io};

/// What we speak over SPDY, best first.
pub const SPDY_PROTOCOLS: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// What we speak over WebSocket, best first.
pub const WEBSOCKET_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// The header that says what a SPDY stream is for.
pub const STREAM_TYPE: &str = "streamtype";

/// How long a client may take to open all its streams; as upstream.
const OPENING: Duration = Duration::from_secs(30);
/// The most that is read of a status.
const MAX_STATUS_BYTES: u64 = 64 * 1024;

/// Channels of WebSocket, by number.
mod channel {
    pub const STDIN: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const ERROR: u8 = 3;
    pub const RESIZE: u8 = 4;
}

/// Which streams a command has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestedStreams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl RequestedStreams {
    /// A terminal has no stderr of its own; a command without any stream is an error, in
    /// upstream's words.
    pub fn checked(mut self) -> Result<Self, &'static str> {
        self.stderr &= !self.tty;
        if self.stdin || self.stdout || self.stderr {
            Ok(self)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr")
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Its exit code, not zero.
    Exit(i32),
    /// It could not be run or followed.
    Error(String),
}

impl Outcome {
    /// As a `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Error(text) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {text}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": text}]},
                "code": 500,
            }),
        }
    }

    /// From what an error stream carried.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Value>(bytes) else {
            return Self::Error(String::from_utf8_lossy(bytes).into_owned());
        };
        if status["status"] == "Success" {
            return Self::Success;
        }
        let causes = status["details"]["causes"].as_array();
        let code = causes
            .into_iter()
            .flatten()
            .find(|c| c["reason"] == "ExitCode");
        let code = code.and_then(|c| c["message"].as_str()?.parse().ok());
        match code {
            Some(code) if status["reason"] == "NonZeroExitCode" => Self::Exit(code),
            _ => Self::Error(status["message"].as_str().unwrap_or_default().to_owned()),
        }
    }
}

/// What keeps a connection open.
#[derive(Debug)]
enum Keep {
    Spdy {
        connection: spdy::Connection,
        /// Streams that come later wait here.
        _incoming: spdy::Incoming,
        /// Directions that nobody uses, not to be ended before the rest.
        _unused: Vec<spdy::WriteHalf>,
    },
    Channels(Channels),
}

impl Keep {
    fn end_token(&self) -> CancellationToken {
        match self {
            Self::Spdy { connection, .. } => connection.end_token(),
            Self::Channels(channels) => channels.end_token(),
        }
    }
}

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

async fn open_spdy<I: Io>(io: I, wanted: RequestedStreams) -> io::Result<Client> {
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

async fn open_websocket<I: Io>(io: I, wanted: RequestedStreams) -> Client {
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

/// Why a bridge has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command has.
    Command,
    /// The client is gone, and the command was not over.
    ClientGone,
    /// Nothing flowed for as long as may be, and the command was not over.
    Idle,
}

/// Connects a client to the command behind another connection, until the command has ended,
/// the client is gone, or nothing has flowed for so long.
pub async fn bridge(mut server: Server, mut client: Client, idle: Option<Duration>) -> Ended {
    let gone = server.end_token();
    let activity = Activity::default();
    let input = {
        let stdin = pump(server.stdin.take(), client.stdin.take(), &activity);
        let resize = pump(server.resize.take(), client.resize.take(), &activity);
        async {
            tokio::join!(stdin, resize);
            std::future::pending::<()>().await;
        }
    };
    let output = {
        let stdout = pump_to(client.stdout.take(), server.stdout.as_mut(), &activity);
        let stderr = pump_to(client.stderr.take(), server.stderr.as_mut(), &activity);
        let status = client.status();
        async { tokio::join!(stdout, stderr, status).2 }
    };
    let (ended, status) = tokio::select! {
        biased;
        status = output => (Ended::Command, status),
        () = input => (Ended::ClientGone, Vec::new()),
        () = gone.cancelled() => (Ended::ClientGone, Vec::new()),
        () = activity.idle_for(idle) => (Ended::Idle, Vec::new()),
    };
    match (ended, status.as_slice()) {
        (Ended::ClientGone, _) => {}
        (Ended::Idle, _) => {
            let seconds = idle.unwrap_or_default().as_secs();
            let text = format!("the streams were idle for {seconds} s");
            server.finish(&Outcome::Error(text)).await;
        }
        (Ended::Command, []) => {
            let text = "the container runtime closed the connection";
            server.finish(&Outcome::Error(text.into())).await;
        }
        (Ended::Command, status) => server.finish_with(status).await,
    }
    ended
}

/// Copies to the end and half-closes. What the writer does not take any more is thrown away,
/// so that an unread stream does not stop the others of its connection.
async fn pump(from: Option<BoxRead>, mut to: Option<BoxWrite>, activity: &Activity) {
    pump_to(from, to.as_mut(), activity).await;
    if let Some(mut to) = to {
        let _ = to.shutdown().await;
    }
}

async fn pump_to(from: Option<BoxRead>, mut to: Option<&mut BoxWrite>, activity: &Activity) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        activity.mark();
        let part = buffer.get(..n).unwrap_or_default();
        if let Some(writer) = to.as_mut()
            && writer.write_all(part).await.is_err()
        {
            to = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    const ALL: RequestedStreams = RequestedStreams {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };

    fn spdy_wish() -> UpgradeRequest {
        UpgradeRequest::Spdy {
            protocols: Vec::new(),
        }
    }
    fn websocket_wish() -> UpgradeRequest {
        UpgradeRequest::WebSocket {
            key: String::new(),
            protocols: Vec::new(),
        }
    }

    async fn spdy_pair(protocol: &str, wanted: RequestedStreams) -> (Server, Client) {
        let (a, b) = duplex(5_000);
        let wish = spdy_wish();
        let (server, client) =
            tokio::join!(serve(a, &wish, protocol, wanted), open_spdy(b, wanted));
        (server.unwrap(), client.unwrap())
    }

    async fn websocket_pair(wanted: RequestedStreams) -> (Server, Client) {
        let (a, b) = duplex(5_000);
        let wish = websocket_wish();
        let (server, client) = tokio::join!(
            serve(a, &wish, "v5.channel.k8s.io", wanted),
            open_websocket(b, wanted)
        );
        (server.unwrap(), client)
    }

    /// A command like `cat`, which also says something on stderr and ends with 3.
    async fn cat(mut server: Server) {
        let (mut stdin, mut stdout) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
        tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
        server.stdout = Some(stdout);
        let stderr = server.stderr.as_mut().unwrap();
        stderr.write_all(b"done\n").await.unwrap();
        server.finish(&Outcome::Exit(3)).await;
    }

    async fn talk(mut client: Client, bytes: usize) {
        let sent: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
        let (mut stdin, mut stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        let mut stderr = client.stderr.take().unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let input = async {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
        };
        let status = {
            let (_, o, e, status) = tokio::join!(
                input,
                stdout.read_to_end(&mut out),
                stderr.read_to_end(&mut err),
                client.status()
            );
            o.unwrap();
            e.unwrap();
            status
        };
        assert!(out == sent);
        assert_eq!(err, b"done\n");
        assert_eq!(Outcome::read(&status), Outcome::Exit(3));
    }

    #[tokio::test]
    async fn a_command_runs_over_both_transports() {
        for bytes in [0, 1, 300_000] {
            let (server, client) = spdy_pair("v4.channel.k8s.io", ALL).await;
            tokio::join!(cat(server), talk(client, bytes));
            let (server, client) = websocket_pair(ALL).await;
            tokio::join!(cat(server), talk(client, bytes));
        }
    }

    #[tokio::test]
    async fn a_bridge_joins_the_transports() {
        let (front, client) = websocket_pair(ALL).await;
        let (command, back) = spdy_pair("v4.channel.k8s.io", ALL).await;
        let (_, ended, ()) = tokio::join!(
            cat(command),
            bridge(front, back, None),
            talk(client, 200_000)
        );
        assert_eq!(ended, Ended::Command);
    }

    #[tokio::test]
    async fn a_bridge_ends_when_the_client_goes() {
        let (front, client) = websocket_pair(ALL).await;
        let (mut command, back) = spdy_pair("v4.channel.k8s.io", ALL).await;
        let bridging = tokio::spawn(bridge(front, back, None));
        drop(client);
        assert_eq!(bridging.await.unwrap(), Ended::ClientGone);
        let mut rest = Vec::new();
        let mut stdin = command.stdin.take().unwrap();
        stdin.read_to_end(&mut rest).await.unwrap();
        command.end_token().cancelled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_bridge_ends_when_nothing_flows() {
        let limit = Duration::from_secs(60);
        let (front, mut client) = websocket_pair(ALL).await;
        let (mut command, back) = spdy_pair("v4.channel.k8s.io", ALL).await;
        let bridging = tokio::spawn(bridge(front, back, Some(limit)));
        let began = clock::Instant::now();
        // A word in the middle of the time puts the end off.
        tokio::time::sleep(limit / 2).await;
        client
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"x")
            .await
            .unwrap();
        let status = client.status().await;
        let said = "the streams were idle for 60 s";
        assert!(
            matches!(Outcome::read(&status), Outcome::Error(why) if why.ends_with(said)),
            "{}",
            String::from_utf8_lossy(&status)
        );
        assert_eq!(bridging.await.unwrap(), Ended::Idle);
        assert_eq!(began.elapsed().as_secs(), (limit + limit / 2).as_secs());
        let mut got = Vec::new();
        let mut stdin = command.stdin.take().unwrap();
        stdin.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"x");
    }

    #[tokio::test]
    async fn the_runtimes_sudden_end_is_reported() {
        let (front, mut client) = spdy_pair("v4.channel.k8s.io", ALL).await;
        let (command, back) = spdy_pair("v4.channel.k8s.io", ALL).await;
        let bridging = tokio::spawn(bridge(front, back, None));
        drop(command);
        let status = client.status().await;
        assert!(matches!(Outcome::read(&status), Outcome::Error(_)));
        bridging.await.unwrap();
    }

    #[tokio::test]
    async fn a_terminal_is_resized() {
        let tty = RequestedStreams {
            stdin: true,
            stdout: true,
            stderr: true,
            tty: true,
        };
        let tty = tty.checked().unwrap();
        assert!(!tty.stderr);
        for spdy in [true, false] {
            let (mut server, mut client) = if spdy {
                spdy_pair("v4.channel.k8s.io", tty).await
            } else {
                websocket_pair(tty).await
            };
            let size = br#"{"Width":80,"Height":25}"#;
            let mut resize = client.resize.take().unwrap();
            resize.write_all(size).await.unwrap();
            let mut got = vec![0; size.len()];
            server
                .resize
                .as_mut()
                .unwrap()
                .read_exact(&mut got)
                .await
                .unwrap();
            assert_eq!(got, size);
            server.finish(&Outcome::Success).await;
            assert_eq!(Outcome::read(&client.status().await), Outcome::Success);
        }
    }

    #[tokio::test]
    async fn old_versions_get_text() {
        let (server, mut client) = spdy_pair("v2.channel.k8s.io", ALL).await;
        server
            .finish(&Outcome::Error("no such container".into()))
            .await;
        assert_eq!(
            client.status().await,
            b"Internal error occurred: no such container"
        );
    }

    #[test]
    fn nothing_wanted_is_an_error() {
        assert!(RequestedStreams::default().checked().is_err());
    }
}
