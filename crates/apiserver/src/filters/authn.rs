//! Who asks: from headers and client certificates to a [`UserInfo`].

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::HeaderMap;
use wire::serve::Peer;

use crate::ApiServer;

pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const MASTERS: &str = "system:masters";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Self::default()
        }
    }
    /// A client without credentials.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED])
    }
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a client shows.
pub struct Credentials<'a> {
    pub headers: &'a HeaderMap,
    /// The connection's other end; absent for clients in this process.
    pub peer: Option<&'a Peer>,
}

/// Credentials were shown and are wrong: the request ends with 401.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// One way to know a client. `Ok(None)`: it shows nothing of this kind.
pub trait Authenticator: Send + Sync + 'static {
    fn authenticate<'a>(
        &'a self,
        server: &'a ApiServer,
        credentials: &'a Credentials<'a>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, Rejected>>;
}

/// Client certificates that TLS has verified: the common name is the user, organizations are
/// the groups.
pub struct ClientCertificates;

impl Authenticator for ClientCertificates {
    fn authenticate<'a>(
        &'a self,
        _: &'a ApiServer,
        credentials: &'a Credentials<'a>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, Rejected>> {
        Box::pin(async move {
            let Some(leaf) = credentials.peer.and_then(|p| p.certificates.first()) else {
                return Ok(None);
            };
            let names = wire::pki::certificate_names(leaf).map_err(|e| Rejected(e.to_string()))?;
            if names.common_name.is_empty() {
                return Ok(None);
            }
            Ok(Some(UserInfo {
                name: names.common_name,
                groups: names.organizations,
                ..UserInfo::default()
            }))
        })
    }
}

/// Asks each in turn; the first that knows the client counts. Everyone known is in
/// `system:authenticated`; who shows nothing is anonymous.
pub async fn authenticate(
    ways: &[Arc<dyn Authenticator>],
    server: &ApiServer,
    credentials: &Credentials<'_>,
) -> Result<UserInfo, Rejected> {
    for way in ways {
        if let Some(mut user) = way.authenticate(server, credentials).await? {
            if !user.in_group(AUTHENTICATED) && user.name != ANONYMOUS {
                user.groups.push(AUTHENTICATED.to_owned());
            }
            return Ok(user);
        }
    }
    if credentials
        .headers
        .contains_key(http::header::AUTHORIZATION)
    {
        return Err(Rejected("no authenticator knows the credentials".into()));
    }
    Ok(UserInfo::anonymous())
}
