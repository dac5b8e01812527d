//! Streams of bytes from outside: SPDY and WebSocket, as `kubectl exec` and the container runtime
//! speak them.

use fuzz::throw;
use tokio::io::{AsyncWriteExt, DuplexStream};
use wire::stream::spdy::{Connection, Role, frame};
use wire::stream::websocket::{self, Channels, Codec};

/// A control frame of SPDY/3 with a body.
fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = (0x8003_u16).to_be_bytes().to_vec();
    out.extend(kind.to_be_bytes());
    let length = u32::try_from(body.len()).expect("short");
    out.extend((u32::from(flags) << 24 | length).to_be_bytes());
    out.extend(body);
    out
}

fn data(stream: u32, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = stream.to_be_bytes().to_vec();
    let length = u32::try_from(body.len()).expect("short");
    out.extend((u32::from(flags) << 24 | length).to_be_bytes());
    out.extend(body);
    out
}

#[test]
fn spdy_frames() {
    let syn = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let examples = [
        [&[0, 1, 0][..], &syn[..]].concat(),
        [&[0, 4, 0][..], &[0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0]].concat(),
        [&[0, 7, 0][..], &[0, 0, 0, 1, 0, 0, 0, 0]].concat(),
        [&[0, 9, 0][..], &[0, 0, 0, 1, 0, 1, 0, 0]].concat(),
    ];
    throw("spdy-frames", &examples, |bytes| {
        let [high, low, flags, body @ ..] = bytes else {
            return;
        };
        let mut decoder = frame::Decoder::default();
        let kind = u16::from_be_bytes([*high, *low]);
        for _ in 0..2 {
            let _ = decoder.read(kind, *flags, body);
        }
    });
}

/// How often the tasks of a connection get their turn after its last byte: frames that begin
/// streams, answers to them, and the end, each passed on through a few queues.
const TURNS: usize = 64;

/// Feeds bytes to what `start` makes of a pipe. One thread, so that the order is always the same.
fn feed<T, F: Future<Output = T>>(bytes: &[u8], start: impl FnOnce(DuplexStream) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 20);
        let running = start(near).await;
        let (mut answers, mut questions) = tokio::io::split(far);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            let _ = questions.write_all(&bytes).await;
            let _ = questions.shutdown().await;
        });
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut tokio::io::sink()).await });
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        drop(running);
    });
}

#[test]
fn spdy_connections() {
    let examples = [
        [
            control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0]),
            control(6, 0, &[0, 0, 0, 1]),
        ]
        .concat(),
        [
            control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 5]),
            data(1, 0, b"hello"),
            data(3, 1, b""),
        ]
        .concat(),
        [
            control(9, 0, &[0, 0, 0, 1, 0, 1, 0, 0]),
            control(7, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
        ]
        .concat(),
    ];
    throw("spdy", &examples, |bytes| {
        feed(bytes, |io| async { Connection::start(io, Role::Server) });
    });
}

#[test]
fn websockets() {
    // Masked frames as a client sends them: binary on channel 0, a ping, a close.
    let masked = |first: u8, body: &[u8]| {
        let mut out = vec![
            first,
            0x80 | u8::try_from(body.len()).expect("short"),
            0,
            0,
            0,
            0,
        ];
        out.extend(body);
        out
    };
    let examples = [
        [masked(0x82, b"\x00hello"), masked(0x82, b"\xff\x00")].concat(),
        [masked(0x89, b"ping"), masked(0x88, &[3, 232])].concat(),
        [masked(0x01, b"0aGVs"), masked(0x80, b"bG8=")].concat(),
    ];
    throw("websocket", &examples, |bytes| {
        for codec in [Codec::Binary, Codec::Base64] {
            feed(bytes, |io| async move {
                let role = websocket::Role::Server;
                let socket = websocket::open(io, role).await;
                Channels::start(socket, role, codec, true, [0, 4])
            });
        }
    });
}
