//! The checks of `metadata` that every kind has, in upstream's order.

use std::collections::HashSet;

use api::names;
use api::{FieldError, FieldPath};
use serde_json::Value;

use crate::check::{
    Errors, at, flag, has, int, invalid, invalid_each, items, labels, qualified_name, text,
};
use crate::row::Row;

/// Annotations may have this many bytes in all, keys included.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// How a kind's names must look: the name, and whether something will be appended to it.
pub type NameRule<'a> = &'a dyn Fn(&str, bool) -> Vec<String>;

/// Checks the metadata of a new object. `namespaced`: whether its kind lives in namespaces.
pub fn validate_object_meta(obj: &Value, namespaced: bool, rule: NameRule<'_>) -> Errors {
    let (mut errs, path, meta) = (
        Errors::new(),
        FieldPath::new("metadata"),
        at(obj, "metadata"),
    );
    let prefix = text(meta, "generateName");
    if !prefix.is_empty() {
        invalid_each(
            &mut errs,
            &path.child("generateName"),
            prefix,
            rule(prefix, true),
        );
    }
    match text(meta, "name") {
        "" => errs.push(FieldError::required(
            &path.child("name"),
            "name or generateName is required",
        )),
        name => invalid_each(&mut errs, &path.child("name"), name, rule(name, false)),
    }
    namespace(&mut errs, &path, meta, namespaced);
    if int(meta, "generation").is_some_and(|g| g < 0) {
        let why = "must be greater than or equal to 0";
        invalid(
            &mut errs,
            &path.child("generation"),
            at(meta, "generation"),
            why,
        );
    }
    common(&mut errs, &path, meta);
    finalizers(&mut errs, &path.child("finalizers"), meta);
    errs
}

fn namespace(errs: &mut Errors, path: &FieldPath, meta: &Value, namespaced: bool) {
    let path = path.child("namespace");
    match (namespaced, text(meta, "namespace")) {
        (true, "") => errs.push(FieldError::required(&path, "")),
        (true, ns) => invalid_each(errs, &path, ns, names::is_dns1123_label(ns)),
        (false, "") => {}
        (false, _) => errs.push(FieldError::forbidden(&path, "not allowed on this type")),
    }
}

/// Checks the metadata of a changed object against what it was.
pub fn validate_object_meta_update(obj: &Value, old: &Value) -> Errors {
    let (mut errs, path) = (Errors::new(), FieldPath::new("metadata"));
    let (new, old) = (at(obj, "metadata"), at(old, "metadata"));
    if has(old, "deletionTimestamp") {
        no_new_finalizers(&mut errs, &path, new, old);
    }
    if text(new, "resourceVersion").is_empty() {
        let path = path.child("resourceVersion");
        errs.push(FieldError::invalid_str(
            &path,
            "",
            "must be specified for an update",
        ));
    }
    let generation = |m| int(m, "generation").unwrap_or(0);
    if generation(new) < generation(old) {
        let n = generation(new).into();
        invalid(
            &mut errs,
            &path.child("generation"),
            &n,
            "must not be decremented",
        );
    }
    let fixed = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for field in fixed {
        crate::check::immutable(&mut errs, &path, new, old, field);
    }
    common(&mut errs, &path, new);
    finalizers(&mut errs, &path.child("finalizers"), new);
    errs
}

/// Groups of Kubernetes' own whose finalizers may have any name, as upstream's.
const FREE_FINALIZERS: [&str; 6] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "policy",
];

/// Checks the names of an object's finalizers: those of most built-in kinds are Kubernetes' own or
/// have the domain of whoever sets them before them.
pub fn validate_finalizer_names(row: &Row, obj: &Value) -> Errors {
    let mut errs = Errors::new();
    if row.strategy.is_custom() || FREE_FINALIZERS.contains(&&*row.group) {
        return errs;
    }
    let path = FieldPath::new("metadata").child("finalizers");
    for (i, name) in items(at(obj, "metadata"), "finalizers").iter().enumerate() {
        let name = name.as_str().unwrap_or("");
        let standard = ["foregroundDeletion", "kubernetes", "orphan"].contains(&name);
        if !standard && !name.contains('/') {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errs.push(FieldError::invalid_str(&path.index(i), name, why));
        }
    }
    errs
}

fn no_new_finalizers(errs: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    let old: HashSet<&Value> = items(old, "finalizers").iter().collect();
    let mut extra: Vec<&str> = items(new, "finalizers")
        .iter()
        .filter(|f| !old.contains(f))
        .filter_map(Value::as_str)
        .collect();
    extra.sort_unstable();
    extra.dedup();
    if !extra.is_empty() {
        let list: Vec<String> = extra.iter().map(|f| format!("{f:?}")).collect();
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            list.join(", ")
        );
        errs.push(FieldError::forbidden(&path.child("finalizers"), &why));
    }
}

/// Labels, annotations, owners, managed fields.
fn common(errs: &mut Errors, path: &FieldPath, meta: &Value) {
    labels(errs, &path.child("labels"), at(meta, "labels"));
    validate_annotations(errs, &path.child("annotations"), at(meta, "annotations"));
    owners(errs, &path.child("ownerReferences"), meta);
    managers(errs, &path.child("managedFields"), meta);
}

