//! Child processes that outlive their supervisor: started in their own session, recorded in a
//! file, recognised again by PID and start time, waited for through pidfds.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use procfs::ProcError;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, getrlimit, setrlimit,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is known of a child after its supervisor died.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot. With the PID it names one process.
    pub start_ticks: u64,
    /// Seconds since the epoch.
    pub started_at: i64,
    pub restarts: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot start {what}: {source}")]
    Start { what: String, source: io::Error },
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("{what} ended before it was ready; its log: {log}")]
    Died { what: String, log: String },
}

/// Start time of a process in clock ticks; `None` when there is none with that PID, or a zombie. Where
/// that cannot be found out it is logged, and none.
pub fn start_ticks(pid: i32) -> Option<u64> {
    find(pid).unwrap_or_else(|e| {
        tracing::error!("whether there is a process {pid} is unknown: {e}");
        None
    })
}

/// The same; an error where nobody knows, as when this process may open no more files.
fn find(pid: i32) -> Result<Option<u64>, ProcError> {
    let process = procfs::process::Process::new(pid);
    match process.and_then(|process| process.stat()) {
        Ok(stat) => Ok((stat.state != 'Z').then_some(stat.starttime)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Record {
    pub fn of(pid: i32, now: i64, restarts: u32) -> Option<Self> {
        Some(Self {
            pid,
            start_ticks: start_ticks(pid)?,
            started_at: now,
            restarts,
        })
    }
    /// The process still runs and is the one that was recorded. It counts as running where nobody
    /// knows: whoever took it for ended would start a second one.
    pub fn is_alive(&self) -> bool {
        self.runs().unwrap_or_else(|e| {
            tracing::warn!("whether process {} still runs is unknown: {e}", self.pid);
            true
        })
    }
    fn runs(&self) -> Result<bool, ProcError> {
        Ok(find(self.pid)? == Some(self.start_ticks))
    }
    /// What is on record; none where nothing is. Which process a damaged file names nobody knows, which
    /// is said.
    pub fn read(path: &Path) -> Option<Self> {
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            read => read,
        };
        let read = bytes.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        let unknown = |e: &io::Error| {
            let path = path.display();
            tracing::error!("{path}: {e}; the process that it names may still run");
        };
        read.inspect_err(unknown).ok()
    }
    pub fn write(&self, path: &Path) -> Result<(), ProcessError> {
        let file = |source| ProcessError::File {
            path: path.display().to_string(),
            source,
        };
        let text = serde_json::to_vec(self)
            .map_err(io::Error::other)
            .map_err(file)?;
        let beside = path.with_extension("new");
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, path))
            .map_err(file)
    }
}

/// Appends to a log; its last run is kept as `.1` when the file has grown over this.
const LOG_BYTES: u64 = 16 << 20;

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The variable that makes a child leave its parent's session, so that the terminal's signals
/// reach the supervisor alone.
pub const DETACH: &str = "TIPHYS_DETACH";

/// To be called first by every process that the supervisor starts.
pub fn detach_if_asked() {
    if std::env::var_os(DETACH).is_some() {
        // Fails only when the process leads a group already, which is what is wanted.
        let _ = rustix::process::setsid();
    }
}

/// Lets this process have huge pages, or not. One that only waits fills none of them, and the
/// allocator asks for some. Of what one that grew has given back, the kernel makes huge pages again
/// behind its back, most of each empty: an API server that held 78 MB after a mass deletion held
/// 205 MB eleven minutes later.
pub fn allow_huge_pages(allowed: bool) {
    // An old kernel without this gives more memory than is needed, and nothing else.
    let _ = rustix::thread::disable_transparent_huge_pages(!allowed);
}

/// How many files this process could have open at its start, once it takes more.
static OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// Takes as many open files as the machine allows: each connection is one, and many machines give
/// 1,024 to a program that does not ask (as Go's programs do). Questions for names that pods ask at
/// once are so many by themselves.
///
/// # Errors
/// The machine refuses; then the limit stays.
pub fn allow_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    OPEN_FILES.get_or_init(|| limit);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, most)?)
}

/// Files that the start of a program opens, and what other threads open meanwhile.
const SPARE_FILES: u64 = 64;

/// Whether some more files can be opened under a limit: the lowest number that is free is given next.
fn has_room(limit: &Rlimit) -> bool {
    let Some(most) = limit.current else {
        return true;
    };
    let next = File::open("/dev/null").map(|file| u64::try_from(file.as_raw_fd()));
    matches!(next, Ok(Ok(next)) if next.saturating_add(SPARE_FILES) < most)
}

/// Starts a program that inherits nothing of what was set for this process: containers have huge
/// pages if their machine has, and as many open files as it gives to who does not ask. Where this
/// process has so many open already that it could not start anything under that limit, the program
/// keeps the greater one.
pub fn inheriting_nothing<T>(start: impl FnOnce() -> T) -> T {
    let first = OPEN_FILES.get().filter(|first| has_room(first));
    if let Some(first) = first {
        // Less than the machine allows is never refused.
        let _ = setrlimit(Resource::Nofile, *first);
    }
    allow_huge_pages(true);
    let started = start();
    allow_huge_pages(false);
    if first.is_some() {
        // What it was when this began may be what another thread has set for its own child.
        let _ = allow_open_files();
    }
    started
}

