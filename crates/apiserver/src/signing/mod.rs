//! Who signs the tokens of service accounts, and by whose keys they are believed: a key of this
//! cluster, or a service that keeps keys ([`external`]). What the claims mean is not known here.

pub mod external;

use std::future::ready;

use futures::future::BoxFuture;
use serde_json::Value;
use wire::jwks::JwksError;
use wire::jwt::{JwtError, Signer};

/// For how long others may keep the documents of a key that stays; upstream's.
const KEPT_SECONDS: u64 = 3600;

/// Why a token was not signed, or is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error(transparent)]
    Own(#[from] JwtError),
    #[error(transparent)]
    Token(#[from] JwksError),
    /// The service says no, or nothing.
    #[error("{method}: {}", .status.message())]
    Service {
        method: &'static str,
        status: Box<tonic::Status>,
    },
    /// The service's answer is of no use.
    #[error("{0}")]
    Answer(String),
}

/// Signs tokens and says which ones are signed so.
pub trait TokenSigner: Send + Sync + 'static {
    /// A token of these claims.
    ///
    /// # Errors
    /// It is not signed, and why.
    fn sign<'a>(&'a self, claims: &'a Value) -> BoxFuture<'a, Result<String, SignerError>>;

    /// The claims of a token, if one of the keys has signed it. Times and audience are not looked at.
    ///
    /// # Errors
    /// None has, or it is not a token.
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Value, SignerError>>;

    /// The keys that others may believe tokens by, as a JWK set, each with its algorithm.
    fn jwks(&self) -> Value;

    /// For how many seconds others may keep that set.
    fn jwks_hold_for(&self) -> u64 {
        KEPT_SECONDS
    }

    /// Another number when the keys are others: what was believed by those before is to be verified
    /// again.
    fn edition(&self) -> u64 {
        0
    }

    /// The longest life of a token that is signed, in seconds, where there is one.
    fn longest_seconds(&self) -> Option<i64> {
        None
    }
}

/// A key of the cluster's own.
impl TokenSigner for Signer {
    fn sign<'a>(&'a self, claims: &'a Value) -> BoxFuture<'a, Result<String, SignerError>> {
        let signed = Self::sign(self, claims).map_err(SignerError::from);
        Box::pin(ready(signed))
    }

    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Value, SignerError>> {
        let verified = Self::verify(self, token).map_err(SignerError::from);
        Box::pin(ready(verified))
    }

    fn jwks(&self) -> Value {
        Self::jwks(self)
    }
}
