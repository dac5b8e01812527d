//! Which memory of which NUMA nodes containers have: upstream's memory manager with its static policy,
//! as a table that follows from what containers were given. Pure.

use super::merge::{Hint, OfResource};
use super::nodes::{Machine, Nodes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes by the API's name of the kind of memory: `memory`, `hugepages-2Mi` …
pub type Amounts = BTreeMap<String, u64>;

/// Memory of a container on some nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The nodes.
    pub nodes: Vec<u32>,
    /// Its kind.
    pub kind: String,
    /// Bytes; those that a later container of the pod uses again are counted there.
    pub bytes: u64,
}

impl Block {
    fn on(&self) -> Nodes {
        self.nodes.iter().copied().collect()
    }
}

/// One NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cell {
    allocatable: Amounts,
    free: Amounts,
    /// How many blocks are on it.
    blocks: u32,
    /// With which nodes it gives memory together.
    group: Nodes,
}

/// What is free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    cells: BTreeMap<u32, Cell>,
    /// What init containers of the pod that comes had, which its later ones may have again.
    reusable: BTreeMap<(Nodes, String), u64>,
}

impl Ledger {
    /// All that pods can have, of which nothing is given yet. `reserved`: what the node keeps, by
    /// NUMA node.
    #[must_use]
    pub fn new(machine: &Machine, reserved: &BTreeMap<u32, Amounts>) -> Self {
        let cell = |number: u32, node: &super::nodes::Node| {
            let kept = |kind: &str| {
                let own = reserved.get(&number);
                own.and_then(|r| r.get(kind)).copied().unwrap_or(0)
            };
            let mut all: Amounts = node
                .huge_pages
                .iter()
                .map(|(kind, bytes)| (kind.clone(), bytes.saturating_sub(kept(kind))))
                .collect();
            let pages: u64 = node.huge_pages.values().sum();
            let plain = node.memory.saturating_sub(kept("memory"));
            all.insert("memory".into(), plain.saturating_sub(pages));
            Cell {
                free: all.clone(),
                allocatable: all,
                blocks: 0,
                group: [number].into_iter().collect(),
            }
        };
        let cells = machine
            .0
            .iter()
            .map(|(number, node)| (*number, cell(*number, node)));
        Self {
            cells: cells.collect(),
            reusable: BTreeMap::new(),
        }
    }

    /// Notes a block that a container has.
    pub fn take(&mut self, block: &Block) {
        self.take_part(block.on(), &block.kind, block.bytes);
    }

    fn take_part(&mut self, nodes: Nodes, kind: &str, bytes: u64) {
        let mut missing = bytes;
        for (_, cell) in self.cells.iter_mut().filter(|(n, _)| nodes.has(**n)) {
            cell.blocks += 1;
            cell.group = nodes;
            if let Some(free) = cell.free.get_mut(kind) {
                let part = missing.min(*free);
                *free -= part;
                missing -= part;
            }
        }
    }

    fn sum(&self, nodes: Nodes, of: impl Fn(&Cell) -> u64) -> u64 {
        let cells = self.cells.iter().filter(|(n, _)| nodes.has(**n));
        cells.map(|(_, cell)| of(cell)).fold(0, u64::saturating_add)
    }

    fn free(&self, nodes: Nodes, kind: &str) -> u64 {
        self.sum(nodes, |c| c.free.get(kind).copied().unwrap_or(0))
    }

    fn reusable(&self, nodes: Nodes, kind: &str) -> u64 {
        let key = (nodes, kind.to_owned());
        self.reusable.get(&key).copied().unwrap_or(0)
    }

    /// The nodes that could give this much.
    fn sets(&self, asked: &Amounts) -> Vec<Hint> {
        let all: Nodes = self.cells.keys().copied().collect();
        let mut least = all.count();
        let mut out = Vec::new();
        for nodes in all.subsets() {
            let has = |cell: &Cell, kind: &str| cell.allocatable.get(kind).copied().unwrap_or(0);
            let enough =
                |(kind, bytes): (&String, &u64)| self.sum(nodes, |c| has(c, kind)) >= *bytes;
            if !asked.iter().all(enough) {
                continue;
            }
            least = least.min(nodes.count());
            let left = |(kind, bytes): (&String, &u64)| {
                let free = self.free(nodes, kind);
                free.saturating_add(self.reusable(nodes, kind)) >= *bytes
            };
            if self.may_be_together(nodes) && asked.iter().all(left) {
                out.push(nodes);
            }
        }
        out.into_iter()
            .map(|nodes| Hint {
                nodes: Some(nodes),
                preferred: nodes.count() == least,
            })
            .collect()
    }

