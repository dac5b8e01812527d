//! Types of expressions, found by unification as the language defines it: each node gets its type,
//! each call the overloads that may answer it.
//!
//! Unification works with a trail instead of copies, and every step costs fuel: an expression
//! whose types grow without bound is refused instead of checked.

use std::sync::Arc;

use crate::ast::{Ast, Expr, Fold, Id, Literal};
use crate::env::{Env, Overload, type_name};
use crate::issue::Issue;
use crate::types::Type;

/// Steps of unification and substitution for one expression. Ordinary expressions take some tens
/// for each of their parts.
const FUEL: u64 = 4_000_000;

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
        bound: Vec::new(),
        trail: Vec::new(),
        issues: Vec::new(),
        fuel: FUEL,
    };
    checker.check(ast.root);
    for id in 0..count {
        let ty = std::mem::replace(&mut checker.types[id], Type::Error);
        checker.types[id] = checker.substitute(&ty, true);
    }
    if checker.fuel == 0 {
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
    /// What variables of inference stand for.
    bound: Vec<Option<Type>>,
    /// Earlier values of `bound`, for going back.
    trail: Vec<(u32, Option<Type>)>,
    issues: Vec<Issue>,
    fuel: u64,
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

    fn burn(&mut self) -> bool {
        self.fuel = self.fuel.saturating_sub(1);
        self.fuel > 0
    }

    fn check(&mut self, id: Id) {
        if !self.burn() {
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
        let ty = self.substitute(&ty, false);
        self.set(id, ty);
    }

    /// Whether the first part of a dotted name is a macro's variable, which hides longer names.
    fn hidden(&self, name: &str) -> bool {
        let first = name.split('.').next().unwrap_or_default();
        self.scopes.iter().any(|(n, _)| &**n == first)
    }

    fn field(&mut self, id: Id, operand: Id, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand = self.substitute(&self.ty(operand), false);
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
                self.assignable(&Type::Dyn, &target);
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
            let ty = self.substitute(&ty, false);
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
            let first = self.fresh(overload.params);
            let wanted: Vec<Type> = overload.args.iter().map(|t| shifted(t, first)).collect();
            if !self.all_assignable(&given, &wanted) {
                continue;
            }
            fits.push(overload.id);
            let ty = self.substitute(&shifted(&overload.result, first), false);
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
                .map(|t| self.substitute(t, true).to_string())
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
            if !self.assignable(&ty, &Type::Bool) {
                let ty = self.substitute(&ty, true);
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
        let item = joined.unwrap_or_else(|| Type::Param(self.fresh(1)));
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
        let key = keys.unwrap_or_else(|| Type::Param(self.fresh(1)));
        let value = values.unwrap_or_else(|| Type::Param(self.fresh(1)));
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
        if self.assignable(&before, &ty) {
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
            if !self.assignable(&wanted, &given) {
                let given = self.substitute(&given, true);
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
        let range = self.substitute(&self.ty(fold.range), false);
        let accu = self.ty(fold.init);
        let scopes = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let (first, second) = match &range {
            Type::List(item) if fold.var2.is_some() => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Error),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.assignable(&Type::Dyn, &range);
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
        let ty = self.substitute(&self.ty(fold.result), false);
        self.set(id, ty);
    }

    fn expect(&mut self, id: Id, wanted: &Type) {
        let given = self.ty(id);
        if !self.assignable(wanted, &given) {
            let wanted = self.substitute(wanted, true);
            let given = self.substitute(&given, true);
            self.report(id, format!("expected type '{wanted}' but found '{given}'"));
        }
    }

    /// New variables of inference; the first one's number.
    fn fresh(&mut self, count: u32) -> u32 {
        let first = self.bound.len() as u32;
        self.bound.extend((0..count).map(|_| None));
        first
    }

    fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        self.all_assignable(std::slice::from_ref(a), std::slice::from_ref(b))
    }

    /// Unifies pairs of types; nothing is bound when one of them does not fit.
    fn all_assignable(&mut self, a: &[Type], b: &[Type]) -> bool {
        let mark = self.trail.len();
        if a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.unify(a, b)) {
            self.trail.truncate(0);
            return true;
        }
        while self.trail.len() > mark {
            if let Some((n, before)) = self.trail.pop() {
                self.bound[n as usize] = before;
            }
        }
        false
    }

    fn bind(&mut self, n: u32, ty: Type) {
        let before = self.bound[n as usize].replace(ty);
        self.trail.push((n, before));
    }

    fn unify(&mut self, a: &Type, b: &Type) -> bool {
        if !self.burn() {
            return true;
        }
        if let Type::Param(n) = b {
            match self.bindable(a, b, *n) {
                (true, _) => return true,
                (false, true) => return false,
                _ => {}
            }
        }
        if let Type::Param(n) = a {
            return self.bindable(b, a, *n).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null
                    | Type::Object(_)
                    | Type::Opaque(_)
                    | Type::Optional(_)
                    | Type::Duration
                    | Type::Timestamp
            ),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
                self.unify(a, b)
            }
            (Type::Map(a), Type::Map(b)) => self.unify(&a.0, &b.0) && self.unify(&a.1, &b.1),
            (Type::Type(_), Type::Type(_)) => true,
            (a, b) => a == b,
        }
    }

    /// Whether `ty` may stand for parameter `n` (`param`), and whether it was bound before.
    fn bindable(&mut self, ty: &Type, param: &Type, n: u32) -> (bool, bool) {
        if ty == param {
            return (true, true);
        }
        if let Some(bound) = self.bound[n as usize].clone() {
            if *ty == bound {
                return (true, true);
            }
            if self.unify(ty, &bound) {
                let general = most_general(ty.clone(), bound);
                if self.unmentioned(n, &general) {
                    self.bind(n, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.unmentioned(n, ty) {
            self.bind(n, ty.clone());
            return (true, false);
        }
        (false, false)
    }

    /// Whether parameter `n` does not occur in `ty`, so that binding it makes no circle.
    fn unmentioned(&mut self, n: u32, ty: &Type) -> bool {
        if !self.burn() {
            return false;
        }
        match ty {
            Type::Param(other) if *other == n => false,
            Type::Param(other) => match self.bound[*other as usize].clone() {
                Some(bound) => self.unmentioned(n, &bound),
                None => true,
            },
            Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => {
                self.unmentioned(n, inner)
            }
            Type::Map(entry) => self.unmentioned(n, &entry.0) && self.unmentioned(n, &entry.1),
            _ => true,
        }
    }

    /// The type with everything put in that is known; unknown parts become `dyn` when asked.
    fn substitute(&mut self, ty: &Type, to_dyn: bool) -> Type {
        if !self.burn() {
            return Type::Dyn;
        }
        match ty {
            Type::Param(n) => match self.bound.get(*n as usize).cloned().flatten() {
                Some(bound) => self.substitute(&bound, to_dyn),
                None if to_dyn => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(inner) => Type::list(self.substitute(inner, to_dyn)),
            Type::Optional(inner) => Type::optional(self.substitute(inner, to_dyn)),
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.substitute(inner, to_dyn)))),
            Type::Map(entry) => {
                let key = self.substitute(&entry.0, to_dyn);
                Type::map(key, self.substitute(&entry.1, to_dyn))
            }
            other => other.clone(),
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

/// An overload's type with its parameters counted from `first`.
fn shifted(ty: &Type, first: u32) -> Type {
    match ty {
        Type::Param(n) => Type::Param(n + first),
        Type::List(inner) => Type::list(shifted(inner, first)),
        Type::Optional(inner) => Type::optional(shifted(inner, first)),
        Type::Type(Some(inner)) => Type::Type(Some(Arc::new(shifted(inner, first)))),
        Type::Map(entry) => Type::map(shifted(&entry.0, first), shifted(&entry.1, first)),
        other => other.clone(),
    }
}

fn most_general(a: Type, b: Type) -> Type {
    if is_as_general(&a, &b) { a } else { b }
}

/// Whether everything that `b` describes is described by `a`.
fn is_as_general(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
            is_as_general(a, b)
        }
        (Type::Map(a), Type::Map(b)) => is_as_general(&a.0, &b.0) && is_as_general(&a.1, &b.1),
        (a, b) => a == b,
    }
}
