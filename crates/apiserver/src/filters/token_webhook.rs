//! Tokens that a webhook is asked about (TokenReview), and its answers for a while.

use std::sync::Arc;
use std::time::Duration;

use access::UserInfo;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::{Answers, key};
use super::authn::{AuthenticatedUser, Authenticator, Rejected};
use super::webhook::Webhook;
use crate::configuration_file::drop_nulls;
use crate::state::State;

/// For one try; as upstream.
const WITHIN: Duration = Duration::from_secs(30);
/// Tokens whose answers are kept; one has about 1 KiB.
const KEPT: usize = 8192;
/// Longest token that is asked about, in bytes.
const MOST_BYTES: usize = 64 << 10;

/// Believes whom a webhook believes.
pub struct TokenWebhook {
    webhook: Webhook,
    version: Version,
    hold: Duration,
    /// Errors are not kept; as upstream.
    answers: Answers<Option<Arc<AuthenticatedUser>>>,
}

/// Of the TokenReview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V1beta1,
}

impl Version {
    fn text(self) -> &'static str {
        match self {
            Self::V1 => "authentication.k8s.io/v1",
            Self::V1beta1 => "authentication.k8s.io/v1beta1",
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: UserInfo,
    audiences: Vec<String>,
    error: String,
}

impl TokenWebhook {
    /// Keeps answers for so long.
    pub fn new(webhook: Webhook, version: Version, hold: Duration) -> Self {
        Self {
            webhook,
            version,
            hold,
            answers: Answers::new(KEPT),
        }
    }

    async fn check(
        &self,
        state: &State,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<AuthenticatedUser>, Rejected> {
        if token.len() > MOST_BYTES {
            return Err(Rejected::new("the token is too long to ask about"));
        }
        let parts = std::iter::once(token).chain(audiences.iter().map(String::as_str));
        let parts: Vec<&[u8]> = parts.map(str::as_bytes).collect();
        let name = key(&parts);
        let found = |known: Option<Arc<AuthenticatedUser>>| Ok(known.map(|k| (*k).clone()));
        if let Some(kept) = self.answers.get(&name) {
            return found(kept);
        }
        let _turn = self.answers.turn(&name).await;
        if let Some(kept) = self.answers.get(&name) {
            return found(kept);
        }
        let answered = self.ask(state, token, audiences).await;
        if let Ok(answer) = &answered {
            self.answers.put(name, answer.clone(), self.hold);
        }
        answered.map_err(Rejected::new).and_then(found)
    }

    async fn ask(
        &self,
        state: &State,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Arc<AuthenticatedUser>>, String> {
        let mut spec = json!({ "token": token });
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        let review = json!({
            "apiVersion": self.version.text(), "kind": "TokenReview",
            "metadata": {}, "spec": spec, "status": { "user": {} },
        });
        let metrics = &state.metrics().identity;
        let asked = self.webhook.ask(state, &review, WITHIN, |took, failed| {
            metrics.token_webhook(took, failed.is_none());
        });
        let answer = asked.await.map_err(|failed| {
            if let Some(unsaid) = metrics.token_webhook_lines.next(state.now()) {
                let why = &failed.why;
                tracing::error!(
                    unsaid,
                    "failed to make webhook authenticator request: {why}"
                );
            }
            failed.why
        })?;
        read(answer, audiences, state.settings().audiences())
    }
}

/// Whom an answer names; `own`: the audiences of this server, which a webhook that says none means.
pub fn read(
    mut answer: Value,
    asked: &[String],
    own: &[String],
) -> Result<Option<Arc<AuthenticatedUser>>, String> {
    if answer["kind"] != "TokenReview" {
        return Err(format!(
            "the answer is no TokenReview but {}",
            answer["kind"]
        ));
    }
    drop_nulls(&mut answer);
    let answer: Answer =
        serde_json::from_value(answer).map_err(|e| format!("the answer cannot be read: {e}"))?;
    let status = answer.status;
    let got = match status.audiences.is_empty() {
        true => own,
        false => &status.audiences,
    };
    let audiences: Vec<String> = asked.iter().filter(|a| got.contains(a)).cloned().collect();
    if audiences.is_empty() && !asked.is_empty() {
        return Ok(None);
    }
    match (status.authenticated, status.error.is_empty()) {
        (false, true) => Ok(None),
        (false, false) => Err(status.error),
        (true, _) if status.user.name.is_empty() => Err("the answer names no user".into()),
        (true, _) => Ok(Some(Arc::new(AuthenticatedUser {
            user: status.user,
            audiences,
        }))),
    }
}

impl Authenticator for TokenWebhook {
    fn token<'a>(
        &'a self,
        state: &'a State,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<AuthenticatedUser>, Rejected>> {
        Box::pin(self.check(state, token, audiences))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_users_and_audiences() {
        let (asked, own) = (["a".to_owned(), "b".to_owned()], ["b".to_owned()]);
        let read = |status: Value| {
            let answer = json!({"kind": "TokenReview", "status": status});
            read(answer, &asked, &own)
                .map(|k| k.map(|k| (k.user.name.clone(), k.audiences.clone())))
        };
        let user = json!({"username": "jane", "groups": ["g"]});
        let jane = |audience: &str| Ok(Some(("jane".to_owned(), vec![audience.to_owned()])));
        assert_eq!(
            read(json!({"authenticated": true, "user": user})),
            jane("b")
        );
        let with = json!({"authenticated": true, "user": user, "audiences": ["a", "c"]});
        assert_eq!(read(with), jane("a"));
        let other = json!({"authenticated": true, "user": user, "audiences": ["c"]});
        assert_eq!(read(other), Ok(None));
        assert_eq!(read(json!({"authenticated": false})), Ok(None));
        assert_eq!(read(json!({"error": "no"})), Err("no".into()));
        assert!(read(json!({"authenticated": true, "user": {}})).is_err());
        assert!(super::read(json!({"kind": "Other"}), &[], &[]).is_err());
    }
}
