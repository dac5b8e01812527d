//! What a node's network shall be, from what is known of all nodes: pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::node_notes::WIREGUARD_KEY;
use host::netlink::mac_of;
use host::nft::{
    Chain, ChainKind, End, Family, Hook, PRIORITY_RAW, PRIORITY_SNAT, Part, Point, Prefix, Rule,
    Ruleset, Verdict,
};
use host::podlink::LINK_GROUP;
use host::wireguard::Key;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use crate::key_text::key_of;

/// What matters of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its addresses, the one that it is known by first.
    pub addresses: Vec<IpAddr>,
    /// The ranges of its pods.
    pub pod_cidrs: Vec<Prefix>,
    /// The public key of its encrypted link, where it has one.
    pub key: Option<Key>,
}

impl Peer {
    /// From a Node that has an address and a range.
    pub fn of(node: &core::Node) -> Option<Self> {
        let spec = node.spec.as_ref()?;
        let cidrs = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
        let mut pod_cidrs: Vec<Prefix> = Vec::new();
        for cidr in cidrs.filter_map(|cidr| cidr.parse::<Prefix>().ok()) {
            let family = Family::of(cidr.address);
            if !pod_cidrs.iter().any(|c| Family::of(c.address) == family) {
                pod_cidrs.push(cidr);
            }
        }
        let addresses = node.status.as_ref()?.addresses.iter().flatten();
        let addresses: Vec<IpAddr> = addresses
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect();
        let key = node.metadata.annotations.as_ref();
        let key = key.and_then(|all| key_of(all.get(WIREGUARD_KEY)?));
        (!addresses.is_empty() && !pod_cidrs.is_empty()).then_some(Self {
            addresses,
            pod_cidrs,
            key,
        })
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let mut all = self.addresses.iter().copied();
        all.find(|address| Family::of(*address) == family)
    }

    /// The hardware address of its end of the tunnel: locally administered, made of its first
    /// address, so that nobody has to learn it.
    pub fn tunnel_mac(&self) -> [u8; 6] {
        match self.addresses.first() {
            Some(IpAddr::V4(four)) => {
                let [a, b, c, d] = four.octets();
                [0x02, 0x54, a, b, c, d]
            }
            Some(IpAddr::V6(six)) => mac_of(&six.to_string()),
            None => mac_of(""),
        }
    }
}

/// How another node's pods are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The node is a neighbour: this address of it is the next router.
    Direct(IpAddr),
    /// The node is behind routers that know nothing of pods: by tunnel.
    Tunnel,
    /// By the encrypted link, wherever the node is.
    Encrypted,
}

/// The way to a range of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// The node.
    pub peer: &'a Peer,
    /// The range of its pods.
    pub cidr: Prefix,
    /// How it is reached.
    pub way: Way,
}

/// The way to each range of each other node.
pub fn ways<'a>(
    own_name: &str,
    peers: impl IntoIterator<Item = (&'a String, &'a Peer)>,
    own_networks: &[Prefix],
    always_tunnel: bool,
) -> Vec<Line<'a>> {
    let neighbour = |address: &IpAddr| {
        let around = own_networks.iter();
        // A network of one address has no neighbours.
        !always_tunnel
            && around
                .filter(|network| network.has_others())
                .any(|network| network.contains(*address))
    };
    let others = peers.into_iter().filter(|(name, _)| *name != own_name);
    let lines = |(_, peer): (&'a String, &'a Peer)| {
        peer.pod_cidrs.iter().map(move |cidr| {
            let address = peer.address(Family::of(cidr.address));
            let way = match address.filter(neighbour) {
                Some(address) => Way::Direct(address),
                None => Way::Tunnel,
            };
            let cidr = *cidr;
            Line { peer, cidr, way }
        })
    };
    others.flat_map(lines).collect()
}

