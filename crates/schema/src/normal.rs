//! What a Go round trip does to an object beside its scalars: empty values of `omitempty` fields
//! go, and fields without it are written even when nothing was given (`status: {}`).

use serde_json::{Map, Value};

use crate::model::*;

/// Whether a normal value of this field is written at all.
pub(crate) fn is_kept(field: &FieldDef, value: &Value) -> bool {
    field.always || field.ptr || !is_empty(&field.ty, value)
}

/// Adds what is always written and was not given.
pub(crate) fn fill(table: &TypeTable, def: &TypeDef, map: &mut Map<String, Value>) {
    for field in def.fields.iter().filter(|f| f.always) {
        if map.get(&*field.json).is_none_or(Value::is_null) {
            let zero = if field.ptr {
                Value::Null
            } else {
                zero(table, &field.ty)
            };
            map.insert(field.json.to_string(), zero);
        }
    }
}

/// Brings a normal object into the form in which protobuf storage gives it back, so that what is
/// written and what is read later are the same, whatever stores it: an empty list or map is not
/// distinguished from none. `kind` and `apiVersion` stay.
pub fn settle(table: &TypeTable, id: TypeId, value: &mut Value) {
    let Value::Object(map) = value else { return };
    let def = table.get(id);
    // Member by member: an object has few of the fields that its type has.
    map.retain(|name, value| {
        let Some(field) = def.field(name) else {
            return true;
        };
        settle_below(table, &field.ty, value);
        if value.is_null() || !is_kept(field, value) {
            return false;
        }
        let is_collection = matches!(field.ty, FieldType::List(..) | FieldType::Map(..));
        if is_collection && !field.wrapped && is_empty(&field.ty, value) {
            *value = Value::Null;
        }
        true
    });
    fill(table, def, map);
}

fn settle_below(table: &TypeTable, ty: &FieldType, value: &mut Value) {
    match (ty, value) {
        (FieldType::Object(id), value) => settle(table, *id, value),
        (FieldType::List(item, _), Value::Array(items)) => {
            for value in items {
                settle_below(table, item, value);
            }
        }
        (FieldType::Map(item, _), Value::Object(map)) => {
            for value in map.values_mut() {
                settle_below(table, item, value);
            }
        }
        _ => {}
    }
}

/// The zero value of a Go type that is not a pointer, as JSON.
pub(crate) fn zero(table: &TypeTable, ty: &FieldType) -> Value {
    match ty {
        FieldType::Bool => false.into(),
        FieldType::Int32 | FieldType::Int64 | FieldType::Float64 | FieldType::IntOrString => {
            0.into()
        }
        FieldType::String => "".into(),
        FieldType::Duration => "0s".into(),
        FieldType::Quantity => "0".into(),
        FieldType::Bytes
        | FieldType::Time
        | FieldType::MicroTime
        | FieldType::Any(_)
        | FieldType::List(..)
        | FieldType::Map(..) => Value::Null,
        FieldType::Object(id) => {
            let mut map = Map::new();
            fill(table, table.get(*id), &mut map);
            Value::Object(map)
        }
    }
}

/// What `omitempty` leaves out: also objects never, since Go has no empty struct.
fn is_empty(ty: &FieldType, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b && *ty == FieldType::Bool,
        Value::Number(n) => {
            n.as_f64() == Some(0.0)
                && matches!(ty, FieldType::Int32 | FieldType::Int64 | FieldType::Float64)
        }
        Value::String(s) => s.is_empty() && matches!(ty, FieldType::String | FieldType::Bytes),
        Value::Array(a) => a.is_empty() && matches!(ty, FieldType::List(..)),
        Value::Object(m) => m.is_empty() && matches!(ty, FieldType::Map(..)),
    }
}
