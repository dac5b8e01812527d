//! What a cluster leaves on the machine: processes, links, cgroups, mounts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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
