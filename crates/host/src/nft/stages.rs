//! Into which transactions a change is divided, so that no packet meets half of it: pure.
//!
//! The kernel keeps a packet at the rules of the moment in which it enters a base chain, while each
//! of its look-ups sees the elements of its own moment. So a look-up may lead a packet into a chain
//! that is younger than the packet is: that chain has no rules for it. And rules that are gone may
//! still be run by a packet, and look into sets that are gone, too. Therefore what nothing leads to
//! yet is made before something leads there, and what nothing leads to any more is left for a
//! while. Where look-ups follow each other, elements of sets that stay may have to be left, too: that is
//! for the owner of the table to say.

use std::collections::BTreeMap;
use std::mem;

use super::plan::{Delta, Dirty, diff, diff_part};
use super::{Installed, Key, Ruleset, Table, Value};

/// How the changes of a table are divided.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// Whether elements of a set that stays go only when no packet is under way any more that came
    /// before the change. All others go with it; what gets another value gets it at once.
    pub lingers: fn(set: &str) -> bool,
    /// New chains are made before anything leads there, whatever changes. Otherwise only where
    /// something has led elsewhere: where nothing did, an empty chain is as good as none.
    pub chains_first: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            lingers: |_| false,
            chains_first: false,
        }
    }
}

/// Divides the changes of a table.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    order: Order,
    /// What was left for packets under way: since the last look, and since the one before.
    left: [Dirty; 2],
}

impl Stages {
    /// In this order, with nothing left yet.
    pub fn new(order: Order) -> Self {
        let left = Default::default();
        Self { order, left }
    }

    /// The transactions, in their order, that lead to what is desired, of which only `dirty` may
    /// differ from what is installed; anything, if it is not given.
    pub fn change(
        &mut self,
        table: &Table,
        installed: &Installed,
        desired: &Ruleset,
        dirty: Option<&Dirty>,
    ) -> Vec<Delta> {
        let delta = match dirty {
            Some(dirty) => match returned(installed, desired, dirty) {
                Some(dirty) => diff_part(table, installed, desired, &dirty),
                None => diff_part(table, installed, desired, dirty),
            },
            None => diff(table, installed, desired),
        };
        let (stages, later) = delta.stages(&self.order, &self.left);
        for left in &mut self.left {
            // What is wanted again may be led to from now on.
            left.chains
                .retain(|name| !desired.chains.contains_key(name));
            left.sets.retain(|name| !desired.sets.contains_key(name));
        }
        self.left[0].extend(later);
        stages
    }

    /// What was left before the last call goes now: packets that could meet it are gone.
    pub fn clear(&mut self, table: &Table, installed: &Installed, desired: &Ruleset) -> Delta {
        let fresh = mem::take(&mut self.left[0]);
        let mut old = mem::replace(&mut self.left[1], fresh);
        let fresh = &self.left[1];
        // It was wanted in between, and left again.
        old.chains.retain(|name| !fresh.chains.contains(name));
        old.sets.retain(|name| !fresh.sets.contains(name));
        old.elements.retain(|(set, key)| {
            !fresh.sets.contains(set) && !fresh.elements.contains(&(set.clone(), key.clone()))
        });
        diff_part(table, installed, desired, &old)
    }

    /// What is installed differs from what is desired, and is not only left.
    pub fn strange(&self, table: &Table, installed: &Installed, desired: &Ruleset) -> Delta {
        let mut delta = diff(table, installed, desired);
        delta.leave(&self.left);
        delta
    }
}

/// What may differ besides: all of sets that are wanted again before they went.
fn returned(installed: &Installed, desired: &Ruleset, dirty: &Dirty) -> Option<Dirty> {
    let wanted = dirty.sets.iter().filter(|s| desired.sets.contains_key(*s));
    let mut back = wanted.filter_map(|name| Some((name, installed.sets.get(name)?)));
    let first = back.next()?;
    let mut all = dirty.clone();
    for (name, set) in std::iter::once(first).chain(back) {
        let keys = set.elements.keys();
        all.elements
            .extend(keys.map(|key| (name.clone(), key.clone())));
    }
    Some(all)
}