    /// A node gives memory either alone, or together with the same others.
    fn may_be_together(&self, nodes: Nodes) -> bool {
        let mut cells = self.cells.iter().filter(|(n, _)| nodes.has(**n));
        if nodes.count() == 1 {
            return cells.all(|(_, cell)| cell.group.count() == 1);
        }
        cells.all(|(_, cell)| cell.blocks == 0 || cell.group == nodes)
    }

    /// What is said of NUMA nodes for this much, of each kind of memory; nothing where no nodes have
    /// it, as upstream: then giving it fails, with a reason.
    #[must_use]
    pub fn hints(&self, asked: &Amounts) -> Vec<OfResource> {
        let sets = self.sets(asked);
        if sets.is_empty() {
            return Vec::new();
        }
        asked.keys().map(|_| Some(sets.clone())).collect()
    }

    /// Gives a container memory on the nodes that were chosen for it, or on more of them where those
    /// do not have enough. `ends`: it ends before the pod's later containers begin.
    ///
    /// # Errors
    /// There are no such nodes.
    pub fn give(
        &mut self,
        asked: &Amounts,
        chosen: Hint,
        ends: bool,
    ) -> Result<Vec<Block>, String> {
        let nodes = self.place(asked, chosen)?;
        let mut blocks = Vec::new();
        for (kind, bytes) in asked {
            let again = self.reusable(nodes, kind).min(*bytes);
            self.take_part(nodes, kind, bytes - again);
            let key = (nodes, kind.clone());
            if ends {
                let most = self.reusable.entry(key).or_default();
                *most = (*most).max(*bytes);
            } else if let Some(left) = self.reusable.get_mut(&key) {
                *left -= again;
            }
            blocks.push(Block {
                nodes: nodes.iter().collect(),
                kind: kind.clone(),
                bytes: *bytes,
            });
        }
        Ok(blocks)
    }

    fn place(&self, asked: &Amounts, chosen: Hint) -> Result<Nodes, String> {
        let (nodes, preferred) = match chosen.nodes {
            Some(nodes) => (nodes, chosen.preferred),
            None => {
                let why = "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available";
                let best = best(&self.sets(asked)).ok_or(why)?;
                if chosen.preferred && !best.preferred {
                    return Err("[memorymanager] failed to find the default preferred hint".into());
                }
                (best.nodes.unwrap_or_default(), best.preferred)
            }
        };
        let enough = |(kind, bytes): (&String, &u64)| {
            self.free(nodes, kind)
                .saturating_add(self.reusable(nodes, kind))
                >= *bytes
        };
        let mut found = nodes;
        if !asked.iter().all(enough) {
            let mut wider = self.sets(asked);
            wider.retain(|h| h.nodes.is_some_and(|n| n.include(nodes)));
            let why =
                "[memorymanager] failed to find NUMA nodes to extend the current topology hint";
            let best = best(&wider).ok_or(why)?;
            if preferred && !best.preferred {
                return Err("[memorymanager] failed to find the extended preferred hint".into());
            }
            found = best.nodes.unwrap_or_default();
        }
        let alone = found.count() == 1;
        if !alone && !self.may_be_together(found) {
            return Err("[memorymanager] preferred hint violates NUMA node allocation".into());
        }
        Ok(found)
    }

    /// What pods can have, by node; for the pod resources API.
    #[must_use]
    pub fn allocatable(&self) -> BTreeMap<u32, Amounts> {
        let all = self.cells.iter();
        all.map(|(number, cell)| (*number, cell.allocatable.clone()))
            .collect()
    }
}

fn best(hints: &[Hint]) -> Option<Hint> {
    let key = |h: &Hint| (!h.preferred, h.nodes.map_or(0, Nodes::count), h.nodes);
    hints.iter().min_by_key(|h| key(h)).copied()
}

