//! The checks of services.

use std::collections::BTreeSet;

use api::cidr::{Families, IpFamily};
use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use super::{externally_accessible, is_bare, is_single, needs_cluster_ip, needs_health_port};
use crate::check::{
    Errors, IMMUTABLE, at, cidr, dns_label, dns_subdomain, has, int, invalid, invalid_each, ip,
    is_empty, items, one_of, optional_word, port, port_or_name, qualified_name, required_word,
    text,
};
use crate::strategies::ingresses;

pub(super) fn by_type(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let ty = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    if items(spec, "ports").is_empty() && !headless && ty != "ExternalName" {
        errs.push(FieldError::required(&path.child("ports"), ""));
    }
    match ty {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {ty} services");
            errs.push(FieldError::invalid_str(
                &path.child("clusterIPs").index(0),
                "None",
                &why,
            ));
        }
        "ExternalName" => {
            for f in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !is_empty(at(spec, f)) {
                    let why = "may not be set for ExternalName services";
                    errs.push(FieldError::forbidden(&path.child(f), why));
                }
            }
            let name = text(spec, "externalName");
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errs.push(FieldError::required(&path.child("externalName"), "")),
                name => dns_subdomain(errs, &path.child("externalName"), name),
            }
        }
        _ => {}
    }
}

pub(super) fn service_port<'a>(
    errs: &mut Errors,
    path: &FieldPath,
    p: &'a Value,
    needs_name: bool,
    seen: &mut BTreeSet<&'a str>,
) {
    match text(p, "name") {
        "" if needs_name => errs.push(FieldError::required(&path.child("name"), "")),
        "" => {}
        name => {
            dns_label(errs, &path.child("name"), name);
            if !seen.insert(name) {
                errs.push(FieldError::duplicate(&path.child("name"), &name.into()));
            }
        }
    }
    port(errs, &path.child("port"), at(p, "port"));
    required_word(errs, path, p, "protocol", &["SCTP", "TCP", "UDP"]);
    port_or_name(errs, &path.child("targetPort"), at(p, "targetPort"));
    if has(p, "appProtocol") {
        qualified_name(errs, &path.child("appProtocol"), text(p, "appProtocol"));
    }
}

