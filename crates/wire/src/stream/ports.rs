//! Port-forwarding: each forwarded connection is a pair of streams, data and error.
//!
//! Over SPDY (plain or tunnelled in a WebSocket) the client opens pairs as it needs them, with
//! headers `streamType`, `port` and `requestID`. Over WebSocket channels (clients other than
//! kubectl) there is one pair per port, named in the request: channels 2n and 2n+1, each of
//! which begins with the port as two bytes, low byte first. A channel has no end of its own there:
//! when all ports have ended, the WebSocket is closed.

use std::collections::HashMap;
use std::time::Duration;

use clock::Instant;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::task::JoinSet;

use super::idle::{Activity, watched};
use super::remote::STREAM_TYPE;
use super::spdy::{Connection, Role, Stream, WriteHalf};
use super::upgrade::UpgradeRequest;
use super::websocket::{self, Channels, Codec, TUNNEL_PREFIX, Tunnel};
use super::{BoxIo, BoxRead, BoxWrite, CHUNK_BYTES, Io};

/// The stream protocol over SPDY.
pub const PROTOCOL: &str = "portforward.k8s.io";
/// The same as a subprotocol of WebSocket.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Protocols of channels.
const CHANNEL_PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// How long a pair may be incomplete; as upstream.
const PAIRING: Duration = Duration::from_secs(30);
/// How long a connection may go on in one direction after it ended in the other, where the client
/// cannot hear of that; as upstream's runtimes.
const AFTER_END: Duration = Duration::from_secs(1);
/// Incomplete pairs at once.
const MAX_HALF_PAIRS: usize = 100;

/// Connects to a port; an error's text goes to the client.
pub trait Dial: Clone + Send + Sync + 'static {
    /// A connection to the port.
    fn dial(&self, port: u16) -> impl Future<Output = Result<BoxIo, String>> + Send;
}

/// The protocol to serve a client with; none when there is no common one.
#[must_use]
pub fn choose(wish: &UpgradeRequest) -> Option<String> {
    match wish {
        UpgradeRequest::WebSocket { .. } => wish
            .choose(&[TUNNEL_PROTOCOL])
            .or_else(|| wish.choose(CHANNEL_PROTOCOLS)),
        UpgradeRequest::Spdy { .. } => wish.choose(&[PROTOCOL]),
    }
}

/// A dialler whose connections are watched for what flows in them.
#[derive(Clone)]
struct Noticed<D> {
    dial: D,
    activity: Activity,
}

impl<D: Dial> Dial for Noticed<D> {
    async fn dial(&self, port: u16) -> Result<BoxIo, String> {
        // That somebody connects is activity, too.
        self.activity.mark();
        let connection = self.dial.dial(port).await?;
        Ok(watched(connection, &self.activity))
    }
}

/// Serves an upgraded connection until the client closes it, or nothing has flowed to any port for
/// as long as `idle` says. `ports` are those of the request; only WebSocket channels need them.
pub async fn serve<I: Io, D: Dial>(
    io: I,
    (wish, protocol): (&UpgradeRequest, &str),
    ports: &[u16],
    dial: D,
    idle: Option<Duration>,
) {
    let activity = Activity::default();
    let dial = Noticed {
        dial,
        activity: activity.clone(),
    };
    tokio::select! {
        biased;
        () = serve_streams(io, (wish, protocol), ports, dial) => {}
        () = activity.idle_for(idle) => tracing::debug!("forwarded ports were idle for too long"),
    }
}

async fn serve_streams<I: Io, D: Dial>(
    io: I,
    (wish, protocol): (&UpgradeRequest, &str),
    ports: &[u16],
    dial: D,
) {
    match wish {
        UpgradeRequest::Spdy { .. } => serve_spdy(io, dial).await,
        UpgradeRequest::WebSocket { .. } => {
            let socket = websocket::open(io, websocket::Role::Server).await;
            if protocol.starts_with(TUNNEL_PREFIX) {
                serve_spdy(Tunnel::new(socket), dial).await;
            } else {
                serve_channels(socket, protocol, ports, dial).await;
            }
        }
    }
}

