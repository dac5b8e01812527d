//! The Service proxy: watches Services, EndpointSlices and its own node, and programs nftables so
//! that connections to a Service reach its endpoints in turn.
//!
//! `model` and `state` turn objects into plain values, `rules` has the table without any Service,
//! `service_rules` what each adds to it, `merge` sums that up, `program` brings the difference into the
//! kernel in one transaction; `sctp` names what the kernel is not able to serve. It does not know how
//! packets get from node to node (`network`), nor names (`dns`).
#![forbid(unsafe_code)]

pub mod announce;
pub mod health;
pub mod merge;
pub mod metrics;
pub mod model;
pub mod program;
pub mod rules;
pub mod sctp;
pub mod service_rules;
pub mod stale;
mod standby;
pub mod state;
mod topology;
pub mod turns;
pub mod unallocated;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clock::{Clock, Instant, Random};
use control::Recorder;
use futures::{FutureExt, Stream, StreamExt};
use host::nft::{Family, NftError, Prefix};
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::{Config as Watched, Event};
use kube::{Api, Client};
use thiserror::Error;

use crate::announce::{AnnouncedAddresses, Announcer};
use crate::health::{Health, Page, ServiceHealth, health_page};
use crate::metrics::Metrics;
use crate::program::Programmer;
use crate::rules::Node;
use crate::sctp::{MissingSctp, SctpServices};
use crate::state::State;

/// Upstream's bit for packets whose source is to be translated.
pub const MASQUERADE_BIT: u32 = 0x4000;

/// First and longest wait after a transaction that the kernel refused.
const RETRY_MILLISECONDS: (u64, u64) = (100, 30_000);
/// How often it is looked whether others changed tables, in seconds: a number is asked for, and all
/// is compared only if it is another one. Who loads a firewall again often flushes all first.
const CHECK_SECONDS: u64 = 1;
/// For so long it is believed what the kernel has of SCTP, in seconds: who asks for a socket of what is not
/// there makes it look for a module, with a process of its own.
const SCTP_SECONDS: u64 = 60;
/// So much of the table of connections in use is warned of.
const CROWDED_PERCENT: u64 = 90;
/// A comparison that took long is repeated the later: it may cost 2 % of a core.
const CHECK_SHARE: u32 = 50;
/// So many events at most are taken before the kernel is given them: a bound for one transaction.
const EVENTS_PER_SYNC: usize = 4096;

/// How the proxy runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the node: which endpoints are local.
    pub node_name: String,
    /// The table that belongs to the proxy alone.
    pub table: String,
    /// The families to make rules for.
    pub families: Vec<Family>,
    /// The ranges of pod addresses, one per family at most.
    pub cluster_cidrs: Vec<Prefix>,
    /// Node ports answer at 127.0.0.1 too; sets `route_localnet`.
    pub loopback_node_ports: bool,
    /// Node ports answer at this node's addresses in these networks; empty for all of them.
    pub node_port_addresses: Vec<Prefix>,
    /// Where /healthz is served; none for no server.
    pub health_address: Option<SocketAddr>,
    /// Where /metrics is served; none for no server.
    pub metrics_address: Option<SocketAddr>,
    /// Where health check node ports are served.
    pub service_health_address: IpAddr,
    /// Where events about Services go; none for no events.
    pub recorder: Option<Recorder>,
}

impl Config {
    /// The defaults for a node: table `tiphys-proxy`, IPv4, upstream's ports.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            table: "tiphys-proxy".into(),
            families: vec![Family::Ip4],
            cluster_cidrs: Vec::new(),
            loopback_node_ports: false,
            node_port_addresses: Vec::new(),
            health_address: Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 10256)),
            metrics_address: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 10249)),
            service_health_address: Ipv4Addr::UNSPECIFIED.into(),
            recorder: None,
        }
    }

    /// Makes rules for these families. With IPv6, what the proxy serves itself is at the node's
    /// addresses of it, too.
    pub fn serve(&mut self, families: Vec<Family>) {
        if families.contains(&Family::Ip6) {
            // The kernel takes connections of both families there.
            let any = |address: &mut SocketAddr| address.set_ip(Ipv6Addr::UNSPECIFIED.into());
            self.health_address.iter_mut().for_each(any);
            self.service_health_address = Ipv6Addr::UNSPECIFIED.into();
        }
        self.families = families;
    }

    fn node(&self, family: Family) -> Node {
        Node {
            family,
            cluster_cidr: self
                .cluster_cidrs
                .iter()
                .copied()
                .find(|cidr| Family::of(cidr.address) == family),
            loopback_node_ports: self.loopback_node_ports,
            node_port_addresses: self.node_port_addresses.clone(),
            masquerade_bit: MASQUERADE_BIT,
            place: rules::NodeTopology {
                node: self.node_name.clone(),
                zone: None,
            },
        }
    }
}

