//! The cluster's DNS: names of Services and pods by the Kubernetes DNS specification, everything
//! else by the node's own resolvers.
//!
//! `index` is what names stand for, `answer` the specification as a pure function of it, `message`
//! the form on the wire, `forward` and `server` the sockets. It runs on every node, so that a
//! question never leaves the node for a name of the cluster.
#![forbid(unsafe_code)]

pub mod answer;
pub mod forward;
pub mod index;
pub mod message;
mod server;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::answer::Zone;
use crate::index::{Index, Key};
use crate::server::{Answerer, serve_tcp, serve_udp};

/// How the server runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where questions are taken, by UDP and TCP alike.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Who is asked about the rest of the world; without any, such questions are refused.
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
    shutdown: impl Future<Output = ()>,
) -> Result<(), DnsError> {
    let services = watcher(
        Api::<Service>::all(client.clone()),
        watcher::Config::default(),
    );
    let slices = watcher(
        Api::<EndpointSlice>::all(client.clone()),
        watcher::Config::default(),
    );
    let namespaces = watcher(Api::<Namespace>::all(client), watcher::Config::default());
    let services = services
        .default_backoff()
        .filter_map(logged)
        .map(Heard::Service);
    let slices = slices
        .default_backoff()
        .filter_map(logged)
        .map(Heard::Slice);
    let namespaces = namespaces
        .default_backoff()
        .filter_map(logged)
        .map(Heard::Namespace);
    let events =
        futures::stream::select_all([services.boxed(), slices.boxed(), namespaces.boxed()]);
    run_on(events, config, shutdown).await
}

/// A watch that fails is begun anew by the watcher, with back-off.
async fn logged<T>(event: watcher::Result<Event<T>>) -> Option<Event<T>> {
    event
        .inspect_err(|error| tracing::warn!(%error, "watch"))
        .ok()
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
    let mut listings = Listings::default();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(event) = events.next() => {
                let mut index = answerer.index.write().unwrap_or_else(PoisonError::into_inner);
                listings.hear(&mut index, event);
                drop(index);
                answerer.complete.store(listings.complete(), Ordering::Release);
            }
            else => {
                shutdown.await;
                return Ok(());
            }
        }
    }
}

/// Listings under way: what was seen in each, so that what was not is gone at its end.
#[derive(Debug, Default)]
struct Listings {
    services: Listing,
    slices: Listing,
    namespaces: Listing,
}

#[derive(Debug, Default)]
struct Listing {
    seen: Option<BTreeSet<Key>>,
    complete: bool,
}

impl Listing {
    fn see(&mut self, key: &Key) {
        if let Some(seen) = &mut self.seen {
            seen.insert(key.clone());
        }
    }

    /// Ends the listing; gives what is known but was not seen.
    fn end(&mut self, known: impl Iterator<Item = Key>) -> Vec<Key> {
        self.complete = true;
        let seen = self.seen.take().unwrap_or_default();
        known.filter(|key| !seen.contains(key)).collect()
    }
}

impl Listings {
    fn complete(&self) -> bool {
        self.services.complete && self.slices.complete && self.namespaces.complete
    }

    fn hear(&mut self, index: &mut Index, heard: Heard) {
        match heard {
            Heard::Service(event) => self.service(index, event),
            Heard::Slice(event) => self.slice(index, event),
            Heard::Namespace(event) => self.namespace(index, event),
        }
    }

    fn service(&mut self, index: &mut Index, event: Event<Service>) {
        match event {
            Event::Init => self.services.seen = Some(BTreeSet::new()),
            Event::InitApply(service) | Event::Apply(service) => {
                let key = key_of(&service.metadata);
                self.services.see(&key);
                index.set_service(key, index::Service::of(&service));
            }
            Event::Delete(service) => index.set_service(key_of(&service.metadata), None),
            Event::InitDone => {
                for key in self.services.end(index.service_keys().cloned()) {
                    index.set_service(key, None);
                }
            }
        }
    }

    fn slice(&mut self, index: &mut Index, event: Event<EndpointSlice>) {
        match event {
            Event::Init => self.slices.seen = Some(BTreeSet::new()),
            Event::InitApply(slice) | Event::Apply(slice) => {
                let key = key_of(&slice.metadata);
                self.slices.see(&key);
                index.set_slice(key, &slice);
            }
            Event::Delete(slice) => index.remove_slice(key_of(&slice.metadata)),
            Event::InitDone => {
                for key in self.slices.end(index.slice_keys().cloned()) {
                    index.remove_slice(key);
                }
            }
        }
    }

    fn namespace(&mut self, index: &mut Index, event: Event<Namespace>) {
        match event {
            Event::Init => self.namespaces.seen = Some(BTreeSet::new()),
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                let key = key_of(&namespace.metadata);
                self.namespaces.see(&key);
                index.set_namespace(&key.name, true);
            }
            Event::Delete(namespace) => {
                index.set_namespace(&key_of(&namespace.metadata).name, false);
            }
            Event::InitDone => {
                let known = index.namespaces().map(|name| Key::new("", name));
                for key in self.namespaces.end(known) {
                    index.set_namespace(&key.name, false);
                }
            }
        }
    }
}

fn key_of(metadata: &ObjectMeta) -> Key {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    Key {
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
    }
}