/// Translates what pods send out of the cluster to the node's address. What goes to pods is left
/// as it is, and what goes to the excepted networks, which know the way to pods by themselves; what
/// went to a Service carries a pod's address by then.
pub fn masquerade(cluster_cidr: Prefix, exceptions: &[Prefix]) -> Ruleset {
    let family = Family::of(cluster_cidr.address);
    let multicast = match family {
        Family::Ip4 => Prefix {
            address: Ipv4Addr::new(224, 0, 0, 0).into(),
            length: 4,
        },
        Family::Ip6 => Prefix {
            address: Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(),
            length: 8,
        },
    };
    let address = |end, within, negate| Part::Address {
        end,
        within,
        negate,
    };
    let hook = Hook {
        kind: ChainKind::Nat,
        point: Point::Postrouting,
        priority: PRIORITY_SNAT,
    };
    let ours = exceptions
        .iter()
        .filter(|e| Family::of(e.address) == family);
    let mut rule = vec![
        address(End::Source, cluster_cidr, false),
        address(End::Destination, cluster_cidr, true),
        address(End::Destination, multicast, true),
    ];
    rule.extend(ours.map(|network| address(End::Destination, *network, true)));
    rule.extend([
        Part::OutInterface {
            name: "lo".into(),
            negate: true,
        },
        Part::Masquerade,
    ]);
    Ruleset {
        chains: [(
            "postrouting".to_owned(),
            Chain {
                hook: Some(hook),
                rules: vec![Rule(rule)],
            },
        )]
        .into(),
        sets: BTreeMap::new(),
    }
}

/// Drops what a pod sends under an address that is not its own: one that may make packets
/// (`NET_RAW`, which is common) could else speak as another pod, or as the cluster's DNS server.
/// The node's route to an address says whose it is. By ARP a pod can claim nothing: the node has
/// its address fixed, and looks for no other one behind its cable.
pub fn guard(family: Family) -> Ruleset {
    let drop = |parts: Vec<Part>| {
        let mut rule = vec![Part::InGroup(LINK_GROUP)];
        rule.extend(parts);
        rule.extend([Part::Counter, Part::Verdict(Verdict::Drop)]);
        Rule(rule)
    };
    let address = |end, address: IpAddr, length, negate| Part::Address {
        end,
        within: Prefix { address, length },
        negate,
    };
    let rules = match family {
        Family::Ip4 => vec![
            drop(vec![Part::WrongWay]),
            // The node's loopback addresses are open to the cables of pods with host ports.
            drop(vec![address(
                End::Destination,
                Ipv4Addr::new(127, 0, 0, 0).into(),
                8,
                false,
            )]),
        ],
        // Every link has an address of its own, and none while that is made.
        Family::Ip6 => vec![drop(vec![
            address(
                End::Source,
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(),
                10,
                true,
            ),
            address(End::Source, Ipv6Addr::UNSPECIFIED.into(), 128, true),
            Part::WrongWay,
        ])],
    };
    let hook = Hook {
        kind: ChainKind::Filter,
        point: Point::Prerouting,
        priority: PRIORITY_RAW,
    };
    let chain = Chain {
        hook: Some(hook),
        rules,
    };
    Ruleset {
        chains: [("prerouting".to_owned(), chain)].into(),
        sets: BTreeMap::new(),
    }
}

