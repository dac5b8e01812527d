//! Namespaces, nodes, service accounts, events and endpoints.

use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use super::service::endpoint_ip;
use super::warnings;
use crate::check::{
    Errors, at, cidr, dns_label, dns_subdomain, fill_zero, has, invalid, ip, is_empty, items,
    items_mut, make, mirror, no_equal_items, port, qualified_name, required_word, set, text, unset,
};
use crate::strategy::{Context, Strategy, keep_other_half};

/// The strategy of namespaces.
pub struct Namespace;

impl Strategy for Namespace {
    fn default(&self, obj: &mut Value) {
        let name = text(at(obj, "metadata"), "name").to_owned();
        if let Some(labels) = make(obj, "metadata")
            .filter(|_| !name.is_empty())
            .and_then(|m| make(m, "labels"))
        {
            set(labels, "kubernetes.io/metadata.name", name);
        }
        if let Some(status) = make(obj, "status") {
            fill_zero(status, "phase", "Active");
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"phase": "Active"}));
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        let mut all = items(spec, "finalizers").to_vec();
        if !all.iter().any(|f| f.as_str() == Some("kubernetes")) {
            all.push("kubernetes".into());
            set(spec, "finalizers", all);
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        if cx.subresource == "finalize" {
            // Only here may the finalizers of the spec change.
            set(obj, "status", at(old, "status").clone());
            return;
        }
        keep_other_half(obj, old, cx.subresource);
        if cx.subresource.is_empty() {
            set(obj, "spec", at(old, "spec").clone());
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("spec").child("finalizers");
        for f in items(at(obj, "spec"), "finalizers") {
            let f = f.as_str().unwrap_or("");
            qualified_name(&mut errs, &path, f);
            if !f.contains('/') && f != "kubernetes" && names::is_qualified_name(f).is_empty() {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                errs.push(FieldError::invalid_str(&path, f, why));
            }
        }
        errs
    }
    fn validate_update(&self, obj: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            let deleted = has(at(obj, "metadata"), "deletionTimestamp");
            let phase = text(at(obj, "status"), "phase");
            let path = FieldPath::new("status").child("Phase");
            let why = match (deleted, phase) {
                (false, p) if p != "Active" => {
                    "may only be 'Active' if `deletionTimestamp` is empty"
                }
                (true, p) if p != "Terminating" => {
                    "may only be 'Terminating' if `deletionTimestamp` is not empty"
                }
                _ => return errs,
            };
            errs.push(FieldError::invalid_str(&path, phase, why));
        }
        errs
    }
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        crate::meta::name_is_label(name, generate)
    }
}

/// The strategy of nodes. Their status may be given on creation: the kubelet registers with it.
pub struct Node;

impl Strategy for Node {
    fn default(&self, obj: &mut Value) {
        let capacity = obj
            .pointer("/status/capacity")
            .filter(|c| c.is_object())
            .cloned();
        if let Some(c) = capacity
            && let Some(status) = make(obj, "status")
        {
            crate::check::fill(status, "allocatable", c);
        }
        if let Some(spec) = obj.get_mut("spec").filter(|s| s.is_object()) {
            mirror(spec, "podCIDR", "podCIDRs", None);
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let spec = at(obj, "spec");
        let path = FieldPath::new("metadata").child("taints");
        super::scheduling::taints(&mut errs, &path, items(spec, "taints"));
        let ranges = items(spec, "podCIDRs");
        let path = FieldPath::new("spec").child("podCIDRs");
        for (i, c) in ranges.iter().enumerate() {
            cidr(&mut errs, &path.index(i), c.as_str().unwrap_or(""));
        }
        let six = |v: &Value| v.as_str().is_some_and(|s| s.contains(':'));
        let same = matches!(ranges, [a, b] if six(a) == six(b));
        if same || ranges.len() > 2 {
            let why = "may specify no more than one CIDR for each IP family";
            invalid(&mut errs, &path, at(spec, "podCIDRs"), why);
        }
        for list in ["capacity", "allocatable"] {
            for (name, v) in at(at(obj, "status"), list)
                .as_object()
                .into_iter()
                .flatten()
            {
                let path = FieldPath::new("status").child(list).key(name);
                super::quantity::amount(&mut errs, &path, name, v);
            }
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("status").child("addresses");
        no_equal_items(&mut errs, &path, items(at(obj, "status"), "addresses"));
        let (spec, was) = (at(obj, "spec"), at(old, "spec"));
        let fixed = [("podCIDRs", "podCIDR"), ("providerID", "providerID")];
        for (field, shown) in fixed {
            if !is_empty(at(was, field)) && at(spec, field) != at(was, field) {
                let why = format!("node updates may not change {shown} except from \"\" to valid");
                errs.push(FieldError::forbidden(
                    &FieldPath::new("spec").child(field),
                    &why,
                ));
            }
        }
        errs
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let spec = at(obj, "spec");
        let mut out = Vec::new();
        if has(spec, "configSource") {
            out.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(spec, "externalID").is_empty() {
            out.push(
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(),
            );
        }
        let path = FieldPath::new("spec").child("podCIDRs");
        warnings::each(&mut out, &path, items(spec, "podCIDRs"), warnings::range);
        out
    }
}

/// The strategy of service accounts.
pub struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        if is_empty(at(obj, "secrets")) {
            unset(obj, "secrets");
        }
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let notes = at(at(obj, "metadata"), "annotations");
        if text(notes, "kubernetes.io/enforce-mountable-secrets") == "true" {
            return vec!["metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets".to_owned()];
        }
        Vec::new()
    }
}

/// The strategy of events, in the core group and in events.k8s.io: both serve the same objects,
/// stored in the core form.
pub struct Event;

impl Strategy for Event {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let own = text(at(obj, "metadata"), "namespace");
        let of = text(at(obj, "involvedObject"), "namespace");
        let new_form = has(obj, "eventTime");
        let fits = match (new_form, of) {
            (false, "") => own.is_empty() || own == "default",
            (false, of) => own == of,
            (true, "") => own == "default" || own == "kube-system",
            (true, _) => true,
        };
        if !fits {
            let path = FieldPath::new("involvedObject").child("namespace");
            errs.push(FieldError::invalid_str(
                &path,
                of,
                "does not match event.namespace",
            ));
        }
        if new_form {
            new_event(&mut errs, obj);
        }
        dns_subdomain(&mut errs, &FieldPath::new("namespace"), own);
        errs
    }

