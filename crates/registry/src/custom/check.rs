//! What is wrong with a CustomResourceDefinition. Paths are upstream's: what all versions have in
//! common is named as a part of the whole (`spec.validation`), which is what its clients know.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, names};
use serde_json::Value;
use structural::Structural;
use structural::check::{Options, check};

use super::definition::{is_established, preserves_all};
use super::{is_common, schema, versions};
use crate::check::{
    Errors, IMMUTABLE, at, flag, has, invalid, is_empty, items, required_text, required_word, text,
};
use crate::client_config;

/// Fields that one version may offer to selectors.
const MAX_SELECTABLE: usize = 8;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 9] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
    "uuid",
];
const APPROVED: &str = "api-approved.kubernetes.io";

/// Of a new definition.
pub(super) fn created(crd: &Value) -> Errors {
    let mut errs = Errors::new();
    let spec = at(crd, "spec");
    let name = text(at(crd, "metadata"), "name");
    let wanted = format!(
        "{}.{}",
        text(at(spec, "names"), "plural"),
        text(spec, "group")
    );
    if name != wanted {
        let why = "must be spec.names.plural+\".\"+spec.group";
        let path = FieldPath::new("metadata").child("name");
        errs.push(FieldError::invalid_str(&path, name, why));
    }
    check_spec(crd, None, &mut errs);
    errs.extend(status(crd));
    stored_versions(crd, &mut errs);
    approval(crd, None, &mut errs);
    preserving(crd, None, &mut errs);
    errs
}

/// Of a changed one. What was accepted once is not refused for its costs.
pub(super) fn updated(crd: &Value, old: &Value) -> Errors {
    let mut errs = Errors::new();
    let (spec, before) = (at(crd, "spec"), at(old, "spec"));
    // What is as it was, was accepted: whoever lets it go need not mend it first.
    if spec != before {
        check_spec(crd, Some(old), &mut errs);
    }
    let path = FieldPath::new("spec");
    let mut same = |path: &FieldPath, new: &Value, old: &Value, field: &str| {
        if at(new, field) != at(old, field) {
            let value = at(new, field);
            errs.push(FieldError::invalid(&path.child(field), value, IMMUTABLE));
        }
    };
    let (names, names_before) = (at(spec, "names"), at(before, "names"));
    if is_established(old) {
        same(&path, spec, before, "scope");
        same(&path.child("names"), names, names_before, "kind");
    }
    same(&path, spec, before, "group");
    same(&path.child("names"), names, names_before, "plural");
    errs.extend(status(crd));
    stored_versions(crd, &mut errs);
    approval(crd, Some(old), &mut errs);
    preserving(crd, Some(old), &mut errs);
    errs
}

/// Of the status.
pub(super) fn status(crd: &Value) -> Errors {
    let mut errs = Errors::new();
    let path = FieldPath::new("status").child("acceptedNames");
    check_names(at(at(crd, "status"), "acceptedNames"), &path, &mut errs);
    errs
}

fn joined(errs: &mut Errors, path: &FieldPath, value: &str, before: &str, found: Vec<String>) {
    if !found.is_empty() {
        let why = format!("{before}{}", found.join(","));
        errs.push(FieldError::invalid_str(path, value, &why));
    }
}

fn check_spec(crd: &Value, old: Option<&Value>, errs: &mut Errors) {
    let spec = at(crd, "spec");
    let path = FieldPath::new("spec");
    let group = text(spec, "group");
    let at_group = path.child("group");
    let found = names::is_dns1123_subdomain(group);
    if group.is_empty() {
        errs.push(FieldError::required(&at_group, ""));
    } else if !found.is_empty() {
        joined(errs, &at_group, group, "", found);
    } else if !group.contains('.') {
        let why = "should be a domain with at least one dot";
        errs.push(FieldError::invalid_str(&at_group, group, why));
    }
    required_word(errs, &path, spec, "scope", &["Cluster", "Namespaced"]);
    check_versions(crd, old, &path, errs);
    let at_names = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        required_text(errs, &at_names, at(spec, "names"), field);
    }
    check_names(at(spec, "names"), &at_names, errs);
    let before = old.map(|old| at(at(old, "spec"), "conversion"));
    conversion(spec, before, &path.child("conversion"), errs);
}

