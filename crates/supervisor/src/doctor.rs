//! What this machine lacks to run a cluster, and how to get it. Looking is apart from judging.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What was found on the machine.
#[derive(Clone, Debug, Default)]
pub struct MachineFacts {
    pub root: bool,
    /// Effective capabilities, as a bit set.
    pub capabilities: u64,
    /// Kinds of namespace the kernel has (`net`, `pid`, …).
    pub namespaces: Vec<String>,
    pub filesystems: Vec<String>,
    pub cgroup_hierarchies: usize,
    /// Programs that are on the PATH.
    pub programs: Vec<String>,
    pub nf_tables: bool,
    /// What bridges carry can be led by rules.
    pub br_netfilter: bool,
    pub etcd: bool,
    /// Bytes.
    pub memory: u64,
    pub disk_free: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No node can run without it.
    Missing,
    /// Something will work less well.
    Weak,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    pub remedy: String,
}

/// Programs that a node runs, with Debian's package.
pub const PROGRAMS: [(&str, &str); 3] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
];

/// The variable that names the etcd binary where it is not on the PATH.
pub const ETCD_VARIABLE: &str = "TIPHYS_ETCD";
/// How to get etcd.
pub const ETCD_REMEDY: &str = "no etcd binary was found; name one in $TIPHYS_ETCD, or put it on the PATH (`cargo xtask up --servers 3` gets it; Debian's package is etcd-server, 3.5 or newer)";

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
/// A control plane, a node and a few small pods.
const LEAST_MEMORY: u64 = 512 << 20;
/// Images of the demo, twice, and room for logs.
const LEAST_DISK: u64 = 1 << 30;

/// Judges what was seen.
pub fn findings(seen: &MachineFacts) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut add = |level, what: String, remedy: &str| {
        out.push(Finding {
            level,
            what,
            remedy: remedy.to_owned(),
        });
    };
    if !seen.root {
        add(
            Level::Missing,
            "not running as root".into(),
            "run as root (sudo); `tiphys server` alone needs no root",
        );
    }
    let has = |cap: u32| seen.capabilities & (1 << cap) != 0;
    for (cap, name) in [
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
    ] {
        if seen.root && !has(cap) {
            add(
                Level::Missing,
                format!("no {name}: namespaces, mounts and links cannot be made"),
                "run outside of a restricted container",
            );
        }
    }
    if !has(CAP_SYS_RESOURCE) && seen.root {
        add(
            Level::Weak,
            "no CAP_SYS_RESOURCE: OOM priorities and raised limits are left as they are".into(),
            "nothing to do; important pods are not favoured when memory runs out",
        );
    }
    for kind in ["net", "mnt", "pid", "uts", "ipc"] {
        if !seen.namespaces.iter().any(|n| n == kind) {
            add(
                Level::Missing,
                format!("the kernel has no {kind} namespaces"),
                "use a kernel with namespaces",
            );
        }
    }
    if !seen.filesystems.iter().any(|f| f == "overlay") {
        add(
            Level::Missing,
            "the kernel has no overlay file system".into(),
            "modprobe overlay",
        );
    }
    if seen.cgroup_hierarchies == 0 {
        add(
            Level::Missing,
            "no cgroup hierarchy is mounted".into(),
            "mount -t cgroup2 none /sys/fs/cgroup",
        );
    }
    if !seen.nf_tables {
        add(
            Level::Missing,
            "the kernel has no nftables".into(),
            "modprobe nf_tables",
        );
    }
    for (program, package) in PROGRAMS {
        if !seen.programs.iter().any(|p| p == program) {
            add(
                Level::Missing,
                format!("{program} is not on the PATH"),
                &format!("apt-get install --no-remove {package}"),
            );
        }
    }
    if !seen.br_netfilter {
        add(
            Level::Weak,
            "no br_netfilter: with network plugins of others that join pods by a bridge, Services \
             and network policies miss what goes from pod to pod on one node"
                .into(),
            "modprobe br_netfilter; Tiphys' own network does without",
        );
    }
    if !seen.etcd {
        add(
            Level::Weak,
            "no etcd: `up --servers 3` will not run; one server needs none".into(),
            ETCD_REMEDY,
        );
    }
    if seen.memory < LEAST_MEMORY {
        add(
            Level::Weak,
            format!("{} MiB of memory is little", seen.memory >> 20),
            "512 MiB or more",
        );
    }
    if seen.disk_free < LEAST_DISK {
        add(
            Level::Weak,
            format!("{} MiB of disk is little", seen.disk_free >> 20),
            "1 GiB or more on the data directory",
        );
    }
    out
}

