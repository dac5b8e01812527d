//! What the node, its pods and their containers use, read when somebody asks.

pub mod cadvisor;
mod drivers;
pub mod history;
pub mod metrics;
pub mod rest;
pub mod summary;
mod text;

use crate::metrics::files;
use crate::node::machine;
use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::pod::runtime_state::{Run, SeenPod};
use crate::pod::{resources, spec};
use host::cgroup::{Descriptors, Limits, Stats};
use host::mounts::FsUsage;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
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
    /// Bytes in its writable layer.
    pub layer_bytes: u64,
    /// Inodes in its writable layer.
    pub layer_inodes: u64,
    /// Bytes of its log.
    pub log_bytes: u64,
    /// Memory limit in bytes.
    pub memory_limit: Option<u64>,
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
    /// The file system that it is on.
    pub fs: host::mounts::FsUsage,
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
    /// Bytes of its volumes on disk, by name.
    pub volumes: Vec<(String, u64, u64)>,
}

/// The machine, as far as it does not change; read only where it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Who it is.
    pub identity: machine::Identity,
    /// Cores, of which each may be several CPUs.
    pub cores: u64,
    /// Sockets with cores.
    pub sockets: u64,
    /// Swap, bytes.
    pub swap_bytes: u64,
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
    /// What summaries and autoscaling need.
    Usual,
    /// Also limits, descriptors and the machine: several files more for each process.
    Whole,
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
    /// What the node has.
    pub memory_bytes: u64,
    /// CPUs in thousandths.
    pub cpu_millis: u64,
    /// The node's network.
    pub network: Vec<Interface>,
    /// The file system of volumes and logs.
    pub fs: FsUsage,
    /// Bytes of images.
    pub images_bytes: u64,
    /// Inodes of images.
    pub images_inodes: u64,
    /// When the machine (or the node in namespaces) started.
    pub start_time: Option<Timestamp>,
    /// The machine.
    pub machine: Machine,
    /// Names of block devices by their numbers, such as `/dev/vda`.
    pub device_names: HashMap<(u32, u32), String>,
    /// The device that volumes and logs are on.
    pub disk_device: String,
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

/// Reads everything once.
pub async fn collect(deps: &Arc<Deps>, pods: &Arc<Pods>, detail: Detail) -> All {
    let layers = layers(deps).await;
    let (images_bytes, images_inodes) = image_fs(deps).await;
    let snapshots = pods.snapshots();
    let mut of_drivers = drivers::usage(deps, &snapshots).await;
    let (deps, at) = (deps.clone(), deps.clock.now());
    let work = move || {
        let of_pods: Vec<OfPod> = snapshots
            .iter()
            .filter(|s| !s.over)
            .filter_map(|s| {
                let mut pod = of_pod(&deps, &s.pod, &s.seen, &layers, detail)?;
                let of_drivers = of_drivers.remove(spec::uid(&s.pod));
                pod.claims.extend(of_drivers.unwrap_or_default());
                Some(pod)
            })
            .collect();
        let is_whole = detail == Detail::Whole;
        let device_names = match is_whole {
            true => device_names(),
            false => HashMap::new(),
        };
        All {
            machine: match is_whole {
                true => machine(&deps),
                false => Machine::default(),
            },
            disk_device: device_of(&deps.config.root_dir, &device_names),
            device_names,
            pause_image: deps.config.pause_image.clone(),
            node_name: deps.config.node_name.clone(),
            at,
            node: of_node(&deps),
            memory_bytes: deps.resources.memory_bytes,
            cpu_millis: deps.resources.cpu_millis,
            network: interfaces(Path::new("/proc/self/net/dev")),
            fs: host::mounts::fs_usage(&deps.config.root_dir).unwrap_or_default(),
            images_bytes,
            images_inodes,
            start_time: start_time(),
            pods: of_pods,
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "reading files of many groups takes a while; other tasks go on meanwhile"
    )]
    let reading = tokio::task::spawn_blocking(work);
    match reading.await {
        Ok(all) => all,
        Err(e) => {
            tracing::error!(error = %e, "reading statistics failed");
            All {
                at,
                images_bytes,
                images_inodes,
                ..All::default()
            }
        }
    }
}

