//! Which Service has which addresses: pure, on plain values. All Services at once, so that no
//! address and port is given twice; those that have something already come first, so that an
//! address stays with its Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::cidr::IpFamily;

use super::pool::{Pool, Reserved};
use crate::common::Key;

/// Addresses of nodes at most that a Service is published with, of each family: more help no
/// client, and each is an element of every node's rules.
const NODE_ADDRESSES: usize = 16;

/// The ports of Services at all nodes, which are claimed elsewhere; upstream's.
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The nodes' own; a Service has its ports at all of them.
    Nodes {
        reserved: Reserved,
        /// Ports that belong to Services of type NodePort.
        node_ports: RangeInclusive<u16>,
    },
    /// A pool, of which each address is announced by one node.
    Pool(Pool),
}

impl Default for Source {
    fn default() -> Self {
        Self::Nodes {
            reserved: Reserved::default(),
            node_ports: NODE_PORTS,
        }
    }
}

/// A protocol and a port.
pub type Port = (String, u16);

/// What a Service asks for, and what it has.
#[derive(Clone, Debug, Default)]
pub struct AddressRequest {
    pub key: Key,
    /// Seconds since the epoch: who came first has what both ask for.
    pub created: i64,
    pub ports: Vec<Port>,
    /// Its families, by whether each is IPv6.
    pub six: Vec<bool>,
    /// `spec.loadBalancerIP`.
    pub asked: Option<String>,
    /// With `externalTrafficPolicy: Local`, the nodes that have ready endpoints.
    pub local: Option<BTreeSet<String>>,
    /// The addresses in its status.
    pub has: BTreeSet<IpAddr>,
    /// The ports that its status says it has there.
    pub held: BTreeSet<Port>,
    /// Which node announces each of them.
    pub announced: BTreeMap<IpAddr, String>,
}

impl AddressRequest {
    /// Whether it has all that it asks for.
    fn is_served(&self) -> bool {
        !self.has.is_empty() && self.ports.iter().all(|p| self.held.contains(p))
    }
}

/// A node that may take traffic from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
}

/// Why a Service has to wait for an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Pending {
    #[error("port {}/{} at {at} is taken by {}/{}", .port.1, .port.0, .by.0, .by.1)]
    Taken { port: Port, at: String, by: Key },
    #[error("port {}/{} is one of the nodes' own", .0.1, .0.0)]
    Reserved(Port),
    #[error("port {}/{} lies in the range of node ports", .0.1, .0.0)]
    NodePort(Port),
    #[error("spec.loadBalancerIP {0:?} is not an address that can be given")]
    NotOurs(String),
    #[error("the pool has no address left")]
    UsedUp,
    #[error("there is no address of the Service's families")]
    NoFamily,
    #[error("there are no available nodes")]
    NoNodes,
}

impl Pending {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "PortTaken",
            Self::Reserved(_) | Self::NodePort(_) => "PortReserved",
            Self::NotOurs(_) => "AddressNotAvailable",
            Self::UsedUp => "PoolUsedUp",
            Self::NoFamily => "FamilyNotAvailable",
            Self::NoNodes => "NoNodes",
        }
    }
}

/// The addresses of a Service, or why it has none.
pub type AssignedAddresses = Result<BTreeSet<IpAddr>, Pending>;

/// Ports that are had already, by Services and, at nodes' addresses, by others.
#[derive(Debug, Default)]
pub struct Claims {
    everywhere: BTreeMap<Port, Key>,
    at: BTreeMap<Port, BTreeMap<IpAddr, Key>>,
    /// Whether all Services at an address spread over all nodes.
    shared: BTreeMap<IpAddr, bool>,
}

impl Claims {
    /// Takes a port at an address; `None` for those of all nodes.
    pub fn take(&mut self, port: &Port, at: Option<IpAddr>, by: &Key) {
        match at {
            None => self.everywhere.entry(port.clone()).or_insert(by.clone()),
            Some(ip) => self
                .at
                .entry(port.clone())
                .or_default()
                .entry(ip)
                .or_insert(by.clone()),
        };
    }

    /// How many addresses are had by anybody, at most.
    fn count(&self) -> usize {
        let at: usize = self.at.values().map(BTreeMap::len).sum();
        self.shared.len() + at
    }

