//! The agent of a node's network: watches Nodes and the ranges of Services, and keeps routes,
//! translation and the plugin's configuration as planned.
//!
//! What it made stays when it ends: pods keep their network while the agent restarts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use client::reflector;
use clock::Random;
use futures::{Stream, StreamExt};
use host::netlink::{Link, Netlink, NetlinkError, Route};
use host::netns::NetNs;
use host::nft::{Family, NftError, Prefix, Socket, Table, diff};
use host::podlink::LINK_GROUP;
use host::wireguard::Key;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::{Config as Watched, Event};
use kube::{Api, Client};
use thiserror::Error;

use crate::cni;
use crate::encrypted::{self, EncryptionError};
use crate::files::replace;
use crate::plan::{Peer, Way, conflist, guard, masquerade, ways};
use crate::tunnel;

/// The number that routes to other nodes carry, so that own ones are found again.
const ROUTE_PROTOCOL: u8 = 85;
/// What is assumed where a link does not say.
const COMMON_MTU: u32 = 1500;
/// Wait after something could not be set.
const RETRY_SECONDS: u64 = 2;
/// How often it is looked whether others have removed rules or routes. A look costs a few milliseconds.
const LOOK_SECONDS: u64 = 5;
/// Kernel parameters of a router.
const PARAMETERS: [(&str, &str); 2] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.send_redirects", "0"),
];
/// Kernel parameters by which packets from pod to pod on one bridge, as plugins of others make it,
/// come by the rules of Services and policies. Without them an answer of a pod to its neighbour would
/// not be translated back.
const BRIDGE_PARAMETERS: [&str; 2] = [
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
];
/// The table for translation.
const TABLE: &str = "tiphys-network";
/// The tables that keep pods to their own addresses.
const GUARD: &str = "tiphys-pods";
/// How the agent runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The ranges of all pods' addresses, one of a family at most.
    pub cluster_cidrs: Vec<Prefix>,
    /// The ranges of Services, beside those of ServiceCIDRs. What this node itself sends there is led
    /// to an endpoint only after it was found that there is a way at all: a node without a default
    /// route needs one of its own.
    pub service_cidrs: Vec<Prefix>,
    /// Networks outside of the cluster that see the addresses of pods, not the node's.
    pub exceptions: Vec<Prefix>,
    /// Where the runtime looks for network configurations.
    pub conf_dir: PathBuf,
    /// Where the plugin records addresses.
    pub state_dir: PathBuf,
    /// The network's name.
    pub network: String,
    /// The name of the plugin's executable.
    pub plugin: String,
    /// The largest packet of pods in bytes; zero to take that of the node's link.
    pub mtu: u32,
    /// Tunnel to neighbours too.
    pub always_tunnel: bool,
    /// Encrypt all that goes to other nodes' pods, with this private key, and send nothing in the open.
    pub encryption: Option<Key>,
    /// Ways to other nodes' pods are made here; otherwise they are somebody else's matter.
    pub routes: bool,
    /// Where the plugin waits for the rules of a pod's network policies; none not to wait.
    pub policy_socket: Option<PathBuf>,
    /// Pods are connected by other plugins, as somebody else configures them: nothing is written
    /// to `conf_dir`.
    pub foreign_plugins: bool,
}

impl Config {
    /// The defaults: network and plugin `tiphys`, configuration in /etc/cni/net.d.
    pub fn new(
        node_name: impl Into<String>,
        cluster_cidrs: Vec<Prefix>,
        state_dir: PathBuf,
    ) -> Self {
        Self {
            node_name: node_name.into(),
            cluster_cidrs,
            service_cidrs: Vec::new(),
            exceptions: Vec::new(),
            conf_dir: "/etc/cni/net.d".into(),
            state_dir,
            network: "tiphys".into(),
            plugin: "tiphys-cni".into(),
            mtu: 0,
            always_tunnel: false,
            encryption: None,
            routes: true,
            policy_socket: None,
            foreign_plugins: false,
        }
    }

    fn conf_path(&self) -> PathBuf {
        self.conf_dir.join(format!("10-{}.conflist", self.network))
    }
}

