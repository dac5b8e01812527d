//! The controllers of the control plane. Each is a pure plan (`plan.rs`) with its watches
//! (`mod.rs`); `control` runs them. They know the API and no other component.
#![forbid(unsafe_code)]

pub mod attach_detach;
pub mod autoscaler;
pub mod certificates;
pub mod chosen;
pub mod cluster_dns;
pub mod cluster_roles;
pub mod common;
pub mod cron;
pub mod daemon;
pub mod deployment;
pub mod device_taints;
pub mod disruption;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod failed_pods;
pub mod finalizers;
pub mod garbage;
pub mod job;
pub mod last_failures;
pub mod load_balancer;
pub mod metrics;
pub mod namespace;
pub mod nodes;
pub mod ownership;
pub mod pod_groups;
pub mod pods;
pub mod policy_status;
pub mod replica;
pub mod resource_claim;
pub mod resource_quota;
pub mod revisions;
pub mod run;
mod scales;
pub mod served_later;
pub mod service_account;
pub mod service_cidrs;
pub mod stateful;
pub mod storage_migration;
#[cfg(test)]
mod testing;
pub mod ttl;
pub mod volumes;

pub use run::{Config, run};
