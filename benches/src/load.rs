//! The load generator: HTTP/2 connections over TLS with a client certificate, closed loops of
//! requests, and percentiles.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::server::Access;

/// Windows as large as Go's client has, so that flow control is not what is measured.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// The one value HTTP/2 allows to be no more than this.
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// A few connections to one server.
pub struct Client {
    senders: Vec<Mutex<SendRequest<Full<Bytes>>>>,
    access: Access,
}

/// The parts of an answer that cases look at.
pub struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
}

/// What a request asks for.
#[derive(Clone, Default)]
pub struct LoadRequest {
    pub method: Method,
    pub path: String,
    pub accept: &'static str,
    pub gzip: bool,
    pub content_type: &'static str,
    pub body: Bytes,
    /// As whom it is asked; empty for the administrator himself.
    pub user: &'static str,
}

pub const JSON: &str = "application/json";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub const MERGE: &str = "application/merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

impl LoadRequest {
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            accept: JSON,
            ..Self::default()
        }
    }
    pub fn with(method: Method, path: impl Into<String>, kind: &'static str, body: Bytes) -> Self {
        Self {
            method,
            content_type: kind,
            body,
            ..Self::get(path)
        }
    }
    pub fn post(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self::with(Method::POST, path, JSON, body.to_string().into())
    }
    /// Server-side apply; `path` is the object's, without a query.
    pub fn apply(path: &str, body: &serde_json::Value) -> Self {
        let path = format!("{path}?fieldManager=bench");
        Self::with(Method::PATCH, path, APPLY, body.to_string().into())
    }
    pub fn delete(path: impl Into<String>) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(path)
        }
    }
    pub fn merge(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self::with(Method::PATCH, path, MERGE, body.to_string().into())
    }
}

impl Client {
    pub async fn connect(access: &Access, connections: usize) -> Result<Self> {
        let mut senders = Vec::new();
        for _ in 0..connections.max(1) {
            senders.push(Mutex::new(open(access).await?));
        }
        Ok(Self {
            senders,
            access: access.clone(),
        })
    }

    /// The nth connection; another in its place where the server ended it, as it does to those that
    /// ask for nothing for long.
    async fn sender(&self, nth: usize) -> Result<SendRequest<Full<Bytes>>> {
        let nth = nth % self.senders.len();
        let place = self.senders.get(nth).context("no connection")?;
        let mut sender = place.lock().clone();
        if sender.ready().await.is_err() {
            sender = open(&self.access).await?;
            *place.lock() = sender.clone();
            sender.ready().await?;
        }
        Ok(sender)
    }

    /// Sends a request on the nth connection; the answer's body is still to come.
    pub async fn begin(&self, nth: usize, ask: LoadRequest) -> Result<Response<Incoming>> {
        let host = &self.access.host;
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("https://{host}{}", ask.path))
            .header(HOST, host)
            .header(ACCEPT, ask.accept);
        if ask.gzip {
            request = request.header(ACCEPT_ENCODING, "gzip");
        }
        if !ask.content_type.is_empty() {
            request = request.header(CONTENT_TYPE, ask.content_type);
        }
        if !ask.user.is_empty() {
            request = request.header("impersonate-user", ask.user);
        }
        let request = request.body(Full::new(ask.body))?;
        let mut sender = self.sender(nth).await?;
        Ok(sender.send_request(request).await?)
    }

    /// Sends a request and reads all of the answer, keeping it.
    pub async fn send(&self, nth: usize, ask: LoadRequest) -> Result<Reply> {
        let response = self.begin(nth, ask).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Reply { status, body })
    }

    pub async fn get(&self, nth: usize, path: &str) -> Result<Reply> {
        self.send(nth, LoadRequest::get(path)).await
    }

    /// Sends a request that must succeed, and gives its answer.
    pub async fn must(&self, nth: usize, ask: LoadRequest) -> Result<serde_json::Value> {
        let what = format!("{} {}", ask.method, ask.path);
        let reply = self.send(nth, ask).await.with_context(|| what.clone())?;
        if !reply.status.is_success() {
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            bail!("{what}: {} {text}", reply.status);
        }
        Ok(serde_json::from_slice(&reply.body)?)
    }

    /// Sends a request, reads the answer without keeping it, and gives its size in bytes.
    async fn drain(&self, nth: usize, ask: LoadRequest) -> Result<u64> {
        let response = self.begin(nth, ask).await?;
        let status = response.status();
        let mut body = response.into_body();
        let (mut bytes, mut last) = (0, Bytes::new());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes += data.len() as u64;
                last = data;
            }
        }
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&last));
        }
        Ok(bytes)
    }
}

async fn open(access: &Access) -> Result<SendRequest<Full<Bytes>>> {
    let tls = wire::tls::client_config(&access.ca_pem, Some(&access.pair), &["h2"])?;
    let (name, _) = access
        .host
        .rsplit_once(':')
        .context("the server's address has no port")?;
    let name = ServerName::try_from(name.to_owned())?;
    let stream = TcpStream::connect(&access.host).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW.min(MAX_WINDOW))
        .max_frame_size(1 << 20)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// What a closed loop saw.
#[derive(Default)]
pub struct LoadResult {
    /// Nanoseconds of each request, sorted.
    pub latencies: Vec<u64>,
    pub elapsed: Duration,
    /// Bytes of all bodies.
    pub bytes: u64,
}

impl LoadResult {
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
    pub fn percentile_ms(&self, p: f64) -> f64 {
        percentile_ms(&self.latencies, p)
    }
}

/// A percentile (0 to 100) of sorted nanoseconds, in milliseconds.
pub fn percentile_ms(sorted: &[u64], p: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * p / 100.0).round() as usize;
    sorted.get(at).map_or(0.0, |ns| *ns as f64 / 1e6)
}

/// Runs `concurrency` loops, each sending its next request when the last is answered, until
/// `time` is over or `most` requests are sent.
pub async fn closed_loop(
    client: &Arc<Client>,
    concurrency: usize,
    time: Duration,
    most: u64,
    ask: impl Fn(u64) -> LoadRequest + Send + Sync + 'static,
) -> Result<LoadResult> {
    let (ask, next) = (Arc::new(ask), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let loops: Vec<_> = (0..concurrency)
        .map(|nth| {
            let (client, ask, next) = (client.clone(), ask.clone(), next.clone());
            tokio::spawn(async move {
                let (mut latencies, mut bytes) = (Vec::new(), 0);
                while begun.elapsed() < time {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= most {
                        break;
                    }
                    let sent = Instant::now();
                    bytes += client.drain(nth, ask(i)).await?;
                    latencies.push(sent.elapsed().as_nanos() as u64);
                }
                anyhow::Ok((latencies, bytes))
            })
        })
        .collect();
    let mut seen = LoadResult::default();
    for one in loops {
        let (latencies, bytes) = one.await.map_err(|e| anyhow!(e))??;
        seen.latencies.extend(latencies);
        seen.bytes += bytes;
    }
    seen.elapsed = begun.elapsed();
    seen.latencies.sort_unstable();
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted() {
        let ns: Vec<u64> = (1..=101).map(|n| n * 1_000_000).collect();
        assert_eq!(percentile_ms(&ns, 0.0), 1.0);
        assert_eq!(percentile_ms(&ns, 50.0), 51.0);
        assert_eq!(percentile_ms(&ns, 100.0), 101.0);
        assert_eq!(percentile_ms(&[], 50.0), 0.0);
    }
}
