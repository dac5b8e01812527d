//! The small tools of which defaults and validations are built: reading and filling JSON without
//! panics, and the checks that many kinds share, in upstream's words.

use std::collections::{BTreeSet, HashSet};

use api::names;
use api::{FieldError, FieldPath};
use serde_json::{Map, Value};

use crate::pointer;

/// What is wrong with an object so far.
pub type Errors = Vec<FieldError>;

static NULL: Value = Value::Null;
const NEGATIVE: &str = "must be greater than or equal to 0";
const NOT_POSITIVE: &str = "must be greater than 0";
/// The same, as most of upstream's core group says it.
pub const NOT_ABOVE_ZERO: &str = "must be greater than zero";
/// What is said of a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// Takes out what was wrong before, too, which is asked for only where something is wrong.
pub fn forgive(errs: &mut Errors, before: impl FnOnce() -> Errors) {
    if errs.is_empty() {
        return;
    }
    let before = before();
    errs.retain(|e| !before.contains(e));
}

/// The member of an object; null when there is none.
pub fn at<'a>(v: &'a Value, field: &str) -> &'a Value {
    v.get(field).unwrap_or(&NULL)
}

/// The value at a JSON pointer; null when there is none.
pub fn deep<'a>(v: &'a Value, path: &str) -> &'a Value {
    pointer::at(v, path).unwrap_or(&NULL)
}

/// The text of a member; empty when there is none.
pub fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    at(v, field).as_str().unwrap_or("")
}

/// The whole number of a member.
pub fn int(v: &Value, field: &str) -> Option<i64> {
    at(v, field).as_i64()
}

/// Whether a member is true.
pub fn flag(v: &Value, field: &str) -> bool {
    at(v, field).as_bool().unwrap_or(false)
}

/// The items of a member that is a list.
pub fn items<'a>(v: &'a Value, field: &str) -> &'a [Value] {
    at(v, field).as_array().map_or(&[], Vec::as_slice)
}

/// Whether a member is there and not null.
pub fn has(v: &Value, field: &str) -> bool {
    !at(v, field).is_null()
}

/// Absent, null, or an empty text, list or object.
pub fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// The items of a member that is a list, to change them.
pub fn items_mut<'a>(v: &'a mut Value, field: &str) -> &'a mut [Value] {
    v.get_mut(field)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

/// The member as an object, made when it is absent or null; `None` when the outer value is not
/// an object or the member is of another type.
pub fn make<'a>(v: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let outer = v.as_object_mut()?;
    let inner = outer.entry(field).or_insert(Value::Null);
    if inner.is_null() {
        *inner = Value::Object(Map::new());
    }
    inner.is_object().then_some(inner)
}

/// Sets a member.
pub fn set(v: &mut Value, field: &str, to: impl Into<Value>) {
    if let Some(o) = v.as_object_mut() {
        o.insert(field.to_owned(), to.into());
    }
}

/// Takes a member away.
pub fn unset(v: &mut Value, field: &str) {
    if let Some(o) = v.as_object_mut() {
        o.remove(field);
    }
}

/// Sets a member that is absent or null (a pointer in Go).
pub fn fill(v: &mut Value, field: &str, to: impl Into<Value>) {
    if !has(v, field) {
        set(v, field, to);
    }
}

/// Sets a member that is absent, null, empty or 0 (a plain value in Go).
pub fn fill_zero(v: &mut Value, field: &str, to: impl Into<Value>) {
    let now = at(v, field);
    if is_empty(now) || now.as_i64() == Some(0) {
        set(v, field, to);
    }
}

/// Makes a field with one text and the list that came after it hold the same, as upstream's
/// conversions do: where they differ, the one counts. `member` names what holds the text in an
/// item of the list; `None` where the item is the text.
pub fn mirror(v: &mut Value, one: &str, list: &str, member: Option<&str>) {
    let have = text(v, one).to_owned();
    let first = items(v, list).first().map(|item| match member {
        Some(member) => text(item, member).to_owned(),
        None => item.as_str().unwrap_or_default().to_owned(),
    });
    match first {
        Some(first) if have.is_empty() => set(v, one, first),
        first if !have.is_empty() && first.as_ref() != Some(&have) => {
            let mut item = Value::from(have);
            if let Some(member) = member {
                item = serde_json::json!({ member: item });
            }
            set(v, list, vec![item]);
        }
        _ => {}
    }
}

