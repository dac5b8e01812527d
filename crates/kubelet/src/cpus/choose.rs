//! Which of the free CPUs are given: those that belong together, or spread as the options of the policy
//! say. The rules are upstream's. Pure.

use super::policy::Policy;
use super::set::CpuSet;
use super::topology::{CpuLocation, Topology};
use std::collections::{BTreeMap, BTreeSet};

/// How CPUs are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ways {
    /// Those that share a last cache go together.
    by_cache: bool,
    /// As many cores as there can be, one thread each.
    over_cores: bool,
}

/// Over more NUMA nodes nothing is spread: ways to choose among them are three times as many with each
/// node, and these are half a million.
const MOST_NODES: usize = 12;

/// What several CPUs have in common.
type Group = fn(CpuLocation) -> CpuLocation;

fn socket(p: CpuLocation) -> CpuLocation {
    CpuLocation {
        socket: p.socket,
        ..CpuLocation::default()
    }
}

fn numa(p: CpuLocation) -> CpuLocation {
    CpuLocation {
        numa: p.numa,
        ..socket(p)
    }
}

fn cache(p: CpuLocation) -> CpuLocation {
    CpuLocation {
        cache: p.cache,
        ..numa(p)
    }
}

fn core(p: CpuLocation) -> CpuLocation {
    p
}

impl Topology {
    /// So many of the free ones, those that belong together. None where there are too few.
    #[must_use]
    pub fn take(&self, free: &CpuSet, count: usize) -> Option<CpuSet> {
        self.pack(free, count, Ways::default())
    }

    /// The same, as the policy says.
    #[must_use]
    pub fn choose(&self, free: &CpuSet, count: usize, policy: &Policy) -> Option<CpuSet> {
        let ways = Ways {
            by_cache: policy.by_cache,
            over_cores: policy.over_cores,
        };
        if policy.over_numa {
            let together = if policy.full_cores_only {
                self.threads()
            } else {
                1
            };
            // What cannot be spread evenly is packed.
            if let Some(spread) = self.spread(free, count, together, ways) {
                return Some(spread);
            }
        }
        self.pack(free, count, ways)
    }

    /// Whole sockets first, then whole NUMA nodes, caches where that is wanted, whole cores, and then
    /// threads, each where the fewest are left and beside what is taken already.
    fn pack(&self, free: &CpuSet, count: usize, ways: Ways) -> Option<CpuSet> {
        if free.0.len() < count {
            return None;
        }
        let mut taken = BTreeSet::new();
        self.take_whole(&free.0, &mut taken, count, socket);
        self.take_whole(&free.0, &mut taken, count, numa);
        if ways.by_cache {
            self.take_whole(&free.0, &mut taken, count, cache);
            self.take_of_one_cache(&free.0, &mut taken, count);
        }
        if ways.over_cores {
            self.take_over_cores(&free.0, &mut taken, count);
        } else {
            self.take_whole(&free.0, &mut taken, count, core);
            self.take_threads(&free.0, &mut taken, count);
        }
        Some(CpuSet(taken))
    }

    fn take_whole(
        &self,
        free: &BTreeSet<u32>,
        taken: &mut BTreeSet<u32>,
        count: usize,
        group: Group,
    ) {
        loop {
            let mut groups: BTreeMap<CpuLocation, Vec<u32>> = BTreeMap::new();
            for cpu in free.difference(taken) {
                let place = group(self.place(*cpu));
                groups.entry(place).or_default().push(*cpu);
            }
            let whole =
                |place: &CpuLocation| self.0.values().filter(|p| group(**p) == *place).count();
            let in_socket = |socket: u32| {
                let left = free.difference(taken);
                left.filter(|c| self.place(**c).socket == socket).count()
            };
            let beside = |socket: u32| taken.iter().any(|c| self.place(*c).socket == socket);
            let missing = count - taken.len();
            let fits = groups
                .iter()
                .filter(|(place, cpus)| cpus.len() == whole(place) && cpus.len() <= missing);
            let best = fits.min_by_key(|(place, _)| {
                let socket = place.socket;
                (!beside(socket), in_socket(socket), **place)
            });
            let Some((_, cpus)) = best else { return };
            let cpus = cpus.clone();
            taken.extend(cpus);
        }
    }

