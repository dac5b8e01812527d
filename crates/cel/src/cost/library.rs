//! Costs of the functions of Kubernetes' libraries and of upstream's extensions.

use super::{AUTHZ_CHECK, FORMAT_NAME, FORMAT_PATTERN, REGEX_FACTOR};
use super::{
    Call, LIST_COST, Operand, Range, STRING_FACTOR, STRUCT_COST, UNKNOWN, below, declared,
};
use crate::types::Type;

/// Size of an operand for the libraries: what was computed, else what is declared.
fn sized(operand: &Operand) -> Range {
    operand
        .size
        .or_else(|| operand.place.as_ref().and_then(declared))
        .unwrap_or(UNKNOWN)
}

fn item(list: &Operand) -> Option<Operand> {
    let ty = match &list.ty {
        Type::List(item) => (**item).clone(),
        Type::Map(entry) => entry.0.clone(),
        Type::Optional(inner) => (**inner).clone(),
        _ => return None,
    };
    let place = list.place.as_ref().map(|p| below(p, "@items"));
    Some(Operand {
        id: None,
        ty,
        size: None,
        place,
        literal: None,
    })
}

fn selector(length: Range) -> Range {
    let requirements = length.factor(0.5).factor((LIST_COST + STRUCT_COST) as f64);
    Range::fixed(LIST_COST)
        .plus(length.factor(STRING_FACTOR))
        .plus(requirements)
}

/// Cost of a selector of this length, at run time.
pub(crate) fn selector_cost(length: u64) -> u64 {
    selector(Range::fixed(length)).max
}

/// Functions of the libraries; their cost is without that of arguments.
pub(super) fn library(
    name: &str,
    overload: &str,
    target: Option<&Operand>,
    args: &[Operand],
) -> Option<Call> {
    let cost = |cost: Range| Some(Call { cost, result: None });
    let both = |cost: Range, result: Range| {
        Some(Call {
            cost,
            result: Some(result),
        })
    };
    let first = || args.first().map(sized);
    match name {
        "check" => cost(Range::fixed(AUTHZ_CHECK)),
        "serviceAccount"
        | "path"
        | "group"
        | "resource"
        | "subresource"
        | "namespace"
        | "name"
        | "allowed"
        | "reason"
        | "error"
        | "errored"
        | "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "format.named"
        | "sign"
        | "asInteger"
        | "isInteger"
        | "asApproximateFloat"
        | "isGreaterThan"
        | "isLessThan"
        | "compareTo"
        | "add"
        | "sub"
        | "major"
        | "minor"
        | "patch"
        | "getScheme"
        | "getHostname"
        | "getHost"
        | "getPort"
        | "getEscapedPath"
        | "getQuery" => cost(Range::fixed(1)),
        "fieldSelector" | "labelSelector" => cost(selector(first()?)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            let target = target?;
            let Some(item) = item(target) else {
                return cost(sized(target).factor(STRING_FACTOR));
            };
            let mut each = Range::fixed(1);
            if matches!(item.ty, Type::String | Type::Bytes) {
                each = each.plus(sized(&item).factor(STRING_FACTOR));
            }
            cost(sized(target).times(each))
        }
        "url" | "jsonpatch.escapeKey" => both(first()?.factor(STRING_FACTOR), first()?),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => {
            let size = sized(target?);
            both(size.factor(STRING_FACTOR), size)
        }
        "replace" if args.len() >= 2 => {
            let size = sized(target?);
            let result = replaced(size, sized(&args[0]), sized(&args[1]));
            both(size.factor(2.0 * STRING_FACTOR), result)
        }
        "split" => {
            let size = sized(target?);
            both(
                size.factor(2.0 * STRING_FACTOR),
                Range {
                    min: 0,
                    max: args.get(1).map_or(size.max, |a| number(Some(a), size.max)),
                },
            )
        }
        "join" => {
            let target = target?;
            let count = sized(target);
            let mut size = item(target).map_or(Range::default(), |i| count.times(sized(&i)));
            if let Some(separator) = args.first() {
                let gaps = Range {
                    min: count.min.saturating_sub(1),
                    max: count.max.saturating_sub(1),
                };
                size = size.plus(sized(separator).times(gaps));
            }
            both(size.factor(STRING_FACTOR), size)
        }
        "find" | "findAll" => {
            let size = sized(target?);
            let text = size.plus(Range::fixed(1)).factor(STRING_FACTOR);
            both(
                text.times(first()?.factor(REGEX_FACTOR)),
                Range {
                    min: 0,
                    max: size.max,
                },
            )
        }
        "ip" if overload == "cidr_ip" => cost(Range::fixed(1)),
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            cost(first()?.factor(STRING_FACTOR))
        }
        "ip.isCanonical" => cost(first()?.factor(2.0 * STRING_FACTOR)),
        "containsIP" | "containsCIDR" => {
            let bytes = Range { min: 4, max: 16 };
            let mut sum = bytes.plus(bytes).factor(STRING_FACTOR);
            if name == "containsCIDR" {
                sum = sum.plus(bytes.factor(STRING_FACTOR)).plus(Range::fixed(1));
            }
            if overload.ends_with("_string") {
                sum = sum.plus(first()?.factor(STRING_FACTOR));
            }
            cost(sum)
        }
        "validate" => cost(
            first()?
                .factor(STRING_FACTOR)
                .factor(FORMAT_PATTERN * REGEX_FACTOR),
        ),
        "_==_" => special_equality(args),
        _ => lists(overload, target, args),
    }
}

