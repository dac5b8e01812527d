//! Functions by name, and what calls of them cost while they run.

use crate::cost::{AUTHZ_CHECK, LIST_COST, REGEX_FACTOR, STRING_FACTOR, selector_cost, times};
use crate::format::Format;
use crate::value::{Evaluated, List, Map, Value};
use crate::{authorize, convert, kube, lists, ops, strings};

/// How a function is run.
#[derive(Clone, Copy)]
pub(crate) enum Builtin {
    Plain(for<'a> fn(&[Value<'a>]) -> Evaluated<'a>),
    /// One of several that share their code, which gets the name.
    Named(for<'a> fn(&str, &[Value<'a>]) -> Evaluated<'a>),
    /// `matches`, `find`, `findAll`: with the pattern compiled.
    Regex,
    /// `sum`: needs to know what an empty list sums up to.
    Sum,
    Format(Format),
}

/// The function of this name; operators and macros' own functions are not among them.
pub(crate) fn builtin(name: &str) -> Option<Builtin> {
    use Builtin::{Named, Plain};
    Some(match name {
        "_+_" => Plain(ops::add),
        "_-_" => Plain(ops::subtract),
        "_*_" => Plain(ops::multiply),
        "_/_" => Plain(ops::divide),
        "_%_" => Plain(ops::modulo),
        "-_" => Plain(ops::negate),
        "!_" | "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => Named(operator),
        "@in" => Plain(ops::is_in),
        "size" => Plain(ops::size),
        "type" => Plain(convert::type_of),
        "bool" => Plain(convert::boolean),
        "bytes" => Plain(convert::bytes),
        "double" => Plain(convert::double),
        "dyn" => Plain(convert::dynamic),
        "duration" => Plain(convert::duration),
        "int" => Plain(convert::int),
        "string" => Plain(convert::string),
        "timestamp" => Plain(convert::timestamp),
        "uint" => Plain(convert::uint),
        "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear" | "getFullYear"
        | "getMonth" | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => {
            Named(convert::time_part)
        }
        "contains" => Plain(strings::contains),
        "startsWith" => Plain(strings::starts_with),
        "endsWith" => Plain(strings::ends_with),
        "matches" | "find" | "findAll" => Builtin::Regex,
        "charAt" => Plain(strings::char_at),
        "indexOf" => Plain(strings::index_of),
        "lastIndexOf" => Plain(strings::last_index_of),
        "join" => Plain(strings::join),
        "lowerAscii" => Plain(strings::lower_ascii),
        "upperAscii" => Plain(strings::upper_ascii),
        "replace" => Plain(strings::replace),
        "split" => Plain(strings::split),
        "substring" => Plain(strings::substring),
        "trim" => Plain(strings::trim),
        "format" => Plain(strings::format),
        "strings.quote" => Plain(strings::quote),
        "jsonpatch.escapeKey" => Plain(strings::escape_key),
        "isSorted" => Plain(lists::is_sorted),
        "max" => Plain(lists::max),
        "min" => Plain(lists::min),
        "sum" => Builtin::Sum,
        "slice" => Plain(lists::slice),
        "flatten" => Plain(lists::flatten),
        "lists.range" => Plain(lists::range),
        "reverse" => Plain(lists::reverse),
        "distinct" => Plain(lists::distinct),
        "sort" => Plain(lists::sort),
        "@sortByAssociatedKeys" => Plain(lists::sort_by),
        "first" => Plain(lists::first),
        "last" => Plain(lists::last),
        "sets.contains" => Plain(lists::sets_contains),
        "sets.equivalent" => Plain(lists::sets_equivalent),
        "sets.intersects" => Plain(lists::sets_intersects),
        "optional.of" => Plain(lists::optional_of),
        "optional.ofNonZeroValue" => Plain(lists::optional_of_non_zero),
        "optional.none" => Plain(lists::optional_none),
        "optional.unwrap" | "unwrapOpt" => Plain(lists::unwrap),
        "value" => Plain(lists::optional_value),
        "hasValue" => Plain(lists::has_value),
        "url" => Plain(kube::url),
        "isURL" => Plain(kube::is_url),
        "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" | "getQuery" => {
            Named(kube::url_part)
        }
        "quantity" => Plain(kube::quantity),
        "isQuantity" => Plain(kube::is_quantity),
        "sign" | "asApproximateFloat" | "asInteger" | "isInteger" => Named(kube::quantity_part),
        "add" | "sub" => Named(kube::quantity_sum),
        "isGreaterThan" | "isLessThan" | "compareTo" => Named(kube::compared),
        "semver" => Plain(kube::semver),
        "isSemver" => Plain(kube::is_semver),
        "major" | "minor" | "patch" => Named(kube::semver_part),
        "ip" => Plain(kube::ip),
        "isIP" => Plain(kube::is_ip),
        "ip.isCanonical" => Plain(kube::is_canonical),
        "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => Named(kube::ip_part),
        "cidr" => Plain(kube::cidr),
        "isCIDR" => Plain(kube::is_cidr),
        "containsIP" => Plain(kube::contains_ip),
        "containsCIDR" => Plain(kube::contains_cidr),
        "prefixLength" | "masked" => Named(kube::cidr_part),
        "validate" => Plain(kube::validate),
        "format.named" => Plain(kube::format_named),
        "path" | "group" | "serviceAccount" | "resource" | "subresource" | "namespace" | "name"
        | "fieldSelector" | "labelSelector" | "check" | "errored" | "error" | "allowed"
        | "reason" => Named(authorize::call),
        other => Builtin::Format(Format::named(other.strip_prefix("format.")?)?),
    })
}

