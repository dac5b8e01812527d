//! Resizing a pod in place: whether the node gives what is asked, what that means for each
//! container, and in which order the limits change. Pure.

use super::allocation::Allocation;
use super::plan::Effect;
use super::reserved::{Accounts, Amounts};
use super::resources::{self, Qos, Sums};
use super::spec;
use super::swap;
use crate::quantity::{self, Resources};
use host::cgroup::Limits;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use std::collections::HashMap;

/// What becomes of a wish for other resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is none.
    Same,
    /// It is given.
    Granted,
    /// There is no room now.
    Deferred(String),
    /// There never will be.
    Infeasible(String),
}

/// The resize that a pod's status reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resize {
    /// Reason and message of one that is not given.
    pub pending: Option<(&'static str, String)>,
    /// One is given, and not all of it is done.
    pub in_progress: bool,
    /// What went wrong with it; empty for nothing.
    pub error: String,
    /// What running containers have, by id.
    pub has: HashMap<String, ResourceRequirements>,
    /// Generation of the pod whose resources it was given.
    pub generation: i64,
}

/// Whether a pod's spec asks for something else than it was given.
#[must_use]
pub fn differs(pod: &Pod, have: &Allocation) -> bool {
    let wanted = Allocation::of(pod);
    wanted.containers != have.containers || wanted.pod != have.pod
}

/// What keeps a node from giving pods other resources, whatever room there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed {
    /// CPUs are given by the static policy.
    pub cpus: bool,
    /// So is memory.
    pub memory: bool,
    /// Who may swap how much.
    pub swap: swap::Node,
}

/// Why a pod cannot have other resources here, if it cannot: in upstream's word for counting, and in
/// those that its status says.
#[must_use]
pub fn forbidden(pod: &Pod, have: &Allocation, fixed: Fixed) -> Option<(&'static str, String)> {
    let before = &have.applied(pod);
    let pairs = || {
        let init = spec::init_containers(pod).iter();
        let all = init.chain(spec::containers(pod));
        all.filter_map(move |new| Some((new, spec::container(before, &new.name)?)))
    };
    let asked = |c: &Container, name: &str| {
        let requests = c.resources.as_ref()?.requests.as_ref()?;
        requests.get(name).and_then(|q| quantity::millis(&q.0))
    };
    let differs =
        |new: &Container, old: &Container, name: &str| asked(new, name) != asked(old, name);
    let swaps = |new: &Container, old: &Container| {
        swap::limit(pod, new, fixed.swap) > 0 || swap::limit(before, old, fixed.swap) > 0
    };
    for (new, old) in pairs() {
        if differs(new, old, "memory") && !restarts(old, "memory") && swaps(new, old) {
            let text = "In-place resize of containers with swap is not supported.";
            return Some(("swap_limitation", text.into()));
        }
    }
    if resources::qos(pod) != Qos::Guaranteed {
        return None;
    }
    let gives =
        |is_given: bool, name: &str| is_given && pairs().any(|(new, old)| differs(new, old, name));
    let (word, policy) = if gives(fixed.cpus, "cpu") {
        let word = "guaranteed_pod_cpu_manager_static_policy";
        (word, "CPU Manager policy \"static\"")
    } else if gives(fixed.memory, "memory") {
        let word = "guaranteed_pod_memory_manager_static_policy";
        (word, "Memory Manager policy \"Static\"")
    } else {
        return None;
    };
    let text = format!("Resize is infeasible for Guaranteed Pods alongside {policy}");
    Some((word, text))
}

/// Whether a container is started again to have another amount of a resource.
fn restarts(container: &Container, name: &str) -> bool {
    let policies = container.resize_policy.iter().flatten();
    policies
        .filter(|p| p.resource_name == name)
        .any(|p| p.restart_policy == "RestartContainer")
}

/// Whether the node gives a pod what its spec asks for. A grant is noted in the accounts.
#[must_use]
pub fn judge(pod: &Pod, have: &Allocation, accounts: &Accounts, all: Amounts) -> Verdict {
    if !differs(pod, have) {
        return Verdict::Same;
    }
    let sums = Sums::of(pod);
    let asked = (sums.cpu_asked, sums.memory_asked);
    let rows = |used: Amounts| {
        [
            ("cpu", asked.0, used.0, all.0),
            ("memory", asked.1, used.1, all.1),
        ]
    };
    for (name, asked, _, capacity) in rows((0, 0)) {
        if asked > capacity {
            return Verdict::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {asked}, capacity: {capacity}"
            ));
        }
    }
    match accounts.grant(spec::uid(pod), asked, all) {
        Ok(()) => Verdict::Granted,
        Err(used) => {
            let short = rows(used).into_iter().find(|(_, a, u, c)| a + u > *c);
            let (name, asked, used, capacity) = short.unwrap_or(("cpu", asked.0, used.0, all.0));
            Verdict::Deferred(format!(
                "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}"
            ))
        }
    }
}

