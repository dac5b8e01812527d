//! The checks of a pod's specification, for pods and for the templates of pods.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use super::parts::{CONTAINER_LISTS, absent, is_sidecar};
use super::volumes::{self, Volumes};
use super::{mounts, os, requirements};
use crate::check::{
    Errors, at, dns_label, dns_subdomain, flag, has, int, invalid, ip, items, labels, one_of,
    qualified_name, required_word, text,
};
use crate::strategies::{containers, quantity, scheduling};

/// Checks a `PodSpec`. `is_pod`: of a pod itself rather than of a template.
pub fn pod_spec(errs: &mut Errors, path: &FieldPath, spec: &Value, is_pod: bool) {
    if !has(spec, "terminationGracePeriodSeconds") {
        errs.push(FieldError::required(
            &path.child("terminationGracePeriodSeconds"),
            "",
        ));
    }
    let names = volumes::validate(errs, &path.child("volumes"), items(spec, "volumes"));
    container_lists(errs, path, spec, &names);
    containers::file_key_volumes(errs, path, spec);
    requirements::claims(errs, path, spec);
    requirements::whole(errs, path, spec);
    host_network(errs, path, spec, is_pod);
    // Of a pod it is looked at when it is made.
    if !is_pod {
        super::update::asked_of_new(errs, path, spec);
    }
    super::sysctls::shared(errs, path, spec);
    required_word(
        errs,
        path,
        spec,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
    );
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_word(errs, path, spec, "dnsPolicy", &dns);
    labels(errs, &path.child("nodeSelector"), at(spec, "nodeSelector"));
    containers::pod_security(
        errs,
        &path.child("securityContext"),
        at(spec, "securityContext"),
    );
    scheduling::affinity(errs, &path.child("affinity"), at(spec, "affinity"));
    dns_config(errs, &path.child("dnsConfig"), spec);
    for (i, g) in items(spec, "readinessGates").iter().enumerate() {
        let path = path.child("readinessGates").index(i).child("conditionType");
        qualified_name(errs, &path, text(g, "conditionType"));
    }
    gates(errs, &path.child("schedulingGates"), spec);
    scheduling::spread(errs, &path.child("topologySpreadConstraints"), spec);
    host_users(errs, path, spec);
    simple_names(errs, path, spec);
    scheduling::tolerations(errs, &path.child("tolerations"), items(spec, "tolerations"));
    host_aliases(errs, &path.child("hostAliases"), spec);
    if has(spec, "preemptionPolicy") {
        let path = path.child("preemptionPolicy");
        one_of(
            errs,
            &path,
            text(spec, "preemptionPolicy"),
            &["Never", "PreemptLowerPriority"],
        );
    }
    for (name, v) in at(spec, "overhead").as_object().into_iter().flatten() {
        quantity::amount(errs, &path.child("overhead").key(name), name, v);
    }
    os::check(errs, path, spec);
}

