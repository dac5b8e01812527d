//! What is counted of Jobs and CronJobs.

use std::sync::{Arc, LazyLock};

use control::{Action, Count, Plan};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use metrics::{Counters, Histograms, exponential};

use super::{counted, status};

struct Jobs {
    syncs: Counters<3>,
    seconds: Histograms<3>,
    finished: Counters<3>,
    pods_finished: Counters<2>,
    pods_created: Counters<2>,
}

static JOBS: LazyLock<Jobs> = LazyLock::new(|| {
    let name = |n: &str| format!("job_controller_{n}");
    let sync = ["completion_mode", "result", "action"];
    Jobs {
        syncs: Counters::new(&name("job_syncs_total"), "The number of job syncs", sync),
        seconds: Histograms::new(
            &name("job_sync_duration_seconds"),
            "The time it took to sync a job",
            sync,
            &exponential(0.004, 2.0, 15),
        ),
        finished: Counters::new(
            &name("jobs_finished_total"),
            "The number of finished jobs",
            ["completion_mode", "result", "reason"],
        ),
        pods_finished: Counters::new(
            &name("job_pods_finished_total"),
            "The number of finished Pods that are fully tracked",
            ["completion_mode", "result"],
        ),
        pods_created: Counters::new(
            &name("job_pods_creation_total"),
            "The number of Pods created by the Job controller labelled with a reason for the Pod creation",
            ["reason", "status"],
        ),
    }
});

/// How a status says that its Job ended: the result and its reason.
fn ending(status: &JobStatus) -> Option<(&'static str, String)> {
    let conditions = status.conditions.iter().flatten();
    let mut ended = conditions.filter(|c| c.status == "True");
    ended.find_map(|c| {
        let result = match c.type_.as_str() {
            "Complete" => "succeeded",
            "Failed" => "failed",
            _ => return None,
        };
        Some((result, c.reason.clone().unwrap_or_default()))
    })
}

fn mode(job: &Job) -> &'static str {
    let mode = job.spec.as_ref().and_then(|s| s.completion_mode.as_deref());
    match mode {
        Some("Indexed") => "Indexed",
        _ => "NonIndexed",
    }
}

/// Why a Job makes pods: the first ones, or in the place of others.
fn why_made(job: &Job, status: &JobStatus) -> &'static str {
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let named = uncounted.and_then(|u| u.failed.as_ref());
    let failed = status.failed.is_some_and(|n| n > 0) || named.is_some_and(|n| !n.is_empty());
    let spec = job.spec.as_ref();
    match spec.and_then(|s| s.pod_replacement_policy.as_deref()) {
        Some("Failed") if failed => "recreate_failed",
        _ if failed || status.terminating.is_some_and(|n| n > 0) => {
            "recreate_terminating_or_failed"
        }
        _ => "new",
    }
}

/// Of a Job.
pub fn jobs(job: Option<&Arc<Job>>, plan: &Plan) -> Option<Count> {
    let job = job?.clone();
    let (created, deleted) = (
        counted(plan, "pods", "create"),
        counted(plan, "pods", "delete"),
    );
    let action = match (created, deleted) {
        (0, 0) => "reconciling",
        (0, _) => "pods_deleted",
        _ => "pods_created",
    };
    let written =
        status(plan, "jobs").and_then(|s| serde_json::from_value::<JobStatus>(s.clone()).ok());
    let known = written.as_ref().or(job.status.as_ref());
    let why = known.map_or("new", |status| why_made(&job, status));
    Some(Box::new(move |took, well| {
        let (metrics, mode) = (&*JOBS, mode(&job));
        let labels = [mode, if well { "success" } else { "error" }, action];
        metrics.syncs.add(labels);
        metrics.seconds.observe(labels, took.as_secs_f64());
        let outcome = if well { "succeeded" } else { "failed" };
        metrics.pods_created.of([why, outcome]).inc_by(created);
        let Some(status) = written.filter(|_| well) else {
            return;
        };
        let before = job.status.clone().unwrap_or_default();
        let more = |now: Option<i32>, then: Option<i32>| {
            u64::try_from(now.unwrap_or(0) - then.unwrap_or(0)).unwrap_or(0)
        };
        let pods = &metrics.pods_finished;
        pods.of([mode, "succeeded"])
            .inc_by(more(status.succeeded, before.succeeded));
        pods.of([mode, "failed"])
            .inc_by(more(status.failed, before.failed));
        if let Some((result, reason)) = ending(&status).filter(|_| ending(&before).is_none()) {
            metrics.finished.add([mode, result, &reason]);
        }
    }))
}

