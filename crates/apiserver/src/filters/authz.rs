//! Whether the one who asks may: each authorizer answers allow, deny or nothing.

use std::sync::Arc;

use api::{GroupResource, Status};
use futures::future::BoxFuture;

use super::authn::{MASTERS, UserInfo};
use crate::ApiServer;
use crate::request::RequestInfo;

/// What is asked of an authorizer.
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    pub info: &'a RequestInfo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    NoOpinion(String),
}

/// One source of permissions.
pub trait Authorizer: Send + Sync + 'static {
    fn authorize<'a>(
        &'a self,
        server: &'a ApiServer,
        asked: &'a Attributes<'a>,
    ) -> BoxFuture<'a, Decision>;
}

/// Members of `system:masters` may do everything, whatever the objects say.
pub struct Masters;

impl Authorizer for Masters {
    fn authorize<'a>(
        &'a self,
        _: &'a ApiServer,
        asked: &'a Attributes<'a>,
    ) -> BoxFuture<'a, Decision> {
        let decision = if asked.user.in_group(MASTERS) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        };
        Box::pin(std::future::ready(decision))
    }
}

/// Everyone may do everything: for tests and for servers that are told so.
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize<'a>(&'a self, _: &'a ApiServer, _: &'a Attributes<'a>) -> BoxFuture<'a, Decision> {
        Box::pin(std::future::ready(Decision::Allow(String::new())))
    }
}

/// Asks each in turn; the first that allows or denies decides. With no opinion at all the answer
/// is a denial with the reasons gathered.
pub async fn decide(
    all: &[Arc<dyn Authorizer>],
    server: &ApiServer,
    asked: &Attributes<'_>,
) -> Decision {
    let mut reasons = Vec::new();
    for one in all {
        match one.authorize(server, asked).await {
            Decision::NoOpinion(why) if why.is_empty() => {}
            Decision::NoOpinion(why) => reasons.push(why),
            decided => return decided,
        }
    }
    Decision::NoOpinion(reasons.join(", "))
}

/// [`decide`] as the filter uses it.
pub async fn authorize(
    all: &[Arc<dyn Authorizer>],
    server: &ApiServer,
    asked: &Attributes<'_>,
) -> Result<(), Status> {
    match decide(all, server, asked).await {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(asked, &why)),
    }
}

/// The refusal in upstream's words.
pub fn forbidden(asked: &Attributes<'_>, why: &str) -> Status {
    let (user, i) = (&asked.user.name, asked.info);
    if !i.is_resource {
        let text = match why {
            "" => format!("User {user:?} cannot {} path {:?}", i.verb, i.path),
            why => format!("User {user:?} cannot {} path {:?}: {why}", i.verb, i.path),
        };
        return Status::forbidden(&GroupResource::default(), "", &text);
    }
    let resource = match i.subresource.as_str() {
        "" => i.resource.clone(),
        sub => format!("{}/{sub}", i.resource),
    };
    let mut text = format!(
        "User {user:?} cannot {} resource {resource:?} in API group {:?}",
        i.verb, i.group
    );
    if i.namespace.is_empty() {
        text.push_str(" at the cluster scope");
    } else {
        text.push_str(&format!(" in the namespace {:?}", i.namespace));
    }
    if !why.is_empty() {
        text.push_str(&format!(": {why}"));
    }
    Status::forbidden(&GroupResource::new(&i.group, &i.resource), &i.name, &text)
}
