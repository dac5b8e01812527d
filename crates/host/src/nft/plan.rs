//! From what is installed to what is desired: the smallest set of changes in the order in which
//! the kernel accepts them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Batch, Chain, Installed, InstalledSet, Key, Layout, Rule, Ruleset, Set, SetKind, Table, Value,
};

/// What may differ; everything else is known to be as desired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Names of chains.
    pub chains: BTreeSet<String>,
    /// Names of sets that may have come or gone.
    pub sets: BTreeSet<String>,
    /// Elements, by set and key.
    pub elements: BTreeSet<(String, Key)>,
}

impl Dirty {
    /// Adds what else may differ.
    pub fn extend(&mut self, other: Dirty) {
        self.chains.extend(other.chains);
        self.sets.extend(other.sets);
        self.elements.extend(other.elements);
    }

    /// Sets or removes an element of a set that there is, and notes it if that changes anything.
    pub fn element(&mut self, of: &mut Ruleset, set: &str, key: Key, value: Option<Value>) {
        let Some(elements) = of.sets.get_mut(set).map(|s| &mut s.elements) else {
            return;
        };
        if elements.get(&key) == value.as_ref() {
            return;
        }
        self.elements.insert((set.to_owned(), key.clone()));
        match value {
            Some(value) => elements.insert(key, value),
            None => elements.remove(&key),
        };
    }
}

/// The changes between what is installed and what is desired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// The table is made again, since something in it cannot be changed in place.
    pub(super) rebuild: bool,
    pub(super) create_table: bool,
    pub(super) add_sets: BTreeMap<String, SetKind>,
    pub(super) remove_sets: BTreeSet<String>,
    pub(super) add_chains: BTreeMap<String, Chain>,
    /// Chains whose rules are written again; `true` when there are old ones.
    pub(super) fill: BTreeMap<String, (Chain, bool)>,
    /// Chains that go; `true` for those where packets enter.
    pub(super) remove_chains: BTreeMap<String, bool>,
    pub(super) remove_elements: BTreeMap<String, BTreeMap<Key, Value>>,
    pub(super) add_elements: BTreeMap<String, BTreeMap<Key, Value>>,
}

/// Compares the whole table.
pub fn diff(table: &Table, installed: &Installed, desired: &Ruleset) -> Delta {
    let chains = installed
        .chains
        .keys()
        .chain(desired.chains.keys())
        .cloned()
        .collect();
    let sets: BTreeSet<String> = installed
        .sets
        .keys()
        .chain(desired.sets.keys())
        .cloned()
        .collect();
    let of_set = |name: &String| -> Vec<(String, Key)> {
        let old = installed
            .sets
            .get(name)
            .into_iter()
            .flat_map(|set| set.elements.keys());
        let new = desired
            .sets
            .get(name)
            .into_iter()
            .flat_map(|set| set.elements.keys());
        old.chain(new)
            .map(|key| (name.clone(), key.clone()))
            .collect()
    };
    let elements = sets.iter().flat_map(of_set).collect();
    diff_part(
        table,
        installed,
        desired,
        &Dirty {
            chains,
            sets,
            elements,
        },
    )
}

/// Compares only what may differ.
pub fn diff_part(table: &Table, installed: &Installed, desired: &Ruleset, dirty: &Dirty) -> Delta {
    let mut delta = Delta {
        create_table: !installed.table,
        ..Delta::default()
    };
    for name in &dirty.sets {
        match (installed.sets.get(name), desired.sets.get(name)) {
            (Some(old), Some(new)) if old.layout != Layout::of(&new.kind, table.family) => {
                return Delta::whole(desired);
            }
            (None, Some(new)) => {
                delta.add_sets.insert(name.clone(), new.kind.clone());
            }
            (Some(_), None) => {
                delta.remove_sets.insert(name.clone());
            }
            _ => {}
        }
    }
    for name in &dirty.chains {
        match (installed.chains.get(name), desired.chains.get(name)) {
            (Some(old), Some(new)) if old.hook != new.hook => return Delta::whole(desired),
            (Some(old), Some(new)) => {
                if *old != new.installed() {
                    delta.fill.insert(name.clone(), (new.clone(), true));
                }
            }
            (None, Some(new)) => {
                delta.add_chains.insert(name.clone(), new.clone());
                delta.fill.insert(name.clone(), (new.clone(), false));
            }
            (Some(old), None) => {
                delta.remove_chains.insert(name.clone(), old.hook.is_some());
            }
            (None, None) => {}
        }
    }
    for (set, key) in &dirty.elements {
        delta.element(installed.sets.get(set), desired.sets.get(set), set, key);
    }
    delta
}

impl Delta {
    /// Everything, for a table that is deleted first.
    fn whole(desired: &Ruleset) -> Self {
        Self {
            rebuild: true,
            add_sets: desired
                .sets
                .iter()
                .map(|(n, s)| (n.clone(), s.kind.clone()))
                .collect(),
            add_chains: desired.chains.clone(),
            fill: desired
                .chains
                .iter()
                .map(|(n, c)| (n.clone(), (c.clone(), false)))
                .collect(),
            add_elements: desired
                .sets
                .iter()
                .map(|(name, set)| (name.clone(), set.elements.clone()))
                .collect(),
            ..Self::default()
        }
    }

