//! Equality, order and arithmetic of values.

use std::cmp::Ordering;
use std::rc::Rc;

use crate::decl::ListKind;
use crate::error::EvalError;
use crate::stack::deeper;
use crate::time;
use crate::value::{Evaluated, List, Map, Value};

fn overflow<'a>() -> Evaluated<'a> {
    Err(EvalError::new("integer overflow"))
}

/// Whether two values are equal. Numbers compare by value; other types never equal each other.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => **a == **b,
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => deeper(|| equal(a, b)),
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::List(a), Value::List(b)) => deeper(|| lists_equal(a, b)),
        (Value::Map(a), Value::Map(b)) => deeper(|| maps_equal(a, b)),
        (Value::Struct(a), Value::Struct(b)) => {
            a.name == b.name
                && a.fields.len() == b.fields.len()
                && a.fields
                    .iter()
                    .all(|(k, v)| b.fields.get(k).is_some_and(|w| deeper(|| equal(v, w))))
        }
        (Value::Quantity(a), Value::Quantity(b)) => a == b,
        (Value::Semver(a), Value::Semver(b)) => a.cmp_precedence(b) == Ordering::Equal,
        (Value::Url(a), Value::Url(b)) => a.text() == b.text(),
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Cidr(a), Value::Cidr(b)) => a == b,
        (Value::Format(a), Value::Format(b)) => a == b,
        (Value::Authz(a), Value::Authz(b)) => a == b,
        (a, b) => numbers(a, b) == Some(Some(Ordering::Equal)),
    }
}

/// The order of two numbers; inner none when one of them is NaN, outer none when they are not
/// numbers.
fn numbers(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    use Value::{Double, Int, Uint};
    Some(match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(b)),
        (Uint(a), Uint(b)) => Some(a.cmp(b)),
        (Double(a), Double(b)) => a.partial_cmp(b),
        (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Int(a), Double(b)) => with_double(i128::from(*a), *b),
        (Uint(a), Double(b)) => with_double(i128::from(*a), *b),
        (Double(a), Int(b)) => with_double(i128::from(*b), *a).map(Ordering::reverse),
        (Double(a), Uint(b)) => with_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => return None,
    })
}

fn with_double(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    if b >= 1.8446744073709552e19 {
        return Some(Ordering::Less);
    }
    if b < -9.223_372_036_854_776e18 {
        return Some(Ordering::Greater);
    }
    let whole = b.floor();
    Some(match a.cmp(&(whole as i128)) {
        Ordering::Equal if b > whole => Ordering::Less,
        order => order,
    })
}

fn lists_equal(a: &List, b: &List) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.kind() {
        ListKind::Atomic => a.iter().zip(b.iter()).all(|pair| match pair {
            (Ok(a), Ok(b)) => equal(&a, &b),
            _ => false,
        }),
        // Lists of upstream's maps and sets have no order.
        ListKind::Set => a.iter().flatten().all(|a| contains(b, &a)),
        ListKind::Map(keys) => a.iter().flatten().all(|a| {
            let found = b.iter().flatten().find(|b| same_keys(keys, &a, b));
            found.is_some_and(|b| equal(&a, &b))
        }),
    }
}

pub(crate) fn contains(list: &List, value: &Value) -> bool {
    list.iter().flatten().any(|item| equal(&item, value))
}

fn same_keys(keys: &[std::sync::Arc<str>], a: &Value, b: &Value) -> bool {
    let (Value::Map(a), Value::Map(b)) = (a, b) else {
        return false;
    };
    keys.iter().all(|key| {
        let Some(key) = crate::decl::escape(key) else {
            return true;
        };
        let key = Value::text(key);
        match (a.get(&key), b.get(&key)) {
            (Some(Ok(a)), Some(Ok(b))) => equal(&a, &b),
            (None, None) => true,
            _ => false,
        }
    })
}

fn maps_equal(a: &Map, b: &Map) -> bool {
    if let (Map::Object(a, decl), Map::Object(b, other)) = (a, b)
        && std::ptr::eq(*decl, *other)
        && std::ptr::eq(*a, *b)
    {
        return true;
    }
    let keys = a.keys();
    keys.len() == b.keys().len()
        && keys.iter().all(|key| match (a.get(key), b.get(key)) {
            (Some(Ok(a)), Some(Ok(b))) => equal(&a, &b),
            _ => false,
        })
}

