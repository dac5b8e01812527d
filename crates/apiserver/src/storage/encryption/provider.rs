//! How values are encrypted, and with which keys; the forms are upstream's, so that what one server
//! wrote the other reads with the same keys. A value begins with `k8s:enc:`, the provider's form and
//! the key's name. What a service of keys is asked, [`super::kms`] asks.

use std::sync::Arc;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use bytes::Bytes;
use cbc::{Decryptor, Encryptor};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead, KeyInit};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::kms::{Kms, PendingDecryption};

/// What encrypted values begin with, whichever provider wrote them.
pub const ENCRYPTED: &[u8] = b"k8s:enc:";

/// A value that cannot be read, or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    #[error("it is encrypted with {0}, which this server does not have")]
    NoKey(String),
    #[error(
        "it cannot be decrypted with {0}: that key is another one, or the value was changed, or moved to another key of the store"
    )]
    Wrong(String),
    #[error("it is not encrypted, and no identity provider lets plain values be read")]
    Plain,
    #[error("{0}")]
    Provider(String),
    /// It can be, once a service has opened its key.
    #[error("its key has not been opened")]
    Asks(PendingDecryption),
}

/// A key as it is given.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for Key {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

/// One way to keep values.
pub enum Provider {
    /// As they are.
    Identity,
    /// Under keys of one form, of which the first writes.
    Keyed(Vec<NamedKey>),
    /// Under keys that a service keeps.
    Kms(Arc<Kms>),
}

/// How a key is used. All of them draw a nonce for each write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// AES-GCM: the key of the store is authenticated with the value, which so cannot be moved to
    /// another object. 2^32 writes are safe with one key.
    AesGcm,
    /// AES-CBC with PKCS#7: whether a value was changed is not seen.
    AesCbc,
    /// XSalsa20 and Poly1305.
    Secretbox,
}

impl Form {
    /// The name of its provider.
    pub fn word(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::Secretbox => "secretbox",
        }
    }

    /// Lengths of its keys, in bytes.
    pub fn lengths(self) -> &'static [usize] {
        match self {
            Self::AesGcm => &[16, 32],
            Self::AesCbc => &[16, 24, 32],
            Self::Secretbox => &[32],
        }
    }
}

/// A key with its form.
pub struct NamedKey {
    prefix: Vec<u8>,
    name: String,
    cipher: Cipher,
}

enum Cipher {
    Gcm(Box<LessSafeKey>),
    Cbc(Vec<u8>),
    Secretbox(Box<XSalsa20Poly1305>),
}

impl NamedKey {
    /// None where the key has not the length of its form.
    pub fn new(form: Form, key: &Key) -> Option<Self> {
        let secret = &key.secret;
        if !form.lengths().contains(&secret.len()) {
            return None;
        }
        let cipher = match form {
            Form::AesGcm => {
                let algorithm = match secret.len() {
                    16 => &AES_128_GCM,
                    _ => &AES_256_GCM,
                };
                let key = UnboundKey::new(algorithm, secret).ok()?;
                Cipher::Gcm(Box::new(LessSafeKey::new(key)))
            }
            Form::AesCbc => Cipher::Cbc(secret.clone()),
            Form::Secretbox => {
                Cipher::Secretbox(Box::new(XSalsa20Poly1305::new_from_slice(secret).ok()?))
            }
        };
        Some(Self {
            prefix: format!("k8s:enc:{}:v1:{}:", form.word(), key.name).into_bytes(),
            name: format!("the key {:?} of {}", key.name, form.word()),
            cipher,
        })
    }

    fn seal(&self, at: &[u8], plain: &[u8]) -> Result<Bytes, CipherError> {
        let mut out = self.prefix.clone();
        match &self.cipher {
            Cipher::Gcm(key) => seal_gcm(key, at, plain, &mut out),
            Cipher::Cbc(key) => seal_cbc(key, plain, &mut out),
            Cipher::Secretbox(key) => seal_secretbox(key, plain, &mut out),
        }
        .ok_or_else(|| CipherError::Provider("the value is too large".into()))?;
        Ok(out.into())
    }

