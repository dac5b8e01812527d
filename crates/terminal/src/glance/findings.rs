//! What is wrong in what is seen, the worst first.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

use super::{ClusterSnapshot, Finding, Level, Read};
use crate::pods::{PATIENCE, state};
use crate::words;

/// What a node says that it is short of.
const SHORT: [&str; 4] = [
    "MemoryPressure",
    "DiskPressure",
    "PIDPressure",
    "NetworkUnavailable",
];

pub fn all(seen: &ClusterSnapshot) -> Vec<Finding> {
    let now = seen.now;
    let failing = seen.failing.iter().flatten();
    let mut out: Vec<Finding> = failing.map(|c| api_finding(c)).collect();
    out.extend(each(&seen.nodes, |n| node(n, now)));
    out.extend(each(&seen.api_services, api_service));
    out.extend(each(&seen.deployments, |d| deployment(d, now)));
    out.extend(each(&seen.stateful_sets, |s| {
        missing("statefulset", &s.metadata, stateful_pods(s), now)
    }));
    out.extend(each(&seen.daemon_sets, |d| {
        missing("daemonset", &d.metadata, daemon_pods(d), now)
    }));
    out.extend(each(&seen.jobs, job));
    out.extend(pods(rest(&seen.pods), now));
    out.extend(claims(seen));
    out.extend(each(&seen.volumes, volume));
    out.extend(each(&seen.namespaces, |n| namespace(n, now)));
    // By level alone: within one, the order above goes from causes to consequences.
    out.sort_by_key(|f| f.level);
    out
}

fn rest<K>(read: &Read<K>) -> &[K] {
    read.as_deref().unwrap_or_default()
}

fn each<K>(read: &Read<K>, of: impl Fn(&K) -> Option<Finding>) -> Vec<Finding> {
    rest(read).iter().filter_map(of).collect()
}

fn finding(level: Level, kind: &str, of: &ObjectMeta, reason: &str, message: &str) -> Finding {
    let (namespace, name) = (of.namespace.clone(), of.name.clone());
    Finding {
        level,
        kind: kind.to_owned(),
        namespace: namespace.unwrap_or_default(),
        name: name.unwrap_or_default(),
        count: 1,
        reason: reason.to_owned(),
        message: message.to_owned(),
        more: String::new(),
    }
}

/// With the command that says why.
fn asked(finding: Finding, kind: &str) -> Finding {
    let within = match finding.namespace.as_str() {
        "" | "default" => String::new(),
        other => format!(" -n {other}"),
    };
    Finding {
        more: format!("tiphys why {kind}/{}{within}", finding.name),
        ..finding
    }
}

fn api_finding(check: &str) -> Finding {
    let of = ObjectMeta {
        name: Some("server".to_owned()),
        ..ObjectMeta::default()
    };
    let message = format!("its check {check} fails");
    finding(Level::Wrong, "api", &of, "Not ready", &message)
}

/// A condition, whatever it is one of: its type, status and message, and since when.
type Condition<'a> = (&'a str, &'a str, &'a str, Option<&'a Time>);

fn node_conditions(node: &Node) -> Vec<Condition<'_>> {
    let all = node.status.as_ref().and_then(|s| s.conditions.as_deref());
    let all = all.unwrap_or_default().iter();
    all.map(|c| {
        let message = c.message.as_deref().unwrap_or_default();
        (
            c.type_.as_str(),
            c.status.as_str(),
            message,
            c.last_transition_time.as_ref(),
        )
    })
    .collect()
}

pub fn is_ready(node: &Node) -> bool {
    let all = node_conditions(node);
    all.iter().any(|c| c.0 == "Ready" && c.1 == "True")
}

