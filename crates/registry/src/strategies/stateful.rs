//! StatefulSets and the revisions that they and daemon sets keep.

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::workload::{counts, selector_and_template, template_defaults, template_warnings};
use crate::check::{
    Errors, at, at_most_100_percent, fill, fill_zero, has, immutable, int_or_percent, invalid,
    is_zero, items_mut, make, not_negative, set, text,
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
            super::volumes::claim_defaults(claim);
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
                "observedGeneration",
            ];
            counts(&mut errs, obj, &fields);
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
        not_negative(&mut errs, &path, spec, "revisionHistoryLimit");
        not_negative(
            &mut errs,
            &path.child("ordinals"),
            at(spec, "ordinals"),
            "start",
        );
        selector_and_template(&mut errs, &path, spec, "StatefulSet", "statefulset");
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
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
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        template_warnings("spec.template", at(at(obj, "spec"), "template"))
    }
    fn has_generation(&self) -> bool {
        true
    }
}

fn stateful_strategy(errs: &mut Errors, path: &FieldPath, strategy: &Value) {
    let rolling = at(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "" => errs.push(FieldError::required(&path.child("type"), "")),
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
        other => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errs.push(FieldError::invalid_str(&path.child("type"), other, why));
        }
    }
}

/// The strategy of controller revisions: their data never changes.
pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        not_negative(&mut errs, &FieldPath::root(), obj, "revision");
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        immutable(&mut errs, &FieldPath::root(), obj, old, "data");
        errs
    }
}
