//! Who signs the tokens of service accounts, and how long these may live: flags with upstream's names.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use apiserver::filters::tokens::{EXTENDED_SECONDS, POD_TOKEN_SECONDS, Tokens};
use apiserver::signing::TokenSigner;
use apiserver::signing::external::External;
use clap::Args;
use clock::Clock;
use tokio_util::sync::CancellationToken;

use crate::flags::{BoolFlag as _, go_duration};

const NANOS: i64 = 1_000_000_000;
/// Between which lives the longest one must be; upstream's.
const LEAST_SECONDS: i64 = 3600;
const MOST_SECONDS: i64 = 1 << 32;

#[derive(Args, Clone)]
pub struct TokenFlags {
    /// Let pods' tokens (3607 s) live a year, for clients that read theirs only once; uses after
    /// the shown time are counted (`serviceaccount_stale_tokens_total`) and logged.
    #[arg(long, bool_flag(true))]
    service_account_extend_token_expiration: bool,
    /// The longest life of tokens that are asked for; longer ones are shortened. From `1h` to 2^32
    /// seconds [default: what the service of --service-account-signing-endpoint says].
    #[arg(long, value_parser = go_duration)]
    service_account_max_token_expiration: Option<i64>,
    /// Socket of a service that signs tokens in place of the cluster's own key (upstream's
    /// externaljwt v1); `@NAME` is an abstract one. Secrets get no tokens then.
    #[arg(long)]
    service_account_signing_endpoint: Option<String>,
}

impl TokenFlags {
    /// The service that signs, if one does: it is waited for, and its keys are followed until `stop`.
    pub async fn external(&self, stop: &CancellationToken) -> Result<Option<Arc<External>>> {
        let socket = self.service_account_signing_endpoint.as_deref();
        let Some(socket) = socket.filter(|socket| !socket.is_empty()) else {
            return Ok(None);
        };
        if let Some(name) = socket.strip_prefix('@') {
            ensure!(
                is_abstract_name(name),
                "invalid value {socket:?} passed for `--service-account-signing-endpoint`, when prefixed with @ must be a valid abstract socket name"
            );
        }
        let connected = tokio::select! {
            biased;
            () = stop.cancelled() => bail!("the signal to end came before the signer of tokens"),
            connected = External::connect(socket, Clock::system()) => connected,
        };
        let signer = connected.context("while setting up external-jwt-signer")?;
        tokio::spawn(signer.clone().follow(stop.clone()));
        Ok(Some(signer))
    }

    /// How the server issues and checks tokens that this one signs.
    pub fn tokens(&self, signer: Arc<dyn TokenSigner>, issuer: &str) -> Result<Tokens> {
        let mut tokens = Tokens::new(signer, issuer);
        tokens.extend = self.service_account_extend_token_expiration;
        let asked = self.service_account_max_token_expiration;
        let signable = tokens.signer.longest_seconds();
        tokens.longest_seconds = longest(asked, signable)?;
        if let Some(seconds) = tokens.longest_seconds.or(signable)
            && tokens.extend
        {
            if seconds < POD_TOKEN_SECONDS {
                tracing::warn!(
                    "--service-account-extend-token-expiration is of no use: tokens live {seconds} s at most, and pods' are extended that ask for {POD_TOKEN_SECONDS} s"
                );
            } else if seconds < EXTENDED_SECONDS {
                let lives = signable.unwrap_or(EXTENDED_SECONDS).min(EXTENDED_SECONDS);
                tracing::warn!(
                    "by --service-account-extend-token-expiration pods' tokens live {lives} s, others {seconds} s at most"
                );
            }
        }
        Ok(tokens)
    }
}

/// The longest life in seconds by the flag (nanoseconds; 0 says nothing), where the signer allows
/// `signable` seconds at most.
fn longest(asked: Option<i64>, signable: Option<i64>) -> Result<Option<i64>> {
    let Some(nanos) = asked.filter(|nanos| *nanos != 0) else {
        return Ok(None);
    };
    ensure!(
        (LEAST_SECONDS * NANOS..=MOST_SECONDS * NANOS).contains(&nanos),
        "the service-account-max-token-expiration must be between 1 hour and 2^32 seconds"
    );
    let seconds = nanos / NANOS;
    if let Some(signable) = signable {
        ensure!(
            seconds <= signable,
            "service-account-max-token-expiration cannot be set longer than the token expiration supported by service-account-signing-endpoint: {seconds}s > {signable}s"
        );
    }
    Ok(Some(seconds))
}

/// Words of letters, digits, `_` and `-` with dots between them; as upstream.
fn is_abstract_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut words = name.split('.');
    words.all(|word| !word.is_empty() && word.chars().all(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_life_has_bounds() {
        let hour = LEAST_SECONDS * NANOS;
        assert_eq!(longest(None, Some(600)).expect("none"), None);
        assert_eq!(longest(Some(0), None).expect("none"), None);
        assert_eq!(longest(Some(hour), None).expect("good"), Some(3600));
        assert!(longest(Some(hour - 1), None).is_err());
        assert!(longest(Some(MOST_SECONDS * NANOS + 1), None).is_err());
        assert!(longest(Some(hour), Some(3600)).is_ok());
        let long = longest(Some(2 * hour), Some(3600)).expect_err("too long");
        assert!(long.to_string().ends_with("7200s > 3600s"), "{long}");
    }

    #[test]
    fn abstract_sockets_have_names() {
        for good in ["a", "a-b_c.D1", "x.y.z"] {
            assert!(is_abstract_name(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a/b", "@a"] {
            assert!(!is_abstract_name(bad), "{bad}");
        }
    }
}
