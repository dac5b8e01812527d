//! Keys and certificates of a cluster: its certificate authorities, the certificates they sign,
//! and the files that hold them. Keys are ECDSA P-256, written with mode 0600.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use x509_parser::prelude::FromDer;

use crate::private_key::key_pair;
use crate::signatures;

/// Seconds of a day.
const DAY: i64 = 86_400;
/// A CA outlives every certificate below it.
pub const CA_DAYS: i64 = 3650;
/// Certificates of components are renewed at each start of the server, so a year is ample.
pub const LEAF_DAYS: i64 = 365;
/// Clocks of machines differ: certificates are valid from a little before they are made.
pub const BACKDATE_SECONDS: i64 = 300;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("certificate request is not usable: {0}")]
    Request(String),
    #[error("private key is not usable: {0}")]
    Key(String),
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: not a PEM certificate: {why}")]
    Parse { path: PathBuf, why: String },
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Pair {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair { .. }")
    }
}

impl Pair {
    /// Whether the certificate is that of the key.
    pub fn belongs_together(&self) -> bool {
        use rcgen::PublicKeyData;
        let (Ok(key), Ok(block)) = (key_pair(&self.key_pem), ::pem::parse(&self.cert_pem)) else {
            return false;
        };
        x509_parser::certificate::X509Certificate::from_der(block.contents())
            .is_ok_and(|(_, cert)| cert.public_key().raw == key.subject_public_key_info())
    }
}

/// A new private key (PEM).
pub fn new_key() -> Result<String, PkiError> {
    Ok(KeyPair::generate()?.serialize_pem())
}

/// Whom a certificate names and what it may be used for.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// User name of a client.
    pub common_name: String,
    /// Groups of a client.
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub client: bool,
    pub server: bool,
}

impl Subject {
    pub fn client(user: &str, groups: &[&str]) -> Self {
        Self {
            common_name: user.into(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            client: true,
            ..Self::default()
        }
    }
    pub fn server(name: &str, dns_names: &[&str], ips: &[IpAddr]) -> Self {
        Self {
            common_name: name.into(),
            dns_names: dns_names.iter().map(|n| (*n).to_owned()).collect(),
            ips: ips.to_vec(),
            server: true,
            ..Self::default()
        }
    }
}

/// From when to when a certificate is good: both in seconds since the epoch, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    fn days(now: i64, days: i64) -> Self {
        Self {
            not_before: now - BACKDATE_SECONDS,
            not_after: now + days * DAY,
        }
    }

    fn set(self, params: &mut CertificateParams) -> Result<(), PkiError> {
        let at = |seconds: i64| {
            x509_parser::time::ASN1Time::from_timestamp(seconds)
                .map(|t| t.to_datetime())
                .map_err(|e| PkiError::Request(e.to_string()))
        };
        params.not_before = at(self.not_before)?;
        params.not_after = at(self.not_after)?;
        Ok(())
    }
}

