//! Reads what is used: of the kernel at once, of the runtime with an answer or an error, of volumes
//! what is known. An error is never shown as a zero.

use super::background_cache::BackgroundCache;
use super::machine::{
    cpu_times, device_names, device_of, disk_activity, interfaces, machine, start_time,
};
use super::volumes::{KEPT, OfDisks, VolumeUse, Where};
use super::{All, Detail, DiskUsage, Disks, Machine, OfClaim, OfContainer, OfImages, OfPod};
use crate::events::Severity;
use crate::folder::is_absent;
use crate::metrics::METRICS;
use crate::node::machine as node_machine;
use crate::pod::deps::Deps;
use crate::pod::handle::Snapshot;
use crate::pod::manager::Pods;
use crate::pod::runtime_state::Run;
use crate::pod::{resources, spec};
use host::cgroup::{Descriptors, Group, Limits, Stats};
use host::mounts::FsUsage;
use host::runtime::{ImageFs, RuntimeFs};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long cAdvisor's pages wait for the runtime. Those who read them wait ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the machine, or the group of the node, has used.
    #[error("failed to get root cgroup stats: the kernel says nothing of CPU time or memory")]
    Node,
    /// The file system of volumes and logs.
    #[error("failed to get rootFs stats: {0}")]
    RootFs(std::io::Error),
    /// Where images are and what they take.
    #[error("failed to get imageFs stats: {0}")]
    ImageFs(host::runtime::Error),
    /// What containers have written.
    #[error("failed to list all container stats: {0}")]
    Layers(host::runtime::Error),
    /// The reading itself.
    #[error("reading statistics failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// As what it is counted.
    #[must_use]
    fn what(&self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::RootFs(_) => "rootfs",
            Self::ImageFs(_) => "imagefs",
            Self::Layers(_) => "layers",
            Self::Task(_) => "task",
        }
    }
}

/// Counts a failure and says it.
fn failed(error: &Error) {
    METRICS.statistics_failed(error.what());
    tracing::warn!(%error, "statistics are incomplete");
}

/// What containers have written, by their ids.
type Layers = HashMap<String, DiskUsage>;

/// Reads what everything uses, for whoever asks.
#[derive(Debug)]
pub struct Statistics {
    deps: Arc<Deps>,
    pods: Arc<Pods>,
    volumes: VolumeUse,
    /// Where images and layers are, as the runtime said last.
    images: BackgroundCache<Places>,
    /// Volumes that are reported as wrong: pods' UIDs and their own names.
    told_wrong: Mutex<BTreeSet<(String, String)>>,
}

/// Where the runtime keeps things, as far as it says.
#[derive(Clone, Debug, Default)]
struct Places {
    images: Option<PathBuf>,
    /// Of layers, where those are apart.
    layers: Option<PathBuf>,
}

/// The one key of [`Statistics::images`].
const IMAGES: &str = "images";

impl Statistics {
    /// Of these pods.
    #[must_use]
    pub fn new(deps: Arc<Deps>, pods: Arc<Pods>) -> Arc<Self> {
        Arc::new(Self {
            deps,
            pods,
            volumes: VolumeUse::default(),
            images: BackgroundCache::default(),
            told_wrong: Mutex::default(),
        })
    }

    /// Reads everything once. A failure is logged and counted, and the answer.
    pub async fn collect(&self, detail: Detail) -> Result<All, Error> {
        self.read(detail).await.inspect_err(failed)
    }

    async fn read(&self, detail: Detail) -> Result<All, Error> {
        let (layers, images) = match detail {
            Detail::Groups => (None, RuntimeFs::default()),
            Detail::Disks => (Some(self.layers().await?), RuntimeFs::default()),
            Detail::Usual => {
                let images = self.deps.runtime.image_fs();
                let images = async { images.await.map_err(Error::ImageFs) };
                let (layers, images) = tokio::try_join!(self.layers(), images)?;
                (Some(layers), images)
            }
            Detail::Whole => (self.layers_soon().await, RuntimeFs::default()),
        };
        let snapshots = self.pods.snapshots();
        let live = live(&snapshots);
        let of_volumes = match detail {
            Detail::Groups | Detail::Whole => HashMap::new(),
            Detail::Disks | Detail::Usual => {
                self.refresh(&live);
                if detail == Detail::Usual {
                    self.volumes.settled().await;
                }
                let found = self.of_volumes(&live);
                self.tell_what_is_wrong(&live, &found);
                found
            }
        };
        let found = ReportedStats {
            snapshots: live,
            layers,
            images,
            of_volumes,
        };
        let deps = self.deps.clone();
        in_background(move || all(&deps, found, detail)).await?
    }

