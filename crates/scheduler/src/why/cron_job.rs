//! Why a CronJob starts no Jobs, or what became of the last one.

use api::cron_schedule::{self, Schedule};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt;

use super::report::{Answer, Profiles, WhyError};
use super::state::{self, State};
use super::{job, reported};

pub fn explain(state: &State, of: &CronJob, profiles: Profiles<'_>) -> Result<Answer, WhyError> {
    let (namespace, name) = (of.namespace().unwrap_or_default(), of.name_any());
    let about = format!("cronjob {namespace}/{name}");
    if let Some(held) = state::held(of) {
        return Ok(Answer::of(about, held));
    }
    let spec = &of.spec;
    if spec.suspend == Some(true) {
        let answer = Answer::of(about, "it is suspended: no Job comes at its times");
        return Ok(answer.change("set spec.suspend to false"));
    }
    let zone = spec.time_zone.as_deref().unwrap_or_default();
    if cron_schedule::zone(zone).is_none() {
        let answer = Answer::of(about, format!("its time zone {zone:?} is not known"));
        return Ok(answer.change("name one as the IANA database has it, such as Europe/Berlin"));
    }
    let schedule = &spec.schedule;
    if let Err(why) = Schedule::parse(schedule) {
        let answer = Answer::of(
            about,
            format!("its schedule {schedule:?} cannot be read: {why}"),
        );
        return Ok(answer.change("write five fields, such as \"0 2 * * *\""));
    }
    let uid = of.uid().unwrap_or_default();
    let own = state.jobs.iter();
    let own = own.filter(|j| state::controller(*j).is_some_and(|o| o.uid == uid));
    let newest: Option<&Job> = own.max_by_key(|j| j.creation_timestamp().map(|t| t.0));
    let status = of.status.clone().unwrap_or_default();
    let runs = status.active.is_some_and(|all| !all.is_empty());
    if let Some(newest) = newest.filter(|_| runs) {
        let held = match spec.concurrency_policy.as_deref() {
            Some("Forbid") => {
                "its last Job runs, and by its concurrencyPolicy no other comes before"
            }
            _ => "its last Job runs",
        };
        return Ok(Answer::of_part(
            about,
            held,
            job::explain(state, newest, profiles)?,
        ));
    }
    if let Some(event) = reported::last_warning(state, of, |_| true) {
        let message = event.message.as_deref().unwrap_or_default();
        let cause = format!("what went wrong last: {}", reported::quoted(event));
        return Ok(reported::refused(Answer::of(about, cause), message));
    }
    if let Some(newest) = newest {
        let part = job::explain(state, newest, profiles)?;
        return Ok(Answer::of_part(about, "no Job of it runs", part));
    }
    let cause = match status.last_schedule_time {
        Some(at) => format!("no Job of it is left; the last came at {}", at.0),
        None => format!("no time of its schedule {schedule:?} has come yet"),
    };
    Ok(Answer::of(about, cause))
}