struct Crons {
    skew: Histograms<0>,
}

static CRONS: LazyLock<Crons> = LazyLock::new(|| Crons {
    skew: Histograms::new(
        "cronjob_controller_job_creation_skew_duration_seconds",
        "Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
        [],
        &exponential(1.0, 2.0, 10),
    ),
});

/// Of a CronJob; `annotation` of a Job says when it should have begun, `now_millis` is when it was
/// planned.
pub fn crons(plan: &Plan, annotation: &str, now_millis: i64) -> Option<Count> {
    let scheduled = plan.all().find_map(|action| match action {
        Action::Create { object, .. } => {
            let path = ["metadata", "annotations", annotation];
            let found = path.iter().try_fold(object, |o, key| o.get(key))?;
            found.as_str()?.parse::<jiff::Timestamp>().ok()
        }
        _ => None,
    })?;
    Some(Box::new(move |took, well| {
        if well {
            let late = (now_millis - scheduled.as_millisecond()) as f64 / 1000.0;
            CRONS.skew.observe([], late.max(0.0) + took.as_secs_f64());
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use control::action::Target;
    use serde_json::json;

    use super::super::{object, shows};
    use super::*;

    #[test]
    fn a_job_that_ends_is_counted_once_with_its_pods() {
        let before: Job = object(json!({
            "metadata": { "name": "j", "namespace": "n" },
            "spec": { "completionMode": "Indexed", "template": {} },
            "status": { "succeeded": 1 },
        }));
        let ended = json!({
            "succeeded": 3, "failed": 1,
            "conditions": [{ "type": "Complete", "status": "True", "reason": "CompletionsReached" }],
        });
        let plan = Plan::from(crate::common::update_status(&before, ended));
        jobs(Some(&Arc::new(before)), &plan).expect("a count")(Duration::from_secs(1), true);
        for line in [
            "job_controller_job_syncs_total{completion_mode=\"Indexed\",result=\"success\",action=\"reconciling\"} 1",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"succeeded\"} 2",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"failed\"} 1",
            "job_controller_jobs_finished_total{completion_mode=\"Indexed\",result=\"succeeded\",reason=\"CompletionsReached\"} 1",
        ] {
            assert!(shows(line), "{line} in {}", metrics::lines());
        }
    }

    #[test]
    fn pods_of_a_job_are_made_first_or_again() {
        for (policy, status, why) in [
            ("Failed", json!({}), "new"),
            ("Failed", json!({ "failed": 1 }), "recreate_failed"),
            (
                "Failed",
                json!({ "terminating": 1 }),
                "recreate_terminating_or_failed",
            ),
            (
                "TerminatingOrFailed",
                json!({ "uncountedTerminatedPods": { "failed": ["a"] } }),
                "recreate_terminating_or_failed",
            ),
            ("TerminatingOrFailed", json!({ "succeeded": 1 }), "new"),
        ] {
            let job: Job = object(json!({ "metadata": { "name": "j" },
                "spec": { "podReplacementPolicy": policy, "template": {} } }));
            let found = why_made(&job, &object(status.clone()));
            assert_eq!(found, why, "{policy} {status}");
        }
    }

    #[test]
    fn a_job_of_a_cron_is_late_from_its_scheduled_time() {
        let job = json!({ "metadata": { "name": "j", "annotations": {
            "scheduled": "1970-01-01T00:00:10Z" } } });
        let plan = Plan::from(Action::Create {
            target: Target::of::<Job>("n", "j"),
            object: job,
        });
        crons(&plan, "scheduled", 13_000).expect("a count")(Duration::ZERO, true);
        assert!(shows(
            "cronjob_controller_job_creation_skew_duration_seconds_sum 3.0"
        ));
        assert!(crons(&Plan::nothing(), "scheduled", 0).is_none());
    }
}