/// How full the volumes of claims are, of all pods.
pub async fn of_claims(deps: &Arc<Deps>, pods: &Pods) -> Vec<OfClaim> {
    let snapshots = pods.snapshots();
    let of_drivers = drivers::usage(deps, &snapshots).await;
    let live = snapshots.iter().filter(|s| !s.over);
    let local = live.flat_map(|s| claims(deps, spec::uid(&s.pod)));
    local.chain(of_drivers.into_values().flatten()).collect()
}

async fn layers(deps: &Deps) -> HashMap<String, (u64, u64)> {
    let layers = deps.runtime.layers().await.unwrap_or_default();
    let all = layers.into_iter();
    all.map(|l| (l.id, (l.bytes, l.inodes))).collect()
}

async fn image_fs(deps: &Deps) -> (u64, u64) {
    let all = deps.runtime.image_fs().await.unwrap_or_default();
    all.iter().fold((0, 0), |(bytes, inodes), f| {
        (bytes + f.bytes, inodes + f.inodes)
    })
}

fn of_pod(
    deps: &Deps,
    pod: &Arc<Pod>,
    seen: &SeenPod,
    layers: &HashMap<String, (u64, u64)>,
    detail: Detail,
) -> Option<OfPod> {
    let sandbox = seen.ready_sandbox()?;
    let group = resources::pod_group(&deps.config.kubepods(), pod);
    let stats = deps.cgroups.stats(&group)?;
    let is_whole = detail == Detail::Whole;
    let limits = |group: &str| match is_whole {
        true => deps.cgroups.limits(group).unwrap_or_default(),
        false => Limits::default(),
    };
    let own_group = format!("{group}/{}", sandbox.id);
    let first = deps.cgroups.processes(&own_group).first().copied();
    let network = match first {
        Some(pid) if !spec::host_network(pod) => {
            interfaces(&Path::new("/proc").join(pid.to_string()).join("net/dev"))
        }
        _ => Vec::new(),
    };
    let containers = seen
        .containers
        .iter()
        .filter(|c| c.run == Run::Running)
        .filter_map(|c| {
            let own = format!("{group}/{}", c.id);
            let (layer_bytes, layer_inodes) = layers.get(&c.id).copied().unwrap_or_default();
            Some(OfContainer {
                name: c.name.clone(),
                id: c.id.clone(),
                image: c.image.clone(),
                started_at: c.started_at,
                stats: deps.cgroups.stats(&own)?,
                layer_bytes,
                layer_inodes,
                log_bytes: std::fs::metadata(&c.log_path).map_or(0, |m| m.len()),
                memory_limit: deps.cgroups.memory_limit(&own),
                limits: limits(&own),
                held: match is_whole {
                    true => host::cgroup::descriptors(&deps.cgroups.processes(&own)),
                    false => Descriptors::default(),
                },
                group: own,
            })
        })
        .collect();
    let volumes = volumes(deps, pod);
    let claims = claims(deps, spec::uid(pod));
    Some(OfPod {
        pod: pod.clone(),
        limits: limits(&group),
        sandbox: is_whole
            .then(|| Some((own_group.clone(), deps.cgroups.stats(&own_group)?)))
            .flatten(),
        group,
        sandbox_id: sandbox.id.clone(),
        stats,
        network,
        containers,
        claims,
        volumes,
    })
}

/// The file systems of claims. One on the network is not asked: it may never answer. Drivers say
/// for themselves ([`drivers`]).
fn claims(deps: &Deps, uid: &str) -> Vec<OfClaim> {
    let held = deps.volumes.0.claims.of_pod(uid).into_iter();
    let local = held.filter(|(_, h)| !h.block && !h.on_network && h.driver.is_none());
    local
        .filter_map(|(name, held)| {
            let fs = host::mounts::fs_usage(&held.path).ok()?;
            let claim = Some((held.namespace, held.claim));
            Some(OfClaim { name, claim, fs })
        })
        .collect()
}

