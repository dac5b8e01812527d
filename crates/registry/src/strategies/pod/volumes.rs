//! Volumes: defaults and checks.

use std::collections::{BTreeMap, BTreeSet};

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use crate::check::{
    Errors, at, dns_label, fill, fill_zero, has, invalid, items, items_mut, labels, one_of,
    required_text, required_word, set, text,
};
use crate::meta::validate_annotations;
use crate::strategies::claims::claim_spec;
use crate::strategies::containers::{descending, field_ref, no_backsteps, resource_ref};
use crate::strategies::pod::projections;
use crate::strategies::quantity;
use crate::strategies::volume_sources::{self, Owner};

/// Modes of files in volumes made of API objects: 0644.
const FILE_MODE: i64 = 420;
/// Lifetime of projected tokens, when nothing else is asked.
const TOKEN_SECONDS: i64 = 3600;

/// Defaults of a volume of a pod.
pub fn default(volume: &mut Value) {
    let source = volume
        .as_object()
        .is_some_and(|o| o.keys().any(|k| k != "name"));
    if !source {
        set(volume, "emptyDir", json!({}));
        return;
    }
    for field in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(v) = volume.get_mut(field).filter(|v| v.is_object()) {
            fill(v, "defaultMode", FILE_MODE);
        }
    }
    if let Some(v) = volume.get_mut("downwardAPI") {
        field_refs(v);
    }
    if let Some(v) = volume.get_mut("projected") {
        for s in items_mut(v, "sources") {
            if let Some(d) = s.get_mut("downwardAPI") {
                field_refs(d);
            }
            if let Some(t) = s.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
                fill(t, "expirationSeconds", TOKEN_SECONDS);
            }
        }
    }
    if let Some(v) = volume.get_mut("image").filter(|v| v.is_object()) {
        let policy = super::parts::pull_policy(text(v, "reference"));
        fill_zero(v, "pullPolicy", policy);
    }
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        fill(spec, "volumeMode", "Filesystem");
    }
    source_defaults(volume);
}

fn field_refs(volume: &mut Value) {
    for item in items_mut(volume, "items") {
        if let Some(f) = item.get_mut("fieldRef").filter(|f| f.is_object()) {
            fill_zero(f, "apiVersion", "v1");
        }
        if let Some(r) = item.get_mut("resourceFieldRef").filter(|r| r.is_object()) {
            fill_zero(r, "divisor", "0");
        }
    }
}

/// Defaults that volumes of pods and persistent volumes share.
pub fn source_defaults(holder: &mut Value) {
    let text_fields: &[(&str, &[(&str, &str)])] = &[
        ("iscsi", &[("iscsiInterface", "default")]),
        (
            "rbd",
            &[
                ("pool", "rbd"),
                ("user", "admin"),
                ("keyring", "/etc/ceph/keyring"),
            ],
        ),
        (
            "scaleIO",
            &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")],
        ),
        (
            "azureDisk",
            &[
                ("cachingMode", "ReadWrite"),
                ("fsType", "ext4"),
                ("kind", "Shared"),
            ],
        ),
    ];
    for (source, fields) in text_fields {
        if let Some(v) = holder.get_mut(*source).filter(|v| v.is_object()) {
            for (field, value) in *fields {
                fill_zero(v, field, *value);
            }
        }
    }
    if let Some(v) = holder.get_mut("azureDisk").filter(|v| v.is_object()) {
        fill(v, "readOnly", false);
    }
    if let Some(v) = holder.get_mut("hostPath").filter(|v| v.is_object())
        && at(v, "type").is_null()
    {
        set(v, "type", "");
    }
}

/// The kinds of volume that a pod may name.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The volumes of a pod by name, and whether each is of a claim.
pub type Volumes = BTreeMap<String, bool>;

