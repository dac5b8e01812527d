//! Which tracked flows of UDP and SCTP lead to endpoints that a Service does not have any more:
//! pure.
//!
//! A flow keeps its translation as long as packets come. TCP ends by itself; those of UDP have to be
//! deleted, and an association of SCTP, which may live for days, would find out late.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use host::conntrack::Flow;
use host::nft::Family;

use crate::model::{Endpoint, SCTP, Service, UDP};
use crate::rules::Node;

/// The protocols whose flows are looked at.
pub const PROTOCOLS: [u8; 2] = [UDP, SCTP];

/// The destinations of Services and the endpoints that flows to them may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontends {
    addresses: BTreeMap<(u8, SocketAddr), BTreeSet<SocketAddr>>,
    node_ports: BTreeMap<(u8, u16), BTreeSet<SocketAddr>>,
}

impl Frontends {
    /// Adds a Service; ports of TCP change nothing.
    pub fn add(&mut self, service: &Service, endpoints: &[Endpoint]) {
        let ports = service.ports.iter();
        for port in ports.filter(|port| PROTOCOLS.contains(&port.protocol)) {
            let serving: BTreeSet<SocketAddr> = endpoints
                .iter()
                .filter(|e| e.protocol == port.protocol && e.port_name == port.name)
                .filter(|e| e.ready || (e.serving && e.terminating))
                .map(|e| e.address)
                .collect();
            let addresses = service.cluster_ips.iter();
            let addresses = addresses
                .chain(&service.external_ips)
                .chain(&service.balancer_ips);
            for ip in addresses {
                let key = (port.protocol, SocketAddr::new(*ip, port.port));
                self.addresses.insert(key, serving.clone());
            }
            if let Some(number) = port.node_port {
                self.node_ports.insert((port.protocol, number), serving);
            }
        }
    }

    /// Whether there is something to look for among flows of this protocol.
    pub fn has(&self, protocol: u8) -> bool {
        let mut all = self.addresses.keys().map(|(p, _)| p);
        let mut ports = self.node_ports.keys().map(|(p, _)| p);
        all.any(|p| *p == protocol) || ports.any(|p| *p == protocol)
    }

    /// Whether there are node ports of this protocol.
    pub fn has_node_port(&self, protocol: u8) -> bool {
        self.node_ports.keys().any(|(p, _)| *p == protocol)
    }

    /// Whether the flow should be forgotten, so that its next packet is led again; `here` knows the
    /// addresses where node ports answer.
    pub fn is_stale(&self, flow: &Flow, here: impl Fn(IpAddr) -> bool) -> bool {
        if let Some(serving) = self.addresses.get(&(flow.protocol, flow.destination)) {
            // A flow that was not translated at all stands for a time without endpoints.
            return !serving.contains(&flow.answers_from) && !serving.is_empty()
                || serving.is_empty() && flow.answers_from != flow.destination;
        }
        let port = (flow.protocol, flow.destination.port());
        let Some(serving) = self.node_ports.get(&port) else {
            return false;
        };
        if serving.contains(&flow.answers_from) {
            return false;
        }
        // The port may be another host's, through this one: surely ours is what is translated, or
        // was sent to this node. The latter began before there was such a Service, and stands for
        // a time without endpoints, too.
        flow.answers_from != flow.destination || !serving.is_empty() && here(flow.destination.ip())
    }
}