fn replaced(size: Range, old: Range, new: Range) -> Range {
    let mut count = Range::default();
    let mut kept = Range::default();
    if old.min == 0 {
        count.max = size.max.saturating_add(1);
        kept.max = size.max;
    } else if new.max <= old.min {
        kept.max = size.max;
    } else {
        count.max = size.max.div_ceil(old.min);
    }
    if old.max == 0 {
        count.min = size.min.saturating_add(1);
        kept.min = size.min;
    } else if old.max <= new.min {
        kept.min = size.min;
    } else {
        count.min = size.min.div_ceil(old.max);
    }
    count.times(new).plus(kept)
}

fn special_equality(args: &[Operand]) -> Option<Call> {
    let [a, b] = args else { return None };
    let (Type::Opaque(name), true) = (&a.ty, a.ty == b.ty) else {
        return None;
    };
    let cost = match &**name {
        "kubernetes.NamedFormat" => Range {
            min: 1,
            max: FORMAT_NAME,
        }
        .factor(STRING_FACTOR),
        "kubernetes.URL" => Range {
            min: 1,
            max: b.size.map_or(1, |s| s.max),
        }
        .factor(STRING_FACTOR),
        _ => Range::fixed(1),
    };
    Some(Call { cost, result: None })
}

/// The number that a literal argument is; negative ones count as none.
fn number(operand: Option<&Operand>, other: u64) -> u64 {
    match operand.and_then(|o| o.literal) {
        Some(n) => u64::try_from(n).unwrap_or(0),
        None => other,
    }
}

/// Functions of the list and set extensions.
fn lists(overload: &str, target: Option<&Operand>, args: &[Operand]) -> Option<Call> {
    let sizes = |factor: f64, size: Range| {
        Some(Call {
            cost: size.factor(factor).plus(Range::fixed(1 + LIST_COST)),
            result: Some(size),
        })
    };
    match overload {
        "list_slice" => {
            let size = sized(target?);
            let from = number(args.first(), 0);
            let to = number(args.get(1), size.max);
            sizes(1.0, Range::fixed(to.saturating_sub(from)))
        }
        "lists_range" => sizes(1.0, Range::fixed(number(args.first(), u64::MAX))),
        "list_reverse" => sizes(1.0, sized(target?)),
        "list_flatten" => sizes(1.0, sized(target?)),
        "list_flatten_int" => sizes(number(args.first(), u64::MAX) as f64, sized(target?)),
        "list_distinct" => {
            let size = sized(target?);
            sizes(2.0, size.times(size))
        }
        "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list" => {
            let factor = if overload == "list_sets_equivalent_list" {
                2.0
            } else {
                1.0
            };
            let pairs = sized(args.first()?).times(sized(args.get(1)?));
            Some(Call {
                cost: pairs.factor(factor).plus(Range::fixed(1)),
                result: None,
            })
        }
        other if other.ends_with("_sort") || other.ends_with("_sortByAssociatedKeys") => {
            let compared = args.first().or(target)?;
            let size = sized(compared);
            let texts = other.starts_with("list_string_") || other.starts_with("list_bytes_");
            let factor = if texts { 2.0 + STRING_FACTOR } else { 2.0 };
            sizes(factor, size.times(size))
        }
        _ => None,
    }
}
