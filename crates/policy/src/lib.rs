//! Expressions of admission: what they may name, policies compiled and run, and their types
//! checked against the kinds that they match. Pure: whoever admits a write finds the policies that
//! match it and their parameters, and carries out what comes of them; whoever stores a policy asks
//! here what is wrong with it.
//!
//! Costs and limits are upstream's: 1,000,000 for one expression ([`cel::PER_CALL_LIMIT`]),
//! 10,000,000 for all validations of one policy with one binding and parameter
//! ([`cel::PER_OBJECT_LIMIT`]), 2,500,000 for all its match conditions
//! ([`cel::MATCH_CONDITIONS_LIMIT`]).
#![forbid(unsafe_code)]

mod compile;
mod env;
mod mutating;
mod openapi;
mod run;
mod types;
mod validating;

pub use cel::Decl;
pub use compile::{Compiler, Want, is_identifier};
pub use env::{Declared, Types};
pub use mutating::{Mutating, Mutation, Patch};
pub use openapi::declare;
pub use run::{Condition, ExpressionInputs, Matched, Matcher};
pub use types::{MatchedKind, Warning, check, wanted};
pub use validating::{Annotation, Decision, Evaluated, Outcome, Validating};

#[cfg(test)]
mod tests;
