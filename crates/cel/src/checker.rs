//! Types of expressions, found by unification as the language defines it: each node gets its type,
//! each call the overloads that may answer it.

use std::sync::Arc;

use crate::ast::{Ast, Expr, Fold, Id, Literal};
use crate::env::{Env, Overload, type_name};
use crate::inference::{Inference, most_general, shifted};
use crate::issue::Issue;
use crate::types::Type;

/// What the checker found out about a node.
#[derive(Clone, Debug, Default)]
pub(crate) enum Reference {
    #[default]
    None,
    /// A variable of the environment.
    Variable(usize),
    /// A variable of a macro.
    Local,
    /// The name of a type.
    TypeName(Type),
    /// A call: the function's full name, whether the target is an argument, and the overloads.
    Function {
        name: &'static str,
        overloads: Vec<&'static str>,
    },
}

/// A checked expression.
pub(crate) struct Checked {
    pub ast: Ast,
    pub types: Vec<Type>,
    pub references: Vec<Reference>,
}

impl Checked {
    pub fn ty(&self, id: Id) -> &Type {
        self.types.get(id as usize).unwrap_or(&Type::Error)
    }
    pub fn reference(&self, id: Id) -> &Reference {
        static NONE: Reference = Reference::None;
        self.references.get(id as usize).unwrap_or(&NONE)
    }
}

pub(crate) fn check(env: &Env, ast: Ast) -> Result<Checked, Vec<Issue>> {
    let count = ast.nodes.len();
    let mut checker = Checker {
        env,
        ast: &ast,
        types: vec![Type::Error; count],
        references: vec![Reference::None; count],
        scopes: Vec::new(),
        inference: Inference::new(),
        issues: Vec::new(),
    };
    checker.check(ast.root);
    for id in 0..count {
        let ty = std::mem::replace(&mut checker.types[id], Type::Error);
        checker.types[id] = checker.inference.substitute(&ty, true);
    }
    if checker.inference.is_exhausted() {
        return Err(vec![Issue {
            at: 0,
            message: "expression is too complex to be checked".into(),
        }]);
    }
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let (types, references) = (checker.types, checker.references);
    Ok(Checked {
        ast,
        types,
        references,
    })
}

