//! Persistent volumes.

use api::{FieldError, FieldPath, Quantity};
use serde_json::{Value, json};

use super::claims::{VOLUME_MODES, access_modes};
use super::quantity::{parse, show};
use super::volume_sources::{self, Owner};
use super::warnings;
use crate::check::{
    Errors, NOT_ABOVE_ZERO, at, dns_subdomain, fill, fill_zero, has, immutable, invalid, is_empty,
    items, items_mut, make, optional_word, required_text, set, text, unset,
};
use crate::go_form;
use crate::status_writes::keep_other_half;
use crate::strategy::{Context, Strategy};

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
}
