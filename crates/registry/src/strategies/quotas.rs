//! What a namespace may use: its quotas and its limit ranges.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, Quantity};
use serde_json::{Value, json};

use super::quantity::{amount, container_resource, overcommit_allowed, parse, resource_name, show};
use crate::check::{
    Errors, at, fill, has, invalid, invalid_each, items, items_mut, make, set, text,
};
use crate::strategy::{Context, Strategy};

/// The strategy of resource quotas.
pub struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({}));
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let (part, lists): (&str, &[&str]) = if cx.subresource == "status" {
            ("status", &["hard", "used"])
        } else {
            ("spec", &["hard"])
        };
        for list in lists {
            for (name, v) in at(at(obj, part), list).as_object().into_iter().flatten() {
                let path = FieldPath::new(part).child(list).key(name);
                quota_name(&mut errs, &path, name);
                amount(&mut errs, &path, name, v);
            }
        }
        if cx.subresource != "status" {
            let spec = at(obj, "spec");
            scopes(&mut errs, spec);
            scope_selector(&mut errs, spec);
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            return errs;
        }
        let of = |o: &Value| at(at(o, "spec"), "scopes").clone();
        let set = |o: &Value| -> BTreeSet<String> {
            let all = items(at(o, "spec"), "scopes").iter();
            all.filter_map(|s| s.as_str().map(str::to_owned)).collect()
        };
        if set(obj) != set(old) {
            let path = FieldPath::new("spec").child("scopes");
            invalid(&mut errs, &path, &of(obj), crate::check::IMMUTABLE);
        }
        errs
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let hard = at(at(obj, "spec"), "hard");
        let given = |name: &str| {
            hard.get(name)
                .and_then(|v| Some((name.to_owned(), parse(v)?)))
        };
        let mut out = Vec::new();
        for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let bare = || given(name).filter(|_| ["cpu", "memory"].contains(&name));
            let request = given(&format!("requests.{name}")).or_else(bare);
            let limit = given(&format!("limits.{name}"));
            if let (Some((request, asked)), Some((limit, most))) = (request, limit)
                && asked > most
            {
                out.push(format!(
                    "ResourceQuota {request} ({asked}) should be less than {limit} ({most})"
                ));
            }
        }
        out
    }
}

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

fn quota_name(errs: &mut Errors, path: &FieldPath, name: &str) {
    resource_name(errs, path, name);
    if !name.contains('/') && !is_standard(name) {
        let why = "must be a standard resource for quota";
        errs.push(FieldError::invalid_str(path, name, why));
    }
}

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// Scopes that only exist or do not.
const PLAIN_SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "Terminating",
];

/// Whether a quota with this scope can count a standard resource.
fn fits(scope: &str, name: &str) -> bool {
    const COMPUTE: &[&str] = &[
        "cpu",
        "memory",
        "limits.cpu",
        "limits.memory",
        "requests.cpu",
        "requests.memory",
    ];
    match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&name),
        scope if SCOPES.contains(&scope) => name == "pods" || COMPUTE.contains(&name),
        _ => true,
    }
}

/// Whether the quota limits a standard resource that one of its scopes does not have. It is said once:
/// the error shows all scopes, and not of which it speaks.
fn unfit(errs: &mut Errors, path: &FieldPath, spec: &Value, given: &[&str], shown: &Value) {
    let given: BTreeSet<&&str> = given.iter().collect();
    let hard = at(spec, "hard").as_object().into_iter().flatten();
    let mut standard = hard.map(|(name, _)| name).filter(|name| is_standard(name));
    if standard.any(|name| given.iter().any(|scope| !fits(scope, name))) {
        invalid(errs, path, shown, "unsupported scope applied to resource");
    }
}

fn conflicts(errs: &mut Errors, path: &FieldPath, given: &[&str], shown: &Value) {
    for (a, b) in [
        ("BestEffort", "NotBestEffort"),
        ("Terminating", "NotTerminating"),
    ] {
        if given.contains(&a) && given.contains(&b) {
            invalid(errs, path, shown, "conflicting scopes");
        }
    }
}

fn scopes(errs: &mut Errors, spec: &Value) {
    let path = FieldPath::new("spec").child("scopes");
    let shown = at(spec, "scopes");
    let given: Vec<&str> = items(spec, "scopes")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    // Said once, as it shows all of them.
    if given.iter().any(|scope| !SCOPES.contains(scope)) {
        invalid(errs, &path, shown, "unsupported scope");
    }
    unfit(errs, &path, spec, &given, shown);
    conflicts(errs, &path, &given, shown);
}

