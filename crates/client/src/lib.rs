//! How every component reaches the API: a client over HTTPS or within the process, lists and
//! watches folded into what is kept of objects, and shared caches of them. It decides nothing.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod component_auth;
mod connect;
pub mod custom_kinds;
pub mod discovery;
mod events;
mod exchange;
mod fenced;
pub mod informer;
mod raw;
pub mod reflector;
pub mod refusals;
mod requests;
pub mod served_kinds;
mod words;

pub use accounts::Accounts;
pub use connect::{
    ConnectError, Credential, Web, accounts_of, from_kubeconfig, from_parts, in_process,
    kubeconfig, of_web,
};
pub use events::events;
pub use exchange::Swap;
pub use fenced::fenced;
pub use informer::{Informer, Informers};
pub use reflector::Change;
pub use served_kinds::ServedKinds;
pub use words::{namespace_ends, said};
