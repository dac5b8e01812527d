//! CPUs of their own for containers that ask for whole ones: upstream's CPU manager with its static
//! policy. A container of a Guaranteed pod whose CPU limit is a whole number gets as many CPUs, and no
//! other container runs on them. What a container was given is kept in its pod's folder, beside what
//! else it was given, so there is no list that could say something else than the pods do.

mod choose;
mod draft;
pub mod follow;
pub mod policy;
pub mod set;
pub mod topology;

use crate::checkpoint;
use crate::pod::admit::Refusal;
use crate::pod::resources::{Qos, qos};
use crate::pod::spec;
use crate::quantity;
pub use draft::Draft;
use host::cgroup::Limits;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use policy::Policy;
use set::CpuSet;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio::sync::Notify;
use topology::Topology;

/// Where the kernel says which CPUs there are.
const SYSTEM: &str = "/sys/devices/system/cpu";
/// The file in a pod's folder.
const FILE: &str = "cpus.json";

/// What is held, by container.
type OfPod = BTreeMap<String, CpuSet>;

/// The CPUs of the node.
#[derive(Debug)]
pub struct Cpus {
    policy: Policy,
    topology: Topology,
    reserved: CpuSet,
    pods_dir: PathBuf,
    held: Mutex<BTreeMap<String, OfPod>>,
    /// What is given, and so where all others run, has changed.
    changed: Notify,
}

impl Cpus {
    /// Nothing is given yet. `reserved_millis`: what the node keeps; as many CPUs are not given where
    /// the policy does not say which.
    ///
    /// # Errors
    /// The machine does not say which CPUs it has, or keeps none for itself.
    pub fn new(policy: Policy, reserved_millis: u64, pods_dir: PathBuf) -> Result<Self, String> {
        let topology = if policy.is_static {
            Topology::read(Path::new(SYSTEM))?
        } else {
            Topology::default()
        };
        Self::on(topology, policy, reserved_millis, pods_dir)
    }