/// Names (in any case) and the total size of annotations.
pub fn validate_annotations(errs: &mut Errors, path: &FieldPath, map: &Value) {
    let mut bytes = 0;
    for (k, v) in map.as_object().into_iter().flatten() {
        bytes += k.len() + v.as_str().map_or(0, str::len);
        invalid_each(errs, path, k, names::is_qualified_name(&k.to_lowercase()));
    }
    if bytes > MAX_ANNOTATION_BYTES {
        errs.push(FieldError::too_long(path, MAX_ANNOTATION_BYTES));
    }
}

fn owners(errs: &mut Errors, path: &FieldPath, meta: &Value) {
    let all = items(meta, "ownerReferences");
    let (mut controller, mut several): (Option<String>, bool) = (None, false);
    for owner in all {
        let version = text(owner, "apiVersion");
        if version.is_empty() || version.ends_with('/') {
            let path = path.child("apiVersion");
            errs.push(FieldError::invalid_str(
                &path,
                version,
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errs.push(FieldError::invalid_str(
                    &path.child(field),
                    "",
                    "must not be empty",
                ));
            }
        }
        if version == "v1" && text(owner, "kind") == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            invalid(errs, path, owner, why);
        }
        if flag(owner, "controller") {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            match &controller {
                None => controller = Some(this),
                // Said once, as it shows all of them.
                Some(_) if several => {}
                Some(first) => {
                    several = true;
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    invalid(errs, path, at(meta, "ownerReferences"), &why);
                }
            }
        }
    }
}

fn managers(errs: &mut Errors, path: &FieldPath, meta: &Value) {
    for (i, m) in items(meta, "managedFields").iter().enumerate() {
        let path = path.index(i);
        let operation = text(m, "operation");
        if !["Apply", "Update"].contains(&operation) {
            let why = "must be `Apply` or `Update`";
            errs.push(FieldError::invalid_str(
                &path.child("operation"),
                operation,
                why,
            ));
        }
        let ty = text(m, "fieldsType");
        if !ty.is_empty() && ty != "FieldsV1" {
            let why = "must be `FieldsV1`";
            errs.push(FieldError::invalid_str(&path.child("fieldsType"), ty, why));
        }
        if text(m, "manager").len() > 128 {
            errs.push(FieldError::too_long(&path.child("manager"), 128));
        }
    }
}

fn finalizers(errs: &mut Errors, path: &FieldPath, meta: &Value) {
    let all = items(meta, "finalizers");
    for f in all {
        qualified_name(errs, path, f.as_str().unwrap_or(""));
    }
    let set = |name: &str| all.iter().any(|f| f.as_str() == Some(name));
    if set("orphan") && set("foregroundDeletion") {
        let why = "finalizer foregroundDeletion and orphan cannot be both set";
        invalid(errs, path, at(meta, "finalizers"), why);
    }
}

/// The rule of most names: a DNS subdomain; a prefix may end in a dash.
pub fn name_is_subdomain(name: &str, prefix: bool) -> Vec<String> {
    names::is_dns1123_subdomain(&masked(name, prefix))
}

/// The rule of namespaces: a DNS label.
pub fn name_is_label(name: &str, prefix: bool) -> Vec<String> {
    names::is_dns1123_label(&masked(name, prefix))
}

/// The rule of RBAC kinds: what may stand in a path.
pub fn name_is_path_segment(name: &str, prefix: bool) -> Vec<String> {
    let wrong = names::is_path_segment_name(name);
    // What follows a prefix makes `.` and `..` harmless.
    if prefix && (name == "." || name == "..") {
        Vec::new()
    } else {
        wrong
    }
}

/// A prefix that ends in a dash is judged as if a letter followed.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => {
            let mut chars = rest.chars();
            chars.next_back();
            format!("{}a", chars.as_str())
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finalizers_of_built_in_kinds_have_a_domain() {
        let with = |name: &str| json!({ "metadata": { "finalizers": ["example.com/a", name] } });
        let wrong = |group: &str, resource: &str, name: &str| {
            let row = crate::kinds().resource(group, resource).expect("a row");
            let found = validate_finalizer_names(row, &with(name));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let why = "metadata.finalizers[1]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified";
        assert_eq!(wrong("", "pods", "mine"), [why]);
        assert_eq!(wrong("apps", "deployments", "mine"), [why]);
        for standard in [
            "foregroundDeletion",
            "kubernetes",
            "orphan",
            "example.com/b",
        ] {
            assert!(wrong("", "pods", standard).is_empty(), "{standard}");
        }
        let cleanup = "customresourcecleanup.apiextensions.k8s.io";
        let definitions = wrong("apiextensions.k8s.io", "customresourcedefinitions", cleanup);
        assert!(definitions.is_empty(), "{definitions:?}");
        assert!(wrong("policy", "poddisruptionbudgets", "mine").is_empty());
    }

    #[test]
    fn finalizers_are_checked_when_they_change() {
        let of = |finalizers: Value| json!({ "metadata": { "name": "a", "resourceVersion": "1", "finalizers": finalizers } });
        let wrong = |new: Value| {
            let found = validate_object_meta_update(&of(new), &of(json!([])));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(wrong(json!(["example.com/a"])), Vec::<String>::new());
        assert!(
            wrong(json!(["a b"]))[0].starts_with("metadata.finalizers: Invalid value: \"a b\"")
        );
        assert!(wrong(json!(["orphan", "foregroundDeletion"]))[0].contains("cannot be both set"));
    }
}
