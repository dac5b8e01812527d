//! The steps between socket and verb: who asks ([`authn`]), for whom ([`impersonate`]), whether
//! they may ([`authz`]), and how many at once ([`inflight`]). What these decide from is kept by
//! [`index`], fed by the cache; [`policy`] makes the RBAC objects that a cluster starts with.
//!
//! Wiring: `Config::secured` sets all of it. By hand: `config.tokens`, then
//! `config.authenticators = filters::authenticators()`, `config.authorizers =
//! filters::authorizers()`, `config.admission = admission::standard(..)`.

pub mod authn;
pub mod authz;
pub mod bootstrap_tokens;
pub mod impersonate;
pub mod index;
pub mod inflight;
pub mod policy;
pub mod token_use;
pub mod tokens;

use std::sync::Arc;

use crate::ApiServer;
use crate::cache::Object;

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
pub fn authorizers() -> Vec<Arc<dyn authz::Authorizer>> {
    vec![
        Arc::new(authz::Masters),
        Arc::new(authz::Nodes),
        Arc::new(authz::Rbac),
    ]
}

/// As [`ApiServer::lookup`]; what the cache does not have is waited for if the store is ahead of
/// it, so that an object can be relied on as soon as its creation is acknowledged.
pub async fn fresh(
    server: &ApiServer,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Option<Arc<Object>> {
    if let Some(found) = server.lookup(group, resource, namespace, name) {
        return Some(found);
    }
    if !catch_up(server, server.cache().revision()).await {
        return None;
    }
    server.lookup(group, resource, namespace, name)
}

/// Waits for the cache if the store has something newer than `seen`; whether there was.
pub async fn catch_up(server: &ApiServer, seen: u64) -> bool {
    match server.cache().reach_newest().await {
        Ok(now) => now > seen,
        // The caller then decides from what it has; a refusal is the safe side.
        Err(_) => false,
    }
}