/// What a running container needs to have what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Other limits.
    Update,
    /// A new start, as its policy says for what changed.
    Restart,
}

/// Compares what a container was given with what it has.
#[must_use]
pub fn change(container: &Container, has: &ResourceRequirements) -> Change {
    let given = container.resources.clone().unwrap_or_default();
    let differs = |name: &str| {
        let of =
            |r: Option<&Resources>| r.and_then(|r| r.get(name)).map(|q| quantity::millis(&q.0));
        of(given.requests.as_ref()) != of(has.requests.as_ref())
            || of(given.limits.as_ref()) != of(has.limits.as_ref())
    };
    let changed: Vec<&str> = ["cpu", "memory"]
        .into_iter()
        .filter(|n| differs(n))
        .collect();
    match changed.is_empty() {
        true => Change::None,
        false if changed.iter().any(|n| restarts(container, n)) => Change::Restart,
        false => Change::Update,
    }
}

/// Puts the changes of containers into an order that the kernel takes: the pod's own limits are
/// as large as the old and the new need while containers change, those that shrink first.
/// `has`: what the pod's group has.
pub fn order(effects: &mut Vec<Effect>, pod: &Pod, has: Option<&Limits>) {
    let wanted = explicit(&resources::pod_limits(pod));
    let is_resize = |e: &Effect| matches!(e, Effect::Resize { .. });
    let mut resizes: Vec<Effect> = effects.iter().filter(|e| is_resize(e)).cloned().collect();
    effects.retain(|e| !is_resize(e));
    // The runtime and the kernel make the group with the first sandbox.
    let Some(has) = has else {
        effects.extend(resizes);
        return;
    };
    resizes.sort_by_key(|e| !matches!(e, Effect::Resize { shrinks: true, .. }));
    let has = explicit(has);
    let meanwhile = larger(&has, &wanted);
    if meanwhile != has {
        effects.push(Effect::LimitPod { limits: meanwhile });
    }
    effects.extend(resizes);
    if wanted != meanwhile {
        effects.push(Effect::LimitPod { limits: wanted });
    }
}

/// No limit, said in so many words: what is not said would stay.
fn explicit(limits: &Limits) -> Limits {
    Limits {
        cpu_quota: limits.cpu_quota.or(Some(-1)),
        cpu_period: limits
            .cpu_period
            .or(u64::try_from(resources::CPU_PERIOD).ok()),
        memory_bytes: limits.memory_bytes.or(Some(-1)),
        ..*limits
    }
}

/// What both need; none (or a negative number) is not a limit.
fn larger(a: &Limits, b: &Limits) -> Limits {
    let most = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) if a >= 0 && b >= 0 => Some(a.max(b)),
        _ => Some(-1),
    };
    Limits {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_quota: most(a.cpu_quota, b.cpu_quota),
        cpu_period: b.cpu_period.or(a.cpu_period),
        memory_bytes: most(a.memory_bytes, b.memory_bytes),
        pids: b.pids,
    }
}

/// Whether a container gets less of anything than it has.
#[must_use]
pub fn shrinks(container: &Container, has: &ResourceRequirements) -> bool {
    let given = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let less = |new: Option<i64>, old: Option<i64>| new.zip(old).is_some_and(|(n, o)| n < o);
    let old = has.limits.as_ref();
    less(quantity::cpu_millis(given), quantity::cpu_millis(old))
        || less(
            quantity::amount(given, "memory"),
            quantity::amount(old, "memory"),
        )
}

