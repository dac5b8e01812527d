//! Which tracked flows of UDP and SCTP lead to endpoints that a Service does not have any more:
//! pure.
//!
//! A flow keeps its translation as long as packets come. TCP ends by itself; those of UDP have to be
//! deleted, and an association of SCTP, which may live for days, would find out late.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use host::conntrack::Flow;

use crate::model::{Endpoint, SCTP, Service, UDP};

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

    /// Whether the flow should be forgotten, so that its next packet is led again.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if let Some(serving) = self.addresses.get(&(flow.protocol, flow.destination)) {
            // A flow that was not translated at all stands for a time without endpoints.
            return !serving.contains(&flow.answers_from) && !serving.is_empty()
                || serving.is_empty() && flow.answers_from != flow.destination;
        }
        let port = (flow.protocol, flow.destination.port());
        match self.node_ports.get(&port) {
            // The port may belong to another host; only translated flows are surely ours.
            Some(serving) => {
                flow.answers_from != flow.destination && !serving.contains(&flow.answers_from)
            }
            None => false,
        }
    }
}
