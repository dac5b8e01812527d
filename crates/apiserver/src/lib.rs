//! The API server: one pipeline from socket to store. `serve` takes requests, `filters` decide
//! who asks and whether they may, `verbs` holds one function per verb for all kinds, `cache`
//! serves reads and watches from once-serialized bytes. It knows no kind: rows do.
//!
//! Its floors, each of which knows only those before it, stand in `xtask/src/modules/floors.rs`.
#![forbid(unsafe_code)]
#![expect(
    clippy::result_large_err,
    reason = "a Status is what errors of this crate are; the way of an error is not the hot one"
)]

pub mod admission;
pub mod aggregation;
pub mod allocations;
pub mod audit;
pub mod cache;
pub mod call;
mod cluster_ips;
pub mod codec;
pub mod config;
pub mod configuration_file;
pub mod configuration_objects;
pub mod dialer;
pub mod discovery;
pub mod egress;
pub mod errors;
pub mod fence;
pub mod filters;
pub mod flow_control;
pub mod hooks;
pub mod http;
pub mod loopback;
pub mod metrics;
mod node_ports;
pub mod object;
pub mod permissions;
mod render;
mod resource_metrics;
pub mod resource_samples;
mod reviews;
mod scaled;
pub mod serve;
mod server;
pub mod settings;
pub mod signing;
pub mod state;
pub mod storage;
pub mod subresources;
mod table;
mod unix_grpc;
pub mod verbs;

pub use config::Config;
pub use filters::authn::UserInfo;
pub use server::ApiServer;
pub use state::State;
