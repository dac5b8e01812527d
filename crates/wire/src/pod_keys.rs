//! Keys of pods, the requests that prove that one has them, and lists of certificates as PEM.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::pki::{PkiError, Validity};
use crate::signatures;

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
    let request = request(der)?;
    check_key(
        &request.certification_request_info.subject_pki,
        "elliptic public keys must use curve P256, P384, or P521",
    )?;
    signatures::check_request(&request).map_err(|_| "invalid signature")
}

fn request(der: &[u8]) -> Result<X509CertificationRequest<'_>, &'static str> {
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Ok(request),
        _ => Err("must be a valid PKCS#10 CSR"),
    }
}

/// What is wrong with a key and the older proof that one has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofProblem {
    /// With the key, in upstream's words.
    Key(&'static str),
    /// With the proof, in upstream's words.
    Proof(&'static str),
}

/// Checks the older proof: that a key (PKIX, DER) of a type that the API has has signed a message.
///
/// # Errors
/// What is wrong, and with which of the two.
pub fn check_proof(key_der: &[u8], message: &[u8], proof: &[u8]) -> Result<(), ProofProblem> {
    let Ok(([], key)) = SubjectPublicKeyInfo::from_der(key_der) else {
        let why = "must be a valid PKIX-serialized public key";
        return Err(ProofProblem::Key(why));
    };
    let curves = "elliptic public keys must use curve P256 or P384";
    check_key(&key, curves).map_err(ProofProblem::Key)?;
    let checked = signatures::check_proof(&key, message, proof);
    checked.map_err(|_| ProofProblem::Proof("could not verify proof-of-possession signature"))
}

/// Whether a key is of a type that the API has; `curves` is said of one on another curve.
fn check_key(key: &SubjectPublicKeyInfo<'_>, curves: &'static str) -> Result<(), &'static str> {
    match key.parsed() {
        Ok(PublicKey::EC(_)) => match signatures::curve_name(key) {
            Some("P-256" | "P-384" | "P-521") => Ok(()),
            _ => Err(curves),
        },
        Ok(PublicKey::RSA(rsa)) if matches!(rsa.key_size(), 3072 | 4096) => Ok(()),
        Ok(PublicKey::RSA(_)) => Err("RSA keys must have modulus size 3072 or 4096"),
        _ if key.algorithm.algorithm.to_id_string() == ED25519 => Ok(()),
        _ => Err("unknown public key type; supported types are Ed25519, ECDSA, and RSA"),
    }
}

/// The identifier of Ed25519 keys.
const ED25519: &str = "1.3.101.112";

/// The key (PKIX, DER) that a request (DER) is for.
///
/// # Errors
/// It is not a request, in upstream's words.
pub fn key_of_request(der: &[u8]) -> Result<Vec<u8>, &'static str> {
    let request = request(der)?;
    let key = &request.certification_request_info.subject_pki;
    Ok(key.raw.to_vec())
}

/// Checks what a signer answers: certificates alone, the first of them for the key (PKIX, DER) that
/// was asked for. Gives the first one's lifetime.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn check_chain(chain: &str, key_der: &[u8]) -> Result<Validity, &'static str> {
    const ALONE: &str = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
    let blocks = ::pem::parse_many(chain).map_err(|_| ALONE)?;
    if blocks.iter().any(|b| b.tag() != "CERTIFICATE") {
        return Err(ALONE);
    }
    let (leaf, others) = blocks
        .split_first()
        .ok_or("issued certificate chain must contain at least one certificate")?;
    let (_, leaf) = X509Certificate::from_der(leaf.contents()).map_err(|_| NO_LEAF)?;
    check_dns_names(&leaf)?;
    if leaf.public_key().raw != key_der {
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

const NO_LEAF: &str = "leaf certificate does not parse as valid X.509";

/// Whether the names of a certificate could be names.
fn check_dns_names(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|_| NO_LEAF)?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let GeneralName::DNSName(name) = name else {
            continue;
        };
        if name.is_empty() {
            return Err("leaf certificate should not contain empty DNSName");
        }
        if name.contains("..") {
            return Err("leaf certificate's DNSName should not contain '..'");
        }
        if name.starts_with('.') || name.ends_with('.') {
            return Err("leaf certificate's DNSName should not start or end with '.'");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Ca, Names, Subject, request_names};
    use crate::signatures::tests as tests_of_others;

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
        let asked = key_of_request(&made.request_der).unwrap();
        let lifetime = check_chain(&chain, &asked).unwrap();
        assert_eq!((lifetime.not_before, lifetime.not_after), (100, 4000));
        let other = new_pod_key("ECDSAP256").unwrap().request_der;
        let other = key_of_request(&other).unwrap();
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
        broken.push(0);
        assert_eq!(check_request(&broken), Err("must be a valid PKCS#10 CSR"));
        assert_eq!(check_request(&tests_of_others::p521_request()), Ok(()));
    }

    #[test]
    fn the_older_proof_is_a_signature_of_the_pods_uid() {
        let made = new_pod_key("ED25519").unwrap();
        let pair = KeyPair::from_pem(&made.key_pem).unwrap();
        let key = key_of_request(&made.request_der).unwrap();
        let signed = rcgen::SigningKey::sign(&pair, b"uid").unwrap();
        assert_eq!(check_proof(&key, b"uid", &signed), Ok(()));
        let wrong = ProofProblem::Proof("could not verify proof-of-possession signature");
        assert_eq!(check_proof(&key, b"other", &signed), Err(wrong));
        for (key, proof) in tests_of_others::proofs() {
            assert_eq!(check_proof(&key, tests_of_others::MESSAGE, &proof), Ok(()));
        }
        let none = ProofProblem::Key("must be a valid PKIX-serialized public key");
        assert_eq!(check_proof(b"x", b"uid", &signed), Err(none));
        let mut longer = key.clone();
        longer.push(0);
        assert_eq!(check_proof(&longer, b"uid", &signed), Err(none));
    }

    #[test]
    fn names_of_an_answer_are_names() {
        let ca = Ca::generate("a", 0).unwrap();
        for (name, why) in [
            ("a.example", "requested public key"),
            ("a..b", "should not contain '..'"),
            ("a.", "start or end with '.'"),
        ] {
            let pair = ca.issue(&Subject::server("s", &[name], &[]), 0, 1).unwrap();
            let found = check_chain(&pair.cert_pem, b"another key").unwrap_err();
            assert!(found.contains(why), "{found}");
        }
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
