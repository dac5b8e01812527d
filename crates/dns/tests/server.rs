//! The server on loopback sockets, asked in both transports.

use std::net::{Ipv4Addr, SocketAddr};

use dns::{Config, Heard, run_on};
use futures::StreamExt;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

async fn free_address() -> SocketAddr {
    loop {
        // A port that is free in both transports.
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("bind");
        let address = udp.local_addr().expect("address");
        if TcpListener::bind(address).await.is_ok() {
            return address;
        }
    }
}

/// A server that knows a headless Service `many` with this many endpoints.
async fn start(endpoints: u8, upstreams: Vec<SocketAddr>) -> SocketAddr {
    let address = free_address().await;
    let endpoints: Vec<_> = (0..endpoints)
        .map(|last| json!({"addresses": [format!("10.244.0.{last}")]}))
        .collect();
    let service = serde_json::from_value(json!({
        "metadata": {"name": "many", "namespace": "default"}, "spec": {"clusterIP": "None"},
    }));
    let slice = serde_json::from_value(json!({
        "metadata": {"name": "many-1", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "endpoints": endpoints,
    }));
    let events = vec![
        Heard::Service(Event::Init),
        Heard::Service(Event::InitApply(service.expect("a Service"))),
        Heard::Service(Event::InitDone),
        Heard::Slice(Event::Init),
        Heard::Slice(Event::InitApply(slice.expect("an EndpointSlice"))),
        Heard::Slice(Event::InitDone),
        Heard::Namespace(Event::Init),
        Heard::Namespace(Event::InitDone),
    ];
    let config = Config {
        upstreams,
        ..Config::new(vec![address])
    };
    let (taken, all_taken) = tokio::sync::oneshot::channel::<()>();
    let mut taken = Some(taken);
    let count = events.len();
    let events = futures::stream::iter(events)
        .enumerate()
        .map(move |(index, event)| {
            if index + 1 == count {
                drop(taken.take());
            }
            event
        });
    tokio::spawn(async move {
        run_on(Box::pin(events), config, std::future::pending())
            .await
            .expect("run")
    });
    let _ = all_taken.await;
    address
}

fn question(name: &str) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).expect("a name");
    message.queries.push(Query::query(name, RecordType::A));
    message
}

async fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("bind");
    let bytes = message.to_vec().expect("encode");
    socket.send_to(&bytes, server).await.expect("send");
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).await.expect("receive");
    Message::from_vec(&buffer[..length]).expect("decode")
}

async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.expect("connect");
    let bytes = message.to_vec().expect("encode");
    stream
        .write_u16(u16::try_from(bytes.len()).expect("short"))
        .await
        .expect("write");
    stream.write_all(&bytes).await.expect("write");
    let mut answer = vec![0; usize::from(stream.read_u16().await.expect("read"))];
    stream.read_exact(&mut answer).await.expect("read");
    Message::from_vec(&answer).expect("decode")
}

#[tokio::test]
async fn answers_are_cut_for_udp_and_whole_by_tcp() {
    let server = start(100, Vec::new()).await;
    let asked = question("Many.Default.svc.cluster.local.");
    let by_udp = ask_udp(server, &asked).await;
    assert_eq!(by_udp.metadata.id, 7);
    assert!(by_udp.metadata.truncation && by_udp.metadata.authoritative);
    assert!((1..100).contains(&by_udp.answers.len()));
    let by_tcp = ask_tcp(server, &asked).await;
    assert_eq!(by_tcp.answers.len(), 100);
    assert!(!by_tcp.metadata.truncation);
    assert_eq!(
        by_tcp.answers[0].name.to_ascii(),
        "Many.Default.svc.cluster.local."
    );
}

#[tokio::test]
async fn silent_connections_keep_nobody_out_and_no_question_is_endless() {
    let server = start(1, Vec::new()).await;
    let mut silent = Vec::new();
    // More than there are places.
    for _ in 0..300 {
        silent.push(TcpStream::connect(server).await.expect("connect"));
    }
    let asked = question("many.default.svc.cluster.local.");
    assert_eq!(ask_tcp(server, &asked).await.answers.len(), 1);
    let mut long = TcpStream::connect(server).await.expect("connect");
    long.write_u16(5_000).await.expect("write");
    // The server may have left before all was sent.
    let _ = long.write_all(&[0; 5_000]).await;
    assert!(long.read_u16().await.is_err(), "it ends without an answer");
}

#[tokio::test]
async fn the_first_address_changes() {
    let server = start(2, Vec::new()).await;
    let asked = question("many.default.svc.cluster.local.");
    let one = ask_udp(server, &asked).await;
    let two = ask_udp(server, &asked).await;
    assert_ne!(one.answers[0].data, two.answers[0].data);
}

#[tokio::test]
async fn the_rest_of_the_world_is_asked_upstream() {
    // The upstream is a server of another cluster domain.
    let upstream = start(3, Vec::new()).await;
    let address = free_address().await;
    let config = Config {
        cluster_domain: "other.example".into(),
        upstreams: vec![upstream],
        ..Config::new(vec![address])
    };
    let mut running = std::pin::pin!(run_on(
        futures::stream::pending(),
        config,
        std::future::pending()
    ));
    let asked = question("many.default.svc.cluster.local.");
    let answers = async {
        (
            ask_udp(address, &asked).await,
            ask_tcp(address, &asked).await,
        )
    };
    tokio::select! {
        biased;
        _ = &mut running => panic!("the server ended"),
        (by_udp, by_tcp) = answers => {
            assert_eq!((by_udp.metadata.id, by_udp.answers.len()), (7, 3));
            assert_eq!(by_tcp.answers.len(), 3);
        }
    }
}

#[tokio::test]
async fn without_upstream_or_index_the_answer_comes_at_once() {
    let server = start(1, Vec::new()).await;
    let code = |message: Message| message.metadata.response_code;
    assert_eq!(
        code(ask_udp(server, &question("example.com.")).await),
        ResponseCode::Refused
    );
    let nothing = question("nothing.default.svc.cluster.local.");
    assert_eq!(
        code(ask_udp(server, &nothing).await),
        ResponseCode::NXDomain
    );
    let mut update = question("example.com.");
    update.metadata.op_code = OpCode::Update;
    update.queries.clear();
    let update = ask_udp(server, &update).await;
    assert_ne!(code(update), ResponseCode::NoError);
    // A closed port upstream is noticed, not waited for.
    let closed = free_address().await;
    let server = start(1, vec![closed]).await;
    assert_eq!(
        code(ask_udp(server, &question("example.com.")).await),
        ResponseCode::ServFail
    );
}
