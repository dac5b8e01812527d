//! Claims of persistent volumes, and what claims inside of other kinds have of them.

use api::{FieldError, FieldPath, Quantity};
use serde_json::{Value, json};

use super::quantity::{is_native, parse, show};
use super::warnings;
use crate::check::{
    Errors, IMMUTABLE, NOT_ABOVE_ZERO, at, dns_label, dns_subdomain, fill, fill_zero, has,
    immutable, invalid, items, label_selector, make, one_of, optional_word, qualified_name,
    required_text, set, text, unset,
};
use crate::go_form;
use crate::strategy::{Context, Strategy};

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
/// How claims named their class first.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// What a volume is to whoever mounts it.
pub(super) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// The ways in which a volume may be mounted, of a volume or of a claim. `none`: what is said when there
/// are none.
pub(super) fn access_modes(errs: &mut Errors, path: &FieldPath, spec: &Value, none: &str) {
    let (modes, path) = (items(spec, "accessModes"), path.child("accessModes"));
    if modes.is_empty() {
        errs.push(FieldError::required(&path, none));
    }
    for m in modes {
        one_of(errs, &path, m.as_str().unwrap_or(""), ACCESS_MODES);
    }
    const ALONE: &str = "ReadWriteOncePod";
    let words = || modes.iter().filter_map(Value::as_str);
    let others = words().any(|mode| mode != ALONE && ACCESS_MODES.contains(&mode));
    if others && words().any(|mode| mode == ALONE) {
        let why = "may not use ReadWriteOncePod with other access modes";
        errs.push(FieldError::forbidden(&path, why));
    }
}

/// Checks the specification of a claim, also of one in a template.
pub fn claim_spec(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    label_selector(errs, &path.child("selector"), at(spec, "selector"));
    access_modes(errs, path, spec, "at least 1 access mode is required");
    let requests = at(at(spec, "resources"), "requests");
    let request_path = path.child("resources").key("storage");
    match requests.get("storage") {
        None => errs.push(FieldError::required(&request_path, "")),
        Some(v) if parse(v).is_some_and(|q| q <= Quantity::ZERO) => {
            errs.push(FieldError::invalid_str(
                &request_path,
                &show(v),
                NOT_ABOVE_ZERO,
            ));
        }
        Some(_) => {}
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        dns_subdomain(errs, &path.child("storageClassName"), class);
    }
    optional_word(errs, path, spec, "volumeMode", VOLUME_MODES);
    let class = text(spec, "volumeAttributesClassName");
    if !class.is_empty() {
        dns_subdomain(errs, &path.child("volumeAttributesClassName"), class);
    }
    for field in ["dataSource", "dataSourceRef"] {
        if has(spec, field) {
            data_source(errs, &path.child(field), at(spec, field));
        }
    }
    let (source, reference) = (at(spec, "dataSource"), at(spec, "dataSourceRef"));
    if source.is_null() || reference.is_null() {
        return;
    }
    let other = ["apiGroup", "kind", "name"];
    if !text(reference, "namespace").is_empty() {
        let why = "may not be specified when dataSourceRef.namespace is specified";
        invalid(errs, path, &"dataSource".into(), why);
    } else if other.iter().any(|f| text(source, f) != text(reference, f)) {
        invalid(errs, path, &"dataSource".into(), "must match dataSourceRef");
    }
}

fn data_source(errs: &mut Errors, path: &FieldPath, source: &Value) {
    required_text(errs, path, source, "name");
    required_text(errs, path, source, "kind");
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errs.push(FieldError::invalid_str(path, kind, why));
    }
    if !group.is_empty() {
        dns_subdomain(errs, &path.child("apiGroup"), group);
    }
    // Of the reference alone.
    let namespace = text(source, "namespace");
    if !namespace.is_empty() {
        dns_label(errs, &path.child("namespace"), namespace);
    }
}

/// Defaults of a claim, also inside a stateful set.
pub fn claim_defaults(claim: &mut Value) {
    if let Some(status) = make(claim, "status") {
        fill_zero(status, "phase", "Pending");
    }
    if let Some(spec) = make(claim, "spec") {
        fill(spec, "volumeMode", "Filesystem");
    }
}

