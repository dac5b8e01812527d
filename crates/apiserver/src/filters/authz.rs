//! Whether the user may do what the request asks: each authorizer answers allow, deny or nothing.

use api::{GroupResource, Status};
use clock::Instant;
use futures::future::BoxFuture;
use serde_json::json;

use super::authn::{MASTERS, UserInfo};
use crate::audit::Trail;
use crate::http::request::{Query, RequestInfo};
use crate::state::{Authorizer, Rules, State};

pub use access::{Attributes, Decision};

/// Members of `system:masters` may do everything, whatever the objects say.
pub struct Masters;

impl Authorizer for Masters {
    fn authorize<'a>(
        &'a self,
        _: &'a State,
        user: &'a UserInfo,
        _: &'a Attributes<'a>,
        _: &'a mut Vec<String>,
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
        state: &'a State,
        user: &'a UserInfo,
        asked: &'a Attributes<'a>,
        _: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Decision> {
        Box::pin(std::future::ready(state.access().node(user, asked)))
    }

    fn rules(&self, _: &State, user: &UserInfo, _: &str, rules: &mut Rules) {
        if user.node().is_some() {
            rules.incomplete("node authorizer does not support user rule resolution");
        }
    }
}

/// Roles and their bindings.
pub struct Rbac;

impl Authorizer for Rbac {
    fn authorize<'a>(
        &'a self,
        state: &'a State,
        user: &'a UserInfo,
        asked: &'a Attributes<'a>,
        _: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Decision> {
        let decision = state.access().policy().decide(user, asked);
        Box::pin(std::future::ready(decision))
    }

    fn rules(&self, state: &State, user: &UserInfo, namespace: &str, rules: &mut Rules) {
        for rule in state.access().policy().rules_for(user, namespace) {
            if rule.resources.is_empty() {
                rules.paths.push(
                    json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }),
                );
            } else {
                rules.resources.push(json!(rule));
            }
        }
    }
}

/// Everyone may do everything.
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize<'a>(
        &'a self,
        _: &'a State,
        _: &'a UserInfo,
        _: &'a Attributes<'a>,
        _: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Decision> {
        Box::pin(std::future::ready(Decision::Allow(String::new())))
    }

    fn rules(&self, _: &State, _: &UserInfo, _: &str, rules: &mut Rules) {
        rules
            .resources
            .push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        rules
            .paths
            .push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
}

/// Nobody else may do anything.
pub struct AlwaysDeny;

impl Authorizer for AlwaysDeny {
    fn authorize<'a>(
        &'a self,
        _: &'a State,
        _: &'a UserInfo,
        _: &'a Attributes<'a>,
        _: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Decision> {
        let why = "Everything is forbidden.".to_owned();
        Box::pin(std::future::ready(Decision::NoOpinion(why)))
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

/// What came of asking all: the decision, and what could not be found out.
pub struct Judged {
    pub decision: Decision,
    pub errors: Vec<String>,
}

/// Asks each in turn; the first that allows or denies decides. Before a refusal the cache is
/// brought up to the store, so that a permission holds as soon as it is acknowledged.
pub async fn judge(state: &State, user: &UserInfo, asked: &Attributes<'_>) -> Judged {
    let seen = state.cache().revision();
    let mut first = ask(state, user, asked).await;
    if first.decision.is_allowed() {
        return first;
    }
    match state.catch_up(seen).await {
        Ok(true) => ask(state, user, asked).await,
        Ok(false) => first,
        Err(unknown) => {
            first.errors.push(unknown.message);
            first
        }
    }
}

/// As [`judge`]; what could not be found out grants nothing.
pub async fn decide(state: &State, user: &UserInfo, asked: &Attributes<'_>) -> Decision {
    judge(state, user, asked).await.decision
}

/// With no opinion at all the answer has the reasons gathered.
async fn ask(state: &State, user: &UserInfo, asked: &Attributes<'_>) -> Judged {
    let mut reasons = Vec::new();
    let mut errors = Vec::new();
    for one in state.authorizers() {
        let mut own = Vec::new();
        match one.authorize(state, user, asked, &mut own).await {
            Decision::NoOpinion(why) => {
                reasons.push(why);
                errors.extend(own);
            }
            decision => {
                // What went wrong with others does not count any more.
                let errors = own;
                return Judged { decision, errors };
            }
        }
    }
    reasons.retain(|why| !why.is_empty());
    let decision = Decision::NoOpinion(reasons.join("\n"));
    Judged { decision, errors }
}

/// [`judge`] as the filter uses it: counted, and what could not be found out is an error of the
/// server, not a refusal.
pub async fn authorize(
    state: &State,
    user: &UserInfo,
    asked: &Attributes<'_>,
) -> Result<(), Status> {
    let judged = counted(state, user, asked).await;
    judged.done(user, asked)
}

async fn counted(state: &State, user: &UserInfo, asked: &Attributes<'_>) -> Judged {
    let began = Instant::now();
    let judged = judge(state, user, asked).await;
    let result = match (&judged.decision, judged.errors.is_empty()) {
        (Decision::Allow(_), _) => "allowed",
        (_, false) => "error",
        (Decision::Deny(_), true) => "denied",
        (Decision::NoOpinion(_), true) => "no-opinion",
    };
    let metrics = &state.metrics().authorization;
    metrics.attempt(result, began.elapsed());
    judged
}

impl Judged {
    fn done(&self, user: &UserInfo, asked: &Attributes<'_>) -> Result<(), Status> {
        match &self.decision {
            Decision::Allow(_) => Ok(()),
            _ if !self.errors.is_empty() => Err(Status::internal(self.errors.join(", "))),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(user, asked, why)),
        }
    }
}

/// [`authorize`], noted for the audit log in upstream's words.
pub async fn recorded(
    state: &State,
    user: &UserInfo,
    asked: &Attributes<'_>,
    trail: &Trail,
) -> Result<(), Status> {
    let judged = counted(state, user, asked).await;
    let done = judged.done(user, asked);
    let is_allowed = judged.decision.is_allowed();
    if !is_allowed && !judged.errors.is_empty() {
        trail.annotate("authorization.k8s.io/reason", "internal error");
        return done;
    }
    let word = if is_allowed { "allow" } else { "forbid" };
    let (Decision::Allow(why) | Decision::Deny(why) | Decision::NoOpinion(why)) = judged.decision;
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
