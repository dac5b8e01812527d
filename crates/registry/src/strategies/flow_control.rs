//! Flow schemas and priority levels. What the server makes of them is its `flow_control` module.

use std::collections::HashSet;

use api::{FieldError, FieldPath, names};
use flowcontrol::{EXEMPT, defaults, shuffle};
use serde_json::Value;

use crate::check::{
    Errors, at, dns_subdomain, fill, fill_zero, flag, has, int, invalid, invalid_each, items, make,
    one_of, required_text, text,
};
use crate::status_writes::{METADATA, no_status};
use crate::strategy::{Context, Strategy};

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const PRECEDENCE_MAX: i64 = 10_000;
/// Forbidden by upstream since it keeps it for a version that is no longer served.
const ROUND_TRIP: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

/// The strategy of flow schemas.
pub struct FlowSchema;

impl Strategy for FlowSchema {
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        no_status(obj);
    }
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = make(obj, "spec") {
            fill_zero(spec, "matchingPrecedence", 1000);
        }
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return conditions(obj);
        }
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        let name = text(at(obj, "metadata"), "name");
        precedence(&mut errs, &path.child("matchingPrecedence"), spec, name);
        let method = at(spec, "distinguisherMethod");
        if !method.is_null() {
            let path = path.child("distinguisherMethod").child("type");
            let words = &["ByNamespace", "ByUser"];
            one_of(&mut errs, &path, text(method, "type"), words);
        }
        let level = path.child("priorityLevelConfiguration").child("name");
        match text(at(spec, "priorityLevelConfiguration"), "name") {
            "" => errs.push(FieldError::required(
                &level,
                "must reference a priority level",
            )),
            name => dns_subdomain(&mut errs, &level, name),
        }
        for (i, rule) in items(spec, "rules").iter().enumerate() {
            self::rule(&mut errs, &path.child("rules").index(i), rule);
        }
        must_be_as_built_in(&mut errs, obj, "FlowSchema", "");
        errs.extend(conditions(obj));
        errs
    }
    fn has_generation(&self) -> bool {
        true
    }
    /// In the order in which they are asked.
    fn table_rank(&self) -> Option<fn(&Value) -> i64> {
        Some(|obj| int(at(obj, "spec"), "matchingPrecedence").unwrap_or(0))
    }
}

fn precedence(errs: &mut Errors, path: &FieldPath, spec: &Value, name: &str) {
    let value = at(spec, "matchingPrecedence");
    let n = value.as_i64().unwrap_or(0);
    if n <= 0 {
        invalid(errs, path, value, "must be a positive value");
    }
    if n > PRECEDENCE_MAX {
        let why = format!("must not be greater than {PRECEDENCE_MAX}");
        invalid(errs, path, value, &why);
    }
    if n == 1 && name != EXEMPT {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        invalid(errs, path, value, why);
    }
}

fn rule(errs: &mut Errors, path: &FieldPath, rule: &Value) {
    let subjects = path.child("subjects");
    if items(rule, "subjects").is_empty() {
        let why = "subjects must contain at least one value";
        errs.push(FieldError::required(&subjects, why));
    }
    for (i, subject) in items(rule, "subjects").iter().enumerate() {
        self::subject(errs, &subjects.index(i), subject);
    }
    let (resources, urls) = (
        items(rule, "resourceRules"),
        items(rule, "nonResourceRules"),
    );
    if resources.is_empty() && urls.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errs.push(FieldError::required(path, why));
    }
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(errs, &path.child("resourceRules").index(i), rule);
    }
    for (i, rule) in urls.iter().enumerate() {
        url_rule(errs, &path.child("nonResourceRules").index(i), rule);
    }
}

/// The kinds of subject, with the fields that say who it is, in the order in which they are checked.
const SUBJECTS: [(&str, &str); 3] = [
    ("ServiceAccount", "serviceAccount"),
    ("User", "user"),
    ("Group", "group"),
];

fn subject(errs: &mut Errors, path: &FieldPath, subject: &Value) {
    let kind = text(subject, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(k, _)| *k == kind) else {
        let kinds = &["Group", "ServiceAccount", "User"];
        return one_of(errs, &path.child("kind"), kind, kinds);
    };
    let (own_path, who) = (path.child(own), at(subject, own));
    if who.is_null() {
        let why = format!("{own} is required when subject kind is '{kind}'");
        errs.push(FieldError::required(&own_path, &why));
    } else {
        let named = required_text(errs, &own_path, who, "name");
        if kind == "ServiceAccount" {
            let name = text(who, "name");
            if named && name != "*" {
                dns_subdomain(errs, &own_path.child("name"), name);
            }
            let (namespace, path) = (text(who, "namespace"), own_path.child("namespace"));
            if namespace.is_empty() {
                let why = "must specify namespace for service account";
                errs.push(FieldError::required(&path, why));
            } else {
                let found = names::is_dns1123_label(namespace);
                invalid_each(errs, &path, namespace, found);
            }
        }
    }
    for (other, field) in SUBJECTS.iter().filter(|(k, _)| *k != kind) {
        if has(subject, field) {
            let why = format!("{field} is forbidden when subject kind is not '{other}'");
            errs.push(FieldError::forbidden(&path.child(field), &why));
        }
    }
}

