//! What is done with every field of the specifications of pods, Services and workloads: the table
//! `data/acted_on.txt` (its head describes it), and the warnings that are derived from it, for
//! every kind alike. Making an object of a kind on which no controller acts is warned of as a
//! whole, by the verb.
//!
//! A new field of the schema is without a line there, and a test fails until it has one.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use api::FieldPath;
use schema::{FieldType, TypeId, TypeTable};
use serde_json::Value;

use crate::check::is_empty;
use crate::kinds::type_name;
use crate::row::Row;

const TEXT: &str = include_str!("../data/acted_on.txt");
/// Types of the table are written without it.
const PREFIX: &str = "io.k8s.api.";

/// What is done with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// These parts act on it.
    Acted(Vec<&'static str>),
    /// Nothing is to act on it.
    Info,
    /// This part refuses it.
    Refused(&'static str),
    /// No controller acts on the whole kind yet.
    Inert,
    /// A client that sets it, to anything but these words, gets this text as a warning.
    Warned {
        unless: Vec<&'static str>,
        text: &'static str,
    },
}

/// One line: the full name of the type, the field, what is done with it.
type Line = (String, &'static str, Fate);

/// The table and what follows from it.
struct Table {
    /// Ways to the fields that are warned of, by the type from which they lead on.
    ways: HashMap<TypeId, Vec<Step>>,
}

/// A field that is warned of, or that leads to one.
struct Step {
    field: &'static str,
    warned: Option<(Vec<&'static str>, &'static str)>,
    next: Option<TypeId>,
}

/// All texts of `Warning` headers for a write of an object: those of the kind's strategy and
/// those of the table. `old` is the object before an update; what it had already is not said again.
pub fn warnings(row: &Row, new: &Value, old: Option<&Value>, subresource: &str) -> Vec<String> {
    let mut out = match subresource {
        "status" => row.strategy.status_warnings(new),
        _ => row.strategy.warnings(new, old),
    };
    let name = type_name(&row.storage_group, &row.storage_version, &row.kind);
    let mut found = of_fields(&name, new);
    if let Some(old) = old.filter(|_| !found.is_empty()) {
        let before: HashSet<String> = of_fields(&name, old).into_iter().collect();
        found.retain(|w| !before.contains(w));
    }
    out.extend(found);
    out
}

/// The warnings of the fields of an object whose type has this name.
fn of_fields(type_name: &str, object: &Value) -> Vec<String> {
    let types = schema::builtin();
    let mut out = Vec::new();
    let Some(id) = types.by_name(type_name) else {
        return out;
    };
    for field in &types.get(id).fields {
        if let (Some(inner), Some(value)) = (object_of(&field.ty), object.get(&*field.json)) {
            follow(inner, &FieldPath::new(&field.json), value, &mut out);
        }
    }
    out
}

fn follow(id: TypeId, path: &FieldPath, value: &Value, out: &mut Vec<String>) {
    if let Some(items) = value.as_array() {
        for (i, item) in items.iter().enumerate() {
            follow(id, &path.index(i), item, out);
        }
        return;
    }
    for step in table().ways.get(&id).into_iter().flatten() {
        let Some(value) = value.get(step.field).filter(|v| !is_empty(v)) else {
            continue;
        };
        let path = path.child(step.field);
        if let Some((unless, text)) = &step.warned
            && !value.as_str().is_some_and(|v| unless.contains(&v))
        {
            out.push(format!("{path}: {text}"));
        }
        if let Some(next) = step.next {
            follow(next, &path, value, out);
        }
    }
}

/// The type of the objects that a field holds: one, or a list of them.
fn object_of(ty: &FieldType) -> Option<TypeId> {
    match ty {
        FieldType::Object(id) => Some(*id),
        FieldType::List(item, _) | FieldType::Map(item, _) => object_of(item),
        _ => None,
    }
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::new(lines(), schema::builtin()))
}

impl Table {
    fn new(lines: Vec<Line>, types: &TypeTable) -> Self {
        let mut fates: HashMap<TypeId, Vec<(&'static str, Fate)>> = HashMap::new();
        for (name, field, fate) in lines {
            if let Some(id) = types.by_name(&name) {
                fates.entry(id).or_default().push((field, fate));
            }
        }
        let mut ways = HashMap::new();
        for id in fates.keys() {
            leads(*id, &fates, types, &mut ways);
        }
        ways.retain(|_, steps| !steps.is_empty());
        Self { ways }
    }
}

/// Whether a field below this type is warned of; notes the ways there.
fn leads(
    id: TypeId,
    fates: &HashMap<TypeId, Vec<(&'static str, Fate)>>,
    types: &TypeTable,
    ways: &mut HashMap<TypeId, Vec<Step>>,
) -> bool {
    if let Some(known) = ways.get(&id) {
        return !known.is_empty();
    }
    // First without steps: a type may hold itself.
    ways.insert(id, Vec::new());
    let mut steps = Vec::new();
    for (field, fate) in fates.get(&id).into_iter().flatten() {
        let warned = match fate {
            Fate::Warned { unless, text } => Some((unless.clone(), *text)),
            _ => None,
        };
        let inner = types.get(id).field(field).and_then(|f| object_of(&f.ty));
        let next = inner
            .filter(|_| matches!(fate, Fate::Acted(_) | Fate::Info))
            .filter(|inner| leads(*inner, fates, types, ways));
        if warned.is_some() || next.is_some() {
            steps.push(Step {
                field,
                warned,
                next,
            });
        }
    }
    let any = !steps.is_empty();
    ways.insert(id, steps);
    any
}

/// The lines of the table. A line that cannot be read is left out here; a test finds it.
fn lines() -> Vec<Line> {
    let mut current = "";
    let mut out = Vec::new();
    for line in content() {
        if let Some(name) = line.strip_prefix("T ") {
            current = name;
        } else if !line.starts_with("R ")
            && let Some((field, fate)) = read(line)
        {
            out.push((format!("{PREFIX}{current}"), field, fate));
        }
    }
    out
}

fn content() -> impl Iterator<Item = &'static str> {
    TEXT.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
}

fn read(line: &'static str) -> Option<(&'static str, Fate)> {
    let (field, rest) = line.split_once(' ')?;
    let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let (word, unless) = word.split_once('=').unwrap_or((word, ""));
    let fate = match word {
        "info" => Fate::Info,
        "kind" => Fate::Inert,
        "refused" => Fate::Refused(text),
        "warned" => Fate::Warned {
            unless: unless.split('|').filter(|w| !w.is_empty()).collect(),
            text,
        },
        parts => Fate::Acted(parts.split(',').collect()),
    };
    Some((field, fate))
}

#[cfg(test)]
mod tests;
