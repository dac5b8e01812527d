//! Amounts of resources as integers, and what a pod asks for
//! (documentation "Resource Management for Pods and Containers", "Sidecar Containers",
//! "Pod Overhead").

use std::collections::BTreeMap;
use std::sync::Arc;

use api::resize;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::interned::Strings;

/// What a container without a CPU request counts for in scores, in thousandths of a core.
pub const DEFAULT_CPU_MILLIS: i64 = 100;
/// What a container without a memory request counts for in scores, in bytes.
pub const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// An amount of each resource. Resources that are not named are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    /// Extended resources and huge pages, sorted by name.
    pub other: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Reads a resource list; `pods` is left out. What is not a quantity counts as zero: the server
    /// lets none in.
    pub fn read(list: Option<&BTreeMap<String, Quantity>>, strings: &mut Strings) -> Self {
        let mut out = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let Ok(q) = quantity.0.parse::<api::quantity::Quantity>() else {
                continue;
            };
            match name.as_str() {
                "cpu" => out.cpu_millis = q.milli_value(),
                "memory" => out.memory_bytes = q.value(),
                "ephemeral-storage" => out.ephemeral_bytes = q.value(),
                "pods" => {}
                other => out.other.push((strings.get(other), q.value())),
            }
        }
        out
    }

    pub fn is_zero(&self) -> bool {
        self.cpu_millis == 0
            && self.memory_bytes == 0
            && self.ephemeral_bytes == 0
            && self.other.iter().all(|(_, v)| *v == 0)
    }

    /// The amount of an extended resource.
    pub fn other(&self, name: &str) -> i64 {
        let found = self.other.iter().find(|(n, _)| **n == *name);
        found.map_or(0, |(_, v)| *v)
    }

    /// The amount of any resource, in the unit in which it is kept.
    pub fn of(&self, name: &str) -> i64 {
        self.get(Name::of(name))
    }
    /// As [`Resources::of`], for many nodes.
    pub fn get(&self, name: Name<'_>) -> i64 {
        match name {
            Name::Cpu => self.cpu_millis,
            Name::Memory => self.memory_bytes,
            Name::Ephemeral => self.ephemeral_bytes,
            Name::Other(other) => self.other(other),
        }
    }

    pub fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }
    pub fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
        self.other.retain(|(_, v)| *v != 0);
    }
    /// The greater amount of each resource.
    pub fn raise(&mut self, to: &Self) {
        self.combine(to, i64::max);
    }

    fn combine(&mut self, with: &Self, f: fn(i64, i64) -> i64) {
        self.cpu_millis = f(self.cpu_millis, with.cpu_millis);
        self.memory_bytes = f(self.memory_bytes, with.memory_bytes);
        self.ephemeral_bytes = f(self.ephemeral_bytes, with.ephemeral_bytes);
        for (name, value) in &with.other {
            match self.other.binary_search_by(|(n, _)| n.cmp(name)) {
                Ok(i) => {
                    if let Some((_, v)) = self.other.get_mut(i) {
                        *v = f(*v, *value);
                    }
                }
                Err(i) => self.other.insert(i, (name.clone(), f(0, *value))),
            }
        }
    }
}

/// The name of a resource, compared once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Cpu,
    Memory,
    Ephemeral,
    Other(&'a str),
}

impl<'a> Name<'a> {
    pub fn of(text: &'a str) -> Self {
        match text {
            "cpu" => Self::Cpu,
            "memory" => Self::Memory,
            "ephemeral-storage" => Self::Ephemeral,
            other => Self::Other(other),
        }
    }
}

/// An amount for people, with its unit.
pub fn text(name: &str, amount: i64) -> String {
    use api::quantity::Quantity;
    match name {
        "cpu" => Quantity::from_millis(amount).to_string(),
        "memory" | "ephemeral-storage" => Quantity::from_bytes(amount).to_string(),
        other if other.starts_with("hugepages-") => Quantity::from_bytes(amount).to_string(),
        _ => amount.to_string(),
    }
}

