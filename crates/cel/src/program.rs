//! From text to a program: parsed, checked, planned once; then run as often as wanted, from any
//! number of threads.

use std::sync::Arc;

use regex::Regex;

use crate::ast::{Expr, Fold, Id, Literal};
use crate::builtins::{Builtin, builtin};
use crate::checker::{self, Checked, Reference};
use crate::cost::{self, Range, is_global};
use crate::env::Env;
use crate::error::EvalError;
use crate::issue::{CompileError, Issue};
use crate::macros::ACCUMULATOR;
use crate::types::Type;
use crate::value::Value;
use crate::{convert, parser, re2, stack};

/// A compiled expression.
pub struct Program {
    pub(crate) steps: Vec<Step>,
    pub(crate) root: Id,
    /// Variables of macros that are alive at once, at most.
    pub(crate) locals: usize,
    pub(crate) names: Vec<Arc<str>>,
    used: Vec<bool>,
    /// Fields of the composed variable that are read.
    composed: Vec<usize>,
    depth: u16,
    result: Type,
    cost: Range,
}

/// A value that is in the text.
pub(crate) enum Constant {
    Literal(Literal),
    Duration(i64),
    Timestamp(jiff::Timestamp),
    Type(Arc<str>),
}

pub(crate) enum Step {
    Constant(Constant),
    /// A variable, and what reading it costs.
    Variable(usize, u64),
    Local(usize, u64),
    /// A field of the composed variable, how it is read, and what that costs.
    Composed(usize, Get, u64),
    Select {
        operand: Id,
        field: Arc<str>,
        how: Get,
        cost: u64,
    },
    Index {
        operand: Id,
        index: Id,
        optional: bool,
        cost: u64,
    },
    And(Id, Id),
    Or(Id, Id),
    Conditional(Id, Id, Id),
    /// True unless its operand is false; an error counts as true.
    NotFalse(Id),
    /// `a.or(b)` (true) and `a.orValue(b)`.
    OrElse(Id, Id, bool),
    Call {
        name: &'static str,
        overload: &'static str,
        builtin: Builtin,
        args: Vec<Id>,
        regex: Option<Regex>,
    },
    /// `x in [1, 2]`: the list is in the text and costs nothing.
    InConstants(Id, Id),
    List {
        items: Vec<(Id, bool)>,
        constant: bool,
    },
    Map {
        entries: Vec<(Id, Id, bool)>,
        constant: bool,
    },
    Struct {
        name: Arc<str>,
        fields: Vec<(Arc<str>, Id, bool)>,
    },
    Fold(Box<Loop>),
    /// A local that is bound once: its place, its value and where it is used.
    Bind(usize, Id, Id),
    /// Adds an item to the list that a macro gathers, and costs as written.
    Append(usize, Id, u64),
    /// Adds to the map that a macro gathers: a value under a key, or the entries of a map.
    Insert(usize, Option<Id>, Id),
}

/// How a field is looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Get {
    Value,
    Presence,
    Optional,
}

pub(crate) struct Loop {
    pub range: Id,
    pub var: usize,
    pub var2: Option<usize>,
    pub accu: usize,
    pub init: Id,
    pub condition: Id,
    pub step: Id,
    pub result: Id,
}

impl Program {
    /// Compiles an expression.
    pub fn compile(source: &str, env: &Env) -> Result<Self, CompileError> {
        stack::with_room(stack::levels(source, env), || Self::compiled(source, env))
    }

    fn compiled(source: &str, env: &Env) -> Result<Self, CompileError> {
        let fail = |issues| CompileError::new(source, issues);
        let ast = parser::parse(source).map_err(fail)?;
        let checked = checker::check(env, ast).map_err(fail)?;
        validate(&checked).map_err(fail)?;
        let mut planner = Planner {
            checked: &checked,
            steps: Vec::with_capacity(checked.ast.nodes.len()),
            scopes: Vec::new(),
            locals: 0,
            used: vec![false; env.variable_count()],
            fields: env.composed.as_ref(),
            composed: Vec::new(),
            issues: Vec::new(),
        };
        let root = planner.plan(checked.ast.root, true);
        let Planner {
            steps,
            locals,
            used,
            composed,
            issues,
            ..
        } = planner;
        if !issues.is_empty() {
            return Err(fail(issues));
        }
        Ok(Self {
            steps,
            root,
            locals,
            names: env.names(),
            used,
            composed,
            depth: checked.ast.nodes[checked.ast.root as usize].depth,
            result: checked.ty(checked.ast.root).clone(),
            cost: cost::estimate(env, &checked),
        })
    }

