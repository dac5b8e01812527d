//! From requests and limits to quality of service, control groups and scores.

use super::spec;
use crate::quantity::{Resources, amount, cpu_millis, units};
use api::qos;
use host::cgroup::{Limits, OomScores};
use host::runtime;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Quality-of-service class.
pub use api::qos::Class as Qos;

/// The class of a pod: as the API server noted it, else computed.
#[must_use]
pub fn qos(pod: &Pod) -> Qos {
    let noted = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
    let noted = noted.and_then(|class| class.parse().ok());
    noted.unwrap_or_else(|| compute_qos(pod))
}

fn compute_qos(pod: &Pod) -> Qos {
    let of = |r: Option<&ResourceRequirements>| -> qos::ContainerAmounts {
        let amount = |all: Option<&Resources>, name: &str| -> Option<api::Quantity> {
            all?.get(name)?.0.parse().ok()
        };
        qos::RESOURCES.map(|name| qos::Amount {
            request: amount(r.and_then(|r| r.requests.as_ref()), name),
            limit: amount(r.and_then(|r| r.limits.as_ref()), name),
        })
    };
    if let Some(own) = &spec::of(pod).resources {
        return qos::class(&[of(Some(own))]);
    }
    let init = spec::init_containers(pod).iter();
    let containers = init.chain(spec::containers(pod));
    let each: Vec<qos::ContainerAmounts> = containers.map(|c| of(c.resources.as_ref())).collect();
    qos::class(&each)
}

/// Microseconds of the period of CPU limits: the kernel's default and upstream's.
pub(super) const CPU_PERIOD: i64 = 100_000;

