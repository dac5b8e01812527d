//! How objects of each kind are counted: which resources of a quota they concern, and how much of
//! each one uses. Most kinds count themselves alone; pods, Services and claims count more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Quantity, names};
use serde_json::Value;

use crate::amounts::{Amounts, Names};
use crate::devices::{self, Devices};
use crate::pod::{self, list, text};
use crate::scope::{Scope, attribute_classes, is_terminating};

const BY_STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// The extended resource that each class of devices stands for without saying so.
pub(crate) const IMPLICIT_DEVICES: &str = "deviceclass.resource.kubernetes.io/";
pub(crate) const REQUESTS: &str = "requests.";

/// How a kind is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    Pods,
    Services,
    /// Claims of persistent volumes.
    Claims,
    /// Claims of devices, with what is to be known of classes and pods; none while nobody has
    /// looked, when any extended resource may be one that they use.
    DeviceClaims(Option<Arc<Devices>>),
    /// By number alone, under these names.
    Count(Vec<String>),
}

/// Never counted: events, and what is answered but not stored.
const IGNORED: &[(&str, &[&str])] = &[
    ("", &["bindings", "componentstatuses", "events"]),
    ("events.k8s.io", &["events"]),
    (
        "authentication.k8s.io",
        &["tokenreviews", "selfsubjectreviews"],
    ),
    (
        "authorization.k8s.io",
        &[
            "subjectaccessreviews",
            "selfsubjectaccessreviews",
            "localsubjectaccessreviews",
            "selfsubjectrulesreviews",
        ],
    ),
];

/// Kinds of the core group that are also counted by their plain name.
const PLAIN: &[&str] = &[
    "configmaps",
    "resourcequotas",
    "replicationcontrollers",
    "secrets",
];

const POD_RESOURCES: &[&str] = &[
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
const SERVICE_RESOURCES: &[&str] = &[
    "count/services",
    "services",
    "services.nodeports",
    "services.loadbalancers",
];
const CLAIM_RESOURCES: &[&str] = &["persistentvolumeclaims", "requests.storage"];
/// A quota of these wants each container to say how much it asks for.
const SAID_BY_CONTAINERS: &[&str] = &[
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// A change that may be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
}

fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() {
        format!("count/{resource}")
    } else {
        format!("count/{resource}.{group}")
    }
}