fn check_versions(crd: &Value, old: Option<&Value>, path: &FieldPath, errs: &mut Errors) {
    let all = versions(crd);
    let list = path.child("versions");
    let legacy = old.is_some_and(preserves_all);
    for (i, version) in all.iter().enumerate() {
        let at_version = list.index(i);
        if schema(version).is_none() && !legacy {
            let at_schema = at_version.child("schema").child("openAPIV3Schema");
            errs.push(FieldError::required(&at_schema, ""));
        }
        let name = text(version, "name");
        let found = names::is_dns1035_label(name);
        joined(errs, &at_version.child("name"), name, "", found);
        deprecation(version, &at_version, errs);
    }
    parts(crd, old, path, errs);
    let all_value = at(at(crd, "spec"), "versions");
    let name = |v: &Value| text(v, "name").to_owned();
    let mut seen: Vec<String> = all.iter().map(name).collect();
    seen.sort();
    if seen.windows(2).any(|w| w[0] == w[1]) {
        invalid(errs, &list, all_value, "must contain unique version names");
    }
    if all.iter().filter(|v| flag(v, "storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        invalid(errs, &list, all_value, why);
    }
}

/// The parts of versions, each once where all versions have it in common.
fn parts(crd: &Value, old: Option<&Value>, path: &FieldPath, errs: &mut Errors) {
    let all = versions(crd);
    let each = |field: &str| -> Vec<(usize, FieldPath)> {
        match is_common(all, field) && !all.is_empty() {
            true => vec![(0, path.clone())],
            false => (0..all.len())
                .map(|i| (i, path.child("versions").index(i)))
                .collect(),
        }
    };
    let status = all.iter().any(|v| {
        at(v, "subresources")
            .get("status")
            .is_some_and(|s| !s.is_null())
    });
    for (i, at_part) in each("schema") {
        let word = if is_common(all, "schema") {
            "validation"
        } else {
            "schema"
        };
        let Some(schema) = schema(&all[i]) else {
            continue;
        };
        if old.is_some_and(preserves_all) && preserves_all(crd) {
            continue;
        }
        let before = old.map(versions).unwrap_or_default();
        let before = before.iter().find(|v| at(v, "name") == at(&all[i], "name"));
        let options = Options {
            status_subresource: status,
            unlimited_costs: before.and_then(super::schema) == Some(schema),
        };
        let at_schema = at_part.child(word).child("openAPIV3Schema");
        errs.extend(check(schema, &at_schema, options));
    }
    for (i, at_part) in each("subresources") {
        let at_scale = at_part.child("subresources");
        scale(at(at(&all[i], "subresources"), "scale"), &at_scale, errs);
    }
    for (i, at_part) in each("additionalPrinterColumns") {
        for (n, column) in items(&all[i], "additionalPrinterColumns")
            .iter()
            .enumerate()
        {
            let at_column = at_part.child("additionalPrinterColumns").index(n);
            check_column(column, &at_column, errs);
        }
    }
    for (i, at_part) in each("selectableFields") {
        let at_fields = at_part.child("selectableFields");
        selectable(&all[i], &at_fields, errs);
    }
}

fn deprecation(version: &Value, path: &FieldPath, errs: &mut Errors) {
    let Some(warning) = at(version, "deprecationWarning").as_str() else {
        return;
    };
    let path = path.child("deprecationWarning");
    let mut wrong = |why: &str| errs.push(FieldError::invalid_str(&path, warning, why));
    if !flag(version, "deprecated") {
        wrong("can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        wrong("must be <= 256 characters long");
    }
    if warning.is_empty() {
        wrong("must not be an empty string");
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        wrong(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

fn check_names(given: &Value, path: &FieldPath, errs: &mut Errors) {
    let label = |errs: &mut Errors, path: &FieldPath, value: &str| {
        joined(errs, path, value, "", names::is_dns1035_label(value));
    };
    for field in ["plural", "singular"] {
        let value = text(given, field);
        if !value.is_empty() {
            label(errs, &path.child(field), value);
        }
    }
    for field in ["kind", "listKind"] {
        let value = text(given, field);
        if !value.is_empty() {
            let found = names::is_dns1035_label(&value.to_lowercase());
            let before = "may have mixed case, but should otherwise match: ";
            joined(errs, &path.child(field), value, before, found);
        }
    }
    let texts = |field: &str| items(given, field).iter().filter_map(Value::as_str);
    for (i, name) in texts("shortNames").enumerate() {
        label(errs, &path.child("shortNames").index(i), name);
    }
    let (kind, list_kind) = (text(given, "kind"), text(given, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        let why = "kind and listKind may not be the same";
        let path = path.child("listKind");
        errs.push(FieldError::invalid_str(&path, list_kind, why));
    }
    for (i, name) in texts("categories").enumerate() {
        label(errs, &path.child("categories").index(i), name);
    }
}

fn json_path(given: &str, path: &FieldPath, errs: &mut Errors) -> bool {
    let why = match given.chars().next() {
        None => "must not be empty",
        Some('.') => return true,
        Some(_) => "must be a simple json path starting with .",
    };
    errs.push(FieldError::invalid_str(path, given, why));
    false
}

fn scale(scale: &Value, path: &FieldPath, errs: &mut Errors) {
    if !scale.is_object() {
        return;
    }
    let mut one = |field: &str, roots: &[&str], why: &str, required: bool| {
        let path = FieldPath::new(&format!("{path}.scale.{field}"));
        let given = text(scale, field);
        if given.is_empty() {
            if required {
                errs.push(FieldError::required(&path, ""));
            }
        } else if json_path(given, &path, errs) && !roots.iter().any(|r| given.starts_with(r)) {
            errs.push(FieldError::invalid_str(&path, given, why));
        }
    };
    let (spec, status) = (".spec.", ".status.");
    one(
        "specReplicasPath",
        &[spec],
        "should be a json path under .spec",
        true,
    );
    one(
        "statusReplicasPath",
        &[status],
        "should be a json path under .status",
        true,
    );
    let why = "should be a json path under either .spec or .status";
    one("labelSelectorPath", &[spec, status], why, false);
}

fn check_column(column: &Value, path: &FieldPath, errs: &mut Errors) {
    required_text(errs, path, column, "name");
    let ty = text(column, "type");
    let types = format!("must be one of {}", COLUMN_TYPES.join(","));
    if ty.is_empty() {
        errs.push(FieldError::required(&path.child("type"), &types));
    } else if !COLUMN_TYPES.contains(&ty) {
        errs.push(FieldError::invalid_str(&path.child("type"), ty, &types));
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let why = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errs.push(FieldError::invalid_str(&path.child("format"), format, &why));
    }
    let at_path = path.child("JSONPath");
    match text(column, "jsonPath") {
        "" => errs.push(FieldError::required(&at_path, "")),
        given => {
            json_path(given, &at_path, errs);
        }
    }
}

fn selectable(version: &Value, path: &FieldPath, errs: &mut Errors) {
    let fields = items(version, "selectableFields");
    let Some(Ok(node)) = schema(version).map(Structural::read) else {
        return;
    };
    let mut seen = BTreeSet::new();
    for (i, field) in fields.iter().enumerate() {
        let at_path = path.index(i).child("jsonPath");
        let given = text(field, "jsonPath");
        if given.is_empty() {
            errs.push(FieldError::required(&at_path, ""));
            continue;
        }
        let found = match structural::path::find(given, &node) {
            Ok(found) => found,
            Err(why) => {
                let why = format!("is an invalid path: {why}");
                errs.push(FieldError::invalid_str(&at_path, given, &why));
                continue;
            }
        };
        if given == ".metadata" || given.starts_with(".metadata.") {
            let why = "must not point to fields in metadata";
            errs.push(FieldError::invalid_str(&at_path, given, why));
        }
        if !matches!(&*found.ty, "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errs.push(FieldError::invalid_str(&at_path, given, why));
        }
        if !seen.insert(given) {
            errs.push(FieldError::duplicate(&at_path, &given.into()));
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errs.push(FieldError::too_many(path, seen.len(), MAX_SELECTABLE));
    }
}

fn conversion(spec: &Value, before: Option<&Value>, path: &FieldPath, errs: &mut Errors) {
    let conversion = at(spec, "conversion");
    if conversion.is_null() {
        return;
    }
    required_word(errs, path, conversion, "strategy", &["None", "Webhook"]);
    let webhook = at(conversion, "webhook");
    let config = at(webhook, "clientConfig");
    let given = items(webhook, "conversionReviewVersions");
    let (at_config, at_versions) = (
        path.child("webhookClientConfig"),
        path.child("conversionReviewVersions"),
    );
    if text(conversion, "strategy") != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if !is_empty(config) {
            errs.push(FieldError::forbidden(&at_config, why));
        }
        if !given.is_empty() {
            errs.push(FieldError::forbidden(&at_versions, why));
        }
        return;
    }
    if config.is_null() {
        let why = "required when strategy is set to Webhook";
        errs.push(FieldError::required(&at_config, why));
    } else if has(config, "url") == has(config, "service") {
        let why = "exactly one of url or service is required";
        errs.push(FieldError::required(&at_config, why));
    } else if has(config, "url") {
        client_config::check_url(errs, &at_config.child("url"), text(config, "url"));
    } else {
        let at_service = at_config.child("service");
        client_config::check_service(errs, &at_service, at(config, "service"));
    }
    // A definition may come before its webhook has a certificate; one that had a good bundle keeps
    // that.
    let bundle = |conversion: &Value| {
        let config = at(at(conversion, "webhook"), "clientConfig");
        text(config, "caBundle").to_owned()
    };
    let had = before.map(bundle).filter(|b| client_config::is_bundle(b));
    if had.is_some() && !client_config::is_bundle(text(config, "caBundle")) {
        let why = "unable to load root certificates: unable to parse bytes as PEM block";
        let at_bundle = at_config.child("caBundle");
        invalid(errs, &at_bundle, at(config, "caBundle"), why);
    }
    if given.is_empty() {
        errs.push(FieldError::required(&at_versions, ""));
        return;
    }
    let texts: Vec<&str> = given.iter().filter_map(Value::as_str).collect();
    for (i, version) in texts.iter().enumerate() {
        let at_version = at_versions.index(i);
        if texts[..i].contains(version) {
            errs.push(FieldError::invalid_str(
                &at_version,
                version,
                "duplicate version",
            ));
            continue;
        }
        for why in names::is_dns1035_label(version) {
            errs.push(FieldError::invalid_str(&at_version, version, &why));
        }
    }
    if !texts.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        let why = "must include at least one of v1, v1beta1";
        let value = at(webhook, "conversionReviewVersions");
        errs.push(FieldError::invalid(&at_versions, value, why));
    }
}

fn stored_versions(crd: &Value, errs: &mut Errors) {
    let path = FieldPath::new("status").child("storedVersions");
    let value = at(at(crd, "status"), "storedVersions");
    let stored = items(at(crd, "status"), "storedVersions");
    if stored.is_empty() {
        let why = "must have at least one stored version";
        invalid(errs, &path, value, why);
        return;
    }
    for version in versions(crd).iter().filter(|v| flag(v, "storage")) {
        let name = text(version, "name");
        if !stored.iter().any(|s| s == name) {
            let why = format!("must have the storage version {name}");
            invalid(errs, &path, value, &why);
        }
    }
    for (i, name) in stored.iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        if !versions(crd).iter().any(|v| text(v, "name") == name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errs.push(FieldError::invalid_str(&path.index(i), name, &why));
        }
    }
}

/// What the annotation of approval says of a definition in a group of the community.
#[derive(PartialEq, Eq)]
pub(super) enum Approval {
    Missing,
    Invalid,
    Bypassed,
    Approved,
}

/// Whether a group is the community's, whose kinds want approval.
pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|d| group == *d || group.ends_with(&format!(".{d}")))
}

/// The state of approval, and why.
pub(super) fn approval_of(crd: &Value) -> (Approval, String) {
    let given = text(at(at(crd, "metadata"), "annotations"), APPROVED);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if given.is_empty() {
        let why = format!("protected groups must have approval annotation {APPROVED:?}, {see}");
        return (Approval::Missing, why);
    }
    if given.starts_with("unapproved") {
        return (Approval::Bypassed, format!("not approved: {given:?}"));
    }
    let is_url = given.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/')
    });
    if is_url {
        return (Approval::Approved, format!("approved in {given}"));
    }
    let why = format!(
        "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"
    );
    (Approval::Invalid, why)
}

fn approval(crd: &Value, old: Option<&Value>, errs: &mut Errors) {
    if !is_protected(text(at(crd, "spec"), "group")) {
        return;
    }
    let (state, why) = approval_of(crd);
    if old.is_some_and(|old| approval_of(old).0 == state) {
        return;
    }
    let path = FieldPath::new("metadata")
        .child("annotations")
        .key(APPROVED);
    match state {
        Approval::Missing => errs.push(FieldError::required(&path, &why)),
        Approval::Invalid => {
            let given = text(at(at(crd, "metadata"), "annotations"), APPROVED);
            errs.push(FieldError::invalid_str(&path, given, &why));
        }
        _ => {}
    }
}

fn preserving(crd: &Value, old: Option<&Value>, errs: &mut Errors) {
    if preserves_all(crd) && !old.is_some_and(preserves_all) {
        errs.push(FieldError::invalid(
            &FieldPath::new("spec").child("preserveUnknownFields"),
            &true.into(),
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
}
