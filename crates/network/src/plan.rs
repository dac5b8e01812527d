//! What a node's network shall be, from what is known of all nodes: pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use host::nft::{
    Chain, ChainKind, End, Family, Hook, PRIORITY_RAW, PRIORITY_SNAT, Part, Point, Prefix, Rule,
    Ruleset, Verdict,
};
use host::podlink::LINK_GROUP;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

/// What matters of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: Ipv4Addr,
    /// The range of its pods.
    pub pod_cidr: Prefix,
}

impl Peer {
    /// From a Node that has an address and a range.
    pub fn of(node: &core::Node) -> Option<Self> {
        let spec = node.spec.as_ref()?;
        let cidrs = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
        let pod_cidr = cidrs
            .filter_map(|cidr| cidr.parse::<Prefix>().ok())
            .find(|cidr| cidr.address.is_ipv4())?;
        let addresses = node.status.as_ref()?.addresses.iter().flatten();
        let address = addresses
            .filter(|address| address.type_ == "InternalIP")
            .find_map(|address| address.address.parse().ok())?;
        Some(Self { address, pod_cidr })
    }

    /// The hardware address of its end of the tunnel: locally administered, made of its address,
    /// so that nobody has to learn it.
    pub fn tunnel_mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.address.octets();
        [0x02, 0x54, a, b, c, d]
    }
}

/// How another node's pods are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The node is a neighbour: its address is the next router.
    Direct,
    /// The node is behind routers that know nothing of pods: by tunnel.
    Tunnel,
}

/// The way to each other node's range.
pub fn ways<'a>(
    own_name: &str,
    peers: impl IntoIterator<Item = (&'a String, &'a Peer)>,
    own_networks: &[Prefix],
    always_tunnel: bool,
) -> BTreeMap<String, (Peer, Way)> {
    let neighbour = |peer: &Peer| {
        own_networks
            .iter()
            // A network of one address has no neighbours.
            .any(|network| network.length < 32 && network.contains(IpAddr::V4(peer.address)))
    };
    peers
        .into_iter()
        .filter(|(name, _)| *name != own_name)
        .map(|(name, peer)| {
            let way = if !always_tunnel && neighbour(peer) {
                Way::Direct
            } else {
                Way::Tunnel
            };
            (name.clone(), (peer.clone(), way))
        })
        .collect()
}

/// Translates what pods send out of the cluster to the node's address. What goes to pods is left
/// as it is; what went to a Service carries a pod's address by then.
pub fn masquerade(cluster_cidr: Prefix) -> Ruleset {
    let multicast = Prefix {
        address: Ipv4Addr::new(224, 0, 0, 0).into(),
        length: 4,
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
    let rule = Rule(vec![
        address(End::Source, cluster_cidr, false),
        address(End::Destination, cluster_cidr, true),
        address(End::Destination, multicast, true),
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
                rules: vec![rule],
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
        // Pods have no IPv6 addresses but those that every link has; and none while these are
        // made.
        Family::Ip6 => vec![drop(vec![
            address(
                End::Source,
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(),
                10,
                true,
            ),
            address(End::Source, Ipv6Addr::UNSPECIFIED.into(), 128, true),
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

/// The plugin's configuration for the container runtime.
pub fn conflist(network: &str, plugin: &str, state_dir: &str, own: &Peer, mtu: u32) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": network,
        "plugins": [{
            "type": plugin,
            "podCIDR": own.pod_cidr.to_string(),
            "nodeAddress": own.address.to_string(),
            "stateDir": state_dir,
            "mtu": mtu,
            "capabilities": {"portMappings": true},
        }],
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn peer(address: [u8; 4], cidr: &str) -> Peer {
        Peer {
            address: address.into(),
            pod_cidr: cidr.parse().expect("a prefix"),
        }
    }

    #[test]
    fn neighbours_are_reached_directly_others_by_tunnel() {
        let peers: BTreeMap<_, _> = [
            ("me".to_owned(), peer([10, 0, 0, 1], "10.244.0.0/24")),
            ("near".to_owned(), peer([10, 0, 0, 2], "10.244.1.0/24")),
            ("far".to_owned(), peer([10, 9, 0, 2], "10.244.2.0/24")),
        ]
        .into();
        let own = ["10.0.0.1/24".parse().expect("a prefix")];
        let way = |always| -> Vec<_> {
            let ways = ways("me", &peers, &own, always);
            ways.into_iter()
                .map(|(name, (_, way))| (name, way))
                .collect()
        };
        assert_eq!(
            way(false),
            [("far".into(), Way::Tunnel), ("near".into(), Way::Direct)]
        );
        assert_eq!(
            way(true),
            [("far".into(), Way::Tunnel), ("near".into(), Way::Tunnel)]
        );
    }

    #[test]
    fn only_what_leaves_the_cluster_is_translated() {
        let rules = masquerade("10.244.0.0/16".parse().expect("a prefix"));
        expect![[r#"
            chain postrouting { type nat hook postrouting priority 100
              ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 ip daddr != 224.0.0.0/4 oifname != lo masquerade fully-random
            }
        "#]]
        .assert_eq(&rules.to_string());
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
              iifgroup 84 ip saddr != fe80::/10 ip saddr != ::/128 counter drop
            }
        "#]]
        .assert_eq(&guard(Family::Ip6).to_string());
    }
}
