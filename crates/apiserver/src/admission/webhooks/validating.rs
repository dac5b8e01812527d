//! Webhooks that may refuse: all of them are asked at once, and what one of them says against the
//! request counts.

use api::Status;
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use registry::Row;
use tokio::time::Instant;

use super::ask::{Passed, Question, warnings};
use super::hook::{Hooks, Source};
use super::invocation::{Invocation, invocation};
use super::review;
use crate::admission::matching::Gvk;
use crate::admission::{Admit, Operation, Review};
use crate::state::State;

/// The step as figures call it.
const STEP: &str = "validating";
/// The beginning of the keys under which the audit log has who failed.
const FAILED_OPEN: &str = "failed-open.validating.webhook.admission.k8s.io/";

/// The plugin.
#[derive(Default)]
pub struct ValidatingWebhooks(Source);

impl Admit for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }
    fn handles(&self, _: Operation, _: &Row, _: &str) -> bool {
        true
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let hooks = self.0.hooks(&state.configurations().validating_webhooks);
        if hooks.1.all.is_empty() || review.subject().is_exempt() {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move { dispatch(state, &hooks.1, review).await })
    }
}

/// The objects as they are sent, by the version that a webhook wants.
#[derive(Default)]
struct Encoded(Vec<(Gvk, [Option<Bytes>; 2])>);

impl Encoded {
    fn add(&mut self, review: &Review<'_>, one: &Invocation<'_>) {
        if self.0.iter().any(|(kind, _)| *kind == one.hit.kind) {
            return;
        }
        let (revision, managed, old_managed) =
            (review.revision, &*review.managed, review.old_managed);
        let object = one.object.as_deref();
        let object = object.map(|o| review::object(o, managed, revision));
        let old = one.old.as_deref();
        let old = old.map(|o| review::object(o, old_managed, revision));
        self.0.push((one.hit.kind.clone(), [object, old]));
    }

    fn of(&self, kind: &Gvk) -> [Option<&Bytes>; 2] {
        let found = self.0.iter().find(|(k, _)| k == kind);
        found.map_or([None, None], |(_, both)| {
            [both[0].as_ref(), both[1].as_ref()]
        })
    }
}

async fn dispatch(state: &State, hooks: &Hooks, review: &mut Review<'_>) -> Result<(), Status> {
    let mut relevant = Vec::new();
    let mut encoded = Encoded::default();
    for hook in &hooks.all {
        if let Some(one) = invocation(hook, state, review, STEP).await? {
            encoded.add(review, &one);
            relevant.push((hook, one.hit.kind, one.request));
        }
    }
    let (dry_run, operation) = (review.dry_run, review.operation.word());
    let asked = relevant.into_iter().enumerate();
    let asked = asked.map(|(nth, (hook, kind, request))| {
        let [object, old] = encoded.of(&kind);
        let question = Question {
            request,
            object,
            old,
            dry_run,
            mutating: false,
        };
        async move {
            let began = Instant::now();
            let done = hook.ask(state, question).await;
            let (said, failure) = match done {
                Ok(said) => (said, None),
                Err(answered) => (answered.said, Some(answered.failure)),
            };
            let settled = hook.settle(state, (STEP, operation), began, failure);
            (nth, hook, said, settled)
        }
    });
    let mut refused = None;
    for (nth, hook, said, settled) in join_all(asked).await {
        let named = said.annotations.into_iter();
        let named = named.map(|(key, value)| (format!("{}/{key}", hook.name), value));
        review.annotations.extend(named);
        review.warnings.extend(warnings(said.warnings));
        match settled {
            Ok(Passed::Asked) => {}
            Ok(Passed::FailedOpen) => {
                let key = format!("{FAILED_OPEN}round_0_index_{nth}");
                review.annotations.push((key, hook.name.clone()));
            }
            // The first in their order: so the same request gets the same answer.
            Err(status) => drop(refused.get_or_insert(status)),
        }
    }
    refused.map_or(Ok(()), Err)
}
