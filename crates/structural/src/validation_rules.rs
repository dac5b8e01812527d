//! `x-kubernetes-validations`: rules compiled beside the schema they stand in, and run on values
//! with what these were before.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{FieldError, FieldPath};
use cel::{Decl, Env, EvalError, PER_CALL_LIMIT, Program, Type, Value};
use serde_json::Value as Json;

use crate::correlate::Pair;
use crate::decl::declare;
use crate::model::{Additional, List, Rule, Structural};
use crate::path;
use crate::stopwatch::measured;

/// Longest message that an expression gives, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;

/// A rule that can be run.
pub(crate) struct Compiled {
    pub rule: Rule,
    pub program: Result<Program, String>,
    pub message: Option<Result<Program, String>>,
    pub uses_old: bool,
    /// Below the rule's own place, where its errors belong.
    pub field: String,
}

/// The environment of rules: `self` and `oldSelf`.
fn env(decl: &Arc<Decl>, optional_old: bool) -> Env {
    let env = Env::new().variable("self", decl.clone());
    let env = if optional_old {
        env.optional_variable("oldSelf", decl.clone())
    } else {
        env.variable("oldSelf", decl.clone())
    };
    env.with_declared_sizes()
}

/// Compiles the rules of one node.
pub(crate) fn compile(schema: &Structural, rules: &[Rule], decl: &Arc<Decl>) -> Vec<Compiled> {
    if rules.is_empty() {
        return Vec::new();
    }
    measured(|s| s.compiled, || compile_all(schema, rules, decl))
}

fn compile_all(schema: &Structural, rules: &[Rule], decl: &Arc<Decl>) -> Vec<Compiled> {
    let one = |rule: &Rule| {
        let env = env(decl, rule.optional_old_self == Some(true));
        let program = Program::compile(&rule.rule, &env)
            .map_err(|e| format!("compilation failed: {e}"))
            .and_then(|p| match p.result() {
                Type::Bool => Ok(p),
                _ => Err("cel expression must evaluate to a bool".to_owned()),
            });
        let message = (!rule.message_expression.is_empty() && program.is_ok()).then(|| {
            Program::compile(&rule.message_expression, &env)
                .map_err(|e| format!("messageExpression compilation failed: {e}"))
                .and_then(|p| match p.result() {
                    Type::String => Ok(p),
                    _ => Err("messageExpression must evaluate to a string".to_owned()),
                })
        });
        let uses_old = program.as_ref().is_ok_and(|p| p.uses(1));
        Compiled {
            uses_old,
            program,
            message,
            field: path::parse(&rule.field_path, schema).unwrap_or_default(),
            rule: rule.clone(),
        }
    };
    let rules = rules.iter().filter(|r| !r.rule.trim().is_empty());
    rules.map(one).collect()
}

/// All rules of a schema, where they apply.
#[derive(Default)]
pub struct Rules {
    own: Vec<Compiled>,
    decl: Option<Arc<Decl>>,
    /// `object`, `array` and so on, for messages.
    ty: Arc<str>,
    items: Option<Box<Rules>>,
    list: List,
    properties: BTreeMap<Arc<str>, Rules>,
    additional: Option<Box<Rules>>,
    atomic: bool,
}

impl Rules {
    /// Compiles the rules of a schema; none if it has none. Rules that do not compile say so
    /// whenever they are to be run: the schema was checked when it came.
    pub fn compile(schema: &Structural) -> Option<Self> {
        let mut any = false;
        schema.walk(&mut |node| any |= !node.rules.is_empty());
        if !any {
            return None;
        }
        let decl = declare(schema, true);
        Self::node(schema, decl.as_ref())
    }

    /// The rules of a part of a schema, for values of that part alone.
    pub(crate) fn of_part(schema: &Structural) -> Option<Self> {
        let decl = declare(schema, schema.embedded);
        Self::node(schema, decl.as_ref())
    }

