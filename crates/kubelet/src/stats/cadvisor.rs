//! `/metrics/cadvisor`: every container, every pod's group and sandbox, and the machine, in cAdvisor's
//! words. A family is a row of a table here; what the kernel does not count has no row. They are those
//! that upstream's kubelet has cAdvisor show. Of its kinds of memory for machines (DIMMs, NVM) the kernel
//! says nothing.

use super::text::{Text, seconds};
use super::{All, DiskActivity, Interface, Machine, OfDisk};
use crate::pod::spec;
use host::cgroup::{DeviceUse, IoCost, Limits, Stats, TaskStates};
use jiff::Timestamp;

/// What samples are of: a group of processes, with what is known of it.
pub(super) struct Subject<'a> {
    pub container: &'a str,
    pub group: &'a str,
    pub image: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
    pub pod: &'a str,
    pub stats: &'a Stats,
    pub limits: Limits,
    pub swap_limit: Option<u64>,
    pub memory_reservation: Option<u64>,
    pub started: Option<Timestamp>,
    pub disk: Option<OfDisk>,
    /// Processes, descriptors, sockets; none of what was not counted.
    pub held: Option<&'a host::cgroup::Descriptors>,
    /// Of the machine and of pods.
    pub network: &'a [Interface],
}

/// A family of one value for each subject; `None` where it does not apply.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Subject<'_>) -> Option<f64>,
);

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// Only of what has a limit of its CPU, as cAdvisor.
fn of_quota(s: &Subject<'_>, value: f64) -> Option<f64> {
    s.limits.cpu_quota.filter(|q| *q > 0).map(|_| value)
}

fn pressure(s: &Subject<'_>, of: fn(&host::cgroup::Pressures) -> u64) -> Option<f64> {
    s.stats.pressure.as_ref().map(|p| of(p) as f64 / 1e6)
}