/// Why the proxy could not start.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// nftables cannot be reached.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A server could not listen.
    #[error("listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        cause: std::io::Error,
    },
}

/// Runs the proxy in the calling thread's network namespace until `shutdown` ends. The rules stay:
/// connections survive a restart.
pub async fn run(
    client: Client,
    mut config: Config,
    (clock, random): (Clock, Random),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ProxyError> {
    let recorder = Recorder::new(client.clone(), "kube-proxy", &config.node_name, clock);
    config.recorder = config.recorder.or(Some(recorder));
    let all = Watched::default;
    let own = all().fields(&format!("metadata.name={}", config.node_name));
    let services = client::events(random.clone(), Api::<Service>::all(client.clone()), all());
    let slices = client::events(
        random.clone(),
        Api::<EndpointSlice>::all(client.clone()),
        all(),
    );
    let node = client::events(random.clone(), Api::<NodeObject>::all(client.clone()), own);
    let ranges = client::events(random, Api::<ServiceCIDR>::all(client), all());
    let events = futures::stream::select_all([
        services.map(ProxyEvent::Service).boxed(),
        slices.map(ProxyEvent::Slice).boxed(),
        node.map(|event| ProxyEvent::Node(Box::new(event))).boxed(),
        ranges
            .map(|event| ProxyEvent::Range(Box::new(event)))
            .boxed(),
    ]);
    run_on(events, config, clock, shutdown).await
}

/// Removes all that the proxy programmed.
pub fn clean_up(config: &Config) -> Result<(), NftError> {
    let mut socket = host::nft::Socket::open()?;
    for family in &config.families {
        let name = config.table.clone();
        socket.delete_table(&host::nft::Table {
            family: *family,
            name,
        })?;
    }
    Ok(())
}

/// An event of one of the watches.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "events are handled one by one, none is kept"
)]
pub enum ProxyEvent {
    /// Of Services.
    Service(Event<Service>),
    /// Of EndpointSlices.
    Slice(Event<EndpointSlice>),
    /// Of the node's own object.
    Node(Box<Event<NodeObject>>),
    /// Of ranges of Services' addresses.
    Range(Box<Event<ServiceCIDR>>),
}

/// Like [`run`], with events from anywhere; ends with them too.
pub async fn run_on(
    mut events: impl Stream<Item = ProxyEvent> + Unpin,
    config: Config,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ProxyError> {
    let mut proxy = Proxy::start(config, clock).await?;
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            event = events.next() => match event {
                None => return Ok(()),
                Some(event) => {
                    proxy.hear(event);
                    // A burst becomes one transaction.
                    for _ in 0..EVENTS_PER_SYNC {
                        match events.next().now_or_never().flatten() {
                            Some(event) => proxy.hear(event),
                            None => break,
                        }
                    }
                }
            },
            () = proxy.until_due() => proxy.look(),
        }
        proxy.sync().await;
    }
}

struct Proxy {
    config: Config,
    state: State,
    programmers: Vec<Programmer>,
    /// Services whose change is not in the kernel yet.
    pending: std::collections::BTreeSet<model::Name>,
    metrics: Metrics,
    health: Arc<Health>,
    service_health: ServiceHealth,
    announcer: Announcer,
    sctp: SctpServices,
    /// What the kernel lacks of SCTP, and until when that is believed.
    missing_sctp: Option<(Instant, MissingSctp)>,
    retry: Option<Instant>,
    /// When to look for what others changed.
    check: Instant,
    /// The kernel tracks nearly as many connections as it can.
    crowded: bool,
    /// The kernel was asked to keep connections as long as they shall be kept.
    has_limits: bool,
    retry_milliseconds: u64,
    _servers: Vec<health::Server>,
}

