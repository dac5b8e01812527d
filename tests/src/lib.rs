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
pub mod pods_on_any_runtime;
pub mod policies;
pub mod runner;
pub mod slot;
pub mod traces;
pub mod traffic;
pub mod writes;

use anyhow::Context as _;

pub use cluster::{Cluster, Families, Setup};
pub use command::{Ran, Running};
pub use context::Context;
pub use runner::run;

/// Whether the long tests run in full: `cargo xtask soak` sets it.
pub fn is_soak() -> bool {
    std::env::var_os("TIPHYS_SOAK").is_some()
}

/// How often a test does what it does again and again: `TIPHYS_TIMES`, which `cargo xtask soak NAME
/// --times N` sets, else `full` in the soak and `short` in the test command.
///
/// # Errors
/// `TIPHYS_TIMES` is not a number.
pub fn times(short: usize, full: usize) -> anyhow::Result<usize> {
    match std::env::var("TIPHYS_TIMES") {
        Ok(text) => Ok(text.parse().context("TIPHYS_TIMES is a number")?),
        Err(_) if is_soak() => Ok(full),
        Err(_) => Ok(short),
    }
}

/// What a test draws its random choices from: `TIPHYS_SEED`, else another one at each soak, and one
/// and the same in the test command, which shall say what a change broke and not what chance found.
///
/// # Errors
/// `TIPHYS_SEED` is not a number.
pub fn seed() -> anyhow::Result<u64> {
    match std::env::var("TIPHYS_SEED") {
        Ok(text) => Ok(text.parse().context("TIPHYS_SEED is a number")?),
        Err(_) if is_soak() => Ok(rand::random()),
        Err(_) => Ok(1),
    }
}

/// The images that every node of `up` has.
pub const DEMO: &str = "tiphys.local/demo:1";
pub const BUSYBOX: &str = "tiphys.local/busybox:1";