    /// The same on a machine that is given.
    pub(crate) fn on(
        topology: Topology,
        policy: Policy,
        reserved_millis: u64,
        pods_dir: PathBuf,
    ) -> Result<Self, String> {
        let count = usize::try_from(reserved_millis.div_ceil(1000)).unwrap_or(usize::MAX);
        let chosen = policy.reserved.clone();
        let reserved = chosen.or_else(|| topology.take(&topology.all(), count));
        let reserved = reserved.filter(|_| policy.is_static).unwrap_or_default();
        if policy.is_static && reserved.0.is_empty() {
            return Err(
                "the static CPU manager policy requires systemReserved.cpu + kubeReserved.cpu to be greater than zero".into(),
            );
        }
        Ok(Self {
            policy,
            topology,
            reserved,
            pods_dir,
            held: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Gives a pod that comes what its containers ask for, wherever it is in the machine, or says why
    /// it cannot have it.
    pub fn allocate(&self, pod: &Pod) -> Result<(), Refusal> {
        let Some(mut draft) = self.draft(pod) else {
            return Ok(());
        };
        let init = spec::init_containers(pod).iter();
        for c in init.chain(spec::containers(pod)) {
            draft.give(c, None)?;
        }
        draft.keep()
    }

    /// What a pod that comes is about to be given; nobody else is given anything meanwhile. None where
    /// CPUs are not given, or it has its own already.
    #[must_use]
    pub fn draft<'a>(&'a self, pod: &'a Pod) -> Option<Draft<'a>> {
        let held = self.held.lock();
        if !self.policy.is_static || held.contains_key(spec::uid(pod)) {
            return None;
        }
        let others = held.values().flat_map(BTreeMap::values);
        let mut free = self.topology.all().without(&self.reserved);
        others.for_each(|set| free = free.without(set));
        Some(Draft {
            cpus: self,
            pod,
            held,
            free,
            reusable: CpuSet::default(),
            own: OfPod::new(),
        })
    }

    /// All CPUs of the machine; none where none are given.
    #[must_use]
    pub fn all(&self) -> CpuSet {
        self.topology.all()
    }

    fn is_aligned(&self, count: usize) -> Result<(), Refusal> {
        let threads = self.topology.threads();
        if !self.policy.full_cores_only || count.is_multiple_of(threads) {
            return Ok(());
        }
        Err(Refusal {
            reason: "SMTAlignmentError".into(),
            message: format!(
                "SMT Alignment Error: requested {count} cpus not multiple cpus per core = {threads}"
            ),
        })
    }

    /// What an earlier kubelet gave a pod.
    pub fn load(&self, uid: &str) {
        if !self.policy.is_static {
            return;
        }
        match read(&self.pods_dir.join(uid)) {
            Ok(None) => {}
            Ok(Some(own)) => drop(self.held.lock().insert(uid.to_owned(), own)),
            Err(error) => {
                tracing::error!(pod = uid, error, "which CPUs a pod has cannot be read");
            }
        }
    }

    /// Nothing of the pod runs any more.
    pub fn forget(&self, uid: &str) {
        if self.held.lock().remove(uid).is_some() {
            self.changed.notify_one();
        }
    }

    /// The CPUs that a container has for itself.
    #[must_use]
    pub fn of(&self, uid: &str, container: &str) -> Option<CpuSet> {
        self.held.lock().get(uid)?.get(container).cloned()
    }

    /// Whether a pod has CPUs for itself: how many they are is settled when it comes.
    #[must_use]
    pub fn has_any(&self, uid: &str) -> bool {
        self.held.lock().contains_key(uid)
    }

    /// Where containers run that have none for themselves.
    fn shared(&self) -> CpuSet {
        let held = self.held.lock();
        let mut all = self.topology.all();
        held.values()
            .flat_map(BTreeMap::values)
            .for_each(|set| all = all.without(set));
        if self.policy.strict_reservation {
            all = all.without(&self.reserved);
        }
        all
    }

    /// Where a container runs, in the runtime's words; empty where nothing is said of it.
    #[must_use]
    pub fn words(&self, uid: &str, container: &str) -> String {
        if !self.policy.is_static {
            return String::new();
        }
        let own = self.of(uid, container);
        own.unwrap_or_else(|| self.shared()).to_string()
    }

    /// Says where a container runs in what the runtime is given. One that has CPUs for itself has no
    /// quota of their time: it would be stopped at times, and nobody else may use them meanwhile.
    pub fn place(&self, uid: &str, container: &str, linux: &mut host::runtime::Resources) {
        linux.cpus = self.words(uid, container);
        let unenforced = self.policy.no_quotas && linux.cpu_quota > 0;
        if unenforced || self.of(uid, container).is_some() {
            linux.cpu_quota = -1;
        }
        (linux.cpu_quota, linux.cpu_period) =
            self.policy.in_period(linux.cpu_quota, linux.cpu_period);
    }

    /// Says of a sandbox how much time of CPUs it has; which ones is said of its containers.
    pub fn limit_sandbox(&self, uid: &str, linux: &mut host::runtime::Resources) {
        if linux.cpu_quota > 0 && (self.policy.no_quotas || self.has_any(uid)) {
            linux.cpu_quota = -1;
        }
        (linux.cpu_quota, linux.cpu_period) =
            self.policy.in_period(linux.cpu_quota, linux.cpu_period);
    }

    /// The limits of a pod's group: without a quota of CPU time, which would bind the containers in it,
    /// where one of them has CPUs for itself, or where none are enforced.
    #[must_use]
    pub fn of_group(&self, uid: &str, limits: Limits) -> Limits {
        let quota = match limits.cpu_quota {
            Some(_) if self.policy.no_quotas || self.has_any(uid) => Some(-1),
            quota => quota,
        };
        let period = limits.cpu_period.and_then(|p| i64::try_from(p).ok());
        let Some((quota, period)) = quota.zip(period) else {
            return Limits {
                cpu_quota: quota,
                ..limits
            };
        };
        let (quota, period) = self.policy.in_period(quota, period);
        Limits {
            cpu_quota: Some(quota),
            cpu_period: u64::try_from(period).ok(),
            ..limits
        }
    }

    /// Whether CPUs are given at all.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.policy.is_static
    }

    /// The CPUs that may be given, for the pod resources API.
    #[must_use]
    pub fn allocatable(&self) -> CpuSet {
        self.topology.all().without(&self.reserved)
    }
}

/// How many CPUs a container has for itself: those of Guaranteed pods that ask for whole ones. What a
/// pod names as a whole is not divided among containers, as upstream.
fn exclusive(pod: &Pod, c: &Container) -> usize {
    if qos(pod) != Qos::Guaranteed || spec::of(pod).resources.is_some() {
        return 0;
    }
    let asked = c.resources.as_ref().and_then(|r| r.requests.as_ref());
    let limit = c.resources.as_ref().and_then(|r| r.limits.as_ref());
    let millis = quantity::cpu_millis(asked.or(limit)).unwrap_or(0);
    let whole = millis > 0 && millis % 1000 == 0;
    usize::try_from(millis / 1000)
        .ok()
        .filter(|_| whole)
        .unwrap_or(0)
}

fn refused(message: String) -> Refusal {
    Refusal {
        reason: "UnexpectedAdmissionError".into(),
        message: format!("Allocate failed due to {message}, which is unexpected"),
    }
}

fn save(dir: &Path, own: &OfPod) -> std::io::Result<()> {
    crate::volumes::private_folder(dir)?;
    let texts: BTreeMap<&String, String> = own.iter().map(|(c, s)| (c, s.to_string())).collect();
    checkpoint::save(dir, FILE, &texts)
}

fn read(dir: &Path) -> Result<Option<OfPod>, String> {
    let texts: Option<BTreeMap<String, String>> =
        checkpoint::load(dir, FILE).map_err(|e| e.to_string())?;
    let one = |(name, text): (String, String)| Ok((name, text.parse()?));
    let all = texts.map(|all| all.into_iter().map(one));
    let all = all.map(Iterator::collect::<Result<OfPod, String>>);
    all.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use topology::CpuLocation;

    fn cpus(dir: &Path, policy: Policy) -> Result<Cpus, String> {
        let place = |cpu: u32| CpuLocation {
            socket: 0,
            core: cpu / 2,
            ..CpuLocation::default()
        };
        let topology = Topology((0..8).map(|cpu| (cpu, place(cpu))).collect());
        Cpus::on(topology, policy, 1000, dir.to_owned())
    }

    fn fixed() -> Policy {
        Policy {
            is_static: true,
            ..Policy::default()
        }
    }

    fn pod(uid: &str, cpus: &[&str]) -> Pod {
        let container = |(n, cpu): (usize, &&str)| {
            let all = json!({ "cpu": cpu, "memory": "1Mi" });
            json!({ "name": format!("c{n}"), "resources": { "limits": all, "requests": all } })
        };
        let all: Vec<_> = cpus.iter().enumerate().map(container).collect();
        let pod = json!({ "metadata": { "name": "p", "uid": uid }, "spec": { "containers": all } });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn whole_cpus_are_given_and_all_others_share_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let all = cpus(dir.path(), fixed()).unwrap();
        assert_eq!(all.words("nobody", "c"), "0-7");
        all.allocate(&pod("a", &["2", "500m"])).unwrap();
        assert_eq!(all.words("a", "c0"), "2-3");
        assert_eq!(all.words("a", "c1"), "0-1,4-7");
        all.allocate(&pod("b", &["1", "1"])).unwrap();
        assert_eq!(
            (all.words("b", "c0"), all.words("b", "c1")),
            ("1".into(), "4".into())
        );
        let refusal = all.allocate(&pod("c", &["4"])).unwrap_err();
        assert!(
            refusal.message.contains("requested=4, available=3"),
            "{refusal:?}"
        );
        // Another kubelet finds it; the first pod goes.
        let next = cpus(dir.path(), fixed()).unwrap();
        next.load("a");
        next.load("b");
        next.load("none");
        assert_eq!(next.words("a", "c0"), "2-3");
        next.forget("a");
        assert_eq!(next.words("c", "c0"), "0,2-3,5-7");
        next.allocate(&pod("c", &["4"])).unwrap();
    }

    #[test]
    fn options_and_what_is_reserved_count() {
        let dir = tempfile::tempdir().unwrap();
        let policy = Policy {
            reserved: Some("6-7".parse().unwrap()),
            full_cores_only: true,
            strict_reservation: true,
            ..fixed()
        };
        let all = cpus(dir.path(), policy).unwrap();
        assert_eq!(all.words("nobody", "c"), "0-5");
        let refusal = all.allocate(&pod("a", &["1"])).unwrap_err();
        assert_eq!(refusal.reason, "SMTAlignmentError");
        all.allocate(&pod("a", &["6"])).unwrap();
        assert!(all.allocate(&pod("b", &["2"])).is_err());
        let none = Policy {
            reserved: Some(CpuSet::default()),
            ..fixed()
        };
        assert!(cpus(dir.path(), none).is_err());
        let shared = cpus(dir.path(), Policy::default()).unwrap();
        shared.allocate(&pod("a", &["2"])).unwrap();
        assert_eq!(shared.words("a", "c0"), "");
    }

    #[test]
    fn limits_of_cpu_may_be_left_unenforced() {
        let dir = tempfile::tempdir().unwrap();
        let policy = Policy {
            no_quotas: true,
            ..Policy::default()
        };
        let all = cpus(dir.path(), policy).unwrap();
        for (quota, has) in [(50_000, -1), (0, 0)] {
            let mut linux = host::runtime::Resources {
                cpu_quota: quota,
                ..Default::default()
            };
            all.place("a", "c", &mut linux);
            assert_eq!(linux.cpu_quota, has);
        }
        let limits = |cpu_quota| Limits {
            cpu_quota,
            ..Limits::default()
        };
        assert_eq!(all.of_group("a", limits(Some(5))).cpu_quota, Some(-1));
        assert_eq!(all.of_group("a", limits(None)).cpu_quota, None);
    }

    #[test]
    fn limits_of_cpu_are_for_the_period_that_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let policy = Policy {
            quota_period_micros: Some(10_000),
            ..Policy::default()
        };
        let all = cpus(dir.path(), policy).unwrap();
        let mut linux = host::runtime::Resources {
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        };
        all.place("a", "c", &mut linux);
        assert_eq!((linux.cpu_quota, linux.cpu_period), (5_000, 10_000));
        let limits = Limits {
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            ..Limits::default()
        };
        let group = all.of_group("a", limits);
        assert_eq!(
            (group.cpu_quota, group.cpu_period),
            (Some(5_000), Some(10_000))
        );
        let none = Limits::default();
        assert_eq!(all.of_group("a", none), none);
    }

    #[test]
    fn who_has_cpus_for_itself_is_not_stopped_for_its_quota() {
        let dir = tempfile::tempdir().unwrap();
        let all = cpus(dir.path(), fixed()).unwrap();
        let of = |pod: &Pod, n: usize| {
            let c = &spec::containers(pod)[n];
            let scores = host::cgroup::OomScores::all();
            let mut linux = crate::pod::resources::container(pod, c, 1 << 30, scores);
            all.place(spec::uid(pod), &c.name, &mut linux);
            (
                linux.cpus,
                linux.cpu_quota,
                linux.cpu_period,
                linux.cpu_shares,
            )
        };
        let group = |pod: &Pod| {
            let limits = crate::pod::resources::pod_limits(pod);
            let set = all.of_group(spec::uid(pod), limits);
            (set.cpu_quota, set.cpu_period, set.cpu_shares)
        };
        let own = pod("a", &["2", "500m"]);
        all.allocate(&own).unwrap();
        assert_eq!(of(&own, 0), ("2-3".into(), -1, 100_000, 2048));
        assert_eq!(of(&own, 1), ("0-1,4-7".into(), 50_000, 100_000, 512));
        assert_eq!(group(&own), (Some(-1), Some(100_000), Some(2560)));
        let sandbox = |pod: &Pod| {
            let (mut linux, _) = crate::pod::resources::of_sandbox(pod);
            all.limit_sandbox(spec::uid(pod), &mut linux);
            linux.cpu_quota
        };
        assert_eq!(sandbox(&own), -1);
        let shared = pod("b", &["500m"]);
        all.allocate(&shared).unwrap();
        assert_eq!(of(&shared, 0), ("0-1,4-7".into(), 50_000, 100_000, 512));
        assert_eq!(group(&shared), (Some(50_000), Some(100_000), Some(512)));
        assert_eq!(sandbox(&shared), 50_000);
        let free = Limits::default();
        assert_eq!(all.of_group("a", free), free);
    }
}
