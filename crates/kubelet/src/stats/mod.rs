//! What the node, its pods and their containers use, read when somebody asks: [`Statistics`].

mod background_cache;
pub mod cadvisor;
mod collect;
pub mod history;
mod machine;
pub mod metrics;
mod rates;
pub mod rest;
mod said_failures;
pub mod summary;
mod text;
mod volumes;

pub use collect::{Error, Statistics};
pub use rates::Rates;

use crate::csi::driver::VolumeHealth;
use crate::node::machine::Identity;
use crate::pod::spec;
use crate::volumes::local_disk::MeasuredVolume;
use host::cgroup::{Descriptors, Limits, Stats};
use host::mounts::FsUsage;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use std::collections::HashMap;
use std::sync::Arc;

/// Counters of one network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors in receiving.
    pub rx_errors: u64,
    /// Packets dropped in receiving.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors in sending.
    pub tx_errors: u64,
    /// Packets dropped in sending.
    pub tx_dropped: u64,
}

/// What something takes of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Use by one container.
#[derive(Clone, Debug, Default)]
pub struct OfContainer {
    /// Name in the pod.
    pub name: String,
    /// Id in the runtime.
    pub id: String,
    /// Its image.
    pub image: String,
    /// Its control group.
    pub group: String,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// CPU, memory and the rest.
    pub stats: Stats,
    /// Its writable layer; none where the runtime does not say, or was not asked.
    pub layer: Option<DiskUsage>,
    /// Bytes of its log.
    pub log_bytes: u64,
    /// Memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// How much swap it may use, bytes.
    pub swap_limit: Option<u64>,
    /// Memory above which it is asked to give some back; only where it was asked for.
    pub memory_reservation: Option<u64>,
    /// What the kernel limits it to; only where it was asked for.
    pub limits: Limits,
    /// What its processes hold; only where it was asked for.
    pub held: Descriptors,
}

/// What a pod has of a claim, or of a driver.
#[derive(Clone, Debug)]
pub struct OfClaim {
    /// The name of the pod's volume.
    pub name: String,
    /// Namespace and name of the claim; none for a volume that the pod brings along.
    pub claim: Option<(String, String)>,
    /// The file system that it is on. Of a volume that is only measured: what is in it, of its size.
    pub fs: FsUsage,
    /// How it is measured, if nobody holds it to its size.
    pub measured: Option<MeasuredVolume>,
    /// Whether something is wrong with it, if its driver says.
    pub health: Option<VolumeHealth>,
}

impl OfClaim {
    /// By how much more than its size is in it; upstream knows no such volumes.
    #[must_use]
    pub fn over(&self) -> Option<(&MeasuredVolume, u64)> {
        let how = self.measured.as_ref()?;
        let more = self.fs.used_bytes.checked_sub(how.bytes)?;
        (more > 0 && how.bytes > 0).then_some((how, more))
    }
}

/// What a volume in the kubelet's folder takes.
#[derive(Clone, Debug, Default)]
pub struct OfVolume {
    /// Its name in the pod.
    pub name: String,
    /// What all that is in it takes.
    pub taken: DiskUsage,
    /// The file system that it is on, which may be memory; none where nobody knows.
    pub fs: Option<FsUsage>,
}

/// Use by one pod.
#[derive(Clone, Debug, Default)]
pub struct OfPod {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its control group.
    pub group: String,
    /// Id of its sandbox.
    pub sandbox_id: String,
    /// The sandbox's own group, with what it has used.
    pub sandbox: Option<(String, Stats)>,
    /// What the kernel limits it to; only where it was asked for.
    pub limits: Limits,
    /// CPU, memory and the rest.
    pub stats: Stats,
    /// Its network; empty on the host's.
    pub network: Vec<Interface>,
    /// Its containers that run.
    pub containers: Vec<OfContainer>,
    /// What it has of claims.
    pub claims: Vec<OfClaim>,
    /// Its volumes in the kubelet's folder, as far as they were looked at.
    pub volumes: Vec<OfVolume>,
    /// How much swap it may use, bytes.
    pub swap_limit: Option<u64>,
    /// Memory above which it is asked to give some back; only where it was asked for.
    pub memory_reservation: Option<u64>,
}

