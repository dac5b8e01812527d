//! Why a Job does not progress, or how it has ended.

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::pod;
use super::report::{Answer, Profiles, WhyError};
use super::reported;
use super::state::{self, State};
use crate::pod::is_terminal;

/// Who looks after Jobs that do not say who does.
const OURS: &str = "kubernetes.io/job-controller";
/// Failed pods before a Job fails, where it does not say.
const BACKOFF_LIMIT: i32 = 6;

pub fn explain(state: &State, of: &Job, profiles: Profiles<'_>) -> Result<Answer, WhyError> {
    let about = format!(
        "job {}/{}",
        of.namespace().unwrap_or_default(),
        of.name_any()
    );
    if let Some(held) = state::held(of) {
        return Ok(Answer::of(about, held));
    }
    let (spec, status) = (
        of.spec.clone().unwrap_or_default(),
        of.status.clone().unwrap_or_default(),
    );
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let is = |kind: &str| {
        conditions
            .iter()
            .find(|c| c.type_ == kind && c.status == "True")
    };
    let pods: Vec<&Pod> = state::pods_of(state, of).collect();
    if let Some(failed) = is("Failed").or_else(|| is("FailureTarget")) {
        return Ok(with_last_failure(has_failed(about, failed), &pods));
    }
    if is("Complete").is_some() {
        return Ok(Answer::of(about, "it is complete"));
    }
    if let Some(other) = spec.managed_by.as_deref().filter(|by| *by != OURS) {
        let cause = format!("{other} is to look after it, not a part of this cluster");
        return Ok(Answer::of(about, cause).change(format!("run {other}")));
    }
    if spec.suspend == Some(true) {
        let answer = Answer::of(about, "it is suspended: it is to have no pods");
        return Ok(answer.change("set spec.suspend to false"));
    }
    let succeeded = status.succeeded.unwrap_or(0);
    let said = match spec.completions {
        Some(all) => format!("{succeeded} of {all} completions are there"),
        None => format!("{succeeded} pods have succeeded"),
    };
    let active: Vec<&Pod> = pods.iter().copied().filter(|p| !is_terminal(p)).collect();
    if let Some(stuck) = pod::stuck(&active) {
        let why = pod::explain(state, stuck, profiles)?;
        return Ok(with_last_failure(Answer::of_part(about, &said, why), &pods));
    }
    if !active.is_empty() {
        let cause = format!("{said}; pods that run: {}", active.len());
        return Ok(with_last_failure(Answer::of(about, cause), &pods));
    }
    let failed = status.failed.unwrap_or(0);
    if failed > 0 {
        let limit = spec.backoff_limit.unwrap_or(BACKOFF_LIMIT);
        let cause = format!(
            "{said}; {failed} pods have failed, of at most {limit}: the next waits for a while"
        );
        return Ok(with_last_failure(Answer::of(about, cause), &pods));
    }
    let said = format!("{said}; its pods have not been made yet");
    Ok(reported::not_made(state, of, about, &said, "job"))
}

fn has_failed(about: String, condition: &JobCondition) -> Answer {
    let reason = condition.reason.as_deref().unwrap_or_default();
    let message = condition.message.as_deref().unwrap_or_default();
    let change = match reason {
        "BackoffLimitExceeded" => "mend what its pods fail on, and create it again",
        "DeadlineExceeded" => "create it again with a longer activeDeadlineSeconds",
        _ => "mend what failed, and create it again",
    };
    Answer::of(about, format!("it has failed: {reason}: {message}")).change(change)
}

/// How the pod ended that failed last, where one is still there.
fn with_last_failure(answer: Answer, pods: &[&Pod]) -> Answer {
    let has_failed = |p: &&&Pod| {
        let status = p.status.as_ref();
        status.and_then(|s| s.phase.as_deref()) == Some("Failed")
    };
    let made = |p: &&&Pod| p.creation_timestamp().map(|t| t.0);
    let Some(last) = pods.iter().filter(has_failed).max_by_key(made) else {
        return answer;
    };
    match pod::ended(last) {
        Some(why) => answer.note(format!("pod {} failed: {why}", last.name_any())),
        None => answer,
    }
}
