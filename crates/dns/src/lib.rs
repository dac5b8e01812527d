//! The cluster's DNS: names of Services and pods by the Kubernetes DNS specification, everything
//! else by the node's own resolvers.
//!
//! `index` is what names stand for, `answer` the specification as a pure function of it, `message`
//! the form on the wire. `settings` is what a Corefile says about whose question is whose, `cache`
//! keeps what others answered, as bytes that `packet` knows; `forward` and `server` are the sockets.
//! It runs on every node, so that a question never leaves the node for a name of the cluster.
#![forbid(unsafe_code)]

pub mod answer;
mod cache;
pub mod forward;
pub mod index;
pub mod message;
mod metrics;
pub mod packet;
mod recent;
mod server;
mod settings;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use api::corefile::{self, Corefile};
use clock::Random;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{Config as Watched, Event};
use kube::{Api, Client};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::answer::Zone;
use crate::metrics::METRICS;
use crate::server::{Answerer, serve_tcp, serve_udp};
use crate::settings::Settings;

/// How the server runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where questions are taken, by UDP and TCP alike.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The node's resolvers, which are asked about all other names where no Corefile says something
    /// else; without any, such questions are refused.
    pub upstreams: Vec<SocketAddr>,
    /// How long answers may be believed.
    pub ttl_seconds: u32,
    /// How long the absence of a name may be believed.
    pub negative_ttl_seconds: u32,
    /// Networks of the cluster: only to these, and to this machine, long answers go by UDP.
    pub trusted: Vec<(IpAddr, u8)>,
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
            trusted: Vec::new(),
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
    /// Of a ConfigMap, of this name.
    Configuration(&'static str, Box<Event<ConfigMap>>),
}

/// The ConfigMaps that say how questions are led.
#[derive(Default)]
struct Corefiles {
    /// What they hold, by their names.
    held: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// A list is being read: what is missing in it is gone.
    listed: BTreeMap<&'static str, BTreeMap<String, String>>,
}

impl Corefiles {
    /// Takes an event; says whether anything changed.
    fn take(&mut self, name: &'static str, event: Event<ConfigMap>) -> bool {
        let is_it = |map: &ConfigMap| map.metadata.name.as_deref() == Some(name);
        let new = match event {
            Event::Init => {
                self.listed.remove(name);
                return false;
            }
            Event::InitApply(map) if is_it(&map) => {
                self.listed.insert(name, map.data.unwrap_or_default());
                return false;
            }
            Event::InitDone => self.listed.remove(name),
            Event::Apply(map) if is_it(&map) => Some(map.data.unwrap_or_default()),
            Event::Delete(map) if is_it(&map) => None,
            Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => return false,
        };
        let old = match new.clone() {
            Some(new) => self.held.insert(name, new),
            None => self.held.remove(name),
        };
        old != new
    }

    /// What they say together; `None`, and a word of it in the log, when they cannot be read: then
    /// what was said before goes on.
    fn settings(&self, zone: &Zone, upstreams: &[SocketAddr]) -> Option<Settings> {
        let keys = |name| {
            let all = self.held.get(name).into_iter().flatten();
            all.map(|(key, text)| (key.as_str(), text.as_str()))
        };
        let main = keys(corefile::CONFIG_MAP);
        let custom = keys(corefile::CUSTOM_CONFIG_MAP);
        let file = match Corefile::of_keys(main, custom) {
            Ok(file) => file,
            Err((key, error)) => {
                tracing::warn!(key, %error, "the Corefile cannot be read; questions are led as before");
                return None;
            }
        };
        let main = self.held.get(corefile::CONFIG_MAP);
        let has_main = main.is_some_and(|keys| keys.contains_key(corefile::KEY));
        let (settings, warnings) = Settings::of(&file, has_main, zone, upstreams);
        for what in file.warnings.iter().chain(&warnings) {
            tracing::warn!(what, "part of the Corefile");
        }
        Some(settings)
    }
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
    let namespaces = client::events(random.clone(), Api::<Namespace>::all(client.clone()), all());
    let maps = Api::<ConfigMap>::namespaced(client, corefile::NAMESPACE);
    let configuration = |name: &'static str| {
        let one = all().fields(&format!("metadata.name={name}"));
        let events = client::events(random.clone(), maps.clone(), one);
        events.map(move |event| Heard::Configuration(name, Box::new(event)))
    };
    let events = futures::stream::select_all([
        services.map(Heard::Service).boxed(),
        slices.map(Heard::Slice).boxed(),
        namespaces.map(Heard::Namespace).boxed(),
        configuration(corefile::CONFIG_MAP).boxed(),
        configuration(corefile::CUSTOM_CONFIG_MAP).boxed(),
    ]);
    run_on(events, config, random, shutdown).await
}

/// Like [`run`], with events from anywhere; keeps answering after their end.
pub async fn run_on(
    mut events: impl Stream<Item = Heard> + Unpin,
    config: Config,
    random: Random,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DnsError> {
    let (ttl, negative) = (config.ttl_seconds, config.negative_ttl_seconds);
    let zone = Zone::new(&config.cluster_domain, ttl, negative);
    let mut trusted = config.trusted.clone();
    trusted.extend(config.listen.iter().map(|a| (a.ip(), 128)));
    let mut corefiles = Corefiles::default();
    let (settings, _) = Settings::of(&Corefile::default(), false, &zone, &config.upstreams);
    let answerer = Arc::new(Answerer::new(&zone, settings, trusted, random));
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
                let event = match event {
                    Heard::Configuration(name, event) => {
                        if corefiles.take(name, *event) {
                            match corefiles.settings(&zone, &config.upstreams) {
                                Some(settings) => answerer.set(settings),
                                None => METRICS.reload_failed(),
                            }
                        }
                        continue;
                    }
                    event => event,
                };
                let mut index = answerer.index.write().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Heard::Service(event) => index.service_event(event),
                    Heard::Slice(event) => index.slice_event(event),
                    Heard::Namespace(event) => index.namespace_event(event),
                    Heard::Configuration(..) => {}
                }
                answerer.complete.store(index.is_complete(), Ordering::Release);
                drop(index);
                answerer.changed();
            }
            else => {
                shutdown.await;
                return Ok(());
            }
        }
    }
}
