//! Authorization as an AuthorizationConfiguration says it: the chain of authorizers, what the
//! configuration may say, and the authorizer that asks a webhook.

mod chain;
pub mod conditions;
pub mod config;
#[cfg(test)]
mod tests;
pub mod webhook;

pub use chain::Chain;
