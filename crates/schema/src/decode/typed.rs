//! The walk over a document along its type.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Number, Value};

use super::node::{self, Node};
use super::{DecodeError, Decoded, StrictProblem};
use crate::model::*;
use crate::{normal, scalar};

/// Upstream stops recording there.
pub(super) const MAX_PROBLEMS: usize = 100;
/// Bytes of paths that are made up for problems, those included that were recorded already: a path
/// is as long as the client's own names, and each of a million fields may be a problem.
const MAX_PATH_BYTES: usize = 1 << 20;

/// A type of custom unmarshalling failed: Go gives up at once, whatever was recorded before.
struct Stop(String);

pub(super) fn decode(
    table: &TypeTable,
    id: TypeId,
    node: Node<'_>,
) -> Result<Decoded, DecodeError> {
    let mut walk = Walk::new(table);
    let value = walk
        .object(id, node, None)
        .map_err(|Stop(text)| DecodeError::Type(text))?;
    match walk.first_error {
        Some(text) => Err(DecodeError::Type(text)),
        None => Ok(Decoded {
            value,
            problems: walk.problems,
        }),
    }
}

pub(super) fn untyped(node: Node<'_>) -> Decoded {
    let table = TypeTable::default();
    let mut walk = Walk::new(&table);
    let value = walk.free(node);
    Decoded {
        value,
        problems: walk.problems,
    }
}

struct Walk<'t> {
    table: &'t TypeTable,
    problems: Vec<StrictProblem>,
    seen: HashSet<StrictProblem>,
    /// What is left of [`MAX_PATH_BYTES`].
    path_bytes: usize,
    /// Path for strict problems: `spec.containers[0]`.
    path: String,
    /// Path for type errors, which leaves out indices and map keys.
    fields: Vec<&'t str>,
    /// The struct that is being decoded, by its short name.
    inside: &'t str,
    /// Above zero in values whose strictness upstream cannot see.
    quiet: u32,
    /// Inside of a type that is a custom resource's own: values of other types are kept as they
    /// are, and nulls; the schema judges them.
    custom: bool,
    first_error: Option<String>,
}

impl<'t> Walk<'t> {
    fn new(table: &'t TypeTable) -> Self {
        Self {
            table,
            problems: Vec::new(),
            seen: HashSet::new(),
            path_bytes: MAX_PATH_BYTES,
            path: String::new(),
            fields: Vec::new(),
            inside: "",
            quiet: 0,
            custom: false,
            first_error: None,
        }
    }

    fn problem(&mut self, make: fn(String) -> StrictProblem, name: &str) {
        if self.quiet > 0 || self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        // The first is always reported, however long.
        let cost = self.path.len() + name.len();
        match self.path_bytes.checked_sub(cost) {
            Some(left) => self.path_bytes = left,
            None if self.problems.is_empty() => self.path_bytes = 0,
            None => return,
        }
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        let problem = make(path);
        if self.seen.insert(problem.clone()) {
            self.problems.push(problem);
        }
    }

    /// Runs `f` one step deeper in the strict path; returns what it gave.
    fn at<R>(&mut self, step: &Step<'_>, f: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.path.len();
        match step {
            Step::Index(i) => {
                self.path.push('[');
                self.path.push_str(&i.to_string());
                self.path.push(']');
            }
            Step::Name(name) => {
                if len > 0 {
                    self.path.push('.');
                }
                self.path.push_str(name);
            }
        }
        let out = f(self);
        self.path.truncate(len);
        out
    }

    fn type_error(&self, value: &str, ty: &str) -> String {
        if self.fields.is_empty() {
            return format!("json: cannot unmarshal {value} into Go value of type {ty}");
        }
        let (inside, fields) = (self.inside, self.fields.join("."));
        format!(
            "json: cannot unmarshal {value} into Go struct field {inside}.{fields} of type {ty}"
        )
    }

    /// Records the first type error; the walk goes on, since a later value may stop it.
    fn mismatch(&mut self, value: &str, ty: &str) -> Value {
        if self.first_error.is_none() {
            self.first_error = Some(self.type_error(value, ty));
        }
        Value::Null
    }

