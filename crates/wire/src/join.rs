//! How a joining node comes to trust a server that it has never seen: the token it was given
//! holds the hash of the cluster's CA, the server presents that CA in its certificate chain.

use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;

use crate::pki;

/// A join token: `<CA hash>::<id>.<secret>`; what follows `::` is an ordinary bootstrap token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// See [`pki::ca_hash`].
    pub ca_hash: String,
    /// `<id>.<secret>`, the bearer token.
    pub bearer: String,
}

impl std::fmt::Debug for JoinToken {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

impl JoinToken {
    /// `None` when the text is not a join token.
    pub fn parse(text: &str) -> Option<Self> {
        let (hash, bearer) = text.trim().split_once("::")?;
        let (id, secret) = bearer.split_once('.')?;
        let word = |s: &str, n: usize| {
            s.len() == n
                && s.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        (word(hash, 64) && word(id, 6) && word(secret, 16)).then(|| Self {
            ca_hash: hash.to_owned(),
            bearer: bearer.to_owned(),
        })
    }
    pub fn format(ca_hash: &str, id: &str, secret: &str) -> String {
        format!("{ca_hash}::{id}.{secret}")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("cannot reach {addr}: {source}")]
    Connect {
        addr: String,
        source: std::io::Error,
    },
    #[error("{addr} is not the server that the token is for, or is not trusted: {source}")]
    Trust {
        addr: String,
        source: std::io::Error,
    },
    #[error("{0:?} is not a server's name")]
    Name(String),
}

/// Accepts a chain that holds the CA with the expected hash and a leaf which that CA has signed.
#[derive(Debug)]
struct Pinned {
    ca_hash: String,
    provider: Arc<CryptoProvider>,
    /// The CA, once seen.
    found: Mutex<Option<String>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pem_of = |der: &CertificateDer<'_>| {
            ::pem::encode(&::pem::Pem::new("CERTIFICATE", der.as_ref().to_vec()))
        };
        let ca = others
            .iter()
            .find(|der| pki::ca_hash(&pem_of(der)).is_ok_and(|h| h == self.ca_hash))
            .ok_or_else(|| Error::General("its chain does not hold the cluster's CA".into()))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|e| Error::General(e.to_string()))?;
        let verified = verifier.verify_server_cert(leaf, others, name, ocsp, now)?;
        if let Ok(mut found) = self.found.lock() {
            *found = Some(pem_of(ca));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Connects to `host:port` and returns the cluster's CA (PEM) if the server proves, by a
/// certificate which that CA has signed, that it is the one the token is for.
pub async fn fetch_ca(host: &str, port: u16, ca_hash: &str) -> Result<String, JoinError> {
    let addr = api::host_port(host, port);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pinned {
        ca_hash: ca_hash.to_owned(),
        provider: provider.clone(),
        found: Mutex::new(None),
    });
    let trust = |source| JoinError::Trust {
        addr: addr.clone(),
        source,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| trust(std::io::Error::other(e)))?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| JoinError::Name(host.to_owned()))?;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|source| JoinError::Connect {
            addr: addr.clone(),
            source,
        })?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(trust)?;
    let found = verifier.found.lock().ok().and_then(|mut f| f.take());
    found.ok_or_else(|| trust(std::io::Error::other("no CA was presented")))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::Response;
    use http_body_util::Full;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::pki::{Ca, Subject};

    #[test]
    fn tokens_are_read_strictly() {
        let hash = "ab".repeat(32);
        let text = JoinToken::format(&hash, "abcdef", "0123456789abcdef");
        let token = JoinToken::parse(&text).expect("token");
        assert_eq!(token.bearer, "abcdef.0123456789abcdef");
        for bad in ["", "x::abcdef.0123456789abcdef", "abcdef.0123456789abcdef"] {
            assert_eq!(JoinToken::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_ca_is_fetched_from_the_right_server_only() {
        crate::install_crypto();
        let now = 1_700_000_000;
        let ca = Ca::generate("cluster", now).expect("ca");
        let local = Ipv4Addr::LOCALHOST.into();
        let mut pair = ca
            .issue(&Subject::server("s", &["localhost"], &[local]), now, 3650)
            .expect("pair");
        pair.cert_pem.push_str(&ca.pair.cert_pem);
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("listen");
        let port = listener.local_addr().expect("addr").port();
        let tls = crate::tls::server_config(&pair, None).expect("tls");
        let shutdown = CancellationToken::new();
        let handle = |_| async { Response::new(Full::new(bytes::Bytes::new())) };
        let server = tokio::spawn(crate::serve::serve(listener, tls, handle, shutdown.clone()));
        let hash = pki::ca_hash(&ca.pair.cert_pem).expect("hash");
        let fetched = fetch_ca("127.0.0.1", port, &hash).await.expect("fetch");
        assert_eq!(pki::ca_hash(&fetched).expect("hash"), hash);
        let other = Ca::generate("other", now).expect("ca");
        let wrong = pki::ca_hash(&other.pair.cert_pem).expect("hash");
        assert!(matches!(
            fetch_ca("127.0.0.1", port, &wrong).await,
            Err(JoinError::Trust { .. })
        ));
        shutdown.cancel();
        server.await.expect("server");
    }
}
