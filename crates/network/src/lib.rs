//! The pod network of a node: the CNI plugin that connects pods, the agent that connects nodes, and
//! the one that keeps to network policies.
//!
//! `cni` runs once per pod as a subcommand of the binary, started by the container runtime; `agent`
//! runs as long as the node and writes the plugin's configuration, the routes to other nodes and
//! the rule that translates what leaves the cluster, and keeps the `tunnel`, or the `encrypted` link in its
//! place. `policy` is a part of its own, with a table of
//! its own; `chain` puts the plugin behind those of others, so that their pods wait for it, too. Services are `proxy`'s.
#![forbid(unsafe_code)]

mod agent;
pub mod chain;
pub mod cni;
pub mod encrypted;
mod files;
mod key_text;
pub mod plan;
pub mod policy;
mod tunnel;

pub use agent::{Config, NetworkError, clean_up, run, run_on};
