//! Keeps the node alive when memory, disk or process ids run short: reports it in the node's
//! conditions and ends pods, one at a time, those first that use more than they asked for.

mod limits;
mod observed;
mod rank;
pub mod thresholds;

pub use rank::{Candidate, choose};
pub use thresholds::{Resource, Share, Signal, Threshold, Thresholds};

use crate::events::Severity;
use crate::node::NodeKeeper;
use crate::node::machine;
use crate::pod::deps::Deps;
use crate::pod::fit::Pressure;
use crate::pod::handle::{End, Snapshot};
use crate::pod::manager::Pods;
use crate::pod::spec;
use crate::quantity;
use crate::stats::{Detail, Disks, OfPod, Statistics};
use clock::Instant;
use futures::future::{BoxFuture, FutureExt};
use k8s_openapi::api::core::v1::Pod;
use observed::Observed;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What an evicted pod gets to end: the node cannot wait. Upstream's value.
const GRACE_SECONDS: i64 = 1;

/// For how long it holds what was found of a volume that nobody holds to its size: to look is to walk
/// through all of it.
const MEASURED_AGE: Duration = Duration::from_secs(60);

/// Volumes that are reported to have more than their size: pods' UIDs and their own names.
type Told = BTreeSet<(String, String)>;

/// How much is left of everything.
type Left = [(Resource, Share); Resource::ALL.len()];

/// Something of which too little is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Short {
    resource: Resource,
    threshold: Threshold,
    left: Share,
    /// What a pod gets to end for it.
    grace_seconds: i64,
}

/// When each pressure was seen last; a condition stays for a while after.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    memory: Option<Instant>,
    disk: Option<Instant>,
    pid: Option<Instant>,
}

/// Looks at the signals for ever, and beside that at what pods take of the disk: whoever has to be
/// asked for the latter may not answer, and memory cannot wait.
pub async fn run(
    deps: Arc<Deps>,
    pods: Arc<Pods>,
    keeper: Arc<NodeKeeper>,
    statistics: Arc<Statistics>,
) {
    let around = Around {
        deps: &deps,
        pods: &pods,
        statistics: &statistics,
    };
    tokio::join!(around.watch_signals(&keeper), around.watch_limits());
}

/// What an eviction needs.
#[derive(Clone, Copy)]
struct Around<'a> {
    deps: &'a Deps,
    pods: &'a Pods,
    statistics: &'a Statistics,
}