/// The path of a member; an empty name means the value itself.
fn member(path: &FieldPath, field: &str) -> FieldPath {
    if field.is_empty() {
        path.clone()
    } else {
        path.child(field)
    }
}

/// Each message as an `Invalid` of this text.
pub fn invalid_each(errs: &mut Errors, path: &FieldPath, value: &str, messages: Vec<String>) {
    errs.extend(
        messages
            .iter()
            .map(|m| FieldError::invalid_str(path, value, m)),
    );
}

/// An `Invalid` of this value.
pub fn invalid(errs: &mut Errors, path: &FieldPath, value: &Value, why: &str) {
    errs.push(FieldError::invalid(path, value, why));
}

/// A text that must be one of a few; `words` sorted.
pub fn one_of(errs: &mut Errors, path: &FieldPath, value: &str, words: &[&str]) {
    if !words.contains(&value) {
        errs.push(FieldError::not_supported(path, value, words));
    }
}

/// A member that must be there and one of a few words.
pub fn required_word(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str, words: &[&str]) {
    let path = member(path, field);
    match text(v, field) {
        "" => errs.push(FieldError::required(&path, "")),
        word => one_of(errs, &path, word, words),
    }
}

/// A member that may be left out, else must be one of a few words.
pub fn optional_word(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str, words: &[&str]) {
    if has(v, field) {
        one_of(errs, &path.child(field), text(v, field), words);
    }
}

/// A member that must not be an empty text.
pub fn required_text(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str) -> bool {
    let missing = text(v, field).is_empty();
    if missing {
        errs.push(FieldError::required(&path.child(field), ""));
    }
    !missing
}

/// A number, if it is there, of at least 0.
pub fn not_negative(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str) {
    at_least(errs, path, v, field, 0, NEGATIVE);
}

/// A number, if it is there, of at least 1.
pub fn positive(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str) {
    at_least(errs, path, v, field, 1, NOT_POSITIVE);
}

/// The same in the words of the core group.
pub fn above_zero(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str) {
    at_least(errs, path, v, field, 1, NOT_ABOVE_ZERO);
}

fn at_least(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str, min: i64, why: &str) {
    if int(v, field).is_some_and(|n| n < min) {
        invalid(errs, &path.child(field), at(v, field), why);
    }
}

/// A member that must stay as it was.
pub fn immutable(errs: &mut Errors, path: &FieldPath, new: &Value, old: &Value, field: &str) {
    let (n, o) = (at(new, field), at(old, field));
    if n != o {
        invalid(errs, &member(path, field), n, IMMUTABLE);
    }
}

/// A port number, 1 to 65535.
pub fn port(errs: &mut Errors, path: &FieldPath, value: &Value) {
    let n = value.as_i64().unwrap_or(0);
    for m in names::is_valid_port_num(n) {
        invalid(errs, path, &n.into(), &m);
    }
}

/// A port number or the name of one.
pub fn port_or_name(errs: &mut Errors, path: &FieldPath, value: &Value) {
    match value.as_str() {
        Some(name) => invalid_each(errs, path, name, names::is_valid_port_name(name)),
        None => port(errs, path, value),
    }
}

/// A DNS label.
pub fn dns_label(errs: &mut Errors, path: &FieldPath, value: &str) {
    invalid_each(errs, path, value, names::is_dns1123_label(value));
}

/// A DNS subdomain.
pub fn dns_subdomain(errs: &mut Errors, path: &FieldPath, value: &str) {
    invalid_each(errs, path, value, names::is_dns1123_subdomain(value));
}

/// A name with an optional prefix, as of labels.
pub fn qualified_name(errs: &mut Errors, path: &FieldPath, value: &str) {
    invalid_each(errs, path, value, names::is_qualified_name(value));
}

