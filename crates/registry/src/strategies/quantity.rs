//! Amounts in the checks: which resources may be named, and how much may be asked of them.

use api::{FieldError, FieldPath, Quantity, names};
use serde_json::Value;

use crate::check::{Errors, at, has, invalid, invalid_each};

/// The quantity of a value; `None` when it is none.
pub fn parse(v: &Value) -> Option<Quantity> {
    match v {
        Value::String(s) => s.parse().ok(),
        Value::Number(n) => n.to_string().parse().ok(),
        _ => None,
    }
}

/// Whether an amount has a part smaller than one.
pub fn is_fractional(v: &Value) -> bool {
    parse(v).is_some_and(|q| !q.is_whole())
}

/// How an amount is shown in messages.
pub fn show(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

/// Whether more of a resource may be used than was requested.
pub fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// Whether a resource is one of Kubernetes' own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource may be that of devices: not one of Kubernetes' own, and named so that a
/// quota can name it.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::is_qualified_name(&format!("requests.{name}")).is_empty()
}

/// Resources that come in pieces.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Resources that may be named without a prefix.
const PLAIN: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// The name of any resource.
pub fn resource_name(errs: &mut Errors, path: &FieldPath, name: &str) {
    let before = errs.len();
    invalid_each(errs, path, name, names::is_qualified_name(name));
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    let known = name.contains('/') || huge || PLAIN.contains(&name) || COUNTED.contains(&name);
    if errs.len() == before && !known {
        let why = "must be a standard resource type or fully qualified";
        errs.push(FieldError::invalid_str(path, name, why));
    }
}

/// An amount that must not be negative; whole for resources that come in pieces.
pub fn amount(errs: &mut Errors, path: &FieldPath, name: &str, v: &Value) {
    if parse(v).is_some_and(|q| q.is_negative()) {
        let why = "must be greater than or equal to 0";
        errs.push(FieldError::invalid_str(path, &show(v), why));
    }
    let extended = !is_native(name) && !name.starts_with("requests.");
    let whole = extended || COUNTED.contains(&name);
    if whole && is_fractional(v) {
        errs.push(FieldError::invalid_str(
            path,
            &show(v),
            "must be an integer",
        ));
    }
}

/// The name of a resource of a container.
pub fn container_resource(errs: &mut Errors, path: &FieldPath, name: &str) {
    resource_name(errs, path, name);
    if !name.contains('/') {
        let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name);
        if !standard && !name.starts_with("hugepages-") {
            let why = "must be a standard resource for containers";
            errs.push(FieldError::invalid_str(path, name, why));
        }
    } else if !is_native(name) && name.starts_with("requests.") {
        let why = "doesn't follow extended resource name standard";
        errs.push(FieldError::invalid_str(path, name, why));
    }
}

/// The requests and limits of a container.
pub fn requirements(errs: &mut Errors, path: &FieldPath, resources: &Value) {
    let (limits, requests) = (at(resources, "limits"), at(resources, "requests"));
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    for (name, v) in limits.as_object().into_iter().flatten() {
        let path = limit_path.key(name);
        container_resource(errs, &path, name);
        amount(errs, &path, name, v);
    }
    for (name, v) in requests.as_object().into_iter().flatten() {
        let path = request_path.key(name);
        container_resource(errs, &path, name);
        amount(errs, &path, name, v);
        against_limit(errs, &request_path, &limit_path, (name, v), limits);
    }
    let either = |f: &dyn Fn(&str) -> bool| {
        [limits, requests]
            .iter()
            .filter_map(|m| m.as_object())
            .any(|m| m.keys().any(|k| f(k)))
    };
    if either(&|k| k.starts_with("hugepages-")) && !either(&|k| k == "cpu" || k == "memory") {
        errs.push(FieldError::forbidden(
            path,
            "HugePages require cpu or memory",
        ));
    }
}

fn against_limit(
    errs: &mut Errors,
    path: &FieldPath,
    limit_path: &FieldPath,
    (name, v): (&str, &Value),
    limits: &Value,
) {
    if !has(limits, name) {
        if !overcommit_allowed(name) {
            let why = "Limit must be set for non overcommitable resources";
            errs.push(FieldError::required(limit_path, why));
        }
        return;
    }
    let limit = at(limits, name);
    let (Some(asked), Some(most)) = (parse(v), parse(limit)) else {
        return;
    };
    let shown = Value::String(show(v));
    if asked != most && !overcommit_allowed(name) {
        invalid(
            errs,
            path,
            &shown,
            &format!("must be equal to {name} limit of {}", show(limit)),
        );
    } else if asked > most {
        let why = format!(
            "must be less than or equal to {name} limit of {}",
            show(limit)
        );
        invalid(errs, path, &shown, &why);
    }
}