/// Starts a detached child whose output goes to `log`. The caller reaps it through [`reap`].
pub fn spawn(binary: &Path, args: &[String], log: &Path) -> Result<i32, ProcessError> {
    let what = || args.first().cloned().unwrap_or_default();
    let start = |source| ProcessError::Start {
        what: what(),
        source,
    };
    let out = open_log(log).map_err(start)?;
    let err = out.try_clone().map_err(start)?;
    let child = Command::new(binary)
        .args(args)
        .env(DETACH, "1")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(start)?;
    i32::try_from(child.id())
        .map_err(io::Error::other)
        .map_err(start)
}

/// Starts a helper that prints one line, the PID of the process it has made, and ends.
pub fn spawn_reporting(binary: &Path, args: &[String], log: &Path) -> Result<i32, ProcessError> {
    let what = || args.first().cloned().unwrap_or_default();
    let start = |source| ProcessError::Start {
        what: what(),
        source,
    };
    let output = Command::new(binary)
        .args(args)
        .env(DETACH, "1")
        .stdin(Stdio::null())
        .stderr(open_log(log).map_err(start)?)
        .output()
        .map_err(start)?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| ProcessError::Died {
        what: what(),
        log: log.display().to_string(),
    })
}

fn pid_of(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(
        pid_of(pid)?,
        PidfdFlags::NONBLOCK,
    )?)
}

/// Takes the exit status of a child that has ended, if it was ours.
pub fn reap(pid: i32) {
    if let Ok(pid) = pid_of(pid) {
        // Not our child (adopted after a restart): somebody else reaps it.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Between looks at a process that the kernel does not report the end of.
const LOOK: Duration = Duration::from_secs(1);

/// Waits until the recorded process has ended; returns at once when it is gone already. One that cannot
/// be waited for has not ended for that: it is looked at now and then.
#[expect(
    deprecated,
    reason = "the descriptor is owned, which is what the safe registration needs"
)]
pub async fn ended(record: &Record) {
    while record.is_alive() {
        let opened = pidfd(record.pid);
        match opened.and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE)) {
            Ok(fd) => {
                // Between the check and the pidfd the PID may have passed to another process.
                if record.is_alive() {
                    let _ = fd.readable().await;
                }
                break;
            }
            Err(e) => {
                tracing::debug!("process {} cannot be waited for: {e}", record.pid);
                reap(record.pid);
                tokio::time::sleep(LOOK).await;
            }
        }
    }
    reap(record.pid);
}

/// Sends a signal to the recorded process, and to no other that has its PID by now.
pub fn signal(record: &Record, signal: Signal) {
    let runs = || record.runs().map_err(|e| io::Error::other(e.to_string()));
    let send = || -> io::Result<()> {
        if runs()? {
            let fd = pidfd(record.pid)?;
            // Between the check and the pidfd the PID may have passed to another process.
            if runs()? {
                rustix::process::pidfd_send_signal(&fd, signal)?;
            }
        }
        Ok(())
    };
    // What has ended meanwhile needs no signal.
    if let Err(e) = send()
        && record.is_alive()
    {
        tracing::warn!("process {} cannot be sent a signal: {e}", record.pid);
    }
}

/// Asks the process to end, and after `patience` makes it.
pub async fn stop(record: &Record, patience: Duration) {
    signal(record, Signal::TERM);
    if tokio::time::timeout(patience, ended(record)).await.is_err() {
        signal(record, Signal::KILL);
        ended(record).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_waited_for_and_known_by_more_than_its_number() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("started");
        let pid = i32::try_from(child.id()).expect("a PID");
        let record = Record::of(pid, 0, 0).expect("it runs");
        let other = Record {
            start_ticks: record.start_ticks + 1,
            ..record.clone()
        };
        assert!(record.is_alive() && !other.is_alive());
        // Another process that had the number has ended; nobody sends its successor a signal.
        ended(&other).await;
        signal(&other, Signal::KILL);
        assert!(record.is_alive());
        signal(&record, Signal::KILL);
        ended(&record).await;
        assert!(!record.is_alive());
        assert_eq!(start_ticks(pid), None);
        // It was taken from the kernel already.
        let _ = child.wait();
    }

    #[test]
    fn who_is_started_may_open_as_many_files_as_this_process_might() {
        let limit = || getrlimit(Resource::Nofile);
        let few = Rlimit {
            current: Some(777),
            ..limit()
        };
        setrlimit(Resource::Nofile, few).expect("set");
        allow_open_files().expect("allowed");
        assert_eq!(limit().current, few.maximum);
        let output = inheriting_nothing(|| Command::new("sh").args(["-c", "ulimit -Sn"]).output());
        let output = output.expect("started");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "777");
        assert_eq!(limit().current, few.maximum);
        let none = Rlimit {
            current: Some(3),
            ..few
        };
        assert!(has_room(&few) && !has_room(&none), "a start would fail");
    }
}
