//! The field set of an object, and what changed between two objects, as field sets.

use schema::model::{TypeId, TypeTable};
use serde_json::{Map, Value};

use crate::set::{PathElement, Set};
use crate::shape::{Shape, ValueType, element, item_kind, member, shape_of, stand_in};

/// The difference of two objects. A path is in at most one of the three.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
    /// Leaves out all that lies under members of `ignored`.
    #[must_use]
    pub fn without(self, ignored: &Set) -> Self {
        if ignored.is_empty() {
            return self;
        }
        Self {
            added: self.added.without_trees(ignored),
            modified: self.modified.without_trees(ignored),
            removed: self.removed.without_trees(ignored),
        }
    }
}

/// All paths that an applied configuration names.
pub fn set_of(table: &TypeTable, ty: TypeId, object: &Value) -> Set {
    let (_, set) = fields(table, shape_of(table, ty, None), object);
    set
}

/// The paths that an applied configuration sets to null.
pub(crate) fn nulls_of(table: &TypeTable, ty: TypeId, object: &Value) -> Set {
    nulls(table, shape_of(table, ty, None), object)
}

fn nulls(table: &TypeTable, shape: Shape<'_>, v: &Value) -> Set {
    let mut set = Set::new();
    match (shape, v) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Open, Value::Object(o)) => {
            for (name, v) in o {
                if let Some(kind) = member(shape, name) {
                    let below = nulls(table, kind.shape(table), v);
                    set.put(PathElement::field(name), v.is_null(), below);
                }
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(a)) => {
            for item in a {
                if let Ok(e) = element(shape, item) {
                    let below = nulls(table, item_kind(shape).shape(table), item);
                    set.put(e, false, below);
                }
            }
        }
        _ => {}
    }
    set
}

/// Whether the value itself is a member, and the members below it.
fn fields(table: &TypeTable, shape: Shape<'_>, v: &Value) -> (bool, Set) {
    match (shape, v) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Open, Value::Object(o)) => {
            (false, members(table, shape, o))
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(a)) => (false, items(table, shape, a)),
        (Shape::Leaf | Shape::Open, _) => (true, Set::new()),
        _ => (false, Set::new()),
    }
}

fn members(table: &TypeTable, shape: Shape<'_>, object: &Map<String, Value>) -> Set {
    let mut set = Set::new();
    for (name, v) in object {
        let Some(kind) = member(shape, name) else {
            continue;
        };
        let (leaf, below) = fields(table, kind.shape(table), v);
        let empty = v.is_null() || v.as_object().is_some_and(Map::is_empty);
        let named = matches!(shape, Shape::Struct(def) if def.field(name).is_some());
        set.put(PathElement::field(name), leaf || empty || !named, below);
    }
    set
}

fn items(table: &TypeTable, shape: Shape<'_>, list: &[Value]) -> Set {
    let mut set = Set::new();
    let mut groups = grouped(shape, list).unwrap_or_default();
    // In the set's order, so that each goes to its end.
    groups.sort_by(|a, b| a.0.cmp(&b.0));
    for group in groups {
        // Of items that are there twice nobody owns the parts.
        let below = match group.1.as_slice() {
            [one] => fields(table, item_kind(shape).shape(table), one).1,
            _ => Set::new(),
        };
        set.put(group.0, true, below);
    }
    set
}

/// The items by path element, in order of their first appearance.
pub(crate) fn grouped<'v>(
    shape: Shape<'_>,
    list: &'v [Value],
) -> Result<Vec<(PathElement, Vec<&'v Value>)>, String> {
    let mut at = std::collections::HashMap::with_capacity(list.len());
    let mut out: Vec<(PathElement, Vec<&Value>)> = Vec::with_capacity(list.len());
    for item in list {
        let e = element(shape, item)?;
        match at.get(&e).and_then(|i: &usize| out.get_mut(*i)) {
            Some(group) => group.1.push(item),
            None => {
                at.insert(e.clone(), out.len());
                out.push((e, vec![item]));
            }
        }
    }
    Ok(out)
}

/// Compares two objects of a type; `null` stands for an object without fields.
pub fn compare(table: &TypeTable, ty: TypeId, old: &Value, new: &Value) -> Comparison {
    let empty = Value::Object(Map::new());
    let or_empty = |v| if matches!(v, &Value::Null) { &empty } else { v };
    let mut walk = Walk {
        table,
        path: Vec::new(),
        out: Comparison::default(),
    };
    walk.value(
        shape_of(table, ty, None),
        Some(or_empty(old)),
        Some(or_empty(new)),
    );
    walk.out
}

