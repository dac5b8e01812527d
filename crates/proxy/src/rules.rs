//! From Services and endpoints to nftables rules: pure.
//!
//! One table. A map leads from a cluster address to a chain that counts through the endpoints
//! (`numgen inc`), so new connections go to them strictly in turn, whether they came by that address,
//! a node port or from this host; which chain that is, is `turns`' matter. Services that keep a
//! client at its endpoint, or traffic on its node, have chains of their own. There are no chains per
//! endpoint.
//!
//! Sources are translated only where the answer would not come back otherwise: traffic from
//! outside the cluster (a mark, as upstream's), and a pod that reaches itself (the set `hairpin`).
//! What has no endpoints is refused by filter chains, at once. What goes to an address of Services that
//! no Service has is dropped: it would leave by the default route, and a flow that has left so would
//! not be led to the Service that gets the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use host::nft::{
    Chain, ChainKind, End, Family, Field, Hook, Key, KeyPart, Order, PRIORITY_DNAT, PRIORITY_SNAT,
    Part, Point, Prefix, Rule, Ruleset, Set, SetKind, Sticky, Value, Verdict,
};

use crate::model::{Endpoint, Name, Port, Service, protocol_word};
pub use crate::topology::NodeTopology;
use crate::turns::{BALANCERS, TURNS, leads_on};
use crate::unallocated::UNALLOCATED;

/// What the rules depend on besides Services and endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The family that rules are made for.
    pub family: Family,
    /// The range of pod addresses; sources outside it are translated. Without it, no source of
    /// traffic to cluster addresses is.
    pub cluster_cidr: Option<Prefix>,
    /// Node ports answer on loopback addresses too.
    pub loopback_node_ports: bool,
    /// Node ports answer at this node's addresses in these networks; empty for all of them.
    pub node_port_addresses: Vec<Prefix>,
    /// The bit of the packet mark that asks for source translation.
    pub masquerade_bit: u32,
    /// Where clients of this node are, for endpoints that are meant for some alone.
    pub place: NodeTopology,
}

/// The part of the table that one Service accounts for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Chains of this Service alone.
    pub chains: BTreeMap<String, Chain>,
    /// Affinity maps of this Service alone.
    pub affinity_maps: BTreeSet<String>,
    /// What new connections to a cluster address, protocol and port go round.
    pub turns: BTreeMap<Key, Vec<SocketAddr>>,
    /// Elements of the common sets.
    pub elements: BTreeMap<(&'static str, Key), Value>,
}

const SERVICE_IPS: &str = "service-ips";
const NODE_PORTS: &str = "node-ports";
const NO_ENDPOINTS: &str = "no-endpoints";
const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-node-ports";
/// What has endpoints elsewhere alone.
const AWAY: &str = "away";
const AWAY_NODE_PORTS: &str = "away-node-ports";
const CLUSTER_IPS: &str = "cluster-ips";
const HAIRPIN: &str = "hairpin";
const FIREWALL: &str = "firewall-ips";

/// Names longer than this are cut and made unique by a hash; `nft` reads at most 128.
const NAME_LIMIT: usize = 120;

/// Before every filter of the host, so that refusals are seen as such.
const PRIORITY_BEFORE_DNAT: i32 = PRIORITY_DNAT - 10;
const PRIORITY_AFTER_DNAT: i32 = PRIORITY_DNAT + 10;

/// Who reaches itself is known to do so as long as packets may be under way, and who was led to a
/// chain finds its endpoints.
pub const ORDER: Order = Order {
    lingers: |set| set == HAIRPIN || leads_on(set),
    chains_first: false,
};

/// The whole table.
pub fn rules<'a>(
    node: &Node,
    services: impl IntoIterator<Item = (&'a Name, &'a Service, &'a [Endpoint])>,
) -> Ruleset {
    let mut table = crate::merge::Desired::new(node);
    for (name, service, endpoints) in services {
        table.set(name, service_rules(node, name, service, endpoints));
    }
    table.ruleset().clone()
}

