//! What the cluster tests share: the binary, clusters of their own, kubectl, and a runner whose
//! checks use one cluster side by side. It knows the cluster only from outside: by its command
//! line, its API and what the machine shows of it.
#![forbid(unsafe_code)]

pub mod binary;
pub mod cluster;
pub mod command;
pub mod context;
pub mod history;
pub mod machine;
pub mod operator;
pub mod plugins;
pub mod pod_rules;
pub mod runner;
pub mod slot;
pub mod traces;
pub mod traffic;
pub mod writes;

pub use cluster::{Cluster, Families, Setup};
pub use command::{Ran, Running};
pub use context::Context;
pub use runner::run;

/// Whether the long tests run in full: `cargo xtask soak` sets it.
pub fn is_soak() -> bool {
    std::env::var_os("TIPHYS_SOAK").is_some()
}

/// The images that every node of `up` has.
pub const DEMO: &str = "tiphys.local/demo:1";
pub const BUSYBOX: &str = "tiphys.local/busybox:1";
