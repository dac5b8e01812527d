//! Leases: who leads, and who could.

use api::{FieldError, FieldPath, names};
use semver::Version;
use serde_json::Value;

use crate::check::{
    Errors, at, has, immutable, int, invalid_each, not_negative, one_of, positive, required_text,
    text,
};
use crate::strategy::{Claim, Context, Strategy};

/// The strategy of leases.
pub struct Lease;

/// Leases in which nodes show that they live; nobody is elected by them.
const NODE_LEASES: &str = "kube-node-lease";

/// By which the candidate of the oldest version leads.
const OLDEST: &str = "OldestEmulationVersion";

impl Strategy for Lease {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        positive(&mut errs, &path, spec, "leaseDurationSeconds");
        not_negative(&mut errs, &path, spec, "leaseTransitions");
        if has(spec, "strategy") {
            strategy(&mut errs, &path, text(spec, "strategy"));
        }
        if !text(spec, "preferredHolder").is_empty() && text(spec, "strategy").is_empty() {
            let why = "may only be specified if `strategy` is defined";
            errs.push(FieldError::forbidden(&path.child("preferredHolder"), why));
        }
        errs
    }
    fn claims(&self, obj: &Value, _old: Option<&Value>) -> Vec<Claim> {
        let (meta, spec) = (at(obj, "metadata"), at(obj, "spec"));
        if text(meta, "namespace") == NODE_LEASES {
            return Vec::new();
        }
        vec![Claim::Leadership {
            holder: text(spec, "holderIdentity").to_owned(),
            transitions: int(spec, "leaseTransitions").unwrap_or(0),
        }]
    }
}

/// How a leader is chosen: by a strategy of Kubernetes, or by one of a domain. Upstream's path has the
/// field twice.
fn strategy(errs: &mut Errors, spec: &FieldPath, value: &str) {
    let path = spec.child("strategy").child("strategy");
    if value.contains('/') {
        invalid_each(errs, &path, value, names::is_qualified_name(value));
    } else {
        one_of(errs, &path, value, &[OLDEST]);
    }
}

/// The strategy of those who could lead.
pub struct LeaseCandidate;

impl Strategy for LeaseCandidate {
    fn validate_name(&self, name: &str, _generate: bool) -> Vec<String> {
        names::is_config_map_key(name)
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        required_text(&mut errs, &path, spec, "leaseName");
        let emulated = version(&mut errs, &path, spec, "emulationVersion");
        required_text(&mut errs, &path, spec, "binaryVersion");
        let binary = version(&mut errs, &path, spec, "binaryVersion");
        let given = |field: &str| !text(spec, field).is_empty();
        // What cannot be read counts as the least version.
        let least = || Version::new(0, 0, 0);
        let (binary, emulated) = (binary.unwrap_or_else(least), emulated.unwrap_or_else(least));
        if given("binaryVersion")
            && given("emulationVersion")
            && binary.cmp_precedence(&emulated).is_lt()
        {
            let why = "must be greater than or equal to `emulationVersion`";
            let value = text(spec, "binaryVersion");
            let path = path.child("binaryVersion");
            errs.push(FieldError::invalid_str(&path, value, why));
        }
        if required_text(&mut errs, &path, spec, "strategy") {
            let chosen = text(spec, "strategy");
            if chosen == OLDEST && emulated == least() {
                let why = "must be specified when `strategy` is 'OldestEmulationVersion'";
                errs.push(FieldError::required(&path.child("emulationVersion"), why));
            }
            strategy(&mut errs, &path, chosen);
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), FieldPath::new("spec"));
        let (spec, was) = (at(obj, "spec"), at(old, "spec"));
        immutable(&mut errs, &path, spec, was, "leaseName");
        errs
    }
}

/// A version, if there is one that can be read.
fn version(errs: &mut Errors, path: &FieldPath, spec: &Value, field: &str) -> Option<Version> {
    let value = text(spec, field);
    let read = Version::parse(value).ok();
    if read.is_none() && !value.is_empty() {
        let why = "must be a valid semantic version";
        errs.push(FieldError::invalid_str(&path.child(field), value, why));
    }
    read
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(strategy: &dyn Strategy, spec: Value) -> Vec<String> {
        let found = strategy.validate(&json!({ "spec": spec }), &Context::of_nobody());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_lease_is_held_for_some_time() {
        let cases: [(Value, &[&str]); 5] = [
            (
                json!({ "leaseDurationSeconds": 1, "leaseTransitions": 0 }),
                &[],
            ),
            (
                json!({ "leaseDurationSeconds": 0, "leaseTransitions": -1 }),
                &[
                    "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                    "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                json!({ "strategy": "example.com/mine", "preferredHolder": "a" }),
                &[],
            ),
            (
                json!({ "strategy": "Mine" }),
                &[
                    "spec.strategy.strategy: Unsupported value: \"Mine\": supported values: \"OldestEmulationVersion\"",
                ],
            ),
            (
                json!({ "preferredHolder": "a" }),
                &[
                    "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
                ],
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(wrong(&Lease, spec), want);
        }
    }

    #[test]
    fn a_candidate_has_versions_and_a_strategy() {
        let good = || json!({ "leaseName": "l", "binaryVersion": "1.36.0", "emulationVersion": "1.35.0", "strategy": OLDEST });
        let with = |field: &str, value: &str| {
            let mut spec = good();
            spec[field] = value.into();
            wrong(&LeaseCandidate, spec)
        };
        assert_eq!(wrong(&LeaseCandidate, good()), Vec::<String>::new());
        assert_eq!(with("leaseName", ""), ["spec.leaseName: Required value"]);
        assert_eq!(
            with("binaryVersion", "1.36"),
            [
                "spec.binaryVersion: Invalid value: \"1.36\": must be a valid semantic version",
                "spec.binaryVersion: Invalid value: \"1.36\": must be greater than or equal to `emulationVersion`",
            ]
        );
        assert_eq!(
            with("binaryVersion", "1.34.0"),
            [
                "spec.binaryVersion: Invalid value: \"1.34.0\": must be greater than or equal to `emulationVersion`"
            ]
        );
        assert_eq!(
            with("emulationVersion", ""),
            [
                "spec.emulationVersion: Required value: must be specified when `strategy` is 'OldestEmulationVersion'"
            ]
        );
        assert_eq!(with("strategy", "example.com/s"), Vec::<String>::new());
        let moved = json!({ "spec": { "leaseName": "m" } });
        let found = LeaseCandidate.validate_update(
            &moved,
            &json!({ "spec": good() }),
            &Context::of_nobody(),
        );
        assert_eq!(found.len(), 1);
        assert!(!LeaseCandidate.validate_name("a/b", false).is_empty());
    }
}