fn scope_selector(errs: &mut Errors, spec: &Value) {
    let selector = at(spec, "scopeSelector");
    let path = FieldPath::new("spec")
        .child("scopeSelector")
        .child("matchExpressions");
    let all = items(selector, "matchExpressions");
    for one in all {
        let (scope, operator) = (text(one, "scopeName"), text(one, "operator"));
        if !SCOPES.contains(&scope) {
            let why = "unsupported scope";
            errs.push(FieldError::invalid_str(
                &path.child("scopeName"),
                scope,
                why,
            ));
        }
        let operator_path = path.child("operator");
        if PLAIN_SCOPES.contains(&scope) && operator != "Exists" {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errs.push(FieldError::invalid_str(&operator_path, operator, why));
        }
        let (values, none) = (at(one, "values"), items(one, "values").is_empty());
        let values_path = path.child("values");
        match operator {
            "In" | "NotIn" if none => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errs.push(FieldError::required(&values_path, why));
            }
            "Exists" | "DoesNotExist" if !none => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                invalid(errs, &values_path, values, why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let why = "not a valid selector operator";
                errs.push(FieldError::invalid_str(&operator_path, other, why));
            }
        }
    }
    let given: Vec<&str> = all.iter().map(|one| text(one, "scopeName")).collect();
    unfit(errs, &path, spec, &given, selector);
    conflicts(errs, &path, &given, at(spec, "scopes"));
}

/// The strategy of limit ranges.
pub struct LimitRange;

impl Strategy for LimitRange {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        for limit in items_mut(spec, "limits") {
            if text(limit, "type") != "Container" {
                continue;
            }
            let copy = |limit: &mut Value, from: &str, to: &str| {
                let all = at(limit, from).as_object().cloned().unwrap_or_default();
                if let Some(to) = make(limit, to) {
                    for (k, v) in all {
                        fill(to, &k, v);
                    }
                }
            };
            copy(limit, "max", "default");
            copy(limit, "default", "defaultRequest");
            copy(limit, "min", "defaultRequest");
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let mut seen = BTreeSet::new();
        for (i, limit) in items(at(obj, "spec"), "limits").iter().enumerate() {
            let path = FieldPath::new("spec").child("limits").index(i);
            let ty = text(limit, "type");
            limit_type(&mut errs, &path.child("type"), ty);
            if !seen.insert(ty) {
                errs.push(FieldError::duplicate(&path.child("type"), &ty.into()));
            }
            limit_names(&mut errs, &path, limit, ty);
            limits(&mut errs, &path, limit, ty);
            ratios(&mut errs, &path, limit);
        }
        errs
    }
}

/// What a limit is about: a type of Kubernetes, or one of a domain.
fn limit_type(errs: &mut Errors, path: &FieldPath, ty: &str) {
    let wrong = api::names::is_qualified_name(ty);
    let known = ["Container", "PersistentVolumeClaim", "Pod"].contains(&ty);
    if wrong.is_empty() && !known && !ty.contains('/') {
        let why = "must be a standard limit type or fully qualified";
        errs.push(FieldError::invalid_str(path, ty, why));
    }
    invalid_each(errs, path, ty, wrong);
}

fn members<'a>(v: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    at(v, field).as_object().into_iter().flatten()
}

/// What may be limited of what a limit is about.
fn limit_names(errs: &mut Errors, path: &FieldPath, limit: &Value, ty: &str) {
    let lists = [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ];
    for list in lists {
        let path = path.child(list);
        if ty == "Pod" && list.starts_with("default") {
            if members(limit, list).next().is_some() {
                let why = "may not be specified when `type` is 'Pod'";
                errs.push(FieldError::forbidden(&path, why));
            }
            continue;
        }
        for (name, _) in members(limit, list) {
            let rule = if ty == "Pod" || ty == "Container" {
                container_resource
            } else {
                resource_name
            };
            rule(errs, &path.key(name), name);
        }
    }
    let storage = |list: &str| has(at(limit, list), "storage");
    if ty == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errs.push(FieldError::required(&path.child("limits"), why));
    }
}

