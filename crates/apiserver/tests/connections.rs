//! Connections that say nothing, too many of them, and answers that come before the request's
//! body was read: on a real server over TLS.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::filters::authn::ClientCertificates;
use apiserver::filters::authz::Masters;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Pair, Subject};
use wire::serve::{Connections, Lanes, Limits};

type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;
type Body = BoxBody<Bytes, std::convert::Infallible>;

struct Running {
    address: String,
    connections: Connections,
    ca: Ca,
    now: i64,
}

/// Long enough that no test meets it by chance.
const NEVER: Duration = Duration::from_secs(3600);

async fn start(limits: Limits) -> Running {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("test", now).expect("ca");
    let ip = "127.0.0.1".parse().expect("ip");
    let subject = Subject::server("apiserver", &["localhost"], &[ip]);
    let pair = ca.issue(&subject, now, 1).expect("pair");
    let tls = wire::tls::server_config(&pair, Some(&ca.pair.cert_pem)).expect("tls");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let at = listener.local_addr().expect("address");
    let mut config = common::config_at("192.0.2.1", at.port());
    config.authenticators = vec![Arc::new(ClientCertificates::default())];
    config.authorizers = vec![Arc::new(Masters)];
    let server = common::server_with(config).await;
    let handle = move |request| {
        let server = server.clone();
        async move { server.handle(request).await }
    };
    let connections = Connections::new(limits);
    let end = CancellationToken::new();
    let table = connections.clone();
    tokio::spawn(wire::serve::serve_within(
        table,
        Lanes::ONE,
        listener,
        tls,
        handle,
        end,
        std::future::ready(()),
    ));
    Running {
        address: at.to_string(),
        connections,
        ca,
        now,
    }
}

impl Running {
    fn pair(&self, user: &str, groups: &[&str]) -> Pair {
        let subject = Subject::client(user, groups);
        self.ca.issue(&subject, self.now, 1).expect("pair")
    }

    async fn dial(&self, pair: Option<&Pair>, protocols: &[&str]) -> std::io::Result<TlsStream> {
        let socket = TcpStream::connect(&self.address).await?;
        self.over(socket, pair, protocols).await
    }

    async fn over(
        &self,
        socket: TcpStream,
        pair: Option<&Pair>,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream> {
        let tls = wire::tls::client_config(&self.ca.pair.cert_pem, pair, protocols);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.expect("tls")));
        let name = ServerName::try_from("127.0.0.1").expect("name");
        connector.connect(name, socket).await
    }

    /// Says nothing, or no more than that it speaks HTTP/2.
    async fn silent(&self, http2: bool) -> std::io::Result<TlsStream> {
        if !http2 {
            return self.dial(None, &["http/1.1"]).await;
        }
        let mut io = self.dial(None, &["h2"]).await?;
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await?;
        Ok(io)
    }

    async fn http2(&self, pair: Option<&Pair>) -> Http2 {
        self.try_http2(pair).await.expect("a connection")
    }

    async fn try_http2(&self, pair: Option<&Pair>) -> std::io::Result<Http2> {
        let io = self.dial(pair, &["h2"]).await?;
        let executor = TokioExecutor::new();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(executor, TokioIo::new(io))
                .await
                .map_err(std::io::Error::other)?;
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Http2 { sender, task })
    }
}

/// Begins until it has begun: a machine that stands still may use up the time of a connection
/// before it has said anything.
async fn again<T, F>(begin: impl Fn() -> F) -> T
where
    F: Future<Output = std::io::Result<T>>,
{
    loop {
        if let Ok(begun) = begin().await {
            return begun;
        }
    }
}

struct Http2 {
    sender: hyper::client::conn::http2::SendRequest<Body>,
    task: JoinHandle<()>,
}

fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://127.0.0.1{path}"));
    request.body(body).expect("request")
}

fn get(path: &str) -> Request<Body> {
    request(Method::GET, path, Empty::new().boxed())
}