    async fn layers(&self) -> Result<Layers, Error> {
        let layers = self.deps.runtime.layers().await.map_err(Error::Layers)?;
        let all = layers.into_iter();
        Ok(all
            .map(|l| {
                let (bytes, inodes) = (l.bytes, l.inodes);
                (l.id, DiskUsage { bytes, inodes })
            })
            .collect())
    }

    /// Layers, if the runtime answers soon: the rest of what cAdvisor shows is not its.
    async fn layers_soon(&self) -> Option<Layers> {
        let answer = tokio::time::timeout(PATIENCE, self.layers()).await;
        let late = |_| {
            let late = "the runtime does not answer";
            Err(Error::Layers(host::runtime::Error::new(
                host::runtime::ErrorKind::Other,
                late,
            )))
        };
        answer.unwrap_or_else(late).inspect_err(failed).ok()
    }

    fn places(&self) -> Where<'_> {
        let means = &self.deps.volumes.0;
        Where {
            csi: &self.deps.csi,
            claims: &means.claims,
            disk: means.disk.as_ref(),
            pods_dir: &means.pods_dir,
        }
    }

    /// Begins to bring up to date what is known of the volumes of all pods that live.
    fn refresh(&self, live: &[Arc<Snapshot>]) {
        self.volumes.retain(live);
        self.volumes.look_at(self.places(), live, KEPT);
        self.volumes.ask_drivers(self.places(), live, KEPT);
    }

    fn of_volumes(&self, live: &[Arc<Snapshot>]) -> HashMap<String, OfDisks> {
        let claims = self.places().claims;
        live.iter()
            .map(|s| (spec::uid(&s.pod).to_owned(), self.volumes.of(claims, s)))
            .collect()
    }

    /// Tells once of each volume with which something is wrong, in upstream's words.
    fn tell_what_is_wrong(&self, live: &[Arc<Snapshot>], found: &HashMap<String, OfDisks>) {
        let mut wrong = BTreeSet::new();
        let mut told = self.told_wrong.lock();
        for snapshot in live {
            let uid = spec::uid(&snapshot.pod);
            for claim in found.get(uid).into_iter().flat_map(|of| &of.claims) {
                let Some(health) = claim.health.as_ref().filter(|h| h.abnormal) else {
                    continue;
                };
                let key = (uid.to_owned(), claim.name.clone());
                if !told.contains(&key) {
                    let (recorder, warning) = (&self.deps.recorder, Severity::Warning);
                    let text = format!("Volume {}: {}", claim.name, health.message);
                    recorder.pod(
                        &snapshot.pod,
                        None,
                        warning,
                        "VolumeConditionAbnormal",
                        text,
                    );
                }
                wrong.insert(key);
            }
        }
        *told = wrong;
    }

    /// Begins to look again at the volumes of some pods, for who looks again soon.
    pub fn look_at(&self, of: &[Arc<Snapshot>], age: Duration) {
        self.volumes.look_at(self.places(), of, age);
    }

    /// How full the volumes of claims are, of all pods, as far as it is known.
    pub async fn of_claims(&self) -> Vec<OfClaim> {
        let live = live(&self.pods.snapshots());
        self.refresh(&live);
        self.volumes.settled().await;
        let all = self.of_volumes(&live).into_values();
        all.flat_map(|of| of.claims).collect()
    }

    /// The file system of images, where the runtime has said where that is. It is not waited for.
    pub fn image_fs(&self) -> Option<FsUsage> {
        let runtime = self.deps.runtime.clone();
        let before = self.places_of_runtime();
        self.images.refresh(IMAGES, KEPT, || async move {
            match runtime.image_fs().await {
                Ok(all) => Places {
                    images: place(&all.images),
                    layers: place(&all.layers),
                },
                Err(e) => {
                    failed(&Error::ImageFs(e));
                    before
                }
            }
        });
        let place = self.places_of_runtime().images?;
        let used = host::mounts::fs_usage(&place);
        used.inspect_err(|error| images_unknown(&place, error)).ok()
    }

    fn places_of_runtime(&self) -> Places {
        let known = self.images.get(IMAGES);
        known.map_or_else(Places::default, |places| (*places).clone())
    }

    /// What has a file system of its own.
    pub fn disks(&self) -> Disks {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| std::fs::metadata(path).ok().map(|m| m.dev());
        let places = self.places_of_runtime();
        let root = device(&self.deps.config.root_dir);
        let of = |place: &Option<PathBuf>| place.as_deref().and_then(device);
        disks(root, of(&places.images), of(&places.layers))
    }

    /// The file system of volumes and logs.
    pub fn root_fs(&self) -> Option<FsUsage> {
        let used = host::mounts::fs_usage(&self.deps.config.root_dir);
        used.map_err(Error::RootFs).inspect_err(failed).ok()
    }
}

