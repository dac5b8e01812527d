//! Services: defaults, addresses and ports to claim, checks.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use crate::check::{
    Errors, at, cidr, dns_label, dns_subdomain, fill, fill_zero, has, int, invalid, invalid_each,
    ip, is_empty, items, items_mut, labels, make, one_of, optional_word, port, port_or_name,
    qualified_name, required_word, set, text, unset,
};
use crate::strategy::{Claim, Context, Strategy, keep_other_half};

/// Three hours, in seconds: how long a client stays with an endpoint.
const AFFINITY_SECONDS: i64 = 10_800;

/// The strategy of services.
pub struct Service;

impl Strategy for Service {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        fill_zero(spec, "sessionAffinity", "None");
        match text(spec, "sessionAffinity") {
            "None" => unset(spec, "sessionAffinityConfig"),
            "ClientIP" => {
                if spec
                    .pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
                    .is_none_or(Value::is_null)
                {
                    let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
                    set(spec, "sessionAffinityConfig", config);
                }
            }
            _ => {}
        }
        fill_zero(spec, "type", "ClusterIP");
        for p in items_mut(spec, "ports") {
            fill_zero(p, "protocol", "TCP");
            let port = at(p, "port").clone();
            fill_zero(p, "targetPort", port);
        }
        if externally_accessible(spec) {
            fill_zero(spec, "externalTrafficPolicy", "Cluster");
        }
        let ty = text(spec, "type").to_owned();
        if ["NodePort", "LoadBalancer", "ClusterIP"].contains(&ty.as_str()) {
            fill(spec, "internalTrafficPolicy", "Cluster");
        }
        if ty == "LoadBalancer" {
            fill(spec, "allocateLoadBalancerNodePorts", true);
        }
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"loadBalancer": {}}));
        if let Some(spec) = make(obj, "spec") {
            let ip = text(spec, "clusterIP").to_owned();
            if !ip.is_empty() && is_empty(at(spec, "clusterIPs")) {
                set(spec, "clusterIPs", json!([ip]));
            }
            families(spec, None);
        }
    }

    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
        if cx.subresource == "status" {
            return;
        }
        let was = at(old, "spec");
        if let Some(spec) = make(obj, "spec") {
            keep_allocated(spec, was);
            same_addresses(spec, was);
            drop_of_other_type(spec, was);
            families(spec, Some(was));
        }
        if text(at(obj, "spec"), "type") != "LoadBalancer" {
            set(obj, "status", json!({"loadBalancer": {}}));
        }
    }

    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            return errs;
        }
        let (path, spec) = (FieldPath::new("spec"), at(obj, "spec"));
        by_type(&mut errs, &path, spec);
        let mut seen = BTreeSet::new();
        let ports = items(spec, "ports");
        for (i, p) in ports.iter().enumerate() {
            service_port(
                &mut errs,
                &path.child("ports").index(i),
                p,
                ports.len() > 1,
                &mut seen,
            );
        }
        labels(&mut errs, &path.child("selector"), at(spec, "selector"));
        affinity(&mut errs, &path, spec);
        addresses(&mut errs, &path, spec);
        external_ips(&mut errs, &path, spec);
        let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        required_word(&mut errs, &path, spec, "type", &types);
        unique_ports(&mut errs, &path, spec);
        balancer(&mut errs, &path, spec);
        traffic(&mut errs, &path, spec);
        errs
    }

    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource.is_empty() {
            kept_addresses(&mut errs, at(obj, "spec"), at(old, "spec"));
        }
        errs
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let spec = at(obj, "spec");
        let mut out = Vec::new();
        let set_now = |f: &str| {
            !text(spec, f).is_empty() && old.is_none_or(|o| text(at(o, "spec"), f) != text(spec, f))
        };
        if set_now("loadBalancerIP") {
            out.push("spec.loadBalancerIP: this field is deprecated, as of Kubernetes v1.24 and later, you should use provider-specific annotations".to_owned());
        }
        if text(spec, "type") == "ExternalName" && !items(spec, "externalIPs").is_empty() {
            out.push("spec.externalIPs: is ignored when spec.type is \"ExternalName\"".to_owned());
        }
        if text(spec, "clusterIP") == "None" && !items(spec, "externalIPs").is_empty() {
            out.push("spec.externalIPs: is ignored when spec.clusterIP is \"None\"".to_owned());
        }
        if text(spec, "clusterIP") == "None"
            && text(spec, "sessionAffinity") != "None"
            && has(spec, "sessionAffinity")
        {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
        out
    }

    fn claims(&self, obj: &Value, _old: Option<&Value>) -> Vec<Claim> {
        let spec = at(obj, "spec");
        let mut claims = Vec::new();
        let headless = text(spec, "clusterIP") == "None";
        if needs_cluster_ip(spec) && !headless {
            let given: Vec<&str> = items(spec, "clusterIPs")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            match given.as_slice() {
                [] => claims.push(Claim::ServiceIp {
                    ip: None,
                    field: "/spec/clusterIP".into(),
                }),
                all => claims.extend(all.iter().enumerate().map(|(i, ip)| Claim::ServiceIp {
                    ip: Some((*ip).to_owned()),
                    field: format!("/spec/clusterIPs/{i}"),
                })),
            }
        }
        if needs_node_ports(spec) {
            for (i, p) in items(spec, "ports").iter().enumerate() {
                claims.push(node_port(
                    p,
                    "nodePort",
                    &format!("/spec/ports/{i}/nodePort"),
                ));
            }
        }
        if needs_health_port(spec) {
            claims.push(node_port(
                spec,
                "healthCheckNodePort",
                "/spec/healthCheckNodePort",
            ));
        }
        claims
    }

    fn after_claims(&self, obj: &mut Value) {
        let Some(spec) = obj.get_mut("spec") else {
            return;
        };
        let ip = text(spec, "clusterIP").to_owned();
        if !ip.is_empty() && is_empty(at(spec, "clusterIPs")) {
            set(spec, "clusterIPs", json!([ip]));
        }
    }

    /// Since v1.36 a DNS label: it may start with a digit.
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        crate::meta::name_is_label(name, generate)
    }
}

