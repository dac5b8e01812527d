//! Runs compiled expressions on one request, within what they may cost together.

use cel::{Authorizer, Check, Lazy, MATCH_CONDITIONS_LIMIT, PER_CALL_LIMIT, Program, Value};
use serde_json::Value as Json;

use crate::compile::{Compiler, Want};
use crate::env::{self, AUTHORIZER, COUNT, NAMESPACE, OBJECT, OLD_OBJECT, PARAMS, REQUEST};
use crate::env::{REQUEST_RESOURCE, VARIABLES};

/// What a request gives its expressions.
#[derive(Clone)]
pub struct ExpressionInputs<'a> {
    /// In the version that the policy matched; none for a deletion.
    pub object: Option<&'a Json>,
    /// None for a creation.
    pub old_object: Option<&'a Json>,
    /// None where there are none.
    pub params: Option<&'a Json>,
    /// An AdmissionRequest, without objects.
    pub request: &'a Json,
    /// None for what is in no namespace.
    pub namespace: Option<&'a Json>,
    pub authorizer: Option<&'a dyn Authorizer>,
    /// The request as a question to the authorizer, without a verb.
    pub resource: &'a Check,
}

/// Why nothing more is run.
pub(crate) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// An expression, and its program or why there is none.
pub struct Condition {
    pub source: String,
    pub program: Result<Program, String>,
}

impl Condition {
    pub(crate) fn new(compiler: &Compiler, source: &str, want: Want) -> Self {
        Self {
            source: source.to_owned(),
            program: compiler.compile(source, want),
        }
    }

    pub(crate) fn uses_namespace(&self) -> bool {
        self.program.as_ref().is_ok_and(|p| p.uses(NAMESPACE))
    }
}

/// The variables of a run, in their places, and what a policy's own gave so far.
pub(crate) struct Run<'a> {
    values: [Option<Value<'a>>; COUNT],
    fields: Lazy<'a>,
    /// What may still be spent.
    pub budget: u64,
}

impl<'a> Run<'a> {
    pub fn new(given: &ExpressionInputs<'a>, fields: &'a cel::Fields, budget: u64) -> Self {
        let read = |json: Option<&'a Json>, decl| {
            let value = json.and_then(|j| Value::read(j, decl).ok());
            Some(value.unwrap_or(Value::Null))
        };
        let mut values: [Option<Value<'a>>; COUNT] = Default::default();
        values[OBJECT] = read(given.object, env::any());
        values[OLD_OBJECT] = read(given.old_object, env::any());
        values[NAMESPACE] = read(given.namespace, env::namespace());
        values[REQUEST] = read(Some(given.request), env::request());
        values[PARAMS] = read(given.params, env::any());
        if let Some(authorizer) = given.authorizer {
            values[AUTHORIZER] = Some(Value::authorizer(authorizer));
            let check = given.resource.clone();
            values[REQUEST_RESOURCE] = Some(Value::resource_check(authorizer, check));
        }
        values[VARIABLES] = None;
        Self {
            values,
            fields: Lazy::new(fields),
            budget,
        }
    }

    /// Runs one expression. The outer error ends the run: nothing is left to spend.
    pub fn one(&mut self, condition: &'a Condition) -> Result<Ran<'a>, &'static str> {
        let program = match &condition.program {
            Ok(program) => program,
            Err(what) => return Ok(Err(format!("compilation error: {what}"))),
        };
        let done = program.evaluate_with(&self.values, &self.fields, PER_CALL_LIMIT);
        let cost = done.cost.saturating_add(self.fields.take_cost());
        self.budget = self.budget.checked_sub(cost).ok_or(OUT_OF_BUDGET)?;
        Ok(done.result.map_err(|error| {
            format!(
                "expression '{}' resulted in error: {error}",
                condition.source
            )
        }))
    }
}

/// What came of an expression, or what went wrong.
pub(crate) type Ran<'a> = Result<Value<'a>, String>;

/// The match conditions of a webhook or policy.
#[derive(Default)]
pub struct Matcher {
    pub(crate) conditions: Vec<Condition>,
    ignore: bool,
}

/// Whether match conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    Yes,
    No,
    /// None was false, but some could not be evaluated.
    Error(String),
}

impl Matcher {
    /// From a list of `{name, expression}`; `ignore`: what cannot be evaluated does not match.
    pub fn compile(compiler: &Compiler, conditions: &[Json], ignore: bool) -> Self {
        let one = |c: &Json| {
            let source = c["expression"].as_str().unwrap_or_default();
            Condition::new(compiler, source, Want::Bool)
        };
        Self {
            conditions: conditions.iter().map(one).collect(),
            ignore,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether a request matches. Nobody's namespace is looked at, as upstream.
    pub fn run<'a>(&'a self, given: &ExpressionInputs<'a>, fields: &'a cel::Fields) -> Matched {
        if self.conditions.is_empty() {
            return Matched::Yes;
        }
        let given = ExpressionInputs {
            namespace: None,
            ..given.clone()
        };
        let mut run = Run::new(&given, fields, MATCH_CONDITIONS_LIMIT);
        let mut errors = Vec::new();
        let mut refused = false;
        for condition in &self.conditions {
            match run.one(condition) {
                Ok(Ok(Value::Bool(false))) => refused = true,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => errors.push(error),
                Err(_) if self.ignore => return Matched::No,
                Err(what) => return Matched::Error(what.to_owned()),
            }
        }
        if refused || (self.ignore && !errors.is_empty()) {
            return Matched::No;
        }
        match &errors[..] {
            [] => Matched::Yes,
            [one] => Matched::Error(one.clone()),
            several => {
                let mut shown: Vec<&str> = Vec::new();
                for error in several {
                    if !shown.contains(&&**error) {
                        shown.push(error);
                    }
                }
                Matched::Error(match &shown[..] {
                    [one] => (*one).to_owned(),
                    all => format!("[{}]", all.join(", ")),
                })
            }
        }
    }
}
