//! Signed tokens (JWT, ES256): made and checked with ring. What the claims mean is the API
//! server's to say; here only form and signature are known.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};

use crate::pki::{PkiError, write_private};

#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    #[error("the signing key is not usable: {0}")]
    Key(String),
    #[error("signing failed")]
    Sign,
    #[error("not a token")]
    Form,
    #[error("the token's signature is not ours")]
    Signature,
    #[error(transparent)]
    File(#[from] PkiError),
}

/// A key that signs tokens and checks its own signatures.
pub struct Signer {
    key: EcdsaKeyPair,
    public: Vec<u8>,
    key_id: String,
    random: SystemRandom,
}

impl std::fmt::Debug for Signer {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.key_id)
    }
}

/// Longest token that is looked at, in bytes: ours have about 1 KiB.
const MOST_BYTES: usize = 16 << 10;

impl Signer {
    fn from_pkcs8(der: &[u8]) -> Result<Self, JwtError> {
        use sha2::Digest;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| JwtError::Key(e.to_string()))?;
        let public = key.public_key().as_ref().to_vec();
        let key_id = URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(&public));
        Ok(Self {
            key,
            public,
            key_id,
            random,
        })
    }

    /// A new key, for tests and first starts.
    pub fn generate() -> Result<(Self, Vec<u8>), JwtError> {
        let der =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|e| JwtError::Key(e.to_string()))?;
        Ok((Self::from_pkcs8(der.as_ref())?, der.as_ref().to_vec()))
    }

    /// Reads the PEM key (PKCS #8) of a file, or makes and writes it.
    pub fn load_or_create(path: &Path) -> Result<Self, JwtError> {
        if !path.exists() {
            write_private(path, Self::generate_pem()?.as_bytes())?;
        }
        Self::load(path)
    }

    /// Reads the PEM key (PKCS #8) of a file.
    pub fn load(path: &Path) -> Result<Self, JwtError> {
        let text = std::fs::read_to_string(path).map_err(|source| PkiError::File {
            path: path.to_owned(),
            source,
        })?;
        let block = ::pem::parse(text).map_err(|e| JwtError::Key(e.to_string()))?;
        Self::from_pkcs8(block.contents())
    }

    /// A new key (PEM, PKCS #8).
    pub fn generate_pem() -> Result<String, JwtError> {
        let (_, der) = Self::generate()?;
        Ok(::pem::encode(&::pem::Pem::new("PRIVATE KEY", der)))
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> Result<String, JwtError> {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| JwtError::Sign)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key has signed. Times and audience are not looked at.
    pub fn verify(&self, token: &str) -> Result<Value, JwtError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Form)?;
        if token.len() > MOST_BYTES {
            return Err(JwtError::Form);
        }
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Form)?;
        let decode = |part: &str| -> Result<Value, JwtError> {
            let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Form)?;
            serde_json::from_slice(&bytes).map_err(|_| JwtError::Form)
        };
        // The algorithm is ours to choose, never the token's.
        if decode(header)?["alg"] != "ES256" {
            return Err(JwtError::Signature);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| JwtError::Form)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| JwtError::Signature)?;
        decode(claims)
    }

    /// The public key as a JSON Web Key Set, for /openid/v1/jwks.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, x, y.
        let (x, y) = self
            .public
            .get(1..)
            .unwrap_or_default()
            .split_at(32.min(self.public.len() / 2));
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }] })
    }
}

/// The claims of a token without any check: only to choose what is to check it.
pub fn peek(token: &str) -> Option<Value> {
    let claims = token
        .split('.')
        .nth(1)
        .filter(|_| token.len() <= MOST_BYTES)?;
    let bytes = URL_SAFE_NO_PAD
        .decode(claims)
        .or_else(|_| STANDARD.decode(claims))
        .ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_signatures_are_believed() {
        let (signer, _) = Signer::generate().expect("key");
        let (other, _) = Signer::generate().expect("key");
        let claims = json!({ "sub": "system:serviceaccount:a:b", "exp": 5 });
        let token = signer.sign(&claims).expect("sign");
        assert_eq!(signer.verify(&token).expect("verify"), claims);
        assert!(matches!(other.verify(&token), Err(JwtError::Signature)));
        assert_eq!(peek(&token), Some(claims));
        let mut broken = token.clone();
        broken.replace_range(0..1, "f");
        for bad in [broken.as_str(), "", "a.b", "a.b.c", "..."] {
            assert!(signer.verify(bad).is_err(), "{bad}");
        }
        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode("{}")
        );
        assert!(matches!(signer.verify(&none), Err(JwtError::Signature)));
    }

    #[test]
    fn the_key_is_kept() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("sa.key");
        let first = Signer::load_or_create(&path).expect("create");
        let token = first.sign(&json!({})).expect("sign");
        let second = Signer::load_or_create(&path).expect("load");
        assert!(second.verify(&token).is_ok());
        assert_eq!(first.jwks(), second.jwks());
    }
}
