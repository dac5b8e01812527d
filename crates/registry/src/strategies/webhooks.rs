//! MutatingWebhookConfigurations and ValidatingWebhookConfigurations.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use super::matching;
use super::policies::static_name;
use crate::check::{
    Errors, at, fill, has, int, invalid, items, items_mut, label_selector, one_of, text,
};
use crate::client_config;
use crate::strategy::{Context, Strategy};

const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
/// What an accepted webhook may have.
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
/// Versions of AdmissionReview that the server speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// The strategy of webhook configurations.
pub struct Webhooks {
    pub mutating: bool,
}

/// What is demanded. An object that was stored before a demand was made may be changed without
/// meeting it.
struct Demands {
    no_side_effects: bool,
    known_review: bool,
    unique_names: bool,
    conditions: bool,
}

impl Strategy for Webhooks {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        static_name(obj)
    }
    fn default(&self, obj: &mut Value) {
        for w in items_mut(obj, "webhooks") {
            fill(w, "failurePolicy", "Fail");
            matching::match_defaults(w);
            fill(w, "timeoutSeconds", 10);
            if self.mutating {
                fill(w, "reinvocationPolicy", "Never");
            }
            matching::rule_defaults(w, "rules");
            client_config::default(w);
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let all = Demands {
            no_side_effects: true,
            known_review: true,
            unique_names: true,
            conditions: true,
        };
        self.check(obj, &all)
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (new, before) = (items(obj, "webhooks"), items(old, "webhooks"));
        let conditions = |all: &[Value]| -> Vec<Value> {
            all.iter()
                .map(|w| at(w, "matchConditions").clone())
                .collect()
        };
        let names: BTreeSet<&str> = before.iter().map(|w| text(w, "name")).collect();
        let demands = Demands {
            no_side_effects: before
                .iter()
                .all(|w| NO_SIDE_EFFECTS.contains(&text(w, "sideEffects"))),
            known_review: before.iter().all(speaks),
            unique_names: names.len() == before.len(),
            conditions: conditions(new) != conditions(before),
        };
        self.check(obj, &demands)
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn has_generation(&self) -> bool {
        true
    }
}

impl Webhooks {
    fn check(&self, obj: &Value, demands: &Demands) -> Errors {
        let mut errs = Errors::new();
        let mut seen = BTreeSet::new();
        for (i, hook) in items(obj, "webhooks").iter().enumerate() {
            let path = FieldPath::new("webhooks").index(i);
            self.hook(&mut errs, &path, hook, demands);
            reviews(
                &mut errs,
                &path.child("admissionReviewVersions"),
                at(hook, "admissionReviewVersions"),
                demands.known_review,
            );
            let name = text(hook, "name");
            if demands.unique_names && !name.is_empty() && !seen.insert(name) {
                errs.push(FieldError::duplicate(&path.child("name"), &name.into()));
            }
        }
        errs
    }

    fn hook(&self, errs: &mut Errors, path: &FieldPath, hook: &Value, demands: &Demands) {
        qualified(errs, &path.child("name"), text(hook, "name"));
        for (i, rule) in items(hook, "rules").iter().enumerate() {
            matching::rule(errs, &path.child("rules").index(i), rule);
        }
        let mut word = |field: &str, words: &[&str]| {
            if has(hook, field) {
                one_of(errs, &path.child(field), text(hook, field), words);
            }
        };
        word("failurePolicy", &["Fail", "Ignore"]);
        word("matchPolicy", &["Equivalent", "Exact"]);
        let effects = match demands.no_side_effects {
            true => &NO_SIDE_EFFECTS[..],
            false => &SIDE_EFFECTS[..],
        };
        word("sideEffects", effects);
        if self.mutating {
            word("reinvocationPolicy", &["IfNeeded", "Never"]);
        }
        if !has(hook, "sideEffects") {
            let why = format!("must specify one of {}", effects.join(", "));
            errs.push(FieldError::required(&path.child("sideEffects"), &why));
        }
        if int(hook, "timeoutSeconds").is_some_and(|t| !(1..=30).contains(&t)) {
            let why = "the timeout value must be between 1 and 30 seconds";
            let path = path.child("timeoutSeconds");
            invalid(errs, &path, at(hook, "timeoutSeconds"), why);
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            if has(hook, selector) {
                label_selector(errs, &path.child(selector), at(hook, selector));
            }
        }
        client_config::check(errs, &path.child("clientConfig"), at(hook, "clientConfig"));
        if demands.conditions {
            let path = path.child("matchConditions");
            matching::conditions(errs, &path, items(hook, "matchConditions"), false);
        }
    }
}

/// A name with a domain: three segments at least.
fn qualified(errs: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    let wrong = names::is_dns1123_subdomain(name);
    if !wrong.is_empty() {
        errs.push(FieldError::invalid_str(path, name, &wrong.join(",")));
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        errs.push(FieldError::invalid_str(path, name, why));
    }
}

/// Whether a webhook takes a version of AdmissionReview that the server speaks.
fn speaks(hook: &Value) -> bool {
    let mut all = items(hook, "admissionReviewVersions").iter();
    all.any(|v| v.as_str().is_some_and(|v| REVIEWS.contains(&v)))
}

fn reviews(errs: &mut Errors, path: &FieldPath, list: &Value, known: bool) {
    let all = list.as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        let why = format!("must specify one of {}", REVIEWS.join(", "));
        errs.push(FieldError::required(path, &why));
        return;
    }
    let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
    for (i, version) in all.iter().enumerate() {
        let path = path.index(i);
        if all[..i].contains(version) {
            errs.push(FieldError::invalid_str(&path, version, "duplicate version"));
            continue;
        }
        for why in names::is_dns1035_label(version) {
            errs.push(FieldError::invalid_str(&path, version, &why));
        }
    }
    if known && !all.iter().any(|v| REVIEWS.contains(v)) {
        let why = format!("must include at least one of {}", REVIEWS.join(", "));
        invalid(errs, path, list, &why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cx() -> Context<'static> {
        Context::of_nobody()
    }

    /// A good configuration, changed.
    fn with(change: impl FnOnce(&mut Value)) -> Value {
        let mut obj = json!({"metadata": {"name": "x"}, "webhooks": [{
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/a/b"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"]}],
        }]});
        Webhooks { mutating: true }.default(&mut obj);
        change(&mut obj["webhooks"][0]);
        obj
    }

    fn errors(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let errs = Webhooks { mutating: true }.validate(&with(change), &cx());
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let hook = with(|_| ())["webhooks"][0].clone();
        for (field, value) in [
            ("failurePolicy", json!("Fail")),
            ("matchPolicy", json!("Equivalent")),
            ("namespaceSelector", json!({})),
            ("objectSelector", json!({})),
            ("timeoutSeconds", json!(10)),
            ("reinvocationPolicy", json!("Never")),
        ] {
            assert_eq!(hook[field], value, "{field}");
        }
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert!(errors(|_| ()).is_empty());
    }

    #[test]
    fn each_field_is_checked_in_upstreams_words() {
        let set = |field: &'static str, value: Value| errors(move |hook| hook[field] = value);
        for (field, value, want) in [
            ("name", json!(""), "webhooks[0].name: Required value"),
            (
                "name",
                json!("a.b"),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ),
            (
                "sideEffects",
                json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                "sideEffects",
                Value::Null,
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (
                "failurePolicy",
                json!("Perhaps"),
                "webhooks[0].failurePolicy: Unsupported value: \"Perhaps\": supported values: \"Fail\", \"Ignore\"",
            ),
            (
                "reinvocationPolicy",
                json!("Always"),
                "webhooks[0].reinvocationPolicy: Unsupported value: \"Always\": supported values: \"IfNeeded\", \"Never\"",
            ),
            (
                "timeoutSeconds",
                json!(31),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                "admissionReviewVersions",
                json!([]),
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (
                "admissionReviewVersions",
                json!(["v2"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ),
            (
                "clientConfig",
                json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                "clientConfig",
                json!({"url": "http://x"}),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                "matchConditions",
                json!([{"name": "a", "expression": "params.x"}]),
                "webhooks[0].matchConditions[0].expression: Invalid value: \"params.x\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x\n | ^",
            ),
        ] {
            assert_eq!(set(field, value), [want], "{field}");
        }
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let old = with(|hook| {
            hook["sideEffects"] = "Unknown".into();
            hook["admissionReviewVersions"] = json!(["v2"]);
            hook["matchConditions"] = json!([{"name": "a", "expression": "unknown"}]);
        });
        let strategy = Webhooks { mutating: true };
        let update = |new: &Value, old: &Value| strategy.validate_update(new, old, &cx()).len();
        let mut new = old.clone();
        new["webhooks"][0]["timeoutSeconds"] = 5.into();
        assert_eq!(update(&new, &old), 0);
        assert_eq!(update(&new, &with(|_| ())), 3);
        assert_eq!(strategy.validate(&new, &cx()).len(), 3);
    }
}
