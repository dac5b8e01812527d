//! Kinds with a few rules each: registrations of API versions, and others.

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use crate::check::{
    Errors, at, dns_subdomain, fill, has, int, invalid, invalid_each, items, one_of, required_text,
    set, text,
};
use crate::meta::name_is_path_segment;
use crate::status_writes::no_status;
use crate::strategy::{Context, Strategy};

/// The strategy of registrations of API versions.
pub struct ApiService;

impl Strategy for ApiService {
    /// That of the core group ends in a dot.
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        name_is_path_segment(name, generate)
    }
    fn default(&self, obj: &mut Value) {
        if let Some(s) = obj.pointer_mut("/spec/service").filter(|s| s.is_object()) {
            fill(s, "port", 443);
        }
    }
    fn prepare_create(&self, obj: &mut Value, cx: &Context<'_>) {
        no_status(obj);
        if !has(at(obj, "spec"), "service") {
            let now = jiff::Timestamp::from_second(cx.now).map(|t| t.to_string());
            let available = json!({"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": now.unwrap_or_default()});
            set(obj, "status", json!({"conditions": [available]}));
        }
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        match cx.subresource {
            "status" => api_service_status(obj),
            _ => api_service(obj),
        }
    }
}

fn api_service(obj: &Value) -> Vec<FieldError> {
    let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let wanted = format!("{version}.{group}");
    let name = text(at(obj, "metadata"), "name");
    if name != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        let path = FieldPath::new("metadata").child("name");
        errs.push(FieldError::invalid_str(&path, name, &why));
    }
    if group.is_empty() {
        if version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errs.push(FieldError::required(&path.child("group"), why));
        }
    } else {
        dns_subdomain(&mut errs, &path.child("group"), group);
    }
    let found = api::names::is_dns1035_label(version);
    invalid_each(&mut errs, &path.child("version"), version, found);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let n = int(spec, field).unwrap_or(0);
        if n <= 0 || n > most {
            let why = format!("must be positive and less than {most}");
            invalid(&mut errs, &path.child(field), &n.into(), &why);
        }
    }
    let bundle = text(spec, "caBundle");
    let insecure = at(spec, "insecureSkipTLSVerify");
    let at_insecure = path.child("insecureSkipTLSVerify");
    if !has(spec, "service") {
        if !bundle.is_empty() {
            // Of base64's letters, four stand for three bytes.
            let bytes = format!("{} bytes", bundle.trim_end_matches('=').len() * 3 / 4);
            let why = "local APIServices may not have a caBundle";
            errs.push(FieldError::invalid_str(
                &path.child("caBundle"),
                &bytes,
                why,
            ));
        }
        if insecure == &Value::Bool(true) {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            invalid(&mut errs, &at_insecure, insecure, why);
        }
        return errs;
    }
    let (service, at_service) = (at(spec, "service"), path.child("service"));
    for field in ["namespace", "name"] {
        required_text(&mut errs, &at_service, service, field);
    }
    let number = at(service, "port");
    if !number.as_i64().is_some_and(|n| (1..=65_535).contains(&n)) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        invalid(&mut errs, &at_service.child("port"), number, why);
    }
    if insecure == &Value::Bool(true) && !bundle.is_empty() {
        let why = "may not be true if caBundle is present";
        invalid(&mut errs, &at_insecure, insecure, why);
    }
    errs
}

fn api_service_status(obj: &Value) -> Vec<FieldError> {
    let mut errs = Errors::new();
    let path = FieldPath::new("status").child("conditions");
    for (i, condition) in items(at(obj, "status"), "conditions").iter().enumerate() {
        let states = ["True", "False", "Unknown"];
        let at_status = path.index(i).child("status");
        one_of(&mut errs, &at_status, text(condition, "status"), &states);
    }
    errs
}