impl Proxy {
    async fn start(config: Config, clock: Clock) -> Result<Self, ProxyError> {
        let metrics = Metrics::new(clock);
        let health = Arc::new(Health::new(clock, config.families.clone()));
        let mut servers = Vec::new();
        if let Some(address) = config.health_address {
            let health = Arc::clone(&health);
            let pages = move |path: &str| health_page(path, &health, &metrics);
            servers.push(listen(address, pages).await?);
        }
        if let Some(address) = config.metrics_address {
            let pages = move |path: &str| metrics_page(path, &metrics);
            servers.push(listen(address, pages).await?);
        }
        if config.loopback_node_ports
            && let Err(error) = host::sysctl::set("net.ipv4.conf.all.route_localnet", "1")
        {
            tracing::warn!(%error, "node ports will not answer at 127.0.0.1");
        }
        let programmers = config
            .families
            .iter()
            .map(|family| Programmer::new(config.node(*family), &config.table))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            state: State::new(&config.node_name),
            config,
            programmers,
            pending: Default::default(),
            metrics,
            service_health: ServiceHealth::new(Arc::clone(&health)),
            health,
            announcer: Announcer::start(),
            sctp: SctpServices::default(),
            missing_sctp: None,
            retry: None,
            check: Instant::now() + Duration::from_secs(CHECK_SECONDS),
            crowded: false,
            has_limits: false,
            retry_milliseconds: RETRY_MILLISECONDS.0,
            _servers: servers,
        })
    }

    fn hear(&mut self, heard: ProxyEvent) {
        match heard {
            ProxyEvent::Service(event) => {
                self.sctp.hear(&event);
                let count = self.state.service_event(event);
                self.metrics.heard(count, 0);
            }
            ProxyEvent::Slice(event) => {
                let count = self.state.slice_event(event);
                self.metrics.heard(0, count);
            }
            ProxyEvent::Node(event) => {
                self.state.node_event(*event);
                self.health.set_eligible(self.state.is_eligible());
            }
            ProxyEvent::Range(event) => self.state.range_event(*event),
        }
    }

    /// Ends when a failed transaction shall be tried again, or tables looked at.
    async fn until_due(&self) {
        let at = self.retry.map_or(self.check, |at| at.min(self.check));
        tokio::time::sleep_until(at).await;
    }

    /// Repairs what others changed, when it is time to look. What the kernel refused is tried again
    /// by itself, and compares all.
    fn look(&mut self) {
        let start = Instant::now();
        if start < self.check {
            return;
        }
        self.check = start + Duration::from_secs(CHECK_SECONDS);
        self.count_connections();
        if self.retry.is_some() || !self.health.is_healthy() {
            return;
        }
        for programmer in &mut self.programmers {
            match programmer.repair(&self.state, &self.metrics) {
                Ok(false) => {}
                Ok(true) => tracing::warn!("rules had been changed by others, and are repaired"),
                Err(error) => {
                    tracing::warn!(%error, "rules not looked at, will be repaired");
                    self.retry = Some(start);
                }
            }
        }
        let rest = Instant::now() + start.elapsed() * CHECK_SHARE;
        self.check = self.check.max(rest);
    }

    /// Once, as soon as the kernel tracks connections at all: the first rules may make it begin. What
    /// others set later stays.
    fn limit_connections(&mut self) {
        if self.has_limits {
            return;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.has_limits = host::conntrack::set_limits(cores).unwrap_or_else(|error| {
            tracing::warn!(%error, "connections are tracked by the kernel's own limits");
            true
        });
    }

    /// A full table of connections drops new ones of all Services, and says so only in the kernel's
    /// own log.
    fn count_connections(&mut self) {
        let Ok((count, most)) = host::conntrack::room() else {
            return;
        };
        self.metrics.tracked(count, most);
        let crowded = count > most / 100 * CROWDED_PERCENT;
        if crowded && !self.crowded {
            tracing::warn!(
                count,
                most,
                "nearly all connections that the kernel can track: more are dropped (net.netfilter.nf_conntrack_max)"
            );
        }
        self.crowded = crowded;
    }

    /// Who has a Service of SCTP hears where it is not served.
    fn name_missing_sctp(&mut self) {
        if self.sctp.is_empty() {
            return;
        }
        let now = Instant::now();
        let known = self.missing_sctp.filter(|(until, _)| now < *until);
        let (_, missing) = *self.missing_sctp.insert(known.unwrap_or_else(|| {
            let until = now + Duration::from_secs(SCTP_SECONDS);
            (until, MissingSctp::here())
        }));
        let (state, node) = (&self.state, &self.config.node_name);
        let has_endpoints = |name: &model::Name| {
            let here = |e: &model::Endpoint| e.local && e.protocol == model::SCTP;
            state.endpoints(name).iter().any(here)
        };
        for (service, what) in self.sctp.due(missing, has_endpoints) {
            let message = format!("node {node}: {what}");
            let name = service.name.as_deref().unwrap_or_default();
            tracing::warn!(service = name, "{message}");
            if let Some(recorder) = &self.config.recorder {
                recorder.event(&service, true, sctp::REASON, &message);
            }
        }
    }

    async fn sync(&mut self) {
        // An incomplete listing looks as if Services were gone.
        if !self.state.is_complete() {
            return;
        }
        let touched = self.state.take_touched();
        let ranges = self.state.take_ranges_changed();
        let first = !self.health.is_healthy() && self.retry.is_none();
        if touched.is_empty() && !ranges && self.retry.is_none() && !first {
            return;
        }
        self.pending.extend(touched);
        let mut has_failed = false;
        for programmer in &mut self.programmers {
            programmer.set_zone(self.state.zone());
            // What the kernel refuses of one family says nothing of the other.
            if let Err(error) = programmer.sync(&self.state, &self.pending, &self.metrics) {
                tracing::warn!(%error, "rules not programmed, will be repaired");
                self.metrics.failed(programmer.family());
                has_failed = true;
            }
        }
        if has_failed {
            let wait = Duration::from_millis(self.retry_milliseconds);
            self.retry = Some(Instant::now() + wait);
            self.retry_milliseconds = (self.retry_milliseconds * 2).min(RETRY_MILLISECONDS.1);
            self.health.set_healthy(false);
            return;
        }
        self.retry = None;
        self.retry_milliseconds = RETRY_MILLISECONDS.0;
        self.pending.clear();
        for changed in self.state.take_changes() {
            for family in &self.config.families {
                self.metrics.programmed(*family, changed);
            }
        }
        self.health.set_healthy(true);
        self.limit_connections();
        self.name_missing_sctp();
        self.metrics.settled();
        self.metrics.services(self.state.services_count());
        // Not before the rules are there: packets follow.
        let services = self.state.special().map(|(_, service)| service);
        self.announcer
            .set(AnnouncedAddresses::of(&self.config.node_name, services));
        let wanted = health_ports(&self.state);
        self.service_health
            .update(self.config.service_health_address, &wanted)
            .await;
    }
}

