//! The way of a machine's clients to the servers: the balancer on a loopback address, and the
//! list of servers behind it, which follows the endpoints of the `kubernetes` Service and is
//! kept for the next start.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::balance::Balancer;

/// The servers that the user names.
#[derive(Args, Clone)]
pub struct ServersFlag {
    /// The servers, `https://host:port`, separated by commas; one that is reachable suffices,
    /// since it names the others.
    #[arg(long, value_delimiter = ',')]
    server: Vec<String>,
}

/// The port of the API where an address names none.
const API_PORT: u16 = 6443;

impl ServersFlag {
    /// Each as `host:port`.
    pub fn addresses(&self) -> Result<Vec<String>> {
        let urls = self.server.iter().filter(|s| !s.trim().is_empty());
        urls.map(|url| address_of(url.trim())).collect()
    }
}

fn address_of(url: &str) -> Result<String> {
    let uri: http::Uri = url.parse().with_context(|| format!("--server {url:?}"))?;
    let host = uri
        .host()
        .with_context(|| format!("--server {url:?} names no host"))?;
    ensure!(
        uri.scheme_str().is_none_or(|s| s == "https"),
        "--server {url:?}: only https is spoken"
    );
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(API_PORT)))
}

/// A balancer that listens.
pub struct Front {
    pub balancer: Balancer,
    listener: TcpListener,
    at: SocketAddr,
}

impl Front {
    pub async fn bind(port: u16, servers: &[String], listed: &[String]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("listening on 127.0.0.1:{port} for the way to the servers"))?;
        let at = listener.local_addr()?;
        Ok(Self {
            balancer: Balancer::new(servers, listed),
            listener,
            at,
        })
    }

    /// Where clients find the servers, `https://host:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.at)
    }

    /// Passes connections until `stop`.
    pub async fn serve(self, ca_pem: &str, stop: CancellationToken) -> Result<()> {
        let tls = wire::tls::client_config(ca_pem, None, &["http/1.1"])?;
        let name = self.at.ip().into();
        let Self {
            balancer, listener, ..
        } = self;
        balancer.serve(listener, Arc::new(tls), name, stop).await;
        Ok(())
    }
}

/// The list of an earlier run, `host:port` a line.
pub fn kept(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| {
        if e.kind() != std::io::ErrorKind::NotFound {
            tracing::warn!("the list of servers {}: {e}", path.display());
        }
        String::new()
    });
    let lines = text.lines().map(str::trim);
    lines.filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

/// The addresses in the slices of the `kubernetes` Service.
fn listed(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let mut all = BTreeSet::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let https = ports.filter(|p| p.name.as_deref().is_none_or(|n| n == "https"));
        for port in https.filter_map(|p| p.port) {
            let ready = slice.endpoints.iter().flatten().filter(|e| {
                let conditions = e.conditions.as_ref();
                conditions.and_then(|c| c.ready).unwrap_or(true)
            });
            for address in ready.flat_map(|e| &e.addresses) {
                all.insert(api::host_port(address, port));
            }
        }
    }
    all.into_iter().collect()
}

/// Time that the list must stay as it is before it is believed: while one server's endpoint goes
/// and comes, the slices pass through states that nobody meant.
const SETTLE: Duration = Duration::from_millis(200);

/// Gives the balancer the list of servers, and keeps that in `path`, until `stop`.
pub async fn follow(client: Client, balancer: Balancer, path: PathBuf, stop: CancellationToken) {
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let only = watcher::Config::default().labels("kubernetes.io/service-name=kubernetes");
    let (reader, writer) = reflector::store();
    let changes = reflector::reflector(writer, watcher(slices, only))
        .default_backoff()
        .touched_objects();
    let mut changes = std::pin::pin!(changes);
    let mut last = kept(&path);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => match change {
                None => return,
                Some(Err(e)) => {
                    tracing::debug!("following the servers: {e}");
                    continue;
                }
                Some(Ok(_)) => {}
            },
        }
        let more = async { while changes.next().await.is_some() {} };
        let _ = tokio::time::timeout(SETTLE, more).await;
        let now = listed(&reader.state());
        if now.is_empty() || now == last {
            continue;
        }
        tracing::info!("servers of the cluster: {}", now.join(", "));
        balancer.set_listed(&now);
        let text = format!("{}\n", now.join("\n"));
        if let Err(e) = wire::pki::write_public(&path, text.as_bytes()) {
            tracing::warn!("keeping the list of servers: {e}");
        }
        last = now;
    }
}

/// `tiphys balancer`: the way of this machine's administrator to several servers.
#[derive(Args)]
pub struct BalancerArgs {
    /// A loopback address, which the servers' certificates name.
    #[arg(long)]
    listen: SocketAddr,
    #[command(flatten)]
    servers: ServersFlag,
    /// The cluster's CA.
    #[arg(long)]
    ca_file: PathBuf,
}

pub async fn run(args: BalancerArgs, stop: CancellationToken) -> Result<()> {
    let servers = args.servers.addresses()?;
    if servers.is_empty() {
        bail!("--server is needed");
    }
    ensure!(
        args.listen.ip() == Ipv4Addr::LOCALHOST,
        "--listen: only 127.0.0.1 is in the servers' certificates"
    );
    let ca = fs::read_to_string(&args.ca_file)
        .with_context(|| format!("reading {}", args.ca_file.display()))?;
    let front = Front::bind(args.listen.port(), &servers, &[]).await?;
    front.serve(&ca, stop).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_with_and_without_port() {
        let flag = |list: &[&str]| ServersFlag {
            server: list.iter().map(|s| (*s).to_owned()).collect(),
        };
        let read = flag(&["https://a:7443", " https://10.0.0.1", ""]);
        assert_eq!(read.addresses().expect("read"), ["a:7443", "10.0.0.1:6443"]);
        assert!(flag(&["http://a"]).addresses().is_err());
        assert!(flag(&["/path"]).addresses().is_err());
    }

    #[test]
    fn ready_endpoints_are_listed_once() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "kubernetes" },
            "addressType": "IPv4",
            "ports": [{ "name": "https", "port": 6443 }],
            "endpoints": [
                { "addresses": ["10.0.0.2"] },
                { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false } },
            ],
        }))
        .expect("slice");
        let slice = Arc::new(slice);
        let both = [slice.clone(), slice];
        assert_eq!(listed(&both), ["10.0.0.1:6443", "10.0.0.2:6443"]);
    }

    #[test]
    fn the_list_is_kept() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("servers");
        assert!(kept(&path).is_empty());
        fs::write(&path, "a:1\nb:2\n\n").expect("write");
        assert_eq!(kept(&path), ["a:1", "b:2"]);
    }
}
