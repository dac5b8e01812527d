//! CEL as Kubernetes speaks it: a parser, a checker with upstream's error messages, an estimate of
//! what an expression may cost, and an evaluator that counts what it does cost. An expression is
//! compiled once ([`Program`]) and runs on views of JSON; nothing of a request is copied.
//!
//! ```
//! use cel::{Decl, Env, PER_CALL_LIMIT, Program, Value};
//!
//! let env = Env::new().variable("self", Decl::any());
//! let program = Program::compile("self.replicas <= 10", &env)?;
//! let object = serde_json::json!({ "replicas": 3 });
//! let any = Decl::any();
//! let value = Value::read(&object, &any).expect("any JSON is a value");
//! let answer = program.evaluate(&[Some(value)], PER_CALL_LIMIT);
//! assert!(matches!(answer.result, Ok(Value::Bool(true))));
//! # Ok::<(), cel::CompileError>(())
//! ```
//!
//! It knows neither where declarations come from nor what an answer means; `structural` and
//! whoever admits requests do.
//!
//! # Differences from upstream
//! - Errors of syntax are worded as upstream's where one token is wrong; its parser's guesses at
//!   what else might have been meant are not.
//! - Keys of maps are visited in order; upstream's order is random.
//! - A text that an expression makes may have 10 MiB, an expression 200,000 parts, and 500 levels
//!   when its macros are written out; a run may compile 200 patterns that only show at run time.
//!   Upstream bounds none of these.
//! - Equality of lists whose schema makes them sets or maps ignores order, as upstream's does, and
//!   holds for their sums, too.
//! - Quantities have 9 digits after the point, and at most 2^63-1 units.
//! - Regular expressions run on another engine; rare patterns are read differently (octal escapes,
//!   flags that only one of them has, nested repetitions, which upstream refuses).
//! - The last day of the year 9999 is out of range.
//! - What is wrong with a literal format string (`'%d'.format(['a'])`) shows when the expression
//!   runs, not when it is compiled.
//! - `variables` stands for nothing by itself, only before a field.
//! - Objects are equal when their declared fields are: fields that no schema names do not count.
//! - Of an embedded resource, expressions see kind, version and names alone, not the rest of its
//!   metadata that a schema may name.
//! - The bound of a chain of macros (`x.map(…).exists(…)`) is up to 5 % higher; `dyn` of a constant
//!   costs one step, and so does a path to a field that is not there.
//! - `optional.ofNonZeroValue` takes the time of year 1 for a value.
//! - At run time, the cost of an expression that fails may be lower than upstream's.
#![forbid(unsafe_code)]

mod ast;
mod authorize;
mod authz;
mod builtins;
mod checker;
mod convert;
mod cost;
pub mod decl;
pub mod device;
mod env;
mod error;
mod eval;
mod format;
mod issue;
mod kube;
mod lexer;
mod lists;
mod macros;
mod net;
mod ops;
mod parser;
mod program;
pub mod re2;
mod stack;
mod strings;
#[cfg(test)]
mod tests;
mod time;
mod types;
mod url;
mod value;

pub use authz::{Authorizer, Check, Decision};
pub use cost::Range;
pub use decl::{Decl, DeclKind, Field, ListKind, escape, unescape};
pub use env::Env;
pub use error::EvalError;
pub use eval::{
    Evaluation, Fields, Lazy, MATCH_CONDITIONS_LIMIT, PER_CALL_LIMIT, PER_OBJECT_LIMIT,
};
pub use format::{is_base64, is_date_time, is_uuid};
pub use issue::{CompileError, Issue};
pub use program::Program;
pub use types::Type;
pub use url::is_request_uri;
pub use value::{Key, KeyStr, List, Map, Str, Struct, Value};

/// Whether a text is a day (`2006-01-02`).
pub fn is_date(text: &str) -> bool {
    time::parse_date(text).is_some()
}
