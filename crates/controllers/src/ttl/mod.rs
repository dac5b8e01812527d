//! Jobs that have ended are deleted, with their pods, after the time that they name.

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::{Action, Propagation, Target};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::batch::v1::Job;

use crate::common::{Key, is_deleting, key_of, millis_of, uid_of, wake_at};

pub struct TtlAfterFinished {
    jobs: Informer<Job>,
}

impl TtlAfterFinished {
    pub fn new(informers: &Informers) -> Self {
        Self {
            jobs: informers.of(),
        }
    }
}

/// When the Job has ended, by its condition.
fn ended_millis(job: &Job) -> Option<i64> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    millis_of(ended.last_transition_time.as_ref())
}

/// The deletion of a Job whose time is over.
pub fn plan(job: &Job, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let ttl = job.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished);
    let (Some(ttl), Some(ended)) = (ttl, ended_millis(job)) else {
        return plan;
    };
    if is_deleting(job) {
        return plan;
    }
    let due = ended.saturating_add(i64::from(ttl) * 1_000);
    if due > now_millis {
        wake_at(Some(due), now_millis, &mut plan);
        return plan;
    }
    let (namespace, name) = key_of(job);
    plan.actions.push(Action::Delete {
        target: Target::of::<Job>(&namespace, &name),
        uid: Some(uid_of(job)),
        // The time may be changed at the last moment.
        resource_version: job.metadata.resource_version.clone(),
        grace_seconds: None,
        propagation: Some(Propagation::Foreground),
    });
    plan
}

impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";
    const QUEUE: &'static str = "ttl_jobs_to_delete";
    const ACCOUNT: &'static str = "ttl-after-finished-controller";
    type Key = Key;
    type Observed = Arc<Job>;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.jobs, |job| vec![key_of(job)]);
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Arc<Job>> {
        self.jobs.get(namespace, name)
    }

    fn plan(&self, job: &Arc<Job>, now_millis: i64) -> Plan {
        plan(job, now_millis)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(ttl: Value, condition: &str, status: &str) -> Job {
        let job = json!({ "metadata": { "name": "j", "namespace": "a", "uid": "u", "resourceVersion": "7" },
            "spec": { "ttlSecondsAfterFinished": ttl, "template": {} },
            "status": { "conditions": [{ "type": condition, "status": status, "lastTransitionTime": "1970-01-01T00:01:40Z" }] } });
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn a_job_goes_when_its_time_is_over() {
        for (ttl, condition, status, now, wake, deletes) in [
            (json!(30), "Complete", "True", 129_999, Some(1), false),
            (json!(30), "Complete", "True", 130_000, None, true),
            (json!(0), "Failed", "True", 100_000, None, true),
            (json!(null), "Failed", "True", 900_000, None, false),
            (json!(30), "Failed", "False", 900_000, None, false),
            (json!(30), "FailureTarget", "True", 900_000, None, false),
        ] {
            let plan = plan(&job(ttl.clone(), condition, status), now);
            assert_eq!(
                (plan.wake_after_millis, !plan.is_empty()),
                (wake, deletes),
                "{ttl} {condition} {now}"
            );
        }
    }
}
