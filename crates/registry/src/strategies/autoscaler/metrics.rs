//! What is wrong with what an autoscaler goes by: its metrics with their targets, and how fast it may
//! scale.

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use crate::check::{
    Errors, at, dns_label, has, int, invalid, invalid_each, items, one_of, optional_word, text,
};
use crate::strategies::quantity::{container_resource, parse, show};

/// The longest period of a scaling policy, in seconds.
const LONGEST_PERIOD: i64 = 1800;
/// The longest stabilization window, in seconds.
const LONGEST_WINDOW: i64 = 3600;
/// Kinds of metrics, with the field that each is described by.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: [&str; 5] = [
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];

/// What is said of the version of a reference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// It must name a group.
    Grouped,
    /// The core group will do.
    Any,
    /// Nothing: it was so before.
    Unchecked,
}

/// What is wrong with a version, if anything.
fn version_fault(version: &str, rule: Versions) -> Option<String> {
    let slashes = version.matches('/').count();
    let (group, _) = version.split_once('/').unwrap_or_default();
    match rule {
        Versions::Unchecked => None,
        _ if slashes > 1 => Some(format!("unexpected GroupVersion string: {version}")),
        Versions::Grouped if group.is_empty() => Some("apiVersion must specify API group".into()),
        _ => None,
    }
}

/// A reference to an object of whichever kind.
pub fn reference(errs: &mut Errors, path: &FieldPath, of: &Value, rule: Versions) {
    for field in ["kind", "name"] {
        path_segment(errs, &path.child(field), text(of, field), "");
    }
    let version = text(of, "apiVersion");
    if let Some(why) = version_fault(version, rule) {
        errs.push(FieldError::invalid_str(
            &path.child("apiVersion"),
            version,
            &why,
        ));
    }
}

fn path_segment(errs: &mut Errors, path: &FieldPath, name: &str, missing: &str) {
    match name {
        "" => errs.push(FieldError::required(path, missing)),
        name => invalid_each(errs, path, name, names::is_path_segment_name(name)),
    }
}

/// The metrics of an autoscaler; `before`: those that it had.
pub fn metrics(errs: &mut Errors, path: &FieldPath, spec: &Value, before: &[Value]) {
    let described =
        |m: &Value| text(at(at(m, "object"), "describedObject"), "apiVersion").to_owned();
    let was_wrong = before.iter().any(|m| {
        text(m, "type") == "Object"
            && has(m, "object")
            && version_fault(&described(m), Versions::Any).is_some()
    });
    let rule = match was_wrong {
        true => Versions::Unchecked,
        false => Versions::Any,
    };
    let all = items(spec, "metrics");
    for (i, metric) in all.iter().enumerate() {
        one(errs, &path.index(i), metric, rule);
    }
    let from_outside = |m: &Value| ["Object", "External"].contains(&text(m, "type"));
    if int(spec, "minReplicas") == Some(0) && !all.iter().any(from_outside) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errs.push(FieldError::forbidden(path, why));
    }
}

fn one(errs: &mut Errors, path: &FieldPath, metric: &Value, rule: Versions) {
    let ty = text(metric, "type");
    if ty.is_empty() {
        let why = "must specify a metric source type";
        errs.push(FieldError::required(&path.child("type"), why));
    }
    one_of(errs, &path.child("type"), ty, &TYPES);
    let given = || SOURCES.iter().filter(move |(_, field)| has(metric, field));
    if let Some((kind, field)) = given().next() {
        let (path, of) = (path.child(field), at(metric, field));
        match *kind {
            "Object" => {
                reference(
                    errs,
                    &path.child("describedObject"),
                    at(of, "describedObject"),
                    rule,
                );
                named(errs, &path, of);
            }
            "External" | "Pods" => named(errs, &path, of),
            _ => resource(errs, &path, of, *kind == "ContainerResource"),
        }
        let target_path = path.child("target");
        target(errs, &target_path, at(of, "target"));
        amounts(errs, &target_path, at(of, "target"), kind);
    }
    let expected = SOURCES.iter().find(|(kind, _)| *kind == ty);
    let expected = expected.map_or("", |(_, field)| *field);
    if !expected.is_empty() && !has(metric, expected) {
        let why = "must populate information for the given metric source";
        errs.push(FieldError::required(&path.child(expected), why));
    }
    if given().count() != 1 {
        for (_, field) in given().filter(|(_, field)| *field != expected) {
            let why = "must populate the given metric source only";
            errs.push(FieldError::forbidden(&path.child(field), why));
        }
    }
}