    fn node(schema: &Structural, decl: Option<&Arc<Decl>>) -> Option<Self> {
        let own = match decl {
            Some(decl) => compile(schema, &schema.rules, decl),
            None => Vec::new(),
        };
        let element = decl.and_then(|d| d.element());
        let items = schema.items.as_ref().and_then(|s| Self::node(s, element));
        let additional = match &schema.additional {
            Additional::Schema(s) => Self::node(s, element),
            _ => None,
        };
        let mut properties = BTreeMap::new();
        for (name, property) in &schema.properties {
            let field = match (cel::escape(name), decl) {
                (Some(escaped), Some(decl)) => decl.field(&escaped).map(|f| f.decl.clone()),
                // A name that no expression can write: what is below may have rules all the same.
                _ => declare(property, property.embedded),
            };
            if let Some(field) = field
                && let Some(rules) = Self::node(property, Some(&field))
            {
                properties.insert(name.clone(), rules);
            }
        }
        let empty =
            own.is_empty() && items.is_none() && additional.is_none() && properties.is_empty();
        (!empty).then(|| Self {
            own,
            decl: decl.cloned(),
            ty: schema.ty.clone(),
            items: items.map(Box::new),
            list: schema.list.clone(),
            properties,
            additional: additional.map(Box::new),
            atomic: schema.atomic,
        })
    }

    /// Runs the rules. `budget` is what they may cost together ([`cel::PER_OBJECT_LIMIT`]). What
    /// fails, but has not changed, comes back as warnings.
    pub fn run(&self, path: &FieldPath, value: &Json, old: Option<&Json>, budget: u64) -> Ran {
        let mut ran = Ran {
            errors: Vec::new(),
            warnings: Vec::new(),
            budget: Some(budget),
        };
        self.visit(path, &Pair::root(value, old), &mut ran);
        ran
    }

    fn visit(&self, path: &FieldPath, pair: &Pair, ran: &mut Ran) {
        if pair.new.is_null() {
            return;
        }
        if !self.own.is_empty() {
            measured(|s| s.evaluated, || self.evaluate(path, pair, ran));
        }
        match pair.new {
            Json::Array(items) => {
                let Some(rules) = &self.items else { return };
                for i in 0..items.len() {
                    if ran.budget.is_none() {
                        return;
                    }
                    if let Some(item) = pair.item(i, &self.list) {
                        rules.visit(&path.index(i), &item, ran);
                    }
                }
            }
            Json::Object(map) => {
                for key in map.keys() {
                    if ran.budget.is_none() {
                        return;
                    }
                    let (rules, path) = match (self.properties.get(&**key), &self.additional) {
                        (Some(rules), _) => (rules, path.child(key)),
                        (None, Some(rules)) => (&**rules, path.key(key)),
                        _ => continue,
                    };
                    if let Some(field) = pair.field(key, self.atomic) {
                        rules.visit(&path, &field, ran);
                    }
                }
            }
            _ => {}
        }
    }

    fn evaluate(&self, path: &FieldPath, pair: &Pair, ran: &mut Ran) {
        let (Some(decl), false) = (&self.decl, self.own.is_empty()) else {
            return;
        };
        let ty = Json::from(&*self.ty);
        let invalid = |what: String| FieldError::invalid(path, &ty, &what);
        if ran.budget == Some(0) {
            ran.errors.push(invalid(OUT_OF_BUDGET.into()));
            ran.budget = None;
            return;
        }
        let current = match Value::read(pair.new, decl) {
            Ok(value) => value,
            Err(error) => return ran.errors.push(invalid(error.to_string())),
        };
        let old = pair.old.filter(|o| !o.is_null());
        let old = old.and_then(|old| Value::read(old, decl).ok());
        for compiled in &self.own {
            let optional = compiled.rule.optional_old_self == Some(true);
            if compiled.uses_old && old.is_none() && !optional {
                continue;
            }
            let variables = [
                Some(current.clone()),
                match optional {
                    true => Some(Value::Optional(old.clone().map(Into::into))),
                    false => old.clone(),
                },
            ];
            self.one(compiled, &variables, path, pair, ran);
            if ran.budget.is_none() {
                return;
            }
        }
    }

