//! Defaults must be values that the schema would accept, without fields that it would prune.

use api::{FieldError, FieldPath};
use serde_json::Value as Json;

use crate::model::Structural;
use crate::validation_rules::Rules;
use crate::{lists, prune_and_default, validate};

/// What is wrong with the defaults in a schema.
pub(super) fn check(schema: &Structural, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut budget = Some(cel::PER_OBJECT_LIMIT);
    node(schema, path, true, &mut budget, &mut errors);
    errors
}

fn node(
    schema: &Structural,
    path: &FieldPath,
    root: bool,
    budget: &mut Option<u64>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(default) = &schema.default {
        one(schema, default, &path.child("default"), budget, errors);
    }
    if let Some(items) = &schema.items {
        node(items, &path.child("items"), false, budget, errors);
    }
    for (name, property) in &schema.properties {
        // Defaults of a resource's own metadata are refused elsewhere.
        if root && name.as_ref() == "metadata" {
            continue;
        }
        let path = path.child("properties").key(name);
        node(property, &path, false, budget, errors);
    }
}

fn one(
    schema: &Structural,
    default: &Json,
    path: &FieldPath,
    budget: &mut Option<u64>,
    errors: &mut Vec<FieldError>,
) {
    let mut pruned = default.clone();
    prune_and_default::prune(schema, &mut pruned, schema.embedded);
    if pruned != *default {
        errors.push(FieldError::invalid(
            path,
            default,
            "must not have unknown fields",
        ));
    }
    let found = validate::validate(schema, path, default, None);
    let found = if found.is_empty() {
        lists::validate(schema, path, default)
    } else {
        found
    };
    let fine = found.is_empty();
    errors.extend(found);
    let (Some(left), true) = (*budget, fine) else {
        return;
    };
    // A default comes in place of nothing, and stays in place of itself.
    let Some(rules) = Rules::of_part(schema) else {
        return;
    };
    for old in [Some(default), None] {
        let ran = rules.run(path, default, old, left);
        let failed = !ran.errors.is_empty();
        errors.extend(ran.errors);
        *budget = ran.budget;
        if failed || ran.budget.is_none() {
            return;
        }
    }
}
