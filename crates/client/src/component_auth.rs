//! Authentication and authorization at a component's own port: certificates are verified by TLS,
//! tokens by TokenReview, permission by SubjectAccessReview. Answers of the API server are kept for
//! a short time. What a path stands for is the component's matter.

use http::{Method, Request};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a token's user is believed; upstream's default.
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// How long a permission is believed; upstream's default.
const ALLOW_TTL: Duration = Duration::from_secs(300);
/// How long a refusal is believed; upstream's default.
const DENY_TTL: Duration = Duration::from_secs(30);
/// Answers kept at most; then all are asked for again.
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

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    groups: Vec<String>,
    uid: Option<String>,
}

/// What a request needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestAttributes {
    /// A verb on a node's subresource.
    Node {
        verb: &'static str,
        node: String,
        subresource: &'static str,
    },
    /// A verb on a path.
    Path { verb: &'static str, path: String },
}

/// Decides on requests.
pub struct Gate {
    client: kube::Client,
    users: Mutex<HashMap<[u8; 32], (User, Instant)>>,
    decisions: Mutex<HashMap<(User, RequestAttributes), (bool, Instant)>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    pub fn new(client: kube::Client) -> Self {
        Self {
            client,
            users: Mutex::default(),
            decisions: Mutex::default(),
        }
    }

    /// Who sends the request; its connection is theirs from now on.
    pub async fn user<B>(&self, request: &Request<B>) -> Result<User, Refusal> {
        let user = self.shown(request).await?;
        if let Some(c) = request.extensions().get::<Arc<wire::serve::Connection>>() {
            c.authenticated(&user.name, &user.groups);
        }
        Ok(user)
    }

    async fn shown<B>(&self, request: &Request<B>) -> Result<User, Refusal> {
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

    /// Whether the user may do what is asked.
    pub async fn allowed(&self, user: &User, asked: &RequestAttributes) -> Result<bool, Refusal> {
        let key = (user.clone(), asked.clone());
        let known = self.decisions.lock().get(&key).copied();
        if let Some((allowed, at)) = known
            && at.elapsed() < if allowed { ALLOW_TTL } else { DENY_TTL }
        {
            return Ok(allowed);
        }
        let (mut of_node, mut of_path) = (None, None);
        match asked {
            RequestAttributes::Node {
                verb,
                node,
                subresource,
            } => {
                of_node = Some(ResourceAttributes {
                    verb: Some((*verb).to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some((*subresource).to_owned()),
                    name: Some(node.clone()),
                    ..Default::default()
                });
            }
            RequestAttributes::Path { verb, path } => {
                of_path = Some(NonResourceAttributes {
                    verb: Some((*verb).to_owned()),
                    path: Some(path.clone()),
                });
            }
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: user.uid.clone(),
                resource_attributes: of_node,
                non_resource_attributes: of_path,
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

/// The verb that a method stands for.
pub fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}
