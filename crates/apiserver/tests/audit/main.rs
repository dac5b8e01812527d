//! The audit log of a server that is asked over TLS: what is recorded at which stage, with which
//! notes, and what never is.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod admission_notes;
mod back_ends;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod requests;
