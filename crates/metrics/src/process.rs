//! What every process of Tiphys shows: itself, and which version it is.

use std::fmt::Write;
use std::sync::OnceLock;

use procfs::Current;

/// The version as `/version` shows it.
#[derive(Clone, Debug)]
pub struct Build {
    pub major: String,
    pub minor: String,
    pub git_version: String,
    pub git_commit: String,
    pub build_date: String,
    pub platform: String,
    /// Compiler and language, in the places where upstream has Go's.
    pub compiler: String,
    pub go_version: String,
}

static BUILD: OnceLock<Build> = OnceLock::new();

/// Says which version this is; the first word counts.
pub fn is_build(build: Build) {
    let _ = BUILD.set(build);
}

/// What [`is_build`] has said.
pub fn build() -> Option<&'static Build> {
    BUILD.get()
}

/// Since when this process runs.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    pub started: jiff::Timestamp,
    /// Whole seconds that passed, by a clock that nobody sets.
    pub seconds: u64,
}

/// `None` where the kernel does not say.
pub fn age() -> Option<Age> {
    let me = procfs::process::Process::myself().ok()?.stat().ok()?;
    let began = me.starttime as f64 / procfs::ticks_per_second() as f64;
    let boot = i64::try_from(procfs::boot_time_secs().ok()?).ok()?;
    let running = procfs::Uptime::current().ok()?.uptime - began;
    Some(Age {
        started: jiff::Timestamp::from_second(boot.checked_add(began as i64)?).ok()?,
        seconds: running.max(0.0) as u64,
    })
}

/// The lines of `process_start_time_seconds`; none where the kernel does not say.
pub(crate) fn start_line() -> String {
    let all = lines();
    let own = all
        .lines()
        .filter(|l| l.contains("process_start_time_seconds"));
    own.fold(String::new(), |text, line| text + line + "\n")
}

/// Lines of `kubernetes_build_info` and `process_*`; those of the process are left out where the
/// kernel does not report them.
pub(crate) fn lines() -> String {
    let mut out = String::new();
    if let Some(b) = BUILD.get() {
        let name = "kubernetes_build_info";
        let _ = writeln!(
            out,
            "# HELP {name} A metric with a constant '1' value labeled by version.\n# TYPE {name} gauge\n\
             {name}{{build_date={:?},compiler={:?},git_commit={:?},git_tree_state=\"clean\",\
             git_version={:?},go_version={:?},major={:?},minor={:?},platform={:?}}} 1",
            b.build_date,
            b.compiler,
            b.git_commit,
            b.git_version,
            b.go_version,
            b.major,
            b.minor,
            b.platform,
        );
    }
    let _ = read(&mut out);
    out
}

fn read(out: &mut String) -> Option<()> {
    let me = procfs::process::Process::myself().ok()?;
    let stat = me.stat().ok()?;
    let ticks = procfs::ticks_per_second() as f64;
    let mut one = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    };
    one(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        (stat.utime + stat.stime) as f64 / ticks,
    );
    one(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        (stat.rss * procfs::page_size()) as f64,
    );
    one(
        "process_virtual_memory_bytes",
        "gauge",
        "Virtual memory size in bytes.",
        stat.vsize as f64,
    );
    if let Ok(open) = me.fd_count() {
        one(
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            open as f64,
        );
    }
    if let Ok(limits) = me.limits()
        && let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit
    {
        one(
            "process_max_fds",
            "gauge",
            "Maximum number of open file descriptors.",
            most as f64,
        );
    }
    if let Ok(boot) = procfs::boot_time_secs() {
        one(
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            boot as f64 + stat.starttime as f64 / ticks,
        );
    }
    one(
        "process_threads",
        "gauge",
        "Number of threads of the process.",
        stat.num_threads as f64,
    );
    Some(())
}
