//! Ingresses, and where a load balancer is reached, as Services have it too.

use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use super::warnings;
use crate::check::{
    Errors, at, dns_label, dns_subdomain, has, int, invalid, invalid_each, items, one_of, port,
    port_or_name, set, text,
};
use crate::strategy::{Context, Strategy};

/// What named the class before there was a field for it.
const CLASS: &str = "kubernetes.io/ingress.class";

/// The strategy of ingresses.
pub struct Ingress;

impl Strategy for Ingress {
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"loadBalancer": {}}));
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = checked(obj, None, cx);
        let (class, note) = (
            at(at(obj, "spec"), "ingressClassName"),
            at(at(obj, "metadata"), "annotations"),
        );
        if has(note, CLASS) && !class.is_null() && at(note, CLASS) != class {
            let why = "must match `ingressClassName` when both are specified";
            let path = FieldPath::new("annotations").child(CLASS);
            errs.push(FieldError::invalid_str(&path, text(note, CLASS), why));
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        checked(obj, Some(old), cx)
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        warnings::load_balancer(at(obj, "status"))
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let notes = at(at(obj, "metadata"), "annotations");
        let named = has(at(obj, "spec"), "ingressClassName");
        if old.is_none() && has(notes, CLASS) && !named {
            return vec![format!(
                "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
            )];
        }
        Vec::new()
    }
    fn has_generation(&self) -> bool {
        true
    }
}

fn checked(obj: &Value, old: Option<&Value>, cx: &Context<'_>) -> Errors {
    let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
    if cx.subresource == "status" {
        let path = FieldPath::new("status").child("loadBalancer");
        let balancer = at(at(obj, "status"), "loadBalancer");
        for (i, ingress) in items(balancer, "ingress").iter().enumerate() {
            address(&mut errs, &path.child("ingress").index(i), ingress);
        }
        return errs;
    }
    // A name that was wrong before may stay.
    let named = old.map_or(&[][..], |old| items(at(old, "spec"), "tls"));
    let mut named = named.iter().map(|t| text(t, "secretName"));
    let any_secret = named.any(|n| !n.is_empty() && !names::is_dns1123_subdomain(n).is_empty());
    let rules = items(spec, "rules");
    if rules.is_empty() && !has(spec, "defaultBackend") {
        let why = "either `defaultBackend` or `rules` must be specified";
        errs.push(FieldError::invalid(&path, &json!([]), why));
    }
    if has(spec, "defaultBackend") {
        backend(
            &mut errs,
            &path.child("defaultBackend"),
            at(spec, "defaultBackend"),
        );
    }
    for (i, r) in rules.iter().enumerate() {
        rule(&mut errs, &path.child("rules").index(i), r);
    }
    for (i, t) in items(spec, "tls").iter().enumerate() {
        for (j, h) in items(t, "hosts").iter().enumerate() {
            let path = path.child("tls").index(i).child("hosts").index(j);
            host(&mut errs, &path, h.as_str().unwrap_or(""));
        }
        let name = text(t, "secretName");
        if !name.is_empty() && !any_secret {
            let path = path.child("tls").index(i).child("secretName");
            dns_subdomain(&mut errs, &path, name);
        }
    }
    let class = text(spec, "ingressClassName");
    if has(spec, "ingressClassName") {
        dns_subdomain(&mut errs, &path.child("ingressClassName"), class);
    }
    errs
}

/// Where a load balancer is reached: by an address, or by a name.
pub fn address(errs: &mut Errors, path: &FieldPath, ingress: &Value) {
    let (ip, name) = (text(ingress, "ip"), text(ingress, "hostname"));
    if !ip.is_empty() {
        crate::check::ip(errs, &path.child("ip"), ip);
    }
    if !name.is_empty() {
        let path = path.child("hostname");
        dns_subdomain(errs, &path, name);
        if name.parse::<std::net::IpAddr>().is_ok() {
            let why = "must be a DNS name, not an IP address";
            errs.push(FieldError::invalid_str(&path, name, why));
        }
    }
}

fn host(errs: &mut Errors, path: &FieldPath, h: &str) {
    match h.strip_prefix("*.") {
        Some(rest) => dns_subdomain(errs, path, rest),
        None if h.contains('*') => {
            invalid_each(errs, path, h, names::is_wildcard_dns1123_subdomain(h));
        }
        None => dns_subdomain(errs, path, h),
    }
}

fn rule(errs: &mut Errors, path: &FieldPath, r: &Value) {
    let name = text(r, "host");
    if !name.is_empty() {
        if name.parse::<std::net::IpAddr>().is_ok() {
            let why = "must be a DNS name, not an IP address";
            errs.push(FieldError::invalid_str(&path.child("host"), name, why));
        }
        host(errs, &path.child("host"), name);
    }
    if !has(r, "http") {
        return;
    }
    let path = path.child("http").child("paths");
    let paths = items(at(r, "http"), "paths");
    if paths.is_empty() {
        errs.push(FieldError::required(&path, ""));
    }
    for (i, p) in paths.iter().enumerate() {
        let path = path.index(i);
        let (ty, value) = (text(p, "pathType"), text(p, "path"));
        match ty {
            "" => errs.push(FieldError::required(
                &path.child("pathType"),
                "pathType must be specified",
            )),
            "Exact" | "Prefix" => {
                if !value.starts_with('/') {
                    errs.push(FieldError::invalid_str(
                        &path.child("path"),
                        value,
                        "must be an absolute path",
                    ));
                }
                for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                    if value.contains(bad) {
                        let why = format!("must not contain '{bad}'");
                        errs.push(FieldError::invalid_str(&path.child("path"), value, &why));
                    }
                }
                for bad in ["/..", "/."] {
                    if value.ends_with(bad) {
                        let why = format!("cannot end with '{bad}'");
                        errs.push(FieldError::invalid_str(&path.child("path"), value, &why));
                    }
                }
            }
            "ImplementationSpecific" => {
                if !value.is_empty() && !value.starts_with('/') {
                    errs.push(FieldError::invalid_str(
                        &path.child("path"),
                        value,
                        "must be an absolute path",
                    ));
                }
            }
            other => {
                let words = ["Exact", "ImplementationSpecific", "Prefix"];
                one_of(errs, &path.child("pathType"), other, &words);
            }
        }
        backend(errs, &path.child("backend"), at(p, "backend"));
    }
}

