//! How every component reaches the API: a client over HTTPS or within the process, lists and watches
//! folded into what is kept of objects, and shared caches of them. It decides nothing.
#![forbid(unsafe_code)]

pub mod accounts;
mod connect;
mod events;
mod fenced;
pub mod gate;
pub mod informer;
pub mod objects;
pub mod refusals;
mod swap;

pub use accounts::Accounts;
pub use connect::{ConnectError, Credential, accounts_of, from_kubeconfig, from_parts, in_process};
pub use events::{events, events_by};
pub use fenced::fenced;
pub use informer::{Informer, Informers};
pub use objects::Change;
pub use swap::Swap;
