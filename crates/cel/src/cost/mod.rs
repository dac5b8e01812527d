//! What an expression costs at most, found before it runs: from the sizes that declarations
//! allow. The rules are upstream's, number for number, since they decide which rules a
//! CustomResourceDefinition may hold.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Expr, Fold, Id, Literal};
use crate::checker::{Checked, Reference};
use crate::decl::{Decl, DeclKind};
use crate::env::Env;
use crate::macros::ACCUMULATOR;
use crate::types::Type;

mod library;
mod range;

use library::library;
pub(crate) use library::selector_cost;
pub use range::Range;
pub(crate) use range::times;
use range::{Entries, UNKNOWN};

pub(crate) const LIST_COST: u64 = 10;
pub(crate) const MAP_COST: u64 = 30;
pub(crate) const STRUCT_COST: u64 = 40;
/// Of going through a string, per character.
pub(crate) const STRING_FACTOR: f64 = 0.1;
/// Of a regular expression, per character of the pattern.
pub(crate) const REGEX_FACTOR: f64 = 0.25;
/// Of asking the authorizer.
pub(crate) const AUTHZ_CHECK: u64 = 350_000;
/// Pattern length that is assumed of a format.
const FORMAT_PATTERN: f64 = 128.0;
/// Longest name of a format.
const FORMAT_NAME: u64 = 64;

/// Where in the declarations a value comes from; `None` where no path leads to it.
#[derive(Clone)]
enum Origin {
    Decl(Arc<Decl>),
    /// A key of a map.
    Key,
    /// A path that leads nowhere, and so does each that goes on from it.
    Nowhere,
}

