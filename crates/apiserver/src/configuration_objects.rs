//! Objects by which the server is configured (webhooks, policies and their bindings, flow schemas
//! and priority levels), kept by the cache as it shows them, so that a request that nothing applies to costs a look at a number.
//! What they mean, others compile, once for each change ([`Compiled`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use registry::Row;
use serde_json::Value;

use crate::cache::{Object, Observe};

pub const GROUP: &str = "admissionregistration.k8s.io";

/// The objects that admission, and the order of requests, follow from.
#[derive(Default)]
pub struct Configurations {
    pub mutating_webhooks: ObjectsByName,
    pub validating_webhooks: ObjectsByName,
    pub validating_policies: ObjectsByName,
    pub validating_bindings: ObjectsByName,
    pub mutating_policies: ObjectsByName,
    pub mutating_bindings: ObjectsByName,
    pub flow_schemas: ObjectsByName,
    pub priority_levels: ObjectsByName,
}

/// The objects of one resource.
#[derive(Default)]
pub struct ObjectsByName {
    by_name: Mutex<BTreeMap<String, Arc<Value>>>,
    /// Counts changes.
    changes: AtomicU64,
}

impl ObjectsByName {
    /// The number of the latest change.
    pub fn change(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// All objects by their names, in order; one that did not change is the same as before.
    pub fn all(&self) -> Vec<Arc<Value>> {
        self.by_name.lock().values().cloned().collect()
    }

    fn set(&self, name: &str, object: Option<&Object>) {
        let mut all = self.by_name.lock();
        match object {
            Some(object) => all.insert(name.to_owned(), Arc::new(object.to_value())),
            None => all.remove(name),
        };
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Puts in an object, for tests.
    #[cfg(test)]
    pub(crate) fn put(&self, object: &Value) {
        let name = crate::object::meta_text(object, "name").to_owned();
        self.by_name.lock().insert(name, Arc::new(object.clone()));
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Takes out an object, for tests.
    #[cfg(test)]
    pub(crate) fn remove(&self, name: &str) {
        self.by_name.lock().remove(name);
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn clear(&self) {
        self.by_name.lock().clear();
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl Configurations {
    fn of(&self, row: &Row) -> Option<&ObjectsByName> {
        if *row.group == *flowcontrol::GROUP {
            return match &*row.resource {
                "flowschemas" => Some(&self.flow_schemas),
                "prioritylevelconfigurations" => Some(&self.priority_levels),
                _ => None,
            };
        }
        if *row.group != *GROUP {
            return None;
        }
        Some(match &*row.resource {
            "mutatingwebhookconfigurations" => &self.mutating_webhooks,
            "validatingwebhookconfigurations" => &self.validating_webhooks,
            "validatingadmissionpolicies" => &self.validating_policies,
            "validatingadmissionpolicybindings" => &self.validating_bindings,
            "mutatingadmissionpolicies" => &self.mutating_policies,
            "mutatingadmissionpolicybindings" => &self.mutating_bindings,
            _ => return None,
        })
    }

    fn each(&self) -> [&ObjectsByName; 8] {
        [
            &self.mutating_webhooks,
            &self.validating_webhooks,
            &self.validating_policies,
            &self.validating_bindings,
            &self.mutating_policies,
            &self.mutating_bindings,
            &self.flow_schemas,
            &self.priority_levels,
        ]
    }
}

impl Observe for Configurations {
    fn replaced(&self, all: &[(&Row, &Object)]) {
        self.each().iter().for_each(|kept| kept.clear());
        for (row, object) in all {
            if let Some(kept) = self.of(row) {
                kept.set(object.name(), Some(object));
            }
        }
    }

    fn changed(&self, row: &Row, old: Option<&Object>, new: Option<&Object>) {
        if let Some(kept) = self.of(row)
            && let Some(object) = new.or(old)
        {
            kept.set(object.name(), new);
        }
    }
}

/// What was made of kept objects, until they change.
pub struct Compiled<T> {
    made: ArcSwapOption<(u64, T)>,
    making: Mutex<()>,
}

impl<T> Default for Compiled<T> {
    fn default() -> Self {
        Self {
            made: ArcSwapOption::empty(),
            making: Mutex::default(),
        }
    }
}

impl<T> Compiled<T> {
    /// What `make` makes; it gets what was made before, and runs once for each change (whose number
    /// is the sum of those of all that it is made from).
    pub fn get(&self, change: u64, make: impl FnOnce(Option<&T>) -> T) -> Arc<(u64, T)> {
        if let Some(made) = &*self.made.load()
            && made.0 == change
        {
            return made.clone();
        }
        let _making = self.making.lock();
        let before = self.made.load_full();
        match before {
            // Somebody else was faster.
            Some(made) if made.0 >= change => made,
            before => {
                let made = Arc::new((change, make(before.as_deref().map(|(_, made)| made))));
                self.made.store(Some(made.clone()));
                made
            }
        }
    }
}

/// Two observers as one, in order.
pub struct Both<A, B>(pub Arc<A>, pub Arc<B>);

impl<A: Observe, B: Observe> Observe for Both<A, B> {
    fn replaced(&self, all: &[(&Row, &Object)]) {
        self.0.replaced(all);
        self.1.replaced(all);
    }
    fn changed(&self, row: &Row, old: Option<&Object>, new: Option<&Object>) {
        self.0.changed(row, old, new);
        self.1.changed(row, old, new);
    }
}
