//! The Pod Security Standards: which pods the levels privileged, baseline and restricted allow, in
//! each version of them, and what a namespace's labels ask for. Pure functions on values; words
//! are upstream's, since people search for them.
#![forbid(unsafe_code)]

mod baseline;
mod checks;
mod policy;
mod restricted;
mod select;

pub use checks::{Violation, evaluate, reasons, show};
pub use policy::{
    AUDIT, AUDIT_VERSION, ENFORCE, ENFORCE_VERSION, Level, Policy, Standard, Version, WARN,
    WARN_VERSION,
};
