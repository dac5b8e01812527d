//! Which devices a container gets. Pure.

use super::inventory::Device;
use crate::topology::nodes::Nodes;
use std::collections::{BTreeMap, BTreeSet};

/// Why a pod cannot have its devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Allocate failed due to {0}, which is unexpected")]
pub struct Error(pub String);

type Ids = BTreeSet<String>;

/// A choice that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// How many.
    count: usize,
    /// That an earlier container of the pod had, which does not need them any more: they go first.
    first: Ids,
    /// That nobody has, at the NUMA nodes that the container is to have.
    near: Ids,
    /// At other nodes.
    far: Ids,
    /// At no node that their plugin named, and all where no nodes matter.
    anywhere: Ids,
    /// As the plugin would choose.
    preferred: Vec<String>,
}

impl Choice {
    /// Of the devices that are `free`, after those that go `first`; `nodes` are the container's, if it
    /// has any.
    pub(super) fn new(
        count: usize,
        first: Ids,
        free: Ids,
        devices: &BTreeMap<String, Device>,
        nodes: Option<Nodes>,
    ) -> Self {
        let mut out = Self {
            count,
            first,
            ..Self::default()
        };
        for id in free {
            let own = devices.get(&id).map(|d| d.nodes).unwrap_or_default();
            let place = match nodes {
                Some(nodes) if own.and(nodes).count() > 0 => &mut out.near,
                Some(_) if own.count() > 0 => &mut out.far,
                _ => &mut out.anywhere,
            };
            place.insert(id);
        }
        out
    }

    fn free(&self) -> usize {
        self.near.len() + self.far.len() + self.anywhere.len()
    }

    /// Whether there are enough.
    pub(super) fn check(&self, resource: &str) -> Result<(), Error> {
        if self.first.len() + self.free() >= self.count {
            return Ok(());
        }
        Err(Error(format!(
            "requested number of devices unavailable for {resource}. Requested: {}, Available: {}",
            self.count.saturating_sub(self.first.len()),
            self.free()
        )))
    }

    /// Whether the devices at its nodes are more than it needs.
    fn has_enough_near(&self) -> bool {
        self.first.len() + self.near.len() > self.count
    }

    /// Those that it gets whatever the plugin says.
    pub(super) fn settled(&self) -> Ids {
        let mut out: Ids = self.first.iter().take(self.count).cloned().collect();
        if !self.has_enough_near() {
            out.extend(self.near.iter().cloned());
        }
        out
    }

    /// Of which the others are chosen.
    fn open(&self) -> Vec<&String> {
        match self.has_enough_near() {
            true => self.near.iter().collect(),
            false => self.far.iter().chain(&self.anywhere).collect(),
        }
    }

    /// Whether there is something to choose: more are free than are needed.
    pub(super) fn is_open(&self) -> bool {
        let settled = self.settled().len();
        settled < self.count && settled + self.open().len() > self.count
    }

    /// How many there are to be.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What the plugin may choose from.
    pub(super) fn all(&self) -> Vec<String> {
        let mut all = self.settled();
        all.extend(self.open().into_iter().cloned());
        all.into_iter().collect()
    }

    /// Notes what the plugin would choose.
    pub(super) fn prefer(&mut self, ids: Vec<String>) {
        self.preferred = ids;
    }

    /// The devices: those that are settled, then those that the plugin prefers, then any; such as are
    /// at no node last.
    pub(super) fn decide(&self) -> Ids {
        let (mut out, open) = (self.settled(), self.open());
        let preferred = self.preferred.iter().filter(|id| open.contains(id));
        for id in preferred.chain(open.iter().copied()) {
            if out.len() >= self.count {
                break;
            }
            out.insert(id.clone());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> Ids {
        all.iter().map(|id| (*id).to_owned()).collect()
    }

    fn choice(count: usize, first: &[&str], free: &[&str]) -> Choice {
        Choice::new(count, set(first), set(free), &BTreeMap::new(), None)
    }

    fn of(c: &Choice) -> Vec<String> {
        c.decide().into_iter().collect()
    }

    #[test]
    fn what_was_the_pods_own_goes_first() {
        assert_eq!(of(&choice(2, &["d"], &["a", "b"])), ["a", "d"]);
        assert_eq!(of(&choice(1, &["c", "d"], &["a"])), ["c"]);
        let mut asked = choice(2, &["d"], &["a", "b", "c"]);
        assert!(asked.is_open() && asked.check("x").is_ok());
        asked.prefer(vec!["gone".into(), "c".into(), "b".into()]);
        assert_eq!(of(&asked), ["c", "d"]);
        let short = choice(3, &[], &["a"]).check("x.io/d").unwrap_err();
        assert_eq!(
            short.to_string(),
            "Allocate failed due to requested number of devices unavailable for x.io/d. Requested: 3, Available: 1, which is unexpected"
        );
        assert!(!choice(1, &[], &["a"]).is_open());
    }

    #[test]
    fn devices_at_the_containers_nodes_come_before_others() {
        let at = |nodes: &[u32]| Device {
            healthy: true,
            nodes: nodes.iter().copied().collect(),
        };
        let devices = [
            ("a", at(&[0])),
            ("b", at(&[1])),
            ("c", at(&[0, 1])),
            ("d", at(&[])),
            ("e", at(&[1])),
        ];
        let devices = devices.map(|(id, d)| (id.to_owned(), d));
        let devices: BTreeMap<String, Device> = devices.into();
        let one: Nodes = [1].into_iter().collect();
        let free = || set(&["a", "b", "c", "d", "e"]);
        let choose = |count| Choice::new(count, Ids::new(), free(), &devices, Some(one));
        // Enough are near: the plugin chooses among those alone.
        let mut two = choose(2);
        assert!(two.is_open());
        assert_eq!(two.all(), ["b", "c", "e"]);
        assert_eq!(of(&two), ["b", "c"]);
        two.prefer(vec!["a".into(), "e".into()]);
        assert_eq!(of(&two), ["b", "e"]);
        // Just as many as are needed.
        let three = choose(3);
        assert!(!three.is_open());
        assert_eq!(of(&three), ["b", "c", "e"]);
        // All that are near, and the plugin chooses the rest; those without a node come last.
        let mut four = choose(4);
        assert!(four.is_open());
        assert_eq!(four.settled(), set(&["b", "c", "e"]));
        assert_eq!(of(&four), ["a", "b", "c", "e"]);
        four.prefer(vec!["d".into()]);
        assert_eq!(of(&four), ["b", "c", "d", "e"]);
    }
}
