//! Pod templates, and the kinds that keep copies of one: ReplicationController, ReplicaSet,
//! Deployment, DaemonSet. StatefulSets are next door.

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::pod::{self, defaults, spec_warnings};
use crate::check::{
    Errors, at, at_most_100_percent, fill, fill_zero, has, immutable, int, int_or_percent, invalid,
    is_empty, is_zero, items, label_selector, labels, make, not_negative, one_of, selector_matches,
    selects_all, set, text,
};
use crate::status_writes::keep_other_half;
use crate::strategy::{Context, Dependents, Strategy};

/// Defaults of a pod template.
pub fn template_defaults(template: &mut Value) {
    if let Some(spec) = make(template, "spec") {
        defaults::pod_spec(spec);
    }
    make(template, "metadata");
}

/// Defaults of the template at a pointer, if there is one.
pub fn template_defaults_at(obj: &mut Value, pointer: &str) {
    if let Some(t) = obj.pointer_mut(pointer).filter(|t| t.is_object()) {
        template_defaults(t);
    }
}

/// Checks a pod template.
pub fn template(errs: &mut Errors, path: &FieldPath, t: &Value) {
    let meta = at(t, "metadata");
    labels(errs, &path.child("labels"), at(meta, "labels"));
    crate::meta::validate_annotations(errs, &path.child("annotations"), at(meta, "annotations"));
    pod::validate_annotations(errs, &path.child("annotations"), meta, at(t, "spec"));
    pod::validate_pod_spec(errs, &path.child("spec"), at(t, "spec"), false);
    if !items(at(t, "spec"), "ephemeralContainers").is_empty() {
        let path = path.child("spec").child("ephemeralContainers");
        errs.push(FieldError::forbidden(
            &path,
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// Warnings of a pod template.
pub fn template_warnings(path: &str, t: &Value) -> Vec<String> {
    spec_warnings(&FieldPath::new(path), at(t, "spec"), at(t, "metadata"))
}

/// Warnings of the template of a kind's pods, where what lies at a pointer has changed.
pub fn warnings_of_change(obj: &Value, old: Option<&Value>, part: &str) -> Vec<String> {
    if old.is_some_and(|old| old.pointer(part) == obj.pointer(part)) {
        return Vec::new();
    }
    template_warnings("spec.template", at(at(obj, "spec"), "template"))
}

/// Pods of these kinds always restart and have no deadline.
fn always_running(errs: &mut Errors, path: &FieldPath, t: &Value, kind: &str) {
    let (spec, path) = (at(t, "spec"), path.child("spec"));
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        one_of(errs, &path.child("restartPolicy"), policy, &["Always"]);
    }
    if has(spec, "activeDeadlineSeconds") {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errs.push(FieldError::forbidden(
            &path.child("activeDeadlineSeconds"),
            &why,
        ));
    }
}

/// A selector must be there, select something, and match the template.
pub(super) fn selector_and_template(
    errs: &mut Errors,
    path: &FieldPath,
    spec: &Value,
    kind: &str,
    word: &str,
) {
    let selector = at(spec, "selector");
    if selector.is_null() {
        errs.push(FieldError::required(&path.child("selector"), ""));
    } else {
        label_selector(errs, &path.child("selector"), selector);
        if selects_all(selector) {
            let why = format!("empty selector is invalid for {word}");
            invalid(errs, &path.child("selector"), selector, &why);
        }
    }
    let (t, path) = (at(spec, "template"), path.child("template"));
    let of_template = at(at(t, "metadata"), "labels");
    if !selector.is_null() && !selects_all(selector) && !selector_matches(selector, of_template) {
        let path = path.child("metadata").child("labels");
        let why = "`selector` does not match template `labels`";
        invalid(errs, &path, of_template, why);
    }
    template(errs, &path, t);
    always_running(errs, &path, t, kind);
}

/// The status of a scalable kind: counts that are not negative.
pub(super) fn counts(errs: &mut Errors, obj: &Value, fields: &[&str]) {
    for f in fields {
        not_negative(errs, &FieldPath::new("status"), at(obj, "status"), f);
    }
}

/// How often names of pods or revisions were taken is never less than it was.
pub(super) fn collisions(errs: &mut Errors, obj: &Value, old: &Value) {
    let count = |o: &Value| int(at(o, "status"), "collisionCount").unwrap_or(0);
    if count(obj) < count(old) {
        let path = FieldPath::new("status").child("collisionCount");
        invalid(errs, &path, &count(obj).into(), "cannot be decremented");
    }
}

const REPLICA_COUNTS: &[&str] = &[
    "replicas",
    "readyReplicas",
    "availableReplicas",
    "fullyLabeledReplicas",
    "observedGeneration",
    "terminatingReplicas",
];

/// Status of a replica set or controller: parts are not more than the whole.
fn replica_status(errs: &mut Errors, obj: &Value) {
    counts(errs, obj, REPLICA_COUNTS);
    let (status, path) = (at(obj, "status"), FieldPath::new("status"));
    let whole = int(status, "replicas").unwrap_or(0);
    for f in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if int(status, f).is_some_and(|n| n > whole) {
            let why = "cannot be greater than status.replicas";
            invalid(errs, &path.child(f), at(status, f), why);
        }
    }
    available_are_ready(errs, status);
}

/// What is available is ready first.
fn available_are_ready(errs: &mut Errors, status: &Value) {
    let count = |f| int(status, f).unwrap_or(0);
    if count("availableReplicas") > count("readyReplicas") {
        let path = FieldPath::new("status").child("availableReplicas");
        let why = "cannot be greater than readyReplicas";
        invalid(errs, &path, at(status, "availableReplicas"), why);
    }
}

/// The strategy of replication controllers.
pub struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, obj: &mut Value) {
        let of_template = obj.pointer("/spec/template/metadata/labels").cloned();
        if let Some(found) = of_template.filter(|l| l.is_object()) {
            if let Some(spec) = make(obj, "spec") {
                fill_zero(spec, "selector", found.clone());
            }
            if let Some(meta) = make(obj, "metadata") {
                fill_zero(meta, "labels", found);
            }
        }
        if let Some(spec) = make(obj, "spec") {
            fill(spec, "replicas", 1);
        }
        template_defaults_at(obj, "/spec/template");
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"replicas": 0}));
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            replica_status(&mut errs, obj);
            return errs;
        }
        not_negative(&mut errs, &path, spec, "minReadySeconds");
        let selector = at(spec, "selector");
        labels(&mut errs, &path.child("selector"), selector);
        if is_empty(selector) {
            errs.push(FieldError::required(&path.child("selector"), ""));
        }
        not_negative(&mut errs, &path, spec, "replicas");
        let (t, path) = (at(spec, "template"), path.child("template"));
        if t.is_null() {
            errs.push(FieldError::required(&path, ""));
            return errs;
        }
        let of_template = at(at(t, "metadata"), "labels");
        let wanted = json!({"matchLabels": selector});
        if !is_empty(selector) && !selector_matches(&wanted, of_template) {
            let path = path.child("metadata").child("labels");
            invalid(
                &mut errs,
                &path,
                of_template,
                "`selector` does not match template `labels`",
            );
        }
        template(&mut errs, &path, t);
        always_running(&mut errs, &path, t, "ReplicationController");
        errs
    }
    /// Rules of pods come with versions.
    fn keeps_what_was_wrong(&self) -> bool {
        true
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warnings_of_change(obj, old, "/spec")
    }
    fn dependents(&self) -> Dependents {
        Dependents::Orphan
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// The strategy of replica sets.
pub struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = make(obj, "spec") {
            fill(spec, "replicas", 1);
            if let Some(t) = make(spec, "template") {
                template_defaults(t);
            }
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({"replicas": 0}));
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            replica_status(&mut errs, obj);
            return errs;
        }
        not_negative(&mut errs, &path, spec, "replicas");
        not_negative(&mut errs, &path, spec, "minReadySeconds");
        selector_and_template(&mut errs, &path, spec, "ReplicaSet", "deployment");
        errs
    }
    /// Rules of pods come with versions.
    fn keeps_what_was_wrong(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        fixed_selector(obj, old)
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warnings_of_change(obj, old, "/spec")
    }
    fn has_generation(&self) -> bool {
        true
    }
}

