//! The KINDS table: one row and one strategy per built-in kind. A custom resource is a row that
//! is built at run time; there is no second path. Pure: no I/O, no clock.
#![forbid(unsafe_code)]

pub mod acted_on;
pub mod aggregation;
mod base64;
pub mod check;
pub mod client_config;
pub mod custom;
pub mod deprecation;
pub mod feature_gates;
pub mod gated;
mod go_form;
pub mod jsonpath;
pub mod kinds;
mod line_diff;
pub mod manifest;
pub mod meta;
mod pem;
mod pointer;
pub mod print;
pub mod row;
pub mod served_versions;
pub mod status_writes;
mod strategies;
pub mod strategy;

pub use deprecation::{deprecation_warning, gone_in};
pub use feature_gates::Features;
pub use kinds::{Kinds, kinds};
pub use meta::{validate_object_meta, validate_object_meta_update};
pub use row::*;
pub use strategies::workload::template_defaults;
pub use strategy::*;
/// Of the rules in schemas of custom resources.
pub use structural::{Stopwatch, measure_rules_by};
