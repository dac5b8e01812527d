//! TLS configurations of servers and clients, from PEM texts.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::pki::Pair;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("not usable as PEM: {0}")]
    Pem(String),
    #[error("TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("client verification: {0}")]
    Verifier(String),
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::Pem(e.to_string()))
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| TlsError::Pem(e.to_string()))
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for cert in certificates(ca_pem)? {
        store.add(cert)?;
    }
    Ok(store)
}

/// A server's certificate that may be exchanged while the server runs: the next handshake shows
/// the new one. Clones share it.
#[derive(Clone)]
pub struct Identity(Arc<RwLock<Arc<CertifiedKey>>>);

impl std::fmt::Debug for Identity {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identity {
    pub fn new(pair: &Pair) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(certified(pair)?))))
    }

    /// Shows another certificate from now on; what cannot be used changes nothing.
    pub fn exchange(&self, pair: &Pair) -> Result<(), TlsError> {
        *self.0.write() = certified(pair)?;
        Ok(())
    }
}

fn certified(pair: &Pair) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, key) = (certificates(&pair.cert_pem)?, private_key(&pair.key_pem)?);
    let provider = rustls::crypto::ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider)?))
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

/// A server's side that may be exchanged while the server runs, as when it believes clients of another
/// authority: connections that come have the new one, those that are open end when what they were asked
/// is answered. Clones share it.
#[derive(Clone)]
pub struct ServerTls(Arc<RwLock<InUse>>);

/// What connections have that come now.
#[derive(Clone)]
pub(crate) struct InUse {
    pub(crate) config: Arc<ServerConfig>,
    /// Cancelled when it is exchanged.
    pub(crate) outdated: CancellationToken,
}

impl std::fmt::Debug for ServerTls {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls(..)")
    }
}

impl From<Arc<ServerConfig>> for ServerTls {
    fn from(config: Arc<ServerConfig>) -> Self {
        let outdated = CancellationToken::new();
        Self(Arc::new(RwLock::new(InUse { config, outdated })))
    }
}

impl ServerTls {
    /// Takes the place of what was there; which protocols are spoken stays.
    pub fn exchange(&self, next: &ServerConfig) {
        let mut next = next.clone();
        let before = {
            let mut now = self.0.write();
            let spoken = &now.config.alpn_protocols;
            next.alpn_protocols.clone_from(spoken);
            let next = InUse {
                config: Arc::new(next),
                outdated: CancellationToken::new(),
            };
            std::mem::replace(&mut *now, next)
        };
        before.outdated.cancel();
    }

    /// Speaks these protocols alone with clients that come, the preferred one first.
    pub fn speak(&self, protocols: &[&str]) {
        let mut now = self.0.write();
        let mut config = ServerConfig::clone(&now.config);
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        now.config = Arc::new(config);
    }

    pub(crate) fn in_use(&self) -> InUse {
        self.0.read().clone()
    }
}

/// A server's side. Client certificates are asked for and, where given, must be signed by
/// `client_ca_pem`; a client without one is let in (it may have a token).
pub fn server_config(
    pair: &Pair,
    client_ca_pem: Option<&str>,
) -> Result<Arc<ServerConfig>, TlsError> {
    server_config_of(&Identity::new(pair)?, client_ca_pem)
}

/// As [`server_config`], with a certificate that may be exchanged.
pub fn server_config_of(
    identity: &Identity,
    client_ca_pem: Option<&str>,
) -> Result<Arc<ServerConfig>, TlsError> {
    crate::install_crypto();
    let builder = ServerConfig::builder();
    let builder = match client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder(Arc::new(roots(ca)?))
                .allow_unauthenticated()
                .build()
                .map_err(|e| TlsError::Verifier(e.to_string()))?,
        ),
    };
    let mut config = builder.with_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client's side.
pub fn client_config(
    ca_pem: &str,
    pair: Option<&Pair>,
    alpn: &[&str],
) -> Result<ClientConfig, TlsError> {
    crate::install_crypto();
    let builder = ClientConfig::builder().with_root_certificates(roots(ca_pem)?);
    with_identity(builder, pair, alpn)
}

/// A client's side that knows whom it believes.
pub(crate) fn with_identity(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    pair: Option<&Pair>,
    alpn: &[&str],
) -> Result<ClientConfig, TlsError> {
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(p) => {
            builder.with_client_auth_cert(certificates(&p.cert_pem)?, private_key(&p.key_pem)?)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(config)
}