/// A domain and a path below it, as `example.com/name`.
pub fn domain_path(errs: &mut Errors, path: &FieldPath, value: &str) {
    if value.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    match value.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            dns_subdomain(errs, path, domain);
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"/%-._~!$&'()*+,;=:".contains(&b);
            if !rest.bytes().all(plain) {
                let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errs.push(FieldError::invalid_str(path, rest, why));
            }
        }
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errs.push(FieldError::invalid_str(path, value, why));
        }
    }
}

/// A map of labels.
pub fn labels(errs: &mut Errors, path: &FieldPath, map: &Value) {
    for (k, v) in map.as_object().into_iter().flatten() {
        qualified_name(errs, path, k);
        let v = v.as_str().unwrap_or("");
        invalid_each(errs, path, v, names::is_valid_label_value(v));
    }
}

/// A label selector; null is fine.
pub fn label_selector(errs: &mut Errors, path: &FieldPath, selector: &Value) {
    labels(
        errs,
        &path.child("matchLabels"),
        at(selector, "matchLabels"),
    );
    for (i, e) in items(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = items(e, "values");
        match text(e, "operator") {
            "In" | "NotIn" if values.is_empty() => errs.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => errs.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            other => errs.push(FieldError::invalid_str(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        qualified_name(errs, &path.child("key"), text(e, "key"));
        for (j, v) in values.iter().enumerate() {
            let v = v.as_str().unwrap_or("");
            let path = path.child("values").index(j);
            invalid_each(errs, &path, v, names::is_valid_label_value(v));
        }
    }
}

/// Whether a label selector selects everything.
pub fn selects_all(selector: &Value) -> bool {
    is_empty(at(selector, "matchLabels")) && items(selector, "matchExpressions").is_empty()
}

/// Whether labels satisfy a label selector.
pub fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let label = |k: &str| at(labels, k).as_str();
    let pairs = at(selector, "matchLabels")
        .as_object()
        .into_iter()
        .flatten();
    let mut wanted = pairs.map(|(k, v)| (k, v.as_str()));
    if !wanted.all(|(k, v)| label(k).is_some() && label(k) == v) {
        return false;
    }
    items(selector, "matchExpressions").iter().all(|e| {
        let found = label(text(e, "key"));
        let listed =
            found.is_some_and(|f| items(e, "values").iter().any(|v| v.as_str() == Some(f)));
        match text(e, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => false,
        }
    })
}

/// An IP address, not one of IPv4 in IPv6's clothes; whether it is one.
pub fn ip(errs: &mut Errors, path: &FieldPath, value: &str) -> bool {
    let mut wrong = names::is_valid_ip(value);
    if is_mapped(value) {
        wrong.push("must not be an IPv4-mapped IPv6 address".to_owned());
    }
    let good = wrong.is_empty();
    invalid_each(errs, path, value, wrong);
    good
}

/// An address range such as `10.0.0.0/8`, without bits beyond its prefix; whether it is one.
pub fn cidr(errs: &mut Errors, path: &FieldPath, value: &str) -> bool {
    let mut wrong = names::is_valid_cidr(value);
    let (address, bits) = value.split_once('/').unwrap_or((value, ""));
    if is_mapped(address) {
        wrong.push("must not have an IPv4-mapped IPv6 address".to_owned());
    } else if wrong.is_empty() && beyond_prefix(address, bits) {
        wrong.push("must not have bits set beyond the prefix length".to_owned());
    }
    let good = wrong.is_empty();
    invalid_each(errs, path, value, wrong);
    good
}

fn is_mapped(address: &str) -> bool {
    address
        .parse::<std::net::Ipv6Addr>()
        .is_ok_and(|a| a.to_ipv4_mapped().is_some())
}

fn beyond_prefix(address: &str, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else {
        return false;
    };
    match address.parse() {
        Ok(std::net::IpAddr::V4(a)) => u32::MAX.checked_shr(bits).unwrap_or(0) & u32::from(a) != 0,
        Ok(std::net::IpAddr::V6(a)) => {
            u128::MAX.checked_shr(bits).unwrap_or(0) & u128::from(a) != 0
        }
        Err(_) => false,
    }
}

/// A number or a percentage (`25%`), not negative.
pub fn int_or_percent(errs: &mut Errors, path: &FieldPath, v: &Value) {
    match v {
        Value::String(s) => {
            if percent(v).is_none() {
                let why = "a valid percent string must be a numeric string followed by an ending '%' \
                           (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                errs.push(FieldError::invalid_str(path, s, why));
            }
        }
        _ => {
            if v.as_i64().is_some_and(|n| n < 0) {
                invalid(errs, path, v, NEGATIVE);
            }
        }
    }
}

/// The number of a percentage (`25%` is 25).
pub fn percent(v: &Value) -> Option<i64> {
    let digits = v.as_str()?.strip_suffix('%')?;
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

/// A percentage of more than 100 is an error.
pub fn at_most_100_percent(errs: &mut Errors, path: &FieldPath, v: &Value) {
    if percent(v).is_some_and(|p| p > 100) {
        invalid(errs, path, v, "must not be greater than 100%");
    }
}

/// Whether a number or percentage is 0.
pub fn is_zero(v: &Value) -> bool {
    v.as_i64() == Some(0) || percent(v) == Some(0)
}

/// Reports every name that comes twice.
pub fn no_duplicates<'a>(
    errs: &mut Errors,
    path: &FieldPath,
    field: &str,
    all: impl Iterator<Item = &'a str>,
) {
    let mut seen = BTreeSet::new();
    for (i, name) in all.enumerate() {
        if !name.is_empty() && !seen.insert(name) {
            errs.push(FieldError::duplicate(
                &member(&path.index(i), field),
                &name.into(),
            ));
        }
    }
}

/// Items that are wholly equal to one before them.
pub fn no_equal_items(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    let mut seen = HashSet::new();
    for (i, item) in all.iter().enumerate() {
        if !seen.insert(item) {
            errs.push(FieldError::duplicate(&path.index(i), item));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn address_ranges() {
        for (text, good) in [
            ("10.0.0.0/8", true),
            ("10.0.0.1/8", false),
            ("10.0.0.1/32", true),
            ("fd00::/64", true),
            ("fd00::1/64", false),
            ("0.0.0.0/0", true),
            ("::ffff:10.0.0.0/104", false),
            ("10.0.0.0", false),
        ] {
            assert_eq!(
                cidr(&mut Errors::new(), &FieldPath::root(), text),
                good,
                "{text}"
            );
        }
    }

    #[test]
    fn old_and_new_names_of_addresses_mirror_each_other() {
        let kinds = crate::kinds();
        for (resource, part, one, list, item) in [
            (
                "pods",
                "status",
                "podIP",
                "podIPs",
                (|ip| json!({ "ip": ip })) as fn(&str) -> Value,
            ),
            ("nodes", "spec", "podCIDR", "podCIDRs", |ip| json!(ip)),
        ] {
            let row = kinds.resource("", resource).expect("row");
            let (a, b, c) = ("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128");
            for (given, want) in [
                (json!({ one: a }), json!({ one: a, list: [item(a)] })),
                (
                    json!({ list: [item(a), item(c)] }),
                    json!({ one: a, list: [item(a), item(c)] }),
                ),
                (
                    json!({ one: a, list: [item(a), item(c)] }),
                    json!({ one: a, list: [item(a), item(c)] }),
                ),
                (
                    json!({ one: b, list: [item(a), item(c)] }),
                    json!({ one: b, list: [item(b)] }),
                ),
                (json!({ list: [] }), json!({ list: [] })),
            ] {
                let mut object = json!({ "metadata": { "name": "x" }, part: given });
                row.strategy.default(&mut object);
                let have = |field: &str| object[part][field].clone();
                assert_eq!(
                    (have(one), have(list)),
                    (want[one].clone(), want[list].clone())
                );
            }
        }
    }
}
