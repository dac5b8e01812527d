//! Connections to webhooks and extension servers that are kept for their next request: one pool for
//! each place and side of TLS. HTTP/1.1 alone, as upstream, so that requests at the same time go
//! over connections of their own and an answer that is late holds up no other.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::pki::Pair;
use wire::stream::BoxIo;
use wire::tls::TlsError;
use wire::trust::{Trust, client_config};

use super::dial::{DialTarget, Dialer, LIMIT, dial, secured, timed_out};

/// Pools that are kept: as many as clients of webhooks upstream keeps. Beyond, the one that was not
/// used for longest goes.
const POOLS: usize = 200;
/// Connections without a request that a pool keeps; upstream's number.
const IDLE: usize = 25;
/// For so long; upstream's time.
const IDLE_FOR: Duration = Duration::from_secs(90);

/// The client's identity in TLS.
pub type Identity = Pair;

/// The client's side of TLS towards one webhook or extension server. Two of them share no
/// connection, even where they say the same.
#[derive(Clone)]
pub struct TlsSide(Arc<ClientConfig>);

impl TlsSide {
    /// `identity`: the certificate of this server there, if it shows one.
    pub fn new(trust: Trust<'_>, identity: Option<&Identity>) -> Result<Self, TlsError> {
        let config = client_config(trust, identity, &["http/1.1"])?;
        Ok(Self(Arc::new(config)))
    }

    /// The name of this side among all that live.
    fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl std::fmt::Debug for TlsSide {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSide(..)")
    }
}

/// An answer, whose body is still to be read.
pub type Sent = Result<Response<Incoming>, Error>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    place: DialTarget,
    server_name: String,
    tls: usize,
}

struct Pool {
    client: Client<Connector, Full<Bytes>>,
    /// The number of its latest use.
    used: u64,
}

/// All pools.
#[derive(Default)]
pub struct ConnectionPools(Mutex<Pools>);

#[derive(Default)]
struct Pools {
    by_key: HashMap<Key, Pool>,
    uses: u64,
}

impl ConnectionPools {
    /// Sends a request to a place: over a connection that is kept, or a new one. Its URI must be
    /// whole; where the connection goes is the place's business alone.
    pub async fn send(
        &self,
        dialer: Option<&Arc<Dialer>>,
        (place, server_name): (&DialTarget, &str),
        tls: &TlsSide,
        request: Request<Full<Bytes>>,
    ) -> Sent {
        let client = self.client(dialer, place, server_name, tls);
        client.request(request).await
    }

    fn client(
        &self,
        dialer: Option<&Arc<Dialer>>,
        place: &DialTarget,
        server_name: &str,
        tls: &TlsSide,
    ) -> Client<Connector, Full<Bytes>> {
        let key = Key {
            place: place.clone(),
            server_name: server_name.to_owned(),
            // The pool holds the side, so that no other one gets its address.
            tls: tls.id(),
        };
        let mut pools = self.0.lock();
        pools.uses += 1;
        let used = pools.uses;
        if let Some(pool) = pools.by_key.get_mut(&key) {
            pool.used = used;
            return pool.client.clone();
        }
        if pools.by_key.len() >= POOLS {
            let oldest = pools.by_key.iter().min_by_key(|(_, pool)| pool.used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                pools.by_key.remove(&oldest);
            }
        }
        let connector = Connector {
            dialer: dialer.cloned(),
            place: place.clone(),
            server_name: server_name.to_owned(),
            tls: tls.clone(),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE)
            .set_host(false)
            .build(connector);
        let pool = Pool {
            client: client.clone(),
            used,
        };
        pools.by_key.insert(key, pool);
        client
    }
}

/// Connects to one place.
#[derive(Clone)]
struct Connector {
    dialer: Option<Arc<Dialer>>,
    place: DialTarget,
    server_name: String,
    tls: TlsSide,
}

impl Connector {
    async fn connect(self) -> io::Result<TokioIo<Wire>> {
        let io = plain(self.dialer.as_ref(), &self.place).await?;
        let io = secure(io, &self.server_name, &self.tls).await?;
        Ok(TokioIo::new(Wire(io)))
    }
}

/// A connection to a place.
pub async fn plain(dialer: Option<&Arc<Dialer>>, place: &DialTarget) -> io::Result<BoxIo> {
    match (place, dialer) {
        (DialTarget::Host { host, port }, _) => dial(host, *port, None).await,
        (DialTarget::Pod(_), Some(dialer)) => dialer.connect(place, None).await,
        (DialTarget::Pod(_), None) => Err(io::Error::other("this server has no way to nodes")),
    }
}

/// TLS over a connection, with whom has a certificate for the name.
pub async fn secure(io: BoxIo, server_name: &str, tls: &TlsSide) -> io::Result<BoxIo> {
    let done = tokio::time::timeout(LIMIT, secured(io, server_name, &tls.0)).await;
    done.unwrap_or_else(|_| Err(timed_out()))
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection as the pool wants it.
struct Wire(BoxIo);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
