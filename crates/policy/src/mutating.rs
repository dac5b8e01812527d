//! MutatingAdmissionPolicies: compiled once, and run on requests, one mutation after the other.

use std::sync::Arc;

use cel::{PER_OBJECT_LIMIT, Program};
use serde_json::Value as Json;

use crate::compile::Want;
use crate::run::{Condition, ExpressionInputs, Matched, Matcher, Run};
use crate::validating::{compiler, fields};

/// A compiled policy.
pub struct Mutating {
    fields: Vec<(Arc<str>, Result<Program, String>)>,
    matcher: Matcher,
    pub mutations: Vec<Mutation>,
    /// `failurePolicy: Ignore`.
    pub ignore: bool,
    /// `reinvocationPolicy: IfNeeded`.
    pub again: bool,
}

/// One change.
pub struct Mutation {
    condition: Condition,
    applies: bool,
}

/// What a mutation wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// An object with the fields that are to be so, without its type.
    Apply(Json),
    /// Operations of a JSON patch.
    Json(Json),
}

impl Mutating {
    /// Compiles the spec of a policy. What does not compile fails when it is run.
    pub fn compile(spec: &Json) -> Self {
        let compiler = compiler(spec);
        let text = |json: &Json, field: &str| json[field].as_str().unwrap_or_default().to_owned();
        let ignore = text(spec, "failurePolicy") == "Ignore";
        let one = |m: &Json| {
            let applies = m["patchType"] != "JSONPatch";
            let (field, want) = match applies {
                true => ("applyConfiguration", Want::Object),
                false => ("jsonPatch", Want::Patches),
            };
            Mutation {
                condition: Condition::new(&compiler, &text(&m[field], "expression"), want),
                applies,
            }
        };
        let list = |field: &str| spec[field].as_array().map_or(&[][..], Vec::as_slice);
        Self {
            matcher: Matcher::compile(&compiler, list("matchConditions"), ignore),
            mutations: list("mutations").iter().map(one).collect(),
            ignore,
            again: text(spec, "reinvocationPolicy") == "IfNeeded",
            fields: compiler.into_fields(),
        }
    }

    /// Whether the match conditions hold.
    pub fn matches<'a>(&'a self, given: &ExpressionInputs<'a>) -> Matched {
        self.matcher.run(given, &self.fields)
    }

    /// Whether an expression reads `namespaceObject`.
    pub fn uses_namespace(&self) -> bool {
        let mut all = self.mutations.iter().map(|m| &m.condition);
        all.any(Condition::uses_namespace) || fields(&self.fields, crate::env::NAMESPACE)
    }

    /// What a mutation makes of the object as it is now.
    pub fn patch<'a>(
        &'a self,
        mutation: &'a Mutation,
        given: &ExpressionInputs<'a>,
    ) -> Result<Patch, String> {
        if let Err(what) = &mutation.condition.program {
            return Err(what.clone());
        }
        let mut run = Run::new(given, &self.fields, PER_OBJECT_LIMIT);
        let value = run.one(&mutation.condition).map_err(str::to_owned)??;
        let misplaced = if mutation.applies {
            value.misplaced()
        } else {
            self.misplaced(&value)
        };
        if !misplaced.is_empty() {
            return Err(format!("type mismatch: {}", misplaced.join("\n")));
        }
        Ok(match mutation.applies {
            true => Patch::Apply(value.to_json()),
            false => Patch::Json(value.to_json()),
        })
    }

    /// Objects that are values of operations begin at the type that they say: a patch may put one
    /// anywhere.
    fn misplaced(&self, operations: &cel::Value<'_>) -> Vec<String> {
        let cel::Value::List(list) = operations else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for operation in list.iter().flatten() {
            if let cel::Value::Struct(operation) = &operation
                && let Some(value @ cel::Value::Struct(_)) = operation.fields.get("value")
            {
                found.extend(value.misplaced());
            }
        }
        found
    }
}
