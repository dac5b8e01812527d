//! StatefulSets and the revisions that they and daemon sets keep.

use std::collections::HashSet;

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::warnings;
use super::workload::{
    collisions, counts, selector_and_template, template_defaults, warnings_of_change,
};
use crate::check::{
    Errors, at, at_most_100_percent, dns_label, fill, fill_zero, has, immutable, int,
    int_or_percent, invalid, is_zero, items, items_mut, make, not_negative, one_of, set, text,
    unset,
};
use crate::strategy::{Context, Strategy};

/// The strategy of stateful sets.
pub struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        fill_zero(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = make(spec, "updateStrategy") {
            if text(strategy, "type").is_empty() {
                set(strategy, "type", "RollingUpdate");
                make(strategy, "rollingUpdate");
            }
            if text(strategy, "type") == "RollingUpdate"
                && has(strategy, "rollingUpdate")
                && let Some(rolling) = make(strategy, "rollingUpdate")
            {
                fill(rolling, "partition", 0);
            }
        }
        if let Some(policy) = make(spec, "persistentVolumeClaimRetentionPolicy") {
            fill_zero(policy, "whenDeleted", "Retain");
            fill_zero(policy, "whenScaled", "Retain");
        }
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        if let Some(t) = make(spec, "template") {
            template_defaults(t);
        }
        for claim in items_mut(spec, "volumeClaimTemplates") {
            set(claim, "kind", "PersistentVolumeClaim");
            set(claim, "apiVersion", "v1");
            super::claims::claim_defaults(claim);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(
            obj,
            "status",
            json!({"replicas": 0, "availableReplicas": 0}),
        );
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            let fields = [
                "replicas",
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
                "observedGeneration",
                "collisionCount",
            ];
            counts(&mut errs, obj, &fields);
            let (status, path) = (at(obj, "status"), FieldPath::new("status"));
            for (part, whole) in [
                ("readyReplicas", "replicas"),
                ("currentReplicas", "replicas"),
                ("updatedReplicas", "replicas"),
                ("availableReplicas", "replicas"),
                ("availableReplicas", "readyReplicas"),
            ] {
                if int(status, part).unwrap_or(0) > int(status, whole).unwrap_or(0) {
                    let why = format!("cannot be greater than status.{whole}");
                    let part_of = at(status, part);
                    errs.push(FieldError::invalid(&path.child(part), part_of, &why));
                }
            }
            return errs;
        }
        let policies = ["OrderedReady", "Parallel"];
        match text(spec, "podManagementPolicy") {
            "" => errs.push(FieldError::required(&path.child("podManagementPolicy"), "")),
            p if policies.contains(&p) => {}
            p => {
                let why = "must be 'OrderedReady' or 'Parallel'";
                errs.push(FieldError::invalid_str(
                    &path.child("podManagementPolicy"),
                    p,
                    why,
                ));
            }
        }
        stateful_strategy(
            &mut errs,
            &path.child("updateStrategy"),
            at(spec, "updateStrategy"),
        );
        not_negative(&mut errs, &path, spec, "replicas");
        not_negative(&mut errs, &path, spec, "minReadySeconds");
        if has(spec, "ordinals") {
            let start = at(spec, "ordinals");
            not_negative(&mut errs, &path.child("ordinals"), start, "start");
        }
        let policy = at(spec, "persistentVolumeClaimRetentionPolicy");
        if !policy.is_null() {
            let path = path.child("persistentVolumeClaimRetentionPolicy");
            for field in ["whenDeleted", "whenScaled"] {
                one_of(
                    &mut errs,
                    &path.child(field),
                    text(policy, field),
                    &["Retain", "Delete"],
                );
            }
        }
        let service = text(spec, "serviceName");
        if !service.is_empty() {
            dns_label(&mut errs, &path.child("serviceName"), service);
        }
        let templates = path.child("volumeClaimTemplates");
        for (i, claim) in items(spec, "volumeClaimTemplates").iter().enumerate() {
            let path = templates.index(i).child("spec");
            super::claims::claim_spec(&mut errs, &path, at(claim, "spec"));
        }
        let as_made = with_identity(spec);
        selector_and_template(&mut errs, &path, &as_made, "StatefulSet", "statefulset");
        errs
    }
    /// Rules of pods come with versions.
    fn keeps_what_was_wrong(&self) -> bool {
        true
    }
    /// Pods are called as their set, with a number, and that is their host name.
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        crate::meta::name_is_label(name, generate)
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            let mut errs = Errors::new();
            collisions(&mut errs, obj, old);
            return errs;
        }
        const FREE: &[&str] = &[
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
            "revisionHistoryLimit",
        ];
        let rest = |v: &Value| {
            let mut spec = at(v, "spec").clone();
            FREE.iter().for_each(|f| crate::check::unset(&mut spec, f));
            spec
        };
        if rest(obj) == rest(old) {
            return Vec::new();
        }
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        vec![FieldError::forbidden(&FieldPath::new("spec"), why)]
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let spec = at(obj, "spec");
        let mut out = warnings_of_change(obj, old, "/spec");
        let path = FieldPath::new("spec").child("volumeClaimTemplates");
        for (i, claim) in items(spec, "volumeClaimTemplates").iter().enumerate() {
            // Upstream's path has this letter.
            let path = path.index(i).child("Spec");
            warnings::claim_spec(&mut out, &path, at(claim, "spec"));
        }
        if int(spec, "revisionHistoryLimit").is_some_and(|n| n < 0) {
            out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".into());
        }
        out
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// The specification with the template as pods get it: the controller sets host name and
/// subdomain, and adds a volume for each claim.
fn with_identity(spec: &Value) -> Value {
    let claims = items(spec, "volumeClaimTemplates").iter();
    let claims: Vec<&str> = claims.map(|c| text(at(c, "metadata"), "name")).collect();
    let mut spec = spec.clone();
    let Some(pod) = spec.pointer_mut("/template/spec") else {
        return spec;
    };
    unset(pod, "subdomain");
    unset(pod, "hostname");
    let given = items(pod, "volumes").iter();
    let known: HashSet<&str> = claims.iter().copied().collect();
    let others = given.filter(|v| !known.contains(text(v, "name"))).cloned();
    let of_claim =
        |name: &&str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
    let volumes: Vec<Value> = claims.iter().map(of_claim).chain(others).collect();
    if !volumes.is_empty() {
        set(pod, "volumes", volumes);
    }
    spec
}

