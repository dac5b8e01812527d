//! The proxy's small HTTP servers: its own health, its metrics, and the health of Services with
//! `externalTrafficPolicy: Local` that load balancers ask for.
//!
//! Only GET of a few fixed pages: a request line is read, a page is sent, the connection ends.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use wire::serve::{Connections, Limits, serve_streams};

use crate::model::Name;

/// A client that sends no request within this time is cut off.
const REQUEST_SECONDS: u64 = 10;
/// Connections of one port at most; one more ends one of the address that has most. Load balancers
/// ask with one at a time.
const CONNECTIONS: usize = 128;
/// A request line and its headers are not longer.
const REQUEST_BYTES: u64 = 16 << 10;

/// An answer: status, content type, further header lines and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Page {
    /// A page without further headers.
    pub fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self {
            status,
            content_type,
            headers: Vec::new(),
            body,
        }
    }
}

/// Serves pages by path until dropped.
pub async fn serve(
    address: SocketAddr,
    pages: impl Fn(&str) -> Page + Send + Sync + 'static,
) -> std::io::Result<Server> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let pages = Arc::new(pages);
    let handle = move |stream| {
        let pages = Arc::clone(&pages);
        async move {
            let limit = Duration::from_secs(REQUEST_SECONDS);
            // A client that is too slow, or gone, hears no more.
            let _ = tokio::time::timeout(limit, answer(stream, pages.as_ref())).await;
        }
    };
    let room = Connections::new(Limits::of_strangers(CONNECTIONS));
    let task = tokio::spawn(serve_streams(room, listener, handle));
    Ok(Server { address, task })
}

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut stream: TcpStream,
    pages: &(dyn Fn(&str) -> Page + Send + Sync),
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read.take(REQUEST_BYTES)).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let mut words = first.split(' ');
    let page = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some(target)) => pages(target.split('?').next().unwrap_or(target)),
        _ => Page::new(405, "text/plain", "Method Not Allowed\n".into()),
    };
    let mut head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n",
        page.status,
        reason(page.status),
        page.content_type,
        page.body.len(),
    );
    for (name, value) in &page.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    write.write_all(head.as_bytes()).await?;
    if !first.starts_with("HEAD") {
        write.write_all(page.body.as_bytes()).await?;
    }
    write.shutdown().await
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    }
}

/// The answer to a load balancer.
pub fn service_page(name: &Name, local_endpoints: usize, healthy: bool) -> Page {
    let body = serde_json::json!({
        "service": {"namespace": name.namespace, "name": name.name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let status = if local_endpoints > 0 && healthy {
        200
    } else {
        503
    };
    let weight = (
        "X-Load-Balancing-Endpoint-Weight",
        local_endpoints.to_string(),
    );
    Page {
        headers: vec![weight, ("X-Content-Type-Options", "nosniff".into())],
        ..Page::new(status, "application/json", body.to_string())
    }
}

/// The servers on health check node ports.
#[derive(Default)]
pub struct ServiceHealth {
    servers: BTreeMap<u16, (Name, Arc<AtomicUsize>, Server)>,
}

impl ServiceHealth {
    /// Makes the servers as wanted: port to Service and number of local endpoints. A server whose
    /// Service stays goes on with the new number.
    pub async fn update(&mut self, address: IpAddr, wanted: &BTreeMap<u16, (Name, usize)>) {
        self.servers.retain(|port, (name, _, _)| {
            wanted.get(port).is_some_and(|(wanted, _)| wanted == name)
        });
        for (port, (name, count)) in wanted {
            if let Some((_, current, _)) = self.servers.get(port) {
                current.store(*count, Ordering::Relaxed);
                continue;
            }
            let current = Arc::new(AtomicUsize::new(*count));
            let (owner, number) = (name.clone(), Arc::clone(&current));
            let pages = move |_: &str| service_page(&owner, number.load(Ordering::Relaxed), true);
            match serve(SocketAddr::new(address, *port), pages).await {
                Ok(server) => {
                    self.servers.insert(*port, (name.clone(), current, server));
                }
                Err(error) => tracing::warn!(%error, port, "health check node port"),
            }
        }
    }
}
