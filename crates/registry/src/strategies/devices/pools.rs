//! Requests for what is known of the pools of a driver's devices, answered in their status.

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use super::checks::{conditions, driver, each, pool};
use crate::check::{
    Errors, IMMUTABLE, at, fill, has, int, invalid, invalid_each, is_empty, items, make, text,
};
use crate::status_writes::{METADATA, no_status};
use crate::strategy::{Context, Strategy};

/// How many pools are reported where the request does not say, and at most.
const USUAL_POOLS: i64 = 100;
const MOST_POOLS: usize = 1000;
const MOST_CONDITIONS: usize = 10;
const LONGEST_ERROR: usize = 256;
/// Numbers of a pool, and the least that each may be.
const COUNTS: [(&str, i64); 5] = [
    ("resourceSliceCount", 1),
    ("totalDevices", 0),
    ("allocatedDevices", 0),
    ("availableDevices", 0),
    ("unavailableDevices", 0),
];

/// The strategy of the kind.
pub struct PoolStatusRequest;

impl Strategy for PoolStatusRequest {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = make(obj, "spec") {
            fill(spec, "limit", USUAL_POOLS);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        no_status(obj);
    }
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        driver(&mut errs, &path.child("driver"), text(spec, "driver"));
        if has(spec, "poolName") {
            pool(&mut errs, &path.child("poolName"), text(spec, "poolName"));
        }
        let most = MOST_POOLS.try_into().unwrap_or(i64::MAX);
        match int(spec, "limit") {
            None => errs.push(FieldError::required(&path.child("limit"), "")),
            Some(n) if n > most => {
                let why = format!("must be less than or equal to {most}");
                invalid(&mut errs, &path.child("limit"), &n.into(), &why);
            }
            Some(_) => at_least(&mut errs, &path, spec, ("limit", 1)),
        }
        errs
    }
    /// The request never changes, so it is not judged again.
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource != "status" {
            if at(obj, "spec") != at(old, "spec") {
                invalid(&mut errs, &FieldPath::new("spec"), &Value::Null, IMMUTABLE);
            }
            return errs;
        }
        let (path, status, was) = (
            FieldPath::new("status"),
            at(obj, "status"),
            at(old, "status"),
        );
        if status == was {
            return errs;
        }
        if !was.is_null() {
            invalid(&mut errs, &path, status, IMMUTABLE);
        }
        if !status.is_null() {
            answer(&mut errs, &path, status);
        }
        errs
    }
}

fn answer(errs: &mut Errors, path: &FieldPath, status: &Value) {
    conditions(errs, path, status, MOST_CONDITIONS);
    if has(status, "poolCount") {
        at_least(errs, path, status, ("poolCount", 0));
    } else {
        errs.push(FieldError::required(&path.child("poolCount"), ""));
    }
    let (path, pools) = (path.child("pools"), items(status, "pools"));
    each(errs, &path, pools, MOST_POOLS, |errs, path, of| {
        driver(errs, &path.child("driver"), text(of, "driver"));
        pool(errs, &path.child("poolName"), text(of, "poolName"));
        match int(of, "generation").unwrap_or(0) {
            0 => errs.push(FieldError::required(&path.child("generation"), "")),
            _ => at_least(errs, path, of, ("generation", 0)),
        }
        for count in COUNTS {
            at_least(errs, path, of, count);
        }
        if has(of, "nodeName") {
            let name = text(of, "nodeName");
            let wrong = names::is_dns1123_subdomain(name);
            invalid_each(errs, &path.child("nodeName"), name, wrong);
        }
        if !is_empty(at(of, "validationError")) && text(of, "validationError").len() > LONGEST_ERROR
        {
            let path = path.child("validationError");
            errs.push(FieldError::too_long(&path, LONGEST_ERROR));
        }
    });
}

fn at_least(errs: &mut Errors, path: &FieldPath, holder: &Value, (field, least): (&str, i64)) {
    if int(holder, field).is_some_and(|n| n < least) {
        let why = format!("must be greater than or equal to {least}");
        invalid(errs, &path.child(field), at(holder, field), &why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(errs: &[FieldError]) -> Vec<String> {
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_names_a_driver() {
        let mut request = json!({ "spec": { "driver": "d.example.com" } });
        PoolStatusRequest.default(&mut request);
        assert_eq!(request["spec"]["limit"], 100);
        let cases: [(&str, Value, &[&str]); 5] = [
            ("poolName", json!("rack/one"), &[]),
            ("driver", json!(""), &["spec.driver: Required value"]),
            ("poolName", json!(""), &["spec.poolName: Required value"]),
            (
                "limit",
                json!(0),
                &["spec.limit: Invalid value: 0: must be greater than or equal to 1"],
            ),
            (
                "limit",
                json!(1001),
                &["spec.limit: Invalid value: 1001: must be less than or equal to 1000"],
            ),
        ];
        for (field, value, want) in cases {
            let mut request = request.clone();
            request["spec"][field] = value;
            let found = PoolStatusRequest.validate(&request, &Context::of_nobody());
            assert_eq!(lines(&found), want);
        }
    }

    #[test]
    fn an_answer_is_given_once() {
        let cx = Context {
            subresource: "status",
            ..Context::of_nobody()
        };
        let with = |status: Value| json!({ "status": status });
        let update = |new: &Value, old: &Value| {
            lines(&PoolStatusRequest.validate_update(&with(new.clone()), &with(old.clone()), &cx))
        };
        let good = || json!({ "poolCount": 1, "pools": [{ "driver": "d", "poolName": "p", "generation": 2 }] });
        assert!(update(&good(), &Value::Null).is_empty());
        assert!(update(&good(), &good()).is_empty());
        let mut other = good();
        other["poolCount"] = json!(2);
        let found = update(&other, &good());
        assert_eq!(found.len(), 1);
        assert!(found[0].ends_with("field is immutable"), "{found:?}");
        let bad = json!({ "pools": [{ "driver": "d", "poolName": "p", "resourceSliceCount": 0 }] });
        assert_eq!(
            update(&bad, &Value::Null),
            [
                "status.poolCount: Required value",
                "status.pools[0].generation: Required value",
                "status.pools[0].resourceSliceCount: Invalid value: 0: must be greater than or equal to 1",
            ]
        );
    }
}
