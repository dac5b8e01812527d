//! The families of `/metrics/cadvisor`, a row each: name, help, and the value of what it is of. What the
//! kernel does not count has no row.

use super::subject::Subject;
use crate::stats::text::seconds;
use crate::stats::{DiskActivity, Interface, OfDisk};
use host::cgroup::{DeviceUse, HugePages, IoCost, TaskStates};

/// A family of one value for each subject; `None` where it does not apply.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Subject<'_>) -> Option<f64>,
);

pub(super) const COUNTER: &str = "counter";
pub(super) const GAUGE: &str = "gauge";

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
pub(super) const ROWS: &[Row] = &[
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

pub(super) const TASK_ROWS: [TaskRow; 4] = [
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
pub(super) const ACTIVITY_ROWS: [ActivityRow; 9] = [
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
pub(super) const COST_ROWS: [CostRow; 4] = [
    ("container_fs_io_cost_usage_seconds_total", "Cumulative IOCost usage in seconds", |c| c.usage_micros),
    ("container_fs_io_cost_wait_seconds_total", "Cumulative IOCost wait in seconds", |c| c.wait_micros),
    ("container_fs_io_cost_indebt_seconds_total", "Cumulative IOCost debt in seconds", |c| c.indebt_micros),
    ("container_fs_io_cost_indelay_seconds_total", "Cumulative IOCost delay in seconds", |c| c.indelay_micros),
];

/// A family of block devices.
type DeviceRow = (&'static str, &'static str, fn(&DeviceUse) -> u64);

#[rustfmt::skip]
pub(super) const DEVICE_ROWS: [DeviceRow; 4] = [
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |d| d.read_bytes),
    ("container_fs_reads_total", "Cumulative count of reads completed", |d| d.reads),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |d| d.written_bytes),
    ("container_fs_writes_total", "Cumulative count of writes completed", |d| d.writes),
];

/// A family of file systems.
type DiskRow = (&'static str, &'static str, fn(&OfDisk) -> u64);

#[rustfmt::skip]
pub(super) const DISK_ROWS: [DiskRow; 4] = [
    ("container_fs_inodes_free", "Number of available Inodes", |d| d.inodes_free),
    ("container_fs_inodes_total", "Number of Inodes", |d| d.inodes),
    ("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", |d| d.capacity_bytes),
    ("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", |d| d.used_bytes),
];

/// A family of network interfaces.
type InterfaceRow = (&'static str, &'static str, fn(&Interface) -> u64);

#[rustfmt::skip]
pub(super) const INTERFACE_ROWS: [InterfaceRow; 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |i| i.rx_packets),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |i| i.rx_errors),
    ("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", |i| i.rx_dropped),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |i| i.tx_packets),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |i| i.tx_errors),
    ("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", |i| i.tx_dropped),
];

/// A family of huge pages.
type HugePagesRow = (
    &'static str,
    &'static str,
    &'static str,
    fn(&HugePages) -> u64,
);

#[rustfmt::skip]
pub(super) const HUGE_PAGES_ROWS: [HugePagesRow; 3] = [
    ("container_hugetlb_usage_bytes", GAUGE, "Current hugepage usage in bytes", |h| h.bytes),
    ("container_hugetlb_max_usage_bytes", GAUGE, "Maximum hugepage usage recorded in bytes", |h| h.max_bytes),
    ("container_hugetlb_failcnt", COUNTER, "Number of hugepage usage hits limits", |h| h.failures),
];
