//! Control groups of both kinds: which kind this machine has, groups for pods with their
//! limits, and what a group has used.
//!
//! Paths are as CRI's cgroupfs driver wants them: absolute below every controller's root,
//! such as `/tiphys/node-1/kubepods/burstable/pod<uid>`.

mod folder;
mod group;
mod oom;
mod stats;

pub use group::Group;
pub use oom::OomScores;
pub use stats::{
    Descriptors, DeviceUse, HugePages, IoCost, Lost, Pressure, Pressures, Stats, TaskStates,
    descriptors, of_machine as machine_pressure,
};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel's control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Version 1 writes "no limit" as a number close to `i64::MAX`, rounded to pages.
const NO_LIMIT: u64 = 1 << 62;
/// The controllers of version 1 in which a pod gets a group. The others are the runtime's.
const V1_CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

/// Limits of a group. Absent means: leave as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight in version 1's words (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; negative: no limit.
    pub cpu_quota: Option<i64>,
    /// Length of the period in microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<i64>,
    /// Number of processes and threads.
    pub pids: Option<i64>,
}

/// The control groups of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// One tree per controller.
    V1 {
        /// Folder that holds the controllers' trees.
        root: PathBuf,
    },
    /// One tree for all.
    V2 {
        /// Root of the tree.
        root: PathBuf,
    },
}

impl Hierarchy {
    /// Looks at what is mounted. A hybrid machine counts as version 1: there the controllers
    /// belong to the old trees.
    #[must_use]
    pub fn probe() -> Self {
        Self::probe_at(Path::new(ROOT))
    }

    /// A machine without control groups, which limits nothing: an empty folder.
    #[must_use]
    pub fn none(folder: &Path) -> Self {
        Self::V1 {
            root: folder.to_path_buf(),
        }
    }

    fn probe_at(root: &Path) -> Self {
        let root = root.to_path_buf();
        if root.join("cgroup.controllers").exists() {
            Self::V2 { root }
        } else {
            Self::V1 { root }
        }
    }

    /// 1 or 2.
    #[must_use]
    pub fn version(&self) -> u8 {
        match self {
            Self::V1 { .. } => 1,
            Self::V2 { .. } => 2,
        }
    }

    /// Folder of a group under one controller (version 2 has one for all).
    #[must_use]
    pub fn folder(&self, controller: &str, group: &str) -> PathBuf {
        let group = group.trim_start_matches('/');
        match self {
            Self::V1 { root } => root.join(controller).join(group),
            Self::V2 { root } => root.join(group),
        }
    }

    fn folders(&self, group: &str) -> Vec<PathBuf> {
        match self {
            Self::V1 { root } => V1_CONTROLLERS
                .iter()
                .filter(|c| root.join(c).is_dir())
                .map(|c| self.folder(c, group))
                .collect(),
            Self::V2 { .. } => vec![self.folder("", group)],
        }
    }

    /// Whether the group exists (under memory or, where that is absent, under any controller).
    #[must_use]
    pub fn exists(&self, group: &str) -> bool {
        self.folders(group).iter().any(|f| f.is_dir())
    }

    /// Makes a group and those above it, and sets its limits.
    pub fn create(&self, group: &str, limits: &Limits) -> io::Result<()> {
        match self {
            Self::V1 { root } => self.create_v1(root, group)?,
            Self::V2 { root } => create_v2(root, group)?,
        }
        self.set(group, limits)
    }

    fn create_v1(&self, root: &Path, group: &str) -> io::Result<()> {
        for folder in self.folders(group) {
            fs::create_dir_all(folder)?;
        }
        inherit_cpuset(&root.join("cpuset"), group)
    }

    /// Sets limits of an existing group.
    pub fn set(&self, group: &str, limits: &Limits) -> io::Result<()> {
        for (file, value) in self.writes(group, limits) {
            match fs::write(&file, value) {
                Ok(()) => {}
                // A controller that this machine does not have cannot limit anything.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", file.display()))),
            }
        }
        Ok(())
    }

    /// What must be written where.
    fn writes(&self, group: &str, l: &Limits) -> Vec<(PathBuf, String)> {
        let mut out = Vec::new();
        match self {
            Self::V1 { .. } => {
                let mut put = |controller: &str, file: &str, value: Option<String>| {
                    out.extend(value.map(|v| (self.folder(controller, group).join(file), v)));
                };
                put("cpu", "cpu.shares", l.cpu_shares.map(|v| v.to_string()));
                put(
                    "cpu",
                    "cpu.cfs_period_us",
                    l.cpu_period.map(|v| v.to_string()),
                );
                put(
                    "cpu",
                    "cpu.cfs_quota_us",
                    l.cpu_quota.map(|v| v.to_string()),
                );
                put(
                    "memory",
                    "memory.limit_in_bytes",
                    l.memory_bytes.map(|v| v.to_string()),
                );
                put("pids", "pids.max", l.pids.map(or_max));
            }
            Self::V2 { .. } => {
                let folder = self.folder("", group);
                let mut put = |file: &str, value: Option<String>| {
                    out.extend(value.map(|v| (folder.join(file), v)));
                };
                put("cpu.weight", l.cpu_shares.map(|v| weight(v).to_string()));
                let period = l.cpu_period.unwrap_or(100_000);
                put(
                    "cpu.max",
                    l.cpu_quota.map(|q| format!("{} {period}", or_max(q))),
                );
                put("memory.max", l.memory_bytes.map(or_max));
                put("pids.max", l.pids.map(or_max));
            }
        }
        out
    }

