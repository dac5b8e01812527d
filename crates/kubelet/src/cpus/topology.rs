//! Which CPUs share a core and a socket, and which of them go together best. Choosing is pure.

use super::set::CpuSet;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where a CPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuLocation {
    /// Its socket.
    pub socket: u32,
    /// Its core in the socket.
    pub core: u32,
}

/// All CPUs that run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology(pub BTreeMap<u32, CpuLocation>);

impl Topology {
    /// This machine's. A CPU of which nothing is said is a core of its own.
    pub fn read(root: &Path) -> Result<Self, String> {
        let text = |path: &Path| std::fs::read_to_string(path);
        let online = root.join("online");
        let all = text(&online).map_err(|e| format!("{}: {e}", online.display()))?;
        let all: CpuSet = all.parse()?;
        let place = |cpu: u32| {
            let number = |name: &str| {
                let file = root.join(format!("cpu{cpu}/topology/{name}"));
                text(&file).ok().and_then(|t| t.trim().parse().ok())
            };
            CpuLocation {
                socket: number("physical_package_id").unwrap_or_default(),
                core: number("core_id").unwrap_or(cpu),
            }
        };
        Ok(Self(all.0.into_iter().map(|c| (c, place(c))).collect()))
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> CpuSet {
        self.0.keys().copied().collect()
    }

    /// The most threads of a core.
    #[must_use]
    pub fn threads(&self) -> usize {
        let mut cores: BTreeMap<CpuLocation, usize> = BTreeMap::new();
        for place in self.0.values() {
            *cores.entry(*place).or_default() += 1;
        }
        cores.into_values().max().unwrap_or(1)
    }

    fn place(&self, cpu: u32) -> CpuLocation {
        self.0.get(&cpu).copied().unwrap_or_default()
    }

    /// So many of the free ones: whole sockets first, then whole cores, then threads, each where the
    /// fewest are left and beside what is taken already. None where there are too few.
    #[must_use]
    pub fn take(&self, free: &CpuSet, count: usize) -> Option<CpuSet> {
        if free.0.len() < count {
            return None;
        }
        let mut taken = BTreeSet::new();
        let socket = |p: CpuLocation| CpuLocation {
            socket: p.socket,
            core: 0,
        };
        self.take_whole(&free.0, &mut taken, count, socket);
        self.take_whole(&free.0, &mut taken, count, |p| p);
        let all: Vec<u32> = free.0.difference(&taken).copied().collect();
        let mut left = all.clone();
        // Threads of cores that are in use already, so that whole ones stay whole.
        left.sort_by_key(|cpu| {
            let own = self.place(*cpu);
            let in_core = all.iter().filter(|c| self.place(**c) == own).count();
            let beside = taken.iter().any(|c| self.place(*c).socket == own.socket);
            (!beside, in_core, own, *cpu)
        });
        let missing = count - taken.len();
        taken.extend(left.into_iter().take(missing));
        Some(CpuSet(taken))
    }

    fn take_whole(
        &self,
        free: &BTreeSet<u32>,
        taken: &mut BTreeSet<u32>,
        count: usize,
        group: impl Fn(CpuLocation) -> CpuLocation,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sockets of two cores of two threads, numbered as Linux does: threads come last.
    fn machine() -> Topology {
        let place = |cpu: u32| CpuLocation {
            socket: cpu % 4 / 2,
            core: cpu % 2,
        };
        Topology((0..8).map(|cpu| (cpu, place(cpu))).collect())
    }

    #[test]
    fn what_belongs_together_is_taken_together() {
        let topology = machine();
        assert_eq!(topology.threads(), 2);
        let take = |free: &str, count| {
            let taken = topology.take(&free.parse().unwrap(), count);
            taken.map(|set| set.to_string())
        };
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
    fn a_machine_is_read_from_its_folders() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("online", "0-1,3\n");
        put("cpu0/topology/core_id", "0\n");
        put("cpu1/topology/core_id", "0\n");
        put("cpu1/topology/physical_package_id", "1\n");
        let topology = Topology::read(dir.path()).unwrap();
        assert_eq!(topology.all().to_string(), "0-1,3");
        assert_eq!(topology.place(1), CpuLocation { socket: 1, core: 0 });
        assert_eq!(topology.place(3), CpuLocation { socket: 0, core: 3 });
        assert!(Topology::read(&dir.path().join("none")).is_err());
    }
}
