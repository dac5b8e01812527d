//! Secrets sealed under a token that several servers are given: AES-256-GCM, with the key derived
//! by PBKDF2, since a token may have been chosen by a person. What is sealed, and where it is
//! kept, is the caller's to say.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the token does not open it")]
    Token,
    #[error("it is not understood: {0}")]
    Form(&'static str),
    #[error("the machine gave no random numbers, or too much was to be sealed")]
    Seal,
}

/// Rounds of HMAC-SHA-256: about a quarter of a second, once per start of a server.
const ROUNDS: u32 = 600_000;
/// What a stored record may ask for; more would only keep the server from starting.
const MOST_ROUNDS: u32 = 10_000_000;
/// Shortest token that is taken, in bytes. Those that servers make have 256 bits.
pub const LEAST_TOKEN: usize = 16;

/// A sealed secret, as it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealed {
    pub cipher: String,
    pub derivation: String,
    pub rounds: u32,
    /// The last three in base64.
    pub salt: String,
    pub nonce: String,
    pub sealed: String,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed { .. }")
    }
}

const CIPHER: &str = "AES-256-GCM";
const DERIVATION: &str = "PBKDF2-HMAC-SHA256";

fn key_of(token: &str, salt: &[u8], rounds: u32) -> Result<LessSafeKey, SealError> {
    let rounds = NonZeroU32::new(rounds)
        .filter(|r| r.get() <= MOST_ROUNDS)
        .ok_or(SealError::Form("its number of rounds"))?;
    let mut key = [0u8; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        salt,
        token.as_bytes(),
        &mut key,
    );
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| SealError::Seal)?;
    Ok(LessSafeKey::new(key))
}

/// A new server token: 256 random bits in hexadecimal.
pub fn new_token() -> String {
    #[expect(clippy::disallowed_methods, reason = "a secret")]
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Sealed {
    /// Seals `plain`. `bound_to` is stored elsewhere in the clear; opening fails when it was
    /// changed. Takes a quarter of a second of one core.
    pub fn seal(token: &str, plain: &[u8], bound_to: &[u8]) -> Result<Self, SealError> {
        Self::seal_with(token, plain, bound_to, ROUNDS)
    }

    fn seal_with(
        token: &str,
        plain: &[u8],
        bound_to: &[u8],
        rounds: u32,
    ) -> Result<Self, SealError> {
        #[expect(clippy::disallowed_methods, reason = "of secrets")]
        let (salt, nonce): ([u8; 16], [u8; NONCE_LEN]) = (rand::random(), rand::random());
        let mut bytes = plain.to_vec();
        // The key is used once, since each seal has its own salt: the nonce cannot repeat.
        key_of(token, &salt, rounds)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound_to),
                &mut bytes,
            )
            .map_err(|_| SealError::Seal)?;
        Ok(Self {
            cipher: CIPHER.into(),
            derivation: DERIVATION.into(),
            rounds,
            salt: STANDARD.encode(salt),
            nonce: STANDARD.encode(nonce),
            sealed: STANDARD.encode(bytes),
        })
    }

    /// What was sealed. Takes as long as sealing.
    pub fn open(&self, token: &str, bound_to: &[u8]) -> Result<Vec<u8>, SealError> {
        if self.cipher != CIPHER || self.derivation != DERIVATION {
            return Err(SealError::Form("its cipher"));
        }
        let bytes = |text: &str, what| STANDARD.decode(text).map_err(|_| SealError::Form(what));
        let salt = bytes(&self.salt, "its salt")?;
        let nonce = Nonce::try_assume_unique_for_key(&bytes(&self.nonce, "its nonce")?)
            .map_err(|_| SealError::Form("its nonce"))?;
        let mut sealed = bytes(&self.sealed, "its content")?;
        let plain = key_of(token, &salt, self.rounds)?
            .open_in_place(nonce, Aad::from(bound_to), &mut sealed)
            .map_err(|_| SealError::Token)?;
        Ok(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens_what_it_sealed() {
        let sealed = Sealed::seal_with("token", b"keys", b"cluster-1", 10).expect("seal");
        assert_eq!(sealed.open("token", b"cluster-1").expect("open"), b"keys");
        assert!(matches!(
            sealed.open("other", b"cluster-1"),
            Err(SealError::Token)
        ));
        assert!(matches!(
            sealed.open("token", b"cluster-2"),
            Err(SealError::Token)
        ));
        let text = serde_json::to_string(&sealed).expect("json");
        assert!(!text.contains("keys"));
    }

    #[test]
    fn records_that_ask_too_much_are_refused() {
        let good = Sealed::seal_with("token", b"keys", b"", 10).expect("seal");
        let broken = [
            Sealed {
                rounds: u32::MAX,
                ..good.clone()
            },
            Sealed {
                rounds: 0,
                ..good.clone()
            },
            Sealed {
                nonce: "AA==".into(),
                ..good.clone()
            },
            Sealed {
                cipher: "none".into(),
                ..good.clone()
            },
            Sealed {
                sealed: "?".into(),
                ..good
            },
        ];
        for record in broken {
            assert!(matches!(record.open("token", b""), Err(SealError::Form(_))));
        }
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(new_token(), new_token());
        assert!(new_token().len() >= LEAST_TOKEN);
    }
}
