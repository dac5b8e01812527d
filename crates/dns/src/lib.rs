//! The cluster's DNS: names of Services and pods by the Kubernetes DNS specification, everything
//! else by the node's own resolvers.
//!
//! `index` is what names stand for, `answer` the specification as a pure function of it, `message`
//! the form on the wire, `forward` and `server` the sockets. It runs on every node, so that a
//! question never leaves the node for a name of the cluster.
#![forbid(unsafe_code)]

pub mod answer;
mod counted;
pub mod forward;
pub mod index;
pub mod message;
mod server;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use clock::Random;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{Config as Watched, Event};
use kube::{Api, Client};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::answer::Zone;
use crate::server::{Answerer, serve_tcp, serve_udp};

/// How the server runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where questions are taken, by UDP and TCP alike.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The resolvers that are asked about all other names; without any, such questions are refused.
    pub upstreams: Vec<SocketAddr>,
    /// How long answers may be believed.
    pub ttl_seconds: u32,
    /// How long the absence of a name may be believed.
    pub negative_ttl_seconds: u32,
}

impl Config {
    /// The defaults: `cluster.local`, answers for 30 seconds, absence for 5, the resolvers of
    /// /etc/resolv.conf.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let mut upstreams = forward::upstreams_of(&resolv_conf);
        // Nobody is asked in a circle.
        upstreams.retain(|upstream| !listen.contains(upstream));
        Self {
            listen,
            cluster_domain: "cluster.local".into(),
            upstreams,
            ttl_seconds: 30,
            negative_ttl_seconds: 5,
        }
    }
}

/// Why the server could not start.
#[derive(Debug, Error)]
#[error("listen for DNS on {address}: {cause}")]
pub struct DnsError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub cause: std::io::Error,
}

/// An event of one of the watches.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "events are handled one by one, none is kept"
)]
pub enum Heard {
    /// Of Services.
    Service(Event<Service>),
    /// Of EndpointSlices.
    Slice(Event<EndpointSlice>),
    /// Of Namespaces.
    Namespace(Event<Namespace>),
}

/// Answers questions until `shutdown` ends.
pub async fn run(
    client: Client,
    config: Config,
    random: Random,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DnsError> {
    let all = Watched::default;
    let services = client::events(random.clone(), Api::<Service>::all(client.clone()), all());
    let slices = client::events(
        random.clone(),
        Api::<EndpointSlice>::all(client.clone()),
        all(),
    );
    let namespaces = client::events(random.clone(), Api::<Namespace>::all(client), all());
    let events = futures::stream::select_all([
        services.map(Heard::Service).boxed(),
        slices.map(Heard::Slice).boxed(),
        namespaces.map(Heard::Namespace).boxed(),
    ]);
    run_on(events, config, shutdown).await
}

/// Like [`run`], with events from anywhere; keeps answering after their end.
pub async fn run_on(
    mut events: impl Stream<Item = Heard> + Unpin,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DnsError> {
    let zone = Zone {
        domain: config.cluster_domain.trim_end_matches('.').to_lowercase(),
        ttl_seconds: config.ttl_seconds,
        negative_ttl_seconds: config.negative_ttl_seconds,
    };
    let answerer = Arc::new(Answerer::new(zone, config.upstreams));
    let mut sockets = JoinSet::new();
    for address in config.listen {
        let failed = |cause| DnsError { address, cause };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        sockets.spawn(serve_udp(udp, Arc::clone(&answerer)));
        sockets.spawn(serve_tcp(tcp, Arc::clone(&answerer)));
    }
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            Some(event) = events.next() => {
                let mut index = answerer.index.write().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Heard::Service(event) => index.service_event(event),
                    Heard::Slice(event) => index.slice_event(event),
                    Heard::Namespace(event) => index.namespace_event(event),
                }
                answerer.complete.store(index.is_complete(), Ordering::Release);
            }
            else => {
                shutdown.await;
                return Ok(());
            }
        }
    }
}
