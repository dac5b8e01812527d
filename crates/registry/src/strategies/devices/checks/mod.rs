//! What claims, classes, slices and taints of devices have in common: names, lists with a bound,
//! selectors, configurations, taints. What is wrong with each of them has a file below.

pub mod claims;
pub mod classes;
pub mod slices;
pub mod status;
pub mod taint_rules;

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use crate::check::{Errors, at, dns_label, has, invalid_each, items, one_of, qualified_name, text};
use crate::strategies::conditions;

/// Requests of a claim, and results of its allocation.
pub const MOST_REQUESTS: usize = 32;
pub const MOST_CONFIGS: usize = 32;
const MOST_SELECTORS: usize = 32;
const LONGEST_PARAMETERS: usize = 10 * 1024;
const LONGEST_POOL: usize = 253;
const LONGEST_DRIVER: usize = 63;
const LONGEST_ID: usize = 32;
const MOST_BINDING_CONDITIONS: usize = 4;
const TAINT_EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// The items of a list of at most so many; of a longer one none is looked at. Whether they were.
pub fn each(
    errs: &mut Errors,
    path: &FieldPath,
    list: &[Value],
    most: usize,
    mut check: impl FnMut(&mut Errors, &FieldPath, &Value),
) -> bool {
    if list.len() > most {
        errs.push(FieldError::too_many(path, list.len(), most));
        return false;
    }
    for (i, item) in list.iter().enumerate() {
        check(errs, &path.index(i), item);
    }
    true
}

/// The same of a list in which no key comes twice.
pub fn each_once(
    errs: &mut Errors,
    path: &FieldPath,
    list: &[Value],
    most: usize,
    key: impl Fn(&Value) -> Value,
    check: impl FnMut(&mut Errors, &FieldPath, &Value),
) {
    if !each(errs, path, list, most, check) {
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, item) in list.iter().enumerate() {
        let key = key(item);
        if !seen.insert(key.to_string()) {
            errs.push(FieldError::duplicate(&path.index(i), &key));
        }
    }
}

/// The name of an item, as its key.
pub fn name_of(item: &Value) -> Value {
    text(item, "name").into()
}

/// A name of a driver, as a text.
pub fn driver(errs: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > LONGEST_DRIVER {
        errs.push(FieldError::too_long(path, LONGEST_DRIVER));
    }
    let wrong = names::is_dns1123_subdomain(&name.to_lowercase());
    invalid_each(errs, path, name, wrong);
}

/// The name of a pool: parts of names of hosts with slashes between.
pub fn pool(errs: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > LONGEST_POOL {
        errs.push(FieldError::too_long(path, LONGEST_POOL));
    }
    for part in name.split('/') {
        invalid_each(errs, path, part, names::is_dns1123_subdomain(part));
    }
}

/// The id of a share of a device.
pub fn share_id(errs: &mut Errors, path: &FieldPath, holder: &Value) {
    if !has(holder, "shareID") {
        return;
    }
    let (path, id) = (path.child("shareID"), text(holder, "shareID"));
    let plain = |(i, b): (usize, u8)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
    };
    if id.len() != 36 || !id.bytes().enumerate().all(plain) {
        let why = "uid must be in RFC 4122 normalized form, \
                   `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errs.push(FieldError::invalid_str(&path, id, why));
    }
}

/// Selectors of devices.
pub fn selectors(errs: &mut Errors, path: &FieldPath, holder: &Value) {
    let path = path.child("selectors");
    each(
        errs,
        &path,
        items(holder, "selectors"),
        MOST_SELECTORS,
        |errs, path, s| {
            let path = path.child("cel");
            if has(s, "cel") {
                selector(
                    errs,
                    &path.child("expression"),
                    text(at(s, "cel"), "expression"),
                );
            } else {
                errs.push(FieldError::required(&path, ""));
            }
        },
    );
}

fn selector(errs: &mut Errors, path: &FieldPath, expression: &str) {
    if expression.len() > cel::device::LONGEST {
        errs.push(FieldError::too_long(path, cel::device::LONGEST));
        return;
    }
    match cel::device::compile(expression) {
        Err(why) => errs.push(FieldError::invalid_str(path, expression, &why)),
        Ok(program) if cel::device::is_too_complex(&program) => {
            let why = "too complex, exceeds cost limit";
            errs.push(FieldError::forbidden(path, why));
        }
        Ok(_) => {}
    }
}

/// What a driver gets with a device. `stored`: it was there before the limit of its size.
pub fn configuration(errs: &mut Errors, path: &FieldPath, config: &Value, stored: bool) {
    let path = path.child("opaque");
    let opaque = at(config, "opaque");
    if opaque.is_null() {
        errs.push(FieldError::required(&path, ""));
        return;
    }
    driver(errs, &path.child("driver"), text(opaque, "driver"));
    let most = if stored {
        usize::MAX
    } else {
        LONGEST_PARAMETERS
    };
    raw_object(
        errs,
        &path.child("parameters"),
        at(opaque, "parameters"),
        most,
    );
}

