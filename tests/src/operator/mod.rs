//! An operator as people write them with kube-rs: a kind of two versions whose definition is derived
//! from Rust types, its controller, and the election of a leader. It knows the cluster as any client
//! does, and nothing of the tests.

pub mod controller;
pub mod election;
pub mod kinds;
