//! Whom a client believes that calls servers which administrators of a cluster have named: webhooks
//! and extension servers. Their bundles of certificates are read as Go reads them, so that what
//! works with upstream works here: a server's own certificate may stand in its bundle.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::pki::Pair;
use crate::tls::{TlsError, with_identity};

/// Whom to believe.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Certificates (PEM): of authorities, or the server's own.
    Bundle(&'a [u8]),
    /// This machine's authorities.
    System,
    /// Everyone.
    Anyone,
}

/// The client's side of TLS. `pair`: who the client is, if it says so.
pub fn client_config(
    trust: Trust<'_>,
    pair: Option<&Pair>,
    alpn: &[&str],
) -> Result<ClientConfig, TlsError> {
    crate::install_crypto();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anyone => Arc::new(Believer(provider)),
        Trust::Bundle(pem) => Arc::new(Pinned::new(certificates(pem)?, &provider)?),
        Trust::System => Arc::new(Pinned::new(system()?, &provider)?),
    };
    let builder = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    with_identity(builder, pair, alpn)
}

/// Believes whoever shows a certificate, in place of what a configuration had.
pub fn believing(mut config: ClientConfig) -> ClientConfig {
    let provider = config.crypto_provider().clone();
    let all = Arc::new(Believer(provider));
    config.dangerous().set_certificate_verifier(all);
    config
}

/// The certificates of a bundle; one that holds none is an error.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::Pem("unable to parse bytes as PEM block".into());
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| none())?;
    if all.is_empty() {
        return Err(none());
    }
    Ok(all)
}

fn system() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| "this machine has none".into());
        return Err(TlsError::Pem(format!("system roots: {why}")));
    }
    Ok(found.certs)
}

/// Believes what the given certificates sign, and those certificates themselves.
#[derive(Debug)]
struct Pinned {
    /// None where none of them can sign.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    own: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn new(
        own: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(own.iter().cloned());
        let authorities = match roots.is_empty() {
            true => None,
            false => {
                let roots = Arc::new(roots);
                let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
                Some(
                    builder
                        .build()
                        .map_err(|e| TlsError::Verifier(e.to_string()))?,
                )
            }
        };
        Ok(Self {
            authorities,
            own,
            provider: provider.clone(),
        })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.own.iter().any(|own| own == leaf) {
            // An authority's certificate that a server shows as its own: there is no chain to look
            // at, but the name and the days still count.
            rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
            return is_current(leaf, now);
        }
        match &self.authorities {
            Some(known) => known.verify_server_cert(leaf, chain, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, known)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, known)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}

fn is_current(leaf: &[u8], now: UnixTime) -> Result<ServerCertVerified, rustls::Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let days = parsed.validity();
    if now > days.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if now < days.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(ServerCertVerified::assertion())
}

/// Believes every certificate; signatures must still be right.
#[derive(Debug)]
struct Believer(Arc<CryptoProvider>);

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, known)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, known)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How long a chain of certificates counts as what it was found to be, in seconds. Each request asks,
/// and to find out takes a tenth of a millisecond.
const VOUCHED_SECONDS: i64 = 60;
/// Chains that are remembered; each has a few kilobytes.
const REMEMBERED: usize = 1024;
/// Bytes at most of a chain that is remembered. A client may add what it likes to its own, and what
/// is added makes another chain of it.
const REMEMBERED_BYTES: usize = 16 << 10;

/// Whose certificates clients may show; that may be exchanged meanwhile. Clones share it.
#[derive(Clone, Debug)]
pub struct Clients(Arc<RwLock<Authorities>>);

/// Authorities, and what they were found to have signed.
#[derive(Debug)]
struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
    vouched: HashMap<Vec<CertificateDer<'static>>, Vouched>,
}

impl Authorities {
    fn of(pem: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| TlsError::Verifier(e.to_string()))?;
        Ok(Self {
            verifier,
            vouched: HashMap::new(),
        })
    }
}

/// Whether a chain is good, and when that was found, in seconds since the epoch.
#[derive(Clone, Copy, Debug)]
struct Vouched {
    at: i64,
    is_good: bool,
}

