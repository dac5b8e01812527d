//! Objects of any type with every field set, made from the table.

use schema::{AnyKind, FieldType, JSON_SCHEMA_PROPS, ListType, TypeId, TypeTable};
use serde_json::{Map, Value, json};

/// An object with every field set to a value that differs from field to field. A type inside
/// itself is left out from its second level on, as `depth` of free-form and recursive fields.
pub fn full(table: &TypeTable, id: TypeId) -> Value {
    Maker {
        table,
        open: Vec::new(),
        next: 1,
    }
    .object(id)
}

struct Maker<'t> {
    table: &'t TypeTable,
    open: Vec<TypeId>,
    next: i32,
}

impl Maker<'_> {
    fn number(&mut self) -> i32 {
        self.next = self.next % 50 + 1;
        self.next
    }

    fn object(&mut self, id: TypeId) -> Value {
        self.open.push(id);
        let mut map = Map::new();
        for field in &self.table.get(id).fields {
            // Protobuf has no place for these two in objects inside others.
            let meta = matches!(&*field.json, "kind" | "apiVersion") && field.proto == 0;
            if self.recurses(&field.ty) || meta && self.open.len() > 1 {
                continue;
            }
            let value = self.value(&field.ty, &field.json);
            map.insert(field.json.to_string(), value);
        }
        self.open.pop();
        Value::Object(map)
    }

    fn recurses(&self, ty: &FieldType) -> bool {
        match ty {
            FieldType::List(item, _) | FieldType::Map(item, _) => self.recurses(item),
            FieldType::Object(id) => self.open.contains(id),
            FieldType::Any(
                AnyKind::SchemaOrArray | AnyKind::SchemaOrBool | AnyKind::SchemaOrStrings,
            ) => self
                .table
                .by_name(JSON_SCHEMA_PROPS)
                .is_some_and(|id| self.open.iter().filter(|o| **o == id).count() > 1),
            _ => false,
        }
    }

    fn value(&mut self, ty: &FieldType, name: &str) -> Value {
        let n = self.number();
        match ty {
            FieldType::Bool => true.into(),
            FieldType::Int32 => n.into(),
            FieldType::Int64 => (i64::from(n) << 33).into(),
            FieldType::Float64 => (f64::from(n) + 0.5).into(),
            FieldType::String => format!("{name}-{n}").into(),
            FieldType::Bytes => "aGVsbG8=".into(),
            FieldType::Time => format!("2026-01-02T03:04:{n:02}Z").into(),
            FieldType::MicroTime => format!("2026-01-02T03:04:05.0000{n:02}Z").into(),
            FieldType::Duration => format!("{n}s").into(),
            FieldType::Quantity => format!("{n}m").into(),
            FieldType::IntOrString if n % 2 == 0 => n.into(),
            FieldType::IntOrString => format!("{n}%").into(),
            FieldType::Any(AnyKind::FieldsV1) => json!({"f:spec": {"f:x": {}}}),
            FieldType::Any(AnyKind::SchemaOrBool) => true.into(),
            FieldType::Any(AnyKind::SchemaOrStrings) => json!(["a", "b"]),
            FieldType::Any(AnyKind::SchemaOrArray) => {
                json!([{"type": "string"}, {"type": "integer", "minimum": 1}])
            }
            FieldType::Any(_) => json!({"n": n, "deep": {"list": [1, "two", null]}}),
            FieldType::Object(id) => self.object(*id),
            FieldType::List(item, kind) => {
                let mut items = vec![self.value(item, name)];
                if *kind != ListType::Atomic || !matches!(**item, FieldType::Object(_)) {
                    items.push(self.value(item, name));
                }
                items.into()
            }
            FieldType::Map(item, _) => {
                let (a, b) = (self.value(item, name), self.value(item, name));
                json!({"b": b, "a": a})
            }
        }
    }
}
