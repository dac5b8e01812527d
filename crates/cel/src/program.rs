//! From text to a program: parsed, checked, planned once; then run as often as wanted, from any
//! number of threads.

mod literals;
mod planner;

use std::sync::Arc;

use regex::Regex;

use crate::ast::{Id, Literal};
use crate::builtins::Builtin;
use crate::cost::{self, Range};
use crate::env::Env;
use crate::error::EvalError;
use crate::issue::CompileError;
use crate::types::Type;
use crate::value::Value;
use crate::{checker, parser, stack};
use literals::validate;
use planner::Planner;

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

/// A program's variable by name, for messages.
pub(crate) fn missing(name: &str) -> EvalError {
    EvalError::new(format!("no such attribute(s): {name}"))
}
