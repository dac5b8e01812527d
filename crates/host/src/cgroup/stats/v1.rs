//! Version 1: a tree for each controller.

use super::{DeviceUse, HugePages, Stats, device, limit, numbers};
use crate::cgroup::folder::{Controller, Folder};

/// `folder`: of the group under a controller. `sizes`: of huge pages that it may count.
pub fn read<'a>(folder: impl Fn(Controller) -> &'a Folder, sizes: &[String]) -> Option<Stats> {
    let memory = folder(Controller::Memory);
    let mut s = Stats {
        memory_bytes: memory.number("memory.usage_in_bytes")?,
        kernel_bytes: memory.number("memory.kmem.usage_in_bytes").unwrap_or(0),
        max_memory_bytes: memory.number("memory.max_usage_in_bytes").unwrap_or(0),
        memory_failures: memory.number("memory.failcnt").unwrap_or(0),
        devices: devices(folder(Controller::Blkio)),
        huge_pages: huge_pages(folder(Controller::Hugetlb), sizes),
        pressure: None,
        ..Stats::default()
    };
    memory.table("memory.stat", |key, value| match key {
        "total_rss" => s.rss_bytes = value,
        "total_cache" => s.cache_bytes = value,
        "total_active_file" => s.active_file_bytes = value,
        "total_inactive_file" => s.inactive_file_bytes = value,
        "total_mapped_file" => s.mapped_file_bytes = value,
        "total_swap" => s.swap_bytes = value,
        "total_pgfault" => s.page_faults = value,
        "total_pgmajfault" => s.major_page_faults = value,
        "pgfault" => s.own_page_faults = value,
        "pgmajfault" => s.own_major_page_faults = value,
        _ => {}
    });
    s.working_set_bytes = s.memory_bytes.saturating_sub(s.inactive_file_bytes);
    memory.table("memory.oom_control", |key, value| {
        if key == "oom_kill" {
            s.oom_kills = value;
        }
    });
    let acct = folder(Controller::Cpuacct);
    s.cpu_nanos = acct.number("cpuacct.usage").unwrap_or(0);
    acct.table("cpuacct.stat", |key, value| {
        // In hundredths of a second.
        let nanos = value * 10_000_000;
        match key {
            "user" => s.cpu_user_nanos = nanos,
            "system" => s.cpu_system_nanos = nanos,
            _ => {}
        }
    });
    folder(Controller::Cpu).table("cpu.stat", |key, value| match key {
        "nr_periods" => s.cpu_periods = value,
        "nr_throttled" => s.cpu_throttled_periods = value,
        "throttled_time" => s.cpu_throttled_nanos = value,
        "nr_bursts" => s.cpu_burst_periods = value,
        "burst_time" => s.cpu_burst_nanos = value,
        _ => {}
    });
    let pids = folder(Controller::Pids);
    s.tasks = pids.number("pids.current").unwrap_or(0);
    s.tasks_max = limit(pids, "pids.max");
    Some(s)
}

fn devices(folder: &Folder) -> Vec<DeviceUse> {
    let mut all = Vec::new();
    let bytes = "blkio.throttle.io_service_bytes_recursive";
    each(folder, bytes, |numbers, what, value| {
        let Some(device) = device(&mut all, numbers) else {
            return;
        };
        match what {
            "Read" => device.read_bytes = value,
            "Write" => device.written_bytes = value,
            _ => {}
        }
    });
    let times = "blkio.throttle.io_serviced_recursive";
    each(folder, times, |numbers, what, value| {
        let Some(device) = device(&mut all, numbers) else {
            return;
        };
        match what {
            "Read" => device.reads = value,
            "Write" => device.writes = value,
            _ => {}
        }
    });
    all
}

/// Lines of `8:0 Read 123`.
fn each(folder: &Folder, file: &str, mut put: impl FnMut((u32, u32), &str, u64)) {
    let text = folder.text(file).unwrap_or_default();
    for line in text.lines() {
        let mut words = line.split(' ');
        if let (Some(device), Some(what), Some(value)) = (words.next(), words.next(), words.next())
            && let (Some(device), Ok(value)) = (numbers(device), value.parse())
        {
            put(device, what, value);
        }
    }
}

fn huge_pages(folder: &Folder, sizes: &[String]) -> Vec<HugePages> {
    let of = |size: &String| {
        let file = |what: &str| folder.number(&format!("hugetlb.{size}.{what}"));
        Some(HugePages {
            bytes: file("usage_in_bytes")?,
            max_bytes: file("max_usage_in_bytes").unwrap_or(0),
            failures: file("failcnt").unwrap_or(0),
            size: size.clone(),
        })
    };
    sizes.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use crate::cgroup::Hierarchy;
    use std::fs;

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
        let tree = Hierarchy::V1 {
            root: dir.path().into(),
        };
        let s = tree.stats("/g").unwrap();
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
        assert_eq!(tree.stats("/absent"), None);
        // A group in another one is read in the same way, which knows the sizes of huge pages.
        put("memory/g/in/memory.usage_in_bytes", "5\n");
        put("hugetlb/g/in/hugetlb.2MB.usage_in_bytes", "4096\n");
        put("hugetlb/g/in/hugetlb.1GB.usage_in_bytes", "4096\n");
        let above = tree.group("/g");
        let inner = above.below("in").stats().unwrap();
        assert_eq!((inner.memory_bytes, inner.huge_pages.len()), (5, 1));
        assert_eq!(inner.huge_pages[0].bytes, 4096);
        assert_eq!(above.below("absent").stats(), None);
    }
}
