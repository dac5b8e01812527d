//! Structural schemas of custom resources, as pure functions: whether a schema may stand in a
//! CustomResourceDefinition ([`check`]), what it makes of values ([`values`], [`validate`],
//! [`lists`], [`Rules`]), its types for the rest of the server ([`types`]), and how it is published
//! ([`openapi`]).
//!
//! It knows no CustomResourceDefinition and no request: versions, conversion and conditions belong
//! to whoever keeps the definitions.
//!
//! # Differences from upstream
//! - The whole-value messages of `anyOf`, `oneOf`, `allOf` and `not` are upstream's; which
//!   alternative's own errors follow them may differ when several fit equally badly.
//! - A schema may be nested 200 levels deep, at most 200 errors of a value are reported.
//! - Rules in `allOf` are refused, as upstream refuses them in new definitions; ones stored by
//!   others are not run.
//! - Defaults inside of embedded resources' metadata are checked against the schema alone.
#![forbid(unsafe_code)]

pub mod check;
mod correlate;
mod decl;
pub mod formats;
pub mod lists;
mod model;
pub mod openapi;
pub mod path;
pub mod prune_and_default;
mod stopwatch;
mod table;
mod validate;
mod validation_rules;

pub use decl::declare;
pub use model::{Additional, Checks, List, ReadError, Rule, Structural};
pub use openapi::KindNames;
pub use stopwatch::{Stopwatch, measure_rules_by};
pub use table::types;
pub use validate::validate;
pub use validation_rules::{Ran, Rules};

/// What all rules of one object may cost together.
pub const BUDGET: u64 = cel::PER_OBJECT_LIMIT;

#[cfg(test)]
mod tests;
