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
//! What differs from upstream, with an example of each and why, is listed in
//! `docs/cel-differences.md`.
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
mod inference;
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