fn ticks(deps: &Deps) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(deps.config.eviction.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

impl<'a> Around<'a> {
    async fn watch_signals(self, keeper: &NodeKeeper) {
        let deps = self.deps;
        let (mut since, mut observed) = (Since::default(), Observed::default());
        let mut ticks = ticks(deps);
        // Of the disk one relief at a time; it asks the runtime.
        let mut of_disk: Option<BoxFuture<'a, ()>> = None;
        loop {
            tokio::select! {
                biased;
                () = ended(&mut of_disk) => {
                    of_disk = None;
                    continue;
                }
                _ = ticks.tick() => {}
            }
            let (wanted, left) = (&deps.config.eviction, self.left());
            let now = Instant::now();
            let looked = observed.look(wanted, &left, now);
            let pressure = note(&mut since, &looked.short, now, wanted.transition_period);
            let changed = {
                let mut shared = deps.pressure.lock();
                let changed = *shared != pressure;
                *shared = pressure;
                changed
            };
            if changed {
                keeper.changed.notify_one();
            }
            if let Some(short) = looked.due.first().filter(|_| of_disk.is_none()) {
                let (recorder, node) = (&deps.recorder, &deps.config.node_name);
                let text = format!("Attempting to reclaim {}", word(short.resource));
                recorder.node(node, Severity::Warning, "EvictionThresholdMet", text);
            }
            match looked.due.first() {
                None => {}
                Some(short) if short.resource.signal() == Signal::Disk => {
                    let short = *short;
                    of_disk.get_or_insert_with(|| self.relieve_disk(short).boxed());
                }
                Some(short) => self.relieve(short, Detail::Groups).await,
            }
        }
    }

    fn left(self) -> Left {
        let deps = self.deps;
        // Of what is unknown nothing is said.
        let fs = self.statistics.root_fs().unwrap_or_default();
        let images = self.statistics.image_fs().unwrap_or_default();
        let (pids, most) = machine::pids();
        let machine = machine::memory();
        let memory = memory_left(deps.config.capacity.memory_bytes, &machine, || {
            let stats = deps.cgroups.stats(&deps.config.kubepods());
            stats.map_or(0, |s| s.working_set_bytes)
        });
        Resource::ALL.map(|resource| {
            let (free, whole) = match resource {
                Resource::Memory => (memory.free, memory.whole),
                Resource::NodeFs => (fs.available_bytes, fs.capacity_bytes),
                Resource::NodeFsInodes => (fs.inodes_free, fs.inodes),
                Resource::ImageFs => (images.available_bytes, images.capacity_bytes),
                Resource::ImageFsInodes => (images.inodes_free, images.inodes),
                Resource::Pid => (most.saturating_sub(pids), most),
            };
            (resource, Share { free, whole })
        })
    }

    /// First goes what nobody uses, if it is on the disk that is short.
    async fn relieve_disk(self, short: Short) {
        let has_images = short.resource.is_of_images() || self.statistics.disks() == Disks::One;
        if !has_images || crate::gc::remove_unused_images(self.deps, u64::MAX).await == 0 {
            self.relieve(&short, Detail::Disks).await;
        }
    }

    async fn relieve(self, short: &Short, detail: Detail) {
        // A failure is said by who read.
        let Ok(all) = self.statistics.collect(detail).await else {
            return;
        };
        let disks = self.statistics.disks();
        let candidates: Vec<Candidate> = all
            .pods
            .iter()
            .map(|p| rank::candidate(p, short.resource, disks))
            .collect();
        let Some(victim) = choose(&candidates).and_then(|i| all.pods.get(i)) else {
            tracing::warn!(?short, "the node runs short, and there is no pod to end");
            return;
        };
        crate::metrics::METRICS.evicted(short.resource.name());
        // No more than the pod itself wants.
        let own = spec::grace_seconds(&victim.pod).max(GRACE_SECONDS);
        let grace = short.grace_seconds.min(own);
        self.evict(victim, message(victim, short), grace);
    }

    fn evict(self, victim: &OfPod, message: String, grace_seconds: i64) {
        tracing::warn!(
            pod = spec::full_name(&victim.pod),
            message,
            "evicting a pod"
        );
        self.deps.recorder.pod(
            &victim.pod,
            None,
            Severity::Warning,
            "Evicted",
            message.clone(),
        );
        let end = End {
            reason: "Evicted".into(),
            message,
            grace_seconds,
        };
        self.pods.end(spec::uid(&victim.pod), end);
    }

    /// Ends pods that use more local storage than they may, for ever, and reports claims whose
    /// volumes have more than their size.
    async fn watch_limits(self) {
        let mut ticks = ticks(self.deps);
        let mut told = Told::new();
        loop {
            ticks.tick().await;
            let mut all = self.pods.snapshots();
            all.retain(|s| !s.over);
            let of_limits = |s: &Arc<Snapshot>| limits::has_any(&s.pod);
            let (limited, mut measured): (Vec<_>, Vec<_>) = all.into_iter().partition(of_limits);
            measured.retain(|s| self.has_measured_volume(&s.pod));
            if limited.is_empty() && measured.is_empty() {
                continue;
            }
            // What is begun now is known at the next tick.
            let age = self.deps.config.eviction.period;
            self.statistics.look_at(&limited, age);
            self.statistics.look_at(&measured, MEASURED_AGE.max(age));
            let Ok(all) = self.statistics.collect(Detail::Disks).await else {
                continue;
            };
            forget_gone(&mut told, all.pods.iter().map(|pod| spec::uid(&pod.pod)));
            for pod in &all.pods {
                if let Some(why) = limits::over(pod) {
                    crate::metrics::METRICS.evicted("ephemeralcontainerfs.limit");
                    self.evict(pod, why, GRACE_SECONDS);
                } else {
                    self.look_at_claims(pod, &mut told);
                }
            }
        }
    }

    /// Whether the pod has a volume on the node's disk that nobody holds to its size.
    fn has_measured_volume(self, pod: &Pod) -> bool {
        let means = &self.deps.volumes.0;
        // Also where the file system can: one that is older than its limit has none.
        let Some(disk) = means.disk.as_ref() else {
            return false;
        };
        let held = means.claims.of_pod(spec::uid(pod));
        held.iter().any(|(_, h)| disk.measured(&h.volume).is_some())
    }

    /// Tells once of each volume that has more than its size, and ends its pod where its class wants
    /// that.
    fn look_at_claims(self, pod: &OfPod, told: &mut Told) {
        for claim in &pod.claims {
            let key = (spec::uid(&pod.pod).to_owned(), claim.name.clone());
            let Some((how, why)) = limits::overfull(claim) else {
                told.remove(&key);
                continue;
            };
            let recorder = &self.deps.recorder;
            if told.insert(key) {
                recorder.about(&how.claim, Severity::Warning, "VolumeOverfull", &*why);
                recorder.pod(&pod.pod, None, Severity::Warning, "VolumeOverfull", &*why);
            }
            if how.evicts {
                crate::metrics::METRICS.evicted("localvolume.limit");
                self.evict(pod, why, GRACE_SECONDS);
                return;
            }
        }
    }
}

/// Of pods that have gone nothing is remembered.
fn forget_gone<'a>(told: &mut Told, there: impl Iterator<Item = &'a str>) {
    if told.is_empty() {
        return;
    }
    let there: BTreeSet<&str> = there.collect();
    told.retain(|(uid, _)| there.contains(uid.as_str()));
}

