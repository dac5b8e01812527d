//! Devices that pods claim: claims, classes, slices, and what was decided about them and is not in the
//! API yet. Which devices a claim gets is found by [`allocate`].

pub mod allocate;
mod capacity;
pub mod extended;
pub mod pools;
pub mod requests;
mod result;
mod selectors;
mod slices;
mod store;
#[cfg(test)]
mod tests;

use k8s_openapi::api::resource::v1 as k8s;

pub use allocate::{Failure, Matches, allocate};
pub use extended::ExtendedClaim;
pub use pools::Slices;
pub use requests::WantedClaim;
pub use result::allocation;
pub use slices::{DeviceId, Slice};
pub use store::{Allocated, Devices, Pending};

/// Says that a claim has devices: the object stays until they are given back.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

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
