//! Version 2: one tree for all controllers.

use super::{DeviceUse, HugePages, Lost, Pressure, Pressures, Stats, device, limit, numbers};
use crate::cgroup::folder::Folder;

/// `sizes`: of huge pages that the group may count.
pub fn read(folder: &Folder, sizes: &[String]) -> Option<Stats> {
    let mut s = Stats::default();
    let has_cpu = folder.table("cpu.stat", |key, value| match key {
        "usage_usec" => s.cpu_nanos = value * 1000,
        "user_usec" => s.cpu_user_nanos = value * 1000,
        "system_usec" => s.cpu_system_nanos = value * 1000,
        "nr_periods" => s.cpu_periods = value,
        "nr_throttled" => s.cpu_throttled_periods = value,
        "throttled_usec" => s.cpu_throttled_nanos = value * 1000,
        "nr_bursts" => s.cpu_burst_periods = value,
        "burst_usec" => s.cpu_burst_nanos = value * 1000,
        _ => {}
    });
    let (mut kernel, mut kernel_stack, mut slab) = (None, 0, 0);
    let has_memory = folder.table("memory.stat", |key, value| match key {
        "anon" => s.rss_bytes = value,
        "file" => s.cache_bytes = value,
        "active_file" => s.active_file_bytes = value,
        "inactive_file" => s.inactive_file_bytes = value,
        "file_mapped" => s.mapped_file_bytes = value,
        "kernel" => kernel = Some(value),
        "kernel_stack" => kernel_stack = value,
        "slab" => slab = value,
        "pgfault" => (s.page_faults, s.own_page_faults) = (value, value),
        "pgmajfault" => (s.major_page_faults, s.own_major_page_faults) = (value, value),
        _ => {}
    });
    if !has_cpu && !has_memory {
        return None;
    }
    // Older kernels do not sum it up.
    s.kernel_bytes = kernel.unwrap_or(kernel_stack + slab);
    // The root group has no memory.current; its use is the machine's.
    let usage = folder.number("memory.current");
    s.memory_bytes = usage.unwrap_or(s.rss_bytes + s.cache_bytes);
    s.working_set_bytes = s.memory_bytes.saturating_sub(s.inactive_file_bytes);
    s.swap_bytes = folder.number("memory.swap.current").unwrap_or(0);
    s.max_memory_bytes = folder.number("memory.peak").unwrap_or(0);
    folder.table("memory.events", |key, value| match key {
        "max" => s.memory_failures = value,
        "oom_kill" => s.oom_kills = value,
        _ => {}
    });
    s.tasks = folder.number("pids.current").unwrap_or(0);
    s.tasks_max = limit(folder, "pids.max");
    s.devices = devices(&folder.text("io.stat").unwrap_or_default());
    s.huge_pages = huge_pages(folder, sizes);
    s.pressure = pressures(folder, ".pressure");
    Some(s)
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn devices(text: &str) -> Vec<DeviceUse> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words
            .next()
            .and_then(numbers)
            .and_then(|numbers| device(&mut all, numbers))
        else {
            continue;
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => cost(device, key, value),
            }
        }
    }
    all
}

/// Of a device with `cost.usage=1 cost.wait=2 …`.
fn cost(device: &mut DeviceUse, key: &str, value: u64) {
    let Some(what) = key.strip_prefix("cost.") else {
        return;
    };
    let cost = device.cost.get_or_insert_default();
    match what {
        "usage" => cost.usage_micros = value,
        "wait" => cost.wait_micros = value,
        "indebt" => cost.indebt_micros = value,
        "indelay" => cost.indelay_micros = value,
        _ => {}
    }
}

fn huge_pages(folder: &Folder, sizes: &[String]) -> Vec<HugePages> {
    let of = |size: &String| {
        let bytes = folder.number(&format!("hugetlb.{size}.current"))?;
        let mut failures = 0;
        folder.table(&format!("hugetlb.{size}.events"), |key, value| {
            if key == "max" {
                failures = value;
            }
        });
        Some(HugePages {
            size: size.clone(),
            bytes,
            max_bytes: 0,
            failures,
        })
    };
    sizes.iter().filter_map(of).collect()
}