/// An object that is not looked into.
pub fn raw_object(errs: &mut Errors, path: &FieldPath, value: &Value, most_bytes: usize) {
    match value {
        Value::Null => errs.push(FieldError::required(path, "")),
        _ if value.to_string().len() > most_bytes => {
            errs.push(FieldError::too_long(path, most_bytes));
        }
        Value::Object(_) => {}
        _ => errs.push(FieldError::invalid_str(
            path,
            "<value omitted>",
            "must be a valid JSON object",
        )),
    }
}

/// A taint of a device. The effect of a taint that had it before may be any.
pub fn taint(errs: &mut Errors, path: &FieldPath, taint: &Value, old: Option<&Value>) {
    qualified_name(errs, &path.child("key"), text(taint, "key"));
    let value = text(taint, "value");
    if !value.is_empty() {
        label_value(errs, &path.child("value"), value);
    }
    let effect = text(taint, "effect");
    if old.is_some_and(|old| text(old, "effect") == effect) {
        return;
    }
    match effect {
        "" => errs.push(FieldError::required(&path.child("effect"), "")),
        _ => one_of(errs, &path.child("effect"), effect, &TAINT_EFFECTS),
    }
}

/// A toleration of taints of devices.
pub fn toleration(errs: &mut Errors, path: &FieldPath, toleration: &Value) {
    let key = text(toleration, "key");
    if !key.is_empty() {
        qualified_name(errs, &path.child("key"), key);
    }
    let (value, value_path) = (text(toleration, "value"), path.child("value"));
    match text(toleration, "operator") {
        "Exists" if !value.is_empty() => {
            let why = "must be empty for operator `Exists`";
            errs.push(FieldError::invalid_str(&value_path, value, why));
        }
        "Exists" => {}
        "Equal" => label_value(errs, &value_path, value),
        "" => errs.push(FieldError::required(&path.child("operator"), "")),
        other => one_of(errs, &path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = text(toleration, "effect");
    if !effect.is_empty() {
        one_of(errs, &path.child("effect"), effect, &TAINT_EFFECTS);
    }
}

fn label_value(errs: &mut Errors, path: &FieldPath, value: &str) {
    invalid_each(errs, path, value, names::is_valid_label_value(value));
}

/// Conditions that a driver sets before a pod may be bound.
pub fn binding_conditions(errs: &mut Errors, path: &FieldPath, holder: &Value) {
    let (good, bad) = ("bindingConditions", "bindingFailureConditions");
    for field in [good, bad] {
        let list = items(holder, field);
        let path = path.child(field);
        let check = |errs: &mut Errors, path: &FieldPath, name: &Value| {
            qualified_name(errs, path, name.as_str().unwrap_or_default());
        };
        each_once(
            errs,
            &path,
            list,
            MOST_BINDING_CONDITIONS,
            Value::clone,
            check,
        );
    }
    let (wanted, failed) = (items(holder, good), items(holder, bad));
    for (i, name) in failed.iter().enumerate() {
        if wanted.contains(name) {
            let why = "bindingFailureConditions must not overlap with bindingConditions";
            errs.push(FieldError::invalid(&path.child(bad).index(i), name, why));
        }
    }
    if wanted.is_empty() && !failed.is_empty() {
        let why = "bindingConditions are required to use bindingFailureConditions";
        let path = path.child(good);
        errs.push(FieldError::invalid(&path, at(holder, good), why));
    }
    if failed.is_empty() && !wanted.is_empty() {
        let why = "bindingFailureConditions are required to use bindingConditions";
        let path = path.child(bad);
        errs.push(FieldError::invalid(&path, at(holder, bad), why));
    }
}

/// A name of an attribute or of a capacity, with or without a domain.
pub fn attribute_name(errs: &mut Errors, path: &FieldPath, name: &str) {
    let parts: Vec<&str> = name.split('/').collect();
    let (domain, id) = match parts.as_slice() {
        [id] => (None, *id),
        [domain, id] => (Some(*domain), *id),
        // As upstream, which looks no further.
        _ => return,
    };
    match domain {
        Some("") => {
            let why = "the domain must not be empty";
            errs.push(FieldError::invalid_str(path, "", why));
        }
        Some(domain) => driver(errs, path, domain),
        None => {}
    }
    if id.is_empty() && domain.is_some() {
        let why = "the name must not be empty";
        errs.push(FieldError::invalid_str(path, "", why));
        return;
    }
    if id.len() > LONGEST_ID {
        errs.push(FieldError::too_long(path, LONGEST_ID));
    }
    invalid_each(errs, path, id, names::is_c_identifier(id));
}

/// The name of an attribute with its domain.
pub fn full_attribute_name(errs: &mut Errors, path: &FieldPath, name: &str) {
    attribute_name(errs, path, name);
    if !name.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errs.push(FieldError::invalid_str(path, name, why));
    }
}

/// The name of a device.
pub fn device_name(errs: &mut Errors, path: &FieldPath, holder: &Value, field: &str) {
    dns_label(errs, &path.child(field), text(holder, field));
}

/// Conditions, of which there may be so many.
pub fn conditions(errs: &mut Errors, path: &FieldPath, holder: &Value, most: usize) {
    let count = items(holder, "conditions").len();
    if count > most {
        errs.push(FieldError::too_many(&path.child("conditions"), count, most));
    }
    conditions::conditions(errs, path, holder);
}