fn backend(errs: &mut Errors, path: &FieldPath, b: &Value) {
    let service = at(b, "service");
    match (has(b, "service"), has(b, "resource")) {
        (true, true) => {
            let why = "cannot set both resource and service backends";
            invalid(errs, path, &"".into(), why);
        }
        (false, false) => {
            let why = "resource or service backend is required";
            invalid(errs, path, &"".into(), why);
        }
        (false, true) => {
            let (r, path) = (at(b, "resource"), path.child("resource"));
            if has(r, "apiGroup") {
                dns_subdomain(errs, &path.child("apiGroup"), text(r, "apiGroup"));
            }
            for field in ["kind", "name"] {
                let (path, name) = (path.child(field), text(r, field));
                match name {
                    "" => errs.push(FieldError::required(&path, "")),
                    name => invalid_each(errs, &path, name, names::is_path_segment_name(name)),
                }
            }
        }
        (true, false) => {
            let (whole, path) = (path, path.child("service"));
            match text(service, "name") {
                "" => errs.push(FieldError::required(&path.child("name"), "")),
                name => dns_label(errs, &path.child("name"), name),
            }
            let (p, path) = (at(service, "port"), path.child("port"));
            match (text(p, "name").is_empty(), int(p, "number").unwrap_or(0)) {
                (false, n) if n != 0 => {
                    let why = "cannot set both port name & port number";
                    invalid(errs, whole, &"".into(), why);
                }
                (true, 0) => {
                    let why = "port name or number is required";
                    errs.push(FieldError::required(whole, why));
                }
                (false, _) => port_or_name(errs, &path.child("name"), at(p, "name")),
                (true, _) => port(errs, &path.child("number"), at(p, "number")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Value), old: Option<&Value>) -> Vec<String> {
        let backend = json!({ "service": { "name": "s", "port": { "number": 80 } } });
        let mut ingress = json!({ "metadata": {}, "spec": {
            "rules": [{ "http": { "paths": [{ "path": "/a", "pathType": "Exact", "backend": backend }] } }],
        } });
        change(&mut ingress);
        let cx = Context::of_nobody();
        let found = match old {
            None => Ingress.validate(&ingress, &cx),
            Some(old) => Ingress.validate_update(&ingress, old, &cx),
        };
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn classes_agree_and_paths_and_names_are_plain() {
        let none = Vec::<String>::new();
        let class = |annotation: &str| {
            let (annotation, field) = (annotation.to_owned(), "nginx");
            move |i: &mut Value| {
                i["metadata"]["annotations"] = json!({ CLASS: annotation });
                i["spec"]["ingressClassName"] = field.into();
            }
        };
        assert_eq!(wrong(class("nginx"), None), none);
        assert_eq!(
            wrong(class("other"), None),
            [
                "annotations.kubernetes.io/ingress.class: Invalid value: \"other\": must match `ingressClassName` when both are specified"
            ]
        );
        assert_eq!(wrong(class("other"), Some(&json!({}))), none);
        let path = |path: &'static str| {
            move |i: &mut Value| i["spec"]["rules"][0]["http"]["paths"][0]["path"] = path.into()
        };
        let at = "spec.rules[0].http.paths[0].path: Invalid value:";
        assert_eq!(
            wrong(path("/a/.."), None),
            [format!("{at} \"/a/..\": cannot end with '/..'")]
        );
        assert_eq!(
            wrong(path("/a/."), None),
            [format!("{at} \"/a/.\": cannot end with '/.'")]
        );
        assert_eq!(wrong(path("/a.b"), None), none);
        let secret = |i: &mut Value| i["spec"]["tls"] = json!([{ "secretName": "No_Name" }]);
        assert!(
            wrong(secret, None)[0]
                .starts_with("spec.tls[0].secretName: Invalid value: \"No_Name\"")
        );
        let mut old = json!({ "spec": {} });
        assert_eq!(wrong(secret, Some(&old)).len(), 1);
        secret(&mut old);
        assert_eq!(wrong(secret, Some(&old)), none);
        let backend = |i: &mut Value| {
            i["spec"]["defaultBackend"] =
                json!({ "service": { "name": "s", "port": { "name": "p", "number": 1 } } })
        };
        assert_eq!(
            wrong(backend, None),
            ["spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number"]
        );
    }

    #[test]
    fn a_status_has_addresses_and_names() {
        let cx = Context {
            subresource: "status",
            ..Context::of_nobody()
        };
        let say = |ingress: Value| {
            let object = json!({ "status": { "loadBalancer": { "ingress": [ingress] } } });
            Ingress.validate_update(&object, &json!({}), &cx).len()
        };
        assert_eq!(say(json!({ "ip": "192.0.2.1" })), 0);
        assert_eq!(say(json!({ "hostname": "a.example" })), 0);
        assert_eq!(say(json!({ "ip": "x" })), 1);
        assert_eq!(say(json!({ "hostname": "192.0.2.1" })), 1);
        assert_eq!(say(json!({ "hostname": "A b" })), 1);
    }
}
