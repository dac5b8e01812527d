//! From an object to a message.

use serde_json::{Map, Value};

use super::ProtoError;
use super::wire::{FIXED64, put_bytes, put_message, put_number, put_tag, put_varint};
use crate::model::*;
use crate::scalar;

/// Writes the message of a type. The value is one that [`crate::decode`] gave; fields that the
/// type does not name, `kind` and `apiVersion` are left out (the envelope holds those two).
///
/// # Errors
/// A value does not fit its type, or the type has no protobuf form (custom resources).
pub fn encode(table: &TypeTable, id: TypeId, value: &Value) -> Result<Vec<u8>, ProtoError> {
    let def = table.get(id);
    if !def.has_proto() {
        return Err(ProtoError::NoForm(def.name.to_string()));
    }
    let mut out = Vec::with_capacity(1024);
    object(table, id, value, "", &mut out)?;
    Ok(out)
}

fn object(
    table: &TypeTable,
    id: TypeId,
    value: &Value,
    name: &str,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    let none = Map::new();
    let map = match value {
        Value::Object(map) => map,
        Value::Null => &none,
        _ => return Err(misfit(name, "object")),
    };
    fields(table, &table.get(id).fields, 0, map, out)
}

/// Fields in the order of the table, which is that of the numbers; a run with a common outer
/// number is a message that JSON flattens.
fn fields(
    table: &TypeTable,
    mut run: &[FieldDef],
    depth: usize,
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    while let Some((first, rest)) = run.split_first() {
        if let Some(&outer) = first.proto_path.get(depth) {
            let same = |f: &&FieldDef| f.proto_path.get(depth) == Some(&outer);
            let len = run.iter().take_while(same).count();
            let (inner, rest) = run.split_at(len);
            put_message(out, outer, |out| fields(table, inner, depth + 1, map, out))?;
            run = rest;
        } else {
            if first.proto != 0 {
                field(table, first, map.get(&*first.json), out)?;
            }
            run = rest;
        }
    }
    Ok(())
}

fn field(
    table: &TypeTable,
    f: &FieldDef,
    value: Option<&Value>,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    let value = value.unwrap_or(&Value::Null);
    if value.is_null() && (f.ptr || !is_written_empty(&f.ty)) {
        return Ok(());
    }
    match (&f.ty, value) {
        (FieldType::List(item, _), Value::Array(items)) if f.wrapped => {
            put_message(out, f.proto, |out| {
                list(table, item, 1, items, &f.json, out)
            })
        }
        (FieldType::List(item, _), Value::Array(items)) => {
            list(table, item, f.proto, items, &f.json, out)
        }
        (FieldType::Map(item, _), Value::Object(map)) => {
            for (key, value) in sorted(map) {
                put_message(out, f.proto, |out| {
                    put_bytes(out, 1, key.as_bytes());
                    one(table, item, 2, value, &f.json, out)
                })?;
            }
            Ok(())
        }
        (FieldType::List(..), _) => Err(misfit(&f.json, "list")),
        (FieldType::Map(..), _) => Err(misfit(&f.json, "map")),
        _ => one(table, &f.ty, f.proto, value, &f.json, out),
    }
}

/// Keys in the order of their bytes, whatever map serde_json was built with.
fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(k, _)| *k);
    entries
}

fn list(
    table: &TypeTable,
    item: &FieldType,
    number: u32,
    items: &[Value],
    name: &str,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    items
        .iter()
        .try_for_each(|v| one(table, item, number, v, name, out))
}

/// Go values that are not pointers are written even when they are zero; lists, maps and bytes are
/// not.
fn is_written_empty(ty: &FieldType) -> bool {
    !matches!(
        ty,
        FieldType::List(..) | FieldType::Map(..) | FieldType::Bytes
    )
}

/// One value under one number. Null stands for the zero value.
fn one(
    table: &TypeTable,
    ty: &FieldType,
    number: u32,
    value: &Value,
    name: &str,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    match ty {
        FieldType::Bool => {
            let b = or_zero(value, false, Value::as_bool).ok_or_else(|| misfit(name, "bool"))?;
            put_number(out, number, u64::from(b));
        }
        FieldType::Int32 | FieldType::Int64 => {
            let n = or_zero(value, 0, Value::as_i64).ok_or_else(|| misfit(name, "integer"))?;
            put_number(out, number, n as u64);
        }
        FieldType::Float64 => {
            let n = or_zero(value, 0.0, Value::as_f64).ok_or_else(|| misfit(name, "number"))?;
            put_tag(out, number, FIXED64);
            out.extend_from_slice(&n.to_bits().to_le_bytes());
        }
        FieldType::String => put_bytes(out, number, text(value, name)?.as_bytes()),
        FieldType::Bytes => {
            let bytes = scalar::parse_bytes(text(value, name)?);
            put_bytes(
                out,
                number,
                &bytes.map_err(|what| scalar_error(name, what))?,
            );
        }
        FieldType::Time | FieldType::MicroTime => {
            put_message(out, number, |out| time(ty, value, name, out))?;
        }
        FieldType::Duration => {
            let text = if value.is_null() {
                "0s"
            } else {
                text(value, name)?
            };
            let n = api::duration::parse(text).map_err(|what| scalar_error(name, what))?;
            put_message(out, number, |out| {
                put_number(out, 1, n as u64);
                Ok(())
            })?;
        }
        FieldType::Quantity => {
            let owned;
            let text = match value {
                Value::Null => "0",
                Value::Number(n) => {
                    owned = n.to_string();
                    &owned
                }
                other => text(other, name)?,
            };
            put_message(out, number, |out| {
                put_bytes(out, 1, text.as_bytes());
                Ok(())
            })?;
        }
        FieldType::IntOrString => put_message(out, number, |out| int_or_string(value, name, out))?,
        FieldType::Any(kind) => {
            put_message(out, number, |out| any(table, *kind, value, name, out))?;
        }
        FieldType::Object(id) => {
            put_message(out, number, |out| object(table, *id, value, name, out))?;
        }
        FieldType::List(item, _) => put_message(out, number, |out| match value {
            Value::Array(items) => list(table, item, 1, items, name, out),
            Value::Null => Ok(()),
            _ => Err(misfit(name, "list")),
        })?,
        FieldType::Map(..) => return Err(misfit(name, "a map inside a list or map")),
    }
    Ok(())
}