async fn text(answer: Response<Incoming>) -> (StatusCode, String) {
    let code = answer.status();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits until the server has closed a connection.
async fn closed(mut io: TlsStream) {
    let mut bytes = [0; 256];
    while matches!(io.read(&mut bytes).await, Ok(n) if n > 0) {}
}

#[tokio::test]
async fn silence_ends_a_connection_without_credentials() {
    let server = start(Limits {
        // Room for a handshake and a request on a loaded machine.
        first_request: Duration::from_secs(6),
        ..Limits::MOST
    })
    .await;
    let server = &server;
    let silent =
        move |http2: bool| async move { closed(again(|| server.silent(http2)).await).await };
    // Half a request is not a request.
    let half = async {
        let half = again(|| async {
            let mut half = server.dial(None, &["http/1.1"]).await?;
            half.write_all(b"GET /version HTTP/1.1\r\nHo").await?;
            Ok::<_, std::io::Error>(half)
        });
        closed(half.await).await;
    };
    // After an answer that needed no credentials it is the same.
    let idle = async {
        let idle = again(|| async {
            let mut idle = server.try_http2(None).await?;
            let answer = idle.sender.send_request(get("/version")).await;
            answer.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(idle)
        });
        let idle = idle.await;
        idle.task.await.expect("ended");
    };
    tokio::join!(silent(false), silent(true), half, idle);
}

/// One request each, over HTTP/2: whoever wants more comes again. Nobody is cut off meanwhile.
#[tokio::test]
async fn who_shows_no_credentials_is_answered_once_on_a_connection() {
    let server = start(Limits {
        first_request: NEVER,
        idle: NEVER,
        ..Limits::MOST
    })
    .await;
    let mut nobody = server.http2(None).await;
    let answer = nobody.sender.send_request(get("/version")).await;
    let (code, words) = text(answer.expect("answer")).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{words}");
    nobody.task.await.expect("ended");
    let admin = server.pair("admin", &["system:masters"]);
    let mut known = server.http2(Some(&admin)).await;
    for _ in 0..3 {
        let answer = known.sender.send_request(get("/version")).await;
        assert_eq!(text(answer.expect("answer")).await.0, StatusCode::OK);
    }
    assert!(!known.task.is_finished());
    // Earlier ways to ask are as they were.
    let mut io = server.dial(None, &["http/1.1"]).await.expect("handshake");
    for last in ["", "Connection: close\r\n"] {
        let asked = format!("GET /version HTTP/1.1\r\nHost: x\r\n{last}\r\n");
        io.write_all(asked.as_bytes()).await.expect("asked");
    }
    let mut both = String::new();
    io.read_to_string(&mut both).await.expect("answers");
    assert_eq!(both.matches("HTTP/1.1 403").count(), 2, "{both}");
}

#[tokio::test]
async fn an_idle_connection_with_credentials_has_more_time_but_not_for_ever() {
    let server = start(Limits {
        // Room for a request on a loaded machine.
        idle: Duration::from_secs(4),
        first_request: NEVER,
        ..Limits::MOST
    })
    .await;
    let admin = server.pair("admin", &["system:masters"]);
    let watch = "/api/v1/namespaces?watch=1";
    let (client, stream) = again(|| async {
        let mut client = server.try_http2(Some(&admin)).await?;
        let stream = client.sender.send_request(get(watch)).await;
        let mut stream = stream.map_err(std::io::Error::other)?;
        let event = stream.frame().await;
        let event = event.ok_or_else(|| std::io::Error::other("no event"))?;
        event.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>((client, stream))
    })
    .await;
    // Longer than it may be idle: a watch is a request that runs.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!client.task.is_finished());
    assert_eq!(server.connections.counts(), [0, 0, 1]);
    drop(stream);
    client.task.await.expect("ended");
}

#[tokio::test]
async fn a_flood_of_silent_connections_shuts_nobody_out() {
    const ROOM: usize = 20;
    let server = start(Limits {
        unauthenticated: ROOM,
        users: 10,
        system: 10,
        idle: NEVER,
        first_request: NEVER,
    })
    .await;
    let node = server.pair("system:node:a", &["system:nodes", "system:masters"]);
    let mut before = server.http2(Some(&node)).await;
    let watch = "/api/v1/namespaces?watch=1";
    let mut stream = before.sender.send_request(get(watch)).await.expect("watch");
    stream.frame().await.expect("event").expect("event");
    let mut flood = Vec::new();
    for i in 0..ROOM * 5 {
        flood.extend(server.silent(i % 2 == 0).await.ok());
        if i % ROOM == 0 {
            let mut new = server.http2(Some(&node)).await;
            let answer = new.sender.send_request(get("/version")).await;
            assert_eq!(text(answer.expect("answer")).await.0, StatusCode::OK);
        }
    }
    assert!(server.connections.counts()[0] <= ROOM);
    assert!(!before.task.is_finished(), "a node's watch goes on");
    let keep = flood.split_off(flood.len() - 1);
    for io in flood.drain(..ROOM * 2) {
        closed(io).await;
    }
    drop((flood, keep));
}

/// Every byte is progress, and none of them is more time.
#[tokio::test]
async fn a_body_that_trickles_in_has_the_time_of_its_request() {
    let server = start(Limits::MOST).await;
    let admin = server.pair("admin", &["system:masters"]);
    let io = server
        .dial(Some(&admin), &["http/1.1"])
        .await
        .expect("handshake");
    let (mut from, mut to) = tokio::io::split(io);
    let maps = "/api/v1/namespaces/default/configmaps";
    let head = format!(
        "POST {maps}?timeout=1s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{{\"metadata\":{{\"name\":\"slow\"}}}}"
    );
    to.write_all(head.as_bytes()).await.expect("head");
    let answered = CancellationToken::new();
    let dripping = async {
        let mut next = tokio::time::interval(Duration::from_millis(20));
        while !answered.is_cancelled() {
            next.tick().await;
            // The server may have seen enough.
            let _ = to.write_all(b" ").await;
            let _ = to.flush().await;
        }
    };
    let reading = async {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(from.read_u8().await.expect("an answer"));
        }
        answered.cancel();
        String::from_utf8_lossy(&seen).into_owned()
    };
    let ((), seen) = tokio::join!(dripping, reading);
    assert!(seen.starts_with("HTTP/1.1 504"), "{seen}");
    // Nobody else waits, and nothing is written.
    let mut other = server.http2(Some(&admin)).await;
    let answer = other
        .sender
        .send_request(get(&format!("{maps}/slow")))
        .await;
    assert_eq!(text(answer.expect("answer")).await.0, StatusCode::NOT_FOUND);
}