    fn open(&self, at: &[u8], sealed: &[u8]) -> Result<Bytes, CipherError> {
        let opened = match &self.cipher {
            Cipher::Gcm(key) => open_gcm(key, at, sealed),
            Cipher::Cbc(key) => open_cbc(key, sealed),
            Cipher::Secretbox(key) => open_secretbox(key, sealed),
        };
        let wrong = || CipherError::Wrong(self.name.clone());
        opened.map(Bytes::from).ok_or_else(wrong)
    }
}

pub(super) fn seal_gcm(
    key: &LessSafeKey,
    at: &[u8],
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Option<()> {
    let nonce = random::<NONCE_LEN>();
    let head = out.len() + NONCE_LEN;
    out.reserve(NONCE_LEN + plain.len() + key.algorithm().tag_len());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let (_, body) = out.split_at_mut(head);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(at), body);
    out.extend_from_slice(tag.ok()?.as_ref());
    Some(())
}

pub(super) fn open_gcm(key: &LessSafeKey, at: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut body = body.to_vec();
    let plain = key.open_in_place(nonce, Aad::from(at), &mut body);
    let length = plain.ok()?.len();
    body.truncate(length);
    Some(body)
}

/// Bytes of a block of AES.
const BLOCK: usize = 16;

fn seal_cbc(key: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = random::<BLOCK>();
    let body = match key.len() {
        16 => Encryptor::<aes::Aes128>::new_from_slices(key, &start)
            .ok()?
            .encrypt_padded_vec_mut::<Pkcs7>(plain),
        24 => Encryptor::<aes::Aes192>::new_from_slices(key, &start)
            .ok()?
            .encrypt_padded_vec_mut::<Pkcs7>(plain),
        _ => Encryptor::<aes::Aes256>::new_from_slices(key, &start)
            .ok()?
            .encrypt_padded_vec_mut::<Pkcs7>(plain),
    };
    out.extend_from_slice(&start);
    out.extend_from_slice(&body);
    Some(())
}

fn open_cbc(key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (start, body) = sealed.split_at_checked(BLOCK)?;
    match key.len() {
        16 => Decryptor::<aes::Aes128>::new_from_slices(key, start)
            .ok()?
            .decrypt_padded_vec_mut::<Pkcs7>(body),
        24 => Decryptor::<aes::Aes192>::new_from_slices(key, start)
            .ok()?
            .decrypt_padded_vec_mut::<Pkcs7>(body),
        _ => Decryptor::<aes::Aes256>::new_from_slices(key, start)
            .ok()?
            .decrypt_padded_vec_mut::<Pkcs7>(body),
    }
    .ok()
}

/// Bytes of a nonce of XSalsa20.
const LONG_NONCE: usize = 24;

fn seal_secretbox(key: &XSalsa20Poly1305, plain: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let nonce = random::<LONG_NONCE>();
    let body = key.encrypt((&nonce).into(), plain).ok()?;
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&body);
    Some(())
}

fn open_secretbox(key: &XSalsa20Poly1305, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, body) = sealed.split_first_chunk::<LONG_NONCE>()?;
    key.decrypt(nonce.into(), body).ok()
}

#[expect(clippy::disallowed_methods, reason = "of a secret")]
pub(super) fn random<const N: usize>() -> [u8; N] {
    rand::random()
}

impl Provider {
    /// What values begin with that are written now; nothing for plain ones.
    fn prefix(&self) -> &[u8] {
        match self {
            Self::Identity => &[],
            Self::Keyed(keys) => keys.first().map_or(&[], |k| &k.prefix),
            Self::Kms(kms) => kms.prefix(),
        }
    }