/// The file of a program on the PATH, or in the folders where a root shell may not look.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The etcd binary: as the environment names it, or on the PATH.
pub fn find_etcd() -> Option<PathBuf> {
    match std::env::var_os(ETCD_VARIABLE) {
        Some(named) => Some(PathBuf::from(named)).filter(|f| f.is_file()),
        None => find_program("etcd"),
    }
}

/// Looks at the machine; `data` is the data directory or one above it that exists.
pub fn look(data: &Path) -> MachineFacts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:\t"))
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
        .unwrap_or(0);
    let names = |dir: &str| -> Vec<String> {
        let Ok(entries) = fs::read_dir(dir) else {
            return Vec::new();
        };
        entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect()
    };
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    MachineFacts {
        root: rustix::process::geteuid().is_root(),
        capabilities,
        namespaces: names("/proc/self/ns"),
        filesystems: filesystems
            .lines()
            .filter_map(|l| l.split('\t').nth(1))
            .map(str::to_owned)
            .collect(),
        cgroup_hierarchies: crate::boot::hierarchies().len(),
        programs: PROGRAMS
            .iter()
            .map(|(p, _)| *p)
            .filter(|p| find_program(p).is_some())
            .map(str::to_owned)
            .collect(),
        nf_tables: Path::new("/proc/sys/net/netfilter").exists()
            || Path::new("/sys/module/nf_tables").exists(),
        br_netfilter: Path::new("/proc/sys/net/bridge").exists(),
        etcd: find_etcd().is_some(),
        memory: memory_bytes(),
        disk_free: disk_free(data),
    }
}

/// The machine's memory in bytes.
pub fn memory_bytes() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    info.lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|v| v.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

fn disk_free(data: &Path) -> u64 {
    let existing = data.ancestors().find(|p| p.exists());
    existing
        .and_then(|p| rustix::fs::statvfs(p).ok())
        .map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> MachineFacts {
        MachineFacts {
            root: true,
            capabilities: u64::MAX,
            namespaces: ["net", "mnt", "pid", "uts", "ipc"]
                .map(str::to_owned)
                .to_vec(),
            filesystems: vec!["overlay".into()],
            cgroup_hierarchies: 1,
            programs: PROGRAMS.iter().map(|(p, _)| (*p).to_owned()).collect(),
            nf_tables: true,
            br_netfilter: true,
            etcd: true,
            memory: 8 << 30,
            disk_free: 8 << 30,
        }
    }

    fn what(seen: &MachineFacts) -> Vec<(Level, String)> {
        findings(seen)
            .into_iter()
            .map(|f| (f.level, f.what))
            .collect()
    }

    #[test]
    fn an_able_machine_lacks_nothing() {
        assert_eq!(what(&able()), []);
    }

    #[test]
    fn each_lack_is_named() {
        let mut seen = able();
        seen.programs.retain(|p| p != "runc");
        seen.filesystems.clear();
        seen.capabilities = !(1 << CAP_SYS_RESOURCE);
        let found = what(&seen);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.contains(&(Level::Missing, "runc is not on the PATH".into())));
        assert!(found.iter().any(|(l, _)| *l == Level::Weak));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let seen = look(Path::new("/nonexistent/data"));
        assert!(seen.memory > 0 && seen.disk_free > 0);
    }
}
