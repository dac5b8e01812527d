//! ECDSA on the curves that upstream takes keys of. ring knows two of them, each with two hashes; the
//! other pairs are verified by the crate of the curve.

use p521::ecdsa::Error;
use p521::ecdsa::signature::hazmat::PrehashVerifier;
use ring::signature::{self, EcdsaVerificationAlgorithm, UnparsedPublicKey};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Hash;

/// A curve of NIST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    P224,
    P256,
    P384,
    P521,
}

impl Curve {
    /// That of a key, if it is known here.
    pub fn of(key: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
        match curve.to_id_string().as_str() {
            "1.3.132.0.33" => Some(Self::P224),
            "1.2.840.10045.3.1.7" => Some(Self::P256),
            "1.3.132.0.34" => Some(Self::P384),
            "1.3.132.0.35" => Some(Self::P521),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::P224 => "P-224",
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Whether a key (its point) has made this signature (DER) of a message.
    pub fn verifies(self, key: &[u8], hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        if let Some(algorithm) = self.of_ring(hash) {
            let key = UnparsedPublicKey::new(algorithm, key);
            return key.verify(message, signature).is_ok();
        }
        let Some(key) = uncompressed(key) else {
            return false;
        };
        let hash = hash.of(message);
        let hash = hash.as_ref();
        match self {
            Self::P224 => fits(
                p224::ecdsa::VerifyingKey::from_sec1_bytes(key),
                hash,
                p224::ecdsa::Signature::from_der(signature),
            ),
            Self::P256 => fits(
                p256::ecdsa::VerifyingKey::from_sec1_bytes(key),
                hash,
                p256::ecdsa::Signature::from_der(signature),
            ),
            Self::P384 => fits(
                p384::ecdsa::VerifyingKey::from_sec1_bytes(key),
                hash,
                p384::ecdsa::Signature::from_der(signature),
            ),
            Self::P521 => fits(
                p521::ecdsa::VerifyingKey::from_sec1_bytes(key),
                hash,
                p521::ecdsa::Signature::from_der(signature),
            ),
        }
    }

    /// What ring has for the curve with a hash.
    fn of_ring(self, hash: Hash) -> Option<&'static EcdsaVerificationAlgorithm> {
        match (self, hash) {
            (Self::P256, Hash::Sha256) => Some(&signature::ECDSA_P256_SHA256_ASN1),
            (Self::P256, Hash::Sha384) => Some(&signature::ECDSA_P256_SHA384_ASN1),
            (Self::P384, Hash::Sha256) => Some(&signature::ECDSA_P384_SHA256_ASN1),
            (Self::P384, Hash::Sha384) => Some(&signature::ECDSA_P384_SHA384_ASN1),
            _ => None,
        }
    }
}

/// Whether a key of P-521 (its point) has made a signature of a message, in the form that tokens of
/// ES512 have (RFC 7518, 3.4): two numbers side by side, each as long as a coordinate.
pub fn is_es512(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Some(key) = uncompressed(key) else {
        return false;
    };
    fits(
        p521::ecdsa::VerifyingKey::from_sec1_bytes(key),
        Hash::Sha512.of(message).as_ref(),
        p521::ecdsa::Signature::from_slice(signature),
    )
}

/// A point in the one form that upstream and ring read.
fn uncompressed(point: &[u8]) -> Option<&[u8]> {
    (point.first() == Some(&4)).then_some(point)
}

fn fits<K, S>(key: Result<K, Error>, hash: &[u8], signature: Result<S, Error>) -> bool
where
    K: PrehashVerifier<S>,
{
    let (Ok(key), Ok(signature)) = (key, signature) else {
        return false;
    };
    key.verify_prehash(hash, &signature).is_ok()
}
