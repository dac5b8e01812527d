//! What clients are warned of: fields that are deprecated or do not do what they seem to.

use std::collections::BTreeMap;

use api::{FieldPath, names};
use serde_json::Value;

use super::spec::each_container;
use crate::check::{at, has, int, items, text};
use crate::strategies::quantity::{is_fractional, show};

/// Warnings of a new pod.
pub fn pod(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let wrong = names::is_dns1123_label(text(at(obj, "metadata"), "name"));
    if !wrong.is_empty() {
        out.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    out.extend(pod_spec(
        &FieldPath::root(),
        at(obj, "spec"),
        at(obj, "metadata"),
    ));
    out
}

const OLD_LABELS: &[(&str, &str)] = &[
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

/// What is to be said of a label of nodes that had a better one since.
pub(crate) fn old_label(key: &str) -> Option<&'static str> {
    let found = OLD_LABELS.iter().find(|(name, _)| *name == key);
    found.map(|(_, message)| *message)
}

const OLD_VOLUMES: &[(&str, &str)] = &[
    (
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warnings of a `PodSpec` with its metadata; `path` is that of the template, or the root.
pub fn pod_spec(path: &FieldPath, spec: &Value, _meta: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let base = path.child("spec");
    for (key, message) in OLD_LABELS {
        if has(at(spec, "nodeSelector"), key) {
            out.push(format!(
                "{}: {message}",
                base.child("nodeSelector").key(key)
            ));
        }
    }
    for (i, c) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = base.child("topologySpreadConstraints").index(i);
        let key = text(c, "topologyKey");
        if let Some((_, message)) = OLD_LABELS.iter().find(|(k, _)| *k == key) {
            out.push(format!("{}: {key} is {message}", path.child("topologyKey")));
        }
        if !has(c, "labelSelector") {
            let path = path.child("labelSelector");
            out.push(format!(
                "{path}: a null labelSelector results in matching no pod"
            ));
        }
    }
    for (i, v) in items(spec, "volumes").iter().enumerate() {
        for (field, message) in OLD_VOLUMES {
            if has(v, field) {
                out.push(format!(
                    "{}: {message}",
                    base.child("volumes").index(i).child(field)
                ));
            }
        }
    }
    twice(&mut out, &base, spec, "hostAliases", "ip");
    twice(&mut out, &base, spec, "imagePullSecrets", "name");
    for (i, s) in items(spec, "imagePullSecrets").iter().enumerate() {
        if text(s, "name").is_empty() {
            let path = base.child("imagePullSecrets").index(i).child("name");
            out.push(format!("{path}: invalid empty name \"\""));
        }
    }
    each_container(&base, spec, |path, c| {
        fractions(&mut out, &path, c);
        environment(&mut out, &path, c);
    });
    ports(&mut out, &base, spec);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        let path = base.child("terminationGracePeriodSeconds");
        out.push(format!(
            "{path}: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    out
}

fn twice(out: &mut Vec<String>, base: &FieldPath, spec: &Value, list: &str, field: &str) {
    let mut seen = Vec::new();
    for (i, item) in items(spec, list).iter().enumerate() {
        let value = text(item, field);
        if seen.contains(&value) {
            let path = base.child(list).index(i).child(field);
            out.push(format!("{path}: duplicate {field} {value:?}"));
        } else {
            seen.push(value);
        }
    }
}

fn fractions(out: &mut Vec<String>, path: &FieldPath, c: &Value) {
    for name in ["memory", "ephemeral-storage"] {
        for side in ["limits", "requests"] {
            let amount = at(at(at(c, "resources"), side), name);
            if is_fractional(amount) {
                let path = path.child("resources").child(side).key(name);
                let shown = show(amount);
                out.push(format!(
                    "{path}: fractional byte value {shown:?} is invalid, must be an integer"
                ));
            }
        }
    }
}

fn environment(out: &mut Vec<String>, path: &FieldPath, c: &Value) {
    let mut seen = Vec::new();
    for (i, e) in items(c, "env").iter().enumerate() {
        let name = text(e, "name");
        if !seen.contains(&name) {
            seen.push(name);
            continue;
        }
        let (value, earlier) = (text(e, "value"), format!("$({name})"));
        if has(e, "valueFrom") || value == earlier || !value.contains(&earlier) {
            let path = path.child("env").index(i);
            out.push(format!(
                "{path}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

fn ports<'a>(out: &mut Vec<String>, base: &FieldPath, spec: &'a Value) {
    let mut all: BTreeMap<String, Vec<(FieldPath, &'a Value)>> = BTreeMap::new();
    let mut by_name: BTreeMap<&'a str, FieldPath> = BTreeMap::new();
    let mut names = Vec::new();
    each_container(base, spec, |path, c| {
        for (i, p) in items(c, "ports").iter().enumerate() {
            let path = path.child("ports").index(i);
            let key = format!(
                "{}/{}",
                int(p, "containerPort").unwrap_or(0),
                text(p, "protocol")
            );
            let others = all.entry(key).or_default();
            for (other, q) in others.iter() {
                if let Some(how) = conflict(p, q) {
                    out.push(format!("{path}: {how} port definition with {other}"));
                }
            }
            others.push((path.clone(), p));
            let name = text(p, "name");
            if !name.is_empty() {
                match by_name.get(name) {
                    Some(other) => names.push(format!(
                        "{path}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                    )),
                    None => {
                        by_name.insert(name, path);
                    }
                }
            }
        }
    });
    out.append(&mut names);
}

/// How two definitions of the same container port are at odds.
fn conflict(p: &Value, q: &Value) -> Option<&'static str> {
    let host = |v: &Value| int(v, "hostPort").unwrap_or(0);
    let (a, b) = (text(p, "hostIP"), text(q, "hostIP"));
    match (host(p), host(q)) {
        (x, y) if x == y && a == b => Some("duplicate"),
        (0, _) | (_, 0) => Some("overlapping"),
        (x, y) if x == y && (a.is_empty() != b.is_empty()) => Some("dangerously ambiguous"),
        _ => None,
    }
}