/// The order of two values of one ordered type.
pub(crate) fn compare(a: &Value, b: &Value) -> Result<Ordering, EvalError> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok((**a).cmp(&**b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
        (a, b) => match numbers(a, b) {
            Some(Some(order)) => Ok(order),
            Some(None) => Err(EvalError::new("NaN values cannot be ordered")),
            None => Err(EvalError::no_overload()),
        },
    }
}

pub(crate) fn add<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [a, b] = args else {
        return Err(EvalError::no_overload());
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map_or_else(overflow, int),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map_or_else(uint_overflow, uint),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Value::text(text))
        }
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&a[..], &b[..]].concat().into())),
        (Value::List(a), Value::List(b)) => Ok(Value::List(joined(a, b))),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map_or_else(duration_overflow, duration)
        }
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            moved(*t, i128::from(*d))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn moved<'a>(time: jiff::Timestamp, nanos: i128) -> Evaluated<'a> {
    time::shifted(time, nanos)
        .map(Value::Timestamp)
        .ok_or_else(|| EvalError::new("timestamp overflow"))
}

fn joined<'a>(a: &List<'a>, b: &List<'a>) -> List<'a> {
    match a.kind() {
        ListKind::Atomic if b.is_empty() => a.clone(),
        ListKind::Atomic if a.is_empty() => b.clone(),
        ListKind::Atomic => {
            let len = a.len() + b.len();
            List::Joined(Rc::new((a.clone(), b.clone())), len)
        }
        ListKind::Set => {
            let mut items: Vec<Value> = a.iter().flatten().collect();
            let more = b.iter().flatten().filter(|item| !contains(a, item));
            items.extend(more);
            a.like(items)
        }
        ListKind::Map(keys) => {
            let mut items: Vec<Value> = a.iter().flatten().collect();
            for item in b.iter().flatten() {
                match items.iter_mut().find(|have| same_keys(keys, have, &item)) {
                    Some(have) => *have = item,
                    None => items.push(item),
                }
            }
            a.like(items)
        }
    }
}

fn int<'a>(n: i64) -> Evaluated<'a> {
    Ok(Value::Int(n))
}
fn uint<'a>(n: u64) -> Evaluated<'a> {
    Ok(Value::Uint(n))
}
fn duration<'a>(n: i64) -> Evaluated<'a> {
    Ok(Value::Duration(n))
}
fn uint_overflow<'a>() -> Evaluated<'a> {
    Err(EvalError::new("unsigned integer overflow"))
}
fn duration_overflow<'a>() -> Evaluated<'a> {
    Err(EvalError::new("duration overflow"))
}

pub(crate) fn subtract<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_sub(*b).map_or_else(overflow, int),
        [Value::Uint(a), Value::Uint(b)] => a.checked_sub(*b).map_or_else(uint_overflow, uint),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_sub(*b).map_or_else(duration_overflow, duration)
        }
        [Value::Timestamp(t), Value::Duration(d)] => moved(*t, -i128::from(*d)),
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map_or_else(|_| duration_overflow(), duration)
        }
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn multiply<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_mul(*b).map_or_else(overflow, int),
        [Value::Uint(a), Value::Uint(b)] => a.checked_mul(*b).map_or_else(uint_overflow, uint),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn divide<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new("division by zero"))
        }
        [Value::Int(a), Value::Int(b)] => a.checked_div(*b).map_or_else(overflow, int),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn modulo<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new("modulus by zero"))
        }
        [Value::Int(a), Value::Int(b)] => a.checked_rem(*b).map_or_else(overflow, int),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn negate<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(a)] => a.checked_neg().map_or_else(overflow, int),
        [Value::Double(a)] => Ok(Value::Double(-a)),
        _ => Err(EvalError::no_overload()),
    }
}

/// `x in container`.
pub(crate) fn is_in<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [item, Value::List(list)] => Ok(Value::Bool(contains(list, item))),
        [key, Value::Map(map)] => Ok(Value::Bool(map.get(key).is_some())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn size<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let count = match args {
        [Value::String(text)] => text.chars().count(),
        [Value::Bytes(bytes)] => bytes.len(),
        [Value::List(list)] => list.len(),
        [Value::Map(map)] => map.len(),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(count as i64))
}
