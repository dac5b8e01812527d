//! Services: defaults, addresses and ports to claim.

mod checks;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use api::cidr::{Families, IpFamily};
use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use crate::check::{
    Errors, at, fill, fill_zero, has, int, is_empty, items, items_mut, labels, make, required_word,
    set, text, unset,
};
use crate::status_writes::keep_other_half;
use crate::strategies::warnings;
use crate::strategy::{Claim, Context, Strategy};
pub use checks::endpoint_ip;
use checks::{
    addresses, affinity, balancer, by_type, external_ips, kept_addresses, service_port, traffic,
    unique_ports,
};

/// Three hours, in seconds: how long a client stays with an endpoint.
const AFFINITY_SECONDS: i64 = 10_800;

/// The strategy of services.
pub struct Service;

impl Service {
    /// All that is wrong; `old` is what an update would replace.
    fn check(&self, obj: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            checks::status(&mut errs, obj);
            return errs;
        }
        let (path, spec) = (FieldPath::new("spec"), at(obj, "spec"));
        let was = old.map(|old| at(old, "spec"));
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
        if !was.is_some_and(|was| stays_preferred(spec, was)) {
            checks::families(&mut errs, &path, spec, was, cx.families);
        }
        if let Some(was) = was.filter(|_| cx.subresource.is_empty()) {
            kept_addresses(&mut errs, spec, was);
            checks::kept_choices(&mut errs, &path, spec, was);
        }
        errs
    }
}

impl Strategy for Service {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        fill_zero(spec, "sessionAffinity", "None");
        match text(spec, "sessionAffinity") {
            "None" => unset(spec, "sessionAffinityConfig"),
            "ClientIP"
                if spec
                    .pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
                    .is_none_or(Value::is_null) =>
            {
                let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
                set(spec, "sessionAffinityConfig", config);
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
            if let Some(balancer) = obj.pointer_mut("/status/loadBalancer") {
                for ingress in items_mut(balancer, "ingress") {
                    if !text(ingress, "ip").is_empty() {
                        fill(ingress, "ipMode", "VIP");
                    }
                }
            }
        }
    }

    fn prepare_create(&self, obj: &mut Value, cx: &Context<'_>) {
        set(obj, "status", json!({"loadBalancer": {}}));
        if let Some(spec) = make(obj, "spec") {
            let ip = text(spec, "clusterIP").to_owned();
            if !ip.is_empty() && is_empty(at(spec, "clusterIPs")) {
                set(spec, "clusterIPs", json!([ip]));
            }
            families(spec, None, cx.families);
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
            families(spec, Some(was), cx.families);
        }
        if text(at(obj, "spec"), "type") != "LoadBalancer" {
            set(obj, "status", json!({"loadBalancer": {}}));
        }
    }

    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.check(obj, None, cx)
    }

    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.check(obj, Some(old), cx)
    }

    fn validates_whole_update(&self) -> bool {
        true
    }

    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        warnings::load_balancer(at(obj, "status"))
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let spec = at(obj, "spec");
        let mut out = Vec::new();
        let ty = text(spec, "type");
        let headless = ty == "ClusterIP" && text(spec, "clusterIP") == "None";
        let external = !items(spec, "externalIPs").is_empty();
        let notes = at(at(obj, "metadata"), "annotations");
        if has(notes, OLD_HINTS) {
            out.push(format!(
                "annotation {OLD_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
            ));
        }
        let path = FieldPath::new("spec");
        let mut addresses = |list: &str, warn: fn(&mut Vec<String>, &FieldPath, &str)| {
            warnings::each(&mut out, &path.child(list), items(spec, list), warn);
        };
        addresses("clusterIPs", warnings::address);
        addresses("externalIPs", warnings::address);
        addresses("loadBalancerSourceRanges", warnings::range);
        let balancer = "loadBalancerIP";
        warnings::address(&mut out, &path.child(balancer), text(spec, balancer));
        if headless && external {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if headless && text(spec, "sessionAffinity") != "None" && has(spec, "sessionAffinity") {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
        if external && ty == "ExternalName" {
            out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
        }
        if external && !headless && ty != "ExternalName" {
            let why = "is deprecated and may no longer be implemented in some clusters";
            out.push(format!("spec.externalIPs {why}"));
        }
        if !text(spec, "loadBalancerIP").is_empty() && ty != "LoadBalancer" {
            out.push(ignored("spec.loadBalancerIP", headless));
        }
        if !text(spec, "externalName").is_empty() && ty != "ExternalName" {
            let why = "is ignored when spec.type is not \"ExternalName\"";
            out.push(format!("spec.externalName {why}"));
        }
        if text(spec, "trafficDistribution") == "PreferClose" {
            let why = "is deprecated; use \"PreferSameZone\"";
            out.push(format!("spec.trafficDistribution: \"PreferClose\" {why}"));
        }
        out
    }

    fn claims(&self, obj: &Value, _old: Option<&Value>) -> Vec<Claim> {
        let spec = at(obj, "spec");
        let mut claims = Vec::new();
        let headless = text(spec, "clusterIP") == "None";
        if needs_cluster_ip(spec) && !headless {
            let given = items(spec, "clusterIPs").iter().map(Value::as_str);
            let given: Vec<Option<&str>> = given.collect();
            let chosen = families_of(spec);
            let count = given.len().max(chosen.len()).max(1);
            claims.extend((0..count).map(|i| {
                let ip = given.get(i).copied().flatten();
                let of_ip = |ip: &str| {
                    let six = ip.contains(':');
                    if six { IpFamily::Six } else { IpFamily::Four }
                };
                let family = ip.map(of_ip).or(chosen.get(i).copied());
                Claim::ServiceIp {
                    ip: ip.map(str::to_owned),
                    family: family.unwrap_or(IpFamily::Four),
                    field: format!("/spec/clusterIPs/{i}"),
                }
            }));
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
        if let Some(first) = items(spec, "clusterIPs").first().cloned()
            && text(spec, "clusterIP").is_empty()
        {
            set(spec, "clusterIP", first);
        }
    }

    /// Since v1.36 a DNS label: it may start with a digit.
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        crate::meta::name_is_label(name, generate)
    }
}