pub(super) fn affinity(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    required_word(errs, path, spec, "sessionAffinity", &["ClientIP", "None"]);
    let (config, path) = (
        at(spec, "sessionAffinityConfig"),
        path.child("sessionAffinityConfig"),
    );
    match text(spec, "sessionAffinity") {
        "None" if !config.is_null() => {
            let why = "must not be set when session affinity is None";
            errs.push(FieldError::forbidden(&path, why));
        }
        "ClientIP" => {
            let path = path.child("clientIP").child("timeoutSeconds");
            match config
                .pointer("/clientIP/timeoutSeconds")
                .and_then(Value::as_i64)
            {
                None => {
                    errs.push(FieldError::required(
                        &path,
                        "when session affinity type is ClientIP",
                    ));
                }
                Some(n) if !(1..=86_400).contains(&n) => {
                    let why = "must be greater than 0 and less than 86400";
                    invalid(errs, &path, &n.into(), why);
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs` and the families, against each other.
pub(super) fn addresses(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    if !needs_cluster_ip(spec) {
        return;
    }
    let (one, all) = (text(spec, "clusterIP"), items(spec, "clusterIPs"));
    let (list_path, list) = (path.child("clusterIPs"), at(spec, "clusterIPs"));
    match (one.is_empty(), all.first().and_then(Value::as_str)) {
        (false, None) => errs.push(FieldError::required(&list_path, "")),
        (false, Some(first)) if first != one => {
            invalid(errs, &list_path, list, "first value must match `clusterIP`");
        }
        (true, Some(_)) => {
            invalid(
                errs,
                &list_path,
                list,
                "must be empty when `clusterIP` is not specified",
            );
        }
        _ => {}
    }
    let words = ["IPv4", "IPv6"];
    let mut seen = BTreeSet::new();
    for (i, f) in items(spec, "ipFamilies").iter().enumerate() {
        let (f, path) = (f.as_str().unwrap_or(""), path.child("ipFamilies").index(i));
        one_of(errs, &path, f, &words);
        if !seen.insert(f) {
            errs.push(FieldError::duplicate(&path, &f.into()));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    optional_word(errs, path, spec, "ipFamilyPolicy", &policies);
    let mut bad = false;
    for (i, v) in all.iter().enumerate() {
        let v = v.as_str().unwrap_or("");
        if i == 0 && v == "None" {
            if all.len() > 1 {
                bad = true;
                invalid(
                    errs,
                    &list_path,
                    list,
                    "'None' must be the first and only value",
                );
            }
            continue;
        }
        bad |= !ip(errs, &list_path.index(i), v);
    }
    if all.len() > 2 {
        invalid(errs, &list_path, list, "may only hold up to 2 values");
    }
    if bad {
        return;
    }
    let six = |v: &Value| v.as_str().is_some_and(|s| s.contains(':'));
    if let [a, b] = all
        && six(a) == six(b)
    {
        invalid(
            errs,
            &list_path,
            list,
            "may specify no more than one IP for each IP family",
        );
    }
    if one != "None" {
        for (i, (v, f)) in all.iter().zip(items(spec, "ipFamilies")).enumerate() {
            let f = f.as_str().unwrap_or("");
            if (f == "IPv6") != six(v) {
                let why = format!("expected an {f} value as indicated by `ipFamilies[{i}]`");
                invalid(errs, &list_path.index(i), v, &why);
            }
        }
    }
}

/// The families against those of the cluster, and against what the Service had.
pub(super) fn families(
    errs: &mut Errors,
    path: &FieldPath,
    spec: &Value,
    old: Option<&Value>,
    cluster: Families,
) {
    if !needs_cluster_ip(spec) {
        return;
    }
    let policy = |errs: &mut Errors, why: &str| {
        invalid(
            errs,
            &path.child("ipFamilyPolicy"),
            at(spec, "ipFamilyPolicy"),
            why,
        );
    };
    let lists = [
        ("clusterIPs", "cluster IP", "cluster IPs"),
        ("ipFamilies", "IP family", "IP families"),
    ];
    for (list, one, several) in lists {
        let count = items(spec, list).len();
        let had = old.map_or(0, |old| items(old, list).len());
        if is_single(spec) && count == 2 {
            let why = format!(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple {several} are specified"
            );
            policy(errs, &why);
        }
        if !is_single(spec) && had == 2 && count == 1 {
            let why = format!("must be 'SingleStack' to release the secondary {one}");
            policy(errs, &why);
        }
    }
    let all = items(spec, "clusterIPs");
    let chosen = items(spec, "ipFamilies");
    for (i, ip) in all.iter().enumerate() {
        let family = ip.as_str().and_then(|ip| ip.parse().ok()).map(IpFamily::of);
        // Families that were said are looked at below.
        if let Some(family) = family.filter(|f| i >= chosen.len() && !cluster.has(*f)) {
            let why = format!("{family} is not configured on this cluster");
            let list = at(spec, "clusterIPs");
            invalid(errs, &path.child("clusterIPs").index(i), list, &why);
        }
    }
    if is_bare(spec) {
        return;
    }
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" && !cluster.dual {
        policy(
            errs,
            "this cluster is not configured for dual-stack services",
        );
    }
    for (i, word) in chosen.iter().enumerate() {
        let family = word.as_str().and_then(IpFamily::of_word);
        if family.is_some_and(|f| !cluster.has(f)) {
            let at = path.child("ipFamilies").index(i);
            invalid(errs, &at, word, "not configured on this cluster");
        }
    }
}

pub(super) fn external_ips(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    for (i, v) in items(spec, "externalIPs").iter().enumerate() {
        let (v, path) = (v.as_str().unwrap_or(""), path.child("externalIPs").index(i));
        if ip(errs, &path, v) {
            endpoint_ip(errs, &path, v);
        }
    }
}

/// An address that can be an endpoint: not unspecified, loopback, link-local or multicast.
pub fn endpoint_ip(errs: &mut Errors, path: &FieldPath, value: &str) {
    let Ok(ip) = value.parse::<std::net::IpAddr>() else {
        return;
    };
    let (link_local, link_multicast) = match ip {
        std::net::IpAddr::V4(v) => {
            let [a, b, c, _] = v.octets();
            (v.is_link_local(), (a, b, c) == (224, 0, 0))
        }
        std::net::IpAddr::V6(v) => {
            let first = v.segments()[0];
            ((first & 0xffc0) == 0xfe80, (first & 0xff0f) == 0xff02)
        }
    };
    let rules = [
        (
            ip.is_unspecified(),
            format!("may not be unspecified ({value})"),
        ),
        (
            ip.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        ),
        (
            link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        ),
        (
            link_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ];
    for (broken, why) in rules {
        if broken {
            errs.push(FieldError::invalid_str(path, value, &why));
        }
    }
}

pub(super) fn unique_ports(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let ports = items(spec, "ports");
    let list = path.child("ports");
    if text(spec, "type") == "ClusterIP" {
        for (i, p) in ports.iter().enumerate() {
            if int(p, "nodePort").unwrap_or(0) != 0 {
                let why = "may not be used when `type` is 'ClusterIP'";
                errs.push(FieldError::forbidden(&list.index(i).child("nodePort"), why));
            }
        }
    }
    let mut nodes = BTreeSet::new();
    for (i, p) in ports.iter().enumerate() {
        let n = int(p, "nodePort").unwrap_or(0);
        if n != 0 && !nodes.insert((text(p, "protocol"), n)) {
            errs.push(FieldError::duplicate(
                &list.index(i).child("nodePort"),
                &n.into(),
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, p) in ports.iter().enumerate() {
        let key = (text(p, "protocol"), int(p, "port").unwrap_or(0));
        if !seen.insert(key) {
            let shown = json!({"protocol": key.0, "port": key.1});
            errs.push(FieldError::duplicate(&list.index(i), &shown));
        }
    }
}

pub(super) fn balancer(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let is_balancer = text(spec, "type") == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = items(spec, "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !is_balancer {
            errs.push(FieldError::forbidden(&path, only));
        }
        for (i, r) in ranges.iter().enumerate() {
            cidr(errs, &path.index(i), r.as_str().unwrap_or("").trim());
        }
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if has(spec, field) && !is_balancer {
            errs.push(FieldError::forbidden(&path.child(field), only));
        }
    }
    if has(spec, "loadBalancerClass") {
        let class = text(spec, "loadBalancerClass");
        invalid_each(
            errs,
            &path.child("loadBalancerClass"),
            class,
            names::is_qualified_name(class),
        );
    }
}

pub(super) fn traffic(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let external = text(spec, "externalTrafficPolicy");
    let external_path = path.child("externalTrafficPolicy");
    if externally_accessible(spec) {
        required_word(
            errs,
            path,
            spec,
            "externalTrafficPolicy",
            &["Cluster", "Local"],
        );
    } else if !external.is_empty() {
        let why = "may only be set for externally-accessible services";
        errs.push(FieldError::invalid_str(&external_path, external, why));
    }
    let health = int(spec, "healthCheckNodePort").unwrap_or(0);
    if health != 0 {
        let path = path.child("healthCheckNodePort");
        if needs_health_port(spec) {
            port(errs, &path, at(spec, "healthCheckNodePort"));
        } else {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            invalid(errs, &path, &health.into(), why);
        }
    }
    let internal = ["NodePort", "LoadBalancer", "ClusterIP"].contains(&text(spec, "type"));
    if internal && !has(spec, "internalTrafficPolicy") {
        errs.push(FieldError::required(
            &path.child("internalTrafficPolicy"),
            "",
        ));
    }
    optional_word(
        errs,
        path,
        spec,
        "internalTrafficPolicy",
        &["Cluster", "Local"],
    );
    let near = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    optional_word(errs, path, spec, "trafficDistribution", &near);
}

/// What was chosen once stays for as long as it is in use.
pub(super) fn kept_choices(errs: &mut Errors, path: &FieldPath, spec: &Value, old: &Value) {
    let balanced = |s: &Value| text(s, "type") == "LoadBalancer";
    let class = at(spec, "loadBalancerClass");
    if balanced(spec) && balanced(old) && class != at(old, "loadBalancerClass") {
        let path = path.child("loadBalancerClass");
        invalid(errs, &path, class, "may not change once set");
    }
    let port = |s: &Value| int(s, "healthCheckNodePort").unwrap_or(0);
    if needs_health_port(spec) && needs_health_port(old) && port(spec) != port(old) {
        let path = path.child("healthCheckNodePort");
        errs.push(FieldError::forbidden(&path, IMMUTABLE));
    }
}

/// The addresses that a load balancer was given.
pub(super) fn status(errs: &mut Errors, obj: &Value) {
    let balancer = at(at(obj, "status"), "loadBalancer");
    let path = FieldPath::new("status")
        .child("loadBalancer")
        .child("ingress");
    let all = items(balancer, "ingress");
    if text(at(obj, "spec"), "type") != "LoadBalancer" && !all.is_empty() {
        let why = "may only be used when `spec.type` is 'LoadBalancer'";
        errs.push(FieldError::forbidden(&path, why));
        return;
    }
    for (i, ingress) in all.iter().enumerate() {
        let path = path.index(i);
        ingresses::address(errs, &path, ingress);
        let (mode, path) = (text(ingress, "ipMode"), path.child("ipMode"));
        match (has(ingress, "ipMode"), text(ingress, "ip").is_empty()) {
            (false, false) => {
                let why = "must be specified when `ip` is set";
                errs.push(FieldError::required(&path, why));
            }
            (true, true) => {
                let why = "may not be specified when `ip` is not set";
                errs.push(FieldError::forbidden(&path, why));
            }
            (true, false) => one_of(errs, &path, mode, &["Proxy", "VIP"]),
            (false, true) => {}
        }
    }
}

/// Addresses may be added or, by policy, given back, but never replaced.
pub(super) fn kept_addresses(errs: &mut Errors, spec: &Value, old: &Value) {
    if !needs_cluster_ip(spec) || !needs_cluster_ip(old) {
        return;
    }
    let headless = |s: &Value| text(s, "clusterIP") == "None";
    if headless(spec) && headless(old) {
        return;
    }
    let (new, was) = (items(spec, "clusterIPs"), items(old, "clusterIPs"));
    let (path, list) = (
        FieldPath::new("spec").child("clusterIPs"),
        at(spec, "clusterIPs"),
    );
    if new.is_empty() && !was.is_empty() {
        invalid(
            errs,
            &path.index(0),
            list,
            "primary clusterIP can not be unset",
        );
    }
    for (i, (n, w)) in new.iter().zip(was).enumerate() {
        if n != w {
            invalid(errs, &path.index(i), list, "may not change once set");
        }
    }
    if headless(spec) || headless(old) {
        return;
    }
    let (new, was) = (items(spec, "ipFamilies"), items(old, "ipFamilies"));
    if new.iter().zip(was).any(|(n, w)| n != w) {
        let path = FieldPath::new("spec").child("ipFamilies").index(0);
        invalid(
            errs,
            &path,
            at(spec, "ipFamilies"),
            "may not change once set",
        );
    }
}
