//! Tokens of service accounts: their claims, and what must still be true for them to be believed.
//! A signature is checked once per token and remembered as long as the keys stay; times, audiences and the objects that a
//! token is bound to are checked each time. Uses that somebody should know of are reported
//! (`token_use`).

use std::collections::HashMap;
use std::sync::Arc;

use access::UserInfo;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::authn::{AuthenticatedUser, Authenticator, Rejected};
use super::token_use::{self, Uses};
use crate::state::State;

use crate::cache::Object;
use crate::object::{label, meta_text};
pub use crate::settings::Tokens;

/// Issuer of tokens that lie in secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Clocks may differ by this, and a deleted object's tokens hold this much longer; as upstream.
const LEEWAY_SECONDS: i64 = 60;
/// Tokens whose signature is remembered; one entry has about 2 KiB.
const REMEMBERED: usize = 4096;
/// A token that kubelets request for pods (3607 s) lives a year when bound to a pod, for clients
/// that read it only once; it ends with its pod all the same. Upstream does the same.
pub const POD_TOKEN_SECONDS: i64 = 3607;
pub const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// A page of OpenID discovery.
pub struct DiscoveryPage {
    pub media: &'static str,
    pub text: String,
    /// For how many seconds others may keep it.
    pub hold_for: u64,
}

/// Answers the paths of OpenID discovery; `None` for all others.
pub fn document(state: &State, path: &str) -> Option<DiscoveryPage> {
    let config = state.settings();
    let tokens = config.tokens.as_ref()?;
    let (media, value) = match path {
        "/openid/v1/jwks" => ("application/jwk-set+json", tokens.signer.jwks()),
        "/.well-known/openid-configuration" => {
            let host = match config.advertise_address {
                std::net::IpAddr::V6(v6) => format!("[{v6}]"),
                v4 => v4.to_string(),
            };
            let uri = format!("https://{host}:{}/openid/v1/jwks", config.secure_port);
            ("application/json", tokens.discovery(&uri))
        }
        _ => return None,
    };
    Some(DiscoveryPage {
        media,
        text: value.to_string(),
        hold_for: tokens.signer.jwks_hold_for(),
    })
}

/// Name and uid of an object that a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    #[serde(default)]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The private part of the claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    #[serde(default)]
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    #[serde(default)]
    pub serviceaccount: Ref,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default)]
    pub aud: Audience,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    #[serde(default)]
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    pub private: Option<Private>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    #[serde(default)]
    pub sub: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub legacy: Option<Legacy>,
}

/// The claims of a token that lies in a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legacy {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
}

/// One audience, or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Audience(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Audience {
    fn from(v: OneOrMany) -> Self {
        match v {
            OneOrMany::One(a) => Self(vec![a]),
            OneOrMany::Many(a) => Self(a),
        }
    }
}

impl Claims {
    /// Who the token's bearer is.
    fn user(&self) -> Option<UserInfo> {
        if let Some(old) = &self.legacy {
            let user = UserInfo::of_service_account(&old.namespace, &old.account, &old.uid);
            return (user.name == self.sub).then_some(user);
        }
        let private = self.private.as_ref()?;
        let account = &private.serviceaccount;
        let mut user =
            UserInfo::of_service_account(&private.namespace, &account.name, &account.uid);
        if user.name != self.sub {
            return None;
        }
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                let key = format!("authentication.kubernetes.io/{key}");
                user.extra.insert(key, vec![value.to_owned()]);
            }
        };
        if let Some(pod) = &private.pod {
            put("pod-name", &pod.name);
            put("pod-uid", &pod.uid);
        }
        if let Some(node) = &private.node {
            put("node-name", &node.name);
            put("node-uid", &node.uid);
        }
        if !self.jti.is_empty() {
            put("credential-id", &format!("JTI={}", self.jti));
        }
        Some(user)
    }

    fn check_times(&self, now: i64) -> Result<(), Rejected> {
        let refuse = |why: &str| Err(Rejected::new(format!("service account token {why}")));
        if self.exp.is_some_and(|t| now - LEEWAY_SECONDS > t) {
            return refuse("has expired");
        }
        if self.nbf.is_some_and(|t| now + LEEWAY_SECONDS < t) {
            return refuse("is not valid yet");
        }
        if self.iat.is_some_and(|t| now + LEEWAY_SECONDS < t) {
            return refuse("is issued in the future");
        }
        Ok(())
    }
}

/// A token whose signature is ours.
struct Verified {
    /// Of the keys that vouched for it.
    edition: u64,
    claims: Claims,
    user: UserInfo,
    /// What was seen of the account and of the bound object, so that an unchanged object is not
    /// parsed again.
    seen: Mutex<[LastCheck; 2]>,
    uses: Uses,
}

