//! Namespaces, nodes, service accounts and endpoints.

use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use super::service::endpoint_ip;
use super::warnings;
use crate::check::{
    Errors, above_zero, at, cidr, dns_label, dns_subdomain, fill_zero, has, invalid, ip, is_empty,
    items, items_mut, make, mirror, no_equal_items, port, qualified_name, required_word, set, text,
    unset,
};
use crate::status_writes::keep_other_half;
use crate::strategy::{Context, Strategy};

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
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
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
                let path = FieldPath::new("status").child(list).child(name);
                super::quantity::amount(&mut errs, &path, name, v);
            }
        }
        if cx.subresource.is_empty() {
            let swap = at(at(at(obj, "status"), "nodeInfo"), "swap");
            let path = FieldPath::new("metadata").child("nodeSwapStatus");
            above_zero(&mut errs, &path, swap, "capacity");
        }
        let path = FieldPath::new("status").child("declaredFeatures");
        let declared = items(at(obj, "status"), "declaredFeatures");
        declared_features(&mut errs, &path, declared);
        errs
    }
    /// The configuration that nodes once took from the API is no more.
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        for (part, field) in [("spec", "configSource"), ("status", "config")] {
            if let Some(part) = obj.get_mut(part) {
                unset(part, field);
            }
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
        if !has(at(old, "spec"), "configSource")
            && let Some(spec) = obj.get_mut("spec")
        {
            unset(spec, "configSource");
        }
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
        if text(spec, "externalID") != text(was, "externalID") {
            let path = FieldPath::new("spec").child("externalID");
            errs.push(FieldError::forbidden(&path, "may not be updated"));
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

/// Names of features, in their order: words in upper camel case, and words below them after slashes.
fn declared_features(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    let mut before: Option<&str> = None;
    for (i, name) in all.iter().enumerate() {
        let (path, name) = (path.index(i), name.as_str().unwrap_or_default());
        match before {
            Some(before) if before == name => {
                errs.push(FieldError::duplicate(&path, &name.into()));
            }
            Some(before) if before > name => {
                let why = "list must be sorted alphabetically";
                errs.push(FieldError::invalid_str(&path, name, why));
            }
            _ => {}
        }
        before = Some(name);
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        let good = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(word);
        if name.len() > names::SUBDOMAIN_BYTES {
            let most = names::SUBDOMAIN_BYTES;
            let why =
                format!("invalid feature name {name:?}: must be no more than {most} characters");
            errs.push(FieldError::invalid_str(&path, name, &why));
        } else if !good {
            let why = format!(
                "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            );
            errs.push(FieldError::invalid_str(&path, name, &why));
        }
    }
}

/// Says that pods of an account may mount the secrets that it names, and no others.
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Of the secrets of an account only the names count.
fn names_of_secrets(account: &mut Value) {
    for secret in items_mut(account, "secrets") {
        if let Some(fields) = secret.as_object_mut() {
            fields.retain(|field, _| field == "name");
        }
    }
}

/// The strategy of service accounts.
pub struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        if is_empty(at(obj, "secrets")) {
            unset(obj, "secrets");
        }
        names_of_secrets(obj);
    }
    fn prepare_update(&self, obj: &mut Value, _old: &Value, _cx: &Context<'_>) {
        names_of_secrets(obj);
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let noted = |o: &Value| has(at(at(o, "metadata"), "annotations"), MOUNTABLE);
        if !noted(obj) || old.is_some_and(noted) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
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
        subsets(obj)
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    /// What nobody changes may stay as it was let in once.
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        if at(obj, "subsets") == at(old, "subsets") {
            return Vec::new();
        }
        subsets(obj)
    }
}

fn subsets(obj: &Value) -> Errors {
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
            if has(p, "appProtocol") {
                let name = text(p, "appProtocol");
                qualified_name(&mut errs, &path.child("appProtocol"), name);
            }
        }
    }
    errs
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_what_it_has_in_order() {
        let cx = Context::of_nobody();
        let wrong = |features: &[&str]| -> Vec<String> {
            let node = json!({ "status": { "declaredFeatures": features } });
            let found = Node.validate(&node, &cx);
            found.iter().map(|e| e.field.as_str().to_owned()).collect()
        };
        let second = ["status.declaredFeatures[1]"];
        assert!(wrong(&["A", "A/b", "B"]).is_empty());
        assert_eq!(wrong(&["B", "A"]), second);
        assert_eq!(wrong(&["A", "A"]), second);
        for bad in ["a", "A/", "A b", ""] {
            assert_eq!(wrong(&[bad]), ["status.declaredFeatures[0]"], "{bad}");
        }
        let node = json!({ "status": { "capacity": { "pods": "1.5" },
            "nodeInfo": { "swap": { "capacity": 0 } } } });
        let fields = Node.validate(&node, &cx);
        let fields: Vec<&str> = fields.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            ["status.capacity.pods", "metadata.nodeSwapStatus.capacity"]
        );
    }

    #[test]
    fn accounts_name_secrets_and_nothing_else_of_them() {
        let cx = Context::of_nobody();
        let mut account = json!({ "secrets": [{ "name": "s", "kind": "Secret" }] });
        ServiceAccount.prepare_create(&mut account, &cx);
        assert_eq!(account, json!({ "secrets": [{ "name": "s" }] }));
        let noted = json!({ "metadata": { "annotations": { MOUNTABLE: "false" } } });
        assert_eq!(ServiceAccount.warnings(&noted, None).len(), 1);
        assert_eq!(ServiceAccount.warnings(&noted, Some(&account)).len(), 1);
        assert!(ServiceAccount.warnings(&noted, Some(&noted)).is_empty());
    }

    #[test]
    fn endpoints_that_nobody_changes_may_stay() {
        let cx = Context::of_nobody();
        let with = |protocol: &str| {
            json!({ "subsets": [{ "addresses": [{ "ip": "10.0.0.1" }],
                "ports": [{ "port": 80, "protocol": "TCP", "appProtocol": protocol }] }] })
        };
        assert!(
            Endpoints
                .validate(&with("kubernetes.io/h2c"), &cx)
                .is_empty()
        );
        let bad = with("a b");
        let found = Endpoints.validate(&bad, &cx);
        assert_eq!(found[0].field.as_str(), "subsets[0].ports[0].appProtocol");
        assert!(Endpoints.validate_update(&bad, &bad, &cx).is_empty());
        assert_eq!(Endpoints.validate_update(&bad, &with("h2"), &cx).len(), 1);
    }

    #[test]
    fn nodes_take_no_configuration_from_the_api() {
        let cx = Context::of_nobody();
        let mut node = json!({ "spec": { "configSource": {}, "externalID": "x" } });
        Node.prepare_create(&mut node, &cx);
        assert_eq!(node, json!({ "spec": { "externalID": "x" } }));
        let mut new = json!({ "spec": { "configSource": {} } });
        Node.prepare_update(&mut new, &node, &cx);
        assert_eq!(new, json!({ "spec": {} }));
        let found = Node.validate_update(&new, &node, &cx);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "spec.externalID: Forbidden: may not be updated"
        );
    }
}