fn serial() -> SerialNumber {
    #[expect(clippy::disallowed_methods, reason = "a secret: nobody may foresee it")]
    let mut bytes: [u8; 16] = rand::random();
    // Positive, and never shortened by a leading zero.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A certificate authority that can sign.
#[derive(Clone, Debug)]
pub struct Ca {
    pub pair: Pair,
}

impl Ca {
    /// A new, self-signed authority. `now` in seconds since the epoch.
    pub fn generate(name: &str, now: i64) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.serial_number = Some(serial());
        Validity::days(now, CA_DAYS).set(&mut params)?;
        let cert = params.self_signed(&key)?;
        Ok(Self {
            pair: Pair {
                cert_pem: cert.pem(),
                key_pem: key.serialize_pem(),
            },
        })
    }

    /// An authority that was brought along: certificate and key must fit.
    pub fn of(pair: Pair) -> Result<Self, PkiError> {
        let ca = Self { pair };
        ca.issuer()?;
        if ca.pair.belongs_together() {
            Ok(ca)
        } else {
            Err(PkiError::Key("it is not that of the certificate".into()))
        }
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key = key_pair(&self.pair.key_pem).map_err(PkiError::Key)?;
        Ok(Issuer::from_ca_cert_pem(&self.pair.cert_pem, key)?)
    }

    /// A new key with a certificate for `subject`.
    pub fn issue(&self, subject: &Subject, now: i64, days: i64) -> Result<Pair, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = leaf_params(subject, now, days)?;
        params.serial_number = Some(serial());
        let cert = params.signed_by(&key, &self.issuer()?)?;
        Ok(Pair {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs a PEM certificate request as it stands (subject and names are the caller's to check
    /// beforehand with [`request_names`]); only usages and validity are ours. Usages have the API's
    /// words. Returns the PEM certificate, which names what the request named, or an error.
    pub fn sign_request(
        &self,
        csr_pem: &str,
        usages: &[&str],
        validity: Validity,
    ) -> Result<String, PkiError> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem)?;
        // The library would take a key for one of the curve that the signature's hash is usual with.
        let key = request_key(csr_pem)?;
        csr.params.is_ca = IsCa::ExplicitNoCa;
        csr.params.key_usages.clear();
        csr.params.extended_key_usages.clear();
        for usage in usages {
            add_usage(&mut csr.params, usage)?;
        }
        csr.params.serial_number = Some(serial());
        validity.set(&mut csr.params)?;
        let pem = csr.params.signed_by(&key, &self.issuer()?)?.pem();
        // The library keeps one value per kind of name: what it lost is not signed silently.
        if certificate_names_pem(&pem)? != request_names(csr_pem)? {
            let why = "it names more than this authority can put into a certificate";
            return Err(PkiError::Request(why.into()));
        }
        Ok(pem)
    }

    /// Reads `<stem>.crt` and `<stem>.key` of a folder, or makes and writes them.
    pub fn load_or_create(dir: &Path, stem: &str, name: &str, now: i64) -> Result<Self, PkiError> {
        let (cert, key) = (
            dir.join(format!("{stem}.crt")),
            dir.join(format!("{stem}.key")),
        );
        if cert.exists() && key.exists() {
            return Ok(Self {
                pair: Pair {
                    cert_pem: read(&cert)?,
                    key_pem: read(&key)?,
                },
            });
        }
        let ca = Self::generate(name, now)?;
        // The key first: a certificate without its key would look complete.
        write_private(&key, ca.pair.key_pem.as_bytes())?;
        write_public(&cert, ca.pair.cert_pem.as_bytes())?;
        Ok(ca)
    }
}

/// The library keeps one value per kind of name; the same OID by number is a second kind. More
/// groups than two are refused, rather than lost.
fn push_organizations(name: &mut DistinguishedName, all: &[String]) -> Result<(), PkiError> {
    let kinds = [
        DnType::OrganizationName,
        DnType::CustomDnType(vec![2, 5, 4, 10]),
    ];
    if all.len() > kinds.len() {
        return Err(PkiError::Request(format!(
            "{} groups in one certificate",
            all.len()
        )));
    }
    for (kind, group) in kinds.into_iter().zip(all) {
        name.push(kind, group.as_str());
    }
    Ok(())
}

/// Adds what a word of the API (`certificates.k8s.io`) allows a key to be used for.
fn add_usage(params: &mut CertificateParams, usage: &str) -> Result<(), PkiError> {
    use ExtendedKeyUsagePurpose as Extended;
    use KeyUsagePurpose as Plain;
    // Purposes that have no name in the library, by number (RFC 4945; Microsoft; Netscape).
    let other = |numbers: &[u64]| Extended::Other(numbers.to_vec());
    let plain = match usage {
        "signing" | "digital signature" => Some(Plain::DigitalSignature),
        "content commitment" => Some(Plain::ContentCommitment),
        "key encipherment" => Some(Plain::KeyEncipherment),
        "key agreement" => Some(Plain::KeyAgreement),
        "data encipherment" => Some(Plain::DataEncipherment),
        "cert sign" => Some(Plain::KeyCertSign),
        "crl sign" => Some(Plain::CrlSign),
        "encipher only" => Some(Plain::EncipherOnly),
        "decipher only" => Some(Plain::DecipherOnly),
        _ => None,
    };
    let extended = match usage {
        "any" => Some(Extended::Any),
        "server auth" => Some(Extended::ServerAuth),
        "client auth" => Some(Extended::ClientAuth),
        "code signing" => Some(Extended::CodeSigning),
        "email protection" | "s/mime" => Some(Extended::EmailProtection),
        "ipsec end system" => Some(other(&[1, 3, 6, 1, 5, 5, 7, 3, 5])),
        "ipsec tunnel" => Some(other(&[1, 3, 6, 1, 5, 5, 7, 3, 6])),
        "ipsec user" => Some(other(&[1, 3, 6, 1, 5, 5, 7, 3, 7])),
        "timestamping" => Some(Extended::TimeStamping),
        "ocsp signing" => Some(Extended::OcspSigning),
        "microsoft sgc" => Some(other(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3])),
        "netscape sgc" => Some(other(&[2, 16, 840, 1, 113_730, 4, 1])),
        _ => None,
    };
    match (plain, extended) {
        (Some(usage), _) if !params.key_usages.contains(&usage) => params.key_usages.push(usage),
        (_, Some(usage)) if !params.extended_key_usages.contains(&usage) => {
            params.extended_key_usages.push(usage);
        }
        (None, None) => {
            return Err(PkiError::Request(format!(
                "usage {usage:?} is not supported"
            )));
        }
        _ => {}
    }
    Ok(())
}