/// The end of what is under way, if something is.
async fn ended(work: &mut Option<BoxFuture<'_, ()>>) {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// What is left of memory. `used`: what all pods have.
fn memory_left(
    declared: Option<u64>,
    machine: &machine::Memory,
    used: impl FnOnce() -> u64,
) -> Share {
    match declared {
        // The machine does not say: then nothing is said of it, and nobody is ended for it.
        _ if machine.total == 0 => Share { free: 0, whole: 0 },
        // A part of a machine: what its pods leave of what it declares, if the machine has it.
        Some(declared) => Share {
            free: declared.saturating_sub(used()).min(machine.available),
            whole: declared,
        },
        None => Share {
            free: machine.available,
            whole: machine.total,
        },
    }
}

fn note(since: &mut Since, short: &[Short], now: Instant, stays: Duration) -> Pressure {
    let one = |signal: Signal, at: &mut Option<Instant>| {
        if short.iter().any(|s| s.resource.signal() == signal) {
            *at = Some(now);
        }
        at.is_some_and(|t| t == now || now.duration_since(t) < stays)
    };
    Pressure {
        memory: one(Signal::Memory, &mut since.memory),
        disk: one(Signal::Disk, &mut since.disk),
        pid: one(Signal::Pid, &mut since.pid),
    }
}

/// Upstream's word for what is short.
fn word(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory => "memory",
        Resource::NodeFs | Resource::ImageFs => "ephemeral-storage",
        Resource::NodeFsInodes | Resource::ImageFsInodes => "inodes",
        Resource::Pid => "pids",
    }
}

