//! Servers that die, hang and return, seen by clients of the balancer.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "real peers, in real time"
)]

use std::convert::Infallible;
use std::net::Ipv4Addr;

use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::*;
use crate::pki::{Ca, Subject};

/// A server whose answers can be held back.
struct Server {
    address: String,
    name: &'static str,
    hangs: watch::Sender<bool>,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
    tls: Arc<rustls::ServerConfig>,
}

impl Server {
    async fn start(name: &'static str, ca: &Ca) -> Self {
        let local = Ipv4Addr::LOCALHOST.into();
        let subject = Subject::server("s", &["localhost"], &[local]);
        let now = clock::Clock::system().seconds();
        let pair = ca.issue(&subject, now, 1).expect("pair");
        let mut server = Self {
            // Where no client's own port can be: its port is still its own when it boots again.
            address: "127.0.0.2:0".into(),
            name,
            hangs: watch::channel(false).0,
            stop: CancellationToken::new(),
            task: None,
            tls: crate::tls::server_config(&pair, None).expect("tls"),
        };
        server.boot().await;
        server
    }

    /// Serves at the address it had before, if it had one.
    async fn boot(&mut self) {
        let listener = TcpListener::bind(&self.address).await.expect("listen");
        self.address = listener.local_addr().expect("address").to_string();
        self.stop = CancellationToken::new();
        let (hangs, name) = (self.hangs.clone(), self.name);
        let acceptor = tokio_rustls::TlsAcceptor::from(self.tls.clone());
        let stop = self.stop.clone();
        let accept = async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let (acceptor, hangs, stop) = (acceptor.clone(), hangs.clone(), stop.clone());
                let connection = async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let answer = hyper::service::service_fn(move |_: Request<_>| {
                        let mut hangs = hangs.subscribe();
                        async move {
                            let _ = hangs.wait_for(|h| !h).await;
                            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(name))))
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                };
                tokio::spawn(async move {
                    tokio::select! { () = connection => {}, () = stop.cancelled() => {} }
                });
            }
        };
        let stop = self.stop.clone();
        self.task = Some(tokio::spawn(async move {
            tokio::select! { () = accept => {}, () = stop.cancelled() => {} }
        }));
    }

    async fn die(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.await.expect("server");
        }
    }
}

/// A connection through the balancer.
struct Client {
    sender: SendRequest<Empty<Bytes>>,
    ended: tokio::task::JoinHandle<()>,
}

struct Bench {
    at: std::net::SocketAddr,
    tls: TlsConnector,
}

impl Bench {
    async fn start(servers: &[&Server], ca: &Ca) -> (Self, Balancer, CancellationToken) {
        let addresses: Vec<String> = servers.iter().map(|s| s.address.clone()).collect();
        let balancer = Balancer::new(&addresses, &[]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("listen");
        let at = listener.local_addr().expect("address");
        let tls = crate::tls::client_config(&ca.pair.cert_pem, None, &["http/1.1"]).expect("tls");
        let tls = Arc::new(tls);
        let stop = CancellationToken::new();
        let (own, until, config) = (balancer.clone(), stop.clone(), tls.clone());
        tokio::spawn(async move {
            own.serve(listener, config, at.ip().into(), until).await;
        });
        let bench = Self {
            at,
            tls: tls.into(),
        };
        (bench, balancer, stop)
    }

    async fn connect(&self) -> Option<Client> {
        let stream = TcpStream::connect(self.at).await.ok()?;
        let stream = self.tls.connect(self.at.ip().into(), stream).await.ok()?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let ended = tokio::spawn(async move {
            let _ = driver.await;
        });
        Some(Client { sender, ended })
    }

    /// A new connection, and the name of the server it leads to.
    async fn named(&self) -> Option<(Client, String)> {
        let mut client = self.connect().await?;
        let name = client.ask().await?;
        Some((client, name))
    }

    /// Until a new connection leads to `name`.
    async fn reaches(&self, name: &str) -> Client {
        loop {
            // It may have been made to a server whose death is not seen yet: it is closed then.
            if let Some((client, at)) = self.named().await
                && at == name
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Client {
    async fn ask(&mut self) -> Option<String> {
        let request = Request::get("/").header("host", "x").body(Empty::new());
        let answer = self.sender.send_request(request.ok()?).await.ok()?;
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        String::from_utf8(body.to_vec()).ok()
    }
}

#[tokio::test]
async fn clients_leave_servers_that_hang_or_die_and_find_those_that_return() {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("test", now).expect("ca");
    let mut a = Server::start("a", &ca).await;
    let mut b = Server::start("b", &ca).await;
    let (bench, balancer, stop) = Bench::start(&[&a, &b], &ca).await;
    let (one, first) = bench.named().await.expect("a connection");
    let (two, second) = bench.named().await.expect("a connection");
    assert_ne!(first, second, "connections spread");
    let (of_a, of_b) = if first == "a" { (one, two) } else { (two, one) };
    let mut of_b = of_b;

    // A hangs: its kernel still accepts and acknowledges.
    a.hangs.send_replace(true);
    of_a.ended.await.expect("the connection to a is closed");
    assert_eq!(of_b.ask().await.as_deref(), Some("b"), "b's stays");
    for _ in 0..3 {
        let (_client, name) = bench.named().await.expect("a connection");
        assert_eq!(name, "b");
    }

    // It returns; the other one dies.
    a.hangs.send_replace(false);
    let _again = bench.reaches("a").await;
    b.die().await;
    of_b.ended.await.expect("the connection to b is closed");
    let _other = bench.reaches("a").await;

    // All are gone: a client is refused, not kept waiting; then one boots again.
    a.die().await;
    while bench.named().await.is_some() {}
    b.boot().await;
    let of_b = bench.reaches("b").await;

    // The cluster no longer names it.
    a.boot().await;
    balancer.set_listed(&[a.address.clone(), "127.0.0.1:1".into()]);
    let _last = bench.reaches("a").await;
    drop(of_b);
    stop.cancel();
}
