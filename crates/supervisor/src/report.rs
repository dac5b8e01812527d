//! What `status` shows: every process of the cluster with its memory, and the state of each child.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::process::Record;

/// One process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessReport {
    pub pid: i32,
    /// As in /proc/PID/comm, with the subcommand for our own binary.
    pub name: String,
    /// Memory in KiB that no other process shares: what the machine would win back. Resident
    /// memory says little, since most of it is file pages of the one binary.
    pub private_kib: u64,
}

/// One child of the supervisor with all its processes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChildReport {
    pub name: String,
    /// `running`, `stopped` or `starting`.
    pub state: String,
    pub restarts: u32,
    /// Seconds since the epoch; 0 when it does not run.
    pub started_at: i64,
    pub processes: Vec<ProcessReport>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub children: Vec<ChildReport>,
    pub kubeconfig: String,
}

/// All processes whose PID namespace is that of `pid`, or `pid` alone when it lives in ours.
pub fn processes_of(record: &Record) -> Vec<ProcessReport> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = fs::read_link("/proc/self/ns/pid").ok();
    let of_child = namespace(record.pid);
    if of_child.is_none() || of_child == own {
        return describe(record.pid).into_iter().collect();
    }
    let all = match procfs::process::all_processes() {
        Ok(all) => all,
        // What is known is shown.
        Err(e) => {
            tracing::warn!("the processes of the machine cannot be listed: {e}");
            return describe(record.pid).into_iter().collect();
        }
    };
    all.filter_map(Result::ok)
        .filter(|p| namespace(p.pid) == of_child)
        .filter_map(|p| describe(p.pid))
        .collect()
}

fn describe(pid: i32) -> Option<ProcessReport> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let comm = status
        .lines()
        .find_map(|l| l.strip_prefix("Name:\t"))?
        .to_owned();
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let name = match cmdline.split(|b| *b == 0).nth(1) {
        Some(arg) if comm == "tiphys" => format!("tiphys {}", String::from_utf8_lossy(arg)),
        _ => comm,
    };
    // It may have ended since.
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Some(ProcessReport {
        pid,
        name,
        private_kib: private_kib(&maps),
    })
}

/// The private memory of a process by its `smaps_rollup`.
fn private_kib(maps: &str) -> u64 {
    let private = |line: &str| {
        let line = line.strip_prefix("Private_")?;
        let (what, size) = line.split_once(':')?;
        let counted = matches!(what, "Clean" | "Dirty");
        let size = size.trim().trim_end_matches(" kB").parse::<u64>();
        size.ok().filter(|_| counted)
    };
    maps.lines().filter_map(private).sum()
}

/// The table that `tiphys status` prints.
pub fn render(report: &Report, now: i64) -> String {
    let mut out = String::from(
        "NAME             STATE     UPTIME   RESTARTS  PROCESS                    PID      PRIVATE\n",
    );
    for child in &report.children {
        let uptime = match child.started_at {
            0 => "-".to_owned(),
            at => format!("{}s", now.saturating_sub(at)),
        };
        let head = format!(
            "{:<17}{:<10}{:<9}{:<10}",
            child.name, child.state, uptime, child.restarts
        );
        if child.processes.is_empty() {
            out.push_str(head.trim_end());
            out.push('\n');
        }
        for (i, p) in child.processes.iter().enumerate() {
            let left = if i == 0 { head.as_str() } else { "" };
            let kib = p.private_kib;
            let mib = format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024);
            out.push_str(&format!("{left:<46}{:<27}{:<9}{mib}\n", p.name, p.pid));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table() {
        let process = ProcessReport {
            pid: 7,
            name: "tiphys server".into(),
            private_kib: 40 * 1024 + 512,
        };
        let report = Report {
            children: vec![
                ChildReport {
                    name: "server".into(),
                    state: "running".into(),
                    restarts: 0,
                    started_at: 90,
                    processes: vec![process],
                },
                ChildReport {
                    name: "node-1".into(),
                    state: "stopped".into(),
                    restarts: 2,
                    started_at: 0,
                    processes: vec![],
                },
            ],
            kubeconfig: String::new(),
        };
        expect_test::expect![[r#"
            NAME             STATE     UPTIME   RESTARTS  PROCESS                    PID      PRIVATE
            server           running   10s      0         tiphys server              7        40.5 MiB
            node-1           stopped   -        2
        "#]]
        .assert_eq(&render(&report, 100));
    }

    #[test]
    fn private_memory_is_what_nobody_shares() {
        let maps = "Rss: 900 kB\nPss: 1 kB\nShared_Clean: 700 kB\nPrivate_Clean:  40 kB\n\
            Private_Dirty:        2 kB\nPrivate_Hugetlb: 5 kB\n";
        assert_eq!(private_kib(maps), 42);
        assert_eq!(private_kib(""), 0);
    }

    #[test]
    fn this_process_is_described() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        let record = Record::of(pid, 0, 0).expect("record");
        let seen = processes_of(&record);
        assert!(
            seen.iter().any(|p| p.pid == pid && p.private_kib > 0),
            "{seen:?}"
        );
    }
}
