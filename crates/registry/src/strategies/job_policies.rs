//! A job's policies: which failures count, which successes suffice, what manages it; and how large
//! an indexed job may be.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath};
use serde_json::Value;

use crate::check::{
    Errors, at, domain_path, has, int, invalid, items, not_negative, one_of, qualified_name, text,
};

const RULES: usize = 20;
const PATTERNS: usize = 20;
const EXIT_CODES: usize = 255;
const MANAGER_BYTES: usize = 63;
/// Of `succeededIndexes`.
const INDEXES_BYTES: usize = 64 * 1024;
const FAILED_INDEXES: i64 = 100_000;
/// Completions above this need tighter bounds, when each index has a back-off limit.
const MANY_COMPLETIONS: i64 = 100_000;
const WITH_MANY_COMPLETIONS: i64 = 10_000;

/// Bounds of an indexed job.
pub fn limits(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let (completions, lost) = (int(spec, "completions"), int(spec, "maxFailedIndexes"));
    let mut at_most = |field: &str, most: i64, why: &str| {
        if int(spec, field).is_some_and(|n| n > most) {
            invalid(errs, &path.child(field), at(spec, field), why);
        }
    };
    if let Some(completions) = completions {
        let why = "must be less than or equal to completions";
        at_most("maxFailedIndexes", completions, why);
    }
    let why = format!("must be less than or equal to {FAILED_INDEXES}");
    at_most("maxFailedIndexes", FAILED_INDEXES, &why);
    let many = completions.is_some_and(|c| c > MANY_COMPLETIONS);
    if !many || !has(spec, "backoffLimitPerIndex") {
        return;
    }
    let why = format!(
        "must be less than or equal to {WITH_MANY_COMPLETIONS} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
    );
    at_most("parallelism", WITH_MANY_COMPLETIONS, &why);
    at_most("maxFailedIndexes", WITH_MANY_COMPLETIONS, &why);
    if lost.is_none() {
        let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errs.push(FieldError::required(&path.child("maxFailedIndexes"), &why));
    }
}

/// The policies, and what manages the job.
pub fn check(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        let path = path.child("backoffLimitPerIndex");
        let why = "when maxFailedIndexes is specified";
        errs.push(FieldError::required(&path, why));
    }
    if let Some(manager) = at(spec, "managedBy").as_str() {
        managed_by(errs, &path.child("managedBy"), manager);
    }
    if has(spec, "podFailurePolicy") {
        let rules = path.child("podFailurePolicy").child("rules");
        let all = items(at(spec, "podFailurePolicy"), "rules");
        if all.len() > RULES {
            errs.push(FieldError::too_many(&rules, all.len(), RULES));
        }
        for (i, rule) in all.iter().enumerate() {
            failure_rule(errs, &rules.index(i), spec, rule);
        }
    }
    if has(spec, "successPolicy") && text(spec, "completionMode") == "Indexed" {
        success(errs, &path.child("successPolicy").child("rules"), spec);
    }
}

/// A domain, and a path below it.
fn managed_by(errs: &mut Errors, path: &FieldPath, manager: &str) {
    domain_path(errs, path, manager);
    if manager.len() > MANAGER_BYTES {
        errs.push(FieldError::too_long(path, MANAGER_BYTES));
    }
}

fn failure_rule(errs: &mut Errors, path: &FieldPath, spec: &Value, rule: &Value) {
    let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
    let action = path.child("action");
    match text(rule, "action") {
        "" => {
            let why = format!("valid values: {actions:?}");
            errs.push(FieldError::required(&action, &why));
        }
        "FailIndex" if !has(spec, "backoffLimitPerIndex") => {
            let why = "requires the backoffLimitPerIndex to be set";
            errs.push(FieldError::invalid_str(&action, "FailIndex", why));
        }
        word => one_of(errs, &action, word, &actions),
    }
    let patterns = items(rule, "onPodConditions");
    if has(rule, "onExitCodes") {
        exit_codes(
            errs,
            &path.child("onExitCodes"),
            spec,
            at(rule, "onExitCodes"),
        );
    }
    let list = path.child("onPodConditions");
    if patterns.len() > PATTERNS {
        errs.push(FieldError::too_many(&list, patterns.len(), PATTERNS));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let path = list.index(i);
        qualified_name(errs, &path.child("type"), text(pattern, "type"));
        let known = ["False", "True", "Unknown"];
        one_of(errs, &path.child("status"), text(pattern, "status"), &known);
    }
    let why = match (has(rule, "onExitCodes"), patterns.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    invalid(errs, path, rule, why);
}

fn exit_codes(errs: &mut Errors, path: &FieldPath, spec: &Value, wanted: &Value) {
    let operators = ["In", "NotIn"];
    one_of(
        errs,
        &path.child("operator"),
        text(wanted, "operator"),
        &operators,
    );
    if let Some(name) = at(wanted, "containerName").as_str() {
        let pod = at(at(spec, "template"), "spec");
        let all = items(pod, "containers")
            .iter()
            .chain(items(pod, "initContainers"));
        if !all.into_iter().any(|c| text(c, "name") == name) {
            let why = "must be one of the container or initContainer names in the pod template";
            errs.push(FieldError::invalid_str(
                &path.child("containerName"),
                name,
                why,
            ));
        }
    }
    let (list, values) = (path.child("values"), items(wanted, "values"));
    if values.is_empty() {
        invalid(
            errs,
            &list,
            at(wanted, "values"),
            "at least one value is required",
        );
    } else if values.len() > EXIT_CODES {
        errs.push(FieldError::too_many(&list, values.len(), EXIT_CODES));
    }
    let codes: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    let mut seen = BTreeSet::new();
    for (i, (code, value)) in codes.iter().zip(values).enumerate() {
        if *code == 0 && text(wanted, "operator") == "In" {
            invalid(
                errs,
                &list.index(i),
                value,
                "must not be 0 for the In operator",
            );
        }
        if !seen.insert(code) {
            errs.push(FieldError::duplicate(&list.index(i), value));
        }
    }
    if !codes.is_sorted() {
        invalid(errs, &list, at(wanted, "values"), "must be ordered");
    }
}

fn success(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let rules = items(at(spec, "successPolicy"), "rules");
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        errs.push(FieldError::required(path, why));
    }
    if rules.len() > RULES {
        errs.push(FieldError::too_many(path, rules.len(), RULES));
    }
    let completions = int(spec, "completions").unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        if !has(rule, "succeededCount") && !has(rule, "succeededIndexes") {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            errs.push(FieldError::required(&path, why));
        }
        let list = path.child("succeededIndexes");
        let named = at(rule, "succeededIndexes").as_str();
        if named.is_some_and(|t| t.len() > INDEXES_BYTES) {
            errs.push(FieldError::too_long(&list, INDEXES_BYTES));
        }
        let mut total = None;
        match named.map(|t| indexes(t, completions)) {
            Some(Ok(n)) => total = Some(n),
            Some(Err(why)) => {
                let why = format!("error parsing succeededIndexes: {why}");
                invalid(errs, &list, at(rule, "succeededIndexes"), &why);
            }
            None => {}
        }
        not_negative(errs, &path, rule, "succeededCount");
        let bounds = [
            (Some(completions), "specified completions"),
            (total, "indexes in the specified succeededIndexes field"),
        ];
        for (most, of) in bounds {
            let count = int(rule, "succeededCount");
            if let Some(most) = most.filter(|m| count.is_some_and(|n| n > *m)) {
                let why = format!("must be less than or equal to {most} (the number of {of})");
                let path = path.child("succeededCount");
                invalid(errs, &path, at(rule, "succeededCount"), &why);
            }
        }
    }
}

