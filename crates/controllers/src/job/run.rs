//! How many pods of a Job run: too many are let go and deleted, missing ones are made, for an
//! indexed Job one for each index that is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::Plan;
use k8s_openapi::api::core::v1::Pod;

use super::backoff;
use super::pod::{
    failures_before, give_index, has_failed, index_of, is_tracked, name_prefix, only_failed_count,
    template, untrack,
};
use super::policy::{Verdict, judge};
use super::state::State;
use crate::common::{
    count, is_active, is_deleting, is_finished, millis_of, phase, value_of, wake_at,
};
use crate::ownership::Parent;
use crate::pods::{self, BURST};

/// The Job ends: nothing of it runs on.
pub fn delete_all(state: &State<'_>, parent: &Parent, plan: &mut Plan) {
    let active = state.pods.iter().filter(|p| is_active(p));
    let deletions = active.take(BURST).map(|p| pods::delete(parent, p));
    plan.actions.extend(deletions);
}

/// True when there is nothing to be made or removed.
pub fn manage(state: &State<'_>, parent: &Parent, plan: &mut Plan) -> bool {
    // What was let go below is deleted in the second step, so that it never counts as failed.
    let let_go = state.pods.iter().filter(|p| is_active(p) && !is_tracked(p));
    let let_go: Vec<_> = let_go.take(BURST).collect();
    plan.actions
        .extend(let_go.iter().map(|p| pods::delete(parent, p)));
    let wanted = wanted(state);
    let surplus = surplus(state, wanted);
    if !surplus.is_empty() {
        plan.actions
            .extend(surplus.into_iter().take(BURST).map(|p| untrack(p)));
        // The second step follows the first.
        wake_at(Some(state.now_millis), state.now_millis, plan);
        return false;
    }
    if state.suspended() {
        return let_go.is_empty();
    }
    create(state, parent, wanted, plan) && let_go.is_empty()
}

fn active(state: &State<'_>) -> i32 {
    count(state.active.iter())
}

fn wanted(state: &State<'_>) -> i32 {
    if state.suspended() {
        return 0;
    }
    let parallelism = state.spec.parallelism.unwrap_or(1);
    match state.spec.completions {
        // After the first success nothing new begins.
        None if state.succeeded > 0 => active(state),
        None => parallelism,
        Some(completions) => (completions - state.succeeded).clamp(0, parallelism.max(0)),
    }
}

/// Active pods that are too many: of indexes that nobody wants or that others have, then those
/// that are missed least.
fn surplus<'a>(state: &State<'a>, wanted: i32) -> Vec<&'a Arc<Pod>> {
    let too_many = usize::try_from(active(state) - wanted).unwrap_or(0);
    let mut out = Vec::new();
    let mut left = state.active.clone();
    if state.indexed().is_some() {
        left.clear();
        let mut by_index: BTreeMap<i32, Vec<&'a Arc<Pod>>> = BTreeMap::new();
        for pod in &state.active {
            match state.valid_index(pod) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => out.push(*pod),
            }
        }
        for (_, same) in by_index {
            let others = same.len() - 1;
            let go = pods::least_useful(&same, &[], others, state.now_millis);
            let stays = |p: &&&Arc<Pod>| !go.iter().any(|g| Arc::ptr_eq(g, p));
            left.extend(same.iter().filter(stays));
            out.extend(go);
        }
    }
    let more = too_many.saturating_sub(out.len());
    out.extend(pods::least_useful(&left, &[], more, state.now_millis));
    out
}

/// Failed pods that wait, uncounted, for the next one of their index, which takes over their
/// count of failures.
pub fn delayed<'a>(state: &State<'a>) -> BTreeMap<i32, &'a Pod> {
    let mut out: BTreeMap<i32, &'a Pod> = BTreeMap::new();
    if state.spec.backoff_limit_per_index.is_none() {
        return out;
    }
    let age = |p: &Pod| {
        let (counted, ignored) = failures_before(p);
        (counted.saturating_add(ignored), backoff::ended_millis(p))
    };
    let failed = state
        .pods
        .iter()
        .filter(|p| is_tracked(p) && has_failed(state.job, p));
    for pod in failed {
        let Some(index) = state.valid_index(pod) else {
            continue;
        };
        let done = state.succeeded_indexes.has(index) || state.failed_indexes.has(index);
        let replaced = state.active.iter().any(|p| index_of(p) == Some(index));
        if done || replaced {
            continue;
        }
        let newest = out.entry(index).or_insert(pod);
        if age(newest) <= age(pod) {
            *newest = pod;
        }
    }
    out
}

