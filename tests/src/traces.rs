//! What a cluster leaves on the machine: processes, links, cgroups, mounts, settings, nftables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::command;

/// Processes whose command line names the data directory.
pub fn processes(data: &Path) -> Vec<(u32, String)> {
    let needle = data.display().to_string();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid != std::process::id() && line.contains(&needle) {
            found.push((pid, line));
        }
    }
    found
}

/// By what the cluster of this data directory names its cgroups and links: the `x` of
/// `--cgroup=/tiphys-x/node`, as its running processes have it.
pub fn ids(data: &Path) -> BTreeSet<String> {
    let of_line = |line: String| {
        let rest = line.split("--cgroup=/tiphys-").nth(1)?.to_owned();
        rest.split('/').next().map(str::to_owned)
    };
    processes(data)
        .into_iter()
        .filter_map(|(_, line)| of_line(line))
        .collect()
}

/// Everything that is left of a cluster, one line each.
pub fn of(data: &Path, ids: &BTreeSet<String>) -> Vec<String> {
    let mut left: Vec<String> = processes(data)
        .into_iter()
        .map(|(pid, line)| format!("process {pid}: {line}"))
        .collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let needle = data.display().to_string();
    left.extend(
        mounts
            .lines()
            .filter(|l| l.contains(&needle))
            .map(|l| format!("mount {l}")),
    );
    for name in names_in("/sys/class/net") {
        if ids.iter().any(|id| name.starts_with(&format!("tph-{id}"))) {
            left.push(format!("link {name}"));
        }
    }
    for root in std::iter::once("/sys/fs/cgroup".to_owned()).chain(
        names_in("/sys/fs/cgroup")
            .into_iter()
            .map(|n| format!("/sys/fs/cgroup/{n}")),
    ) {
        for id in ids {
            let path = format!("{root}/tiphys-{id}");
            if Path::new(&path).exists() {
                left.push(format!("cgroup {path}"));
            }
        }
    }
    left
}

fn names_in(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect()
}

/// The machine's own settings: its sysctls and its nftables tables, by name.
pub type Settings = BTreeMap<String, String>;

/// Sysctls that change by themselves.
const RESTLESS: [&str; 5] = [
    "random/",
    "ns_last_pid",
    "nf_conntrack_count",
    // How many terminals there are just now, and how often the kernel may be looked into without
    // slowing it down.
    "pty/nr",
    "perf_event_max_sample_rate",
];

/// Reads the settings of the network namespace that the test runs in. Those of single links are
/// left out, as links come and go.
pub fn settings() -> Result<Settings> {
    let mut found = Settings::new();
    for tree in ["kernel", "vm", "net"] {
        read_tree(&format!("/proc/sys/{tree}"), &mut found);
    }
    let mut nft = Command::new("nft");
    nft.args(["list", "tables"]);
    for table in command::run(nft, "")?.ok()?.lines() {
        found.insert(table.to_owned(), "a table".to_owned());
    }
    Ok(found)
}

fn read_tree(dir: &str, found: &mut Settings) {
    let of_links = ["/conf", "/neigh"].iter().any(|end| dir.ends_with(end));
    for name in names_in(dir) {
        let path = format!("{dir}/{name}");
        if RESTLESS.iter().any(|r| format!("{path}/").contains(r)) {
            continue;
        }
        if Path::new(&path).is_dir() {
            if !of_links || name == "all" || name == "default" {
                read_tree(&path, found);
            }
        } else if let Ok(value) = fs::read_to_string(&path) {
            found.insert(path, value.trim().to_owned());
        }
    }
}

/// What differs from before, one line each. A sysctl that came with a kernel module is not a
/// change.
pub fn changes(before: &Settings, after: &Settings) -> Vec<String> {
    let changed = before.iter().filter_map(|(name, was)| {
        let is = after.get(name);
        (is != Some(was)).then(|| format!("{name}: {was:?}, now {is:?}"))
    });
    let tables = after
        .keys()
        .filter(|name| name.starts_with("table ") && !before.contains_key(*name))
        .map(|name| format!("new: {name}"));
    changed.chain(tables).collect()
}

#[cfg(test)]
mod tests {
    use super::{Settings, changes};

    #[test]
    fn changes_are_reported_and_new_sysctls_are_not_changes() {
        let of = |pairs: &[(&str, &str)]| -> Settings {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let before = of(&[("/proc/sys/a", "1"), ("/proc/sys/b", "1")]);
        let after = of(&[
            ("/proc/sys/a", "2"),
            ("/proc/sys/b", "1"),
            ("/proc/sys/c", "1"),
            ("table ip x", "a table"),
        ]);
        let found = changes(&before, &after);
        assert_eq!(
            found,
            ["/proc/sys/a: \"1\", now Some(\"2\")", "new: table ip x"]
        );
    }
}