/// Of files `cpu`, `memory` and `io` with an ending; none where the kernel keeps none.
pub(super) fn pressures(folder: &Folder, ending: &str) -> Option<Pressures> {
    let of = |what: &str| Some(pressure(&folder.text(&format!("{what}{ending}"))?));
    Some(Pressures {
        cpu: of("cpu")?,
        memory: of("memory")?,
        io: of("io")?,
    })
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=12`.
fn pressure(text: &str) -> Pressure {
    let of = |kind: &str| {
        let line = text.lines().find(|l| l.starts_with(kind)).unwrap_or("");
        let word = |key: &str| {
            let found = line.split_whitespace().filter_map(|w| w.split_once('='));
            found.filter(|(k, _)| *k == key).map(|(_, v)| v).next()
        };
        Lost {
            total_micros: word("total").and_then(|v| v.parse().ok()).unwrap_or(0),
            averages: ["avg10", "avg60", "avg300"].map(|key| word(key).map_or(0, hundredths)),
        }
    };
    Pressure {
        some: of("some"),
        full: of("full"),
    }
}

/// `1.07` is 107.
fn hundredths(text: &str) -> u32 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.parse::<u32>().unwrap_or(0);
    let part: String = part.chars().chain("00".chars()).take(2).collect();
    digits(whole)
        .saturating_mul(100)
        .saturating_add(digits(&part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Hierarchy;
    use std::fs;

    #[test]
    fn files_of_one_folder_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put(
            "cpu.stat",
            "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_bursts 4\nburst_usec 6\n",
        );
        put(
            "memory.stat",
            "anon 10\nfile 20\ninactive_file 8\npgfault 4\nkernel_stack 2\nslab 3\n",
        );
        put("memory.current", "31\n");
        put("memory.events", "low 0\nmax 6\noom 2\noom_kill 1\n");
        put(
            "io.stat",
            "8:0 rbytes=7 wbytes=9 rios=1 wios=2 cost.usage=3 cost.indelay=4\n\
             8:16 rbytes=1 wbytes=0\n",
        );
        put("pids.max", "max\n");
        put("hugetlb.2MB.current", "4096\n");
        put("hugetlb.2MB.rsvd.current", "9\n");
        put("hugetlb.2MB.events", "max 5\n");
        for what in ["cpu", "memory", "io"] {
            put(
                &format!("{what}.pressure"),
                "some avg10=0.50 avg60=12.07 avg300=100.00 total=12\n\
                 full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            );
        }
        let tree = Hierarchy::V2 {
            root: dir.path().into(),
        };
        let stats = tree.stats("/").unwrap();
        assert_eq!(stats.cpu_nanos, 5000);
        assert_eq!((stats.working_set_bytes, stats.kernel_bytes), (23, 5));
        assert_eq!((stats.memory_failures, stats.oom_kills), (6, 1));
        assert_eq!((stats.read_bytes(), stats.written_bytes()), (8, 9));
        assert_eq!((stats.devices[0].reads, stats.devices[0].writes), (1, 2));
        assert_eq!((stats.cpu_burst_periods, stats.cpu_burst_nanos), (4, 6_000));
        let cost = stats.devices[0]
            .cost
            .map(|c| (c.usage_micros, c.indelay_micros));
        assert_eq!((cost, stats.devices[1].cost), (Some((3, 4)), None));
        assert_eq!(stats.huge_pages.len(), 1);
        assert_eq!(
            (stats.huge_pages[0].bytes, stats.huge_pages[0].failures),
            (4096, 5)
        );
        let io = stats.pressure.unwrap().io;
        assert_eq!((io.some.total_micros, io.full.total_micros), (12, 3));
        assert_eq!(
            (io.some.averages, io.full.averages),
            ([50, 1207, 10_000], [0; 3])
        );
        assert_eq!(tree.stats("/absent"), None);
    }

    #[test]
    fn a_kernel_without_pressure_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(pressures(&Folder::at(dir.path()), ".pressure"), None);
    }
}