    fn element(&mut self, old: Option<&InstalledSet>, new: Option<&Set>, set: &str, key: &Key) {
        let before = old.and_then(|set| set.elements.get(key));
        let after = new.and_then(|set| set.elements.get(key));
        if before == after {
            return;
        }
        // The elements of a set that goes are deleted too: they may hold the last reference to
        // a chain that goes in the same transaction.
        if let Some(value) = before {
            let removed = self.remove_elements.entry(set.to_owned()).or_default();
            removed.insert(key.clone(), value.clone());
        }
        if let Some(value) = after {
            let added = self.add_elements.entry(set.to_owned()).or_default();
            added.insert(key.clone(), value.clone());
        }
    }

    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The changes as one transaction.
    pub fn batch(&self, table: &Table) -> Batch {
        let mut batch = Batch::new();
        if self.rebuild {
            // Adding first makes the deletion succeed whether or not the table exists.
            batch.add_table(table);
            batch.delete_table(table);
        }
        if self.rebuild || self.create_table {
            batch.add_table(table);
        }
        for (name, kind) in &self.add_sets {
            batch.add_set(table, name, kind);
        }
        for (name, chain) in &self.add_chains {
            batch.add_chain(table, name, chain);
        }
        for (set, elements) in &self.remove_elements {
            batch.delete_elements(table, set, elements);
        }
        for name in self.remove_chains.keys() {
            batch.flush_chain(table, name);
        }
        // Before rules: for each element the kernel looks through all rules that use its map.
        for (set, elements) in &self.add_elements {
            batch.add_elements(table, set, elements);
        }
        for (name, (chain, filled)) in &self.fill {
            if *filled {
                batch.flush_chain(table, name);
            }
            for rule in &chain.rules {
                batch.add_rule(table, name, rule);
            }
        }
        for name in self.remove_chains.keys() {
            batch.delete_chain(table, name);
        }
        for name in &self.remove_sets {
            batch.delete_set(table, name);
        }
        batch
    }

    /// What is installed after the changes were made to it.
    pub fn apply(self, table: &Table, installed: &mut Installed) {
        if self.rebuild {
            *installed = Installed::default();
        }
        installed.table |= self.rebuild || self.create_table;
        for (name, kind) in self.add_sets {
            let layout = Layout::of(&kind, table.family);
            installed.sets.insert(
                name,
                InstalledSet {
                    layout,
                    elements: BTreeMap::new(),
                },
            );
        }
        for (name, (chain, _)) in self.fill {
            installed.chains.insert(name, chain.installed());
        }
        for (name, keys) in self.remove_elements {
            // One by one: a set may have ten thousands, of which few go.
            for key in keys.keys() {
                if let Some(set) = installed.sets.get_mut(&name) {
                    set.elements.remove(key);
                }
            }
        }
        for (name, elements) in self.add_elements {
            if let Some(set) = installed.sets.get_mut(&name) {
                set.elements.extend(elements);
            }
        }
        for name in self.remove_chains.keys() {
            installed.chains.remove(name);
        }
        for name in self.remove_sets {
            installed.sets.remove(&name);
        }
    }

    /// The rules that are written, for logs.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.fill.iter().flat_map(|(name, (chain, _))| {
            chain.rules.iter().map(move |rule| (name.as_str(), rule))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn table() -> Table {
        Table {
            family: Family::Ip4,
            name: "t".into(),
        }
    }

    fn ruleset(chain: &str, port: u16) -> Ruleset {
        let mut map = Set::new(SetKind::Verdicts(vec![Field::DestinationPort]));
        let goto = Value::Verdict(Verdict::Goto(chain.into()));
        map.elements.insert(vec![KeyPart::Port(port)], goto);
        Ruleset {
            chains: [(
                chain.to_owned(),
                Chain {
                    hook: None,
                    rules: vec![Rule(vec![Part::Reject])],
                },
            )]
            .into(),
            sets: [("map".to_owned(), map)].into(),
        }
    }

    fn program(installed: &mut Installed, desired: &Ruleset) -> u32 {
        let delta = diff(&table(), installed, desired);
        let commands = delta.batch(&table()).len();
        delta.apply(&table(), installed);
        commands
    }

    #[test]
    fn converges_to_an_empty_difference() {
        let mut installed = Installed::default();
        for desired in [
            ruleset("a", 1),
            ruleset("a", 2),
            ruleset("b", 2),
            Ruleset::default(),
        ] {
            program(&mut installed, &desired);
            assert!(
                diff(&table(), &installed, &desired).is_empty(),
                "after {desired}"
            );
        }
        assert!(installed.chains.is_empty() && installed.sets.is_empty());
    }

    #[test]
    fn a_changed_element_is_two_commands() {
        let mut installed = Installed::default();
        program(&mut installed, &ruleset("a", 1));
        assert_eq!(program(&mut installed, &ruleset("a", 2)), 2);
    }

    #[test]
    fn another_layout_rebuilds_the_table_in_one_transaction() {
        let mut installed = Installed::default();
        program(&mut installed, &ruleset("a", 1));
        let mut other = ruleset("a", 1);
        other.sets.insert("map".into(), Set::new(SetKind::Affinity));
        let delta = diff(&table(), &installed, &other);
        assert!(delta.rebuild);
        delta.apply(&table(), &mut installed);
        assert!(diff(&table(), &installed, &other).is_empty());
    }
}
