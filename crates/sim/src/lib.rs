//! A whole cluster in one thread, on virtual time, from one seed: the API server on a store in
//! memory, the controllers, the scheduler, and hollow nodes that speak the API as kubelets do.
//! What it did is its trace: every revision with its time and its bytes. The same seed gives the
//! same trace, so a fault that one run in a thousand shows can be looked at again.
//!
//! It runs in a runtime of one thread whose clock is paused (`tests/` makes one). It knows no real
//! node: no runtime, no kernel, no network.

#![forbid(unsafe_code)]

mod cluster;
mod faulty_store;
mod invariants;
mod node;
mod trace;

pub use cluster::{Cluster, Failed, Plan};
pub use faulty_store::Faults;
pub use node::{HollowNode, Size};
pub use trace::{Line, Trace};
