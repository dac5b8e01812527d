//! What processes hold: descriptors, sockets, limits. Read from `/proc`, process by process, so only
//! for those who ask for it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What processes hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Processes.
    pub processes: u64,
    /// Open descriptors.
    pub open: u64,
    /// Of them sockets.
    pub sockets: u64,
    /// Open descriptors that the first process may have; none: no limit, or no process.
    pub soft_limit: Option<u64>,
    /// What their threads do.
    pub tasks: TaskStates,
}

/// Threads by what they do at the moment. Whether one that cannot be interrupted waits for a disk, the
/// kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskStates {
    /// On a CPU, or ready to be.
    pub running: u64,
    /// Waiting.
    pub sleeping: u64,
    /// Stopped by a signal or a debugger.
    pub stopped: u64,
    /// Waiting, whatever signal comes.
    pub uninterruptible: u64,
}

impl TaskStates {
    /// Counts a thread by its line in `/proc`: `7 (name) S …`, where a name may hold anything.
    fn count(&mut self, stat: &str) {
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        match state {
            Some('R') => self.running += 1,
            Some('S' | 'I') => self.sleeping += 1,
            Some('T' | 't') => self.stopped += 1,
            Some('D') => self.uninterruptible += 1,
            // It has ended, or there is no such line.
            _ => {}
        }
    }
}

/// Counts what these processes hold. One that has ended meanwhile holds nothing.
#[must_use]
pub fn descriptors(pids: &[u32]) -> Descriptors {
    descriptors_at(Path::new("/proc"), pids)
}

fn descriptors_at(proc: &Path, pids: &[u32]) -> Descriptors {
    let of = |pid: &u32| proc.join(pid.to_string());
    let mut out = Descriptors {
        processes: pids.len() as u64,
        soft_limit: pids.first().map(of).and_then(|p| soft_limit(&p)),
        ..Descriptors::default()
    };
    for process in pids.iter().map(of) {
        for entry in fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            out.open += 1;
            let leads_to = fs::read_link(entry.path());
            let is_socket = |to: &PathBuf| to.as_os_str().as_bytes().starts_with(b"socket:");
            out.sockets += u64::from(leads_to.as_ref().is_ok_and(is_socket));
        }
        let threads = fs::read_dir(process.join("task"));
        for thread in threads.into_iter().flatten().flatten() {
            if let Ok(stat) = fs::read_to_string(thread.path().join("stat")) {
                out.tasks.count(&stat);
            }
        }
    }
    out
}

fn soft_limit(process: &Path) -> Option<u64> {
    let text = fs::read_to_string(process.join("limits")).ok()?;
    let line = text.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_and_sockets_of_all_processes_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, links) in [(1, &["/dev/null", "socket:[7]"][..]), (2, &["pipe:[3]"])] {
            let fd = dir.path().join(pid.to_string()).join("fd");
            fs::create_dir_all(&fd).unwrap();
            for (at, to) in links.iter().enumerate() {
                std::os::unix::fs::symlink(to, fd.join(at.to_string())).unwrap();
            }
        }
        for (thread, stat) in [
            ("1", "1 (a) b) S 0\n"),
            ("7", "7 (a) b) R 0\n"),
            ("8", "8 (z) Z\n"),
        ] {
            let task = dir.path().join("1/task").join(thread);
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("stat"), stat).unwrap();
        }
        let limits =
            "Limit  Soft Limit\nMax open files            1024                 4096       files\n";
        fs::write(dir.path().join("1/limits"), limits).unwrap();
        assert_eq!(
            descriptors_at(dir.path(), &[1, 2, 3]),
            Descriptors {
                processes: 3,
                open: 3,
                sockets: 1,
                soft_limit: Some(1024),
                tasks: TaskStates {
                    running: 1,
                    sleeping: 1,
                    ..TaskStates::default()
                },
            }
        );
    }
}