fn stateful_strategy(errs: &mut Errors, path: &FieldPath, strategy: &Value) {
    let rolling = at(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "" => errs.push(FieldError::required(path, "")),
        "OnDelete" => {
            if !rolling.is_null() {
                let why = "only allowed for updateStrategy 'RollingUpdate'";
                invalid(errs, &path.child("rollingUpdate"), rolling, why);
            }
        }
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            not_negative(errs, &path, rolling, "partition");
            if has(rolling, "maxUnavailable") {
                let (v, path) = (at(rolling, "maxUnavailable"), path.child("maxUnavailable"));
                int_or_percent(errs, &path, v);
                if is_zero(v) {
                    invalid(errs, &path, v, "cannot be 0");
                }
                at_most_100_percent(errs, &path, v);
            }
        }
        _ => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            invalid(errs, path, strategy, why);
        }
    }
}

/// The strategy of controller revisions: their data never changes.
pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        not_negative(&mut errs, &FieldPath::root(), obj, "revision");
        let data = at(obj, "data");
        if !data.is_object() {
            let why = if data.is_null() {
                "data is mandatory"
            } else {
                "data must be a valid JSON object"
            };
            errs.push(FieldError::required(&FieldPath::new("data"), why));
        }
        errs
    }
    /// One that was made without data may stay so.
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        not_negative(&mut errs, &FieldPath::root(), obj, "revision");
        immutable(&mut errs, &FieldPath::root(), obj, old, "data");
        errs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_made_with_data_and_keeps_it() {
        let cx = Context::of_nobody();
        let say = |revision: &Value| {
            let found = ControllerRevision.validate(revision, &cx);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (none, text) = (
            json!({ "revision": 1 }),
            json!({ "data": "x", "revision": 1 }),
        );
        assert_eq!(say(&none), ["data: Required value: data is mandatory"]);
        assert_eq!(
            say(&text),
            ["data: Required value: data must be a valid JSON object"]
        );
        let good = json!({ "data": {}, "revision": 0 });
        assert!(say(&good).is_empty());
        assert_eq!(ControllerRevision.validate_update(&none, &none, &cx), []);
        assert_eq!(
            ControllerRevision.validate_update(&good, &text, &cx).len(),
            1
        );
    }
}
