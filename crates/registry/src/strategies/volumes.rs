//! Persistent volumes and their claims.

use api::{FieldError, FieldPath, Quantity};
use serde_json::{Value, json};

use super::quantity::{is_native, parse, show};
use super::volume_sources::{self, Owner};
use super::warnings;
use crate::check::{
    Errors, IMMUTABLE, NOT_ABOVE_ZERO, at, dns_label, dns_subdomain, fill, fill_zero, has,
    immutable, invalid, is_empty, items, items_mut, label_selector, make, one_of, optional_word,
    qualified_name, required_text, set, text, unset,
};
use crate::go_form;
use crate::status_writes::keep_other_half;
use crate::strategy::{Context, Strategy};

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
/// How claims named their class first.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// The strategy of persistent volumes.
pub struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::volume(obj)
    }
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
    fn prepare_create(&self, obj: &mut Value, cx: &Context<'_>) {
        let since = api::time::format_seconds(cx.now);
        set(
            obj,
            "status",
            json!({"phase": "Pending", "lastPhaseTransitionTime": since}),
        );
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
        if cx.subresource != "status" {
            return;
        }
        let field = "lastPhaseTransitionTime";
        let was = at(old, "status");
        let Some(status) = make(obj, "status") else {
            return;
        };
        let same = text(status, "phase") == text(was, "phase");
        if same && !has(status, field) {
            set(status, field, at(was, field).clone());
        } else if !same && (!has(status, field) || at(status, field) == at(was, field)) {
            set(status, field, api::time::format_seconds(cx.now));
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        access_modes(&mut errs, &path, spec, "");
        let capacity = at(spec, "capacity");
        if is_empty(capacity) {
            errs.push(FieldError::required(&path.child("capacity"), ""));
        }
        let resources = capacity.as_object().map_or(0, serde_json::Map::len);
        if resources != 1 || !has(capacity, "storage") {
            let path = path.child("capacity");
            errs.push(FieldError {
                value: Some(capacity.to_string()),
                ..FieldError::not_supported(&path, "", &["storage"])
            });
        }
        for (name, v) in capacity.as_object().into_iter().flatten() {
            let path = path.child("capacity").key(name);
            if parse(v).is_some_and(|q| q <= Quantity::ZERO) {
                errs.push(FieldError::invalid_str(&path, &show(v), NOT_ABOVE_ZERO));
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
            let required = at(at(spec, "nodeAffinity"), "required");
            if required.is_null() {
                let why = "must specify required node constraints";
                errs.push(FieldError::required(&path, why));
            } else {
                super::scheduling::node_selector(&mut errs, &path, required);
            }
        }
        let class = text(spec, "storageClassName");
        if !class.is_empty() {
            dns_subdomain(&mut errs, &path.child("storageClassName"), class);
        }
        let name = text(at(obj, "metadata"), "name");
        volume_source(&mut errs, &path, spec, name);
        if has(spec, "volumeAttributesClassName") {
            let (path, name) = (
                path.child("volumeAttributesClassName"),
                text(spec, "volumeAttributesClassName"),
            );
            if name.is_empty() {
                errs.push(FieldError::required(&path, "an empty string is disallowed"));
            } else {
                dns_subdomain(&mut errs, &path, name);
            }
            if !has(spec, "csi") {
                let why = "has to be specified when using volumeAttributesClassName";
                errs.push(FieldError::required(
                    &FieldPath::new("spec").child("csi"),
                    why,
                ));
            }
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            return errs;
        }
        let (spec, was, path) = (at(obj, "spec"), at(old, "spec"), FieldPath::new("spec"));
        let mut source = spec.clone();
        // It may come later, and then stays.
        if !has(at(was, "csi"), "controllerExpandSecretRef")
            && let Some(csi) = source.get_mut("csi")
        {
            unset(csi, "controllerExpandSecretRef");
        }
        if VOLUME_SOURCES.iter().any(|s| at(&source, s) != at(was, s)) {
            let path = path.child("persistentvolumesource");
            let differs = go_form::difference("PersistentVolumeSource", was, &source);
            let why = "spec.persistentvolumesource is immutable after creation";
            errs.push(FieldError::forbidden(&path, &format!("{why}\n{differs}")));
        }
        let root = FieldPath::root();
        immutable(&mut errs, &root, spec, was, "volumeMode");
        let (nodes, before) = (at(spec, "nodeAffinity"), at(was, "nodeAffinity"));
        if !before.is_null() && *nodes != renamed(before, nodes) {
            let why = "field is immutable, except for updating from beta label to GA";
            invalid(&mut errs, &FieldPath::new("nodeAffinity"), nodes, why);
        }
        let class = "volumeAttributesClassName";
        if has(was, class) && !has(spec, class) {
            let why = "update from non-nil value to nil is forbidden";
            errs.push(FieldError::forbidden(&path.child(class), why));
        }
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

fn volume_source(errs: &mut Errors, path: &FieldPath, spec: &Value, name: &str) {
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
    if has(spec, "local") {
        let (path, local) = (path.child("local"), at(spec, "local"));
        if required_text(errs, &path, local, "path") {
            super::containers::no_backsteps(errs, &path.child("path"), text(local, "path"));
        }
        if !has(spec, "nodeAffinity") {
            let why = "Local volume requires node affinity";
            let path = FieldPath::new("spec").child("nodeAffinity");
            errs.push(FieldError::required(&path, why));
        }
    }
    for source in given {
        let owner = Owner::Volume(name);
        volume_sources::check(errs, &path.child(source), source, at(spec, source), owner);
    }
    if has(spec, "csi") {
        let (path, csi) = (path.child("csi"), at(spec, "csi"));
        super::storage::driver_name(errs, &path, csi, "driver");
        required_text(errs, &path, csi, "volumeHandle");
        for field in [
            "controllerPublishSecretRef",
            "controllerExpandSecretRef",
            "nodePublishSecretRef",
            "nodeExpandSecretRef",
        ] {
            if has(csi, field) {
                for part in ["name", "namespace"] {
                    required_text(errs, &path.child(field), at(csi, field), part);
                }
            }
        }
    }
}

/// Which nodes may use a volume, where `new` has the label that came instead of one of the beta.
fn renamed(old: &Value, new: &Value) -> Value {
    const TERMS: &str = "nodeSelectorTerms";
    const EXPRESSIONS: &str = "matchExpressions";
    let mut old = old.clone();
    let terms = items(at(new, "required"), TERMS);
    let Some(required) = old.get_mut("required") else {
        return old;
    };
    for (term, new) in items_mut(required, TERMS).iter_mut().zip(terms) {
        let others = items(new, EXPRESSIONS);
        for (expression, new) in items_mut(term, EXPRESSIONS).iter_mut().zip(others) {
            let pair = (text(expression, "key"), text(new, "key"));
            if let Some((_, key)) = NEW_LABELS.iter().find(|label| **label == pair) {
                set(expression, "key", *key);
            }
        }
    }
    old
}

const NEW_LABELS: [(&str, &str); 5] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
];

/// `none`: what is said when there are none.
fn access_modes(errs: &mut Errors, path: &FieldPath, spec: &Value, none: &str) {
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

    fn cx(subresource: &'static str, now: i64) -> Context<'static> {
        Context {
            now,
            subresource,
            ..Context::of_nobody()
        }
    }

    #[test]
    fn a_volume_says_since_when_it_is_in_its_phase() {
        let mut volume = json!({ "spec": {} });
        PersistentVolume.prepare_create(&mut volume, &cx("", 0));
        let since = |v: &Value| text(at(v, "status"), "lastPhaseTransitionTime").to_owned();
        assert_eq!(since(&volume), "1970-01-01T00:00:00Z");
        let mut bound = volume.clone();
        bound["status"]["phase"] = json!("Bound");
        PersistentVolume.prepare_update(&mut bound, &volume, &cx("status", 60));
        assert_eq!(since(&bound), "1970-01-01T00:01:00Z");
        let mut again = bound.clone();
        unset(&mut again["status"], "lastPhaseTransitionTime");
        PersistentVolume.prepare_update(&mut again, &bound, &cx("status", 90));
        assert_eq!(since(&again), "1970-01-01T00:01:00Z");
    }

    #[test]
    fn the_status_of_a_claim_is_of_storage() {
        let of = |status: Value| -> Vec<String> {
            let claim = json!({ "status": status });
            let found = PersistentVolumeClaim.validate(&claim, &cx("status", 0));
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
    fn nodes_of_a_volume_are_renamed_at_most() {
        let with = |key: &str| {
            let expression = json!({ "key": key, "operator": "In", "values": ["z"] });
            json!({ "spec": { "nodeAffinity": { "required": { "nodeSelectorTerms": [
                { "matchExpressions": [expression] }] } } } })
        };
        let (old, new) = NEW_LABELS[0];
        let update = |to: &str, from: &str| {
            let found = PersistentVolume.validate_update(&with(to), &with(from), &cx("", 0));
            found.len()
        };
        assert_eq!(update(new, old), 0);
        assert_eq!(update(old, old), 0);
        assert_eq!(update(old, new), 1);
        assert_eq!(update("other", old), 1);
    }

    #[test]
    fn what_a_claim_names_its_class_by_stays() {
        let with = |noted: Value, class: Value| {
            json!({ "metadata": { "annotations": { BETA_CLASS: noted } },
                "spec": { "storageClassName": class } })
        };
        let update = |new: &Value, old: &Value| -> Vec<String> {
            let found = PersistentVolumeClaim.validate_update(new, old, &cx("", 0));
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
    fn what_a_volume_is_stays() {
        let volume = |source: Value, affinity: Value| json!({ "spec": { "csi": source, "nodeAffinity": affinity, "volumeMode": "Filesystem" } });
        let plain = json!({ "driver": "d", "volumeHandle": "h" });
        let mut secret = plain.clone();
        secret["controllerExpandSecretRef"] = json!({ "name": "s", "namespace": "a" });
        let errs = |new: &Value, old: &Value| {
            let errs = PersistentVolume.validate_update(new, old, &cx("", 0));
            errs.len()
        };
        let (without, with) = (
            volume(plain.clone(), Value::Null),
            volume(secret, Value::Null),
        );
        assert_eq!(errs(&with, &without), 0);
        assert_eq!(errs(&without, &with), 1);
        let placed = volume(plain.clone(), json!({ "required": {} }));
        assert_eq!(errs(&placed, &without), 0);
        assert_eq!(errs(&without, &placed), 1);
    }

    #[test]
    fn what_may_not_change_is_shown() {
        let claim = |class: &str, size: &str| {
            json!({ "spec": { "storageClassName": class, "accessModes": ["ReadWriteOnce"],
                "volumeName": "v", "resources": { "requests": { "storage": size } } },
                "status": { "phase": "Bound" } })
        };
        let update = |new: &Value, old: &Value| -> Vec<String> {
            let found = PersistentVolumeClaim.validate_update(new, old, &cx("", 0));
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
