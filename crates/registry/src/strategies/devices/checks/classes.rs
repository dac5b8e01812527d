//! What a class of devices may say.

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::{MOST_CONFIGS, configuration, each, selectors};
use crate::check::{Errors, at, has, items, text};
use crate::strategies::quantity;

/// What is wrong with a class; `old` before an update.
pub fn device_class(obj: &Value, old: Option<&Value>) -> Errors {
    let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
    selectors(&mut errs, &path, spec);
    let stored = old.is_some_and(|old| at(at(old, "spec"), "config") == at(spec, "config"));
    each(
        &mut errs,
        &path.child("config"),
        items(spec, "config"),
        MOST_CONFIGS,
        |errs, path, config| configuration(errs, path, config, stored),
    );
    let extended = "extendedResourceName";
    let name = text(spec, extended);
    if has(spec, extended) && !quantity::is_extended(name) {
        let why = "must be a valid extended resource name";
        errs.push(FieldError::invalid_str(&path.child(extended), name, why));
    }
    errs
}
