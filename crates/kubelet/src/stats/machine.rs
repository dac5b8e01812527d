//! The machine, as the kernel's files show it: what it consists of, its CPU time, its interfaces.

use super::{DiskActivity, Interface, Machine};
use crate::config::Config;
use crate::metrics::files;
use crate::node::machine;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// What the machine consists of.
pub(super) fn machine(config: &Config) -> Machine {
    let (cores, sockets) = topology(&files::text(Path::new("/proc/cpuinfo"), "cpuinfo"));
    Machine {
        identity: machine::Identity::read(config),
        cores,
        sockets,
        books: different(Path::new(CPUS), "book_id"),
        drawers: different(Path::new(CPUS), "drawer_id"),
        swap_bytes: machine::memory().swap,
    }
}

const CPUS: &str = "/sys/devices/system/cpu";

/// How many different values CPUs have in a file about where they are; most machines have no such file.
fn different(cpus: &Path, file: &str) -> u64 {
    let folders = std::fs::read_dir(cpus).into_iter().flatten().flatten();
    let values = folders.filter_map(|cpu| {
        let text = std::fs::read_to_string(cpu.path().join("topology").join(file)).ok()?;
        // A CPU of which the kernel does not know it.
        Some(text.trim().to_owned()).filter(|id| id != "-1")
    });
    values.collect::<BTreeSet<String>>().len() as u64
}

/// Cores and sockets of `/proc/cpuinfo`; where it does not distinguish them each CPU is a core, and
/// all are in one socket.
fn topology(text: &str) -> (u64, u64) {
    let value = |line: &str| line.split_once(':').map(|(_, v)| v.trim().to_owned());
    let (mut cores, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    let (mut cpus, mut socket) = (0, None);
    for line in text.lines() {
        if line.starts_with("processor") {
            cpus += 1;
            socket = None;
        } else if line.starts_with("physical id") {
            socket = value(line);
            sockets.extend(socket.clone());
        } else if line.starts_with("core id") {
            cores.insert((socket.clone(), value(line)));
        }
    }
    let or = |counted: usize, else_: u64| match counted {
        0 => else_,
        counted => counted as u64,
    };
    (or(cores.len(), cpus), or(sockets.len(), 1))
}

/// Block devices by their numbers, from `/proc/partitions`.
pub(super) fn device_names() -> HashMap<(u32, u32), String> {
    parse_partitions(&files::text(Path::new("/proc/partitions"), "partitions"))
}

fn parse_partitions(text: &str) -> HashMap<(u32, u32), String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let major = words.next()?.parse().ok()?;
            let minor = words.next()?.parse().ok()?;
            Some(((major, minor), format!("/dev/{}", words.nth(1)?)))
        })
        .collect()
}

/// What a device, such as `/dev/vda`, has done since the machine started; none where the kernel does not
/// say.
pub(super) fn disk_activity(device: &str) -> Option<DiskActivity> {
    let name = device.strip_prefix("/dev/")?;
    let text = files::of_process(Path::new("/proc/diskstats"), "diskstats")?;
    parse_disk_activity(&text, name)
}

fn parse_disk_activity(text: &str, name: &str) -> Option<DiskActivity> {
    let mut lines = text.lines().map(|l| l.split_whitespace().skip(2));
    let words = lines.find(|words| words.clone().next() == Some(name))?;
    let numbers: Vec<u64> = words.skip(1).filter_map(|w| w.parse().ok()).collect();
    let at = |i: usize| numbers.get(i).copied();
    Some(DiskActivity {
        reads_merged: at(1)?,
        sectors_read: at(2)?,
        read_millis: at(3)?,
        writes_merged: at(5)?,
        sectors_written: at(6)?,
        write_millis: at(7)?,
        in_progress: at(8)?,
        busy_millis: at(9)?,
        weighted_millis: at(10)?,
    })
}

/// The device that a path is on, if it is one that has a name.
pub(super) fn device_of(path: &Path, names: &HashMap<(u32, u32), String>) -> String {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok();
    let device = found.map_or(0, |m| m.dev());
    let numbers = host::mounts::device_numbers(device);
    names.get(&numbers).cloned().unwrap_or_default()
}