#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
    since: Option<Instant>,
}

async fn serve_spdy<I: Io, D: Dial>(io: I, dial: D) {
    let (connection, mut incoming) = Connection::start(io, Role::Server);
    let mut waiting: HashMap<String, Pair> = HashMap::new();
    // Forwarded connections end with the client's.
    let mut running = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = incoming.next() => match stream {
                Some(s) => s,
                None => break,
            },
            Some(_) = running.join_next(), if !running.is_empty() => continue,
        };
        let now = Instant::now();
        waiting.retain(|_, p| p.since.is_some_and(|s| now.duration_since(s) < PAIRING));
        let Some((id, kind)) = identify(&stream) else {
            stream.split().1.reset();
            continue;
        };
        if waiting.len() >= MAX_HALF_PAIRS && !waiting.contains_key(&id) {
            stream.split().1.reset();
            continue;
        }
        let pair = waiting.entry(id.clone()).or_default();
        pair.since.get_or_insert(now);
        let place = match kind {
            StreamKind::Data => &mut pair.data,
            StreamKind::Error => &mut pair.error,
        };
        if place.is_some() {
            stream.split().1.reset();
            continue;
        }
        *place = Some(stream);
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some(pair) = waiting.remove(&id)
            && let (Some(data), Some(error)) = (pair.data, pair.error)
        {
            running.spawn(forward_streams(data, error, dial.clone()));
        }
    }
    drop(connection);
}

enum StreamKind {
    Data,
    Error,
}

/// Which pair a stream belongs to; none when its headers are not right.
fn identify(stream: &Stream) -> Option<(String, StreamKind)> {
    port_of(stream)?;
    let kind = match stream.headers().get(STREAM_TYPE)? {
        "data" => StreamKind::Data,
        "error" => StreamKind::Error,
        _ => return None,
    };
    let id = match (stream.headers().get("requestid"), &kind) {
        (Some(id), _) if !id.is_empty() => id.to_owned(),
        // Old clients name none: they open the error stream and then the data stream.
        (_, StreamKind::Error) => stream.id().to_string(),
        (_, StreamKind::Data) => stream.id().saturating_sub(2).to_string(),
    };
    Some((id, kind))
}

fn port_of(stream: &Stream) -> Option<u16> {
    let port = stream.headers().get("port")?.parse().ok()?;
    (port > 0).then_some(port)
}

async fn forward_streams<D: Dial>(data: Stream, error: Stream, dial: D) {
    let Some(port) = port_of(&data) else { return };
    let (read, write) = data.split();
    let (_unread, mut error) = error.split();
    match dial.dial(port).await {
        Ok(connection) => {
            let _ = exchange(Box::new(read), write, connection).await;
            let _ = error.shutdown().await;
        }
        Err(text) => {
            refuse(&mut error, &text).await;
            write.reset();
        }
    }
}

async fn refuse(error: &mut WriteHalf, text: &str) {
    tracing::debug!("{text}");
    let _ = error.write_all(text.as_bytes()).await;
    let _ = error.shutdown().await;
}

/// Copies both ways; each direction's end is passed on alone.
async fn exchange<W>(read: BoxRead, write: W, connection: BoxIo) -> std::io::Result<()>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut client = tokio::io::join(read, write);
    let mut connection = connection;
    tokio::io::copy_bidirectional_with_sizes(
        &mut client,
        &mut connection,
        CHUNK_BYTES,
        CHUNK_BYTES,
    )
    .await?;
    Ok(())
}

async fn serve_channels<I: Io, D: Dial>(
    socket: tokio_tungstenite::WebSocketStream<I>,
    protocol: &str,
    ports: &[u16],
    dial: D,
) {
    let codec = if protocol.contains("base64.") {
        Codec::Base64
    } else {
        Codec::Binary
    };
    let numbers: Vec<(u8, u16)> = (0..=126u8).step_by(2).zip(ports.iter().copied()).collect();
    let readable = numbers.iter().map(|(n, _)| *n);
    let mut channels = Channels::start(socket, websocket::Role::Server, codec, false, readable);
    let mut running = JoinSet::new();
    for (number, port) in numbers {
        let Some(read) = channels.take_reader(number) else {
            continue;
        };
        let data: BoxWrite = Box::new(channels.writer(number));
        let error: BoxWrite = Box::new(channels.writer(number + 1));
        running.spawn(forward_channels(
            Box::new(read),
            data,
            error,
            port,
            dial.clone(),
        ));
    }
    let end = channels.end_token();
    tokio::select! {
        () = end.cancelled() => {}
        () = async { while running.join_next().await.is_some() {} } => {}
    }
}