    fn object(&mut self, id: TypeId, node: Node<'_>, go: Option<&str>) -> Result<Value, Stop> {
        let table = self.table;
        let def = table.get(id);
        let fields = match node {
            Node::Object(fields) => fields,
            Node::Null => Vec::new(),
            other => {
                let name = go.map_or_else(|| go_object(&def.name), str::to_owned);
                return Ok(self.mismatch(other.kind(), &name));
            }
        };
        let mut map = Map::new();
        let mut seen = FieldsSeen::default();
        for (key, node) in fields {
            let found = def.fields.iter().position(|f| *f.json == *key);
            let Some((at, field)) = found.and_then(|at| Some((at, def.fields.get(at)?))) else {
                self.unknown(def, key, node, &mut map);
                continue;
            };
            if seen.again(at) {
                self.problem(StrictProblem::DuplicateField, &field.json);
                map.remove(&*field.json);
            }
            if matches!(node, Node::Null) {
                if def.custom && !self.is_built_in(&field.ty) {
                    map.insert(field.json.to_string(), Value::Null);
                }
                continue;
            }
            let outer_custom = std::mem::replace(&mut self.custom, def.custom);
            let outer = std::mem::replace(&mut self.inside, short(&def.name));
            let depth = self.fields.len();
            self.fields.extend(field.inline.as_deref());
            self.fields.push(&field.json);
            let step = Step::Name(&field.json);
            let value = self.at(&step, |w| w.value(&field.ty, node, field.go.as_deref()))?;
            self.fields.truncate(depth);
            (self.inside, self.custom) = (outer, outer_custom);
            if normal::is_kept(field, &value) {
                map.insert(field.json.to_string(), value);
            }
        }
        normal::fill(table, def, &mut map);
        Ok(Value::Object(map))
    }

    fn unknown(
        &mut self,
        def: &TypeDef,
        key: Cow<'_, str>,
        node: Node<'_>,
        map: &mut Map<String, Value>,
    ) {
        if !def.preserve_unknown {
            self.problem(StrictProblem::UnknownField, &key);
            return;
        }
        if map.contains_key(&*key) {
            self.problem(StrictProblem::DuplicateField, &key);
        }
        let value = self.at(&Step::Name(&key), |w| w.free(node));
        map.insert(key.into_owned(), value);
    }

    /// A value without a type; duplicates inside are still recorded.
    fn free(&mut self, node: Node<'_>) -> Value {
        match node {
            Node::Array(items) => {
                let each = items.into_iter().enumerate();
                each.map(|(i, n)| self.at(&Step::Index(i), |w| w.free(n)))
                    .collect()
            }
            Node::Object(fields) => {
                let mut map = Map::new();
                for (key, n) in fields {
                    if map.contains_key(&*key) {
                        self.problem(StrictProblem::DuplicateField, &key);
                    }
                    let value = self.at(&Step::Name(&key), |w| w.free(n));
                    map.insert(key.into_owned(), value);
                }
                Value::Object(map)
            }
            other => other.into_value(),
        }
    }

    fn value(&mut self, ty: &FieldType, node: Node<'_>, go: Option<&str>) -> Result<Value, Stop> {
        if self.custom && !self.fits(ty, &node) {
            return Ok(self.free(node));
        }
        if matches!(node, Node::Null) {
            return Ok(normal::zero(self.table, ty));
        }
        match ty {
            FieldType::Object(id) => self.object(*id, node, go),
            FieldType::List(item, _) => self.list(ty, item, node, go),
            FieldType::Map(item, _) => self.map(ty, item, node, go),
            FieldType::Any(kind) => self.any(*kind, node),
            _ => self.scalar(ty, node, go),
        }
    }

    /// Whether a value is of a type, as far as is known without looking into it. What is of a
    /// built-in type is judged when it is decoded.
    fn fits(&self, ty: &FieldType, node: &Node<'_>) -> bool {
        match (ty, node) {
            (FieldType::Object(_), _) if self.is_built_in(ty) => true,
            (FieldType::Any(_), node) => !matches!(node, Node::Null),
            (FieldType::Object(_) | FieldType::Map(..), Node::Object(_))
            | (FieldType::List(..), Node::Array(_))
            | (FieldType::Bool, Node::Bool(_))
            | (FieldType::String | FieldType::IntOrString, Node::String(_)) => true,
            (FieldType::Int64, Node::Number(n)) => n.parse::<i64>().is_ok(),
            (FieldType::IntOrString, Node::Number(n)) => n.parse::<i32>().is_ok(),
            (FieldType::Float64, Node::Number(n)) => float(n).is_some(),
            _ => false,
        }
    }

    fn is_built_in(&self, ty: &FieldType) -> bool {
        match ty {
            FieldType::Object(id) => !self.table.get(*id).custom,
            _ => false,
        }
    }