struct Walk<'a> {
    table: &'a TypeTable,
    path: Vec<PathElement>,
    out: Comparison,
}

/// Nothing, null, or without content.
fn hollow(v: Option<&Value>) -> bool {
    match v {
        None | Some(Value::Null) => true,
        Some(Value::Object(o)) => o.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(_) => false,
    }
}

impl<'a> Walk<'a> {
    fn value(&mut self, shape: Shape<'a>, old: Option<&Value>, new: Option<&Value>) {
        if old == new {
            return;
        }
        if hollow(old) && hollow(new) {
            return self.leaf(old, new);
        }
        let objects = |v: Option<&Value>| matches!(v, None | Some(Value::Object(_) | Value::Null));
        let arrays = |v: Option<&Value>| matches!(v, None | Some(Value::Array(_) | Value::Null));
        match shape {
            Shape::Struct(_) | Shape::Map(_) | Shape::Open if objects(old) && objects(new) => {
                self.members(
                    shape,
                    old.and_then(Value::as_object),
                    new.and_then(Value::as_object),
                );
            }
            Shape::Set | Shape::Keyed(..) if arrays(old) && arrays(new) => {
                let none: &[Value] = &[];
                let l = old.and_then(Value::as_array).map_or(none, Vec::as_slice);
                let r = new.and_then(Value::as_array).map_or(none, Vec::as_slice);
                if !self.items(shape, l, r) {
                    return self.leaf(old, new);
                }
            }
            Shape::Open => self.turned(shape, old, new),
            _ => return self.leaf(old, new),
        }
        if old.is_none() {
            self.out.added.insert(&self.path);
        } else if new.is_none() {
            self.out.removed.insert(&self.path);
        }
    }

    /// An open value that was an object and is none now, or the reverse.
    fn turned(&mut self, shape: Shape<'a>, old: Option<&Value>, new: Option<&Value>) {
        if let Some(o) = old.and_then(Value::as_object) {
            self.members(shape, Some(o), None);
        }
        if let Some(n) = new.and_then(Value::as_object) {
            self.members(shape, None, Some(n));
        }
        self.leaf(old, new);
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let set = match (old, new) {
            (None, _) => &mut self.out.added,
            (_, None) => &mut self.out.removed,
            _ => &mut self.out.modified,
        };
        set.insert(&self.path);
    }

    fn members(
        &mut self,
        shape: Shape<'a>,
        old: Option<&Map<String, Value>>,
        new: Option<&Map<String, Value>>,
    ) {
        for (name, l) in old.into_iter().flatten() {
            let r = new.and_then(|n| n.get(name).or_else(|| stand_in(shape, name)));
            self.member(shape, name, Some(l), r);
        }
        for (name, r) in new.into_iter().flatten() {
            if !old.is_some_and(|o| o.contains_key(name)) {
                let l = old.and_then(|_| stand_in(shape, name));
                self.member(shape, name, l, Some(r));
            }
        }
    }

    fn member(&mut self, shape: Shape<'a>, name: &str, l: Option<&Value>, r: Option<&Value>) {
        if l == r {
            return;
        }
        let kind = member(shape, name).unwrap_or_else(ValueType::open);
        self.path.push(PathElement::field(name));
        self.value(kind.shape(self.table), l, r);
        self.path.pop();
    }

    /// False when an item has no path element.
    fn items(&mut self, shape: Shape<'a>, old: &[Value], new: &[Value]) -> bool {
        let (Ok(left), Ok(right)) = (grouped(shape, old), grouped(shape, new)) else {
            return false;
        };
        let index: std::collections::HashMap<&PathElement, &Vec<&Value>> =
            right.iter().map(|(e, v)| (e, v)).collect();
        let known: std::collections::HashSet<&PathElement> = left.iter().map(|(e, _)| e).collect();
        let none = Vec::new();
        let both = left
            .iter()
            .map(|(e, l)| (e, l, index.get(e).copied().unwrap_or(&none)));
        let added = right.iter().filter(|(e, _)| !known.contains(e));
        let both = both.chain(added.map(|(e, r)| (e, &none, r)));
        let mut changed: Vec<_> = both.filter(|(_, l, r)| l != r).collect();
        // In the sets' order, so that each goes to their end.
        changed.sort_by_key(|(e, ..)| *e);
        for (e, l, r) in changed {
            self.path.push(e.clone());
            let one = |g: &[&'_ Value]| g.len() <= 1;
            if one(l) && one(r) {
                let shape = item_kind(shape).shape(self.table);
                self.value(shape, l.first().copied(), r.first().copied());
            } else {
                self.leaf(l.first().copied(), r.first().copied());
            }
            self.path.pop();
        }
        true
    }
}