    fn seal(&self, at: &[u8], plain: &Bytes) -> Result<Bytes, CipherError> {
        match self {
            Self::Identity => Ok(plain.clone()),
            Self::Keyed(keys) => {
                let key = keys.first();
                let none = || CipherError::Provider("a provider has no key".into());
                key.ok_or_else(none)?.seal(at, plain)
            }
            Self::Kms(kms) => kms.seal(at, plain),
        }
    }

    /// The plain value, if this provider wrote it.
    fn open(&self, at: &[u8], stored: &Bytes) -> Option<Result<Bytes, CipherError>> {
        match self {
            Self::Identity => (!stored.starts_with(ENCRYPTED)).then(|| Ok(stored.clone())),
            Self::Keyed(keys) => keys.iter().find_map(|key| {
                let sealed = stored.strip_prefix(&*key.prefix)?;
                Some(key.open(at, sealed))
            }),
            Self::Kms(kms) => {
                let sealed = stored.strip_prefix(kms.prefix())?;
                Some(kms.open(at, sealed))
            }
        }
    }
}

/// The providers of some resources: the first writes, all read.
pub struct Providers(Vec<Provider>);

impl Providers {
    pub fn new(all: Vec<Provider>) -> Self {
        Self(all)
    }

    /// The value as it is to be stored; `at` is its key in the store.
    pub fn seal(&self, at: &[u8], plain: &Bytes) -> Result<Bytes, CipherError> {
        match self.0.first() {
            Some(provider) => provider.seal(at, plain),
            None => Ok(plain.clone()),
        }
    }

    /// The value as it was before.
    pub fn open(&self, at: &[u8], stored: &Bytes) -> Result<Bytes, CipherError> {
        let found = self.0.iter().find_map(|p| p.open(at, stored));
        found.unwrap_or_else(|| Err(unknown(stored)))
    }

    /// The services that keep keys of theirs.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Kms>> {
        self.0.iter().filter_map(|p| match p {
            Provider::Kms(kms) => Some(kms),
            _ => None,
        })
    }

    /// Whether the value would be stored otherwise now.
    pub fn is_stale(&self, stored: &[u8]) -> bool {
        match self.0.first() {
            None | Some(Provider::Identity) => stored.starts_with(ENCRYPTED),
            Some(provider) => match (stored.strip_prefix(provider.prefix()), provider) {
                (None, _) => true,
                (Some(sealed), Provider::Kms(kms)) => kms.is_stale(sealed),
                (Some(_), _) => false,
            },
        }
    }
}

