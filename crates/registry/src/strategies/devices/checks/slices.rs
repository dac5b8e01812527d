//! What a driver may publish of its devices.

use api::{FieldError, FieldPath, Quantity};
use serde_json::Value;

use super::{attribute_name, binding_conditions, driver, each, each_once, name_of, pool, taint};
use crate::check::{Errors, at, dns_label, dns_subdomain, flag, has, immutable, int, items, text};
use crate::strategies::quantity::is_native;
use crate::strategies::scheduling::node_selector;

const MOST_DEVICES: usize = 128;
/// Of devices with taints, counters, or lists of attributes.
const MOST_ADVANCED_DEVICES: usize = 64;
const MOST_COUNTER_SETS: usize = 8;
const MOST_COUNTERS: usize = 32;
const MOST_CONSUMED_SETS: usize = 2;
const MOST_ATTRIBUTES: usize = 32;
const MOST_ATTRIBUTE_VALUES: usize = 48;
const LONGEST_ATTRIBUTE: usize = 64;
const MOST_TAINTS: usize = 16;
const MOST_VALID_VALUES: usize = 10;
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];
const UNSET_OR_TRUE: &str = "must be either unset or set to true";

/// The specification of a slice; `old` before an update.
pub fn slice_spec(errs: &mut Errors, path: &FieldPath, spec: &Value, old: Option<&Value>) {
    driver(errs, &path.child("driver"), text(spec, "driver"));
    resource_pool(errs, &path.child("pool"), at(spec, "pool"));
    if let Some(old) = old {
        let pool_path = path.child("pool");
        immutable(errs, &pool_path, at(spec, "pool"), at(old, "pool"), "name");
        immutable(errs, path, spec, old, "driver");
        immutable(errs, path, spec, old, "nodeName");
    }
    let set = whose_nodes(errs, path, spec);
    one_choice(
        errs,
        path,
        &set,
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ", but multiple fields are set",
    );
    if has(spec, "sharedCounters") && has(spec, "devices") {
        let why = "only one of `sharedCounters` or `devices` is allowed";
        errs.push(FieldError::invalid_str(path, "", why));
    }
    let devices = items(spec, "devices");
    let most = if devices.iter().any(is_advanced) {
        MOST_ADVANCED_DEVICES
    } else {
        MOST_DEVICES
    };
    let before = |device: &Value| {
        let old = items(old?, "devices");
        old.iter().find(|d| text(d, "name") == text(device, "name"))
    };
    let by_device = flag(spec, "perDeviceNodeSelection");
    each_once(
        errs,
        &path.child("devices"),
        devices,
        most,
        name_of,
        |errs, path, d| device(errs, path, d, before(d), by_device),
    );
    each_once(
        errs,
        &path.child("sharedCounters"),
        items(spec, "sharedCounters"),
        MOST_COUNTER_SETS,
        name_of,
        |errs, path, set| counters(errs, path, set, "name"),
    );
}

fn is_advanced(device: &Value) -> bool {
    let mut attributes = at(device, "attributes").as_object().into_iter().flatten();
    !items(device, "taints").is_empty()
        || !items(device, "consumesCounters").is_empty()
        || attributes.any(|(_, a)| LISTS.iter().any(|list| has(a, list)))
}

fn resource_pool(errs: &mut Errors, path: &FieldPath, of: &Value) {
    pool(errs, &path.child("name"), text(of, "name"));
    let count = int(of, "resourceSliceCount").unwrap_or(0);
    if count <= 0 {
        let path = path.child("resourceSliceCount");
        let why = "must be greater than zero";
        errs.push(FieldError::invalid(&path, &count.into(), why));
    }
    if int(of, "generation").is_some_and(|n| n < 0) {
        let path = path.child("generation");
        let why = "must be greater than or equal to zero";
        errs.push(FieldError::invalid(&path, at(of, "generation"), why));
    }
}

/// Checks the fields that say on which nodes devices are; gives the names of those that are set.
fn whose_nodes(errs: &mut Errors, path: &FieldPath, spec: &Value) -> Vec<&'static str> {
    let mut set = Vec::new();
    let why = "must be either unset or set to a non-empty string";
    node_name(errs, path, spec, why, &mut set);
    if has(spec, "nodeSelector") {
        set.push("`nodeSelector`");
        let (path, selector) = (path.child("nodeSelector"), at(spec, "nodeSelector"));
        node_selector(errs, &path, selector);
        if items(selector, "nodeSelectorTerms").len() != 1 {
            let why = "must have exactly one node selector term";
            let terms = at(selector, "nodeSelectorTerms");
            let path = path.child("nodeSelectorTerms");
            errs.push(FieldError::invalid(&path, terms, why));
        }
    }
    true_or_unset(errs, path, spec, "allNodes", "`allNodes`", &mut set);
    let (field, shown) = ("perDeviceNodeSelection", "`perDeviceNodeSelection`");
    true_or_unset(errs, path, spec, field, shown, &mut set);
    set
}

