//! What expressions see of values of a schema: a CEL declaration for each node, with the largest
//! and smallest sizes that the schema allows.

use std::sync::Arc;

use cel::decl::MAX_REQUEST_BYTES;
use cel::{Decl, DeclKind, Field, ListKind, escape};

use crate::model::{Additional, Checks, List, Structural};

/// Longest duration in JSON, and longest time.
const MAX_TIME: i64 = 32;
/// Length of a date in JSON.
const DATE: i64 = 12;
const MIN_TIME: i64 = 21;
const MIN_DURATION: i64 = 3;
const MIN_TEXT: i64 = 2;

/// The declaration of a schema; `root` says that it describes a whole resource. None where
/// expressions see nothing: of values without a type, and of lists and maps of them.
pub fn declare(schema: &Structural, root: bool) -> Option<Arc<Decl>> {
    node(schema, root, "selfType")
}

fn scalar(name: &str, kind: DeclKind, max: i64, min: i64) -> Option<Arc<Decl>> {
    Some(Arc::new(Decl::new(name, kind, max, min)))
}

fn node(schema: &Structural, root: bool, name: &str) -> Option<Arc<Decl>> {
    static NONE: std::sync::LazyLock<Checks> = std::sync::LazyLock::new(Checks::default);
    let checks = schema.checks.as_deref().unwrap_or(&NONE);
    if schema.int_or_string {
        let max = match checks.max_length {
            Some(max) => max.max(0).saturating_mul(4),
            None => MAX_REQUEST_BYTES - 2,
        };
        return scalar("dyn", DeclKind::Dyn, max, 1);
    }
    match &*schema.ty {
        "array" => {
            let items = schema.items.as_ref()?;
            let item = node(items, items.embedded, &format!("{name}.@idx"))?;
            let max = match checks.max_items {
                Some(max) => max.max(0),
                None => (MAX_REQUEST_BYTES - 2) / (item.min_size + 1),
            };
            let kind = match &schema.list {
                List::Set => ListKind::Set,
                List::Map(keys) => ListKind::Map(keys.clone()),
                _ => ListKind::Atomic,
            };
            scalar("list", DeclKind::List(item, kind), max, 2)
        }
        "object" => object(schema, checks, root, name),
        "string" => text(checks),
        "boolean" => scalar("bool", DeclKind::Bool, 0, 4),
        "number" => scalar("double", DeclKind::Double, 0, 1),
        "integer" => scalar("int", DeclKind::Int, 0, 1),
        _ => None,
    }
}

fn object(schema: &Structural, checks: &Checks, root: bool, name: &str) -> Option<Arc<Decl>> {
    if let Additional::Schema(value) = &schema.additional
        && !root
    {
        let value = node(value, value.embedded, &format!("{name}.@elem"))?;
        let max = match checks.max_properties {
            Some(max) => max.max(0),
            None => (MAX_REQUEST_BYTES - 2) / (value.min_size + 6),
        };
        return scalar("map", DeclKind::Map(value), max, 2);
    }
    let mut fields = std::collections::BTreeMap::new();
    let mut min_size = 2;
    for (json, property) in &schema.properties {
        if root && matches!(&**json, "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let below = format!("{name}.{}", escape(json).unwrap_or_default());
        let Some(decl) = node(property, property.embedded, &below) else {
            continue;
        };
        if checks.required.contains(json) && property.default.is_none() {
            min_size += json.len() as i64 + decl.min_size + 4;
        }
        if let Some(escaped) = escape(json) {
            let json = json.clone();
            fields.insert(Arc::from(escaped), Field { json, decl });
        }
    }
    if root {
        for (json, decl) in meta(schema, name) {
            let escaped = Arc::from(json);
            let json = Arc::from(json);
            fields.insert(escaped, Field { json, decl });
        }
    }
    let mut decl = Decl::new(name, DeclKind::Object(fields), 0, 2);
    decl.min_size = min_size;
    Some(Arc::new(decl))
}

/// What expressions see of every resource, whatever its schema says: kind, version and names.
fn meta(schema: &Structural, name: &str) -> [(&'static str, Arc<Decl>); 3] {
    let text = || {
        Arc::new(Decl::new(
            "string",
            DeclKind::String,
            MAX_REQUEST_BYTES - 2,
            MIN_TEXT,
        ))
    };
    let given = |field: &str| {
        let node = schema.properties.get("metadata")?.properties.get(field)?;
        self::node(node, false, "")
    };
    let names = ["name", "generateName"].map(|field| {
        let decl = given(field).unwrap_or_else(text);
        (field.to_owned(), decl)
    });
    let metadata = Decl::object(&format!("{name}.metadata"), names);
    [
        ("apiVersion", text()),
        ("kind", text()),
        ("metadata", Arc::new(metadata)),
    ]
}

fn text(checks: &Checks) -> Option<Arc<Decl>> {
    let longest = MAX_REQUEST_BYTES - 2;
    match checks.format.as_deref() {
        Some("byte") => {
            let max = checks.max_length.map_or(longest, |max| max.max(0));
            scalar("bytes", DeclKind::Bytes, max, MIN_TEXT)
        }
        Some("duration") => scalar("duration", DeclKind::Duration, MAX_TIME, MIN_DURATION),
        Some("date") => scalar("timestamp", DeclKind::Date, DATE, DATE),
        Some("date-time") => scalar("timestamp", DeclKind::Timestamp, MAX_TIME, MIN_TIME),
        _ => {
            let longest_value = checks
                .values
                .iter()
                .filter_map(|v| v.as_str())
                .map(str::len);
            let max = match checks.max_length {
                Some(max) => max.max(0).saturating_mul(4),
                None if !checks.values.is_empty() => longest_value.max().unwrap_or(0) as i64,
                None => longest,
            };
            scalar("string", DeclKind::String, max, MIN_TEXT)
        }
    }
}