/// What a later container uses again is not counted where it was before.
pub fn use_again(earlier: &mut [Block], later: &[Block]) {
    for block in later {
        let mut left = block.bytes;
        for own in earlier.iter_mut() {
            if own.kind == block.kind && own.on() == block.on() {
                let part = own.bytes.min(left);
                own.bytes -= part;
                left -= part;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::nodes::Node;
    use super::*;

    const GI: u64 = 1 << 30;

    fn ledger(gi: &[u64]) -> Ledger {
        let node = |bytes: &u64| Node {
            memory: bytes * GI,
            ..Node::default()
        };
        let all = (0..).zip(gi.iter().map(node)).collect();
        let kept = [(0, [("memory".to_owned(), GI)].into())].into();
        Ledger::new(&Machine(all), &kept)
    }

    fn gi(n: u64) -> Amounts {
        [("memory".to_owned(), n * GI)].into()
    }

    fn shown(hints: &[OfResource]) -> String {
        let one = |h: &Hint| {
            let nodes = h.nodes.map_or_else(String::new, |n| n.to_string());
            format!("{nodes}{}", if h.preferred { "+" } else { "" })
        };
        let all = hints.iter().flatten().flatten().map(one);
        all.collect::<Vec<_>>().join(" ")
    }

    const ANY: Hint = Hint {
        nodes: None,
        preferred: true,
    };

    fn on(nodes: &[u32], preferred: bool) -> Hint {
        Hint {
            nodes: Some(nodes.iter().copied().collect()),
            preferred,
        }
    }

    fn given(ledger: &mut Ledger, amount: u64, hint: Hint) -> Result<Vec<u32>, String> {
        let blocks = ledger.give(&gi(amount), hint, false)?;
        Ok(blocks[0].nodes.clone())
    }

    #[test]
    fn a_node_gives_memory_alone_or_always_with_the_same_others() {
        let mut all = ledger(&[5, 4, 4]);
        assert_eq!(shown(&all.hints(&gi(4))), "0+ 1+ 2+ 0-1 0,2 1-2 0-2");
        // The first node keeps one.
        assert_eq!(shown(&all.hints(&gi(5))), "0-1+ 0,2+ 1-2+ 0-2");
        assert_eq!(given(&mut all, 3, ANY), Ok(vec![0]));
        assert_eq!(shown(&all.hints(&gi(1))), "0+ 1+ 2+ 1-2");
        assert_eq!(shown(&all.hints(&gi(2))), "1+ 2+ 1-2");
        assert_eq!(given(&mut all, 6, on(&[1, 2], true)), Ok(vec![1, 2]));
        // What is given by both is given by neither alone.
        assert_eq!(shown(&all.hints(&gi(1))), "0+ 1-2");
        assert_eq!(shown(&all.hints(&gi(3))), "");
        let why = given(&mut all, 3, ANY).unwrap_err();
        assert!(why.contains("no NUMA nodes with enough memory"), "{why}");
        let why = given(&mut all, 2, on(&[0, 1], false)).unwrap_err();
        assert!(why.contains("violates") || why.contains("extend"), "{why}");
    }

    #[test]
    fn chosen_nodes_with_too_little_are_extended() {
        let mut all = ledger(&[5, 4]);
        assert_eq!(given(&mut all, 5, on(&[1], false)), Ok(vec![0, 1]));
        let mut all = ledger(&[5, 4]);
        assert_eq!(given(&mut all, 5, on(&[0], true)), Ok(vec![0, 1]));
        let mut all = ledger(&[5, 4]);
        given(&mut all, 2, on(&[0], true)).unwrap();
        // Both are needed, and one gives alone already.
        assert!(
            given(&mut all, 5, on(&[0], false))
                .unwrap_err()
                .contains("extend")
        );
    }

    #[test]
    fn what_init_containers_had_is_used_again() {
        let mut all = ledger(&[5]);
        let first = all.give(&gi(3), ANY, true).unwrap();
        let mut earlier = first;
        let later = all.give(&gi(4), ANY, false).unwrap();
        assert_eq!(later[0].bytes, 4 * GI);
        use_again(&mut earlier, &later);
        assert_eq!(earlier[0].bytes, 0);
        assert!(all.give(&gi(1), ANY, false).is_err());
        // What follows from the blocks is the same.
        let mut again = ledger(&[5]);
        earlier.iter().chain(&later).for_each(|b| again.take(b));
        assert_eq!(
            again.free(again.cells.keys().copied().collect(), "memory"),
            0
        );
    }

    #[test]
    fn huge_pages_are_no_plain_memory() {
        let node = Node {
            memory: 4 * GI,
            huge_pages: [("hugepages-1Gi".to_owned(), 2 * GI)].into(),
            ..Node::default()
        };
        let mut all = Ledger::new(&Machine([(0, node)].into()), &BTreeMap::new());
        assert_eq!(all.allocatable()[&0]["memory"], 2 * GI);
        let mut asked = gi(1);
        asked.insert("hugepages-1Gi".into(), 2 * GI);
        assert_eq!(all.hints(&asked).len(), 2);
        all.give(&asked, ANY, false).unwrap();
        assert!(all.give(&asked, ANY, false).is_err());
        assert!(all.give(&gi(1), ANY, false).is_ok());
    }
}
