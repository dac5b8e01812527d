//! Whether a Job has failed or succeeded, and why: what ends it, and the conditions that say so.

use control::Plan;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};

use super::pod::has_failed;
use super::policy::{self, Verdict, judge};
use super::state::State;
use crate::common::{millis_of, phase, time_at, wake_at};

/// Why a Job ends, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub failed: bool,
    pub reason: String,
    pub message: String,
    /// The reason of the event on a failure.
    pub event: &'static str,
}

/// Reasons of failures.
const REASONS: [&str; 6] = [
    "PodFailurePolicy",
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "MaxFailedIndexesExceeded",
    "FailedIndexes",
    "JobFailed",
];

impl Ending {
    fn failed(reason: &str, message: &str) -> Self {
        let event = REASONS.into_iter().find(|r| *r == reason);
        Self {
            failed: true,
            reason: reason.into(),
            message: message.into(),
            event: event.unwrap_or("JobFailed"),
        }
    }
    fn succeeded(reason: &str, message: &str) -> Self {
        Self {
            failed: false,
            ..Self::failed(reason, message)
        }
    }
    pub fn completions_reached() -> Self {
        Self::succeeded(
            "CompletionsReached",
            "Reached expected number of succeeded pods",
        )
    }
    fn of(condition: &JobCondition, failed: bool) -> Self {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let ending = Self::failed(&text(&condition.reason), &text(&condition.message));
        Self { failed, ..ending }
    }
}

pub fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now_millis: i64,
) -> JobCondition {
    let now = time_at(now_millis.div_euclid(1_000) * 1_000);
    JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now),
    }
}

fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let all = status.conditions.iter().flatten();
    all.into_iter()
        .find(|c| c.type_ == kind && c.status == "True")
}

pub fn is_true(status: &JobStatus, kind: &str) -> bool {
    find(status, kind).is_some()
}

/// Since when the Job has succeeded by its policy, to the second. What is deleted from then on is ended
/// by that, and has not failed.
pub fn succeeded_by_policy(status: &JobStatus) -> Option<i64> {
    let met = find(status, "SuccessCriteriaMet");
    let met = met.filter(|c| c.reason.as_deref() == Some("SuccessPolicy"))?;
    millis_of(met.last_transition_time.as_ref())
}

pub fn is_finished_job(job: &Job) -> bool {
    let status = job.status.as_ref();
    status.is_some_and(|s| is_true(s, "Complete") || is_true(s, "Failed"))
}

impl State<'_> {
    fn restarts(&self) -> i32 {
        let pods = self
            .pods
            .iter()
            .filter(|p| matches!(phase(p), "Running" | "Pending"));
        let statuses = pods.filter_map(|p| p.status.as_ref()).flat_map(|s| {
            let init = s.init_container_statuses.iter().flatten();
            init.chain(s.container_statuses.iter().flatten())
        });
        statuses.map(|s| s.restart_count).sum()
    }

    fn exceeds_backoff_limit(&self) -> bool {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let template = self.spec.template.spec.as_ref();
        let restarts = template.and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
        let past = || match limit {
            0 => self.restarts() > 0,
            limit => self.restarts() >= limit,
        };
        self.failed > limit || (restarts && past())
    }

    /// When the Job has been active for too long.
    fn deadline(&self) -> Option<i64> {
        let seconds = self
            .spec
            .active_deadline_seconds
            .filter(|_| !self.suspended())?;
        let start = millis_of(self.status.start_time.as_ref())?;
        Some(start.saturating_add(seconds.saturating_mul(1_000)))
    }
}

/// Whether the Job ends. What was decided once is kept; failures are looked at before successes.
pub fn ending(state: &State<'_>, plan: &mut Plan) -> Option<Ending> {
    if let Some(met) = find(&state.status, "SuccessCriteriaMet") {
        return Some(Ending::of(met, false));
    }
    if let Some(target) = find(&state.status, "FailureTarget") {
        return Some(Ending::of(target, true));
    }
    let policy = state.spec.pod_failure_policy.as_ref();
    let failed = state
        .pods
        .iter()
        .filter(|p| policy.is_some() && has_failed(state.job, p));
    let mut fatal = failed.filter_map(|p| match judge(policy, p) {
        Verdict::FailJob(why) => Some(why),
        _ => None,
    });
    if let Some(why) = fatal.next() {
        return Some(Ending::failed("PodFailurePolicy", &why));
    }
    if state.exceeds_backoff_limit() {
        let text = "Job has reached the specified backoff limit";
        return Some(Ending::failed("BackoffLimitExceeded", text));
    }
    let deadline = state.deadline();
    if deadline.is_some_and(|d| d <= state.now_millis) {
        let text = "Job was active longer than specified deadline";
        return Some(Ending::failed("DeadlineExceeded", text));
    }
    wake_at(deadline, state.now_millis, plan);
    let completions = state.indexed()?;
    if state.spec.backoff_limit_per_index.is_some() {
        let lost = state.failed_indexes.total();
        if state
            .spec
            .max_failed_indexes
            .is_some_and(|most| lost > most)
        {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Ending::failed("MaxFailedIndexesExceeded", text));
        }
        if lost > 0 && lost + state.succeeded_indexes.total() >= completions {
            return Some(Ending::failed("FailedIndexes", "Job has failed indexes"));
        }
    }
    let policy = state.spec.success_policy.as_ref();
    let met = policy::success(policy, completions, &state.succeeded_indexes)?;
    Some(Ending::succeeded("SuccessPolicy", &met))
}