/// Why the network could not be set up.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// nftables refused.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// Links or routes could not be set.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// There is no encrypted link.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// A file or a parameter could not be written.
    #[error("{attempt}: {cause}")]
    System {
        /// What was attempted.
        attempt: String,
        /// Why not.
        cause: std::io::Error,
    },
}

fn system(attempt: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    let attempt = attempt.into();
    move |cause| NetworkError::System { attempt, cause }
}

/// Runs the agent in the calling thread's network namespace until `shutdown` ends.
pub async fn run(
    client: Client,
    config: Config,
    random: Random,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NetworkError> {
    let nodes = Api::<Node>::all(client.clone());
    let nodes = client::events(random.clone(), nodes, Watched::default());
    let ranges = Api::<ServiceCIDR>::all(client);
    let ranges = client::events(random, ranges, Watched::default());
    run_on(nodes.boxed(), ranges.boxed(), config, shutdown).await
}

/// Like [`run`], with events from anywhere; ends with those of nodes, too.
pub async fn run_on(
    mut nodes: impl Stream<Item = Event<Node>> + Unpin,
    ranges: impl Stream<Item = Event<ServiceCIDR>> + Unpin,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NetworkError> {
    prepare(&config)?;
    if config.foreign_plugins && !bridges_are_filtered() {
        tracing::warn!(
            "other plugins may join pods by a bridge, and what a bridge carries does not come by the \
             rules of Services and network policies as long as the kernel's module br_netfilter is \
             not loaded"
        );
    }
    if let Err(error) = adopt(&config).await {
        tracing::warn!(%error, "pods of before may send under other addresses than their own");
    }
    let (mut peers, mut services) = (Peers::default(), Ranges::default());
    let mut ranges = ranges.fuse();
    let mut lost = Lost::default();
    let mut shutdown = std::pin::pin!(shutdown);
    // What is in the kernel is not as it should be: nothing is known of it at first.
    let (mut due, mut retry) = (true, false);
    let mut look = tokio::time::interval(Duration::from_secs(LOOK_SECONDS));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    look.tick().await;
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            Some(event) = ranges.next() => due |= services.hear(event),
            event = nodes.next() => match event {
                None => return Ok(()),
                // Heartbeats change nothing of what is kept.
                Some(event) => due |= !hear(&mut peers, event).is_empty(),
            },
            () = tokio::time::sleep(Duration::from_secs(RETRY_SECONDS)), if retry => {}
            _ = look.tick() => {
                due = true;
                repair(&config);
            }
        }
        // An incomplete list looks as if nodes were gone.
        if (due || retry) && peers.is_complete() {
            let result = apply(&config, &peers, &services, &mut lost).await;
            due = false;
            retry = result.is_err();
            if let Err(error) = result {
                tracing::warn!(%error, "network not as planned, will be tried again");
            }
        }
    }
}

/// Removes all that the agent and the plugin made on this node, with the lines of pods, which are cut
/// off. Gives how many those were.
pub async fn clean_up(config: &Config) -> Result<usize, NetworkError> {
    let conf = config.conf_path();
    match std::fs::remove_file(&conf) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let conf = conf.display();
            tracing::warn!(%conf, %error, "the runtime goes on to call the plugin");
        }
        _ => {}
    }
    // The plugin's functions block: they get a thread of their own.
    let here = NetNs::current().map_err(system("open the network namespace"))?;
    let removed = here.run(|| cni::remove_all(&config.state_dir, &config.network));
    let pods = removed
        .and_then(|removed| removed.map_err(std::io::Error::other))
        .map_err(system("remove the lines of pods"))?;
    let mut socket = Socket::open()?;
    for name in [TABLE, GUARD, cni::HOST_PORT_TABLE] {
        socket.delete_table(&Table {
            family: Family::Ip4,
            name: name.into(),
        })?;
    }
    for name in [TABLE, GUARD, cni::HOST_PORT_TABLE] {
        // Where the kernel has no IPv6, it has no such table.
        let _ = socket.delete_table(&Table {
            family: Family::Ip6,
            name: name.into(),
        });
    }
    let netlink = Netlink::connect()?;
    for route in netlink
        .routes()
        .await?
        .iter()
        .filter(|r| r.protocol == ROUTE_PROTOCOL)
    {
        netlink.delete_route(route).await?;
    }
    netlink.delete_link(tunnel::NAME).await?;
    netlink.delete_link(encrypted::NAME).await?;
    Ok(pods)
}