/// An amount that would be enough, as people ask for it: bytes are rounded up to six digits at
/// most (`102377Gi` rather than `107349780932Ki`), so that what is said stays true.
pub fn enough(name: &str, amount: i64) -> String {
    let is_bytes = matches!(name, "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !is_bytes || amount <= 0 {
        return text(name, amount);
    }
    let mut unit = 1_i64;
    while amount / unit >= 102_400 && unit < 1 << 50 {
        unit <<= 10;
    }
    let whole = amount.saturating_add(unit - 1) / unit;
    text(name, whole.saturating_mul(unit))
}

/// CPU and memory as scores count them: never nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
}

/// What a pod asks for, and what it counts for in scores.
pub fn of_pod(pod: &Pod, strings: &mut Strings) -> (Resources, Weight) {
    let real = sum(pod, strings, false);
    let scored = sum(pod, strings, true);
    let weight = Weight {
        cpu_millis: scored.cpu_millis,
        memory_bytes: scored.memory_bytes,
    };
    (real, weight)
}

/// What a pod asks for by its spec alone, whatever its node says of a resize.
pub fn requests(pod: &Pod, strings: &mut Strings) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::default();
    };
    let mut sum = most(spec, |container, _| {
        let own = container.resources.as_ref();
        Resources::read(own.and_then(|r| r.requests.as_ref()), strings)
    });
    let own = spec.resources.as_ref();
    whole(&mut sum, own.and_then(|r| r.requests.as_ref()), strings);
    sum.add(&Resources::read(spec.overhead.as_ref(), strings));
    sum
}

/// What a pod is limited to by its spec; its overhead counts where there is a limit at all.
pub fn limits(pod: &Pod, strings: &mut Strings) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::default();
    };
    let mut sum = most(spec, |container, _| {
        let own = container.resources.as_ref();
        Resources::read(own.and_then(|r| r.limits.as_ref()), strings)
    });
    let own = spec.resources.as_ref();
    whole(&mut sum, own.and_then(|r| r.limits.as_ref()), strings);
    let mut overhead = Resources::read(spec.overhead.as_ref(), strings);
    let only_beside = |more: &mut i64, limit: i64| {
        if limit == 0 {
            *more = 0;
        }
    };
    only_beside(&mut overhead.cpu_millis, sum.cpu_millis);
    only_beside(&mut overhead.memory_bytes, sum.memory_bytes);
    only_beside(&mut overhead.ephemeral_bytes, sum.ephemeral_bytes);
    for (name, more) in &mut overhead.other {
        only_beside(more, sum.other(name));
    }
    overhead.other.retain(|(_, more)| *more != 0);
    sum.add(&overhead);
    sum
}

/// What a pod holds, also while it is resized; `scored` as scores count it.
fn sum(pod: &Pod, strings: &mut Strings, scored: bool) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::default();
    };
    let status = pod.status.as_ref();
    let statuses = status.and_then(|s| s.container_statuses.as_deref());
    let init_statuses = status.and_then(|s| s.init_container_statuses.as_deref());
    let is_infeasible = is_infeasible(pod);
    let mut together = most(spec, |container, place| {
        let of_node = match place {
            ContainerRole::Main => of_node(container, statuses),
            ContainerRole::Sidecar => of_node(container, init_statuses),
            // Of others nothing is resized.
            ContainerRole::Init => None,
        };
        one(container, (of_node, is_infeasible), strings, scored)
    });
    let own = spec.resources.as_ref();
    let own = own.and_then(|r| r.requests.as_ref());
    whole(&mut together, own, strings);
    together.add(&Resources::read(spec.overhead.as_ref(), strings));
    together
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContainerRole {
    Main,
    Sidecar,
    Init,
}

/// Containers run together with the sidecars; each init container runs with the sidecars that
/// were started before it. The pod needs the most of these at any time.
fn most(spec: &PodSpec, mut of: impl FnMut(&Container, ContainerRole) -> Resources) -> Resources {
    let mut together = Resources::default();
    for container in &spec.containers {
        together.add(&of(container, ContainerRole::Main));
    }
    let mut sidecars = Resources::default();
    let mut most = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let is_sidecar = container.restart_policy.as_deref() == Some("Always");
        let place = if is_sidecar {
            ContainerRole::Sidecar
        } else {
            ContainerRole::Init
        };
        let asked = of(container, place);
        let mut now = sidecars.clone();
        now.add(&asked);
        most.raise(&now);
        if is_sidecar {
            sidecars = now;
        }
    }
    together.add(&sidecars);
    together.raise(&most);
    together
}