struct Local {
    name: Arc<str>,
    place: Option<Origin>,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// What is known of an operand.
struct Operand {
    id: Option<Id>,
    ty: Type,
    size: Option<Range>,
    place: Option<Origin>,
    /// The number that it is, if it is one in the text.
    literal: Option<i64>,
}

/// Cost of a call without its arguments, and the size of what it gives.
struct Call {
    cost: Range,
    result: Option<Range>,
}

/// Estimates the cost of a checked expression.
pub(crate) fn estimate(env: &Env, checked: &Checked) -> Range {
    let mut coster = Coster {
        env,
        checked,
        locals: Vec::new(),
        places: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(checked.ast.root)
}

struct Coster<'c> {
    env: &'c Env,
    checked: &'c Checked,
    locals: Vec<Local>,
    places: HashMap<Id, Origin>,
    sizes: HashMap<Id, Range>,
    entries: HashMap<Id, Entries>,
}

impl Coster<'_> {
    fn expr(&self, id: Id) -> &'_ Expr {
        self.checked.ast.expr(id)
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| &*l.name == name)
    }

    fn cost(&mut self, id: Id) -> Range {
        let checked = self.checked;
        match checked.ast.expr(id) {
            Expr::Literal(_) => Range::default(),
            Expr::Ident(name) => {
                self.ident(id, name);
                Range::fixed(1)
            }
            Expr::Select {
                operand,
                field,
                test,
            } => self.select(id, *operand, field, *test),
            Expr::Call {
                function,
                target,
                args,
            } => self.call(id, function, *target, args),
            Expr::List(items) => self.list(id, items),
            Expr::Map(entries) => self.map(id, entries),
            Expr::Struct { fields, .. } => fields
                .iter()
                .fold(Range::fixed(STRUCT_COST), |sum, (_, value, _)| {
                    sum.plus(self.cost(*value))
                }),
            Expr::Fold(fold) if self.is_bind(fold) => self.bind(id, fold),
            Expr::Fold(fold) => self.fold(id, fold),
        }
    }

    fn ident(&mut self, id: Id, name: &str) {
        let place = match self.checked.reference(id) {
            Reference::Variable(_) => self.root(name),
            // As upstream, whose sizes begin at the first variable whatever the name is.
            Reference::TypeName(_) if self.env.sizes_of_request => {
                self.env.first().map(Origin::Decl)
            }
            _ => self.local(name).and_then(|l| l.place.clone()),
        };
        self.put(id, place);
    }

    fn root(&self, name: &str) -> Option<Origin> {
        if !self.env.sizes_of_request {
            return None;
        }
        self.env
            .find(name)
            .map(|(_, v)| Origin::Decl(v.decl.clone()))
    }

    /// Where a field, the items or the keys of a node come from. Of what no path leads to, it is where
    /// paths begin: upstream drops a path's first word without a look, which should be a variable's
    /// name. So the items of `(has(self.a) ? self.a : [])` count as large as `self`, and rules of
    /// that form fit their budget.
    fn below(&self, id: Id, word: &str) -> Option<Origin> {
        match self.place(id) {
            Some(place) => Some(below(&place, word)),
            None if self.env.sizes_of_request => self.env.first().map(Origin::Decl),
            None => None,
        }
    }

    fn put(&mut self, id: Id, place: Option<Origin>) {
        if let Some(place) = place {
            self.places.insert(id, place);
        }
    }

    fn place(&self, id: Id) -> Option<Origin> {
        if let Expr::Ident(name) = self.expr(id)
            && let Some(local) = self.local(name)
        {
            return local.place.clone();
        }
        self.places.get(&id).cloned()
    }

    fn select(&mut self, id: Id, operand: Id, field: &str, test: bool) -> Range {
        if let Reference::Variable(_) | Reference::TypeName(_) = self.checked.reference(id) {
            // A variable or type with a dotted name.
            if let Some(name) = self.checked.ast.qualified(id) {
                self.ident(id, &name);
            }
            return Range::fixed(1);
        }
        let mut sum = self.cost(operand);
        if test {
            return sum;
        }
        if matches!(
            self.checked.ty(operand),
            Type::Map(_) | Type::Object(_) | Type::Param(_)
        ) {
            sum = sum.plus(Range::fixed(1));
        }
        let mut place = self.below(operand, field);
        if self.env.entries_as_fields && matches!(place, Some(Origin::Nowhere)) {
            place = self.below(operand, "@values");
        }
        self.put(id, place);
        sum
    }

    fn operand(&mut self, id: Id) -> Operand {
        let place = match self.expr(id) {
            Expr::Ident(name) if &**name == ACCUMULATOR => None,
            _ => self.place(id),
        };
        let literal = match self.expr(id) {
            Expr::Literal(Literal::Int(n)) => Some(*n),
            _ => None,
        };
        Operand {
            id: Some(id),
            ty: self.checked.ty(id).clone(),
            size: self.size(id),
            place,
            literal,
        }
    }

    /// The size of a node, as far as it is known.
    fn size(&mut self, id: Id) -> Option<Range> {
        if let Some(size) = self.sizes.get(&id) {
            return Some(*size);
        }
        let literal = match self.expr(id) {
            Expr::Literal(Literal::String(text)) => Some(text.chars().count()),
            Expr::Literal(Literal::Bytes(bytes)) => Some(bytes.len()),
            Expr::Literal(_) => Some(1),
            Expr::List(items) => Some(items.len()),
            Expr::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(n) = literal {
            return Some(Range::fixed(n as u64));
        }
        if let Some(size) = self.place(id).and_then(|p| declared(&p)) {
            self.sizes.insert(id, size);
            return Some(size);
        }
        if self.checked.ty(id).is_scalar() {
            return Some(Range::fixed(1));
        }
        match self.expr(id) {
            Expr::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, id: Id) -> Range {
        self.size(id).unwrap_or(UNKNOWN)
    }

    fn entries_of(&self, id: Id) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&id) {
            return Some(*entries);
        }
        match self.expr(id) {
            Expr::Ident(name) => self.local(name).and_then(|l| l.entries),
            _ => None,
        }
    }

    fn list(&mut self, id: Id, items: &[(Id, bool)]) -> Range {
        let mut sum = Range::fixed(LIST_COST);
        let mut value = empty(items.is_empty());
        for (item, _) in items {
            sum = sum.plus(self.cost(*item));
            value = value.union(self.size_or_unknown(*item));
        }
        let entries = Entries {
            is_list: true,
            key: Range::fixed(1),
            value,
        };
        self.entries.insert(id, entries);
        sum
    }

    fn map(&mut self, id: Id, items: &[(Id, Id, bool)]) -> Range {
        let mut sum = Range::fixed(MAP_COST);
        let (mut key, mut value) = (empty(items.is_empty()), empty(items.is_empty()));
        for (k, v, _) in items {
            sum = sum.plus(self.cost(*k)).plus(self.cost(*v));
            key = key.union(self.size_or_unknown(*k));
            value = value.union(self.size_or_unknown(*v));
        }
        let entries = Entries {
            is_list: false,
            key,
            value,
        };
        self.entries.insert(id, entries);
        sum
    }

    fn is_bind(&self, fold: &Fold) -> bool {
        matches!(self.expr(fold.range), Expr::List(items) if items.is_empty())
            && matches!(
                self.expr(fold.condition),
                Expr::Literal(Literal::Bool(false))
            )
    }

    fn push(&mut self, name: &Arc<str>, place: Option<Origin>, size: Option<Range>) {
        self.locals.push(Local {
            name: name.clone(),
            place,
            size,
            entries: None,
        });
    }

    fn push_value(&mut self, name: &Arc<str>, init: Id) {
        let (place, size, entries) = (self.place(init), self.size(init), self.entries_of(init));
        self.locals.push(Local {
            name: name.clone(),
            place,
            size,
            entries,
        });
    }

    fn bind(&mut self, id: Id, fold: &Fold) -> Range {
        let mut sum = self.cost(fold.range).plus(self.cost(fold.init));
        self.push_value(&fold.accu, fold.init);
        sum = sum.plus(self.cost(fold.result));
        let (size, entries) = (self.size(fold.result), self.entries_of(fold.result));
        self.locals.pop();
        self.note(id, size, entries);
        sum
    }

    fn note(&mut self, id: Id, size: Option<Range>, entries: Option<Entries>) {
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
        if let Some(entries) = entries {
            self.entries.insert(id, entries);
        }
    }

    fn push_range(&mut self, fold: &Fold) {
        let entries = self.entries_of(fold.range);
        let is_list = match entries {
            Some(entries) => entries.is_list,
            None => matches!(self.checked.ty(fold.range), Type::List(_)),
        };
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        let at = |word: &str| self.below(fold.range, word);
        match &fold.var2 {
            Some(var2) => {
                let (keys, values) = if is_list {
                    ("@indices", "@items")
                } else {
                    ("@keys", "@values")
                };
                let (keys, values) = (at(keys), at(values));
                self.push(&fold.var, keys, key);
                self.push(var2, values, value);
            }
            None if is_list => {
                let place = at("@items");
                self.push(&fold.var, place, value);
            }
            None => {
                let place = at("@keys");
                self.push(&fold.var, place, key);
            }
        }
    }

    fn fold(&mut self, id: Id, fold: &Fold) -> Range {
        let mut sum = self.cost(fold.range).plus(self.cost(fold.init));
        let depth = self.locals.len();
        self.push_value(&fold.accu, fold.init);
        self.push_range(fold);
        let step = self.cost(fold.condition).plus(self.cost(fold.step));
        self.locals.truncate(depth + 1);
        sum = sum.plus(self.cost(fold.result));
        self.locals.truncate(depth);
        let count = self.size_or_unknown(fold.range);
        sum = sum.plus(count.times(step));
        match self.expr(fold.init) {
            Expr::Literal(_) => {
                let size = self.size(fold.init);
                self.note(id, size, None);
            }
            Expr::List(_) | Expr::Map(_) => {
                let entries = self.entries_of(fold.step);
                self.note(id, Some(count), entries);
            }
            _ => {}
        }
        sum
    }

    fn call(&mut self, id: Id, name: &str, target: Option<Id>, args: &[Id]) -> Range {
        if let ("dyn", [arg]) = (name, args) {
            let cost = self.cost(*arg);
            let (size, entries) = (self.size(*arg), self.entries_of(*arg));
            self.note(id, size, entries);
            return Range::fixed(1).plus(cost);
        }
        let checked = self.checked;
        let Reference::Function { name, overloads } = checked.reference(id) else {
            return Range::default();
        };
        // A function whose name has a dot has no target, only a name.
        let target = target.filter(|_| !is_global(name));
        let costs: Vec<Range> = args.iter().map(|a| self.cost(*a)).collect();
        let operands: Vec<Operand> = args.iter().map(|a| self.operand(*a)).collect();
        let mut sum = Range::default();
        let receiver = target.map(|t| {
            sum = self.cost(t);
            self.operand(t)
        });
        let mut total: Option<Range> = None;
        let mut result: Option<Range> = None;
        for overload in overloads {
            let one = self.overload(id, name, overload, receiver.as_ref(), &operands, &costs);
            total = Some(total.map_or(one.cost, |t| t.union(one.cost)));
            if let Some(size) = one.result {
                result = Some(result.map_or(size, |r| r.union(size)));
            }
            if let Some(word) = match *overload {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            } && let Some(list) = args.first()
            {
                result = self.entries_of(*list).map(|e| e.value);
                let place = self.below(*list, word);
                self.put(id, place);
            }
            if result.is_none() {
                result = self.size(id);
            }
        }
        if let Some(size) = result {
            self.sizes.insert(id, size);
        }
        sum.plus(total.unwrap_or_default())
    }

    fn overload(
        &mut self,
        id: Id,
        name: &str,
        overload: &str,
        target: Option<&Operand>,
        args: &[Operand],
        costs: &[Range],
    ) -> Call {
        let before = costs.iter().fold(Range::default(), |sum, c| sum.plus(*c));
        if let Some(call) = library(name, overload, target, args) {
            return Call {
                cost: call.cost.plus(before),
                result: call.result,
            };
        }
        let size = |n: usize| args.get(n).and_then(|a| a.size).unwrap_or(UNKNOWN);
        let target_size = target.and_then(|t| t.size).unwrap_or(UNKNOWN);
        let (cost, result) = match overload {
            "logical_and" | "logical_or" => {
                let (a, b) = (costs[0], costs[1]);
                return Call {
                    cost: Range {
                        min: a.min,
                        max: a.plus(b).max,
                    },
                    result: None,
                };
            }
            "conditional" => {
                let entry = |n: usize| args[n].id.and_then(|id| self.entries_of(id));
                let entries = Entries::union(entry(1), entry(2));
                self.note(id, None, entries);
                return Call {
                    cost: costs[0].plus(costs[1].union(costs[2])),
                    result: Some(size(1).union(size(2))),
                };
            }
            "string_format" => (target_size.factor(STRING_FACTOR), None),
            "string_to_bytes" => {
                let result = Range {
                    min: size(0).min,
                    max: size(0).max.saturating_mul(4),
                };
                (size(0).factor(STRING_FACTOR), Some(result))
            }
            "bytes_to_string" => {
                let result = Range {
                    min: size(0).min / 4,
                    max: size(0).max,
                };
                (size(0).factor(STRING_FACTOR), Some(result))
            }
            "strings_quote" => {
                let result = Range {
                    min: size(0).min.saturating_add(2),
                    max: size(0).max.saturating_mul(2).saturating_add(2),
                };
                (size(0).factor(STRING_FACTOR), Some(result))
            }
            "starts_with_string" | "ends_with_string" => (size(0).factor(STRING_FACTOR), None),
            "in_list" => (size(1), None),
            "matches_string" => {
                let text = target_size.plus(Range::fixed(1)).factor(STRING_FACTOR);
                (text.times(size(0).factor(REGEX_FACTOR)), None)
            }
            "contains_string" => {
                let text = target_size.factor(STRING_FACTOR);
                (text.times(size(0).factor(STRING_FACTOR)), None)
            }
            "add_string" | "add_bytes" | "add_list" => {
                let sum = size(0).plus(size(1));
                let entry = |n: usize| args[n].id.and_then(|id| self.entries_of(id));
                let entries = Entries::union(entry(0), entry(1));
                self.note(id, None, entries);
                let cost = if overload == "add_list" {
                    Range::fixed(1)
                } else {
                    sum.factor(STRING_FACTOR)
                };
                (cost, Some(sum))
            }
            "equals"
            | "not_equals"
            | "less_string"
            | "less_bytes"
            | "less_equals_string"
            | "less_equals_bytes"
            | "greater_string"
            | "greater_bytes"
            | "greater_equals_string"
            | "greater_equals_bytes" => {
                let max = size(0).max.min(size(1).max);
                let compared = Range {
                    min: u64::from(max > 0),
                    max,
                };
                (compared.factor(STRING_FACTOR), None)
            }
            _ => (Range::fixed(1), None),
        };
        Call {
            cost: cost.plus(before),
            result,
        }
    }
}

/// Of the items of nothing, and of the first of several.
fn empty(is_empty: bool) -> Range {
    Range {
        min: if is_empty { 0 } else { u64::MAX },
        max: 0,
    }
}

/// Whether the name is that of a function that is called with its whole dotted name.
pub(crate) fn is_global(name: &str) -> bool {
    name.contains('.')
}

fn below(place: &Origin, word: &str) -> Origin {
    let Origin::Decl(decl) = place else {
        return Origin::Nowhere;
    };
    let found = match (word, &decl.kind) {
        ("@items" | "@values", _) => decl.element().cloned().map(Origin::Decl),
        ("@keys", DeclKind::Map(_)) => Some(Origin::Key),
        ("@keys" | "@indices", _) => None,
        (field, _) => decl.field(field).map(|f| Origin::Decl(f.decl.clone())),
    };
    found.unwrap_or(Origin::Nowhere)
}

fn declared(place: &Origin) -> Option<Range> {
    let max = match place {
        Origin::Decl(decl) => decl.max_elements.max(0) as u64,
        Origin::Key => 0,
        Origin::Nowhere => return None,
    };
    Some(Range { min: 0, max })
}
