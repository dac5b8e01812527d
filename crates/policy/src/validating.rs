//! ValidatingAdmissionPolicies: compiled once, and run on requests.

use std::sync::Arc;

use cel::{PER_OBJECT_LIMIT, Program, Value};
use serde_json::Value as Json;

use crate::compile::{Compiler, Want};
use crate::run::{Condition, ExpressionInputs, Matched, Matcher, Ran, Run};

/// Longest message that an expression gives, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;

/// A compiled policy.
pub struct Validating {
    fields: Vec<(Arc<str>, Result<Program, String>)>,
    matcher: Matcher,
    validations: Vec<Validation>,
    annotations: Vec<(String, Condition)>,
    /// `failurePolicy: Ignore`.
    pub ignore: bool,
}

struct Validation {
    condition: Condition,
    message: String,
    message_expression: Option<Condition>,
    reason: String,
}

/// What became of one validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub outcome: Outcome,
    /// Whether the request is refused, which an error is by the failure policy alone.
    pub denied: bool,
    pub message: String,
    /// Of the refusal; empty where the validation names none.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Admitted,
    Denied,
    Error,
}

/// What became of one audit annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Annotation {
    Publish {
        key: String,
        value: String,
    },
    /// Refuses the request.
    Error(String),
    Nothing,
}

/// What a policy says of a request, with one binding and one parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluated {
    /// In the order of the validations.
    pub decisions: Vec<Decision>,
    pub annotations: Vec<Annotation>,
}

fn text<'a>(json: &'a Json, field: &str) -> &'a str {
    json[field].as_str().unwrap_or_default()
}

fn items<'a>(json: &'a Json, field: &str) -> &'a [Json] {
    json[field].as_array().map_or(&[], Vec::as_slice)
}

/// A compiler that knows a policy's variables.
pub(crate) fn compiler(spec: &Json) -> Compiler {
    let mut compiler = Compiler::new(!spec["paramKind"].is_null(), true);
    for variable in items(spec, "variables") {
        // What is wrong with it shows where it is read.
        compiler.variable(text(variable, "name"), text(variable, "expression"));
    }
    compiler
}

impl Validating {
    /// Compiles the spec of a policy. What does not compile fails when it is run.
    pub fn compile(spec: &Json) -> Self {
        let compiler = compiler(spec);
        let ignore = text(spec, "failurePolicy") == "Ignore";
        let one = |v: &Json| Validation {
            condition: Condition::new(&compiler, text(v, "expression"), Want::Bool),
            message: text(v, "message").trim().to_owned(),
            message_expression: Some(text(v, "messageExpression"))
                .filter(|source| !source.is_empty())
                .map(|source| Condition::new(&compiler, source, Want::Text)),
            reason: text(v, "reason").to_owned(),
        };
        let annotation = |a: &Json| {
            let condition = Condition::new(&compiler, text(a, "valueExpression"), Want::TextOrNull);
            (text(a, "key").to_owned(), condition)
        };
        Self {
            matcher: Matcher::compile(&compiler, items(spec, "matchConditions"), ignore),
            validations: items(spec, "validations").iter().map(one).collect(),
            annotations: items(spec, "auditAnnotations")
                .iter()
                .map(annotation)
                .collect(),
            fields: compiler.into_fields(),
            ignore,
        }
    }

