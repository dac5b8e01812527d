//! The plan of a CronJob. A Job is named after its time, so that no time has two; the status
//! follows from the Jobs that are there.

use std::sync::Arc;
use std::time::Duration;

use api::cron_schedule::Schedule;
use client::Change;
use control::action::{Action, Plan, Propagation, Target};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::due::{self, Missed};
use crate::common::{is_deleting, key_of, uid_of, update_status, value_of, wake_at};
use crate::ownership::Parent;

/// The time of a Job, for people and for us.
pub const TIMESTAMP: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Clocks differ a little: the next look comes so much after the time.
const SLACK_MILLIS: i64 = 100;

/// A CronJob and the Jobs that it owns.
#[derive(Clone)]
pub struct Observed {
    pub cron: Arc<CronJob>,
    pub jobs: Vec<Arc<Job>>,
}

struct Cron<'a> {
    seen: &'a Observed,
    spec: &'a CronJobSpec,
    parent: Parent,
    /// As it will be written.
    status: CronJobStatus,
    now: Timestamp,
}

fn is_true(job: &Job, kind: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut all = conditions.into_iter().flatten();
    all.any(|c| c.type_ == kind && c.status == "True")
}

/// `Complete` or `Failed`.
fn ended(job: &Job) -> Option<&'static str> {
    ["Complete", "Failed"]
        .into_iter()
        .find(|kind| is_true(job, kind))
}

/// The time that a Job was made for.
fn time_of(job: &Job) -> Option<Timestamp> {
    let text = job.metadata.annotations.as_ref()?.get(TIMESTAMP)?;
    text.parse().ok()
}

/// When it ran last, or else was made.
fn ran(cron: &CronJob, status: &CronJobStatus, now: Timestamp) -> Timestamp {
    let created = cron.metadata.creation_timestamp.as_ref();
    let ran = status.last_schedule_time.as_ref().or(created);
    ran.map_or(now, |t| t.0)
}

/// How long a CronJob that has changed may wait. A new schedule is looked at when its next time comes:
/// what it would have named before is not made up for.
pub fn wait_of(change: &Change<CronJob>, now_millis: i64) -> Duration {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        return Duration::ZERO;
    };
    let is_same = old.metadata.uid == new.metadata.uid;
    let timing = |cron: &CronJob| (cron.spec.schedule.clone(), cron.spec.time_zone.clone());
    if !is_same || timing(old) == timing(new) {
        return Duration::ZERO;
    }
    let next = || {
        let now = Timestamp::from_millisecond(now_millis).ok()?;
        let zone = api::cron_schedule::zone(new.spec.time_zone.as_deref().unwrap_or_default())?;
        let schedule = Schedule::parse(&new.spec.schedule).ok()?;
        let status = new.status.clone().unwrap_or_default();
        let next = due::next_look(&schedule, &zone, ran(new, &status, now), now)?;
        u64::try_from(next.as_millisecond() + SLACK_MILLIS - now_millis).ok()
    };
    // What cannot be read is reported at once.
    next().map_or(Duration::ZERO, Duration::from_millis)
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let Ok(now) = Timestamp::from_millisecond(now_millis) else {
        return plan;
    };
    let mut cron = Cron {
        seen,
        spec: &seen.cron.spec,
        parent: Parent::selecting(&*seen.cron, None),
        status: seen.cron.status.clone().unwrap_or_default(),
        now,
    };
    cron.clean_up(&mut plan);
    cron.follow_jobs(&mut plan);
    if !cron.parent.deleting {
        cron.start(&mut plan);
    }
    let zero = |mut s: CronJobStatus| {
        s.active = s.active.filter(|a| !a.is_empty());
        s
    };
    let status = zero(cron.status);
    if status != zero(seen.cron.status.clone().unwrap_or_default()) {
        // What is replaced is active until it was deleted.
        let replaces = !plan.then.is_empty();
        let stage = if replaces {
            &mut plan.then
        } else {
            &mut plan.last
        };
        stage.push(update_status(&*seen.cron, value_of(&status)));
    }
    plan
}