/// What is said of the pod as a whole replaces the sum of its containers'.
fn whole(sum: &mut Resources, own: List<'_>, strings: &mut Strings) {
    let Some(list) = own else {
        return;
    };
    let given = Resources::read(Some(list), strings);
    if list.contains_key("cpu") {
        sum.cpu_millis = given.cpu_millis;
    }
    if list.contains_key("memory") {
        sum.memory_bytes = given.memory_bytes;
    }
    for (name, value) in given.other {
        match sum.other.binary_search_by(|(n, _)| n.cmp(&name)) {
            Ok(i) => {
                if let Some((_, v)) = sum.other.get_mut(i) {
                    *v = value;
                }
            }
            Err(i) => sum.other.insert(i, (name, value)),
        }
    }
}

/// Amounts by the names of resources, where there are any.
type List<'a> = Option<&'a BTreeMap<String, Quantity>>;
/// What a node says of a container, if anything: what is in effect, and what was set aside for it.
type OfNode<'a> = Option<(List<'a>, List<'a>)>;

fn of_node<'a>(container: &Container, statuses: Option<&'a [ContainerStatus]>) -> OfNode<'a> {
    let mut statuses = statuses.into_iter().flatten();
    let status = statuses.find(|s| s.name == container.name)?;
    let in_effect = status.resources.as_ref()?.requests.as_ref();
    Some((in_effect, status.allocated_resources.as_ref()))
}

/// Whether the node can never do what a resize of the pod asks for.
pub fn is_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    let pending = conditions.find(|c| c.type_ == resize::PENDING);
    pending.is_some_and(|c| c.reason.as_deref() == Some(resize::INFEASIBLE))
}