/// Least, most and the defaults between them must be in order.
fn limits(errs: &mut Errors, path: &FieldPath, limit: &Value, ty: &str) {
    // The smaller, the larger, where it is said, which of them is shown, and the words.
    let orders = [
        (
            "min",
            "max",
            "min",
            "min",
            "min value {a} is greater than max value {b}",
        ),
        (
            "min",
            "defaultRequest",
            "defaultRequest",
            "defaultRequest",
            "min value {a} is greater than default request value {b}",
        ),
        (
            "defaultRequest",
            "max",
            "defaultRequest",
            "defaultRequest",
            "default request value {a} is greater than max value {b}",
        ),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            "defaultRequest",
            "default request value {a} is greater than default limit value {b}",
        ),
        (
            "min",
            "default",
            "default",
            "min",
            "min value {a} is greater than default value {b}",
        ),
        (
            "default",
            "max",
            "default",
            "max",
            "default value {a} is greater than max value {b}",
        ),
    ];
    // Pods have no defaults, which is said already.
    let of_pods = |list: &str| ty == "Pod" && list.starts_with("default");
    for (small, large, at_field, shown, words) in orders {
        if of_pods(small) || of_pods(large) {
            continue;
        }
        for (name, a) in members(limit, small) {
            let b = at(at(limit, large), name);
            let (Some(x), Some(y)) = (parse(a), parse(b)) else {
                continue;
            };
            if x > y {
                let why = words.replace("{a}", &show(a)).replace("{b}", &show(b));
                let shown = at(at(limit, shown), name);
                let path = path.child(at_field).key(name);
                errs.push(FieldError::invalid_str(&path, &show(shown), &why));
            }
        }
    }
    let requests = members(limit, "defaultRequest").filter(|_| !of_pods("defaultRequest"));
    for (name, request) in requests {
        let given = at(at(limit, "default"), name);
        let (Some(x), Some(y)) = (parse(request), parse(given)) else {
            continue;
        };
        if x != y && !overcommit_allowed(name) {
            let (given, request) = (show(given), show(request));
            let why = format!(
                "default value {given} must equal to defaultRequest value {request} in {name}"
            );
            let path = path.child("defaultRequest").key(name);
            errs.push(FieldError::invalid_str(&path, &request, &why));
        }
    }
}

/// Amounts from this on are compared by whole units, since their thousandths would overflow.
const MILLIS_MAX: i64 = i64::MAX / 1000;

