//! Kinds of `storage.k8s.io`: classes, drivers and what they say of nodes, volumes and capacity.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use super::quantity::parse;
use super::warnings;
use crate::check::{
    Errors, IMMUTABLE, at, dns_subdomain, fill, has, immutable, int, invalid, invalid_each,
    is_empty, items, label_selector, make, no_duplicates, not_negative, one_of, optional_word,
    qualified_name, required_text, set, text,
};
use crate::status_writes::{METADATA, keep_other_half};
use crate::strategy::{Context, Strategy};

/// Most parameters of a class, and bytes of all of them.
const PARAMETERS: usize = 512;
const PARAMETER_BYTES: usize = 256 << 10;
/// Most bytes of a driver's message.
const MESSAGE_BYTES: usize = 1024;

fn provisioner(errs: &mut Errors, obj: &Value, field: &str) {
    if required_text(errs, &FieldPath::root(), obj, field) {
        let name = text(obj, field).to_lowercase();
        qualified_name(errs, &FieldPath::new(field), &name);
    }
}

fn parameters(errs: &mut Errors, obj: &Value) {
    let path = FieldPath::new("parameters");
    let Some(all) = at(obj, "parameters").as_object() else {
        return;
    };
    if all.len() > PARAMETERS {
        errs.push(FieldError::too_long(&path, PARAMETERS));
        return;
    }
    let bytes = |(k, v): (&String, &Value)| k.len() + v.as_str().map_or(0, str::len);
    if all.keys().any(String::is_empty) {
        errs.push(FieldError::invalid_str(
            &path,
            "",
            "field can not be empty.",
        ));
    }
    if all.iter().map(bytes).sum::<usize>() > PARAMETER_BYTES {
        errs.push(FieldError::too_long(&path, PARAMETER_BYTES));
    }
}

/// The name of a CSI driver.
pub fn driver_name(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str) {
    if !required_text(errs, path, v, field) {
        return;
    }
    let (name, path) = (text(v, field), path.child(field));
    if name.len() > 63 {
        errs.push(FieldError::too_long(&path, 63));
    }
    let wrong = names::is_dns1123_subdomain(&name.to_lowercase());
    invalid_each(errs, &path, name, wrong);
}

/// The strategy of storage classes.
pub struct StorageClass;

impl Strategy for StorageClass {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::storage_class(obj)
    }
    fn default(&self, obj: &mut Value) {
        fill(obj, "reclaimPolicy", "Delete");
        fill(obj, "volumeBindingMode", "Immediate");
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, root) = (Errors::new(), FieldPath::root());
        provisioner(&mut errs, obj, "provisioner");
        parameters(&mut errs, obj);
        // An empty one is let be.
        if !text(obj, "reclaimPolicy").is_empty() {
            let policies = ["Delete", "Retain"];
            optional_word(&mut errs, &root, obj, "reclaimPolicy", &policies);
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        optional_word(&mut errs, &root, obj, "volumeBindingMode", &modes);
        topologies(&mut errs, obj);
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, root) = (Errors::new(), FieldPath::root());
        let same = is_empty(at(obj, "parameters")) && is_empty(at(old, "parameters"));
        if !same {
            immutable(&mut errs, &root, obj, old, "parameters");
        }
        for field in ["provisioner", "reclaimPolicy", "volumeBindingMode"] {
            immutable(&mut errs, &root, obj, old, field);
        }
        errs
    }
}

fn topologies(errs: &mut Errors, obj: &Value) {
    let path = FieldPath::new("allowedTopologies");
    let terms = items(obj, "allowedTopologies");
    let mut seen = BTreeSet::new();
    for (i, term) in terms.iter().enumerate() {
        let path = path.index(i).child("matchLabelExpressions");
        let expressions = items(term, "matchLabelExpressions");
        let mut means: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (j, e) in expressions.iter().enumerate() {
            let path = path.index(j);
            let values = items(e, "values");
            if values.is_empty() {
                errs.push(FieldError::required(&path.child("values"), ""));
            }
            let words = values.iter().filter_map(Value::as_str);
            no_duplicates(errs, &path.child("values"), "", words.clone());
            qualified_name(errs, &path.child("key"), text(e, "key"));
            means.insert(text(e, "key"), words.collect());
        }
        let keys = expressions.iter().map(|e| text(e, "key"));
        no_duplicates(errs, &path, "key", keys);
        // Whatever the order in which they are written.
        if !seen.insert(means) {
            errs.push(FieldError::duplicate(&path, &"".into()));
        }
    }
}

/// The strategy of CSI drivers.
pub struct CsiDriver;

