//! The keys of one issuer: found by its discovery document, fetched, kept, and fetched again when a
//! token names one that is not known. Who shows bad tokens makes no storm of questions: between two
//! of them there is a time, and after failures a longer one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use clock::Instant;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde::Deserialize;
use tokio::sync::Mutex;
use wire::jwks::{KeySet, Token};
use wire::trust::Trust;

use super::config::Issuer;
use crate::dialer::TlsSide;
use crate::egress::{self, Backend, Bounds, OutgoingRequest};
use crate::metrics::identity::Fetched;
use crate::state::State;

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// Of one document: key sets with chains of certificates have some ten KiB.
const ANSWER_BYTES: usize = 1 << 20;
/// For one document. A request waits for two, and then has most of its own time (60 s) left.
const WITHIN: Duration = Duration::from_secs(10);
/// Questions within [`WHILE`], at most: whoever shows tokens of unknown keys costs the issuer no
/// more than this, and a new key is hardly ever held up.
const MOST: usize = 3;
const WHILE: Duration = Duration::from_secs(30);
/// After failures: from one second, doubling.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// From this age on keys are fetched again beside the request that uses them, so that a key that its
/// issuer has withdrawn is not believed for long.
const OLD: Duration = Duration::from_secs(600);

/// The keys.
pub struct Keys {
    issuer: String,
    discovery: String,
    tls: Result<TlsSide, String>,
    known: ArcSwapOption<FetchedKeys>,
    turn: Mutex<Turn>,
}

struct FetchedKeys {
    keys: KeySet,
    at: Instant,
}

/// Whoever holds it asks.
#[derive(Default)]
struct Turn {
    /// When it was asked of late, the oldest first.
    asked: VecDeque<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    last_error: String,
}

#[derive(Deserialize)]
struct Discovery {
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    jwks_uri: String,
}

/// Where an issuer's keys are, by its page about itself.
///
/// # Errors
/// In upstream's words: it is not such a page, or not this issuer's.
pub fn place_of_keys(page: &[u8], issuer: &str) -> Result<String, String> {
    let found: Discovery = serde_json::from_slice(page)
        .map_err(|e| format!("failed to decode provider discovery object: {e}"))?;
    if found.issuer != issuer {
        return Err(format!(
            "issuer did not match the issuer returned by provider, expected {issuer:?} got {:?}",
            found.issuer
        ));
    }
    if found.jwks_uri.is_empty() {
        return Err("provider did not return JWKS URL".into());
    }
    Ok(found.jwks_uri)
}

impl Turn {
    /// Whether it is time to ask; then that counts as asked.
    fn may_ask(&mut self, now: Instant) -> bool {
        self.asked.retain(|at| now.duration_since(*at) < WHILE);
        if self.asked.len() >= MOST || self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        self.asked.push_back(now);
        true
    }
}

impl Keys {
    pub fn new(issuer: &Issuer) -> Self {
        let discovery = match &*issuer.discovery_url {
            "" => format!("{}{WELL_KNOWN}", issuer.url.trim_end_matches('/')),
            url => url.to_owned(),
        };
        let trust = match issuer.certificate_authority.as_bytes() {
            [] => Trust::System,
            pem => Trust::Bundle(pem),
        };
        Self {
            issuer: issuer.url.clone(),
            discovery,
            tls: TlsSide::new(trust, None).map_err(|e| e.to_string()),
            known: ArcSwapOption::empty(),
            turn: Mutex::default(),
        }
    }

    /// Whether keys are known.
    pub fn are_known(&self) -> bool {
        self.known.load().is_some()
    }

    /// Whether the issuer has signed a token.
    pub async fn verify(self: &Arc<Self>, state: &State, token: &Token<'_>) -> Result<(), String> {
        let before = self.known.load_full();
        if let Some(known) = &before {
            // Also when they are old: the issuer may be away.
            let verified = token.verify(&known.keys);
            if verified.is_ok() {
                if known.at.elapsed() >= OLD {
                    self.renew(state, known.at);
                }
                return Ok(());
            }
        }
        self.fetch(state, before.map(|known| known.at)).await?;
        let known = self.known.load_full();
        let known = known.ok_or("authenticator not initialized")?;
        let verified = token.verify(&known.keys);
        verified.map_err(|e| e.to_string())
    }