    /// The type of what the expression gives.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// What one run costs at least and at most, by the declared sizes.
    pub fn cost(&self) -> Range {
        self.cost
    }

    /// Fields of the composed variable that the expression reads, by their places.
    pub fn composed(&self) -> &[usize] {
        &self.composed
    }

    /// Levels of the expression's tree.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Whether the expression names a field of a variable: `v.f`, `has(v.f)` or `v.?f`.
    pub fn selects(&self, variable: usize, field: &str) -> bool {
        self.steps.iter().any(|step| match step {
            Step::Select {
                operand, field: f, ..
            } => {
                let operand = self.steps.get(*operand as usize);
                let is_variable = |s: &Step| matches!(s, Step::Variable(at, _) if *at == variable);
                &**f == field && operand.is_some_and(is_variable)
            }
            _ => false,
        })
    }

    /// Whether the expression reads a variable, by the order in which they were declared.
    pub fn uses(&self, variable: usize) -> bool {
        self.used.get(variable).copied().unwrap_or(false)
    }
}

struct Planner<'c> {
    checked: &'c Checked,
    steps: Vec<Step>,
    /// Names of macros' variables and their places.
    scopes: Vec<(Arc<str>, usize)>,
    locals: usize,
    used: Vec<bool>,
    fields: Option<&'c (usize, Vec<Arc<str>>)>,
    composed: Vec<usize>,
    issues: Vec<Issue>,
}

impl<'c> Planner<'c> {
    fn add(&mut self, step: Step) -> Id {
        self.steps.push(step);
        (self.steps.len() - 1) as Id
    }

