//! The pools of devices that a node reaches: of each the newest generation, whether all of it is
//! there, and whether it makes sense.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::slices::{Counters, Device, DeviceId, Slice};
use crate::node::Node;

/// A pool as one node sees it.
#[derive(Debug)]
pub struct Pool<'a> {
    pub driver: Arc<str>,
    pub name: Arc<str>,
    /// Its slices of devices that concern the node, by name.
    pub slices: Vec<&'a Slice>,
    /// Its other slices, whose devices use its counters, too.
    pub others: Vec<&'a Slice>,
    pub counters: Counters,
    /// Not all of its slices are there.
    pub incomplete: bool,
    /// What in it makes no sense.
    pub invalid: Option<String>,
}

impl Pool<'_> {
    pub fn usable(&self) -> bool {
        !self.incomplete && self.invalid.is_none()
    }

    /// All devices whose counters are of this pool.
    pub fn all_devices(&self) -> impl Iterator<Item = (DeviceId, &Device)> {
        let slices = self.slices.iter().chain(&self.others);
        slices.flat_map(|s| s.devices.iter().map(|d| (s.id(d), d)))
    }

    fn binds(&self) -> bool {
        let mut devices = self.slices.iter().flat_map(|s| &s.devices);
        devices.any(|d| d.binding.is_some())
    }
}

type Id = (Arc<str>, Arc<str>);

/// All slices, by pool.
#[derive(Debug, Default)]
pub struct Slices<'a>(BTreeMap<Id, Vec<&'a Slice>>);

impl<'a> Slices<'a> {
    pub fn of(slices: impl Iterator<Item = &'a Slice>) -> Self {
        let mut by_pool: BTreeMap<Id, Vec<&Slice>> = BTreeMap::new();
        for slice in slices {
            let id = (slice.driver.clone(), slice.pool.clone());
            by_pool.entry(id).or_default().push(slice);
        }
        for slices in by_pool.values_mut() {
            slices.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Self(by_pool)
    }

    /// The pools that a node reaches, in the order in which devices are taken: by name, those last
    /// whose devices have to be bound first.
    pub fn on(&self, node: &Node) -> Vec<Pool<'a>> {
        let mut pools: Vec<Pool<'a>> = self
            .0
            .iter()
            .filter_map(|(id, slices)| pool(id, slices, node))
            .collect();
        pools.sort_by_key(Pool::binds);
        pools
    }
}

fn pool<'a>(id: &Id, all: &[&'a Slice], node: &Node) -> Option<Pool<'a>> {
    let concerning = || all.iter().copied().filter(|s| s.concerns(node));
    let generation = concerning().map(|s| s.generation).max()?;
    // A newer generation that does not concern the node replaces what it had.
    if all.iter().any(|s| s.generation > generation) {
        return None;
    }
    let current: Vec<&Slice> = concerning()
        .filter(|s| s.generation == generation)
        .collect();
    let whole = all.iter().copied().filter(|s| s.generation == generation);
    let whole: Vec<&Slice> = whole.collect();
    let count = current.first().map_or(0, |s| s.count);
    let mut pool = Pool {
        driver: id.0.clone(),
        name: id.1.clone(),
        slices: Vec::new(),
        others: Vec::new(),
        counters: Counters::new(),
        incomplete: i64::try_from(whole.len()) != Ok(count),
        invalid: None,
    };
    if pool.incomplete {
        return Some(pool);
    }
    let mut sets: BTreeSet<&str> = BTreeSet::new();
    for slice in &current {
        let Some(counters) = &slice.counters else {
            pool.slices.push(slice);
            continue;
        };
        let own: BTreeSet<&str> = counters.keys().map(|(set, _)| set.as_str()).collect();
        let twice = own.iter().find(|set| sets.contains(*set)).copied();
        if let Some(set) = twice.or(slice.doubled_set.as_deref()) {
            pool.invalid = Some(format!("duplicate counter set name {set}"));
        }
        sets.extend(own);
        pool.counters.extend(counters.clone());
    }
    pool.others = whole
        .into_iter()
        .filter(|s| s.counters.is_none() && !current.iter().any(|c| std::ptr::eq(*c, *s)))
        .collect();
    if pool.invalid.is_none() {
        pool.invalid = wrong(&pool);
    }
    Some(pool)
}

/// What in a pool makes no sense.
fn wrong(pool: &Pool<'_>) -> Option<String> {
    let mut names = BTreeSet::new();
    for device in pool.slices.iter().flat_map(|s| &s.devices) {
        if !names.insert(&device.name) {
            return Some(format!("duplicate device name {}", device.name));
        }
    }
    for (_, device) in pool.all_devices() {
        for (set, counter) in device.consumes.keys() {
            if !pool.counters.keys().any(|(s, _)| s == set) {
                return Some(format!("counter set {set} not found"));
            }
            if !pool.counters.contains_key(&(set.clone(), counter.clone())) {
                return Some(format!("counter {counter} not found in counter set {set}"));
            }
        }
    }
    None
}
