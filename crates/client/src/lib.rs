//! How every component reaches the API: a client over HTTPS or within the process, and shared
//! caches of what it watches. It decides nothing.
#![forbid(unsafe_code)]

mod connect;
mod fenced;
pub mod informer;
pub mod objects;
pub mod refusals;

pub use connect::{ConnectError, Credential, from_kubeconfig, from_parts, in_process};
pub use fenced::fenced;
pub use informer::{Informer, Informers};
pub use objects::Change;
