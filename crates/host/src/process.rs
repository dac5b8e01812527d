//! The process of a command in a container: recognised by what it runs, and ended when nobody is
//! there any more for whom it runs. It is held by a descriptor, so that no other process is meant
//! when its number is given away again.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::kernel_call::waited_for;

/// How long a process may take to end after it has heard that its client is gone: enough for a shell
/// to write its history.
const HANGING_UP: Duration = Duration::from_secs(2);

/// A command's first process, which leads a session of its own.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
    pid: Pid,
    argv: Vec<String>,
}

impl Process {
    /// The process with this number, if it is one of the container's.
    ///
    /// # Errors
    /// It has ended already, or cannot be looked at.
    pub fn find(pid: u32, container: &str) -> io::Result<Option<Self>> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some(raw) = raw else { return Ok(None) };
        // First the descriptor: what is read after it is of this process, or of none.
        let fd = pidfd_open(raw, PidfdFlags::empty())?;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        if container.is_empty() || !groups.contains(container) {
            return Ok(None);
        }
        let line = fs::read(format!("/proc/{pid}/cmdline"))?;
        Ok(Some(Self {
            fd,
            pid: raw,
            argv: arguments(&line),
        }))
    }

    /// Whether it is what this command leads to.
    #[must_use]
    pub fn runs(&self, command: &[String]) -> bool {
        runs(&self.argv, command)
    }

    /// The same of what it is now: a runtime's event may come before the process has become what was
    /// asked for, and the kernel shows no arguments while it does. Once its number is another's, this
    /// may speak of that one; signals still reach nobody but itself.
    #[must_use]
    pub fn runs_by_now(&self, command: &[String]) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid.as_raw_nonzero()));
        line.is_ok_and(|line| runs(&arguments(&line), command))
    }

    /// Ends it and what it started: they hear it as from a terminal that is closed (SIGHUP); a
    /// process that is still there a moment later is killed, with its group. What it left behind
    /// that does not listen to SIGHUP stays, as after every session.
    ///
    /// # Errors
    /// Its end cannot be waited for.
    pub async fn hang_up(&self) -> io::Result<()> {
        if !self.signal(Signal::HUP) {
            return Ok(());
        }
        let end = waited_for(self.fd.try_clone()?)?;
        match tokio::time::timeout(HANGING_UP, end.readable()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => {
                self.signal(Signal::KILL);
                Ok(())
            }
        }
    }

    /// Sends a signal to it and its group; whether it was there.
    fn signal(&self, signal: Signal) -> bool {
        // While it is there its group has no other's number.
        let is_there = pidfd_send_signal(&self.fd, signal).is_ok();
        if is_there {
            // Without a group of its own it was all.
            let _ = kill_process_group(self.pid, signal);
        }
        is_there
    }
}

/// Kills those of these processes that are in the control group of this name, at once; how many that were.
pub fn kill_in_group(pids: &[u32], group: &str) -> usize {
    let found = pids
        .iter()
        .filter_map(|pid| Process::find(*pid, group).ok()?);
    let killed = found.filter(|process| pidfd_send_signal(&process.fd, Signal::KILL).is_ok());
    killed.count()
}

/// The arguments of a process, as the kernel shows them.
fn arguments(line: &[u8]) -> Vec<String> {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    let all = line.split(|b| *b == 0);
    all.map(|a| String::from_utf8_lossy(a).into_owned())
        .collect()
}

/// A script has its interpreter before it and is named by its whole path.
fn runs(argv: &[String], command: &[String]) -> bool {
    let Some((program, args)) = command.split_first() else {
        return false;
    };
    let own = argv.len().checked_sub(command.len());
    let own = own.and_then(|at| argv.get(at..));
    let Some((first, rest)) = own.and_then(<[String]>::split_first) else {
        return false;
    };
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    name(first) == name(program) && rest == args
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn a_process_is_known_by_what_it_runs() {
        let cases: [(&[&str], &[&str], bool); 6] = [
            (&["sh", "-c", "x"], &["sh", "-c", "x"], true),
            (&["/bin/sh", "/tool", "a"], &["tool", "a"], true),
            (&["sh", "-c", "y"], &["sh", "-c", "x"], false),
            (&["sh"], &["sh", "-c", "x"], false),
            (&["cat"], &["sh"], false),
            (&["sh"], &[], false),
        ];
        for (argv, command, is) in cases {
            let (argv, command) = (texts(argv), texts(command));
            assert_eq!(runs(&argv, &command), is, "{argv:?} {command:?}");
        }
        assert_eq!(arguments(b"sh\0-c\0\0"), texts(&["sh", "-c", ""]));
        assert_eq!(arguments(b"sh\0"), texts(&["sh"]));
    }

    #[test]
    fn a_process_of_no_container_is_left_alone() {
        let own = std::process::id();
        assert!(Process::find(own, "no-such-container").unwrap().is_none());
        assert!(Process::find(own, "").unwrap().is_none());
        assert!(Process::find(0, "c").unwrap().is_none());
    }

    #[test]
    fn only_what_is_in_the_group_is_killed() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000000")
            .spawn()
            .unwrap();
        let pids = [child.id()];
        assert_eq!(kill_in_group(&pids, "no-such-group"), 0);
        assert_eq!(kill_in_group(&pids, ""), 0);
        assert!(child.try_wait().unwrap().is_none());
        // It is where this process is, as if that were a pod's group.
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = groups.lines().next().unwrap().rsplit(':').next().unwrap();
        assert_eq!(kill_in_group(&pids, own), 1);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn what_hangs_up_ends_with_its_group() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "trap '' HUP; sleep 1000000 & wait; sleep 1000000"]);
        let mut child = command.process_group(0).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let process = Process {
            fd: pidfd_open(pid, PidfdFlags::empty()).unwrap(),
            pid,
            argv: Vec::new(),
        };
        process.hang_up().await.unwrap();
        let signal = child.wait().unwrap().signal();
        assert!(
            [Some(libc::SIGHUP), Some(libc::SIGKILL)].contains(&signal),
            "{signal:?}"
        );
    }
}
