//! Tokens (JWT) that others have signed, checked with the keys that they publish (JWK sets). The
//! algorithms are those of upstream. What the claims mean is the API server's to say; here only form
//! and signature are known.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::signatures;

/// Longest token that is looked at, in bytes: a request's headers have less room together.
const MOST_BYTES: usize = 64 << 10;
/// Keys of a set that are looked at: providers publish two to ten.
const MOST_KEYS: usize = 256;
/// The shortest RSA key (2048 bits) that ring verifies with.
const LEAST_RSA_BYTES: usize = 256;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    #[error("malformed jwt")]
    Form,
    #[error("unsupported signing alg: {0:?}")]
    Algorithm(String),
    #[error("failed to decode keys: {0}")]
    Keys(String),
    #[error("failed to verify id token signature")]
    Signature,
}

/// How a token is signed: the names of RFC 7518.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    pub const ALL: [Self; 9] = [
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }

    /// Of RSA keys; none for the others.
    fn rsa(self) -> Option<&'static signature::RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 | Self::Es384 | Self::Es512 => return None,
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = JwksError;
    fn from_str(name: &str) -> Result<Self, JwksError> {
        let found = Self::ALL.into_iter().find(|a| a.name() == name);
        found.ok_or_else(|| JwksError::Algorithm(name.to_owned()))
    }
}

/// A token whose form is right, and nothing more.
#[derive(Debug)]
pub struct Token<'a> {
    /// As the token says it; the caller says which ones it accepts.
    pub algorithm: String,
    key_id: String,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

impl<'a> Token<'a> {
    pub fn parse(token: &'a str) -> Result<Self, JwksError> {
        if token.len() > MOST_BYTES {
            return Err(JwksError::Form);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwksError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(JwksError::Form)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwksError::Form);
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| JwksError::Form)?;
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| JwksError::Form)?;
        Ok(Self {
            algorithm: header.alg,
            key_id: header.kid,
            claims,
            signed,
            signature: decode(signature)?,
        })
    }

    /// The key that the token says it is signed with; empty if it names none.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Claims that nobody has vouched for yet: to choose who is to check them.
    pub fn unverified(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Whether one of the keys has signed the claims.
    pub fn verify(&self, keys: &KeySet) -> Result<(), JwksError> {
        let algorithm: Algorithm = self.algorithm.parse()?;
        let is_named = |key: &&Key| self.key_id.is_empty() || key.id == self.key_id;
        let signed = |key: &Key| key.verifies(algorithm, self.signed.as_bytes(), &self.signature);
        match keys.0.iter().filter(is_named).any(signed) {
            true => Ok(()),
            false => Err(JwksError::Signature),
        }
    }

    /// The claims; true only when [`Token::verify`] said so.
    pub fn into_claims(self) -> Map<String, Value> {
        self.claims
    }
}

/// The keys that somebody publishes.
#[derive(Debug, Default)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: String,
    /// The only algorithm it is for, where the set says so.
    algorithm: Option<String>,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
}

/// A key as it is published; what is not needed to check signatures is left out.
#[derive(Deserialize)]
struct Published {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default, rename = "use")]
    purpose: String,
    alg: Option<String>,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

#[derive(Deserialize)]
struct PublishedSet {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JWK set. Keys of kinds that are not known, or not for signatures, are left out, since
    /// a set may hold keys for others.
    pub fn parse(json: &[u8]) -> Result<Self, JwksError> {
        let wrong = |e: serde_json::Error| JwksError::Keys(e.to_string());
        let set: PublishedSet = serde_json::from_slice(json).map_err(wrong)?;
        if set.keys.len() > MOST_KEYS {
            let many = format!("more than {MOST_KEYS} of them");
            return Err(JwksError::Keys(many));
        }
        let read = |key| Key::read(serde_json::from_value(key).ok()?);
        Ok(Self(set.keys.into_iter().filter_map(read).collect()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key of this name is among them.
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }
}

/// A public key (PKIX, DER) as it is published: an entry of a JWK set, for the one algorithm with which
/// upstream signs by such a key.
///
/// # Errors
/// It is not such a key, or one that signs no tokens.
pub fn published(id: &str, der: &[u8]) -> Result<Value, JwksError> {
    let wrong = |why: &str| JwksError::Keys(format!("{id:?}: {why}"));
    let Ok(([], key)) = SubjectPublicKeyInfo::from_der(der) else {
        return Err(wrong("not a PKIX-serialized public key"));
    };
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let n = without_zeros(rsa.modulus);
            if n.len() < LEAST_RSA_BYTES {
                return Err(wrong("RSA keys of less than 2048 bits are not supported"));
            }
            let e = without_zeros(rsa.exponent);
            Ok(json!({
                "use": "sig", "kty": "RSA", "kid": id, "alg": Algorithm::Rs256.name(),
                "n": encode(n), "e": encode(e),
            }))
        }
        Ok(PublicKey::EC(_)) => {
            let (curve, algorithm, bytes) = match signatures::curve_name(&key) {
                Some("P-256") => ("P-256", Algorithm::Es256, 32),
                Some("P-384") => ("P-384", Algorithm::Es384, 48),
                Some("P-521") => ("P-521", Algorithm::Es512, 66),
                _ => return Err(wrong("its curve is none of P-256, P-384 and P-521")),
            };
            let point = match &*key.subject_public_key.data {
                [4, point @ ..] if point.len() == 2 * bytes => point,
                _ => return Err(wrong("its point is not an uncompressed one of its curve")),
            };
            let (x, y) = point.split_at(bytes);
            Ok(json!({
                "use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": algorithm.name(),
                "x": encode(x), "y": encode(y),
            }))
        }
        _ => Err(wrong("it is neither an RSA key nor one on a curve")),
    }
}

