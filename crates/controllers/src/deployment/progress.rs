//! What a Deployment's status reports: numbers, whether it is available, whether it moves on.

use control::action::Plan;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::plan::{Rollout, available, existing, size};
use crate::common::{millis_of, time_at, update_status, value_of};

/// Two objects agree on the time of the day to within this; then the deadline is looked at again.
const SLACK_MILLIS: i64 = 1_000;

struct Sums {
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
    /// What the sets want that is not available, of all templates.
    unavailable: i32,
    /// Unknown while a set does not report it.
    terminating: Option<i32>,
}

/// Pods of a set that end. One that its controller has not seen yet has none.
fn terminating(set: &ReplicaSet) -> Option<i32> {
    let status = set.status.as_ref();
    let seen = status.and_then(|s| s.observed_generation).unwrap_or(0);
    let said = status.and_then(|s| s.terminating_replicas);
    said.or((seen == 0).then_some(0))
}

fn sums(rollout: &Rollout<'_>) -> Sums {
    let ready = |s: &ReplicaSet| {
        s.status
            .as_ref()
            .and_then(|s| s.ready_replicas)
            .unwrap_or(0)
    };
    let wanted: i32 = rollout.all().map(size).sum();
    let available: i32 = rollout.all().map(available).sum();
    Sums {
        replicas: rollout.all().map(existing).sum(),
        updated: rollout.new.map_or(0, existing),
        ready: rollout.all().map(ready).sum(),
        available,
        unavailable: (wanted - available).max(0),
        terminating: rollout.all().map(terminating).sum(),
    }
}

/// All pods are of the new template and available, and no old ones are left.
pub(super) fn is_complete(rollout: &Rollout<'_>) -> bool {
    let (sums, desired) = (sums(rollout), rollout.desired());
    rollout.new.is_some()
        && sums.updated == desired
        && sums.replicas == desired
        && sums.available == desired
}

fn condition(
    rollout: &Rollout<'_>,
    old: Option<&DeploymentCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
) -> DeploymentCondition {
    let now = time_at(rollout.now_millis.div_euclid(1_000) * 1_000);
    if let Some(old) = old
        && old.status == status
        && old.reason.as_deref() == Some(reason)
        && old.message.as_deref() == Some(&message)
    {
        return old.clone();
    }
    let since = old
        .filter(|o| o.status == status)
        .and_then(|o| o.last_transition_time.clone());
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: since.or(Some(now)),
    }
}

fn availability(
    rollout: &Rollout<'_>,
    sums: &Sums,
    old: Option<&DeploymentCondition>,
) -> DeploymentCondition {
    if sums.available >= rollout.desired() - rollout.max_unavailable() {
        condition(
            rollout,
            old,
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".into(),
        )
    } else {
        let text = "Deployment does not have minimum availability.";
        condition(
            rollout,
            old,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            text.into(),
        )
    }
}

/// Whether more was done than the status says.
fn moved(published: &DeploymentStatus, sums: &Sums) -> bool {
    let old = |s: i32, updated: i32| s - updated;
    let published_updated = published.updated_replicas.unwrap_or(0);
    sums.updated > published_updated
        || old(sums.replicas, sums.updated)
            < old(published.replicas.unwrap_or(0), published_updated)
        || sums.ready > published.ready_replicas.unwrap_or(0)
        || sums.available > published.available_replicas.unwrap_or(0)
}

fn progressing(
    rollout: &Rollout<'_>,
    published: &DeploymentStatus,
    sums: &Sums,
    old: Option<&DeploymentCondition>,
    plan: &mut Plan,
) -> Option<DeploymentCondition> {
    let deadline = rollout.deadline()?;
    let make = |status: &str, reason: &str, text: String| {
        Some(condition(rollout, old, "Progressing", status, reason, text))
    };
    let old_reason = old.and_then(|o| o.reason.as_deref()).unwrap_or_default();
    let name = rollout
        .deployment
        .metadata
        .name
        .as_deref()
        .unwrap_or_default();
    let set = rollout
        .new
        .and_then(|n| n.metadata.name.as_deref())
        .unwrap_or_default();
    if rollout.paused() {
        // That it hung before is not forgotten.
        if matches!(old_reason, "DeploymentPaused" | "ProgressDeadlineExceeded") {
            return old.cloned();
        }
        return make("Unknown", "DeploymentPaused", "Deployment is paused".into());
    }
    if let Some(created) = &rollout.created {
        return make(
            "True",
            "NewReplicaSetCreated",
            format!("Created new replica set {created:?}"),
        );
    }
    if is_complete(rollout) {
        return make(
            "True",
            "NewReplicaSetAvailable",
            format!("ReplicaSet {set:?} has successfully progressed."),
        );
    }
    if old_reason == "DeploymentPaused" {
        return make(
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed".into(),
        );
    }
    // One that was completed and lost pods, or is sized, has not begun again: no deadline is counted.
    if old_reason == "NewReplicaSetAvailable" && sums.replicas == sums.updated {
        return old.cloned();
    }
    let generation_moved = published.observed_generation != rollout.deployment.metadata.generation;
    let begins = old.is_none() && rollout.new.is_none();
    if moved(published, sums)
        || begins
        || (generation_moved && old_reason == "NewReplicaSetAvailable")
    {
        let text = if set.is_empty() {
            format!("Deployment {name:?} is progressing.")
        } else {
            format!("ReplicaSet {set:?} is progressing.")
        };
        let mut new = make("True", "ReplicaSetUpdated", text)?;
        new.last_update_time = Some(time_at(rollout.now_millis.div_euclid(1_000) * 1_000));
        return Some(new);
    }
    if old.is_none() {
        // Somebody sets a deadline for a rollout that has begun before.
        let text = format!("Found new replica set {set:?}");
        return make("True", "FoundNewReplicaSet", text);
    }
    if matches!(
        old_reason,
        "NewReplicaSetAvailable" | "ProgressDeadlineExceeded"
    ) {
        return old.cloned();
    }
    let since = old
        .and_then(|o| millis_of(o.last_update_time.as_ref()))
        .unwrap_or(rollout.now_millis);
    let due = since + i64::from(deadline) * 1_000;
    if due <= rollout.now_millis {
        let what = if set.is_empty() {
            format!("Deployment {name:?}")
        } else {
            format!("ReplicaSet {set:?}")
        };
        return make(
            "False",
            "ProgressDeadlineExceeded",
            format!("{what} has timed out progressing."),
        );
    }
    plan.wake_after_millis = u64::try_from(due - rollout.now_millis + SLACK_MILLIS).ok();
    old.cloned()
}

