//! Pods: defaults, what the server sets, and the checks that pods and pod templates share.

mod annotations;
pub mod defaults;
mod mounts;
mod os;
mod overlaps;
mod parts;
pub mod projections;
mod requirements;
mod spec;
mod status;
mod sysctls;
mod update;
pub mod volumes;
pub(crate) mod warnings;

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::workload;
use crate::check::{at, has, int, items, set, text, unset};
use crate::status_writes::keep_other_half;
use crate::strategy::{Context, Strategy};

pub use annotations::check as validate_annotations;
pub use spec::pod_spec as validate_pod_spec;
pub use warnings::pod_spec as spec_warnings;

/// The strategy of pods.
pub struct Pod;

impl Strategy for Pod {
    fn default(&self, obj: &mut Value) {
        defaults::pod(obj);
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        let qos = defaults::qos_class(obj).name();
        let mut status = json!({"phase": "Pending", "qosClass": qos});
        if !items(at(obj, "spec"), "schedulingGates").is_empty() {
            let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
            set(&mut status, "conditions", gated);
        }
        set(obj, "status", status);
        match_label_keys(obj);
        annotations::app_armor(obj);
    }

    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        match cx.subresource {
            "status" => {
                keep_other_half(obj, old, "status");
                let qos = at(at(old, "status"), "qosClass").clone();
                if let Some(status) = obj.get_mut("status").filter(|s| s.is_object()) {
                    if !has(status, "qosClass") {
                        set(status, "qosClass", qos);
                    }
                    status::keep_generations(status, at(old, "status"));
                }
            }
            "ephemeralcontainers" => keep_all_but(obj, old, &["ephemeralContainers"]),
            "resize" => keep_all_but_resources(obj, old),
            _ => keep_other_half(obj, old, ""),
        }
    }

    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return Vec::new();
        }
        let mut errs = Vec::new();
        let path = FieldPath::new("metadata").child("annotations");
        validate_annotations(&mut errs, &path, at(obj, "metadata"), at(obj, "spec"));
        validate_pod_spec(&mut errs, &FieldPath::new("spec"), at(obj, "spec"), true);
        if cx.subresource.is_empty() && text(at(obj, "metadata"), "resourceVersion").is_empty() {
            update::only_later(&mut errs, at(obj, "spec"));
        }
        errs
    }
    /// Rules of pods come with versions.
    fn keeps_what_was_wrong(&self) -> bool {
        true
    }

    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        match cx.subresource {
            "status" => status::update(obj, old),
            "ephemeralcontainers" => update::ephemeral(obj, old),
            "resize" => update::resize(obj, old),
            _ => update::pod(obj, old),
        }
    }

    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        let mut out = Vec::new();
        let (path, status) = (FieldPath::new("status"), at(obj, "status"));
        for list in ["podIPs", "hostIPs"] {
            for (i, ip) in items(status, list).iter().enumerate() {
                let path = path.child(list).index(i).child("ip");
                super::warnings::address(&mut out, &path, text(ip, "ip"));
            }
        }
        out
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        warnings::pod(obj)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn grace_seconds(&self, obj: &Value) -> Option<i64> {
        self.effective_grace(obj, None)
    }

    fn effective_grace(&self, obj: &Value, asked: Option<i64>) -> Option<i64> {
        let spec = at(obj, "spec");
        let own = int(spec, "terminationGracePeriodSeconds").unwrap_or(0);
        let phase = text(at(obj, "status"), "phase");
        let at_once =
            text(spec, "nodeName").is_empty() || phase == "Failed" || phase == "Succeeded";
        match asked.unwrap_or(own) {
            _ if at_once => Some(0),
            ..0 => Some(1),
            n => Some(n),
        }
    }
}