/// What stands in the table without any Service.
pub fn frame(node: &Node) -> Ruleset {
    let address_port = vec![
        Field::DestinationAddress,
        Field::Protocol,
        Field::DestinationPort,
    ];
    let port = vec![Field::Protocol, Field::DestinationPort];
    let pair = vec![Field::SourceAddress, Field::DestinationAddress];
    let sets = [
        (SERVICE_IPS, SetKind::Verdicts(address_port.clone())),
        (NODE_PORTS, SetKind::Verdicts(port.clone())),
        (TURNS, SetKind::Numbers(address_port.clone())),
        (BALANCERS, SetKind::Verdicts(vec![Field::Number])),
        (NO_ENDPOINTS, SetKind::Set(address_port.clone())),
        (NO_ENDPOINT_NODE_PORTS, SetKind::Set(port.clone())),
        (AWAY, SetKind::Set(address_port.clone())),
        (AWAY_NODE_PORTS, SetKind::Set(port.clone())),
        (FIREWALL, SetKind::Verdicts(address_port.clone())),
        (CLUSTER_IPS, SetKind::Set(vec![Field::DestinationAddress])),
        (HAIRPIN, SetKind::Set(pair.clone())),
    ];
    let in_set = |fields: &Vec<Field>, set: &str| Part::InSet {
        fields: fields.clone(),
        set: set.into(),
        negate: false,
    };
    let is_cluster_ip = || in_set(&vec![Field::DestinationAddress], CLUSTER_IPS);
    let vmap = |fields: &Vec<Field>, map: &str| Part::VerdictMap {
        fields: fields.clone(),
        map: map.into(),
    };
    let mark = |node: &Node| Part::SetMark {
        clear: node.masquerade_bit,
        flip: node.masquerade_bit,
    };

    let mut services = Vec::new();
    if let Some(within) = node.cluster_cidr {
        let outside = Part::Address {
            end: End::Source,
            within,
            negate: true,
        };
        services.push(Rule(vec![is_cluster_ip(), outside, mark(node)]));
    }
    services.push(Rule(vec![Part::VerdictOfNumber {
        fields: address_port.clone(),
        numbers: TURNS.into(),
        verdicts: BALANCERS.into(),
    }]));
    services.push(Rule(vec![vmap(&address_port, SERVICE_IPS)]));
    services.extend(to_this_host(node, &[], &[vmap(&port, NODE_PORTS)]));

    let mut refused = Vec::new();
    let drop = Part::Verdict(Verdict::Drop);
    for (set, node_ports, verdict) in [
        (NO_ENDPOINTS, NO_ENDPOINT_NODE_PORTS, Part::Reject),
        // Silence lets a client try elsewhere.
        (AWAY, AWAY_NODE_PORTS, drop),
    ] {
        let set = in_set(&address_port, set);
        refused.push(Rule(vec![Part::NewConnection, set, verdict.clone()]));
        let last = [in_set(&port, node_ports), verdict];
        refused.extend(to_this_host(node, &[Part::NewConnection], &last));
    }
    refused.push(
        // A port that the Service does not have.
        Rule(vec![Part::NewConnection, is_cluster_ip(), Part::Reject]),
    );
    let to_nobody = Part::Verdict(Verdict::Jump(UNALLOCATED.into()));
    refused.push(Rule(vec![Part::NewConnection, to_nobody]));
    let not_loopback = || Part::OutInterface {
        name: "lo".into(),
        negate: true,
    };
    let bit = node.masquerade_bit;
    let sources = vec![
        Rule(vec![
            Part::Mark {
                mask: bit,
                value: bit,
            },
            Part::SetMark {
                clear: bit,
                flip: 0,
            },
            not_loopback(),
            Part::Masquerade,
        ]),
        Rule(vec![
            Part::InSet {
                fields: pair,
                set: HAIRPIN.into(),
                negate: false,
            },
            not_loopback(),
            Part::Masquerade,
        ]),
    ];
    let chains = [
        ("services", None, services),
        ("refused", None, refused),
        (UNALLOCATED, None, Vec::new()),
        (
            "nat-prerouting",
            hook(ChainKind::Nat, Point::Prerouting, PRIORITY_DNAT),
            jump("services"),
        ),
        (
            "nat-output",
            hook(ChainKind::Nat, Point::Output, PRIORITY_DNAT),
            jump("services"),
        ),
        (
            "nat-postrouting",
            hook(ChainKind::Nat, Point::Postrouting, PRIORITY_SNAT),
            sources,
        ),
        (
            "filter-prerouting",
            hook(ChainKind::Filter, Point::Prerouting, PRIORITY_BEFORE_DNAT),
            vec![Rule(vec![
                Part::NewConnection,
                vmap(&address_port, FIREWALL),
            ])],
        ),
        (
            "filter-output-before",
            hook(ChainKind::Filter, Point::Output, PRIORITY_BEFORE_DNAT),
            vec![Rule(vec![
                Part::NewConnection,
                vmap(&address_port, FIREWALL),
            ])],
        ),
        (
            "filter-input",
            hook(ChainKind::Filter, Point::Input, PRIORITY_BEFORE_DNAT),
            jump("refused"),
        ),
        (
            "filter-forward",
            hook(ChainKind::Filter, Point::Forward, PRIORITY_BEFORE_DNAT),
            jump("refused"),
        ),
        (
            "filter-output",
            hook(ChainKind::Filter, Point::Output, PRIORITY_AFTER_DNAT),
            jump("refused"),
        ),
    ];
    Ruleset {
        chains: chains
            .into_iter()
            .map(|(name, hook, rules)| (name.to_owned(), Chain { hook, rules }))
            .collect(),
        sets: sets
            .into_iter()
            .map(|(name, kind)| (name.to_owned(), Set::new(kind)))
            .collect(),
    }
}

