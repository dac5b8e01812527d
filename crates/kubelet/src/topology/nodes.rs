//! Sets of NUMA nodes, and what each node of the machine has.

use crate::cpus::set::CpuSet;
use std::collections::BTreeMap;
use std::path::Path;

/// A set of NUMA nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nodes(u64);

impl Nodes {
    /// How many nodes there are at most, by their numbers.
    const MOST: u32 = 64;

    /// How many they are.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether a node is one of them.
    #[must_use]
    pub fn has(self, node: u32) -> bool {
        node < Self::MOST && self.0 & (1 << node) != 0
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of the other ones are among them.
    #[must_use]
    pub fn include(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether they are fewer, or as many with lower numbers.
    #[must_use]
    pub fn is_narrower_than(self, other: Self) -> bool {
        (self.count(), self.0) < (other.count(), other.0)
    }

    /// Their numbers.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..Self::MOST).filter(move |node| self.has(*node))
    }

    /// All sets of some of them, smaller ones first.
    #[must_use]
    pub fn subsets(self) -> Vec<Self> {
        let mut all = Vec::new();
        // Each subset is the one before, counted up in the bits of the whole.
        let mut subset = 0u64;
        loop {
            subset = subset.wrapping_sub(self.0) & self.0;
            if subset == 0 {
                break;
            }
            all.push(Self(subset));
        }
        all.sort_by_key(|nodes| (nodes.count(), nodes.0));
        all
    }
}

impl FromIterator<u32> for Nodes {
    fn from_iter<T: IntoIterator<Item = u32>>(all: T) -> Self {
        let all = all.into_iter().filter(|node| *node < Self::MOST);
        Self(all.fold(0, |bits, node| bits | 1 << node))
    }
}

/// As the kernel writes it: `0-1,3`.
impl std::fmt::Display for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set: CpuSet = self.iter().collect();
        set.fmt(f)
    }
}

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Its memory in bytes, huge pages among it.
    pub memory: u64,
    /// Bytes of huge pages, by the API's names of resources.
    pub huge_pages: BTreeMap<String, u64>,
    /// How far other nodes are, by their numbers.
    pub distances: BTreeMap<u32, u64>,
}

/// The NUMA nodes of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine(pub BTreeMap<u32, Node>);