/// The strategy of pod templates as objects.
pub struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, obj: &mut Value) {
        if let Some(t) = crate::check::make(obj, "template") {
            workload::template_defaults(t);
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Vec::new();
        workload::template(&mut errs, &FieldPath::new("template"), at(obj, "template"));
        errs
    }
    /// Rules of pods come with versions.
    fn keeps_what_was_wrong(&self) -> bool {
        true
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let template = at(obj, "template");
        if old.is_some_and(|old| at(old, "template") == template) {
            return Vec::new();
        }
        workload::template_warnings("template", template)
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// Keeps the old object but for these fields of the spec.
fn keep_all_but(obj: &mut Value, old: &Value, fields: &[&str]) {
    let mut kept = old.clone();
    if let Some(spec) = kept.get_mut("spec") {
        for f in fields {
            match at(obj, "spec").get(*f) {
                Some(v) => set(spec, f, v.clone()),
                None => unset(spec, f),
            }
        }
    }
    keep_metadata(&mut kept, obj);
    *obj = kept;
}

/// The server's bookkeeping stays that of the request: its version and its managers.
fn keep_metadata(kept: &mut Value, new: &Value) {
    let from = at(new, "metadata");
    if let Some(meta) = kept.get_mut("metadata") {
        for f in ["resourceVersion", "managedFields", "uid"] {
            match from.get(f) {
                Some(v) => set(meta, f, v.clone()),
                None => unset(meta, f),
            }
        }
    }
}

/// Of a resize only resources and resize policies of the containers count. When containers were
/// added, removed or renamed, the object stays as it is and validation says so.
fn keep_all_but_resources(obj: &mut Value, old: &Value) {
    let names = |o: &Value, list: &str| -> Vec<String> {
        items(at(o, "spec"), list)
            .iter()
            .map(|c| text(c, "name").to_owned())
            .collect()
    };
    if ["containers", "initContainers"]
        .iter()
        .any(|l| names(obj, l) != names(old, l))
    {
        return;
    }
    let mut kept = old.clone();
    for list in ["containers", "initContainers"] {
        let new = items(at(obj, "spec"), list);
        let Some(spec) = kept.get_mut("spec") else {
            return;
        };
        for (to, from) in crate::check::items_mut(spec, list).iter_mut().zip(new) {
            for f in ["resources", "resizePolicy"] {
                match from.get(f) {
                    Some(v) => set(to, f, v.clone()),
                    None => unset(to, f),
                }
            }
        }
    }
    if let Some(spec) = kept.get_mut("spec") {
        match at(obj, "spec").get("resources") {
            Some(v) => set(spec, "resources", v.clone()),
            None => unset(spec, "resources"),
        }
    }
    keep_metadata(&mut kept, obj);
    *obj = kept;
}

/// Pod affinity and topology spread may name label keys whose values are taken from the pod.
fn match_label_keys(obj: &mut Value) {
    let labels = at(at(obj, "metadata"), "labels").clone();
    let Some(spec) = obj.get_mut("spec") else {
        return;
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let base = format!("/affinity/{kind}");
        let Some(affinity) = spec.pointer_mut(&base) else {
            continue;
        };
        for term in
            crate::check::items_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
        {
            extend_selector(term, &labels);
        }
        for w in
            crate::check::items_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
        {
            if let Some(term) = w.get_mut("podAffinityTerm") {
                extend_selector(term, &labels);
            }
        }
    }
    for constraint in crate::check::items_mut(spec, "topologySpreadConstraints") {
        extend_selector(constraint, &labels);
    }
}

/// Of a term of affinity, or of a constraint.
fn extend_selector(term: &mut Value, labels: &Value) {
    if !has(term, "labelSelector") {
        return;
    }
    let mut more = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in items(term, field).iter().filter_map(Value::as_str) {
            if let Some(v) = labels.get(key) {
                more.push(json!({"key": key, "operator": operator, "values": [v]}));
            }
        }
    }
    if more.is_empty() {
        return;
    }
    if let Some(selector) = term.get_mut("labelSelector") {
        let mut all = items(selector, "matchExpressions").to_vec();
        all.extend(more);
        set(selector, "matchExpressions", all);
    }
}