/// Requests and limits as the kernel has them: what the container was given, but for values of
/// which the kernel says otherwise.
#[must_use]
pub fn reported(given: &ResourceRequirements, kernel: Option<&Limits>) -> ResourceRequirements {
    let mut out = given.clone();
    let Some(kernel) = kernel else {
        return out;
    };
    let put = |list: &mut Option<Resources>, name: &str, text: String| {
        // As the API writes it, so that the status is not written again and again.
        let text = text.parse().map_or(text, |q: api::Quantity| q.to_string());
        if let Some(quantity) = list.as_mut().and_then(|l| l.get_mut(name)) {
            quantity.0 = text;
        }
    };
    let period = kernel.cpu_period.and_then(|p| i64::try_from(p).ok());
    let period = period.unwrap_or(resources::CPU_PERIOD);
    // What it was given is counted in the usual period, whichever the node has.
    let quota = |millis| resources::quota(millis).saturating_mul(period) / resources::CPU_PERIOD;
    if let (Some(millis), Some(has)) = (
        quantity::cpu_millis(given.limits.as_ref()),
        kernel.cpu_quota.filter(|q| *q > 0),
    ) && !same_quota(quota(millis), has)
    {
        put(
            &mut out.limits,
            "cpu",
            format!("{}m", has * 1000 / period.max(1)),
        );
    }
    if let (Some(bytes), Some(limit)) = (
        quantity::amount(given.limits.as_ref(), "memory"),
        kernel.memory_bytes.filter(|m| *m > 0),
    ) && bytes / PAGE != limit / PAGE
    {
        put(&mut out.limits, "memory", format!("{}Ki", limit >> 10));
    }
    if let (Some(millis), Some(shares)) = (
        quantity::cpu_millis(given.requests.as_ref()),
        kernel.cpu_shares.and_then(|s| i64::try_from(s).ok()),
    ) && resources::shares(millis) != shares
    {
        put(
            &mut out.requests,
            "cpu",
            format!("{}m", (shares * 1000 + 1023) / 1024),
        );
    }
    out
}

/// The kernel keeps memory limits in pages.
const PAGE: i64 = 4096;

/// The runtime may round a quota up to hundredths of a CPU.
fn same_quota(wanted: i64, has: i64) -> bool {
    (0..1000).contains(&(has - wanted))
}

#[cfg(test)]
mod tests {
    use super::super::reserved::Need;
    use super::*;
    use serde_json::{Value, json};

