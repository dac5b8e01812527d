//! The pods behind each Service with a selector: EndpointSlices, and Endpoints for those who still
//! read them.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::LabelSelector;
use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use crate::common::{Key, key_of};

pub mod plan;
#[cfg(test)]
mod tests;

pub use plan::Observed;

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Name of the index of slices by Service (`namespace/name`).
pub const BY_SERVICE: &str = "service";

pub struct EndpointSlices {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
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
        Self {
            services: informers.of(),
            pods: informers.of(),
            nodes: informers.of(),
            slices,
            endpoints: informers.of(),
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

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpoint-slice-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.services, |s| vec![key_of(s)]);
        let services = self.services.clone();
        watches.on(&self.pods, move |pod| {
            let all = services.list_namespace(&pod.namespace().unwrap_or_default());
            let selects = |s: &&Arc<Service>| selector(s).is_some_and(|x| x.matches(pod.labels()));
            all.iter().filter(selects).map(|s| key_of(&**s)).collect()
        });
        watches.on(&self.slices, |s| {
            let own = s.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGER);
            let name = s.labels().get(SERVICE_NAME).filter(|_| own);
            name.map(|n| (s.namespace().unwrap_or_default(), n.clone()))
                .into_iter()
                .collect()
        });
        watches.on(&self.endpoints, |e| vec![key_of(e)]);
        watches.expect_from(&self.nodes);
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let service = self.services.get(namespace, name);
        let mut slices = self
            .slices
            .by_index(BY_SERVICE, &format!("{namespace}/{name}"));
        slices.retain(|s| s.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGER));
        let pods = service.as_ref().and_then(|s| selector(s)).map(|x| {
            let mut pods = self.pods.list_namespace(namespace);
            pods.retain(|p| x.matches(p.labels()));
            pods
        });
        let zone = |p: &Arc<Pod>| {
            let node = p.spec.as_ref()?.node_name.as_ref()?;
            let zone = self.nodes.get("", node)?.labels().get(ZONE)?.clone();
            Some((node.clone(), zone))
        };
        let zones: BTreeMap<String, String> = pods.iter().flatten().filter_map(zone).collect();
        let endpoints = self.endpoints.get(namespace, name);
        Some(Observed {
            namespace: namespace.clone(),
            name: name.clone(),
            service,
            pods,
            zones,
            slices,
            endpoints,
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }
}
