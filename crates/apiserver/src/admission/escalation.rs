//! RBAC's rule against escalation: nobody gives away what they do not hold, unless they may
//! `escalate` roles or `bind` the role in question.

use access::{Attributes, UserInfo, rule::Rule};
use api::{GroupResource, Status};
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{Admit, Operation, Review, list, text};
use crate::filters::authn::MASTERS;
use crate::filters::authz;
use crate::state::State;

const GROUP: &str = "rbac.authorization.k8s.io";

pub struct Escalation;

impl Admit for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }
    fn handles(&self, operation: Operation, row: &Row, _: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && &*row.group == GROUP
    }
    fn mutate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if review.user.is_in(MASTERS) {
                return Ok(());
            }
            let Some(object) = review.object.as_deref() else {
                return Ok(());
            };
            if review
                .old
                .is_some_and(|old| only_collector_fields(object, old))
            {
                return Ok(());
            }
            if matches!(&*review.row.resource, "roles" | "clusterroles") {
                role(state, review, object).await
            } else {
                binding(state, review, object).await
            }
        })
    }
}

/// What the garbage collector must be able to write in its own name.
pub(super) fn only_collector_fields(new: &Value, old: &Value) -> bool {
    let bare = |v: &Value| {
        let mut v = v.clone();
        if let Some(meta) = v.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "ownerReferences",
                "finalizers",
                "managedFields",
                "resourceVersion",
                "selfLink",
            ] {
                meta.remove(field);
            }
        }
        v
    };
    bare(new) == bare(old)
}

async fn may(state: &State, user: &UserInfo, asked: Attributes<'_>) -> bool {
    authz::decide(state, user, &asked).await.is_allowed()
}

async fn role(state: &State, review: &Review<'_>, object: &Value) -> Result<(), Status> {
    let escalate = Attributes {
        verb: "escalate",
        is_resource: true,
        group: GROUP,
        version: "*",
        resource: &review.row.resource,
        namespace: review.namespace,
        // As the request's path has it: a creation has none.
        name: if review.old.is_some() {
            review.name
        } else {
            ""
        },
        ..Attributes::default()
    };
    if may(state, review.user, escalate).await {
        return Ok(());
    }
    let wanted = object.get("rules").cloned().unwrap_or_default();
    // What is not a list of rules is refused by validation; here it grants nothing.
    let wanted: Vec<Rule> = serde_json::from_value(wanted).unwrap_or_default();
    confirm(state, review, &wanted).await?;
    // Such a role gathers whatever comes to match: it takes all there is to make or change one.
    if aggregates(object) || review.old.is_some_and(aggregates) {
        let all = everything();
        confirm(state, review, &all).await.map_err(|_| {
            review.forbidden("must have cluster-admin privileges to use the aggregationRule")
        })?;
    }
    Ok(())
}

fn aggregates(role: &Value) -> bool {
    !list(role, "/aggregationRule/clusterRoleSelectors").is_empty()
}

fn everything() -> Vec<Rule> {
    let star = || vec!["*".to_owned()];
    vec![
        Rule {
            verbs: star(),
            api_groups: star(),
            resources: star(),
            ..Rule::default()
        },
        Rule {
            verbs: star(),
            non_resource_urls: star(),
            ..Rule::default()
        },
    ]
}

async fn binding(state: &State, review: &Review<'_>, object: &Value) -> Result<(), Status> {
    let (kind, name) = (text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    let resource = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // Refused by validation.
        _ => return Ok(()),
    };
    let bind = Attributes {
        verb: "bind",
        is_resource: true,
        group: text(object, "/roleRef/apiGroup"),
        version: "*",
        resource,
        namespace: review.namespace,
        name,
        ..Attributes::default()
    };
    if may(state, review.user, bind).await {
        return Ok(());
    }
    let namespace = if kind == "Role" { review.namespace } else { "" };
    let mut rules = state.access().rules_of(namespace, name);
    if rules.is_none() && state.catch_up(state.cache().revision()).await? {
        rules = state.access().rules_of(namespace, name);
    }
    let rules =
        rules.ok_or_else(|| Status::not_found(&GroupResource::new(GROUP, resource), name))?;
    confirm(state, review, &rules).await
}

/// Refuses what the user does not hold.
async fn confirm(state: &State, review: &Review<'_>, wanted: &[Rule]) -> Result<(), Status> {
    let check = || {
        let owned = state
            .access()
            .policy()
            .rules_for(review.user, review.namespace);
        access::rule::escalation(review.user, &owned, wanted)
    };
    let seen = state.cache().revision();
    let Some(why) = check() else { return Ok(()) };
    if state.catch_up(seen).await? && check().is_none() {
        return Ok(());
    }
    Err(review.forbidden(&why))
}
