//! What a control group has used, read from the kernel's files.

use super::Hierarchy;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Use of a group and of those below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time in nanoseconds since the group was made.
    pub cpu_nanos: u64,
    /// Of it in user mode.
    pub cpu_user_nanos: u64,
    /// Of it in the kernel.
    pub cpu_system_nanos: u64,
    /// Periods in which the CPU limit held the group back.
    pub cpu_throttled_periods: u64,
    /// Periods in all.
    pub cpu_periods: u64,
    /// Time held back, nanoseconds.
    pub cpu_throttled_nanos: u64,
    /// Memory in use, page cache included, bytes.
    pub memory_bytes: u64,
    /// Memory that cannot be dropped at once: use less inactive file pages, bytes.
    pub working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub rss_bytes: u64,
    /// Page cache, bytes.
    pub cache_bytes: u64,
    /// Memory of mapped files, bytes.
    pub mapped_file_bytes: u64,
    /// Swap in use, bytes.
    pub swap_bytes: u64,
    /// The most memory that was in use, bytes (zero where the kernel does not say).
    pub max_memory_bytes: u64,
    /// How often the limit was hit.
    pub memory_failures: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read from disk.
    pub major_page_faults: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to block devices.
    pub written_bytes: u64,
}

pub(super) fn read(hierarchy: &Hierarchy, group: &str) -> Option<Stats> {
    match hierarchy {
        Hierarchy::V1 { .. } => read_v1(hierarchy, group),
        Hierarchy::V2 { .. } => read_v2(&hierarchy.folder("", group)),
    }
}

fn read_v1(h: &Hierarchy, group: &str) -> Option<Stats> {
    let memory = h.folder("memory", group);
    let acct = h.folder("cpuacct", group);
    let table = table(&memory.join("memory.stat"));
    let split = self::table(&acct.join("cpuacct.stat"));
    let throttle = self::table(&h.folder("cpu", group).join("cpu.stat"));
    let usage = number(&memory.join("memory.usage_in_bytes"))?;
    // cpuacct.stat counts in hundredths of a second.
    let ticks = |key: &str| split.get(key).copied().unwrap_or(0) * 10_000_000;
    let at = |key: &str| table.get(key).copied().unwrap_or(0);
    let (read_bytes, written_bytes) = blkio(
        &h.folder("blkio", group)
            .join("blkio.throttle.io_service_bytes_recursive"),
    );
    Some(Stats {
        cpu_nanos: number(&acct.join("cpuacct.usage")).unwrap_or(0),
        cpu_user_nanos: ticks("user"),
        cpu_system_nanos: ticks("system"),
        cpu_throttled_periods: throttle.get("nr_throttled").copied().unwrap_or(0),
        cpu_periods: throttle.get("nr_periods").copied().unwrap_or(0),
        cpu_throttled_nanos: throttle.get("throttled_time").copied().unwrap_or(0),
        memory_bytes: usage,
        working_set_bytes: usage.saturating_sub(at("total_inactive_file")),
        rss_bytes: at("total_rss"),
        cache_bytes: at("total_cache"),
        mapped_file_bytes: at("total_mapped_file"),
        swap_bytes: at("total_swap"),
        max_memory_bytes: number(&memory.join("memory.max_usage_in_bytes")).unwrap_or(0),
        memory_failures: number(&memory.join("memory.failcnt")).unwrap_or(0),
        page_faults: at("total_pgfault"),
        major_page_faults: at("total_pgmajfault"),
        tasks: number(&h.folder("pids", group).join("pids.current")).unwrap_or(0),
        read_bytes,
        written_bytes,
    })
}

fn read_v2(folder: &Path) -> Option<Stats> {
    let cpu = table(&folder.join("cpu.stat"));
    let memory = table(&folder.join("memory.stat"));
    let events = table(&folder.join("memory.events"));
    let micros = |key: &str| cpu.get(key).copied().unwrap_or(0) * 1000;
    let at = |key: &str| memory.get(key).copied().unwrap_or(0);
    // The root group has no memory.current; its use is the machine's.
    let usage = number(&folder.join("memory.current")).unwrap_or(at("anon") + at("file"));
    if cpu.is_empty() && memory.is_empty() {
        return None;
    }
    let (read_bytes, written_bytes) = io_stat(&folder.join("io.stat"));
    Some(Stats {
        cpu_nanos: micros("usage_usec"),
        cpu_user_nanos: micros("user_usec"),
        cpu_system_nanos: micros("system_usec"),
        cpu_throttled_periods: cpu.get("nr_throttled").copied().unwrap_or(0),
        cpu_periods: cpu.get("nr_periods").copied().unwrap_or(0),
        cpu_throttled_nanos: micros("throttled_usec"),
        memory_bytes: usage,
        working_set_bytes: usage.saturating_sub(at("inactive_file")),
        rss_bytes: at("anon"),
        cache_bytes: at("file"),
        mapped_file_bytes: at("file_mapped"),
        swap_bytes: number(&folder.join("memory.swap.current")).unwrap_or(0),
        max_memory_bytes: number(&folder.join("memory.peak")).unwrap_or(0),
        memory_failures: events.get("max").copied().unwrap_or(0),
        page_faults: at("pgfault"),
        major_page_faults: at("pgmajfault"),
        tasks: number(&folder.join("pids.current")).unwrap_or(0),
        read_bytes,
        written_bytes,
    })
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A file of `key value` lines.
fn table(file: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)))
        .collect()
}

/// Lines of `8:0 Read 123`.
fn blkio(file: &Path) -> (u64, u64) {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().fold((0, 0), |(read, written), line| {
        let mut words = line.split(' ');
        let (_, what, value) = (words.next(), words.next(), words.next());
        let value: u64 = value.and_then(|v| v.parse().ok()).unwrap_or(0);
        match what {
            Some("Read") => (read + value, written),
            Some("Write") => (read, written + value),
            _ => (read, written),
        }
    })
}

/// Lines of `8:0 rbytes=1 wbytes=2 …`.
fn io_stat(file: &Path) -> (u64, u64) {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut sums = (0, 0);
    for word in text.split_whitespace() {
        match word.split_once('=') {
            Some(("rbytes", v)) => sums.0 += v.parse().unwrap_or(0),
            Some(("wbytes", v)) => sums.1 += v.parse().unwrap_or(0),
            _ => {}
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_two_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n");
        put(
            "memory.stat",
            "anon 10\nfile 20\ninactive_file 8\npgfault 4\n",
        );
        put("memory.current", "31\n");
        put(
            "io.stat",
            "8:0 rbytes=7 wbytes=9 rios=1\n8:16 rbytes=1 wbytes=0\n",
        );
        let stats = read_v2(dir.path()).unwrap();
        assert_eq!(stats.cpu_nanos, 5000);
        assert_eq!(stats.working_set_bytes, 23);
        assert_eq!((stats.read_bytes, stats.written_bytes), (8, 9));
        assert_eq!(read_v2(&dir.path().join("absent")), None);
    }
}