    fn list(
        &mut self,
        ty: &FieldType,
        item: &FieldType,
        node: Node<'_>,
        go: Option<&str>,
    ) -> Result<Value, Stop> {
        let Node::Array(items) = node else {
            return Ok(self.mismatch(node.kind(), &self.go_type(ty, go)));
        };
        let inner = go.and_then(|g| g.strip_prefix("[]"));
        let mut out = Vec::with_capacity(items.len());
        for (i, node) in items.into_iter().enumerate() {
            out.push(self.at(&Step::Index(i), |w| w.value(item, node, inner))?);
        }
        Ok(Value::Array(out))
    }

    fn map(
        &mut self,
        ty: &FieldType,
        item: &FieldType,
        node: Node<'_>,
        go: Option<&str>,
    ) -> Result<Value, Stop> {
        let Node::Object(fields) = node else {
            return Ok(self.mismatch(node.kind(), &self.go_type(ty, go)));
        };
        let inner = go
            .and_then(|g| g.strip_prefix("map[")?.split_once(']'))
            .map(|(_, v)| v);
        let mut out = Map::new();
        for (key, node) in fields {
            if out.contains_key(&*key) {
                self.problem(StrictProblem::DuplicateField, &key);
            }
            let value = self.at(&Step::Name(&key), |w| w.value(item, node, inner))?;
            out.insert(key.into_owned(), value);
        }
        Ok(Value::Object(out))
    }

    fn any(&mut self, kind: AnyKind, node: Node<'_>) -> Result<Value, Stop> {
        self.quiet += 1;
        let out = match kind {
            AnyKind::RawExtension | AnyKind::FieldsV1 | AnyKind::Json => Ok(node.into_value()),
            AnyKind::PreserveUnknown => {
                self.quiet -= 1;
                let value = self.free(node);
                self.quiet += 1;
                Ok(value)
            }
            AnyKind::SchemaOrArray => match node {
                Node::Array(items) => items
                    .into_iter()
                    .map(|n| self.schema(n))
                    .collect::<Result<Value, Stop>>(),
                other => self.schema_or_null(other),
            },
            AnyKind::SchemaOrStrings => match node {
                Node::Array(_) => {
                    let strings = FieldType::List(FieldType::String.into(), ListType::Atomic);
                    self.value(&strings, node, None)
                }
                other => self.schema_or_null(other),
            },
            AnyKind::SchemaOrBool => match node {
                Node::Bool(b) => Ok(b.into()),
                Node::Object(_) => self.schema(node),
                _ => Err(Stop("boolean or JSON schema expected".to_owned())),
            },
        };
        self.quiet -= 1;
        out
    }

    /// Upstream silently takes anything but an object as "no schema" there.
    fn schema_or_null(&mut self, node: Node<'_>) -> Result<Value, Stop> {
        if matches!(node, Node::Object(_)) {
            self.schema(node)
        } else {
            Ok(Value::Null)
        }
    }

    fn schema(&mut self, node: Node<'_>) -> Result<Value, Stop> {
        match self.table.by_name(JSON_SCHEMA_PROPS) {
            Some(id) => self.object(id, node, None),
            None => Ok(node.into_value()),
        }
    }

