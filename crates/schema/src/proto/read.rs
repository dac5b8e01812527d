//! From a message to an object.

use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::wire::{BYTES, FIXED32, FIXED64, Raw, Reader, VARINT};
use super::{MAGIC, ProtoError, unwrap_unknown};
use crate::decode::budget::{self, Budget, TooMuch};
use crate::model::*;
use crate::{decode, normal, scalar};

/// Messages inside messages; only schemas of custom resources go deeper than a dozen. Each is up to
/// two levels of JSON, whose own bound is 100.
const MAX_DEPTH: u32 = 50;

/// Reads a message of a type (the `raw` of the envelope). The object comes out as
/// [`crate::decode`] would give it: empty values dropped, fields that are always written filled.
/// Unknown numbers are skipped. `kind` and `apiVersion` are the caller's to set.
///
/// # Errors
/// The bytes are not such a message.
pub fn decode(table: &TypeTable, id: TypeId, bytes: &[u8]) -> Result<Value, ProtoError> {
    let mut read = Read {
        table,
        depth: 0,
        budget: Budget::new(),
    };
    let value = read.object(id, bytes)?;
    // Raw JSON inside may have added its own depth to the messages'.
    if budget::depth(&value) > budget::MAX_DEPTH {
        return Err(ProtoError::TooMuch(TooMuch::Depth));
    }
    Ok(value)
}

struct Read<'t> {
    table: &'t TypeTable,
    depth: u32,
    budget: Budget,
}