fn texts(all: &[impl ToString]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// The plugin's configuration for the container runtime.
pub fn conflist(network: &str, plugin: &str, state_dir: &str, own: &Peer, mtu: u32) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": network,
        "plugins": [{
            "type": plugin,
            "podCIDRs": texts(&own.pod_cidrs),
            "nodeAddresses": texts(&own.addresses),
            "stateDir": state_dir,
            "mtu": mtu,
            "capabilities": {"portMappings": true, "bandwidth": true},
        }],
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn peer(addresses: &[&str], cidrs: &[&str]) -> Peer {
        let addresses = addresses.iter().map(|a| a.parse().expect("an address"));
        Peer {
            addresses: addresses.collect(),
            pod_cidrs: cidrs.iter().map(|c| prefix(c)).collect(),
            key: None,
        }
    }

    #[test]
    fn neighbours_are_reached_directly_others_by_tunnel() {
        let peers: BTreeMap<_, _> = [
            (
                "me",
                peer(&["10.0.0.1", "fd00::1"], &["10.244.0.0/24", "fd00:1::/64"]),
            ),
            (
                "near",
                peer(
                    &["10.0.0.2", "fd00::2"],
                    &["10.244.1.0/24", "fd00:1:0:1::/64"],
                ),
            ),
            (
                "far",
                peer(
                    &["10.9.0.2", "fd00:9::2"],
                    &["10.244.2.0/24", "fd00:1:0:2::/64"],
                ),
            ),
            // It has no address of IPv6: what goes to its pods by that goes by tunnel.
            (
                "half",
                peer(&["10.0.0.3"], &["10.244.3.0/24", "fd00:1:0:3::/64"]),
            ),
        ]
        .map(|(name, peer)| (name.to_owned(), peer))
        .into();
        let own = ["10.0.0.1/24", "fd00::1/64", "10.9.0.2/32"].map(prefix);
        let show = |always| -> String {
            let lines = ways("me", &peers, &own, always);
            let line = |l: &Line<'_>| match l.way {
                Way::Direct(address) => format!("{} by {address}\n", l.cidr),
                Way::Tunnel => format!("{} by tunnel\n", l.cidr),
                Way::Encrypted => format!("{} encrypted\n", l.cidr),
            };
            lines.iter().map(line).collect()
        };
        expect![[r#"
            10.244.2.0/24 by tunnel
            fd00:1:0:2::/64 by tunnel
            10.244.3.0/24 by 10.0.0.3
            fd00:1:0:3::/64 by tunnel
            10.244.1.0/24 by 10.0.0.2
            fd00:1:0:1::/64 by fd00::2
        "#]]
        .assert_eq(&show(false));
        assert!(!show(true).contains(" by 1") && !show(true).contains(" by f"));
    }

    #[test]
    fn a_node_is_read_with_a_range_of_each_family() {
        let node = |spec: Value, addresses: &[&str]| -> core::Node {
            let address = |a: &&str| json!({"type": "InternalIP", "address": a});
            let addresses: Vec<Value> = addresses.iter().map(address).collect();
            serde_json::from_value(json!({"spec": spec, "status": {"addresses": addresses}}))
                .expect("a node")
        };
        let both = json!({
            "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1:0:1::/64"],
        });
        let read = Peer::of(&node(both, &["10.0.0.2", "fd00::2"])).expect("a peer");
        assert_eq!(
            read,
            peer(
                &["10.0.0.2", "fd00::2"],
                &["10.244.1.0/24", "fd00:1:0:1::/64"]
            )
        );
        assert_eq!(read.tunnel_mac(), [2, 0x54, 10, 0, 0, 2]);
        let mut keyed = node(json!({"podCIDR": "10.244.1.0/24"}), &["10.0.0.2"]);
        for (text, key) in [
            (
                "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
                Some(Key([1; 32])),
            ),
            ("AQE=", None),
            ("?", None),
        ] {
            let noted = [(WIREGUARD_KEY.to_owned(), text.to_owned())];
            keyed.metadata.annotations = Some(noted.into());
            assert_eq!(Peer::of(&keyed).and_then(|p| p.key), key, "{text}");
        }
        let old = Peer::of(&node(json!({"podCIDR": "10.244.1.0/24"}), &["10.0.0.2"]));
        assert_eq!(old, Some(peer(&["10.0.0.2"], &["10.244.1.0/24"])));
        assert_eq!(Peer::of(&node(json!({}), &["10.0.0.2"])), None);
        assert_eq!(
            Peer::of(&node(json!({"podCIDR": "10.244.1.0/24"}), &[])),
            None
        );
    }

    #[test]
    fn only_what_leaves_the_cluster_is_translated() {
        let rules = masquerade(prefix("10.244.0.0/16"), &[]);
        expect![[r#"
            chain postrouting { type nat hook postrouting priority 100
              ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 ip daddr != 224.0.0.0/4 oifname != lo masquerade fully-random
            }
        "#]]
        .assert_eq(&rules.to_string());
    }

    #[test]
    fn excepted_networks_see_the_pods_addresses() {
        let exceptions = ["172.16.0.0/12", "fd20::/16"].map(prefix);
        expect![[r#"
            chain postrouting { type nat hook postrouting priority 100
              ip saddr fd00:1::/56 ip daddr != fd00:1::/56 ip daddr != ff00::/8 ip daddr != fd20::/16 oifname != lo masquerade fully-random
            }
        "#]]
        .assert_eq(&masquerade(prefix("fd00:1::/56"), &exceptions).to_string());
    }

    #[test]
    fn pods_speak_for_themselves_only() {
        expect![[r#"
            chain prerouting { type filter hook prerouting priority -300
              iifgroup 84 fib saddr . iif oif missing counter drop
              iifgroup 84 ip daddr 127.0.0.0/8 counter drop
            }
        "#]]
        .assert_eq(&guard(Family::Ip4).to_string());
        expect![[r#"
            chain prerouting { type filter hook prerouting priority -300
              iifgroup 84 ip saddr != fe80::/10 ip saddr != ::/128 fib saddr . iif oif missing counter drop
            }
        "#]]
        .assert_eq(&guard(Family::Ip6).to_string());
    }
}