    fn scalar(&mut self, ty: &FieldType, node: Node<'_>, go: Option<&str>) -> Result<Value, Stop> {
        let stop = |text: String| Stop(text);
        Ok(match (ty, node) {
            (FieldType::Bool, Node::Bool(b)) => b.into(),
            (FieldType::String, Node::String(s)) => Value::String(s.into_owned()),
            (FieldType::Int32, Node::Number(n)) => match n.parse::<i32>() {
                Ok(i) => i.into(),
                Err(_) => self.mismatch(&format!("number {n}"), go.unwrap_or("int32")),
            },
            (FieldType::Int64, Node::Number(n)) => match n.parse::<i64>() {
                Ok(i) => i.into(),
                Err(_) => self.mismatch(&format!("number {n}"), go.unwrap_or("int64")),
            },
            (FieldType::Float64, Node::Number(n)) => match float(&n) {
                Some(value) => value,
                None => self.mismatch(&format!("number {n}"), go.unwrap_or("float64")),
            },
            (FieldType::Bytes, Node::String(s)) => match scalar::parse_bytes(&s) {
                Ok(bytes) => scalar::format_bytes(&bytes).into(),
                Err(text) => {
                    self.first_error.get_or_insert(text);
                    Value::Null
                }
            },
            // Go reads bytes from numbers, too; clients in other languages write them so.
            (FieldType::Bytes, Node::Array(items)) => {
                let mut bytes = Vec::with_capacity(items.len());
                for item in items {
                    match (item.kind(), item) {
                        (_, Node::Null) => bytes.push(0),
                        (_, Node::Number(n)) => match n.parse() {
                            Ok(byte) => bytes.push(byte),
                            Err(_) => drop(self.mismatch(&format!("number {n}"), "uint8")),
                        },
                        (kind, _) => drop(self.mismatch(kind, "uint8")),
                    }
                }
                scalar::format_bytes(&bytes).into()
            }
            (FieldType::Time, Node::String(s)) => {
                known_time(scalar::format_time(scalar::parse_time(&s).map_err(stop)?))
            }
            (FieldType::MicroTime, Node::String(s)) => {
                known_time(scalar::format_micro(scalar::parse_micro(&s).map_err(stop)?))
            }
            (FieldType::Duration, Node::String(s)) => {
                scalar::format_duration(api::duration::parse(&s).map_err(stop)?).into()
            }
            (FieldType::Quantity, Node::String(s) | Node::Number(s)) => {
                scalar::quantity(&s).map_err(stop)?.into()
            }
            (FieldType::Quantity, other) => {
                let text = other.into_value().to_string();
                return scalar::quantity(&text).map(Value::from).map_err(stop);
            }
            (FieldType::IntOrString, Node::String(s)) => Value::String(s.into_owned()),
            (FieldType::IntOrString, Node::Number(n)) => match n.parse::<i32>() {
                Ok(i) => i.into(),
                Err(_) => return Err(Stop(self.type_error(&format!("number {n}"), "int32"))),
            },
            (FieldType::IntOrString, other) => {
                return Err(Stop(self.type_error(other.kind(), "int32")));
            }
            (FieldType::Time | FieldType::MicroTime | FieldType::Duration, other) => {
                return Err(Stop(self.type_error(other.kind(), "string")));
            }
            (ty, other) => self.mismatch(other.kind(), &self.go_type(ty, go)),
        })
    }

    fn go_type(&self, ty: &FieldType, go: Option<&str>) -> String {
        if let Some(name) = go {
            return name.to_owned();
        }
        match ty {
            FieldType::Bool => "bool".into(),
            FieldType::Int32 => "int32".into(),
            FieldType::Int64 => "int64".into(),
            FieldType::Float64 => "float64".into(),
            FieldType::String => "string".into(),
            FieldType::Bytes => "[]uint8".into(),
            FieldType::Time => "v1.Time".into(),
            FieldType::MicroTime => "v1.MicroTime".into(),
            FieldType::Duration => "v1.Duration".into(),
            FieldType::Quantity => "resource.Quantity".into(),
            FieldType::IntOrString => "intstr.IntOrString".into(),
            FieldType::Any(_) => "runtime.RawExtension".into(),
            FieldType::Object(id) => go_object(&self.table.get(*id).name),
            FieldType::List(item, _) => format!("[]{}", self.go_type(item, None)),
            FieldType::Map(item, _) => format!("map[string]{}", self.go_type(item, None)),
        }
    }
}

/// Which fields of one object came already.
#[derive(Default)]
struct FieldsSeen {
    first: u128,
    /// For the rare type of more than 128 fields.
    more: Vec<usize>,
}

impl FieldsSeen {
    fn again(&mut self, at: usize) -> bool {
        let bit = u32::try_from(at).ok().and_then(|at| 1u128.checked_shl(at));
        match bit {
            Some(bit) => {
                let seen = self.first & bit != 0;
                self.first |= bit;
                seen
            }
            None => {
                let seen = self.more.contains(&at);
                self.more.push(at);
                seen
            }
        }
    }
}

enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// Go's zero time is written as null.
fn known_time(text: String) -> Value {
    if text.starts_with("0001-01-01T00:00:00") {
        Value::Null
    } else {
        Value::String(text)
    }
}

/// Whole floats are written without a fraction, as Go does below 1e21.
fn float(text: &str) -> Option<Value> {
    let f = text.parse::<f64>().ok().filter(|f| f.is_finite())?;
    match node::number(text) {
        Value::Number(n) if n.is_i64() || n.is_u64() => Some(Value::Number(n)),
        _ if f.fract() == 0.0 && f.abs() < 1e15 => Some(node::number(&format!("{f:.0}"))),
        _ => Number::from_f64(f).map(Value::Number),
    }
}

/// `Pod` of `io.k8s.api.core.v1.Pod`.
fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// `v1.Pod` of `io.k8s.api.core.v1.Pod`.
fn go_object(name: &str) -> String {
    let mut parts = name.rsplit('.');
    match (parts.next(), parts.next()) {
        (Some(name), Some(package)) => format!("{package}.{name}"),
        _ => name.to_owned(),
    }
}
