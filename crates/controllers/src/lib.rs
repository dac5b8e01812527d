//! The controllers of the control plane. Each is a pure plan (`plan.rs`) with its watches
//! (`mod.rs`); `control` runs them. They know the API and no other component.
#![forbid(unsafe_code)]

// Work is divided (remove this note at the end): helper `control` does deployment, endpoints,
// replica, service_account and run.rs; helper `gc` does namespace and garbage; the lead does
// nodes (lifecycle, pod CIDR, pod GC), certificates, cluster_dns. run.rs starts all of them.
pub mod certificates;
pub mod cluster_dns;
pub mod common;
pub mod deployment;
pub mod discovery;
pub mod endpoints;
pub mod garbage;
pub mod namespace;
pub mod nodes;
pub mod replica;
pub mod run;
pub mod service_account;

pub use run::{Config, run, run_on};
