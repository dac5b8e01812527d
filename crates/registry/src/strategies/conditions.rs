//! Conditions as most kinds have them in their status.

use std::collections::HashSet;

use api::{FieldError, FieldPath};
use serde_json::Value;

use crate::check::{Errors, at, int, items, one_of, qualified_name, required_text, text};

const LONGEST_REASON: usize = 1024;
const LONGEST_MESSAGE: usize = 32 * 1024;

/// The conditions of a status: each kind of them once, and whole.
pub fn conditions(errs: &mut Errors, path: &FieldPath, holder: &Value) {
    let (path, all) = (path.child("conditions"), items(holder, "conditions"));
    let mut seen = HashSet::new();
    for (i, condition) in all.iter().enumerate() {
        let path = path.index(i);
        let kind = at(condition, "type");
        if !seen.insert(kind) {
            errs.push(FieldError::duplicate(&path.child("type"), kind));
        }
        qualified_name(errs, &path.child("type"), text(condition, "type"));
        one_of(
            errs,
            &path.child("status"),
            text(condition, "status"),
            &["False", "True", "Unknown"],
        );
        let generation = "observedGeneration";
        if int(condition, generation).is_some_and(|n| n < 0) {
            let why = "must be greater than or equal to zero";
            let value = at(condition, generation);
            errs.push(FieldError::invalid(&path.child(generation), value, why));
        }
        required_text(errs, &path, condition, "lastTransitionTime");
        if required_text(errs, &path, condition, "reason") {
            reason(errs, &path.child("reason"), text(condition, "reason"));
        }
        if text(condition, "message").len() > LONGEST_MESSAGE {
            errs.push(FieldError::too_long(
                &path.child("message"),
                LONGEST_MESSAGE,
            ));
        }
    }
}

fn reason(errs: &mut Errors, path: &FieldPath, reason: &str) {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    let good = reason.bytes().all(inner)
        && reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !good {
        let why = "a condition reason must start with alphabetic character, optionally followed by \
                   a string of alphanumeric characters or '_,:', and must end with an alphanumeric \
                   character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or \
                   'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
                   '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
        errs.push(FieldError::invalid_str(path, reason, why));
    }
    if reason.len() > LONGEST_REASON {
        errs.push(FieldError::too_long(path, LONGEST_REASON));
    }
}

/// Whether a status says that something of this type is true.
pub fn is_true(holder: &Value, kind: &str) -> bool {
    let all = items(holder, "conditions");
    let found = all.iter().find(|c| text(c, "type") == kind);
    found.is_some_and(|c| text(c, "status") == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_is_whole() {
        let good = || json!({ "type": "Good", "status": "True", "reason": "So", "lastTransitionTime": "2026-01-01T00:00:00Z" });
        let with = |field: &str, value: Value| {
            let mut one = good();
            one[field] = value;
            one
        };
        let cases: [(Vec<Value>, &[&str]); 7] = [
            (vec![good()], &[]),
            (vec![good(), good()], &["Duplicate value: \"Good\""]),
            (
                vec![with("status", "Yes".into())],
                &["Unsupported value: \"Yes\": supported values: \"False\", \"True\", \"Unknown\""],
            ),
            (vec![with("reason", "".into())], &["Required value"]),
            (
                vec![with("lastTransitionTime", Value::Null)],
                &["Required value"],
            ),
            (
                vec![with("observedGeneration", json!(-1))],
                &["Invalid value: -1: must be greater than or equal to zero"],
            ),
            (
                vec![with("message", "m".repeat(LONGEST_MESSAGE + 1).into())],
                &["Too long: may not be more than 32768 bytes"],
            ),
        ];
        for (all, want) in cases {
            let mut errs = Errors::new();
            let status = json!({ "conditions": all });
            conditions(&mut errs, &FieldPath::new("status"), &status);
            let found: Vec<String> = errs.iter().map(FieldError::message).collect();
            assert_eq!(found, want, "{status}");
            assert!(is_true(&status, "Good") || want[0].contains("Yes"));
        }
    }
}