/// Weight for thousandths of a CPU; 2 is the kernel's least.
#[must_use]
pub fn shares(millis: i64) -> i64 {
    (millis.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// Microseconds per period for thousandths of a CPU; 1 ms is the kernel's least.
#[must_use]
pub fn quota(millis: i64) -> i64 {
    (millis.saturating_mul(CPU_PERIOD) / 1000).max(1000)
}

/// What the runtime is given of a container's resources.
#[must_use]
pub fn container(
    pod: &Pod,
    c: &Container,
    memory_capacity: i64,
    oom: OomScores,
) -> runtime::Resources {
    let r = c.resources.clone().unwrap_or_default();
    let (requests, limits) = (r.requests.as_ref(), r.limits.as_ref());
    let own = cpu_millis(limits).filter(|v| *v > 0);
    let asked = cpu_millis(requests).or(own).unwrap_or(0);
    // What the container does not limit, the pod does.
    let whole = spec::of(pod).resources.as_ref();
    let of_pod = whole.and_then(|r| r.limits.as_ref());
    let limit = own.or(cpu_millis(of_pod).filter(|v| *v > 0));
    let memory = amount(limits, "memory").filter(|v| *v > 0);
    let memory = memory.or(amount(of_pod, "memory")).unwrap_or(0);
    let score = oom_score(pod, c, memory_capacity);
    runtime::Resources {
        cpu_period: if limit.is_some() { CPU_PERIOD } else { 0 },
        cpu_quota: limit.map_or(0, quota),
        cpu_shares: shares(asked),
        memory_bytes: memory,
        // No swap for pods: memory and swap together are as large as memory alone.
        memory_and_swap_bytes: memory,
        oom_score: oom.clamp(score),
        huge_pages: huge_pages(limits),
        cpus: String::new(),
        memory_nodes: String::new(),
        unified: BTreeMap::new(),
    }
}

/// What the runtime hears of a pod as a whole, and of its overhead: one that gives pods machines of their own
/// makes them as large.
#[must_use]
pub fn of_sandbox(pod: &Pod) -> (runtime::Resources, runtime::Resources) {
    let overhead = spec::of(pod).overhead.as_ref();
    let mut bare = std::borrow::Cow::Borrowed(pod);
    if overhead.is_some() {
        bare.to_mut().spec.get_or_insert_default().overhead = None;
    }
    let requests = quantities(&bare, |r| r.requests.as_ref());
    let limits = quantities(&bare, |r| r.limits.as_ref());
    let own = together(&requests, &limits);
    let taken = overhead.map(|all| together(all, all));
    (own, taken.unwrap_or_default())
}

fn together(requests: &Resources, limits: &Resources) -> runtime::Resources {
    let limit = cpu_millis(Some(limits)).filter(|v| *v > 0);
    let asked = cpu_millis(Some(requests)).or(limit).unwrap_or(0);
    let memory = amount(Some(limits), "memory").filter(|v| *v > 0);
    runtime::Resources {
        cpu_period: if limit.is_some() { CPU_PERIOD } else { 0 },
        cpu_quota: limit.map_or(0, quota),
        cpu_shares: shares(asked),
        memory_bytes: memory.unwrap_or(0),
        ..Default::default()
    }
}

/// Limits of huge pages; the kernel's names of sizes (`2MB`) for the API's (`hugepages-2Mi`).
fn huge_pages(limits: Option<&Resources>) -> Vec<(String, u64)> {
    let one = |name: &str, limit: &str| {
        let bytes = units(name.strip_prefix("hugepages-")?)?;
        let size = [(1i64 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")]
            .into_iter()
            .find(|(unit, _)| bytes >= *unit && bytes % unit == 0)?;
        let name = format!("{}{}", bytes / size.0, size.1);
        Some((name, u64::try_from(units(limit)?).ok()?))
    };
    let all = limits.into_iter().flatten();
    all.filter_map(|(name, q)| one(name, &q.0)).collect()
}

/// Upstream's score: the less of its memory a container asked for, the sooner it goes. What the pod
/// asks for beyond its containers counts for all of them alike; a sidecar does not go before those
/// that it serves.
fn oom_score(pod: &Pod, c: &Container, memory_capacity: i64) -> i64 {
    let spec = spec::of(pod);
    let is_critical = spec.priority.unwrap_or(0) >= 2_000_000_000;
    if is_critical && spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let of = |r: Option<&ResourceRequirements>| {
                amount(r.and_then(|r| r.requests.as_ref()), "memory").unwrap_or(0)
            };
            let more = match of(spec.resources.as_ref()) {
                0 => 0,
                whole => {
                    let count = spec::containers(pod).len() + spec::init_containers(pod).len();
                    let left = whole - Sums::of_containers(pod).memory_asked;
                    left.max(0) / i64::try_from(count.max(1)).unwrap_or(1)
                }
            };
            let mut asked = of(c.resources.as_ref());
            if spec::is_sidecar(c) && spec::is_init(pod, &c.name) {
                let others = spec::containers(pod).iter();
                let least = others.map(|c| of(c.resources.as_ref())).min();
                asked = asked.max(least.unwrap_or(0));
            }
            let asked = asked.saturating_add(more);
            let share = 1000i64.saturating_mul(asked) / memory_capacity.max(1);
            (1000 - share).clamp(3, 999)
        }
    }
}

/// What a pod asks for, or is limited to, of each resource, by upstream's rule: its containers and
/// sidecars together, or what an init container needs beside the sidecars before it, if that is
/// more; of what the pod names itself, that; and its overhead, where there is something to add it
/// to or `of` gives requests.
#[must_use]
pub fn totals(
    pod: &Pod,
    of: impl Fn(&ResourceRequirements) -> Option<&Resources>,
) -> BTreeMap<String, api::Quantity> {
    type Table = BTreeMap<String, api::Quantity>;
    let read = |r: Option<&ResourceRequirements>| -> Table {
        let list = r.and_then(&of).into_iter().flatten();
        list.filter_map(|(name, q)| Some((name.clone(), q.0.parse().ok()?)))
            .collect()
    };
    let add = |to: &mut Table, more: &Table| {
        for (name, q) in more {
            let sum = to.remove(name).unwrap_or_default() + *q;
            to.insert(name.clone(), sum);
        }
    };
    let mut all = Table::new();
    for c in spec::containers(pod) {
        add(&mut all, &read(c.resources.as_ref()));
    }
    let (mut sidecars, mut most) = (Table::new(), Table::new());
    for c in spec::init_containers(pod) {
        let own = read(c.resources.as_ref());
        let mut now = sidecars.clone();
        add(&mut now, &own);
        if spec::is_sidecar(c) {
            add(&mut all, &own);
            sidecars.clone_from(&now);
        }
        for (name, q) in now {
            let most = most.entry(name).or_default();
            *most = (*most).max(q);
        }
    }
    for (name, q) in most {
        let sum = all.entry(name).or_default();
        *sum = (*sum).max(q);
    }
    let own = read(spec::of(pod).resources.as_ref());
    all.extend(own.into_iter().filter(|(name, _)| {
        matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-")
    }));
    let requests = ResourceRequirements {
        requests: Some(Resources::new()),
        ..Default::default()
    };
    let of_requests = of(&requests).is_some();
    let overhead = ResourceRequirements {
        requests: spec::of(pod).overhead.clone(),
        limits: spec::of(pod).overhead.clone(),
        ..Default::default()
    };
    let mut overhead = read(Some(&overhead));
    overhead.retain(|name, _| of_requests || all.get(name).is_some_and(|q| !q.is_zero()));
    add(&mut all, &overhead);
    all
}

/// The same in the API's words.
#[must_use]
pub fn quantities(
    pod: &Pod,
    of: impl Fn(&ResourceRequirements) -> Option<&Resources>,
) -> Resources {
    let all = totals(pod, of).into_iter();
    all.map(|(name, q)| (name, Quantity(q.to_string())))
        .collect()
}

/// Requests and limits of the pod as a whole: what it was given, and once it runs what its
/// group has (`group`).
#[must_use]
pub fn of_pod(pod: &Pod, group: Option<&Limits>) -> ResourceRequirements {
    let requests = quantities(pod, |r| r.requests.as_ref());
    let limits = quantities(pod, |r| r.limits.as_ref());
    let some = |list: Resources| (!list.is_empty()).then_some(list);
    let Some(group) = group else {
        return ResourceRequirements {
            requests: some(requests),
            limits: some(limits),
            ..Default::default()
        };
    };
    let whole = spec::of(pod).resources.as_ref();
    let mut out = ResourceRequirements {
        requests: Some(whole.and_then(|r| r.requests.clone()).unwrap_or_default()),
        limits: Some(whole.and_then(|r| r.limits.clone()).unwrap_or_default()),
        ..Default::default()
    };
    if let (Some(shares), Some(list)) = (group.cpu_shares, &mut out.requests) {
        if shares > LEAST_SHARES {
            let millis = i64::try_from(shares.saturating_mul(1000).div_ceil(1024));
            let millis = millis.unwrap_or(i64::MAX);
            let given = cpu_millis(Some(&requests))
                .filter(|given| self::shares(*given) == self::shares(millis));
            let text = api::Quantity::from_millis(given.unwrap_or(millis)).to_string();
            list.insert("cpu".into(), Quantity(text));
        }
        if let Some(memory) = requests.get("memory") {
            let _ = list
                .entry("memory".into())
                .or_insert_with(|| memory.clone());
        }
    }
    if let Some(list) = &mut out.limits {
        if let Some(cpu_quota) = group.cpu_quota.filter(|q| *q > 0) {
            let period = i64::try_from(group.cpu_period.unwrap_or(0)).unwrap_or(0);
            let millis = cpu_quota.saturating_mul(1000) / period.max(1);
            let text = api::Quantity::from_millis(millis).to_string();
            list.insert("cpu".into(), Quantity(text));
        }
        if let Some(bytes) = group.memory_bytes.filter(|m| *m > 0) {
            let text = api::Quantity::from_bytes(bytes).to_string();
            list.insert("memory".into(), Quantity(text));
        }
    }
    out.requests = out.requests.and_then(some);
    out.limits = out.limits.and_then(some);
    out
}

/// The kernel's least weight, which says that nothing was asked for.
const LEAST_SHARES: u64 = 2;

/// The group of a pod below that of all pods.
#[must_use]
pub fn pod_group(kubepods: &str, pod: &Pod) -> String {
    let class = match qos(pod) {
        Qos::Guaranteed => "",
        Qos::Burstable => "/burstable",
        Qos::BestEffort => "/besteffort",
    };
    format!("{kubepods}{class}/pod{}", spec::uid(pod))
}

/// What a pod asks for as a whole: the sum of its containers, its own resources where it names
/// them, and its overhead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Thousandths of a CPU.
    pub cpu_asked: i64,
    /// Bytes.
    pub memory_asked: i64,
    /// Thousandths of a CPU; none where a container has no limit.
    pub cpu_limit: Option<i64>,
    /// Bytes; none where a container has no limit.
    pub memory_limit: Option<i64>,
}

impl Sums {
    /// Reads a pod's spec.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let mut all = Self::of_containers(pod);
        all.replace(pod);
        all
    }

    /// What its containers ask for, whatever the pod itself says.
    fn of_containers(pod: &Pod) -> Self {
        let mut all = Self {
            cpu_limit: Some(0),
            memory_limit: Some(0),
            ..Default::default()
        };
        let mut most = Self::default();
        for c in spec::init_containers(pod) {
            let one = Self::of_one(c.resources.as_ref());
            if spec::is_sidecar(c) {
                all.add(one);
            }
            let mut now = all;
            if !spec::is_sidecar(c) {
                now.add(one);
            }
            most.cpu_asked = most.cpu_asked.max(now.cpu_asked);
            most.memory_asked = most.memory_asked.max(now.memory_asked);
            most.cpu_limit = at_least(most.cpu_limit, now.cpu_limit);
            most.memory_limit = at_least(most.memory_limit, now.memory_limit);
            if now.cpu_limit.is_none() {
                all.cpu_limit = None;
            }
            if now.memory_limit.is_none() {
                all.memory_limit = None;
            }
        }
        for c in spec::containers(pod) {
            all.add(Self::of_one(c.resources.as_ref()));
        }
        all.cpu_asked = all.cpu_asked.max(most.cpu_asked);
        all.memory_asked = all.memory_asked.max(most.memory_asked);
        all.cpu_limit = all.cpu_limit.map(|v| v.max(most.cpu_limit.unwrap_or(0)));
        all.memory_limit = all
            .memory_limit
            .map(|v| v.max(most.memory_limit.unwrap_or(0)));
        all
    }

    fn of_one(r: Option<&ResourceRequirements>) -> Self {
        let (requests, limits) = (
            r.and_then(|r| r.requests.as_ref()),
            r.and_then(|r| r.limits.as_ref()),
        );
        let cpu_limit = cpu_millis(limits).filter(|v| *v > 0);
        let memory_limit = amount(limits, "memory").filter(|v| *v > 0);
        Self {
            cpu_asked: cpu_millis(requests).or(cpu_limit).unwrap_or(0),
            memory_asked: amount(requests, "memory").or(memory_limit).unwrap_or(0),
            cpu_limit,
            memory_limit,
        }
    }

    fn add(&mut self, one: Self) {
        self.cpu_asked = self.cpu_asked.saturating_add(one.cpu_asked);
        self.memory_asked = self.memory_asked.saturating_add(one.memory_asked);
        let sum = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.saturating_add(b));
        self.cpu_limit = sum(self.cpu_limit, one.cpu_limit);
        self.memory_limit = sum(self.memory_limit, one.memory_limit);
    }

    /// What the pod names itself counts in place of the sum; its overhead is added.
    fn replace(&mut self, pod: &Pod) {
        let whole = spec::of(pod).resources.as_ref();
        let requests = whole.and_then(|r| r.requests.as_ref());
        let own = Self::of_one(whole);
        self.cpu_asked = cpu_millis(requests).unwrap_or(self.cpu_asked);
        self.memory_asked = amount(requests, "memory").unwrap_or(self.memory_asked);
        self.cpu_limit = own.cpu_limit.or(self.cpu_limit.filter(|v| *v > 0));
        self.memory_limit = own.memory_limit.or(self.memory_limit.filter(|v| *v > 0));
        let overhead = spec::of(pod).overhead.as_ref();
        let (cpu, memory) = (
            cpu_millis(overhead).unwrap_or(0),
            amount(overhead, "memory").unwrap_or(0),
        );
        self.cpu_asked = self.cpu_asked.saturating_add(cpu);
        self.memory_asked = self.memory_asked.saturating_add(memory);
        self.cpu_limit = self.cpu_limit.map(|v| v.saturating_add(cpu));
        self.memory_limit = self.memory_limit.map(|v| v.saturating_add(memory));
    }
}

