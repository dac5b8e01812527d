//! The cluster's DNS: names of Services and pods by the Kubernetes DNS specification, everything
//! else by the node's own resolvers.
//!
//! `index` is what names stand for, `answer` the specification as a pure function of it, `message`
//! the form on the wire. `client_query` is a question on its way, under the name that `rewrite` gave it.
//! `search_path` knows which names are asked for next when one does not exist; `template` makes answers
//! of names. `settings` is what a Corefile says about whose question is whose, `trusted` to whom long
//! answers go by UDP. `cache` keeps what others answered, as bytes that `packet` knows; `recent` keeps
//! whole answers by the bytes of their questions, patched by `prepared`. `resolv_conf` follows the node's
//! own resolvers; `forward` with `tls`, and `sockets` with `outgoing`, are the sockets, `server` goes from
//! a question's bytes to an answer's.
//! It runs on every node, so that a question never leaves the node for a name of the cluster.
#![forbid(unsafe_code)]

pub mod answer;
mod cache;
mod client_query;
pub mod forward;
pub mod index;
pub mod message;
mod metrics;
mod outgoing;
pub mod packet;
mod prepared;
mod recent;
mod resolv_conf;
mod rewrite;
mod search_path;
mod server;
mod settings;
mod sockets;
mod template;
mod tls;
mod trusted;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use api::corefile::{self, Corefile};
use clock::{Clock, Random};
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
use crate::server::Answerer;
use crate::settings::{NodeResolvers, Settings};
use crate::sockets::{make_room, serve_tcp, serve_udp};
use crate::tls::Dialer;
use crate::trusted::Trusted;

/// How the server runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where questions are taken, by UDP and TCP alike.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Who is asked about all other names where no Corefile says something else; without any, such
    /// questions are refused.
    pub upstreams: Resolvers,
    /// How long answers may be believed.
    pub ttl_seconds: u32,
    /// How long the absence of a name may be believed.
    pub negative_ttl_seconds: u32,
    /// Networks of the cluster: only to these, and to this machine, long answers go by UDP.
    pub trusted: Vec<(IpAddr, u8)>,
    /// The time of day, by which is counted how long changes take to be answered; none where that is
    /// not counted.
    pub clock: Option<Clock>,
    /// Certificates (PEM) of who is believed of servers that are asked over TLS; none: this machine's
    /// authorities.
    pub authorities: Option<Vec<u8>>,
}

/// The node's resolvers.
#[derive(Debug, Clone)]
pub enum Resolvers {
    /// These.
    These(Vec<SocketAddr>),
    /// Those that a file names, written as resolv.conf(5) says, whenever it names others.
    File(PathBuf),
}

impl Config {
    /// The defaults: `cluster.local`, answers for 30 seconds, absence for 5, the resolvers of
    /// /etc/resolv.conf.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            cluster_domain: "cluster.local".into(),
            upstreams: Resolvers::File("/etc/resolv.conf".into()),
            ttl_seconds: 30,
            negative_ttl_seconds: 5,
            trusted: Vec::new(),
            clock: None,
            authorities: None,
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
pub enum DnsEvent {
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
    /// What they said together when they could be read last, and whether there was a Corefile and not
    /// only additions.
    said: (Corefile, bool),
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

    /// Reads what they say together. False, and a word of it in the log, when they cannot be read: then
    /// what was said before goes on.
    fn read(&mut self) -> bool {
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
                return false;
            }
        };
        let main = self.held.get(corefile::CONFIG_MAP);
        let has_main = main.is_some_and(|keys| keys.contains_key(corefile::KEY));
        for what in &file.warnings {
            tracing::warn!(what, "part of the Corefile");
        }
        self.said = (file, has_main);
        true
    }

    /// How questions are led then, where the node has these resolvers.
    fn settings(&self, zone: &Zone, node: &NodeResolvers) -> Settings {
        let (file, has_main) = &self.said;
        let (settings, warnings) = Settings::of(file, *has_main, zone, node);
        for what in warnings {
            tracing::warn!(what, "part of the Corefile");
        }
        METRICS.enabled(&settings.plugins());
        settings
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
        events.map(move |event| DnsEvent::Configuration(name, Box::new(event)))
    };
    let events = futures::stream::select_all([
        services.map(DnsEvent::Service).boxed(),
        slices.map(DnsEvent::Slice).boxed(),
        namespaces.map(DnsEvent::Namespace).boxed(),
        configuration(corefile::CONFIG_MAP).boxed(),
        configuration(corefile::CUSTOM_CONFIG_MAP).boxed(),
    ]);
    run_on(events, config, random, shutdown).await
}

