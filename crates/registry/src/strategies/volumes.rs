//! Persistent volumes and their claims.

use api::{FieldError, FieldPath, Quantity};
use serde_json::{Value, json};

use super::quantity::{parse, show};
use crate::check::{
    Errors, at, dns_subdomain, fill, fill_zero, has, items, label_selector, make, one_of,
    optional_word, set, text,
};
use crate::strategy::{Context, Strategy};

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// The strategy of persistent volumes.
pub struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, obj: &mut Value) {
        if let Some(status) = make(obj, "status") {
            fill_zero(status, "phase", "Pending");
        }
        if let Some(spec) = make(obj, "spec") {
            fill_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
            fill(spec, "volumeMode", "Filesystem");
            super::pod::volumes::source_defaults(spec);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"phase": "Pending"}));
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        access_modes(&mut errs, &path, spec);
        let capacity = at(spec, "capacity");
        match capacity.as_object().filter(|c| !c.is_empty()) {
            None => errs.push(FieldError::required(&path.child("capacity"), "")),
            Some(c) => {
                if c.len() > 1 || !c.contains_key("storage") {
                    let path = path.child("capacity");
                    errs.push(FieldError::not_supported(
                        &path,
                        &capacity.to_string(),
                        &["storage"],
                    ));
                }
                for (name, v) in c {
                    let path = path.child("capacity").key(name);
                    if parse(v).is_some_and(|q| q <= Quantity::ZERO) {
                        errs.push(FieldError::invalid_str(
                            &path,
                            &show(v),
                            "must be greater than 0",
                        ));
                    }
                }
            }
        }
        let policies = ["Delete", "Recycle", "Retain"];
        optional_word(
            &mut errs,
            &path,
            spec,
            "persistentVolumeReclaimPolicy",
            &policies,
        );
        optional_word(&mut errs, &path, spec, "volumeMode", VOLUME_MODES);
        if has(spec, "nodeAffinity") {
            let path = path.child("nodeAffinity").child("required");
            super::scheduling::node_selector(
                &mut errs,
                &path,
                at(at(spec, "nodeAffinity"), "required"),
            );
        }
        let class = text(spec, "storageClassName");
        if !class.is_empty() {
            dns_subdomain(&mut errs, &path.child("storageClassName"), class);
        }
        volume_source(&mut errs, &path, spec);
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            return errs;
        }
        let (spec, was, path) = (at(obj, "spec"), at(old, "spec"), FieldPath::new("spec"));
        for source in VOLUME_SOURCES {
            if at(spec, source) != at(was, source) {
                let why = "spec.persistentvolumesource is immutable after creation";
                errs.push(FieldError::forbidden(
                    &path.child("persistentvolumesource"),
                    why,
                ));
                break;
            }
        }
        crate::check::immutable(&mut errs, &path, spec, was, "volumeMode");
        errs
    }
}

const VOLUME_SOURCES: &[&str] = &[
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "hostPath",
    "glusterfs",
    "nfs",
    "rbd",
    "iscsi",
    "cinder",
    "cephfs",
    "fc",
    "flocker",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn volume_source(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let given: Vec<&&str> = VOLUME_SOURCES.iter().filter(|s| has(spec, s)).collect();
    for extra in given.iter().skip(1) {
        let why = "may not specify more than 1 volume type";
        errs.push(FieldError::forbidden(&path.child(extra), why));
    }
    if given.is_empty() {
        errs.push(FieldError::required(path, "must specify a volume type"));
    }
    if has(spec, "hostPath") {
        let path = path.child("hostPath");
        super::pod::volumes::host_path(errs, &path, at(spec, "hostPath"));
        if text(at(spec, "hostPath"), "path") == "/"
            && text(spec, "persistentVolumeReclaimPolicy") == "Recycle"
        {
            let why = "may not be 'recycle' for a hostPath mount of '/'";
            errs.push(FieldError::forbidden(
                &FieldPath::new("spec").child("persistentVolumeReclaimPolicy"),
                why,
            ));
        }
    }
    if has(spec, "local") && !has(spec, "nodeAffinity") {
        let why = "Local volume requires node affinity";
        errs.push(FieldError::required(
            &FieldPath::new("metadata").child("annotations"),
            why,
        ));
    }
}

fn access_modes(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let (modes, path) = (items(spec, "accessModes"), path.child("accessModes"));
    if modes.is_empty() {
        errs.push(FieldError::required(
            &path,
            "at least 1 access mode is required",
        ));
    }
    for m in modes {
        one_of(errs, &path, m.as_str().unwrap_or(""), ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|m| m.as_str() == Some("ReadWriteOncePod")) {
        let why = "may not use ReadWriteOncePod with other access modes";
        errs.push(FieldError::forbidden(&path, why));
    }
}

/// Checks the specification of a claim, also of one in a template.
pub fn claim_spec(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    label_selector(errs, &path.child("selector"), at(spec, "selector"));
    access_modes(errs, path, spec);
    let requests = at(at(spec, "resources"), "requests");
    let request_path = path.child("resources").child("requests");
    match requests.get("storage") {
        None => errs.push(FieldError::required(
            &path.child("resources").key("storage"),
            "",
        )),
        Some(v) => {
            if parse(v).is_some_and(|q| q <= Quantity::ZERO) {
                let path = request_path.key("storage");
                errs.push(FieldError::invalid_str(
                    &path,
                    &show(v),
                    "must be greater than 0",
                ));
            }
        }
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        dns_subdomain(errs, &path.child("storageClassName"), class);
    }
    optional_word(errs, path, spec, "volumeMode", VOLUME_MODES);
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
    fn default(&self, obj: &mut Value) {
        claim_defaults(obj);
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"phase": "Pending"}));
        sources(obj);
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource != "status" {
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
        let mut free = vec!["volumeAttributesClassName"];
        if text(at(old, "spec"), "volumeName").is_empty() {
            free.push("volumeName");
        }
        if !has(at(old, "spec"), "storageClassName") {
            free.push("storageClassName");
        }
        let rest = |v: &Value| {
            let mut spec = at(v, "spec").clone();
            free.iter().for_each(|f| crate::check::unset(&mut spec, f));
            if bound && let Some(r) = spec.pointer_mut("/resources/requests") {
                crate::check::unset(r, "storage");
            }
            spec
        };
        let path = FieldPath::new("spec");
        if rest(obj) != rest(old) {
            let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errs.push(FieldError::forbidden(&path, why));
        }
        let storage = |v: &Value| {
            v.pointer("/spec/resources/requests/storage")
                .and_then(parse)
        };
        if let (Some(new), Some(was)) = (storage(obj), storage(old)) {
            let capacity = old.pointer("/status/capacity/storage").and_then(parse);
            if new < was && capacity.is_none_or(|c| new <= c) {
                let why = "field can not be less than status.capacity";
                let path = path.child("resources").child("requests").child("storage");
                errs.push(FieldError::forbidden(&path, why));
            }
        }
        errs
    }
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
