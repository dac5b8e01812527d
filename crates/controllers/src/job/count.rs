//! Counting: the status names pods that ended (or, of an indexed Job, their indexes), those named
//! are let go, those that were let go are counted. Each step follows the one before at once; pods
//! that end meanwhile wait for the next round, so that the status of a Job is written twice in a
//! round, however many of its pods end.

use std::collections::BTreeSet;

use control::Plan;
use k8s_openapi::api::core::v1::Pod;

use super::outcome::succeeded_by_policy;
use super::pod::{has_failed, is_tracked, untrack};
use super::policy::{Verdict, judge};
use super::run::delayed;
use super::state::State;
use super::{GATHERED, backoff};
use crate::common::{count, is_active, is_deleting, phase, uid_of, wake_at};

/// Pods that the status names at most, so that it stays below 20 kB.
const NAMED: usize = 500;

/// A pod that ended is named after this time also while others cannot be let go, by whatever
/// refuses that.
const NAMED_WITHIN_MILLIS: i64 = 10_000;

/// What is to be done with a pod that is not counted yet.
enum Next {
    /// Nothing: it has not ended.
    Wait,
    /// It is named, or need not be.
    LetGo,
    NameSucceeded,
    NameFailed,
    /// Its index joins those that succeeded.
    Complete(i32),
}

/// When the Job is to be looked at again, if nothing happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Requeue {
    /// When the next pods are gathered.
    NextRound,
    /// For the next step of this one.
    Now,
}

pub fn ended(state: &mut State<'_>, plan: &mut Plan) {
    let tracked: Vec<_> = state
        .pods
        .iter()
        .filter(|p| is_tracked(p))
        .copied()
        .collect();
    let uids: BTreeSet<String> = tracked.iter().map(|p| uid_of(&***p)).collect();
    let gone = |set: &BTreeSet<String>| count(set.difference(&uids));
    let add = |to: &mut Option<i32>, n: i32| *to = Some(to.unwrap_or(0) + n);
    let (succeeded, failed) = (
        gone(&state.uncounted_succeeded),
        gone(&state.uncounted_failed),
    );
    let held: BTreeSet<String> = delayed(state).values().map(|p| uid_of(*p)).collect();
    let nexts: Vec<(&Pod, Next)> = tracked
        .iter()
        .map(|pod| (&***pod, next(state, pod, held.contains(&uid_of(&***pod)))))
        .collect();
    // What is let go or counted now was named in this round, in which no more are named.
    let is_later_step =
        succeeded + failed > 0 || nexts.iter().any(|(_, n)| matches!(n, Next::LetGo));
    add(&mut state.status.succeeded, succeeded);
    add(&mut state.status.failed, failed);
    let still = |set: &BTreeSet<String>| set.intersection(&uids).cloned().collect::<Vec<_>>();
    let mut succeeded = still(&state.uncounted_succeeded);
    let mut failed = still(&state.uncounted_failed);
    let mut completed = Vec::new();
    let mut look = None;
    for (pod, next) in nexts {
        let is_full = succeeded.len() + failed.len() + completed.len() >= NAMED;
        let is_new = backoff::ended_millis(pod) + NAMED_WITHIN_MILLIS > state.now_millis;
        let is_next_rounds = is_full || is_later_step && is_new;
        match next {
            Next::Wait => continue,
            Next::NameSucceeded | Next::NameFailed | Next::Complete(_) if is_next_rounds => {
                look = look.max(Some(Requeue::NextRound));
                continue;
            }
            Next::LetGo => plan.actions.push(untrack(pod)),
            Next::NameSucceeded => succeeded.push(uid_of(pod)),
            Next::NameFailed => failed.push(uid_of(pod)),
            Next::Complete(index) => completed.push(index),
        }
        look = Some(Requeue::Now);
    }
    let gathered = i64::try_from(GATHERED.as_millis()).unwrap_or(0);
    let at = look.map(|look| match look {
        Requeue::Now => state.now_millis,
        Requeue::NextRound => state.now_millis + gathered,
    });
    wake_at(at, state.now_millis, plan);
    let uncounted = state
        .status
        .uncounted_terminated_pods
        .get_or_insert_default();
    let list = |all: Vec<String>| (!all.is_empty()).then_some(all);
    uncounted.succeeded = list(succeeded);
    uncounted.failed = list(failed);
    if state.indexed().is_some() {
        let now = state.published_succeeded.with(completed);
        state.status.succeeded = Some(now.total());
        let text = now.to_string();
        state.status.completed_indexes = (!text.is_empty()).then_some(text);
        let per_index = state.spec.backoff_limit_per_index.is_some();
        state.status.failed_indexes = per_index.then(|| state.failed_indexes.to_string());
    }
}

fn next(state: &State<'_>, pod: &Pod, is_held: bool) -> Next {
    let uid = uid_of(pod);
    if state.uncounted_succeeded.contains(&uid) || state.uncounted_failed.contains(&uid) {
        return Next::LetGo;
    }
    let indexed = state.indexed().is_some();
    let index = state.valid_index(pod);
    if phase(pod) == "Succeeded" {
        return match index {
            _ if !indexed => Next::NameSucceeded,
            Some(index)
                if !state.published_succeeded.has(index) && !state.failed_indexes.has(index) =>
            {
                Next::Complete(index)
            }
            _ => Next::LetGo,
        };
    }
    let failed = has_failed(state.job, pod);
    let ends = state.ending.is_some();
    if !ends && !is_deleting(state.job) && (!failed || is_held) {
        return Next::Wait;
    }
    // What is about to be deleted goes first, and counts when it goes: its deletion may be refused, and
    // it may still end by itself.
    if ends && !failed && is_active(pod) {
        return Next::Wait;
    }
    // When the Job fails, so does every pod that has not ended; when it succeeds, none does by that.
    let failed = failed && !is_ended_by_success(state, pod);
    let fails = failed || state.ending.as_ref().is_some_and(|e| e.failed);
    if !fails || (indexed && index.is_none()) {
        return Next::LetGo;
    }
    match judge(state.spec.pod_failure_policy.as_ref(), pod) {
        Verdict::Ignore => Next::LetGo,
        _ => Next::NameFailed,
    }
}

/// Whether a pod is being deleted because enough others have succeeded.
fn is_ended_by_success(state: &State<'_>, pod: &Pod) -> bool {
    let since = succeeded_by_policy(&state.status);
    since.is_some_and(|since| backoff::deleted_millis(pod).is_some_and(|asked| asked >= since))
}
