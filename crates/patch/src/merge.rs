//! Merging an applied configuration into an object, taking paths out of an object, and the check
//! that a configuration fits its type.

use std::collections::{HashMap, HashSet};

use schema::model::{FieldType, TypeId, TypeTable};
use serde_json::{Map, Value};

use crate::set::{PathElement, Set};
use crate::shape::{Shape, ValueType, element, item_kind, kind_of, member, shape_of};

/// Merges `config` into `live`: leaves of `config` win, the rest of `live` stays.
pub fn merge(table: &TypeTable, ty: TypeId, live: &mut Value, config: &Value) {
    merge_value(table, shape_of(table, ty, None), live, config);
}

fn merge_value(table: &TypeTable, shape: Shape<'_>, live: &mut Value, config: &Value) {
    match (shape, &mut *live, config) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Open, Value::Object(l), Value::Object(c)) => {
            for (name, v) in c {
                merge_member(table, shape, l, name, v);
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(l), Value::Array(c)) => {
            let old = std::mem::take(l);
            *l = merge_items(table, shape, old, c);
        }
        _ => *live = config.clone(),
    }
}

fn merge_member(
    table: &TypeTable,
    shape: Shape<'_>,
    live: &mut Map<String, Value>,
    name: &str,
    v: &Value,
) {
    let below = member(shape, name)
        .unwrap_or_else(ValueType::open)
        .shape(table);
    match live.get_mut(name) {
        // Null does not take away what is merged member by member.
        Some(Value::Object(_)) if v.is_null() && !matches!(below, Shape::Leaf) => {}
        Some(Value::Array(_)) if v.is_null() && !matches!(below, Shape::Leaf | Shape::Open) => {}
        Some(Value::Null) if v.is_null() => {}
        // A typed value is never null, it is not there; what is open, and what may be null, is.
        _ if v.is_null() && !matches!(below, Shape::Open) => {
            live.remove(name);
        }
        Some(l) => merge_value(table, below, l, v),
        None => {
            live.insert(name.to_owned(), v.clone());
        }
    }
}

/// Interleaves two lists: items of `config` keep its order, items that only `live` has stay where
/// they were relative to their neighbours.
fn merge_items(
    table: &TypeTable,
    shape: Shape<'_>,
    live: Vec<Value>,
    config: &[Value],
) -> Vec<Value> {
    let (Ok(left), Ok(right)) = (elements(shape, &live), elements(shape, config)) else {
        return config.to_vec();
    };
    let in_config: HashSet<&PathElement> = right.iter().collect();
    let mut in_live: HashMap<&PathElement, usize> = HashMap::with_capacity(left.len());
    for e in &left {
        *in_live.entry(e).or_default() += 1;
    }
    // An item that is there twice in the live list is replaced, not merged.
    let unique: HashMap<&PathElement, &Value> = left
        .iter()
        .zip(&live)
        .filter(|(e, _)| in_live.get(e) == Some(&1))
        .collect();
    let take = |e: &PathElement, item: &Value| match unique.get(e) {
        Some(old) => {
            let mut merged = (*old).clone();
            merge_value(table, item_kind(shape).shape(table), &mut merged, item);
            merged
        }
        None => item.clone(),
    };
    let mut shared = right.iter().filter(|e| in_live.contains_key(e));
    let mut next = shared.next();
    let mut merged: HashSet<&PathElement> = HashSet::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    loop {
        let (left_here, right_here) = (
            left.get(l).zip(live.get(l)),
            right.get(r).zip(config.get(r)),
        );
        if let (Some((le, _)), Some((re, item))) = (left_here, right_here) {
            if le == re {
                merged.insert(re);
                out.push(take(re, item));
                (l, r) = (l + 1, r + 1);
                next = shared.next();
                continue;
            }
            if in_config.contains(le) && next.is_some_and(|n| n != le) {
                l += 1;
                continue;
            }
        }
        if let Some((le, item)) = left_here {
            if !in_config.contains(le) {
                out.push(item.clone());
                l += 1;
                continue;
            }
            if merged.contains(le) {
                l += 1;
            }
        }
        if let Some((re, item)) = right_here {
            merged.insert(re);
            out.push(take(re, item));
            r += 1;
            if next == Some(re) {
                next = shared.next();
            }
        } else if left.get(l).is_none() {
            return out;
        }
    }
}

