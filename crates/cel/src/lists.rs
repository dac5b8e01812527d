//! Functions on lists, sets and optional values.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::error::EvalError;
use crate::ops::{add, compare, contains, equal};
use crate::value::{Evaluated, List, Map, Value};

/// Most items of a list that `lists.range` makes: what a call may cost at most.
const MAX_RANGE: i64 = 1_000_000;

fn list<'v, 'a>(args: &'v [Value<'a>]) -> Result<&'v List<'a>, EvalError> {
    match args.first() {
        Some(Value::List(list)) => Ok(list),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), item] = args else {
        return Err(EvalError::no_overload());
    };
    let found = list.iter().position(|v| v.is_ok_and(|v| equal(&v, item)));
    Ok(Value::Int(found.map_or(-1, |n| n as i64)))
}

pub(crate) fn last_index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), item] = args else {
        return Err(EvalError::no_overload());
    };
    let mut found = -1;
    for (i, value) in list.iter().enumerate() {
        if equal(&value?, item) {
            found = i as i64;
        }
    }
    Ok(Value::Int(found))
}

pub(crate) fn is_sorted<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut before: Option<Value> = None;
    for item in list(args)?.iter() {
        let item = item?;
        if let Some(before) = &before
            && compare(before, &item)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

pub(crate) fn max<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    extreme(args, "max", Ordering::Less)
}

pub(crate) fn min<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    extreme(args, "min", Ordering::Greater)
}

fn extreme<'a>(args: &[Value<'a>], name: &str, replaced: Ordering) -> Evaluated<'a> {
    let mut best: Option<Value> = None;
    for item in list(args)?.iter() {
        let item = item?;
        let better = match &best {
            None => true,
            Some(best) => compare(best, &item)? == replaced,
        };
        if better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

/// The sum of a list; `zero` is that of an empty one, by the type that the checker found.
pub(crate) fn sum<'a>(args: &[Value<'a>], overload: &str) -> Evaluated<'a> {
    let mut total = match overload {
        "list_uint_sum_uint" => Value::Uint(0),
        "list_double_sum_double" => Value::Double(0.0),
        "list_duration_sum_duration" => Value::Duration(0),
        _ => match list(args)?.get(0) {
            Some(Ok(Value::Double(_))) => Value::Double(0.0),
            Some(Ok(Value::Uint(_))) => Value::Uint(0),
            Some(Ok(Value::Duration(_))) => Value::Duration(0),
            _ => Value::Int(0),
        },
    };
    for item in list(args)?.iter() {
        total = add(&[total, item?])?;
    }
    Ok(total)
}

pub(crate) fn slice<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), Value::Int(from), Value::Int(to)] = args else {
        return Err(EvalError::no_overload());
    };
    let wrong = |what: String| EvalError::new(format!("cannot slice({from}, {to}), {what}"));
    if *from < 0 || *to < 0 {
        return Err(wrong("negative indexes not supported".into()));
    }
    if from > to {
        return Err(wrong(
            "start index must be less than or equal to end index".into(),
        ));
    }
    if *to > list.len() as i64 {
        return Err(wrong(format!("list is length {}", list.len())));
    }
    let (from, to) = (*from as usize, *to as usize);
    if let List::Json(items, decl) = list {
        return Ok(Value::List(List::Json(&items[from..to], decl)));
    }
    let items: Result<Vec<_>, _> = list.iter().skip(from).take(to - from).collect();
    Ok(Value::list(items?))
}

pub(crate) fn flatten<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let depth = match args.get(1) {
        None => 1,
        Some(Value::Int(n)) if *n < 0 => {
            return Err(EvalError::new("level must be non-negative"));
        }
        Some(Value::Int(n)) => *n,
        Some(_) => return Err(EvalError::no_overload()),
    };
    let mut out = Vec::new();
    flatten_into(list(args)?, depth, &mut out)?;
    Ok(Value::list(out))
}

fn flatten_into<'a>(
    list: &List<'a>,
    depth: i64,
    out: &mut Vec<Value<'a>>,
) -> Result<(), EvalError> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            other if out.len() as i64 >= MAX_RANGE => {
                drop(other);
                return Err(EvalError::CostExceeded);
            }
            other => out.push(other),
        }
    }
    Ok(())
}

pub(crate) fn range<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(n)] if *n > MAX_RANGE => Err(EvalError::CostExceeded),
        [Value::Int(n)] => Ok(Value::list((0..*n).map(Value::Int).collect())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn reverse<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut items = list(args)?.iter().collect::<Result<Vec<_>, _>>()?;
    items.reverse();
    Ok(Value::list(items))
}

