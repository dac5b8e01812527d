//! The accept loop of every HTTPS server of Tiphys: TLS, HTTP/1.1 and HTTP/2, upgrades, a bound
//! on connections, and a shutdown that lets running requests end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::gather::Gather;

/// Who is at the other end of a connection; an extension of each request.
#[derive(Clone, Debug)]
pub struct Peer {
    pub addr: SocketAddr,
    /// The verified client certificate chain, leaf first; empty when none was given.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// Connections held at once. Each costs about 30 KB; beyond this new ones wait in the kernel.
const MAX_CONNECTIONS: usize = 10_000;
/// A client that does not finish its TLS handshake or request head in this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that running requests get after the shutdown signal; watches are ended by their server.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams of one HTTP/2 connection: a client-go process holds a watch per kind in one.
const MAX_STREAMS: u32 = 1_000;

/// Serves until `shutdown`, then drains. `handle` gets each request with a [`Peer`] extension.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    handle: H,
    shutdown: CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            break;
        };
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
        let (acceptor, handle, watcher) = (acceptor.clone(), handle.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Err(e) = connection(stream, addr, acceptor, handle, watcher).await {
                tracing::debug!(%addr, "connection ended: {e}");
            }
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
}

async fn connection<H, F, B>(
    stream: TcpStream,
    addr: SocketAddr,
    acceptor: TlsAcceptor,
    handle: H,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .to_vec();
    let peer = Peer {
        addr,
        certificates: Arc::new(certificates),
    };
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let answer = handle(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS);
    // Only HTTP/2's codec is known to flush again after the flush that is put off.
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if is_http2 {
        let io = TokioIo::new(Gather::new(stream));
        let running = builder.serve_connection(io, service).into_owned();
        return watcher.watch(running).await;
    }
    let running = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    watcher.watch(running).await
}