/// How many indexes a text such as `1,3-5` names.
pub(super) fn indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut before, mut total) = (-1_i64, 0);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if before >= first {
            return Err(format!(
                "non-increasing order, previous: {before}, current: {first}"
            ));
        }
        total += last - first + 1;
        before = last;
    }
    Ok(total)
}

/// The first and the last index of a part such as `3-5`, or `1`, which is both.
pub(super) fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let read = |word: &str| -> Result<i64, String> {
        let n = word.parse::<i64>();
        let n = n.map_err(|_| format!("cannot convert string to integer for index: {word:?}"))?;
        if n >= completions {
            return Err(format!("too large index: {word:?}"));
        }
        Ok(n)
    };
    let ends: Vec<&str> = part.split('-').collect();
    match ends.as_slice() {
        [one] => read(one).map(|index| (index, index)),
        [first, last] => {
            let (first, last) = (read(first)?, read(last)?);
            if first >= last {
                return Err(format!(
                    "non-increasing order, previous: {first}, current: {last}"
                ));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(spec: &Value) -> Vec<String> {
        let mut errs = Errors::new();
        let path = FieldPath::new("spec");
        check(&mut errs, &path, spec);
        limits(&mut errs, &path, spec);
        errs.iter().map(FieldError::message).collect()
    }

    #[test]
    fn what_no_pod_could_meet_is_refused() {
        let rule = |rule: Value| {
            json!({ "podFailurePolicy": { "rules": [rule] }, "backoffLimitPerIndex": 1,
            "template": { "spec": { "containers": [{ "name": "c" }] } } })
        };
        let wins = |rule: Value| json!({ "completionMode": "Indexed", "completions": 5, "successPolicy": { "rules": [rule] } });
        let many =
            json!({ "completions": 200_000, "backoffLimitPerIndex": 1, "parallelism": 20_000 });
        for (spec, wrong) in [
            (
                rule(
                    json!({ "action": "FailJob", "onExitCodes": { "containerName": "c", "operator": "In", "values": [1, 2] } }),
                ),
                0,
            ),
            (
                rule(
                    json!({ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] }),
                ),
                0,
            ),
            (
                rule(
                    json!({ "action": "Other", "onPodConditions": [{ "type": "a b", "status": "no" }] }),
                ),
                3,
            ),
            (
                rule(
                    json!({ "action": "FailJob", "onExitCodes": { "containerName": "d", "operator": "Is", "values": [] } }),
                ),
                3,
            ),
            (
                rule(
                    json!({ "action": "FailJob", "onExitCodes": { "operator": "In", "values": [2, 0, 2] } }),
                ),
                3,
            ),
            (rule(json!({ "action": "Count" })), 1),
            (
                json!({ "podFailurePolicy": { "rules": [{ "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [2] } }] } }),
                1,
            ),
            (
                wins(json!({ "succeededIndexes": "0-2,4", "succeededCount": 4 })),
                0,
            ),
            (
                wins(json!({ "succeededIndexes": "0-2", "succeededCount": 4 })),
                1,
            ),
            (wins(json!({ "succeededCount": 6 })), 1),
            (wins(json!({ "succeededIndexes": "2,1" })), 1),
            (wins(json!({ "succeededIndexes": "5" })), 1),
            (wins(json!({})), 1),
            (json!({ "managedBy": "kubernetes.io/job-controller" }), 0),
            (json!({ "managedBy": "me" }), 1),
            (json!({ "maxFailedIndexes": 2 }), 1),
            (
                json!({ "completions": 3, "backoffLimitPerIndex": 1, "maxFailedIndexes": 4 }),
                1,
            ),
            (many, 2),
        ] {
            let found = fields(&spec);
            assert_eq!(found.len(), wrong, "{spec}: {found:#?}");
        }
    }
}