pub(crate) fn distinct<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut out: Vec<Value> = Vec::new();
    for item in list(args)?.iter() {
        let item = item?;
        if !out.iter().any(|have| equal(have, &item)) {
            out.push(item);
        }
    }
    Ok(Value::list(out))
}

pub(crate) fn sort<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let list = list(args)?;
    sort_by(&[Value::List(list.clone()), Value::List(list.clone())])
}

/// A list in the order of the keys beside it.
pub(crate) fn sort_by<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), Value::List(keys)] = args else {
        return Err(EvalError::no_overload());
    };
    if list.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let mut pairs = Vec::with_capacity(list.len());
    for (key, item) in keys.iter().zip(list.iter()) {
        pairs.push((key?, item?));
    }
    if let Some((first, _)) = pairs.first() {
        let same = |v: &Value| std::mem::discriminant(v) == std::mem::discriminant(first);
        if !pairs.iter().all(|(key, _)| same(key)) {
            return Err(EvalError::new("list elements must have the same type"));
        }
        compare(first, first).map_err(|_| EvalError::new("list elements must be comparable"))?;
    }
    // A total order even of doubles that have none.
    pairs.sort_by(|a, b| compare(&a.0, &b.0).unwrap_or(Ordering::Equal));
    Ok(Value::list(
        pairs.into_iter().map(|(_, item)| item).collect(),
    ))
}

pub(crate) fn first<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    at(list(args)?, 0)
}

pub(crate) fn last<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let list = list(args)?;
    at(list, list.len().wrapping_sub(1))
}

fn at<'a>(list: &List<'a>, n: usize) -> Evaluated<'a> {
    match list.get(n) {
        Some(item) => Ok(Value::some(item?)),
        None => Ok(Value::Optional(None)),
    }
}

pub(crate) fn sets_contains<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(a), Value::List(b)] = args else {
        return Err(EvalError::no_overload());
    };
    Ok(Value::Bool(b.iter().flatten().all(|v| contains(a, &v))))
}

pub(crate) fn sets_equivalent<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(a), Value::List(b)] = args else {
        return Err(EvalError::no_overload());
    };
    let all = |a: &List, b: &List| b.iter().flatten().all(|v| contains(a, &v));
    Ok(Value::Bool(all(a, b) && all(b, a)))
}

pub(crate) fn sets_intersects<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(a), Value::List(b)] = args else {
        return Err(EvalError::no_overload());
    };
    Ok(Value::Bool(a.iter().flatten().any(|v| contains(b, &v))))
}

/// Adds entries to a map that is the only one of its kind in most cases, and then not copied.
pub(crate) fn map_insert<'a>(
    map: Value<'a>,
    entries: Vec<(Value<'a>, Value<'a>)>,
) -> Evaluated<'a> {
    let mut map = match map {
        Value::Map(Map::Owned(map)) => map,
        Value::Map(other) => {
            let mut owned = BTreeMap::new();
            for key in other.keys() {
                if let (Some(k), Some(value)) = (key.key(), other.get(&key)) {
                    owned.insert(k, (key, value?));
                }
            }
            Rc::new(owned)
        }
        _ => return Err(EvalError::no_overload()),
    };
    let into = Rc::make_mut(&mut map);
    for (key, value) in entries {
        let k = key
            .key()
            .ok_or_else(|| EvalError::new("unsupported key type"))?;
        if into.contains_key(&k) {
            let key = crate::convert::to_text(&key);
            return Err(EvalError::new(format!(
                "insert failed: key {key} already exists"
            )));
        }
        into.insert(k, (key, value));
    }
    Ok(Value::Map(Map::Owned(map)))
}

pub(crate) fn optional_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [value] => Ok(Value::some(value.clone())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn optional_of_non_zero<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [value] if is_zero(value) => Ok(Value::Optional(None)),
        args => optional_of(args),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(b) => !b,
        Value::Int(n) | Value::Duration(n) => *n == 0,
        Value::Uint(n) => *n == 0,
        Value::Double(n) => *n == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Struct(s) => s.fields.is_empty(),
        _ => false,
    }
}

pub(crate) fn optional_none<'a>(_: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Optional(None))
}

pub(crate) fn optional_value<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(Some(inner))] => Ok((**inner).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn has_value<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
        _ => Err(EvalError::no_overload()),
    }
}

/// `optional.unwrap(list)`.
pub(crate) fn unwrap<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut out = Vec::new();
    for item in list(args)?.iter() {
        match item? {
            Value::Optional(Some(inner)) => out.push((*inner).clone()),
            Value::Optional(None) => {}
            other => {
                let text = crate::convert::to_text(&other);
                return Err(EvalError::new(format!("value {text} is not optional")));
            }
        }
    }
    Ok(Value::list(out))
}