/// The larger of two needs; none is not a limit met so far.
fn at_least(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.max(b)
}

/// Limits of a pod's group.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Limits {
    let sums = Sums::of(pod);
    Limits {
        cpu_shares: u64::try_from(shares(sums.cpu_asked)).ok(),
        cpu_quota: sums.cpu_limit.map(quota),
        cpu_period: sums.cpu_limit.and(u64::try_from(CPU_PERIOD).ok()),
        memory_bytes: sums.memory_limit,
        pids: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn a_pods_own_limits_bind_it_and_its_containers() {
        let spec = json!({
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}},
            "overhead": {"memory": "1Mi"},
            "containers": [
                {"name": "free"},
                {"name": "own", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}]
        });
        let pod = pod(spec);
        assert_eq!(qos(&pod), Qos::Burstable);
        let limits = pod_limits(&pod);
        assert_eq!(limits.cpu_shares, Some(1024));
        assert_eq!(limits.cpu_quota, Some(200_000));
        assert_eq!(limits.memory_bytes, Some((1 << 30) + (1 << 20)));
        let of = |i: usize| {
            let c = &spec::containers(&pod)[i];
            let r = container(&pod, c, 1 << 34, OomScores::probe());
            (r.cpu_quota, r.memory_bytes)
        };
        assert_eq!(of(0), (200_000, 1 << 30));
        assert_eq!(of(1), (50_000, 64 << 20));
    }

    #[test]
    fn a_pod_is_limited_where_all_its_containers_are() {
        let limited = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
        let sums = |containers: Value, init: Value| {
            let sums = Sums::of(&pod(
                json!({"containers": containers, "initContainers": init}),
            ));
            (sums.cpu_limit, sums.memory_limit)
        };
        let one = json!([{"name": "a", "resources": limited}]);
        assert_eq!(sums(one.clone(), json!([])), (Some(1000), Some(64 << 20)));
        let big = json!([{"name": "i", "resources": {"limits": {"cpu": "3"}}}]);
        assert_eq!(sums(one.clone(), big), (Some(3000), None));
        assert_eq!(sums(json!([{"name": "b"}]), one), (None, None));
    }

    #[test]
    fn totals_are_sums_or_the_most_of_init_containers() {
        let asks = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        let mut spec = json!({
            "overhead": {"cpu": "1m", "memory": "1Mi"},
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": asks("100m")},
                {"name": "i", "resources": asks("2")}],
            "containers": [
                {"name": "a", "resources": asks("500m")},
                {"name": "b", "resources": {"requests": {"memory": "64Mi", "x/y": "2"}}}]
        });
        let of = |spec: &Value| {
            let pod = pod(spec.clone());
            let text = |t: BTreeMap<String, api::Quantity>| {
                let all = t.into_iter().map(|(name, q)| format!("{name}={q}"));
                all.collect::<Vec<_>>().join(" ")
            };
            let requests = text(totals(&pod, |r| r.requests.as_ref()));
            (requests, text(totals(&pod, |r| r.limits.as_ref())))
        };
        let (requests, limits) = of(&spec);
        assert_eq!(requests, "cpu=2101m memory=65Mi x/y=2");
        assert_eq!(limits, "cpu=2101m");
        spec["resources"] = json!({"requests": {"cpu": "3"}, "limits": {"memory": "1Gi"}});
        let (requests, limits) = of(&spec);
        assert_eq!(requests, "cpu=3001m memory=65Mi x/y=2");
        assert_eq!(limits, "cpu=2101m memory=1025Mi");
    }

    #[test]
    fn a_pod_that_runs_shows_what_its_group_has() {
        let limited =
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m"}});
        let one = pod(json!({"containers": [{"name": "a", "resources": limited}, {"name": "b"}]}));
        let text = |r: &ResourceRequirements| {
            let list = |l: &Option<Resources>| {
                let all = l
                    .iter()
                    .flatten()
                    .map(|(name, q)| format!("{name}={}", q.0));
                all.collect::<Vec<_>>().join(" ")
            };
            format!("{} / {}", list(&r.requests), list(&r.limits))
        };
        assert_eq!(text(&of_pod(&one, None)), "cpu=100m memory=64Mi / cpu=200m");
        // A container without a limit: the group has none.
        let group = pod_limits(&one);
        assert_eq!(text(&of_pod(&one, Some(&group))), "cpu=100m memory=64Mi / ");
        let other = Limits {
            cpu_shares: Some(512),
            cpu_quota: Some(30_000),
            cpu_period: Some(100_000),
            memory_bytes: Some(96 << 20),
            pids: None,
        };
        assert_eq!(
            text(&of_pod(&one, Some(&other))),
            "cpu=500m memory=64Mi / cpu=300m memory=96Mi"
        );
        let free = pod(json!({"containers": [{"name": "a"}]}));
        assert_eq!(text(&of_pod(&free, Some(&pod_limits(&free)))), " / ");
    }

    #[test]
    fn a_sandbox_is_as_large_as_what_is_in_it() {
        let asks =
            |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "memory": "1Gi"}});
        let mut spec = json!({"containers": [
            {"name": "a", "resources": asks("500m")}, {"name": "b", "resources": asks("1")}]});
        let of = |spec: &Value| {
            let (own, taken) = of_sandbox(&pod(spec.clone()));
            let plain = |r: runtime::Resources| (r.cpu_shares, r.cpu_quota, r.memory_bytes);
            (plain(own), plain(taken))
        };
        let own = (1536, 150_000, 2 << 30);
        assert_eq!(of(&spec), (own, (0, 0, 0)));
        spec["overhead"] = json!({"cpu": "250m", "memory": "128Mi"});
        assert_eq!(of(&spec), (own, (256, 25_000, 128 << 20)));
        let free = json!({"containers": [{"name": "a"}]});
        assert_eq!(of(&free), ((2, 0, 0), (0, 0, 0)));
    }

    #[test]
    fn huge_pages_have_the_kernels_names() {
        let text = json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi", "cpu": "1"});
        let limits: Resources = serde_json::from_value(text).expect("resources");
        let mut found = huge_pages(Some(&limits));
        found.sort();
        assert_eq!(
            found,
            [("1GB".to_owned(), 1 << 30), ("2MB".to_owned(), 4 << 20)]
        );
    }
    #[test]
    fn who_asked_for_less_memory_goes_sooner() {
        let asks = |memory: &str| json!({"requests": {"memory": memory}});
        let scores = |more: Value| -> Vec<i64> {
            let mut spec = json!({
                "initContainers": [
                    {"name": "s", "restartPolicy": "Always", "resources": asks("1Gi")},
                    {"name": "i", "resources": asks("1Gi")}],
                "containers": [
                    {"name": "a", "resources": asks("2Gi")}, {"name": "b", "resources": asks("4Gi")}]
            });
            let more = more.as_object().unwrap().clone();
            spec.as_object_mut().unwrap().extend(more);
            let pod = pod(spec);
            let all = spec::init_containers(&pod)
                .iter()
                .chain(spec::containers(&pod));
            all.map(|c| oom_score(&pod, c, 10 << 30)).collect()
        };
        // The sidecar goes as late as the first of those that it serves.
        assert_eq!(scores(json!({})), [800, 900, 800, 600]);
        // The pod asks for 7 GiB and 2 GiB more: half a GiB for each.
        let whole = json!({"resources": {"requests": {"memory": "9Gi"}}});
        assert_eq!(scores(whole), [750, 850, 750, 550]);
        let only_cpu = json!({"resources": {"requests": {"cpu": "1"}}});
        assert_eq!(scores(only_cpu), [800, 900, 800, 600]);
        let of = |class: &str| json!({"priority": 2_000_001_000, "priorityClassName": class});
        assert_eq!(scores(of("system-node-critical")), [-997; 4]);
        assert_eq!(scores(of("system-cluster-critical")), [800, 900, 800, 600]);
    }
}