    /// All that is missing from the first cache that has it.
    fn take_of_one_cache(&self, free: &BTreeSet<u32>, taken: &mut BTreeSet<u32>, count: usize) {
        let missing = count - taken.len();
        let mut caches: BTreeMap<CpuLocation, CpuSet> = BTreeMap::new();
        for cpu in free.difference(taken) {
            let place = cache(self.place(*cpu));
            caches.entry(place).or_default().0.insert(*cpu);
        }
        let first = caches.values().find(|left| left.0.len() >= missing);
        let found = first.and_then(|left| self.pack(left, missing, Ways::default()));
        taken.extend(found.unwrap_or_default().0);
    }

    /// Threads of cores that are in use already, so that whole ones stay whole.
    fn take_threads(&self, free: &BTreeSet<u32>, taken: &mut BTreeSet<u32>, count: usize) {
        let all: Vec<u32> = free.difference(taken).copied().collect();
        let mut left = all.clone();
        left.sort_by_key(|cpu| {
            let own = self.place(*cpu);
            let in_core = all.iter().filter(|c| self.place(**c) == own).count();
            let beside = taken.iter().any(|c| self.place(*c).socket == own.socket);
            (!beside, in_core, own, *cpu)
        });
        let missing = count - taken.len();
        taken.extend(left.into_iter().take(missing));
    }

    fn take_over_cores(&self, free: &BTreeSet<u32>, taken: &mut BTreeSet<u32>, count: usize) {
        while taken.len() < count {
            let next = free.difference(taken).copied().min_by_key(|cpu| {
                let own = self.place(*cpu);
                let in_core = taken.iter().filter(|c| self.place(**c) == own).count();
                let beside = taken.iter().any(|c| self.place(*c).socket == own.socket);
                (in_core, !beside, *cpu)
            });
            let Some(next) = next else { return };
            taken.insert(next);
        }
    }

    /// Evenly over as few NUMA nodes as can have them, in groups of so many CPUs; what is left over
    /// goes where the nodes are most alike afterwards. None where there is no such way.
    fn spread(&self, free: &CpuSet, count: usize, group: usize, ways: Ways) -> Option<CpuSet> {
        if count == 0 || group == 0 || !count.is_multiple_of(group) {
            return None;
        }
        let mut by_node: BTreeMap<u32, CpuSet> = BTreeMap::new();
        for cpu in &free.0 {
            let node = self.place(*cpu).numa;
            by_node.entry(node).or_default().0.insert(*cpu);
        }
        if by_node.len() > MOST_NODES {
            return None;
        }
        let mut nodes: Vec<CpuSet> = by_node.into_values().collect();
        nodes.sort_by_key(|set| set.0.len());
        let sizes: Vec<usize> = nodes.iter().map(|set| set.0.len()).collect();
        for width in 1..=nodes.len().min(count / group) {
            let mut best: Option<Split> = None;
            for chosen in combinations(nodes.len(), width) {
                let Some(split) = Split::of(&sizes, &chosen, count, group) else {
                    continue;
                };
                if best.as_ref().is_none_or(|b| split.imbalance < b.imbalance) {
                    best = Some(split);
                }
            }
            if let Some(split) = best {
                let ways = Ways {
                    by_cache: false,
                    ..ways
                };
                return self.hand_out(nodes, &split, ways);
            }
        }
        None
    }

    fn hand_out(&self, nodes: Vec<CpuSet>, split: &Split, ways: Ways) -> Option<CpuSet> {
        let mut all = CpuSet::default();
        for (node, left) in nodes.iter().enumerate() {
            let count = split.of.get(node).copied().unwrap_or(0);
            all.add(&self.pack(left, count, ways)?);
        }
        Some(all)
    }
}

