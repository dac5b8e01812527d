//! Runs programs. Every step is paid for, so that what an expression may cost bounds how long it
//! runs; the tree's depth, which the parser bounds, says how much of a stack it takes (`stack.rs`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;

use regex::Regex;

use crate::ast::Id;
use crate::builtins::{Builtin, cost_after, cost_before};
use crate::cost::{LIST_COST, MAP_COST, STRUCT_COST};
use crate::error::EvalError;
use crate::ops;
use crate::program::{Get, Loop, Program, Step, missing};
use crate::value::{Evaluated, List, Map, Struct, Value};
use crate::{convert, lists, re2, stack, strings};

/// What one call may cost, as upstream: about a tenth of a second.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all rules of one object may cost together.
pub const PER_OBJECT_LIMIT: u64 = 10_000_000;
/// What all match conditions of one webhook or policy may cost together.
pub const MATCH_CONDITIONS_LIMIT: u64 = 2_500_000;

/// Patterns that are only known at run time, and compiled in one run, at most: costs count their
/// length, but not what compiling them takes.
const MAX_PATTERNS: usize = 200;

/// What a run gave, and what it cost.
#[derive(Debug)]
pub struct Evaluation<'a> {
    pub result: Result<Value<'a>, EvalError>,
    pub cost: u64,
}

/// The fields of a composed variable ([`crate::Env::composed`]), by their places: programs, or why
/// there is none.
pub type Fields = [(std::sync::Arc<str>, Result<Program, String>)];

/// What became of the fields of a composed variable, for as long as its values hold: each is run
/// once, when it is first read.
pub struct Lazy<'a> {
    fields: &'a Fields,
    done: RefCell<Vec<Option<Evaluated<'a>>>>,
    cost: Cell<u64>,
}

impl<'a> Lazy<'a> {
    pub fn new(fields: &'a Fields) -> Self {
        Self {
            fields,
            done: RefCell::new(vec![None; fields.len()]),
            cost: Cell::new(0),
        }
    }

    /// What fields have cost since this was last asked. It is not a part of the cost of the
    /// expression that read them, as upstream.
    pub fn take_cost(&self) -> u64 {
        self.cost.take()
    }

    fn get(&self, at: usize, variables: &[Option<Value<'a>>], limit: u64) -> Evaluated<'a> {
        if let Some(Some(done)) = self.done.borrow().get(at) {
            return done.clone();
        }
        let Some((name, program)) = self.fields.get(at) else {
            return Err(missing("variables"));
        };
        let value = match program {
            Ok(program) => {
                let ran = program.run(variables, Some(self), limit);
                self.cost.set(self.cost.get().saturating_add(ran.cost));
                ran.result.map_err(|error| {
                    EvalError::new(format!(
                        "composited variable \"{name}\" fails to evaluate: {error}"
                    ))
                })
            }
            Err(what) => Err(EvalError::new(format!(
                "composited variable \"{name}\" fails to compile: {what}"
            ))),
        };
        if let Some(place) = self.done.borrow_mut().get_mut(at) {
            *place = Some(value.clone());
        }
        value
    }
}

impl Program {
    /// Runs the program on values of its variables, in the order in which they were declared.
    /// A variable without a value is an error only where it is read.
    pub fn evaluate<'a>(&'a self, variables: &[Option<Value<'a>>], limit: u64) -> Evaluation<'a> {
        self.run(variables, None, limit)
    }

    /// As [`Program::evaluate`], with the fields of the composed variable. Those were compiled
    /// with the same variables, and read only fields before them.
    pub fn evaluate_with<'a>(
        &'a self,
        variables: &[Option<Value<'a>>],
        fields: &Lazy<'a>,
        limit: u64,
    ) -> Evaluation<'a> {
        self.run(variables, Some(fields), limit)
    }

    fn run<'a>(
        &'a self,
        variables: &[Option<Value<'a>>],
        fields: Option<&Lazy<'a>>,
        limit: u64,
    ) -> Evaluation<'a> {
        let mut run = Run {
            program: self,
            variables,
            fields,
            locals: Vec::new(),
            stack: Vec::new(),
            patterns: HashMap::new(),
            spent: 0,
            limit,
        };
        run.locals.resize_with(self.locals, || Ok(Value::Null));
        let levels = usize::from(self.depth());
        let result = stack::with_room(levels, || run.eval(self.root));
        Evaluation {
            result,
            cost: run.spent,
        }
    }
}

struct Run<'a, 'v> {
    program: &'a Program,
    variables: &'v [Option<Value<'a>>],
    fields: Option<&'v Lazy<'a>>,
    locals: Vec<Evaluated<'a>>,
    /// Arguments of calls that are being gathered.
    stack: Vec<Value<'a>>,
    patterns: HashMap<String, Regex>,
    spent: u64,
    limit: u64,
}