fn hook(kind: ChainKind, point: Point, priority: i32) -> Option<Hook> {
    Some(Hook {
        kind,
        point,
        priority,
    })
}

fn jump(chain: &str) -> Vec<Rule> {
    vec![Rule(vec![Part::Verdict(Verdict::Jump(chain.into()))])]
}

/// Rules for what goes to this host's own addresses, as far as node ports answer there.
fn to_this_host(node: &Node, first: &[Part], last: &[Part]) -> Vec<Rule> {
    let loopback = match node.family {
        Family::Ip4 => Prefix {
            address: Ipv4Addr::new(127, 0, 0, 0).into(),
            length: 8,
        },
        Family::Ip6 => Prefix {
            address: Ipv6Addr::LOCALHOST.into(),
            length: 128,
        },
    };
    let destination = |within: Prefix, negate: bool| Part::Address {
        end: End::Destination,
        within,
        negate,
    };
    let rule = |network: Option<&Prefix>| {
        let mut parts = first.to_vec();
        parts.push(Part::Local {
            end: End::Destination,
            negate: false,
        });
        parts.extend(network.map(|within| destination(*within, false)));
        if !node.loopback_node_ports {
            parts.push(destination(loopback, true));
        }
        parts.extend_from_slice(last);
        Rule(parts)
    };
    // As upstream: networks of the other family alone are as good as none.
    let networks = node.node_port_addresses.iter();
    let networks: Vec<&Prefix> = networks
        .filter(|n| Family::of(n.address) == node.family)
        .collect();
    if networks.is_empty() {
        return vec![rule(None)];
    }
    networks.into_iter().map(|n| rule(Some(n))).collect()
}

/// The part of the table that one Service accounts for.
pub fn service_rules(
    node: &Node,
    name: &Name,
    service: &Service,
    endpoints: &[Endpoint],
) -> Fragment {
    let mut fragment = Fragment::default();
    let family = |ip: &&IpAddr| Family::of(**ip) == node.family;
    for ip in service.cluster_ips.iter().filter(family) {
        fragment
            .elements
            .insert((CLUSTER_IPS, vec![KeyPart::Address(*ip)]), Value::Present);
    }
    for port in &service.ports {
        PortRules {
            node,
            name,
            service,
            port,
        }
        .write(&mut fragment, endpoints);
    }
    fragment
}

