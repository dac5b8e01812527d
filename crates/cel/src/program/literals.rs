//! What is known of the literals in an expression before it runs: durations, timestamps and patterns that
//! are none, lists and maps of several types.

use crate::ast::{Expr, Id, Literal};
use crate::checker::{Checked, Reference};
use crate::error::EvalError;
use crate::issue::Issue;
use crate::types::Type;
use crate::value::Value;
use crate::{convert, re2};

/// What is known of literals before the expression runs.
pub(super) fn validate(checked: &Checked) -> Result<(), Vec<Issue>> {
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