impl Strategy for CsiDriver {
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::csi_driver(obj, old)
    }
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        fill(spec, "attachRequired", true);
        fill(spec, "podInfoOnMount", false);
        fill(spec, "storageCapacity", false);
        fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if items(spec, "volumeLifecycleModes").is_empty() {
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
        fill(spec, "requiresRepublish", false);
        fill(spec, "seLinuxMount", false);
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        optional_word(&mut errs, &path, spec, "fsGroupPolicy", &policies);
        for mode in items(spec, "volumeLifecycleModes") {
            let mode = mode.as_str().unwrap_or_default();
            let path = path.child("volumeLifecycleModes");
            one_of(&mut errs, &path, mode, &["Persistent", "Ephemeral"]);
        }
        tokens(&mut errs, &path.child("tokenRequests"), spec);
        let period = "nodeAllocatableUpdatePeriodSeconds";
        if int(spec, period).is_some_and(|n| n < 10) {
            let why = "must be greater than or equal to 10 seconds";
            invalid(&mut errs, &path.child(period), at(spec, period), why);
        }
        let secrets = "serviceAccountTokenInSecrets";
        if has(spec, secrets) && items(spec, "tokenRequests").is_empty() {
            let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            invalid(&mut errs, &path.child(secrets), at(spec, secrets), why);
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), FieldPath::new("spec"));
        let (new, was) = (at(obj, "spec"), at(old, "spec"));
        if at(new, "attachRequired") != at(was, "attachRequired") {
            let (path, value) = (path.child("attachedRequired"), at(new, "attachRequired"));
            invalid(&mut errs, &path, value, IMMUTABLE);
        }
        immutable(&mut errs, &path, new, was, "volumeLifecycleModes");
        errs
    }
    fn has_generation(&self) -> bool {
        true
    }
}

fn tokens(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let all = items(spec, "tokenRequests");
    let mut seen = HashSet::new();
    for (i, request) in all.iter().enumerate() {
        let audience = text(request, "audience");
        if !seen.insert(audience) {
            let path = path.index(i).child("audience");
            errs.push(FieldError::duplicate(&path, &audience.into()));
            continue;
        }
        let why = match int(request, "expirationSeconds") {
            Some(n) if n < 600 => "may not specify a duration less than 10 minutes",
            Some(n) if n > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
            _ => continue,
        };
        let path = path.index(i).child("expirationSeconds");
        invalid(errs, &path, at(request, "expirationSeconds"), why);
    }
}

/// The strategy of what drivers say of nodes.
pub struct CsiNode;

impl Strategy for CsiNode {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("spec").child("drivers");
        let drivers = items(at(obj, "spec"), "drivers");
        let mut seen = HashSet::new();
        for (i, driver) in drivers.iter().enumerate() {
            let path = path.index(i);
            driver_name(&mut errs, &path, driver, "name");
            if required_text(&mut errs, &path, driver, "nodeID")
                && text(driver, "nodeID").len() > 256
            {
                let (path, id) = (path.child("nodeID"), text(driver, "nodeID"));
                let why = "must be 256 characters or less";
                errs.push(FieldError::invalid_str(&path, id, why));
            }
            let allocatable = path.child("allocatable");
            not_negative(&mut errs, &allocatable, at(driver, "allocatable"), "count");
            let mut keys = HashSet::new();
            for key in items(driver, "topologyKeys") {
                let key = key.as_str().unwrap_or_default();
                if key.is_empty() {
                    errs.push(FieldError::required(&path, ""));
                }
                if !keys.insert(key) {
                    errs.push(FieldError::duplicate(&path, &key.into()));
                }
                qualified_name(&mut errs, &path, key);
            }
            let name = text(driver, "name");
            if !seen.insert(name) {
                errs.push(FieldError::duplicate(&path.child("name"), &name.into()));
            }
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("spec").child("drivers");
        let but_count = |d: &Value| {
            let mut d = d.clone();
            crate::check::unset(&mut d, "allocatable");
            d
        };
        for was in items(at(old, "spec"), "drivers") {
            let drivers = items(at(obj, "spec"), "drivers");
            let mut same = drivers
                .iter()
                .filter(|d| text(d, "name") == text(was, "name"));
            if let Some(new) = same.find(|d| but_count(d) != but_count(was)) {
                invalid(&mut errs, &path, new, IMMUTABLE);
            }
        }
        errs
    }
}

/// The strategy of what drivers say of their capacity.
pub struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::capacity(obj)
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("nodeTopology");
        label_selector(&mut errs, &path, at(obj, "nodeTopology"));
        let class = text(obj, "storageClassName");
        dns_subdomain(&mut errs, &FieldPath::new("storageClassName"), class);
        let capacity = at(obj, "capacity");
        if parse(capacity).is_some_and(|q| q.is_negative()) {
            let why = "must be greater than or equal to 0";
            invalid(&mut errs, &FieldPath::new("capacity"), capacity, why);
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, root) = (Errors::new(), FieldPath::root());
        for field in ["nodeTopology", "storageClassName"] {
            immutable(&mut errs, &root, obj, old, field);
        }
        errs
    }
}

