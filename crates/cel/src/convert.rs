//! Conversions between types, and how values are written as text.

use base64::Engine;
use serde_json::Value as Json;

use crate::error::EvalError;
use crate::time;
use crate::value::{Evaluated, List, Map, Str, Value};

/// How a value is printed by `string()` and in errors.
pub(crate) fn to_text(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => double_text(*n),
        Value::String(text) | Value::Type(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Duration(nanos) => time::format_duration(*nanos),
        Value::Timestamp(time) => time.to_string(),
        Value::Quantity(q) => q.to_string(),
        Value::Semver(v) => v.to_string(),
        Value::Url(url) => url.text().to_owned(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => cidr.to_string(),
        Value::Format(format) => format.name().to_owned(),
        Value::Optional(None) => "optional.none()".into(),
        other => other.to_json().to_string(),
    }
}

impl Value<'_> {
    /// Where objects that an expression made do not stand under the fields that their types are
    /// named after: `Object{spec: Object.other{}}`.
    pub fn misplaced(&self) -> Vec<String> {
        let mut found = Vec::new();
        let name = match self {
            Self::Struct(made) => made.name.to_string(),
            _ => String::new(),
        };
        self.place(&name, &mut found);
        found
    }

    fn place(&self, path: &str, found: &mut Vec<String>) {
        match self {
            Self::Struct(made) => {
                if *made.name != *path {
                    found.push(format!(
                        "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                        &*made.name
                    ));
                }
                for (field, value) in &made.fields {
                    value.place(&format!("{path}.{field}"), found);
                }
            }
            // What comes of a request holds nothing that was made.
            Self::List(List::Owned(items)) => items.iter().for_each(|i| i.place(path, found)),
            Self::List(list @ List::Joined(..)) => {
                list.iter().flatten().for_each(|i| i.place(path, found));
            }
            Self::Map(Map::Owned(entries)) => {
                entries.values().for_each(|(_, v)| v.place(path, found));
            }
            Self::Optional(Some(inner)) => inner.place(path, found),
            _ => {}
        }
    }

    /// The value as JSON; numbers that JSON has no form of, and values of libraries, as texts.
    pub fn to_json(&self) -> Json {
        crate::stack::deeper(|| self.json())
    }

    fn json(&self) -> Json {
        match self {
            Self::Null | Self::Optional(None) => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(n) => (*n).into(),
            Self::Uint(n) => (*n).into(),
            Self::Double(n) => (*n).into(),
            Self::Bytes(bytes) => base64::engine::general_purpose::STANDARD
                .encode(bytes)
                .into(),
            Self::Optional(Some(inner)) => inner.to_json(),
            Self::List(list) => list
                .iter()
                .map(|v| v.map_or(Json::Null, |v| v.to_json()))
                .collect(),
            Self::Map(Map::Json(map, _) | Map::Object(map, _)) => Json::Object((*map).clone()),
            Self::Map(Map::Owned(map)) => map
                .values()
                .map(|(k, v)| (to_text(k), v.to_json()))
                .collect(),
            Self::Struct(s) => s
                .fields
                .iter()
                .map(|(k, v)| {
                    let name = crate::decl::unescape(k).unwrap_or_else(|| k.to_string());
                    (name, v.to_json())
                })
                .collect(),
            other => to_text(other).into(),
        }
    }
}

/// A double as Go's shortest form writes it.
pub(crate) fn double_text(n: f64) -> String {
    if n.is_nan() {
        return "NaN".into();
    }
    if n.is_infinite() {
        return if n > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let magnitude = n.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{n:e}");
        let (head, power) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match power.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', power),
        };
        return format!("{head}e{sign}{digits:0>2}");
    }
    format!("{n}")
}

fn wrong<'a>(value: &Value, to: &str) -> Evaluated<'a> {
    Err(EvalError::new(format!(
        "type conversion error from '{}' to '{to}'",
        &*value.type_name()
    )))
}

/// A number out of range.
fn range<'a>(what: &'static str) -> Evaluated<'a> {
    Err(EvalError::new(what))
}

const INT_RANGE: &str = "integer overflow";
const UINT_RANGE: &str = "unsigned integer overflow";

fn one<'v, 'a>(args: &'v [Value<'a>]) -> Result<&'v Value<'a>, EvalError> {
    args.first().ok_or_else(EvalError::no_overload)
}