/// By the devices that volumes and logs, images, and layers are on, as far as that is known.
fn disks(root: Option<u64>, images: Option<u64>, layers: Option<u64>) -> Disks {
    match images {
        None => Disks::One,
        _ if images == root => Disks::One,
        _ if layers.is_some() && layers == root => Disks::Images,
        // Layers on a third one are not watched over by anybody, as upstream: it is not supported.
        _ => Disks::Runtime,
    }
}

/// Where the first of these is.
fn place(all: &[ImageFs]) -> Option<PathBuf> {
    let first = all.first().filter(|f| !f.mountpoint.is_empty())?;
    Some(PathBuf::from(&first.mountpoint))
}

fn live(all: &[Arc<Snapshot>]) -> Vec<Arc<Snapshot>> {
    all.iter().filter(|s| !s.over).cloned().collect()
}

fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, tokio::task::JoinError>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "reading files of many groups takes a while; other tasks go on meanwhile"
    )]
    let reading = tokio::task::spawn_blocking(work);
    reading
}

/// What others than the kernel said.
struct ReportedStats {
    snapshots: Vec<Arc<Snapshot>>,
    layers: Option<Layers>,
    images: RuntimeFs,
    of_volumes: HashMap<String, OfDisks>,
}

/// Reads the kernel's files.
fn all(deps: &Deps, mut found: ReportedStats, detail: Detail) -> Result<All, Error> {
    let (config, is_whole) = (&deps.config, detail == Detail::Whole);
    let at = deps.clock.now();
    let device_names = match is_whole {
        true => device_names(),
        false => HashMap::new(),
    };
    let fs = match detail {
        Detail::Groups => FsUsage::default(),
        _ => host::mounts::fs_usage(&config.root_dir).map_err(Error::RootFs)?,
    };
    let (node, swap_limit) = of_node(deps)?;
    let disk_device = match is_whole {
        true => device_of(&config.root_dir, &device_names),
        false => String::new(),
    };
    let pods = std::mem::take(&mut found.snapshots);
    let above = groups_of_pods(deps, &pods);
    let pods = pods
        .iter()
        .filter_map(|s| of_pod(deps, &above, s, &mut found, detail));
    Ok(All {
        pods: pods.collect(),
        images: images(&found.images.images),
        layers: match found.images.layers.as_slice() {
            [] => None,
            layers => Some(images(layers)),
        },
        machine: match is_whole {
            true => machine(config),
            false => Machine::default(),
        },
        disk_activity: disk_activity(&disk_device),
        disk_device,
        device_names,
        pause_image: config.pause_image.clone(),
        node_name: config.node_name.clone(),
        at,
        node,
        swap_limit,
        memory_bytes: deps.resources.memory_bytes,
        cpu_millis: deps.resources.cpu_millis,
        network: match detail {
            Detail::Groups | Detail::Disks => Vec::new(),
            _ => interfaces(Path::new("/proc/self/net/dev")),
        },
        fs,
        start_time: start_time(),
    })
}

fn images(all: &[ImageFs]) -> OfImages {
    let taken = all.iter().map(|f| DiskUsage {
        bytes: f.bytes,
        inodes: f.inodes,
    });
    OfImages {
        taken: taken.sum(),
        fs: place(all).and_then(|place| fs_of(&place)),
    }
}

/// The file system of images or layers; none where it cannot be seen from here, or not be read.
fn fs_of(place: &Path) -> Option<FsUsage> {
    match host::mounts::fs_usage(place) {
        Ok(usage) => Some(usage),
        Err(error) if is_absent(&error) => None,
        Err(error) => {
            images_unknown(place, &error);
            None
        }
    }
}

fn images_unknown(place: &Path, error: &std::io::Error) {
    METRICS.statistics_failed("imagefs");
    tracing::warn!(%error, place = %place.display(), "the file system of images is unknown");
}

/// The group in which a pod has its own, and the name of that one.
fn place_of_group(group: &str) -> (&str, &str) {
    group.rsplit_once('/').unwrap_or(("", group))
}

/// The groups in which pods have theirs, one for each class of pods.
fn groups_of_pods<'a>(deps: &'a Deps, pods: &[Arc<Snapshot>]) -> BTreeMap<String, Group<'a>> {
    let kubepods = deps.config.kubepods();
    let above = pods.iter().map(|s| {
        let group = resources::pod_group(&kubepods, &s.pod);
        place_of_group(&group).0.to_owned()
    });
    let above: BTreeSet<String> = above.collect();
    let open = |path: String| {
        let group = deps.cgroups.group(&path);
        (path, group)
    };
    above.into_iter().map(open).collect()
}

