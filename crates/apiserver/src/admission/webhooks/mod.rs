//! Webhooks of admission: servers outside that may change or refuse a write, or refuse a connection,
//! as MutatingWebhookConfigurations and ValidatingWebhookConfigurations say. The first are asked one
//! after the other, each about what those before it made of the object; the second all at once.
//!
//! A request that no configuration is there for costs a look at a number ([`hook::Source`]).

mod ask;
mod hook;
mod invocation;
mod mutating;
pub mod review;
mod validating;

pub use mutating::MutatingWebhooks;
pub use validating::ValidatingWebhooks;