fn elements(shape: Shape<'_>, list: &[Value]) -> Result<Vec<PathElement>, String> {
    list.iter().map(|i| element(shape, i)).collect()
}

/// Takes the members of `paths` out of an object. A container that loses its last content stays,
/// empty, unless it is a member itself.
pub fn remove(table: &TypeTable, ty: TypeId, object: &mut Value, paths: &Set) {
    remove_value(table, shape_of(table, ty, None), object, paths);
}

fn remove_value(table: &TypeTable, shape: Shape<'_>, v: &mut Value, paths: &Set) {
    if paths.is_empty() {
        return;
    }
    match (shape, v) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Open, Value::Object(o)) => {
            for (e, gone, below) in paths.iter() {
                let Some(name) = e.as_field() else { continue };
                if gone {
                    o.remove(name);
                } else if let Some(v) = o.get_mut(name) {
                    let kind = member(shape, name).unwrap_or_else(ValueType::open);
                    remove_value(table, kind.shape(table), v, below);
                }
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(a)) => a.retain_mut(|item| {
            let Some((gone, below)) = element(shape, item).ok().and_then(|e| paths.child(&e))
            else {
                return true;
            };
            if !gone {
                remove_value(table, item_kind(shape).shape(table), item, below);
            }
            !gone
        }),
        _ => {}
    }
}

/// Adds the nodes that are fields of structs as members (they are owned with what is below them).
pub(crate) fn name_structs(table: &TypeTable, ty: TypeId, set: &mut Set) {
    name_below(table, shape_of(table, ty, None), set);
}

fn name_below(table: &TypeTable, shape: Shape<'_>, set: &mut Set) {
    for (e, is_member, below) in set.nodes_mut() {
        let kind = match e.as_field() {
            Some(name) => {
                if matches!(shape, Shape::Struct(def) if def.field(name).is_some()) {
                    *is_member = true;
                }
                member(shape, name).unwrap_or_else(ValueType::open)
            }
            None => item_kind(shape),
        };
        if !below.is_empty() {
            name_below(table, kind.shape(table), below);
        }
    }
}

/// What does not fit the type in an applied configuration, each with its path:
/// unknown fields, wrong kinds of values, items without or with the same keys.
pub fn validate(table: &TypeTable, ty: TypeId, config: &Value) -> Vec<String> {
    let mut errors = Errors::default();
    let kind = FieldType::Object(ty);
    check(
        table,
        ValueType::of(&kind),
        config,
        &mut String::new(),
        &mut errors,
    );
    errors.all
}

/// Where an applied configuration sets what is owned as one: atomic lists, maps and structs, by
/// their paths.
pub fn atomics(table: &TypeTable, ty: TypeId, config: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let kind = FieldType::Object(ty);
    find_atomics(
        table,
        ValueType::of(&kind),
        config,
        &mut String::new(),
        &mut found,
    );
    found
}