    fn pod(requests: Value, limits: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "generation": 2},
            "spec": {"containers": [{"name": "c",
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
                "resources": {"requests": requests, "limits": limits}}]}
        }))
        .expect("a pod")
    }

    #[test]
    fn a_wish_is_granted_deferred_or_infeasible() {
        let accounts = Accounts::default();
        let old = pod(json!({"cpu": "100m"}), json!({}));
        let have = Allocation::of(&old);
        let has = |cpu: i64| Need {
            resources: [("cpu".to_owned(), cpu)].into(),
            ..Default::default()
        };
        accounts.note("u", has(100));
        accounts.note("other", has(1500));
        let all = (2000, 1 << 30);
        let judged = |cpu: &str| judge(&pod(json!({"cpu": cpu}), json!({})), &have, &accounts, all);
        assert_eq!(judged("100m"), Verdict::Same);
        assert!(matches!(judged("501m"), Verdict::Deferred(text)
            if text == "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"));
        assert!(matches!(judged("3"), Verdict::Infeasible(text)
            if text == "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"));
        assert_eq!(judged("500m"), Verdict::Granted);
    }

    #[test]
    fn policies_decide_about_a_new_start() {
        let has = |p: &Pod| spec::containers(p)[0].resources.clone().unwrap_or_default();
        let of = |p: &Pod, has: &ResourceRequirements| change(&spec::containers(p)[0], has);
        let old = pod(json!({"cpu": "1"}), json!({"memory": "1Gi"}));
        let same = pod(json!({"cpu": "1000m"}), json!({"memory": "1024Mi"}));
        assert_eq!(of(&same, &has(&old)), Change::None);
        let cpu = pod(json!({"cpu": "2"}), json!({"memory": "1Gi"}));
        assert_eq!(of(&cpu, &has(&old)), Change::Update);
        let memory = pod(json!({"cpu": "2"}), json!({"memory": "2Gi"}));
        assert_eq!(of(&memory, &has(&old)), Change::Restart);
        assert!(shrinks(&spec::containers(&old)[0], &has(&memory)));
        assert!(!shrinks(&spec::containers(&memory)[0], &has(&old)));
    }

    #[test]
    fn the_pod_is_widened_before_and_narrowed_after_its_containers() {
        let wanted = pod(json!({"cpu": "1"}), json!({"cpu": "1", "memory": "1Gi"}));
        let resize = |name: &str, shrinks| Effect::Resize {
            id: name.to_owned(),
            name: name.to_owned(),
            shrinks,
        };
        let new = explicit(&resources::pod_limits(&wanted));
        let smaller = Limits {
            cpu_quota: new.cpu_quota.map(|q| q / 2),
            memory_bytes: new.memory_bytes.map(|m| m * 2),
            ..new
        };
        let mut effects = vec![resize("grows", false), resize("shrinks", true)];
        order(&mut effects, &wanted, Some(&smaller));
        let meanwhile = Limits {
            memory_bytes: smaller.memory_bytes,
            ..new
        };
        assert_eq!(
            effects,
            [
                Effect::LimitPod { limits: meanwhile },
                resize("shrinks", true),
                resize("grows", false),
                Effect::LimitPod { limits: new },
            ]
        );
        let mut none = Vec::new();
        order(&mut none, &wanted, Some(&new));
        assert!(none.is_empty());
        // No limit at all is not a change, however it is said.
        let free = pod(json!({"cpu": "1"}), json!({}));
        order(&mut none, &free, Some(&resources::pod_limits(&free)));
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn what_a_policy_has_given_is_not_resized() {
        let of = |requests: Value, limits: Value, fixed: Fixed| {
            let same = json!({"cpu": "1", "memory": "1Gi"});
            let have = Allocation::of(&pod(same.clone(), same));
            let mut wanted = pod(requests, limits);
            if let Some(spec) = &mut wanted.spec {
                spec.containers[0].resize_policy = None;
            }
            forbidden(&wanted, &have, fixed).map(|(_, text)| text)
        };
        let cpus = Fixed {
            cpus: true,
            ..Fixed::default()
        };
        let memory = Fixed {
            memory: true,
            ..Fixed::default()
        };
        let more_cpu = || json!({"cpu": "2", "memory": "1Gi"});
        let more_memory = || json!({"cpu": "1", "memory": "2Gi"});
        let why = |policy: &str| {
            Some(format!(
                "Resize is infeasible for Guaranteed Pods alongside {policy}"
            ))
        };
        let static_cpus = why("CPU Manager policy \"static\"");
        assert_eq!(of(more_cpu(), more_cpu(), cpus), static_cpus);
        assert_eq!(of(more_memory(), more_memory(), cpus), None);
        let static_memory = why("Memory Manager policy \"Static\"");
        assert_eq!(of(more_memory(), more_memory(), memory), static_memory);
        assert_eq!(of(more_cpu(), more_cpu(), memory), None);
        // Not Guaranteed: its CPUs are not its own.
        assert_eq!(of(more_cpu(), json!({}), cpus), None);
    }

    #[test]
    fn memory_of_what_swaps_is_not_resized_while_it_runs() {
        let fixed = Fixed {
            swap: swap::Node {
                limited: true,
                memory: 16 << 30,
                swap: 4 << 30,
            },
            ..Fixed::default()
        };
        let have = Allocation::of(&pod(json!({"cpu": "1", "memory": "1Gi"}), json!({})));
        let why = |requests: Value, policy: Option<&str>| {
            let mut wanted = pod(requests, json!({}));
            let policy = policy.map(|p| json!([{"resourceName": "memory", "restartPolicy": p}]));
            let policy = policy.map(|p| serde_json::from_value(p).expect("a policy"));
            if let Some(spec) = &mut wanted.spec {
                spec.containers[0].resize_policy = policy;
            }
            forbidden(&wanted, &have, fixed)
        };
        let swaps = (
            "swap_limitation",
            "In-place resize of containers with swap is not supported.".to_owned(),
        );
        let more = || json!({"cpu": "1", "memory": "2Gi"});
        assert_eq!(why(more(), None), Some(swaps));
        assert_eq!(why(more(), Some("RestartContainer")), None);
        assert_eq!(why(json!({"cpu": "2", "memory": "1Gi"}), None), None);
    }

    #[test]
    fn the_kernels_values_are_reported() {
        let given = spec::containers(&pod(
            json!({"cpu": "25m"}),
            json!({"cpu": "35m", "memory": "50Mi"}),
        ))[0]
            .resources
            .clone()
            .unwrap_or_default();
        let kernel = |quota, memory| Limits {
            cpu_shares: Some(25),
            cpu_quota: Some(quota),
            cpu_period: Some(100_000),
            memory_bytes: Some(memory),
            pids: None,
        };
        assert_eq!(reported(&given, Some(&kernel(3500, 50 << 20))), given);
        // Rounded up to hundredths, as runtimes under systemd do.
        assert_eq!(reported(&given, Some(&kernel(4000, 50 << 20))), given);
        let other = reported(&given, Some(&kernel(10_000, 60 << 20)));
        let limits = other.limits.unwrap_or_default();
        assert_eq!(limits.get("cpu").map(|q| q.0.as_str()), Some("100m"));
        assert_eq!(limits.get("memory").map(|q| q.0.as_str()), Some("60Mi"));
        assert_eq!(reported(&given, None), given);
    }
}
