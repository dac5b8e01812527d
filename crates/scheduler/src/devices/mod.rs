//! Devices that pods claim: claims, classes, slices, and what was decided about them and is not in the
//! API yet. Which devices a claim gets is found by [`allocate`].

pub mod allocate;
mod capacity;
pub mod pools;
mod result;
mod selectors;
mod slices;
#[cfg(test)]
mod tests;
pub mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1 as k8s;

pub use allocate::{Allocated, Failure, Matches, allocate};
pub use pools::Slices;
pub use result::allocation;
pub use slices::{DeviceId, Slice};
pub use wanted::WantedClaim;

/// Says that a claim has devices: the object stays until they are given back.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// Devices that were found for a claim of a pod.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The pod's UID.
    pub pod: Arc<str>,
    /// Namespace and name of the claim.
    pub claim: Arc<str>,
    pub allocation: Arc<k8s::AllocationResult>,
}

/// Everything about devices; claims by `namespace/name`, the rest by name.
#[derive(Default)]
pub struct Devices {
    claims: BTreeMap<Arc<str>, Arc<k8s::ResourceClaim>>,
    classes: BTreeMap<String, Arc<k8s::DeviceClass>>,
    slices: BTreeMap<String, Arc<Slice>>,
    pending: Vec<Pending>,
    compiled: selectors::Compiled,
}

impl Devices {
    pub fn claim(&self, key: &str) -> Option<&Arc<k8s::ResourceClaim>> {
        self.claims.get(key)
    }
    pub fn class(&self, name: &str) -> Option<&Arc<k8s::DeviceClass>> {
        self.classes.get(name)
    }
    fn compiled(&self) -> &selectors::Compiled {
        &self.compiled
    }
    pub fn set_claim(&mut self, key: Arc<str>, claim: Option<&k8s::ResourceClaim>) {
        match claim {
            Some(claim) => self.claims.insert(key, Arc::new(claim.clone())),
            None => self.claims.remove(&key),
        };
    }
    pub fn set_class(&mut self, name: &str, class: Option<&k8s::DeviceClass>) {
        match class {
            Some(class) => self
                .classes
                .insert(name.to_owned(), Arc::new(class.clone())),
            None => self.classes.remove(name),
        };
    }
    pub fn set_slice(&mut self, name: &str, slice: Option<&k8s::ResourceSlice>) {
        match slice {
            Some(slice) => self
                .slices
                .insert(name.to_owned(), Arc::new(Slice::read(slice))),
            None => self.slices.remove(name),
        };
    }

    /// All slices, by their pools.
    pub fn pools(&self) -> Slices<'_> {
        Slices::of(self.slices.values().map(|s| &**s))
    }

    /// What was found for a claim and is not in the API yet.
    pub fn pending(&self, claim: &str) -> Option<&Pending> {
        self.pending.iter().find(|p| *p.claim == *claim)
    }
    pub fn pending_of<'a>(&'a self, pod: &'a str) -> impl Iterator<Item = &'a Pending> {
        self.pending.iter().filter(move |p| *p.pod == *pod)
    }
    pub fn reserve(&mut self, pending: Pending) {
        self.pending.push(pending);
    }
    pub fn release(&mut self, pod: &str) {
        self.pending.retain(|p| *p.pod != *pod);
    }

    /// What is taken, in the API or by decision.
    pub fn allocated(&self) -> Allocated {
        let mut out = Allocated::default();
        let claims = self.claims.values();
        let written = claims.filter_map(|c| c.status.as_ref()?.allocation.as_ref());
        let pending = self.pending.iter().filter(|p| {
            let known = self.claim(&p.claim).and_then(|c| c.status.as_ref());
            known.is_none_or(|s| s.allocation.is_none())
        });
        for allocation in written.chain(pending.map(|p| &*p.allocation)) {
            let devices = allocation.devices.as_ref();
            for result in devices.iter().flat_map(|d| d.results.iter().flatten()) {
                out.add(result);
            }
        }
        out
    }
}

impl Allocated {
    fn add(&mut self, result: &k8s::DeviceRequestAllocationResult) {
        // Who looks at a device as an administrator does not take it.
        if result.admin_access == Some(true) {
            return;
        }
        let id = DeviceId {
            driver: result.driver.as_str().into(),
            pool: result.pool.as_str().into(),
            device: result.device.as_str().into(),
        };
        if result.share_id.is_none() {
            self.devices.insert(id);
            return;
        }
        let sums = self.capacity.entry(id).or_default();
        for (name, amount) in result.consumed_capacity.iter().flatten() {
            let sum = sums.entry(name.clone()).or_default();
            *sum = *sum + slices::quantity(amount);
        }
    }
}

/// The devices of an allocation.
pub fn results(
    claim: &k8s::ResourceClaim,
) -> impl Iterator<Item = &k8s::DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let devices = allocation.and_then(|a| a.devices.as_ref());
    devices.into_iter().flat_map(|d| d.results.iter().flatten())
}

pub fn is_allocated(claim: &k8s::ResourceClaim) -> bool {
    let status = claim.status.as_ref();
    status.is_some_and(|s| s.allocation.is_some())
}

/// Whether a pod is among those that the claim is reserved for.
pub fn is_reserved_for(claim: &k8s::ResourceClaim, pod: &str) -> bool {
    let status = claim.status.as_ref();
    let mut users = status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    users.any(|u| u.uid == pod)
}

/// Whether the devices are ready for a pod to be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    Ready,
    Waits,
    Failed(String),
}

/// What the conditions of a claim's devices say of their binding.
pub fn binding(claim: &k8s::ResourceClaim) -> Binding {
    if !is_allocated(claim) {
        return Binding::Waits;
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let mut out = Binding::Ready;
    for result in results(claim) {
        let Some(wanted) = result.binding_conditions.as_ref().filter(|c| !c.is_empty()) else {
            continue;
        };
        let status = claim.status.as_ref();
        let mut reported = status.iter().flat_map(|s| s.devices.iter().flatten());
        let device = reported.find(|d| {
            d.device == result.device && d.driver == result.driver && d.pool == result.pool
        });
        let conditions = || {
            let conditions = device.and_then(|d| d.conditions.as_ref());
            conditions.into_iter().flatten()
        };
        let holds = |kind: &String| conditions().find(|c| c.type_ == *kind && c.status == "True");
        let failures = result.binding_failure_conditions.iter().flatten();
        if let Some(failed) = failures.into_iter().find_map(holds) {
            return Binding::Failed(format!(
                "device binding failed: claim={name}, reason={}, message={:?}",
                failed.reason, failed.message
            ));
        }
        if wanted.iter().any(|kind| holds(kind).is_none()) {
            out = Binding::Waits;
        }
    }
    out
}
