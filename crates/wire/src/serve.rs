//! The accept loop of every HTTPS server of Tiphys: TLS, HTTP/1.1 and HTTP/2, upgrades, bounds on
//! connections and on their silence, and a shutdown that lets running requests end.

pub mod body;
pub mod connections;
pub mod lanes;
mod streams;

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use rustix::net::sockopt;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use body::RequestBody;
use connections::Unwanted;
pub use connections::{Connection, Connections, Limits};
pub use lanes::Lanes;
use lanes::Pace;
pub use streams::serve_streams;

use crate::batch_writes::Gather;
use crate::tls::{InUse, ServerTls};

/// The peer of a connection; an extension of each request.
#[derive(Clone, Debug)]
pub struct Peer {
    pub addr: SocketAddr,
    /// The verified client certificate chain, leaf first; empty when none was given.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// A client that does not finish its TLS handshake in this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that connections get to end once the shutdown signal has come and what their server waits
/// for is settled; watches are ended by their server.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams of one HTTP/2 connection: a client-go process holds a watch per kind in one.
const MAX_STREAMS: u32 = 1_000;
/// A connection of HTTP/2 on which nothing came for so long is asked whether anybody is there;
/// clients of upstream ask as often.
const PING_AFTER: Duration = Duration::from_secs(30);
/// Time for the answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Time to say goodbye to a connection that was silent for too long.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/1.1 and upgraded streams have no ping of their own: the kernel asks after this time, as
/// often as [`PROBES`] allows.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(20);
const PROBES: u32 = 3;

/// Serves until `shutdown`, then drains. `handle` gets each request with a [`Peer`] and an
/// `Arc<Connection>` among its extensions, and reports to the latter whom it has authenticated.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    tls: impl Into<ServerTls>,
    handle: H,
    shutdown: CancellationToken,
) where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connections = Connections::new(Limits::of_this_process());
    let settled = std::future::ready(());
    serve_within(
        connections,
        Lanes::ONE,
        listener,
        tls,
        handle,
        shutdown,
        settled,
    )
    .await;
}

