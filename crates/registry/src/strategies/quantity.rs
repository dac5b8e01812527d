//! Amounts in the checks: which resources may be named, and how much may be asked of them.

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use crate::check::{Errors, at, has, invalid, invalid_each};

/// An amount in billionths, rounded up; `None` when it is not a quantity or does not fit.
pub fn parse(v: &Value) -> Option<i128> {
    match v {
        Value::String(s) => parse_text(s),
        Value::Number(n) => parse_text(&n.to_string()),
        _ => None,
    }
}

const NANO: i128 = 1_000_000_000;

fn parse_text(s: &str) -> Option<i128> {
    let end = s
        .find(|c: char| !(c.is_ascii_digit() || ".+-".contains(c)))
        .unwrap_or(s.len());
    let (number, suffix) = s.split_at(end);
    let (negative, digits) = match number.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let all: i128 = format!("{whole}{fraction}").parse().ok()?;
    let places = u32::try_from(fraction.len()).ok()?;
    let (times, tens) = scale(suffix)?;
    let exponent = tens + 9 - i32::try_from(places).ok()?;
    let value = all.checked_mul(times)?;
    let value = match u32::try_from(exponent) {
        Ok(up) => value.checked_mul(10_i128.checked_pow(up)?)?,
        Err(_) => {
            let down = 10_i128.checked_pow(exponent.unsigned_abs())?;
            value.div_euclid(down) + i128::from(value.rem_euclid(down) != 0)
        }
    };
    Some(if negative { -value } else { value })
}

/// A factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(i) = binary.iter().position(|b| *b == suffix) {
        return Some((1024_i128.checked_pow(u32::try_from(i).ok()? + 1)?, 0));
    }
    let tens = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        other => other.strip_prefix(['e', 'E'])?.parse().ok()?,
    };
    Some((1, tens))
}

/// Whether an amount has a part smaller than one.
pub fn is_fractional(v: &Value) -> bool {
    parse(v).is_some_and(|n| n % NANO != 0)
}

/// How an amount is shown in messages.
pub fn show(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

/// Whether more of a resource may be used than was requested.
pub fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// An amount that must not be negative; whole for resources that come in pieces.
pub fn amount(errs: &mut Errors, path: &FieldPath, name: &str, v: &Value) {
    if parse(v).is_some_and(|n| n < 0) {
        let why = "must be greater than or equal to 0";
        errs.push(FieldError::invalid_str(path, &show(v), why));
    }
    let whole = (name.contains('/') && !is_native(name)) || ["pods", "services"].contains(&name);
    if whole && is_fractional(v) {
        errs.push(FieldError::invalid_str(
            path,
            &show(v),
            "must be an integer",
        ));
    }
}

/// The name of a resource of a container.
fn container_resource(errs: &mut Errors, path: &FieldPath, name: &str) {
    let before = errs.len();
    invalid_each(errs, path, name, names::is_qualified_name(name));
    if errs.len() > before {
        return;
    }
    if !name.contains('/') {
        let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name);
        if !standard && !name.starts_with("hugepages-") {
            let why = "must be a standard resource for containers";
            errs.push(FieldError::invalid_str(path, name, why));
        }
    } else if !is_native(name) && name.starts_with("requests.") {
        let why = "doesn't follow extended resource name standard";
        errs.push(FieldError::invalid_str(path, name, why));
    }
}

/// The requests and limits of a container.
pub fn requirements(errs: &mut Errors, path: &FieldPath, resources: &Value) {
    let (limits, requests) = (at(resources, "limits"), at(resources, "requests"));
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    for (name, v) in limits.as_object().into_iter().flatten() {
        let path = limit_path.key(name);
        container_resource(errs, &path, name);
        amount(errs, &path, name, v);
    }
    for (name, v) in requests.as_object().into_iter().flatten() {
        let path = request_path.key(name);
        container_resource(errs, &path, name);
        amount(errs, &path, name, v);
        against_limit(errs, &request_path, &limit_path, (name, v), limits);
    }
    let either = |f: &dyn Fn(&str) -> bool| {
        [limits, requests]
            .iter()
            .filter_map(|m| m.as_object())
            .any(|m| m.keys().any(|k| f(k)))
    };
    if either(&|k| k.starts_with("hugepages-")) && !either(&|k| k == "cpu" || k == "memory") {
        errs.push(FieldError::forbidden(
            path,
            "HugePages require cpu or memory",
        ));
    }
}

fn against_limit(
    errs: &mut Errors,
    path: &FieldPath,
    limit_path: &FieldPath,
    (name, v): (&str, &Value),
    limits: &Value,
) {
    if !has(limits, name) {
        if !overcommit_allowed(name) {
            let why = "Limit must be set for non overcommitable resources";
            errs.push(FieldError::required(limit_path, why));
        }
        return;
    }
    let limit = at(limits, name);
    let (Some(asked), Some(most)) = (parse(v), parse(limit)) else {
        return;
    };
    let shown = Value::String(show(v));
    if asked != most && !overcommit_allowed(name) {
        invalid(
            errs,
            path,
            &shown,
            &format!("must be equal to {name} limit of {}", show(limit)),
        );
    } else if asked > most {
        let why = format!(
            "must be less than or equal to {name} limit of {}",
            show(limit)
        );
        invalid(errs, path, &shown, &why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_quantities() {
        for (text, nanos) in [
            ("1", Some(NANO)),
            ("100m", Some(NANO / 10)),
            ("1.5Gi", Some(NANO * 3 * (1 << 29))),
            ("2e3", Some(NANO * 2000)),
            ("-1", Some(-NANO)),
            ("0.5n", Some(1)),
            ("x", None),
            ("1Zi", None),
        ] {
            assert_eq!(parse(&json!(text)), nanos, "{text}");
        }
    }
}
