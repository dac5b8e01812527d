//! What is shown of claims of devices, under upstream's names.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use client::Informer;
use control::{Action, Count, Plan};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;
use metrics::{Counters, Gauges};
use serde_json::Value;

use super::{Alive, operation};
use crate::common::value_of;

/// Marks a claim that the scheduler made for a pod's extended resources.
const EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";
/// Marks a claim that was made of a template.
const TEMPLATE: &str = "resource.kubernetes.io/pod-claim-name";

struct Claims {
    there: Gauges<3>,
    made: Counters<2>,
}

static CLAIMS: LazyLock<Claims> = LazyLock::new(|| Claims {
    there: Gauges::new(
        "resourceclaim_controller_resource_claims",
        "Number of claims of devices, by whether they have them, are an administrator's, and what they were made of",
        ["allocated", "admin_access", "source"],
    ),
    made: Counters::new(
        "resourceclaim_controller_creates_total",
        "Number of claims of devices that were made of templates, or could not be",
        ["status", "admin_access"],
    ),
});

fn word(is_so: bool) -> &'static str {
    if is_so { "true" } else { "false" }
}

/// Whether a claim asks for devices as their administrator. Alternatives cannot.
fn is_administrators(claim: &Value) -> bool {
    let requests = claim.pointer("/spec/devices/requests");
    let mut requests = requests.and_then(Value::as_array).into_iter().flatten();
    requests.any(|r| r.pointer("/exactly/adminAccess") == Some(&Value::Bool(true)))
}

/// What a claim is counted under.
fn labels(claim: &ResourceClaim) -> [&'static str; 3] {
    let status = claim.status.as_ref();
    let has_devices = status.is_some_and(|s| s.allocation.is_some());
    let notes = claim.annotations();
    let source = if notes.get(EXTENDED).is_some_and(|v| v == "true") {
        "extended_resource"
    } else if notes.get(TEMPLATE).is_some_and(|v| !v.is_empty()) {
        "resource_claim_template"
    } else {
        ""
    };
    let administrators = is_administrators(&value_of(claim));
    [word(has_devices), word(administrators), source]
}

/// Shows how many claims there are while the controller lives.
pub fn show(claims: &Informer<ResourceClaim>, alive: &Alive) {
    let claims = claims.clone();
    alive.show(move |lives| {
        let mut counts: BTreeMap<[&str; 3], usize> = BTreeMap::new();
        if lives {
            for claim in claims.list() {
                *counts.entry(labels(&claim)).or_default() += 1;
            }
        }
        CLAIMS.there.clear();
        for (labels, count) in counts {
            CLAIMS.there.set(labels, count as f64);
        }
    });
}

/// Whether each claim that a plan makes is an administrator's.
fn made(plan: &Plan) -> Vec<bool> {
    let writes = plan.all().filter_map(|a| operation(a, "resourceclaims"));
    let made = writes.filter_map(|(_, action)| match action {
        Action::Create { object, .. } => Some(is_administrators(object)),
        _ => None,
    });
    made.collect()
}

/// Counts the claims that a plan makes.
pub fn count_made(plan: &Plan) -> Option<Count> {
    let made = made(plan);
    if made.is_empty() {
        return None;
    }
    Some(Box::new(move |_, well| {
        let status = if well { "success" } else { "failure" };
        for administrators in &made {
            CLAIMS.made.add([status, word(*administrators)]);
        }
    }))
}

#[cfg(test)]
mod tests {
    use control::action::Target;
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_told_apart_by_devices_administrators_and_what_made_them() {
        let plain = || json!({ "name": "r", "exactly": { "deviceClassName": "c" } });
        let says = |admin: bool| {
            let mut request = plain();
            request["exactly"]["adminAccess"] = json!(admin);
            request
        };
        let alternatives = json!({ "name": "r", "firstAvailable": [
            { "name": "s", "deviceClassName": "c" }] });
        let of = |key: &str, value: &str| json!({ key: value });
        let template = "resource_claim_template";
        // Annotations, status, requests; and the labels.
        let rows = [
            (json!({}), json!({}), vec![], ["false", "false", ""]),
            (
                json!({}),
                json!({ "allocation": {} }),
                vec![],
                ["true", "false", ""],
            ),
            (
                json!({}),
                json!({}),
                vec![says(false)],
                ["false", "false", ""],
            ),
            (
                json!({}),
                json!({}),
                vec![says(true)],
                ["false", "true", ""],
            ),
            (
                json!({}),
                json!({}),
                vec![alternatives],
                ["false", "false", ""],
            ),
            (
                json!({}),
                json!({}),
                vec![says(false), says(true)],
                ["false", "true", ""],
            ),
            (
                json!({}),
                json!({}),
                vec![plain(), says(false)],
                ["false", "false", ""],
            ),
            (
                of(TEMPLATE, "x"),
                json!({}),
                vec![plain()],
                ["false", "false", template],
            ),
            (
                of(TEMPLATE, ""),
                json!({}),
                vec![plain()],
                ["false", "false", ""],
            ),
            (
                of(TEMPLATE, "x"),
                json!({ "allocation": {} }),
                vec![says(true)],
                ["true", "true", template],
            ),
            (
                of(EXTENDED, "true"),
                json!({}),
                vec![],
                ["false", "false", "extended_resource"],
            ),
            (
                of(EXTENDED, "false"),
                json!({}),
                vec![],
                ["false", "false", ""],
            ),
        ];
        for (annotations, status, requests, wanted) in rows {
            let claim = json!({ "metadata": { "name": "c", "annotations": annotations },
                "spec": { "devices": { "requests": requests } }, "status": status });
            let typed: ResourceClaim = serde_json::from_value(claim.clone()).expect("a claim");
            assert_eq!(labels(&typed), wanted, "{claim}");
        }
    }

    #[test]
    fn claims_that_are_made_are_counted_each() {
        let make = |admin: bool| {
            let request = json!({ "name": "r", "exactly": { "adminAccess": admin } });
            Action::Create {
                target: Target::of::<ResourceClaim>("n", ""),
                object: json!({ "spec": { "devices": { "requests": [request] } } }),
            }
        };
        let mut plan = Plan::nothing();
        assert!(count_made(&plan).is_none());
        plan.actions = vec![
            make(false),
            Action::delete(Target::of::<ResourceClaim>("n", "c"), None),
        ];
        plan.then.push(make(true));
        assert_eq!(made(&plan), [false, true]);
        assert!(count_made(&plan).is_some());
    }
}
