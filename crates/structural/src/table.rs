//! A custom resource's types in the model that all of the server's code works with: fields, list
//! and map semantics for server-side apply, and what is kept without being known.

use std::sync::Arc;

use schema::{AnyKind, FieldDef, FieldType, ListKey, ListType, MapType, Type, TypeDef, TypeTable};

use crate::model::{Additional, List, Structural};
use crate::openapi::KindNames;

/// The type of a version of a custom resource, in a table of its own with that of its list.
/// Without a schema, everything is kept.
pub fn types(structural: Option<&Structural>, kind: &KindNames) -> Type {
    let mut table = TypeTable::default();
    let name = kind.definition();
    let root = {
        let mut builder = Builder { table: &mut table };
        builder.root(structural, &name, kind)
    };
    list(&mut table, root.clone(), kind);
    let table = Arc::new(table);
    match root {
        FieldType::Object(id) => Type::new(&table, id),
        _ => Type::default(),
    }
}

struct Builder<'t> {
    table: &'t mut TypeTable,
}

fn import(table: &mut TypeTable, name: &str) -> FieldType {
    let from = schema::builtin();
    let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
    match from.by_name(&name) {
        Some(id) => FieldType::Object(table.import(from, id)),
        None => FieldType::Any(AnyKind::PreserveUnknown),
    }
}

fn list(table: &mut TypeTable, item: FieldType, kind: &KindNames) {
    let mut items = FieldDef::plain("items", FieldType::List(item.into(), ListType::Atomic));
    items.required = true;
    let meta = import(table, "ListMeta");
    let text = |name: &str| FieldDef::plain(name, FieldType::String);
    let gvk = (
        kind.group.into(),
        kind.version.into(),
        kind.list_kind.into(),
    );
    table.push(TypeDef {
        name: kind.list_definition().into(),
        fields: vec![
            text("kind"),
            text("apiVersion"),
            FieldDef::plain("metadata", meta),
            items,
        ],
        atomic: false,
        preserve_unknown: false,
        custom: true,
        gvks: vec![gvk],
    });
}

impl Builder<'_> {
    fn root(&mut self, schema: Option<&Structural>, name: &str, kind: &KindNames) -> FieldType {
        let mut fields = self.meta();
        let preserve = schema.is_none_or(|s| s.preserve_unknown);
        if let Some(schema) = schema {
            self.fields(schema, name, &mut fields);
        }
        let gvk = (kind.group.into(), kind.version.into(), kind.kind.into());
        FieldType::Object(self.table.push(TypeDef {
            name: name.into(),
            fields,
            atomic: false,
            preserve_unknown: preserve,
            custom: true,
            gvks: vec![gvk],
        }))
    }

    /// The fields of every resource.
    fn meta(&mut self) -> Vec<FieldDef> {
        let text = |name: &str| FieldDef::plain(name, FieldType::String);
        let meta = import(self.table, "ObjectMeta");
        vec![
            text("kind"),
            text("apiVersion"),
            FieldDef::plain("metadata", meta),
        ]
    }

    fn fields(&mut self, schema: &Structural, name: &str, fields: &mut Vec<FieldDef>) {
        let required = schema.checks.as_ref().map(|c| &c.required);
        for (json, property) in &schema.properties {
            if fields.iter().any(|f| f.json == *json) {
                continue;
            }
            let ty = self.node(property, &format!("{name}.{json}"));
            let mut field = FieldDef::plain(json, ty);
            field.json = json.clone();
            field.required = required.is_some_and(|r| r.contains(json));
            field.default = property.default.as_ref().map(|d| d.to_string().into());
            field.map_type = (property.atomic).then_some(MapType::Atomic);
            fields.push(field);
        }
    }

    fn node(&mut self, schema: &Structural, name: &str) -> FieldType {
        if schema.int_or_string {
            return FieldType::IntOrString;
        }
        // Null has no place in the typed model: what may be null is taken as it comes.
        if schema.nullable && !matches!(&*schema.ty, "object" | "array") {
            return FieldType::Any(AnyKind::PreserveUnknown);
        }
        match &*schema.ty {
            "string" => FieldType::String,
            "integer" => FieldType::Int64,
            "number" => FieldType::Float64,
            "boolean" => FieldType::Bool,
            "array" => {
                let item = match &schema.items {
                    Some(items) => self.node(items, &format!("{name}[]")),
                    None => FieldType::Any(AnyKind::PreserveUnknown),
                };
                FieldType::List(item.into(), list_type(schema))
            }
            "object" => self.object(schema, name),
            _ => FieldType::Any(AnyKind::PreserveUnknown),
        }
    }

    fn object(&mut self, schema: &Structural, name: &str) -> FieldType {
        let semantics = if schema.atomic {
            MapType::Atomic
        } else {
            MapType::Granular
        };
        match &schema.additional {
            Additional::Schema(value) => {
                let value = self.node(value, &format!("{name}{{}}"));
                return FieldType::Map(value.into(), semantics);
            }
            Additional::Bool(true) if schema.properties.is_empty() => {
                let any = FieldType::Any(AnyKind::PreserveUnknown);
                return FieldType::Map(any.into(), semantics);
            }
            _ => {}
        }
        if schema.preserve_unknown && schema.properties.is_empty() && !schema.embedded {
            return FieldType::Any(AnyKind::PreserveUnknown);
        }
        let mut fields = if schema.embedded {
            self.meta()
        } else {
            Vec::new()
        };
        self.fields(schema, name, &mut fields);
        FieldType::Object(self.table.push(TypeDef {
            name: name.into(),
            fields,
            atomic: schema.atomic,
            preserve_unknown: schema.preserve_unknown,
            custom: true,
            gvks: Vec::new(),
        }))
    }
}

fn list_type(schema: &Structural) -> ListType {
    match &schema.list {
        List::Set => ListType::Set,
        List::Map(keys) => ListType::Map(
            keys.iter()
                .map(|name| {
                    let items = schema.items.as_ref();
                    let property = items.and_then(|i| i.properties.get(name));
                    ListKey {
                        name: name.clone(),
                        default: property
                            .and_then(|p| p.default.as_ref())
                            .map(|d| d.to_string().into()),
                    }
                })
                .collect(),
        ),
        _ => ListType::Atomic,
    }
}