impl Evaluator {
    /// How a resource is counted; `None` where it never is.
    pub fn of(group: &str, resource: &str) -> Option<Self> {
        let ignored = |(g, all): &(&str, &[&str])| *g == group && all.contains(&resource);
        if IGNORED.iter().any(ignored) {
            return None;
        }
        Some(match (group, resource) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("resource.k8s.io", "resourceclaims") => Self::DeviceClaims(None),
            _ => {
                let mut all = vec![count_name(group, resource)];
                if group.is_empty() && PLAIN.contains(&resource) {
                    all.push(resource.to_owned());
                }
                Self::Count(all)
            }
        })
    }

    /// The resources (group and plural) that a quota with these hard limits counts.
    pub fn counted_by<'a>(hard: impl Iterator<Item = &'a str> + Clone) -> Vec<(String, String)> {
        let mut all = BTreeSet::new();
        for (group, resource) in [
            ("", "pods"),
            ("", "services"),
            ("", "persistentvolumeclaims"),
            ("resource.k8s.io", "resourceclaims"),
        ] {
            let counts = Self::of(group, resource);
            if counts.is_some_and(|e| !e.concerned(hard.clone()).is_empty()) {
                all.insert((group.to_owned(), resource.to_owned()));
            }
        }
        for name in hard {
            if PLAIN.contains(&name) {
                all.insert((String::new(), name.to_owned()));
            }
            if let Some(counted) = name.strip_prefix("count/") {
                let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
                if Self::of(group, resource).is_some() {
                    all.insert((group.to_owned(), resource.to_owned()));
                }
            }
        }
        all.into_iter().collect()
    }

    /// Those of a quota's resources that such objects use.
    pub fn concerned<'a>(&self, hard: impl Iterator<Item = &'a str>) -> Names {
        let concerns = |name: &&str| match self {
            Self::Pods => {
                POD_RESOURCES.contains(name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || is_extended_request(name)
            }
            Self::Services => SERVICE_RESOURCES.contains(name),
            Self::Claims => {
                *name == "count/persistentvolumeclaims"
                    || CLAIM_RESOURCES.contains(name)
                    || name
                        .split_once(BY_STORAGE_CLASS)
                        .is_some_and(|(_, what)| CLAIM_RESOURCES.contains(&what))
            }
            Self::DeviceClaims(Some(known)) => known.concern(name),
            Self::DeviceClaims(None) => devices::is_own(name) || is_extended_request(name),
            Self::Count(own) => own.iter().any(|n| n == name),
        };
        hard.filter(concerns).map(str::to_owned).collect()
    }

    /// Whether a change can use more.
    pub fn handles(
        &self,
        operation: Operation,
        subresource: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> bool {
        let create = operation == Operation::Create;
        match (self, subresource) {
            (Self::Pods, "") => {
                create || old.is_some_and(|old| is_terminating(old) != is_terminating(object))
            }
            (Self::Pods, "resize") => !create,
            (Self::Services | Self::Claims | Self::DeviceClaims(_), "") => true,
            (Self::Claims, "status") => old.is_some_and(|old| changes_claim(old, object)),
            (Self::Count(_), "") => create,
            _ => false,
        }
    }

    /// Whether an object lies in a scope.
    pub fn is_in(&self, scope: &Scope, object: &Value) -> bool {
        match self {
            Self::Pods => scope.has_pod(object),
            Self::Claims => scope.has_claim(object),
            Self::Services | Self::DeviceClaims(_) | Self::Count(_) => false,
        }
    }

    /// Whether such objects lie in scopes at all.
    pub fn has_scopes(&self) -> bool {
        matches!(self, Self::Pods | Self::Claims)
    }

    /// What one object uses. `now_seconds` since the epoch: a pod that should be gone by now uses
    /// nothing any more.
    pub fn usage(&self, object: &Value, now_seconds: i64) -> Amounts {
        let one = Quantity::from_units(1);
        match self {
            Self::Pods => of_pod(object, now_seconds),
            Self::Services => of_service(object),
            Self::Claims => of_claim(object),
            Self::DeviceClaims(Some(known)) => known.usage(object),
            Self::DeviceClaims(None) => Devices::default().usage(object),
            Self::Count(names) => names.iter().map(|n| (n.as_str(), one)).collect(),
        }
    }

    /// What is missing for the object to be counted at all, in upstream's words.
    pub fn missing(&self, required: &Names, object: &Value) -> Option<String> {
        if *self != Self::Pods || pod::has_own_resources(object) {
            return None;
        }
        let mut silent: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let containers = list(object, "/spec/containers").iter();
        for container in containers.chain(list(object, "/spec/initContainers")) {
            let of = |field| Amounts::read(container.pointer(field));
            let said = computed(&of("/resources/requests"), &of("/resources/limits"));
            for name in required {
                if SAID_BY_CONTAINERS.contains(&name.as_str()) && said.get(name).is_none() {
                    let container = text(container, "name");
                    silent.entry(name).or_default().insert(container);
                }
            }
        }
        if silent.is_empty() {
            return None;
        }
        let each = silent.iter().map(|(name, containers)| {
            let containers: Vec<&str> = containers.iter().copied().collect();
            format!("{name} for: {}", containers.join(","))
        });
        let each: Vec<String> = each.collect();
        Some(format!("must specify {}", each.join("; ")))
    }

    /// Whether what happened to an object may have freed something that quotas count; `new` is
    /// absent when it is gone.
    pub fn frees(&self, old: &Value, new: Option<&Value>, now_seconds: i64) -> bool {
        let Some(new) = new else { return true };
        match self {
            Self::Pods => {
                is_terminating(old) != is_terminating(new)
                    || counts(old, now_seconds) && !counts(new, now_seconds)
                    || of_pod(old, now_seconds) != of_pod(new, now_seconds)
            }
            Self::Services => of_service(old) != of_service(new),
            Self::Claims => changes_claim(old, new) || of_claim(old) != of_claim(new),
            Self::DeviceClaims(_) => self.usage(old, now_seconds) != self.usage(new, now_seconds),
            Self::Count(_) => false,
        }
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// `requests.` before a resource that is not Kubernetes' own: such have no other quota.
fn is_extended_request(name: &str) -> bool {
    let Some(inner) = name.strip_prefix(REQUESTS) else {
        return false;
    };
    !is_native(name) || inner.starts_with(IMPLICIT_DEVICES)
}

/// A resource that is not Kubernetes' own, such as a device's.
pub fn is_extended_resource(name: &str) -> bool {
    let qualified = || names::is_qualified_name(&format!("{REQUESTS}{name}")).is_empty();
    !is_native(name) && !name.starts_with(REQUESTS) && qualified()
}

fn is_extended(name: &str) -> bool {
    is_extended_resource(name) || name.starts_with(IMPLICIT_DEVICES)
}

/// Whether a pod is still counted: it has not ended, and is not overdue to be gone.
fn counts(pod: &Value, now_seconds: i64) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return false;
    }
    overdue_at(pod).is_none_or(|at| now_seconds <= at)
}

/// When a pod that is being deleted is not counted any longer: a node that is lost must not hold
/// up its replacement. Seconds since the epoch.
pub fn overdue_at(pod: &Value) -> Option<i64> {
    let at = pod.pointer("/metadata/deletionTimestamp")?.as_str()?;
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds")?;
    let at = api::time::parse_seconds(at)?;
    Some(at.saturating_add(grace.as_i64()?))
}

fn computed(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::default();
    out.set("pods", Quantity::from_units(1));
    for (name, amount) in requests.iter() {
        let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage");
        if standard || name.starts_with("hugepages-") {
            out.set(name, *amount);
        }
        if standard || name.starts_with("hugepages-") || is_extended(name) {
            out.set(format!("{REQUESTS}{name}"), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            out.set(format!("limits.{name}"), *amount);
        }
    }
    out
}

fn of_pod(pod: &Value, now_seconds: i64) -> Amounts {
    let mut out = Amounts::default();
    if counts(pod, now_seconds) {
        let requests = pod::requests(pod, pod::QUOTA);
        out = computed(&requests, &pod::limits(pod, pod::QUOTA));
    }
    out.set("count/pods", Quantity::from_units(1));
    out
}

fn of_service(service: &Value) -> Amounts {
    let ports = list(service, "/spec/ports");
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let own = ports
        .iter()
        .filter(|p| p.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0);
    let suppressed = spec.get("allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    let (node_ports, balancers) = match text(spec, "type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if suppressed => (own.count(), 1),
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    [
        ("count/services", 1),
        ("services", 1),
        ("services.nodeports", node_ports),
        ("services.loadbalancers", balancers),
    ]
    .into_iter()
    .map(|(name, n)| (name, Quantity::from_units(n)))
    .collect()
}

fn of_claim(claim: &Value) -> Amounts {
    let one = Quantity::from_units(1);
    let mut out = Amounts::default();
    out.set("persistentvolumeclaims", one);
    out.set("count/persistentvolumeclaims", one);
    let class = storage_class(claim);
    let of_class = |name: &str| format!("{class}{BY_STORAGE_CLASS}{name}");
    if !class.is_empty() {
        out.set(of_class("persistentvolumeclaims"), one);
    }
    let asked = Amounts::read(claim.pointer("/spec/resources/requests"));
    let Some(asked) = asked.get("storage").copied() else {
        return out;
    };
    let given = Amounts::read(claim.pointer("/status/allocatedResources"));
    let storage = given.get("storage").map_or(asked, |g| asked.max(*g));
    // Whole bytes, since a quota's status holds nothing smaller.
    let storage = storage.rounded_up();
    out.set("requests.storage", storage);
    if !class.is_empty() {
        out.set(of_class("requests.storage"), storage);
    }
    out
}

/// The class that a claim names, by its field or the annotation that once did.
fn storage_class(claim: &Value) -> &str {
    let annotations = claim.pointer("/metadata/annotations");
    let old = annotations.and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"));
    let named = old.or_else(|| claim.pointer("/spec/storageClassName"));
    named.and_then(Value::as_str).unwrap_or_default()
}

/// Whether a claim's volume may be counted otherwise now.
fn changes_claim(old: &Value, new: &Value) -> bool {
    let given = |c: &Value| c.pointer("/status/allocatedResources/storage").cloned();
    let classes =
        |c: &Value| -> BTreeSet<String> { attribute_classes(c).map(str::to_owned).collect() };
    given(old) != given(new) || classes(old) != classes(new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn usage(group: &str, resource: &str, object: &Value) -> String {
        let evaluator = Evaluator::of(group, resource).expect("counted");
        evaluator.usage(object, 0).show()
    }

    #[test]
    fn what_each_kind_uses() {
        let pod = json!({ "spec": { "containers": [{ "name": "c", "resources": {
            "requests": { "cpu": "100m", "memory": "1Gi", "example.com/gpu": "2", "hugepages-2Mi": "4Mi" },
            "limits": { "cpu": "1", "ephemeral-storage": "1Gi" } } }] } });
        assert_eq!(
            usage("", "pods", &pod),
            "count/pods=1,cpu=100m,hugepages-2Mi=4Mi,limits.cpu=1,limits.ephemeral-storage=1Gi,memory=1Gi,pods=1,requests.cpu=100m,requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi,requests.memory=1Gi"
        );
        let mut ended = pod;
        ended["status"]["phase"] = json!("Succeeded");
        assert_eq!(usage("", "pods", &ended), "count/pods=1");
        let ports = json!([{ "port": 1 }, { "port": 2, "nodePort": 30_000 }]);
        for (kind, allocate, want) in [
            ("ClusterIP", true, (0, 0)),
            ("NodePort", true, (0, 2)),
            ("LoadBalancer", true, (1, 2)),
            ("LoadBalancer", false, (1, 1)),
        ] {
            let service = json!({ "spec": { "type": kind, "ports": ports, "allocateLoadBalancerNodePorts": allocate } });
            assert_eq!(
                usage("", "services", &service),
                format!(
                    "count/services=1,services=1,services.loadbalancers={},services.nodeports={}",
                    want.0, want.1
                )
            );
        }
        let claim = json!({ "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "1500m" } } } });
        assert_eq!(
            usage("", "persistentvolumeclaims", &claim),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2"
        );
        assert_eq!(
            usage("example.com", "things", &json!({})),
            "count/things.example.com=1"
        );
        assert_eq!(
            usage("", "secrets", &json!({})),
            "count/secrets=1,secrets=1"
        );
        let devices = json!({ "spec": { "devices": { "requests": [
            { "exactly": { "deviceClassName": "g", "allocationMode": "ExactCount", "count": 2 } },
            { "firstAvailable": [
                { "deviceClassName": "g", "allocationMode": "All" },
                { "deviceClassName": "g", "allocationMode": "ExactCount", "count": 1 }] }] } } });
        assert_eq!(
            usage("resource.k8s.io", "resourceclaims", &devices),
            "count/resourceclaims.resource.k8s.io=1,g.deviceclass.resource.k8s.io/devices=34,requests.deviceclass.resource.kubernetes.io/g=34"
        );
        assert_eq!(Evaluator::of("events.k8s.io", "events"), None);
    }

    #[test]
    fn a_pod_that_should_be_gone_uses_nothing() {
        let pod = json!({ "metadata": { "deletionTimestamp": "1970-01-01T00:01:40Z", "deletionGracePeriodSeconds": 30 }, "spec": {} });
        let used = |now| Evaluator::Pods.usage(&pod, now).get("pods").is_some();
        assert!(used(130) && !used(131));
        assert_eq!(overdue_at(&pod), Some(130));
    }

    #[test]
    fn kinds_of_a_quota() {
        let hard = [
            "count/things.example.com",
            "secrets",
            "count/events",
            "requests.example.com/gpu",
            "gold.storageclass.storage.k8s.io/requests.storage",
        ];
        let all = Evaluator::counted_by(hard.into_iter());
        let all: Vec<String> = all.iter().map(|(g, r)| format!("{g}/{r}")).collect();
        assert_eq!(
            all,
            [
                "/persistentvolumeclaims",
                "/pods",
                "/secrets",
                "example.com/things",
                "resource.k8s.io/resourceclaims"
            ]
        );
    }

    #[test]
    fn containers_must_say_what_is_limited() {
        let pod = json!({ "spec": { "containers": [{ "name": "b" }, { "name": "a", "resources": { "requests": { "cpu": "1" } } }] } });
        let required: Names = ["requests.cpu", "limits.cpu", "pods"]
            .map(str::to_owned)
            .into();
        assert_eq!(
            Evaluator::Pods.missing(&required, &pod).as_deref(),
            Some("must specify limits.cpu for: a,b; requests.cpu for: b")
        );
    }
}
