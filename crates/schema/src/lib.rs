//! The table of types and fields of the API, and functions over it.
//! Pure: no I/O, no clock. It knows types, not resources (that is `registry`).
#![forbid(unsafe_code)]

pub mod model;
pub use model::*;
