//! What may be written into the status of a pod, mostly by its kubelet.

use std::collections::{HashMap, HashSet, VecDeque};

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::parts::by_name;
use crate::check::{Errors, at, dns_subdomain, has, int, invalid, items, items_mut, set, text};
use crate::strategies::containers;

/// Checks a write of the status.
pub fn update(obj: &Value, old: &Value) -> Errors {
    let (mut errs, path) = (Errors::new(), FieldPath::new("status"));
    let (new, was) = (at(obj, "status"), at(old, "status"));
    if text(at(obj, "spec"), "nodeName") != text(at(old, "spec"), "nodeName") {
        let path = FieldPath::new("status").child("nodeName");
        errs.push(FieldError::forbidden(&path, "may not be changed directly"));
    }
    let (spec, nominated) = (at(old, "spec"), text(new, "nominatedNodeName"));
    if !nominated.is_empty() && nominated != text(was, "nominatedNodeName") {
        let path = path.child("nominatedNodeName");
        dns_subdomain(&mut errs, &path, nominated);
        if !text(spec, "nodeName").is_empty() {
            let why = "may not be set on pods that are already bound to a node";
            errs.push(FieldError::forbidden(&path, why));
        }
    }
    generation(&mut errs, &path, new);
    for (i, condition) in items(new, "conditions").iter().enumerate() {
        generation(&mut errs, &path.child("conditions").index(i), condition);
    }
    claims(&mut errs, &path.child("resourceClaimStatuses"), new, spec);
    if !containers::all_may_restart(spec) {
        for (field, list) in [
            ("containerStatuses", "containers"),
            ("initContainerStatuses", "initContainers"),
        ] {
            restarts(&mut errs, &path.child(field), spec, list, (new, was), field);
        }
    }
    for field in ["podIPs", "hostIPs"] {
        for (i, ip) in items(new, field).iter().enumerate() {
            crate::check::ip(&mut errs, &path.child(field).index(i), text(ip, "ip"));
        }
    }
    errs
}

const GENERATION: &str = "observedGeneration";

fn generation(errs: &mut Errors, path: &FieldPath, holder: &Value) {
    if int(holder, GENERATION).is_some_and(|n| n < 0) {
        let why = "must be a non-negative integer";
        invalid(errs, &path.child(GENERATION), at(holder, GENERATION), why);
    }
}

/// What generation was seen stays known when somebody writes the status who does not know the field:
/// of the whole, and of each condition.
pub fn keep_generations(status: &mut Value, was: &Value) {
    fn keep(new: &mut Value, old: &Value) {
        let before = int(old, GENERATION).unwrap_or(0);
        if before != 0 && int(new, GENERATION).unwrap_or(0) == 0 {
            set(new, GENERATION, before);
        }
    }
    keep(status, was);
    // A type may be there several times: then in order.
    let mut known: HashMap<&str, VecDeque<&Value>> = HashMap::new();
    for condition in items(was, "conditions") {
        let of_type = known.entry(text(condition, "type")).or_default();
        of_type.push_back(condition);
    }
    for condition in items_mut(status, "conditions") {
        let before = known.get_mut(text(condition, "type"));
        if let Some(before) = before.and_then(VecDeque::pop_front) {
            keep(condition, before);
        }
    }
}

/// Which claims were made for those that the pod names.
fn claims(errs: &mut Errors, path: &FieldPath, status: &Value, spec: &Value) {
    let of_pod = by_name(items(spec, "resourceClaims"));
    let mut seen = HashSet::new();
    for (i, claim) in items(status, "resourceClaimStatuses").iter().enumerate() {
        let (path, name) = (path.index(i), text(claim, "name"));
        if !of_pod.contains_key(name) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errs.push(FieldError::invalid_str(&path.child("name"), name, why));
        }
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(&path.child("name"), &name.into()));
        }
        if has(claim, "resourceClaimName") {
            let made = text(claim, "resourceClaimName");
            dns_subdomain(errs, &path.child("resourceClaimName"), made);
        }
    }
}

/// A container that has ended for good stays so.
fn restarts(
    errs: &mut Errors,
    path: &FieldPath,
    spec: &Value,
    list: &str,
    (new, old): (&Value, &Value),
    field: &str,
) {
    let (new, of_spec) = (by_name(items(new, field)), by_name(items(spec, list)));
    for (i, was) in items(old, field).iter().enumerate() {
        let name = text(was, "name");
        let ended = |s: &Value| has(at(s, "state"), "terminated");
        if !ended(was) || new.get(name).is_none_or(|now| ended(now)) {
            continue;
        }
        let code = at(at(at(was, "state"), "terminated"), "exitCode");
        let code = code.as_i64().unwrap_or(0);
        let container = of_spec.get(name);
        if !container.is_some_and(|c| containers::may_restart(spec, c, code)) {
            let why = "may not be transitioned to non-terminated state";
            errs.push(FieldError::forbidden(&path.index(i).child("state"), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_status_says_of_nodes_generations_and_claims_is_checked() {
        let spec = json!({ "nodeName": "a", "resourceClaims": [{ "name": "gpu" }] });
        let of = |status: Value| json!({ "spec": spec, "status": status });
        let said = |new: Value, old: Value| {
            let errs = update(&of(new), &of(old));
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let nominated = json!({ "nominatedNodeName": "b" });
        assert_eq!(
            said(nominated.clone(), json!({})),
            [
                "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"
            ]
        );
        // What was there when it was bound may stay until somebody takes it away.
        assert!(said(nominated.clone(), nominated).is_empty());
        let negative = json!({ "observedGeneration": -1,
            "conditions": [{ "type": "Ready", "observedGeneration": -2 }] });
        assert_eq!(
            said(negative, json!({})),
            [
                "status.observedGeneration: Invalid value: -1: must be a non-negative integer",
                "status.conditions[0].observedGeneration: Invalid value: -2: must be a non-negative integer",
            ]
        );
        let claim = |name: &str| json!({ "name": name, "resourceClaimName": "p-gpu-1" });
        let made = json!({ "resourceClaimStatuses": [claim("gpu")] });
        assert!(said(made, json!({})).is_empty());
        let others = json!({ "resourceClaimStatuses": [claim("gpu"), claim("gpu"), claim("x")] });
        assert_eq!(
            said(others, json!({})),
            [
                "status.resourceClaimStatuses[1].name: Duplicate value: \"gpu\"",
                "status.resourceClaimStatuses[2].name: Invalid value: \"x\": must match the name of an entry in `spec.resourceClaims`",
            ]
        );
    }

    #[test]
    fn a_generation_that_was_seen_is_not_forgotten() {
        let was = json!({ "observedGeneration": 3, "conditions": [
            { "type": "Ready", "observedGeneration": 2 }, { "type": "Other" } ] });
        let mut new = json!({ "conditions": [
            { "type": "Other" }, { "type": "Ready", "status": "True" }, { "type": "Ready" } ] });
        keep_generations(&mut new, &was);
        assert_eq!(
            new,
            json!({ "observedGeneration": 3, "conditions": [
                { "type": "Other" }, { "type": "Ready", "status": "True", "observedGeneration": 2 },
                { "type": "Ready" } ] })
        );
        let mut newer = json!({ "observedGeneration": 4 });
        keep_generations(&mut newer, &was);
        assert_eq!(newer, json!({ "observedGeneration": 4 }));
    }
}