fn has_all(list: &[Value]) -> bool {
    list.iter().any(|w| w == "*")
}

/// A list of which `*` must be the only member.
fn alone(errs: &mut Errors, path: &FieldPath, rule: &Value, field: &str, what: &str) -> bool {
    let list = items(rule, field);
    if list.len() > 1 && has_all(list) {
        let why = format!("if '*' is present, must not specify other {what}");
        invalid(errs, &path.child(field), at(rule, field), &why);
    }
    has_all(list)
}

fn verbs(errs: &mut Errors, path: &FieldPath, rule: &Value) {
    let (list, field) = (items(rule, "verbs"), path.child("verbs"));
    if list.is_empty() {
        let why = "verbs must contain at least one value";
        errs.push(FieldError::required(&field, why));
    } else if !alone(errs, path, rule, "verbs", "verbs") {
        let is_known = |v: &Value| v.as_str().is_some_and(|v| VERBS.contains(&v));
        if !list.iter().all(is_known) {
            let mut error = FieldError::not_supported(&field, "", VERBS);
            error.value = Some(api::field::show_value(at(rule, "verbs")));
            errs.push(error);
        }
    }
}

fn resource_rule(errs: &mut Errors, path: &FieldPath, rule: &Value) {
    verbs(errs, path, rule);
    for (field, one, all) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        if items(rule, field).is_empty() {
            let why = format!("resource rules must supply at least one {one}");
            errs.push(FieldError::required(&path.child(field), &why));
        }
        alone(errs, path, rule, field, all);
    }
    let (namespaces, field) = (items(rule, "namespaces"), path.child("namespaces"));
    if namespaces.is_empty() && !flag(rule, "clusterScope") {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errs.push(FieldError::required(&field, why));
    } else if !alone(errs, path, rule, "namespaces", "namespaces") {
        for (i, namespace) in namespaces.iter().enumerate() {
            let name = namespace.as_str().unwrap_or_default();
            for why in names::is_dns1123_label(name) {
                let why =
                    format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errs.push(FieldError::invalid_str(&field.index(i), name, &why));
            }
        }
    }
}

fn url_rule(errs: &mut Errors, path: &FieldPath, rule: &Value) {
    verbs(errs, path, rule);
    let (urls, field) = (
        items(rule, "nonResourceURLs"),
        path.child("nonResourceURLs"),
    );
    if urls.is_empty() {
        let why = "nonResourceURLs must contain at least one value";
        errs.push(FieldError::required(&field, why));
    } else if !alone(errs, path, rule, "nonResourceURLs", "non-resource URLs") {
        for (i, url) in urls.iter().enumerate() {
            let url = url.as_str().unwrap_or_default();
            if let Some(why) = wrong_with_url(url) {
                errs.push(FieldError::invalid_str(&field.index(i), url, why));
            }
        }
    }
}