    /// Removes a group and those below it, where nothing runs in them any more. By its folder of memory a
    /// group is found again ([`Self::children`]): that one goes when all others have gone.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        let found_by = self.folder("memory", group);
        let mut folders = self.all_folders(group);
        folders.retain(|folder| *folder != found_by);
        let others = folders.iter().map(|folder| remove_tree(folder));
        // Each of them is tried.
        others.fold(Ok(()), io::Result::and)?;
        remove_tree(&found_by)
    }

    /// Kills whatever runs in a group and below it, at once; how many processes that were.
    pub fn kill(&self, group: &str) -> usize {
        let name = group.rsplit('/').next().unwrap_or_default();
        crate::process::kill_in_group(&self.group(group).processes(), name)
    }

    /// The group's folder under every controller that is mounted, also those that the runtime
    /// fills (devices, freezer, blkio and the like).
    fn all_folders(&self, group: &str) -> Vec<PathBuf> {
        match self {
            Self::V1 { root } => fs::read_dir(root)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                .map(|e| e.path().join(group.trim_start_matches('/')))
                .filter(|f| f.is_dir())
                .collect(),
            Self::V2 { .. } => vec![self.folder("", group)],
        }
    }

    /// Names of the groups directly below `group`.
    #[must_use]
    pub fn children(&self, group: &str) -> Vec<String> {
        fs::read_dir(self.folder("memory", group))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// A group, to read several things of it, or of those below it.
    #[must_use]
    pub fn group(&self, group: &str) -> Group<'_> {
        Group::new(self, None, group)
    }

    /// The limits that the kernel has for a group, as [`Group::limits`].
    #[must_use]
    pub fn limits(&self, group: &str) -> Option<Limits> {
        self.group(group).limits()
    }

    /// Has the kernel count reads and writes of the disk that a path lies on. Version 1 counts them for
    /// a disk since somebody spoke of limits of it, on newer kernels; so the top group gets a limit of
    /// zero, which is none. Version 2 counts always.
    pub fn count_io(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let Self::V1 { root } = self else {
            return Ok(());
        };
        let (major, minor) = crate::mounts::device_numbers(fs::metadata(path)?.dev());
        let device = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
        // Of a partition its disk.
        let whole = match device.join("partition").exists() {
            true => fs::read_to_string(fs::canonicalize(&device)?.join("../dev"))?,
            false => format!("{major}:{minor}"),
        };
        let file = root.join("blkio/blkio.throttle.write_bps_device");
        fs::write(file, format!("{} 0", whole.trim()))
    }

    /// What a group and those below it have used, as [`Group::stats`].
    #[must_use]
    pub fn stats(&self, group: &str) -> Option<Stats> {
        self.group(group).stats()
    }
}

fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

/// Version 1's shares (2 to 262144) as version 2's weight (1 to 10000), linearly as runc does.
#[must_use]
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A new group of version 1 has no CPUs and no memory nodes until someone sets them; without
/// them no process can enter.
fn inherit_cpuset(root: &Path, group: &str) -> io::Result<()> {
    let mut folder = root.to_path_buf();
    if !folder.is_dir() {
        return Ok(());
    }
    for part in group.split('/').filter(|p| !p.is_empty()) {
        let parent = folder.clone();
        folder.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = fs::read_to_string(folder.join(file))?;
            if own.trim().is_empty() {
                fs::write(
                    folder.join(file),
                    fs::read_to_string(parent.join(file))?.trim(),
                )?;
            }
        }
    }
    Ok(())
}

