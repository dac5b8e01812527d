//! Job: pods that run to their end, each counted once. What happens to its pods, and to its status,
//! is gathered over a second, as upstream does: a Job of thousands of pods would else be written for
//! each of them.

use std::time::Duration;

use client::{Change, Informer, Informers};
use control::{Controller, Count, Plan, Watches};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::common::{Key, controller_of, key_of, selector_of, uid_of};
use crate::{metrics, ownership};

mod backoff;
mod count;
pub mod indexes;
mod outcome;
pub mod plan;
mod pod;
mod policy;
mod run;
mod state;
#[cfg(test)]
mod tests;

pub use outcome::is_finished_job;
pub use plan::Observed;

/// The index of pods that are not counted yet, by namespace and name of their Job.
const TRACKED: &str = "tracked by job";
/// How long changes of pods and of the status are gathered before the Job is looked at.
const GATHERED: Duration = Duration::from_secs(1);
/// Says of a pod without an owner which Job made it.
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";

pub struct Jobs {
    jobs: Informer<Job>,
    pods: Informer<Pod>,
}

impl Jobs {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            jobs: informers.of(),
            pods: informers.of(),
        };
        ownership::index(&all.pods);
        all.pods.index(TRACKED, |pod| {
            let key = job_of(pod).filter(|_| pod::is_tracked(pod));
            key.map(|(ns, name)| format!("{ns}/{name}"))
                .into_iter()
                .collect()
        });
        all
    }
}

/// The Job that a pod is of, or was. The name is empty, as no Job's is, where nothing says which; others
/// have kinds of their own that are called so.
fn job_of(pod: &Pod) -> Option<Key> {
    let namespace = pod.namespace().unwrap_or_default();
    match controller_of(pod) {
        Some(owner) if owner.kind == "Job" && owner.api_version == "batch/v1" => {
            Some((namespace, owner.name.clone()))
        }
        Some(_) => None,
        None => {
            let labels = pod.metadata.labels.as_ref();
            let name = labels.and_then(|l| l.get(NAME_LABEL)).cloned();
            Some((namespace, name.unwrap_or_default()))
        }
    }
}

/// The Jobs that a pod is of, or could be.
fn concerned(jobs: &Informer<Job>, pod: &Pod) -> Vec<Key> {
    let selector = |j: &Job| selector_of(j.spec.as_ref().and_then(|s| s.selector.as_ref()));
    let mut keys = ownership::concerned(pod, "Job", |ns| {
        let all = jobs.list_namespace(ns);
        all.iter().map(|j| (key_of(&**j), selector(j))).collect()
    });
    if keys.is_empty() && pod::is_tracked(pod) {
        keys.extend(job_of(pod));
    }
    keys
}

/// A Job that is new, changed by its users or gone is looked at at once.
fn wait_of(change: &Change<Job>) -> Duration {
    let is_status_alone = |old: &Job, new: &Job| {
        old.metadata.uid == new.metadata.uid
            && old.metadata.generation == new.metadata.generation
            && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
    };
    match (&change.old, &change.new) {
        (Some(old), Some(new)) if is_status_alone(old, new) => GATHERED,
        _ => Duration::ZERO,
    }
}

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";
    const QUEUE: &'static str = "job";
    const ACCOUNT: &'static str = "job-controller";
    const ADOPTS: bool = true;
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on_change_after(&self.jobs, |change| {
            let job = change.new.as_ref().or(change.old.as_ref());
            job.map(|j| (key_of(&**j), wait_of(change)))
                .into_iter()
                .collect()
        });
        let jobs = self.jobs.clone();
        watches.on_change_after(&self.pods, move |change| {
            let both = change.old.iter().chain(&change.new);
            let keys = both.flat_map(|pod| concerned(&jobs, pod));
            // A pod whose Job is gone or finished is only let go, and nothing is gathered for that.
            let counts =
                |(ns, name): &Key| jobs.get(ns, name).is_some_and(|j| !is_finished_job(&j));
            let wait = |key: &Key| {
                if counts(key) {
                    GATHERED
                } else {
                    Duration::ZERO
                }
            };
            keys.map(|key| (key.clone(), wait(&key))).collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let job = self.jobs.get(namespace, name);
        let mut pods = self.pods.by_index(TRACKED, &format!("{namespace}/{name}"));
        if let Some(job) = &job {
            let selector = selector_of(job.spec.as_ref().and_then(|s| s.selector.as_ref()));
            let uid = uid_of(&**job);
            pods.extend(ownership::candidates(
                &self.pods, namespace, &uid, &selector,
            ));
        }
        pods.sort_by_cached_key(|p| p.name_any());
        pods.dedup_by(|a, b| a.metadata.name == b.metadata.name);
        Some(Observed { job, pods })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }

    fn metrics(&self, observed: &Observed, plan: &Plan) -> Option<Count> {
        metrics::jobs(observed.job.as_ref(), plan)
    }
}