impl<'a> Run<'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit {
            return Err(EvalError::CostExceeded);
        }
        Ok(())
    }

    fn eval(&mut self, id: Id) -> Evaluated<'a> {
        let program = self.program;
        match &program.steps[id as usize] {
            Step::Constant(constant) => Ok(constant.value()),
            Step::Variable(at, cost) => {
                self.charge(*cost)?;
                match self.variables.get(*at) {
                    Some(Some(value)) => Ok(value.clone()),
                    _ => Err(missing(program.names.get(*at).map_or("", |n| n))),
                }
            }
            Step::Local(at, cost) => {
                self.charge(*cost)?;
                self.locals[*at].clone()
            }
            Step::Composed(at, how, cost) => self.composed(*at, *how, *cost),
            Step::Select {
                operand,
                field,
                how,
                cost,
            } => {
                let operand = self.eval(*operand)?;
                self.charge(*cost)?;
                select(operand, field, *how)
            }
            Step::Index {
                operand,
                index,
                optional,
                cost,
            } => {
                let operand = self.eval(*operand)?;
                let index = self.eval(*index)?;
                self.charge(*cost)?;
                indexed(operand, &index, *optional)
            }
            Step::And(a, b) => self.logical(*a, *b, false),
            Step::Or(a, b) => self.logical(*a, *b, true),
            Step::Conditional(test, a, b) => match self.eval(*test)? {
                Value::Bool(true) => self.eval(*a),
                Value::Bool(false) => self.eval(*b),
                _ => Err(EvalError::no_overload()),
            },
            Step::NotFalse(a) => {
                let value = self.eval(*a);
                if let Err(EvalError::CostExceeded) = value {
                    return value;
                }
                self.charge(1)?;
                Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false)))))
            }
            Step::OrElse(first, other, wrapped) => self.or_else(*first, *other, *wrapped),
            Step::Call { .. } => self.call(id),
            Step::InConstants(item, list) => {
                let pair = [self.eval(*item)?, self.eval(*list)?];
                ops::is_in(&pair)
            }
            Step::List { items, constant } => self.list(items, *constant),
            Step::Map { entries, constant } => self.map(entries, *constant),
            Step::Struct { .. } => self.structure(id),
            Step::Fold(fold) => self.fold(fold),
            Step::Bind(slot, init, result) => {
                self.locals[*slot] = self.eval(*init);
                self.eval(*result)
            }
            Step::Append(slot, item, cost) => self.append(*slot, *item, *cost),
            Step::Insert(slot, key, value) => self.insert(*slot, *key, *value),
        }
    }

    #[inline(never)]
    fn composed(&mut self, at: usize, how: Get, cost: u64) -> Evaluated<'a> {
        self.charge(cost)?;
        let Some(fields) = self.fields else {
            return Err(missing("variables"));
        };
        let value = fields.get(at, self.variables, self.limit)?;
        Ok(match how {
            Get::Value => value,
            Get::Presence => Value::Bool(true),
            Get::Optional => Value::some(value),
        })
    }

    /// `&&` and `||`: one side that decides makes the other one's error go unseen.
    #[inline(never)]
    fn logical(&mut self, a: Id, b: Id, decisive: bool) -> Evaluated<'a> {
        let first = self.eval(a);
        match &first {
            Ok(Value::Bool(value)) if *value == decisive => return first,
            Err(EvalError::CostExceeded) => return first,
            _ => {}
        }
        let second = self.eval(b);
        match (first, second) {
            (_, Err(EvalError::CostExceeded)) => Err(EvalError::CostExceeded),
            (_, Ok(Value::Bool(value))) if value == decisive => Ok(Value::Bool(decisive)),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decisive)),
            (Err(error), _) | (Ok(Value::Bool(_)), Err(error)) => Err(error),
            _ => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn or_else(&mut self, first: Id, other: Id, wrapped: bool) -> Evaluated<'a> {
        match self.eval(first)? {
            Value::Optional(None) => self.eval(other),
            Value::Optional(Some(inner)) if !wrapped => Ok((*inner).clone()),
            value @ Value::Optional(_) => Ok(value),
            _ => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn call(&mut self, id: Id) -> Evaluated<'a> {
        let program = self.program;
        let Step::Call { args, .. } = &program.steps[id as usize] else {
            return Err(EvalError::no_overload());
        };
        let base = self.stack.len();
        let mut result = Ok(Value::Null);
        for arg in args {
            match self.eval(*arg) {
                Ok(value) => self.stack.push(value),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_ok() {
            result = self.apply(id, base);
        }
        self.stack.truncate(base);
        result
    }

    /// Calls a function with the arguments that lie on the stack.
    #[inline(never)]
    fn apply(&mut self, id: Id, base: usize) -> Evaluated<'a> {
        let program = self.program;
        let Step::Call {
            name,
            overload,
            builtin,
            regex,
            ..
        } = &program.steps[id as usize]
        else {
            return Err(EvalError::no_overload());
        };
        let cost = cost_before(name, &self.stack[base..]);
        self.charge(cost)?;
        let result = match builtin {
            Builtin::Plain(function) => function(&self.stack[base..]),
            Builtin::Named(function) => function(name, &self.stack[base..]),
            Builtin::Sum => lists::sum(&self.stack[base..], overload),
            Builtin::Format(format) => Ok(Value::Format(*format)),
            Builtin::Regex => match regex {
                Some(regex) => strings::with_regex(name, regex, &self.stack[base..]),
                None => self.with_pattern(name, base),
            },
        };
        let result = match result {
            // Upstream names the function where the checker did not know it.
            Err(EvalError::Value(text)) if text == "no such overload" => {
                return Err(EvalError::new(format!("no such overload: {name}")));
            }
            other => other?,
        };
        self.charge(cost_after(name, &result))?;
        Ok(result)
    }

    /// A function with a pattern that only shows now.
    fn with_pattern(&mut self, name: &str, base: usize) -> Evaluated<'a> {
        let Some(Value::String(pattern)) = self.stack.get(base + 1) else {
            return Err(EvalError::no_overload());
        };
        if !self.patterns.contains_key(&**pattern) {
            if self.patterns.len() >= MAX_PATTERNS {
                return Err(EvalError::CostExceeded);
            }
            let regex = re2::compile(pattern).map_err(|what| {
                EvalError::new(match name {
                    "matches" => what,
                    _ => format!("Illegal regex: {what}"),
                })
            })?;
            self.patterns.insert(pattern.to_string(), regex);
        }
        let regex = self.patterns.get(&**pattern);
        let regex = regex.ok_or_else(EvalError::no_overload)?;
        strings::with_regex(name, regex, &self.stack[base..])
    }

    #[inline(never)]
    fn list(&mut self, items: &'a [(Id, bool)], constant: bool) -> Evaluated<'a> {
        let mut out = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(*item)?, optional) {
                (value, false) => out.push(value),
                (Value::Optional(Some(inner)), true) => out.push((*inner).clone()),
                (Value::Optional(None), true) => {}
                (other, true) => {
                    return Err(EvalError::new(format!(
                        "cannot initialize optional list element from non-optional value {}",
                        convert::to_text(&other)
                    )));
                }
            }
        }
        self.charge(if constant { 0 } else { LIST_COST })?;
        Ok(Value::list(out))
    }

    #[inline(never)]
    fn map(&mut self, entries: &'a [(Id, Id, bool)], constant: bool) -> Evaluated<'a> {
        let mut out = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(*key)?;
            let value = self.eval(*value)?;
            let value = match (value, optional) {
                (value, false) => value,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (Value::Optional(None), true) => continue,
                (other, true) => {
                    return Err(EvalError::new(format!(
                        "cannot initialize optional entry '{}' from non-optional value {}",
                        convert::to_text(&key),
                        convert::to_text(&other)
                    )));
                }
            };
            let Some(k) = key.key() else {
                return Err(EvalError::new("unsupported key type"));
            };
            out.insert(k, (key, value));
        }
        self.charge(if constant { 0 } else { MAP_COST })?;
        Ok(Value::Map(Map::Owned(Rc::new(out))))
    }

    #[inline(never)]
    fn structure(&mut self, id: Id) -> Evaluated<'a> {
        let program = self.program;
        let Step::Struct { name, fields } = &program.steps[id as usize] else {
            return Err(EvalError::no_overload());
        };
        let mut out = BTreeMap::new();
        for (field, value, optional) in fields {
            let value = match (self.eval(*value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (value, _) => value,
            };
            out.insert(field.clone(), value);
        }
        self.charge(STRUCT_COST)?;
        Ok(Value::Struct(Rc::new(Struct {
            name: name.clone(),
            fields: out,
        })))
    }

    #[inline(never)]
    fn fold(&mut self, fold: &'a Loop) -> Evaluated<'a> {
        let range = self.eval(fold.range)?;
        self.locals[fold.accu] = self.eval(fold.init);
        match range {
            Value::List(list) => {
                for (i, item) in list.iter().enumerate() {
                    let (first, second) = match fold.var2 {
                        Some(_) => (Ok(Value::Int(i as i64)), item),
                        None => (item, Ok(Value::Null)),
                    };
                    if !self.turn(fold, first, second)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value = match fold.var2 {
                        Some(_) => map.get(&key).unwrap_or(Ok(Value::Null)),
                        None => Ok(Value::Null),
                    };
                    if !self.turn(fold, Ok(key), value)? {
                        break;
                    }
                }
            }
            _ => return Err(EvalError::no_overload()),
        }
        let result = self.eval(fold.result);
        self.locals[fold.accu] = Ok(Value::Null);
        result
    }

    /// One turn of a loop; whether there is to be another one.
    #[inline(never)]
    fn turn(
        &mut self,
        fold: &'a Loop,
        first: Evaluated<'a>,
        second: Evaluated<'a>,
    ) -> Result<bool, EvalError> {
        self.locals[fold.var] = first;
        if let Some(var2) = fold.var2 {
            self.locals[var2] = second;
        }
        if let Value::Bool(false) = self.eval(fold.condition)? {
            return Ok(false);
        }
        let next = self.eval(fold.step);
        if let Err(EvalError::CostExceeded) = next {
            return Err(EvalError::CostExceeded);
        }
        self.locals[fold.accu] = next;
        Ok(true)
    }

    #[inline(never)]
    fn append(&mut self, slot: usize, item: Id, cost: u64) -> Evaluated<'a> {
        let item = self.eval(item)?;
        self.charge(cost)?;
        let accu = std::mem::replace(&mut self.locals[slot], Ok(Value::Null));
        let Value::List(List::Owned(mut items)) = accu? else {
            return Err(EvalError::no_overload());
        };
        Rc::make_mut(&mut items).push(item);
        Ok(Value::List(List::Owned(items)))
    }

    #[inline(never)]
    fn insert(&mut self, slot: usize, key: Option<Id>, value: Id) -> Evaluated<'a> {
        let key = match key {
            Some(key) => Some(self.eval(key)?),
            None => None,
        };
        let value = self.eval(value)?;
        // One for the map, one for adding.
        self.charge(2)?;
        let mut entries = Vec::new();
        match (key, value) {
            (Some(key), value) => entries.push((key, value)),
            (None, Value::Map(more)) => {
                for key in more.keys() {
                    if let Some(value) = more.get(&key) {
                        entries.push((key, value?));
                    }
                }
            }
            _ => return Err(EvalError::no_overload()),
        }
        let accu = std::mem::replace(&mut self.locals[slot], Ok(Value::Null));
        lists::map_insert(accu?, entries)
    }
}