/// Whether the kernel is able to lead what a bridge carries by the rules.
fn bridges_are_filtered() -> bool {
    let mut all = BRIDGE_PARAMETERS.iter();
    all.any(|name| host::sysctl::get(name).is_ok_and(|value| value == "1"))
}

/// What does not depend on other nodes.
fn prepare(config: &Config) -> Result<(), NetworkError> {
    // The node is its pods' router; one that sends a pod's packets back to it need not send a
    // redirect.
    for (name, value) in PARAMETERS {
        host::sysctl::set(name, value).map_err(system(format!("set {name}")))?;
    }
    if config.cluster_cidrs.iter().any(|c| c.address.is_ipv6()) {
        host::sysctl::forward_ipv6().map_err(system("let this node forward IPv6"))?;
    }
    if config.foreign_plugins {
        for name in BRIDGE_PARAMETERS {
            match host::sysctl::set(name, "1") {
                // Where the module is not loaded there is none.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                set => {
                    set.map_err(system(format!("set {name}")))?;
                }
            }
        }
    }
    let mut socket = Socket::open()?;
    let mut program = |family, name: &str, desired| -> Result<(), NftError> {
        let name = name.to_owned();
        let table = Table { family, name };
        let mut installed = socket.read(&table)?;
        let delta = diff(&table, &installed, &desired);
        socket.program(&table, delta, &mut installed)
    };
    for cidr in &config.cluster_cidrs {
        let rules = masquerade(*cidr, &config.exceptions);
        program(Family::of(cidr.address), TABLE, rules)?;
    }
    program(Family::Ip4, GUARD, guard(Family::Ip4))?;
    if let Err(error) = program(Family::Ip6, GUARD, guard(Family::Ip6)) {
        tracing::warn!(%error, "no rules for IPv6: none is dropped, if there is any");
    }
    Ok(())
}

/// Brings back what others have removed; what cannot be brought back is tried the next time.
fn repair(config: &Config) {
    if let Err(error) = prepare(config) {
        tracing::warn!(%error, "rules of the pod network not looked at");
    }
    if let Err(error) = cni::refresh_ports(&config.state_dir, &config.network) {
        tracing::warn!(%error, "host ports not looked at");
    }
}

/// Puts the cables of pods that an earlier version connected into the group that rules know.
async fn adopt(config: &Config) -> Result<(), NetworkError> {
    let known = cni::interfaces(&config.state_dir, &config.network)
        .map_err(|e| system("read the addresses of pods")(std::io::Error::other(e)))?;
    let netlink = Netlink::connect()?;
    for link in netlink.links().await? {
        if link.group != LINK_GROUP && known.contains(&link.name) {
            netlink.set_group(link.index, LINK_GROUP).await?;
        }
    }
    Ok(())
}

/// What is known of the nodes, by their names.
type Peers = reflector::Table<String, Peer>;

/// Takes in an event; gives what changed of what matters to the network of others.
fn hear(peers: &mut Peers, event: Event<Node>) -> Vec<reflector::Changed<String, Peer>> {
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    peers.take(event, name, |node| Peer::of(&node))
}

/// The ranges of ServiceCIDRs, by their names.
#[derive(Default)]
struct Ranges(reflector::Table<String, Vec<Prefix>>);

impl Ranges {
    /// Takes in an event; whether something changed that matters here.
    fn hear(&mut self, event: Event<ServiceCIDR>) -> bool {
        let was_complete = self.0.is_complete();
        let name = |range: &ServiceCIDR| range.metadata.name.clone().unwrap_or_default();
        let changed = self.0.take(event, name, |range| {
            let cidrs = range.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
            Some(cidrs.iter().filter_map(|text| text.parse().ok()).collect())
        });
        !changed.is_empty() || was_complete != self.0.is_complete()
    }

    /// With those that the node was given at its start.
    fn with(&self, more: &[Prefix]) -> Vec<Prefix> {
        let mut all = more.to_vec();
        for range in self.0.iter().flat_map(|(_, ranges)| ranges) {
            if !all.contains(range) {
                all.push(*range);
            }
        }
        all
    }
}