/// How many CPUs come from each node.
#[derive(Debug, PartialEq, Eq)]
struct Split {
    of: Vec<usize>,
    /// How unlike the nodes are afterwards: the spread of what is left on them.
    imbalance: u128,
}

impl Split {
    /// Evenly over the chosen nodes, of which so many are free on each.
    fn of(sizes: &[usize], chosen: &[usize], count: usize, group: usize) -> Option<Self> {
        let size = |node: usize| sizes.get(node).copied().unwrap_or(0);
        let groups: usize = chosen.iter().map(|n| size(*n) / group).sum();
        let each = count / chosen.len() / group * group;
        if groups * group < count || chosen.iter().any(|n| size(*n) < each) {
            return None;
        }
        let mut of = vec![0; sizes.len()];
        let give = |of: &mut Vec<usize>, node: usize, more: usize| {
            if let Some(place) = of.get_mut(node) {
                *place += more;
            }
        };
        chosen.iter().for_each(|n| give(&mut of, *n, each));
        let rest = count - each * chosen.len();
        if rest == 0 {
            let imbalance = imbalance(sizes, &of);
            return Some(Self { of, imbalance });
        }
        let left = |of: &[usize], node: usize| {
            size(node).saturating_sub(of.get(node).copied().unwrap_or(0))
        };
        let able: Vec<usize> = chosen
            .iter()
            .copied()
            .filter(|n| left(&of, *n) >= group)
            .collect();
        let mut best: Option<Self> = None;
        for width in (1..=able.len()).rev() {
            for places in combinations(able.len(), width) {
                let mut tried = of.clone();
                let mut missing = rest;
                loop {
                    let before = missing;
                    for node in places.iter().filter_map(|at| able.get(*at)) {
                        if missing > 0 && left(&tried, *node) >= group {
                            give(&mut tried, *node, group);
                            missing -= group.min(missing);
                        }
                    }
                    if missing == 0 || missing == before {
                        break;
                    }
                }
                let imbalance = imbalance(sizes, &tried);
                if missing == 0 && best.as_ref().is_none_or(|b| imbalance < b.imbalance) {
                    best = Some(Self {
                        of: tried,
                        imbalance,
                    });
                }
            }
        }
        best
    }
}

/// Grows with the standard deviation of what is left.
fn imbalance(sizes: &[usize], of: &[usize]) -> u128 {
    let left = sizes.iter().zip(of).map(|(size, given)| size - given);
    let left: Vec<u128> = left.map(|n| n as u128).collect();
    let sum: u128 = left.iter().sum();
    let squares: u128 = left.iter().map(|n| n * n).sum();
    squares * left.len() as u128 - sum * sum
}