/// As [`serve`], with a table of connections of the caller's, and where they run. After `shutdown`
/// connections may last until `settled` is over, which is polled from then on, and some seconds more;
/// when none is left, nothing is waited for.
pub async fn serve_within<H, F, B, S>(
    connections: Connections,
    lanes: Lanes,
    listener: TcpListener,
    tls: impl Into<ServerTls>,
    handle: H,
    shutdown: CancellationToken,
    settled: S,
) where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: Future<Output = ()> + Send,
{
    let tls: ServerTls = tls.into();
    let tasks = TaskTracker::new();
    loop {
        let (stream, addr) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(pair) => pair,
                Err(e) => {
                    // Out of file descriptors or the like: let others end before the next try.
                    tracing::warn!("accepting a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // Where both families come to one socket, one of IPv4 as which it came.
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let (handle, shutdown) = (handle.clone(), shutdown.clone());
        let InUse { config, outdated } = tls.in_use();
        let acceptor = TlsAcceptor::from(config);
        let connection = connections.admit(addr.ip());
        let pace = Arc::<Pace>::default();
        let written = pace.clone();
        let running = tasks.track_future(async move {
            let connected = Connected {
                addr,
                connection,
                pace: written,
                outdated,
            };
            if let Err(e) = run(stream, connected, acceptor, handle, shutdown).await {
                tracing::debug!(%addr, "connection ended: {e}");
            }
        });
        lanes.spawn(pace, running);
    }
    drop(listener);
    tasks.close();
    let patience = async {
        settled.await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        () = tasks.wait() => {}
        () = patience => {}
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is known of a connection when it has been accepted.
struct Connected {
    addr: SocketAddr,
    connection: Arc<Connection>,
    pace: Arc<Pace>,
    /// Cancelled when the server's TLS is another.
    outdated: CancellationToken,
}

async fn run<H, F, B>(
    stream: TcpStream,
    connected: Connected,
    acceptor: TlsAcceptor,
    handle: H,
    shutdown: CancellationToken,
) -> Result<(), BoxError>
where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Connected {
        addr,
        connection,
        pace,
        outdated,
    } = connected;
    set_options(&stream)?;
    let stream = tokio::select! {
        done = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => {
            let done = done.map_err(BoxError::from);
            let done = done.and_then(|done| done.map_err(BoxError::from));
            done.inspect_err(|_| connection.failed_handshake())?
        }
        () = connection.evicted() => return Ok(()),
        // It has asked for nothing yet.
        () = shutdown.cancelled() => return Ok(()),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let peer = Peer {
        addr,
        certificates: Arc::new(certificates.unwrap_or_default().to_vec()),
    };
    let (own, asked) = (connection.clone(), pace.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        asked.asked();
        let running = own.running();
        let (mut head, body) = request.into_parts();
        head.extensions.insert(peer.clone());
        head.extensions.insert(own.clone());
        let body = RequestBody::new(body, &head.headers);
        // The future of a whole request is kilobytes; unboxed, hyper moves it three times.
        let answer = Box::pin(handle(Request::from_parts(head, body)));
        async move {
            // It runs as long as there is something of the answer to send.
            let counted = |body: B| {
                body.map_err(move |e| {
                    let _ = &running;
                    e
                })
            };
            Ok::<_, std::convert::Infallible>(answer.await.map(counted))
        }
    });
    let builder = builder();
    // Only HTTP/2's codec is known to flush again after the flush that is put off.
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if is_http2 {
        let io = TokioIo::new(Gather::new(stream, pace));
        let running = builder.serve_connection(io, service);
        return watched(running, &connection, &shutdown, &outdated).await;
    }
    let stream = Counted {
        inner: stream,
        connection: connection.clone(),
        pace,
    };
    let running = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    watched(running, &connection, &shutdown, &outdated).await
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    Ok(sockopt::set_tcp_keepcnt(stream, PROBES)?)
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It runs between requests, too; the time until the first one is ours to watch.
        .header_read_timeout(Limits::MOST.idle);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS);
    builder
}

/// Runs a connection until it ends, is unwanted or outdated, or the server shuts down.
async fn watched<C>(
    running: C,
    connection: &Connection,
    shutdown: &CancellationToken,
    outdated: &CancellationToken,
) -> Result<(), BoxError>
where
    C: GracefulConnection,
    C::Error: Into<BoxError>,
{
    let mut running = pin!(running);
    let end = async {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            // Whom the server believes now may be others: what runs was its last request.
            () = outdated.cancelled() => Some(Unwanted::Finished),
            why = connection.unwanted() => Some(why),
        }
    };
    // So it is looked at when it is woken, and not whenever the connection is: that would be a lock
    // that all connections share, and a timer, for each frame.
    let mut end: FuturesUnordered<_> = std::iter::once(end).collect();
    let why = tokio::select! {
        biased;
        ended = running.as_mut() => return ended.map_err(Into::into),
        Some(why) = end.next() => why,
    };
    if why == Some(Unwanted::Evicted) {
        return Ok(());
    }
    // HTTP/2 says so, and a request that is on its way is still answered.
    running.as_mut().graceful_shutdown();
    let patience = async {
        match why {
            None => std::future::pending().await,
            // Whoever does not hear that this was the last request does not stay for it.
            Some(_) => connection.silent().await,
        }
        tokio::time::sleep(GOODBYE_TIMEOUT).await;
    };
    tokio::select! {
        ended = running => ended.map_err(Into::into),
        () = patience => Ok(()),
        () = connection.evicted() => Ok(()),
    }
}

/// A stream that counts as a connection, and can be evicted, after an upgrade, too.
struct Counted<S> {
    inner: S,
    connection: Arc<Connection>,
    pace: Arc<Pace>,
}

impl<S> Counted<S> {
    fn check(&self) -> io::Result<()> {
        if self.connection.is_evicted() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.pace.add(*bytes);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.wake_reader(cx);
        self.check()?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.count(written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.count(written)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
