//! `/metrics/cadvisor`: every container, every pod's group and sandbox, and the machine, in cAdvisor's
//! words. Families of one value are rows of a table (`rows.rs`); those with labels of their own are
//! written here. They are those that upstream's kubelet has cAdvisor show. Of its kinds of memory for
//! machines (DIMMs, NVM) the kernel says nothing.

mod rows;
mod subject;
#[cfg(test)]
mod tests;

pub(super) use subject::{Subject, subjects};

use super::text::{Labels, Text, seconds};
use super::{All, Interface, Machine, OfDisk};
use crate::pod::spec;
use host::cgroup::DeviceUse;
use jiff::Timestamp;
use rows::{
    ACTIVITY_ROWS, COST_ROWS, COUNTER, DEVICE_ROWS, DISK_ROWS, GAUGE, HUGE_PAGES_ROWS,
    INTERFACE_ROWS, ROWS, TASK_ROWS,
};

/// What a sample takes beside the labels of its subject: its name, value, time and labels of its own.
/// Bytes.
const OF_A_SAMPLE: usize = 96;
/// Samples of a subject that come of other tables than [`ROWS`], about.
const MORE_SAMPLES: usize = 24;

/// A subject with the labels that all its samples have.
struct Shown<'a> {
    of: Subject<'a>,
    labels: Labels,
}

/// The page.
#[must_use]
pub fn page(all: &All) -> String {
    let subjects = subjects(all).into_iter().map(|of| Shown {
        labels: of.labels(),
        of,
    });
    let subjects: Vec<Shown<'_>> = subjects.collect();
    // A page of many containers is megabytes: it is not copied again and again while it grows.
    let of_all: usize = subjects.iter().map(|s| s.labels.size() + OF_A_SAMPLE).sum();
    let mut t = Text::with_capacity(of_all * (ROWS.len() + MORE_SAMPLES));
    let at = Some(all.at);
    let total = "container_cpu_usage_seconds_total";
    t.family(total, COUNTER, "Cumulative cpu time consumed in seconds.");
    let cpu = Labels::of(&[("cpu", "total")]);
    for s in &subjects {
        let used = seconds(s.of.stats.cpu_nanos);
        t.labelled(total, &[&s.labels, &cpu], used, at);
    }
    for (name, kind, help, value) in ROWS {
        // A family without samples is not a family.
        let mut samples = subjects
            .iter()
            .filter_map(|s| Some((s, value(&s.of)?)))
            .peekable();
        if samples.peek().is_some() {
            t.family(name, kind, help);
        }
        for (s, value) in samples {
            t.labelled(name, &[&s.labels], value, at);
        }
    }
    let name = "container_last_seen";
    t.family(
        name,
        GAUGE,
        "Last time a container was seen by the exporter",
    );
    for s in &subjects {
        t.labelled(name, &[&s.labels], all.at.as_second() as f64, at);
    }
    page_faults(&mut t, &subjects, at);
    tasks(&mut t, &subjects, at);
    devices(&mut t, all, &subjects);
    activity(&mut t, all, &subjects);
    disks(&mut t, &subjects, at);
    huge_pages(&mut t, &subjects, at);
    limits(&mut t, &subjects, at);
    network(&mut t, all);
    machine(&mut t, all);
    t.done()
}

