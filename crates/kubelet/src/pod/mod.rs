//! Pods: one task each, fed from a watch of the pods that are bound to this node and from the
//! runtime's events.

pub mod admit;
pub mod allocation;
pub mod backoff;
pub mod container;
pub mod deps;
pub mod dns_events;
mod effect_span;
pub mod env;
pub mod envfile;
pub mod fit;
pub mod handle;
pub mod handlers;
mod kill;
pub mod manager;
mod own_files;
mod perform;
pub mod plan;
pub mod preempt;
mod publish;
pub mod qos_groups;
mod remains;
pub mod reserved;
pub mod resize;
mod resize_work;
pub mod resources;
pub mod restart_policy;
pub mod round;
pub mod runtime_state;
pub mod sandbox;
pub mod security;
pub mod spec;
pub mod stage;
pub mod state_machine;
mod static_pods;
pub mod status;
pub mod swap;
pub mod sysctls;
#[cfg(test)]
mod tests;
pub mod unified;
pub mod worker;
