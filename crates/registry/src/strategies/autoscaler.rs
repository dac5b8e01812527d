//! Horizontal pod autoscalers: stored as autoscaling/v2, served as v1 too.

mod metrics;

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use metrics::Versions;

use crate::check::{
    Errors, at, fill, has, int, invalid, items, make, not_negative, set, text, unset,
};
use crate::strategy::{Context, Strategy};

/// The strategy of autoscalers, stored as autoscaling/v2.
pub struct Autoscaler;

impl Strategy for Autoscaler {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        fill(spec, "minReplicas", 1);
        if items(spec, "metrics").is_empty() {
            let cpu = json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]);
            set(spec, "metrics", cpu);
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
            let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
            if let Some(up) = make(behavior, "scaleUp") {
                fill(up, "stabilizationWindowSeconds", 0);
                fill(up, "selectPolicy", "Max");
                let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
                fill(up, "policies", json!([pods, percent]));
            }
            if let Some(down) = make(behavior, "scaleDown") {
                fill(down, "selectPolicy", "Max");
                fill(down, "policies", json!([percent]));
            }
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(
            obj,
            "status",
            json!({"desiredReplicas": 0, "currentMetrics": null}),
        );
        if let Some(status) = make(obj, "status") {
            unset(status, "currentMetrics");
        }
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        checked(obj, None, cx)
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        checked(obj, Some(old), cx)
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn convert(&self, obj: &mut Value, to_version: &str, group: &str) {
        let from_one = text(obj, "apiVersion") == "autoscaling/v1";
        match (from_one, to_version) {
            (true, "v2") => to_two(obj),
            (false, "v1") => to_one(obj),
            _ => {}
        }
        set(obj, "apiVersion", format!("{group}/{to_version}"));
    }
}

fn checked(obj: &Value, old: Option<&Value>, cx: &Context<'_>) -> Errors {
    let mut errs = Errors::new();
    if cx.subresource == "status" {
        let (path, status) = (FieldPath::new("status"), at(obj, "status"));
        for field in ["currentReplicas", "desiredReplicas"] {
            not_negative(&mut errs, &path, status, field);
        }
        return errs;
    }
    let (path, spec) = (FieldPath::new("spec"), at(obj, "spec"));
    let before = old.map_or(&Value::Null, |old| at(old, "spec"));
    replicas(&mut errs, &path, spec, before);
    let (target, was) = (at(spec, "scaleTargetRef"), at(before, "scaleTargetRef"));
    let same = |field| text(target, field) == text(was, field);
    let rule = match old {
        Some(_) if same("apiVersion") && same("kind") => Versions::Unchecked,
        _ if text(target, "kind") == "ReplicationController" => Versions::Any,
        _ => Versions::Grouped,
    };
    metrics::reference(&mut errs, &path.child("scaleTargetRef"), target, rule);
    let had = items(before, "metrics");
    metrics::metrics(&mut errs, &path.child("metrics"), spec, had);
    metrics::behavior(&mut errs, &path.child("behavior"), at(spec, "behavior"));
    errs
}

fn replicas(errs: &mut Errors, path: &FieldPath, spec: &Value, before: &Value) {
    let (least, most) = (int(spec, "minReplicas"), int(spec, "maxReplicas"));
    // None at all may stay.
    let lowest = match int(before, "minReplicas") {
        Some(0) => 0,
        _ => 1,
    };
    if let Some(n) = least.filter(|n| *n < lowest) {
        let why = format!("must be greater than or equal to {lowest}");
        invalid(errs, &path.child("minReplicas"), &n.into(), &why);
    }
    let (most, path) = (most.unwrap_or(0), path.child("maxReplicas"));
    match most {
        0 => errs.push(FieldError::required(
            &path,
            "must be set and greater than 0",
        )),
        ..0 => invalid(
            errs,
            &path,
            &most.into(),
            "must be greater than or equal to 1",
        ),
        _ => {}
    }
    if least.is_some_and(|least| most < least) {
        let why = "must be greater than or equal to `minReplicas`";
        invalid(errs, &path, &most.into(), why);
    }
}

/// What autoscaling/v1 has no field for travels in annotations.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

fn is_cpu_share(metric: &Value, side: &str) -> bool {
    text(metric, "type") == "Resource"
        && text(at(metric, "resource"), "name") == "cpu"
        && has(at(at(metric, "resource"), side), "averageUtilization")
}

fn share(metric: &Value, side: &str) -> Value {
    at(at(at(metric, "resource"), side), "averageUtilization").clone()
}

