//! Whether the key of a request has signed it, or a key something else. Mostly ring is asked, through
//! the library that reads certificates; what upstream accepts besides (P-521 and P-224, hashes of
//! other lengths than the curve's, RSA from 1024 bits on, RSA-PSS with any salt) is computed here. All
//! of it is public: nothing is learned from how long that takes. Nothing is signed here.

mod curves;
mod pss;

use ring::digest;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use curves::Curve;

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("x509: cannot verify signature: algorithm unimplemented")]
    Unsupported,
    #[error("x509: verification failure of the signature by the request's own key")]
    Wrong,
}

const ECDSA_SHA1: &str = "1.2.840.10045.4.1";
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
const ECDSA_SHA512: &str = "1.2.840.10045.4.3.4";
const RSA_SHA256: &str = "1.2.840.113549.1.1.11";
const RSA_SHA512: &str = "1.2.840.113549.1.1.13";
const ED25519: &str = "1.3.101.112";
const P521: &str = "1.3.132.0.35";

/// Checks that a request (PKCS#10) is signed by the key that it holds.
///
/// # Errors
/// It is not, or nobody here can say.
pub fn check_request(request: &X509CertificationRequest<'_>) -> Result<(), SignatureError> {
    let first = match request.verify_signature() {
        Ok(()) => return Ok(()),
        Err(X509Error::SignatureUnsupportedAlgorithm) => SignatureError::Unsupported,
        Err(_) => SignatureError::Wrong,
    };
    let info = &request.certification_request_info;
    let (key, signature) = (&info.subject_pki, &*request.signature_value.data);
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    let hash = match algorithm.as_str() {
        ECDSA_SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        ECDSA_SHA256 => &digest::SHA256,
        ECDSA_SHA384 => &digest::SHA384,
        ECDSA_SHA512 => &digest::SHA512,
        // What ring refuses of these two may only be too short.
        RSA_SHA256 => {
            let short = &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
            return by_ring(short, key, info.raw, signature);
        }
        RSA_SHA512 => {
            let short = &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY;
            return by_ring(short, key, info.raw, signature);
        }
        _ => return Err(first),
    };
    let curve = curve_of(key).ok_or(first)?;
    let hash = digest::digest(hash, info.raw);
    fits(curve.verifies(&key.subject_public_key.data, hash.as_ref(), signature))
}

/// Checks a signature of the kind that its key is used with in proofs: Ed25519, ECDSA over SHA-256, or
/// RSA-PSS over SHA-256 with a salt of any length.
///
/// # Errors
/// It is not one by this key, or the key is of another kind.
pub fn check_proof(
    key: &SubjectPublicKeyInfo<'_>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    if key.algorithm.algorithm.to_id_string() == ED25519 {
        return by_ring(&signature::ED25519, key, message, signature);
    }
    let hash = digest::digest(&digest::SHA256, message);
    match key.parsed() {
        Ok(PublicKey::EC(_)) => {
            let curve = curve_of(key).ok_or(SignatureError::Unsupported)?;
            fits(curve.verifies(&key.subject_public_key.data, hash.as_ref(), signature))
        }
        Ok(PublicKey::RSA(rsa)) => fits(pss::verifies(&rsa, hash.as_ref(), signature)),
        _ => Err(SignatureError::Unsupported),
    }
}

/// Whether a key of P-521 (its uncompressed point) has made a signature of a message, in the form that
/// tokens of ES512 have (RFC 7518, 3.4).
pub fn is_es512(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let hash = digest::digest(&digest::SHA512, message);
    let curve = Curve::named(P521);
    curve.is_some_and(|curve| curve.verifies_fixed(key, hash.as_ref(), signature))
}

/// The curve of a key, if it is one of those that are known here.
fn curve_of(key: &SubjectPublicKeyInfo<'_>) -> Option<Curve> {
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    Curve::named(&curve.to_id_string())
}

/// The name of a key's curve (`P-256`), if it is one of those that are known here.
pub fn curve_name(key: &SubjectPublicKeyInfo<'_>) -> Option<&'static str> {
    curve_of(key).map(|curve| curve.name())
}

fn by_ring(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &SubjectPublicKeyInfo<'_>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let key = UnparsedPublicKey::new(algorithm, &key.subject_public_key.data);
    fits(key.verify(message, signature).is_ok())
}

fn fits(does: bool) -> Result<(), SignatureError> {
    if does {
        Ok(())
    } else {
        Err(SignatureError::Wrong)
    }
}

#[cfg(test)]
pub(crate) mod tests;