/// A field of a map, an object or an optional one.
fn select<'a>(operand: Value<'a>, field: &'a str, how: Get) -> Evaluated<'a> {
    let (operand, optional) = match operand {
        Value::Optional(None) if how == Get::Presence => return Ok(Value::Bool(false)),
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => ((*inner).clone(), true),
        other => (other, false),
    };
    let found = match &operand {
        Value::Map(map) => map.get_text(field),
        Value::Struct(s) => s.fields.get(field).cloned().map(Ok),
        // Nothing is in nothing.
        Value::Null if how == Get::Optional || optional => None,
        _ => {
            return Err(EvalError::new(format!(
                "no such overload: type '{}' has no field '{field}'",
                &*operand.type_name()
            )));
        }
    };
    match (how, found) {
        (Get::Presence, found) => Ok(Value::Bool(found.is_some())),
        (Get::Optional, Some(value)) => Ok(Value::some(value?)),
        (Get::Value, Some(value)) if optional => Ok(Value::some(value?)),
        (Get::Value, Some(value)) => value,
        (Get::Optional, None) => Ok(Value::Optional(None)),
        (Get::Value, None) if optional => Ok(Value::Optional(None)),
        (Get::Value, None) => Err(EvalError::new(format!("no such key: {field}"))),
    }
}