fn container_lists(errs: &mut Errors, path: &FieldPath, spec: &Value, volumes: &Volumes) {
    let list_path = path.child("containers");
    let os = text(at(spec, "os"), "name");
    let grace = int(spec, "terminationGracePeriodSeconds");
    let main = items(spec, "containers");
    if main.is_empty() {
        errs.push(FieldError::required(&list_path, ""));
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, c) in main.iter().enumerate() {
        let path = list_path.index(i);
        container(errs, &path, c, volumes);
        if !seen.insert(text(c, "name")) {
            errs.push(FieldError::duplicate(
                &path.child("name"),
                &text(c, "name").into(),
            ));
        }
        containers::lifecycle(errs, &path.child("lifecycle"), at(c, "lifecycle"), grace);
        containers::stop_signal(errs, &path.child("lifecycle"), at(c, "lifecycle"), os);
        containers::probes(errs, &path, c);
        containers::restart_rules(errs, &path, c);
    }
    containers::host_ports(errs, &list_path, main);
    let list_path = path.child("initContainers");
    for (i, c) in items(spec, "initContainers").iter().enumerate() {
        let path = list_path.index(i);
        container(errs, &path, c, volumes);
        containers::restart_rules(errs, &path, c);
        if !text(c, "name").is_empty() && !seen.insert(text(c, "name")) {
            errs.push(FieldError::duplicate(
                &path.child("name"),
                &text(c, "name").into(),
            ));
        }
        containers::host_ports(errs, &list_path, std::slice::from_ref(c));
        if is_sidecar(c) {
            containers::lifecycle(errs, &path.child("lifecycle"), at(c, "lifecycle"), grace);
            containers::stop_signal(errs, &path.child("lifecycle"), at(c, "lifecycle"), os);
            containers::probes(errs, &path, c);
        } else {
            for field in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if has(c, field) {
                    let why = "may not be set for init containers without restartPolicy=Always";
                    errs.push(FieldError::forbidden(&path.child(field), why));
                }
            }
        }
    }
    ephemeral(
        errs,
        &path.child("ephemeralContainers"),
        spec,
        volumes,
        seen,
    );
}

/// What containers of all three lists have in common.
fn container(errs: &mut Errors, path: &FieldPath, c: &Value, volumes: &Volumes) {
    containers::common(errs, path, c);
    mounts::mounts(errs, path, c, volumes);
    mounts::devices(errs, path, c, volumes);
}

fn ephemeral<'a>(
    errs: &mut Errors,
    list_path: &FieldPath,
    spec: &'a Value,
    volumes: &Volumes,
    mut seen: BTreeSet<&'a str>,
) {
    let others = seen.clone();
    for (i, c) in items(spec, "ephemeralContainers").iter().enumerate() {
        let path = list_path.index(i);
        container(errs, &path, c, volumes);
        if !seen.insert(text(c, "name")) {
            errs.push(FieldError::duplicate(
                &path.child("name"),
                &text(c, "name").into(),
            ));
        }
        let target = text(c, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errs.push(FieldError::not_found(
                &path.child("targetContainerName"),
                &target.into(),
            ));
        }
        let never = [
            "ports",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
            "resources",
            "resizePolicy",
            "restartPolicy",
        ];
        for field in never.into_iter().filter(|f| !absent(c, f)) {
            let why = "cannot be set for an Ephemeral Container";
            errs.push(FieldError::forbidden(&path.child(field), why));
        }
    }
}

fn host_network(errs: &mut Errors, path: &FieldPath, spec: &Value, is_pod: bool) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for (i, c) in items(spec, "containers").iter().enumerate() {
        for (j, p) in items(c, "ports").iter().enumerate() {
            let (host, own) = (int(p, "hostPort").unwrap_or(0), int(p, "containerPort"));
            if (is_pod || host != 0) && Some(host) != own {
                let path = path.child("containers").index(i).child("ports").index(j);
                let why = "must match `containerPort` when `hostNetwork` is true";
                invalid(errs, &path.child("hostPort"), &host.into(), why);
            }
        }
    }
}