fn create(state: &State<'_>, parent: &Parent, wanted: i32, plan: &mut Plan) -> bool {
    let waits = only_failed_count(state.job);
    let ending = if waits { state.terminating() } else { 0 };
    let missing = usize::try_from(wanted - ending - active(state))
        .unwrap_or(0)
        .min(BURST);
    if missing == 0 {
        return true;
    }
    let per_index = state.spec.backoff_limit_per_index.is_some();
    if !per_index {
        let due = due(state);
        if due > state.now_millis {
            wake_at(Some(due), state.now_millis, plan);
            return false;
        }
    }
    let base = template(&value_of(&state.spec.template), state.indexed().is_some());
    let name = &parent.name;
    let Some(completions) = state.indexed() else {
        for number in 0..missing {
            let prefix = format!("{name}-");
            let pod = pods::numbered(parent, &base, &prefix, state.now_millis, number);
            plan.actions.push(pods::create(parent, pod));
        }
        return false;
    };
    let replaced = delayed(state);
    let mut due_next: Option<i64> = None;
    let mut made = false;
    for (number, index) in pending(state, missing, completions).into_iter().enumerate() {
        let before = replaced.get(&index).copied();
        let due = before.map_or(i64::MIN, |pod| {
            let (counted, ignored) = failures_before(pod);
            let failures = counted.saturating_add(ignored).saturating_add(1);
            backoff::due_millis(failures, backoff::ended_millis(pod))
        });
        if due > state.now_millis {
            due_next = Some(due_next.map_or(due, |d: i64| d.min(due)));
            continue;
        }
        let mut template = base.clone();
        let failures = per_index.then(|| failures_with(state, before));
        give_index(&mut template, state.job, index, failures);
        let prefix = name_prefix(name, index);
        let pod = pods::numbered(parent, &template, &prefix, state.now_millis, number);
        plan.actions.push(pods::create(parent, pod));
        made = true;
    }
    wake_at(due_next, state.now_millis, plan);
    !made && due_next.is_none()
}

/// The failures of an index with the pod that is replaced.
fn failures_with(state: &State<'_>, replaced: Option<&Pod>) -> (i32, i32) {
    let Some(pod) = replaced else {
        return (0, 0);
    };
    let (counted, ignored) = failures_before(pod);
    match judge(state.spec.pod_failure_policy.as_ref(), pod) {
        Verdict::Ignore => (counted, ignored.saturating_add(1)),
        _ => (counted.saturating_add(1), ignored),
    }
}

/// When the next pod may be made, by the failures of all.
fn due(state: &State<'_>) -> i64 {
    let ended = |p: &&&Arc<Pod>| backoff::ended_millis(p);
    // Of an indexed Job those of no index are let go, whatever they come to.
    let is_ours = |p: &&&Arc<Pod>| state.indexed().is_none() || state.valid_index(p).is_some();
    let ours = || state.pods.iter().filter(is_ours);
    let succeeded = ours().filter(|p| phase(p) == "Succeeded");
    let failed = ours().filter(|p| has_failed(state.job, p));
    let failed = failed.filter(|p| !is_suspended_away(state, p));
    let (failures, last) =
        backoff::failures(succeeded.map(|p| ended(&p)), failed.map(|p| ended(&p)));
    backoff::due_millis(failures, last)
}

/// Whether a pod was let go while the Job was suspended: it still ends, and has not failed.
fn is_suspended_away(state: &State<'_>, pod: &Pod) -> bool {
    let mut conditions = state.status.conditions.iter().flatten();
    let known = conditions.find(|c| c.type_ == "Suspended");
    let (Some(known), Some(asked)) = (known, backoff::deleted_millis(pod)) else {
        return false;
    };
    let resumed = millis_of(known.last_transition_time.as_ref());
    !is_tracked(pod) && (known.status == "True" || resumed.is_some_and(|at| asked <= at))
}

/// Indexes that have neither a pod nor an end.
fn pending(state: &State<'_>, missing: usize, completions: i32) -> Vec<i32> {
    let active = state.active.iter().filter_map(|p| index_of(p));
    let taken = state
        .succeeded_indexes
        .merge(&state.failed_indexes)
        .with(active);
    let waits = only_failed_count(state.job);
    let ends = |p: &&&Arc<Pod>| waits && is_deleting(&****p) && !is_finished(p);
    let ending = state.pods.iter().filter(ends).filter_map(|p| index_of(p));
    taken.with(ending).missing(missing, completions)
}