pub(crate) fn int<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let n = match one(args)? {
        Value::Int(n) => *n,
        Value::Uint(n) => match i64::try_from(*n) {
            Ok(n) => n,
            Err(_) => return range(INT_RANGE),
        },
        // 2^63 itself is out of range, as is -2^63 when it comes from a double.
        Value::Double(n) if n.abs() < 9.223_372_036_854_776e18 => *n as i64,
        Value::Double(_) => return range(INT_RANGE),
        Value::String(text) => match text.parse() {
            Ok(n) => n,
            Err(_) => return wrong(&args[0], "int"),
        },
        Value::Timestamp(time) => time.as_second(),
        Value::Duration(nanos) => *nanos,
        other => return wrong(other, "int"),
    };
    Ok(Value::Int(n))
}

pub(crate) fn uint<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let n = match one(args)? {
        Value::Uint(n) => *n,
        Value::Int(n) => match u64::try_from(*n) {
            Ok(n) => n,
            Err(_) => return range(UINT_RANGE),
        },
        Value::Double(n) if *n >= 0.0 && *n < 1.8446744073709552e19 => *n as u64,
        Value::Double(_) => return range(UINT_RANGE),
        Value::String(text) => match text.parse() {
            Ok(n) => n,
            Err(_) => return wrong(&args[0], "uint"),
        },
        other => return wrong(other, "uint"),
    };
    Ok(Value::Uint(n))
}

pub(crate) fn double<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Double(match one(args)? {
        Value::Double(n) => *n,
        Value::Int(n) => *n as f64,
        Value::Uint(n) => *n as f64,
        Value::String(text) => match text.parse() {
            Ok(n) => n,
            Err(_) => return wrong(&args[0], "double"),
        },
        other => return wrong(other, "double"),
    }))
}

pub(crate) fn boolean<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(match one(args)? {
        Value::Bool(b) => *b,
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return wrong(&args[0], "bool"),
        },
        other => return wrong(other, "bool"),
    }))
}

pub(crate) fn bytes<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match one(args)? {
        Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
        Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
        other => wrong(other, "bytes"),
    }
}

pub(crate) fn string<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match one(args)? {
        Value::String(text) => Ok(Value::String(text.clone())),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::text(text.to_owned())),
            Err(_) => Err(EvalError::new(
                "invalid UTF-8 in bytes, cannot convert to string",
            )),
        },
        value @ (Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::Duration(_)
        | Value::Timestamp(_)
        | Value::Ip(_)
        | Value::Cidr(_)) => Ok(Value::text(to_text(value))),
        other => wrong(other, "string"),
    }
}

pub(crate) fn duration<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Duration(match one(args)? {
        Value::Duration(n) | Value::Int(n) => *n,
        Value::String(text) => match api::duration::parse(text) {
            Ok(nanos) => nanos,
            Err(_) => return wrong(&args[0], "google.protobuf.Duration"),
        },
        other => return wrong(other, "google.protobuf.Duration"),
    }))
}

pub(crate) fn timestamp<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let found = match one(args)? {
        Value::Timestamp(time) => Some(*time),
        Value::Int(seconds) => match time::from_seconds(*seconds) {
            Some(time) => Some(time),
            None => return range("timestamp overflow"),
        },
        Value::String(text) => time::parse_timestamp(text),
        _ => None,
    };
    match found {
        Some(time) => Ok(Value::Timestamp(time)),
        None => wrong(one(args)?, "google.protobuf.Timestamp"),
    }
}

pub(crate) fn dynamic<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    one(args).cloned()
}

pub(crate) fn type_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let name: Str = one(args)?.type_name();
    Ok(Value::Type(name))
}

/// `getHours()` and its kin.
pub(crate) fn time_part<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let zone = match args {
        [_] => None,
        [_, Value::String(zone)] => Some(&**zone),
        _ => return Err(EvalError::no_overload()),
    };
    let n = match (&args[0], zone) {
        (Value::Duration(nanos), None) => match name {
            "getHours" => nanos / (3600 * time::SECOND),
            "getMinutes" => nanos / (60 * time::SECOND),
            "getSeconds" => nanos / time::SECOND,
            "getMilliseconds" => nanos / 1_000_000,
            _ => return Err(EvalError::no_overload()),
        },
        (Value::Timestamp(time), zone) => {
            let local = time::in_zone(*time, zone).map_err(EvalError::new)?;
            i64::from(match name {
                "getFullYear" => i32::from(local.year()),
                "getMonth" => i32::from(local.month()) - 1,
                "getDate" => i32::from(local.day()),
                "getDayOfMonth" => i32::from(local.day()) - 1,
                "getDayOfYear" => i32::from(local.day_of_year()) - 1,
                "getDayOfWeek" => i32::from(local.weekday().to_sunday_zero_offset()),
                "getHours" => i32::from(local.hour()),
                "getMinutes" => i32::from(local.minute()),
                "getSeconds" => i32::from(local.second()),
                _ => i32::from(local.millisecond()),
            })
        }
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(n))
}