    fn convert(&self, obj: &mut Value, to_version: &str, group: &str) {
        let to_new = group == "events.k8s.io";
        let is_new = text(obj, "apiVersion").starts_with("events.k8s.io/");
        if to_new != is_new {
            rename_fields(obj, to_new);
        }
        let version = if group.is_empty() {
            to_version.to_owned()
        } else {
            format!("{group}/{to_version}")
        };
        set(obj, "apiVersion", version);
    }
}

/// The fields that have another name in events.k8s.io.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename_fields(obj: &mut Value, to_new: bool) {
    let Some(map) = obj.as_object_mut() else {
        return;
    };
    for (old, new) in EVENT_FIELDS {
        let (from, to) = if to_new { (old, new) } else { (new, old) };
        if let Some(v) = map.remove(*from) {
            map.insert((*to).to_owned(), v);
        }
    }
}

fn new_event(errs: &mut Errors, obj: &Value) {
    let reporter = text(obj, "reportingComponent");
    let path = FieldPath::new("reportingController");
    if reporter.is_empty() {
        errs.push(FieldError::required(&path, ""));
    }
    qualified_name(errs, &path, reporter);
    for (field, limit, required) in [
        ("reportingInstance", 128, true),
        ("action", 128, true),
        ("reason", 128, true),
        ("message", 1024, false),
    ] {
        let (value, path) = (text(obj, field), FieldPath::new(field));
        if required && value.is_empty() {
            errs.push(FieldError::required(&path, ""));
        }
        if value.len() > limit {
            let why = format!("can have at most {limit} characters");
            errs.push(FieldError::invalid_str(&path, "", &why));
        }
    }
}

/// The strategy of endpoints.
pub struct Endpoints;

impl Strategy for Endpoints {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::endpoints(obj)
    }
    fn default(&self, obj: &mut Value) {
        for s in items_mut(obj, "subsets") {
            for p in items_mut(s, "ports") {
                fill_zero(p, "protocol", "TCP");
            }
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        for (i, s) in items(obj, "subsets").iter().enumerate() {
            let path = FieldPath::new("subsets").index(i);
            if items(s, "addresses").is_empty() && items(s, "notReadyAddresses").is_empty() {
                let why = "must specify `addresses` or `notReadyAddresses`";
                errs.push(FieldError::required(&path, why));
            }
            for list in ["addresses", "notReadyAddresses"] {
                for (j, a) in items(s, list).iter().enumerate() {
                    address(&mut errs, &path.child(list).index(j), a);
                }
            }
            let ports = items(s, "ports");
            for (j, p) in ports.iter().enumerate() {
                let path = path.child("ports").index(j);
                match text(p, "name") {
                    "" if ports.len() > 1 => {
                        errs.push(FieldError::required(&path.child("name"), ""));
                    }
                    "" => {}
                    name => dns_label(&mut errs, &path.child("name"), name),
                }
                port(&mut errs, &path.child("port"), at(p, "port"));
                required_word(&mut errs, &path, p, "protocol", &["SCTP", "TCP", "UDP"]);
            }
        }
        errs
    }
}

fn address(errs: &mut Errors, path: &FieldPath, a: &Value) {
    let value = text(a, "ip");
    ip(errs, &path.child("ip"), value);
    let host = text(a, "hostname");
    if !host.is_empty() {
        dns_label(errs, &path.child("hostname"), host);
    }
    if has(a, "nodeName") {
        dns_subdomain(errs, &path.child("nodeName"), text(a, "nodeName"));
    }
    endpoint_ip(errs, &path.child("ip"), value);
}