    fn one(
        &self,
        compiled: &Compiled,
        variables: &[Option<Value>],
        path: &FieldPath,
        pair: &Pair,
        ran: &mut Ran,
    ) {
        let ty = Json::from(&*self.ty);
        let invalid = |what: String| FieldError::invalid(path, &ty, &what);
        let program = match &compiled.program {
            Ok(program) => program,
            Err(what) => {
                return ran
                    .errors
                    .push(invalid(format!("rule compile error: {what}")));
            }
        };
        let done = program.evaluate(variables, PER_CALL_LIMIT);
        if !ran.spend(done.cost) {
            return ran.errors.push(invalid(OUT_OF_BUDGET.into()));
        }
        let shown = compiled.rule.shown();
        match done.result {
            Ok(Value::Bool(true)) => return,
            Ok(_) => {}
            Err(EvalError::CostExceeded) => {
                let error = EvalError::CostExceeded;
                ran.budget = None;
                return ran.errors.push(invalid(format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                )));
            }
            Err(error) if error.is_no_overload() => {
                return ran.errors.push(invalid(format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                )));
            }
            Err(error) => {
                return ran
                    .errors
                    .push(invalid(format!("{error} evaluating rule: {shown}")));
            }
        }
        let detail = match self.message(compiled, variables, path, ran) {
            Some(detail) => detail,
            None if ran.budget.is_none() => return,
            None if compiled.rule.message.is_empty() => format!("failed rule: {shown}"),
            None => compiled.rule.message.trim().to_owned(),
        };
        let error = self.failed(compiled, path, pair.new, &detail);
        if !compiled.uses_old && pair.is_unchanged() {
            ran.warnings.push(error.to_string());
        } else {
            ran.errors.push(error);
        }
    }

    /// The text that a rule's message expression gives; none if it has none or fails.
    fn message(
        &self,
        compiled: &Compiled,
        variables: &[Option<Value>],
        path: &FieldPath,
        ran: &mut Ran,
    ) -> Option<String> {
        let Some(Ok(program)) = &compiled.message else {
            return None;
        };
        let done = program.evaluate(variables, PER_CALL_LIMIT);
        let ty = Json::from(&*self.ty);
        let stop = |what: &str, ran: &mut Ran| {
            ran.errors.push(FieldError::invalid(path, &ty, what));
            ran.budget = None;
        };
        if !ran.spend(done.cost) {
            stop(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run",
                ran,
            );
            return None;
        }
        match done.result {
            Ok(Value::String(text)) => {
                let text = text.trim();
                let fits = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
                fits.then(|| text.to_owned())
            }
            Err(EvalError::CostExceeded) => {
                let what = format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                    compiled.rule.message_expression
                );
                stop(&what, ran);
                None
            }
            _ => None,
        }
    }

    fn failed(&self, rule: &Compiled, path: &FieldPath, value: &Json, detail: &str) -> FieldError {
        let path = match &*rule.field {
            "" => path.clone(),
            field => FieldPath::new(&format!("{path}{field}")),
        };
        let path = FieldPath::new(path.as_str().trim_start_matches('.'));
        let mut error = match rule.rule.reason.as_deref() {
            Some("FieldValueForbidden") => return FieldError::forbidden(&path, detail),
            Some("FieldValueRequired") => return FieldError::required(&path, detail),
            Some("FieldValueDuplicate") => FieldError::duplicate(&path, value),
            _ => FieldError::invalid(&path, value, detail),
        };
        if matches!(&*self.ty, "object" | "array") {
            // Large values are not repeated.
            error.value = None;
        }
        error
    }
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What came of running rules.
pub struct Ran {
    pub errors: Vec<FieldError>,
    /// Texts of what fails, but failed before as well.
    pub warnings: Vec<String>,
    /// What is left of the budget; none when it was not enough.
    pub budget: Option<u64>,
}

impl Ran {
    /// Takes what a run cost; whether there was as much.
    fn spend(&mut self, cost: u64) -> bool {
        self.budget = self.budget.and_then(|left| left.checked_sub(cost));
        self.budget.is_some()
    }
}

impl Rule {
    /// How messages name the rule.
    pub(crate) fn shown(&self) -> &str {
        match self.message.trim() {
            "" => self.rule.trim(),
            message => message,
        }
    }
}