/// Checks the volumes of a pod and gives those that are good.
pub fn validate(errs: &mut Errors, path: &FieldPath, volumes: &[Value]) -> Volumes {
    let mut names = Volumes::new();
    for (i, v) in volumes.iter().enumerate() {
        let path = path.index(i);
        let mut wrong = Errors::new();
        one_source(&mut wrong, &path, v);
        let (name, name_path) = (text(v, "name"), path.child("name"));
        if name.is_empty() {
            wrong.push(FieldError::required(&name_path, ""));
        } else {
            dns_label(&mut wrong, &name_path, name);
        }
        if names.contains_key(name) {
            wrong.push(FieldError::duplicate(&name_path, &name.into()));
        }
        if wrong.is_empty() {
            let is_claim = has(v, "persistentVolumeClaim") || has(v, "ephemeral");
            names.insert(name.to_owned(), is_claim);
        } else {
            errs.append(&mut wrong);
        }
    }
    names
}

fn one_source(errs: &mut Errors, path: &FieldPath, v: &Value) {
    let given: Vec<&&str> = SOURCES.iter().filter(|s| has(v, s)).collect();
    for extra in given.iter().skip(1) {
        let why = "may not specify more than 1 volume type";
        errs.push(FieldError::forbidden(&path.child(extra), why));
    }
    match given.first() {
        Some(source) => source_checks(errs, &path.child(source), source, at(v, source)),
        None => errs.push(FieldError::required(path, "must specify a volume type")),
    }
}

fn source_checks(errs: &mut Errors, path: &FieldPath, source: &str, v: &Value) {
    match source {
        "emptyDir" if quantity::parse(at(v, "sizeLimit")).is_some_and(|q| q.is_negative()) => {
            let why = "SizeLimit field must be a valid resource quantity";
            errs.push(FieldError::forbidden(&path.child("sizeLimit"), why));
        }
        "hostPath" => host_path(errs, path, v),
        "secret" => {
            required_text(errs, path, v, "secretName");
            files(errs, path, v);
        }
        "configMap" => {
            required_text(errs, path, v, "name");
            files(errs, path, v);
        }
        "downwardAPI" => downward(errs, path, v),
        "projected" => projected(errs, path, v),
        "persistentVolumeClaim" => {
            required_text(errs, path, v, "claimName");
        }
        "csi" => {
            required_text(errs, path, v, "driver");
        }
        "ephemeral" => {
            let (template, path) = (
                at(v, "volumeClaimTemplate"),
                path.child("volumeClaimTemplate"),
            );
            if template.is_null() {
                errs.push(FieldError::required(&path, ""));
                return;
            }
            let (meta, meta_path) = (at(template, "metadata"), path.child("metadata"));
            labels(errs, &meta_path.child("labels"), at(meta, "labels"));
            let annotations = at(meta, "annotations");
            validate_annotations(errs, &meta_path.child("annotations"), annotations);
            claim_spec(errs, &path.child("spec"), at(template, "spec"));
        }
        "image" => {
            required_text(errs, path, v, "reference");
            let policies = ["Always", "IfNotPresent", "Never"];
            required_word(errs, path, v, "pullPolicy", &policies);
        }
        _ => volume_sources::check(errs, path, source, v, Owner::Pod),
    }
}

/// A path on the node and what should be there.
pub fn host_path(errs: &mut Errors, path: &FieldPath, v: &Value) {
    if required_text(errs, path, v, "path") {
        no_backsteps(errs, &path.child("path"), text(v, "path"));
    }
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if has(v, "type") {
        one_of(errs, &path.child("type"), text(v, "type"), TYPES);
    }
}

fn mode(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str) {
    if crate::check::int(v, field).is_some_and(|m| !(0..=0o777).contains(&m)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        invalid(errs, &path.child(field), at(v, field), why);
    }
}

/// The default mode and the items of a volume of files.
fn files(errs: &mut Errors, path: &FieldPath, v: &Value) {
    mode(errs, path, v, "defaultMode");
    key_items(errs, path, v);
}