fn node_name(
    errs: &mut Errors,
    path: &FieldPath,
    holder: &Value,
    empty: &str,
    set: &mut Vec<&'static str>,
) {
    if !has(holder, "nodeName") {
        return;
    }
    let (path, name) = (path.child("nodeName"), text(holder, "nodeName"));
    if name.is_empty() {
        errs.push(FieldError::invalid_str(&path, "", empty));
    } else {
        set.push("`nodeName`");
        dns_subdomain(errs, &path, name);
    }
}

fn true_or_unset(
    errs: &mut Errors,
    path: &FieldPath,
    holder: &Value,
    field: &str,
    shown: &'static str,
    set: &mut Vec<&'static str>,
) {
    match at(holder, field).as_bool() {
        Some(true) => set.push(shown),
        Some(false) => {
            let why = UNSET_OR_TRUE;
            errs.push(FieldError::invalid(&path.child(field), &false.into(), why));
        }
        None => {}
    }
}

/// Exactly one of some fields must be set; `many` is added where several are.
fn one_choice(errs: &mut Errors, path: &FieldPath, set: &[&str], required: &str, many: &str) {
    match set.len() {
        0 => errs.push(FieldError::required(path, required)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            let why = format!("{required}{many}");
            errs.push(FieldError::invalid_str(path, &shown, &why));
        }
    }
}

fn device(
    errs: &mut Errors,
    path: &FieldPath,
    device: &Value,
    old: Option<&Value>,
    by_device: bool,
) {
    dns_label(errs, &path.child("name"), text(device, "name"));
    let none = serde_json::Map::new();
    let attributes = at(device, "attributes").as_object().unwrap_or(&none);
    let capacities = at(device, "capacity").as_object().unwrap_or(&none);
    let all = attributes.len() + capacities.len();
    if all > MOST_ATTRIBUTES {
        let why = format!(
            "the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}"
        );
        errs.push(FieldError::invalid(path, &all.into(), &why));
    }
    let values: usize = attributes.values().map(values_of).sum();
    if values > MOST_ATTRIBUTE_VALUES {
        let why =
            format!("the total number of attribute values must not exceed {MOST_ATTRIBUTE_VALUES}");
        errs.push(FieldError::invalid(path, &values.into(), &why));
    }
    let attributes_path = path.child("attributes");
    for (name, value) in attributes {
        attribute_name(errs, &attributes_path, name);
        attribute(errs, &attributes_path.key(name), value);
    }
    let capacity_path = path.child("capacity");
    let is_shared = flag(device, "allowMultipleAllocations");
    for (name, value) in capacities {
        attribute_name(errs, &capacity_path, name);
        capacity(errs, &capacity_path.key(name), value, is_shared);
    }
    if old.is_none_or(|old| at(old, "taints") != at(device, "taints")) {
        each(
            errs,
            &path.child("taints"),
            items(device, "taints"),
            MOST_TAINTS,
            |errs, path, one| taint(errs, path, one, None),
        );
    }
    each_once(
        errs,
        &path.child("consumesCounters"),
        items(device, "consumesCounters"),
        MOST_CONSUMED_SETS,
        |set| text(set, "counterSet").into(),
        |errs, path, set| counters(errs, path, set, "counterSet"),
    );
    nodes_of_device(errs, path, device, by_device);
    binding_conditions(errs, path, device);
    let mapped = path.child("nodeAllocatableResourceMappings");
    let mappings = at(device, "nodeAllocatableResourceMappings");
    for (name, mapping) in mappings.as_object().into_iter().flatten() {
        node_resource(errs, &mapped.key(name), name, mapping, capacities);
    }
}

fn nodes_of_device(errs: &mut Errors, path: &FieldPath, device: &Value, by_device: bool) {
    if !by_device {
        let fields = ["nodeName", "nodeSelector", "allNodes"];
        if fields.iter().any(|f| has(device, f)) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if \
                       `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errs.push(FieldError::invalid(path, &Value::Null, why));
        }
        return;
    }
    let mut set = Vec::new();
    node_name(errs, path, device, "must not be empty", &mut set);
    if has(device, "nodeSelector") {
        set.push("`nodeSelector`");
        let selector = at(device, "nodeSelector");
        node_selector(errs, &path.child("nodeSelector"), selector);
    }
    true_or_unset(errs, path, device, "allNodes", "`allNodes`", &mut set);
    one_choice(
        errs,
        path,
        &set,
        "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
         `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
        "",
    );
}

