//! Both roles against each other, and whatever a broken peer may send.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::frame::{Decoder, Encoder, HEAD_BYTES, Head};
use super::*;

fn decode(mut bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
    let mut decoder = Decoder::default();
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let head = Head::read(*head)?;
        let (Head::Control { length, .. } | Head::Data { length, .. }) = head;
        let Some((body, rest)) = rest.split_at_checked(length) else {
            break;
        };
        bytes = rest;
        all.push(match head {
            Head::Control { kind, flags, .. } => decoder.read(kind, flags, body)?,
            Head::Data { id, fin, .. } => Frame::Data {
                id,
                fin,
                data: Bytes::copy_from_slice(body),
            },
        });
    }
    Ok(all)
}

fn any_headers() -> impl Strategy<Value = Headers> {
    proptest::collection::vec(("[a-z]{1,12}", "[ -~]{0,40}"), 0..6)
        .prop_map(|all| Headers::new(all.iter().map(|(k, v)| (k.as_str(), v.as_str()))))
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let id = 1u32..0x7fff_ffff;
    let data = proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        (id.clone(), any::<bool>(), any::<bool>(), any_headers()).prop_map(
            |(id, fin, unidirectional, headers)| Frame::SynStream {
                id,
                fin,
                unidirectional,
                headers
            }
        ),
        (id.clone(), any::<bool>(), any_headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<bool>(), any_headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (id.clone(), 1u32..12).prop_map(|(id, status)| Frame::Rst { id, status }),
        proptest::collection::vec((0u32..0x00ff_ffff, any::<u32>()), 0..4)
            .prop_map(Frame::Settings),
        any::<u32>().prop_map(Frame::Ping),
        (id.clone(), 0u32..3).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (id.clone(), id.clone()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        (id, any::<bool>(), data).prop_map(|(id, fin, data)| Frame::Data {
            id,
            fin,
            data: data.into()
        }),
    ]
}

proptest! {
    #[test]
    fn frames_survive_the_wire(frames in proptest::collection::vec(any_frame(), 0..12)) {
        let mut encoder = Encoder::default();
        let mut bytes = BytesMut::new();
        for frame in &frames {
            encoder.write(frame, &mut bytes);
        }
        prop_assert_eq!(decode(&bytes), Ok(frames));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn spoilt_frames_are_errors_or_other_frames(
        frames in proptest::collection::vec(any_frame(), 1..6),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut encoder = Encoder::default();
        let mut bytes = BytesMut::new();
        for frame in &frames {
            encoder.write(frame, &mut bytes);
        }
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = decode(&bytes);
    }

}

proptest! {
    // Each case moves much data through small pipes.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn all_bytes_arrive_and_half_close_leaves_the_other_direction_open(
        request in proptest::collection::vec(any::<u8>(), 0..200_000),
        answer in proptest::collection::vec(any::<u8>(), 0..200_000),
        pipe in 50usize..10_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, server, mut incoming) = pair(pipe);
            let opened = client.open(Headers::new([("streamType", "data")])).await.unwrap();
            let (mut read, mut write) = opened.split();
            let asked = request.clone();
            let replied = answer.clone();
            let serving = async {
                let stream = incoming.next().await.unwrap();
                assert_eq!(stream.headers().get("StreamType"), Some("data"));
                let (mut read, mut write) = stream.split();
                let mut got = Vec::new();
                read.read_to_end(&mut got).await.unwrap();
                // Only after the client's end: its half-close came alone.
                write.write_all(&replied).await.unwrap();
                write.shutdown().await.unwrap();
                got
            };
            let asking = async {
                write.write_all(&asked).await.unwrap();
                write.shutdown().await.unwrap();
                let mut got = Vec::new();
                read.read_to_end(&mut got).await.unwrap();
                got
            };
            let (got_request, got_answer) = tokio::join!(serving, asking);
            assert!(got_request == request && got_answer == answer);
            drop(server);
            client.ended().await;
        });
    }
}