fn fixed_selector(obj: &Value, old: &Value) -> Errors {
    let mut errs = Errors::new();
    immutable(
        &mut errs,
        &FieldPath::new("spec"),
        at(obj, "spec"),
        at(old, "spec"),
        "selector",
    );
    errs
}

/// The strategy of deployments.
pub struct Deployment;

impl Strategy for Deployment {
    fn status_leaves(&self) -> &'static [&'static str] {
        &["labels"]
    }
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        if let Some(strategy) = make(spec, "strategy") {
            fill_zero(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate"
                && let Some(rolling) = make(strategy, "rollingUpdate")
            {
                fill(rolling, "maxUnavailable", "25%");
                fill(rolling, "maxSurge", "25%");
            }
        }
        if let Some(t) = make(spec, "template") {
            template_defaults(t);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({}));
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            let fields = [
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "terminatingReplicas",
                "collisionCount",
            ];
            counts(&mut errs, obj, &fields);
            let (status, path) = (at(obj, "status"), FieldPath::new("status"));
            let whole = int(status, "replicas").unwrap_or(0);
            for f in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
                if int(status, f).is_some_and(|n| n > whole) {
                    let why = "cannot be greater than status.replicas";
                    invalid(&mut errs, &path.child(f), at(status, f), why);
                }
            }
            available_are_ready(&mut errs, status);
            return errs;
        }
        not_negative(&mut errs, &path, spec, "replicas");
        selector_and_template(&mut errs, &path, spec, "ReplicaSet", "deployment");
        deployment_strategy(&mut errs, &path.child("strategy"), at(spec, "strategy"));
        not_negative(&mut errs, &path, spec, "minReadySeconds");
        not_negative(&mut errs, &path, spec, "revisionHistoryLimit");
        not_negative(&mut errs, &path, spec, "progressDeadlineSeconds");
        let deadline = int(spec, "progressDeadlineSeconds");
        if deadline.is_some_and(|d| d <= int(spec, "minReadySeconds").unwrap_or(0)) {
            let path = path.child("progressDeadlineSeconds");
            invalid(
                &mut errs,
                &path,
                at(spec, "progressDeadlineSeconds"),
                "must be greater than minReadySeconds",
            );
        }
        errs
    }
    /// Rules of pods come with versions.
    fn keeps_what_was_wrong(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = fixed_selector(obj, old);
        collisions(&mut errs, obj, old);
        errs
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warnings_of_change(obj, old, "/spec")
    }
    fn has_generation(&self) -> bool {
        true
    }
}