impl Read<'_> {
    fn object(&mut self, id: TypeId, bytes: &[u8]) -> Result<Value, ProtoError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ProtoError::Depth);
        }
        self.budget.container().map_err(ProtoError::TooMuch)?;
        let def = self.table.get(id);
        let mut map = Map::new();
        self.fields(&def.fields, 0, bytes, &mut map)?;
        normal::fill(self.table, def, &mut map);
        self.depth -= 1;
        Ok(Value::Object(map))
    }

    fn fields(
        &mut self,
        run: &[FieldDef],
        depth: usize,
        bytes: &[u8],
        map: &mut Map<String, Value>,
    ) -> Result<(), ProtoError> {
        let mut reader = Reader::new(bytes);
        while let Some((number, raw)) = reader.field()? {
            let of = |f: &FieldDef| f.proto_path.get(depth).copied().unwrap_or(f.proto) == number;
            let Some(start) = run.iter().position(of) else {
                continue;
            };
            let found = run.get(start..).unwrap_or_default();
            let Some(first) = found.first() else { continue };
            if first.proto_path.len() > depth {
                let len = found.iter().take_while(|f| of(f)).count();
                let inner = found.get(..len).unwrap_or_default();
                self.fields(inner, depth + 1, message(raw, number)?, map)?;
            } else {
                self.field(first, raw, map)?;
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        f: &FieldDef,
        raw: Raw<'_>,
        map: &mut Map<String, Value>,
    ) -> Result<(), ProtoError> {
        match &f.ty {
            FieldType::List(item, _) if f.wrapped => {
                let items = self.items(item, message(raw, f.proto)?, &f.json)?;
                if normal::is_kept(f, &items) {
                    map.insert(f.json.to_string(), items);
                }
            }
            FieldType::List(item, _) => {
                let slot = map
                    .entry(&*f.json)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = slot else {
                    return Ok(());
                };
                self.repeated(item, raw, f, items)?;
            }
            FieldType::Map(item, _) => {
                let (key, value) = self.entry(item, message(raw, f.proto)?, &f.json)?;
                let slot = map
                    .entry(&*f.json)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = slot {
                    entries.insert(key, value);
                }
            }
            ty => {
                let value = self.one(ty, raw, f.proto, &f.json)?;
                if normal::is_kept(f, &value) {
                    map.insert(f.json.to_string(), value);
                } else {
                    // The last of several counts.
                    map.remove(&*f.json);
                }
            }
        }
        Ok(())
    }

    /// One item, or several packed numbers.
    fn repeated(
        &mut self,
        item: &FieldType,
        raw: Raw<'_>,
        f: &FieldDef,
        items: &mut Vec<Value>,
    ) -> Result<(), ProtoError> {
        let number = matches!(item, FieldType::Int32 | FieldType::Int64 | FieldType::Bool);
        if let (Raw::Bytes(bytes), true) = (raw, number) {
            let mut packed = Reader::new(bytes);
            while let Some(n) = packed.packed()? {
                items.push(self.one(item, Raw::Varint(n), f.proto, &f.json)?);
            }
        } else {
            items.push(self.one(item, raw, f.proto, &f.json)?);
        }
        Ok(())
    }

    fn items(&mut self, item: &FieldType, bytes: &[u8], name: &str) -> Result<Value, ProtoError> {
        let mut items = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, raw)) = reader.field()? {
            if number == 1 {
                items.push(self.one(item, raw, number, name)?);
            }
        }
        Ok(Value::Array(items))
    }

    fn entry(
        &mut self,
        item: &FieldType,
        bytes: &[u8],
        name: &str,
    ) -> Result<(String, Value), ProtoError> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, raw)) = reader.field()? {
            match number {
                1 => key = text(raw, number, name)?,
                2 => value = Some(self.one(item, raw, number, name)?),
                _ => {}
            }
        }
        Ok((key, value.unwrap_or_else(|| normal::zero(self.table, item))))
    }

    fn one(
        &mut self,
        ty: &FieldType,
        raw: Raw<'_>,
        number: u32,
        name: &str,
    ) -> Result<Value, ProtoError> {
        self.budget.scalar().map_err(ProtoError::TooMuch)?;
        Ok(match ty {
            FieldType::Bool => (varint(raw, number)? != 0).into(),
            FieldType::Int32 => (varint(raw, number)? as i32).into(),
            FieldType::Int64 => (varint(raw, number)? as i64).into(),
            FieldType::Float64 => match raw {
                Raw::Fixed64(bits) => float(f64::from_bits(bits)),
                other => return Err(wrong_wire(other, number)),
            },
            FieldType::String => text(raw, number, name)?.into(),
            FieldType::Bytes => scalar::format_bytes(message(raw, number)?).into(),
            FieldType::Time | FieldType::MicroTime => time(ty, message(raw, number)?, name)?,
            FieldType::Duration => {
                let n = numbered(message(raw, number)?, 1)?;
                scalar::format_duration(n.unwrap_or(0) as i64).into()
            }
            FieldType::Quantity => {
                let given = inner_text(message(raw, number)?, 1, name)?;
                let text = given.as_deref().filter(|t| !t.is_empty()).unwrap_or("0");
                scalar::quantity(text)
                    .map_err(|what| scalar_error(name, what))?
                    .into()
            }
            FieldType::IntOrString => int_or_string(message(raw, number)?, name)?,
            FieldType::Any(kind) => self.any(*kind, message(raw, number)?, name)?,
            FieldType::Object(id) => self.object(*id, message(raw, number)?)?,
            FieldType::List(item, _) => self.items(item, message(raw, number)?, name)?,
            FieldType::Map(..) => return Err(wrong_wire(raw, number)),
        })
    }

    fn any(&mut self, kind: AnyKind, bytes: &[u8], name: &str) -> Result<Value, ProtoError> {
        let mut reader = Reader::new(bytes);
        let mut out = Value::Null;
        let mut list = Vec::new();
        while let Some((number, raw)) = reader.field()? {
            match (kind, number) {
                (AnyKind::RawExtension | AnyKind::FieldsV1 | AnyKind::Json, 1) => {
                    out = self.raw(message(raw, number)?, name)?;
                }
                (AnyKind::SchemaOrArray | AnyKind::SchemaOrStrings, 1)
                | (AnyKind::SchemaOrBool, 2) => out = self.schema(message(raw, number)?)?,
                (AnyKind::SchemaOrArray, 2) => list.push(self.schema(message(raw, number)?)?),
                (AnyKind::SchemaOrStrings, 2) => list.push(text(raw, number, name)?.into()),
                (AnyKind::SchemaOrBool, 1) if !out.is_object() => {
                    out = (varint(raw, number)? != 0).into();
                }
                _ => {}
            }
        }
        if kind == AnyKind::SchemaOrBool && out.is_null() {
            out = false.into();
        }
        Ok(if list.is_empty() {
            out
        } else {
            Value::Array(list)
        })
    }

    fn schema(&mut self, bytes: &[u8]) -> Result<Value, ProtoError> {
        match self.table.by_name(JSON_SCHEMA_PROPS) {
            Some(id) => self.object(id, bytes),
            None => Ok(Value::Null),
        }
    }

    /// Raw bytes hold JSON, or a whole enveloped body.
    fn raw(&mut self, bytes: &[u8], name: &str) -> Result<Value, ProtoError> {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        if !bytes.starts_with(&MAGIC) {
            let parsed = decode::untyped(bytes);
            let value = parsed.map_err(|e| scalar_error(name, e.to_string()))?.value;
            self.budget.copy(&value).map_err(ProtoError::TooMuch)?;
            return Ok(value);
        }
        let inner = unwrap_unknown(bytes)?;
        let (group, version) = inner
            .api_version
            .split_once('/')
            .unwrap_or(("", &inner.api_version));
        let id = self
            .table
            .by_gvk(group, version, &inner.kind)
            .ok_or_else(|| {
                scalar_error(
                    name,
                    format!("no kind {:?} in {:?}", inner.kind, inner.api_version),
                )
            })?;
        let mut value = self.object(id, &inner.raw)?;
        if let Value::Object(map) = &mut value {
            map.insert("apiVersion".to_owned(), inner.api_version.into());
            map.insert("kind".to_owned(), inner.kind.into());
        }
        Ok(value)
    }
}