#[derive(Clone, Copy, Default)]
struct LastCheck {
    revision: u64,
    /// Seconds since the epoch; of objects that are being deleted.
    deleted: Option<i64>,
}

/// Believes the tokens of service accounts.
#[derive(Default)]
pub struct ServiceAccountTokens {
    verified: RwLock<HashMap<[u8; 32], Arc<Verified>>>,
}

impl Authenticator for ServiceAccountTokens {
    fn token<'a>(
        &'a self,
        state: &'a State,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<AuthenticatedUser>, Rejected>> {
        Box::pin(self.check(state, token, audiences))
    }
}

impl ServiceAccountTokens {
    async fn check(
        &self,
        state: &State,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<AuthenticatedUser>, Rejected> {
        let Some(tokens) = state.settings().tokens.as_deref() else {
            return Ok(None);
        };
        let Some(verified) = self.verify(tokens, token).await? else {
            return Ok(None);
        };
        verified.claims.check_times(state.now())?;
        let good_for = good_for(&verified.claims, tokens, audiences)?;
        let seen = state.cache().revision();
        if let Err(why) = still_true(state, &verified, token) {
            // The objects may be newer than the cache.
            if !state.catch_up(seen).await.map_err(Rejected::undecided)? {
                return Err(why);
            }
            still_true(state, &verified, token)?;
        }
        verified.uses.report(state, &verified.claims);
        Ok(Some(AuthenticatedUser {
            user: verified.user.clone(),
            audiences: good_for,
        }))
    }

    /// `None`: it is not a token that claims to be ours.
    async fn verify(
        &self,
        tokens: &Tokens,
        token: &str,
    ) -> Result<Option<Arc<Verified>>, Rejected> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let hash: [u8; 32] = digest.as_ref().try_into().unwrap_or_default();
        // Keys that come while it is verified make it be verified once more.
        let edition = tokens.signer.edition();
        let known = self.verified.read().get(&hash).cloned();
        if let Some(known) = known.filter(|known| known.edition == edition) {
            return Ok(Some(known));
        }
        let issuer = wire::jwt::peek(token).and_then(|c| Some(c.get("iss")?.as_str()?.to_owned()));
        if !issuer.is_some_and(|i| i == tokens.issuer || i == LEGACY_ISSUER) {
            return Ok(None);
        }
        let bad = |e: String| Rejected::new(e);
        let claims = tokens.signer.verify(token).await;
        let claims = claims.map_err(|e| bad(e.to_string()))?;
        let claims: Claims =
            serde_json::from_value(claims).map_err(|_| bad("not a token".into()))?;
        if claims.iss == LEGACY_ISSUER && claims.legacy.is_none()
            || claims.iss != LEGACY_ISSUER && (claims.private.is_none() || claims.exp.is_none())
        {
            return Err(bad("claims are missing".into()));
        }
        let user = claims
            .user()
            .ok_or_else(|| bad("sub claim is invalid".into()))?;
        let verified = Arc::new(Verified {
            edition,
            claims,
            user,
            seen: Mutex::default(),
            uses: Uses::default(),
        });
        let mut all = self.verified.write();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(hash, verified.clone());
        Ok(Some(verified))
    }
}

/// The audiences for which a token is good, of those that are asked for.
fn good_for(
    claims: &Claims,
    tokens: &Tokens,
    audiences: &[String],
) -> Result<Vec<String>, Rejected> {
    // Tokens in secrets name no audience: they are for this server.
    let own = match claims.aud.0.as_slice() {
        [] => &tokens.audiences,
        _ => &claims.aud.0,
    };
    let both: Vec<String> = audiences
        .iter()
        .filter(|a| own.contains(a))
        .cloned()
        .collect();
    if both.is_empty() {
        return Err(Rejected::new(format!(
            "token audiences {own:?} is invalid for the target audiences {audiences:?}"
        )));
    }
    Ok(both)
}

/// An object that a token depends on.
struct Needed<'a> {
    resource: &'a str,
    /// As messages name it.
    word: &'a str,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

impl Needed<'_> {
    fn check(&self, state: &State, now: i64, seen: &mut LastCheck) -> Result<(), Rejected> {
        let gone = || Rejected::new("service account token has been invalidated");
        let object = state
            .lookup("", self.resource, self.namespace, self.name)
            .ok_or_else(gone)?;
        if seen.revision != object.revision {
            *seen = self.read(&object)?;
        }
        match seen.deleted {
            Some(at) if at < now - LEEWAY_SECONDS => Err(gone()),
            _ => Ok(()),
        }
    }

    fn read(&self, object: &Object) -> Result<LastCheck, Rejected> {
        let value = object.to_value();
        let uid = meta_text(&value, "uid");
        if uid != self.uid {
            return Err(Rejected::new(format!(
                "{} UID ({uid}) does not match claim ({})",
                self.word, self.uid
            )));
        }
        let deleted = meta_text(&value, "deletionTimestamp");
        Ok(LastCheck {
            revision: object.revision,
            deleted: api::time::parse_seconds(deleted),
        })
    }
}