/// Ports whose traffic shall stay on this node, and that have endpoints, but none here: how many by
/// internal and by external policy.
pub fn away(node: &Node, service: &Service, endpoints: &[Endpoint]) -> (usize, usize) {
    if !service.internal_local && !service.external_local {
        return (0, 0);
    }
    let is_away = |port: &&Port| {
        let usable = Usable::of(node, port, endpoints);
        usable.local.is_empty() && !usable.cluster.is_empty()
    };
    let count = service.ports.iter().filter(is_away).count();
    let of = |policy: bool| if policy { count } else { 0 };
    (of(service.internal_local), of(service.external_local))
}

/// The endpoints that new connections may go to.
#[derive(Debug, Default)]
struct Usable {
    cluster: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
}

impl Usable {
    /// Ready ones; while all are terminating, those of them that still serve. Without a policy,
    /// those that are meant for this node or its zone, if there are any.
    fn of(node: &Node, port: &Port, endpoints: &[Endpoint]) -> Self {
        let ours: Vec<&Endpoint> = endpoints
            .iter()
            .filter(|e| e.port_name == port.name && e.protocol == port.protocol)
            .filter(|e| Family::of(e.address.ip()) == node.family)
            .collect();
        let choose = |among: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
            let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
                let fit = |e: &&&Endpoint| among(e) && wanted(e);
                ours.iter().filter(fit).map(|e| e.address).collect()
            };
            let ready = pick(&|e| e.ready);
            let chosen = if ready.is_empty() {
                pick(&|e| e.serving && e.terminating)
            } else {
                ready
            };
            chosen.into_iter().collect()
        };
        let ready: Vec<&Endpoint> = ours.iter().copied().filter(|e| e.ready).collect();
        let near = node.place.nearest(&ready);
        Self {
            cluster: choose(&|e| node.place.is_meant(near, e)),
            local: choose(&|e| e.local),
        }
    }
}

struct PortRules<'a> {
    node: &'a Node,
    name: &'a Name,
    service: &'a Service,
    port: &'a Port,
}