fn or_zero<T>(value: &Value, zero: T, get: fn(&Value) -> Option<T>) -> Option<T> {
    if value.is_null() {
        Some(zero)
    } else {
        get(value)
    }
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str, ProtoError> {
    if value.is_null() {
        Ok("")
    } else {
        value.as_str().ok_or_else(|| misfit(name, "string"))
    }
}

/// Go's zero time is the empty message. Times lose what is below a second, as in JSON.
fn time(ty: &FieldType, value: &Value, name: &str, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    if value.is_null() {
        return Ok(());
    }
    let micro = *ty == FieldType::MicroTime;
    let text = text(value, name)?;
    let parsed = if micro {
        scalar::parse_micro(text)
    } else {
        scalar::parse_time(text)
    };
    let at = parsed.map_err(|what| scalar_error(name, what))?;
    let nanos = at.subsec_nanosecond();
    // jiff keeps the sign of the second in the fraction; protobuf counts the fraction upwards.
    let (seconds, nanos) = if nanos < 0 {
        (at.as_second() - 1, nanos + 1_000_000_000)
    } else {
        (at.as_second(), nanos)
    };
    put_number(out, 1, seconds as u64);
    put_number(
        out,
        2,
        if micro {
            u64::from(nanos.unsigned_abs())
        } else {
            0
        },
    );
    Ok(())
}

fn int_or_string(value: &Value, name: &str, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    let (kind, number, text) = match value {
        Value::String(s) => (1, 0, s.as_str()),
        other => {
            let n = or_zero(other, 0, Value::as_i64);
            (0, n.ok_or_else(|| misfit(name, "integer or string"))?, "")
        }
    };
    put_number(out, 1, kind);
    put_number(out, 2, number as u64);
    put_bytes(out, 3, text.as_bytes());
    Ok(())
}

fn any(
    table: &TypeTable,
    kind: AnyKind,
    value: &Value,
    name: &str,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    let schema =
        |value: &Value, number: u32, out: &mut Vec<u8>| match table.by_name(JSON_SCHEMA_PROPS) {
            Some(id) => put_message(out, number, |out| object(table, id, value, name, out)),
            None => Err(misfit(name, "schema")),
        };
    match (kind, value) {
        (AnyKind::RawExtension | AnyKind::FieldsV1 | AnyKind::Json, Value::Null) => Ok(()),
        (AnyKind::RawExtension | AnyKind::FieldsV1 | AnyKind::Json, value) => {
            put_bytes(out, 1, value.to_string().as_bytes());
            Ok(())
        }
        (AnyKind::SchemaOrArray, Value::Array(items)) => {
            items.iter().try_for_each(|v| schema(v, 2, out))
        }
        (AnyKind::SchemaOrStrings, Value::Array(items)) => {
            list(table, &FieldType::String, 2, items, name, out)
        }
        (AnyKind::SchemaOrBool, Value::Object(_)) => {
            put_number(out, 1, 1);
            schema(value, 2, out)
        }
        (AnyKind::SchemaOrBool, value) => {
            let allows = value.as_bool().unwrap_or(false);
            put_varint(out, 8);
            put_varint(out, u64::from(allows));
            Ok(())
        }
        (AnyKind::SchemaOrArray | AnyKind::SchemaOrStrings, Value::Null) => Ok(()),
        (AnyKind::SchemaOrArray | AnyKind::SchemaOrStrings, value) => schema(value, 1, out),
        (AnyKind::PreserveUnknown, _) => Err(misfit(name, "protobuf: it has no fixed form")),
    }
}

fn misfit(field: &str, ty: &'static str) -> ProtoError {
    ProtoError::Value {
        field: field.to_owned(),
        ty,
    }
}

fn scalar_error(field: &str, what: String) -> ProtoError {
    ProtoError::Scalar {
        field: field.to_owned(),
        what,
    }
}
