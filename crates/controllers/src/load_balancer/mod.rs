//! Services of type LoadBalancer get an address: those of the nodes, or one of a pool that a node
//! announces to its network. Packets are the proxy's business (`crates/proxy`): it serves what a
//! Service's status says, and announces what an annotation asks its node to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use crate::common::{Key, key_of};
use crate::endpoints::{BY_SERVICE, SERVICE_NAME, index_by_service};

mod assign;
mod plan;
mod pool;
#[cfg(test)]
mod tests;

pub use assign::{NODE_PORTS, Source};
pub use plan::{ANNOUNCED_BY, CLASS, Observed};
pub use pool::{Pool, PoolError, Reserved, ReservedError};

/// The controller; all Services are one key, so that no two get the same address and port.
pub struct LoadBalancers {
    services: Informer<Service>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    source: Source,
}

impl LoadBalancers {
    pub fn new(informers: &Informers, source: Source) -> Self {
        Self {
            services: informers.of(),
            nodes: informers.of(),
            slices: index_by_service(informers),
            source,
        }
    }

    fn slices_of(&self, (namespace, name): &Key) -> Vec<Arc<EndpointSlice>> {
        let key = format!("{namespace}/{name}");
        self.slices.by_index(BY_SERVICE, &key)
    }
}

/// The nodes with ready endpoints.
fn ready_nodes(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    let ready = endpoints.filter(|e| {
        let conditions = e.conditions.as_ref();
        conditions.and_then(|c| c.ready).unwrap_or(true)
    });
    ready.filter_map(|e| e.node_name.clone()).collect()
}

/// Where the endpoints of the Service `kubernetes` listen.
fn servers(slices: &[Arc<EndpointSlice>]) -> Vec<(IpAddr, u16)> {
    let of = |slice: &Arc<EndpointSlice>| -> Vec<(IpAddr, u16)> {
        let endpoints = slice.endpoints.iter().flatten();
        let ips = endpoints.flat_map(|e| e.addresses.iter().filter_map(|a| a.parse().ok()));
        let ips: Vec<IpAddr> = ips.collect();
        let ports = slice.ports.iter().flatten().filter_map(|p| p.port);
        ports
            .filter_map(|port| u16::try_from(port).ok())
            .flat_map(|port| ips.iter().map(move |ip| (*ip, port)))
            .collect()
    };
    slices.iter().flat_map(of).collect()
}

fn kubernetes() -> Key {
    ("default".into(), "kubernetes".into())
}

impl Controller for LoadBalancers {
    const NAME: &'static str = "service-controller";
    const ACCOUNT: &'static str = "service-controller";
    type Key = ();
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<()>) {
        let when = |so: bool| if so { vec![()] } else { Vec::new() };
        watches.on(&self.services, move |s| when(plan::is_relevant(s)));
        // Heartbeats and the like are of no interest.
        watches.on_change(&self.nodes, move |change| {
            let seen = |n: &Option<Arc<Node>>| n.as_ref().and_then(|n| plan::machine(n));
            when(seen(&change.old) != seen(&change.new))
        });
        let services = self.services.clone();
        watches.on(&self.slices, move |slice| {
            let Some(name) = slice.labels().get(SERVICE_NAME) else {
                return Vec::new();
            };
            let namespace = slice.namespace().unwrap_or_default();
            let service = services.get(&namespace, name);
            let local = service.is_some_and(|s| plan::is_ours(&s) && plan::keeps_sources(&s));
            when(local || (namespace, name.clone()) == kubernetes())
        });
    }

    fn observe(&self, (): &()) -> Option<Observed> {
        let mut services = self.services.list();
        services.retain(|s| plan::is_relevant(s));
        let local = services
            .iter()
            .filter(|s| plan::is_ours(s) && plan::keeps_sources(s))
            .map(|s| {
                let key = key_of(&**s);
                let nodes = ready_nodes(&self.slices_of(&key));
                (key, nodes)
            })
            .collect();
        Some(Observed {
            services,
            nodes: self.nodes.list(),
            local,
            servers: servers(&self.slices_of(&kubernetes())),
        })
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        plan::plan(seen, &self.source, now_millis)
    }

    fn workers(&self) -> usize {
        1
    }
}