fn node(node: &Node, now: Timestamp) -> Option<Finding> {
    let say = |level, reason: &str, message: &str| {
        Some(finding(level, "node", &node.metadata, reason, message))
    };
    let all = node_conditions(node);
    if !is_ready(node) {
        let ready = all.iter().find(|c| c.0 == "Ready");
        let unknown = ready.is_none_or(|c| c.1 == "Unknown");
        let since = ready.and_then(|c| c.3).map(|t| words::age(t.0, now));
        let since = since.map(|s| format!("for {s}: ")).unwrap_or_default();
        let message = format!(
            "{since}{}",
            ready.map_or("it has said nothing yet", |c| c.2)
        );
        let reason = if unknown { "Not heard of" } else { "Not ready" };
        return say(Level::Wrong, reason, &message);
    }
    if let Some(c) = all.iter().find(|c| SHORT.contains(&c.0) && c.1 == "True") {
        return say(Level::Wrong, c.0, c.2);
    }
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable);
    (cordoned == Some(true))
        .then(|| say(Level::Notice, "Cordoned", "it takes no new pods"))
        .flatten()
}

fn api_service(service: &APIService) -> Option<Finding> {
    let all = service.status.as_ref()?.conditions.as_ref()?;
    let bad = all
        .iter()
        .find(|c| c.type_ == "Available" && c.status == "False")?;
    let message = bad.message.as_deref().unwrap_or_default();
    let reason = bad.reason.as_deref().unwrap_or("Not available");
    Some(finding(
        Level::Wrong,
        "apiservice",
        &service.metadata,
        reason,
        message,
    ))
}

/// How many pods of a workload are wanted and available.
#[derive(Clone, Copy)]
pub struct Pods {
    wanted: i32,
    available: i32,
}

impl Pods {
    pub const fn is_ready(self) -> bool {
        self.available >= self.wanted
    }
}

pub fn deployment_pods(d: &Deployment) -> Pods {
    Pods {
        wanted: d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
        available: d
            .status
            .as_ref()
            .and_then(|s| s.available_replicas)
            .unwrap_or(0),
    }
}

pub fn stateful_pods(s: &StatefulSet) -> Pods {
    Pods {
        wanted: s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
        available: s
            .status
            .as_ref()
            .and_then(|s| s.available_replicas)
            .unwrap_or(0),
    }
}

pub fn daemon_pods(d: &DaemonSet) -> Pods {
    let status = d.status.as_ref();
    Pods {
        wanted: status.map_or(0, |s| s.desired_number_scheduled),
        available: status.and_then(|s| s.number_available).unwrap_or(0),
    }
}

/// Whether it is older than what passes by itself.
fn is_old(meta: &ObjectMeta, now: Timestamp) -> bool {
    let made = meta.creation_timestamp.as_ref();
    made.is_some_and(|t| now.duration_since(t.0) > PATIENCE)
}

fn missing(kind: &str, of: &ObjectMeta, pods: Pods, now: Timestamp) -> Option<Finding> {
    if pods.is_ready() || of.deletion_timestamp.is_some() || !is_old(of, now) {
        return None;
    }
    let level = if pods.available == 0 {
        Level::Wrong
    } else {
        Level::Notice
    };
    let message = format!("{} of {} pods are available", pods.available, pods.wanted);
    Some(finding(level, kind, of, "Not available", &message))
}

fn deployment(d: &Deployment, now: Timestamp) -> Option<Finding> {
    let all = d.status.as_ref().and_then(|s| s.conditions.as_deref());
    let find = |name: &str, status: &str| {
        let mut all = all.unwrap_or_default().iter();
        all.find(|c| c.type_ == name && c.status == status)
    };
    let found = if let Some(c) = find("Progressing", "False") {
        let message = c.message.as_deref().unwrap_or_default();
        finding(
            Level::Wrong,
            "deployment",
            &d.metadata,
            "Not progressing",
            message,
        )
    } else if let Some(c) = find("ReplicaFailure", "True") {
        let message = c.message.as_deref().unwrap_or_default();
        finding(
            Level::Wrong,
            "deployment",
            &d.metadata,
            "Cannot make pods",
            message,
        )
    } else {
        missing("deployment", &d.metadata, deployment_pods(d), now)?
    };
    Some(asked(found, "deployment"))
}