impl Clients {
    /// Those of the authorities of a bundle (PEM).
    pub fn of(pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Authorities::of(pem)?))))
    }

    /// Believes those of these authorities alone from now on; what cannot be used changes nothing.
    pub fn exchange(&self, pem: &[u8]) -> Result<(), TlsError> {
        let next = Authorities::of(pem)?;
        *self.0.write() = next;
        Ok(())
    }

    /// Whether one of them has signed the first certificate of a chain, at a time in seconds since
    /// the epoch; one that has ended, or begun, since may count as before for a minute more.
    pub fn vouch_for(&self, chain: &[CertificateDer<'static>], now: i64) -> bool {
        let Some((leaf, others)) = chain.split_first() else {
            return false;
        };
        let (found, verifier) = {
            let known = self.0.read();
            (known.vouched.get(chain).copied(), known.verifier.clone())
        };
        if let Some(Vouched { at, is_good }) = found
            && (at..at.saturating_add(VOUCHED_SECONDS)).contains(&now)
        {
            return is_good;
        }
        let time = std::time::Duration::from_secs(u64::try_from(now).unwrap_or(0));
        let time = UnixTime::since_unix_epoch(time);
        let is_good = verifier.verify_client_cert(leaf, others, time).is_ok();
        if chain.iter().map(|c| c.len()).sum::<usize>() > REMEMBERED_BYTES {
            return is_good;
        }
        let mut known = self.0.write();
        // What others found who are believed no more is not remembered.
        if Arc::ptr_eq(&known.verifier, &verifier) {
            let all = &mut known.vouched;
            if all.len() >= REMEMBERED {
                all.clear();
            }
            all.insert(chain.to_vec(), Vouched { at: now, is_good });
        }
        is_good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Ca, Subject};

    #[test]
    fn clients_are_believed_while_their_certificates_hold() {
        let now: i64 = 1_800_000_000;
        let (ca, stranger) = (Ca::generate("one", now), Ca::generate("two", now));
        let (ca, stranger) = (ca.expect("ca"), stranger.expect("ca"));
        let chain = |ca: &Ca| {
            let leaf = ca.issue(&Subject::client("jo", &[]), now, 1).expect("leaf");
            certificates(leaf.cert_pem.as_bytes()).expect("pem")
        };
        let clients = Clients::of(ca.pair.cert_pem.as_bytes()).expect("clients");
        let (good, other) = (chain(&ca), chain(&stranger));
        for _ in 0..2 {
            assert!(clients.vouch_for(&good, now));
            assert!(!clients.vouch_for(&other, now));
        }
        assert!(!clients.vouch_for(&[], now));
        // What was found once does not count for ever.
        let early = now - 400_000;
        assert!(!clients.vouch_for(&good, early));
        assert!(!clients.vouch_for(&good, early + VOUCHED_SECONDS - 1));
        assert!(clients.vouch_for(&good, now));
        assert!(!clients.vouch_for(&good, now + 400_000));
        // Others are believed from the moment of the exchange.
        let shared = clients.clone();
        assert!(clients.vouch_for(&good, now));
        assert!(shared.exchange(b"nothing").is_err());
        assert!(clients.vouch_for(&good, now));
        shared
            .exchange(stranger.pair.cert_pem.as_bytes())
            .expect("exchanged");
        assert!(!clients.vouch_for(&good, now));
        assert!(clients.vouch_for(&other, now));
    }

    #[test]
    fn a_bundle_believes_its_authorities_and_its_own_certificates() {
        let now: i64 = 1_800_000_000;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let ca = Ca::generate("one", now).expect("ca");
        let subject = Subject::server("x", &["hook.ns.svc"], &[]);
        let leaf = ca.issue(&subject, now, 1).expect("leaf");
        let der = |pem: &str| certificates(pem.as_bytes()).expect("pem").remove(0);
        let (authority, leaf) = (der(&ca.pair.cert_pem), der(&leaf.cert_pem));
        let name = ServerName::try_from("hook.ns.svc").expect("name");
        let other = ServerName::try_from("other.ns.svc").expect("name");
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now as u64));
        let late = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now as u64 + 400_000));
        let judge = |own: &CertificateDer<'static>, name: &ServerName<'_>, at| {
            let pinned = Pinned::new(vec![own.clone()], &provider).expect("pinned");
            let done = pinned.verify_server_cert(&leaf, &[], name, &[], at);
            done.map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(judge(&authority, &name, at), Ok(()));
        assert_eq!(judge(&leaf, &name, at), Ok(()));
        assert!(judge(&leaf, &other, at).is_err());
        assert!(judge(&leaf, &name, late).is_err_and(|e| e.contains("xpired")));
        let stranger = Ca::generate("two", now).expect("ca");
        let stranger = der(&stranger.pair.cert_pem);
        assert!(judge(&stranger, &name, at).is_err_and(|e| e.contains("UnknownIssuer")));
        assert!(certificates(b"nothing").is_err());
    }
}
