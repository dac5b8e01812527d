//! The pods behind each Service with a selector: EndpointSlices, and Endpoints for clients that
//! still read them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::LabelSelector;
use client::{Informer, Informers};
use control::{Controller, Count, Plan, Watches};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::common::{Key, key_of};
use crate::metrics::{self, Alive};

pub mod legacy;
pub mod plan;
#[cfg(test)]
mod tests;
pub mod topology;

pub use plan::Observed;

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Name of the index of slices by Service (`namespace/name`).
pub const BY_SERVICE: &str = "service";
/// Name of the index of Services that ask for hints by the CPU of zones.
const BY_TOPOLOGY: &str = "topology";

pub struct EndpointSlices {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    alive: Alive,
}

/// Keeps Endpoints.
pub struct LegacyEndpoints {
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    /// Services that went while this ran, until their Endpoints have.
    gone: Arc<Mutex<BTreeSet<Key>>>,
}

impl LegacyEndpoints {
    pub fn new(informers: &Informers) -> Self {
        Self {
            services: informers.of(),
            pods: informers.of(),
            endpoints: informers.of(),
            gone: Arc::default(),
        }
    }
}

/// All slices, indexed by their Service.
pub fn index_by_service(informers: &Informers) -> Informer<EndpointSlice> {
    let slices: Informer<EndpointSlice> = informers.of();
    slices.index(BY_SERVICE, |s| {
        let (namespace, _) = key_of(s);
        s.labels()
            .get(SERVICE_NAME)
            .map(|name| format!("{namespace}/{name}"))
            .into_iter()
            .collect()
    });
    slices
}

impl EndpointSlices {
    pub fn new(informers: &Informers) -> Self {
        let slices = index_by_service(informers);
        let services: Informer<Service> = informers.of();
        services.index(BY_TOPOLOGY, |s| {
            let asks = topology::is_wanted(s);
            asks.then(String::new).into_iter().collect()
        });
        Self {
            services,
            pods: informers.of(),
            nodes: informers.of(),
            slices,
            alive: Alive::default(),
        }
    }
}

fn selector(service: &Service) -> Option<LabelSelector> {
    let map = service
        .spec
        .as_ref()?
        .selector
        .as_ref()
        .filter(|m| !m.is_empty())?;
    Some(LabelSelector::from_map(map))
}

/// Services wake their own keys, pods those of the Services that select them.
fn on_services_and_pods(
    watches: &mut Watches<Key>,
    services: &Informer<Service>,
    pods: &Informer<Pod>,
) {
    watches.on(services, |s| vec![key_of(s)]);
    let services = services.clone();
    watches.on(pods, move |pod| {
        let all = services.list_namespace(&pod.namespace().unwrap_or_default());
        let selects = |s: &&Arc<Service>| selector(s).is_some_and(|x| x.matches(pod.labels()));
        all.iter().filter(selects).map(|s| key_of(&**s)).collect()
    });
}

/// The pods that a Service selects; `None` when it has no selector.
fn selected(service: Option<&Service>, pods: &Informer<Pod>) -> Option<Vec<Arc<Pod>>> {
    let service = service?;
    let selector = selector(service)?;
    let mut found = pods.list_namespace(&service.namespace().unwrap_or_default());
    found.retain(|p| selector.matches(p.labels()));
    Some(found)
}

impl Controller for LegacyEndpoints {
    const NAME: &'static str = "endpoint-controller";
    const QUEUE: &'static str = "endpoint";
    const ACCOUNT: &'static str = "endpoint-controller";
    type Key = Key;
    type Observed = legacy::Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        on_services_and_pods(watches, &self.services, &self.pods);
        watches.on(&self.endpoints, |e| vec![key_of(e)]);
        let gone = self.gone.clone();
        watches.on_change(&self.services, move |change| {
            match (&change.old, &change.new) {
                (Some(old), None) => {
                    let key = key_of(&**old);
                    gone.lock().insert(key.clone());
                    vec![key]
                }
                _ => Vec::new(),
            }
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<legacy::Observed> {
        let service = self.services.get(namespace, name);
        let endpoints = self.endpoints.get(namespace, name);
        let key = (namespace.clone(), name.clone());
        let service_went = {
            let mut gone = self.gone.lock();
            if service.is_some() || endpoints.is_none() {
                gone.remove(&key);
            }
            gone.contains(&key)
        };
        Some(legacy::Observed {
            namespace: namespace.clone(),
            name: name.clone(),
            pods: selected(service.as_deref(), &self.pods),
            service,
            endpoints,
            service_went,
        })
    }

    fn plan(&self, observed: &legacy::Observed, _: i64) -> Plan {
        legacy::plan(observed)
    }
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpoint-slice-controller";
    const QUEUE: &'static str = "endpoint_slice";
    const ACCOUNT: &'static str = "endpointslice-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        let is_own = |s: &EndpointSlice| s.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGER);
        metrics::show_slices(&self.slices, is_own, &self.alive);
        on_services_and_pods(watches, &self.services, &self.pods);
        watches.on(&self.slices, |s| {
            let own = s.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGER);
            let name = s.labels().get(SERVICE_NAME).filter(|_| own);
            name.map(|n| (s.namespace().unwrap_or_default(), n.clone()))
                .into_iter()
                .collect()
        });
        let services = self.services.clone();
        watches.on_change(&self.nodes, move |change| {
            if !topology::is_other(change.old.as_deref(), change.new.as_deref()) {
                return Vec::new();
            }
            let all = services.by_index(BY_TOPOLOGY, "");
            all.iter().map(|s| key_of(&**s)).collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let service = self.services.get(namespace, name);
        let mut slices = self
            .slices
            .by_index(BY_SERVICE, &format!("{namespace}/{name}"));
        slices.retain(|s| s.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGER));
        let pods = selected(service.as_deref(), &self.pods);
        let zone = |p: &Arc<Pod>| {
            let node = p.spec.as_ref()?.node_name.as_ref()?;
            let found = self.nodes.get("", node)?;
            let zone = found.labels().get(topology::ZONE)?.clone();
            Some((node.clone(), zone))
        };
        let zones: BTreeMap<String, String> = pods.iter().flatten().filter_map(zone).collect();
        let cpus = service
            .as_deref()
            .filter(|s| topology::is_wanted(s))
            .and_then(|_| topology::cpus(self.nodes.list().iter().map(|n| &**n)));
        Some(Observed {
            namespace: namespace.clone(),
            name: name.clone(),
            service,
            pods,
            zones,
            cpus,
            slices,
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }

    fn metrics(&self, observed: &Observed, plan: &Plan) -> Option<Count> {
        let service = observed.service.as_deref();
        // Of the two ways to have hints the annotation's goes first.
        let by_cpu = service.is_some_and(topology::is_wanted);
        let distribution = service
            .and_then(|s| s.spec.as_ref()?.traffic_distribution.as_deref())
            .filter(|_| !by_cpu);
        metrics::slices(by_cpu, distribution, plan)
    }
}
