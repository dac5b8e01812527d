//! What this machine has: CPUs, memory, disk, kernel, identity.

use crate::config::Config;
use crate::eviction::thresholds::Resource;
use crate::metrics::files;
use crate::topology::nodes::huge_pages;
use host::mounts::FsUsage;
use k8s_openapi::api::core::v1::Node;
use std::collections::BTreeMap;
use std::path::Path;

/// What the node declares to have, and what it keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in thousandths.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Local storage in bytes.
    pub storage_bytes: u64,
    /// The most pods.
    pub pods: u64,
    /// CPU that pods do not get.
    pub reserved_cpu_millis: u64,
    /// Memory that pods do not get, the eviction threshold included.
    pub reserved_memory_bytes: u64,
    /// Local storage that pods do not get, the eviction threshold included.
    pub reserved_storage_bytes: u64,
    /// Bytes of huge pages, by the API's names of resources: of what memory they are made, nothing
    /// else gets.
    pub huge_pages: BTreeMap<String, u64>,
}

/// As many pods as upstream allows by default.
pub const DEFAULT_PODS: u64 = 110;

impl Resources {
    /// The declared values, and the machine's where nothing is declared.
    #[must_use]
    pub fn read(config: &Config) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let declared = &config.capacity;
        let disk = host::mounts::fs_usage(&config.root_dir).unwrap_or_else(|error| {
            if declared.ephemeral_storage_bytes.is_none() {
                let folder = config.root_dir.display();
                tracing::error!(%folder, %error, "how large the disk is cannot be read: no pod that asks for some gets any");
            }
            FsUsage::default()
        });
        let memory_bytes = declared.memory_bytes.unwrap_or_else(|| memory().total);
        let storage_bytes = declared
            .ephemeral_storage_bytes
            .unwrap_or(disk.capacity_bytes);
        let kept = |resource, whole| {
            let threshold = config.eviction.hard.get(resource);
            threshold.map_or(0, |t| t.of(whole))
        };
        let cpu_millis = declared.cpu_millis.unwrap_or(cpus * 1000);
        let most_pods = declared.pods.unwrap_or(DEFAULT_PODS);
        Self {
            cpu_millis,
            memory_bytes,
            storage_bytes,
            pods: match config.pods_per_core {
                None => most_pods,
                Some(each) => most_pods.min(cpu_millis / 1000 * each),
            },
            reserved_cpu_millis: config.reserved.cpu_millis,
            reserved_memory_bytes: config.reserved.memory_bytes
                + kept(Resource::Memory, memory_bytes),
            reserved_storage_bytes: config.reserved.storage_bytes
                + kept(Resource::NodeFs, storage_bytes),
            // They are part of the machine's memory: who declares another amount has none of them.
            huge_pages: match declared.memory_bytes {
                Some(_) => BTreeMap::new(),
                None => huge_pages(Path::new(HUGE_PAGES)),
            },
        }
    }

    /// CPU for pods in thousandths.
    #[must_use]
    pub fn allocatable_cpu_millis(&self) -> u64 {
        self.cpu_millis.saturating_sub(self.reserved_cpu_millis)
    }

    /// Memory for pods in bytes.
    #[must_use]
    pub fn allocatable_memory_bytes(&self) -> u64 {
        let pages = self.huge_pages.values().copied();
        let kept = pages.fold(self.reserved_memory_bytes, u64::saturating_add);
        self.memory_bytes.saturating_sub(kept)
    }

    /// Local storage for pods in bytes.
    #[must_use]
    pub fn allocatable_storage_bytes(&self) -> u64 {
        self.storage_bytes
            .saturating_sub(self.reserved_storage_bytes)
    }

    /// What pods can have, in numbers: CPU in thousandths, all else in whole units. Resources that
    /// others declared in the node's object count too.
    #[must_use]
    pub fn table(&self, node: &Node) -> BTreeMap<String, i64> {
        let most = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
        let of_node = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        let mut out: BTreeMap<String, i64> = of_node
            .into_iter()
            .flatten()
            .filter_map(|(name, q)| Some((name.clone(), crate::quantity::units(&q.0)?)))
            .collect();
        for (name, has) in [
            ("cpu", self.allocatable_cpu_millis()),
            ("memory", self.allocatable_memory_bytes()),
            ("ephemeral-storage", self.allocatable_storage_bytes()),
            ("pods", self.pods),
        ] {
            out.insert(name.to_owned(), most(has));
        }
        let pages = self.huge_pages.iter();
        out.extend(pages.map(|(name, has)| (name.clone(), most(*has))));
        out
    }

    /// Capacity in the API's words.
    #[must_use]
    pub fn capacity(&self) -> BTreeMap<String, String> {
        let (memory, storage) = (self.memory_bytes, self.storage_bytes);
        self.words(self.cpu_millis, memory, storage)
    }

    /// What pods can have in the API's words.
    #[must_use]
    pub fn allocatable(&self) -> BTreeMap<String, String> {
        let storage = self.allocatable_storage_bytes();
        let (cpu, memory) = (
            self.allocatable_cpu_millis(),
            self.allocatable_memory_bytes(),
        );
        let mut out = self.words(cpu, memory, 0);
        out.insert("ephemeral-storage".into(), storage.to_string());
        out
    }

    fn words(&self, cpu_millis: u64, memory: u64, storage: u64) -> BTreeMap<String, String> {
        let cpu = if cpu_millis.is_multiple_of(1000) {
            (cpu_millis / 1000).to_string()
        } else {
            format!("{cpu_millis}m")
        };
        let fixed = [
            ("cpu", cpu),
            ("memory", format!("{}Ki", memory / 1024)),
            ("ephemeral-storage", format!("{}Ki", storage / 1024)),
            ("pods", self.pods.to_string()),
            ("hugepages-1Gi", "0".into()),
            ("hugepages-2Mi", "0".into()),
        ];
        let fixed = fixed.into_iter().map(|(k, v)| (k.to_owned(), v));
        let bytes = |v: u64| api::Quantity::from_bytes(i64::try_from(v).unwrap_or(i64::MAX));
        let pages = self.huge_pages.iter();
        let pages = pages.map(|(name, has)| (name.clone(), bytes(*has).to_string()));
        fixed.chain(pages).collect()
    }
}

