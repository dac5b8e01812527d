//! The plan of both kinds: adopt and release pods, create what is missing, delete what is too
//! much (the least useful first), and report how many there are.

use std::sync::Arc;

use control::action::{Action, Plan, Target};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ApiResource;
use serde_json::{Value, json};

use crate::common::{
    Labels, count, is_active, is_available, is_deleting, is_finished, is_ready, time_text, wake_at,
    wake_when_available, was_refused,
};
use crate::ownership::Parent;
use crate::pods::{self, BURST};

/// The numbers in the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    /// Not in the status of ReplicationControllers.
    pub terminating: Option<i32>,
}

/// A set and the pods that are, or could be, its own.
#[derive(Clone)]
pub struct Observed {
    pub resource: ApiResource,
    pub parent: Parent,
    pub meta: ObjectMeta,
    pub replicas: i32,
    pub min_ready_seconds: i32,
    /// The set itself.
    pub object: Value,
    pub template_labels: Labels,
    pub pods: Vec<Arc<Pod>>,
    /// Pods of other sets of the same owner, where some of its own may be too many.
    pub related: Vec<Arc<Pod>>,
    pub published: Counts,
    /// Whether the kind's status reports pods that end.
    pub reports_terminating: bool,
    pub published_generation: i64,
    /// Why a pod could not be made or deleted the last time that this was tried.
    pub failure: Option<String>,
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let parent = &seen.parent;
    let own = parent.claim(&seen.pods, |_| true, is_active, &mut plan);
    let active: Vec<&Arc<Pod>> = own.iter().copied().filter(|p| is_active(p)).collect();
    if !parent.deleting {
        let wanted = usize::try_from(seen.replicas).unwrap_or(0);
        let base = format!("{}-", parent.name);
        let mut missing = wanted.saturating_sub(active.len()).min(BURST);
        if missing > 0
            && let Some(due) = refused_until(&own, wanted, now_millis)
        {
            missing = 0;
            wake_at(Some(due), now_millis, &mut plan);
        }
        for number in 0..missing {
            let pod = pods::numbered(
                parent,
                &seen.object["spec"]["template"],
                &base,
                now_millis,
                number,
            );
            plan.actions.push(pods::create(parent, pod));
        }
        let too_many = active.len().saturating_sub(wanted).min(BURST);
        if too_many > 0 {
            let go = pods::least_useful(&active, &seen.related, too_many, now_millis);
            plan.actions
                .extend(go.into_iter().map(|pod| pods::delete(parent, pod)));
        }
    }
    report_status(seen, &own, &active, now_millis, &mut plan);
    plan
}

/// Refusals older than this say nothing of the node as it is now.
const REFUSED_MILLIS: i64 = 600_000;
/// Another server's clock may be so far ahead; what lies further was made before the clock was set
/// back, and counts no more.
const AHEAD_MILLIS: i64 = 60_000;
/// Wait after a round of refusals: as many as the set has replicas. Doubled for each further one.
const FIRST_MILLIS: i64 = 1_000;
/// The longest wait: a node is under pressure for minutes.
const LONGEST_MILLIS: i64 = 60_000;

/// Until when no pod is made, since nodes refused so many a moment ago that the next ones would
/// meet the same. Only pods that name their node in the template, or are as fast as the word of its
/// pressure, come so far. Upstream makes them again at once, hundreds in a minute.
fn refused_until(own: &[&Arc<Pod>], wanted: usize, now_millis: i64) -> Option<i64> {
    let made = |p: &&Arc<Pod>| Some(p.metadata.creation_timestamp.as_ref()?.0.as_millisecond());
    let refused = own.iter().filter(|p| was_refused(p)).filter_map(made);
    let recent: Vec<i64> = refused
        .filter(|at| (-AHEAD_MILLIS..REFUSED_MILLIS).contains(&now_millis.saturating_sub(*at)))
        .collect();
    let rounds = u32::try_from(recent.len() / wanted.max(1)).unwrap_or(u32::MAX);
    let doubled = rounds.checked_sub(1)?.min(16);
    let wait = (FIRST_MILLIS << doubled).min(LONGEST_MILLIS);
    let due = recent.into_iter().max()?.saturating_add(wait);
    (due > now_millis).then_some(due)
}

fn report_status(
    seen: &Observed,
    own: &[&Arc<Pod>],
    active: &[&Arc<Pod>],
    now_millis: i64,
    plan: &mut Plan,
) {
    let labeled = |p: &&&Arc<Pod>| {
        seen.template_labels
            .iter()
            .all(|(k, v)| p.metadata.labels.as_ref().and_then(|l| l.get(k)) == Some(v))
    };
    let counts = Counts {
        replicas: count(active.iter()),
        fully_labeled: count(active.iter().filter(labeled)),
        ready: count(active.iter().filter(|p| is_ready(p))),
        available: count(
            active
                .iter()
                .filter(|p| is_available(p, seen.min_ready_seconds, now_millis)),
        ),
        terminating: seen.reports_terminating.then(|| {
            count(
                own.iter()
                    .filter(|p| is_deleting(&****p) && !is_finished(p)),
            )
        }),
    };
    if counts.ready > counts.available {
        let active = active.iter().copied();
        wake_when_available(active, seen.min_ready_seconds, now_millis, plan);
    }
    let generation = seen.meta.generation.unwrap_or(0);
    let conditions = conditions(seen, active.len(), now_millis);
    if counts == seen.published && generation == seen.published_generation && conditions.is_none() {
        return;
    }
    // Replaced as a whole, since upstream's roles let these controllers update a status and not
    // patch it: conditions that others set stay.
    let mut object = seen.object.clone();
    for (field, n) in [
        ("replicas", json!(counts.replicas)),
        ("fullyLabeledReplicas", json!(counts.fully_labeled)),
        ("readyReplicas", json!(counts.ready)),
        ("availableReplicas", json!(counts.available)),
        ("observedGeneration", json!(generation)),
        ("terminatingReplicas", json!(counts.terminating)),
    ] {
        object["status"][field] = n;
    }
    if let Some(conditions) = conditions {
        object["status"]["conditions"] = json!(conditions);
    }
    let target = Target {
        resource: seen.resource.clone(),
        namespace: seen.parent.namespace.clone(),
        name: seen.parent.name.clone(),
    };
    plan.last.push(Action::Update {
        target,
        subresource: "status",
        object,
    });
}

const FAILURE: &str = "ReplicaFailure";

/// The conditions, where they change: that pods cannot be made or deleted is said by the first
/// reason, as upstream, and not again for each further try.
fn conditions(seen: &Observed, active: usize, now_millis: i64) -> Option<Vec<Value>> {
    let given = seen.object["status"]["conditions"].as_array();
    let mut all = given.cloned().unwrap_or_default();
    let known = all.iter().position(|c| c["type"] == FAILURE);
    let wanted = usize::try_from(seen.replicas).unwrap_or(0);
    let failure = seen.failure.as_ref().filter(|_| active != wanted);
    match (known, failure) {
        (None, Some(message)) => all.push(json!({
            "type": FAILURE,
            "status": "True",
            "reason": if active < wanted { "FailedCreate" } else { "FailedDelete" },
            "message": message,
            "lastTransitionTime": time_text(now_millis),
        })),
        (Some(at), None) => drop(all.remove(at)),
        (Some(_), Some(_)) | (None, None) => return None,
    }
    Some(all)
}