/// Bytes and inodes of the volumes that lie on the node's disk.
fn volumes(deps: &Deps, pod: &Pod) -> Vec<(String, u64, u64)> {
    let dir = deps.config.pod_dir(spec::uid(pod)).join("volumes");
    let plugins = std::fs::read_dir(dir).into_iter().flatten().flatten();
    // What outlives the pod is not the pod's use of the node's disk.
    let own = plugins.filter(|p| !crate::volumes::is_persistent(&p.file_name()));
    own.flat_map(|plugin| {
        std::fs::read_dir(plugin.path())
            .into_iter()
            .flatten()
            .flatten()
    })
    .map(|volume| {
        let (bytes, inodes) = host::open_beneath::usage(&volume.path());
        (
            volume.file_name().to_string_lossy().into_owned(),
            bytes,
            inodes,
        )
    })
    .collect()
}

/// A node that declares its memory is a part of the machine: its use is that of its group.
/// Else it is the machine's.
fn of_node(deps: &Deps) -> Stats {
    if deps.config.capacity.memory_bytes.is_some()
        && let Some(stats) = deps.cgroups.stats(&deps.config.cgroup_parent)
    {
        return stats;
    }
    let memory = machine::memory();
    let mut stats = deps.cgroups.stats("/").unwrap_or_default();
    stats.pressure = stats.pressure.or_else(host::cgroup::machine_pressure);
    let (user, system) = cpu_times();
    stats.cpu_user_nanos = user;
    stats.cpu_system_nanos = system;
    stats.cpu_nanos = user + system;
    stats.working_set_bytes = memory.total.saturating_sub(memory.available);
    stats.memory_bytes = stats.memory_bytes.max(stats.working_set_bytes);
    stats
}

/// What the machine consists of.
fn machine(deps: &Deps) -> Machine {
    let (cores, sockets) = topology(&files::text(Path::new("/proc/cpuinfo"), "cpuinfo"));
    Machine {
        identity: machine::Identity::read(&deps.config),
        cores,
        sockets,
        swap_bytes: machine::memory().swap,
    }
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
fn device_names() -> HashMap<(u32, u32), String> {
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

/// The device that a path is on, if it is one that has a name.
fn device_of(path: &Path, names: &HashMap<(u32, u32), String>) -> String {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok();
    let device = found.map_or(0, |m| m.dev());
    let numbers = host::mounts::device_numbers(device);
    names.get(&numbers).cloned().unwrap_or_default()
}

/// CPU time of the machine in user mode and in the kernel, nanoseconds, from `/proc/stat`,
/// which counts in hundredths of a second. What other machines took of the host is nobody's here.
fn cpu_times() -> (u64, u64) {
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

fn start_time() -> Option<Timestamp> {
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
fn interfaces(file: &Path) -> Vec<Interface> {
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

/// Turns CPU counters into rates: each question is compared with an earlier one.
#[derive(Debug, Default)]
pub struct Rates {
    last: Mutex<HashMap<String, (Timestamp, u64, u64)>>,
}

/// Samples closer together than this say little; the older one is kept.
const APART_NANOS: i128 = 5_000_000_000;

impl Rates {
    /// Thousand-millionths of a CPU in use by a group; none at the first question.
    pub fn nano_cores(&self, group: &str, at: Timestamp, nanos: u64) -> Option<u64> {
        let mut last = self.last.lock();
        let Some((then, before, rate)) = last.get(group).copied() else {
            last.insert(group.to_owned(), (at, nanos, 0));
            return None;
        };
        let passed = at.as_nanosecond() - then.as_nanosecond();
        if passed < APART_NANOS {
            return (rate > 0).then_some(rate);
        }
        let used = i128::from(nanos.saturating_sub(before));
        let rate = u64::try_from(used * 1_000_000_000 / passed).unwrap_or(0);
        last.insert(group.to_owned(), (at, nanos, rate));
        Some(rate)
    }
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
    fn devices_have_names() {
        let names =
            parse_partitions("major minor  #blocks  name\n\n 254        0  268435456 vda\n");
        assert_eq!(names[&(254, 0)], "/dev/vda");
    }

    #[test]
    fn rates_need_two_samples_that_lie_apart() {
        let rates = Rates::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(rates.nano_cores("g", at(0), 0), None);
        assert_eq!(rates.nano_cores("g", at(1), 1_000_000_000), None);
        assert_eq!(
            rates.nano_cores("g", at(10), 5_000_000_000),
            Some(500_000_000)
        );
        assert_eq!(
            rates.nano_cores("g", at(11), 9_000_000_000),
            Some(500_000_000)
        );
    }
}