    fn taken(&self, wish: &AddressRequest, at: Option<IpAddr>) -> Result<(), Pending> {
        for port in &wish.ports {
            let others = self.at.get(port).into_iter().flatten();
            let meets = |ip: &IpAddr| at.is_none_or(|at| at == *ip);
            let mut there = others.filter(|(ip, by)| meets(ip) && **by != wish.key);
            let everywhere = self.everywhere.get(port).filter(|by| **by != wish.key);
            let by = there.next().map(|(_, by)| by).or(everywhere);
            if let Some(by) = by {
                let at = at.map_or("the nodes' addresses".to_owned(), |ip| ip.to_string());
                return Err(Pending::Taken {
                    port: port.clone(),
                    at,
                    by: by.clone(),
                });
            }
        }
        Ok(())
    }

    fn take_all(&mut self, wish: &AddressRequest, at: Option<IpAddr>) {
        for port in &wish.ports {
            self.take(port, at, &wish.key);
        }
        if let Some(ip) = at {
            *self.shared.entry(ip).or_insert(true) &= wish.local.is_none();
        }
    }
}

/// Gives each wish its addresses, in the order of the wishes. `claims` holds what others have.
pub fn assign(
    source: &Source,
    wishes: &[AddressRequest],
    nodes: &[Machine],
    mut claims: Claims,
) -> Vec<AssignedAddresses> {
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by_key(|i| {
        let wish = &wishes[*i];
        // Who comes to want another's port does not get it, however old.
        let rank = (!wish.is_served(), wish.has.is_empty());
        (rank, wish.created, &wish.key)
    });
    let mut given: BTreeMap<usize, AssignedAddresses> = BTreeMap::new();
    for i in order {
        let wish = &wishes[i];
        let one = match source {
            Source::Nodes {
                reserved,
                node_ports,
            } => of_nodes(reserved, node_ports, wish, nodes, &mut claims),
            Source::Pool(pool) => of_pool(pool, wish, &mut claims),
        };
        given.insert(i, one);
    }
    given.into_values().collect()
}

fn of_nodes(
    reserved: &Reserved,
    node_ports: &RangeInclusive<u16>,
    wish: &AddressRequest,
    nodes: &[Machine],
    claims: &mut Claims,
) -> AssignedAddresses {
    for port in &wish.ports {
        if reserved.has(port.1, &port.0) {
            return Err(Pending::Reserved(port.clone()));
        }
        if node_ports.contains(&port.1) {
            return Err(Pending::NodePort(port.clone()));
        }
    }
    let asked = match &wish.asked {
        None => None,
        Some(text) => {
            let ip = text.parse().ok();
            let known = |ip: &IpAddr| nodes.iter().any(|n| n.addresses.contains(ip));
            Some(
                ip.filter(known)
                    .ok_or_else(|| Pending::NotOurs(text.clone()))?,
            )
        }
    };
    if nodes.is_empty() {
        return Err(Pending::NoNodes);
    }
    claims.taken(wish, asked)?;
    let published = match asked {
        Some(ip) => BTreeSet::from([ip]),
        None => published(wish, nodes),
    };
    if published.is_empty() {
        return Err(Pending::NoFamily);
    }
    claims.take_all(wish, asked);
    Ok(published)
}

/// The nodes whose addresses are published: with endpoints where only those serve, and alive.
/// While there are none, all of those before.
fn published(wish: &AddressRequest, nodes: &[Machine]) -> BTreeSet<IpAddr> {
    let some = |among: Vec<Machine>, wanted: &dyn Fn(&Machine) -> bool| {
        let chosen: Vec<Machine> = among.iter().filter(|n| wanted(n)).cloned().collect();
        if chosen.is_empty() { among } else { chosen }
    };
    let alive = some(nodes.to_vec(), &|n| n.ready);
    let near = some(alive, &|n| {
        wish.local.as_ref().is_none_or(|l| l.contains(&n.name))
    });
    let mut out = BTreeSet::new();
    for six in &wish.six {
        let ips = near.iter().flat_map(|n| n.addresses.iter());
        let mut ips: Vec<IpAddr> = ips.filter(|ip| ip.is_ipv6() == *six).copied().collect();
        // Those that clients know stay.
        ips.sort_by_key(|ip| !wish.has.contains(ip));
        out.extend(ips.into_iter().take(NODE_ADDRESSES));
    }
    out
}