struct Checker<'e> {
    env: &'e Env,
    ast: &'e Ast,
    types: Vec<Type>,
    references: Vec<Reference>,
    scopes: Vec<(Arc<str>, Type)>,
    inference: Inference,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: String) {
        self.issues.push(Issue {
            at: self.ast.at(id),
            message,
        });
    }

    fn ty(&self, id: Id) -> Type {
        self.types[id as usize].clone()
    }

    fn set(&mut self, id: Id, ty: Type) {
        self.types[id as usize] = ty;
    }

    fn check(&mut self, id: Id) {
        if !self.inference.burn() {
            return;
        }
        let ast = self.ast;
        match ast.expr(id) {
            Expr::Literal(literal) => self.set(id, literal_type(literal)),
            Expr::Ident(name) => self.ident(id, name),
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
            Expr::Struct { name, fields } => self.structure(id, name, fields),
            Expr::Fold(fold) => self.fold(id, fold),
        }
    }

    /// A name of a macro's variable, of the environment or of a type.
    fn lookup(&self, name: &str) -> Option<(Type, Reference)> {
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| &**n == name) {
            return Some((ty.clone(), Reference::Local));
        }
        if let Some((at, variable)) = self.env.find(name) {
            let ty = variable.decl.ty();
            let ty = if variable.optional {
                Type::optional(ty)
            } else {
                ty
            };
            return Some((ty, Reference::Variable(at)));
        }
        let named = self.env.structure_named(name).map(|d| d.ty());
        let named = named.or_else(|| type_name(name))?;
        let ty = Type::Type(Some(Arc::new(named.clone())));
        Some((ty, Reference::TypeName(named)))
    }

    fn ident(&mut self, id: Id, name: &str) {
        match self.lookup(name) {
            Some((ty, reference)) => {
                self.set(id, ty);
                self.references[id as usize] = reference;
            }
            None => self.undeclared(id, name),
        }
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.set(id, Type::Error);
        self.report(
            id,
            format!("undeclared reference to '{name}' (in container '')"),
        );
    }

    fn select(&mut self, id: Id, operand: Id, field: &str, test: bool) {
        if !test
            && let Some(name) = self.ast.qualified(id)
            && !self.hidden(&name)
            && let Some((ty, reference)) = self.lookup(&name)
        {
            self.set(id, ty);
            self.references[id as usize] = reference;
            return;
        }
        let mut ty = self.field(id, operand, field, false);
        if test {
            ty = Type::Bool;
        }
        let ty = self.inference.substitute(&ty, false);
        self.set(id, ty);
    }

    /// Whether the first part of a dotted name is a macro's variable, which hides longer names.
    fn hidden(&self, name: &str) -> bool {
        let first = name.split('.').next().unwrap_or_default();
        self.scopes.iter().any(|(n, _)| &**n == first)
    }

    fn field(&mut self, id: Id, operand: Id, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand = self.inference.substitute(&self.ty(operand), false);
        let (target, is_optional) = match operand {
            Type::Optional(inner) => ((*inner).clone(), true),
            other => (other, false),
        };
        let result = match &target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(decl) => match decl.field(field) {
                Some(field) => field.decl.ty(),
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.inference.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    let message = match other {
                        Type::Opaque(_) => format!("undefined field '{field}'"),
                        _ => format!("type '{other}' does not support field selection"),
                    };
                    self.report(id, message);
                }
                Type::Dyn
            }
        };
        if is_optional || optional {
            Type::optional(result)
        } else {
            result
        }
    }

    fn call(&mut self, id: Id, name: &str, target: Option<Id>, args: &[Id]) {
        if name == "_?._" {
            let Expr::Literal(Literal::String(field)) = self.ast.expr(args[1]) else {
                return self.report(id, "unsupported optional field selection".into());
            };
            let ty = self.field(id, args[0], field, true);
            let ty = self.inference.substitute(&ty, false);
            self.set(id, ty);
            self.check(args[1]);
            self.references[id as usize] = Reference::Function {
                name: "_?._",
                overloads: vec!["select_optional_field"],
            };
            return;
        }
        for arg in args {
            self.check(*arg);
        }
        let Some(target) = target else {
            return match self.env.function(name) {
                Some((name, overloads)) => self.resolve(id, name, overloads, None, args),
                None => self.undeclared(id, name),
            };
        };
        // `ip.isCanonical(x)` is a function of that whole name.
        if let Some(prefix) = self.ast.qualified(target)
            && !self.hidden(&prefix)
            && let Some((name, overloads)) = self.env.function(&format!("{prefix}.{name}"))
        {
            return self.resolve(id, name, overloads, None, args);
        }
        self.check(target);
        match self.env.function(name) {
            Some((name, overloads)) => self.resolve(id, name, overloads, Some(target), args),
            None => self.undeclared(id, name),
        }
    }

    fn resolve(
        &mut self,
        id: Id,
        name: &'static str,
        overloads: &'static [Overload],
        target: Option<Id>,
        args: &[Id],
    ) {
        if name == "_&&_" || name == "_||_" {
            return self.logical(id, name, overloads, args);
        }
        let given: Vec<Type> = target.iter().chain(args).map(|a| self.ty(*a)).collect();
        let mut result: Option<Type> = None;
        let mut fits = Vec::new();
        for overload in overloads {
            if overload.member != target.is_some() || overload.args.len() != given.len() {
                continue;
            }
            let first = self.inference.fresh(overload.params);
            let wanted: Vec<Type> = overload.args.iter().map(|t| shifted(t, first)).collect();
            if !self.inference.all_assignable(&given, &wanted) {
                continue;
            }
            fits.push(overload.id);
            let ty = self
                .inference
                .substitute(&shifted(&overload.result, first), false);
            result = Some(match result {
                None => ty,
                Some(Type::Dyn) => Type::Dyn,
                Some(before) if before == ty => before,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let given: Vec<String> = given
                .iter()
                .map(|t| self.inference.substitute(t, true).to_string())
                .collect();
            let given = match (target, &given[..]) {
                (Some(_), [first, rest @ ..]) => format!("{first}.({})", rest.join(", ")),
                _ => format!("({})", given.join(", ")),
            };
            self.set(id, Type::Error);
            let message = format!("found no matching overload for '{name}' applied to '{given}'");
            return self.report(id, message);
        };
        self.set(id, result);
        self.references[id as usize] = Reference::Function {
            name,
            overloads: fits,
        };
    }

    fn logical(&mut self, id: Id, name: &'static str, overloads: &'static [Overload], args: &[Id]) {
        for arg in args {
            let ty = self.ty(*arg);
            if !self.inference.assignable(&ty, &Type::Bool) {
                let ty = self.inference.substitute(&ty, true);
                self.report(*arg, format!("expected type 'bool' but found '{ty}'"));
            }
        }
        self.set(id, Type::Bool);
        self.references[id as usize] = Reference::Function {
            name,
            overloads: overloads.iter().map(|o| o.id).collect(),
        };
    }

    fn list(&mut self, id: Id, items: &[(Id, bool)]) {
        let mut joined = None;
        for (item, optional) in items {
            self.check(*item);
            let ty = self.unwrapped(*item, *optional);
            joined = Some(self.join(joined, ty));
        }
        let item = joined.unwrap_or_else(|| Type::Param(self.inference.fresh(1)));
        self.set(id, Type::list(item));
    }

    fn map(&mut self, id: Id, entries: &[(Id, Id, bool)]) {
        let (mut keys, mut values) = (None, None);
        for (key, value, optional) in entries {
            self.check(*key);
            let ty = self.ty(*key);
            keys = Some(self.join(keys, ty));
            self.check(*value);
            let ty = self.unwrapped(*value, *optional);
            values = Some(self.join(values, ty));
        }
        let key = keys.unwrap_or_else(|| Type::Param(self.inference.fresh(1)));
        let value = values.unwrap_or_else(|| Type::Param(self.inference.fresh(1)));
        self.set(id, Type::map(key, value));
    }

    /// The type of an entry; of an optional one what it may hold.
    fn unwrapped(&mut self, id: Id, optional: bool) -> Type {
        let ty = self.ty(id);
        match ty {
            _ if !optional => ty,
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => ty,
            other => {
                let message = format!("expected type 'optional_type({other})' but found '{other}'");
                self.report(id, message);
                other
            }
        }
    }

    fn join(&mut self, before: Option<Type>, ty: Type) -> Type {
        let Some(before) = before else { return ty };
        if self.inference.assignable(&before, &ty) {
            return most_general(before, ty);
        }
        // Mixed literals are refused afterwards, except where they are arguments of `format`.
        Type::Dyn
    }

    fn structure(&mut self, id: Id, name: &str, fields: &[(Arc<str>, Id, bool)]) {
        for (_, value, _) in fields {
            self.check(*value);
        }
        let Some(decl) = self.env.structure_named(name) else {
            if let Some(ty) = type_name(name) {
                self.set(id, Type::Error);
                return self.report(id, format!("'{ty}' is not a message type"));
            }
            return self.undeclared(id, name);
        };
        for (field, value, optional) in fields {
            let Some(wanted) = decl.field(field) else {
                self.report(*value, format!("undefined field '{field}'"));
                continue;
            };
            let wanted = wanted.decl.ty();
            let given = self.unwrapped(*value, *optional);
            if !self.inference.assignable(&wanted, &given) {
                let given = self.inference.substitute(&given, true);
                let message = format!(
                    "expected type of field '{field}' is '{wanted}' but provided type is '{given}'"
                );
                self.report(*value, message);
            }
        }
        self.set(id, Type::Object(decl));
    }

    fn fold(&mut self, id: Id, fold: &Fold) {
        self.check(fold.range);
        self.check(fold.init);
        let range = self.inference.substitute(&self.ty(fold.range), false);
        let accu = self.ty(fold.init);
        let scopes = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let (first, second) = match &range {
            Type::List(item) if fold.var2.is_some() => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Error),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.inference.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(fold.range, message);
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        self.check(fold.condition);
        self.expect(fold.condition, &Type::Bool);
        self.check(fold.step);
        self.expect(fold.step, &accu);
        self.scopes.truncate(scopes + 1);
        self.check(fold.result);
        self.scopes.truncate(scopes);
        let ty = self.inference.substitute(&self.ty(fold.result), false);
        self.set(id, ty);
    }

    fn expect(&mut self, id: Id, wanted: &Type) {
        let given = self.ty(id);
        if !self.inference.assignable(wanted, &given) {
            let wanted = self.inference.substitute(wanted, true);
            let given = self.inference.substitute(&given, true);
            self.report(id, format!("expected type '{wanted}' but found '{given}'"));
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
