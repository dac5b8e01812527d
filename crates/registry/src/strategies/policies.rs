//! Policies of admission and their bindings: what is wrong with one shows when it is written, down
//! to the place in an expression.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, names};
use policy::{Compiler, Want};
use serde_json::Value;

use super::conditions::conditions;
use super::matching::{self, match_defaults, rule_defaults};
use crate::check::{
    Errors, at, dns_subdomain, fill, has, invalid, invalid_each, items, label_selector, make,
    one_of, qualified_name, required_word, text,
};
use crate::status_writes::{METADATA, no_status};
use crate::strategy::{Context, Strategy};

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
/// Operations that have an object to change.
const MUTABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const PATCH_TYPES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
const MAX_ANNOTATIONS: usize = 20;
/// How names of policies that come from files end, upstream.
const STATIC: &str = ".static.k8s.io";
/// Longest expression of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 5 * 1024;

/// The strategy of admission policies.
pub struct AdmissionPolicy {
    pub mutating: bool,
}

impl Strategy for AdmissionPolicy {
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
        fill(spec, "failurePolicy", "Fail");
        match_resources_defaults(spec, "matchConstraints");
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        self.check(obj, None)
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        match cx.subresource {
            "status" => status(obj),
            _ => self.check(obj, Some(old)),
        }
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        static_name(obj)
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// The strategy of the bindings of admission policies.
pub struct AdmissionBinding {
    pub mutating: bool,
}

impl Strategy for AdmissionBinding {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = make(obj, "spec") {
            match_resources_defaults(spec, "matchResources");
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        match text(spec, "policyName") {
            "" => errs.push(FieldError::required(&path.child("policyName"), "")),
            name => dns_subdomain(&mut errs, &path.child("policyName"), name),
        }
        param_ref(&mut errs, &path.child("paramRef"), at(spec, "paramRef"));
        let matched = at(spec, "matchResources");
        if !matched.is_null() {
            match_resources(&mut errs, &path.child("matchResources"), matched);
        }
        if self.mutating {
            mutable(&mut errs, &path.child("matchResources"), matched);
        } else {
            actions(&mut errs, &path.child("validationActions"), spec);
        }
        errs
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        static_name(obj)
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// A warning of a name that is reserved.
pub fn static_name(obj: &Value) -> Vec<String> {
    let name = text(at(obj, "metadata"), "name");
    match name.ends_with(STATIC) {
        true => vec![format!(
            "metadata.name: names ending with {STATIC:?} are reserved for static manifest-based configurations and cannot be managed via the API"
        )],
        false => Vec::new(),
    }
}

fn match_resources_defaults(spec: &mut Value, field: &str) {
    if let Some(matched) = spec.get_mut(field).filter(|m| m.is_object()) {
        match_defaults(matched);
        rule_defaults(matched, "resourceRules");
        rule_defaults(matched, "excludeResourceRules");
    }
}

impl AdmissionPolicy {
    fn check(&self, obj: &Value, old: Option<&Value>) -> Errors {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        required_word(&mut errs, &path, spec, "failurePolicy", &FAILURE_POLICIES);
        let params = has(spec, "paramKind");
        if params {
            param_kind(&mut errs, &path.child("paramKind"), at(spec, "paramKind"));
        }
        let field = path.child("matchConstraints");
        let constraints = at(spec, "matchConstraints");
        if constraints.is_null() {
            errs.push(FieldError::required(&field, ""));
        } else {
            match_resources(&mut errs, &field, constraints);
            if items(constraints, "resourceRules").is_empty() {
                errs.push(FieldError::required(&field.child("resourceRules"), ""));
            }
            if self.mutating {
                mutable(&mut errs, &field, constraints);
            }
        }
        let same = |field| old.is_some_and(|o| at(at(o, "spec"), field) == at(spec, field));
        if !(same("paramKind") && same("matchConditions")) {
            let field = path.child("matchConditions");
            matching::conditions(&mut errs, &field, items(spec, "matchConditions"), params);
        }
        let variables = items(spec, "variables");
        let mut compiler = Compiler::new(params, self.mutating || !variables.is_empty());
        for (i, one) in variables.iter().enumerate() {
            variable(
                &mut errs,
                &path.child("variables").index(i),
                one,
                &mut compiler,
            );
        }
        if self.mutating {
            mutations(&mut errs, &path, spec, &compiler);
        } else {
            validations(&mut errs, &path, obj, &compiler);
        }
        errs
    }
}

/// What is wrong with an expression, as an error of its field.
fn expression(
    errs: &mut Errors,
    path: &FieldPath,
    (shown, source): (&str, &str),
    want: Want,
    compiler: &Compiler,
) {
    if let Err(what) = compiler.compile(source, want) {
        errs.push(FieldError::invalid_str(path, shown, &what));
    }
}

fn variable(errs: &mut Errors, path: &FieldPath, variable: &Value, compiler: &mut Compiler) {
    let (name, source) = (text(variable, "name"), text(variable, "expression"));
    if name.trim().is_empty() {
        let why = "name is not specified";
        errs.push(FieldError::required(&path.child("name"), why));
    } else if !policy::is_identifier(name) {
        let why = "must be a valid CEL identifier";
        errs.push(FieldError::invalid_str(&path.child("name"), name, why));
    }
    let field = path.child("expression");
    if source.trim().is_empty() {
        let why = "expression is not specified";
        errs.push(FieldError::required(&field, why));
    } else if let Some(what) = compiler.variable(name, source) {
        errs.push(FieldError::invalid_str(&field, source, &what));
    }
}

fn validations(errs: &mut Errors, path: &FieldPath, obj: &Value, compiler: &Compiler) {
    let spec = at(obj, "spec");
    let (all, annotations) = (items(spec, "validations"), items(spec, "auditAnnotations"));
    if all.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        for field in ["validations", "auditAnnotations"] {
            errs.push(FieldError::required(&path.child(field), why));
        }
    }
    for (i, one) in all.iter().enumerate() {
        validation(errs, &path.child("validations").index(i), one, compiler);
    }
    let field = path.child("auditAnnotations");
    if annotations.len() > MAX_ANNOTATIONS {
        let why = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        invalid(errs, &field, at(spec, "auditAnnotations"), &why);
    }
    let name = text(at(obj, "metadata"), "name");
    let mut keys = BTreeSet::new();
    for (i, one) in annotations.iter().enumerate() {
        annotation(errs, &field.index(i), name, one, compiler);
        let key = text(one, "key");
        if !keys.insert(key) {
            let path = field.index(i).child("key");
            errs.push(FieldError::duplicate(&path, &key.into()));
        }
    }
}

fn validation(errs: &mut Errors, path: &FieldPath, v: &Value, compiler: &Compiler) {
    let (source, message) = (text(v, "expression"), text(v, "message"));
    let field = path.child("expression");
    if source.trim().is_empty() {
        let why = "expression is not specified";
        errs.push(FieldError::required(&field, why));
    } else {
        expression(errs, &field, (source, source), Want::Bool, compiler);
    }
    let source = text(v, "messageExpression");
    let field = path.child("messageExpression");
    if !source.is_empty() && source.trim().is_empty() {
        let why = "must be non-empty if specified";
        errs.push(FieldError::invalid_str(&field, source, why));
    } else if !source.is_empty() {
        expression(errs, &field, (source, source), Want::Text, compiler);
    }
    let field = path.child("message");
    if !message.is_empty() && message.trim().is_empty() {
        let why = "must be non-empty if specified";
        errs.push(FieldError::invalid_str(&field, message, why));
    } else if message.trim().contains(['\n', '\r']) {
        let why = "must not contain line breaks";
        errs.push(FieldError::invalid_str(&field, message, why));
    }
    if has(v, "reason") {
        one_of(errs, &path.child("reason"), text(v, "reason"), &REASONS);
    }
}

fn annotation(errs: &mut Errors, path: &FieldPath, name: &str, a: &Value, compiler: &Compiler) {
    let key = text(a, "key");
    let field = path.child("key");
    if name.is_empty() {
        let why = "requires metadata.name be non-empty";
        errs.push(FieldError::invalid_str(&field, key, why));
    } else {
        qualified_name(errs, &field, &format!("{name}/{key}"));
    }
    let source = text(a, "valueExpression");
    let trimmed = source.trim();
    let field = path.child("valueExpression");
    if trimmed.is_empty() {
        let why = "valueExpression is not specified";
        errs.push(FieldError::required(&field, why));
    } else if trimmed.len() > MAX_ANNOTATION {
        let why = format!("must not exceed {MAX_ANNOTATION} bytes in length");
        errs.push(FieldError::required(&field, &why));
    } else {
        expression(errs, &field, (source, trimmed), Want::TextOrNull, compiler);
    }
}

fn mutations(errs: &mut Errors, path: &FieldPath, spec: &Value, compiler: &Compiler) {
    let all = items(spec, "mutations");
    let field = path.child("mutations");
    if all.is_empty() {
        let why = "mutations must contain at least one item";
        errs.push(FieldError::required(&field, why));
    }
    for (i, mutation) in all.iter().enumerate() {
        let path = field.index(i);
        let (own, other, want) = match text(mutation, "patchType") {
            "" => {
                errs.push(FieldError::required(&path.child("patchType"), ""));
                continue;
            }
            "JSONPatch" => ("jsonPatch", "applyConfiguration", Want::Patches),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Want::Object),
            word => {
                one_of(errs, &path.child("patchType"), word, &PATCH_TYPES);
                continue;
            }
        };
        let kind = text(mutation, "patchType");
        if has(mutation, own) {
            let source = text(at(mutation, own), "expression").trim();
            let field = path.child(own).child("expression");
            if source.is_empty() {
                errs.push(FieldError::required(&field, ""));
            } else {
                expression(errs, &field, (source, source), want, compiler);
            }
        } else {
            let why = format!("must be specified when patchType is {kind}");
            errs.push(FieldError::required(&path.child(own), &why));
        }
        if has(mutation, other) {
            let why = format!("must not be specified when patchType is {kind}");
            let shown = format!("{{{other}}}");
            errs.push(FieldError::invalid_str(&path.child(other), &shown, &why));
        }
    }
    let policies = ["IfNeeded", "Never"];
    required_word(errs, path, spec, "reinvocationPolicy", &policies);
}

/// Only what has an object can be changed.
fn mutable(errs: &mut Errors, path: &FieldPath, matched: &Value) {
    let path = path.child("resourceRules").child("operations");
    for rule in items(matched, "resourceRules") {
        for operation in items(rule, "operations") {
            one_of(
                errs,
                &path,
                operation.as_str().unwrap_or_default(),
                &MUTABLE,
            );
        }
    }
}

fn param_kind(errs: &mut Errors, path: &FieldPath, kind: &Value) {
    let version = text(kind, "apiVersion");
    let field = path.child("apiVersion");
    let mut bad = |value: &str, why: Vec<String>| {
        if !why.is_empty() {
            errs.push(FieldError::invalid_str(&field, value, &why.join(",")));
        }
    };
    let parts: Vec<&str> = version.split('/').collect();
    match &parts[..] {
        [""] => errs.push(FieldError::required(&field, "")),
        [v] => bad(v, names::is_dns1035_label(v)),
        [group, v] => {
            if !group.is_empty() {
                bad(group, names::is_dns1123_subdomain(group));
            }
            match *v {
                "" => bad(version, vec!["version must be specified".into()]),
                v => bad(v, names::is_dns1035_label(v)),
            }
        }
        _ => {
            let why = format!("unexpected GroupVersion string: {version}");
            bad(version, vec![why]);
        }
    }
    let (name, field) = (text(kind, "kind"), path.child("kind"));
    if name.is_empty() {
        errs.push(FieldError::required(&field, ""));
        return;
    }
    let wrong = names::is_dns1035_label(&name.to_lowercase());
    if !wrong.is_empty() {
        let why = wrong.join(",");
        let why = format!("may have mixed case, but should otherwise match: {why}");
        errs.push(FieldError::invalid_str(&field, name, &why));
    }
}

fn match_resources(errs: &mut Errors, path: &FieldPath, matched: &Value) {
    required_word(errs, path, matched, "matchPolicy", &MATCH_POLICIES);
    for field in ["namespaceSelector", "objectSelector"] {
        let path = path.child(field);
        if has(matched, field) {
            label_selector(errs, &path, at(matched, field));
        } else {
            errs.push(FieldError::required(&path, ""));
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(matched, field).iter().enumerate() {
            let path = path.child(field).index(i);
            let mut seen = BTreeSet::new();
            for (j, name) in items(rule, "resourceNames").iter().enumerate() {
                let path = path.child("resourceNames").index(j);
                let name = name.as_str().unwrap_or_default();
                invalid_each(errs, &path, name, names::is_path_segment_name(name));
                if !seen.insert(name) {
                    errs.push(FieldError::duplicate(&path, &name.into()));
                }
            }
            matching::rule(errs, &path, rule);
        }
    }
}

fn param_ref(errs: &mut Errors, path: &FieldPath, param: &Value) {
    if param.is_null() {
        return;
    }
    let (name, selects) = (text(param, "name"), has(param, "selector"));
    let both = "name and selector are mutually exclusive";
    if !name.is_empty() {
        let field = path.child("name");
        invalid_each(errs, &field, name, names::is_path_segment_name(name));
        if selects {
            errs.push(FieldError::forbidden(&field, both));
        }
    }
    if selects {
        let field = path.child("selector");
        label_selector(errs, &field, at(param, "selector"));
        if !name.is_empty() {
            errs.push(FieldError::forbidden(&field, both));
        }
    }
    if name.is_empty() && !selects {
        let why = "one of name or selector must be specified";
        errs.push(FieldError::required(path, why));
    }
    let actions = ["Deny", "Allow"];
    required_word(errs, path, param, "parameterNotFoundAction", &actions);
}

fn actions(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, action) in items(spec, "validationActions").iter().enumerate() {
        let word = action.as_str().unwrap_or_default();
        one_of(errs, &path.index(i), word, &ACTIONS);
        if !seen.insert(word) {
            errs.push(FieldError::duplicate(&path.index(i), action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        invalid(errs, path, at(spec, "validationActions"), why);
    }
    if seen.is_empty() {
        let why = "at least one validation action is required";
        errs.push(FieldError::required(path, why));
    }
}

fn status(obj: &Value) -> Errors {
    let mut errs = Errors::new();
    let path = FieldPath::new("status")
        .child("typeChecking")
        .child("expressionWarnings");
    let checking = at(at(obj, "status"), "typeChecking");
    for (i, warning) in items(checking, "expressionWarnings").iter().enumerate() {
        let path = path.index(i);
        for field in ["warning", "fieldRef"] {
            if text(warning, field).trim().is_empty() {
                errs.push(FieldError::required(&path.child(field), ""));
            }
        }
    }
    conditions(&mut errs, &FieldPath::new("status"), at(obj, "status"));
    errs
}

#[cfg(test)]
mod tests;
