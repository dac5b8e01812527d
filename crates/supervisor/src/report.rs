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
    /// Resident memory in KiB, and the part of it that no other process shares.
    pub rss_kib: u64,
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
    let Ok(all) = procfs::process::all_processes() else {
        return Vec::new();
    };
    all.filter_map(Result::ok)
        .filter(|p| namespace(p.pid) == of_child)
        .filter_map(|p| describe(p.pid))
        .collect()
}

fn describe(pid: i32) -> Option<ProcessReport> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |field: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(field))
            .and_then(|v| v.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .unwrap_or(0)
    };
    let comm = status
        .lines()
        .find_map(|l| l.strip_prefix("Name:\t"))?
        .to_owned();
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let name = match cmdline.split(|b| *b == 0).nth(1) {
        Some(arg) if comm == "tiphys" => format!("tiphys {}", String::from_utf8_lossy(arg)),
        _ => comm,
    };
    let rss_kib = kib("VmRSS:");
    // Anonymous pages are ours alone; file pages are the shared binary.
    Some(ProcessReport {
        pid,
        name,
        rss_kib,
        private_kib: kib("RssAnon:"),
    })
}

/// The table that `tiphys status` prints.
pub fn render(report: &Report, now: i64) -> String {
    let mut out = String::from(
        "NAME             STATE     UPTIME   RESTARTS  PROCESS                    PID      RSS\n",
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
            let mib = format!("{}.{} MiB", p.rss_kib / 1024, p.rss_kib % 1024 * 10 / 1024);
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
            rss_kib: 40 * 1024 + 512,
            private_kib: 1,
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
            NAME             STATE     UPTIME   RESTARTS  PROCESS                    PID      RSS
            server           running   10s      0         tiphys server              7        40.5 MiB
            node-1           stopped   -        2
        "#]]
        .assert_eq(&render(&report, 100));
    }

    #[test]
    fn this_process_is_described() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        let record = Record::of(pid, 0, 0).expect("record");
        let seen = processes_of(&record);
        assert!(
            seen.iter().any(|p| p.pid == pid && p.rss_kib > 0),
            "{seen:?}"
        );
    }
}
