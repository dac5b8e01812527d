//! Which chain goes round the endpoints of a Service's port: pure.
//!
//! Whenever a rule changes, or a verdict that leads to a chain, the kernel walks through all that
//! can be reached in the table: among thousands of Services that is what a change costs. So a change
//! of endpoints changes neither. A chain that goes round so many numbers belongs to nobody and
//! exists before it is needed; a map says which of them a Service has, and another what its numbers
//! stand for. When a Service gets more endpoints or fewer, it gets another chain.
//!
//! A packet looks into these maps one after the other, and a transaction may come in between: then it
//! goes round a chain that its Service has just given back. So what such a chain's numbers stand for
//! stays, and nobody gets the chain until a later transaction. When a chain goes, and all that leads
//! there, is decided where that of all tables is ([`crate::rules::ORDER`]); who may have one is not:
//! a Service that flaps would use up, within the seconds that packets are waited for, what is ready.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use host::nft::{
    Chain, Field, Installed, InstalledSet, Key, KeyPart, Part, Rule, SetKind, Value, Verdict,
};

use crate::merge::Content;

/// Cluster address, protocol and port to the first number of its chain.
pub const TURNS: &str = "turns";
/// First numbers to chains.
pub const BALANCERS: &str = "balancers";
/// Numbers to endpoints are in several maps, each of so many numbers: whenever the kernel adds an
/// element, it looks through all rules that use its map.
const NUMBERS_PER_MAP: u32 = 1024;
/// What the names of those maps begin with.
const ENDPOINTS: &str = "endpoints/";

/// Of each number of endpoints that Services have, and of one more and one less, one chain for so
/// many Services is kept ready, and one in any case.
const READY_SHARE: usize = 64;
/// So many chains that nobody has are kept in any case, beside half as many as are had.
const UNUSED: usize = 64;

/// A chain: its first number, and how many it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Balancer {
    first: u32,
    count: u32,
}

impl Balancer {
    fn chain(self) -> String {
        format!("turn/{}/{}", self.first, self.count)
    }

    /// The map that holds its endpoints, all of them.
    fn map(self) -> String {
        format!("{ENDPOINTS}{}", self.first / NUMBERS_PER_MAP)
    }

    fn of_chain(name: &str) -> Option<Self> {
        let (first, count) = name.strip_prefix("turn/")?.split_once('/')?;
        let (first, count) = (first.parse().ok()?, count.parse().ok()?);
        let balancer = Self { first, count };
        (count > 0 && balancer.chain() == name).then_some(balancer)
    }

    fn numbers(self) -> impl Iterator<Item = u32> {
        self.first..self.first.saturating_add(self.count)
    }

    fn key(self) -> Key {
        vec![KeyPart::Number(self.first)]
    }
}

/// Whether a set is one of those that a packet is led by from a Service's chain to an endpoint.
pub fn leads_on(set: &str) -> bool {
    set == BALANCERS || set.starts_with(ENDPOINTS)
}

/// Who has which chain.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    given: BTreeMap<Key, Balancer>,
    /// How many are given, by their counts.
    counts: BTreeMap<u32, usize>,
    /// First numbers of chains that nobody has, by their counts.
    unused: BTreeMap<u32, BTreeSet<u32>>,
    /// Given back since the last transaction.
    resting: BTreeSet<Balancer>,
    /// First numbers that had a chain once, by their counts.
    vacant: BTreeMap<u32, BTreeSet<u32>>,
    /// The first number that no chain ever had.
    next: u32,
    /// Who had which chain when this program began.
    before: BTreeMap<Key, Balancer>,
    kept: BTreeSet<u32>,
}

impl Turns {
    /// Takes over the chains that stand in the kernel, and remembers who had them.
    pub fn adopt(&mut self, content: &mut Content, installed: &Installed) {
        let chains = installed.chains.keys();
        let mut all: Vec<Balancer> = chains.filter_map(|c| Balancer::of_chain(c)).collect();
        all.sort();
        for balancer in all {
            let end = balancer.first.checked_add(balancer.count);
            // Numbers that two chains have are nobody's doing here.
            if let Some(end) = end.filter(|_| balancer.first >= self.next) {
                self.next = end;
                self.put(content, balancer);
                if let Some(map) = installed.sets.get(&balancer.map()) {
                    for number in balancer.numbers() {
                        let key = vec![KeyPart::Number(number)];
                        if let Some(value) = map.elements.get(&key) {
                            content.element(&balancer.map(), key, Some(value.clone()));
                        }
                    }
                }
            }
        }
        let known: BTreeMap<u32, u32> = self
            .unused
            .iter()
            .flat_map(|(count, all)| all.iter().map(|first| (*first, *count)))
            .collect();
        let turns = installed.sets.get(TURNS).into_iter();
        for (key, value) in turns.flat_map(|set: &InstalledSet| &set.elements) {
            if let Value::Number(first) = value
                && let Some(count) = known.get(first)
                && self.kept.insert(*first)
            {
                let (first, count) = (*first, *count);
                self.before.insert(key.clone(), Balancer { first, count });
            }
        }
    }

    /// All Services of the beginning have been seen: what nobody took over is free.
    pub fn settle(&mut self) {
        self.before.clear();
        self.kept.clear();
    }

    /// What was changed goes into one transaction; what comes now, into a later one.
    pub fn end_transaction(&mut self) {
        for Balancer { first, count } in std::mem::take(&mut self.resting) {
            self.unused.entry(count).or_default().insert(first);
        }
    }