fn to_one(obj: &mut Value) {
    let mut notes = Vec::new();
    if let Some(spec) = obj.get_mut("spec") {
        let mut metrics = items(spec, "metrics").to_vec();
        if let Some(i) = metrics.iter().position(|m| is_cpu_share(m, "target")) {
            let cpu = metrics.remove(i);
            set(
                spec,
                "targetCPUUtilizationPercentage",
                share(&cpu, "target"),
            );
        }
        unset(spec, "metrics");
        if !metrics.is_empty() {
            notes.push((METRICS, Value::from(metrics)));
        }
        if has(spec, "behavior") {
            notes.push((BEHAVIOR, at(spec, "behavior").clone()));
            unset(spec, "behavior");
        }
    }
    if let Some(status) = obj.get_mut("status") {
        let mut current = items(status, "currentMetrics").to_vec();
        if let Some(i) = current.iter().position(|m| is_cpu_share(m, "current")) {
            let cpu = current.remove(i);
            set(
                status,
                "currentCPUUtilizationPercentage",
                share(&cpu, "current"),
            );
        }
        unset(status, "currentMetrics");
        if !current.is_empty() {
            notes.push((CURRENT, Value::from(current)));
        }
        if !items(status, "conditions").is_empty() {
            notes.push((CONDITIONS, at(status, "conditions").clone()));
        }
        unset(status, "conditions");
    }
    if !notes.is_empty()
        && let Some(map) = make(obj, "metadata").and_then(|m| make(m, "annotations"))
    {
        for (key, v) in notes {
            set(map, key, v.to_string());
        }
    }
}

fn take_note(obj: &mut Value, key: &str) -> Option<Value> {
    let notes = obj.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let found = notes.remove(key)?;
    let parsed = serde_json::from_str(found.as_str()?).ok();
    if notes.is_empty()
        && let Some(meta) = obj.get_mut("metadata")
    {
        unset(meta, "annotations");
    }
    parsed
}

fn to_two(obj: &mut Value) {
    let (more, behavior) = (take_note(obj, METRICS), take_note(obj, BEHAVIOR));
    let (current, conditions) = (take_note(obj, CURRENT), take_note(obj, CONDITIONS));
    let list = |v: Option<Value>| v.and_then(|v| v.as_array().cloned()).unwrap_or_default();
    if let Some(spec) = obj.get_mut("spec") {
        let mut metrics = Vec::new();
        if let Some(n) = int(spec, "targetCPUUtilizationPercentage") {
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": n}}}));
        }
        unset(spec, "targetCPUUtilizationPercentage");
        metrics.extend(list(more));
        if !metrics.is_empty() {
            set(spec, "metrics", metrics);
        }
        if let Some(b) = behavior {
            set(spec, "behavior", b);
        }
    }
    if let Some(status) = obj.get_mut("status") {
        let mut all = Vec::new();
        if let Some(n) = int(status, "currentCPUUtilizationPercentage") {
            all.push(json!({"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": n}}}));
        }
        unset(status, "currentCPUUtilizationPercentage");
        all.extend(list(current));
        if !all.is_empty() {
            set(status, "currentMetrics", all);
        }
        let conditions = list(conditions);
        if !conditions.is_empty() {
            set(status, "conditions", conditions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_its_group_unless_it_was_so_before() {
        let of = |kind: &str, version: &str, least: i64, most: i64| {
            json!({ "spec": {
                "minReplicas": least, "maxReplicas": most,
                "scaleTargetRef": { "kind": kind, "name": "d", "apiVersion": version },
            } })
        };
        let cx = Context::of_nobody();
        let say = |new: &Value, old: Option<&Value>| {
            let found = checked(new, old, &cx);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let ungrouped = "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group";
        let (old, wrong) = (
            of("Deployment", "apps/v1", 1, 2),
            of("Deployment", "v1", 1, 2),
        );
        let none: [&str; 0] = [];
        assert_eq!(say(&old, None), none);
        assert_eq!(say(&of("ReplicationController", "v1", 1, 2), None), none);
        assert_eq!(say(&wrong, None), [ungrouped]);
        assert_eq!(say(&wrong, Some(&old)), [ungrouped]);
        assert_eq!(say(&wrong, Some(&wrong)), none);
        for (least, most, want) in [
            (
                1,
                0,
                vec![
                    "spec.maxReplicas: Required value: must be set and greater than 0",
                    "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                ],
            ),
            (
                0,
                1,
                vec![
                    "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                    "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
                ],
            ),
            (
                3,
                2,
                vec![
                    "spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`",
                ],
            ),
        ] {
            assert_eq!(say(&of("Deployment", "apps/v1", least, most), None), want);
        }
        let status = Context {
            subresource: "status",
            ..Context::of_nobody()
        };
        let negative = json!({ "status": { "currentReplicas": -1, "desiredReplicas": 1 } });
        let found = checked(&negative, Some(&old), &status);
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