fn named(errs: &mut Errors, path: &FieldPath, of: &Value) {
    let name = text(at(of, "metric"), "name");
    let path = path.child("metric").child("name");
    path_segment(errs, &path, name, "must specify a metric name");
}

fn resource(errs: &mut Errors, path: &FieldPath, of: &Value, of_container: bool) {
    let (name, container) = (text(of, "name"), text(of, "container"));
    match name {
        "" => {
            let why = "must specify a resource name";
            errs.push(FieldError::required(&path.child("name"), why));
        }
        name if of_container => container_resource(errs, &path.child("name"), name),
        _ => {}
    }
    match container {
        _ if !of_container => {}
        "" => {
            let why = "must specify a container";
            errs.push(FieldError::required(&path.child("container"), why));
        }
        name => dns_label(errs, &path.child("container"), name),
    }
}

fn target(errs: &mut Errors, path: &FieldPath, target: &Value) {
    let ty = text(target, "type");
    if ty.is_empty() {
        let why = "must specify a metric target type";
        errs.push(FieldError::required(&path.child("type"), why));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&ty) {
        let why = "must be either Utilization, Value, or AverageValue";
        errs.push(FieldError::invalid_str(&path.child("type"), ty, why));
    }
    for field in ["value", "averageValue"] {
        let amount = at(target, field);
        if parse(amount).is_some_and(|q| q.is_negative() || q.is_zero()) {
            let path = path.child(field);
            errs.push(FieldError::invalid_str(
                &path,
                &show(amount),
                "must be positive",
            ));
        }
    }
    if let Some(share) = int(target, "averageUtilization").filter(|share| *share < 1) {
        let why = "must be greater than 0";
        invalid(errs, &path.child("averageUtilization"), &share.into(), why);
    }
}

/// Which of a target's amounts a kind of metric needs, and which exclude each other.
fn amounts(errs: &mut Errors, path: &FieldPath, target: &Value, kind: &str) {
    let (value, average) = (has(target, "value"), has(target, "averageValue"));
    let share = has(target, "averageUtilization");
    let missing = match kind {
        "Object" if !value && !average => Some((
            "averageValue",
            "must set either a target value or averageValue",
        )),
        "External" if !value && !average => Some((
            "averageValue",
            "must set either a target value for metric or a per-pod target",
        )),
        "Pods" if !average => Some((
            "averageValue",
            "must specify a positive target averageValue",
        )),
        "Resource" | "ContainerResource" if !share && !average => Some((
            "averageUtilization",
            "must set either a target raw value or a target utilization",
        )),
        _ => None,
    };
    if let Some((field, why)) = missing {
        errs.push(FieldError::required(&path.child(field), why));
    }
    let both = match kind {
        "External" if value && average => Some((
            "value",
            "may not set both a target value for metric and a per-pod target",
        )),
        "Resource" | "ContainerResource" if share && average => Some((
            "averageValue",
            "may not set both a target raw value and a target utilization",
        )),
        _ => None,
    };
    if let Some((field, why)) = both {
        errs.push(FieldError::forbidden(&path.child(field), why));
    }
}

/// How fast it may scale, either way.
pub fn behavior(errs: &mut Errors, path: &FieldPath, behavior: &Value) {
    for way in ["scaleUp", "scaleDown"] {
        if has(behavior, way) {
            rules(errs, &path.child(way), at(behavior, way));
        }
    }
}