impl Cron<'_> {
    fn event(&self, warning: bool, reason: &'static str, message: String) -> Action {
        Action::Event {
            about: self.parent.about.clone(),
            warning,
            reason,
            message,
        }
    }

    fn delete(&self, job: &Job) -> Action {
        let (namespace, name) = key_of(job);
        let action = Action::Delete {
            target: Target::of::<Job>(&namespace, &name),
            uid: Some(uid_of(job)),
            resource_version: None,
            grace_seconds: None,
            propagation: Some(Propagation::Background),
        };
        action.noted(
            &self.parent.about,
            ("SuccessfulDelete", format!("Deleted job {name}")),
            ("FailedDelete", "Deleted job: {error}".into()),
        )
    }

    /// Deletes the oldest of the Jobs that have ended.
    fn clean_up(&self, plan: &mut Plan) {
        for (kind, limit) in [
            ("Complete", self.spec.successful_jobs_history_limit),
            ("Failed", self.spec.failed_jobs_history_limit),
        ] {
            let Some(limit) = limit else { continue };
            let ours = self.seen.jobs.iter().filter(|j| !is_deleting(&***j));
            let mut jobs: Vec<_> = ours.filter(|j| ended(j) == Some(kind)).collect();
            // Those that never started last.
            jobs.sort_by_cached_key(|j| {
                let start = j.status.as_ref().and_then(|s| s.start_time.as_ref());
                (start.is_none(), start.map(|t| t.0), j.metadata.name.clone())
            });
            let too_many = jobs
                .len()
                .saturating_sub(usize::try_from(limit).unwrap_or(0));
            plan.actions
                .extend(jobs.into_iter().take(too_many).map(|j| self.delete(j)));
        }
    }

    /// Takes over into the status what became of the Jobs.
    fn follow_jobs(&mut self, plan: &mut Plan) {
        let mut active = self.status.active.take().unwrap_or_default();
        for job in &self.seen.jobs {
            let (_, name) = key_of(&**job);
            let uid = uid_of(&**job);
            let known = active.iter().any(|a| a.uid.as_deref() == Some(&*uid));
            let time = time_of(job).filter(|t| self.job_name(*t) == name);
            if let Some(time) = time {
                let published = self.status.last_schedule_time.as_ref();
                if published.is_none_or(|t| t.0 < time) {
                    self.status.last_schedule_time = Some(Time(time));
                }
            }
            match (ended(job), known) {
                (None, true) => {}
                (None, false) if time.is_some() && !is_deleting(&**job) => {
                    active.push(ObjectReference {
                        resource_version: job.metadata.resource_version.clone(),
                        ..control::action::reference(&**job)
                    })
                }
                (None, false) => plan.last.push(self.event(
                    true,
                    "UnexpectedJob",
                    format!("Saw a job that the controller did not create or forgot: {name}"),
                )),
                (Some(how), known) => {
                    if known {
                        active.retain(|a| a.uid.as_deref() != Some(&*uid));
                        let text = format!("Saw completed job: {name}, condition: {how}");
                        plan.last.push(self.event(false, "SawCompletedJob", text));
                    }
                    self.note_success(job, how);
                }
            }
        }
        let exists = |a: &ObjectReference| {
            self.seen
                .jobs
                .iter()
                .any(|j| a.uid.as_deref() == j.metadata.uid.as_deref())
        };
        for gone in active.iter().filter(|a| !exists(a)) {
            let name = gone.name.as_deref().unwrap_or_default();
            plan.last.push(self.event(
                false,
                "MissingJob",
                format!("Active job went missing: {name}"),
            ));
        }
        active.retain(exists);
        self.status.active = Some(active);
    }

    fn note_success(&mut self, job: &Job, how: &str) {
        let done = job.status.as_ref().and_then(|s| s.completion_time.as_ref());
        let Some(done) = done.filter(|_| how == "Complete") else {
            return;
        };
        let published = self.status.last_successful_time.as_ref();
        if published.is_none_or(|t| t.0 < done.0) {
            self.status.last_successful_time = Some(done.clone());
        }
    }

    fn job_name(&self, at: Timestamp) -> String {
        format!("{}-{}", self.parent.name, at.as_second().div_euclid(60))
    }

    /// Starts the Job that is due, if one is and it may.
    fn start(&mut self, plan: &mut Plan) {
        let name = self.spec.time_zone.as_deref();
        let Some(zone) = api::cron_schedule::zone(name.unwrap_or_default()) else {
            let name = name.unwrap_or_default();
            let text = format!("invalid timeZone: {name:?}: unknown time zone {name}");
            plan.last.push(self.event(true, "UnknownTimeZone", text));
            return;
        };
        if self.spec.suspend == Some(true) {
            return;
        }
        let text = &self.spec.schedule;
        if text.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            plan.last
                .push(self.event(true, "UnsupportedSchedule", message));
        }
        let schedule = match Schedule::parse(text) {
            Ok(schedule) => schedule,
            Err(why) => {
                let message = format!("unparseable schedule: {text:?} : {why}");
                plan.last
                    .push(self.event(true, "UnparseableSchedule", message));
                return;
            }
        };
        let Ok(due) = due::last(&schedule, &zone, self.since(), self.now) else {
            let why = "time difference between two schedules is less than 1 second";
            let message = format!("invalid schedule: {text} : {why}");
            plan.last.push(self.event(true, "InvalidSchedule", message));
            return;
        };
        if due.missed == Missed::Many && due.at.is_some() {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            plan.last
                .push(self.event(true, "TooManyMissedTimes", text.into()));
        }
        if let Some(at) = due.at {
            self.run(at, &zone, plan);
        }
        let since = ran(&self.seen.cron, &self.status, self.now);
        let next = due::next_look(&schedule, &zone, since, self.now);
        let next = next.map(|t| t.as_millisecond() + SLACK_MILLIS);
        wake_at(next, self.now.as_millisecond(), plan);
    }

    /// Times after this one are looked at.
    fn since(&self) -> Timestamp {
        let since = ran(&self.seen.cron, &self.status, self.now);
        let deadline = self.spec.starting_deadline_seconds;
        let earliest =
            deadline.and_then(|d| self.now.checked_sub(SignedDuration::from_secs(d)).ok());
        earliest.map_or(since, |e| e.max(since))
    }

    fn run(&mut self, at: Timestamp, zone: &TimeZone, plan: &mut Plan) {
        if let Some(deadline) = self.spec.starting_deadline_seconds {
            let latest = at.checked_add(SignedDuration::from_secs(deadline));
            if latest.is_ok_and(|l| l < self.now) {
                let published = at
                    .to_zoned(TimeZone::UTC)
                    .strftime("%a, %d %b %Y %H:%M:%S %z");
                let text = format!("Missed scheduled time to start a job: {published}");
                plan.last.push(self.event(true, "MissSchedule", text));
                return;
            }
        }
        let name = self.job_name(at);
        let exists = self
            .seen
            .jobs
            .iter()
            .any(|j| j.metadata.name.as_ref() == Some(&name));
        let published = self.status.last_schedule_time.as_ref();
        if exists || published.is_some_and(|t| t.0 == at) {
            return;
        }
        let active = self.status.active.as_deref().unwrap_or_default();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                plan.last
                    .push(self.event(false, "JobAlreadyActive", text.into()));
                return;
            }
            Some("Replace") => {
                let is_active = |j: &&Arc<Job>| {
                    active
                        .iter()
                        .any(|a| a.uid.as_deref() == j.metadata.uid.as_deref())
                };
                let jobs = self.seen.jobs.iter().filter(is_active);
                let jobs = jobs.filter(|j| !is_deleting(&***j));
                let deletions: Vec<_> = jobs.map(|j| self.delete(j)).collect();
                self.status.active = None;
                if !deletions.is_empty() {
                    plan.actions.extend(deletions);
                    // Not beside what it replaces.
                    return plan.then.push(self.create(&name, at, zone));
                }
            }
            _ => {}
        }
        plan.last.push(self.create(&name, at, zone));
    }

    fn create(&self, name: &str, at: Timestamp, zone: &TimeZone) -> Action {
        let template = value_of(&self.spec.job_template);
        let mut metadata = json!({ "name": name, "namespace": self.parent.namespace,
            "ownerReferences": [self.parent.reference] });
        for field in ["labels", "annotations"] {
            let given = template["metadata"][field].clone();
            metadata[field] = if given.is_object() { given } else { json!({}) };
        }
        let local = at.to_zoned(zone.clone());
        let text = if zone.to_offset(at).is_zero() {
            local.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
        } else {
            local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
        };
        metadata["annotations"][TIMESTAMP] = json!(text);
        let object: Value = json!({ "apiVersion": "batch/v1", "kind": "Job",
            "metadata": metadata, "spec": template["spec"] });
        let target = Target::of::<Job>(&self.parent.namespace, name);
        Action::Create { target, object }.noted(
            &self.parent.about,
            ("SuccessfulCreate", format!("Created job {name}")),
            ("FailedCreate", "Error creating job: {error}".into()),
        )
    }
}