fn leaf_params(subject: &Subject, now: i64, days: i64) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, subject.common_name.as_str());
    push_organizations(&mut params.distinguished_name, &subject.organizations)?;
    for name in &subject.dns_names {
        params
            .subject_alt_names
            .push(SanType::DnsName(name.as_str().try_into()?));
    }
    params
        .subject_alt_names
        .extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    if subject.client {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    if subject.server {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    Validity::days(now, days).set(&mut params)?;
    Ok(params)
}

/// A new key and a PEM certificate request for `subject`: `(request, key)`.
pub fn make_request(subject: &Subject) -> Result<(String, String), PkiError> {
    let key_pem = new_key()?;
    Ok((request_with(subject, &key_pem)?, key_pem))
}

/// A PEM certificate request for `subject` by a key that is there already (PEM).
pub fn request_with(subject: &Subject, key_pem: &str) -> Result<String, PkiError> {
    let key = key_pair(key_pem).map_err(PkiError::Key)?;
    let mut params = leaf_params(subject, 0, 1)?;
    // A request carries the subject and its names; usages and validity are the signer's.
    params.is_ca = IsCa::NoCa;
    params.key_usages.clear();
    params.extended_key_usages.clear();
    Ok(params.serialize_request(&key)?.pem()?)
}

/// What a certificate (DER) or request names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
}