/// A set of counters, or what a device takes of one.
fn counters(errs: &mut Errors, path: &FieldPath, set: &Value, name: &str) {
    match text(set, name) {
        "" => errs.push(FieldError::required(&path.child(name), "")),
        given => dns_label(errs, &path.child(name), given),
    }
    let path = path.child("counters");
    let all = at(set, "counters").as_object();
    let count = all.map_or(0, serde_json::Map::len);
    if count == 0 {
        errs.push(FieldError::required(&path, ""));
    } else if count > MOST_COUNTERS {
        errs.push(FieldError::too_many(&path, count, MOST_COUNTERS));
    } else {
        for name in all.into_iter().flatten().map(|(name, _)| name) {
            dns_label(errs, &path, name);
        }
    }
}

/// How many values an attribute counts for.
fn values_of(attribute: &Value) -> usize {
    let listed: usize = LISTS.iter().map(|list| items(attribute, list).len()).sum();
    listed.max(1)
}

fn attribute(errs: &mut Errors, path: &FieldPath, value: &Value) {
    let mut set = 0;
    for field in ["bool", "int", "string", "version"] {
        if has(value, field) {
            set += 1;
            one_value(errs, &path.child(field), field, text(value, field));
        }
    }
    for field in LISTS {
        if !has(value, field) {
            continue;
        }
        set += 1;
        let (path, list) = (path.child(field), items(value, field));
        if list.is_empty() {
            let why = "must not be empty if specified";
            errs.push(FieldError::invalid(&path, at(value, field), why));
        }
        for (i, one) in list.iter().enumerate() {
            let text = one.as_str().unwrap_or_default();
            one_value(errs, &path.index(i), field.trim_end_matches('s'), text);
        }
    }
    let why = "exactly one value must be specified";
    match set {
        0 => errs.push(FieldError::invalid_str(path, "", why)),
        1 => {}
        _ => errs.push(FieldError::invalid(path, value, why)),
    }
}

fn one_value(errs: &mut Errors, path: &FieldPath, kind: &str, value: &str) {
    if kind == "version" && !is_version(value) {
        let why = "must be a string compatible with semver.org spec 2.0.0";
        errs.push(FieldError::invalid_str(path, value, why));
    }
    if value.len() > LONGEST_ATTRIBUTE {
        errs.push(FieldError::too_long(path, LONGEST_ATTRIBUTE));
    }
}

/// Whether a text is a version by semver.org 2.0.0; its numbers may be of any length.
fn is_version(value: &str) -> bool {
    let (rest, build) = match value.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (value, None),
    };
    let (core, before) = match rest.split_once('-') {
        Some((core, before)) => (core, Some(before)),
        None => (rest, None),
    };
    let is_number = |s: &str| {
        !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'))
    };
    let is_word =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let is_before = |s: &str| is_word(s) && (!is_digits(s) || is_number(s));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && before.is_none_or(|b| b.split('.').all(is_before))
        && build.is_none_or(|b| b.split('.').all(is_word))
}

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

fn capacity(errs: &mut Errors, path: &FieldPath, capacity: &Value, is_shared: bool) {
    let policy = at(capacity, "requestPolicy");
    if policy.is_null() {
        return;
    }
    let path = path.child("requestPolicy");
    if !is_shared {
        let why = "allowMultipleAllocations must be true";
        errs.push(FieldError::forbidden(&path, why));
        return;
    }
    let most = amount(at(capacity, "value")).unwrap_or_default();
    let values = items(policy, "validValues");
    match (values.is_empty(), has(policy, "validRange")) {
        (false, true) => errs.push(FieldError::forbidden(
            &path,
            "exactly one policy can be specified, cannot specify \"validValues\" and \
             \"validRange\" at the same time",
        )),
        (true, false) => {}
        (true, true) => match amount(at(policy, "default")) {
            Some(default) => valid_range(
                errs,
                &path.child("validRange"),
                at(policy, "validRange"),
                default,
                most,
            ),
            None => errs.push(FieldError::required(
                &path.child("default"),
                "required when validRange is defined",
            )),
        },
        (false, false) => match amount(at(policy, "default")) {
            Some(default) => {
                let path = path.child("validValues");
                valid_values(errs, &path, values, default, most);
            }
            None => errs.push(FieldError::required(
                &path.child("default"),
                "required when validValues is defined",
            )),
        },
    }
}

