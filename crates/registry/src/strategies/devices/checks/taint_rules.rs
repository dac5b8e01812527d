//! What a taint of devices may say that is set from outside of their driver.

use api::FieldPath;
use serde_json::Value;

use super::{device_name, driver, pool, taint};
use crate::check::{Errors, at, deep, has, text};

/// What is wrong with such a taint; `old` before an update.
pub fn taint_rule(obj: &Value, old: Option<&Value>) -> Errors {
    let (mut errs, path) = (Errors::new(), FieldPath::new("spec"));
    let (spec, selector) = (at(obj, "spec"), path.child("deviceSelector"));
    let which = at(spec, "deviceSelector");
    if has(which, "driver") {
        driver(&mut errs, &selector.child("driver"), text(which, "driver"));
    }
    if has(which, "pool") {
        pool(&mut errs, &selector.child("pool"), text(which, "pool"));
    }
    if has(which, "device") {
        device_name(&mut errs, &selector, which, "device");
    }
    let old = old.map(|old| deep(old, "/spec/taint"));
    taint(&mut errs, &path.child("taint"), at(spec, "taint"), old);
    errs
}