/// Where the kernel says which huge pages there are.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

/// Memory of the machine in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In all.
    pub total: u64,
    /// What could be used without swapping.
    pub available: u64,
    /// Swap in all.
    pub swap: u64,
    /// Swap that is not in use.
    pub swap_free: u64,
}

/// Reads the kernel's table.
#[must_use]
pub fn memory() -> Memory {
    let text = files::text(Path::new("/proc/meminfo"), "meminfo");
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|v| v.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    Memory {
        total: field("MemTotal"),
        available: field("MemAvailable"),
        swap: field("SwapTotal"),
        swap_free: field("SwapFree"),
    }
}

/// Processes and threads: how many there are and can be.
#[must_use]
pub fn pids() -> (u64, u64) {
    let number = |name: &'static str| {
        let text = files::text(&Path::new("/proc/sys/kernel").join(name), name);
        text.trim().parse::<u64>().unwrap_or(u64::MAX)
    };
    let most = number("pid_max").min(number("threads-max"));
    let load = files::text(Path::new("/proc/loadavg"), "loadavg");
    let now = load
        .split(' ')
        .nth(3)
        .and_then(|f| f.split_once('/'))
        .and_then(|(_, all)| all.parse().ok());
    (now.unwrap_or(0), most)
}

/// The line of a file that not every machine has; empty where it is not there, or cannot be read.
/// `name`: what it is called in figures.
fn line(path: &str, name: &'static str) -> String {
    let text = files::if_there(Path::new(path), name);
    text.unwrap_or_default().trim().to_owned()
}

/// Identity of the machine and its software.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's id.
    pub system_uuid: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Name of the distribution.
    pub os_image: String,
    /// Bytes of swap.
    pub swap: u64,
}

impl Identity {
    /// Reads it, with what the configuration overrides.
    #[must_use]
    pub fn read(config: &Config) -> Self {
        let machine_id = config
            .machine_id
            .clone()
            .unwrap_or_else(|| line("/etc/machine-id", "machine-id"));
        let uuid = line("/sys/class/dmi/id/product_uuid", "product_uuid");
        Self {
            swap: memory().swap,
            system_uuid: if uuid.is_empty() {
                machine_id.clone()
            } else {
                uuid
            },
            machine_id,
            boot_id: config
                .boot_id
                .clone()
                .unwrap_or_else(|| line("/proc/sys/kernel/random/boot_id", "boot_id")),
            kernel: line("/proc/sys/kernel/osrelease", "osrelease"),
            os_image: os_image(Path::new("/etc/os-release")),
        }
    }
}

/// Whether what lies in memory may reach a disk all the same: the machine swaps, and its kernel cannot
/// keep a file system in memory from that. `release`: the kernel's own word, such as `6.1.0-9-amd64`.
#[must_use]
pub fn memory_may_reach_disk(swap: u64, release: &str) -> bool {
    let number = |part: Option<&str>| -> u32 {
        let digits = part.unwrap_or_default();
        let end = digits.find(|c: char| !c.is_ascii_digit());
        let digits = digits.get(..end.unwrap_or(digits.len()));
        digits.and_then(|d| d.parse().ok()).unwrap_or(0)
    };
    let mut parts = release.split('.');
    let version = (number(parts.next()), number(parts.next()));
    swap > 0 && version < (6, 4)
}

