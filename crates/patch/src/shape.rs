//! A type as server-side apply sees it: a leaf, a struct, a map or an associative list; and the
//! path elements by which the items of associative lists are identified.

use std::sync::LazyLock;

use schema::model::{
    AnyKind, FieldDef, FieldType, ListKey, ListType, MapType, TypeDef, TypeId, TypeTable,
};
use serde_json::{Map, Value};

use crate::set::PathElement;

/// What a value is for ownership.
#[derive(Clone, Copy)]
pub(crate) enum Shape<'a> {
    /// Owned as one: scalars, atomic lists, maps and structs.
    Leaf,
    Struct(&'a TypeDef),
    Map(&'a FieldType),
    Set,
    Keyed(&'a FieldType, &'a [ListKey]),
    /// Free-form: objects are open, all else is a leaf.
    Open,
}

/// The type of a value, with what the field that holds it overrides.
#[derive(Clone, Copy)]
pub(crate) struct ValueType<'a> {
    pub ty: &'a FieldType,
    pub map_type: Option<MapType>,
}

static OPEN: FieldType = FieldType::Any(AnyKind::PreserveUnknown);

impl<'a> ValueType<'a> {
    pub fn of(ty: &'a FieldType) -> Self {
        Self { ty, map_type: None }
    }
    pub fn open() -> Self {
        ValueType::of(&OPEN)
    }
    pub fn shape(self, table: &'a TypeTable) -> Shape<'a> {
        match self.ty {
            FieldType::Object(id) => shape_of(table, *id, self.map_type),
            FieldType::Map(_, MapType::Atomic) => Shape::Leaf,
            FieldType::Map(item, MapType::Granular) => match self.map_type {
                Some(MapType::Atomic) => Shape::Leaf,
                _ => Shape::Map(item),
            },
            FieldType::List(_, ListType::Atomic) => Shape::Leaf,
            FieldType::List(_, ListType::Set) => Shape::Set,
            FieldType::List(item, ListType::Map(keys)) => Shape::Keyed(item, keys),
            FieldType::Any(AnyKind::PreserveUnknown | AnyKind::FieldsV1) => match self.map_type {
                Some(MapType::Atomic) => Shape::Leaf,
                _ => Shape::Open,
            },
            _ => Shape::Leaf,
        }
    }
}

/// The shape of a whole object.
pub(crate) fn shape_of(table: &TypeTable, id: TypeId, map_type: Option<MapType>) -> Shape<'_> {
    let def = table.get(id);
    let atomic = match map_type {
        Some(m) => m == MapType::Atomic,
        None => def.atomic,
    };
    if atomic {
        Shape::Leaf
    } else if def.preserve_unknown && def.fields.is_empty() {
        Shape::Open
    } else {
        Shape::Struct(def)
    }
}

/// The kind of a member of a struct, map or open object. `None`: a struct has no such field.
pub(crate) fn member<'a>(shape: Shape<'a>, name: &str) -> Option<ValueType<'a>> {
    match shape {
        Shape::Struct(def) => match def.field(name) {
            Some(f) => Some(kind_of(f)),
            None if def.preserve_unknown => Some(ValueType::open()),
            None => None,
        },
        Shape::Map(item) => Some(ValueType::of(item)),
        _ => Some(ValueType::open()),
    }
}

pub(crate) fn kind_of(f: &FieldDef) -> ValueType<'_> {
    ValueType {
        ty: &f.ty,
        map_type: f.map_type,
    }
}

/// What stands for a missing field of a struct that is there: typed objects always hold embedded
/// structs and the fields that are written even when empty, so that their appearing is not a
/// change.
pub(crate) fn stand_in(shape: Shape<'_>, name: &str) -> Option<&'static Value> {
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    static TEXT: LazyLock<Value> = LazyLock::new(|| Value::String(String::new()));
    static ZERO: LazyLock<Value> = LazyLock::new(|| Value::from(0));
    static NULL: Value = Value::Null;
    static FALSE: Value = Value::Bool(false);
    let Shape::Struct(def) = shape else {
        return None;
    };
    let f = def.field(name)?;
    if f.ptr && !f.always {
        return None;
    }
    match &f.ty {
        FieldType::Object(_) if !f.ptr => Some(&EMPTY),
        _ if !f.always => None,
        FieldType::String => Some(&TEXT),
        FieldType::Bool => Some(&FALSE),
        FieldType::Int32 | FieldType::Int64 => Some(&ZERO),
        _ => Some(&NULL),
    }
}

/// The path element of an item of a keyed list; an error when the item has none.
pub(crate) fn keyed_element(keys: &[ListKey], item: &Value) -> Result<PathElement, String> {
    let fields = match item {
        Value::Object(o) => o,
        Value::Null => {
            return Err("associative list with keys may not have a null element".into());
        }
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let mut found: Vec<(&str, Value)> = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(v) = fields.get(&*key.name) {
            found.push((&key.name, v.clone()));
        } else if let Some(v) = key
            .default
            .as_deref()
            .and_then(|d| serde_json::from_str(d).ok())
        {
            found.push((&key.name, v));
        }
    }
    if found.is_empty() {
        let names: Vec<String> = keys.iter().map(|k| format!("{:?}", k.name)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            names.join(" ")
        ));
    }
    Ok(PathElement::key(found))
}

/// The path element of an item of a set.
pub(crate) fn set_element(item: &Value) -> Result<PathElement, String> {
    match item {
        Value::Null => {
            Err("associative list without keys has an element that's an explicit null".into())
        }
        Value::Object(_) => {
            Err("associative list without keys has an element that's a map type".into())
        }
        Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
        scalar => Ok(PathElement::value(scalar)),
    }
}

/// The path element of an item of an associative list of this shape.
pub(crate) fn element(shape: Shape<'_>, item: &Value) -> Result<PathElement, String> {
    match shape {
        Shape::Keyed(_, keys) => keyed_element(keys, item),
        _ => set_element(item),
    }
}

/// The kind of the items of an associative list.
pub(crate) fn item_kind(shape: Shape<'_>) -> ValueType<'_> {
    match shape {
        Shape::Keyed(item, _) => ValueType::of(item),
        _ => ValueType::of(&FieldType::String),
    }
}
