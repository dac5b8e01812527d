//! A whole cluster on one machine: starts the control plane and the nodes as processes of their
//! own, watches over them, takes them up again after its own death, and ends them without a
//! trace. It knows processes, namespaces and files; it does not know what the processes do.
//! Neighbours: `tiphys` gives it the command line, `host` the system calls.
#![forbid(unsafe_code)]

pub mod boot;
pub mod bridge;
mod cgroup;
pub mod children;
pub mod config;
pub mod control;
pub mod doctor;
pub mod layout;
mod members;
pub mod process;
pub mod report;
pub mod up;

pub use config::{ClusterConfig, NodeConfig, ServerConfig};
pub use layout::Layout;
