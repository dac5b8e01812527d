//! Macros: what looks like a call, but takes expressions instead of values, and is rewritten while
//! parsing. A call that has a macro's name and another number of arguments is not a macro.

use std::sync::Arc;

use crate::ast::{Expr, Fold, Id, Literal};
use crate::issue::Issue;
use crate::parser::{Parsed, Parser};

/// The variable in which a macro gathers its result; no expression can name it.
pub(crate) const ACCUMULATOR: &str = "@result";
const UNUSED: &str = "#unused";
const SORT_INPUT: &str = "@__sortBy_input__";

/// `has(e.f)`.
pub(crate) fn global(p: &mut Parser, at: u32, name: &str, args: &[Id]) -> Parsed<Option<Id>> {
    let (true, [arg]) = (name == "has", args) else {
        return Ok(None);
    };
    match p.ast().expr(*arg).clone() {
        Expr::Select {
            operand,
            field,
            test: false,
        } => p
            .node(
                at,
                Expr::Select {
                    operand,
                    field,
                    test: true,
                },
            )
            .map(Some),
        _ => Err(issue(p, *arg, "invalid argument to has() macro")),
    }
}

/// `e.all(x, p)` and its kin.
pub(crate) fn receiver(
    p: &mut Parser,
    at: u32,
    range: Id,
    name: &str,
    args: &[Id],
) -> Parsed<Option<Id>> {
    let m = Macro { at, range };
    Ok(Some(match (name, args) {
        ("all" | "exists" | "exists_one" | "existsOne", [var, test]) => {
            let vars = m.vars(p, *var, None)?;
            m.quantifier(p, name, vars, *test)?
        }
        ("all" | "exists" | "exists_one" | "existsOne", [var, var2, test]) => {
            let vars = m.vars(p, *var, Some(*var2))?;
            m.quantifier(p, name, vars, *test)?
        }
        ("map", [var, rest @ ..]) if rest.len() == 1 || rest.len() == 2 => {
            let vars = Vars(simple(p, *var, "argument is not an identifier")?, None);
            m.list(p, vars, rest)?
        }
        ("filter", [var, test]) => {
            let var = simple(p, *var, "argument is not an identifier")?;
            let item = p.ident(at, &var)?;
            m.list(p, Vars(var, None), &[*test, item])?
        }
        ("transformList", [var, var2, rest @ ..]) if rest.len() == 1 || rest.len() == 2 => {
            let vars = m.vars(p, *var, Some(*var2))?;
            m.list(p, vars, rest)?
        }
        ("transformMap" | "transformMapEntry", [var, var2, rest @ ..])
            if rest.len() == 1 || rest.len() == 2 =>
        {
            let vars = m.vars(p, *var, Some(*var2))?;
            m.map(p, vars, rest, name == "transformMap")?
        }
        ("optMap" | "optFlatMap", [var, body]) => {
            let what = format!("{name}() variable name must be a simple identifier");
            let var = simple(p, *var, &what)?;
            m.opt_map(p, var, *body, name == "optMap")?
        }
        ("sortBy", [var, key]) => {
            let var = simple(p, *var, "argument is not an identifier")?;
            m.sort_by(p, var, *key)?
        }
        _ => return Ok(None),
    }))
}

struct Vars(Arc<str>, Option<Arc<str>>);

struct Macro {
    at: u32,
    range: Id,
}

impl Macro {
    fn vars(&self, p: &Parser, var: Id, var2: Option<Id>) -> Parsed<Vars> {
        let what = "argument must be a simple name";
        let first = simple(p, var, what)?;
        let Some(second_id) = var2 else {
            return Ok(Vars(first, None));
        };
        let second = simple(p, second_id, what)?;
        if first == second {
            let what = format!("duplicate variable name: {first}");
            return Err(issue(p, second_id, &what));
        }
        Ok(Vars(first, Some(second)))
    }

    fn accu(&self, p: &mut Parser) -> Parsed<Id> {
        p.ident(self.at, ACCUMULATOR)
    }

    fn fold(&self, p: &mut Parser, vars: Vars, parts: Parts) -> Parsed<Id> {
        let fold = Fold {
            var: vars.0,
            var2: vars.1,
            range: self.range,
            accu: Arc::from(ACCUMULATOR),
            init: parts.init,
            condition: parts.condition,
            step: parts.step,
            result: parts.result,
        };
        p.node(self.at, Expr::Fold(Box::new(fold)))
    }

    fn quantifier(&self, p: &mut Parser, name: &str, vars: Vars, test: Id) -> Parsed<Id> {
        let at = self.at;
        if name != "all" && name != "exists" {
            return self.exists_one(p, vars, test);
        }
        let init = p.literal(at, Literal::Bool(name == "all"))?;
        let mut going = self.accu(p)?;
        if name == "exists" {
            going = p.call(at, "!_", vec![going])?;
        }
        let condition = p.call(at, "@not_strictly_false", vec![going])?;
        let accu = self.accu(p)?;
        let function = if name == "all" { "_&&_" } else { "_||_" };
        let step = p.call(at, function, vec![accu, test])?;
        let result = self.accu(p)?;
        let parts = Parts {
            init,
            condition,
            step,
            result,
        };
        self.fold(p, vars, parts)
    }