/// A body of so many chunks of 64 KiB, and how many of them were taken.
fn body(chunks: usize) -> (Body, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let stream = futures::stream::iter(0..chunks).map(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Frame::data(Bytes::from(vec![b' '; 64 * 1024])))
    });
    (BodyExt::boxed(StreamBody::new(stream)), taken)
}

use futures::StreamExt;

/// 3 MB: more than HTTP/2 lets a client send before somebody reads.
const CHUNKS: usize = 48;

#[tokio::test]
async fn an_answer_that_needs_no_body_waits_for_the_client_to_have_sent_it() {
    let server = start(Limits::MOST).await;
    let admin = server.pair("admin", &["system:masters"]);
    let nobody = server.pair("nobody", &[]);
    let maps = "/api/v1/namespaces/default/configmaps";
    for (who, path, code) in [
        (Some(&nobody), maps, StatusCode::FORBIDDEN),
        (None, maps, StatusCode::FORBIDDEN),
        (Some(&admin), "/api/v1/nothing", StatusCode::NOT_FOUND),
        (Some(&admin), "/nothing", StatusCode::NOT_FOUND),
        (
            Some(&admin),
            "/api/v1/namespaces/default/configmaps/x",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ] {
        let (body, taken) = body(CHUNKS);
        let mut client = server.http2(who).await;
        let answer = client
            .sender
            .send_request(request(Method::POST, path, body));
        let (seen, words) = text(answer.await.expect("answer")).await;
        assert_eq!(seen, code, "{path}: {words}");
        // The same connection goes on, unless nobody knows whose it is, and so does the rest of the
        // body.
        if who.is_some() {
            let next = client.sender.send_request(get("/version")).await;
            assert!(next.is_ok(), "{next:?}");
        }
        while taken.load(Ordering::Relaxed) < CHUNKS {
            assert!(!client.task.is_finished(), "{path}: the body was cut off");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn an_early_answer_leaves_http1_usable() {
    let server = start(Limits::MOST).await;
    let admin = server.pair("admin", &["system:masters"]);
    let mut io = server
        .dial(Some(&admin), &["http/1.1"])
        .await
        .expect("handshake");
    let length = CHUNKS * 64 * 1024;
    let head = format!("POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    io.write_all(head.as_bytes()).await.expect("head");
    let mut seen = vec![0; 12];
    io.read_exact(&mut seen).await.expect("the answer is early");
    assert_eq!(seen, b"HTTP/1.1 404");
    io.write_all(&vec![b' '; length]).await.expect("body");
    io.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("next");
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.expect("rest");
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
}

/// So large that the server keeps no more than its 128 events, whatever they weigh.
const LARGE: usize = 256 * 1024;

/// So many that a reader is behind who has none of them but what the kernel holds for it on the server's side.
fn more_than_is_kept() -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").expect("limits");
    let most = limits.split_whitespace().last().expect("three of them");
    128 + most.parse::<usize>().expect("a number") / LARGE + 16
}

/// It learns so when it reads again; who reads has everything meanwhile.
#[tokio::test]
async fn a_watch_that_nobody_reads_is_left_behind_alone() {
    let server = start(Limits::MOST).await;
    let admin = server.pair("admin", &["system:masters"]);
    let maps = "/api/v1/namespaces/default/configmaps";
    let watch = format!("{maps}?watch=1&fieldSelector=metadata.name%3Dlarge");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("a buffer");
    let address = server.address.parse().expect("an address");
    let socket = socket.connect(address).await.expect("connected");
    let silent = server.over(socket, Some(&admin), &["http/1.1"]).await;
    let mut silent = silent.expect("handshake");
    let asked = format!("GET {watch} HTTP/1.1\r\nHost: x\r\n\r\n");
    silent.write_all(asked.as_bytes()).await.expect("asked");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(silent.read_u8().await.expect("a head"));
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));

    let mut reader = server.http2(Some(&admin)).await;
    let mut stream = reader
        .sender
        .send_request(get(&watch))
        .await
        .expect("watch");
    let mut writer = server.http2(Some(&admin)).await;
    let large = "x".repeat(LARGE);
    for nth in 0..more_than_is_kept() {
        let (method, path) = match nth {
            0 => (Method::POST, maps.to_owned()),
            _ => (Method::PUT, format!("{maps}/large")),
        };
        let body = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"large\"}},\
             \"data\":{{\"nth\":\"{nth}\",\"text\":\"{large}\"}}}}"
        );
        let mut write = request(method, &path, Full::new(Bytes::from(body)).boxed());
        let json = HeaderValue::from_static("application/json");
        write.headers_mut().insert("content-type", json);
        let answer = writer.sender.send_request(write).await.expect("answer");
        let (code, said) = text(answer).await;
        assert!(code.is_success(), "{code}: {said}");
        let mut event = Vec::new();
        while !event.ends_with(b"\n") {
            let frame = stream.frame().await.expect("it goes on").expect("a frame");
            event.extend_from_slice(&frame.into_data().expect("data"));
        }
        let event = String::from_utf8_lossy(&event);
        assert!(event.contains(&format!("\"nth\":\"{nth}\"")), "{nth}");
    }

    let mut seen = Vec::new();
    let mut part = vec![0; 64 * 1024];
    while !seen.ends_with(b"\r\n0\r\n\r\n") {
        let count = silent.read(&mut part).await.expect("the rest");
        assert!(count > 0, "it was cut off");
        seen.extend_from_slice(&part[..count]);
    }
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("\"type\":\"ERROR\""), "nothing is said");
    assert!(
        seen.contains("too old resource version"),
        "something else is said"
    );
    assert!(seen.matches("\"nth\":").count() < more_than_is_kept());
}
