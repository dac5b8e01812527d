//! The status of a CustomResourceDefinition: which of its names are free, whether its schemas are
//! structural, whether it is served. A pure function of the definition and the others; the caller
//! it writes the status.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath};
use serde_json::{Value, json};
use structural::check::structural_problems;

use super::check::{Approval, approval_of, is_protected};
use super::facts::Facts;
use super::{definition, schema, versions};
use crate::check::{at, items, text};
use crate::row::Row;

/// Names of one group that are taken.
#[derive(Default)]
pub struct AcceptedNames {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl AcceptedNames {
    /// The accepted names of all definitions of a group, except one.
    pub fn of<'c>(group: &str, except: &str, all: impl IntoIterator<Item = &'c Facts>) -> Self {
        let mut taken = Self::default();
        for facts in all {
            if facts.group == group && facts.name != except {
                taken.add(&facts.accepted);
            }
        }
        taken
    }

    /// Takes the names of a kind that is built in.
    pub fn add_row(&mut self, row: &Row) {
        let resources = [&row.resource, &row.singular];
        let resources = resources.into_iter().chain(&row.short_names);
        self.resources.extend(resources.map(|n| n.to_string()));
        let kinds = [&row.kind, &row.list_kind];
        self.kinds.extend(kinds.map(|n| n.to_string()));
    }

    /// Takes accepted names.
    fn add(&mut self, names: &Value) {
        let put = |set: &mut BTreeSet<String>, name: &str| {
            if !name.is_empty() {
                set.insert(name.to_owned());
            }
        };
        for field in ["plural", "singular"] {
            put(&mut self.resources, text(names, field));
        }
        for name in items(names, "shortNames").iter().filter_map(Value::as_str) {
            put(&mut self.resources, name);
        }
        for field in ["kind", "listKind"] {
            put(&mut self.kinds, text(names, field));
        }
    }
}

/// The status that a definition should have; none when it has it. `now` is written to conditions
/// that change, as RFC 3339.
pub fn decide(crd: &Value, taken: &AcceptedNames, now: &str) -> Option<Value> {
    let mut status = at(crd, "status").clone();
    if !status.is_object() {
        status = json!({});
    }
    let accepted = names(crd, taken, &mut status, now);
    establish(crd, accepted, &mut status, now);
    structure(crd, &mut status, now);
    if definition::is_terminating(crd) {
        let (reason, message) = (
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        );
        condition(&mut status, "Terminating", "True", reason, message, now);
    }
    conformance(crd, &mut status, now);
    (status != *at(crd, "status")).then_some(status)
}

fn names(crd: &Value, taken: &AcceptedNames, status: &mut Value, now: &str) -> bool {
    let wanted = at(at(crd, "spec"), "names");
    let have = at(status, "acceptedNames").clone();
    let mut next = have.clone();
    if !next.is_object() {
        next = json!({});
    }
    let mut conflict = None;
    let free = |name: &str, mine: &str, set: &BTreeSet<String>| name == mine || !set.contains(name);
    for (field, set, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let given = at(wanted, field);
        let used: Vec<&str> = match given {
            Value::Array(all) => {
                let mine = items(&have, field);
                let new = all.iter().filter(|n| !mine.contains(n));
                let new = new.filter_map(Value::as_str);
                new.filter(|n| !free(n, "", set)).collect()
            }
            Value::String(name) if !free(name, text(&have, field), set) => vec![name],
            _ => Vec::new(),
        };
        let messages: Vec<String> = used
            .iter()
            .map(|n| format!("{n:?} is already in use"))
            .collect();
        match &messages[..] {
            [] => put(&mut next, field, given),
            [one] => conflict = Some((reason, one.clone())),
            many => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    put(&mut next, "categories", at(wanted, "categories"));
    status["acceptedNames"] = next;
    let accepted = conflict.is_none();
    let (reason, message) =
        conflict.unwrap_or_else(|| ("NoConflicts", "no conflicts found".to_owned()));
    condition(
        status,
        "NamesAccepted",
        truth(accepted),
        reason,
        &message,
        now,
    );
    accepted
}

fn put(names: &mut Value, field: &str, value: &Value) {
    if value.is_null() {
        if let Some(map) = names.as_object_mut() {
            map.remove(field);
        }
    } else {
        names[field] = value.clone();
    }
}

fn truth(is: bool) -> &'static str {
    if is { "True" } else { "False" }
}

/// A definition is served from when its names were accepted first, and then for ever.
fn establish(crd: &Value, accepted: bool, status: &mut Value, now: &str) {
    if definition::is_established(crd) {
        return;
    }
    let (state, reason, message) = if accepted {
        (
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        )
    } else {
        ("False", "NotAccepted", "not all names are accepted")
    };
    condition(status, "Established", state, reason, message, now);
}

/// Says what keeps schemas from being structural, where something does.
fn structure(crd: &Value, status: &mut Value, now: &str) {
    let mut errors: Vec<FieldError> = Vec::new();
    if definition::preserves_all(crd) {
        let path = FieldPath::new("spec").child("preserveUnknownFields");
        errors.push(FieldError::invalid(&path, &true.into(), "must be false"));
    }
    for (i, version) in versions(crd).iter().enumerate() {
        if let Some(schema) = schema(version) {
            let path = FieldPath::new("spec").child("versions").index(i);
            let path = path.child("schema").child("openAPIV3Schema");
            errors.extend(structural_problems(schema, &path));
        }
    }
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match &lines[..] {
        [] => remove(status, "NonStructuralSchema"),
        [one] => condition(
            status,
            "NonStructuralSchema",
            "True",
            "Violations",
            one,
            now,
        ),
        many => {
            let all = format!("[{}]", many.join(", "));
            condition(
                status,
                "NonStructuralSchema",
                "True",
                "Violations",
                &all,
                now,
            );
        }
    }
}

fn conformance(crd: &Value, status: &mut Value, now: &str) {
    let ty = "KubernetesAPIApprovalPolicyConformant";
    if !is_protected(text(at(crd, "spec"), "group")) {
        return;
    }
    let (state, why) = approval_of(crd);
    let (is, reason) = match state {
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
    };
    condition(status, ty, is, reason, &why, now);
}

fn remove(status: &mut Value, ty: &str) {
    if let Some(all) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        all.retain(|c| text(c, "type") != ty);
    }
}

/// Sets a condition; its time changes with its status.
fn condition(status: &mut Value, ty: &str, is: &str, reason: &str, message: &str, now: &str) {
    if !at(status, "conditions").is_array() {
        status["conditions"] = json!([]);
    }
    let Some(all) = status.get_mut("conditions").and_then(Value::as_array_mut) else {
        return;
    };
    let found = all.iter_mut().find(|c| text(c, "type") == ty);
    let since = match &found {
        Some(c) if text(c, "status") == is => text(c, "lastTransitionTime").to_owned(),
        _ => now.to_owned(),
    };
    let next = json!({
        "type": ty, "status": is, "reason": reason, "message": message,
        "lastTransitionTime": since,
    });
    match found {
        Some(c) => {
            let generation = at(c, "observedGeneration").clone();
            *c = next;
            if !generation.is_null() {
                c["observedGeneration"] = generation;
            }
        }
        None => all.push(next),
    }
}
