//! The table of Services as it stands without any, and what one of them adds to it: pure.
//!
//! One table. A map leads from a cluster address to a chain that counts through the endpoints
//! (`numgen inc`), so new connections go to them strictly in turn, whether they came by that address,
//! a node port or from this host; which chain that is, is `turns`' matter. Services that keep a
//! client at its endpoint, or traffic on its node, have chains of their own (`service_rules`). There are
//! no chains per endpoint.
//!
//! Sources are translated only where the answer would not come back otherwise: traffic from
//! outside the cluster (a mark, as upstream's), and a pod that reaches itself (the set `hairpin`).
//! What has no endpoints is refused by filter chains, at once. What goes to an address of Services that
//! no Service has is dropped: it would leave by the default route, and a flow that has left so would
//! not be led to the Service that gets the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use host::nft::{
    Chain, ChainKind, End, Family, Field, Hook, Key, Order, PRIORITY_DNAT, PRIORITY_SNAT, Part,
    Point, Prefix, Rule, Ruleset, Set, SetKind, Value, Verdict,
};

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

pub(crate) const SERVICE_IPS: &str = "service-ips";
pub(crate) const NODE_PORTS: &str = "node-ports";
pub(crate) const NO_ENDPOINTS: &str = "no-endpoints";
pub(crate) const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-node-ports";
/// What has endpoints elsewhere alone.
pub(crate) const AWAY: &str = "away";
pub(crate) const AWAY_NODE_PORTS: &str = "away-node-ports";
pub(crate) const CLUSTER_IPS: &str = "cluster-ips";
pub(crate) const HAIRPIN: &str = "hairpin";
pub(crate) const FIREWALL: &str = "firewall-ips";

/// Before every filter of the host, so that refusals are seen as such.
const PRIORITY_BEFORE_DNAT: i32 = PRIORITY_DNAT - 10;
const PRIORITY_AFTER_DNAT: i32 = PRIORITY_DNAT + 10;

/// Who reaches itself is known to do so as long as packets may be under way, and who was led to a
/// chain finds its endpoints.
pub const ORDER: Order = Order {
    lingers: |set| set == HAIRPIN || leads_on(set),
    chains_first: false,
};

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