fn wrong_with_url(url: &str) -> Option<&'static str> {
    let wildcards = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if wildcards > 1 || (wildcards == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

fn conditions(obj: &Value) -> Errors {
    let mut errs = Errors::new();
    let path = FieldPath::new("status").child("conditions");
    let all = items(at(obj, "status"), "conditions");
    let mut seen = HashSet::new();
    for (i, condition) in all.iter().enumerate() {
        let (path, kind) = (path.index(i), at(condition, "type"));
        if !seen.insert(kind) {
            errs.push(FieldError::duplicate(&path.child("type"), kind));
        }
        required_text(&mut errs, &path, condition, "type");
    }
    errs
}

/// The objects without which priority and fairness would not work are as they are built in. `except`
/// names what may differ.
fn must_be_as_built_in(errs: &mut Errors, obj: &Value, kind: &str, except: &str) {
    let name = text(at(obj, "metadata"), "name");
    let built_in = defaults::mandatory(kind, name);
    if built_in.is_some_and(|d| !d.has_spec_of(obj)) {
        let why = format!("spec of '{name}'{except} must equal the fixed value");
        invalid(errs, &FieldPath::new("spec"), at(obj, "spec"), &why);
    }
}

/// The strategy of priority levels.
pub struct PriorityLevel;

impl Strategy for PriorityLevel {
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        no_status(obj);
    }
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        if let Some(e) = spec.get_mut("exempt").filter(|e| e.is_object()) {
            fill(e, "nominalConcurrencyShares", 0);
            fill(e, "lendablePercent", 0);
        }
        if let Some(l) = spec.get_mut("limited").filter(|l| l.is_object()) {
            fill(l, "nominalConcurrencyShares", 30);
            fill(l, "lendablePercent", 0);
            if let Some(q) = l
                .pointer_mut("/limitResponse/queuing")
                .filter(|q| q.is_object())
            {
                fill_zero(q, "handSize", 8);
                fill_zero(q, "queues", 64);
                fill_zero(q, "queueLengthLimit", 50);
            }
        }
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return conditions(obj);
        }
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        let meta = at(obj, "metadata");
        let name = text(meta, "name");
        if has(at(meta, "annotations"), ROUND_TRIP) {
            let path = FieldPath::new("metadata").child("annotations");
            let why = format!("annotation '{ROUND_TRIP}' is forbidden");
            errs.push(FieldError::forbidden(&path, &why));
        }
        let kind = text(spec, "type");
        if (name == EXEMPT) != (kind == "Exempt") {
            let why = "must be 'Exempt' if and only if `name` is 'exempt'";
            errs.push(FieldError::invalid_str(&path.child("type"), kind, why));
        }
        enabled(&mut errs, &path, spec);
        let except = if name == EXEMPT {
            " except the 'spec.exempt' field"
        } else {
            ""
        };
        must_be_as_built_in(&mut errs, obj, "PriorityLevelConfiguration", except);
        errs.extend(conditions(obj));
        errs
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// Only what belongs to the type is there.
fn enabled(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let (limited, exempt) = (at(spec, "limited"), at(spec, "exempt"));
    let (limited_path, exempt_path) = (path.child("limited"), path.child("exempt"));
    match text(spec, "type") {
        "Exempt" => {
            if !limited.is_null() {
                let why = "must be nil if the type is not Limited";
                errs.push(FieldError::forbidden(&limited_path, why));
            }
            seats(errs, &exempt_path, exempt);
        }
        "Limited" => {
            if !exempt.is_null() {
                let why = "must be nil if the type is Limited";
                errs.push(FieldError::forbidden(&exempt_path, why));
            }
            if limited.is_null() {
                let why = "must not be empty when type is Limited";
                errs.push(FieldError::required(&limited_path, why));
            } else {
                self::limited(errs, &limited_path, limited);
            }
        }
        kind => one_of(errs, &path.child("type"), kind, &["Exempt", "Limited"]),
    }
}

fn limited(errs: &mut Errors, path: &FieldPath, limited: &Value) {
    let (response, response_path) = (at(limited, "limitResponse"), path.child("limitResponse"));
    let (queuing, queuing_path) = (at(response, "queuing"), response_path.child("queuing"));
    shares(errs, path, limited);
    match text(response, "type") {
        "Reject" if !queuing.is_null() => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errs.push(FieldError::forbidden(&queuing_path, why));
        }
        "Reject" => {}
        "Queue" if queuing.is_null() => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errs.push(FieldError::required(&queuing_path, why));
        }
        "Queue" => self::queuing(errs, &queuing_path, queuing),
        kind => one_of(
            errs,
            &response_path.child("type"),
            kind,
            &["Queue", "Reject"],
        ),
    }
    lendable(errs, path, limited);
    if int(limited, "borrowingLimitPercent").is_some_and(|n| n < 0) {
        let path = path.child("borrowingLimitPercent");
        let why = "if specified, must be a non-negative integer";
        invalid(errs, &path, at(limited, "borrowingLimitPercent"), why);
    }
}

fn seats(errs: &mut Errors, path: &FieldPath, of: &Value) {
    shares(errs, path, of);
    lendable(errs, path, of);
}

fn shares(errs: &mut Errors, path: &FieldPath, of: &Value) {
    if int(of, "nominalConcurrencyShares").is_some_and(|n| n < 0) {
        let path = path.child("nominalConcurrencyShares");
        let why = "must be a non-negative integer";
        invalid(errs, &path, at(of, "nominalConcurrencyShares"), why);
    }
}

fn lendable(errs: &mut Errors, path: &FieldPath, of: &Value) {
    if int(of, "lendablePercent").is_some_and(|n| !(0..=100).contains(&n)) {
        let path = path.child("lendablePercent");
        let why = "must be between 0 and 100, inclusive";
        invalid(errs, &path, at(of, "lendablePercent"), why);
    }
}