    /// Removes what is more than a next change may need, at leisure.
    pub fn remove_unused(&mut self, content: &mut Content) {
        let counts: Vec<u32> = self.unused.keys().copied().collect();
        for count in counts.into_iter().rev() {
            while self.has_too_many(count)
                && let Some(first) = self.unused.entry(count).or_default().pop_last()
            {
                self.remove(content, Balancer { first, count });
            }
        }
    }

    /// Sets what new connections to a key go round; nothing for none.
    pub fn set(&mut self, content: &mut Content, key: &Key, endpoints: &[SocketAddr]) {
        let old = self.given.get(key).copied();
        let count = endpoints.len() as u32;
        let new = match old {
            Some(old) if old.count == count => Some(old),
            _ if count == 0 => None,
            _ => self.take(content, key, count),
        };
        if let Some(new) = new {
            let map = new.map();
            for (number, endpoint) in new.numbers().zip(endpoints) {
                let value = Some(Value::Endpoint(*endpoint));
                content.element(&map, vec![KeyPart::Number(number)], value);
            }
        }
        if old == new {
            return;
        }
        let value = new.map(|b| Value::Number(b.first));
        content.element(TURNS, key.clone(), value);
        match new {
            Some(new) => self.given.insert(key.clone(), new),
            None => self.given.remove(key),
        };
        if let Some(new) = new {
            *self.counts.entry(new.count).or_default() += 1;
        }
        if let Some(old) = old {
            self.give_back(old);
        }
    }

    /// Makes chains that a next change may need, at leisure.
    pub fn make_ready(&mut self, content: &mut Content) {
        let near = |count: &u32| [count.saturating_sub(1), *count, count.saturating_add(1)];
        let wanted: BTreeSet<u32> = self.counts.keys().flat_map(near).collect();
        for count in wanted.into_iter().filter(|count| *count > 0) {
            while self.unused.get(&count).map_or(0, BTreeSet::len) < self.ready(count)
                && self.make(content, count).is_some()
            {}
        }
    }

    /// How many chains of a count shall be ready.
    fn ready(&self, count: u32) -> usize {
        let near = count.saturating_sub(1)..=count.saturating_add(1);
        let most = self.counts.range(near).map(|(_, had)| *had).max();
        most.map_or(0, |had| 1 + had / READY_SHARE)
    }

    fn take(&mut self, content: &mut Content, key: &Key, count: u32) -> Option<Balancer> {
        let had = self.before.remove(key);
        if let Some(had) = had {
            self.kept.remove(&had.first);
            if had.count != count && self.unused.entry(had.count).or_default().remove(&had.first) {
                self.resting.insert(had);
            }
        }
        let unused = self.unused.entry(count).or_default();
        let had = had.filter(|had| had.count == count && unused.contains(&had.first));
        let mut free = unused.iter().filter(|first| !self.kept.contains(*first));
        let first = had.map(|had| had.first).or_else(|| free.next().copied());
        let first = match first {
            Some(first) => first,
            None => self.make(content, count)?.first,
        };
        self.unused.entry(count).or_default().remove(&first);
        Some(Balancer { first, count })
    }

    fn give_back(&mut self, old: Balancer) {
        if let Some(had) = self.counts.get_mut(&old.count) {
            *had -= 1;
            if *had == 0 {
                self.counts.remove(&old.count);
            }
        }
        self.resting.insert(old);
    }

    fn has_too_many(&self, count: u32) -> bool {
        let of_it = self.unused.get(&count).map_or(0, BTreeSet::len);
        let all: usize = self.unused.values().map(BTreeSet::len).sum();
        of_it > self.ready(count) && all > UNUSED + self.given.len() / 2
    }

    /// Makes a chain that nobody has yet; none when all numbers are used up.
    fn make(&mut self, content: &mut Content, count: u32) -> Option<Balancer> {
        let vacant = self.vacant.get_mut(&count).and_then(BTreeSet::pop_first);
        let first = match vacant {
            Some(first) => first,
            None => {
                let Some(next) = self.next.checked_add(count) else {
                    tracing::error!("no numbers are left for chains of Services");
                    return None;
                };
                std::mem::replace(&mut self.next, next)
            }
        };
        let balancer = Balancer { first, count };
        self.put(content, balancer);
        Some(balancer)
    }

    fn put(&mut self, content: &mut Content, balancer: Balancer) {
        let Balancer { first, count } = balancer;
        content.need_set(&balancer.map(), SetKind::Endpoints(vec![Field::Number]));
        let rule = Rule(vec![Part::DnatTurn {
            map: balancer.map(),
            first,
            count,
        }]);
        let chain = Chain {
            hook: None,
            rules: vec![rule],
        };
        content.chain(&balancer.chain(), Some(chain));
        let verdict = Value::Verdict(Verdict::Goto(balancer.chain()));
        content.element(BALANCERS, balancer.key(), Some(verdict));
        self.unused.entry(count).or_default().insert(first);
    }

    fn remove(&mut self, content: &mut Content, balancer: Balancer) {
        content.element(BALANCERS, balancer.key(), None);
        content.chain(&balancer.chain(), None);
        for number in balancer.numbers() {
            content.element(&balancer.map(), vec![KeyPart::Number(number)], None);
        }
        let vacant = self.vacant.entry(balancer.count).or_default();
        vacant.insert(balancer.first);
    }
}

#[cfg(test)]
mod tests;