fn node_port(holder: &Value, field: &str, pointer: &str) -> Claim {
    let port = int(holder, field)
        .filter(|p| *p != 0)
        .and_then(|p| u16::try_from(p).ok());
    let protocol = match text(holder, "protocol") {
        "" => "TCP",
        p => p,
    };
    Claim::NodePort {
        port,
        protocol: protocol.to_owned(),
        field: pointer.to_owned(),
    }
}

fn externally_accessible(spec: &Value) -> bool {
    ["LoadBalancer", "NodePort"].contains(&text(spec, "type"))
        || (text(spec, "type") == "ClusterIP" && !items(spec, "externalIPs").is_empty())
}

fn needs_cluster_ip(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}

fn needs_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => at(spec, "allocateLoadBalancerNodePorts")
            .as_bool()
            .unwrap_or(true),
        _ => false,
    }
}

fn needs_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// The family of addresses: the policy, and which ones. This cluster has IPv4.
fn families(spec: &mut Value, old: Option<&Value>) {
    if !needs_cluster_ip(spec) {
        return;
    }
    let bare = text(spec, "clusterIP") == "None" && is_empty(at(spec, "selector"));
    if !has(spec, "ipFamilyPolicy") {
        let before = old
            .map(|o| at(o, "ipFamilyPolicy"))
            .filter(|p| p.is_string())
            .cloned();
        let policy = before.unwrap_or_else(|| {
            if bare {
                "RequireDualStack"
            } else {
                "SingleStack"
            }
            .into()
        });
        set(spec, "ipFamilyPolicy", policy);
    }
    if items(spec, "ipFamilies").is_empty() {
        let six = text(spec, "clusterIP").contains(':');
        let both = bare && text(spec, "ipFamilyPolicy") != "SingleStack";
        let list = match (six, both) {
            (true, _) => json!(["IPv6"]),
            (false, true) => json!(["IPv4", "IPv6"]),
            (false, false) => json!(["IPv4"]),
        };
        set(spec, "ipFamilies", list);
    }
}

/// A full update that leaves out what the server chose keeps it.
fn keep_allocated(spec: &mut Value, was: &Value) {
    if needs_cluster_ip(was)
        && needs_cluster_ip(spec)
        && text(spec, "clusterIP").is_empty()
        && is_empty(at(spec, "clusterIPs"))
    {
        for f in ["clusterIP", "clusterIPs"] {
            if has(was, f) {
                set(spec, f, at(was, f).clone());
            }
        }
    }
    if needs_node_ports(was) && needs_node_ports(spec) {
        let old: Vec<Value> = items(was, "ports").to_vec();
        let taken: Vec<i64> = items(spec, "ports")
            .iter()
            .filter_map(|p| int(p, "nodePort"))
            .filter(|n| *n != 0)
            .collect();
        for p in items_mut(spec, "ports") {
            let same = |o: &&Value| {
                int(o, "port") == int(p, "port") && text(o, "protocol") == text(p, "protocol")
            };
            let before = old.iter().find(same).and_then(|o| int(o, "nodePort"));
            if int(p, "nodePort").unwrap_or(0) == 0 {
                if let Some(n) = before.filter(|n| *n != 0 && !taken.contains(n)) {
                    set(p, "nodePort", n);
                }
            }
        }
    }
    if needs_health_port(was)
        && needs_health_port(spec)
        && int(spec, "healthCheckNodePort").unwrap_or(0) == 0
    {
        if let Some(n) = int(was, "healthCheckNodePort") {
            set(spec, "healthCheckNodePort", n);
        }
    }
}

