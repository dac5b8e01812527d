//! Whether the user may do what the request asks: each authorizer answers allow, deny or nothing.

use api::{GroupResource, Status};
use futures::future::BoxFuture;

use super::authn::{MASTERS, UserInfo};
use crate::audit::Trail;
use crate::http::request::{Query, RequestInfo};
use crate::state::State;

use crate::permissions::{Access, Authorizer};

pub use access::{Attributes, Decision};

/// Members of `system:masters` may do everything, whatever the objects say.
pub struct Masters;

impl Authorizer for Masters {
    fn authorize<'a>(
        &'a self,
        _: &'a Access,
        user: &'a UserInfo,
        _: &'a Attributes<'a>,
    ) -> BoxFuture<'a, Decision> {
        let decision = if user.is_in(MASTERS) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        };
        Box::pin(std::future::ready(decision))
    }
}

/// Nodes: what the pods bound to them need.
pub struct Nodes;

impl Authorizer for Nodes {
    fn authorize<'a>(
        &'a self,
        access: &'a Access,
        user: &'a UserInfo,
        asked: &'a Attributes<'a>,
    ) -> BoxFuture<'a, Decision> {
        Box::pin(std::future::ready(access.node(user, asked)))
    }
}

/// Roles and their bindings.
pub struct Rbac;

impl Authorizer for Rbac {
    fn authorize<'a>(
        &'a self,
        access: &'a Access,
        user: &'a UserInfo,
        asked: &'a Attributes<'a>,
    ) -> BoxFuture<'a, Decision> {
        let decision = access.policy().decide(user, asked);
        Box::pin(std::future::ready(decision))
    }
}

/// Everyone may do everything: for tests and for servers that are configured so.
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize<'a>(
        &'a self,
        _: &'a Access,
        _: &'a UserInfo,
        _: &'a Attributes<'a>,
    ) -> BoxFuture<'a, Decision> {
        Box::pin(std::future::ready(Decision::Allow(String::new())))
    }
}

/// What a request asks of the authorizers.
pub fn attributes<'a>(info: &'a RequestInfo, query: &'a Query) -> Attributes<'a> {
    Attributes {
        verb: &info.verb,
        is_resource: info.is_resource,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        field_selector: query
            .get("fieldSelector")
            .filter(|_| info.takes_selectors())
            .unwrap_or_default(),
        label_selector: query
            .get("labelSelector")
            .filter(|_| info.takes_selectors())
            .unwrap_or_default(),
    }
}

/// Asks each in turn; the first that allows or denies decides. Before a refusal the cache is
/// brought up to the store, so that a permission holds as soon as it is acknowledged.
pub async fn decide(state: &State, user: &UserInfo, asked: &Attributes<'_>) -> Decision {
    let seen = state.cache().revision();
    let first = ask(state, user, asked).await;
    if first.is_allowed() || !state.catch_up(seen).await {
        return first;
    }
    ask(state, user, asked).await
}

/// With no opinion at all the answer has the reasons gathered.
async fn ask(state: &State, user: &UserInfo, asked: &Attributes<'_>) -> Decision {
    let mut reasons = Vec::new();
    for one in state.authorizers() {
        match one.authorize(state.access(), user, asked).await {
            Decision::NoOpinion(why) if why.is_empty() => {}
            Decision::NoOpinion(why) => reasons.push(why),
            decided => return decided,
        }
    }
    Decision::NoOpinion(reasons.join(", "))
}

/// [`decide`] as the filter uses it.
pub async fn authorize(
    state: &State,
    user: &UserInfo,
    asked: &Attributes<'_>,
) -> Result<(), Status> {
    match decide(state, user, asked).await {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(user, asked, &why)),
    }
}

/// [`authorize`], noted for the audit log in upstream's words.
pub async fn recorded(
    state: &State,
    user: &UserInfo,
    asked: &Attributes<'_>,
    trail: &Trail,
) -> Result<(), Status> {
    let decision = decide(state, user, asked).await;
    let (word, done) = match &decision {
        Decision::Allow(_) => ("allow", Ok(())),
        Decision::Deny(why) | Decision::NoOpinion(why) => {
            ("forbid", Err(forbidden(user, asked, why)))
        }
    };
    let (Decision::Allow(why) | Decision::Deny(why) | Decision::NoOpinion(why)) = decision;
    trail.annotate("authorization.k8s.io/decision", word);
    trail.annotate("authorization.k8s.io/reason", why);
    done
}

/// Whether the user may do everything with everything: what hands out the whole store asks this.
pub async fn everything(state: &State, user: &UserInfo) -> Result<(), Status> {
    let asked = Attributes {
        verb: "*",
        is_resource: true,
        group: "*",
        version: "*",
        resource: "*",
        ..Attributes::default()
    };
    authorize(state, user, &asked).await
}

/// The refusal in upstream's words.
pub fn forbidden(user: &UserInfo, asked: &Attributes<'_>, why: &str) -> Status {
    let mut text = asked.refusal(user);
    if !why.is_empty() {
        text.push_str(": ");
        text.push_str(why);
    }
    if !asked.is_resource {
        return Status::forbidden(&GroupResource::default(), "", &text);
    }
    Status::forbidden(
        &GroupResource::new(asked.group, asked.resource),
        asked.name,
        &text,
    )
}
