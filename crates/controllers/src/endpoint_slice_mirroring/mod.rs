//! Endpoints that people keep for a Service without selector, published as EndpointSlices for
//! clients that read only these.

use std::sync::Arc;

use client::{Informer, Informers};
use control::{Controller, Count, Plan, Watches};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use crate::common::{Key, key_of};
use crate::endpoints::{BY_SERVICE, MANAGED_BY, SERVICE_NAME, index_by_service};
use crate::metrics::{Alive, sets as figures};

pub mod plan;
mod subsets;
#[cfg(test)]
mod tests;

pub use plan::Observed;

/// The value of [`MANAGED_BY`] on mirrored slices.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";

pub struct Mirror {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
    alive: Alive,
}

impl Mirror {
    pub fn new(informers: &Informers) -> Self {
        Self {
            services: informers.of(),
            slices: index_by_service(informers),
            endpoints: informers.of(),
            alive: Alive::default(),
        }
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGER)
}

impl Controller for Mirror {
    const NAME: &'static str = "endpointslicemirroring-controller";
    const QUEUE: &'static str = "endpoint_slice_mirroring";
    const ACCOUNT: &'static str = "endpointslicemirroring-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        figures::show_mirrored(&self.slices, is_ours, &self.alive);
        watches.on(&self.services, |s| vec![key_of(s)]);
        watches.on(&self.endpoints, |e| vec![key_of(e)]);
        watches.on(&self.slices, |s| {
            let name = s.labels().get(SERVICE_NAME).filter(|_| is_ours(s));
            name.map(|n| (s.namespace().unwrap_or_default(), n.clone()))
                .into_iter()
                .collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let service = self.services.get(namespace, name);
        let without_selector = |s: &Arc<Service>| {
            let selector = s.spec.as_ref().and_then(|s| s.selector.as_ref());
            selector.is_none_or(std::collections::BTreeMap::is_empty)
        };
        let mut slices = self
            .slices
            .by_index(BY_SERVICE, &format!("{namespace}/{name}"));
        slices.retain(|s| is_ours(s));
        Some(Observed {
            endpoints: self
                .endpoints
                .get(namespace, name)
                .filter(|_| service.as_ref().is_some_and(without_selector)),
            slices,
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }

    fn metrics(&self, _: &Observed, plan: &Plan) -> Option<Count> {
        figures::mirrored(plan)
    }
}
