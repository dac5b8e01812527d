//! Webhooks that are asked about tokens and about requests. A kubeconfig names one: its cluster is
//! where it is, its user who this server is there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use wire::kubeconfig::Remote;
use wire::trust::Trust;

use crate::dialer::TlsSide;
use crate::egress::{Backend, Bounds, CallError, post_with};
use crate::state::State;

/// Of an answer: a review with its question in it.
const ANSWER_BYTES: usize = 1 << 20;
/// Tries of one question, and the times between them: 500 ms, and each half as long again, give or
/// take a fifth; as upstream.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Somebody who is asked.
pub struct Webhook {
    backend: Backend,
    credentials: Credentials,
}

/// How this server proves who it is there, beside its certificate.
enum Credentials {
    Nobody,
    Header(HeaderValue),
    /// A token that is read for each question: it may be exchanged.
    TokenFile(PathBuf),
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Failed {
    pub why: String,
    /// It took too long.
    pub late: bool,
}

impl Webhook {
    /// Reads a kubeconfig.
    pub fn read(path: &Path) -> Result<Self, String> {
        let told = |why: String| format!("{}: {why}", path.display());
        let remote = Remote::read(path).map_err(|e| told(e.to_string()))?;
        Self::of(&remote).map_err(told)
    }

    fn of(remote: &Remote) -> Result<Self, String> {
        let trust = match (&remote.ca_pem, remote.insecure) {
            (Some(_), true) => {
                return Err(
                    "specifying a root certificates file with the insecure flag is not allowed"
                        .into(),
                );
            }
            (None, true) => Trust::Anyone,
            (Some(pem), false) => Trust::Bundle(pem),
            (None, false) => Trust::System,
        };
        let tls = TlsSide::new(trust, remote.pair.as_ref()).map_err(|e| e.to_string())?;
        let mut backend = Backend::url(&remote.server, tls).map_err(|e| format!("server: {e}"))?;
        if let Some(name) = &remote.server_name {
            backend = backend.shown_as(name);
        }
        let credentials = match (&remote.token_file, &remote.token) {
            (Some(path), _) => Credentials::TokenFile(path.clone()),
            (None, Some(token)) => Credentials::Header(bearer(token)?),
            (None, None) => Credentials::Nobody,
        };
        Ok(Self {
            backend,
            credentials,
        })
    }

    /// Posts a review and gives its answer: an object. `tried` hears of each try, with how long it
    /// took and what went wrong.
    pub async fn ask(
        &self,
        state: &State,
        review: &Value,
        within: Duration,
        mut tried: impl FnMut(Duration, Option<&Failed>),
    ) -> Result<Value, Failed> {
        let body = Bytes::from(review.to_string());
        let mut wait = FIRST_WAIT;
        for nth in 1.. {
            let began = clock::Instant::now();
            let (failed, again) = match self.once(state, body.clone(), within).await {
                Ok(answer) => {
                    tried(began.elapsed(), None);
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            tried(began.elapsed(), Some(&failed));
            if !again || nth == TRIES {
                return Err(failed);
            }
            let jitter = 1.0 + state.random().fraction() / 5.0;
            tokio::time::sleep(wait.mul_f64(jitter)).await;
            wait = wait * 3 / 2;
        }
        Err(Failed {
            why: "not asked".into(),
            late: false,
        })
    }

    /// With a failure: whether another try may help.
    async fn once(
        &self,
        state: &State,
        body: Bytes,
        within: Duration,
    ) -> Result<Value, (Failed, bool)> {
        let of_own = |why| (Failed { why, late: false }, false);
        let headers = self.headers().await.map_err(of_own)?;
        let bounds = Bounds {
            within,
            answer_bytes: ANSWER_BYTES,
        };
        let answer = post_with(state, &self.backend, headers, body, bounds).await;
        let answer = answer.map_err(|e| {
            let (late, again) = match &e {
                CallError::Late { .. } => (true, false),
                CallError::Refused(status) => {
                    let details = status.details.as_ref();
                    let waits = details.is_some_and(|d| d.retry_after_seconds > 0);
                    let code = status.code;
                    (code == 504, matches!(code, 429 | 500 | 504) || waits)
                }
                CallError::Unreachable { why, .. } => (false, why.contains("reset")),
                CallError::TooLarge { .. } => (false, false),
            };
            let why = e.to_string();
            (Failed { why, late }, again)
        })?;
        let read: Result<Value, _> = serde_json::from_slice(&answer);
        match read {
            Ok(value) if value.is_object() => Ok(value),
            Ok(_) => Err(of_own("the answer is not an object".into())),
            Err(e) => Err(of_own(format!("the answer cannot be read: {e}"))),
        }
    }

    async fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver"));
        let value = match &self.credentials {
            Credentials::Nobody => return Ok(headers),
            Credentials::Header(value) => value.clone(),
            Credentials::TokenFile(path) => {
                let told = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
                let token = tokio::fs::read_to_string(path).await;
                let token = token.map_err(|e| told(&e))?;
                bearer(token.trim()).map_err(|e| told(&e))?
            }
        };
        headers.insert(AUTHORIZATION, value);
        Ok(headers)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| "no token".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_a_webhook() {
        let remote = Remote {
            server: "https://x/y".into(),
            insecure: true,
            token: Some("t".into()),
            ..Remote::default()
        };
        let one = Webhook::of(&remote).expect("good");
        assert!(matches!(&one.credentials, Credentials::Header(v) if v == "Bearer t"));
        let by_file = Remote {
            token_file: Some("/nowhere/t".into()),
            ..remote.clone()
        };
        let one = Webhook::of(&by_file).expect("good");
        assert!(
            matches!(&one.credentials, Credentials::TokenFile(p) if p == Path::new("/nowhere/t"))
        );
        let plain = Remote {
            server: "http://x".into(),
            ..remote.clone()
        };
        let error = Webhook::of(&plain).err().expect("refused");
        assert!(error.starts_with("server: Unparsable URL"), "{error}");
        let both = Remote {
            ca_pem: Some(b"x".to_vec()),
            ..remote
        };
        assert!(Webhook::of(&both).is_err());
    }
}