/// One of each of its families that the pool has; all of them or none.
fn of_pool(pool: &Pool, wish: &AddressRequest, claims: &mut Claims) -> AssignedAddresses {
    let asked: Option<IpAddr> = match &wish.asked {
        None => None,
        Some(text) => {
            let ip = text.parse().ok().filter(|ip| pool.contains(*ip));
            let ours = ip.filter(|ip| wish.six.contains(&ip.is_ipv6()));
            Some(ours.ok_or_else(|| Pending::NotOurs(text.clone()))?)
        }
    };
    let mut chosen = BTreeSet::new();
    for six in &wish.six {
        let family = if *six { IpFamily::Six } else { IpFamily::Four };
        if !pool.has(family) {
            continue;
        }
        let ip = match asked.filter(|ip| ip.is_ipv6() == *six) {
            Some(ip) => {
                claims.taken(wish, Some(ip))?;
                ip
            }
            None => kept(pool, family, wish, claims)
                .or_else(|| free(pool, family, wish, claims))
                .ok_or(Pending::UsedUp)?,
        };
        chosen.insert(ip);
    }
    if chosen.is_empty() {
        return Err(Pending::NoFamily);
    }
    for ip in &chosen {
        claims.take_all(wish, Some(*ip));
    }
    Ok(chosen)
}

fn kept(pool: &Pool, family: IpFamily, wish: &AddressRequest, claims: &Claims) -> Option<IpAddr> {
    let mut had = wish.has.iter().copied();
    had.find(|ip| {
        IpFamily::of(*ip) == family && pool.contains(*ip) && claims.taken(wish, Some(*ip)).is_ok()
    })
}

/// One that nobody has; else one that is shared by port. A Service that keeps sources shares with
/// nobody by itself, since the node that announces an address must have endpoints of all.
fn free(pool: &Pool, family: IpFamily, wish: &AddressRequest, claims: &Claims) -> Option<IpAddr> {
    let may = |ip: &IpAddr| claims.taken(wish, Some(*ip)).is_ok();
    let unused = |ip: &IpAddr| !claims.shared.contains_key(ip) && may(ip);
    let shares = |ip: &IpAddr| wish.local.is_none() && claims.shared.get(ip) == Some(&true);
    // As many as are had, and one more: one of those is unused, however large a range is. A port
    // that is had at single addresses is had at no more of them than there are claims.
    let looked_at = claims.count() + 1;
    pool.addresses(family)
        .take(looked_at)
        .find(unused)
        .or_else(|| {
            let mut used = pool.addresses(family).take(looked_at);
            used.find(|ip| shares(ip) && may(ip))
        })
}

/// The node that announces an address to its network: the one that does, while it can; else one
/// by lot, the same at each look.
pub fn announcer(
    address: IpAddr,
    sharers: &[&AddressRequest],
    nodes: &[Machine],
) -> Option<String> {
    let current = sharers.iter().find_map(|w| w.announced.get(&address));
    let candidates = candidates(sharers, nodes.iter().filter(|n| n.ready).collect());
    if candidates.is_empty() {
        // Nobody is known to live: whoever does it may.
        return current.cloned();
    }
    if let Some(name) = current.filter(|c| candidates.iter().any(|n| n.name == **c)) {
        return Some(name.clone());
    }
    by_lot(address, &candidates)
}

/// The node that would announce the address if the one that does were gone.
pub fn standby(
    address: IpAddr,
    announcer: &str,
    sharers: &[&AddressRequest],
    nodes: &[Machine],
) -> Option<String> {
    let others = nodes.iter().filter(|n| n.ready && n.name != announcer);
    by_lot(address, &candidates(sharers, others.collect()))
}

/// Of these nodes those with endpoints of all Services that keep sources at an address; else of any
/// of those; else all.
fn candidates<'a>(sharers: &[&AddressRequest], ready: Vec<&'a Machine>) -> Vec<&'a Machine> {
    let near = |n: &Machine, all: bool| {
        let mut locals = sharers.iter().filter_map(|w| w.local.as_ref());
        if all {
            locals.all(|l| l.contains(&n.name))
        } else {
            locals.any(|l| l.contains(&n.name))
        }
    };
    for all in [true, false] {
        let chosen: Vec<&Machine> = ready.iter().copied().filter(|n| near(n, all)).collect();
        if !chosen.is_empty() {
            return chosen;
        }
    }
    ready
}

fn by_lot(address: IpAddr, candidates: &[&Machine]) -> Option<String> {
    let lot = |n: &&&Machine| hash(&format!("{address} {}", n.name));
    candidates.iter().max_by_key(lot).map(|n| n.name.clone())
}

/// FNV-1a, with its bits mixed, since names of nodes differ in their last letters.
fn hash(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