/// `clusterIP` and `clusterIPs` follow each other when a client changes only one.
fn same_addresses(spec: &mut Value, was: &Value) {
    let (new_ip, old_ip) = (
        text(spec, "clusterIP").to_owned(),
        text(was, "clusterIP").to_owned(),
    );
    if !is_empty(at(was, "clusterIPs")) && is_empty(at(spec, "clusterIPs")) && new_ip == old_ip {
        set(spec, "clusterIPs", at(was, "clusterIPs").clone());
    }
    if new_ip != old_ip && at(spec, "clusterIPs") == at(was, "clusterIPs") {
        if new_ip.is_empty() {
            unset(spec, "clusterIPs");
        } else {
            set(spec, "clusterIPs", json!([new_ip]));
        }
    }
}

/// What a type does not have goes when the type changes and the client left it alone.
fn drop_of_other_type(spec: &mut Value, was: &Value) {
    let unchanged = |spec: &Value, f: &str| at(spec, f) == at(was, f);
    if needs_cluster_ip(was) && !needs_cluster_ip(spec) {
        for f in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if unchanged(spec, f) {
                unset(spec, f);
            }
        }
    }
    let ports = |v: &Value| -> Vec<i64> {
        items(v, "ports")
            .iter()
            .map(|p| int(p, "nodePort").unwrap_or(0))
            .collect()
    };
    let typed = |v: &Value| ["NodePort", "LoadBalancer"].contains(&text(v, "type"));
    if typed(was) && !typed(spec) && ports(was) == ports(spec) {
        items_mut(spec, "ports")
            .iter_mut()
            .for_each(|p| unset(p, "nodePort"));
    }
    if needs_health_port(was) && !needs_health_port(spec) && unchanged(spec, "healthCheckNodePort")
    {
        unset(spec, "healthCheckNodePort");
    }
    if text(was, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        for f in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(spec, f) {
                unset(spec, f);
            }
        }
    }
    if externally_accessible(was)
        && !externally_accessible(spec)
        && unchanged(spec, "externalTrafficPolicy")
    {
        unset(spec, "externalTrafficPolicy");
    }
}

fn by_type(errs: &mut Errors, path: &FieldPath, spec: &Value) {
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

fn service_port<'a>(
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

fn affinity(errs: &mut Errors, path: &FieldPath, spec: &Value) {
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
fn addresses(errs: &mut Errors, path: &FieldPath, spec: &Value) {
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
    if let [a, b] = all {
        if six(a) == six(b) {
            invalid(
                errs,
                &list_path,
                list,
                "may specify no more than one IP for each IP family",
            );
        }
    }
    if one != "None" {
        for (i, (v, f)) in all.iter().zip(items(spec, "ipFamilies")).enumerate() {
            let f = f.as_str().unwrap_or("");
            if (f == "IPv6") != six(v) {
                let why = format!("expected an {f} value as indicated by `ipFamilies[{i}]`");
                invalid(errs, &list_path.index(i), v, &why);
            }
        }
        if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
            let why = "this cluster is not configured for dual-stack services";
            invalid(
                errs,
                &path.child("ipFamilyPolicy"),
                at(spec, "ipFamilyPolicy"),
                why,
            );
        }
    }
}

fn external_ips(errs: &mut Errors, path: &FieldPath, spec: &Value) {
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

fn unique_ports(errs: &mut Errors, path: &FieldPath, spec: &Value) {
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

fn balancer(errs: &mut Errors, path: &FieldPath, spec: &Value) {
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

fn traffic(errs: &mut Errors, path: &FieldPath, spec: &Value) {
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

/// Addresses may be added or, by policy, given back, but never replaced.
fn kept_addresses(errs: &mut Errors, spec: &Value, old: &Value) {
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
    if was.len() == 2 && new.len() == 1 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        let path = FieldPath::new("spec").child("ipFamilyPolicy");
        let why = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        invalid(errs, &path, at(spec, "ipFamilyPolicy"), why);
    }
}
