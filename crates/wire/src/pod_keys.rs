//! Keys of pods, the requests that prove that one has them, and lists of certificates as PEM.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::pki::{PkiError, Validity};

/// A new key, and a request (PKCS#10) that names nobody and is signed by it.
pub struct PodKey {
    /// The private key, PKCS#8 as PEM.
    pub key_pem: String,
    /// The request, DER.
    pub request_der: Vec<u8>,
}

impl std::fmt::Debug for PodKey {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PodKey { .. }")
    }
}

/// A key of one of the API's types of keys.
///
/// # Errors
/// RSA and P-521, which the library that all keys here come from cannot make, and unknown types.
pub fn new_pod_key(key_type: &str) -> Result<PodKey, PkiError> {
    let algorithm = match key_type {
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        "ED25519" => &rcgen::PKCS_ED25519,
        other => {
            return Err(PkiError::Request(format!(
                "keys of type {other:?} cannot be made here; ECDSAP256, ECDSAP384 and ED25519 can"
            )));
        }
    };
    let key = KeyPair::generate_for(algorithm)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok(PodKey {
        key_pem: key.serialize_pem(),
        request_der: request.der().to_vec(),
    })
}

/// The certificates of a PEM text, each as DER, in their order. What stands around them is left out.
///
/// # Errors
/// A block that cannot be read.
pub fn certificates_der(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let blocks = ::pem::parse_many(text).map_err(|e| e.to_string())?;
    Ok(blocks.into_iter().map(|b| b.into_contents()).collect())
}

/// A certificate (DER) as PEM.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    let lines = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    ::pem::encode_config(&::pem::Pem::new("CERTIFICATE", der), lines)
}

/// The most bytes of a bundle of trust anchors; upstream's.
const LONGEST_BUNDLE: usize = 1 << 20;

/// Checks a bundle of trust anchors: certificates of authorities, each once.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn check_anchors(text: &str) -> Result<(), String> {
    if text.len() > LONGEST_BUNDLE {
        return Err(format!("may not be more than {LONGEST_BUNDLE} bytes"));
    }
    let blocks = ::pem::parse_many(text).map_err(|e| e.to_string())?;
    if blocks.is_empty() {
        return Err("at least one trust anchor must be provided".into());
    }
    let mut seen = std::collections::BTreeMap::new();
    for (i, block) in blocks.iter().enumerate() {
        if block.tag() != "CERTIFICATE" {
            return Err(format!("entry {i} has bad block type: {}", block.tag()));
        }
        if block.headers().iter().next().is_some() {
            return Err(format!("entry {i} has PEM block headers"));
        }
        let (_, certificate) = X509Certificate::from_der(block.contents())
            .map_err(|_| format!("entry {i} does not parse as X.509"))?;
        if !certificate.is_ca() {
            return Err(format!("entry {i} does not have the CA bit set"));
        }
        if let Some(first) = seen.insert(block.contents(), i) {
            return Err(format!("duplicate trust anchor (indices [{first} {i}])"));
        }
    }
    Ok(())
}

/// Checks a pod's request (DER): a key of a type that the API has, which signed it. What it names does
/// not matter.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn check_request(der: &[u8]) -> Result<(), &'static str> {
    let (_, request) =
        X509CertificationRequest::from_der(der).map_err(|_| "must be a valid PKCS#10 CSR")?;
    let info = &request.certification_request_info.subject_pki;
    match info.parsed() {
        Ok(PublicKey::EC(point)) if !matches!(point.key_size(), 256 | 384 | 521 | 528) => {
            return Err("elliptic public keys must use curve P256, P384, or P521");
        }
        Ok(PublicKey::RSA(key)) if !matches!(key.key_size(), 3072 | 4096) => {
            return Err("RSA keys must have modulus size 3072 or 4096");
        }
        Ok(PublicKey::EC(_) | PublicKey::RSA(_)) => {}
        _ if info.algorithm.algorithm.to_id_string() == ED25519 => {}
        _ => return Err("unknown public key type; supported types are Ed25519, ECDSA, and RSA"),
    }
    request.verify_signature().map_err(|_| "invalid signature")
}

/// The identifier of Ed25519 keys.
const ED25519: &str = "1.3.101.112";

