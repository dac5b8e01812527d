//! Which CPUs share a core, a cache, a NUMA node and a socket.

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
    /// Its NUMA node.
    pub numa: u32,
    /// The last cache before memory that it has, which other cores may share.
    pub cache: u32,
}

/// The NUMA node that the folder of a CPU names; the first where there are none.
fn numa_node(folder: &Path) -> u32 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("node")?.parse().ok()
    };
    entries.filter_map(number).min().unwrap_or_default()
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
                let file = root.join(format!("cpu{cpu}/{name}"));
                text(&file).ok().and_then(|t| t.trim().parse().ok())
            };
            let numa = numa_node(&root.join(format!("cpu{cpu}")));
            CpuLocation {
                socket: number("topology/physical_package_id").unwrap_or_default(),
                core: number("topology/core_id").unwrap_or(cpu),
                numa,
                cache: number("cache/index3/id").unwrap_or(numa),
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

    /// Where a CPU is.
    #[must_use]
    pub fn place(&self, cpu: u32) -> CpuLocation {
        self.0.get(&cpu).copied().unwrap_or_default()
    }

    /// The sockets in which some CPUs are.
    #[must_use]
    pub fn sockets(&self, of: &CpuSet) -> BTreeSet<u32> {
        of.0.iter().map(|cpu| self.place(*cpu).socket).collect()
    }

    /// All CPUs of the sockets in which some are.
    #[must_use]
    pub fn beside(&self, some: &CpuSet) -> CpuSet {
        let sockets = self.sockets(some);
        let all = self.0.iter();
        all.filter(|(_, place)| sockets.contains(&place.socket))
            .map(|(cpu, _)| *cpu)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        put("cpu1/node2/cpulist", "1\n");
        put("cpu1/cache/index3/id", "5\n");
        let topology = Topology::read(dir.path()).unwrap();
        assert_eq!(topology.all().to_string(), "0-1,3");
        let place = |socket, core, numa, cache| CpuLocation {
            socket,
            core,
            numa,
            cache,
        };
        assert_eq!(topology.place(1), place(1, 0, 2, 5));
        assert_eq!(topology.place(3), place(0, 3, 0, 0));
        assert_eq!(
            topology.beside(&[3].into_iter().collect()).to_string(),
            "0,3"
        );
        assert!(Topology::read(&dir.path().join("none")).is_err());
    }
}
