//! Certificates for a test: a CA, servers on the loopback address, clients.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use store::EtcdTls;

/// A CA that signs what a test needs.
pub struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("key");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("CA"),
        }
    }

    pub fn ca_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for both roles on 127.0.0.1, with its key.
    pub fn sign(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        (certificate.pem(), key.serialize_pem())
    }

    pub fn client(&self) -> EtcdTls {
        let (certificate, key) = self.sign("client");
        EtcdTls {
            ca: self.ca_pem().into(),
            certificate: certificate.into(),
            key: key.into(),
        }
    }

    /// Files for a server: CA, certificate and key.
    pub fn write_server(&self, dir: &Path) -> [PathBuf; 3] {
        let (certificate, key) = self.sign("server");
        let files = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
        for (file, text) in files.iter().zip([self.ca_pem(), certificate, key]) {
            std::fs::write(file, text).expect("certificate file");
        }
        files
    }
}