fn ratios(errs: &mut Errors, path: &FieldPath, limit: &Value) {
    for (name, v) in members(limit, "maxLimitRequestRatio") {
        let Some(ratio) = parse(v) else { continue };
        let path = path.child("maxLimitRequestRatio").key(name);
        if ratio < Quantity::from_units(1) {
            let why = format!("ratio {} is less than 1", show(v));
            errs.push(FieldError::invalid_str(&path, &show(v), &why));
        }
        let bound = |list: &str| parse(at(at(limit, list), name));
        let (Some(least), Some(most)) = (bound("min"), bound("max")) else {
            continue;
        };
        let precise = [ratio, least, most].iter().all(|q| q.value() < MILLIS_MAX);
        let number = |q: Quantity| {
            if precise {
                q.milli_value() as f64 / 1000.0
            } else {
                q.value() as f64
            }
        };
        let possible = number(most) / number(least);
        if number(ratio) > possible {
            let why = format!("ratio {} is greater than max/min = {possible:.6}", show(v));
            errs.push(FieldError::invalid_str(&path, &show(v), &why));
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn context(subresource: &str) -> Context<'_> {
        Context {
            namespace: "n",
            subresource,
            ..Context::of_nobody()
        }
    }

    fn wrong(strategy: &dyn Strategy, object: &Value, subresource: &str) -> Vec<String> {
        let errs = strategy.validate(object, &context(subresource));
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn quotas_are_checked() {
        let quota = |spec: Value| json!({ "spec": spec });
        let selector = |scope: &str, operator: &str, values: &[&str]| json!({ "matchExpressions": [{ "scopeName": scope, "operator": operator, "values": values }] });
        for (spec, want) in [
            (
                json!({ "hard": { "pods": "1", "count/things.example.com": "2", "requests.example.com/gpu": "1", "hugepages-2Mi": "4Mi" } }),
                vec![],
            ),
            (
                json!({ "hard": { "podz": "1" } }),
                vec![
                    "must be a standard resource type or fully qualified",
                    "must be a standard resource for quota",
                ],
            ),
            (
                json!({ "hard": { "secrets": "1500m" } }),
                vec!["must be an integer"],
            ),
            (
                json!({ "hard": { "pods": "-1" } }),
                vec!["must be greater than or equal to 0"],
            ),
            (json!({ "scopes": ["Best"] }), vec!["unsupported scope"]),
            (
                json!({ "scopes": ["BestEffort"], "hard": { "cpu": "1" } }),
                vec!["unsupported scope applied to resource"],
            ),
            (
                json!({ "scopes": ["VolumeAttributesClass"], "hard": { "requests.storage": "1", "count/pods": "1" } }),
                vec![],
            ),
            (
                json!({ "scopes": ["Terminating", "NotTerminating"] }),
                vec!["conflicting scopes"],
            ),
            (
                json!({ "scopeSelector": selector("PriorityClass", "In", &["a"]), "hard": { "pods": "1" } }),
                vec![],
            ),
            (
                json!({ "scopeSelector": selector("PriorityClass", "In", &[]) }),
                vec!["must be at least one value"],
            ),
            (
                json!({ "scopeSelector": selector("PriorityClass", "Exists", &["a"]) }),
                vec!["must be no value"],
            ),
            (
                json!({ "scopeSelector": selector("PriorityClass", "Is", &[]) }),
                vec!["not a valid selector operator"],
            ),
            (
                json!({ "scopeSelector": selector("Terminating", "DoesNotExist", &[]) }),
                vec!["must be 'Exists' when scope is any of"],
            ),
        ] {
            let got = wrong(&ResourceQuota, &quota(spec.clone()), "");
            assert_eq!(got.len(), want.len(), "{spec}: {got:?}");
            for (got, want) in got.iter().zip(want) {
                assert!(got.contains(want), "{got}");
            }
        }
        let status =
            json!({ "status": { "used": { "pods": "1500m" } }, "spec": { "scopes": ["x"] } });
        let got = wrong(&ResourceQuota, &status, "status");
        assert_eq!(
            got,
            ["status.used[pods]: Invalid value: \"1500m\": must be an integer"]
        );
    }

    #[test]
    fn scopes_are_a_set_that_does_not_change() {
        let of = |scopes: Value| json!({ "spec": { "scopes": scopes } });
        let go = |new, old| {
            ResourceQuota
                .validate_update(&of(new), &of(old), &context(""))
                .len()
        };
        let (a, b) = (json!(["A", "B"]), json!(["B", "A"]));
        assert_eq!((go(a.clone(), b), go(a, json!(["A"]))), (0, 1));
    }

    #[test]
    fn more_requests_than_limits_are_warned_of() {
        let quota = json!({ "spec": { "hard": { "cpu": "2", "limits.cpu": "1", "requests.memory": "1", "limits.memory": "1" } } });
        assert_eq!(
            ResourceQuota.warnings(&quota, None),
            ["ResourceQuota cpu (2) should be less than limits.cpu (1)"]
        );
    }

    #[test]
    fn limit_ranges_are_checked() {
        let range = |limit: Value| json!({ "spec": { "limits": [limit] } });
        for (limit, want) in [
            (
                json!({ "type": "Container", "min": { "cpu": "1" }, "max": { "cpu": "4" }, "default": { "cpu": "3" }, "defaultRequest": { "cpu": "2" }, "maxLimitRequestRatio": { "cpu": "4" } }),
                vec![],
            ),
            (
                json!({ "type": "Box" }),
                vec!["must be a standard limit type or fully qualified"],
            ),
            (json!({ "type": "example.com/box" }), vec![]),
            (
                json!({ "type": "Pod", "min": { "cpu": "2" }, "default": { "cpu": "1" } }),
                vec!["may not be specified when `type` is 'Pod'"],
            ),
            (
                json!({ "type": "Container", "min": { "storage": "1" } }),
                vec!["must be a standard resource for containers"],
            ),
            (
                json!({ "type": "Pod", "default": { "cpu": "1" } }),
                vec!["may not be specified when `type` is 'Pod'"],
            ),
            (
                json!({ "type": "PersistentVolumeClaim" }),
                vec!["either minimum or maximum storage value is required"],
            ),
            (
                json!({ "type": "Container", "min": { "cpu": "2" }, "max": { "cpu": "1" } }),
                vec![
                    "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                ],
            ),
            (
                json!({ "type": "Container", "min": { "cpu": "2" }, "default": { "cpu": "1" } }),
                vec![
                    "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
                ],
            ),
            (
                json!({ "type": "Container", "maxLimitRequestRatio": { "cpu": "800m" } }),
                vec!["ratio 800m is less than 1"],
            ),
            (
                json!({ "type": "Pod", "min": { "cpu": "1" }, "max": { "cpu": "4" }, "maxLimitRequestRatio": { "cpu": "5" } }),
                vec!["ratio 5 is greater than max/min = 4.000000"],
            ),
            (
                json!({ "type": "Container", "default": { "example.com/gpu": "2" }, "defaultRequest": { "example.com/gpu": "1" } }),
                vec!["default value 2 must equal to defaultRequest value 1 in example.com/gpu"],
            ),
        ] {
            let got = wrong(&LimitRange, &range(limit.clone()), "");
            assert_eq!(got.len(), want.len(), "{limit}: {got:?}");
            for (got, want) in got.iter().zip(want) {
                assert!(got.contains(want), "{got}");
            }
        }
        let twice = json!({ "spec": { "limits": [{ "type": "Pod" }, { "type": "Pod" }] } });
        assert!(wrong(&LimitRange, &twice, "")[0].contains("Duplicate value"));
    }
}