fn wrong_wire(raw: Raw<'_>, number: u32) -> ProtoError {
    let wire = match raw {
        Raw::Varint(_) => VARINT,
        Raw::Fixed64(_) => FIXED64,
        Raw::Fixed32 => FIXED32,
        Raw::Bytes(_) => BYTES,
    };
    ProtoError::Wire { number, wire }
}

fn varint(raw: Raw<'_>, number: u32) -> Result<u64, ProtoError> {
    match raw {
        Raw::Varint(v) => Ok(v),
        other => Err(wrong_wire(other, number)),
    }
}

fn message(raw: Raw<'_>, number: u32) -> Result<&[u8], ProtoError> {
    match raw {
        Raw::Bytes(b) => Ok(b),
        other => Err(wrong_wire(other, number)),
    }
}

fn text(raw: Raw<'_>, number: u32, name: &str) -> Result<String, ProtoError> {
    let bytes = message(raw, number)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtoError::Utf8(name.to_owned()))
}

/// The number under `want` in a small message.
fn numbered(bytes: &[u8], want: u32) -> Result<Option<u64>, ProtoError> {
    let mut reader = Reader::new(bytes);
    let mut out = None;
    while let Some((number, raw)) = reader.field()? {
        if number == want {
            out = Some(varint(raw, number)?);
        }
    }
    Ok(out)
}

fn inner_text(bytes: &[u8], want: u32, name: &str) -> Result<Option<String>, ProtoError> {
    let mut reader = Reader::new(bytes);
    let mut out = None;
    while let Some((number, raw)) = reader.field()? {
        if number == want {
            out = Some(text(raw, number, name)?);
        }
    }
    Ok(out)
}

fn time(ty: &FieldType, bytes: &[u8], name: &str) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let seconds = numbered(bytes, 1)?.unwrap_or(0) as i64;
    let nanos = numbered(bytes, 2)?.unwrap_or(0) as i32;
    let at = Timestamp::new(seconds, nanos).map_err(|e| scalar_error(name, e.to_string()))?;
    let micro = *ty == FieldType::MicroTime;
    Ok(if micro {
        scalar::format_micro(at)
    } else {
        scalar::format_time(at)
    }
    .into())
}

fn int_or_string(bytes: &[u8], name: &str) -> Result<Value, ProtoError> {
    let mut reader = Reader::new(bytes);
    let (mut is_text, mut n, mut s) = (false, 0, String::new());
    while let Some((number, raw)) = reader.field()? {
        match number {
            1 => is_text = varint(raw, number)? == 1,
            2 => n = varint(raw, number)? as i32,
            3 => s = text(raw, number, name)?,
            _ => {}
        }
    }
    Ok(if is_text { s.into() } else { n.into() })
}

fn float(f: f64) -> Value {
    if f.fract() == 0.0 && f.abs() < 1e15 {
        return (f as i64).into();
    }
    Number::from_f64(f).map_or(Value::Null, Value::Number)
}

fn scalar_error(field: &str, what: String) -> ProtoError {
    ProtoError::Scalar {
        field: field.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::put_bytes;
    use super::*;

    fn of(name: &str) -> (&'static TypeTable, TypeId) {
        let table = crate::builtin();
        (table, table.by_name(name).expect("type"))
    }

    /// A pod with empty containers: `spec` is its second field, `containers` the spec's second.
    fn pod(containers: usize) -> Vec<u8> {
        let (mut spec, mut pod) = (Vec::new(), Vec::new());
        for _ in 0..containers {
            put_bytes(&mut spec, 2, b"");
        }
        put_bytes(&mut pod, 2, &spec);
        pod
    }

    #[test]
    fn twice_the_messages_cost_twice_and_a_million_are_refused() {
        let (table, id) = of("io.k8s.api.core.v1.Pod");
        let cost = |n: usize| {
            let mut read = Read {
                table,
                depth: 0,
                budget: Budget::new(),
            };
            read.object(id, &pod(n)).expect("pod");
            read.budget.spent()
        };
        let (one, two) = (cost(2_000), cost(4_000));
        assert!(one > 2_000 && two <= 2 * one, "{one}, then {two}");
        let refused = decode(table, id, &pod(1_000_000));
        assert_eq!(refused, Err(ProtoError::TooMuch(TooMuch::Values)));
    }

    #[test]
    fn raw_json_in_a_message_is_no_deeper_than_may_be_read_again() {
        let (table, id) = of("io.k8s.api.apps.v1.ControllerRevision");
        let revision = |depth: usize| {
            let json = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let (mut raw, mut whole) = (Vec::new(), Vec::new());
            put_bytes(&mut raw, 1, json.as_bytes());
            // `data` is the second field.
            put_bytes(&mut whole, 2, &raw);
            decode(table, id, &whole)
        };
        assert!(revision(90).is_ok());
        assert!(revision(100).is_err());
        assert!(revision(120).is_err());
    }
}