fn of_pod(
    deps: &Deps,
    above: &BTreeMap<String, Group<'_>>,
    s: &Snapshot,
    found: &mut ReportedStats,
    detail: Detail,
) -> Option<OfPod> {
    let (pod, is_whole) = (&s.pod, detail == Detail::Whole);
    let sandbox = s.seen.ready_sandbox()?;
    let path = resources::pod_group(&deps.config.kubepods(), pod);
    let (place, name) = place_of_group(&path);
    let group = above.get(place)?.below(name);
    let stats = group.stats()?;
    let limits = |group: &Group<'_>| match is_whole {
        true => group.limits().unwrap_or_default(),
        false => Limits::default(),
    };
    let reservation = |group: &Group<'_>| match is_whole {
        true => group.memory_reservation(),
        false => None,
    };
    let own = group.below(&sandbox.id);
    let network = match detail {
        Detail::Groups | Detail::Disks => Vec::new(),
        _ => network(s, &own),
    };
    let of_sandbox = is_whole.then(|| own.stats()).flatten();
    let running = s.seen.containers.iter().filter(|c| c.run == Run::Running);
    let containers = running.filter_map(|c| {
        let own = group.below(&c.id);
        Some(OfContainer {
            name: c.name.clone(),
            id: c.id.clone(),
            image: c.image.clone(),
            started_at: c.started_at,
            stats: own.stats()?,
            layer: found.layers.as_ref().and_then(|l| l.get(&c.id).copied()),
            log_bytes: match detail {
                Detail::Groups | Detail::Whole => 0,
                _ => crate::log_rotation::bytes(Path::new(&c.log_path)),
            },
            memory_limit: own.memory_limit(),
            swap_limit: own.swap_limit(),
            memory_reservation: reservation(&own),
            limits: limits(&own),
            held: match is_whole {
                true => host::cgroup::descriptors(&own.processes()),
                false => Descriptors::default(),
            },
            group: format!("{path}/{}", c.id),
        })
    });
    let containers = containers.collect();
    let of_volumes = found.of_volumes.remove(spec::uid(pod)).unwrap_or_default();
    Some(OfPod {
        pod: pod.clone(),
        limits: limits(&group),
        sandbox: of_sandbox.map(|stats| (format!("{path}/{}", sandbox.id), stats)),
        swap_limit: group.swap_limit(),
        memory_reservation: reservation(&group),
        sandbox_id: sandbox.id.clone(),
        stats,
        network,
        containers,
        claims: of_volumes.claims,
        volumes: of_volumes.volumes,
        group: path,
    })
}

fn network(s: &Snapshot, own: &Group<'_>) -> Vec<super::Interface> {
    // On the host's network it has none of its own.
    let first = match spec::host_network(&s.pod) {
        true => None,
        false => own.processes().first().copied(),
    };
    match first {
        Some(pid) => interfaces(&Path::new("/proc").join(pid.to_string()).join("net/dev")),
        None => Vec::new(),
    }
}

/// What the node uses, and its swap. One that declares its memory is a part of the machine: its use is
/// that of its group. Else it is the machine's.
fn of_node(deps: &Deps) -> Result<(Stats, Option<u64>), Error> {
    let parent = &deps.config.cgroup_parent;
    let group = deps.cgroups.group(parent);
    if deps.config.capacity.memory_bytes.is_some()
        && let Some(stats) = group.stats()
    {
        return Ok((stats, group.swap_limit()));
    }
    let memory = node_machine::memory();
    let (user, system) = cpu_times();
    if memory.total == 0 || user + system == 0 {
        return Err(Error::Node);
    }
    let mut stats = deps.cgroups.stats("/").unwrap_or_default();
    stats.pressure = stats.pressure.or_else(host::cgroup::machine_pressure);
    stats.cpu_user_nanos = user;
    stats.cpu_system_nanos = system;
    stats.cpu_nanos = user + system;
    stats.working_set_bytes = memory.total.saturating_sub(memory.available);
    stats.memory_bytes = stats.memory_bytes.max(stats.working_set_bytes);
    // The root group does not say, of either version, what other groups have in swap.
    stats.swap_bytes = memory.swap.saturating_sub(memory.swap_free);
    Ok((stats, Some(memory.swap)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_told_apart_by_their_devices() {
        assert_eq!(disks(Some(1), None, None), Disks::One);
        assert_eq!(disks(Some(1), Some(1), None), Disks::One);
        assert_eq!(disks(Some(1), Some(1), Some(1)), Disks::One);
        assert_eq!(disks(Some(1), Some(2), None), Disks::Runtime);
        assert_eq!(disks(Some(1), Some(2), Some(2)), Disks::Runtime);
        assert_eq!(disks(Some(1), Some(2), Some(1)), Disks::Images);
        assert_eq!(disks(Some(1), Some(2), Some(3)), Disks::Runtime);
    }
}
