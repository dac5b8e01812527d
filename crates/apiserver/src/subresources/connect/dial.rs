//! Connections to kubelets and pods: TCP or TLS, one per request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use wire::pki::Pair;
use wire::stream::BoxIo;
use wire::tls::{TlsError, client_config};

/// How long a connection may take to come about, TLS included.
const LIMIT: Duration = Duration::from_secs(10);

/// How backends are reached.
pub(super) struct Dialer {
    /// With our certificate; the kubelet must show one of the cluster's.
    pub kubelet: Arc<ClientConfig>,
    /// With our certificate, believing the kubelet whatever it shows: a client asked for that.
    pub unverified_kubelet: Arc<ClientConfig>,
    /// Without a certificate, believing everyone: pods have certificates of their own making.
    pub pod: Arc<ClientConfig>,
}

impl Dialer {
    pub fn new(pair: &Pair, ca_pem: &str) -> Result<Self, TlsError> {
        let kubelet = client_config(ca_pem, Some(pair), &["http/1.1"])?;
        let pod = client_config(ca_pem, None, &["http/1.1"])?;
        Ok(Self {
            unverified_kubelet: Arc::new(believing(kubelet.clone())),
            kubelet: Arc::new(kubelet),
            pod: Arc::new(believing(pod)),
        })
    }
}

fn believing(mut config: ClientConfig) -> ClientConfig {
    let provider = config.crypto_provider().clone();
    let all = Arc::new(Believer(provider));
    config.dangerous().set_certificate_verifier(all);
    config
}

/// Connects, by TLS if a configuration is given.
pub(super) async fn dial(
    host: &str,
    port: u16,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<BoxIo> {
    let connecting = async {
        let socket = TcpStream::connect((host, port)).await?;
        socket.set_nodelay(true)?;
        let Some(tls) = tls else {
            return Ok(Box::new(socket) as BoxIo);
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = tokio_rustls::TlsConnector::from(tls.clone())
            .connect(name, socket)
            .await?;
        Ok(Box::new(stream) as BoxIo)
    };
    match tokio::time::timeout(LIMIT, connecting).await {
        Ok(Ok(io)) => Ok(io),
        Ok(Err(e)) => Err(explained(host, port, &e)),
        Err(_) => Err(explained(
            host,
            port,
            &io::Error::from(io::ErrorKind::TimedOut),
        )),
    }
}

/// The words that clients know from upstream.
fn explained(host: &str, port: u16, e: &io::Error) -> io::Error {
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let why = match e.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => e.to_string(),
    };
    io::Error::new(e.kind(), format!("dial tcp {address}: {why}"))
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
