//! A client through the kubelet's answers to a runtime, over real HTTP upgrades on loopback.

use super::*;
use hyper::body::Incoming;
use hyper::service::service_fn;
use std::future::Future;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wire::stream::remote::Outcome;
use wire::stream::spdy::{Connection, Headers, Role};
use wire::stream::upgrade;
use wire::stream::websocket::{self, Tunnel};

const PIPES: RequestedStreams = RequestedStreams {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

/// Serves HTTP with upgrades; the address.
async fn http<F, Fut>(answer: F) -> String
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades();
            tokio::spawn(serving);
        }
    });
    address
}

/// A runtime whose only command copies stdin to stdout and ends with 3. Like containerd, it
/// answers requests for other paths with an error.
async fn runtime() -> String {
    http(|mut request| async move {
        if request.uri().path() != "/exec/token" {
            return text(StatusCode::NOT_FOUND, "no such token");
        }
        let wish = UpgradeRequest::of(request.headers()).unwrap();
        assert!(matches!(wish, UpgradeRequest::Spdy { .. }));
        let protocol = remote::choose(&wish).unwrap();
        let answer = wish.accept(&protocol);
        let upgrading = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let io = TokioIo::new(upgrading.await.unwrap());
            let mut server = remote::serve(io, &wish, &protocol, PIPES).await.unwrap();
            let (mut input, mut output) =
                (server.stdin.take().unwrap(), server.stdout.take().unwrap());
            tokio::io::copy(&mut input, &mut output).await.unwrap();
            server.stdout = Some(output);
            server.finish(&Outcome::Exit(3)).await;
        });
        answer
    })
    .await
}

async fn kubelet(path: &'static str) -> String {
    let url = format!("http://{}{path}", runtime().await);
    http(move |mut request| {
        let url = url.clone();
        let streams = CommandStreams {
            url,
            wanted: PIPES,
            command: None,
            idle: None,
        };
        async move { command(streams, &mut request).await }
    })
    .await
}

async fn cat(mut client: remote::Client, sent: &[u8]) {
    let (mut input, mut output) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut got = Vec::new();
    let sending = async {
        input.write_all(sent).await.unwrap();
        input.shutdown().await.unwrap();
    };
    let (_, read, status) = tokio::join!(sending, output.read_to_end(&mut got), client.status());
    read.unwrap();
    assert!(got == sent);
    assert_eq!(Outcome::read(&status), Outcome::Exit(3));
}

#[tokio::test]
async fn commands_end_with_their_input_and_return_their_code() {
    let address = kubelet("/exec/token").await;
    for bytes in [2, 200_000] {
        let sent = vec![b'x'; bytes];
        let socket = TcpStream::connect(&address).await.unwrap();
        let client = remote::connect_websocket(socket, &address, "/", PIPES)
            .await
            .unwrap();
        cat(client, &sent).await;
        let socket = TcpStream::connect(&address).await.unwrap();
        let client = remote::connect_spdy(socket, &address, "/", PIPES)
            .await
            .unwrap();
        cat(client, &sent).await;
    }
}

#[tokio::test]
async fn what_the_runtime_refuses_is_reported() {
    let address = kubelet("/exec/used").await;
    let socket = TcpStream::connect(&address).await.unwrap();
    match remote::connect_websocket(socket, &address, "/", PIPES).await {
        Err(UpgradeError::Refused(head, body)) => {
            assert_eq!(head.status, StatusCode::NOT_FOUND);
            assert_eq!(body, b"no such token");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn unknown_protocols_are_refused() {
    let address = kubelet("/exec/token").await;
    let socket = TcpStream::connect(&address).await.unwrap();
    let asked = upgrade::ask_websocket(&address, "/", &["v99.channel.k8s.io"]).unwrap();
    match upgrade::request(socket, asked).await {
        Err(UpgradeError::Refused(head, _)) => assert_eq!(head.status, StatusCode::FORBIDDEN),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    port
}

async fn forwarded(client: &Connection, port: u16) -> (Vec<u8>, Vec<u8>) {
    let port = port.to_string();
    let headers = |kind| {
        Headers::new([
            ("streamType", kind),
            ("port", port.as_str()),
            ("requestID", "0"),
        ])
    };
    let (mut error, _unused) = client.open(headers("error")).await.unwrap().split();
    let (mut read, mut write) = client.open(headers("data")).await.unwrap().split();
    let (mut got, mut failure) = (Vec::new(), Vec::new());
    let sending = async {
        let _ = write.write_all(b"hello").await;
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
async fn ports_are_forwarded_plain_and_in_a_tunnel() {
    let pod = Pod {
        name: "web".into(),
        uid: "1-2".into(),
        namespace: None,
    };
    let address = http(move |mut request| {
        let answer = forward(pod.clone(), Vec::new(), None, &mut request);
        async move { answer }
    })
    .await;
    let port = echo().await;
    // Nobody listens there, and the kernel gives it to nobody.
    let closed = 1;
    for tunnelled in [false, true] {
        let socket = TcpStream::connect(&address).await.unwrap();
        let client = if tunnelled {
            let asked = upgrade::ask_websocket(&address, "/", &[ports::TUNNEL_PROTOCOL]).unwrap();
            let (_, io) = upgrade::request(socket, asked).await.unwrap();
            let io = websocket::open(io, websocket::Role::Client).await;
            Connection::start(Tunnel::new(io), Role::Client).0
        } else {
            let asked = upgrade::ask_spdy(&address, "/", &[ports::PROTOCOL]).unwrap();
            let (_, io) = upgrade::request(socket, asked).await.unwrap();
            Connection::start(io, Role::Client).0
        };
        assert_eq!(
            forwarded(&client, port).await,
            (b"hello".to_vec(), Vec::new())
        );
        let (got, failure) = forwarded(&client, closed).await;
        let failure = String::from_utf8(failure).unwrap();
        assert!(got.is_empty());
        assert!(
            failure.starts_with(&format!(
                "error forwarding port {closed} to pod web, uid 1-2: "
            )),
            "{failure}"
        );
    }
}

#[test]
fn addresses_of_the_runtime() {
    assert_eq!(
        parts("http://127.0.0.1:4411/exec/x?a=b"),
        Some(("127.0.0.1:4411".into(), "/exec/x?a=b".into()))
    );
    assert_eq!(parts("https://127.0.0.1/x"), None);
    assert_eq!(ports_of(["80,443", "x", "0"]), [80, 443]);
}
