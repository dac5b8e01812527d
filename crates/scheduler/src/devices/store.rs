//! Claims, classes and slices of devices, what was decided about them and is not in the API yet, and
//! what of it all is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::resource::v1 as k8s;

use super::capacity::Amounts;
use super::extended::{ANNOTATION, ExtendedClaim};
use super::pools::Slices;
use super::selectors::Compiled;
use super::slices::{DeviceId, Slice, quantity};

/// Devices that were found for a claim of a pod.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The pod's UID.
    pub pod: Arc<str>,
    /// Namespace and name of the claim.
    pub claim: Arc<str>,
    pub allocation: Arc<k8s::AllocationResult>,
    /// The claim, where it is yet to be made: that of the pod's extended resources.
    pub made: Option<Arc<ExtendedClaim>>,
}

/// Each class stands for a resource of this prefix and its own name.
const IMPLICIT_RESOURCE: &str = "deviceclass.resource.kubernetes.io/";

/// Everything about devices; claims by `namespace/name`, the rest by name.
#[derive(Default)]
pub struct Devices {
    claims: BTreeMap<Arc<str>, Arc<k8s::ResourceClaim>>,
    classes: BTreeMap<String, Arc<k8s::DeviceClass>>,
    slices: BTreeMap<String, Arc<Slice>>,
    pending: Vec<Pending>,
    compiled: Compiled,
}

impl Devices {
    pub fn claim(&self, key: &str) -> Option<&Arc<k8s::ResourceClaim>> {
        self.claims.get(key)
    }
    pub fn class(&self, name: &str) -> Option<&Arc<k8s::DeviceClass>> {
        self.classes.get(name)
    }
    /// The class that stands for an extended resource; of several that say so the newest, and of those
    /// that are as new the first by name.
    pub fn class_of_resource(&self, resource: &str) -> Option<&Arc<k8s::DeviceClass>> {
        if let Some(name) = resource.strip_prefix(IMPLICIT_RESOURCE) {
            return self.class(name);
        }
        let named = |class: &&Arc<k8s::DeviceClass>| {
            class.spec.extended_resource_name.as_deref() == Some(resource)
        };
        // The first by name comes last, since the last of those that are as new counts.
        let all = self.classes.values().rev().filter(named);
        all.max_by_key(|class| class.metadata.creation_timestamp.as_ref().map(|t| t.0))
    }
    /// The claim that was made for a pod's extended resources.
    pub fn made_for(&self, namespace: &str, uid: &str) -> Option<&Arc<k8s::ResourceClaim>> {
        self.claims.values().find(|claim| {
            let meta = &claim.metadata;
            let mark = meta.annotations.as_ref().and_then(|a| a.get(ANNOTATION));
            let mut owners = meta.owner_references.iter().flatten();
            mark.is_some_and(|m| m == "true")
                && meta.namespace.as_deref() == Some(namespace)
                && owners.any(|o| o.controller == Some(true) && o.uid == uid)
        })
    }
    pub(super) fn compiled(&self) -> &Compiled {
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
            *sum = *sum + quantity(amount);
        }
    }
}

/// What is taken already.
#[derive(Debug, Default)]
pub struct Allocated {
    pub devices: BTreeSet<DeviceId>,
    /// Of devices that several may have.
    pub capacity: BTreeMap<DeviceId, Amounts>,
}

impl Allocated {
    pub(super) fn has(&self, id: &DeviceId) -> bool {
        self.devices.contains(id) || self.capacity.contains_key(id)
    }
}
