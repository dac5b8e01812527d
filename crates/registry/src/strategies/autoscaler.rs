//! Horizontal pod autoscalers: stored as autoscaling/v2, served as v1 too.

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use crate::check::{
    Errors, at, fill, has, int, invalid, items, make, required_text, set, text, unset,
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
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            return errs;
        }
        let (least, most) = (
            int(spec, "minReplicas").unwrap_or(1),
            int(spec, "maxReplicas").unwrap_or(0),
        );
        if least < 1 {
            let why = "must be greater than or equal to 1";
            invalid(&mut errs, &path.child("minReplicas"), &least.into(), why);
        }
        if most < 1 {
            invalid(
                &mut errs,
                &path.child("maxReplicas"),
                &most.into(),
                "must be greater than 0",
            );
        }
        if most < least {
            let why = "must be greater than or equal to `minReplicas`";
            invalid(&mut errs, &path.child("maxReplicas"), &most.into(), why);
        }
        let target = at(spec, "scaleTargetRef");
        for f in ["kind", "name"] {
            required_text(&mut errs, &path.child("scaleTargetRef"), target, f);
        }
        errs
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
