//! Unification of types: what variables of inference stand for.
//!
//! It works with a trail instead of copies, and every step costs fuel: an expression whose types grow
//! without bound is refused instead of checked.

use std::sync::Arc;

use crate::types::Type;

/// Steps of unification and substitution for one expression. Ordinary expressions take some tens
/// for each of their parts.
const FUEL: u64 = 4_000_000;

/// The variables of inference of one expression, and the steps that are left for it.
pub(crate) struct Inference {
    /// What variables of inference stand for.
    bound: Vec<Option<Type>>,
    /// Earlier values of `bound`, for going back.
    trail: Vec<(u32, Option<Type>)>,
    fuel: u64,
}

impl Inference {
    pub fn new() -> Self {
        Self {
            bound: Vec::new(),
            trail: Vec::new(),
            fuel: FUEL,
        }
    }

    /// Whether more was asked for than one expression may cost.
    pub fn is_exhausted(&self) -> bool {
        self.fuel == 0
    }

    /// Takes a step; false where none is left.
    pub fn burn(&mut self) -> bool {
        self.fuel = self.fuel.saturating_sub(1);
        self.fuel > 0
    }

    /// New variables of inference; the first one's number.
    pub fn fresh(&mut self, count: u32) -> u32 {
        let first = self.bound.len() as u32;
        self.bound.extend((0..count).map(|_| None));
        first
    }

    /// Unifies two types; nothing is bound when they do not fit.
    pub fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        self.all_assignable(std::slice::from_ref(a), std::slice::from_ref(b))
    }

    /// Unifies pairs of types; nothing is bound when one of them does not fit.
    pub fn all_assignable(&mut self, a: &[Type], b: &[Type]) -> bool {
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
    pub fn substitute(&mut self, ty: &Type, to_dyn: bool) -> Type {
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

/// An overload's type with its parameters counted from `first`.
pub(crate) fn shifted(ty: &Type, first: u32) -> Type {
    match ty {
        Type::Param(n) => Type::Param(n + first),
        Type::List(inner) => Type::list(shifted(inner, first)),
        Type::Optional(inner) => Type::optional(shifted(inner, first)),
        Type::Type(Some(inner)) => Type::Type(Some(Arc::new(shifted(inner, first)))),
        Type::Map(entry) => Type::map(shifted(&entry.0, first), shifted(&entry.1, first)),
        other => other.clone(),
    }
}

/// That of two types which describes more.
pub(crate) fn most_general(a: Type, b: Type) -> Type {
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