/// Threads in a state, in thousandths, which is how cAdvisor writes loads.
fn load(s: &Subject<'_>, of: fn(&TaskStates) -> u64) -> Option<f64> {
    s.held.map(|h| of(&h.tasks) as f64 * 1000.0)
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // What probes say is on a page of its own: the runtime knows of no check.
    ("container_health_state", GAUGE, "The result of the container's health check",
        |s| s.held.map(|_| -1.0)),
    ("container_cpu_user_seconds_total", COUNTER, "Cumulative user cpu time consumed in seconds.",
        |s| Some(seconds(s.stats.cpu_user_nanos))),
    ("container_cpu_system_seconds_total", COUNTER, "Cumulative system cpu time consumed in seconds.",
        |s| Some(seconds(s.stats.cpu_system_nanos))),
    ("container_cpu_cfs_periods_total", COUNTER, "Number of elapsed enforcement period intervals.",
        |s| of_quota(s, s.stats.cpu_periods as f64)),
    ("container_cpu_cfs_throttled_periods_total", COUNTER, "Number of throttled period intervals.",
        |s| of_quota(s, s.stats.cpu_throttled_periods as f64)),
    ("container_cpu_cfs_throttled_seconds_total", COUNTER, "Total time duration the container has been throttled.",
        |s| of_quota(s, seconds(s.stats.cpu_throttled_nanos))),
    ("container_cpu_cfs_burst_periods_total", COUNTER, "Number of periods when burst occurs.",
        |s| of_quota(s, s.stats.cpu_burst_periods as f64)),
    ("container_cpu_cfs_burst_seconds_total", COUNTER, "Total time duration the container has been bursted.",
        |s| of_quota(s, seconds(s.stats.cpu_burst_nanos))),
    // Nobody looks in between, so it is the load of the moment.
    ("container_cpu_load_average_10s", GAUGE, "Threads that run or could, at this moment, in thousandths.",
        |s| load(s, |t| t.running)),
    ("container_cpu_load_d_average_10s", GAUGE, "Threads that wait and cannot be interrupted, at this moment, in thousandths.",
        |s| load(s, |t| t.uninterruptible)),
    ("container_memory_usage_bytes", GAUGE, "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |s| Some(s.stats.memory_bytes as f64)),
    ("container_memory_working_set_bytes", GAUGE, "Current working set in bytes.",
        |s| Some(s.stats.working_set_bytes as f64)),
    ("container_memory_rss", GAUGE, "Size of RSS in bytes.",
        |s| Some(s.stats.rss_bytes as f64)),
    ("container_memory_cache", GAUGE, "Number of bytes of page cache memory.",
        |s| Some(s.stats.cache_bytes as f64)),
    ("container_memory_total_active_file_bytes", GAUGE, "Current total active file in bytes.",
        |s| Some(s.stats.active_file_bytes as f64)),
    ("container_memory_total_inactive_file_bytes", GAUGE, "Current total inactive file in bytes.",
        |s| Some(s.stats.inactive_file_bytes as f64)),
    ("container_memory_mapped_file", GAUGE, "Size of memory mapped files in bytes.",
        |s| Some(s.stats.mapped_file_bytes as f64)),
    ("container_memory_kernel_usage", GAUGE, "Size of kernel memory allocated in bytes.",
        |s| Some(s.stats.kernel_bytes as f64)),
    ("container_memory_swap", GAUGE, "Container swap usage in bytes.",
        |s| Some(s.stats.swap_bytes as f64)),
    ("container_memory_max_usage_bytes", GAUGE, "Maximum memory usage recorded in bytes",
        |s| Some(s.stats.max_memory_bytes as f64)),
    ("container_memory_failcnt", COUNTER, "Number of memory usage hits limits",
        |s| Some(s.stats.memory_failures as f64)),
    ("container_oom_events_total", COUNTER, "Count of out of memory events observed for the container",
        |s| Some(s.stats.oom_kills as f64)),
    ("container_processes", GAUGE, "Number of processes running inside the container.",
        |s| s.held.map(|h| h.processes as f64)),
    ("container_file_descriptors", GAUGE, "Number of open file descriptors for the container.",
        |s| s.held.map(|h| h.open as f64)),
    ("container_sockets", GAUGE, "Number of open sockets for the container.",
        |s| s.held.map(|h| h.sockets as f64)),
    ("container_threads", GAUGE, "Number of threads running inside the container",
        |s| Some(s.stats.tasks as f64)),
    ("container_threads_max", GAUGE, "Maximum number of threads allowed inside the container, infinity if value is zero",
        |s| Some(s.stats.tasks_max as f64)),
    ("container_pressure_cpu_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to CPU congestion.",
        |s| pressure(s, |p| p.cpu.some.total_micros)),
    ("container_pressure_cpu_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |s| pressure(s, |p| p.cpu.full.total_micros)),
    ("container_pressure_memory_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to memory congestion.",
        |s| pressure(s, |p| p.memory.some.total_micros)),
    ("container_pressure_memory_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to memory congestion.",
        |s| pressure(s, |p| p.memory.full.total_micros)),
    ("container_pressure_io_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to IO congestion.",
        |s| pressure(s, |p| p.io.some.total_micros)),
    ("container_pressure_io_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to IO congestion.",
        |s| pressure(s, |p| p.io.full.total_micros)),
    ("container_start_time_seconds", GAUGE, "Start time of the container since unix epoch in seconds.",
        |s| s.started.map(|t| t.as_second() as f64)),
    ("container_spec_cpu_period", GAUGE, "CPU period of the container.",
        |s| s.limits.cpu_period.map(|v| v as f64)),
    ("container_spec_cpu_quota", GAUGE, "CPU quota of the container.",
        |s| s.limits.cpu_quota.filter(|q| *q > 0).map(|q| q as f64)),
    ("container_spec_cpu_shares", GAUGE, "CPU share of the container.",
        |s| s.limits.cpu_shares.map(|v| v as f64)),
    ("container_spec_memory_limit_bytes", GAUGE, "Memory limit for the container.",
        |s| Some(s.limits.memory_bytes.unwrap_or(0) as f64)),
    ("container_spec_memory_swap_limit_bytes", GAUGE, "Memory swap limit for the container.",
        |s| Some(s.swap_limit.unwrap_or(0) as f64)),
    ("container_spec_memory_reservation_limit_bytes", GAUGE, "Memory reservation limit for the container.",
        |s| Some(s.memory_reservation.unwrap_or(0) as f64)),
];

/// A family of what threads do.
type TaskRow = (&'static str, fn(&TaskStates) -> u64);

const TASK_ROWS: [TaskRow; 4] = [
    ("sleeping", |t| t.sleeping),
    ("running", |t| t.running),
    ("stopped", |t| t.stopped),
    ("uninterruptible", |t| t.uninterruptible),
];

/// A family of the machine's disk as a whole.
type ActivityRow = (
    &'static str,
    &'static str,
    &'static str,
    fn(&DiskActivity) -> f64,
);

fn millis(of: u64) -> f64 {
    of as f64 / 1000.0
}

#[rustfmt::skip]
const ACTIVITY_ROWS: [ActivityRow; 9] = [
    ("container_fs_sector_reads_total", COUNTER, "Cumulative count of sector reads completed", |a| a.sectors_read as f64),
    ("container_fs_reads_merged_total", COUNTER, "Cumulative count of reads merged", |a| a.reads_merged as f64),
    ("container_fs_read_seconds_total", COUNTER, "Cumulative count of seconds spent reading", |a| millis(a.read_millis)),
    ("container_fs_sector_writes_total", COUNTER, "Cumulative count of sector writes completed", |a| a.sectors_written as f64),
    ("container_fs_writes_merged_total", COUNTER, "Cumulative count of writes merged", |a| a.writes_merged as f64),
    ("container_fs_write_seconds_total", COUNTER, "Cumulative count of seconds spent writing", |a| millis(a.write_millis)),
    ("container_fs_io_current", GAUGE, "Number of I/Os currently in progress", |a| a.in_progress as f64),
    ("container_fs_io_time_seconds_total", COUNTER, "Cumulative count of seconds spent doing I/Os", |a| millis(a.busy_millis)),
    ("container_fs_io_time_weighted_seconds_total", COUNTER, "Cumulative weighted I/O time in seconds", |a| millis(a.weighted_millis)),
];

/// A family of a device's time.
type CostRow = (&'static str, &'static str, fn(&IoCost) -> u64);

#[rustfmt::skip]
const COST_ROWS: [CostRow; 4] = [
    ("container_fs_io_cost_usage_seconds_total", "Cumulative IOCost usage in seconds", |c| c.usage_micros),
    ("container_fs_io_cost_wait_seconds_total", "Cumulative IOCost wait in seconds", |c| c.wait_micros),
    ("container_fs_io_cost_indebt_seconds_total", "Cumulative IOCost debt in seconds", |c| c.indebt_micros),
    ("container_fs_io_cost_indelay_seconds_total", "Cumulative IOCost delay in seconds", |c| c.indelay_micros),
];

/// A family of block devices.
type DeviceRow = (&'static str, &'static str, fn(&DeviceUse) -> u64);

#[rustfmt::skip]
const DEVICE_ROWS: [DeviceRow; 4] = [
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |d| d.read_bytes),
    ("container_fs_reads_total", "Cumulative count of reads completed", |d| d.reads),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |d| d.written_bytes),
    ("container_fs_writes_total", "Cumulative count of writes completed", |d| d.writes),
];

/// A family of file systems.
type DiskRow = (&'static str, &'static str, fn(&OfDisk) -> u64);

#[rustfmt::skip]
const DISK_ROWS: [DiskRow; 4] = [
    ("container_fs_inodes_free", "Number of available Inodes", |d| d.inodes_free),
    ("container_fs_inodes_total", "Number of Inodes", |d| d.inodes),
    ("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", |d| d.capacity_bytes),
    ("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", |d| d.used_bytes),
];

/// A family of network interfaces.
type InterfaceRow = (&'static str, &'static str, fn(&Interface) -> u64);

#[rustfmt::skip]
const INTERFACE_ROWS: [InterfaceRow; 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |i| i.rx_packets),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |i| i.rx_errors),
    ("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", |i| i.rx_dropped),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |i| i.tx_packets),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |i| i.tx_errors),
    ("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", |i| i.tx_dropped),
];