    /// Whether an expression reads `namespaceObject`.
    pub fn uses_namespace(&self) -> bool {
        self.conditions().any(Condition::uses_namespace)
            || fields(&self.fields, crate::env::NAMESPACE)
    }

    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let validations = self
            .validations
            .iter()
            .flat_map(|v| std::iter::once(&v.condition).chain(&v.message_expression));
        validations.chain(self.annotations.iter().map(|(_, condition)| condition))
    }

    /// Judges a request.
    pub fn run<'a>(&'a self, given: &ExpressionInputs<'a>) -> Evaluated {
        match self.matcher.run(given, &self.fields) {
            Matched::Yes => {}
            Matched::No => return Evaluated::default(),
            Matched::Error(message) => return self.failed(message),
        }
        let mut run = Run::new(given, &self.fields, PER_OBJECT_LIMIT);
        let mut results = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            match run.one(&validation.condition) {
                Ok(ran) => results.push(ran),
                Err(what) => return self.failed(what.to_owned()),
            }
        }
        let messages = self.messages(given, &results, run.budget);
        let decided = self.validations.iter().zip(results).enumerate();
        let decisions = decided
            .map(|(at, (validation, ran))| match (&messages, ran) {
                (_, Err(error)) => self.error(error),
                (Err(what), _) => self.error(format!("failed messageExpression: {what}")),
                (_, Ok(Value::Bool(true))) => Decision {
                    outcome: Outcome::Admitted,
                    denied: false,
                    message: String::new(),
                    reason: String::new(),
                },
                (Ok(messages), Ok(_)) => validation.denied(messages.get(at).cloned().flatten()),
            })
            .collect();
        let mut run = Run::new(given, &self.fields, PER_OBJECT_LIMIT);
        let mut annotations = Vec::with_capacity(self.annotations.len());
        for (key, condition) in &self.annotations {
            match run.one(condition) {
                Ok(ran) => annotations.push(self.annotation(key, condition, ran)),
                Err(what) => return self.failed(what.to_owned()),
            }
        }
        Evaluated {
            decisions,
            annotations,
        }
    }

    /// Texts of message expressions, in their places. Only those that are needed are run; upstream
    /// runs all, and they may cost what the validations left.
    fn messages<'a>(
        &'a self,
        given: &ExpressionInputs<'a>,
        results: &[Ran<'a>],
        budget: u64,
    ) -> Result<Vec<Option<String>>, &'static str> {
        let needed = |at: usize| !matches!(results.get(at), Some(Ok(Value::Bool(true)) | Err(_)));
        let given = ExpressionInputs {
            authorizer: None,
            ..given.clone()
        };
        let mut run = None;
        let mut messages = Vec::with_capacity(self.validations.len());
        for (at, validation) in self.validations.iter().enumerate() {
            let message = match &validation.message_expression {
                Some(condition) if needed(at) => {
                    let run = run.get_or_insert_with(|| Run::new(&given, &self.fields, budget));
                    run.one(condition)?.ok()
                }
                _ => None,
            };
            messages.push(match message {
                Some(Value::String(text)) => {
                    let text = text.trim();
                    let fits = text.len() <= MAX_MESSAGE && !text.contains('\n');
                    (fits && !text.is_empty()).then(|| text.to_owned())
                }
                _ => None,
            });
        }
        Ok(messages)
    }

    fn annotation(&self, key: &str, condition: &Condition, ran: Ran<'_>) -> Annotation {
        match ran {
            Ok(Value::String(text)) if !text.trim().is_empty() => Annotation::Publish {
                key: key.to_owned(),
                value: text.trim().to_owned(),
            },
            Ok(Value::String(_) | Value::Null) => Annotation::Nothing,
            Ok(other) => Annotation::Error(format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                condition.source,
                &*other.type_name()
            )),
            Err(_) if self.ignore => Annotation::Nothing,
            Err(error) => Annotation::Error(error),
        }
    }

    /// One error stands for the whole policy.
    fn failed(&self, message: String) -> Evaluated {
        Evaluated {
            decisions: vec![self.error(message)],
            annotations: Vec::new(),
        }
    }

    fn error(&self, message: String) -> Decision {
        Decision {
            outcome: Outcome::Error,
            denied: !self.ignore,
            message,
            reason: String::new(),
        }
    }
}

/// Whether one of a policy's own variables reads a variable.
pub(crate) fn fields(fields: &cel::Fields, variable: usize) -> bool {
    let mut programs = fields.iter().filter_map(|(_, p)| p.as_ref().ok());
    programs.any(|p| p.uses(variable))
}

impl Validation {
    fn denied(&self, message: Option<String>) -> Decision {
        let message = match (message, &*self.message) {
            (Some(message), _) => message,
            (None, "") => format!("failed expression: {}", self.condition.source.trim()),
            (None, message) => message.to_owned(),
        };
        Decision {
            outcome: Outcome::Denied,
            denied: true,
            message,
            reason: match &*self.reason {
                "" => "Invalid".to_owned(),
                reason => reason.to_owned(),
            },
        }
    }
}