/// Whether the account and the object that a token is bound to are still those it names.
fn still_true(state: &State, verified: &Verified, token: &str) -> Result<(), Rejected> {
    let now = state.now();
    let mut seen = verified.seen.lock();
    let [account_seen, bound_seen] = &mut *seen;
    if let Some(old) = &verified.claims.legacy {
        legacy(state, old, token)?;
        return account(&old.namespace, &old.account, &old.uid).check(state, now, account_seen);
    }
    let Some(private) = &verified.claims.private else {
        return Err(Rejected::new("claims are missing"));
    };
    let namespace = private.namespace.as_str();
    let own = &private.serviceaccount;
    account(namespace, &own.name, &own.uid).check(state, now, account_seen)?;
    let bound = match (&private.secret, &private.pod, &private.node) {
        (Some(r), _, _) => Some(("secrets", "secret", namespace, r)),
        (_, Some(r), _) => Some(("pods", "pod", namespace, r)),
        (_, _, Some(r)) => Some(("nodes", "node", "", r)),
        _ => None,
    };
    let Some((resource, word, namespace, to)) = bound else {
        return Ok(());
    };
    let needed = Needed {
        resource,
        word,
        namespace,
        name: &to.name,
        uid: &to.uid,
    };
    needed.check(state, now, bound_seen)
}

fn account<'a>(namespace: &'a str, name: &'a str, uid: &'a str) -> Needed<'a> {
    Needed {
        resource: "serviceaccounts",
        word: "service account",
        namespace,
        name,
        uid,
    }
}

/// A token in a secret counts while the secret holds it.
fn legacy(state: &State, claims: &Legacy, token: &str) -> Result<(), Rejected> {
    let gone = || Rejected::new("Token has been invalidated");
    let secret = state
        .lookup("", "secrets", &claims.namespace, &claims.secret)
        .ok_or_else(gone)?
        .to_value();
    if secret.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(gone());
    }
    let held = super::bootstrap_tokens::data(&secret, "token").unwrap_or_default();
    if !super::bootstrap_tokens::same(held.as_bytes(), token.as_bytes()) {
        return Err(Rejected::new("Token does not match server's copy"));
    }
    if label(&secret, token_use::INVALID_SINCE).is_some() {
        token_use::refused(state, claims);
        return Err(Rejected::new(format!(
            "the token in secret {}/{} for service account {}/{} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{}' label from the secret to temporarily allow use of this token",
            claims.namespace,
            claims.secret,
            claims.namespace,
            claims.account,
            token_use::INVALID_SINCE
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Claims {
        Claims {
            aud: Audience(vec!["api".into()]),
            exp: Some(2000),
            iat: Some(1000),
            nbf: Some(1000),
            iss: "https://k".into(),
            jti: "j".into(),
            sub: "system:serviceaccount:a:b".into(),
            private: Some(Private {
                namespace: "a".into(),
                serviceaccount: Ref {
                    name: "b".into(),
                    uid: "u".into(),
                },
                pod: Some(Ref {
                    name: "p".into(),
                    uid: "v".into(),
                }),
                ..Private::default()
            }),
            legacy: None,
        }
    }

    #[test]
    fn claims_have_upstreams_form() {
        let text = serde_json::to_value(claims()).expect("json");
        let want = json!({
            "aud": ["api"], "exp": 2000, "iat": 1000, "nbf": 1000, "iss": "https://k", "jti": "j",
            "kubernetes.io": {
                "namespace": "a", "pod": { "name": "p", "uid": "v" },
                "serviceaccount": { "name": "b", "uid": "u" },
            },
            "sub": "system:serviceaccount:a:b",
        });
        assert_eq!(text, want);
        let back: Claims = serde_json::from_value(text).expect("claims");
        assert_eq!(back, claims());
        let one: Claims = serde_json::from_value(json!({ "aud": "x" })).expect("claims");
        assert_eq!(one.aud.0, ["x"]);
    }

    #[test]
    fn the_user_has_groups_and_bindings() {
        let user = claims().user().expect("user");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:a"]
        );
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(
            user.extra["authentication.kubernetes.io/credential-id"],
            ["JTI=j"]
        );
        let mut other = claims();
        other.sub = "system:serviceaccount:a:c".into();
        assert_eq!(other.user(), None);
    }

    #[test]
    fn times_have_a_leeway() {
        let c = claims();
        assert!(c.check_times(2060).is_ok());
        assert!(c.check_times(2061).is_err());
        assert!(c.check_times(940).is_ok());
        assert!(c.check_times(939).is_err());
    }
}