fn deployment_strategy(errs: &mut Errors, path: &FieldPath, strategy: &Value) {
    let rolling = at(strategy, "rollingUpdate");
    let path_of_rolling = path.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if !rolling.is_null() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errs.push(FieldError::forbidden(&path_of_rolling, why));
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_null() => {
            let why = "this should be defaulted and never be nil";
            errs.push(FieldError::required(&path_of_rolling, why));
        }
        "RollingUpdate" => {
            let (down, up) = (at(rolling, "maxUnavailable"), at(rolling, "maxSurge"));
            let down_path = path_of_rolling.child("maxUnavailable");
            int_or_percent(errs, &down_path, down);
            int_or_percent(errs, &path_of_rolling.child("maxSurge"), up);
            if is_zero(down) && is_zero(up) {
                invalid(errs, &down_path, down, "may not be 0 when `maxSurge` is 0");
            }
            at_most_100_percent(errs, &down_path, down);
        }
        other => one_of(
            errs,
            &path.child("type"),
            other,
            &["Recreate", "RollingUpdate"],
        ),
    }
}

/// The strategy of daemon sets.
pub struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        if let Some(strategy) = make(spec, "updateStrategy") {
            fill_zero(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate"
                && let Some(rolling) = make(strategy, "rollingUpdate")
            {
                fill(rolling, "maxUnavailable", 1);
                fill(rolling, "maxSurge", 0);
            }
        }
        fill(spec, "revisionHistoryLimit", 10);
        if let Some(t) = make(spec, "template") {
            template_defaults(t);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        let zero = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0,
            "desiredNumberScheduled": 0, "numberReady": 0});
        set(obj, "status", zero);
        set_template_generation(obj, 1);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
        if cx.subresource.is_empty() {
            let was = old
                .pointer("/metadata/annotations/deprecated.daemonset.template.generation")
                .and_then(Value::as_str)
                .and_then(|s| s.parse::<i64>().ok())
                .unwrap_or(1);
            let changed = obj.pointer("/spec/template") != old.pointer("/spec/template");
            set_template_generation(obj, was + i64::from(changed));
        }
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            let fields = [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ];
            counts(&mut errs, obj, &fields);
            return errs;
        }
        selector_and_template(&mut errs, &path, spec, "DaemonSet", "daemonset");
        not_negative(&mut errs, &path, spec, "minReadySeconds");
        daemon_strategy(
            &mut errs,
            &path.child("updateStrategy"),
            at(spec, "updateStrategy"),
        );
        not_negative(&mut errs, &path, spec, "revisionHistoryLimit");
        errs
    }
    /// Rules of pods come with versions.
    fn keeps_what_was_wrong(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = fixed_selector(obj, old);
        collisions(&mut errs, obj, old);
        errs
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warnings_of_change(obj, old, "/spec/template")
    }
    fn has_generation(&self) -> bool {
        true
    }
}