impl Subject<'_> {
    fn labels(&self) -> [(&str, &str); 6] {
        [
            ("container", self.container),
            ("id", self.group),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ]
    }

    /// The labels with more behind them.
    fn with<'b>(&'b self, more: &[(&'b str, &'b str)]) -> Vec<(&'b str, &'b str)> {
        self.labels().iter().chain(more).copied().collect()
    }
}

/// All that samples are of: the machine first.
pub(super) fn subjects(all: &All) -> Vec<Subject<'_>> {
    let empty = |stats, group| Subject {
        container: "",
        group,
        image: "",
        name: "",
        namespace: "",
        pod: "",
        stats,
        limits: Limits::default(),
        swap_limit: None,
        memory_reservation: None,
        started: None,
        disk: None,
        held: None,
        network: &[],
    };
    let mut out = vec![Subject {
        started: all.start_time,
        swap_limit: all.swap_limit,
        network: &all.network,
        disk: Some(OfDisk {
            used_bytes: all.fs.used_bytes,
            ..all.disk()
        }),
        ..empty(&all.node, "/")
    }];
    for p in &all.pods {
        let (namespace, pod) = (spec::namespace(&p.pod), spec::name(&p.pod));
        let status = p.pod.status.as_ref();
        let started = status.and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        let of_pod = |stats, group| Subject {
            namespace,
            pod,
            started,
            ..empty(stats, group)
        };
        out.push(Subject {
            limits: p.limits,
            swap_limit: p.swap_limit,
            memory_reservation: p.memory_reservation,
            network: &p.network,
            ..of_pod(&p.stats, &p.group)
        });
        out.extend(p.sandbox.as_ref().map(|(group, stats)| Subject {
            name: &p.sandbox_id,
            image: &all.pause_image,
            ..of_pod(stats, group)
        }));
        out.extend(p.containers.iter().map(|c| Subject {
            container: &c.name,
            name: &c.id,
            image: &c.image,
            limits: c.limits,
            swap_limit: c.swap_limit,
            memory_reservation: c.memory_reservation,
            started: c.started_at,
            held: Some(&c.held),
            disk: c.layer.map(|layer| OfDisk {
                used_bytes: layer.bytes,
                ..all.disk()
            }),
            ..of_pod(&c.stats, &c.group)
        }));
    }
    out
}

