//! What may be wrong with a term of a selector of nodes in a configuration.

use api::{FieldError, FieldPath, names};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use serde_json::json;

/// What is wrong with some arguments so far.
pub type Errors = Vec<FieldError>;

const OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];

/// Says what is wrong with a term.
pub fn check(errs: &mut Errors, path: &FieldPath, term: &NodeSelectorTerm) {
    for (i, one) in term.match_expressions.iter().flatten().enumerate() {
        expression(errs, &path.child("matchExpressions").index(i), one);
    }
    for (i, one) in term.match_fields.iter().flatten().enumerate() {
        let path = path.child("matchFields").index(i);
        let values = one.values.as_deref().unwrap_or_default();
        match one.operator.as_str() {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => {
                let why = "must have one element";
                let path = path.child("values");
                errs.push(FieldError::invalid(&path, &json!(values), why));
            }
            other => errs.push(FieldError::not_supported(
                &path.child("operator"),
                other,
                &["In", "NotIn"],
            )),
        }
    }
}

fn expression(errs: &mut Errors, path: &FieldPath, one: &NodeSelectorRequirement) {
    let values = one.values.as_deref().unwrap_or_default();
    let operator = one.operator.as_str();
    if !OPERATORS.contains(&operator) {
        let path = path.child("operator");
        errs.push(FieldError::not_supported(&path, operator, &OPERATORS));
        return;
    }
    let wrong = names::is_qualified_name(&one.key);
    if !wrong.is_empty() {
        let path = path.child("key");
        errs.push(FieldError::invalid_str(&path, &one.key, &wrong.join("; ")));
    }
    let path = path.child("values");
    let count = match operator {
        "In" | "NotIn" if values.is_empty() => {
            Some("for 'in', 'notin' operators, values set can't be empty")
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            Some("values set must be empty for exists and does not exist")
        }
        "Gt" | "Lt" if values.len() != 1 => {
            Some("for 'Gt', 'Lt' operators, exactly one value is required")
        }
        _ => None,
    };
    if let Some(why) = count {
        errs.push(FieldError::invalid(&path, &json!(values), why));
    }
    for (i, value) in values.iter().enumerate() {
        let path = path.index(i);
        if matches!(operator, "Gt" | "Lt") && value.parse::<i64>().is_err() {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer";
            errs.push(FieldError::invalid_str(&path, value, why));
        }
        let wrong = names::is_valid_label_value(value);
        if !wrong.is_empty() {
            errs.push(FieldError::invalid_str(&path, value, &wrong.join("; ")));
        }
    }
}