/// The node's resolvers as they are now, and as they will be.
fn follow(
    resolvers: Resolvers,
    listen: &[SocketAddr],
    tasks: &mut JoinSet<()>,
) -> clock::watch::Receiver<NodeResolvers> {
    match resolvers {
        Resolvers::These(servers) => {
            let node = NodeResolvers {
                servers,
                has_searches: false,
            };
            clock::watch::Sender::new(node).subscribe()
        }
        Resolvers::File(path) => {
            // Whoever follows it says why, where it cannot be read.
            let first = resolv_conf::read(&path, listen).unwrap_or_default();
            let servers = clock::watch::Sender::new(first);
            let receiver = servers.subscribe();
            tasks.spawn(resolv_conf::follow(path, listen.to_vec(), servers));
            receiver
        }
    }
}

/// Like [`run`], with events from anywhere; keeps answering after their end.
pub async fn run_on(
    events: impl Stream<Item = DnsEvent> + Unpin,
    config: Config,
    random: Random,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DnsError> {
    let mut events = events.fuse();
    let (ttl, negative) = (config.ttl_seconds, config.negative_ttl_seconds);
    let zone = Zone::new(&config.cluster_domain, ttl, negative);
    let trusted = Trusted::new(config.trusted.clone(), &config.listen);
    let mut corefiles = Corefiles::default();
    let mut tasks = JoinSet::new();
    let mut upstreams = follow(config.upstreams, &config.listen, &mut tasks);
    let settings = corefiles.settings(&zone, &upstreams.borrow_and_update());
    let means = (random, Dialer::new(config.authorities));
    let answerer = Arc::new(Answerer::new(&zone, settings, trusted, means));
    for address in config.listen {
        let failed = |cause| DnsError { address, cause };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        make_room(&udp);
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        tasks.spawn(serve_udp(udp, Arc::clone(&answerer)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&answerer)));
    }
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            // Whose sender is gone never changes again.
            Ok(()) = upstreams.changed() => {
                answerer.set(corefiles.settings(&zone, &upstreams.borrow()));
            }
            Some(event) = events.next() => {
                let event = match event {
                    DnsEvent::Configuration(name, event) => {
                        if corefiles.take(name, *event) {
                            match corefiles.read() {
                                true => answerer.set(corefiles.settings(&zone, &upstreams.borrow())),
                                false => METRICS.reload_failed(),
                            }
                        }
                        continue;
                    }
                    event => event,
                };
                let change = match &event {
                    DnsEvent::Slice(Event::Apply(slice)) => index::change_of(slice),
                    _ => None,
                };
                let mut index = answerer.index.write().unwrap_or_else(PoisonError::into_inner);
                let before = (index.version(), index.is_complete());
                match event {
                    DnsEvent::Service(event) => index.service_event(event),
                    DnsEvent::Slice(event) => index.slice_event(event),
                    DnsEvent::Namespace(event) => index.namespace_event(event),
                    DnsEvent::Configuration(..) => {}
                }
                answerer.complete.store(index.is_complete(), Ordering::Release);
                let change = change
                    .filter(|(key, _)| index.service(key) == Some(&index::Service::Headless));
                let is_other = before != (index.version(), index.is_complete());
                drop(index);
                // Most of what is written of objects says nothing of their names.
                if is_other {
                    answerer.changed();
                }
                if let Some(((_, at), clock)) = change.zip(config.clock)
                    && let Ok(at) = at.parse()
                {
                    METRICS.programmed(clock.now().duration_since(at).as_secs_f64());
                }
            }
            else => {
                shutdown.await;
                return Ok(());
            }
        }
    }
}