impl Machine {
    /// This machine's, from the kernel's folder. A kernel without NUMA has one node with everything,
    /// of which `memory` bytes are memory.
    ///
    /// # Errors
    /// The kernel's files cannot be understood.
    pub fn read(root: &Path, cpus: &CpuSet, memory: u64) -> Result<Self, String> {
        let online = root.join("online");
        let online = match std::fs::read_to_string(&online) {
            Ok(online) => online,
            Err(e) if crate::folder::is_absent(&e) => {
                let node = Node {
                    cpus: cpus.clone(),
                    memory,
                    distances: [(0, 10)].into(),
                    ..Node::default()
                };
                return Ok(Self([(0, node)].into()));
            }
            Err(e) => return Err(format!("{}: {e}", online.display())),
        };
        // The kernel writes nodes as it does CPUs.
        let online: CpuSet = online.parse()?;
        let all: Vec<u32> = online.0.into_iter().collect();
        let read = |node: &u32| Ok((*node, read_node(&root.join(format!("node{node}")), &all)?));
        all.iter()
            .map(read)
            .collect::<Result<_, String>>()
            .map(Self)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Nodes {
        self.0.keys().copied().collect()
    }

    /// The CPUs of some nodes.
    #[must_use]
    pub fn cpus_of(&self, nodes: Nodes) -> CpuSet {
        let mut all = CpuSet::default();
        let of = self.0.iter().filter(|(number, _)| nodes.has(**number));
        of.for_each(|(_, node)| all.add(&node.cpus));
        all
    }

    /// How far nodes are from one another on average, in thousandths of the kernel's distances.
    #[must_use]
    pub fn distance(&self, nodes: Nodes) -> u64 {
        let of = |from: u32, to: u32| {
            let node = self.0.get(&from);
            node.and_then(|n| n.distances.get(&to))
                .copied()
                .unwrap_or(0)
        };
        let pairs = nodes
            .iter()
            .flat_map(|a| nodes.iter().map(move |b| of(a, b)));
        let count = u64::from(nodes.count()).pow(2);
        let sum: u64 = pairs.sum();
        (sum * 1000).checked_div(count).unwrap_or(0)
    }
}

fn read_node(dir: &Path, all: &[u32]) -> Result<Node, String> {
    let text = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let distances: Vec<u64> = text("distance")?
        .split_whitespace()
        .map(|d| d.parse().map_err(|_| format!("{d:?} is not a distance")))
        .collect::<Result<_, _>>()?;
    Ok(Node {
        cpus: text("cpulist")?.parse()?,
        memory: total(&text("meminfo")?)?,
        huge_pages: huge_pages(&dir.join("hugepages")),
        distances: all.iter().copied().zip(distances).collect(),
    })
}

/// Of lines such as `Node 0 MemTotal: 16 kB`.
fn total(meminfo: &str) -> Result<u64, String> {
    let line = meminfo.lines().find_map(|l| l.split_once("MemTotal:"));
    let kib = line.and_then(|(_, v)| v.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let bytes = kib.and_then(|k| k.checked_mul(1024));
    bytes.ok_or_else(|| "the kernel does not say how much memory a NUMA node has".into())
}

/// Folders such as `hugepages-2048kB`; a kernel without huge pages has none.
pub(crate) fn huge_pages(dir: &Path) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for entry in crate::folder::entries_or_none(dir) {
        let name = crate::folder::name(&entry);
        let size = name
            .strip_prefix("hugepages-")
            .and_then(|n| n.strip_suffix("kB"));
        let Some(kib) = size.and_then(|s| s.parse::<u64>().ok()) else {
            continue;
        };
        let file = entry.join("nr_hugepages");
        let count = std::fs::read_to_string(&file).map_err(|e| e.to_string());
        let count = count.and_then(|c| c.trim().parse::<u64>().map_err(|e| e.to_string()));
        let count = count.unwrap_or_else(|error| {
            let file = file.display();
            tracing::warn!(%file, %error, "how many huge pages there are cannot be read: none");
            0
        });
        let bytes = kib.saturating_mul(1024);
        let signed = i64::try_from(bytes).unwrap_or(i64::MAX);
        let resource = format!("hugepages-{}", api::Quantity::from_bytes(signed));
        all.insert(resource, count.saturating_mul(bytes));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_nodes_are_compared_by_their_size_first() {
        let set = |nodes: &[u32]| nodes.iter().copied().collect::<Nodes>();
        assert_eq!(set(&[0, 1, 3]).to_string(), "0-1,3");
        let all: Vec<String> = set(&[0, 2, 5])
            .subsets()
            .iter()
            .map(Nodes::to_string)
            .collect();
        assert_eq!(all, ["0", "2", "5", "0,2", "0,5", "2,5", "0,2,5"]);
        assert_eq!(set(&[]).subsets(), []);
        assert!(set(&[5]).is_narrower_than(set(&[0, 1])));
        assert!(set(&[0, 1]).is_narrower_than(set(&[0, 2])));
        assert!(set(&[0, 1]).include(set(&[1])) && !set(&[0]).include(set(&[1])));
        assert_eq!(set(&[0, 1]).and(set(&[1, 2])), set(&[1]));
        assert_eq!(set(&(0..64).collect::<Vec<_>>()).count(), 64);
    }

    #[test]
    fn a_machine_is_read_from_its_folders() {
        let dir = tempfile::tempdir().unwrap();
        let cpus: CpuSet = "0-3".parse().unwrap();
        let whole = Machine::read(dir.path(), &cpus, 7).unwrap();
        assert_eq!(
            (whole.all().to_string().as_str(), whole.0[&0].memory),
            ("0", 7)
        );
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("online", "0-1\n");
        for node in 0..2 {
            let other = if node == 0 { "10 20\n" } else { "20 10\n" };
            put(&format!("node{node}/distance"), other);
            put(
                &format!("node{node}/cpulist"),
                &format!("{}-{}\n", node * 2, node * 2 + 1),
            );
            put(
                &format!("node{node}/meminfo"),
                &format!("Node {node} MemTotal:  2048 kB\n"),
            );
            put(
                &format!("node{node}/hugepages/hugepages-2048kB/nr_hugepages"),
                "3\n",
            );
        }
        let read = Machine::read(dir.path(), &cpus, 7).unwrap();
        assert_eq!(read.cpus_of([1].into_iter().collect()).to_string(), "2-3");
        let first = &read.0[&0];
        assert_eq!(
            (first.memory, first.huge_pages["hugepages-2Mi"]),
            (2 << 20, 6 << 20)
        );
        assert_eq!(read.distance(read.all()), 15_000);
        assert_eq!(read.distance([0].into_iter().collect()), 10_000);
        put("node1/meminfo", "nothing\n");
        assert!(Machine::read(dir.path(), &cpus, 7).is_err());
        // What cannot be read does not say that there are no nodes.
        let online = dir.path().join("online");
        std::fs::remove_file(&online).unwrap();
        std::fs::create_dir(&online).unwrap();
        assert!(Machine::read(dir.path(), &cpus, 7).is_err());
    }
}