/// That the new set cannot make its pods or, where it can, that an old one cannot.
fn replica_failure(rollout: &Rollout<'_>) -> Option<DeploymentCondition> {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|c| c.type_ == "ReplicaFailure")
            .cloned()
    };
    let of_old = || rollout.old.iter().find_map(|set| of(set));
    let found = rollout.new.and_then(of).or_else(of_old)?;
    Some(DeploymentCondition {
        type_: found.type_,
        status: found.status,
        reason: found.reason,
        message: found.message,
        last_update_time: found.last_transition_time.clone(),
        last_transition_time: found.last_transition_time,
    })
}

/// What is said of the progress while the new set cannot be made.
fn stuck(
    rollout: &Rollout<'_>,
    set: &str,
    old: Option<&DeploymentCondition>,
) -> Option<DeploymentCondition> {
    rollout.deadline()?;
    // The first time, nobody knows why.
    let Some(why) = rollout.failure else {
        return old.cloned();
    };
    let text = format!("Failed to create new replica set {set:?}: {why}");
    let reason = "ReplicaSetCreateError";
    Some(condition(
        rollout,
        old,
        "Progressing",
        "False",
        reason,
        text,
    ))
}

/// The status with its conditions: of those that others set, all stay.
fn status(
    rollout: &Rollout<'_>,
    published: &DeploymentStatus,
    sums: &Sums,
    progressing: Option<DeploymentCondition>,
) -> DeploymentStatus {
    let known = || published.conditions.iter().flatten();
    let available = known().find(|c| c.type_ == "Available");
    let mut conditions = vec![availability(rollout, sums, available)];
    conditions.extend(progressing);
    conditions.extend(replica_failure(rollout));
    let ours = ["Available", "Progressing", "ReplicaFailure"];
    conditions.extend(known().filter(|c| !ours.contains(&&*c.type_)).cloned());
    let some = |n: i32| (n != 0).then_some(n);
    DeploymentStatus {
        observed_generation: published.observed_generation,
        replicas: some(sums.replicas),
        updated_replicas: some(sums.updated),
        ready_replicas: some(sums.ready),
        available_replicas: some(sums.available),
        unavailable_replicas: some(sums.unavailable),
        conditions: Some(conditions),
        collision_count: published.collision_count,
        terminating_replicas: sums.terminating,
    }
}

/// Adds the status to the plan, if it says something new. Who reads that a generation was seen, or
/// that a set was made, believes it done: only a plan that was done whole says so.
pub(super) fn report_status(rollout: &Rollout<'_>, plan: &mut Plan) {
    let published = rollout.deployment.status.clone().unwrap_or_default();
    let sums = sums(rollout);
    let mut known = published.conditions.iter().flatten();
    let old = known.find(|c| c.type_ == "Progressing");
    let progress = progressing(rollout, &published, &sums, old, plan);
    let until_made = match &rollout.created {
        Some(set) => stuck(rollout, set, old),
        None => progress.clone(),
    };
    let unfinished = status(rollout, &published, &sums, until_made);
    let mut done = status(rollout, &published, &sums, progress);
    done.observed_generation = rollout.deployment.metadata.generation;
    if rollout.collided {
        done.collision_count = Some(published.collision_count.unwrap_or(0) + 1);
    }
    let zero = |n: Option<i32>| n.filter(|n| *n != 0);
    let published = DeploymentStatus {
        replicas: zero(published.replicas),
        updated_replicas: zero(published.updated_replicas),
        ready_replicas: zero(published.ready_replicas),
        available_replicas: zero(published.available_replicas),
        unavailable_replicas: zero(published.unavailable_replicas),
        ..published
    };
    let write = |status: &DeploymentStatus| {
        let is_new = *status != published;
        is_new.then(|| update_status(rollout.deployment, value_of(status)))
    };
    // Another write of the Deployment makes its version old: the status waits for the next turn.
    if plan.then.is_empty() {
        plan.then.extend(write(&done));
    }
    plan.otherwise.extend(write(&unfinished));
}