/// The strategy of claims.
pub struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::claim(obj)
    }
    fn default(&self, obj: &mut Value) {
        claim_defaults(obj);
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"phase": "Pending"}));
        sources(obj);
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            claim_status(&mut errs, at(obj, "status"));
        } else {
            claim_spec(&mut errs, &FieldPath::new("spec"), at(obj, "spec"));
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            return errs;
        }
        let bound = text(at(old, "status"), "phase") == "Bound";
        let (mut new, mut was) = (at(obj, "spec").clone(), at(old, "spec").clone());
        for spec in [&mut new, &mut was] {
            if let Some(fields) = spec.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
        }
        // What may change is on both sides what it is on one.
        if text(&was, "volumeName").is_empty() {
            keep(&mut was, &new, "volumeName");
        }
        if !has(&was, "storageClassName") {
            unset(&mut new, "storageClassName");
        }
        if bound {
            keep(&mut new, &was, "volumeAttributesClassName");
            if let Some(requests) = new.pointer_mut("/resources/requests") {
                let of_before = at(at(&was, "resources"), "requests");
                keep(requests, of_before, "storage");
            }
        }
        let path = FieldPath::new("spec");
        if new != was {
            let differs = go_form::difference("PersistentVolumeClaimSpec", &was, &new);
            let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errs.push(FieldError::forbidden(&path, &format!("{why}\n{differs}")));
        }
        let storage = |v: &Value| {
            v.pointer("/spec/resources/requests/storage")
                .and_then(parse)
        };
        if let (Some(new), Some(was)) = (storage(obj), storage(old)) {
            let capacity = old.pointer("/status/capacity/storage").and_then(parse);
            if new < was && capacity.is_some_and(|c| new <= c) {
                let why = "field can not be less than status.capacity";
                let path = path.child("resources").child("requests").child("storage");
                errs.push(FieldError::forbidden(&path, why));
            }
        }
        let (class, before) = (noted_class(obj), noted_class(old));
        let moved = !before.is_empty()
            && !has(at(old, "spec"), "storageClassName")
            && text(at(obj, "spec"), "storageClassName") == before
            && class.is_empty();
        if class != before && !moved {
            let path = FieldPath::new("metadata")
                .child("annotations")
                .child(BETA_CLASS);
            errs.push(FieldError::invalid_str(&path, class, IMMUTABLE));
        }
        let root = FieldPath::root();
        immutable(
            &mut errs,
            &root,
            at(obj, "spec"),
            at(old, "spec"),
            "volumeMode",
        );
        let class = "volumeAttributesClassName";
        let has_one = has(at(old, "status"), "currentVolumeAttributesClassName");
        let (new, was) = (at(at(obj, "spec"), class), at(at(old, "spec"), class));
        if has_one && new != was && text(at(obj, "spec"), class).is_empty() {
            let to = if new.is_null() { "nil" } else { "empty string" };
            let why = format!(
                "update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil"
            );
            errs.push(FieldError::forbidden(&path.child(class), &why));
        }
        errs
    }
}

/// Makes a member what another object has of it.
fn keep(v: &mut Value, of: &Value, field: &str) {
    match at(of, field) {
        Value::Null => unset(v, field),
        value => set(v, field, value.clone()),
    }
}

/// The class of a claim that names it as claims first did.
fn noted_class(claim: &Value) -> &str {
    text(at(at(claim, "metadata"), "annotations"), BETA_CLASS)
}

/// What a claim has, and how far its growing is.
fn claim_status(errs: &mut Errors, status: &Value) {
    let path = FieldPath::new("status");
    for list in ["capacity", "allocatedResources"] {
        for (name, v) in at(status, list).as_object().into_iter().flatten() {
            if list != "capacity" && !resource_of_claim(errs, &path.child(list), name) {
                continue;
            }
            if parse(v).is_some_and(|q| q.is_negative()) {
                let path = path.child(list).key(name);
                let why = "must be greater than or equal to 0";
                errs.push(FieldError::invalid_str(&path, &show(v), why));
            }
        }
    }
    const STEPS: &[&str] = &[
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizePending",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
    ];
    let list = "allocatedResourceStatuses";
    for (name, step) in at(status, list).as_object().into_iter().flatten() {
        resource_of_claim(errs, &path.child(list), name);
        if !step.as_str().is_some_and(|s| STEPS.contains(&s)) {
            let mut words = STEPS.to_vec();
            words.sort_unstable();
            errs.push(FieldError::not_supported(&path.child(list), name, &words));
        }
    }
}