    fn expr(&self, id: Id) -> &'_ Expr {
        self.checked.ast.expr(id)
    }

    /// Plans a node. Reading a variable costs one step, unless it is the branch of a condition
    /// or an index as such (`charged` is false then), as upstream counts.
    fn plan(&mut self, id: Id, charged: bool) -> Id {
        let checked = self.checked;
        let step = match checked.ast.expr(id) {
            Expr::Literal(literal) => Step::Constant(Constant::Literal(literal.clone())),
            Expr::Ident(name) => self.ident(id, name, charged),
            Expr::Select {
                operand,
                field,
                test,
            } => {
                if let Reference::Variable(_) | Reference::TypeName(_) = checked.reference(id) {
                    self.ident(id, "", charged)
                } else {
                    let how = if *test { Get::Presence } else { Get::Value };
                    self.select(*operand, field, how, charged)
                }
            }
            Expr::Call {
                function,
                target,
                args,
            } => return self.call(id, function, *target, args, charged),
            Expr::List(items) => {
                let constant = items.iter().all(|(i, o)| !o && self.is_literal(*i));
                let items = items
                    .iter()
                    .map(|(i, o)| (self.plan(*i, true), *o))
                    .collect();
                Step::List { items, constant }
            }
            Expr::Map(entries) => {
                let constant = entries
                    .iter()
                    .all(|(k, v, o)| !o && self.is_literal(*k) && self.is_literal(*v));
                let entries = entries
                    .iter()
                    .map(|(k, v, o)| (self.plan(*k, true), self.plan(*v, true), *o))
                    .collect();
                Step::Map { entries, constant }
            }
            Expr::Struct { name, fields } => Step::Struct {
                name: name.clone(),
                fields: fields
                    .iter()
                    .map(|(n, v, o)| (n.clone(), self.plan(*v, true), *o))
                    .collect(),
            },
            Expr::Fold(fold) => self.fold(fold),
        };
        self.add(step)
    }

    fn is_literal(&self, id: Id) -> bool {
        match self.expr(id) {
            Expr::Literal(_) => true,
            Expr::List(items) => items.iter().all(|(i, o)| !o && self.is_literal(*i)),
            Expr::Map(entries) => entries
                .iter()
                .all(|(k, v, o)| !o && self.is_literal(*k) && self.is_literal(*v)),
            _ => false,
        }
    }

    fn ident(&mut self, id: Id, name: &str, charged: bool) -> Step {
        let cost = u64::from(charged);
        match self.checked.reference(id) {
            Reference::Variable(at) => {
                self.used[*at] = true;
                Step::Variable(*at, cost)
            }
            Reference::TypeName(ty) => {
                let name = match ty {
                    Type::List(_) => "list".to_owned(),
                    Type::Map(_) => "map".to_owned(),
                    Type::Optional(_) => "optional_type".to_owned(),
                    Type::Null => "null_type".to_owned(),
                    Type::Duration => "google.protobuf.Duration".to_owned(),
                    Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
                    other => other.to_string(),
                };
                Step::Constant(Constant::Type(name.into()))
            }
            _ => match self.slot(name) {
                Some(at) => Step::Local(at, cost),
                None => Step::Constant(Constant::Literal(Literal::Null)),
            },
        }
    }

    fn slot(&self, name: &str) -> Option<usize> {
        let found = self.scopes.iter().rev().find(|(n, _)| &**n == name);
        found.map(|(_, at)| *at)
    }

    /// Whether selecting from this node goes on a path that began with a variable.
    fn is_path(&self, id: Id) -> bool {
        match self.expr(id) {
            Expr::Ident(_) | Expr::Select { test: false, .. } => true,
            Expr::Call { function, .. } => {
                matches!(&**function, "_[_]" | "_[?_]" | "_?._" | "_?_:_")
            }
            _ => false,
        }
    }

    fn select(&mut self, operand: Id, field: &str, how: Get, charged: bool) -> Step {
        // A path that begins with something made costs one step more.
        let path = self.is_path(operand);
        let cost = match how {
            Get::Presence => 0,
            _ => 1 + u64::from(charged && !path),
        };
        if let Some(at) = self.composed_field(operand, field) {
            if !self.composed.contains(&at) {
                self.composed.push(at);
            }
            return Step::Composed(at, how, cost + u64::from(charged));
        }
        let operand = self.plan(operand, charged);
        Step::Select {
            operand,
            field: Arc::from(field),
            how,
            cost,
        }
    }

    /// The place of a field of the composed variable, if that is what is selected.
    fn composed_field(&self, operand: Id, field: &str) -> Option<usize> {
        let (variable, names): &'c _ = self.fields?;
        let Reference::Variable(at) = self.checked.reference(operand) else {
            return None;
        };
        let found = names.iter().rposition(|name| &**name == field);
        found.filter(|_| at == variable)
    }

    fn call(
        &mut self,
        id: Id,
        function: &str,
        target: Option<Id>,
        args: &[Id],
        charged: bool,
    ) -> Id {
        let checked = self.checked;
        let Reference::Function { name, overloads } = checked.reference(id) else {
            return self.add(Step::Constant(Constant::Literal(Literal::Null)));
        };
        let step = match (*name, args) {
            ("_&&_", [a, b]) => Step::And(self.plan(*a, true), self.plan(*b, true)),
            ("_||_", [a, b]) => Step::Or(self.plan(*a, true), self.plan(*b, true)),
            ("_?_:_", [test, a, b]) => Step::Conditional(
                self.plan(*test, true),
                self.plan(*a, false),
                self.plan(*b, false),
            ),
            ("@not_strictly_false", [a]) => Step::NotFalse(self.plan(*a, true)),
            ("_?._", [a, field]) => match self.expr(*field) {
                Expr::Literal(Literal::String(field)) => {
                    let field = field.clone();
                    self.select(*a, &field, Get::Optional, charged)
                }
                _ => Step::Constant(Constant::Literal(Literal::Null)),
            },
            ("_[_]" | "_[?_]", [a, index]) => {
                let path = self.is_path(*a);
                Step::Index {
                    operand: self.plan(*a, charged),
                    index: self.plan(*index, false),
                    optional: *name == "_[?_]",
                    cost: 1 + u64::from(charged && !path),
                }
            }
            ("or" | "orValue", [other]) if target.is_some() => {
                let first = self.plan(target.unwrap_or(*other), true);
                Step::OrElse(first, self.plan(*other, true), *name == "or")
            }
            ("_+_", [accu, item]) if self.is_gathered(*accu) => self.append(*accu, *item),
            ("cel.@mapInsert", [accu, rest @ ..]) => {
                let slot = self.slot(ACCUMULATOR).unwrap_or(0);
                let _ = accu;
                match rest {
                    [key, value] => {
                        let key = self.plan(*key, true);
                        Step::Insert(slot, Some(key), self.plan(*value, true))
                    }
                    [map] => Step::Insert(slot, None, self.plan(*map, true)),
                    _ => Step::Constant(Constant::Literal(Literal::Null)),
                }
            }
            ("@in", [item, list])
                if matches!(self.expr(*list), Expr::List(items) if !items.is_empty())
                    && self.is_literal(*list) =>
            {
                Step::InConstants(self.plan(*item, true), self.plan(*list, true))
            }
            _ => return self.plain_call(id, function, name, overloads, target, args),
        };
        self.add(step)
    }

    /// Whether a sum adds to what a macro gathers.
    fn is_gathered(&self, accu: Id) -> bool {
        matches!(self.expr(accu), Expr::Ident(name) if &**name == ACCUMULATOR)
            && matches!(self.checked.ty(accu), Type::List(_) | Type::Dyn)
    }

    fn append(&mut self, accu: Id, list: Id) -> Step {
        let slot = match self.expr(accu) {
            Expr::Ident(name) => self.slot(name).unwrap_or(0),
            _ => 0,
        };
        match self.expr(list) {
            Expr::List(items) if items.len() == 1 => {
                let item = items[0].0;
                // One for the list, one for adding, and ten for the new list, unless it is in
                // the text.
                let made = if self.is_literal(item) {
                    0
                } else {
                    cost::LIST_COST
                };
                Step::Append(slot, self.plan(item, true), 2 + made)
            }
            _ => Step::Constant(Constant::Literal(Literal::Null)),
        }
    }

    fn plain_call(
        &mut self,
        id: Id,
        function: &str,
        name: &'static str,
        overloads: &[&'static str],
        target: Option<Id>,
        args: &[Id],
    ) -> Id {
        if let Some(constant) = self.converted(name, args) {
            return self.add(Step::Constant(constant));
        }
        let Some(builtin) = builtin(name) else {
            self.issues.push(Issue {
                at: self.checked.ast.at(id),
                message: format!("no such overload: {function}"),
            });
            return 0;
        };
        let receiver = target.filter(|_| !is_global(name));
        let all: Vec<Id> = receiver.into_iter().chain(args.iter().copied()).collect();
        let regex = match (builtin, all.get(1).map(|p| self.expr(*p))) {
            (Builtin::Regex, Some(Expr::Literal(Literal::String(pattern)))) => {
                match re2::compile(pattern) {
                    Ok(regex) => Some(regex),
                    Err(message) => {
                        self.issues.push(Issue {
                            at: self.checked.ast.at(all[1]),
                            message,
                        });
                        None
                    }
                }
            }
            _ => None,
        };
        let args = all.iter().map(|a| self.plan(*a, true)).collect();
        let overload = match overloads {
            [only] => only,
            _ => "",
        };
        self.add(Step::Call {
            name,
            overload,
            builtin,
            args,
            regex,
        })
    }

    /// A conversion of something in the text, done once.
    fn converted(&self, name: &str, args: &[Id]) -> Option<Constant> {
        let [arg] = args else { return None };
        let Expr::Literal(literal) = self.expr(*arg) else {
            return None;
        };
        let constant = Constant::Literal(literal.clone());
        let value = [constant.value()];
        let converted = match name {
            "int" => convert::int(&value),
            "uint" => convert::uint(&value),
            "double" => convert::double(&value),
            "bool" => convert::boolean(&value),
            "string" => convert::string(&value),
            "duration" => convert::duration(&value),
            "timestamp" => convert::timestamp(&value),
            _ => return None,
        };
        Some(match converted.ok()? {
            Value::Bool(b) => Constant::Literal(Literal::Bool(b)),
            Value::Int(n) => Constant::Literal(Literal::Int(n)),
            Value::Uint(n) => Constant::Literal(Literal::Uint(n)),
            Value::Double(n) => Constant::Literal(Literal::Double(n)),
            Value::String(text) => Constant::Literal(Literal::String(Arc::from(&*text))),
            Value::Duration(nanos) => Constant::Duration(nanos),
            Value::Timestamp(time) => Constant::Timestamp(time),
            _ => return None,
        })
    }

    fn local(&mut self, name: &Arc<str>, at: usize) -> usize {
        self.scopes.push((name.clone(), at));
        self.locals = self.locals.max(at + 1);
        at
    }

    fn fold(&mut self, fold: &Fold) -> Step {
        let depth = self.scopes.len();
        let range = self.plan(fold.range, true);
        let init = self.plan(fold.init, true);
        let accu = self.local(&fold.accu, depth);
        let bound = matches!(
            self.expr(fold.condition),
            Expr::Literal(Literal::Bool(false))
        ) && matches!(self.expr(fold.range), Expr::List(items) if items.is_empty());
        if bound {
            let result = self.plan(fold.result, true);
            self.scopes.truncate(depth);
            return Step::Bind(accu, init, result);
        }
        let var = self.local(&fold.var, depth + 1);
        let var2 = fold.var2.as_ref().map(|name| self.local(name, depth + 2));
        let condition = self.plan(fold.condition, true);
        let step = self.plan(fold.step, true);
        self.scopes.truncate(depth + 1);
        let result = self.plan(fold.result, true);
        self.scopes.truncate(depth);
        Step::Fold(Box::new(Loop {
            range,
            var,
            var2,
            accu,
            init,
            condition,
            step,
            result,
        }))
    }
}

