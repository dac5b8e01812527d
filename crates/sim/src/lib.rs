//! A whole cluster in one thread, on virtual time, from one seed: API servers on a store in memory,
//! controllers and schedulers with their elections, and nodes, whose kubelets run over container
//! runtimes in memory. What it did is its trace: every revision with its time and its bytes. The
//! same seed gives the same trace, so a fault that one run in a thousand shows can be looked at
//! again.
//!
//! [`described`] plays clusters that a file describes, over nodes without kubelets, for people who
//! plan; the rest is how the project tests itself.
//!
//! It runs in a runtime of one thread whose clock is paused ([`runtime`] makes one). It knows no
//! kernel and no network; folders of pods are real, below the folder that its plan names.

#![forbid(unsafe_code)]

mod basis;
mod beginning;
mod cluster;
mod control_plane;
pub mod described;
mod faults;
mod given;
mod invariants;
mod jobs;
mod limits;
mod net;
mod node;
mod pods;
mod sets;
mod trace;
mod values;

pub use control::lease::Times;

pub use basis::{Failed, runtime};
pub use cluster::{Cluster, HEARTBEAT, Plan};
pub use faults::Faults;
pub use node::{SimNode, Size};
pub use trace::{Line, Trace};