fn key_items(errs: &mut Errors, path: &FieldPath, v: &Value) {
    for (i, item) in items(v, "items").iter().enumerate() {
        let path = path.child("items").index(i);
        required_text(errs, &path, item, "key");
        if required_text(errs, &path, item, "path") {
            file_path(errs, &path.child("path"), text(item, "path"));
        }
        mode(errs, &path, item, "mode");
    }
}

/// A relative path that does not climb and whose first name does not start with two dots.
pub(super) fn file_path(errs: &mut Errors, path: &FieldPath, value: &str) {
    descending(errs, path, value);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errs.push(FieldError::invalid_str(
            path,
            value,
            "must not start with '..'",
        ));
    }
}

const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

fn downward(errs: &mut Errors, path: &FieldPath, v: &Value) {
    mode(errs, path, v, "defaultMode");
    for item in items(v, "items") {
        if required_text(errs, path, item, "path") {
            file_path(errs, &path.child("path"), text(item, "path"));
        }
        match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
            (true, true) => {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                invalid(errs, path, &"resource".into(), why);
            }
            (true, false) => {
                field_ref(
                    errs,
                    &path.child("fieldRef"),
                    at(item, "fieldRef"),
                    VOLUME_FIELDS,
                );
            }
            (false, true) => {
                let path = path.child("resourceFieldRef");
                resource_ref(errs, &path, at(item, "resourceFieldRef"), true);
            }
            (false, false) => {
                let why = "one of fieldRef and resourceFieldRef is required";
                errs.push(FieldError::required(&path.child("fieldRef"), why));
            }
        }
        mode(errs, path, item, "mode");
    }
}

fn projected(errs: &mut Errors, path: &FieldPath, v: &Value) {
    mode(errs, path, v, "defaultMode");
    let mut taken = BTreeSet::new();
    for (i, s) in items(v, "sources").iter().enumerate() {
        for file in files_of(s) {
            if !taken.insert(file) {
                let why = "conflicting duplicate paths";
                errs.push(FieldError::invalid_str(path, file, why));
            }
        }
        let path = path.child("sources").index(i);
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        let mut found = 0;
        for kind in kinds.into_iter().filter(|k| has(s, k)) {
            found += 1;
            let (source, path) = (at(s, kind), path.child(kind));
            if found > 1 {
                let why = "may not specify more than 1 volume type per source";
                errs.push(FieldError::forbidden(&path, why));
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    required_text(errs, &path, source, "name");
                    key_items(errs, &path, source);
                }
                "downwardAPI" => downward(errs, &path, source),
                "serviceAccountToken" => token(errs, &path, source),
                "clusterTrustBundle" => projections::trust_bundle(errs, &path, source),
                "podCertificate" => projections::pod_certificate(errs, &path, source),
                _ => {}
            }
        }
    }
}

/// The files that a source says by name where they are; those of tokens may meet others, as upstream.
fn files_of(source: &Value) -> Vec<&str> {
    let mut all = Vec::new();
    for kind in ["secret", "configMap", "downwardAPI"] {
        let items = items(at(source, kind), "items").iter();
        all.extend(items.map(|item| text(item, "path")));
    }
    all.push(text(at(source, "clusterTrustBundle"), "path"));
    let certificate = at(source, "podCertificate");
    all.extend(projections::CERTIFICATE_PATHS.map(|field| text(certificate, field)));
    all.retain(|path| !path.is_empty());
    all
}

fn token(errs: &mut Errors, path: &FieldPath, v: &Value) {
    if let Some(seconds) = crate::check::int(v, "expirationSeconds") {
        let path = path.child("expirationSeconds");
        if seconds < 600 {
            invalid(
                errs,
                &path,
                &seconds.into(),
                "may not specify a duration less than 10 minutes",
            );
        } else if seconds > 1 << 32 {
            invalid(
                errs,
                &path,
                &seconds.into(),
                "may not specify a duration larger than 2^32 seconds",
            );
        }
    }
    if required_text(errs, path, v, "path") {
        file_path(errs, &path.child("path"), text(v, "path"));
    }
}
