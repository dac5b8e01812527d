//! Which tracked UDP flows lead to endpoints that a Service does not have any more: pure.
//!
//! A flow keeps its translation as long as packets come. TCP ends by itself; flows of UDP have to
//! be deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use host::conntrack::Flow;

use crate::model::{Endpoint, Service, UDP};

/// The destinations of UDP Services and the endpoints that flows to them may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontends {
    addresses: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
    node_ports: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

impl Frontends {
    /// Adds a Service; one without UDP ports changes nothing.
    pub fn add(&mut self, service: &Service, endpoints: &[Endpoint]) {
        for port in service.ports.iter().filter(|port| port.protocol == UDP) {
            let serving: BTreeSet<SocketAddr> = endpoints
                .iter()
                .filter(|e| e.protocol == UDP && e.port_name == port.name)
                .filter(|e| e.ready || (e.serving && e.terminating))
                .map(|e| e.address)
                .collect();
            let addresses = service.cluster_ips.iter();
            let addresses = addresses
                .chain(&service.external_ips)
                .chain(&service.balancer_ips);
            for ip in addresses {
                self.addresses
                    .insert(SocketAddr::new(*ip, port.port), serving.clone());
            }
            if let Some(number) = port.node_port {
                self.node_ports.insert(number, serving);
            }
        }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.node_ports.is_empty()
    }

    /// Whether the flow should be forgotten, so that its next packet is led again.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if let Some(serving) = self.addresses.get(&flow.destination) {
            // A flow that was not translated at all stands for a time without endpoints.
            return !serving.contains(&flow.answers_from) && !serving.is_empty()
                || serving.is_empty() && flow.answers_from != flow.destination;
        }
        match self.node_ports.get(&flow.destination.port()) {
            // The port may belong to another host; only translated flows are surely ours.
            Some(serving) => {
                flow.answers_from != flow.destination && !serving.contains(&flow.answers_from)
            }
            None => false,
        }
    }
}