fn queuing(errs: &mut Errors, path: &FieldPath, queuing: &Value) {
    let number = |field: &str| int(queuing, field).unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    let mut wrong = |field: &str, why: &str| {
        invalid(errs, &path.child(field), at(queuing, field), why);
    };
    if number("queueLengthLimit") <= 0 {
        wrong("queueLengthLimit", "must be positive");
    }
    let most = i64::from(shuffle::QUEUES_MAX);
    if queues <= 0 {
        wrong("queues", "must be positive");
    } else if queues > most {
        wrong("queues", &format!("must not be greater than {most}"));
    }
    let small = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    if hand <= 0 {
        wrong("handSize", "must be positive");
    } else if hand > queues {
        let why = format!("should not be greater than queues ({queues})");
        wrong("handSize", &why);
    } else if shuffle::entropy_bits(small(queues), small(hand)) > shuffle::ENTROPY_BITS {
        let bits = shuffle::ENTROPY_BITS;
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {bits}"
        );
        wrong("handSize", &why);
    }
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;

    fn wrong(strategy: &dyn Strategy, mut obj: Value) -> Vec<String> {
        let cx = Context::of_nobody();
        strategy.default(&mut obj);
        let errs = strategy.validate(&obj, &cx);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_that_is_built_in_is_valid() {
        for level in defaults::levels() {
            assert_eq!(wrong(&PriorityLevel, level.value.clone()), [""; 0]);
            let mut again = level.value.clone();
            PriorityLevel.default(&mut again);
            assert_eq!(again, level.value);
        }
        for schema in defaults::schemas() {
            assert_eq!(wrong(&FlowSchema, schema.value.clone()), [""; 0]);
        }
    }

    #[test]
    fn flow_schemas_are_checked_in_upstreams_words() {
        let schema =
            |name: &str, spec: Value| json!({ "metadata": { "name": name }, "spec": spec });
        let rule = json!({
            "subjects": [{ "kind": "User", "user": { "name": "" }, "group": { "name": "x" } }],
            "resourceRules": [{ "verbs": ["get", "fly"], "apiGroups": ["*", "a"], "resources": [], "namespaces": ["X"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["x", "/a*"] }],
        });
        let spec = json!({ "matchingPrecedence": 1, "priorityLevelConfiguration": {}, "rules": [rule, {}] });
        assert_eq!(
            wrong(&FlowSchema, schema("a", spec)),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].user.name: Required value",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].resourceRules[0].verbs: Unsupported value: [\"get\",\"fly\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
                "spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
                "spec.rules[0].resourceRules[0].namespaces[0]: Invalid value: \"X\": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching",
                "spec.rules[1].subjects: Required value: subjects must contain at least one value",
                "spec.rules[1]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
        let mut exempt = defaults::mandatory("FlowSchema", EXEMPT)
            .expect("built in")
            .value;
        exempt["spec"]["matchingPrecedence"] = 2.into();
        let found = wrong(&FlowSchema, exempt);
        assert!(
            found[0].ends_with("spec of 'exempt' must equal the fixed value"),
            "{found:?}"
        );
    }

    #[test]
    fn priority_levels_are_checked_in_upstreams_words() {
        let level = |name: &str, spec: Value| {
            wrong(
                &PriorityLevel,
                json!({ "metadata": { "name": name }, "spec": spec }),
            )
        };
        let queue = |queuing: Value| {
            let response = json!({ "type": "Queue", "queuing": queuing });
            level(
                "a",
                json!({ "type": "Limited", "limited": { "limitResponse": response } }),
            )
        };
        assert_eq!(queue(json!({})), [""; 0]);
        assert_eq!(
            queue(json!({ "queues": 4, "handSize": 5, "queueLengthLimit": -1 })),
            [
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)",
            ]
        );
        assert_eq!(
            queue(json!({ "queues": 512, "handSize": 8 })),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60"
            ]
        );
        assert_eq!(
            level("a", json!({ "type": "Exempt", "limited": {} })),
            [
                "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
                "spec.limited: Forbidden: must be nil if the type is not Limited",
            ]
        );
        assert_eq!(
            level("a", json!({ "type": "Limited", "exempt": {} })),
            [
                "spec.exempt: Forbidden: must be nil if the type is Limited",
                "spec.limited: Required value: must not be empty when type is Limited",
            ]
        );
        let limited = json!({ "nominalConcurrencyShares": -1, "lendablePercent": 101, "borrowingLimitPercent": -1, "limitResponse": { "type": "Reject", "queuing": {} } });
        assert_eq!(
            level("a", json!({ "type": "Limited", "limited": limited })),
            [
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
            ]
        );
    }
}