fn dns_config(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let config = at(spec, "dnsConfig");
    let servers = items(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            let why = "must provide `dnsConfig` when `dnsPolicy` is None";
            return errs.push(FieldError::required(path, why));
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errs.push(FieldError::required(&path.child("nameservers"), why));
        }
    }
    if servers.len() > 3 {
        let why = "must not have more than 3 nameservers";
        invalid(
            errs,
            &path.child("nameservers"),
            at(config, "nameservers"),
            why,
        );
    }
    for (i, s) in servers.iter().enumerate() {
        ip(
            errs,
            &path.child("nameservers").index(i),
            s.as_str().unwrap_or(""),
        );
    }
    let searches = items(config, "searches");
    let (searches_path, all) = (path.child("searches"), at(config, "searches"));
    if searches.len() > 32 {
        invalid(
            errs,
            &searches_path,
            all,
            "must not have more than 32 search paths",
        );
    }
    let chars: usize = searches
        .iter()
        .filter_map(Value::as_str)
        .map(|s| s.len() + 1)
        .sum();
    if chars > 2049 {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        invalid(errs, &searches_path, all, why);
    }
    for (i, s) in searches.iter().enumerate() {
        let s = s.as_str().unwrap_or("");
        if s != "." {
            // Underscores are taken in search paths, as resolvers do.
            let plain = s.strip_suffix('.').unwrap_or(s).replace('_', "a");
            let bad = !names::is_dns1123_subdomain(&plain).is_empty();
            if bad {
                dns_subdomain(
                    errs,
                    &searches_path.index(i),
                    s.strip_suffix('.').unwrap_or(s),
                );
            }
        }
    }
    for (i, o) in items(config, "options").iter().enumerate() {
        if text(o, "name").is_empty() {
            let path = path.child("options").index(i);
            errs.push(FieldError::required(&path, "must not be empty"));
        }
    }
}

fn gates(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, g) in items(spec, "schedulingGates").iter().enumerate() {
        let name = text(g, "name");
        qualified_name(errs, &path.index(i), name);
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(&path.index(i), &name.into()));
        }
    }
}

/// What a user namespace excludes, and what needs one.
fn host_users(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    if at(spec, "hostUsers").as_bool() != Some(false) {
        unmasked_proc(errs, path, spec);
        return;
    }
    for (field, shown) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if flag(spec, field) {
            errs.push(FieldError::forbidden(
                &path.child(shown),
                "when `hostUsers` is false",
            ));
        }
    }
}

/// A whole /proc is a way to the machine for a root that is the machine's own.
fn unmasked_proc(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    for list in CONTAINER_LISTS {
        for (i, c) in items(spec, list).iter().enumerate() {
            if text(at(c, "securityContext"), "procMount") == "Unmasked" {
                let path = path.child(list).index(i).child("securityContext");
                errs.push(FieldError::invalid_str(
                    &path.child("procMount"),
                    "Unmasked",
                    "`hostUsers` must be false to use `Unmasked`",
                ));
            }
        }
    }
}

fn simple_names(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    for field in [
        "serviceAccountName",
        "nodeName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        let name = text(spec, field);
        if !name.is_empty() {
            dns_subdomain(errs, &path.child(field), name);
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            dns_label(errs, &path.child(field), name);
        }
    }
    if has(spec, "hostnameOverride") {
        hostname_override(errs, path, spec);
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let path = path.child("securityContext").child("shareProcessNamespace");
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        invalid(errs, &path, &true.into(), why);
    }
    if let Some(seconds) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = "must be between 1 and 2147483647, inclusive";
        invalid(
            errs,
            &path.child("activeDeadlineSeconds"),
            &seconds.into(),
            why,
        );
    }
}

/// A name that the pod's host has whatever else says: upstream's bound is the kernel's.
fn hostname_override(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    const MOST_BYTES: usize = 64;
    let (name, path) = (
        text(spec, "hostnameOverride"),
        path.child("hostnameOverride"),
    );
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if flag(spec, field) {
            let why = format!("may not be specified when {field} is true");
            errs.push(FieldError::forbidden(&path, &why));
        }
    }
    if name.len() > MOST_BYTES {
        errs.push(FieldError::too_long(&path, MOST_BYTES));
    }
    dns_subdomain(errs, &path, name);
}

fn host_aliases(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    for (i, a) in items(spec, "hostAliases").iter().enumerate() {
        let path = path.index(i);
        ip(errs, &path.child("ip"), text(a, "ip"));
        for (j, h) in items(a, "hostnames").iter().enumerate() {
            dns_subdomain(
                errs,
                &path.child("hostnames").index(j),
                h.as_str().unwrap_or(""),
            );
        }
    }
}