/// What one container holds, also while it is resized.
fn one(
    container: &Container,
    (of_node, is_infeasible): (OfNode<'_>, bool),
    strings: &mut Strings,
    scored: bool,
) -> Resources {
    let asked = container.resources.as_ref();
    let asked = asked.and_then(|r| r.requests.as_ref());
    let lists = resize::held(asked, of_node, is_infeasible).flatten();
    let mut out = Resources::default();
    for list in lists.clone() {
        out.raise(&Resources::read(Some(list), strings));
    }
    if scored {
        let lacks = |name: &str| !lists.clone().any(|list| list.contains_key(name));
        if lacks("cpu") {
            out.cpu_millis = DEFAULT_CPU_MILLIS;
        }
        if lacks("memory") {
            out.memory_bytes = DEFAULT_MEMORY_BYTES;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// CPU of containers and init containers (`true`: a sidecar), overhead, expected sum.
    type Case = (
        &'static [&'static str],
        &'static [(&'static str, bool)],
        Option<&'static str>,
        i64,
    );

    #[test]
    fn what_would_be_enough_is_said_in_few_digits() {
        let of = |name, amount| enough(name, amount);
        assert_eq!(of("memory", 107_349_780_932 << 10), "102377Gi");
        assert_eq!(of("memory", 1_536 << 20), "1536Mi");
        assert_eq!(of("memory", (20 << 30) + 1), "20481Mi");
        assert_eq!(of("memory", 1), "1");
        assert_eq!(of("cpu", 1_500), "1500m");
        assert_eq!(of("example.com/gpu", 20_000), "20000");
    }

    #[test]
    fn a_pod_needs_the_most_of_any_time() {
        let cases: &[Case] = &[
            (&["100m", "1"], &[], None, 1_100),
            (&["100m"], &[("1", false)], None, 1_000),
            (&["100m"], &[("1", true)], None, 1_100),
            // The sidecar runs beside the second init container, not the first.
            (
                &["100m"],
                &[("700m", false), ("200m", true), ("400m", false)],
                None,
                700,
            ),
            (
                &["100m"],
                &[("700m", false), ("200m", true), ("600m", false)],
                None,
                800,
            ),
            (&["100m"], &[], Some("50m"), 150),
        ];
        for (containers, inits, overhead, expected) in cases {
            let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "containers": containers.iter().enumerate().map(|(i, c)| {
                    json!({"name": format!("c{i}"), "resources": requests(c)})
                }).collect::<Vec<_>>(),
                "initContainers": inits.iter().enumerate().map(|(i, (c, sidecar))| {
                    json!({"name": format!("i{i}"), "resources": requests(c),
                           "restartPolicy": sidecar.then_some("Always")})
                }).collect::<Vec<_>>(),
                "overhead": overhead.map(|o| json!({"cpu": o})),
            }}))
            .expect("a pod");
            let (real, weight) = of_pod(&pod, &mut Strings::default());
            assert_eq!(real.cpu_millis, *expected, "{containers:?} {inits:?}");
            assert!(weight.memory_bytes >= DEFAULT_MEMORY_BYTES);
        }
    }

    /// By the CPU that a container asks for, and what its node says of it.
    #[test]
    fn a_pod_that_is_resized_holds_the_greatest_that_it_has_or_shall_have() {
        for (asked, in_effect, set_aside, reason, expected) in [
            ("1", Some("2"), Some("3"), "", 3_000),
            ("1", Some("3"), Some("2"), "Deferred", 3_000),
            ("9", Some("2"), Some("3"), "Deferred", 9_000),
            ("9", Some("2"), Some("3"), "Infeasible", 3_000),
            ("9", Some("4"), None, "Infeasible", 4_000),
            // A node that says nothing of what is in effect says nothing.
            ("1", None, Some("3"), "", 1_000),
        ] {
            let status = json!({
                "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": set_aside.map(|cpu| json!({ "cpu": cpu })),
                "resources": in_effect.map(|cpu| json!({ "requests": { "cpu": cpu } })),
            });
            let of = |sidecar: bool| {
                let own = json!([{ "name": "c", "resources": { "requests": { "cpu": asked } },
                    "restartPolicy": sidecar.then_some("Always") }]);
                let (list, statuses) = match sidecar {
                    true => ("initContainers", "initContainerStatuses"),
                    false => ("containers", "containerStatuses"),
                };
                let mut pod = json!({ "spec": { "containers": [] }, "status": { "conditions": [
                    { "type": "PodResizePending", "status": "True", "reason": reason }] } });
                pod["spec"][list] = own;
                pod["status"][statuses] = json!([status]);
                let pod: Pod = serde_json::from_value(pod).expect("a pod");
                of_pod(&pod, &mut Strings::default()).0.cpu_millis
            };
            assert_eq!(of(false), expected, "{status} {reason}");
            assert_eq!(of(true), expected, "{status} {reason}, a sidecar");
        }
    }

    #[test]
    fn limits_are_those_of_the_spec_with_overhead_where_there_is_one() {
        let of = |cpu: &str| json!({"requests": {"cpu": "10m"}, "limits": {"cpu": cpu}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c", "resources": of("1")}],
            "initContainers": [{"name": "i", "resources": of("3")}],
            "overhead": {"cpu": "100m", "memory": "1Mi"},
        }}))
        .expect("a pod");
        let strings = &mut Strings::default();
        let (limits, requests) = (limits(&pod, strings), requests(&pod, strings));
        assert_eq!((limits.cpu_millis, limits.memory_bytes), (3_100, 0));
        let expected = (110, 1024 * 1024);
        assert_eq!((requests.cpu_millis, requests.memory_bytes), expected);
    }

    #[test]
    fn extended_resources_add_up_and_vanish() {
        let mut strings = Strings::default();
        let list = BTreeMap::from([("a.example/gpu".to_owned(), Quantity("2".into()))]);
        let some = Resources::read(Some(&list), &mut strings);
        let mut sum = Resources::default();
        sum.add(&some);
        sum.add(&some);
        assert_eq!(sum.other("a.example/gpu"), 4);
        sum.subtract(&some);
        sum.subtract(&some);
        assert_eq!(sum, Resources::default());
    }
}
