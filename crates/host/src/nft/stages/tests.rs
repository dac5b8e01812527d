//! What is made before, what goes later, and what is wanted again in between.

use std::collections::BTreeSet;

use super::super::*;
use super::*;

const MAP: &str = "map";

fn table() -> Table {
    let name = "t".to_owned();
    let family = Family::Ip4;
    Table { family, name }
}

fn key(port: u16) -> Key {
    vec![KeyPart::Port(port)]
}

/// A base chain, a map from ports to chains, and a set beside each chain.
fn ruleset(leads: &[(u16, &str)]) -> Ruleset {
    let mut all = Ruleset::default();
    let fields = vec![Field::DestinationPort];
    let hook = Hook {
        kind: ChainKind::Filter,
        point: Point::Forward,
        priority: 0,
    };
    let map = MAP.to_owned();
    let rules = vec![Rule(vec![Part::VerdictMap {
        fields: fields.clone(),
        map,
    }])];
    let hook = Some(hook);
    all.chains.insert("base".into(), Chain { hook, rules });
    let mut map = Set::new(SetKind::Verdicts(fields.clone()));
    for (port, chain) in leads {
        let verdict = Value::Verdict(Verdict::Goto((*chain).to_owned()));
        map.elements.insert(key(*port), verdict);
        let mut set = Set::new(SetKind::Set(fields.clone()));
        set.elements.insert(key(*port), Value::Present);
        all.sets.insert(format!("set-{chain}"), set);
        let rules = vec![Rule(vec![Part::Reject])];
        let chain = (*chain).to_owned();
        all.chains.insert(chain, Chain { hook: None, rules });
    }
    all.sets.insert(MAP.into(), map);
    all
}

/// A kernel of values, and what it goes through.
struct Kernel {
    stages: Stages,
    installed: Installed,
}

impl Kernel {
    fn new(order: Order, first: &Ruleset) -> Self {
        let mut kernel = Self {
            stages: Stages::new(order),
            installed: Installed::default(),
        };
        assert_eq!(kernel.change(first), 1, "a table is made at once");
        kernel
    }

    /// How many transactions lead to what is desired.
    fn change(&mut self, desired: &Ruleset) -> usize {
        let stages = self.stages.change(&table(), &self.installed, desired, None);
        let count = stages.len();
        for delta in stages {
            delta.apply(&table(), &mut self.installed);
        }
        let strange = self.stages.strange(&table(), &self.installed, desired);
        assert!(strange.is_empty(), "{strange:?}");
        count
    }

    fn clear(&mut self, desired: &Ruleset) {
        let delta = self.stages.clear(&table(), &self.installed, desired);
        delta.apply(&table(), &mut self.installed);
    }

    fn chains(&self) -> BTreeSet<&str> {
        self.installed.chains.keys().map(String::as_str).collect()
    }
}

#[test]
fn what_is_led_to_is_there_before_and_for_a_while_after() {
    let (a, b) = (ruleset(&[(1, "a")]), ruleset(&[(1, "b")]));
    let mut kernel = Kernel::new(Order::default(), &a);
    let stages = kernel
        .stages
        .clone()
        .change(&table(), &kernel.installed, &b, None);
    let [first, second] = &stages[..] else {
        panic!("{stages:?}");
    };
    assert!(first.add_chains.contains_key("b") && first.add_elements.contains_key("set-b"));
    assert!(!first.add_elements.contains_key(MAP));
    assert!(second.add_elements.contains_key(MAP) && second.remove_chains.is_empty());
    kernel.change(&b);
    assert_eq!(kernel.chains(), ["a", "b", "base"].into());
    assert_eq!(kernel.installed.sets["set-a"].elements.len(), 1);
    kernel.clear(&b);
    assert!(kernel.chains().contains("a"), "a packet may be there still");
    kernel.clear(&b);
    assert_eq!(kernel.chains(), ["b", "base"].into());
    let sets: BTreeSet<&str> = kernel.installed.sets.keys().map(String::as_str).collect();
    assert_eq!(sets, [MAP, "set-b"].into());
}

#[test]
fn what_leads_from_nowhere_needs_no_transaction_of_its_own() {
    let none = ruleset(&[]);
    let one = ruleset(&[(1, "a")]);
    assert_eq!(Kernel::new(Order::default(), &none).change(&one), 1);
    let order = Order {
        chains_first: true,
        ..Order::default()
    };
    assert_eq!(Kernel::new(order, &none).change(&one), 2);
}

#[test]
fn what_is_wanted_again_is_as_it_shall_be_before_it_is_led_to() {
    let (a, b) = (ruleset(&[(1, "a")]), ruleset(&[(1, "b")]));
    let mut kernel = Kernel::new(Order::default(), &a);
    kernel.change(&b);
    kernel.clear(&b);
    // Another set beside the same chain.
    let mut again = a.clone();
    let set = again.sets.get_mut("set-a").expect("a set");
    set.elements = [(key(7), Value::Present)].into();
    let mut dirty = Dirty::default();
    dirty.chains.extend(["a".to_owned(), "b".to_owned()]);
    dirty.sets.extend(["set-a".to_owned(), "set-b".to_owned()]);
    dirty.elements.insert((MAP.into(), key(1)));
    dirty.elements.insert(("set-a".into(), key(7)));
    let installed = &mut kernel.installed;
    let stages = kernel
        .stages
        .change(&table(), installed, &again, Some(&dirty));
    assert!(stages[0].remove_elements["set-a"].contains_key(&key(1)));
    for delta in stages {
        delta.apply(&table(), installed);
    }
    // Something leads to it now: it is changed as any other.
    let mut other = again.clone();
    let set = other.sets.get_mut("set-a").expect("a set");
    set.elements.clear();
    let stages = kernel
        .stages
        .clone()
        .change(&table(), installed, &other, None);
    assert_eq!(stages.len(), 1, "{stages:?}");
    for _ in 0..2 {
        kernel.clear(&again);
    }
    assert_eq!(kernel.chains(), ["a", "base"].into());
    assert!(diff(&table(), &kernel.installed, &again).is_empty());
}

#[test]
fn elements_go_when_their_owner_says() {
    const GUARD: &str = "guard";
    let order = Order {
        lingers: |set| set == GUARD,
        chains_first: true,
    };
    let with = |port: u16, guarded: &[u16]| {
        let mut all = ruleset(&[(port, "a")]);
        let mut guard = Set::new(SetKind::Set(vec![Field::DestinationPort]));
        for port in guarded {
            guard.elements.insert(key(*port), Value::Present);
        }
        all.sets.insert(GUARD.into(), guard);
        all
    };
    let mut kernel = Kernel::new(order, &with(1, &[1]));
    let next = with(2, &[2]);
    assert_eq!(kernel.change(&next), 1);
    let guarded = |kernel: &Kernel| kernel.installed.sets[GUARD].elements.len();
    assert_eq!(guarded(&kernel), 2);
    kernel.clear(&next);
    kernel.clear(&next);
    assert_eq!(guarded(&kernel), 1);
    assert!(diff(&table(), &kernel.installed, &next).is_empty());
}