impl Delta {
    /// The transactions in their order, and what is to be looked at again later: it goes then.
    /// `left` is what an earlier change has left, which nothing leads to.
    fn stages(mut self, order: &Order, left: &[Dirty]) -> (Vec<Delta>, Dirty) {
        if self.rebuild || self.create_table {
            return (vec![self], Dirty::default());
        }
        let later = self.postpone(order);
        let mut before = self.prepared(left);
        if !order.chains_first && !self.leads_elsewhere() {
            self.absorb(mem::take(&mut before));
        }
        let all = [before, self].into_iter();
        (all.filter(|delta| !delta.is_empty()).collect(), later)
    }

    /// Takes out what is only removed, and that packets may still look at.
    fn postpone(&mut self, order: &Order) -> Dirty {
        let mut later = Dirty {
            sets: mem::take(&mut self.remove_sets),
            ..Dirty::default()
        };
        // Packets enter the others.
        let chains = mem::take(&mut self.remove_chains);
        let (hooked, chains) = chains.into_iter().partition(|(_, hooked)| *hooked);
        self.remove_chains = hooked;
        let chains: BTreeMap<String, bool> = chains;
        later.chains = chains.into_keys().collect();
        for (set, elements) in &mut self.remove_elements {
            let added = self.add_elements.get(set);
            if later.sets.contains(set) || (order.lingers)(set) {
                let goes = |key: &Key| !added.is_some_and(|added| added.contains_key(key));
                let keys = elements.keys().filter(|key| goes(key));
                let keys: Vec<Key> = keys.cloned().collect();
                elements.retain(|key, _| !goes(key));
                later
                    .elements
                    .extend(keys.into_iter().map(|key| (set.clone(), key)));
            }
        }
        self.remove_elements.retain(|_, keys| !keys.is_empty());
        later
    }

    /// Takes out what nothing leads to yet.
    fn prepared(&mut self, left: &[Dirty]) -> Delta {
        let is_left = |name: &String| left.iter().any(|left| left.chains.contains(name));
        let set_is_left = |name: &String| left.iter().any(|left| left.sets.contains(name));
        let mut before = Delta {
            add_sets: mem::take(&mut self.add_sets),
            ..Delta::default()
        };
        let chains = mem::take(&mut self.add_chains).into_iter();
        (self.add_chains, before.add_chains) = chains.partition(|(_, c)| c.hook.is_some());
        let fill = mem::take(&mut self.fill).into_iter();
        (before.fill, self.fill) =
            fill.partition(|(name, _)| before.add_chains.contains_key(name) || is_left(name));
        let is_new = |name: &String| before.add_sets.contains_key(name) || set_is_left(name);
        let elements = mem::take(&mut self.add_elements).into_iter();
        (before.add_elements, self.add_elements) = elements.partition(|(set, _)| is_new(set));
        let elements = mem::take(&mut self.remove_elements).into_iter();
        (before.remove_elements, self.remove_elements) = elements.partition(|(set, _)| is_new(set));
        before
    }

    /// Whether a packet is led elsewhere than before, or by another map.
    fn leads_elsewhere(&self) -> bool {
        let leads = |value: &Value| matches!(value, Value::Verdict(_) | Value::Number(_));
        let mut removed = self.remove_elements.values().flat_map(BTreeMap::values);
        removed.any(leads)
    }

    /// Adds what another one changes, of other things.
    fn absorb(&mut self, other: Delta) {
        self.add_sets.extend(other.add_sets);
        self.remove_sets.extend(other.remove_sets);
        self.add_chains.extend(other.add_chains);
        self.fill.extend(other.fill);
        self.remove_chains.extend(other.remove_chains);
        for (set, elements) in other.remove_elements {
            self.remove_elements
                .entry(set)
                .or_default()
                .extend(elements);
        }
        for (set, elements) in other.add_elements {
            self.add_elements.entry(set).or_default().extend(elements);
        }
    }

    /// Leaves out what is known to go later.
    fn leave(&mut self, left: &[Dirty]) {
        for left in left {
            self.remove_sets.retain(|set| !left.sets.contains(set));
            self.remove_chains
                .retain(|name, _| !left.chains.contains(name));
            for (set, keys) in &mut self.remove_elements {
                let goes = |key: &Key| left.elements.contains(&(set.clone(), key.clone()));
                keys.retain(|key, _| !left.sets.contains(set) && !goes(key));
            }
        }
        self.remove_elements.retain(|_, keys| !keys.is_empty());
    }
}

#[cfg(test)]
mod tests;