/// The older annotation of what `trafficDistribution` says now.
const OLD_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

/// Upstream has this warning for headless Services alone, and says nothing of the other types.
fn ignored(field: &str, headless: bool) -> String {
    if headless {
        format!("{field} is ignored for headless services")
    } else {
        format!("{field} is ignored when spec.type is not \"LoadBalancer\"")
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

/// The families that it says.
fn families_of(spec: &Value) -> Vec<IpFamily> {
    let words = items(spec, "ipFamilies").iter().filter_map(Value::as_str);
    words.filter_map(IpFamily::of_word).collect()
}

/// Whether it has no cluster IPs, and nobody but its user knows its endpoints: it may have families
/// that the cluster's Services have not.
fn is_bare(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None" && is_empty(at(spec, "selector"))
}

fn is_single(spec: &Value) -> bool {
    text(spec, "ipFamilyPolicy") == "SingleStack"
}

fn same(fields: &[&str], spec: &Value, was: &Value) -> bool {
    fields.iter().all(|f| at(spec, f) == at(was, f))
}

/// A Service that prefers two families and goes on to do so keeps what it has: it neither gets nor
/// loses an address because the cluster has other families now.
fn stays_preferred(spec: &Value, was: &Value) -> bool {
    let prefers = |s: &Value| text(s, "ipFamilyPolicy") == "PreferDualStack";
    let kept = ["type", "clusterIP", "clusterIPs", "ipFamilies"];
    needs_cluster_ip(spec) && prefers(spec) && prefers(was) && same(&kept, spec, was)
}

/// The families of addresses, as upstream chooses them: the policy, and which ones.
fn families(spec: &mut Value, old: Option<&Value>, cluster: Families) {
    if !needs_cluster_ip(spec) || old.is_some_and(|was| stays_preferred(spec, was)) {
        return;
    }
    if !has(spec, "ipFamilyPolicy") {
        let before = old.map(|o| at(o, "ipFamilyPolicy"));
        let policy = match before.filter(|p| p.is_string()) {
            Some(before) => before.clone(),
            None if is_bare(spec) => "RequireDualStack".into(),
            None => "SingleStack".into(),
        };
        set(spec, "ipFamilyPolicy", policy);
    }
    if let Some(was) = old.filter(|_| is_single(spec)) {
        // That policy alone asks to give the second family back.
        let addresses = same(&["clusterIP", "clusterIPs"], spec, was);
        let families = same(&["ipFamilies"], spec, was);
        for (list, unchanged) in [("clusterIPs", addresses), ("ipFamilies", families)] {
            if let Some(Value::Array(all)) = spec.get_mut(list).filter(|_| unchanged) {
                all.truncate(1);
            }
        }
    }
    let mut chosen = items(spec, "ipFamilies").to_vec();
    // Fewer than there were are refused, not filled up again.
    let had_two = old.is_some_and(|was| items(was, "ipFamilies").len() == 2);
    if chosen.len() == 1 && had_two && !is_single(spec) {
        return;
    }
    // Addresses that were asked for say their families.
    for ip in items(spec, "clusterIPs").iter().skip(chosen.len()) {
        let family = match ip.as_str().and_then(|ip| ip.parse().ok()) {
            Some(ip) => IpFamily::of(ip),
            None => break,
        };
        if !cluster.has(family) {
            // Refused where it is checked, by the address that was asked for.
            return;
        }
        chosen.push(family.word().into());
    }
    if chosen.is_empty() {
        chosen.push(cluster.primary.word().into());
    }
    let one = match chosen.as_slice() {
        [one] => one.as_str().and_then(IpFamily::of_word),
        _ => None,
    };
    if let Some(one) = one.filter(|_| !is_single(spec) && (cluster.dual || is_bare(spec))) {
        chosen.push(one.other().word().into());
    }
    set(spec, "ipFamilies", Value::Array(chosen));
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
            if int(p, "nodePort").unwrap_or(0) == 0
                && let Some(n) = before.filter(|n| *n != 0 && !taken.contains(n))
            {
                set(p, "nodePort", n);
            }
        }
    }
    if needs_health_port(was)
        && needs_health_port(spec)
        && int(spec, "healthCheckNodePort").unwrap_or(0) == 0
        && let Some(n) = int(was, "healthCheckNodePort")
    {
        set(spec, "healthCheckNodePort", n);
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