/// Makes the folders one by one and hands the controllers down.
fn create_v2(root: &Path, group: &str) -> io::Result<()> {
    let mut folder = root.to_path_buf();
    for part in group.split('/').filter(|p| !p.is_empty()) {
        for controller in ["+cpu", "+cpuset", "+memory", "+pids", "+hugetlb", "+io"] {
            // One that is absent or cannot be handed down limits nothing below.
            let _ = fs::write(folder.join("cgroup.subtree_control"), controller);
        }
        folder.push(part);
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_in_the_words_of_each_version() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_bytes: Some(64 << 20),
            pids: Some(-1),
        };
        let v2 = Hierarchy::V2 { root: "/r".into() };
        let lines: Vec<String> = v2
            .writes("/a", &limits)
            .iter()
            .map(|(f, v)| format!("{} {v}", f.display()))
            .collect();
        expect_test::expect![[r#"
            /r/a/cpu.weight 39
            /r/a/cpu.max 50000 100000
            /r/a/memory.max 67108864
            /r/a/pids.max max"#]]
        .assert_eq(&lines.join("\n"));
        let v1 = Hierarchy::V1 { root: "/r".into() };
        let first = &v1.writes("/a", &limits)[0];
        assert_eq!(
            (first.0.to_str(), first.1.as_str()),
            (Some("/r/cpu/a/cpu.shares"), "1024")
        );
    }

    /// A resize, as the kubelet does it, on a tree of version 2: the group is widened, then
    /// narrowed, and what it has is read back in the same words.
    #[test]
    fn a_group_of_version_2_is_resized_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        let tree = Hierarchy::probe_at(dir.path());
        let small = Limits {
            cpu_shares: Some(102),
            cpu_quota: Some(20_000),
            cpu_period: Some(100_000),
            memory_bytes: Some(32 << 20),
            pids: None,
        };
        tree.create("/kubepods/podu", &small).unwrap();
        let file = |name: &str| {
            let text = fs::read_to_string(dir.path().join("kubepods/podu").join(name));
            text.unwrap_or_default()
        };
        let handed = dir.path().join("kubepods/cgroup.subtree_control");
        assert_eq!(fs::read_to_string(handed).unwrap(), "+io");
        let has = |tree: &Hierarchy| {
            let l = tree.limits("/kubepods/podu").unwrap();
            (l.cpu_quota, l.cpu_period, l.memory_bytes)
        };
        assert_eq!(has(&tree), (Some(20_000), Some(100_000), Some(32 << 20)));
        assert_eq!(file("cpu.weight"), weight(102).to_string());
        // Without a limit: said in so many words, or the old one would stay.
        let free = Limits {
            cpu_quota: Some(-1),
            memory_bytes: Some(-1),
            ..small
        };
        tree.set("/kubepods/podu", &free).unwrap();
        assert_eq!(
            (file("cpu.max"), file("memory.max")),
            ("max 100000".into(), "max".into())
        );
        assert_eq!(has(&tree), (None, Some(100_000), None));
        let large = Limits {
            cpu_shares: Some(2048),
            cpu_quota: Some(200_000),
            memory_bytes: Some(64 << 20),
            ..small
        };
        tree.set("/kubepods/podu", &large).unwrap();
        assert_eq!(file("cpu.weight"), "79");
        assert_eq!(has(&tree), (Some(200_000), Some(100_000), Some(64 << 20)));
    }

    #[test]
    fn the_limit_of_swap_is_read_of_either_version() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let v1 = Hierarchy::V1 {
            root: dir.path().into(),
        };
        put("memory/g/memory.limit_in_bytes", "100\n");
        assert_eq!(v1.group("/g").swap_limit(), None);
        put("memory/g/memory.memsw.limit_in_bytes", "130\n");
        assert_eq!(v1.group("/g").swap_limit(), Some(30));
        put(
            "memory/g/memory.memsw.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(v1.group("/g").swap_limit(), None);
        let v2 = Hierarchy::V2 {
            root: dir.path().into(),
        };
        put("g/memory.swap.max", "0\n");
        assert_eq!(v2.group("/g").swap_limit(), Some(0));
        put("g/memory.swap.max", "max\n");
        assert_eq!(v2.group("/g").swap_limit(), None);
    }

    #[test]
    fn the_folder_by_which_a_group_is_found_goes_last() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let v1 = Hierarchy::V1 {
            root: dir.path().into(),
        };
        fs::create_dir_all(at("memory/pods/podx/c")).unwrap();
        fs::create_dir_all(at("cpu/pods/podx")).unwrap();
        // What is in it keeps a folder, as a process does.
        fs::write(at("cpu/pods/podx/busy"), "").unwrap();
        assert!(v1.remove("/pods/podx").is_err());
        assert_eq!(v1.children("/pods"), ["podx"]);
        fs::remove_file(at("cpu/pods/podx/busy")).unwrap();
        v1.remove("/pods/podx").unwrap();
        assert!(v1.children("/pods").is_empty() && !at("cpu/pods/podx").exists());
    }

    #[test]
    fn the_kind_is_seen_from_the_mounts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Hierarchy::probe_at(dir.path()).version(), 1);
        fs::write(dir.path().join("cgroup.controllers"), "cpu").unwrap();
        assert_eq!(Hierarchy::probe_at(dir.path()).version(), 2);
    }
}
