//! The hooks of the kinds that need some, by theme; the rows of [`crate::kinds`] name them.

pub mod access;
pub mod autoscaler;
mod canonical;
pub mod claims;
pub mod classes;
pub mod cluster;
mod conditions;
pub mod config_maps;
pub mod containers;
pub mod devices;
pub mod endpoint_slices;
pub mod events;
pub mod flow_control;
pub mod ingresses;
mod job_policies;
mod job_status;
pub mod jobs;
pub mod leases;
mod matching;
pub mod networking;
pub mod others;
pub mod pod;
pub mod pod_certificates;
pub mod pod_groups;
pub mod policies;
pub mod quantity;
pub mod quotas;
pub mod scheduling;
pub mod service;
pub mod stateful;
pub mod storage;
pub mod storage_versions;
pub mod volume_sources;
pub mod volumes;
mod warnings;
pub mod webhooks;
pub mod workload;

#[cfg(test)]
mod tests;
