//! The scheduler: finds a node for each pod that has none.
//!
//! [`decide()`] is pure: from a [`Snapshot`] of the nodes and a [`Pod`] to a [`Decision`] with the
//! whole explanation. [`core::Core`] keeps snapshot and queue up to date, still without clock or
//! client; [`run()`] is the thin shell that watches, binds and reports. Claims of devices are met by
//! [`devices`], programs outside are asked by [`extend`], and [`why`] explains. It knows the API
//! alone, no other component.
#![forbid(unsafe_code)]

mod alike;
mod batch;
pub mod budgets;
pub mod config;
pub mod core;
pub mod decide;
pub mod decision_timings;
pub mod devices;
pub mod disk;
pub mod extenders;
mod feeds;
pub mod gangs;
pub mod interned;
pub mod message;
mod metrics;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod preempt;
pub mod queue;
pub mod queueing_hints;
mod refusals;
pub mod rejections;
pub mod resources;
pub mod run;
pub mod selector_terms;
pub mod selectors;
pub mod snapshot;
pub mod storage;
pub mod tally;
pub mod totals;
pub mod why;
mod write;

pub use core::Core;
pub use decide::{Decision, Outcome, Profile, decide};
pub use node::Node;
pub use pod::Pod;
pub use run::{Config, Error, run};
pub use snapshot::Snapshot;
