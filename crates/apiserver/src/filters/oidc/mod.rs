//! People who sign in with a provider of identities: tokens (JWT) of issuers that the
//! AuthenticationConfiguration names, or the `--oidc-*` flags that say the same. What is wrong with
//! a configuration is [`check`]'s to say, what a token's claims become [`mapper`]'s, where keys come
//! from [`keys`]'.

pub mod check;
pub mod config;
pub mod keys;
pub mod mapper;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use access::UserInfo;
use arc_swap::ArcSwap;
use clock::Instant;
use futures::future::BoxFuture;
use serde_json::Value;
use wire::jwks::{Algorithm, Token};

use super::Background;
use super::answers::{Answers, key};
use super::authn::{AuthenticatedUser, Authenticator, Rejected};
use super::files::{Configured, ReloadError, aggregate};
use crate::metrics::identity::Reloads;
use crate::state::State;
use config::{Anonymous, AuthenticationConfiguration};
use keys::Keys;
use mapper::{Claims, Mapper};

/// For so long a token that was good is good without another look; as upstream.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// Tokens that are remembered; one entry has about 1 KiB.
const REMEMBERED: usize = 4096;
/// What clocks may differ by, for `nbf`; as upstream.
const LEEWAY_SECONDS: i64 = 60;
/// Between two tries to reach issuers that have not answered yet.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// For so long a changed configuration may take until all its issuers have answered; as upstream.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// One issuer's name from before it had a scheme.
const GOOGLE: &str = "accounts.google.com";

/// Believes tokens of issuers.
pub struct Jwt {
    issuers: ArcSwap<Issuers>,
    algorithms: Vec<Algorithm>,
    disallowed: Vec<String>,
    /// Must not change while the server runs; as upstream.
    anonymous: Option<Anonymous>,
}

/// The issuers of one configuration, and the tokens of theirs that were good.
struct Issuers {
    all: Vec<Issuer>,
    good: Answers<UserInfo>,
}

struct Issuer {
    url: String,
    audiences: Vec<String>,
    mapper: Mapper,
    keys: Arc<Keys>,
}

impl Jwt {
    /// Checks a configuration; an error is upstream's text. `disallowed`: issuers of other ways.
    pub fn new(
        configuration: &AuthenticationConfiguration,
        algorithms: Vec<Algorithm>,
        disallowed: Vec<String>,
    ) -> Result<Self, String> {
        let issuers = Issuers::of(configuration, &disallowed)?;
        Ok(Self {
            issuers: ArcSwap::from_pointee(issuers),
            algorithms,
            disallowed,
            anonymous: configuration.anonymous.clone(),
        })
    }

