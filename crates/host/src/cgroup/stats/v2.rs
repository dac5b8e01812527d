//! Version 2: one tree for all controllers.

use super::{
    DeviceUse, HugePages, Lost, Pressure, Pressures, Stats, device, limit, number, numbers, table,
};
use std::fs;
use std::path::Path;

pub fn read(folder: &Path) -> Option<Stats> {
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
    Some(Stats {
        cpu_nanos: micros("usage_usec"),
        cpu_user_nanos: micros("user_usec"),
        cpu_system_nanos: micros("system_usec"),
        cpu_throttled_periods: cpu.get("nr_throttled").copied().unwrap_or(0),
        cpu_periods: cpu.get("nr_periods").copied().unwrap_or(0),
        cpu_throttled_nanos: micros("throttled_usec"),
        cpu_burst_periods: cpu.get("nr_bursts").copied().unwrap_or(0),
        cpu_burst_nanos: micros("burst_usec"),
        memory_bytes: usage,
        working_set_bytes: usage.saturating_sub(at("inactive_file")),
        rss_bytes: at("anon"),
        cache_bytes: at("file"),
        active_file_bytes: at("active_file"),
        inactive_file_bytes: at("inactive_file"),
        mapped_file_bytes: at("file_mapped"),
        // Older kernels do not sum it up.
        kernel_bytes: memory
            .get("kernel")
            .copied()
            .unwrap_or_else(|| at("kernel_stack") + at("slab")),
        swap_bytes: number(&folder.join("memory.swap.current")).unwrap_or(0),
        max_memory_bytes: number(&folder.join("memory.peak")).unwrap_or(0),
        memory_failures: events.get("max").copied().unwrap_or(0),
        oom_kills: events.get("oom_kill").copied().unwrap_or(0),
        page_faults: at("pgfault"),
        major_page_faults: at("pgmajfault"),
        own_page_faults: at("pgfault"),
        own_major_page_faults: at("pgmajfault"),
        tasks: number(&folder.join("pids.current")).unwrap_or(0),
        tasks_max: limit(&folder.join("pids.max")),
        devices: devices(&folder.join("io.stat")),
        huge_pages: huge_pages(folder),
        pressure: pressures(folder, ".pressure"),
    })
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn devices(file: &Path) -> Vec<DeviceUse> {
    let text = fs::read_to_string(file).unwrap_or_default();
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

/// Sizes of huge pages for which a folder has a file `hugetlb.SIZE` with this ending.
pub(super) fn sizes(folder: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = entries
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(ending)?;
            // Reservations are not use.
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}

fn huge_pages(folder: &Path) -> Vec<HugePages> {
    sizes(folder, ".current")
        .into_iter()
        .map(|size| {
            let events = table(&folder.join(format!("hugetlb.{size}.events")));
            HugePages {
                bytes: number(&folder.join(format!("hugetlb.{size}.current"))).unwrap_or(0),
                max_bytes: 0,
                failures: events.get("max").copied().unwrap_or(0),
                size,
            }
        })
        .collect()
}

/// Of files `cpu`, `memory` and `io` with an ending; none where the kernel keeps none.
pub(super) fn pressures(folder: &Path, ending: &str) -> Option<Pressures> {
    let of = |what: &str| {
        let text = fs::read_to_string(folder.join(format!("{what}{ending}"))).ok()?;
        Some(pressure(&text))
    };
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
        let stats = read(dir.path()).unwrap();
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
        assert_eq!(read(&dir.path().join("absent")), None);
    }

    #[test]
    fn a_kernel_without_pressure_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(pressures(dir.path(), ".pressure"), None);
    }
}
