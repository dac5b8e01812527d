//! What a claim of devices may ask for.

use std::collections::BTreeMap;

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::{
    MOST_CONFIGS, MOST_REQUESTS, configuration, each, each_once, full_attribute_name, name_of,
    selectors, toleration,
};
use crate::check::{
    Errors, at, dns_label, dns_subdomain, flag, has, int, items, required_text, text,
};

const MOST_CONSTRAINTS: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_TOLERATIONS: usize = 16;
const UNKNOWN_REQUEST: &str = "must be the name of a request in the claim or the name of a request \
                               and a subrequest separated by '/'";

/// The names of a claim's requests, each with those of its alternatives.
pub struct Requests<'a>(BTreeMap<&'a str, Vec<&'a str>>);

impl<'a> Requests<'a> {
    /// `devices` is `spec.devices` of a claim.
    pub fn of(devices: &'a Value) -> Self {
        let requests = items(devices, "requests").iter();
        let named = requests.map(|r| {
            let alternatives = items(r, "firstAvailable").iter();
            (
                text(r, "name"),
                alternatives.map(|s| text(s, "name")).collect(),
            )
        });
        Self(named.collect())
    }

    fn has(&self, request: &str, alternative: Option<&str>) -> bool {
        let found = self.0.get(request);
        found.is_some_and(|all| alternative.is_none_or(|a| all.contains(&a)))
    }
}

/// A reference to a request, or to one of its alternatives (`request/alternative`).
pub fn request_reference(errs: &mut Errors, path: &FieldPath, name: &str, all: &Requests<'_>) {
    let unknown = || FieldError::invalid_str(path, name, UNKNOWN_REQUEST);
    let (request, alternative) = match name.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            errs.push(unknown());
            return;
        }
        Some((request, rest)) => (request, Some(rest)),
        None => (name, None),
    };
    dns_label(errs, path, request);
    if let Some(alternative) = alternative {
        dns_label(errs, path, alternative);
    }
    if !all.has(request, alternative) {
        errs.push(unknown());
    }
}

/// References to requests, each one once.
pub fn request_references(errs: &mut Errors, path: &FieldPath, holder: &Value, all: &Requests<'_>) {
    each_once(
        errs,
        &path.child("requests"),
        items(holder, "requests"),
        MOST_REQUESTS,
        Value::clone,
        |errs, path, name| request_reference(errs, path, name.as_str().unwrap_or_default(), all),
    );
}

/// The specification of a claim.
pub fn claim_spec(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let (path, devices) = (path.child("devices"), at(spec, "devices"));
    let requests = Requests::of(devices);
    each_once(
        errs,
        &path.child("requests"),
        items(devices, "requests"),
        MOST_REQUESTS,
        name_of,
        request,
    );
    each(
        errs,
        &path.child("constraints"),
        items(devices, "constraints"),
        MOST_CONSTRAINTS,
        |errs, path, c| constraint(errs, path, c, &requests),
    );
    each(
        errs,
        &path.child("config"),
        items(devices, "config"),
        MOST_CONFIGS,
        |errs, path, config| {
            request_references(errs, path, config, &requests);
            configuration(errs, path, config, false);
        },
    );
}

fn request(errs: &mut Errors, path: &FieldPath, request: &Value) {
    dns_label(errs, &path.child("name"), text(request, "name"));
    let alternatives = items(request, "firstAvailable");
    match (alternatives.is_empty(), at(request, "exactly")) {
        (true, Value::Null) => errs.push(FieldError::required(
            path,
            "exactly one of `exactly` or `firstAvailable` is required",
        )),
        (true, exact) => exact_request(errs, &path.child("exactly"), exact),
        (false, Value::Null) => each_once(
            errs,
            &path.child("firstAvailable"),
            alternatives,
            MOST_ALTERNATIVES,
            name_of,
            |errs, path, one| {
                dns_label(errs, &path.child("name"), text(one, "name"));
                exact_request(errs, path, one);
            },
        ),
        (false, _) => errs.push(FieldError::invalid(
            path,
            &Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        )),
    }
}

fn exact_request(errs: &mut Errors, path: &FieldPath, request: &Value) {
    if required_text(errs, path, request, "deviceClassName") {
        let class = text(request, "deviceClassName");
        dns_subdomain(errs, &path.child("deviceClassName"), class);
    }
    selectors(errs, path, request);
    allocation_mode(errs, path, request);
    each(
        errs,
        &path.child("tolerations"),
        items(request, "tolerations"),
        MOST_TOLERATIONS,
        toleration,
    );
}

fn allocation_mode(errs: &mut Errors, path: &FieldPath, request: &Value) {
    let (count, count_path) = (int(request, "count").unwrap_or(0), path.child("count"));
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errs.push(FieldError::invalid(&count_path, &count.into(), why));
        }
        "All" => {}
        "ExactCount" if count <= 0 => {
            let why = "must be greater than zero";
            errs.push(FieldError::invalid(&count_path, &count.into(), why));
        }
        "ExactCount" => {}
        other => errs.push(FieldError::not_supported(
            &path.child("allocationMode"),
            other,
            &["All", "ExactCount"],
        )),
    }
}

fn constraint(errs: &mut Errors, path: &FieldPath, constraint: &Value, requests: &Requests<'_>) {
    request_references(errs, path, constraint, requests);
    for field in ["matchAttribute", "distinctAttribute"] {
        if has(constraint, field) {
            full_attribute_name(errs, &path.child(field), text(constraint, field));
            return;
        }
    }
    errs.push(FieldError::required(
        path,
        "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple \
         fields are set",
    ));
}

/// Where a claim asks for devices as an administrator.
pub fn admin_access(devices: &Value) -> Option<usize> {
    let requests = items(devices, "requests");
    requests
        .iter()
        .position(|r| flag(at(r, "exactly"), "adminAccess"))
}