    async fn check(
        &self,
        state: &State,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<AuthenticatedUser>, Rejected> {
        let Ok(parsed) = Token::parse(token) else {
            return Ok(None);
        };
        let issuers = self.issuers.load_full();
        let named = parsed.unverified().get("iss").and_then(Value::as_str);
        let named = match named.unwrap_or_default() {
            GOOGLE => "https://accounts.google.com",
            other => other,
        };
        let Some(issuer) = issuers.all.iter().find(|one| one.url == named) else {
            return Ok(None);
        };
        // These tokens are for this server alone, whatever audience their issuer gives them.
        let Some(meant) = state.settings().audiences_among(audiences) else {
            return Ok(None);
        };
        let known = |user| AuthenticatedUser {
            user,
            audiences: meant,
        };
        let name = key(&[token.as_bytes()]);
        if let Some(user) = issuers.good.get(&name) {
            return Ok(Some(known(user)));
        }
        let began = Instant::now();
        let judged = self.judge(state, issuer, parsed).await;
        let metrics = &state.metrics().identity;
        metrics.jwt(&issuer.url, began.elapsed(), judged.is_ok());
        let (user, expires) = judged.map_err(|e| Rejected::new(format!("oidc: {e}")))?;
        let left = u64::try_from(expires - state.now()).unwrap_or(0);
        let hold = REMEMBERED_FOR.min(Duration::from_secs(left));
        issuers.good.put(name, user.clone(), hold);
        Ok(Some(known(user)))
    }

    /// The user of a token, and when it expires.
    async fn judge(
        &self,
        state: &State,
        issuer: &Issuer,
        token: Token<'_>,
    ) -> Result<(UserInfo, i64), String> {
        let of_token = |e: String| format!("verify token: {e}");
        let expires = current(token.unverified(), &issuer.audiences, state.now());
        let expires = expires.map_err(of_token)?;
        let accepted = self.algorithms.iter().map(|a| a.name());
        if !accepted.clone().any(|name| name == token.algorithm) {
            let accepted: Vec<&str> = accepted.collect();
            return Err(of_token(format!(
                "id token signed with unsupported algorithm, expected {accepted:?} got {:?}",
                token.algorithm
            )));
        }
        let verified = issuer.keys.verify(state, &token).await;
        verified.map_err(|e| of_token(format!("failed to verify signature: {e}")))?;
        let claims = token.into_claims();
        if let Some(mapper::Mapping::Claim(groups)) = &issuer.mapper.groups {
            no_distributed_groups(&claims, &groups.name)?;
        }
        Ok((issuer.mapper.user(&claims)?, expires))
    }
}

/// Groups that a token only says where to ask for (`_claim_names`). They are not asked for, and a
/// user without them might be let through what a rule of his groups forbids.
fn no_distributed_groups(claims: &Claims, groups: &str) -> Result<(), String> {
    let elsewhere = claims.get("_claim_names").and_then(|n| n.get(groups));
    match elsewhere {
        Some(_) if !claims.contains_key(groups) => Err(format!(
            "could not expand distributed claims: the claim {groups:?} is kept elsewhere (_claim_names), which is not supported"
        )),
        _ => Ok(()),
    }
}

/// When a token that is for one of the audiences and good now expires.
fn current(claims: &Claims, audiences: &[String], now: i64) -> Result<i64, String> {
    let named: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audiences.iter().any(|a| named.contains(&a.as_str())) {
        return Err(format!("expected audience in {audiences:?} got {named:?}"));
    }
    let seconds = |claim: &str| {
        let time = claims.get(claim)?;
        time.as_i64().or_else(|| Some(time.as_f64()? as i64))
    };
    let expires = seconds("exp").unwrap_or_default();
    if expires < now {
        return Err(format!("token is expired (Token Expiry: {expires})"));
    }
    match seconds("nbf") {
        Some(begins) if now + LEEWAY_SECONDS < begins => Err(format!(
            "current time {now} before the nbf (not before) time: {begins}"
        )),
        _ => Ok(expires),
    }
}

impl Issuers {
    fn of(
        configuration: &AuthenticationConfiguration,
        disallowed: &[String],
    ) -> Result<Self, String> {
        let mappers = check::check(configuration, disallowed).map_err(|errors| {
            format!(
                "invalid authentication configuration: {}",
                aggregate(&errors)
            )
        })?;
        let all = configuration.jwt.iter().zip(mappers);
        let all = all.map(|(one, mapper)| Issuer {
            url: one.issuer.url.clone(),
            audiences: one.issuer.audiences.clone(),
            mapper,
            keys: Arc::new(Keys::new(&one.issuer)),
        });
        Ok(Self {
            all: all.collect(),
            good: Answers::new(REMEMBERED),
        })
    }

    /// Tries once to reach those that have not answered yet; gives why one has not.
    async fn reach(&self, state: &State) -> Result<(), String> {
        let asking = self.all.iter().filter(|one| !one.keys.are_known());
        let asking = asking.map(async |one| {
            let fetched = one.keys.fetch(state, None).await;
            fetched.map_err(|e| {
                let url = &one.url;
                format!("oidc: authenticator for issuer {url:?} is not healthy: {e}")
            })
        });
        futures::future::join_all(asking)
            .await
            .into_iter()
            .collect()
    }
}

impl Authenticator for Jwt {
    fn token<'a>(
        &'a self,
        state: &'a State,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<AuthenticatedUser>, Rejected>> {
        Box::pin(self.check(state, token, audiences))
    }
}

/// Keys are fetched before the first token comes; an issuer that runs in the cluster itself may
/// take its time.
impl Background for Jwt {
    fn run(self: Arc<Self>, state: State) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            while self.issuers.load_full().reach(&state).await.is_err() {
                tokio::select! {
                    biased;
                    () = state.stop().cancelled() => return,
                    () = tokio::time::sleep(TRY_AGAIN) => {}
                }
            }
        })
    }
}

impl Configured for Jwt {
    fn what(&self) -> &'static str {
        "the authentication configuration"
    }

    fn reloads<'a>(&self, state: &'a State) -> &'a Reloads {
        &state.metrics().identity.authentication
    }

    fn exchange<'a>(
        &'a self,
        state: &'a State,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<(), ReloadError>> {
        Box::pin(async move {
            let read = AuthenticationConfiguration::read(bytes).map_err(ReloadError::Wrong)?;
            if read.anonymous != self.anonymous {
                let why = "anonymous: Forbidden: changed from initial configuration file";
                return Err(ReloadError::Wrong(why.into()));
            }
            let next = Issuers::of(&read, &self.disallowed).map_err(ReloadError::Wrong)?;
            let until = Instant::now() + READY_WITHIN;
            while let Err(why) = next.reach(state).await {
                if Instant::now() + TRY_AGAIN > until {
                    return Err(ReloadError::NotYet(why));
                }
                tokio::select! {
                    biased;
                    () = state.stop().cancelled() => return Err(ReloadError::NotYet(why)),
                    () = tokio::time::sleep(TRY_AGAIN) => {}
                }
            }
            self.issuers.store(Arc::new(next));
            Ok(())
        })
    }
}