fn valid_values(
    errs: &mut Errors,
    path: &FieldPath,
    values: &[Value],
    default: Quantity,
    most: Quantity,
) {
    let amounts: Vec<Quantity> = values
        .iter()
        .map(|v| amount(v).unwrap_or_default())
        .collect();
    for (i, pair) in amounts.windows(2).enumerate() {
        if let [one, next] = pair
            && one > next
        {
            let why = "values must be sorted in ascending order";
            let shown = next.to_string();
            errs.push(FieldError::invalid_str(&path.index(i + 1), &shown, why));
        }
    }
    each_once(
        errs,
        path,
        values,
        MOST_VALID_VALUES,
        |v| amount(v).unwrap_or_default().value().into(),
        |errs, path, value| {
            let value = amount(value).unwrap_or_default();
            if value > most {
                let why = format!("option is larger than capacity value: {most}");
                errs.push(FieldError::invalid_str(path, &value.to_string(), &why));
            }
        },
    );
    if !amounts.contains(&default) {
        let why = "default value is not valid according to the requestPolicy";
        errs.push(FieldError::invalid_str(path, &default.to_string(), why));
    }
}

fn valid_range(
    errs: &mut Errors,
    path: &FieldPath,
    range: &Value,
    default: Quantity,
    most: Quantity,
) {
    let Some(min) = amount(at(range, "min")) else {
        let why = "required when validRange is defined";
        errs.push(FieldError::required(&path.child("min"), why));
        return;
    };
    let (max, step) = (amount(at(range, "max")), amount(at(range, "step")));
    let mut wrong = |is_wrong: bool, field: &str, value: Quantity, why: String| {
        if is_wrong {
            let path = path.child(field);
            errs.push(FieldError::invalid_str(&path, &value.to_string(), &why));
        }
    };
    let larger = |what: &str| format!("{what} is larger than capacity value: {most}");
    wrong(min > most, "min", min, larger("min"));
    wrong(
        default < min,
        "min",
        default,
        format!("default is less than min: {min}"),
    );
    if let Some(max) = max {
        wrong(
            min > max,
            "max",
            min,
            format!("min is larger than max: {max}"),
        );
        wrong(max > most, "max", max, larger("max"));
        wrong(
            default > max,
            "max",
            default,
            format!("default is more than max: {max}"),
        );
    }
    if let Some(step) = step {
        let first = min + step;
        let why = format!("one step {first} is larger than capacity value: {most}");
        wrong(first > most, "step", step, why);
        for value in std::iter::once(default).chain(max) {
            let over = value.value().saturating_sub(min.value());
            // Upstream divides by what may be zero.
            let off = over.checked_rem(step.value()) != Some(0);
            let why = format!("value is not a multiple of a given step ({step}) from ({min})");
            wrong(off, "step", value, why);
        }
    }
}

fn node_resource(
    errs: &mut Errors,
    path: &FieldPath,
    name: &str,
    mapping: &Value,
    capacities: &serde_json::Map<String, Value>,
) {
    if !is_native(name) {
        let why = "must be a node allocatable resource name";
        errs.push(FieldError::invalid_str(path, name, why));
    }
    let (times, key) = ("allocationMultiplier", "capacityKey");
    if !has(mapping, times) && !has(mapping, key) {
        let why = "at least one of allocationMultiplier or capacityKey must be set";
        errs.push(FieldError::invalid_str(path, "", why));
        return;
    }
    if let Some(by) = amount(at(mapping, times)).filter(|q| q.is_zero() || q.is_negative()) {
        let path = path.child(times);
        errs.push(FieldError::invalid_str(
            &path,
            &by.to_string(),
            "must be positive",
        ));
    }
    if has(mapping, key) {
        let (path, name) = (path.child(key), text(mapping, key));
        if name.is_empty() {
            let why = "capacityKey must not be an empty string";
            errs.push(FieldError::invalid_str(&path, "", why));
        } else if !capacities.contains_key(name) {
            errs.push(FieldError::not_found(&path, &name.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn versions_are_those_of_semver() {
        for good in ["1.2.3", "0.0.0-alpha.1+build.5", "10.20.30-x-y", "1.0.0+0A"] {
            assert!(is_version(good), "{good}");
        }
        for bad in [
            "1.2",
            "01.2.3",
            "1.2.3-",
            "1.2.3-01",
            "1.2.3+",
            "v1.2.3",
            "",
            "1.2.3-a..b",
        ] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
