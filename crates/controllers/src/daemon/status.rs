//! How many nodes should have a pod, have one, and have a good one.

use control::Plan;
use serde_json::json;

use super::state::{Daemon, sorted};
use crate::common::{is_ready, nothing_if_zero, wake_when_available};

/// Adds the status to the plan, if it says something new.
pub(super) fn report_status(daemon: &Daemon<'_>, plan: &mut Plan) {
    let published = daemon.set.status.clone().unwrap_or_default();
    let mut now = published.clone();
    let (mut current, mut misscheduled, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0);
    let mut waiting = Vec::new();
    for (node, fit) in &daemon.fits {
        let pods = daemon.pods.get(node).filter(|p| !p.is_empty());
        let Some(pods) = pods else { continue };
        if !fit.should_run {
            misscheduled += 1;
            continue;
        }
        current += 1;
        let Some(pod) = sorted(pods.iter().copied()).into_iter().next() else {
            continue;
        };
        ready += i32::from(is_ready(pod));
        available += i32::from(daemon.is_available(pod));
        updated += i32::from(daemon.is_updated(pod));
        waiting.push(pod);
    }
    let desired = daemon.desired();
    if ready > available {
        let least = daemon.spec.min_ready_seconds.unwrap_or(0);
        wake_when_available(waiting.into_iter(), least, daemon.now_millis, plan);
    }
    now.observed_generation = daemon.set.metadata.generation;
    now.desired_number_scheduled = desired;
    now.current_number_scheduled = current;
    now.number_misscheduled = misscheduled;
    now.number_ready = ready;
    let some = |n: i32| (n != 0).then_some(n);
    now.updated_number_scheduled = some(updated);
    now.number_available = some(available);
    now.number_unavailable = some(desired - available);
    if now == published {
        return;
    }
    let status = json!({
        "observedGeneration": daemon.set.metadata.generation,
        "desiredNumberScheduled": desired, "currentNumberScheduled": current,
        "numberMisscheduled": misscheduled, "numberReady": ready,
        "updatedNumberScheduled": nothing_if_zero(updated),
        "numberAvailable": nothing_if_zero(available),
        "numberUnavailable": nothing_if_zero(desired - available),
    });
    plan.last
        .push(crate::common::patch_status(daemon.set, &status));
}