/// The strategy of volume attachments: only their status changes.
pub struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"attached": false}));
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        driver_name(&mut errs, &path, spec, "attacher");
        let (source, at_source) = (at(spec, "source"), path.child("source"));
        let (within, name) = (
            has(source, "inlineVolumeSpec"),
            has(source, "persistentVolumeName"),
        );
        let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (within, name) {
            (false, false) => errs.push(FieldError::required(&at_source, why)),
            (true, true) => errs.push(FieldError::forbidden(&at_source, why)),
            (false, true) if text(source, "persistentVolumeName").is_empty() => {
                let path = at_source.child("persistentVolumeName");
                let why = "must specify non empty persistentVolumeName";
                errs.push(FieldError::required(&path, why));
            }
            (false, true) => {
                let path = at_source.child("persistentVolumeName");
                dns_subdomain(&mut errs, &path, text(source, "persistentVolumeName"));
            }
            (true, false) => {
                let path = at_source.child("inlineVolumeSpec");
                inline(&mut errs, &path, at(source, "inlineVolumeSpec"));
            }
        }
        dns_subdomain(&mut errs, &path.child("nodeName"), text(spec, "nodeName"));
        attachment_status(&mut errs, at(obj, "status"));
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        immutable(&mut errs, &FieldPath::root(), obj, old, "spec");
        errs
    }
}

/// What cannot be said of a volume that a pod brings along.
fn inline(errs: &mut Errors, path: &FieldPath, volume: &Value) {
    let why = "may not be specified in the context of inline volumes";
    let forbidden = |field: &str| FieldError::forbidden(&path.child(field), why);
    for field in ["claimRef", "capacity"] {
        if !is_empty(at(volume, field)) {
            errs.push(forbidden(field));
        }
    }
    if !has(volume, "csi") {
        let why = "has to be specified in the context of inline volumes";
        errs.push(FieldError::required(&path.child("csi"), why));
    }
    if items(volume, "accessModes").is_empty() {
        errs.push(FieldError::required(&path.child("accessModes"), ""));
    }
    let policy = "persistentVolumeReclaimPolicy";
    if !["", "Retain"].contains(&text(volume, policy)) {
        let why = "may only be Retain in the context of inline volumes";
        errs.push(FieldError::forbidden(&path.child(policy), why));
    }
    if has(volume, "nodeAffinity") {
        errs.push(forbidden("nodeAffinity"));
    }
}

fn attachment_status(errs: &mut Errors, status: &Value) {
    let path = FieldPath::new("status");
    for field in ["attachError", "detachError"] {
        let (error, path) = (at(status, field), path.child(field));
        if text(error, "message").len() > MESSAGE_BYTES {
            // Upstream names the bound of the metadata.
            errs.push(FieldError::too_long(
                &path.child("message"),
                PARAMETER_BYTES,
            ));
        }
        if int(error, "errorCode").is_some_and(|code| code < 0) {
            let why = "must be between 0 and 2147483647, inclusive";
            invalid(errs, &path.child("errorCode"), at(error, "errorCode"), why);
        }
    }
    let metadata = at(status, "attachmentMetadata").as_object();
    let bytes = metadata.into_iter().flatten();
    let bytes = bytes.map(|(k, v)| k.len() + v.as_str().map_or(0, str::len));
    if bytes.sum::<usize>() > PARAMETER_BYTES {
        let path = path.child("attachmentMetadata");
        errs.push(FieldError::too_long(&path, PARAMETER_BYTES));
    }
}

