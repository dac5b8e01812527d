//! What the decisions about a Job look at: its pods by what became of them, and what is counted
//! already.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use super::outcome::{Ending, is_true};
use super::pod::{failures_before, has_failed, index_of, is_tracked};
use super::policy::{Verdict, judge};
use crate::common::{count, is_active, is_deleting, is_finished, phase, uid_of};

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

    /// Not counted yet, and of an index that is wanted. One that is ended while it runs is counted as
    /// failed; if it then ends well after all it is not counted a second time.
    fn is_valid(&self, pod: &Pod) -> bool {
        let uid = uid_of(pod);
        let is_counted =
            self.uncounted_succeeded.contains(&uid) || self.uncounted_failed.contains(&uid);
        is_tracked(pod)
            && !is_counted
            && (self.indexed().is_none() || self.valid_index(pod).is_some())
    }

    fn newly_succeeded(&self) -> impl Iterator<Item = &&'a Arc<Pod>> {
        let pods = self.pods.iter().filter(|p| phase(p) == "Succeeded");
        pods.filter(|p| self.is_valid(p))
    }

    fn newly_failed(&self) -> impl Iterator<Item = &&'a Arc<Pod>> {
        let pods = self.pods.iter().filter(|p| has_failed(self.job, p));
        pods.filter(|p| self.is_valid(p))
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
}
