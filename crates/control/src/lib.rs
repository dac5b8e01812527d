//! The shell of every controller: one queue, one executor, one way to record events and to lead.
//! A controller itself is a pure plan; it never sees a client, a clock or a task.
#![forbid(unsafe_code)]

pub mod action;
pub mod controller;
pub mod correlate;
pub mod events;
mod expectation;
mod last_created;
pub mod lease;
pub mod queue;
pub mod ready;
mod slow_start;
pub mod trimmed;
mod watches;
mod workqueue_metrics;

pub use action::{Action, Patch, Plan};
pub use controller::{Controller, Count, run};
pub use events::Recorder;
pub use watches::{Keys, Watches};
