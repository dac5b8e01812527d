//! Which devices there are, by resource. Without I/O but for the list of resources that are known,
//! which a kubelet that starts again must not take for something that people declared.

use crate::checkpoint;
use crate::topology::nodes::Nodes;
use clock::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// How long the devices of a plugin that is gone still count as there, though none can be had;
/// upstream's value.
const STAYS: Duration = Duration::from_secs(300);
/// The file with the names of all resources that plugins ever had here.
const FILE: &str = "resources.json";

/// How many devices of a resource there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// In all.
    pub capacity: u64,
    /// That are healthy.
    pub allocatable: u64,
}

/// One device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub healthy: bool,
    /// The NUMA nodes that it is at; none where its plugin does not say.
    pub nodes: Nodes,
}

/// One resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resource {
    devices: BTreeMap<String, Device>,
    /// Since when its plugin is gone.
    gone: Option<Instant>,
}

/// All resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stock(BTreeMap<String, Resource>);

impl Stock {
    /// The resources that an earlier kubelet knew, without devices.
    pub(super) fn known(folder: &Path) -> Self {
        let read = checkpoint::load(folder, FILE).inspect_err(|error| {
            tracing::warn!(%error, "which resources plugins had cannot be read");
        });
        let names: BTreeSet<String> = read.ok().flatten().unwrap_or_default();
        Self(
            names
                .into_iter()
                .map(|n| (n, Resource::default()))
                .collect(),
        )
    }

    /// Adds a resource, and notes that it is known.
    pub(super) fn add(&mut self, resource: &str, folder: &Path) {
        let known = self.0.contains_key(resource);
        self.0.entry(resource.to_owned()).or_default().gone = None;
        if known {
            return;
        }
        let names: BTreeSet<&String> = self.0.keys().collect();
        if let Err(e) = checkpoint::save(folder, FILE, &names) {
            tracing::warn!(resource, error = %e, "a resource of a plugin cannot be noted");
        }
    }

    /// A plugin's list, whole.
    pub(super) fn set(&mut self, resource: &str, devices: BTreeMap<String, Device>) {
        let entry = self.0.entry(resource.to_owned()).or_default();
        *entry = Resource {
            devices,
            gone: None,
        };
    }

    /// The plugin is gone: nobody says any more that a device is healthy.
    pub(super) fn lose(&mut self, resource: &str, now: Instant) {
        if let Some(entry) = self.0.get_mut(resource) {
            entry
                .devices
                .values_mut()
                .for_each(|device| device.healthy = false);
            entry.gone = Some(now);
        }
    }

    /// Whether a plugin has, or had, the resource.
    pub(super) fn has(&self, resource: &str) -> bool {
        self.0.contains_key(resource)
    }

    pub(super) fn healthy(&self, resource: &str) -> BTreeSet<String> {
        let devices = self.0.get(resource).into_iter().flat_map(|r| &r.devices);
        devices
            .filter(|(_, device)| device.healthy)
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub(super) fn is_healthy(&self, resource: &str, id: &str) -> bool {
        let resource = self.0.get(resource);
        resource
            .and_then(|r| r.devices.get(id))
            .is_some_and(|device| device.healthy)
    }

    /// All devices of a resource.
    pub(super) fn devices(&self, resource: &str) -> BTreeMap<String, Device> {
        let of = self.0.get(resource);
        of.map(|r| r.devices.clone()).unwrap_or_default()
    }

    pub(super) fn amounts(&self, now: Instant) -> BTreeMap<String, Amount> {
        let each = |(name, resource): (&String, &Resource)| {
            let over = resource
                .gone
                .is_some_and(|at| now.duration_since(at) >= STAYS);
            let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            let amount = if over {
                Amount::default()
            } else {
                Amount {
                    capacity: count(resource.devices.len()),
                    allocatable: count(resource.devices.values().filter(|d| d.healthy).count()),
                }
            };
            (name.clone(), amount)
        };
        self.0.iter().map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_stay_for_a_while_when_their_plugin_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut stock = Stock::known(dir.path());
        stock.add("x.io/d", dir.path());
        let device = |healthy| Device {
            healthy,
            ..Device::default()
        };
        let both = [("a".into(), device(true)), ("b".into(), device(false))];
        stock.set("x.io/d", both.into());
        let now = Instant::now();
        let amount = |stock: &Stock, now| {
            let all = stock.amounts(now);
            (all["x.io/d"].capacity, all["x.io/d"].allocatable)
        };
        assert_eq!(amount(&stock, now), (2, 1));
        assert!(stock.is_healthy("x.io/d", "a") && !stock.is_healthy("x.io/d", "b"));
        stock.lose("x.io/d", now);
        assert_eq!(amount(&stock, now), (2, 0));
        assert_eq!(amount(&stock, now + STAYS), (0, 0));
        // The next kubelet knows whose it is.
        let next = Stock::known(dir.path());
        assert!(next.has("x.io/d") && !next.has("y.io/d"));
        assert_eq!(amount(&next, now), (0, 0));
    }
}