/// All choices of so many of the first numbers, in order.
fn combinations(of: usize, many: usize) -> Vec<Vec<usize>> {
    if many == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for last in many - 1..of {
        for mut rest in combinations(last, many - 1) {
            rest.push(last);
            all.push(rest);
        }
    }
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sockets of two cores of two threads, numbered as Linux does: threads come last.
    fn machine() -> Topology {
        let place = |cpu: u32| CpuLocation {
            socket: cpu % 4 / 2,
            core: cpu % 2,
            ..CpuLocation::default()
        };
        Topology((0..8).map(|cpu| (cpu, place(cpu))).collect())
    }

    /// A socket of four NUMA nodes with four cores each, two of which share a cache.
    fn large() -> Topology {
        let place = |cpu: u32| CpuLocation {
            socket: 0,
            core: cpu,
            numa: cpu / 4,
            cache: cpu / 2,
        };
        Topology((0..16).map(|cpu| (cpu, place(cpu))).collect())
    }

    fn chosen(topology: &Topology, free: &str, count: usize, policy: &Policy) -> Option<String> {
        let taken = topology.choose(&free.parse().unwrap(), count, policy);
        taken.map(|set| set.to_string())
    }

    #[test]
    fn what_belongs_together_is_taken_together() {
        let topology = machine();
        assert_eq!(topology.threads(), 2);
        let take = |free: &str, count| chosen(&topology, free, count, &Policy::default());
        // A core, a socket, a socket and a core.
        assert_eq!(take("0-7", 2).as_deref(), Some("0,4"));
        assert_eq!(take("0-7", 4).as_deref(), Some("0-1,4-5"));
        assert_eq!(take("0-7", 6).as_deref(), Some("0-2,4-6"));
        // The rest of a socket before a new one; half a core before a whole one.
        assert_eq!(take("1-7", 2).as_deref(), Some("1,5"));
        assert_eq!(take("1-7", 1).as_deref(), Some("4"));
        assert_eq!(take("0-7", 3).as_deref(), Some("0-1,4"));
        assert_eq!(take("0,2", 3), None);
    }

    #[test]
    fn a_cache_is_shared_with_as_few_as_can_be() {
        let topology = large();
        let by_cache = Policy {
            by_cache: true,
            ..Policy::default()
        };
        let take = |free: &str, count| chosen(&topology, free, count, &by_cache);
        // Two of one cache, although others are freer; a NUMA node and a cache; one of a cache.
        assert_eq!(take("1-3,5", 2).as_deref(), Some("2-3"));
        assert_eq!(take("0-15", 6).as_deref(), Some("0-5"));
        assert_eq!(take("1,4-5", 1).as_deref(), Some("1"));
        // No cache has so many: what is left belongs together no more than it can.
        assert_eq!(take("1,3,5", 2).as_deref(), Some("1,3"));
    }

    #[test]
    fn threads_are_spread_over_cores() {
        let topology = machine();
        let spread = Policy {
            over_cores: true,
            ..Policy::default()
        };
        let take = |free: &str, count| chosen(&topology, free, count, &spread);
        assert_eq!(take("0-7", 2).as_deref(), Some("0-1"));
        assert_eq!(take("0-7", 3).as_deref(), Some("0-2"));
        // There are no more cores.
        assert_eq!(take("0,4,5", 3).as_deref(), Some("0,4-5"));
    }

    #[test]
    fn cpus_are_spread_evenly_over_numa_nodes() {
        let topology = large();
        let even = Policy {
            over_numa: true,
            ..Policy::default()
        };
        let take = |free: &str, count| chosen(&topology, free, count, &even);
        // One node has them.
        assert_eq!(take("0-15", 4).as_deref(), Some("0-3"));
        // Two nodes, three of each; packing would take four and two.
        assert_eq!(take("0-15", 6).as_deref(), Some("0-2,4-6"));
        // Seven: four of one and three of another.
        assert_eq!(take("0-15", 7).as_deref(), Some("0-6"));
        // Three have one each: no two of them are enough.
        assert_eq!(take("0,4,8", 3).as_deref(), Some("0,4,8"));
        assert_eq!(take("0", 2), None);
    }

    #[test]
    fn on_machines_of_very_many_nodes_cpus_are_packed() {
        let place = |cpu: u32| CpuLocation {
            core: cpu,
            numa: cpu / 2,
            ..CpuLocation::default()
        };
        let topology = Topology((0..64).map(|cpu| (cpu, place(cpu))).collect());
        let even = Policy {
            over_numa: true,
            ..Policy::default()
        };
        let taken = chosen(&topology, "0-63", 33, &even);
        assert_eq!(taken.as_deref(), Some("0-32"));
    }

    #[test]
    fn what_is_left_over_makes_nodes_alike() {
        // Five of two nodes with four and three free ones: three and two, one stays on each.
        let split = Split::of(&[3, 4], &[0, 1], 5, 1).unwrap();
        assert_eq!((split.of, split.imbalance), (vec![2, 3], 0));
        // In cores of two threads: nothing in between.
        let split = Split::of(&[4, 4], &[0, 1], 6, 2).unwrap();
        assert_eq!(split.of.iter().sum::<usize>(), 6);
        assert!(split.of.iter().all(|n| n.is_multiple_of(2)));
        assert_eq!(Split::of(&[1, 1], &[0, 1], 3, 1), None);
        assert_eq!(combinations(3, 2), [vec![0, 1], vec![0, 2], vec![1, 2]]);
    }
}
