//! The proxy's small HTTP servers: its own health, its metrics, and the health of Services with
//! `externalTrafficPolicy: Local` that load balancers ask for.
//!
//! Only GET of a few fixed pages: a request line is read, a page is sent, the connection ends.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use clock::Clock;
use host::nft::Family;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use wire::serve::{Connections, Limits, serve_streams};

use crate::metrics::Metrics;
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

/// How the proxy is, for all who ask.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    families: Vec<Family>,
    healthy: AtomicBool,
    eligible: AtomicBool,
    /// When the rules were last as they should be; nought for never.
    updated_millis: AtomicI64,
}

impl Health {
    /// Not healthy yet: nothing is programmed.
    pub fn new(clock: Clock, families: Vec<Family>) -> Self {
        Self {
            clock,
            families,
            healthy: AtomicBool::new(false),
            eligible: AtomicBool::new(true),
            updated_millis: AtomicI64::new(0),
        }
    }

    /// Whether the rules are as they should be.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// The rules are as they should be, or the kernel refused them.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
        if healthy {
            let now = self.clock.millis();
            self.updated_millis.store(now, Ordering::Relaxed);
        }
    }

    /// Whether load balancers may send to this node.
    pub fn set_eligible(&self, eligible: bool) {
        self.eligible.store(eligible, Ordering::Relaxed);
    }

    /// As upstream writes it. Of a proxy that is well, the rules count as updated now.
    fn body(&self) -> Value {
        let (healthy, now) = (self.is_healthy(), self.clock.millis());
        let updated = if healthy {
            now
        } else {
            self.updated_millis.load(Ordering::Relaxed)
        };
        let text = |millis: i64| api::time::format_micros(millis.saturating_mul(1_000));
        let of = |family: &Family| {
            let word = match family {
                Family::Ip4 => "IPv4",
                Family::Ip6 => "IPv6",
            };
            let one = json!({ "lastUpdated": text(updated), "healthy": healthy });
            (word.to_owned(), one)
        };
        let status: serde_json::Map<_, _> = self.families.iter().map(of).collect();
        json!({
            "lastUpdated": text(updated), "currentTime": text(now), "healthy": healthy,
            "status": status,
        })
    }
}

/// `/healthz` says whether load balancers may send here, `/livez` whether the proxy works.
pub fn health_page(path: &str, health: &Health, metrics: &Metrics) -> Page {
    let mut body = health.body();
    let mut well = health.is_healthy();
    match path {
        "/healthz" => {
            let eligible = health.eligible.load(Ordering::Relaxed);
            body["nodeEligible"] = json!(eligible);
            well &= eligible;
            metrics.asked_health(well);
        }
        "/livez" => metrics.asked_life(well),
        _ => return Page::new(404, "text/plain", "404 page not found\n".into()),
    }
    let status = if well { 200 } else { 503 };
    Page {
        headers: vec![("X-Content-Type-Options", "nosniff".into())],
        ..Page::new(status, "application/json", body.to_string())
    }
}

/// The answer to a load balancer.
pub fn service_page(name: &Name, local_endpoints: usize, healthy: bool) -> Page {
    let body = json!({
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
pub struct ServiceHealth {
    health: Arc<Health>,
    servers: BTreeMap<u16, (Name, Arc<AtomicUsize>, Server)>,
}

impl ServiceHealth {
    /// No servers yet; they say of the proxy what `health` does.
    pub fn new(health: Arc<Health>) -> Self {
        Self {
            health,
            servers: BTreeMap::new(),
        }
    }

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
            let health = Arc::clone(&self.health);
            let pages = move |_: &str| {
                service_page(&owner, number.load(Ordering::Relaxed), health.is_healthy())
            };
            match serve(SocketAddr::new(address, *port), pages).await {
                Ok(server) => {
                    self.servers.insert(*port, (name.clone(), current, server));
                }
                Err(error) => tracing::warn!(%error, port, "health check node port"),
            }
        }
    }
}
