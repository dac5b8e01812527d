//! The desired table as the sum of what each Service accounts for, kept up to date piece by piece.
//!
//! A change of one Service touches only its own chains and elements: that is what makes a change
//! among thousands of Services cheap. Where two Services claim the same element (the same external
//! address and port), the one whose name sorts first has it.

use std::collections::BTreeMap;
use std::mem;
use std::net::SocketAddr;

use host::nft::{Chain, Dirty, Installed, Key, Ruleset, Set, SetKind, Value};

use crate::model::Name;
use crate::rules::{Fragment, Node, frame};
use crate::turns::Turns;
use crate::unallocated::UNALLOCATED;

/// A table's content, and what of it changed since it was last asked.
#[derive(Debug, Clone, Default)]
pub struct Content {
    ruleset: Ruleset,
    dirty: Dirty,
}

impl Content {
    /// Sets or removes a chain.
    pub fn chain(&mut self, name: &str, chain: Option<Chain>) {
        match chain {
            Some(chain) => self.ruleset.chains.insert(name.to_owned(), chain),
            None => self.ruleset.chains.remove(name),
        };
        self.dirty.chains.insert(name.to_owned());
    }

    /// Sets or removes an element of a set that there is.
    pub fn element(&mut self, set: &str, key: Key, value: Option<Value>) {
        self.dirty.element(&mut self.ruleset, set, key, value);
    }

    /// Makes a set unless it is there.
    pub fn need_set(&mut self, name: &str, kind: SetKind) {
        if !self.ruleset.sets.contains_key(name) {
            self.set(name, Some(Set::new(kind)));
        }
    }

    fn set(&mut self, name: &str, set: Option<Set>) {
        match set {
            Some(set) => self.ruleset.sets.insert(name.to_owned(), set),
            None => self.ruleset.sets.remove(name),
        };
        self.dirty.sets.insert(name.to_owned());
    }
}

/// What several Services claim, by their names: the first has it.
type Claims<K, V> = BTreeMap<K, BTreeMap<Name, V>>;

/// Notes what a Service claims now; gives what holds then.
fn claim<K: Ord + Clone, V: Clone>(
    claims: &mut Claims<K, V>,
    key: K,
    owner: &Name,
    value: Option<V>,
) -> Option<V> {
    let claimed = claims.entry(key.clone()).or_default();
    match value {
        Some(value) => claimed.insert(owner.clone(), value),
        None => claimed.remove(owner),
    };
    let winner = claimed.values().next().cloned();
    if winner.is_none() {
        claims.remove(&key);
    }
    winner
}

/// The desired table, and what of it changed since it was last asked.
#[derive(Debug, Clone)]
pub struct Desired {
    content: Content,
    fragments: BTreeMap<Name, Fragment>,
    claims: Claims<(&'static str, Key), Value>,
    claimed_turns: Claims<Key, Vec<SocketAddr>>,
    turns: Turns,
}

impl Desired {
    /// The table without any Service.
    pub fn new(node: &Node) -> Self {
        Self {
            content: Content {
                ruleset: frame(node),
                dirty: Dirty::default(),
            },
            fragments: BTreeMap::new(),
            claims: BTreeMap::new(),
            claimed_turns: BTreeMap::new(),
            turns: Turns::default(),
        }
    }

    /// Takes over what an earlier run left in the kernel, as far as it can serve here; before the
    /// first Service.
    pub fn adopt(&mut self, installed: &Installed) {
        self.turns.adopt(&mut self.content, installed);
    }

    /// All Services that there are have been set once.
    pub fn settle(&mut self) {
        self.turns.settle();
    }

    /// Makes what a next change may need.
    pub fn make_ready(&mut self) {
        self.turns.make_ready(&mut self.content);
    }

    /// Removes what no next change may need.
    pub fn remove_unused(&mut self) {
        self.turns.remove_unused(&mut self.content);
    }

    /// The whole table.
    pub fn ruleset(&self) -> &Ruleset {
        &self.content.ruleset
    }

    /// What changed since the last call: for one transaction.
    pub fn take_dirty(&mut self) -> Dirty {
        self.turns.end_transaction();
        mem::take(&mut self.content.dirty)
    }

    /// Replaces the chain for addresses of Services that no Service has.
    pub fn set_unallocated(&mut self, chain: Chain) {
        if self.content.ruleset.chains.get(UNALLOCATED) != Some(&chain) {
            self.content.chain(UNALLOCATED, Some(chain));
        }
    }

    /// Replaces what a Service accounts for; says whether that changed anything.
    pub fn set(&mut self, name: &Name, new: Fragment) -> bool {
        let old = self.fragments.remove(name).unwrap_or_default();
        let changed = old != new;
        if changed {
            self.chains(&old, &new);
            self.affinity_maps(&old, &new);
            self.elements(name, &old, &new);
            self.turns(name, &old, &new);
        }
        if new != Fragment::default() {
            self.fragments.insert(name.clone(), new);
        }
        changed
    }

    fn chains(&mut self, old: &Fragment, new: &Fragment) {
        let gone = old.chains.keys().filter(|n| !new.chains.contains_key(*n));
        for name in gone {
            self.content.chain(name, None);
        }
        for (name, chain) in &new.chains {
            if old.chains.get(name) != Some(chain) {
                self.content.chain(name, Some(chain.clone()));
            }
        }
    }

    fn affinity_maps(&mut self, old: &Fragment, new: &Fragment) {
        for name in old.affinity_maps.difference(&new.affinity_maps) {
            self.content.set(name, None);
        }
        for name in new.affinity_maps.difference(&old.affinity_maps) {
            self.content.set(name, Some(Set::new(SetKind::Affinity)));
        }
    }

    fn elements(&mut self, name: &Name, old: &Fragment, new: &Fragment) {
        let gone = old
            .elements
            .keys()
            .filter(|k| !new.elements.contains_key(*k));
        let gone = gone.map(|key| (key, None));
        let set = new.elements.iter().map(|(key, value)| (key, Some(value)));
        for (key, value) in gone.chain(set) {
            if old.elements.get(key) != value {
                let holds = claim(&mut self.claims, key.clone(), name, value.cloned());
                let (set, key) = key;
                self.content.element(set, key.clone(), holds);
            }
        }
    }

    fn turns(&mut self, name: &Name, old: &Fragment, new: &Fragment) {
        let gone = old.turns.keys().filter(|k| !new.turns.contains_key(*k));
        let gone = gone.map(|key| (key, None));
        let set = new.turns.iter().map(|(key, value)| (key, Some(value)));
        for (key, value) in gone.chain(set) {
            if old.turns.get(key) != value {
                let holds = claim(&mut self.claimed_turns, key.clone(), name, value.cloned());
                let endpoints = holds.unwrap_or_default();
                self.turns.set(&mut self.content, key, &endpoints);
            }
        }
    }
}