/// CPU time of the machine in user mode and in the kernel, nanoseconds, from `/proc/stat`,
/// which counts in hundredths of a second. What other machines took of the host is nobody's here.
pub(super) fn cpu_times() -> (u64, u64) {
    let text = files::text(Path::new("/proc/stat"), "stat");
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    let at = |i: usize| fields.get(i).copied().unwrap_or(0) * 10_000_000;
    (at(0) + at(1), at(2) + at(5) + at(6))
}

pub(super) fn start_time() -> Option<Timestamp> {
    let text = files::text(Path::new("/proc/stat"), "stat");
    let seconds = text
        .lines()
        .find_map(|l| l.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Timestamp::from_second(seconds).ok()
}

/// Beginnings of names of interfaces that are not the machine's way to others: its loopback, and the
/// ends of links that lead to pods.
const LINKS: [&str; 3] = ["lo", "veth", "docker"];

/// Reads a `net/dev` table, without the loopback and links to pods.
pub(super) fn interfaces(file: &Path) -> Vec<Interface> {
    parse_interfaces(&files::of_process(file, "net/dev").unwrap_or_default())
}

fn parse_interfaces(text: &str) -> Vec<Interface> {
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let f: Vec<u64> = rest
                .split_whitespace()
                .filter_map(|v| v.parse().ok())
                .collect();
            let at = |i: usize| f.get(i).copied().unwrap_or(0);
            // As cAdvisor: what leads to pods is counted in the pods.
            let is_own = !LINKS.iter().any(|prefix| name.trim().starts_with(prefix));
            is_own.then(|| Interface {
                name: name.trim().to_owned(),
                rx_bytes: at(0),
                rx_packets: at(1),
                rx_errors: at(2),
                rx_dropped: at(3),
                tx_bytes: at(8),
                tx_packets: at(9),
                tx_errors: at(10),
                tx_dropped: at(11),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let text = "h\nh\n  lo: 1 2 0 0 0 0 0 0 1 2 0 0 0 0 0 0\neth0: 10 2 3 4 0 0 0 0 20 5 6 7 0 0 0 0\n";
        let all = parse_interfaces(text);
        assert_eq!(all.len(), 1);
        assert_eq!(
            (
                all[0].rx_bytes,
                all[0].rx_dropped,
                all[0].tx_bytes,
                all[0].tx_dropped
            ),
            (10, 4, 20, 7)
        );
    }

    #[test]
    fn cores_and_sockets_are_told_apart_where_the_machine_does() {
        let cpu = |n, socket, core| {
            format!("processor\t: {n}\nphysical id\t: {socket}\ncore id\t: {core}\n\n")
        };
        let text = [cpu(0, 0, 0), cpu(1, 0, 0), cpu(2, 1, 0), cpu(3, 1, 1)].concat();
        assert_eq!(topology(&text), (3, 2));
        assert_eq!(topology("processor : 0\n\nprocessor : 1\n"), (2, 1));
    }

    #[test]
    fn a_disks_activity_is_found_by_its_name() {
        let text = " 254       0 vda 10 1 20 30 40 5 60 70 8 90 100 0 0 0 0\n\
             254       1 vda1 1 1 1 1 1 1 1 1 1 1 1\n";
        let found = parse_disk_activity(text, "vda").unwrap();
        assert_eq!((found.reads_merged, found.sectors_read), (1, 20));
        assert_eq!((found.writes_merged, found.write_millis), (5, 70));
        assert_eq!((found.in_progress, found.busy_millis), (8, 90));
        assert_eq!(found.weighted_millis, 100);
        assert_eq!(parse_disk_activity(text, "vdb"), None);
    }

    #[test]
    fn books_are_counted_where_there_are_any() {
        let dir = tempfile::tempdir().unwrap();
        for (cpu, book) in [("cpu0", "0"), ("cpu1", "0"), ("cpu2", "1"), ("cpu3", "-1")] {
            let topology = dir.path().join(cpu).join("topology");
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("book_id"), format!("{book}\n")).unwrap();
        }
        assert_eq!(different(dir.path(), "book_id"), 2);
        assert_eq!(different(dir.path(), "drawer_id"), 0);
    }

    #[test]
    fn devices_have_names() {
        let names =
            parse_partitions("major minor  #blocks  name\n\n 254        0  268435456 vda\n");
        assert_eq!(names[&(254, 0)], "/dev/vda");
    }
}
