//! Whether the key of a request has signed it, or a key something else. Libraries verify; what is said
//! here is which of their ways an algorithm and a key ask for, so that nothing is taken that upstream
//! does not take. Nothing is signed here.

mod curves;

use ring::digest;
use ring::signature::{self, RsaParameters, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use curves::Curve;
pub use curves::is_es512;

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("x509: cannot verify signature: algorithm unimplemented")]
    Unsupported,
    #[error("x509: verification failure of the signature by the request's own key")]
    Wrong,
}

/// A hash that signatures are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    /// Of requests alone, as upstream.
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn of(self, message: &[u8]) -> digest::Digest {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, message)
    }
}

/// How RSA fills up a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Padding {
    Pkcs1,
    /// With a salt as long as the hash.
    Pss,
}

/// How a signature was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Rsa(Padding, Hash),
    Ecdsa(Hash),
    Ed25519,
}

const ED25519: &str = "1.3.101.112";
const MGF1: &str = "1.2.840.113549.1.1.8";

impl How {
    /// By the algorithm that a request names.
    fn named(algorithm: &AlgorithmIdentifier<'_>) -> Option<Self> {
        use Hash::{Sha1, Sha256, Sha384, Sha512};
        match algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => Some(Self::Rsa(Padding::Pkcs1, Sha1)),
            "1.2.840.113549.1.1.11" => Some(Self::Rsa(Padding::Pkcs1, Sha256)),
            "1.2.840.113549.1.1.12" => Some(Self::Rsa(Padding::Pkcs1, Sha384)),
            "1.2.840.113549.1.1.13" => Some(Self::Rsa(Padding::Pkcs1, Sha512)),
            "1.2.840.113549.1.1.10" => Some(Self::Rsa(Padding::Pss, pss_hash(algorithm)?)),
            "1.2.840.10045.4.1" => Some(Self::Ecdsa(Sha1)),
            "1.2.840.10045.4.3.2" => Some(Self::Ecdsa(Sha256)),
            "1.2.840.10045.4.3.3" => Some(Self::Ecdsa(Sha384)),
            "1.2.840.10045.4.3.4" => Some(Self::Ecdsa(Sha512)),
            ED25519 if algorithm.parameters.is_none() => Some(Self::Ed25519),
            _ => None,
        }
    }
}

/// The hash of RSA-PSS, of whose many parameters upstream takes three sets: one hash for everything
/// and a salt of its length.
fn pss_hash(algorithm: &AlgorithmIdentifier<'_>) -> Option<Hash> {
    let parameters = RsaSsaPssParams::try_from(algorithm.parameters.as_ref()?).ok()?;
    let mask = parameters.mask_gen_algorithm().ok()?;
    let id = parameters.hash_algorithm_oid().to_id_string();
    let (hash, salt) = match id.as_str() {
        "2.16.840.1.101.3.4.2.1" => (Hash::Sha256, 32),
        "2.16.840.1.101.3.4.2.2" => (Hash::Sha384, 48),
        "2.16.840.1.101.3.4.2.3" => (Hash::Sha512, 64),
        _ => return None,
    };
    let is_one_of_them = mask.mgf.to_id_string() == MGF1
        && mask.hash.to_id_string() == id
        && parameters.salt_length() == salt
        && parameters.trailer_field() == 1;
    is_one_of_them.then_some(hash)
}

/// Checks that a request (PKCS#10) is signed by the key that it holds.
///
/// # Errors
/// It is not, or nobody here can say.
pub fn check_request(request: &X509CertificationRequest<'_>) -> Result<(), SignatureError> {
    let how = How::named(&request.signature_algorithm).ok_or(SignatureError::Unsupported)?;
    let info = &request.certification_request_info;
    let signature = &*request.signature_value.data;
    check(&info.subject_pki, how, info.raw, signature)
}

/// Checks a signature of the kind that its key is used with in proofs: Ed25519, ECDSA over SHA-256, or
/// RSA-PSS over SHA-256. Of the latter the salt has the hash's length: ring verifies no other, though
/// upstream does.
///
/// # Errors
/// It is not one by this key, or the key is of another kind.
pub fn check_proof(
    key: &SubjectPublicKeyInfo<'_>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let how = match key.parsed() {
        Ok(PublicKey::EC(_)) => How::Ecdsa(Hash::Sha256),
        Ok(PublicKey::RSA(_)) => How::Rsa(Padding::Pss, Hash::Sha256),
        _ => How::Ed25519,
    };
    check(key, how, message, signature)
}

/// The name of a key's curve (`P-256`), if it is one of those that are known here.
pub fn curve_name(key: &SubjectPublicKeyInfo<'_>) -> Option<&'static str> {
    Curve::of(key).map(Curve::name)
}

fn check(
    key: &SubjectPublicKeyInfo<'_>,
    how: How,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let bytes = &*key.subject_public_key.data;
    let does_fit = match (how, key.parsed()) {
        (How::Rsa(padding, hash), Ok(PublicKey::RSA(rsa))) => {
            let algorithm = rsa_algorithm(&rsa, padding, hash);
            let algorithm = algorithm.ok_or(SignatureError::Unsupported)?;
            by_ring(algorithm, bytes, message, signature)
        }
        (How::Ecdsa(hash), Ok(PublicKey::EC(_))) => {
            let curve = Curve::of(key).ok_or(SignatureError::Unsupported)?;
            curve.verifies(bytes, hash, message, signature)
        }
        (How::Ed25519, Ok(PublicKey::Unknown(_)))
            if key.algorithm.algorithm.to_id_string() == ED25519 =>
        {
            by_ring(&signature::ED25519, bytes, message, signature)
        }
        // The key is of another kind than what it is to have signed with.
        _ => return Err(SignatureError::Unsupported),
    };
    if does_fit {
        Ok(())
    } else {
        Err(SignatureError::Wrong)
    }
}

/// What ring has for an RSA key; it takes shorter ones than 2048 bits with some paddings alone.
fn rsa_algorithm(
    key: &RSAPublicKey<'_>,
    padding: Padding,
    hash: Hash,
) -> Option<&'static RsaParameters> {
    let (shortest, algorithm) = match (padding, hash) {
        (Padding::Pkcs1, Hash::Sha1) => {
            let legacy = &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY;
            (1024, legacy)
        }
        (Padding::Pkcs1, Hash::Sha256) => {
            let legacy = &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
            (1024, legacy)
        }
        (Padding::Pkcs1, Hash::Sha384) => (2048, &signature::RSA_PKCS1_2048_8192_SHA384),
        (Padding::Pkcs1, Hash::Sha512) => {
            let legacy = &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY;
            (1024, legacy)
        }
        (Padding::Pss, Hash::Sha1) => return None,
        (Padding::Pss, Hash::Sha256) => (2048, &signature::RSA_PSS_2048_8192_SHA256),
        (Padding::Pss, Hash::Sha384) => (2048, &signature::RSA_PSS_2048_8192_SHA384),
        (Padding::Pss, Hash::Sha512) => (2048, &signature::RSA_PSS_2048_8192_SHA512),
    };
    (bits(key.modulus) >= shortest).then_some(algorithm)
}

/// The length of a number. ring counts bytes where upstream counts bits.
fn bits(number: &[u8]) -> usize {
    let mut digits = number.iter().skip_while(|byte| **byte == 0);
    let first = digits.next();
    first.map_or(0, |first| {
        8 * (1 + digits.count()) - first.leading_zeros() as usize
    })
}

fn by_ring(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .is_ok()
}

#[cfg(test)]
pub(crate) mod tests;
