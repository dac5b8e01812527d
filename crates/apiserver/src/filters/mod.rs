//! The steps between socket and verb: who asks ([`authn`]), for whom ([`impersonate`]), whether
//! they may ([`authz`]), and how many at once ([`inflight`]). What these decide from is kept by
//! [`crate::permissions`], fed by the cache.
//!
//! Wiring: `Config::secured` sets all of it. By hand: `config.settings.tokens`, then
//! `config.authenticators = filters::authenticators()`, `config.authorizers =
//! filters::authorizers()`, `config.admission = admission::standard(..)`.

pub mod authn;
pub mod authz;
pub mod bootstrap_tokens;
pub mod impersonate;
pub mod inflight;
pub mod token_use;
pub mod tokens;

use std::sync::Arc;

use crate::permissions::Authorizer;

/// All ways to know a client, in upstream's order: client certificates, bootstrap tokens,
/// service-account tokens.
pub fn authenticators() -> Vec<Arc<dyn authn::Authenticator>> {
    vec![
        Arc::new(authn::ClientCertificates::default()),
        Arc::new(bootstrap_tokens::BootstrapTokens),
        Arc::new(tokens::ServiceAccountTokens::default()),
    ]
}

/// `system:masters`, then nodes, then RBAC.
pub fn authorizers() -> Vec<Arc<dyn Authorizer>> {
    vec![
        Arc::new(authz::Masters),
        Arc::new(authz::Nodes),
        Arc::new(authz::Rbac),
    ]
}
