//! Who may do what, as pure decisions: RBAC rules, the node authorizer's graph, and the policy
//! that every cluster starts with. It knows objects as values and does no I/O; the API server
//! feeds it from its cache.
#![forbid(unsafe_code)]

pub mod attributes;
pub mod bootstrap_policy;
pub mod node;
pub mod rbac;
pub mod rule;

pub use attributes::{Attributes, Decision, UserInfo};
pub use node::NodeGraph;
pub use rbac::Policy;
pub use rule::Rule;