/// The page.
#[must_use]
pub fn page(all: &All) -> String {
    let mut t = Text::default();
    let (at, subjects) = (Some(all.at), subjects(all));
    let total = "container_cpu_usage_seconds_total";
    t.family(total, COUNTER, "Cumulative cpu time consumed in seconds.");
    for s in &subjects {
        let used = seconds(s.stats.cpu_nanos);
        t.sample(total, &s.with(&[("cpu", "total")]), used, at);
    }
    for (name, kind, help, value) in ROWS {
        // A family without samples is not a family.
        let mut samples = subjects
            .iter()
            .filter_map(|s| Some((s, value(s)?)))
            .peekable();
        if samples.peek().is_some() {
            t.family(name, kind, help);
        }
        for (s, value) in samples {
            t.sample(name, &s.labels(), value, at);
        }
    }
    let name = "container_last_seen";
    t.family(
        name,
        GAUGE,
        "Last time a container was seen by the exporter",
    );
    for s in &subjects {
        t.sample(name, &s.labels(), all.at.as_second() as f64, at);
    }
    page_faults(&mut t, &subjects, at);
    tasks(&mut t, &subjects, at);
    devices(&mut t, all, &subjects);
    costs(&mut t, all, &subjects);
    activity(&mut t, all, &subjects);
    disks(&mut t, &subjects, at);
    huge_pages(&mut t, &subjects, at);
    limits(&mut t, &subjects, at);
    network(&mut t, all);
    machine(&mut t, all);
    t.done()
}

