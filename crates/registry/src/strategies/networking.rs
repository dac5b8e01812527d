//! Ingresses, network policies, addresses, disruption budgets.

use api::cidr::Cidr;
use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use crate::check::{
    Errors, IMMUTABLE, at, at_most_100_percent, cidr, dns_label, dns_subdomain, domain_path, fill,
    has, immutable, int, int_or_percent, invalid, invalid_each, items, items_mut, label_selector,
    make, not_negative, one_of, optional_word, port, port_or_name, required_text, set, text,
};
use crate::status_writes::METADATA;
use crate::strategies::conditions::conditions;
use crate::strategies::warnings;
use crate::strategy::{Context, Strategy};

/// The strategy of ingress classes.
pub struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, obj: &mut Value) {
        if let Some(p) = obj
            .pointer_mut("/spec/parameters")
            .filter(|p| p.is_object())
        {
            fill(p, "scope", "Cluster");
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        controller(
            &mut errs,
            &path.child("controller"),
            text(spec, "controller"),
        );
        if has(spec, "parameters") {
            parameters(&mut errs, &path.child("parameters"), at(spec, "parameters"));
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("spec");
        immutable(
            &mut errs,
            &path,
            at(obj, "spec"),
            at(old, "spec"),
            "controller",
        );
        errs
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// Who serves the ingresses of a class: a domain and a path.
fn controller(errs: &mut Errors, path: &FieldPath, value: &str) {
    if value.len() > 250 {
        errs.push(FieldError::too_long(path, 250));
    }
    domain_path(errs, path, value);
}

/// Where the configuration of a class is.
fn parameters(errs: &mut Errors, path: &FieldPath, p: &Value) {
    if has(p, "apiGroup") {
        dns_subdomain(errs, &path.child("apiGroup"), text(p, "apiGroup"));
    }
    for field in ["kind", "name"] {
        let path = path.child(field);
        match text(p, field) {
            "" => errs.push(FieldError::required(&path, "")),
            name => invalid_each(errs, &path, name, api::names::is_path_segment_name(name)),
        }
    }
    let (scope, inside) = (text(p, "scope"), path.child("namespace"));
    match scope {
        _ if !has(p, "scope") => errs.push(FieldError::required(&path.child("scope"), "")),
        "Namespace" if !has(p, "namespace") => {
            let why = "`parameters.scope` is set to 'Namespace'";
            errs.push(FieldError::required(&inside, why));
        }
        "Namespace" => dns_label(errs, &inside, text(p, "namespace")),
        "Cluster" if has(p, "namespace") => {
            let why = "`parameters.scope` is set to 'Cluster'";
            errs.push(FieldError::forbidden(&inside, why));
        }
        "Cluster" => {}
        other => one_of(errs, &path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

/// The strategy of network policies.
pub struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::network_policy(obj)
    }
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        if items(spec, "policyTypes").is_empty() {
            let out = !items(spec, "egress").is_empty();
            set(
                spec,
                "policyTypes",
                if out {
                    json!(["Ingress", "Egress"])
                } else {
                    json!(["Ingress"])
                },
            );
        }
        for list in ["ingress", "egress"] {
            for rule in items_mut(spec, list) {
                for p in items_mut(rule, "ports") {
                    fill(p, "protocol", "TCP");
                }
            }
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        label_selector(
            &mut errs,
            &path.child("podSelector"),
            at(spec, "podSelector"),
        );
        for (list, peers) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in items(spec, list).iter().enumerate() {
                let path = path.child(list).index(i);
                for (j, p) in items(rule, "ports").iter().enumerate() {
                    policy_port(&mut errs, &path.child("ports").index(j), p);
                }
                for (j, p) in items(rule, peers).iter().enumerate() {
                    peer(&mut errs, &path.child(peers).index(j), p);
                }
            }
        }
        let types = items(spec, "policyTypes");
        if types.len() > 2 {
            let why = "may not specify more than two policyTypes";
            invalid(
                &mut errs,
                &path.child("policyTypes"),
                at(spec, "policyTypes"),
                why,
            );
            return errs;
        }
        for (i, t) in types.iter().enumerate() {
            let path = path.child("policyTypes").index(i);
            one_of(
                &mut errs,
                &path,
                t.as_str().unwrap_or(""),
                &["Ingress", "Egress"],
            );
        }
        errs
    }
    fn has_generation(&self) -> bool {
        true
    }
}

fn policy_port(errs: &mut Errors, path: &FieldPath, p: &Value) {
    optional_word(errs, path, p, "protocol", &["TCP", "UDP", "SCTP"]);
    if has(p, "port") {
        port_or_name(errs, &path.child("port"), at(p, "port"));
    }
    let Some(end) = int(p, "endPort") else {
        return;
    };
    let end_path = path.child("endPort");
    match int(p, "port") {
        Some(start) => {
            if end < start {
                let why = "must be greater than or equal to `port`";
                invalid(errs, &end_path, &start.into(), why);
            }
            port(errs, &end_path, at(p, "endPort"));
        }
        None => {
            let why = if has(p, "port") {
                "may not be specified when `port` is non-numeric"
            } else {
                "may not be specified when `port` is not specified"
            };
            invalid(errs, &end_path, &end.into(), why);
        }
    }
}

fn peer(errs: &mut Errors, path: &FieldPath, p: &Value) {
    for f in ["podSelector", "namespaceSelector"] {
        label_selector(errs, &path.child(f), at(p, f));
    }
    let block = at(p, "ipBlock");
    if block.is_null() {
        if !has(p, "podSelector") && !has(p, "namespaceSelector") {
            errs.push(FieldError::required(path, "must specify a peer"));
        }
        return;
    }
    if has(p, "podSelector") || has(p, "namespaceSelector") {
        let why = "may not specify both ipBlock and another peer";
        errs.push(FieldError::forbidden(path, why));
    }
    let path = path.child("ipBlock");
    if text(block, "cidr").is_empty() {
        errs.push(FieldError::required(&path.child("cidr"), ""));
        return;
    }
    cidr(errs, &path.child("cidr"), text(block, "cidr"));
    for (i, e) in items(block, "except").iter().enumerate() {
        let (path, except) = (path.child("except").index(i), e.as_str().unwrap_or(""));
        cidr(errs, &path, except);
        if is_strict_subset(text(block, "cidr"), except) == Some(false) {
            let why = "must be a strict subset of `cidr`";
            errs.push(FieldError::invalid_str(&path, except, why));
        }
    }
}

/// Whether one network lies in another and is smaller; `None` if either is none.
fn is_strict_subset(outer: &str, inner: &str) -> Option<bool> {
    let network = |text: &str| -> Option<(std::net::IpAddr, u32)> {
        let (address, length) = text.split_once('/')?;
        Some((address.parse().ok()?, length.parse().ok()?))
    };
    let ((outer, length), (inner, longer)) = (network(outer)?, network(inner)?);
    let differ = match (outer, inner) {
        (std::net::IpAddr::V4(a), std::net::IpAddr::V4(b)) => {
            let differ = a.to_bits() ^ b.to_bits();
            differ.checked_shr(32u32.checked_sub(length)?).unwrap_or(0) != 0
        }
        (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) => {
            let differ = a.to_bits() ^ b.to_bits();
            differ.checked_shr(128u32.checked_sub(length)?).unwrap_or(0) != 0
        }
        _ => true,
    };
    Some(!differ && longer > length)
}

/// The strategy of addresses of services: the name is the address.
pub struct IpAddress;

impl Strategy for IpAddress {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), FieldPath::new("spec").child("parentRef"));
        let parent = at(at(obj, "spec"), "parentRef");
        if parent.is_null() {
            errs.push(FieldError::required(&path, ""));
            return errs;
        }
        // The group of Services has no name.
        if has(parent, "group") && !text(parent, "group").is_empty() {
            dns_subdomain(&mut errs, &path.child("group"), text(parent, "group"));
        }
        for (field, required) in [("resource", true), ("name", true), ("namespace", false)] {
            if required && !required_text(&mut errs, &path, parent, field) {
                continue;
            }
            let value = text(parent, field);
            if !value.is_empty() {
                let wrong = names::is_path_segment_name(value);
                invalid_each(&mut errs, &path.child(field), value, wrong);
            }
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        immutable(
            &mut errs,
            &FieldPath::new("spec"),
            at(obj, "spec"),
            at(old, "spec"),
            "parentRef",
        );
        errs
    }
    fn validate_name(&self, name: &str, _generate: bool) -> Vec<String> {
        match name.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(_) => vec!["must be a canonical form IP address".to_owned()],
            Err(_) => vec!["not a valid IP address".to_owned()],
        }
    }
}