/// A number's bytes from the first that counts.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    number.get(zeros..).unwrap_or_default()
}

impl Key {
    fn read(key: Published) -> Option<Self> {
        if !matches!(&*key.purpose, "" | "sig") {
            return None;
        }
        // Some pad, though they should not.
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let number = |text: &str| Some(without_zeros(&decode(text)?).to_vec());
        let point = |bytes: usize| {
            let mut all = vec![4];
            for coordinate in [&key.x, &key.y] {
                let coordinate = number(coordinate)?;
                let missing = bytes.checked_sub(coordinate.len())?;
                all.extend(std::iter::repeat_n(0, missing));
                all.extend(coordinate);
            }
            Some(all)
        };
        let public = match (&*key.kty, &*key.crv) {
            ("RSA", _) => Public::Rsa {
                n: number(&key.n)?,
                e: number(&key.e)?,
            },
            ("EC", "P-256") => Public::P256(point(32)?),
            ("EC", "P-384") => Public::P384(point(48)?),
            ("EC", "P-521") => Public::P521(point(66)?),
            _ => return None,
        };
        Some(Self {
            id: key.kid,
            algorithm: key.alg,
            public,
        })
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let only = self.algorithm.as_deref();
        if only.is_some_and(|only| only != algorithm.name()) {
            return false;
        }
        match (&self.public, algorithm) {
            (Public::Rsa { n, e }, algorithm) => algorithm.rsa().is_some_and(|how| {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(how, message, signature).is_ok()
            }),
            (Public::P256(point), Algorithm::Es256) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature).is_ok()
            }
            (Public::P384(point), Algorithm::Es384) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point);
                key.verify(message, signature).is_ok()
            }
            (Public::P521(point), Algorithm::Es512) => {
                signatures::is_es512(point, message, signature)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;
    use crate::jwt::Signer;

    /// Example A.2 of RFC 7515: a token of RS256 and its key.
    const RSA_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

    /// A token of ES512, and its key.
    const P521_TOKEN: &str = "eyJhbGciOiJFUzUxMiJ9.eyJhIjoxfQ.AQqPsWQkYDxdjpo50Hjh5EiYQrMnbn8yXoNRw1L9eRXFjZT6C6oAHOjllxkzqnFnXbUw7owyuKHIoSVlZHVzxRa4AdemYFQRlUckGsTs1v-yT5fmm1qEiVXsv-a2kdCf5GVzQQQhVxodIq1vYvBnF-pfm0qwuXXC2UIIyDKWbdA4HzZd";
    const P521_X: &str =
        "AXm3F4ZS-qMeldraP9MLLFCSM_G-Ig1avbKRxLxn1qGXj9ePpKCl0nwnPCn7_NyNeILE2hn0MxJXBIhQ7HDZ_4Q6";
    const P521_Y: &str =
        "AH_fQNg8FmAgBxmJS94xgCpmKKtH0BiG0KNyWJBYMuZFUEP_atDbFqDQgXb7azOwt4jqqiTTcst7F-zXLls-9JLe";

    fn set(keys: &Value) -> KeySet {
        KeySet::parse(keys.to_string().as_bytes()).expect("a set")
    }

    fn check(token: &str, keys: &KeySet) -> Result<Map<String, Value>, JwksError> {
        let token = Token::parse(token)?;
        token.verify(keys).map(|()| token.into_claims())
    }

    #[test]
    fn rsa_and_elliptic_keys_verify() {
        let rsa = json!({"kty": "RSA", "n": RSA_N, "e": "AQAB"});
        let keys = set(&json!({"keys": [rsa]}));
        let claims = check(RSA_TOKEN, &keys).expect("the RFC's own");
        assert_eq!(claims["iss"], "joe");
        let mut other = RSA_TOKEN.to_owned();
        other.replace_range(RSA_TOKEN.len() - 4..RSA_TOKEN.len() - 2, "AA");
        assert_eq!(check(&other, &keys), Err(JwksError::Signature));
        let only = json!({"keys": [{"kty": "RSA", "n": RSA_N, "e": "AQAB", "alg": "RS512"}]});
        assert_eq!(check(RSA_TOKEN, &set(&only)), Err(JwksError::Signature));
        let secret = json!({"keys": [{"kty": "RSA", "n": RSA_N, "e": "AQAB", "use": "enc"}]});
        assert!(set(&secret).is_empty());

        let (signer, _) = Signer::generate().expect("key");
        let token = signer.sign(&json!({"sub": "x"})).expect("token");
        assert!(check(&token, &set(&signer.jwks())).is_ok());
        let (stranger, _) = Signer::generate().expect("key");
        assert!(check(&token, &set(&stranger.jwks())).is_err());
    }

    #[test]
    fn p384_verifies() {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random);
        let der = der.expect("key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der.as_ref(), &random);
        let key = key.expect("key");
        let part = |v: Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let signed = format!(
            "{}.{}",
            part(json!({"alg": "ES384"})),
            part(json!({"a": 1}))
        );
        let signature = key.sign(&random, signed.as_bytes()).expect("signature");
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let (x, y) = key.public_key().as_ref()[1..].split_at(48);
        let keys = set(&json!({"keys": [{
            "kty": "EC", "crv": "P-384",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]}));
        assert_eq!(check(&token, &keys).expect("verified")["a"], 1);
    }

    #[test]
    fn a_key_of_pkix_is_published_and_verifies() {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = (0..hex.len()).step_by(2);
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("a byte");
            digits.map(byte).collect()
        };
        let n = URL_SAFE_NO_PAD.decode(RSA_N).expect("a number");
        let head = "30820122300d06092a864886f70d01010105000382010f003082010a0282010100";
        let rsa = [bytes(head), n, bytes("0203010001")].concat();
        let key = published("a", &rsa).expect("an RSA key");
        assert_eq!(
            key,
            json!({"use": "sig", "kty": "RSA", "kid": "a", "alg": "RS256", "n": RSA_N, "e": "AQAB"})
        );
        let keys = set(&json!({"keys": [key]}));
        assert!(keys.has("a") && !keys.has("b"));
        assert!(check(RSA_TOKEN, &keys).is_ok());

        let (signer, _) = Signer::generate().expect("key");
        let own = signer.jwks();
        let own = &own["keys"][0];
        let part = |name: &str| {
            let text = own[name].as_str().expect("text");
            URL_SAFE_NO_PAD.decode(text).expect("a number")
        };
        let head = "3059301306072a8648ce3d020106082a8648ce3d03010703420004";
        let mut point = [bytes(head), part("x"), part("y")].concat();
        let kid = own["kid"].as_str().expect("text");
        assert_eq!(&published(kid, &point).expect("a key on a curve"), own);
        point.push(0);
        assert!(published(kid, &point).is_err());
        assert!(published("a", b"").is_err());
        let ed25519 = [bytes("302a300506032b6570032100"), vec![1; 32]].concat();
        assert!(published("a", &ed25519).is_err());
    }

    #[test]
    fn p521_verifies() {
        let key = |crv: &str| json!({"kty": "EC", "crv": crv, "x": P521_X, "y": P521_Y});
        let keys = set(&json!({"keys": [key("P-521")]}));
        assert_eq!(check(P521_TOKEN, &keys).expect("verified")["a"], 1);
        let mut other = P521_TOKEN.to_owned();
        other.replace_range(P521_TOKEN.len() - 6..P521_TOKEN.len() - 4, "AA");
        assert_eq!(check(&other, &keys), Err(JwksError::Signature));
        let (head, signature) = P521_TOKEN.rsplit_once('.').expect("a signature");
        let shorter = format!("{head}.{}", &signature[..signature.len() - 4]);
        assert_eq!(check(&shorter, &keys), Err(JwksError::Signature));
        // Coordinates of that length are of no other curve.
        assert!(set(&json!({"keys": [key("P-384")]})).is_empty());
    }

    #[test]
    fn what_is_no_signed_token_is_refused() {
        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode("{}")
        );
        let keys = set(&json!({"keys": [{"kty": "RSA", "n": RSA_N, "e": "AQAB"}]}));
        assert_eq!(
            check(&none, &keys),
            Err(JwksError::Algorithm("none".into()))
        );
        let hmac = format!(
            "{}.{}.AAAA",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#),
            URL_SAFE_NO_PAD.encode("{}")
        );
        assert!(check(&hmac, &keys).is_err());
        let long = "a".repeat(MOST_BYTES + 1);
        for bad in ["", ".", "..", "a.b.c", "....", &long] {
            assert!(check(bad, &keys).is_err(), "{bad:.10}");
        }
        for bad in ["", "[]", "{}", r#"{"keys":1}"#] {
            assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let odd =
            json!({"keys": [1, {"kty": "oct"}, {"kty": "EC", "crv": "P-256", "x": "!", "y": ""}]});
        assert!(set(&odd).is_empty());
    }
}