fn page_faults(t: &mut Text, subjects: &[Shown<'_>], at: Option<Timestamp>) {
    let name = "container_memory_failures_total";
    t.family(
        name,
        COUNTER,
        "Cumulative count of memory allocation failures.",
    );
    let kinds = [
        ("pgfault", "container"),
        ("pgmajfault", "container"),
        ("pgfault", "hierarchy"),
        ("pgmajfault", "hierarchy"),
    ];
    let kinds = kinds.map(|(kind, scope)| Labels::of(&[("failure_type", kind), ("scope", scope)]));
    for s in subjects {
        let stats = s.of.stats;
        let values = [
            stats.own_page_faults,
            stats.own_major_page_faults,
            stats.page_faults,
            stats.major_page_faults,
        ];
        for (kind, value) in kinds.iter().zip(values) {
            t.labelled(name, &[&s.labels, kind], value as f64, at);
        }
    }
}

fn tasks(t: &mut Text, subjects: &[Shown<'_>], at: Option<Timestamp>) {
    let name = "container_tasks_state";
    t.family(name, GAUGE, "Number of tasks in given state");
    let states = TASK_ROWS.map(|(state, value)| (Labels::of(&[("state", state)]), value));
    for s in subjects {
        let Some(held) = s.of.held else { continue };
        for (state, value) in &states {
            t.labelled(name, &[&s.labels, state], value(&held.tasks) as f64, at);
        }
    }
}

/// A block device that a subject uses, with the label of its name.
type Used<'a> = (&'a Shown<'a>, &'a DeviceUse, Labels);

fn devices(t: &mut Text, all: &All, subjects: &[Shown<'_>]) {
    let at = Some(all.at);
    let used = subjects.iter().flat_map(|s| {
        let devices = s.of.stats.devices.iter();
        devices.map(move |d| (s, d, device_label(all, d)))
    });
    let used: Vec<Used<'_>> = used.collect();
    for (name, help, value) in DEVICE_ROWS {
        t.family(name, COUNTER, help);
        for (s, d, device) in &used {
            t.labelled(name, &[&s.labels, device], value(d) as f64, at);
        }
    }
    let name = "container_blkio_device_usage_total";
    t.family(name, COUNTER, "Blkio Device bytes usage");
    let operations = ["Read", "Write"].map(|of| Labels::of(&[("operation", of)]));
    for (s, d, device) in &used {
        let (major, minor) = (d.major.to_string(), d.minor.to_string());
        let numbers = Labels::of(&[("major", &major), ("minor", &minor)]);
        let values = [d.read_bytes, d.written_bytes];
        for (operation, bytes) in operations.iter().zip(values) {
            let labels = [&s.labels, device, &numbers, operation];
            t.labelled(name, &labels, bytes as f64, at);
        }
    }
    costs(t, &used, at);
}

fn device_label(all: &All, of: &DeviceUse) -> Labels {
    Labels::of(&[("device", &all.device(of.major, of.minor))])
}

fn costs(t: &mut Text, used: &[Used<'_>], at: Option<Timestamp>) {
    if used.iter().all(|(_, d, _)| d.cost.is_none()) {
        return;
    }
    for (name, help, value) in COST_ROWS {
        t.family(name, COUNTER, help);
        for (s, d, device) in used {
            if let Some(cost) = &d.cost {
                let seconds = value(cost) as f64 / 1e6;
                t.labelled(name, &[&s.labels, device], seconds, at);
            }
        }
    }
}

/// Of the machine's disk, which all use together: so of the machine alone.
fn activity(t: &mut Text, all: &All, subjects: &[Shown<'_>]) {
    let Some((done, machine)) = all.disk_activity.as_ref().zip(subjects.first()) else {
        return;
    };
    let device = Labels::of(&[("device", &all.disk_device)]);
    for (name, kind, help, value) in ACTIVITY_ROWS {
        t.family(name, kind, help);
        let labels = [&machine.labels, &device];
        t.labelled(name, &labels, value(done), Some(all.at));
    }
}

fn disks(t: &mut Text, subjects: &[Shown<'_>], at: Option<Timestamp>) {
    let disks = subjects.iter().filter_map(|s| {
        let disk = s.of.disk.as_ref()?;
        let device = Labels::of(&[("device", &disk.device)]);
        Some((&s.labels, disk, device))
    });
    let disks: Vec<(&Labels, &OfDisk, Labels)> = disks.collect();
    for (name, help, value) in DISK_ROWS {
        t.family(name, GAUGE, help);
        for (labels, disk, device) in &disks {
            t.labelled(name, &[labels, device], value(disk) as f64, at);
        }
    }
}

fn huge_pages(t: &mut Text, subjects: &[Shown<'_>], at: Option<Timestamp>) {
    if subjects.iter().all(|s| s.of.stats.huge_pages.is_empty()) {
        return;
    }
    for (name, kind, help, value) in HUGE_PAGES_ROWS {
        t.family(name, kind, help);
        for s in subjects {
            for h in &s.of.stats.huge_pages {
                let size = Labels::of(&[("pagesize", &h.size)]);
                t.labelled(name, &[&s.labels, &size], value(h) as f64, at);
            }
        }
    }
}

fn limits(t: &mut Text, subjects: &[Shown<'_>], at: Option<Timestamp>) {
    let name = "container_ulimits_soft";
    let limit = |s: &Shown<'_>| s.of.held.and_then(|h| h.soft_limit);
    if subjects.iter().all(|s| limit(s).is_none()) {
        return;
    }
    t.family(
        name,
        GAUGE,
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
    );
    let files = Labels::of(&[("ulimit", "max_open_files")]);
    for s in subjects {
        if let Some(limit) = limit(s) {
            t.labelled(name, &[&s.labels, &files], limit as f64, at);
        }
    }
}

fn network(t: &mut Text, all: &All) {
    let of = |i: &Interface, [id, image, sandbox, namespace, pod]: [&str; 5]| {
        Labels::of(&[
            ("container", ""),
            ("id", id),
            ("image", image),
            ("interface", &i.name),
            ("name", sandbox),
            ("namespace", namespace),
            ("pod", pod),
        ])
    };
    let own = all
        .network
        .iter()
        .map(|i| (i, of(i, ["/", "", "", "", ""])));
    let of_pods = all.pods.iter().flat_map(|p| {
        let (namespace, pod) = (spec::namespace(&p.pod), spec::name(&p.pod));
        let whose: [&str; 5] = [&p.group, &all.pause_image, &p.sandbox_id, namespace, pod];
        p.network.iter().map(move |i| (i, of(i, whose)))
    });
    let interfaces: Vec<(&Interface, Labels)> = own.chain(of_pods).collect();
    for (name, help, value) in INTERFACE_ROWS {
        t.family(name, COUNTER, help);
        for (i, labels) in &interfaces {
            t.labelled(name, &[labels], value(i) as f64, Some(all.at));
        }
    }
}

fn machine(t: &mut Text, all: &All) {
    let m: &Machine = &all.machine;
    let labels = [
        ("boot_id", m.identity.boot_id.as_str()),
        ("machine_id", m.identity.machine_id.as_str()),
        ("system_uuid", m.identity.system_uuid.as_str()),
    ];
    for (name, help, value) in [
        (
            "machine_cpu_cores",
            "Number of logical CPU cores.",
            all.cpu_millis as f64 / 1000.0,
        ),
        (
            "machine_cpu_physical_cores",
            "Number of physical CPU cores.",
            m.cores as f64,
        ),
        (
            "machine_cpu_sockets",
            "Number of CPU sockets.",
            m.sockets as f64,
        ),
        ("machine_cpu_books", "Number of CPU books.", m.books as f64),
        (
            "machine_cpu_drawers",
            "Number of CPU drawers.",
            m.drawers as f64,
        ),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            all.memory_bytes as f64,
        ),
        (
            "machine_swap_bytes",
            "Amount of swap memory available on the machine.",
            m.swap_bytes as f64,
        ),
    ] {
        t.family(name, GAUGE, help);
        t.sample(name, &labels, value, Some(all.at));
    }
    let name = "cadvisor_version_info";
    t.family(
        name,
        GAUGE,
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.",
    );
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", m.identity.kernel.as_str()),
        ("osVersion", m.identity.os_image.as_str()),
    ];
    t.sample(name, &labels, 1.0, None);
    let failed = if all.node_name.is_empty() { 1.0 } else { 0.0 };
    t.one(
        (
            "container_scrape_error",
            GAUGE,
            "1 if there was an error while getting container metrics, 0 otherwise",
        ),
        failed,
    );
    t.one(
        (
            "machine_scrape_error",
            GAUGE,
            "1 if there was an error while getting machine metrics, 0 otherwise.",
        ),
        failed,
    );
}