impl PortRules<'_> {
    fn write(&self, fragment: &mut Fragment, endpoints: &[Endpoint]) {
        let usable = Usable::of(self.node, self.port, endpoints);
        let service = self.service;
        let internal = if service.internal_local {
            &usable.local
        } else {
            &usable.cluster
        };
        let external = if service.external_local {
            &usable.local
        } else {
            &usable.cluster
        };
        let refusal = |wanted: &[SocketAddr]| match (wanted, usable.cluster.as_slice()) {
            ([], []) => Some((NO_ENDPOINTS, NO_ENDPOINT_NODE_PORTS)),
            ([], _) => Some((AWAY, AWAY_NODE_PORTS)),
            _ => None,
        };
        self.balance(fragment, &usable);
        let entry = if service.internal_local { "loc" } else { "svc" };
        for ip in self.family(&service.cluster_ips) {
            if !internal.is_empty() && self.turn() != Some(self.key(Some(ip), self.port.port)) {
                let target = Verdict::Goto(self.chain(entry));
                self.lead(fragment, SERVICE_IPS, Some(ip), self.port.port, target);
            }
            if let Some((refused, _)) = refusal(internal) {
                self.put(fragment, refused, Some(ip), self.port.port);
            }
        }
        let balanced: BTreeSet<IpAddr> = self.family(&service.balancer_ips).collect();
        let addresses = self.family(&service.external_ips).chain(balanced.clone());
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        if addresses.is_empty() && self.port.node_port.is_none() {
            return;
        }
        let target = self.external_entry(fragment, &usable);
        let guarded = self.guarded_entry(fragment, target.clone());
        for ip in addresses {
            let target = match balanced.contains(&ip) {
                true => &guarded,
                false => &target,
            };
            if let Some(target) = target.clone() {
                self.lead(fragment, SERVICE_IPS, Some(ip), self.port.port, target);
            }
            if let Some((refused, _)) = refusal(external) {
                self.put(fragment, refused, Some(ip), self.port.port);
            }
        }
        if let Some(number) = self.port.node_port {
            if let Some(target) = target {
                self.lead(fragment, NODE_PORTS, None, number, target);
            }
            if let Some((_, refused)) = refusal(external) {
                self.put(fragment, refused, None, number);
            }
        }
        self.firewall(fragment);
    }

    /// What the port's endpoints go round by without a chain of its own: its key in the map of turns.
    fn turn(&self) -> Option<Key> {
        let service = self.service;
        let is_special =
            service.internal_local || service.external_local || service.affinity_seconds.is_some();
        let ip = self.family(&service.cluster_ips).next();
        let ip = ip.filter(|_| !is_special)?;
        Some(self.key(Some(ip), self.port.port))
    }

    /// What chooses an endpoint.
    fn balance(&self, fragment: &mut Fragment, usable: &Usable) {
        let turn = self.turn().filter(|_| !usable.cluster.is_empty());
        let has_chains = turn.is_none();
        if let Some(turn) = turn {
            fragment.turns.insert(turn, usable.cluster.clone());
        }
        let wants_local = self.service.internal_local || self.service.external_local;
        for (kind, endpoints, wanted) in [
            ("svc", &usable.cluster, has_chains),
            ("loc", &usable.local, wants_local),
        ] {
            if wanted && !endpoints.is_empty() {
                let rules = self.choice(fragment, kind, endpoints);
                fragment
                    .chains
                    .insert(self.chain(kind), Chain { hook: None, rules });
            }
        }
        for ip in endpoints_here(usable) {
            let key = vec![KeyPart::Address(ip), KeyPart::Address(ip)];
            fragment.elements.insert((HAIRPIN, key), Value::Present);
        }
    }

    fn choice(&self, fragment: &mut Fragment, kind: &str, endpoints: &[SocketAddr]) -> Vec<Rule> {
        let endpoints = endpoints.to_vec();
        let Some(timeout_seconds) = self.service.affinity_seconds else {
            return vec![Rule(vec![Part::Dnat {
                endpoints,
                remember: None,
            }])];
        };
        let map = self.chain(&format!("aff-{kind}"));
        fragment.affinity_maps.insert(map.clone());
        let sticky = Sticky {
            map: map.clone(),
            timeout_seconds,
        };
        vec![
            Rule(vec![Part::DnatRemembered {
                sticky: sticky.clone(),
                endpoints: endpoints.clone(),
            }]),
            // Reached only if the remembered endpoint is none of those any more.
            Rule(vec![Part::Forget { map }]),
            Rule(vec![Part::Dnat {
                endpoints,
                remember: Some(sticky),
            }]),
        ]
    }

    /// The chain that traffic to outer addresses and node ports enters by.
    fn external_entry(&self, fragment: &mut Fragment, usable: &Usable) -> Option<Verdict> {
        if usable.cluster.is_empty() {
            return None;
        }
        let bit = self.node.masquerade_bit;
        let mark = Part::SetMark {
            clear: bit,
            flip: bit,
        };
        let turn = self.turn();
        let balanced = || match turn.clone() {
            Some(key) => Part::VerdictOfKey {
                key,
                numbers: TURNS.into(),
                verdicts: BALANCERS.into(),
            },
            None => Part::Verdict(Verdict::Goto(self.chain("svc"))),
        };
        let mut rules = Vec::new();
        if self.service.external_local {
            // Clients inside the cluster are not bound by the policy for those outside.
            if let Some(within) = self.node.cluster_cidr {
                let inside = Part::Address {
                    end: End::Source,
                    within,
                    negate: false,
                };
                rules.push(Rule(vec![inside, balanced()]));
            }
            let own = Part::Local {
                end: End::Source,
                negate: false,
            };
            rules.push(Rule(vec![own, mark, balanced()]));
            if !usable.local.is_empty() {
                rules.push(Rule(vec![Part::Verdict(Verdict::Goto(self.chain("loc")))]));
            }
        } else {
            rules.push(Rule(vec![mark, balanced()]));
        }
        let name = self.chain("ext");
        fragment
            .chains
            .insert(name.clone(), Chain { hook: None, rules });
        Some(Verdict::Goto(name))
    }

    /// The chain that traffic to the load balancer's addresses enters by. The firewall has seen it
    /// already, but maybe before there was one for it: whoever finds endpoints is looked at once more.
    fn guarded_entry(&self, fragment: &mut Fragment, target: Option<Verdict>) -> Option<Verdict> {
        let target = target?;
        let has_none = self.family(&self.service.balancer_ips).next().is_none();
        if self.service.source_ranges.is_empty() || has_none {
            return Some(target);
        }
        let name = self.chain("lb");
        let chain = Chain {
            hook: None,
            rules: self.listed_sources(&target),
        };
        fragment.chains.insert(name.clone(), chain);
        Some(Verdict::Goto(name))
    }

    /// What becomes of listed sources; others are dropped.
    fn listed_sources(&self, verdict: &Verdict) -> Vec<Rule> {
        let listed = |within: &Prefix| {
            let part = Part::Address {
                end: End::Source,
                within: *within,
                negate: false,
            };
            Rule(vec![part, Part::Verdict(verdict.clone())])
        };
        let ranges = self.service.source_ranges.iter();
        let ours = ranges.filter(|range| Family::of(range.address) == self.node.family);
        let mut rules: Vec<Rule> = ours.map(listed).collect();
        rules.push(Rule(vec![Part::Verdict(Verdict::Drop)]));
        rules
    }

    /// Only the listed sources may use the load balancer's addresses.
    fn firewall(&self, fragment: &mut Fragment) {
        let ranges = &self.service.source_ranges;
        let addresses: Vec<IpAddr> = self.family(&self.service.balancer_ips).collect();
        if ranges.is_empty() || addresses.is_empty() {
            return;
        }
        let rules = self.listed_sources(&Verdict::Return);
        let name = self.chain("fw");
        fragment
            .chains
            .insert(name.clone(), Chain { hook: None, rules });
        for ip in addresses {
            let verdict = Verdict::Goto(name.clone());
            self.lead(fragment, FIREWALL, Some(ip), self.port.port, verdict);
        }
    }

    fn key(&self, ip: Option<IpAddr>, port: u16) -> Key {
        let mut key: Key = ip.map(KeyPart::Address).into_iter().collect();
        key.push(KeyPart::Protocol(self.port.protocol));
        key.push(KeyPart::Port(port));
        key
    }

    fn lead(
        &self,
        fragment: &mut Fragment,
        map: &'static str,
        ip: Option<IpAddr>,
        port: u16,
        verdict: Verdict,
    ) {
        let key = self.key(ip, port);
        fragment
            .elements
            .insert((map, key), Value::Verdict(verdict));
    }

    fn put(&self, fragment: &mut Fragment, set: &'static str, ip: Option<IpAddr>, port: u16) {
        let key = self.key(ip, port);
        fragment.elements.insert((set, key), Value::Present);
    }

    fn family<'a>(
        &'a self,
        ips: impl IntoIterator<Item = &'a IpAddr> + 'a,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        ips.into_iter()
            .copied()
            .filter(|ip| Family::of(*ip) == self.node.family)
    }

    /// The name of one of this port's chains or maps.
    fn chain(&self, kind: &str) -> String {
        let Name { namespace, name } = self.name;
        let protocol = protocol_word(self.port.protocol);
        let full = format!("{kind}/{namespace}/{name}/{protocol}/{}", self.port.port);
        if full.len() <= NAME_LIMIT {
            return full;
        }
        let hash = full.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        let kept: String = full.chars().take(NAME_LIMIT - 17).collect();
        format!("{kept}-{hash:016x}")
    }
}

/// Addresses on this node that may be both client and endpoint of one connection.
fn endpoints_here(usable: &Usable) -> BTreeSet<IpAddr> {
    usable.local.iter().map(SocketAddr::ip).collect()
}