fn read_names(
    subject: &x509_parser::x509::X509Name<'_>,
    alt: Option<&x509_parser::extensions::SubjectAlternativeName<'_>>,
) -> Names {
    use x509_parser::extensions::GeneralName;
    let text =
        |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let mut names = Names {
        common_name: subject
            .iter_common_name()
            .next()
            .and_then(text)
            .unwrap_or_default(),
        organizations: subject.iter_organization().filter_map(text).collect(),
        ..Names::default()
    };
    for name in alt.iter().flat_map(|a| &a.general_names) {
        match name {
            GeneralName::DNSName(n) => names.dns_names.push((*n).to_owned()),
            GeneralName::RFC822Name(n) => names.emails.push((*n).to_owned()),
            GeneralName::URI(n) => names.uris.push((*n).to_owned()),
            GeneralName::IPAddress(b) => names.ips.extend(ip_of(b)),
            _ => {}
        }
    }
    names
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// The names of a DER certificate that TLS has verified.
pub fn certificate_names(der: &[u8]) -> Result<Names, PkiError> {
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(der)
        .map_err(|e| PkiError::Request(e.to_string()))?;
    let alt = cert.subject_alternative_name().ok().flatten();
    Ok(read_names(cert.subject(), alt.as_ref().map(|a| a.value)))
}

/// The names of the first certificate of a PEM text.
pub fn certificate_names_pem(cert_pem: &str) -> Result<Names, PkiError> {
    let block = ::pem::parse(cert_pem).map_err(|e| PkiError::Request(e.to_string()))?;
    certificate_names(block.contents())
}

/// When the first certificate of a PEM text ends, in seconds since the epoch.
pub fn not_after(cert_pem: &str) -> Result<i64, PkiError> {
    validity(cert_pem).map(|(_, until)| until)
}

/// From when to when the first certificate of a PEM text is good, in seconds since the epoch.
pub fn validity(cert_pem: &str) -> Result<(i64, i64), PkiError> {
    let block = ::pem::parse(cert_pem).map_err(|e| PkiError::Request(e.to_string()))?;
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(block.contents())
        .map_err(|e| PkiError::Request(e.to_string()))?;
    let validity = cert.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

/// The names of a PEM certificate request whose signature is checked.
pub fn request_names(csr_pem: &str) -> Result<Names, PkiError> {
    let block = ::pem::parse(csr_pem).map_err(|e| PkiError::Request(e.to_string()))?;
    let (_, csr) =
        x509_parser::certification_request::X509CertificationRequest::from_der(block.contents())
            .map_err(|e| PkiError::Request(e.to_string()))?;
    signatures::check_request(&csr).map_err(|e| PkiError::Request(e.to_string()))?;
    let alt = csr.requested_extensions().and_then(|mut all| {
        all.find_map(|e| match e {
            x509_parser::extensions::ParsedExtension::SubjectAlternativeName(s) => Some(s),
            _ => None,
        })
    });
    Ok(read_names(&csr.certification_request_info.subject, alt))
}

/// The key of a PEM certificate request.
fn request_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, PkiError> {
    let block = ::pem::parse(csr_pem).map_err(|e| PkiError::Request(e.to_string()))?;
    let (_, csr) =
        x509_parser::certification_request::X509CertificationRequest::from_der(block.contents())
            .map_err(|e| PkiError::Request(e.to_string()))?;
    let key = csr.certification_request_info.subject_pki.raw;
    Ok(SubjectPublicKeyInfo::from_der(key)?)
}

/// Checks that a PEM certificate request is one, signed by the key that it holds.
///
/// # Errors
/// What is wrong, in the words of the library that upstream uses.
pub fn check_request_signature(csr_pem: &str) -> Result<(), String> {
    let block = ::pem::parse(csr_pem).map_err(|e| e.to_string())?;
    let (rest, csr) =
        x509_parser::certification_request::X509CertificationRequest::from_der(block.contents())
            .map_err(|_| "x509: malformed certificate request".to_owned())?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    signatures::check_request(&csr).map_err(|e| e.to_string())
}

/// Why the first certificate of a text and the first private key of another (both PEM) cannot be used
/// together, in upstream's words. Nothing is said where there is none of them, nor of keys that cannot
/// be read here (RSA below 2048 bits, P-521).
pub fn pair_problem(cert_pem: &str, key_pem: &str) -> Option<&'static str> {
    use rcgen::PublicKeyData;
    let first = |text: &str, fits: &dyn Fn(&str) -> bool| {
        let blocks = ::pem::parse_many(text).ok()?;
        blocks.into_iter().find(|block| fits(block.tag()))
    };
    let cert = first(cert_pem, &|tag| tag == "CERTIFICATE")?;
    let key = first(key_pem, &|tag| tag.ends_with("PRIVATE KEY"))?;
    let Ok((_, cert)) = x509_parser::certificate::X509Certificate::from_der(cert.contents()) else {
        return Some("x509: malformed certificate");
    };
    // Whatever form a key has, it is a sequence.
    let is_readable = key.contents().first() == Some(&0x30) && !key.tag().contains("ENCRYPTED");
    if !is_readable {
        return Some("tls: failed to parse private key");
    }
    let public = key_pair(&::pem::encode(&key))
        .ok()?
        .subject_public_key_info();
    let cert = cert.public_key();
    if cert.raw == public {
        return None;
    }
    let (_, public) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&public).ok()?;
    Some(
        match cert.algorithm.algorithm == public.algorithm.algorithm {
            true => "tls: private key does not match public key",
            false => "tls: private key type does not match public key type",
        },
    )
}

/// SHA-256 of the public key of a PEM certificate request, in hexadecimal: a client that asks twice
/// with one key is the same holder.
pub fn request_key_hash(csr_pem: &str) -> Result<String, PkiError> {
    let block = ::pem::parse(csr_pem).map_err(|e| PkiError::Request(e.to_string()))?;
    let (_, csr) =
        x509_parser::certification_request::X509CertificationRequest::from_der(block.contents())
            .map_err(|e| PkiError::Request(e.to_string()))?;
    Ok(hash_hex(csr.certification_request_info.subject_pki.raw))
}

fn hash_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    let sum = sha2::Sha256::digest(bytes);
    sum.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of the CA certificate's public key, in hexadecimal: what a joining node is given so
/// that it can trust the server before it has the CA (as kubeadm's discovery hash).
pub fn ca_hash(ca_pem: &str) -> Result<String, PkiError> {
    let block = ::pem::parse(ca_pem).map_err(|e| PkiError::Request(e.to_string()))?;
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(block.contents())
        .map_err(|e| PkiError::Request(e.to_string()))?;
    Ok(hash_hex(cert.public_key().raw))
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> PkiError + '_ {
    move |source| PkiError::File {
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(file_error(path))
}

fn write_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(file_error(dir))?;
    }
    let beside = path.with_extension("new");
    // Left by a crash: its mode may be anything.
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(file_error(&beside))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(file_error(&beside))?;
    fs::rename(&beside, path).map_err(file_error(path))
}

/// Writes a secret, readable by its owner alone, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    write_mode(path, bytes, 0o600)
}

/// Writes a public file, whole or not at all.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    write_mode(path, bytes, 0o644)
}

#[cfg(test)]
mod tests;