fn find_atomics(
    table: &TypeTable,
    kind: ValueType<'_>,
    v: &Value,
    path: &mut String,
    found: &mut Vec<String>,
) {
    let whole = matches!(kind.shape(table), Shape::Leaf);
    if whole && (v.is_object() || v.is_array()) && found.len() < MAX_ERRORS {
        let composite = matches!(
            kind.ty,
            FieldType::Object(_) | FieldType::Map(..) | FieldType::List(..)
        );
        if composite {
            found.push(path.clone());
        }
    }
    let length = path.len();
    match (kind.ty, v) {
        (FieldType::Object(id), Value::Object(members)) => {
            let def = table.get(*id);
            for (name, v) in members {
                if let Some(field) = def.field(name) {
                    path.push('.');
                    path.push_str(name);
                    find_atomics(table, kind_of(field), v, path, found);
                    path.truncate(length);
                }
            }
        }
        (FieldType::List(item, _), Value::Array(items)) => {
            for (i, v) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                find_atomics(table, ValueType::of(item), v, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// Most errors that are reported of one configuration, and most bytes of them: each has its path,
/// which is as long as the client's own names, and any of a million fields may be wrong.
const MAX_ERRORS: usize = 100;
const MAX_ERROR_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Errors {
    all: Vec<String>,
    bytes: usize,
}

impl Errors {
    /// Whether no more errors are reported; one always is.
    fn is_full(&self) -> bool {
        self.all.len() >= MAX_ERRORS || self.bytes >= MAX_ERROR_BYTES
    }
    fn push(&mut self, text: impl FnOnce() -> String) {
        if !self.is_full() {
            let text = text();
            self.bytes += text.len();
            self.all.push(text);
        }
    }
}

fn check(
    table: &TypeTable,
    kind: ValueType<'_>,
    v: &Value,
    path: &mut String,
    errors: &mut Errors,
) {
    if v.is_null() || errors.is_full() {
        return;
    }
    let mut fail = |text: String| {
        errors.push(|| {
            if path.is_empty() {
                text
            } else {
                format!("{path}: {text}")
            }
        });
    };
    match kind.ty {
        FieldType::Object(_) | FieldType::Map(..) => {
            let Value::Object(o) = v else {
                return fail(format!("expected map, got &{}", go_value(v)));
            };
            // What is owned as one is still looked into.
            let shape = match kind.ty {
                FieldType::Object(id) => Shape::Struct(table.get(*id)),
                FieldType::Map(item, _) => Shape::Map(item),
                _ => Shape::Open,
            };
            for (name, v) in o {
                let length = path.len();
                path.push('.');
                path.push_str(name);
                match member(shape, name) {
                    Some(kind) => check(table, kind, v, path, errors),
                    None => errors.push(|| format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        FieldType::List(item, _) => {
            let Value::Array(a) = v else {
                return fail(format!("expected list, got &{}", go_value(v)));
            };
            check_items(table, kind, item, a, path, errors);
        }
        FieldType::Int32 | FieldType::Int64 | FieldType::Float64 if !v.is_number() => {
            fail(format!(
                "expected numeric (int or float), got {}",
                go_type(v)
            ));
        }
        FieldType::Bool if !v.is_boolean() => {
            fail(format!("expected boolean, got &{}", go_value(v)));
        }
        FieldType::String | FieldType::Bytes | FieldType::Time | FieldType::MicroTime
            if !v.is_string() =>
        {
            fail(format!("expected string, got &{}", go_value(v)));
        }
        _ => {}
    }
}

fn check_items(
    table: &TypeTable,
    kind: ValueType<'_>,
    item: &FieldType,
    list: &[Value],
    path: &mut String,
    errors: &mut Errors,
) {
    let shape = kind.shape(table);
    let associative = matches!(shape, Shape::Set | Shape::Keyed(..));
    let mut seen = HashSet::new();
    for (i, v) in list.iter().enumerate() {
        let mut step = String::new();
        if associative {
            let e = match element(shape, v) {
                Ok(e) => e,
                Err(e) => {
                    errors.push(|| format!("{path}: element {i}: {e}"));
                    return;
                }
            };
            e.show(&mut step);
            if !seen.insert(e) {
                errors.push(|| format!("{path}: duplicate entries for key {step}"));
            }
        } else {
            step = format!("[{i}]");
        }
        let length = path.len();
        path.push_str(&step);
        check(table, ValueType::of(item), v, path, errors);
        path.truncate(length);
    }
}

fn go_value(v: &Value) -> String {
    format!("{{{v}}}")
}

fn go_type(v: &Value) -> &'static str {
    match v {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        _ => "number",
    }
}
