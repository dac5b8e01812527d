//! Who asks, and may they: certificates are verified by TLS, tokens by TokenReview, permission
//! by SubjectAccessReview. Answers of the API server are kept for a short time.

use http::{Method, Request};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a token's user is believed; upstream's default.
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// How long a permission is believed; upstream's default.
const ALLOW_TTL: Duration = Duration::from_secs(300);
/// How long a refusal is believed; upstream's default.
const DENY_TTL: Duration = Duration::from_secs(30);
/// Answers kept at most; then all are asked for anew.
const KEPT: usize = 4096;

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody that we know.
    Unknown,
    /// Known, but not allowed.
    Forbidden(String),
    /// It could not be found out.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct User {
    name: String,
    groups: Vec<String>,
    uid: Option<String>,
}

type Decision = (User, &'static str, &'static str);

/// Decides on requests.
pub struct Gate {
    client: kube::Client,
    node: String,
    users: Mutex<HashMap<[u8; 32], (User, Instant)>>,
    decisions: Mutex<HashMap<Decision, (bool, Instant)>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    pub(super) fn new(client: kube::Client, node: &str) -> Self {
        Self {
            client,
            node: node.to_owned(),
            users: Mutex::default(),
            decisions: Mutex::default(),
        }
    }

    pub(super) async fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let user = self.user(request).await?;
        if let Some(c) = request.extensions().get::<Arc<wire::serve::Connection>>() {
            c.authenticated(&user.name, &user.groups);
        }
        let verb = verb(request.method());
        // A finer permission is tried first; the old, wide one includes it.
        for subresource in subresources(request.uri().path()) {
            if self.allowed(&user, verb, subresource).await? {
                return Ok(());
            }
        }
        let subresource = subresources(request.uri().path())
            .last()
            .copied()
            .unwrap_or("proxy");
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource=[{subresource}])",
            user.name
        )))
    }

    async fn user<B>(&self, request: &Request<B>) -> Result<User, Refusal> {
        let peer = request.extensions().get::<wire::serve::Peer>();
        if let Some(leaf) = peer.and_then(|p| p.certificates.first()) {
            let names = wire::pki::certificate_names(leaf).map_err(|_| Refusal::Unknown)?;
            return Ok(User {
                name: names.common_name,
                groups: names.organizations,
                uid: None,
            });
        }
        let header = request
            .headers()
            .get("authorization")
            .and_then(|v| v.to_str().ok());
        let token = header
            .and_then(|v| v.strip_prefix("Bearer "))
            .ok_or(Refusal::Unknown)?;
        self.user_of_token(token.trim()).await
    }

    async fn user_of_token(&self, token: &str) -> Result<User, Refusal> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.users.lock().get(&key).cloned();
        if let Some((user, _)) = known.filter(|(_, at)| at.elapsed() < TOKEN_TTL) {
            return Ok(user);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: kube::Api<TokenReview> = kube::Api::all(self.client.clone());
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| Refusal::Failed(format!("token review: {e}")))?;
        let status = answer.status.unwrap_or_default();
        let user = status
            .user
            .filter(|_| status.authenticated == Some(true))
            .ok_or(Refusal::Unknown)?;
        let user = User {
            name: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            uid: user.uid,
        };
        let mut users = self.users.lock();
        if users.len() > KEPT {
            users.clear();
        }
        users.insert(key, (user.clone(), Instant::now()));
        Ok(user)
    }

    async fn allowed(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Refusal> {
        let key = (user.clone(), verb, subresource);
        let known = self.decisions.lock().get(&key).copied();
        if let Some((allowed, at)) = known
            && at.elapsed() < if allowed { ALLOW_TTL } else { DENY_TTL }
        {
            return Ok(allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: user.uid.clone(),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: kube::Api<SubjectAccessReview> = kube::Api::all(self.client.clone());
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| {
                Refusal::Failed(format!("Authorization error (user={}): {e}", user.name))
            })?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        let mut decisions = self.decisions.lock();
        if decisions.len() > KEPT {
            decisions.clear();
        }
        decisions.insert(key, (allowed, Instant::now()));
        Ok(allowed)
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Which permissions open a path, the narrowest first.
fn subresources(path: &str) -> &'static [&'static str] {
    let first = path.split('/').find(|p| !p.is_empty()).unwrap_or_default();
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_need_the_permissions_that_upstream_asks_for() {
        assert_eq!(subresources("/metrics/cadvisor"), ["metrics"]);
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/exec/a/b/c"), ["proxy"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(verb(&Method::POST), "create");
    }
}