fn page_faults(t: &mut Text, subjects: &[Subject<'_>], at: Option<Timestamp>) {
    let name = "container_memory_failures_total";
    t.family(
        name,
        COUNTER,
        "Cumulative count of memory allocation failures.",
    );
    for s in subjects {
        for (kind, scope, value) in [
            ("pgfault", "container", s.stats.own_page_faults),
            ("pgmajfault", "container", s.stats.own_major_page_faults),
            ("pgfault", "hierarchy", s.stats.page_faults),
            ("pgmajfault", "hierarchy", s.stats.major_page_faults),
        ] {
            let labels = s.with(&[("failure_type", kind), ("scope", scope)]);
            t.sample(name, &labels, value as f64, at);
        }
    }
}

fn tasks(t: &mut Text, subjects: &[Subject<'_>], at: Option<Timestamp>) {
    let name = "container_tasks_state";
    t.family(name, GAUGE, "Number of tasks in given state");
    for s in subjects {
        let Some(held) = s.held else { continue };
        for (state, value) in TASK_ROWS {
            let labels = s.with(&[("state", state)]);
            t.sample(name, &labels, value(&held.tasks) as f64, at);
        }
    }
}

/// Of the machine's disk, which all use together: so of the machine alone.
fn activity(t: &mut Text, all: &All, subjects: &[Subject<'_>]) {
    let Some((done, machine)) = all.disk_activity.as_ref().zip(subjects.first()) else {
        return;
    };
    for (name, kind, help, value) in ACTIVITY_ROWS {
        t.family(name, kind, help);
        let labels = machine.with(&[("device", &all.disk_device)]);
        t.sample(name, &labels, value(done), Some(all.at));
    }
}

fn costs(t: &mut Text, all: &All, subjects: &[Subject<'_>]) {
    let devices = |s: &Subject<'_>| s.stats.devices.iter().any(|d| d.cost.is_some());
    if !subjects.iter().any(devices) {
        return;
    }
    for (name, help, value) in COST_ROWS {
        t.family(name, COUNTER, help);
        for s in subjects {
            for (d, cost) in s.stats.devices.iter().filter_map(|d| Some((d, d.cost?))) {
                let device = all.device(d.major, d.minor);
                let labels = s.with(&[("device", &device)]);
                t.sample(name, &labels, value(&cost) as f64 / 1e6, Some(all.at));
            }
        }
    }
}

fn devices(t: &mut Text, all: &All, subjects: &[Subject<'_>]) {
    for (name, help, value) in DEVICE_ROWS {
        t.family(name, COUNTER, help);
        for s in subjects {
            for d in &s.stats.devices {
                let device = all.device(d.major, d.minor);
                let labels = s.with(&[("device", &device)]);
                t.sample(name, &labels, value(d) as f64, Some(all.at));
            }
        }
    }
    let name = "container_blkio_device_usage_total";
    t.family(name, COUNTER, "Blkio Device bytes usage");
    for s in subjects {
        for d in &s.stats.devices {
            let device = all.device(d.major, d.minor);
            let (major, minor) = (d.major.to_string(), d.minor.to_string());
            for (operation, bytes) in [("Read", d.read_bytes), ("Write", d.written_bytes)] {
                let labels = s.with(&[
                    ("device", &device),
                    ("major", &major),
                    ("minor", &minor),
                    ("operation", operation),
                ]);
                t.sample(name, &labels, bytes as f64, Some(all.at));
            }
        }
    }
}

fn disks(t: &mut Text, subjects: &[Subject<'_>], at: Option<Timestamp>) {
    for (name, help, value) in DISK_ROWS {
        t.family(name, GAUGE, help);
        for s in subjects {
            if let Some(disk) = &s.disk {
                let labels = s.with(&[("device", &disk.device)]);
                t.sample(name, &labels, value(disk) as f64, at);
            }
        }
    }
}

fn huge_pages(t: &mut Text, subjects: &[Subject<'_>], at: Option<Timestamp>) {
    if subjects.iter().all(|s| s.stats.huge_pages.is_empty()) {
        return;
    }
    type Of = fn(&host::cgroup::HugePages) -> u64;
    let rows: [(&str, &str, &str, Of); 3] = [
        (
            "container_hugetlb_usage_bytes",
            GAUGE,
            "Current hugepage usage in bytes",
            |h| h.bytes,
        ),
        (
            "container_hugetlb_max_usage_bytes",
            GAUGE,
            "Maximum hugepage usage recorded in bytes",
            |h| h.max_bytes,
        ),
        (
            "container_hugetlb_failcnt",
            COUNTER,
            "Number of hugepage usage hits limits",
            |h| h.failures,
        ),
    ];
    for (name, kind, help, value) in rows {
        t.family(name, kind, help);
        for s in subjects {
            for h in &s.stats.huge_pages {
                t.sample(name, &s.with(&[("pagesize", &h.size)]), value(h) as f64, at);
            }
        }
    }
}

fn limits(t: &mut Text, subjects: &[Subject<'_>], at: Option<Timestamp>) {
    let name = "container_ulimits_soft";
    let limit = |s: &Subject<'_>| s.held.and_then(|h| h.soft_limit);
    if subjects.iter().all(|s| limit(s).is_none()) {
        return;
    }
    t.family(
        name,
        GAUGE,
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
    );
    for s in subjects {
        if let Some(limit) = limit(s) {
            t.sample(
                name,
                &s.with(&[("ulimit", "max_open_files")]),
                limit as f64,
                at,
            );
        }
    }
}

fn network(t: &mut Text, all: &All) {
    for (name, help, value) in INTERFACE_ROWS {
        t.family(name, COUNTER, help);
        let mut put = |i: &Interface, of: [&str; 5]| {
            let [id, image, sandbox, namespace, pod] = of;
            let labels = [
                ("container", ""),
                ("id", id),
                ("image", image),
                ("interface", i.name.as_str()),
                ("name", sandbox),
                ("namespace", namespace),
                ("pod", pod),
            ];
            t.sample(name, &labels, value(i) as f64, Some(all.at));
        };
        for i in &all.network {
            put(i, ["/", "", "", "", ""]);
        }
        for p in &all.pods {
            let (namespace, pod) = (spec::namespace(&p.pod), spec::name(&p.pod));
            for i in &p.network {
                put(
                    i,
                    [&p.group, &all.pause_image, &p.sandbox_id, namespace, pod],
                );
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{DiskUsage, OfContainer, OfPod};
    use k8s_openapi::api::core::v1::Pod;
    use std::sync::Arc;

    fn stats(cpu_nanos: u64) -> Stats {
        Stats {
            cpu_nanos,
            cpu_periods: 7,
            devices: vec![DeviceUse {
                major: 254,
                minor: 0,
                read_bytes: 5,
                reads: 2,
                cost: Some(IoCost {
                    wait_micros: 500_000,
                    ..IoCost::default()
                }),
                ..DeviceUse::default()
            }],
            ..Stats::default()
        }
    }

    fn all() -> All {
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("ns".into());
        let container = OfContainer {
            name: "c".into(),
            id: "id".into(),
            image: "i".into(),
            group: "/g/id".into(),
            stats: stats(2_000_000_000),
            limits: Limits {
                cpu_quota: Some(50_000),
                cpu_period: Some(100_000),
                ..Limits::default()
            },
            layer: Some(DiskUsage {
                bytes: 11,
                inodes: 1,
            }),
            held: host::cgroup::Descriptors {
                processes: 1,
                open: 4,
                sockets: 1,
                soft_limit: Some(1024),
                tasks: TaskStates {
                    running: 2,
                    ..TaskStates::default()
                },
            },
            memory_reservation: Some(99),
            ..OfContainer::default()
        };
        let pod = OfPod {
            pod: Arc::new(pod),
            group: "/g".into(),
            sandbox_id: "box".into(),
            sandbox: Some(("/g/box".into(), stats(1))),
            stats: stats(3_000_000_000),
            containers: vec![container],
            ..OfPod::default()
        };
        All {
            node_name: "n".into(),
            pause_image: "pause".into(),
            device_names: [((254, 0), "/dev/vda".to_owned())].into(),
            disk_device: "/dev/vda".into(),
            disk_activity: Some(DiskActivity {
                busy_millis: 1_500,
                ..DiskActivity::default()
            }),
            pods: vec![pod],
            ..All::default()
        }
    }

    #[test]
    fn containers_pods_and_the_machine_have_their_samples() {
        let text = page(&all());
        for line in [
            r#"container_cpu_usage_seconds_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",cpu="total"} 2 0"#,
            r#"container_cpu_usage_seconds_total{container="",id="/",image="",name="",namespace="",pod="",cpu="total"} 0 0"#,
            r#"container_cpu_cfs_periods_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 7 0"#,
            r#"container_fs_reads_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",device="/dev/vda"} 2 0"#,
            r#"container_fs_usage_bytes{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",device="/dev/vda"} 11 0"#,
            r#"container_cpu_cfs_burst_periods_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 0 0"#,
            r#"container_cpu_load_average_10s{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 2000 0"#,
            r#"container_tasks_state{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",state="running"} 2 0"#,
            r#"container_fs_io_cost_wait_seconds_total{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",device="/dev/vda"} 0.5 0"#,
            r#"container_fs_io_time_seconds_total{container="",id="/",image="",name="",namespace="",pod="",device="/dev/vda"} 1.5 0"#,
            r#"container_spec_memory_reservation_limit_bytes{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 99 0"#,
            r#"container_sockets{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 1 0"#,
            r#"container_spec_cpu_quota{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p"} 50000 0"#,
            r#"container_threads{container="",id="/g/box",image="pause",name="box",namespace="ns",pod="p"} 0 0"#,
            r#"container_ulimits_soft{container="c",id="/g/id",image="i",name="id",namespace="ns",pod="p",ulimit="max_open_files"} 1024 0"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        // The pod's group has no quota of its own here.
        let periods = text
            .lines()
            .filter(|l| l.starts_with("container_cpu_cfs_periods_total{"));
        assert_eq!(periods.count(), 1, "{text}");
        // The kernel says nothing of pressure: there is no such family.
        assert!(!text.contains("container_pressure"), "{text}");
    }

    #[test]
    fn each_family_is_declared_once_and_no_sample_comes_twice() {
        let text = page(&all());
        let mut declared = std::collections::BTreeSet::new();
        let mut samples = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(declared.insert(rest.split(' ').next()), "{line}");
            } else if !line.starts_with('#') {
                let series = line.rsplit_once('}').map_or(line, |(series, _)| series);
                assert!(samples.insert(series), "{line}");
            }
        }
    }
}
