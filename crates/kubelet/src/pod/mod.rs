//! Pods: one task each, fed from a watch of the pods that are bound to this node and from the
//! runtime's events.

pub mod accounts;
pub mod admit;
pub mod allocation;
pub mod backoff;
pub mod container;
pub mod deps;
pub mod env;
pub mod envfile;
pub mod fit;
pub mod handle;
mod kill;
pub mod machine;
pub mod manager;
mod perform;
pub mod plan;
mod publish;
pub mod resize;
mod resizing;
pub mod resources;
pub mod round;
pub mod sandbox;
pub mod security;
pub mod seen;
pub mod spec;
pub mod stage;
pub mod status;
pub mod sysctls;
#[cfg(test)]
mod tests;
pub mod worker;
