//! Classes of pods: by priority and by runtime.

use std::collections::HashSet;

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::pod::warnings::old_label;
use super::{quantity, scheduling};
use crate::check::{
    Errors, at, dns_label, fill, fill_zero, flag, has, immutable, int, items, items_mut, labels,
    one_of, text,
};
use crate::strategy::{Context, Strategy};

/// The largest priority that a user may define.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;

const SYSTEM: &[(&str, i64)] = &[
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

/// The strategy of priority classes.
pub struct PriorityClass;

/// What is wrong with a class of this name that only the system may have.
fn unknown_to_system(obj: &Value, name: &str, value: i64) -> Option<String> {
    let Some((_, known)) = SYSTEM.iter().find(|(n, _)| *n == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *known {
        return Some(format!("value of {name} PriorityClass must be {known}"));
    }
    let default = flag(obj, "globalDefault");
    default.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

impl Strategy for PriorityClass {
    fn default(&self, obj: &mut Value) {
        fill(obj, "preemptionPolicy", "PreemptLowerPriority");
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let (name, value) = (
            text(at(obj, "metadata"), "name"),
            int(obj, "value").unwrap_or(0),
        );
        if name.starts_with("system-") {
            if let Some(error) = unknown_to_system(obj, name, value) {
                let why = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {error}"
                );
                let path = FieldPath::new("metadata").child("name");
                errs.push(FieldError::forbidden(&path, &why));
            }
        } else if value > HIGHEST_PRIORITY {
            let why =
                format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
            errs.push(FieldError::forbidden(&FieldPath::new("value"), &why));
        }
        let path = FieldPath::new("preemptionPolicy");
        match text(obj, "preemptionPolicy") {
            "" if has(obj, "preemptionPolicy") => errs.push(FieldError::required(&path, "")),
            "" => {}
            word => one_of(&mut errs, &path, word, &["Never", "PreemptLowerPriority"]),
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if int(obj, "value").unwrap_or(0) != int(old, "value").unwrap_or(0) {
            errs.push(FieldError::forbidden(
                &FieldPath::new("value"),
                "may not be changed in an update.",
            ));
        }
        immutable(&mut errs, &FieldPath::root(), obj, old, "preemptionPolicy");
        errs
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// The strategy of runtime classes.
pub struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn default(&self, obj: &mut Value) {
        if let Some(s) = obj.get_mut("scheduling").filter(|s| s.is_object()) {
            for t in items_mut(s, "tolerations") {
                fill_zero(t, "operator", "Equal");
            }
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("handler");
        match text(obj, "handler") {
            "" => errs.push(FieldError::required(&path, "")),
            handler => dns_label(&mut errs, &path, handler),
        }
        if has(obj, "overhead") {
            let limits = at(at(obj, "overhead"), "podFixed");
            let as_limits = serde_json::json!({ "limits": limits });
            quantity::requirements(&mut errs, &FieldPath::new("overhead"), &as_limits);
        }
        let (rules, path) = (at(obj, "scheduling"), FieldPath::new("scheduling"));
        if has(rules, "nodeSelector") {
            let selector = at(rules, "nodeSelector");
            labels(&mut errs, &path.child("nodeSelector"), selector);
        }
        let (all, path) = (items(rules, "tolerations"), path.child("tolerations"));
        scheduling::tolerations(&mut errs, &path, all);
        let mut seen = HashSet::new();
        for (n, one) in all.iter().enumerate() {
            if !seen.insert(["key", "operator", "value", "effect"].map(|f| text(one, f))) {
                errs.push(FieldError::duplicate(&path.index(n), one));
            }
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        immutable(&mut errs, &FieldPath::root(), obj, old, "handler");
        errs
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let selector = at(at(obj, "scheduling"), "nodeSelector");
        let keys = selector.as_object().into_iter().flatten();
        let told = keys.filter_map(|(key, _)| old_label(key));
        told.map(|why| format!("scheduling.nodeSelector: {why}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;

    fn wrong(strategy: &dyn Strategy, object: &Value) -> Vec<String> {
        let context = Context::of_nobody();
        let errs = strategy.validate(object, &context);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn priority_classes_are_checked() {
        let class = |name: &str, value: i64, policy: &str| json!({ "metadata": { "name": name }, "value": value, "preemptionPolicy": policy });
        for (object, want) in [
            (class("a", HIGHEST_PRIORITY, "Never"), None),
            (
                class("a", HIGHEST_PRIORITY + 1, "Never"),
                Some("maximum allowed value of a user defined priority is 1000000000"),
            ),
            (class("system-node-critical", 2_000_001_000, "Never"), None),
            (
                class("system-node-critical", 1, "Never"),
                Some("value of system-node-critical PriorityClass must be 2000001000"),
            ),
            (
                class("system-x", 1, "Never"),
                Some("system-x is not a known system priority class"),
            ),
            (
                class("a", 1, "Sometimes"),
                Some("preemptionPolicy: Unsupported value: \"Sometimes\""),
            ),
            (class("a", 1, ""), Some("preemptionPolicy: Required value")),
        ] {
            let got = wrong(&PriorityClass, &object);
            assert_eq!(got.len(), usize::from(want.is_some()), "{got:?}");
            assert!(want.is_none_or(|w| got[0].contains(w)), "{got:?}");
        }
    }

    #[test]
    fn runtime_classes_are_checked() {
        let toleration = json!({ "key": "a", "operator": "Exists" });
        for (object, want) in [
            (
                json!({ "handler": "runc", "overhead": { "podFixed": { "cpu": "1" } }, "scheduling": { "nodeSelector": { "a": "b" }, "tolerations": [toleration] } }),
                None,
            ),
            (json!({}), Some("handler: Required value")),
            (
                json!({ "handler": "A" }),
                Some("handler: Invalid value: \"A\""),
            ),
            (
                json!({ "handler": "a", "overhead": { "podFixed": { "cpu": "-1" } } }),
                Some("must be greater than or equal to 0"),
            ),
            (
                json!({ "handler": "a", "scheduling": { "nodeSelector": { "a b": "c" } } }),
                Some("scheduling.nodeSelector"),
            ),
            (
                json!({ "handler": "a", "scheduling": { "tolerations": [toleration, toleration] } }),
                Some("scheduling.tolerations[1]: Duplicate value"),
            ),
        ] {
            let got = wrong(&RuntimeClass, &object);
            assert_eq!(got.len(), usize::from(want.is_some()), "{got:?}");
            assert!(want.is_none_or(|w| got[0].contains(w)), "{got:?}");
        }
        let old = json!({ "scheduling": { "nodeSelector": { "beta.kubernetes.io/os": "x" } } });
        assert_eq!(
            RuntimeClass.warnings(&old, None),
            ["scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/os\" instead"]
        );
    }
}
