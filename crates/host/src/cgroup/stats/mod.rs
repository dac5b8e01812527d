//! What a control group has used, read from the kernel's files: of version 1, of version 2, and of a
//! machine with both, where the controllers belong to version 1.

mod processes;
pub(super) mod v1;
pub(super) mod v2;

pub use processes::{Descriptors, TaskStates, descriptors};

use super::folder::Folder;
use std::path::Path;

/// Use of a group and of those below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time in nanoseconds since the group was made.
    pub cpu_nanos: u64,
    /// Of it in user mode.
    pub cpu_user_nanos: u64,
    /// Of it in the kernel.
    pub cpu_system_nanos: u64,
    /// Periods in which the CPU limit held the group back.
    pub cpu_throttled_periods: u64,
    /// Periods in all.
    pub cpu_periods: u64,
    /// Time held back, nanoseconds.
    pub cpu_throttled_nanos: u64,
    /// Periods in which it used more than its limit, of what it had left over before.
    pub cpu_burst_periods: u64,
    /// What it used more, nanoseconds.
    pub cpu_burst_nanos: u64,
    /// Memory in use, page cache included, bytes.
    pub memory_bytes: u64,
    /// Memory that cannot be dropped at once: use less inactive file pages, bytes.
    pub working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub rss_bytes: u64,
    /// Page cache, bytes.
    pub cache_bytes: u64,
    /// Page cache that was used lately, bytes.
    pub active_file_bytes: u64,
    /// Page cache that was not, bytes.
    pub inactive_file_bytes: u64,
    /// Memory of mapped files, bytes.
    pub mapped_file_bytes: u64,
    /// Memory that the kernel holds for the group, bytes.
    pub kernel_bytes: u64,
    /// Swap in use, bytes.
    pub swap_bytes: u64,
    /// The most memory that was in use, bytes (zero where the kernel does not say).
    pub max_memory_bytes: u64,
    /// How often the limit was hit.
    pub memory_failures: u64,
    /// Processes that the kernel ended for want of memory.
    pub oom_kills: u64,
    /// Page faults, of the group and those below.
    pub page_faults: u64,
    /// Page faults that had to read from disk.
    pub major_page_faults: u64,
    /// Page faults of the group alone (of version 2: with those below).
    pub own_page_faults: u64,
    /// Such that had to read from disk.
    pub own_major_page_faults: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// The most that there may be; zero: no limit.
    pub tasks_max: u64,
    /// Reads and writes of block devices, each device once.
    pub devices: Vec<DeviceUse>,
    /// Huge pages, by their size.
    pub huge_pages: Vec<HugePages>,
    /// How long tasks waited; none where the kernel does not say (version 1, or without PSI).
    pub pressure: Option<Pressures>,
}

/// Reads and writes of a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceUse {
    /// Its numbers.
    pub major: u32,
    /// See `major`.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Only where the kernel distributes the device by what requests cost.
    pub cost: Option<IoCost>,
}

/// Time of a device, microseconds: what a group used of it, waited for it, owes, and was held back for
/// what it owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCost {
    /// Used.
    pub usage_micros: u64,
    /// Waited.
    pub wait_micros: u64,
    /// Owed.
    pub indebt_micros: u64,
    /// Held back.
    pub indelay_micros: u64,
}

/// Use of huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Such as `2MB`.
    pub size: String,
    /// In use, bytes.
    pub bytes: u64,
    /// The most that was in use, bytes (zero where the kernel does not say).
    pub max_bytes: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// How much time tasks lost to a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// In all, microseconds.
    pub total_micros: u64,
    /// Of the last ten seconds, one minute and five minutes: hundredths of a percent, as precise as
    /// the kernel says it.
    pub averages: [u32; 3],
}

/// Time that was lost to a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// While at least one task waited.
    pub some: Lost,
    /// While all tasks waited.
    pub full: Lost,
}

/// Pressure by resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressures {
    /// Of the CPU.
    pub cpu: Pressure,
    /// Of memory.
    pub memory: Pressure,
    /// Of block devices.
    pub io: Pressure,
}

impl Stats {
    /// Bytes read from block devices.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.devices.iter().map(|d| d.read_bytes).sum()
    }
    /// Bytes written to block devices.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.devices.iter().map(|d| d.written_bytes).sum()
    }
}

/// A limit of which `max` is none.
fn limit(folder: &Folder, file: &str) -> u64 {
    folder.number(file).unwrap_or(0)
}

/// `8:0`.
fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The entry of a device, made when it is met first.
fn device(all: &mut Vec<DeviceUse>, (major, minor): (u32, u32)) -> Option<&mut DeviceUse> {
    let at = all
        .iter()
        .position(|d| (d.major, d.minor) == (major, minor))
        .unwrap_or_else(|| {
            all.push(DeviceUse {
                major,
                minor,
                ..DeviceUse::default()
            });
            all.len() - 1
        });
    all.get_mut(at)
}

/// What the machine's tasks waited for, as a whole.
#[must_use]
pub fn of_machine() -> Option<Pressures> {
    v2::pressures(&Folder::at(Path::new("/proc/pressure")), "")
}
