//! The plan of a Job. What its pods came to is written down in three steps, each of which may be
//! repeated: the status names a pod that ended, the pod loses its finalizer, the status counts it.
//! So each pod is counted once, whatever fails in between.

use std::collections::BTreeSet;
use std::sync::Arc;

use control::action::{Action, Plan};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::count;
use super::outcome::{Ending, condition, ending, is_finished_job, is_true};
use super::pod::{TRACKED, is_tracked, untrack};
use super::run;
use super::state::State;
use crate::common::{is_active, is_ready, time_at, uid_of, update_status, value_of, wake_at};
use crate::ownership::{Parent, any};

/// A Job, if it is there, and the pods that are its own, could be, or once were and still have the
/// finalizer.
#[derive(Clone)]
pub struct Observed {
    pub job: Option<Arc<Job>>,
    pub pods: Vec<Arc<Pod>>,
}

/// The name under which this controller manages Jobs.
const MANAGER: &str = "kubernetes.io/job-controller";

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let Some(job) = seen.job.as_deref() else {
        plan.actions.extend(untracked(&seen.pods, |_| true));
        return plan;
    };
    let Some(spec) = job.spec.as_ref() else {
        return plan;
    };
    if spec.managed_by.as_deref().is_some_and(|m| m != MANAGER) {
        return plan;
    }
    if is_finished_job(job) {
        plan.actions.extend(untracked(&seen.pods, |_| true));
        return plan;
    }
    let mut parent = Parent::selecting(job, spec.selector.as_ref());
    parent.finalizer = Some(TRACKED);
    let own = parent.claim(&seen.pods, any, any, &mut plan);
    if !plan.actions.is_empty() {
        // What is adopted is counted when it has its finalizer.
        wake_at(Some(now_millis), now_millis, &mut plan);
        return plan;
    }
    // Of an earlier Job of this name.
    let owned: BTreeSet<String> = own.iter().map(|p| uid_of(&***p)).collect();
    plan.actions
        .extend(untracked(&seen.pods, |p| !owned.contains(&uid_of(p))));
    let mut state = State::new(job, spec, own, now_millis);
    start(&mut state);
    state.ending = ending(&state, &mut plan);
    if state.ending.is_some() {
        run::delete_all(&state, &parent, &mut plan);
    } else if !parent.deleting {
        let quiet = run::manage(&state, &parent, &mut plan);
        if quiet && state.reached_completions() {
            state.ending = Some(Ending::completions_reached());
        } else {
            suspend(&mut state, &parent, &mut plan);
        }
    } else if state.reached_completions() && !state.pods.iter().any(|p| is_active(p)) {
        // It is being deleted, and done.
        state.ending = Some(Ending::completions_reached());
    }
    count::ended(&mut state, &mut plan);
    finish(&mut state, &parent, &mut plan);
    report_status(&mut state, &mut plan);
    plan
}

fn untracked<'a>(
    pods: &'a [Arc<Pod>],
    which: impl Fn(&Pod) -> bool + 'a,
) -> impl Iterator<Item = Action> + 'a {
    let tracked = pods.iter().filter(|p| is_tracked(p));
    tracked.filter(move |p| which(p)).map(|p| untrack(p))
}

fn start(state: &mut State<'_>) {
    if state.status.start_time.is_none() && !state.suspended() {
        state.status.start_time = Some(state.now());
    }
}

/// In the place of one of its type, which may say that it is not so.
fn set_condition(status: &mut JobStatus, new: JobCondition) {
    let all = status.conditions.get_or_insert_default();
    match all.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => *old = new,
        None => all.push(new),
    }
}

/// Whether the Job is suspended is a condition, once it was.
fn suspend(state: &mut State<'_>, parent: &Parent, plan: &mut Plan) {
    let suspended = state.suspended();
    let (status, reason, text) = if suspended {
        ("True", "JobSuspended", "Job suspended")
    } else {
        ("False", "JobResumed", "Job resumed")
    };
    let known = state.status.conditions.iter().flatten();
    let known = known.into_iter().find(|c| c.type_ == "Suspended");
    let changed = match known {
        Some(known) => known.status != status,
        None => suspended,
    };
    if !changed {
        return;
    }
    let new = condition("Suspended", status, reason, text, state.now_millis);
    set_condition(&mut state.status, new);
    // The deadline is of the time that a Job is active without a break.
    state.status.start_time = (!suspended).then(|| state.now());
    plan.last.push(Action::Event {
        about: parent.about.clone(),
        warning: false,
        reason: if suspended { "Suspended" } else { "Resumed" },
        message: text.into(),
    });
}

/// First the condition that the Job will end, then, when all of its pods are counted and gone, the
/// one that it has.
fn finish(state: &mut State<'_>, parent: &Parent, plan: &mut Plan) {
    let Some(ending) = state.ending.clone() else {
        return;
    };
    let interim = if ending.failed {
        "FailureTarget"
    } else {
        "SuccessCriteriaMet"
    };
    let now_millis = state.now_millis;
    let make = |kind: &str| condition(kind, "True", &ending.reason, &ending.message, now_millis);
    if !is_true(&state.status, interim) {
        set_condition(&mut state.status, make(interim));
    }
    let uncounted = state.status.uncounted_terminated_pods.as_ref();
    let open = uncounted.is_some_and(|u| {
        let any = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
        any(&u.succeeded) || any(&u.failed)
    });
    let left = state.pods.iter().any(|p| is_tracked(p));
    if open || left || !state.active.is_empty() || state.terminating() > 0 {
        return;
    }
    // What has finished has begun: its last pod may have ended while the Job was suspended.
    let never_ran = state.suspended() && state.spec.completions == Some(0);
    if state.status.start_time.is_none() && !never_ran {
        state.status.start_time = Some(state.now());
    }
    let last = make(if ending.failed { "Failed" } else { "Complete" });
    let about = parent.about.clone();
    let succeeded = state.status.succeeded.unwrap_or(0);
    if !ending.failed && state.spec.completions.is_some_and(|n| succeeded > n) {
        plan.last.push(Action::Event {
            about: about.clone(),
            warning: true,
            reason: "TooManySucceededPods",
            message: "Too many succeeded pods running after completion count reached".into(),
        });
    }
    let (warning, reason, message) = if ending.failed {
        (true, ending.event, ending.message.clone())
    } else {
        // Nothing ends before it began, though a clock was set back meanwhile: such a status is refused.
        let began = state.status.start_time.clone();
        state.status.completion_time = last.last_transition_time.clone().max(began);
        (false, "Completed", "Job completed".to_owned())
    };
    set_condition(&mut state.status, last);
    plan.last.push(Action::Event {
        about,
        warning,
        reason,
        message,
    });
}

/// Adds the status to the plan, if it says something new.
fn report_status(state: &mut State<'_>, plan: &mut Plan) {
    let some = |n: i32| (n != 0).then_some(n);
    let active = crate::common::count(state.active.iter());
    let ready = crate::common::count(state.active.iter().filter(|p| is_ready(p)));
    state.status.active = some(active);
    state.status.ready = Some(ready);
    state.status.terminating = Some(state.terminating());
    let zero = |mut s: JobStatus| {
        for n in [&mut s.active, &mut s.succeeded, &mut s.failed] {
            *n = n.filter(|n| *n != 0);
        }
        s
    };
    let published = state.job.status.clone().unwrap_or_default();
    let now = zero(std::mem::take(&mut state.status));
    if zero(published) != now {
        plan.last.push(update_status(state.job, value_of(&now)));
    }
}

impl State<'_> {
    fn now(&self) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        time_at(self.now_millis.div_euclid(1_000) * 1_000)
    }
}