fn message(victim: &OfPod, short: &Short) -> String {
    let signal = short.resource.signal();
    let resource = word(short.resource);
    let available = match short.resource {
        Resource::Memory | Resource::NodeFs | Resource::ImageFs => {
            format!("{}Ki", short.left.free >> 10)
        }
        Resource::NodeFsInodes | Resource::ImageFsInodes | Resource::Pid => {
            short.left.free.to_string()
        }
    };
    let threshold = match short.threshold {
        Threshold::Percent(_) => short.threshold.of(short.left.whole).to_string(),
        Threshold::Amount(_) => short.threshold.to_string(),
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. "
    );
    if matches!(
        short.resource,
        Resource::NodeFsInodes | Resource::ImageFsInodes
    ) {
        // Nobody asks for inodes: there is nothing to compare with.
        return text;
    }
    for c in &victim.containers {
        let asked = spec::container(&victim.pod, &c.name)
            .and_then(|c| c.resources.as_ref())
            .and_then(|r| r.requests.as_ref());
        let (used, asked) = match signal {
            Signal::Memory => (c.stats.working_set_bytes, quantity::amount(asked, "memory")),
            Signal::Disk => (
                c.layer.map_or(0, |l| l.bytes) + c.log_bytes,
                quantity::amount(asked, "ephemeral-storage"),
            ),
            Signal::Pid => continue,
        };
        let asked = u64::try_from(asked.unwrap_or(0)).unwrap_or(0);
        if used > asked {
            let request = if asked == 0 {
                "0".to_owned()
            } else {
                format!("{}Ki", asked >> 10)
            };
            text.push_str(&format!(
                "Container {} was using {}Ki, request is {request}, has larger consumption of {resource}. ",
                c.name,
                used >> 10
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short_of(left: &Left) -> Vec<Short> {
        let wanted = crate::config::Eviction::default();
        Observed::default().look(&wanted, left, Instant::now()).due
    }

    /// A node with plenty of everything but `scarce`.
    pub(super) fn left_with(scarce: &[(Resource, u64)]) -> Left {
        Resource::ALL.map(|r| {
            let free = scarce.iter().find(|(s, _)| *s == r).map(|(_, free)| *free);
            let whole = 1 << 40;
            let free = free.unwrap_or(whole / 2);
            (r, Share { free, whole })
        })
    }

    #[test]
    fn what_was_told_of_pods_is_forgotten_with_them() {
        let key = |uid: &str| (uid.to_owned(), "data".to_owned());
        let mut told = Told::from(["a", "b"].map(key));
        forget_gone(&mut told, ["b", "c"].into_iter());
        assert_eq!(told, Told::from([key("b")]));
        forget_gone(&mut told, std::iter::empty());
        assert!(told.is_empty());
    }

    #[test]
    fn memory_of_which_the_machine_says_nothing_is_not_short() {
        let machine = |total: u64, available: u64| machine::Memory {
            total,
            available,
            ..machine::Memory::default()
        };
        let left = |declared, machine| {
            let share = memory_left(declared, &machine, || 30);
            (share.free, share.whole)
        };
        assert_eq!(left(None, machine(100, 40)), (40, 100));
        assert_eq!(left(Some(80), machine(100, 60)), (50, 80));
        assert_eq!(left(Some(80), machine(100, 40)), (40, 80));
        let unknown = memory_left(Some(1 << 40), &machine(0, 0), || 30);
        let all = left_with(&[]).map(|(r, share)| match r {
            Resource::Memory => (r, unknown),
            _ => (r, share),
        });
        assert_eq!(short_of(&all), []);
    }

    #[test]
    fn a_condition_outlasts_its_pressure_for_a_while() {
        let mut since = Since::default();
        let start = Instant::now();
        let stays = Duration::from_secs(300);
        let short = short_of(&left_with(&[(Resource::Memory, 1)]));
        assert!(note(&mut since, &short, start, stays).memory);
        let soon = note(&mut since, &[], start + Duration::from_secs(299), stays);
        assert_eq!(
            soon,
            Pressure {
                memory: true,
                ..Default::default()
            }
        );
        assert!(!note(&mut since, &[], start + Duration::from_secs(301), stays).memory);
    }

    #[test]
    fn what_is_short_is_reported_the_most_urgent_first() {
        assert!(short_of(&left_with(&[])).is_empty());
        let scarce = [
            (Resource::Pid, 0),
            (Resource::NodeFsInodes, 1),
            (Resource::Memory, 1),
        ];
        let short = short_of(&left_with(&scarce));
        let resources: Vec<_> = short.iter().map(|s| s.resource).collect();
        assert_eq!(
            resources,
            [Resource::Memory, Resource::NodeFsInodes, Resource::Pid]
        );
    }
}
