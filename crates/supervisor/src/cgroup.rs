//! The cgroups of the cluster's machines: one per machine in every hierarchy.

use std::fs;
use std::path::Path;

use crate::boot::hierarchies;

/// A fresh cgroup in every hierarchy, limited to so much memory.
pub fn make(path: &str, memory_bytes: Option<u64>) {
    remove(path);
    for root in hierarchies() {
        let dir = root.join(path.trim_start_matches('/'));
        if fs::create_dir_all(&dir).is_err() {
            // A hierarchy that is mounted read-only or is of no use to us (named ones).
            continue;
        }
        let limit = memory_bytes.map(|b| b.to_string());
        let settings = [
            ("memory.limit_in_bytes", limit.clone()),
            ("memory.max", limit),
            // A child of cpuset v1 starts without CPUs and takes no process until it has some.
            ("cgroup.clone_children", Some("1".to_owned())),
        ];
        for (file, value) in settings {
            let file = dir.join(file);
            let Some(value) = value.filter(|_| file.exists()) else {
                continue;
            };
            if let Err(e) = fs::write(&file, value) {
                tracing::warn!("{}: {e}", file.display());
            }
        }
        copy_cpuset(&root, path);
    }
}

/// cgroup v1 cpusets are empty until they are filled from their parent, level by level.
fn copy_cpuset(root: &Path, path: &str) {
    let mut dir = root.to_owned();
    for part in path.trim_start_matches('/').split('/') {
        let parent = dir.clone();
        dir.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (Ok(value), Ok(own)) = (
                fs::read_to_string(parent.join(file)),
                fs::read_to_string(dir.join(file)),
            ) else {
                continue;
            };
            if own.trim().is_empty() {
                let file = dir.join(file);
                if let Err(e) = fs::write(&file, value.trim()) {
                    tracing::warn!("{}: {e}", file.display());
                }
            }
        }
    }
}

/// Removes a cgroup and all below it, deepest first. Its processes must have ended; what is busy
/// stays (and is tried again at the next boot).
pub fn remove(path: &str) {
    fn remove_below(dir: &Path) {
        if let Ok(entries) = fs::read_dir(dir) {
            for entry in entries.filter_map(Result::ok) {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    remove_below(&entry.path());
                }
            }
        }
        let _ = fs::remove_dir(dir);
    }
    for root in hierarchies() {
        remove_below(&root.join(path.trim_start_matches('/')));
    }
}
