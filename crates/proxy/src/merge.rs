//! The desired table as the sum of what each Service accounts for, kept up to date piece by piece.
//!
//! A change of one Service touches only its own chains and elements: that is what makes a change
//! among thousands of Services cheap. Where two Services claim the same element (the same external
//! address and port), the one whose name sorts first has it.

use std::collections::BTreeMap;
use std::mem;

use host::nft::{Dirty, Key, Ruleset, Set, SetKind, Value};

use crate::model::Name;
use crate::rules::{Fragment, Node, frame};

/// The desired table, and what of it changed since it was last asked.
#[derive(Debug, Clone)]
pub struct Desired {
    ruleset: Ruleset,
    fragments: BTreeMap<Name, Fragment>,
    claims: BTreeMap<(&'static str, Key), BTreeMap<Name, Value>>,
    dirty: Dirty,
}

impl Desired {
    /// The table without any Service.
    pub fn new(node: &Node) -> Self {
        Self {
            ruleset: frame(node),
            fragments: BTreeMap::new(),
            claims: BTreeMap::new(),
            dirty: Dirty::default(),
        }
    }

    /// The whole table.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// What changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        mem::take(&mut self.dirty)
    }

    /// Replaces what a Service accounts for; says whether that changed anything.
    pub fn set(&mut self, name: &Name, new: Fragment) -> bool {
        let old = self.fragments.remove(name).unwrap_or_default();
        let changed = old != new;
        if changed {
            self.chains(&old, &new);
            self.affinity_maps(&old, &new);
            for ((set, key), value) in &old.elements {
                if new.elements.get(&(*set, key.clone())) != Some(value) {
                    self.claim(set, key, name, None);
                }
            }
            for ((set, key), value) in &new.elements {
                if old.elements.get(&(*set, key.clone())) != Some(value) {
                    self.claim(set, key, name, Some(value.clone()));
                }
            }
        }
        if new != Fragment::default() {
            self.fragments.insert(name.clone(), new);
        }
        changed
    }

    fn chains(&mut self, old: &Fragment, new: &Fragment) {
        for name in old
            .chains
            .keys()
            .filter(|name| !new.chains.contains_key(*name))
        {
            self.ruleset.chains.remove(name);
            self.dirty.chains.insert(name.clone());
        }
        for (name, chain) in &new.chains {
            if old.chains.get(name) != Some(chain) {
                self.ruleset.chains.insert(name.clone(), chain.clone());
                self.dirty.chains.insert(name.clone());
            }
        }
    }

    fn affinity_maps(&mut self, old: &Fragment, new: &Fragment) {
        for name in old.affinity_maps.difference(&new.affinity_maps) {
            self.ruleset.sets.remove(name);
            self.dirty.sets.insert(name.clone());
        }
        for name in new.affinity_maps.difference(&old.affinity_maps) {
            self.ruleset
                .sets
                .insert(name.clone(), Set::new(SetKind::Affinity));
            self.dirty.sets.insert(name.clone());
        }
    }

    fn claim(&mut self, set: &'static str, key: &Key, owner: &Name, value: Option<Value>) {
        let claims = self.claims.entry((set, key.clone())).or_default();
        match value {
            Some(value) => claims.insert(owner.clone(), value),
            None => claims.remove(owner),
        };
        let winner = claims.values().next().cloned();
        if winner.is_none() {
            self.claims.remove(&(set, key.clone()));
        }
        if let Some(set) = self.ruleset.sets.get_mut(set) {
            match winner {
                Some(value) => set.elements.insert(key.clone(), value),
                None => set.elements.remove(key),
            };
        }
        self.dirty.elements.insert((set.to_owned(), key.clone()));
    }
}