/// Whether a claim may have this resource: storage, or one that Kubernetes does not define.
fn resource_of_claim(errs: &mut Errors, path: &FieldPath, name: &str) -> bool {
    let before = errs.len();
    qualified_name(errs, path, name);
    if errs.len() == before && is_native(name) {
        one_of(errs, path, name, &["storage"]);
    }
    errs.len() == before
}

/// A data source is also the data source reference, where that is left out.
fn sources(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec") else {
        return;
    };
    match (
        at(spec, "dataSource").clone(),
        at(spec, "dataSourceRef").clone(),
    ) {
        (Value::Null, Value::Null) => {}
        (source, Value::Null) => set(spec, "dataSourceRef", source),
        (Value::Null, reference) if text(&reference, "namespace").is_empty() => {
            set(spec, "dataSource", reference);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx(subresource: &'static str) -> Context<'static> {
        Context {
            subresource,
            ..Context::of_nobody()
        }
    }

    #[test]
    fn the_status_of_a_claim_is_of_storage() {
        let of = |status: Value| -> Vec<String> {
            let claim = json!({ "status": status });
            let found = PersistentVolumeClaim.validate(&claim, &cx("status"));
            found.iter().map(ToString::to_string).collect()
        };
        let good = json!({ "capacity": { "storage": "1Gi" }, "allocatedResources": { "storage": "2Gi",
            "x.io/a": "1" }, "allocatedResourceStatuses": { "storage": "NodeResizePending" } });
        assert_eq!(of(good), Vec::<String>::new());
        let only = "Unsupported value: \"cpu\": supported values: \"storage\"";
        assert_eq!(
            of(json!({ "allocatedResources": { "cpu": "1" } })),
            [format!("status.allocatedResources: {only}")]
        );
        assert_eq!(
            of(json!({ "allocatedResourceStatuses": { "cpu": "NodeResizePending" } })),
            [format!("status.allocatedResourceStatuses: {only}")]
        );
    }

    #[test]
    fn what_a_claim_names_its_class_by_stays() {
        let with = |noted: Value, class: Value| {
            json!({ "metadata": { "annotations": { BETA_CLASS: noted } },
                "spec": { "storageClassName": class } })
        };
        let update = |new: &Value, old: &Value| -> Vec<String> {
            let found = PersistentVolumeClaim.validate_update(new, old, &cx(""));
            found.iter().map(|e| e.field.as_str().to_owned()).collect()
        };
        let old = with("c".into(), Value::Null);
        assert!(update(&old, &old).is_empty());
        assert!(update(&with(Value::Null, "c".into()), &old).is_empty());
        assert_eq!(
            update(&with("d".into(), Value::Null), &old),
            [format!("metadata.annotations.{BETA_CLASS}")]
        );
    }

    #[test]
    fn what_may_not_change_is_shown() {
        let claim = |class: &str, size: &str| {
            json!({ "spec": { "storageClassName": class, "accessModes": ["ReadWriteOnce"],
                "volumeName": "v", "resources": { "requests": { "storage": size } } },
                "status": { "phase": "Bound" } })
        };
        let update = |new: &Value, old: &Value| -> Vec<String> {
            let found = PersistentVolumeClaim.validate_update(new, old, &cx(""));
            found.iter().map(ToString::to_string).collect()
        };
        let old = claim("a", "1Gi");
        assert_eq!(update(&claim("a", "2Gi"), &old), Vec::<String>::new());
        assert_eq!(
            update(&claim("b", "2Gi"), &old),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n\
                 @@ -10,7 +10,7 @@\n   }\n  },\n  \"VolumeName\": \"v\",\n- \"StorageClassName\": \"a\",\n+ \"StorageClassName\": \"b\",\n  \
                 \"VolumeMode\": null,\n  \"DataSource\": null,\n  \"DataSourceRef\": null,\n"
            ]
        );
    }

    #[test]
    fn data_sources_are_checked() {
        let mut spec = json!({ "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
            "dataSource": { "kind": "Other", "name": "x" } });
        let wrong = |spec: &Value| {
            let mut errs = Errors::new();
            claim_spec(&mut errs, &FieldPath::new("spec"), spec);
            errs.len()
        };
        assert_eq!(wrong(&spec), 1);
        spec["dataSource"]["kind"] = json!("PersistentVolumeClaim");
        assert_eq!(wrong(&spec), 0);
        spec["dataSourceRef"] = json!({ "kind": "PersistentVolumeClaim", "name": "y" });
        assert_eq!(wrong(&spec), 1);
    }
}