async fn forward_channels<D: Dial>(
    read: BoxRead,
    mut data: BoxWrite,
    mut error: BoxWrite,
    port: u16,
    dial: D,
) {
    let begun = async {
        data.write_all(&port.to_le_bytes()).await?;
        error.write_all(&port.to_le_bytes()).await
    };
    if begun.await.is_err() {
        return;
    }
    match dial.dial(port).await {
        Ok(connection) => exchange_until_an_end(read, data, connection).await,
        Err(text) => {
            tracing::debug!("{text}");
            let _ = error.write_all(text.as_bytes()).await;
        }
    }
}

/// Copies both ways until one direction has ended and the other has had [`AFTER_END`] more.
async fn exchange_until_an_end(read: BoxRead, mut data: BoxWrite, connection: BoxIo) {
    let (from_pod, mut to_pod) = tokio::io::split(connection);
    let there = async {
        let mut read = BufReader::with_capacity(CHUNK_BYTES, read);
        let _ = tokio::io::copy_buf(&mut read, &mut to_pod).await;
        let _ = to_pod.shutdown().await;
    };
    let back = async {
        let mut read = BufReader::with_capacity(CHUNK_BYTES, from_pod);
        let _ = tokio::io::copy_buf(&mut read, &mut data).await;
    };
    tokio::pin!(there, back);
    tokio::select! {
        biased;
        () = &mut back => {
            let _ = tokio::time::timeout(AFTER_END, there).await;
        }
        () = &mut there => {
            let _ = tokio::time::timeout(AFTER_END, back).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::spdy::Headers;
    use tokio::io::{AsyncReadExt, duplex};

    /// Port 7 echoes, all others refuse.
    #[derive(Clone)]
    struct Echo;
    impl Dial for Echo {
        async fn dial(&self, port: u16) -> Result<BoxIo, String> {
            if port != 7 {
                return Err(format!("nobody listens on {port}"));
            }
            let (near, far) = duplex(1_000);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(far);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            Ok(Box::new(near))
        }
    }

    async fn ask(client: &Connection, port: u16, id: &str, send: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let port = port.to_string();
        let headers = |kind| {
            Headers::new([
                ("streamType", kind),
                ("port", port.as_str()),
                ("requestID", id),
            ])
        };
        let (mut error, mut unused) = client.open(headers("error")).await.unwrap().split();
        unused.shutdown().await.unwrap();
        let (mut read, mut write) = client.open(headers("data")).await.unwrap().split();
        let (mut got, mut failure) = (Vec::new(), Vec::new());
        let sending = async {
            let _ = write.write_all(send).await;
            let _ = write.shutdown().await;
        };
        let (_, a, b) = tokio::join!(
            sending,
            read.read_to_end(&mut got),
            error.read_to_end(&mut failure)
        );
        a.unwrap();
        b.unwrap();
        (got, failure)
    }

    #[tokio::test]
    async fn connections_are_forwarded_side_by_side_plain_and_in_a_tunnel() {
        for tunnelled in [false, true] {
            let (a, b) = duplex(10_000);
            let client = if tunnelled {
                let wish = UpgradeRequest::WebSocket {
                    key: String::new(),
                    protocols: vec![TUNNEL_PROTOCOL.into()],
                };
                let protocol = choose(&wish).unwrap();
                tokio::spawn(async move { serve(a, (&wish, &protocol), &[], Echo, None).await });
                let socket = websocket::open(b, websocket::Role::Client).await;
                Connection::start(Tunnel::new(socket), Role::Client).0
            } else {
                tokio::spawn(serve_spdy(a, Echo));
                Connection::start(b, Role::Client).0
            };
            let big = vec![5; 200_000];
            let (x, y, z) = tokio::join!(
                ask(&client, 7, "0", &big),
                ask(&client, 7, "1", b"hello"),
                ask(&client, 8, "2", b"hello")
            );
            assert!(x.0 == big && x.1.is_empty());
            assert_eq!(y, (b"hello".to_vec(), Vec::new()));
            assert_eq!(z, (Vec::new(), b"nobody listens on 8".to_vec()));
        }
    }

    #[tokio::test]
    async fn channels_begin_with_the_port() {
        let (a, b) = duplex(10_000);
        let wish = UpgradeRequest::WebSocket {
            key: String::new(),
            protocols: vec!["v4.channel.k8s.io".into()],
        };
        tokio::spawn(
            async move { serve(a, (&wish, "v4.channel.k8s.io"), &[7, 8], Echo, None).await },
        );
        let socket = websocket::open(b, websocket::Role::Client).await;
        let role = websocket::Role::Client;
        let mut client = Channels::start(socket, role, Codec::Binary, false, 0..4);
        let mut readers: Vec<_> = (0..4).map(|n| client.take_reader(n).unwrap()).collect();
        for (reader, port) in readers.iter_mut().zip([7u16, 7, 8, 8]) {
            assert_eq!(reader.read_u16_le().await.unwrap(), port);
        }
        client.writer(0).write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        readers[0].read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        let mut failure = [0; 19];
        readers[3].read_exact(&mut failure).await.unwrap();
        assert_eq!(&failure, b"nobody listens on 8");
    }
    #[tokio::test(start_paused = true)]
    async fn forwarding_ends_when_nothing_flows() {
        let limit = Duration::from_secs(60);
        let (a, b) = duplex(10_000);
        let wish = UpgradeRequest::Spdy {
            protocols: Vec::new(),
        };
        let serving =
            tokio::spawn(async move { serve(a, (&wish, PROTOCOL), &[], Echo, Some(limit)).await });
        let client = Connection::start(b, Role::Client).0;
        let began = Instant::now();
        tokio::time::sleep(limit / 2).await;
        assert_eq!(ask(&client, 7, "0", b"hello").await.0, b"hello");
        serving.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), (limit + limit / 2).as_secs());
        client.end_token().cancelled().await;
    }

    /// Sends a line to each that connects, and closes.
    #[derive(Clone)]
    struct Brief;
    impl Dial for Brief {
        async fn dial(&self, port: u16) -> Result<BoxIo, String> {
            if port != 7 {
                return Err("nobody".into());
            }
            let (near, mut far) = duplex(1_000);
            tokio::spawn(async move {
                let _ = far.write_all(b"bye").await;
            });
            Ok(Box::new(near))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn channels_end_when_all_ports_have() {
        for ports in [vec![7], vec![8], vec![7, 8]] {
            let (a, b) = duplex(10_000);
            let wish = UpgradeRequest::WebSocket {
                key: String::new(),
                protocols: vec!["v4.channel.k8s.io".into()],
            };
            let wanted = ports.clone();
            tokio::spawn(async move {
                serve(a, (&wish, "v4.channel.k8s.io"), &wanted, Brief, None).await
            });
            let socket = websocket::open(b, websocket::Role::Client).await;
            let role = websocket::Role::Client;
            let mut client = Channels::start(socket, role, Codec::Binary, false, 0..4);
            for (number, port) in (0u8..).step_by(2).zip(ports) {
                let mut whole = Vec::new();
                for channel in [number, number + 1] {
                    let mut reader = client.take_reader(channel).unwrap();
                    assert_eq!(reader.read_u16_le().await.unwrap(), port);
                    // To its end, although the client says nothing.
                    reader.read_to_end(&mut whole).await.unwrap();
                }
                let expected: &[u8] = if port == 7 { b"bye" } else { b"nobody" };
                assert_eq!(whole, expected);
            }
            client.end_token().cancelled().await;
        }
    }
}
