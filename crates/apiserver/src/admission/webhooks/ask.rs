//! One question to one webhook, and what came of it.

use api::Status;
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::hook::Hook;
use super::review::{self, Unusable, Verdict, Version};
use crate::egress::{Bounds, CallError, post};
use crate::metrics::webhooks::Of;
use crate::state::State;

/// Of an answer: a patch of the largest object, in base64, and as much again for all else.
const ANSWER_BYTES: usize = 8 << 20;

/// Why a webhook's answer does not let the request pass.
#[derive(Debug)]
pub enum Failure {
    /// It did not answer, or not as it must; its failure policy decides. With the code that figures
    /// count.
    Calling { why: String, code: u16 },
    /// It refuses the request.
    Rejected(Status),
    /// The request cannot be judged, whatever the failure policy says.
    Unjudged(Status),
}

/// What a webhook is asked.
pub struct Question<'a> {
    /// See [`crate::admission::expressions::request`].
    pub request: Value,
    pub object: Option<&'a Bytes>,
    pub old: Option<&'a Bytes>,
    pub dry_run: bool,
    pub mutating: bool,
}

impl Hook {
    /// Asks; gives what a webhook says that has nothing against the request.
    pub async fn ask(&self, state: &State, question: Question<'_>) -> Result<Verdict, Answered> {
        let nothing = |failure| Answered {
            failure,
            said: Verdict::default(),
        };
        if question.dry_run && !self.takes_dry_runs() {
            let name = &self.name;
            return Err(nothing(match self.side_effects {
                None => Failure::Calling {
                    why: "Webhook SideEffects is nil".into(),
                    code: 400,
                },
                Some(_) => Failure::Unjudged(Status::bad_request(format!(
                    "admission webhook {name:?} does not support dry run"
                ))),
            }));
        }
        let mut verdict = self.call(state, question).await.map_err(nothing)?;
        if verdict.allowed {
            return Ok(verdict);
        }
        let denial = review::denial(&self.name, verdict.status.take());
        Err(Answered {
            failure: Failure::Rejected(denial),
            said: verdict,
        })
    }

    async fn call(&self, state: &State, question: Question<'_>) -> Result<Verdict, Failure> {
        let calling = |why: String, code: u16| Failure::Calling { why, code };
        let version = Version::choose(&self.review_versions).ok_or_else(|| {
            let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            calling(why.into(), 400)
        })?;
        let backend = self.backend.as_ref();
        let backend =
            backend.map_err(|why| calling(format!("could not get REST client: {why}"), 500))?;
        let uid = state.random().uuid();
        let mutating = question.mutating;
        let body = review::body(
            version,
            &uid,
            question.request,
            (question.object, question.old),
        );
        let bounds = Bounds {
            within: self.within,
            answer_bytes: ANSWER_BYTES,
        };
        let asking = post(state, backend, body, bounds);
        let span = match mutating {
            true => "Call mutating webhook",
            false => "Call validating webhook",
        };
        let answer = match traces::call(span) {
            None => asking.await,
            Some(span) => {
                span.set("webhook", self.name.clone());
                span.over(asking).await
            }
        };
        let answer = answer.map_err(|e| {
            let code = match &e {
                CallError::Refused(status) => status.code,
                _ => 503,
            };
            calling(format!("failed to call webhook: {e}"), code)
        })?;
        review::read(version, &uid, mutating, &answer).map_err(|e| match e {
            Unusable::Undecodable(why) => {
                let why = format!("couldn't get version/kind; json parse error: {why}");
                calling(format!("failed to call webhook: {why}"), 503)
            }
            Unusable::Invalid(why) => {
                calling(format!("received invalid webhook response: {why}"), 503)
            }
        })
    }

    /// Counts a call, and decides what becomes of the request: an error ends it.
    pub fn settle(
        &self,
        state: &State,
        (step, operation): (&'static str, &'static str),
        began: Instant,
        failure: Option<Failure>,
    ) -> Result<Passed, Status> {
        let metrics = &state.metrics().webhooks;
        let name = &self.name;
        let of = Of {
            name,
            step,
            operation,
        };
        let took = began.elapsed();
        let ended = |error_type, code| {
            metrics.rejection(of, error_type, code);
            metrics.call(of, took, true, code);
        };
        match failure {
            None => {
                metrics.call(of, took, false, 200);
                Ok(Passed::Asked)
            }
            Some(Failure::Calling { why, code }) if self.ignores_failure => {
                tracing::warn!("failed calling webhook, failing open {name:?}: {why}");
                metrics.call(of, took, false, code);
                metrics.fail_open(of);
                Ok(Passed::FailedOpen)
            }
            Some(Failure::Calling { why, code }) => {
                tracing::warn!("failed calling webhook, failing closed {name:?}: {why}");
                ended("calling_webhook_error", code);
                let message = format!("failed calling webhook {name:?}: {why}");
                Err(Status::internal(message))
            }
            Some(Failure::Rejected(status)) => {
                ended("no_error", status.code);
                Err(status)
            }
            Some(Failure::Unjudged(status)) => {
                ended("apiserver_internal_error", 0);
                Err(status)
            }
        }
    }
}

/// A webhook that does not let the request pass, and what it said.
#[derive(Debug)]
pub struct Answered {
    pub failure: Failure,
    pub said: Verdict,
}

/// A request that goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passed {
    Asked,
    /// The webhook failed, and its policy is to ignore that.
    FailedOpen,
}

/// Bytes of all warnings of one answer that are passed on, and of one of them where they are more;
/// as upstream.
const WARNINGS_BYTES: usize = 4096;
const WARNING_BYTES: usize = 256;

/// Warnings as they are passed on.
pub fn warnings(said: Vec<String>) -> Vec<String> {
    let all: usize = said.iter().map(String::len).sum();
    if all <= WARNINGS_BYTES {
        return said;
    }
    let mut left = WARNINGS_BYTES;
    let mut kept = Vec::new();
    for mut text in said {
        let mut end = WARNING_BYTES.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        let Some(rest) = left.checked_sub(text.len()) else {
            break;
        };
        left = rest;
        kept.push(text);
    }
    kept
}
