//! The steps between socket and verb: who asks ([`authn`]), for whom ([`impersonate`]), whether
//! they may ([`authz`]). How many at once is [`crate::flow_control`]'s. What these decide from is kept by
//! [`crate::permissions`], fed by the cache.
//!
//! Wiring: `Config::secured` sets all of it. By hand: `config.settings.tokens`, then
//! `config.authenticators = filters::authenticators()`, `config.authorizers =
//! filters::authorizers()`, `config.admission = admission::standard(..)`.

pub mod answers;
pub mod authn;
pub mod authorization;
pub mod authz;
pub mod bootstrap_tokens;
pub mod encryption_file;
pub mod files;
pub mod front_proxy;
pub mod impersonate;
pub mod oidc;
pub mod static_tokens;
pub mod token_use;
pub mod token_webhook;
pub mod tokens;
pub mod webhook;

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::state::{Authorizer, State};

/// A rule that has something to do beside the requests that it judges, until the server stops.
pub trait Background: Send + Sync + 'static {
    fn run(self: Arc<Self>, state: State) -> BoxFuture<'static, ()>;
}

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
