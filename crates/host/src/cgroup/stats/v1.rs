//! Version 1: a tree for each controller.

use super::{DeviceUse, HugePages, Stats, device, limit, number, numbers, table};
use std::fs;
use std::path::{Path, PathBuf};

/// `folder`: of the group under a controller.
pub fn read(folder: impl Fn(&str) -> PathBuf) -> Option<Stats> {
    let memory = folder("memory");
    let acct = folder("cpuacct");
    let pids = folder("pids");
    let table = table(&memory.join("memory.stat"));
    let split = super::table(&acct.join("cpuacct.stat"));
    let throttle = super::table(&folder("cpu").join("cpu.stat"));
    let oom = super::table(&memory.join("memory.oom_control"));
    let usage = number(&memory.join("memory.usage_in_bytes"))?;
    // cpuacct.stat counts in hundredths of a second.
    let ticks = |key: &str| split.get(key).copied().unwrap_or(0) * 10_000_000;
    let at = |key: &str| table.get(key).copied().unwrap_or(0);
    Some(Stats {
        cpu_nanos: number(&acct.join("cpuacct.usage")).unwrap_or(0),
        cpu_user_nanos: ticks("user"),
        cpu_system_nanos: ticks("system"),
        cpu_throttled_periods: throttle.get("nr_throttled").copied().unwrap_or(0),
        cpu_periods: throttle.get("nr_periods").copied().unwrap_or(0),
        cpu_throttled_nanos: throttle.get("throttled_time").copied().unwrap_or(0),
        cpu_burst_periods: throttle.get("nr_bursts").copied().unwrap_or(0),
        cpu_burst_nanos: throttle.get("burst_time").copied().unwrap_or(0),
        memory_bytes: usage,
        working_set_bytes: usage.saturating_sub(at("total_inactive_file")),
        rss_bytes: at("total_rss"),
        cache_bytes: at("total_cache"),
        active_file_bytes: at("total_active_file"),
        inactive_file_bytes: at("total_inactive_file"),
        mapped_file_bytes: at("total_mapped_file"),
        kernel_bytes: number(&memory.join("memory.kmem.usage_in_bytes")).unwrap_or(0),
        swap_bytes: at("total_swap"),
        max_memory_bytes: number(&memory.join("memory.max_usage_in_bytes")).unwrap_or(0),
        memory_failures: number(&memory.join("memory.failcnt")).unwrap_or(0),
        oom_kills: oom.get("oom_kill").copied().unwrap_or(0),
        page_faults: at("total_pgfault"),
        major_page_faults: at("total_pgmajfault"),
        own_page_faults: at("pgfault"),
        own_major_page_faults: at("pgmajfault"),
        tasks: number(&pids.join("pids.current")).unwrap_or(0),
        tasks_max: limit(&pids.join("pids.max")),
        devices: devices(&folder("blkio")),
        huge_pages: huge_pages(&folder("hugetlb")),
        pressure: None,
    })
}

fn devices(folder: &Path) -> Vec<DeviceUse> {
    let mut all = Vec::new();
    let bytes = folder.join("blkio.throttle.io_service_bytes_recursive");
    each(&bytes, |numbers, what, value| {
        let Some(device) = device(&mut all, numbers) else {
            return;
        };
        match what {
            "Read" => device.read_bytes = value,
            "Write" => device.written_bytes = value,
            _ => {}
        }
    });
    each(
        &folder.join("blkio.throttle.io_serviced_recursive"),
        |numbers, what, value| {
            let Some(device) = device(&mut all, numbers) else {
                return;
            };
            match what {
                "Read" => device.reads = value,
                "Write" => device.writes = value,
                _ => {}
            }
        },
    );
    all
}

/// Lines of `8:0 Read 123`.
fn each(file: &Path, mut put: impl FnMut((u32, u32), &str, u64)) {
    let text = fs::read_to_string(file).unwrap_or_default();
    for line in text.lines() {
        let mut words = line.split(' ');
        if let (Some(device), Some(what), Some(value)) = (words.next(), words.next(), words.next())
            && let (Some(device), Ok(value)) = (numbers(device), value.parse())
        {
            put(device, what, value);
        }
    }
}

fn huge_pages(folder: &Path) -> Vec<HugePages> {
    super::v2::sizes(folder, ".usage_in_bytes")
        .into_iter()
        .map(|size| {
            let file = |what: &str| number(&folder.join(format!("hugetlb.{size}.{what}")));
            HugePages {
                bytes: file("usage_in_bytes").unwrap_or(0),
                max_bytes: file("max_usage_in_bytes").unwrap_or(0),
                failures: file("failcnt").unwrap_or(0),
                size,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_controllers_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        put("cpuacct/g/cpuacct.usage", "5000\n");
        put("cpuacct/g/cpuacct.stat", "user 3\nsystem 2\n");
        put(
            "cpu/g/cpu.stat",
            "nr_periods 9\nnr_throttled 4\nthrottled_time 77\nnr_bursts 2\nburst_time 55\n",
        );
        put("memory/g/memory.usage_in_bytes", "31\n");
        put(
            "memory/g/memory.stat",
            "cache 1\ntotal_cache 20\ntotal_rss 10\ntotal_inactive_file 8\ntotal_active_file 6\n\
             pgfault 2\ntotal_pgfault 4\n",
        );
        put(
            "memory/g/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        );
        put("memory/g/memory.kmem.usage_in_bytes", "12\n");
        put("pids/g/pids.current", "7\n");
        put("pids/g/pids.max", "max\n");
        put(
            "blkio/g/blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 100\n8:0 Write 200\n8:0 Total 300\n8:16 Read 1\nTotal 301\n",
        );
        put(
            "blkio/g/blkio.throttle.io_serviced_recursive",
            "8:0 Read 10\n8:0 Write 20\n",
        );
        put("hugetlb/g/hugetlb.2MB.usage_in_bytes", "2097152\n");
        put("hugetlb/g/hugetlb.2MB.failcnt", "1\n");
        let s = read(|c| dir.path().join(c).join("g")).unwrap();
        assert_eq!((s.cpu_nanos, s.cpu_user_nanos), (5000, 30_000_000));
        assert_eq!((s.cpu_burst_periods, s.cpu_burst_nanos), (2, 55));
        assert_eq!((s.working_set_bytes, s.kernel_bytes), (23, 12));
        assert_eq!((s.oom_kills, s.page_faults, s.own_page_faults), (3, 4, 2));
        assert_eq!((s.tasks, s.tasks_max), (7, 0));
        assert_eq!((s.read_bytes(), s.written_bytes()), (101, 200));
        let first = &s.devices[0];
        assert_eq!((first.major, first.reads, first.writes), (8, 10, 20));
        assert_eq!(s.huge_pages.len(), 1);
        assert_eq!(
            (s.huge_pages[0].bytes, s.huge_pages[0].failures),
            (2_097_152, 1)
        );
        assert_eq!(s.pressure, None);
        assert_eq!(read(|c| dir.path().join(c).join("absent")), None);
    }
}