fn operator<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    use crate::error::EvalError;
    Ok(Value::Bool(match (name, args) {
        ("!_", [Value::Bool(b)]) => !b,
        ("_==_", [a, b]) => ops::equal(a, b),
        ("_!=_", [a, b]) => !ops::equal(a, b),
        ("_<_", [a, b]) => ops::compare(a, b)?.is_lt(),
        ("_<=_", [a, b]) => ops::compare(a, b)?.is_le(),
        ("_>_", [a, b]) => ops::compare(a, b)?.is_gt(),
        ("_>=_", [a, b]) => ops::compare(a, b)?.is_ge(),
        _ => return Err(EvalError::no_overload()),
    }))
}

/// What a call costs that depends on its arguments alone; charged before it runs.
pub(crate) fn cost_before(name: &str, args: &[Value]) -> u64 {
    let size = |n: usize| args.get(n).map_or(1, Value::size);
    let text = |n: u64| times(n, STRING_FACTOR);
    match name {
        "check" => AUTHZ_CHECK,
        "fieldSelector" | "labelSelector" => selector_cost(size(1)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            args.first().map_or(0, traversal)
        }
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver"
        | "startsWith"
        | "endsWith"
        | "format"
        | "strings.quote" => text(size(0)),
        "replace" | "split" | "ip.isCanonical" => times(size(0), 2.0 * STRING_FACTOR),
        // Depends on what comes out.
        "join" | "slice" | "lists.range" | "reverse" => 0,
        "matches" | "find" | "findAll" => times(size(0).saturating_add(1), STRING_FACTOR)
            .saturating_mul(times(size(1), REGEX_FACTOR)),
        "contains" => text(size(0)).saturating_mul(text(size(1))),
        "ip" => match args.first() {
            Some(Value::Cidr(_)) => 1,
            _ => text(size(0)),
        },
        "containsIP" | "containsCIDR" => {
            let mut cost = text(2 * size(0));
            if name == "containsCIDR" {
                cost += text(size(0)) + 1;
            }
            if let Some(Value::String(_)) = args.get(1) {
                cost += text(size(1));
            }
            cost
        }
        "validate" => match args.first() {
            Some(Value::Format(format)) => times(size(1).saturating_add(1), STRING_FACTOR)
                .saturating_mul(times(format.regex_size(), REGEX_FACTOR)),
            _ => 1,
        },
        "bytes" | "string" => match args.first() {
            Some(Value::String(_)) if name == "bytes" => text(size(0)),
            Some(Value::Bytes(_)) if name == "string" => text(size(0)),
            _ => 1,
        },
        "@in" => match args.get(1) {
            Some(Value::List(list)) => list.len() as u64,
            _ => 1,
        },
        "_==_" if args.first().is_some_and(is_special) => 1,
        "_==_" | "_!=_" => text(size(0).min(size(1))),
        "_<_" | "_<=_" | "_>_" | "_>=_" => match args.first() {
            Some(Value::String(_) | Value::Bytes(_)) => text(size(0).min(size(1))),
            _ => 1,
        },
        "_+_" => match args.first() {
            Some(Value::String(_) | Value::Bytes(_)) => text(size(0).saturating_add(size(1))),
            _ => 1,
        },
        "flatten" => {
            let depth = match args.get(1) {
                Some(Value::Int(n)) => u64::try_from(*n).unwrap_or(0),
                _ => 1,
            };
            size(0).saturating_mul(depth).saturating_add(1 + LIST_COST)
        }
        "distinct" | "sort" => compared(args.first()),
        "@sortByAssociatedKeys" => compared(args.get(1)),
        "sets.contains" | "sets.intersects" => size(0).saturating_mul(size(1)).saturating_add(1),
        "sets.equivalent" => size(0)
            .saturating_mul(size(1))
            .saturating_mul(2)
            .saturating_add(1),
        _ => 1,
    }
}

/// What a call costs by what came out.
pub(crate) fn cost_after(name: &str, result: &Value) -> u64 {
    match name {
        "join" => times(result.size(), 2.0 * STRING_FACTOR),
        "slice" | "lists.range" | "reverse" => result.size().saturating_add(1 + LIST_COST),
        _ => 0,
    }
}

fn is_special(value: &Value) -> bool {
    matches!(
        value,
        Value::Quantity(_)
            | Value::Ip(_)
            | Value::Cidr(_)
            | Value::Format(_)
            | Value::Url(_)
            | Value::Semver(_)
            | Value::Authz(_)
    )
}

/// Of comparing all items of a list with each other.
fn compared(list: Option<&Value>) -> u64 {
    let Some(Value::List(list)) = list else {
        return 1;
    };
    let factor = match list.get(0) {
        Some(Ok(Value::String(_) | Value::Bytes(_))) => 2.0 + STRING_FACTOR,
        _ => 2.0,
    };
    let pairs = (list.len() as u64).saturating_mul(list.len() as u64);
    ((pairs as f64 * factor) as u64).saturating_add(1 + LIST_COST)
}

/// Of going through a value once.
fn traversal(value: &Value) -> u64 {
    let text = |bytes: usize| (bytes as f64 * STRING_FACTOR) as u64;
    match value {
        Value::String(t) => text(t.len()),
        Value::Bytes(b) => text(b.len()),
        Value::List(list) => traversal_of_list(list),
        Value::Map(map) => traversal_of_map(map),
        _ => 1,
    }
}

fn traversal_of_list(list: &List) -> u64 {
    list.iter()
        .flatten()
        .fold(0, |sum: u64, item| sum.saturating_add(traversal(&item)))
}

fn traversal_of_map(map: &Map) -> u64 {
    map.keys().iter().fold(0, |sum: u64, key| {
        let value = map.get(key).and_then(Result::ok);
        let value = value.as_ref().map_or(0, traversal);
        sum.saturating_add(traversal(key)).saturating_add(value)
    })
}