fn pair(pipe: usize) -> (Connection, Connection, Incoming) {
    let (a, b) = duplex(pipe);
    let (client, _) = Connection::start(a, Role::Client);
    let (server, incoming) = Connection::start(b, Role::Server);
    (client, server, incoming)
}

#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_stop_another() {
    let (client, _server, mut incoming) = pair(4096);
    let (_, mut lazy) = client.open(Headers::default()).await.unwrap().split();
    let unread = incoming.next().await.unwrap();
    let filling = tokio::spawn(async move { lazy.write_all(&[7; 300_000]).await });
    let (mut read, mut write) = client.open(Headers::default()).await.unwrap().split();
    let busy = incoming.next().await.unwrap();
    let echo = tokio::spawn(async move {
        let (mut read, mut write) = busy.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let sent = vec![9; 500_000];
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, read) = tokio::join!(writing, read.read_to_end(&mut got));
    read.unwrap();
    assert!(got == sent);
    echo.await.unwrap();
    assert!(
        !filling.is_finished(),
        "a window holds the unread stream back"
    );
    let (mut read, _) = unread.split();
    let mut all = vec![0; 300_000];
    read.read_exact(&mut all).await.unwrap();
    filling.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reset_ends_reading_and_writing() {
    let (client, _server, mut incoming) = pair(4096);
    let (mut read, mut write) = client.open(Headers::default()).await.unwrap().split();
    write.write_all(b"hello").await.unwrap();
    let (mut theirs, their_write) = incoming.next().await.unwrap().split();
    let mut got = [0; 5];
    theirs.read_exact(&mut got).await.unwrap();
    their_write.reset();
    assert_eq!(read.read(&mut got).await.unwrap(), 0);
    let error = loop {
        if let Err(e) = write.write_all(b"more").await {
            break e;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn what_was_written_arrives_although_the_connection_is_dropped() {
    let (client, server, mut incoming) = pair(1000);
    let (mut read, _write) = client.open(Headers::default()).await.unwrap().split();
    let (_read, mut write) = incoming.next().await.unwrap().split();
    // Less than a window: it is taken without a reader.
    write.write_all(&[1; 60_000]).await.unwrap();
    drop((write, server));
    let mut got = Vec::new();
    read.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 60_000);
}

/// A peer that is not a Tiphys: raw frames, no SETTINGS, no windows.
async fn raw(frames: &[Frame]) -> (Connection, Incoming, DuplexStream) {
    let (mut a, b) = duplex(1 << 20);
    let (server, incoming) = Connection::start(b, Role::Server);
    let mut encoder = Encoder::default();
    let mut bytes = BytesMut::new();
    for frame in frames {
        encoder.write(frame, &mut bytes);
    }
    a.write_all(&bytes).await.unwrap();
    (server, incoming, a)
}

fn syn(id: u32) -> Frame {
    Frame::SynStream {
        id,
        fin: false,
        unidirectional: false,
        headers: Headers::default(),
    }
}

#[tokio::test]
async fn without_announced_windows_the_peer_gets_everything() {
    let (_server, mut incoming, mut peer) = raw(&[syn(1)]).await;
    let (_read, mut write) = incoming.next().await.unwrap().split();
    write.write_all(&[3; 400_000]).await.unwrap();
    drop(write);
    let mut seen = 0;
    while seen < 400_000 {
        let mut head = [0; HEAD_BYTES];
        peer.read_exact(&mut head).await.unwrap();
        let head = Head::read(head).unwrap();
        let (Head::Control { length, .. } | Head::Data { length, .. }) = head;
        let mut body = vec![0; length];
        peer.read_exact(&mut body).await.unwrap();
        if matches!(head, Head::Data { .. }) {
            seen += length;
        }
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_loses_the_connection() {
    for bad in [vec![syn(2)], vec![syn(3), syn(1)]] {
        let (server, _incoming, _peer) = raw(&bad).await;
        server.ended().await;
    }
    let (mut a, b) = duplex(1 << 20);
    let (server, _incoming) = Connection::start(b, Role::Server);
    a.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .await
        .unwrap();
    // Read as the length of a huge data frame: it ends with the bytes.
    drop(a);
    server.ended().await;
}
