//! The table of types and fields of the API, and functions over it.
//! Pure: no I/O, no clock. It knows types, not resources (that is `registry`).
#![forbid(unsafe_code)]

pub mod builtin;
pub mod decode;
mod descriptions;
pub mod model;
mod normal;
pub mod openapi;
pub mod proto;
mod prune;
mod scalar;

pub use builtin::builtin;
pub use decode::{DecodeError, Decoded, StrictProblem};
pub use model::*;
pub use normal::settle;
pub use proto::{ProtoError, Unknown};
pub use prune::prune;
