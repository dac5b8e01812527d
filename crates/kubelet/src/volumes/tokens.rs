//! Tokens of service accounts, bound to a pod, asked for by TokenRequest and renewed before
//! they expire. How old one is, is measured, and not read from the time of day alone: a clock that is
//! set, or differs from the server's, neither keeps an old token nor asks for new ones without end. What
//! a machine slept is not measured, but its clock shows it: where that has gone on further, a token is
//! renewed, which a clock that is set ahead costs once.

use crate::pod::spec;
use clock::{Clock, Instant};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// A token is renewed when so much of its life is over, in tenths, as upstream does …
const RENEW_AFTER_TENTHS: u32 = 8;
/// … and at the latest after a day.
const RENEW_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The API gives no token for less: what looks shorter is seen by a clock that is wrong.
const SHORTEST: Duration = Duration::from_secs(600);

type Key = (String, String, i64);

#[derive(Clone, Debug)]
struct CachedToken {
    token: Token,
    since: Instant,
    /// The same by the time of day.
    at: Timestamp,
    life: Duration,
}

impl CachedToken {
    fn is_due(&self, now: Timestamp) -> bool {
        let by_day = Duration::try_from(now.duration_since(self.at));
        let age = self.since.elapsed().max(by_day.unwrap_or_default());
        age >= renewal(self.life)
    }

    fn is_good(&self) -> bool {
        self.since.elapsed() < self.life
    }
}

/// A token, and until when it is good.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token.
    pub text: String,
    /// It is refused from then on.
    pub expires: Timestamp,
}

/// Tokens by pod, audience and life time.
pub struct Tokens {
    client: kube::Client,
    clock: Clock,
    held: Mutex<HashMap<Key, CachedToken>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// No tokens yet.
    #[must_use]
    pub fn new(client: kube::Client, clock: Clock) -> Self {
        Self {
            client,
            clock,
            held: Mutex::default(),
        }
    }

    /// A token that is good for a while.
    pub async fn get(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: i64,
    ) -> kube::Result<String> {
        let token = self.token(pod, audience, seconds).await;
        token.map(|t| t.text)
    }

    /// A token that is good for a while, and until when.
    pub async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: i64,
    ) -> kube::Result<Token> {
        let audience = audience.unwrap_or_default();
        let key = (spec::uid(pod).to_owned(), audience.to_owned(), seconds);
        let (now, since) = (self.clock.now(), Instant::now());
        let have = self.held.lock().get(&key).cloned();
        if let Some(held) = have.as_ref().filter(|h| !h.is_due(now)) {
            return Ok(held.token.clone());
        }
        match self.ask(pod, audience, seconds).await {
            Ok((text, expires)) => {
                let token = Token { text, expires };
                let held = CachedToken {
                    token: token.clone(),
                    since,
                    at: now,
                    life: life(now, expires, seconds),
                };
                self.held.lock().insert(key, held);
                Ok(token)
            }
            // An old token that still works is better than a pod without one.
            Err(e) => match have.filter(CachedToken::is_good) {
                Some(held) => Ok(held.token),
                None => Err(e),
            },
        }
    }

    async fn ask(
        &self,
        pod: &Pod,
        audience: &str,
        seconds: i64,
    ) -> kube::Result<(String, Timestamp)> {
        let account = spec::of(pod)
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".into());
        let api: kube::Api<ServiceAccount> =
            kube::Api::namespaced(self.client.clone(), spec::namespace(pod));
        let audiences = if audience.is_empty() {
            Vec::new()
        } else {
            vec![audience.to_owned()]
        };
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..Default::default()
        };
        let answer = api
            .create_token_request(&account, &PostParams::default(), &request)
            .await?;
        let status = answer.status.unwrap_or_default();
        // An answer without a time is used at once and asked for again at the next look.
        let expires = status
            .expiration_timestamp
            .map_or_else(|| self.clock.now(), |t| t.0);
        Ok((status.token.unwrap_or_default(), expires))
    }

    /// Forgets the tokens of a pod.
    pub fn forget(&self, uid: &str) {
        self.held.lock().retain(|key, _| key.0 != uid);
    }
}

/// How long a token is good. Where the times of day of node and server cannot both be right, it is what
/// was asked for.
fn life(now: Timestamp, expires: Timestamp, seconds: i64) -> Duration {
    let asked = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let shown = Duration::try_from(expires.duration_since(now));
    let possible = asked.min(SHORTEST)..=asked;
    let shown = shown.ok().filter(|life| possible.contains(life));
    shown.unwrap_or(asked)
}

fn renewal(life: Duration) -> Duration {
    (life * RENEW_AFTER_TENTHS / 10).min(RENEW_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_changes_no_life() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let (now, hour) = (1_000_000, 3_600);
        for (expires, wanted) in [
            (now + hour, hour),
            // The server gives less.
            (now + 600, 600),
            // The node is hours ahead, or behind.
            (now - 4 * hour, hour),
            (now + 10, hour),
            (now + 6 * hour, hour),
        ] {
            let found = life(at(now), at(expires), hour);
            assert_eq!(i64::try_from(found.as_secs()).unwrap(), wanted);
        }
        assert_eq!(renewal(Duration::from_secs(3_600)).as_secs(), 2_880);
        assert_eq!(renewal(RENEW_AFTER * 10), RENEW_AFTER);
    }

    #[test]
    fn what_a_machine_slept_makes_its_tokens_old() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let (then, hour) = (1_000_000, 3_600);
        let held = CachedToken {
            token: Token {
                text: "t".into(),
                expires: at(then + hour),
            },
            since: Instant::now(),
            at: at(then),
            life: Duration::from_secs(3_600),
        };
        for (now, due) in [
            (then + 60, false),
            (then + hour, true),
            // The clock was set back: what is measured counts.
            (then - 4 * hour, false),
        ] {
            assert_eq!(held.is_due(at(now)), due, "{now}");
        }
    }
}