/// The parts of what a pod takes of the node's disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Layers of containers.
    pub layers: DiskUsage,
    /// Their logs.
    pub logs: DiskUsage,
    /// Volumes that are the pod's own and lie on the node's disk.
    pub volumes: DiskUsage,
}

impl OfPod {
    /// What it takes of the node's disks. The one answer for summaries, for who is evicted, and for
    /// limits of local storage.
    #[must_use]
    pub fn on_disk(&self) -> OnDisk {
        let specs = spec::of(&self.pod).volumes.iter().flatten();
        let own: Vec<&str> = specs
            .filter(|v| is_on_disk(v))
            .map(|v| v.name.as_str())
            .collect();
        let volumes = self.volumes.iter();
        let volumes = volumes.filter(|v| own.contains(&v.name.as_str()));
        let logs = self.containers.iter().map(|c| DiskUsage {
            bytes: c.log_bytes,
            inodes: 1,
        });
        OnDisk {
            layers: self.containers.iter().filter_map(|c| c.layer).sum(),
            logs: logs.sum(),
            volumes: volumes.map(|v| v.taken).sum(),
        }
    }
}

impl OnDisk {
    /// All of it.
    #[must_use]
    pub fn sum(self) -> DiskUsage {
        [self.layers, self.logs, self.volumes].into_iter().sum()
    }
}

impl std::iter::Sum for DiskUsage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            bytes: sum.bytes.saturating_add(one.bytes),
            inodes: sum.inodes.saturating_add(one.inodes),
        })
    }
}

/// Whether what is in a volume is the pod's own and takes room on the node's disk. Secrets, tokens and
/// volumes of memory do not; folders of the host and claims are not the pod's.
#[must_use]
pub fn is_on_disk(volume: &Volume) -> bool {
    let empty = volume.empty_dir.as_ref();
    let on_disk = |dir: &EmptyDirVolumeSource| dir.medium.as_deref().unwrap_or("").is_empty();
    empty.is_some_and(on_disk) || volume.config_map.is_some()
}

/// The machine, as far as it does not change; read only where it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Who it is.
    pub identity: Identity,
    /// Cores, of which each may be several CPUs.
    pub cores: u64,
    /// Sockets with cores.
    pub sockets: u64,
    /// Books and drawers of sockets, on machines that have such.
    pub books: u64,
    /// See `books`.
    pub drawers: u64,
    /// Swap, bytes.
    pub swap_bytes: u64,
}

/// What a disk has done since the machine started, for whomever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskActivity {
    /// Reads that were made one with others.
    pub reads_merged: u64,
    /// Sectors of 512 bytes.
    pub sectors_read: u64,
    /// Time of all reads together, milliseconds.
    pub read_millis: u64,
    /// Writes that were made one with others.
    pub writes_merged: u64,
    /// Sectors of 512 bytes.
    pub sectors_written: u64,
    /// Time of all writes together, milliseconds.
    pub write_millis: u64,
    /// Requests that are under way.
    pub in_progress: u64,
    /// Time in which there was one, milliseconds.
    pub busy_millis: u64,
    /// The same, each moment as often as there were requests.
    pub weighted_millis: u64,
}

/// A file system, as samples show it.
#[derive(Clone, Debug, Default)]
pub struct OfDisk {
    /// The device that it is on.
    pub device: String,
    /// In all.
    pub capacity_bytes: u64,
    /// By whomever the sample is of.
    pub used_bytes: u64,
    /// In all.
    pub inodes: u64,
    /// Not in use.
    pub inodes_free: u64,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// CPU, memory and tasks: what the kernel says at once. Nobody else is asked.
    Groups,
    /// Also layers and volumes, these as far as they are known: what evictions for the disk's sake need.
    Disks,
    /// All that a summary shows. Volumes of which it is not known yet are waited for a moment.
    Usual,
    /// What cAdvisor shows: limits, descriptors and the machine, several files more for each process;
    /// layers, if the runtime answers soon; no volumes.
    Whole,
}

/// Which of volumes and logs, images, and containers' layers have file systems of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disks {
    /// None: all are on one.
    #[default]
    One,
    /// Images and layers are on another than volumes and logs.
    Runtime,
    /// Images alone are on another.
    Images,
}