fn set_template_generation(obj: &mut Value, generation: i64) {
    if let Some(notes) = make(obj, "metadata").and_then(|m| make(m, "annotations")) {
        set(
            notes,
            "deprecated.daemonset.template.generation",
            generation.to_string(),
        );
    }
}

fn daemon_strategy(errs: &mut Errors, path: &FieldPath, strategy: &Value) {
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let (rolling, path) = (at(strategy, "rollingUpdate"), path.child("rollingUpdate"));
            if rolling.is_null() {
                return errs.push(FieldError::required(&path, ""));
            }
            let (down, up) = (at(rolling, "maxUnavailable"), at(rolling, "maxSurge"));
            let (down_path, up_path) = (path.child("maxUnavailable"), path.child("maxSurge"));
            int_or_percent(errs, &down_path, down);
            int_or_percent(errs, &up_path, up);
            at_most_100_percent(errs, &down_path, down);
            at_most_100_percent(errs, &up_path, up);
            match (is_zero(down), is_zero(up)) {
                (true, true) => {
                    invalid(errs, &down_path, down, "cannot be 0 when maxSurge is 0");
                }
                (false, false) => {
                    invalid(
                        errs,
                        &up_path,
                        up,
                        "may not be set when maxUnavailable is non-zero",
                    );
                }
                _ => {}
            }
        }
        other => one_of(
            errs,
            &path.child("type"),
            other,
            &["OnDelete", "RollingUpdate"],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_warned_of_when_it_is_written() {
        let pods = |label: &str, replicas: i64| {
            json!({ "spec": { "replicas": replicas, "template": { "spec": {
                "nodeSelector": { label: "x" } } } } })
        };
        let old = pods("beta.kubernetes.io/os", 1);
        let scaled = pods("beta.kubernetes.io/os", 2);
        let kinds: [(&dyn Strategy, usize); 2] = [(&Deployment, 1), (&DaemonSet, 0)];
        for (strategy, of_scaled) in kinds {
            assert_eq!(strategy.warnings(&old, None).len(), 1);
            assert!(strategy.warnings(&old, Some(&old)).is_empty());
            assert_eq!(strategy.warnings(&scaled, Some(&old)).len(), of_scaled);
            let other = pods("kubernetes.io/os", 1);
            assert_eq!(strategy.warnings(&old, Some(&other)).len(), 1);
        }
    }

    #[test]
    fn collisions_are_never_fewer() {
        let cx = Context {
            subresource: "status",
            ..Context::of_nobody()
        };
        let with = |count: Value| json!({ "status": { "collisionCount": count } });
        let strategies: [&dyn Strategy; 2] = [&Deployment, &DaemonSet];
        for strategy in strategies {
            for (new, old, wrong) in [
                (json!(2), json!(2), None),
                (json!(3), Value::Null, None),
                (
                    json!(1),
                    json!(2),
                    Some("Invalid value: 1: cannot be decremented"),
                ),
                (
                    Value::Null,
                    json!(1),
                    Some("Invalid value: 0: cannot be decremented"),
                ),
            ] {
                let found = strategy.validate_update(&with(new), &with(old), &cx);
                let found: Vec<String> = found.iter().map(FieldError::message).collect();
                assert_eq!(found, wrong.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
