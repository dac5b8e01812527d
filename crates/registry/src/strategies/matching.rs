//! What webhooks and policies of admission have in common: rules that say which requests they
//! want, and match conditions.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath};
use policy::{Compiler, Want};
use serde_json::{Value, json};

use crate::check::{
    Errors, at, fill, has, invalid, items, items_mut, one_of, qualified_name, text,
};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
/// Most match conditions of one webhook or policy.
const MAX_CONDITIONS: usize = 64;

/// What says to which objects something applies: the defaults of selectors.
pub fn match_defaults(v: &mut Value) {
    fill(v, "matchPolicy", "Equivalent");
    fill(v, "namespaceSelector", json!({}));
    fill(v, "objectSelector", json!({}));
}

/// The defaults of the rules in a list.
pub fn rule_defaults(v: &mut Value, list: &str) {
    for rule in items_mut(v, list) {
        fill(rule, "scope", "*");
    }
}

/// A rule with the operations that it is for.
pub fn rule(errs: &mut Errors, path: &FieldPath, rule: &Value) {
    let operations = items(rule, "operations");
    let field = path.child("operations");
    if operations.is_empty() {
        errs.push(FieldError::required(&field, ""));
    }
    if operations.len() > 1 && operations.iter().any(|o| o == "*") {
        let why = "if '*' is present, must not specify other operations";
        invalid(errs, &field, at(rule, "operations"), why);
    }
    for (i, operation) in operations.iter().enumerate() {
        let word = operation.as_str().unwrap_or_default();
        one_of(errs, &field.index(i), word, &OPERATIONS);
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let path = path.child(field);
        let all = items(rule, field);
        if all.is_empty() {
            errs.push(FieldError::required(&path, ""));
        }
        if all.len() > 1 && all.iter().any(|w| w == "*") {
            let why = format!("if '*' is present, must not specify other {what}");
            invalid(errs, &path, at(rule, field), &why);
        }
        for (i, version) in all.iter().enumerate() {
            if field == "apiVersions" && version == "" {
                errs.push(FieldError::required(&path.index(i), ""));
            }
        }
    }
    resources(errs, &path.child("resources"), at(rule, "resources"));
    if has(rule, "scope") {
        one_of(errs, &path.child("scope"), text(rule, "scope"), &SCOPES);
    }
}

fn resources(errs: &mut Errors, path: &FieldPath, list: &Value) {
    let all = list.as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        errs.push(FieldError::required(path, ""));
    }
    let (mut of_all, mut all_of) = (BTreeSet::new(), BTreeSet::new());
    let mut last_is_whole = false;
    for (i, entry) in all.iter().enumerate() {
        let entry = entry.as_str().unwrap_or_default();
        let path = path.index(i);
        if entry.is_empty() {
            errs.push(FieldError::required(&path, ""));
            continue;
        }
        let Some((resource, below)) = entry.split_once('/') else {
            // As upstream, only the last one of these counts.
            last_is_whole = entry != "*";
            continue;
        };
        if of_all.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {entry}");
            errs.push(FieldError::invalid_str(&path, entry, &why));
        }
        if all_of.contains(below) {
            let why = format!("if '*/{below}' is present, must not specify {entry}");
            errs.push(FieldError::invalid_str(&path, entry, &why));
        }
        if below == "*" {
            of_all.insert(resource);
        }
        if resource == "*" {
            all_of.insert(below);
        }
    }
    if all.len() > 1 && all.iter().any(|r| r == "*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        invalid(errs, path, list, why);
    }
    if last_is_whole && all.iter().any(|r| r == "*") {
        let why = "if '*' is present, must not specify other resources without subresources";
        invalid(errs, path, list, why);
    }
}

/// The match conditions of a webhook or policy; `params`: expressions may name `params`.
pub fn conditions(errs: &mut Errors, path: &FieldPath, conditions: &[Value], params: bool) {
    if conditions.len() > MAX_CONDITIONS {
        errs.push(FieldError::too_many(path, conditions.len(), MAX_CONDITIONS));
    }
    let compiler = Compiler::new(params, false);
    let mut names = BTreeSet::new();
    for (i, condition) in conditions.iter().take(MAX_CONDITIONS).enumerate() {
        let path = path.index(i);
        let source = text(condition, "expression").trim();
        let field = path.child("expression");
        if source.is_empty() {
            errs.push(FieldError::required(&field, ""));
        } else if let Err(what) = compiler.compile(source, Want::Bool) {
            errs.push(FieldError::invalid_str(&field, source, &what));
        }
        let name = text(condition, "name");
        let field = path.child("name");
        if name.is_empty() {
            errs.push(FieldError::required(&field, ""));
            continue;
        }
        qualified_name(errs, &field, name);
        if !names.insert(name) {
            errs.push(FieldError::duplicate(&field, &name.into()));
        }
    }
}