/// Whether node ports answer at an address; `own` are those of the node.
pub fn takes_node_ports(node: &Node, own: &BTreeSet<IpAddr>, ip: IpAddr) -> bool {
    if ip.is_loopback() {
        return node.loopback_node_ports;
    }
    // As in the rules: networks of the other family alone are as good as none.
    let networks = node.node_port_addresses.iter();
    let networks: Vec<_> = networks
        .filter(|n| Family::of(n.address) == node.family)
        .collect();
    own.contains(&ip) && (networks.is_empty() || networks.iter().any(|n| n.contains(ip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Port, TCP};
    use crate::rules::NodeTopology;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A Service with a port 80, node port 30080, of each protocol, and these endpoints.
    fn frontends(endpoints: &[&str]) -> Frontends {
        let port = |protocol: u8| Port {
            name: protocol.to_string(),
            protocol,
            port: 80,
            node_port: Some(30_080),
        };
        let service = Service {
            cluster_ips: vec![address("10.96.0.1:0").ip()],
            ports: [TCP, UDP, SCTP].map(port).into(),
            ..Service::default()
        };
        let endpoint = |protocol: u8, at: &str| Endpoint {
            port_name: protocol.to_string(),
            protocol,
            address: address(at),
            ready: true,
            serving: true,
            terminating: false,
            local: true,
            for_nodes: Vec::new(),
            for_zones: Vec::new(),
        };
        let all: Vec<Endpoint> = [TCP, UDP, SCTP]
            .into_iter()
            .flat_map(|p| endpoints.iter().map(move |at| endpoint(p, at)))
            .collect();
        let mut frontends = Frontends::default();
        frontends.add(&service, &all);
        frontends
    }

    fn is_stale(frontends: &Frontends, protocol: u8, to: &str, answers: &str) -> bool {
        let here = |ip: IpAddr| ip == address("192.0.2.1:0").ip();
        let from = address("203.0.113.1:999");
        let flow = Flow::between(protocol, from, address(to), address(answers));
        frontends.is_stale(&flow, here)
    }

    #[test]
    fn flows_end_that_the_rules_would_lead_elsewhere() {
        let (serving, none) = (frontends(&["10.244.0.2:8080"]), frontends(&[]));
        let (good, gone) = ("10.244.0.2:8080", "10.244.0.3:8080");
        let (cluster, here, elsewhere) = ("10.96.0.1:80", "192.0.2.1:30080", "192.0.2.9:30080");
        for (to, answers, with_endpoint, without) in [
            (cluster, good, false, true),
            (cluster, gone, true, true),
            // Not translated: sent when there was no Service, or no endpoint.
            (cluster, cluster, true, false),
            (here, good, false, true),
            (here, gone, true, true),
            (here, here, true, false),
            // Another host's port of this number.
            (elsewhere, elsewhere, false, false),
            ("192.0.2.1:30081", "192.0.2.1:30081", false, false),
            ("10.96.0.1:81", gone, false, false),
        ] {
            for protocol in PROTOCOLS {
                let seen = |f| is_stale(f, protocol, to, answers);
                let words = format!("{protocol}: {to} {answers}");
                assert_eq!(
                    (seen(&serving), seen(&none)),
                    (with_endpoint, without),
                    "{words}"
                );
            }
            assert!(!is_stale(&serving, TCP, to, answers), "it ends by itself");
        }
        for (protocol, looked_at) in [(TCP, false), (UDP, true), (SCTP, true)] {
            let looks = (serving.has(protocol), serving.has_node_port(protocol));
            assert_eq!(looks, (looked_at, looked_at));
        }
    }

    #[test]
    fn an_association_belongs_to_its_own_protocol_and_port() {
        let mut frontends = Frontends::default();
        let mut service = Service {
            cluster_ips: vec![address("[fd00::1]:0").ip()],
            ports: vec![Port {
                name: "sctp".into(),
                protocol: SCTP,
                port: 80,
                node_port: None,
            }],
            ..Service::default()
        };
        service.external_ips = vec![address("198.51.100.1:0").ip()];
        let endpoint = Endpoint {
            port_name: "sctp".into(),
            protocol: SCTP,
            address: address("[fd00::2:2]:8080"),
            ready: false,
            serving: true,
            terminating: true,
            local: false,
            for_nodes: Vec::new(),
            for_zones: Vec::new(),
        };
        frontends.add(&service, &[endpoint]);
        assert!(frontends.has(SCTP) && !frontends.has(UDP) && !frontends.has_node_port(SCTP));
        let (to, gone) = ("[fd00::1]:80", "[fd00::2:3]:8080");
        // One that is going serves those that it has.
        assert!(!is_stale(&frontends, SCTP, to, "[fd00::2:2]:8080"));
        assert!(is_stale(&frontends, SCTP, to, gone));
        assert!(is_stale(
            &frontends,
            SCTP,
            "198.51.100.1:80",
            "10.244.0.9:8080"
        ));
        assert!(!is_stale(&frontends, UDP, to, gone), "of no such Service");
    }

    #[test]
    fn node_ports_answer_where_the_rules_say() {
        let mut node = Node {
            family: Family::Ip4,
            cluster_cidr: None,
            loopback_node_ports: false,
            node_port_addresses: Vec::new(),
            masquerade_bit: 0x4000,
            place: NodeTopology::default(),
        };
        let own = ["192.0.2.1:0", "198.51.100.1:0", "127.0.0.1:0"].map(|a| address(a).ip());
        let own = BTreeSet::from(own);
        let asked = [
            "192.0.2.1:0",
            "198.51.100.1:0",
            "127.0.0.1:0",
            "192.0.2.9:0",
        ];
        let takes = |node: &Node| asked.map(|a| takes_node_ports(node, &own, address(a).ip()));
        assert_eq!(takes(&node), [true, true, false, false]);
        node.loopback_node_ports = true;
        node.node_port_addresses = vec!["fd00::/64".parse().unwrap()];
        assert_eq!(takes(&node), [true, true, true, false]);
        node.loopback_node_ports = false;
        let networks = ["192.0.2.0/24", "fd00::/64"];
        node.node_port_addresses = networks
            .map(|n| n.parse::<host::nft::Prefix>().unwrap())
            .into();
        assert_eq!(takes(&node), [true, false, false, false]);
    }
}
