//! What the decisions about a Job look at: its pods by what became of them, what is counted
//! already, and whether it ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use control::Plan;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use super::pod::{failures_before, has_failed, index_of, is_tracked};
use super::policy::{self, Verdict, judge};
use crate::common::{
    count, is_active, is_deleting, is_finished, millis_of, phase, time_at, uid_of, wake_at,
};

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

pub struct State<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    /// As it will be written.
    pub status: JobStatus,
    pub pods: Vec<&'a Arc<Pod>>,
    /// Tracked and active: those that were let go without being counted are about to be deleted.
    pub active: Vec<&'a Arc<Pod>>,
    pub uncounted_succeeded: BTreeSet<String>,
    pub uncounted_failed: BTreeSet<String>,
    /// As the status has them.
    pub published_succeeded: Indexes,
    pub succeeded_indexes: Indexes,
    pub failed_indexes: Indexes,
    pub succeeded: i32,
    pub failed: i32,
    pub ending: Option<Ending>,
    pub now_millis: i64,
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

pub fn is_finished_job(job: &Job) -> bool {
    let status = job.status.as_ref();
    status.is_some_and(|s| is_true(s, "Complete") || is_true(s, "Failed"))
}

impl<'a> State<'a> {
    pub fn new(job: &'a Job, spec: &'a JobSpec, pods: Vec<&'a Arc<Pod>>, now_millis: i64) -> Self {
        let mut status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        let set = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect();
        let (uncounted_succeeded, uncounted_failed) =
            (set(&uncounted.succeeded), set(&uncounted.failed));
        let tracked = |p: &&&Arc<Pod>| is_active(p) && is_tracked(p);
        let mut state = Self {
            job,
            spec,
            active: pods.iter().filter(tracked).copied().collect(),
            pods,
            uncounted_succeeded,
            uncounted_failed,
            published_succeeded: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: Indexes::default(),
            succeeded: 0,
            failed: 0,
            ending: None,
            status,
            now_millis,
        };
        state.count();
        state
    }

    /// The numbers as they are with what the status does not count yet.
    fn count(&mut self) {
        let published = |n: Option<i32>| n.unwrap_or(0);
        let verdict = |p: &Pod| judge(self.spec.pod_failure_policy.as_ref(), p);
        let succeeded = count(self.newly_succeeded());
        let failed = count(
            self.newly_failed()
                .filter(|p| verdict(p) != Verdict::Ignore),
        );
        let of = |set: &BTreeSet<String>| count(set.iter());
        self.failed = published(self.status.failed) + failed + of(&self.uncounted_failed);
        self.succeeded =
            published(self.status.succeeded) + succeeded + of(&self.uncounted_succeeded);
        let Some(completions) = self.indexed() else {
            return;
        };
        let read =
            |text: Option<&String>| Indexes::parse(text.map_or("", String::as_str), completions);
        let tracked = || self.pods.iter().filter(|p| is_tracked(p));
        let of = |p: &&&Arc<Pod>| self.valid_index(p);
        let ended = tracked().filter(|p| phase(p) == "Succeeded");
        let published = read(self.status.completed_indexes.as_ref());
        let limit = self.spec.backoff_limit_per_index;
        let lost_before = match limit {
            None => Indexes::default(),
            Some(_) => read(self.status.failed_indexes.as_ref()),
        };
        // An index ends once, however many pods it had.
        let ended = ended.filter_map(|p| of(&p));
        let now = published.with(ended.filter(|i| !lost_before.has(*i)));
        let failed = match limit {
            None => lost_before,
            Some(limit) => {
                // What the end of the Job ends is not what failed.
                let ends = ["FailureTarget", "SuccessCriteriaMet"];
                let ends = ends.iter().any(|c| is_true(&self.status, c));
                let lost = tracked().filter(|p| !ends && self.fails_index(p, limit));
                let lost = lost.filter_map(|p| of(&p));
                lost_before.with(lost.filter(|i| !now.has(*i)))
            }
        };
        self.succeeded = now.total();
        (
            self.published_succeeded,
            self.succeeded_indexes,
            self.failed_indexes,
        ) = (published, now, failed);
    }

    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        if !has_failed(self.job, pod) {
            return false;
        }
        match judge(self.spec.pod_failure_policy.as_ref(), pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => failures_before(pod).0 >= limit,
        }
    }

    /// The number of completions of an indexed Job.
    pub fn indexed(&self) -> Option<i32> {
        let indexed = self.spec.completion_mode.as_deref() == Some("Indexed");
        indexed.then(|| self.spec.completions.unwrap_or(0))
    }

    pub fn valid_index(&self, pod: &Pod) -> Option<i32> {
        let completions = self.indexed()?;
        index_of(pod).filter(|i| *i < completions)
    }

    /// Not counted yet, and of an index that is wanted.
    fn is_valid(&self, pod: &Pod) -> bool {
        is_tracked(pod) && (self.indexed().is_none() || self.valid_index(pod).is_some())
    }

    fn newly_succeeded(&self) -> impl Iterator<Item = &&'a Arc<Pod>> {
        let pods = self.pods.iter().filter(|p| phase(p) == "Succeeded");
        pods.filter(|p| self.is_valid(p) && !self.uncounted_succeeded.contains(&uid_of(&****p)))
    }

    fn newly_failed(&self) -> impl Iterator<Item = &&'a Arc<Pod>> {
        let pods = self.pods.iter().filter(|p| has_failed(self.job, p));
        pods.filter(|p| self.is_valid(p) && !self.uncounted_failed.contains(&uid_of(&****p)))
    }

    pub fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    pub fn terminating(&self) -> i32 {
        let ends = |p: &&&Arc<Pod>| is_deleting(&****p) && !is_finished(p);
        count(self.pods.iter().filter(ends))
    }

    /// Whether as many have succeeded as are wanted, and none is active any more.
    pub fn reached_completions(&self) -> bool {
        let enough = match self.spec.completions {
            None => self.succeeded > 0,
            Some(completions) => self.succeeded >= completions,
        };
        enough && self.active.is_empty()
    }

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