    /// Fetches beside the request.
    fn renew(self: &Arc<Self>, state: &State, seen: Instant) {
        let (keys, state) = (self.clone(), state.clone());
        tokio::spawn(async move {
            // Who is being asked already need not be asked again.
            if keys.turn.try_lock().is_ok() {
                // The failure was counted and logged.
                let _ = keys.fetch(&state, Some(seen)).await;
            }
        });
    }

    /// Fetches the keys unless there are newer ones than those of `seen`.
    pub async fn fetch(&self, state: &State, seen: Option<Instant>) -> Result<(), String> {
        let mut turn = self.turn.lock().await;
        if self.known.load().as_ref().map(|known| known.at) != seen {
            // Somebody else was faster.
            return Ok(());
        }
        if !turn.may_ask(Instant::now()) {
            return match &*turn.last_error {
                // What is known has to do.
                "" => Ok(()),
                why => Err(why.to_owned()),
            };
        }
        let fetched = self.ask(state).await;
        let now = Instant::now();
        match fetched {
            Ok(keys) => {
                self.known
                    .store(Some(Arc::new(FetchedKeys { keys, at: now })));
                turn.failures = 0;
                turn.not_before = None;
                turn.last_error.clear();
                Ok(())
            }
            Err(why) => {
                let wait = FIRST_WAIT * 2u32.pow(turn.failures.min(6));
                turn.failures += 1;
                turn.not_before = Some(now + wait.min(LONGEST_WAIT));
                tracing::warn!("oidc: keys of the issuer {:?}: {why}", self.issuer);
                turn.last_error.clone_from(&why);
                Err(why)
            }
        }
    }

    async fn ask(&self, state: &State) -> Result<KeySet, String> {
        let found = self.get(state, &self.discovery).await?;
        let place = place_of_keys(&found, &self.issuer)?;
        let fetched = self.keys(state, &place).await;
        let metrics = &state.metrics().identity;
        let hash = match &fetched {
            Ok((bytes, _)) => Fetched::Keys(bytes),
            Err(_) => Fetched::Failed,
        };
        metrics.fetched(&self.issuer, state.now(), hash);
        fetched.map(|(_, keys)| keys)
    }

    async fn keys(&self, state: &State, url: &str) -> Result<(Bytes, KeySet), String> {
        let bytes = self.get(state, url).await?;
        let keys = KeySet::parse(&bytes).map_err(|e| e.to_string())?;
        Ok((bytes, keys))
    }

    async fn get(&self, state: &State, url: &str) -> Result<Bytes, String> {
        let tls = self.tls.clone()?;
        let backend = Backend::url(url, tls).map_err(|e| e.to_string())?;
        let uri: Uri = url.parse().map_err(|e| format!("{e}"))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver"));
        let asked = OutgoingRequest {
            method: Method::GET,
            path: path.to_owned(),
            headers,
            body: Bytes::new(),
        };
        let bounds = Bounds {
            within: WITHIN,
            answer_bytes: ANSWER_BYTES,
        };
        let answer = egress::call(state, &backend, asked, bounds).await;
        let (head, body) = answer.map_err(|e| e.to_string())?;
        match head.status.is_success() {
            true => Ok(body),
            false => Err(format!("Get {url:?}: {}", head.status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn questions_are_few() {
        let mut turn = Turn::default();
        let began = Instant::now();
        let asked = (0..100).filter(|_| turn.may_ask(began)).count();
        assert_eq!(asked, MOST);
        assert!(turn.may_ask(began + WHILE));
        turn.not_before = Some(began + 2 * WHILE);
        assert!(!turn.may_ask(began + WHILE + WHILE / 2));
        assert!(turn.may_ask(began + 2 * WHILE));
    }
}