/// Why a value cannot be read for which there is no key.
pub fn unknown(stored: &[u8]) -> CipherError {
    let Some(rest) = stored.strip_prefix(ENCRYPTED) else {
        return CipherError::Plain;
    };
    // `aesgcm:v1:name:`, or `kms:v2:name:`.
    let mut words = rest.splitn(4, |b| *b == b':').map(String::from_utf8_lossy);
    let (form, _, name) = (words.next(), words.next(), words.next());
    let word = |w: Option<std::borrow::Cow<'_, str>>| -> String {
        let text = w.unwrap_or_default();
        text.chars().take(64).collect()
    };
    CipherError::NoKey(format!("the key {:?} of {}", word(name), word(form)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, byte: u8) -> Key {
        Key {
            name: name.into(),
            secret: vec![byte; 32],
        }
    }

    fn gcm(keys: &[Key]) -> Providers {
        of(Form::AesGcm, keys)
    }

    fn of(form: Form, keys: &[Key]) -> Providers {
        let keys = keys.iter().map(|k| NamedKey::new(form, k).expect("key"));
        Providers(vec![Provider::Keyed(keys.collect())])
    }

    #[test]
    fn the_first_key_writes_and_all_read() {
        let plain = Bytes::from_static(b"correct horse");
        let old = gcm(&[key("a", 1)]);
        let stored = old.seal(b"/k", &plain).expect("seal");
        assert!(stored.starts_with(b"k8s:enc:aesgcm:v1:a:"));
        assert_eq!(stored.len(), 20 + 12 + plain.len() + 16);
        assert!(memchr::memmem::find(&stored, b"horse").is_none());
        assert_ne!(stored, old.seal(b"/k", &plain).expect("seal"));
        let both = gcm(&[key("b", 2), key("a", 1)]);
        assert_eq!(both.open(b"/k", &stored).expect("open"), plain);
        assert!(both.is_stale(&stored) && !old.is_stale(&stored));
        let fresh = both.seal(b"/k", &plain).expect("seal");
        assert!(fresh.starts_with(b"k8s:enc:aesgcm:v1:b:") && !both.is_stale(&fresh));
    }

    #[test]
    fn what_cannot_be_read_says_which_key_is_missing() {
        let plain = Bytes::from_static(b"x");
        let stored = gcm(&[key("a", 1)]).seal(b"/k", &plain).expect("seal");
        let other = gcm(&[key("b", 1)])
            .open(b"/k", &stored)
            .expect_err("no key");
        assert_eq!(
            other.to_string(),
            "it is encrypted with the key \"a\" of aesgcm, which this server does not have"
        );
        let same_name = gcm(&[key("a", 2)]).open(b"/k", &stored);
        assert!(matches!(same_name, Err(CipherError::Wrong(_))));
        // Moved to another object, cut, or changed.
        let keys = gcm(&[key("a", 1)]);
        assert!(keys.open(b"/other", &stored).is_err());
        for length in 20..stored.len() {
            assert!(keys.open(b"/k", &stored.slice(..length)).is_err());
        }
        assert_eq!(keys.open(b"/k", &plain), Err(CipherError::Plain));
        let with_plain = Providers(vec![Provider::Identity]);
        assert_eq!(with_plain.open(b"/k", &plain), Ok(plain.clone()));
        assert!(with_plain.open(b"/k", &stored).is_err() && with_plain.is_stale(&stored));
        for form in [Form::AesGcm, Form::AesCbc, Form::Secretbox] {
            let short = Key {
                name: "a".into(),
                secret: vec![0; 31],
            };
            assert!(NamedKey::new(form, &short).is_none());
        }
    }

    #[test]
    fn every_form_reads_what_it_wrote() {
        for form in [Form::AesGcm, Form::AesCbc, Form::Secretbox] {
            for length in form.lengths() {
                let key = Key {
                    name: "a".into(),
                    secret: vec![7; *length],
                };
                let keys = of(form, std::slice::from_ref(&key));
                for size in [0, 1, 15, 16, 17, 5000] {
                    let plain = Bytes::from(vec![b'x'; size]);
                    let stored = keys.seal(b"/k", &plain).expect("seal");
                    assert_eq!(keys.open(b"/k", &stored), Ok(plain), "{form:?}");
                    assert!(keys.open(b"/k", &stored.slice(..stored.len() - 1)).is_err());
                }
            }
        }
    }

    /// Values in upstream's forms that OpenSSL made.
    #[test]
    fn what_others_wrote_is_read() {
        let plain = Bytes::from_static(b"correct horse battery staple");
        for (form, nonce, sealed) in [
            (
                Form::AesGcm,
                12,
                "64b9bb3b2f34b5ddbba3cebb3987a0d3d6c1b49d9291fe05bcf78c9e7894d9c68c10cfe275638a0862ec5a80",
            ),
            (
                Form::AesCbc,
                16,
                "84a245758dc6ff7bf66644d97937c3a22939d1c2ff0a6cab1d3a5dfe900b433b",
            ),
        ] {
            let mut stored = format!("k8s:enc:{}:v1:a:", form.word()).into_bytes();
            stored.extend(vec![2; nonce]);
            stored.extend((0..sealed.len()).step_by(2).map(|at| {
                let digits = sealed.get(at..at + 2).expect("two digits");
                u8::from_str_radix(digits, 16).expect("hexadecimal")
            }));
            let keys = of(form, &[key("a", 1)]);
            let opened = keys.open(b"/registry/secrets/a/b", &stored.into());
            assert_eq!(opened, Ok(plain.clone()), "{form:?}");
        }
    }
}