impl Constant {
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Literal(Literal::Null) => Value::Null,
            Self::Literal(Literal::Bool(b)) => Value::Bool(*b),
            Self::Literal(Literal::Int(n)) => Value::Int(*n),
            Self::Literal(Literal::Uint(n)) => Value::Uint(*n),
            Self::Literal(Literal::Double(n)) => Value::Double(*n),
            Self::Literal(Literal::String(text)) => Value::text(&**text),
            Self::Literal(Literal::Bytes(bytes)) => Value::Bytes((&**bytes).into()),
            Self::Duration(nanos) => Value::Duration(*nanos),
            Self::Timestamp(time) => Value::Timestamp(*time),
            Self::Type(name) => Value::Type((&**name).into()),
        }
    }
}

/// What is known of literals before the expression runs.
fn validate(checked: &Checked) -> Result<(), Vec<Issue>> {
    let mut issues = Vec::new();
    uniform(checked, checked.ast.root, &mut issues);
    for id in 0..checked.ast.nodes.len() as Id {
        let Reference::Function { name, .. } = checked.reference(id) else {
            continue;
        };
        let Expr::Call { target, args, .. } = checked.ast.expr(id) else {
            continue;
        };
        let arg = match (*name, target, &args[..]) {
            ("duration" | "timestamp", None, [arg]) => *arg,
            ("matches", Some(_), [arg]) | ("matches", None, [_, arg]) => *arg,
            _ => continue,
        };
        let Expr::Literal(Literal::String(text)) = checked.ast.expr(arg) else {
            continue;
        };
        let value = [Value::text(&**text)];
        let failed: Option<EvalError> = match *name {
            "duration" => convert::duration(&value).err(),
            "timestamp" => convert::timestamp(&value).err(),
            _ => re2::compile(text).err().map(EvalError::new),
        };
        if failed.is_some() {
            issues.push(Issue {
                at: checked.ast.at(arg),
                message: format!("invalid {name} argument"),
            });
        }
    }
    if issues.is_empty() {
        Ok(())
    } else {
        Err(issues)
    }
}