fn rules(errs: &mut Errors, path: &FieldPath, rules: &Value) {
    let why = match int(rules, "stabilizationWindowSeconds") {
        Some(..0) => Some("must be greater than or equal to zero".to_owned()),
        Some(n) if n > LONGEST_WINDOW => {
            Some(format!("must be less than or equal to {LONGEST_WINDOW}"))
        }
        _ => None,
    };
    if let Some(why) = why {
        let field = "stabilizationWindowSeconds";
        invalid(errs, &path.child(field), at(rules, field), &why);
    }
    optional_word(
        errs,
        path,
        rules,
        "selectPolicy",
        &["Disabled", "Max", "Min"],
    );
    let policies = items(rules, "policies");
    if policies.is_empty() {
        let why = "must specify at least one Policy";
        errs.push(FieldError::required(&path.child("policies"), why));
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = path.child("policies").index(i);
        let ty = text(policy, "type");
        one_of(errs, &path.child("type"), ty, &["Percent", "Pods"]);
        let number = |field| int(policy, field).unwrap_or(0);
        for field in ["value", "periodSeconds"] {
            if number(field) <= 0 {
                let why = "must be greater than zero";
                invalid(errs, &path.child(field), &number(field).into(), why);
            }
        }
        if number("periodSeconds") > LONGEST_PERIOD {
            let why = format!("must be less than or equal to {LONGEST_PERIOD}");
            let path = path.child("periodSeconds");
            invalid(errs, &path, at(policy, "periodSeconds"), &why);
        }
    }
    let tolerance = at(rules, "tolerance");
    if parse(tolerance).is_some_and(|q| q.is_negative()) {
        let why = "must be greater than or equal to 0";
        let path = path.child("tolerance");
        errs.push(FieldError::invalid_str(&path, &show(tolerance), why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errs = Errors::new();
        check(&mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    fn of_metric(metric: &Value) -> Vec<String> {
        wrong(|errs| one(errs, &FieldPath::new("m"), metric, Versions::Any))
    }

    #[test]
    fn metrics_have_the_source_and_target_of_their_type() {
        let cpu =
            json!({ "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } });
        let queue = json!({ "metric": { "name": "queue" }, "target": { "type": "AverageValue", "averageValue": "30" } });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "name": "p" });
        let with = |base: &Value, field: &str, value: Value| {
            let mut changed = base.clone();
            changed[field] = value;
            changed
        };
        let object = with(&queue, "describedObject", pod);
        let container = with(&cpu, "container", "c".into());
        for (metric, want) in [
            (json!({ "type": "Resource", "resource": cpu }), ""),
            (
                json!({ "type": "ContainerResource", "containerResource": container }),
                "",
            ),
            (json!({ "type": "Pods", "pods": queue }), ""),
            (json!({ "type": "External", "external": queue }), ""),
            (json!({ "type": "Object", "object": object }), ""),
            (
                json!({ "resource": cpu }),
                "m.type: Required value: must specify a metric source type",
            ),
            (
                json!({ "type": "Odd", "resource": cpu }),
                "m.type: Unsupported value: \"Odd\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            ),
            (
                json!({ "type": "Resource" }),
                "m.resource: Required value: must populate information for the given metric source",
            ),
            (
                json!({ "type": "Resource", "resource": cpu, "pods": queue }),
                "m.pods: Forbidden: must populate the given metric source only",
            ),
            (
                json!({ "type": "Resource", "resource": with(&cpu, "name", "".into()) }),
                "m.resource.name: Required value: must specify a resource name",
            ),
            (
                json!({ "type": "ContainerResource", "containerResource": cpu }),
                "m.containerResource.container: Required value: must specify a container",
            ),
            (
                json!({ "type": "ContainerResource", "containerResource": with(&container, "name", "storage".into()) }),
                "m.containerResource.name: Invalid value: \"storage\": must be a standard resource for containers",
            ),
            (
                json!({ "type": "Pods", "pods": with(&queue, "metric", json!({ "name": "a/b" })) }),
                "m.pods.metric.name: Invalid value: \"a/b\": may not contain '/'",
            ),
            (
                json!({ "type": "Pods", "pods": with(&queue, "metric", json!({})) }),
                "m.pods.metric.name: Required value: must specify a metric name",
            ),
            (
                json!({ "type": "Pods", "pods": with(&queue, "target", json!({ "type": "Value", "value": "1" })) }),
                "m.pods.target.averageValue: Required value: must specify a positive target averageValue",
            ),
            (
                json!({ "type": "Pods", "pods": with(&queue, "target", json!({ "type": "AverageValue", "averageValue": "0" })) }),
                "m.pods.target.averageValue: Invalid value: \"0\": must be positive",
            ),
            (
                json!({ "type": "External", "external": with(&queue, "target", json!({ "type": "Value", "value": "1", "averageValue": "1" })) }),
                "m.external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
            ),
            (
                json!({ "type": "Object", "object": with(&object, "target", json!({ "type": "Value" })) }),
                "m.object.target.averageValue: Required value: must set either a target value or averageValue",
            ),
            (
                json!({ "type": "Object", "object": with(&object, "describedObject", json!({ "apiVersion": "a/b/c", "kind": "K", "name": "n" })) }),
                "m.object.describedObject.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            ),
            (
                json!({ "type": "Resource", "resource": with(&cpu, "target", json!({ "type": "Odd", "averageUtilization": 1 })) }),
                "m.resource.target.type: Invalid value: \"Odd\": must be either Utilization, Value, or AverageValue",
            ),
            (
                json!({ "type": "Resource", "resource": with(&cpu, "target", json!({ "type": "Utilization", "averageUtilization": 0 })) }),
                "m.resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
            ),
            (
                json!({ "type": "Resource", "resource": with(&cpu, "target", json!({ "type": "Utilization", "averageUtilization": 1, "averageValue": "1" })) }),
                "m.resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization",
            ),
        ] {
            let found = of_metric(&metric);
            match want {
                "" => assert_eq!(found, Vec::<String>::new(), "{metric}"),
                want => assert!(found.iter().any(|f| f == want), "{metric}: {found:?}"),
            }
        }
    }

    #[test]
    fn behavior_is_bounded() {
        let policy = json!({ "type": "Pods", "value": 1, "periodSeconds": 1800 });
        let up = |field: &str, value: Value| {
            let mut rules = json!({ "stabilizationWindowSeconds": 3600, "selectPolicy": "Min",
                "policies": [policy], "tolerance": "0.1" });
            rules[field] = value;
            json!({ "scaleUp": rules })
        };
        let one = |field: &str, value: Value| {
            let mut policy = policy.clone();
            policy[field] = value;
            up("policies", json!([policy]))
        };
        for (given, want) in [
            (up("selectPolicy", "Max".into()), ""),
            (
                up("stabilizationWindowSeconds", 3601.into()),
                "b.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
            ),
            (
                up("stabilizationWindowSeconds", (-1).into()),
                "b.scaleUp.stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero",
            ),
            (
                up("selectPolicy", "Most".into()),
                "b.scaleUp.selectPolicy: Unsupported value: \"Most\": supported values: \"Disabled\", \"Max\", \"Min\"",
            ),
            (
                up("policies", json!([])),
                "b.scaleUp.policies: Required value: must specify at least one Policy",
            ),
            (
                up("tolerance", "-1".into()),
                "b.scaleUp.tolerance: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                one("type", "Nodes".into()),
                "b.scaleUp.policies[0].type: Unsupported value: \"Nodes\": supported values: \"Percent\", \"Pods\"",
            ),
            (
                one("value", 0.into()),
                "b.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
            ),
            (
                one("periodSeconds", 0.into()),
                "b.scaleUp.policies[0].periodSeconds: Invalid value: 0: must be greater than zero",
            ),
            (
                one("periodSeconds", 1801.into()),
                "b.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ),
        ] {
            let found = wrong(|errs| behavior(errs, &FieldPath::new("b"), &given));
            let want: Vec<&str> = [want].into_iter().filter(|w| !w.is_empty()).collect();
            assert_eq!(found, want, "{given}");
        }
    }
}
