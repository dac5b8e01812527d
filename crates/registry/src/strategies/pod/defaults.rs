//! Defaults of pods and of every pod template.

use std::collections::BTreeMap;

use api::{Quantity, qos};
use serde_json::Value;

use super::parts::{CONTAINER_LISTS, is_sidecar, pull_policy};
use crate::check::{
    at, fill, fill_zero, flag, has, int, items, items_mut, make, mirror, set, text,
};
use crate::strategies::quantity;

/// Defaults of a `PodSpec`, wherever it stands.
pub fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    fill_zero(spec, "dnsPolicy", "ClusterFirst");
    fill_zero(spec, "restartPolicy", "Always");
    make(spec, "securityContext");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill_zero(spec, "schedulerName", "default-scheduler");
    // The two names of the account mirror each other; the old one is still written.
    match (
        text(spec, "serviceAccountName").to_owned(),
        text(spec, "serviceAccount").to_owned(),
    ) {
        (new, _) if !new.is_empty() => set(spec, "serviceAccount", new),
        (_, old) if !old.is_empty() => set(spec, "serviceAccountName", old),
        _ => {}
    }
    for volume in items_mut(spec, "volumes") {
        super::volumes::default(volume);
    }
    for list in CONTAINER_LISTS {
        for c in items_mut(spec, list) {
            container(c);
        }
    }
    if flag(spec, "hostNetwork") {
        for list in ["containers", "initContainers"] {
            for c in items_mut(spec, list) {
                host_ports(c);
            }
        }
    }
}

/// Defaults of a pod that its templates do not get.
pub fn pod(pod: &mut Value) {
    if let Some(status) = pod.get_mut("status").filter(|s| s.is_object()) {
        mirror(status, "podIP", "podIPs", Some("ip"));
    }
    let Some(spec) = make(pod, "spec") else {
        return;
    };
    for list in ["containers", "initContainers"] {
        for c in items_mut(spec, list) {
            requests_from_limits(c);
        }
    }
    pod_level_requests(spec);
    fill(spec, "enableServiceLinks", true);
    pod_spec(spec);
}

/// What is limited is requested, unless another amount is.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container
        .pointer("/resources/limits")
        .and_then(Value::as_object)
        .cloned()
    else {
        return;
    };
    let Some(resources) = container.get_mut("resources") else {
        return;
    };
    let Some(requests) = make(resources, "requests") else {
        return;
    };
    for (name, limit) in limits {
        fill(requests, &name, limit);
    }
}

/// A pod with limits of its own requests what its containers do in sum, else the limits.
fn pod_level_requests(spec: &mut Value) {
    let Some(limits) = spec
        .pointer("/resources/limits")
        .and_then(Value::as_object)
        .cloned()
    else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let sums = container_sums(spec, "requests");
    let Some(requests) = make(spec, "resources").and_then(|r| make(r, "requests")) else {
        return;
    };
    for name in ["cpu", "memory"] {
        if let Some(sum) = sums.get(name) {
            fill(requests, name, sum.to_string());
        }
    }
    for (name, limit) in limits {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            fill(requests, &name, limit);
        }
    }
}

/// What the containers of a pod ask for together (their `requests`, or their `limits`): all that run
/// at once, or the largest step of initialization, whichever is more.
pub(super) fn container_sums(spec: &Value, side: &str) -> BTreeMap<String, Quantity> {
    let mut sums: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut peaks: BTreeMap<String, Quantity> = BTreeMap::new();
    let requests = |c: &Value| -> Vec<(String, Quantity)> {
        let all = at(at(c, "resources"), side).as_object();
        let each = all.into_iter().flatten();
        each.filter_map(|(k, v)| Some((k.clone(), quantity::parse(v)?)))
            .collect()
    };
    for c in items(spec, "initContainers") {
        for (name, q) in requests(c) {
            if is_sidecar(c) {
                let sum = sums.entry(name).or_default();
                *sum = *sum + q;
            } else {
                let before = sums.get(&name).copied().unwrap_or_default();
                let peak = peaks.entry(name).or_default();
                *peak = (*peak).max(before + q);
            }
        }
    }
    for c in items(spec, "containers") {
        for (name, q) in requests(c) {
            let sum = sums.entry(name).or_default();
            *sum = *sum + q;
        }
    }
    for (name, peak) in peaks {
        let sum = sums.entry(name).or_default();
        *sum = (*sum).max(peak);
    }
    sums
}

fn host_ports(container: &mut Value) {
    for p in items_mut(container, "ports") {
        if int(p, "hostPort").unwrap_or(0) == 0 {
            let port = at(p, "containerPort").clone();
            set(p, "hostPort", port);
        }
    }
}

fn container(c: &mut Value) {
    let policy = pull_policy(text(c, "image"));
    fill_zero(c, "imagePullPolicy", policy);
    fill_zero(c, "terminationMessagePath", "/dev/termination-log");
    fill_zero(c, "terminationMessagePolicy", "File");
    make(c, "resources");
    for p in items_mut(c, "ports") {
        fill_zero(p, "protocol", "TCP");
    }
    for e in items_mut(c, "env") {
        env(e);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(c, name)
            && let Some(p) = c.get_mut(name)
        {
            probe(p);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(h) = c.pointer_mut(&format!("/lifecycle/{name}/httpGet")) {
            http_get(h);
        }
    }
}

fn env(e: &mut Value) {
    let Some(from) = e.get_mut("valueFrom") else {
        return;
    };
    if let Some(f) = from.get_mut("fieldRef").filter(|f| f.is_object()) {
        fill_zero(f, "apiVersion", "v1");
    }
    if let Some(f) = from.get_mut("fileKeyRef").filter(|f| f.is_object()) {
        fill(f, "optional", false);
    }
    // A divisor of 0 is written out for what has none.
    if let Some(r) = from.get_mut("resourceFieldRef").filter(|r| r.is_object()) {
        fill_zero(r, "divisor", "0");
    }
}

fn probe(p: &mut Value) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        fill_zero(p, field, value);
    }
    if let Some(h) = p.get_mut("httpGet") {
        http_get(h);
    }
    if let Some(g) = p.get_mut("grpc").filter(|g| g.is_object()) {
        fill(g, "service", "");
    }
}

fn http_get(h: &mut Value) {
    if h.is_object() {
        fill_zero(h, "path", "/");
        fill_zero(h, "scheme", "HTTP");
    }
}

/// The quality of service of a pod, from what it or its containers ask for.
pub fn qos_class(pod: &Value) -> qos::Class {
    let spec = at(pod, "spec");
    let of = |owner: &Value| -> qos::ContainerAmounts {
        let amount = |list: &str, name: &str| {
            let resources = at(owner, "resources");
            quantity::parse(at(at(resources, list), name))
        };
        qos::RESOURCES.map(|name| qos::Amount {
            request: amount("requests", name),
            limit: amount("limits", name),
        })
    };
    if has(spec, "resources") {
        return qos::class(&[of(spec)]);
    }
    let lists = ["initContainers", "containers"];
    let containers = lists.iter().flat_map(|list| items(spec, list));
    qos::class(&containers.map(of).collect::<Vec<_>>())
}