/// The strategy of ranges of service addresses.
pub struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({}));
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        service_cidrs(obj)
    }
    /// The ranges stay as they are; one of the other family may be added to one.
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), FieldPath::new("spec").child("cidrs"));
        let (new, had) = (
            items(at(obj, "spec"), "cidrs"),
            items(at(old, "spec"), "cidrs"),
        );
        let adds = (had.len(), new.len()) == (1, 2);
        if !adds && had.len() != new.len() {
            invalid(&mut errs, &path, &json!(new), IMMUTABLE);
            return errs;
        }
        for (i, (n, _)) in new.iter().zip(had).enumerate().filter(|(_, (n, h))| n != h) {
            invalid(&mut errs, &path.index(i), n, IMMUTABLE);
        }
        if adds {
            errs.extend(service_cidrs(obj));
        }
        errs
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
}

/// What is wrong with the ranges of a ServiceCIDR.
fn service_cidrs(obj: &Value) -> Errors {
    let (mut errs, path) = (Errors::new(), FieldPath::new("spec").child("cidrs"));
    let all = items(at(obj, "spec"), "cidrs");
    if all.is_empty() {
        errs.push(FieldError::required(&path, "at least one CIDR required"));
    } else if all.len() > 2 {
        // Upstream shows the specification here, as its Go type has it.
        let why = "may only hold up to 2 values";
        invalid(&mut errs, &path, &json!({ "CIDRs": all }), why);
    } else {
        let texts: Vec<&str> = all.iter().map(|c| c.as_str().unwrap_or("")).collect();
        for (i, text) in texts.iter().enumerate() {
            cidr(&mut errs, &path.index(i), text);
        }
        let families = texts
            .iter()
            .map(|text| Cidr::of_object(text).map(Cidr::family));
        if let [Some(one), Some(other)] = families.collect::<Vec<_>>()[..]
            && one == other
        {
            let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 \
                       and 2001:db8::/64";
            invalid(&mut errs, &path, &json!(all), why);
        }
    }
    errs
}

const BUDGET_COUNTS: [&str; 4] = [
    "disruptionsAllowed",
    "currentHealthy",
    "desiredHealthy",
    "expectedPods",
];

/// The strategy of disruption budgets.
pub struct DisruptionBudget;

impl Strategy for DisruptionBudget {
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        let zero = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
        set(obj, "status", zero);
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            let (status, path) = (at(obj, "status"), FieldPath::new("status"));
            conditions(&mut errs, &path, status);
            for f in BUDGET_COUNTS {
                not_negative(&mut errs, &path, status, f);
            }
            return errs;
        }
        if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
            let why = "minAvailable and maxUnavailable cannot be both set";
            invalid(&mut errs, &path, spec, why);
        }
        for f in ["minAvailable", "maxUnavailable"] {
            if has(spec, f) {
                int_or_percent(&mut errs, &path.child(f), at(spec, f));
                at_most_100_percent(&mut errs, &path.child(f), at(spec, f));
            }
        }
        label_selector(&mut errs, &path.child("selector"), at(spec, "selector"));
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        optional_word(
            &mut errs,
            &path,
            spec,
            "unhealthyPodEvictionPolicy",
            &policies,
        );
        errs
    }
    fn has_generation(&self) -> bool {
        true
    }
}
