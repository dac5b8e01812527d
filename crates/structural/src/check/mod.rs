//! Whether a schema may stand in a CustomResourceDefinition: structural, within what is supported,
//! with defaults that fit, and with rules that compile and cannot cost too much. Messages and paths
//! are upstream's.

mod costs;
mod defaults;
mod openapi;
mod structure;

use api::{FieldError, FieldPath};
use serde_json::Value as Json;

use crate::model::Structural;

/// What a schema is checked with; the defaults are those of a new CustomResourceDefinition.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `status` is a subresource: the root may then hold certain words only.
    pub status_subresource: bool,
    /// The costs of rules are not limited: the schema was there before.
    pub unlimited_costs: bool,
}

/// Words that the root of a schema may hold beside a status subresource, as upstream prints them.
const AT_ROOT: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

/// Whether a word of JSON is one of [`AT_ROOT`].
fn is_at_root(word: &str) -> bool {
    match word {
        "x-kubernetes-preserve-unknown-fields" | "x-kubernetes-validations" => true,
        word => AT_ROOT.iter().any(|w| w.eq_ignore_ascii_case(word)),
    }
}

/// What is wrong with a schema (`openAPIV3Schema`), whose place is `path`.
pub fn check(schema: &Json, path: &FieldPath, options: Options) -> Vec<FieldError> {
    let mut errors = Vec::new();
    root_words(schema, path, options, &mut errors);
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(
            &path.child("nullable"),
            "nullable cannot be true at the root",
        ));
    }
    let structural = match Structural::read(schema) {
        Ok(structural) => {
            let mut found = structure::check(&structural, path);
            if found.is_empty() {
                found = defaults::check(&structural, path);
            }
            let good = found.is_empty();
            errors.extend(found);
            good.then_some(structural)
        }
        Err(error) => {
            let other = openapi::check(schema, path, None, options);
            errors.extend(other);
            if errors.is_empty() {
                errors.push(FieldError::invalid_str(path, "", &error.to_string()));
            }
            return errors;
        }
    };
    errors.extend(openapi::check(schema, path, structural.as_ref(), options));
    errors
}

/// Why a schema is not structural, for the condition `NonStructuralSchema`; empty if it is.
pub fn structural_problems(schema: &Json, path: &FieldPath) -> Vec<FieldError> {
    match Structural::read(schema) {
        Ok(structural) => structure::check(&structural, path),
        Err(error) => vec![FieldError::invalid_str(path, "", &error.to_string())],
    }
}

fn root_words(schema: &Json, path: &FieldPath, options: Options, errors: &mut Vec<FieldError>) {
    let Json::Object(map) = schema else { return };
    if !options.status_subresource {
        return;
    }
    if let Some(ty) = map.get("type")
        && ty != "object"
        && ty != ""
    {
        errors.push(FieldError::invalid(
            &path.child("type"),
            ty,
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
        ));
    }
    if map.keys().any(|word| !is_at_root(word)) {
        errors.push(FieldError::invalid(
            path,
            schema,
            &format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                AT_ROOT.join(" ")
            ),
        ));
    }
}
