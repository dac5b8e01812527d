//! Patches as pure functions over values and the schema table: JSON patch, merge patch, strategic
//! merge patch, and server-side apply with the bookkeeping of field managers.
//! It knows no kind by name and does no I/O; the time is an argument.
#![forbid(unsafe_code)]

mod compare;
mod entries;
mod error;
mod json;
pub mod managed;
mod merge;
pub mod set;
mod shape;
mod strategic;

pub use compare::{Comparison, compare, set_of};
pub use error::PatchError;
pub use json::{MAX_OPERATIONS, json_patch, merge_patch};
pub use managed::{Request, apply, update};
pub use merge::{atomics, merge, remove, validate};
pub use set::{PathElement, Set};
pub use strategic::strategic;