#[inline(never)]
fn indexed<'a>(operand: Value<'a>, index: &Value<'a>, optional: bool) -> Evaluated<'a> {
    let (operand, wrapped) = match operand {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => ((*inner).clone(), true),
        other => (other, optional),
    };
    let found = match &operand {
        Value::List(list) => {
            let at = match index {
                Value::Int(n) => usize::try_from(*n).ok(),
                Value::Uint(n) => usize::try_from(*n).ok(),
                Value::Double(n) if n.fract() == 0.0 && *n >= 0.0 => Some(*n as usize),
                other => {
                    return Err(EvalError::new(format!(
                        "unsupported index type '{}' in list",
                        &*other.type_name()
                    )));
                }
            };
            at.and_then(|at| list.get(at))
        }
        Value::Map(map) => map.get(index),
        Value::Struct(s) => match index {
            Value::String(name) => s.fields.get(&**name).cloned().map(Ok),
            _ => None,
        },
        _ => return Err(EvalError::no_overload()),
    };
    match found {
        Some(value) if wrapped => Ok(Value::some(value?)),
        Some(value) => value,
        None if wrapped => Ok(Value::Optional(None)),
        None => {
            let index = convert::to_text(index);
            Err(EvalError::new(match operand {
                Value::List(_) => format!("index out of bounds: {index}"),
                _ => format!("no such key: {index}"),
            }))
        }
    }
}