/// The strategy of classes of volumes' attributes.
pub struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        provisioner(&mut errs, obj, "driverName");
        parameters(&mut errs, obj);
        if is_empty(at(obj, "parameters")) {
            let why = "must contain at least one key/value pair";
            errs.push(FieldError::required(&FieldPath::new("parameters"), why));
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        for field in ["driverName", "parameters"] {
            if at(obj, field) != at(old, field) {
                let why = format!("updates to {field} are forbidden.");
                errs.push(FieldError::forbidden(&FieldPath::new(field), &why));
            }
        }
        errs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> Context<'static> {
        Context::of_nobody()
    }

    fn says(strategy: &dyn Strategy, obj: &Value, part: &str) {
        let errs = strategy.validate(obj, &cx());
        let all: Vec<String> = errs.iter().map(FieldError::message).collect();
        let found = errs
            .iter()
            .any(|e| format!("{}: {}", e.field, e.message()).contains(part));
        assert!(found, "{part}: {all:?}");
    }

    #[test]
    fn classes_keep_what_makes_volumes() {
        let class = json!({ "provisioner": "x.io/p", "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate" });
        assert!(StorageClass.validate(&class, &cx()).is_empty());
        let mut other = class.clone();
        other["parameters"] = json!({});
        assert!(
            StorageClass
                .validate_update(&other, &class, &cx())
                .is_empty()
        );
        other["parameters"] = json!({ "a": "b" });
        other["reclaimPolicy"] = json!("Retain");
        let errs = StorageClass.validate_update(&other, &class, &cx());
        assert_eq!(errs.len(), 2);
        says(&StorageClass, &json!({ "provisioner": "" }), "provisioner");
        says(
            &StorageClass,
            &json!({ "provisioner": "a b" }),
            "provisioner",
        );
        let term =
            |values: Value| json!({ "matchLabelExpressions": [{ "key": "k", "values": values }] });
        let twice = json!({ "provisioner": "x",
            "allowedTopologies": [term(json!(["a", "b"])), term(json!(["b", "a"]))] });
        says(
            &StorageClass,
            &twice,
            "allowedTopologies[1].matchLabelExpressions: Duplicate value",
        );
        let topology = json!({ "provisioner": "x", "allowedTopologies": [
            { "matchLabelExpressions": [{ "key": "k", "values": [] }] }] });
        says(
            &StorageClass,
            &topology,
            "allowedTopologies[0].matchLabelExpressions[0].values",
        );
    }

    #[test]
    fn attachments_name_one_volume() {
        let with = |source: Value| {
            json!({ "spec": { "attacher": "csi.example", "nodeName": "n",
            "source": source } })
        };
        let good = with(json!({ "persistentVolumeName": "v" }));
        assert!(VolumeAttachment.validate(&good, &cx()).is_empty());
        says(&VolumeAttachment, &with(json!({})), "spec.source");
        says(
            &VolumeAttachment,
            &with(json!({ "persistentVolumeName": "" })),
            "persistentVolumeName",
        );
        says(
            &VolumeAttachment,
            &with(json!({ "inlineVolumeSpec": {} })),
            "inlineVolumeSpec.csi",
        );
        for (volume, part) in [
            (
                json!({ "csi": {} }),
                "inlineVolumeSpec.accessModes: Required value",
            ),
            (
                json!({ "csi": {}, "claimRef": { "name": "c" } }),
                "inlineVolumeSpec.claimRef: Forbidden",
            ),
            (
                json!({ "csi": {}, "persistentVolumeReclaimPolicy": "Delete" }),
                "persistentVolumeReclaimPolicy: Forbidden: may only be Retain",
            ),
        ] {
            let source = with(json!({ "inlineVolumeSpec": volume }));
            says(&VolumeAttachment, &source, part);
        }
        let mut failed = good.clone();
        failed["status"] = json!({ "attachError": { "errorCode": -1 } });
        says(
            &VolumeAttachment,
            &failed,
            "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647",
        );
        let mut bad = good.clone();
        bad["spec"]["attacher"] = json!("");
        says(&VolumeAttachment, &bad, "spec.attacher");
        assert_eq!(
            VolumeAttachment.validate_update(&bad, &good, &cx()).len(),
            1
        );
    }

    #[test]
    fn what_drivers_say_is_checked() {
        let node = json!({ "spec": { "drivers": [{ "name": "d", "nodeID": "" },
            { "name": "d", "nodeID": "x", "topologyKeys": ["a", "a"],
              "allocatable": { "count": -1 } }] } });
        for part in [
            "drivers[0].nodeID",
            "drivers[1].name",
            "drivers[1].allocatable.count",
        ] {
            says(&CsiNode, &node, part);
        }
        let one = |id: &str, count: i64| {
            json!({ "spec": { "drivers": [{ "name": "d", "nodeID": id,
            "allocatable": { "count": count } }] } })
        };
        assert!(
            CsiNode
                .validate_update(&one("x", 2), &one("x", 1), &cx())
                .is_empty()
        );
        assert_eq!(
            CsiNode
                .validate_update(&one("y", 1), &one("x", 1), &cx())
                .len(),
            1
        );
        let mut driver =
            json!({ "spec": { "tokenRequests": [{ "audience": "a", "expirationSeconds": 1 }] } });
        CsiDriver.default(&mut driver);
        says(&CsiDriver, &driver, "tokenRequests[0].expirationSeconds");
        let capacity = json!({ "storageClassName": "c", "capacity": "-1" });
        says(&CsiStorageCapacity, &capacity, "capacity");
        says(
            &VolumeAttributesClass,
            &json!({ "driverName": "d" }),
            "parameters",
        );
    }
}