async fn listen(
    address: SocketAddr,
    pages: impl Fn(&str) -> Page + Send + Sync + 'static,
) -> Result<health::Server, ProxyError> {
    health::serve(address, pages)
        .await
        .map_err(|cause| ProxyError::Listen { address, cause })
}

/// Health check ports with their Services and the number of their endpoints on this node.
fn health_ports(state: &State) -> BTreeMap<u16, (model::Name, usize)> {
    let with_port = state.special().filter(|(_, s)| s.external_local);
    with_port
        .filter_map(|(name, service)| {
            let endpoints = state.endpoints(name);
            let local: std::collections::BTreeSet<IpAddr> = endpoints
                .iter()
                .filter(|e| e.local && e.ready)
                .map(|e| e.address.ip())
                .collect();
            Some((service.health_port?, (name.clone(), local.len())))
        })
        .collect()
}

fn metrics_page(path: &str, metrics: &Metrics) -> Page {
    match path {
        "/metrics" => Page::new(200, ::metrics::TEXT, metrics.text()),
        "/metrics/slis" => {
            let lines = ::metrics::slis::lines();
            Page::new(200, ::metrics::TEXT, ::metrics::prometheus(&lines))
        }
        "/proxyMode" => Page::new(200, "text/plain", "nftables".into()),
        "/healthz" => {
            ::metrics::slis::observe("ping", "healthz", true);
            Page::new(200, "text/plain", "ok".into())
        }
        _ => Page::new(404, "text/plain", "404 page not found\n".into()),
    }
}