/// Checks what a signer answers: certificates alone, the first of them for the key of the request
/// (DER). Gives the first one's lifetime.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn check_chain(chain: &str, request_der: &[u8]) -> Result<Validity, &'static str> {
    const ALONE: &str = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
    let blocks = ::pem::parse_many(chain).map_err(|_| ALONE)?;
    if blocks.iter().any(|b| b.tag() != "CERTIFICATE") {
        return Err(ALONE);
    }
    let (leaf, others) = blocks
        .split_first()
        .ok_or("issued certificate chain must contain at least one certificate")?;
    let (_, leaf) = X509Certificate::from_der(leaf.contents())
        .map_err(|_| "leaf certificate does not parse as valid X.509")?;
    let (_, request) = X509CertificationRequest::from_der(request_der)
        .map_err(|_| "must be a valid PKCS#10 CSR")?;
    if leaf.public_key().raw != request.certification_request_info.subject_pki.raw {
        return Err("leaf certificate was not issued to the requested public key");
    }
    if others
        .iter()
        .any(|b| X509Certificate::from_der(b.contents()).is_err())
    {
        return Err("intermediate certificate does not parse as valid X.509");
    }
    Ok(Validity {
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Ca, Names, Subject, request_names};

    #[test]
    fn a_pods_request_is_signed_by_its_key_and_names_nobody() {
        for key_type in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let made = new_pod_key(key_type).unwrap();
            let request = made.request_der.clone();
            let request = ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", request));
            assert_eq!(
                request_names(&request).unwrap(),
                Names::default(),
                "{key_type}"
            );
            assert!(
                made.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"),
                "{key_type}"
            );
            assert_eq!(check_request(&made.request_der), Ok(()), "{key_type}");
        }
        let why = new_pod_key("RSA3072").unwrap_err().to_string();
        assert!(why.contains("RSA3072") && why.contains("ED25519"), "{why}");
    }

    #[test]
    fn an_answer_is_for_the_key_that_asked() {
        let ca = Ca::generate("a", 0).unwrap();
        let made = new_pod_key("ECDSAP256").unwrap();
        let request = ::pem::Pem::new("CERTIFICATE REQUEST", made.request_der.clone());
        let validity = Validity {
            not_before: 100,
            not_after: 4000,
        };
        let leaf = ca.sign_request(&::pem::encode(&request), &["client auth"], validity);
        let chain = format!("{}{}", leaf.unwrap(), ca.pair.cert_pem);
        let lifetime = check_chain(&chain, &made.request_der).unwrap();
        assert_eq!((lifetime.not_before, lifetime.not_after), (100, 4000));
        let other = new_pod_key("ECDSAP256").unwrap().request_der;
        let why = check_chain(&chain, &other).unwrap_err();
        assert_eq!(
            why,
            "leaf certificate was not issued to the requested public key"
        );
        assert!(
            check_chain("", &other)
                .unwrap_err()
                .contains("at least one")
        );
        assert!(
            check_chain(&made.key_pem, &other)
                .unwrap_err()
                .contains("entirely")
        );
        assert!(check_request(b"x").is_err());
        let mut broken = made.request_der;
        if let Some(last) = broken.last_mut() {
            *last ^= 1;
        }
        assert_eq!(check_request(&broken), Err("invalid signature"));
    }

    #[test]
    fn anchors_are_certificates_of_authorities() {
        let ca = Ca::generate("a", 0).unwrap();
        let text = &ca.pair.cert_pem;
        assert_eq!(check_anchors(&format!("ours\n{text}")), Ok(()));
        let leaf = ca.issue(&Subject::client("u", &[]), 0, 1).unwrap();
        for (bad, why) in [
            ("", "at least one"),
            (leaf.key_pem.as_str(), "bad block type"),
            (leaf.cert_pem.as_str(), "CA bit"),
            (
                &format!("{text}{text}"),
                "duplicate trust anchor (indices [0 1])",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "X.509",
            ),
        ] {
            let found = check_anchors(bad).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
    }

    #[test]
    fn certificates_are_taken_out_of_their_text() {
        let ca = Ca::generate("a", 0).unwrap().pair.cert_pem;
        let all = certificates_der(&format!("a comment\n{ca}\nanother\n{ca}")).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(certificate_pem(&all[0]), ca);
        assert!(
            certificates_der("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
                .is_err()
        );
        assert_eq!(certificates_der("nothing"), Ok(Vec::new()));
    }
}