/// What images take, or layers, and the file system that they are on.
#[derive(Clone, Debug, Default)]
pub struct OfImages {
    /// What they take.
    pub taken: DiskUsage,
    /// Where they are; none where the runtime does not say, or it cannot be seen from here.
    pub fs: Option<FsUsage>,
}

/// Use by everything.
#[derive(Clone, Debug, Default)]
pub struct All {
    /// Name of the node.
    pub node_name: String,
    /// When it was read.
    pub at: Timestamp,
    /// The node itself.
    pub node: Stats,
    /// How much swap the node has, bytes.
    pub swap_limit: Option<u64>,
    /// What the node has.
    pub memory_bytes: u64,
    /// CPUs in thousandths.
    pub cpu_millis: u64,
    /// The node's network.
    pub network: Vec<Interface>,
    /// The file system of volumes and logs.
    pub fs: FsUsage,
    /// Images.
    pub images: OfImages,
    /// Layers of containers; none: they are where images are.
    pub layers: Option<OfImages>,
    /// When the machine (or the node in namespaces) started.
    pub start_time: Option<Timestamp>,
    /// The machine.
    pub machine: Machine,
    /// Names of block devices by their numbers, such as `/dev/vda`.
    pub device_names: HashMap<(u32, u32), String>,
    /// The device that volumes and logs are on.
    pub disk_device: String,
    /// What it has done; only where it was asked for, and the kernel says so.
    pub disk_activity: Option<DiskActivity>,
    /// The image of sandboxes.
    pub pause_image: String,
    /// All pods that run.
    pub pods: Vec<OfPod>,
}

impl All {
    /// The name of a block device; its numbers where the kernel does not list it.
    #[must_use]
    pub fn device(&self, major: u32, minor: u32) -> String {
        let known = self.device_names.get(&(major, minor)).cloned();
        known.unwrap_or_else(|| format!("{major}:{minor}"))
    }

    /// How many groups it reports on.
    #[must_use]
    pub fn groups(&self) -> usize {
        1 + self
            .pods
            .iter()
            .map(|p| 2 + p.containers.len())
            .sum::<usize>()
    }

    /// The file system of volumes, logs and layers, of which nobody uses anything.
    #[must_use]
    pub fn disk(&self) -> OfDisk {
        OfDisk {
            device: self.disk_device.clone(),
            capacity_bytes: self.fs.capacity_bytes,
            used_bytes: 0,
            inodes: self.fs.inodes,
            inodes_free: self.fs.inodes_free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_a_pods_own_and_on_disk_counts() {
        let pod: Pod = serde_json::from_value(json!({ "spec": { "containers": [], "volumes": [
            { "name": "scratch", "emptyDir": {} },
            { "name": "memory", "emptyDir": { "medium": "Memory" } },
            { "name": "config", "configMap": { "name": "c" } },
            { "name": "secret", "secret": { "secretName": "s" } },
            { "name": "token", "projected": { "sources": [] } },
            { "name": "host", "hostPath": { "path": "/" } }] } }))
        .unwrap();
        let volume = |(name, bytes): (&str, u64)| OfVolume {
            name: name.into(),
            taken: DiskUsage { bytes, inodes: 2 },
            ..OfVolume::default()
        };
        let all = [
            ("scratch", 1),
            ("memory", 10),
            ("config", 100),
            ("secret", 1_000),
            ("token", 10_000),
            ("host", 100_000),
        ];
        let container = |bytes| OfContainer {
            layer: Some(DiskUsage { bytes, inodes: 5 }),
            log_bytes: 7,
            ..OfContainer::default()
        };
        let of_pod = OfPod {
            pod: Arc::new(pod),
            volumes: all.into_iter().map(volume).collect(),
            containers: vec![container(3), container(4)],
            ..OfPod::default()
        };
        let taken = |bytes, inodes| DiskUsage { bytes, inodes };
        let found = of_pod.on_disk();
        assert_eq!(found.layers, taken(7, 10));
        assert_eq!(found.logs, taken(14, 2));
        assert_eq!(found.volumes, taken(101, 4));
        assert_eq!(found.sum(), taken(122, 16));
    }
}