/// Lists and maps in the text hold one type, except in arguments of `format`.
fn uniform(checked: &Checked, id: Id, issues: &mut Vec<Issue>) {
    let expr = checked.ast.expr(id);
    let mut same = |ids: &mut dyn Iterator<Item = (Id, bool)>| {
        let held = |id: Id, optional: bool| match checked.ty(id) {
            Type::Optional(inner) if optional => (**inner).clone(),
            other => other.clone(),
        };
        let mut first: Option<Type> = None;
        for (id, optional) in ids {
            let ty = held(id, optional);
            match &first {
                Some(first) if *first != ty => {
                    issues.push(Issue {
                        at: checked.ast.at(id),
                        message: format!("expected type '{first}' but found '{ty}'"),
                    });
                    return;
                }
                Some(_) => {}
                None => first = Some(ty),
            }
        }
    };
    match expr {
        Expr::List(items) => same(&mut items.iter().copied()),
        Expr::Map(entries) => {
            same(&mut entries.iter().map(|(k, _, _)| (*k, false)));
            same(&mut entries.iter().map(|(_, v, o)| (*v, *o)));
        }
        Expr::Call { function, .. } if &**function == "format" => return,
        _ => {}
    }
    expr.children(|child| uniform(checked, child, issues));
}

/// A program's variable by name, for messages.
pub(crate) fn missing(name: &str) -> EvalError {
    EvalError::new(format!("no such attribute(s): {name}"))
}