fn os_image(file: &Path) -> String {
    let text = files::if_there(file, "os-release").unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |v| v.trim_matches('"').to_owned())
}

/// Whether the kernel enforces AppArmor profiles.
#[must_use]
pub fn has_app_armor() -> bool {
    let text = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    text.is_ok_and(|t| t.starts_with('Y'))
        && std::path::Path::new("/sys/kernel/security/apparmor").is_dir()
}

/// Where the kernel says which processors there are.
const CPUS: &str = "/sys/devices/system/cpu";

/// What of the kernel decides how containers are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelTraits {
    /// It has SELinux, be it that it enforces or only notes: files that a container is to use need its
    /// label.
    pub selinux: bool,
    /// Folders by which a container would know what others make of the processors: how often these were
    /// too hot.
    pub throttle_counters: Vec<String>,
}

impl KernelTraits {
    /// Looks at the machine.
    #[must_use]
    pub fn read() -> Self {
        Self {
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            throttle_counters: throttle_counters(Path::new(CPUS)),
        }
    }
}

/// The kernel's folders that count how often each processor was slowed down for its heat, in order.
/// `cpus`: where it says which there are.
fn throttle_counters(cpus: &Path) -> Vec<String> {
    let of = |name: &str| {
        let number: u32 = name.strip_prefix("cpu")?.parse().ok()?;
        let folder = cpus.join(name).join("thermal_throttle");
        folder
            .is_dir()
            .then(|| (number, folder.to_string_lossy().into_owned()))
    };
    let names = crate::folder::entries_or_none(cpus).into_iter();
    let mut all: Vec<(u32, String)> = names
        .filter_map(|entry| of(&crate::folder::name(&entry)))
        .collect();
    all.sort_unstable();
    all.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn reservations_reduce_what_pods_get() {
        let r = Resources {
            cpu_millis: 1500,
            memory_bytes: 1 << 30,
            storage_bytes: 1000,
            pods: 10,
            reserved_cpu_millis: 500,
            reserved_memory_bytes: 100 << 20,
            reserved_storage_bytes: 100,
            huge_pages: BTreeMap::new(),
        };
        assert_eq!(r.capacity()["cpu"], "1500m");
        assert_eq!(r.allocatable()["cpu"], "1");
        assert_eq!(
            r.allocatable()["memory"],
            format!("{}Ki", ((1 << 30) - (100 << 20)) / 1024)
        );
        assert_eq!(r.allocatable()["ephemeral-storage"], "900");
    }
    #[test]
    fn kernels_before_6_4_may_swap_what_lies_in_memory() {
        for (release, want) in [
            ("5.15.0-91-generic", true),
            ("6.1.0-9-amd64", true),
            ("6.4.0", false),
            ("6.18.44-fc", false),
            ("7-rc1", false),
        ] {
            assert_eq!(memory_may_reach_disk(1, release), want, "{release}");
            assert!(!memory_may_reach_disk(0, release));
        }
    }
    #[test]
    fn counters_of_heat_are_found_for_each_processor_that_has_some() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [
            "cpu10/thermal_throttle",
            "cpu2/thermal_throttle",
            "cpu3",
            "cpufreq/thermal_throttle",
        ] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let all = throttle_counters(dir.path());
        let short: Vec<&str> = all.iter().map(|p| p.rsplit('/').nth(1).unwrap()).collect();
        assert_eq!(short, ["cpu2", "cpu10"]);
        assert!(throttle_counters(&dir.path().join("none")).is_empty());
    }
    #[test]
    fn huge_pages_are_taken_from_what_memory_pods_get() {
        let mut r = Resources {
            memory_bytes: 4 << 30,
            reserved_memory_bytes: 1 << 30,
            ..Default::default()
        };
        assert_eq!(r.capacity()["hugepages-2Mi"], "0");
        r.huge_pages.insert("hugepages-2Mi".into(), 1 << 30);
        r.huge_pages.insert("hugepages-32Mi".into(), 0);
        for words in [r.capacity(), r.allocatable()] {
            let of = |size: &str| words[&format!("hugepages-{size}")].clone();
            assert_eq!([of("2Mi"), of("1Gi"), of("32Mi")], ["1Gi", "0", "0"]);
        }
        assert_eq!(r.capacity()["memory"], "4194304Ki");
        assert_eq!(r.allocatable()["memory"], "2097152Ki");
        let table = r.table(&Node::default());
        assert_eq!(
            (table["hugepages-2Mi"], table["memory"]),
            (1 << 30, 2 << 30)
        );
    }
}