    fn exists_one(&self, p: &mut Parser, vars: Vars, test: Id) -> Parsed<Id> {
        let at = self.at;
        let init = p.literal(at, Literal::Int(0))?;
        let condition = p.literal(at, Literal::Bool(true))?;
        let (accu, one) = (self.accu(p)?, p.literal(at, Literal::Int(1))?);
        let more = p.call(at, "_+_", vec![accu, one])?;
        let accu = self.accu(p)?;
        let step = p.call(at, "_?_:_", vec![test, more, accu])?;
        let (accu, one) = (self.accu(p)?, p.literal(at, Literal::Int(1))?);
        let result = p.call(at, "_==_", vec![accu, one])?;
        let parts = Parts {
            init,
            condition,
            step,
            result,
        };
        self.fold(p, vars, parts)
    }

    /// `rest` is the transformation, or a test and the transformation.
    fn gather(
        &self,
        p: &mut Parser,
        vars: Vars,
        init: Id,
        rest: &[Id],
        add: impl FnOnce(&mut Parser, Id, Id) -> Parsed<Id>,
    ) -> Parsed<Id> {
        let at = self.at;
        let condition = p.literal(at, Literal::Bool(true))?;
        let (test, transform) = match rest {
            [test, transform] => (Some(*test), *transform),
            _ => (None, rest[0]),
        };
        let accu = self.accu(p)?;
        let mut step = add(p, accu, transform)?;
        if let Some(test) = test {
            let accu = self.accu(p)?;
            step = p.call(at, "_?_:_", vec![test, step, accu])?;
        }
        let result = self.accu(p)?;
        let parts = Parts {
            init,
            condition,
            step,
            result,
        };
        self.fold(p, vars, parts)
    }

    fn list(&self, p: &mut Parser, vars: Vars, rest: &[Id]) -> Parsed<Id> {
        let at = self.at;
        let init = p.node(at, Expr::List(Vec::new()))?;
        self.gather(p, vars, init, rest, |p, accu, item| {
            let item = p.node(at, Expr::List(vec![(item, false)]))?;
            p.call(at, "_+_", vec![accu, item])
        })
    }

    fn map(&self, p: &mut Parser, vars: Vars, rest: &[Id], keyed: bool) -> Parsed<Id> {
        let at = self.at;
        let init = p.node(at, Expr::Map(Vec::new()))?;
        let key = vars.0.clone();
        self.gather(p, vars, init, rest, |p, accu, value| {
            let mut args = vec![accu];
            if keyed {
                args.push(p.ident(at, &key)?);
            }
            args.push(value);
            p.call(at, "cel.@mapInsert", args)
        })
    }

    /// A variable that is bound once: a fold over nothing.
    fn bind(&self, p: &mut Parser, var: Arc<str>, init: Id, result: Id) -> Parsed<Id> {
        let at = self.at;
        let range = p.node(at, Expr::List(Vec::new()))?;
        let condition = p.literal(at, Literal::Bool(false))?;
        let step = p.ident(at, &var)?;
        let fold = Fold {
            var: Arc::from(UNUSED),
            var2: None,
            range,
            accu: var,
            init,
            condition,
            step,
            result,
        };
        p.node(at, Expr::Fold(Box::new(fold)))
    }

    fn opt_map(&self, p: &mut Parser, var: Arc<str>, body: Id, wrap: bool) -> Parsed<Id> {
        let at = self.at;
        let has = p.member(at, self.range, "hasValue", Vec::new())?;
        let copy = p.copy(self.range)?;
        let value = p.member(at, copy, "value", Vec::new())?;
        let mut then = self.bind(p, var, value, body)?;
        if wrap {
            then = p.call(at, "optional.of", vec![then])?;
        }
        let none = p.call(at, "optional.none", Vec::new())?;
        p.call(at, "_?_:_", vec![has, then, none])
    }

    fn sort_by(&self, p: &mut Parser, var: Arc<str>, key: Id) -> Parsed<Id> {
        let at = self.at;
        let input = p.ident(at, SORT_INPUT)?;
        let keys = Macro { at, range: input }.list(p, Vars(var, None), &[key])?;
        let input = p.ident(at, SORT_INPUT)?;
        let call = p.member(at, input, "@sortByAssociatedKeys", vec![keys])?;
        self.bind(p, Arc::from(SORT_INPUT), self.range, call)
    }
}

struct Parts {
    init: Id,
    condition: Id,
    step: Id,
    result: Id,
}

/// The name that an argument is; anything else is an error.
fn simple(p: &Parser, id: Id, what: &str) -> Parsed<Arc<str>> {
    match p.ast().expr(id) {
        Expr::Ident(name) => Ok(name.clone()),
        _ => Err(issue(p, id, what)),
    }
}

fn issue(p: &Parser, id: Id, message: &str) -> Issue {
    Issue {
        at: p.ast().at(id),
        message: message.to_owned(),
    }
}
