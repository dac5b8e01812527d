//! API priority and fairness, as pure decisions: which flow schema a request matches ([`matching`]),
//! how many requests of a priority level run at once and which of those that wait is next
//! ([`queues`]), how levels lend each other seats ([`levels`], [`borrow`], [`demand`]), what a
//! request costs ([`work`]), when one that is refused may come again ([`retry`]), and the objects
//! that a cluster starts with ([`defaults`]).
//!
//! Time is an argument everywhere: how long it is since some moment in the past that the caller
//! chose. So is chance: the flow of a request comes as a number. It knows no socket, no store and
//! no task; the API server's shell around it is its `flow_control` module.

#![forbid(unsafe_code)]

pub mod borrow;
pub mod config;
pub mod defaults;
pub mod demand;
pub mod levels;
pub mod matching;
pub mod queues;
pub mod retry;
pub mod shuffle;
pub mod timed;
pub mod work;

/// The group of the objects.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The one flow schema, and the one priority level, whose requests are never limited.
pub const EXEMPT: &str = "exempt";
/// The flow schema of requests that no other one matches, and its priority level.
pub const CATCH_ALL: &str = "catch-all";
