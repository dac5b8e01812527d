//! From a checked tree to the steps of a program: each node is planned once, and what follows from the
//! text alone is worked out here.

use std::sync::Arc;

use super::{Constant, Get, Loop, Step};
use crate::ast::{Expr, Fold, Id, Literal};
use crate::builtins::{Builtin, builtin};
use crate::checker::{Checked, Reference};
use crate::cost::{self, is_global};
use crate::issue::Issue;
use crate::macros::ACCUMULATOR;
use crate::types::Type;
use crate::value::Value;
use crate::{convert, re2};

/// A program in the making.
pub(super) struct Planner<'c> {
    pub checked: &'c Checked,
    pub steps: Vec<Step>,
    /// Names of macros' variables and their places.
    pub scopes: Vec<(Arc<str>, usize)>,
    pub locals: usize,
    pub used: Vec<bool>,
    pub fields: Option<&'c (usize, Vec<Arc<str>>)>,
    pub composed: Vec<usize>,
    pub issues: Vec<Issue>,
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
    pub(super) fn plan(&mut self, id: Id, charged: bool) -> Id {
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
