//! What processes hold: descriptors, sockets, limits. Read from `/proc`, process by process, so only
//! for those who ask for it.

use crate::cgroup::folder::Folder;
use std::path::Path;

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
    let mut out = Descriptors {
        processes: pids.len() as u64,
        ..Descriptors::default()
    };
    for (nth, pid) in pids.iter().enumerate() {
        let process = Folder::at(&proc.join(pid.to_string()));
        if nth == 0 {
            out.soft_limit = soft_limit(&process);
        }
        let open = process.below("fd");
        for name in open.names() {
            out.open += 1;
            out.sockets += u64::from(open.leads_to(&name, b"socket:"));
        }
        let threads = process.below("task");
        for thread in threads.names() {
            if let Some(stat) = threads.text(&format!("{thread}/stat")) {
                out.tasks.count(&stat);
            }
        }
    }
    out
}

fn soft_limit(process: &Folder) -> Option<u64> {
    let text = process.text("limits")?;
    let line = text.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