/// Ranges to which there is no way, and why not: each is said once.
#[derive(Debug, Default)]
struct Lost(BTreeMap<Prefix, &'static str>);

impl Lost {
    fn set(&mut self, now: BTreeMap<Prefix, &'static str>) {
        for (cidr, why) in &now {
            if self.0.get(cidr) != Some(why) {
                tracing::warn!(%cidr, why, "no way to the pods of a node");
            }
        }
        self.0 = now;
    }
}

async fn apply(
    config: &Config,
    peers: &Peers,
    ranges: &Ranges,
    lost: &mut Lost,
) -> Result<(), NetworkError> {
    // Without an own range there is nothing to route to.
    let Some(own) = peers.get(&config.node_name) else {
        return Ok(());
    };
    let netlink = Netlink::connect()?;
    let networks = netlink.addresses(None).await?;
    let mut lines = if config.routes {
        let (name, tunnel) = (&config.node_name, config.always_tunnel);
        ways(name, peers.iter(), &networks, tunnel)
    } else {
        // What was made before would lead past those of others.
        netlink.delete_link(tunnel::NAME).await?;
        Vec::new()
    };
    if config.encryption.is_some() {
        lines.iter_mut().for_each(|line| line.way = Way::Encrypted);
    }
    let Some(address) = own.addresses.first().copied() else {
        return Ok(());
    };
    let outer = Family::of(address);
    let underlay = underlay(&netlink, address).await?;
    let underlay_mtu = underlay.as_ref().map_or(COMMON_MTU, |link| link.mtu);
    let tunnels = lines.iter().any(|line| line.way == Way::Tunnel);
    let tunnel = match (tunnels, &underlay) {
        (true, Some(link)) => Some(tunnel::ensure(&netlink, own, address, link).await?),
        _ => None,
    };
    let overhead = match &config.encryption {
        Some(_) => encrypted::overhead_bytes(outer),
        None if tunnels => tunnel::overhead_bytes(outer),
        None => 0,
    };
    let inner_mtu = underlay_mtu.saturating_sub(overhead);
    let encrypted = match &config.encryption {
        Some(key) => {
            let made = encrypted::ensure(&netlink, own, key, inner_mtu, &lines, outer);
            Some(made.await?)
        }
        None => {
            netlink.delete_link(encrypted::NAME).await?;
            None
        }
    };

    let (mut wanted, mut lost_now) = (Vec::new(), BTreeMap::new());
    // Addresses of the range that no pod has: say so, instead of sending them to the default route.
    // Plugins of others may have one route to the whole range, as bridges do, which this one, being
    // there before, would hide.
    let pods = own.pod_cidrs.iter().filter(|_| !config.foreign_plugins);
    for cidr in pods {
        let mut unused = Route::to(*cidr, ROUTE_PROTOCOL);
        unused.unreachable = true;
        wanted.push(unused);
    }
    for line in &lines {
        let mut route = Route::to(line.cidr, ROUTE_PROTOCOL);
        match (&line.way, &tunnel) {
            (Way::Encrypted, _) => match (&encrypted, line.peer.key) {
                (Some(link), Some(_)) => route.link = Some(link.index),
                _ => {
                    lost_now.insert(line.cidr, "it has no key, and nothing is sent in the open");
                    // Nor by the default route.
                    route.unreachable = true;
                }
            },
            (Way::Direct(_) | Way::Tunnel, _) if line.peer.key.is_some() => {
                lost_now.insert(line.cidr, "it takes part in what is encrypted alone");
                route.unreachable = true;
            }
            (Way::Direct(address), _) => route.gateway = Some(*address),
            (Way::Tunnel, Some(link)) => {
                let Some(far) = line.peer.address(outer) else {
                    lost_now.insert(line.cidr, "it has no address of this node's first family");
                    continue;
                };
                tunnel::lead(&netlink, link, line, far, &mut route).await?;
            }
            (Way::Tunnel, None) => {
                lost_now.insert(line.cidr, "no link has this node's address: no tunnel");
                continue;
            }
        }
        wanted.push(route);
    }
    lost.set(lost_now);
    let present = netlink.routes().await?;
    for cidr in without_way(&ranges.with(&config.service_cidrs), &present) {
        let own = own.address(Family::of(cidr.address)).unwrap_or(address);
        let mut route = Route::to(cidr, ROUTE_PROTOCOL);
        route.link = self::underlay(&netlink, own).await?.map(|link| link.index);
        wanted.extend(route.link.is_some().then_some(route));
    }
    if !ranges.0.is_complete() {
        // Ways to ranges of before: whether these are gone is not known yet.
        let before = present.iter().filter(|route| {
            let to_services = route.gateway.is_none() && !route.unreachable;
            let here = |w: &Route| w.destination == route.destination;
            route.protocol == ROUTE_PROTOCOL && to_services && !wanted.iter().any(here)
        });
        let before: Vec<Route> = before.cloned().collect();
        wanted.extend(before);
    }
    set_routes(&netlink, &present, &wanted).await?;
    let mtu = if config.mtu > 0 {
        config.mtu
    } else {
        inner_mtu
    };
    match config.foreign_plugins {
        true => Ok(()),
        false => write_conflist(config, own, mtu),
    }
}

/// The ranges to which no route leads, of which the default one is usual. Own ones do not count: they
/// would be taken away because they are there.
fn without_way(ranges: &[Prefix], routes: &[Route]) -> Vec<Prefix> {
    let leads = |to: &Prefix| {
        routes.iter().any(|route| {
            let within = route.destination;
            route.protocol != ROUTE_PROTOCOL
                && !route.unreachable
                && within.length <= to.length
                && within.contains(to.address)
        })
    };
    ranges.iter().copied().filter(|to| !leads(to)).collect()
}

/// The link that has the node's address.
async fn underlay(netlink: &Netlink, address: IpAddr) -> Result<Option<Link>, NetlinkError> {
    for link in netlink.links().await? {
        let addresses = netlink.addresses(Some(link.index)).await?;
        if addresses.iter().any(|prefix| prefix.address == address) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Sets the wanted routes and deletes own ones that are not wanted any more. One that cannot be
/// set does not keep the others from being set.
async fn set_routes(
    netlink: &Netlink,
    present: &[Route],
    wanted: &[Route],
) -> Result<(), NetlinkError> {
    let mut result = Ok(());
    for route in present
        .iter()
        .filter(|route| route.protocol == ROUTE_PROTOCOL)
    {
        if !wanted.iter().any(|w| w.destination == route.destination) {
            result = result.and(netlink.delete_route(route).await);
        }
    }
    for route in wanted {
        let same = |p: &&Route| {
            p.destination == route.destination
                && p.gateway == route.gateway
                && p.unreachable == route.unreachable
                && p.protocol == ROUTE_PROTOCOL
                && (route.link.is_none() || p.link == route.link)
        };
        if !present.iter().any(|p| same(&p)) {
            result = result.and(netlink.set_route(route).await);
        }
    }
    result
}

/// Replaces the file at once if its content is to change; the runtime sees the old or the new.
fn write_conflist(config: &Config, own: &Peer, mtu: u32) -> Result<(), NetworkError> {
    let state = config.state_dir.to_string_lossy();
    let mut content = conflist(&config.network, &config.plugin, &state, own, mtu);
    if let Some(socket) = &config.policy_socket {
        content["plugins"][0]["policySocket"] = socket.to_string_lossy().into();
    }
    let text = format!("{content:#}\n");
    let path = config.conf_path();
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    replace(&path, &text).map_err(system(format!("write {}", path.display())))?;
    // After a reboot the pods of before are gone; a failure only delays that until it matters.
    // The plugin's functions block: they get a thread of their own.
    let here = NetNs::current().map_err(system("open the network namespace"))?;
    match here.run(|| cni::sweep(&config.state_dir, &config.network)) {
        Ok(Ok(0)) => {}
        Ok(Ok(freed)) => tracing::info!(freed, "addresses of pods that are gone"),
        Ok(Err(error)) => tracing::warn!(%error, "sweep of addresses"),
        Err(error) => tracing::warn!(%error, "sweep of addresses"),
    }
    Ok(())
}
