//! The KINDS table: one row and one strategy per built-in kind. A custom resource is a row that
//! is built at run time; there is no second path. Pure: no I/O, no clock.
#![forbid(unsafe_code)]

pub mod kinds;
pub mod print;
pub mod row;
pub mod strategy;

pub use kinds::{Kinds, kinds};
pub use row::*;
pub use strategy::*;
