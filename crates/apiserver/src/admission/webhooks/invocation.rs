//! Whether a webhook is asked about a request: by its rules, and by its match conditions.

use std::borrow::Cow;

use api::{GroupResource, Status};
use policy::{ExpressionInputs, Matched};
use serde_json::Value;
use tokio::time::Instant;

use super::hook::Hook;
use crate::admission::Review;
use crate::admission::expressions::{self, with_answers};
use crate::admission::matching::Hit;
use crate::admission::versions::shown;
use crate::metrics::webhooks::{Came, Of};
use crate::state::State;

/// A request that a webhook is to be asked about.
pub struct Invocation<'r> {
    pub hit: Hit,
    /// The objects in the version of the hit.
    pub object: Option<Cow<'r, Value>>,
    pub old: Option<Cow<'r, Value>>,
    pub request: Value,
}

/// Whether a webhook is to be asked about a request, and in which form. `step`: as figures call it.
pub async fn invocation<'r>(
    hook: &Hook,
    state: &State,
    review: &'r Review<'_>,
    step: &'static str,
) -> Result<Option<Invocation<'r>>, Status> {
    let subject = review.subject();
    let Some(hit) = hook.criteria.matches(state, &subject).await? else {
        return Ok(None);
    };
    let object = in_version(review, review.object.as_deref(), &hit).await?;
    let old = in_version(review, review.old, &hit).await?;
    let options = review.options();
    let (user, dry_run) = (review.user, review.dry_run);
    let request = expressions::request(&subject, &hit, user, dry_run, options.as_ref());
    let invocation = Invocation {
        hit,
        object,
        old,
        request,
    };
    if !hook.has_conditions() {
        return Ok(Some(invocation));
    }
    let began = Instant::now();
    let resource = expressions::resource_check(&subject);
    let matched = with_answers(state, user, |answers| {
        let given = ExpressionInputs {
            object: invocation.object.as_deref(),
            old_object: invocation.old.as_deref(),
            params: None,
            request: &invocation.request,
            namespace: None,
            authorizer: Some(answers),
            resource: &resource,
        };
        hook.matcher().run(&given, &[])
    });
    let matched = matched.await;
    let of = Of {
        name: &hook.name,
        step,
        operation: subject.operation.word(),
    };
    let came = match &matched {
        Matched::Yes => Came::Match,
        Matched::No => Came::Excluded,
        Matched::Error(_) => Came::Failed,
    };
    let metrics = &state.metrics().webhooks;
    metrics.conditions("webhook", of, began.elapsed(), came);
    match matched {
        Matched::Yes => Ok(Some(invocation)),
        Matched::No => Ok(None),
        Matched::Error(why) => {
            let name = &hook.name;
            tracing::warn!("match conditions of webhook {name:?}, failing closed: {why}");
            let resource = GroupResource::new(&subject.row.group, &subject.row.resource);
            Err(Status::forbidden(&resource, subject.name, &why))
        }
    }
}

async fn in_version<'r>(
    review: &'r Review<'_>,
    value: Option<&'r Value>,
    hit: &Hit,
) -> Result<Option<Cow<'r, Value>>, Status> {
    match value {
        Some(value) => {
            let shown = shown(review.versions, review.row, value, &hit.kind).await;
            shown.map(Some).map_err(|s| Status::internal(s.message))
        }
        None => Ok(None),
    }
}