fn job(job: &Job) -> Option<Finding> {
    let all = job.status.as_ref()?.conditions.as_ref()?;
    let failed = all
        .iter()
        .find(|c| c.type_ == "Failed" && c.status == "True")?;
    let reason = failed.reason.as_deref().unwrap_or("Failed");
    let message = failed.message.as_deref().unwrap_or_default();
    Some(finding(
        Level::Notice,
        "job",
        &job.metadata,
        reason,
        message,
    ))
}

/// Pods of one owner that fail the same way are one finding.
fn pods(all: &[Pod], now: Timestamp) -> Vec<Finding> {
    let mut out: Vec<Finding> = Vec::new();
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    for pod in all {
        let is = state(pod, now);
        let Some(level) = Level::of(is.tone) else {
            continue;
        };
        let meta = &pod.metadata;
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|o| o.controller == Some(true));
        let key = owner.map(|o| (o.uid.clone(), is.word.clone()));
        let same = key.as_ref().and_then(|k| seen.get(k));
        if let Some(first) = same.and_then(|at| out.get_mut(*at)) {
            first.count += 1;
            continue;
        }
        seen.extend(key.map(|k| (k, out.len())));
        out.push(asked(finding(level, "pod", meta, &is.word, &is.why), "pod"));
    }
    out
}

fn claims(seen: &ClusterSnapshot) -> Vec<Finding> {
    let used: BTreeSet<(&str, &str)> = rest(&seen.pods).iter().flat_map(claims_of).collect();
    let waits = |c: &PersistentVolumeClaim| {
        let class = c
            .spec
            .as_ref()
            .and_then(|s| s.storage_class_name.as_deref());
        rest(&seen.classes)
            .iter()
            .any(|k| k.metadata.name.as_deref() == class && waits_for_pod(k))
    };
    each(&seen.claims, |c| {
        let of = (
            c.metadata.namespace.as_deref().unwrap_or_default(),
            c.metadata.name.as_deref().unwrap_or_default(),
        );
        // One whose class waits for a pod is as it should be until there is one.
        let idle = !used.contains(&of) && waits(c);
        claim(c, seen.now).filter(|_| !idle)
    })
}

fn waits_for_pod(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The claims that a pod names.
fn claims_of(pod: &Pod) -> Vec<(&str, &str)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref());
    let named = volumes.unwrap_or_default().iter();
    named
        .filter_map(|v| Some(v.persistent_volume_claim.as_ref()?.claim_name.as_str()))
        .map(|name| (namespace, name))
        .collect()
}

fn claim(c: &PersistentVolumeClaim, now: Timestamp) -> Option<Finding> {
    let phase = c.status.as_ref().and_then(|s| s.phase.as_deref());
    let (level, reason, message) = match phase.unwrap_or("Pending") {
        "Lost" => (Level::Wrong, "Lost", "its volume does not exist any more"),
        "Pending" if is_old(&c.metadata, now) => (Level::Wrong, "Pending", "it has no volume"),
        _ => return None,
    };
    let found = finding(level, "persistentvolumeclaim", &c.metadata, reason, message);
    Some(asked(found, "pvc"))
}

fn volume(v: &PersistentVolume) -> Option<Finding> {
    let status = v.status.as_ref()?;
    (status.phase.as_deref() == Some("Failed")).then(|| {
        let message = status.message.as_deref().unwrap_or_default();
        finding(
            Level::Wrong,
            "persistentvolume",
            &v.metadata,
            "Failed",
            message,
        )
    })
}

fn namespace(n: &Namespace, now: Timestamp) -> Option<Finding> {
    let since = n.metadata.deletion_timestamp.as_ref()?;
    if now.duration_since(since.0) <= PATIENCE {
        return None;
    }
    let all = n.status.as_ref().and_then(|s| s.conditions.as_deref());
    let holds = all
        .unwrap_or_default()
        .iter()
        .filter(|c| c.status == "True");
    let said: Vec<&str> = holds.filter_map(|c| c.message.as_deref()).collect();
    let message = format!("for {}: {}", words::age(since.0, now), said.join("; "));
    let message = message.trim_end_matches(": ");
    let found = finding(
        Level::Notice,
        "namespace",
        &n.metadata,
        "Terminating",
        message,
    );
    Some(asked(found, "namespace"))
}
