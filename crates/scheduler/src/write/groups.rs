//! The condition of a group of pods: whether so many of its pods have nodes as it wants.

use clock::Clock;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::gangs::GroupState;

/// The condition.
const SCHEDULED: &str = "PodGroupScheduled";
/// Tries after others changed the group meanwhile.
const TRIES: usize = 5;

/// Writes what has become of a group (`namespace/name`) into its status. As the conditions of pods it is
/// for people: where it cannot be written, the next change says it.
pub async fn publish(client: &Client, group: &str, state: GroupState, clock: Clock) {
    let Some((namespace, name)) = group.split_once('/') else {
        return;
    };
    let api: Api<PodGroup> = Api::namespaced(client.clone(), namespace);
    for _ in 0..TRIES {
        match once(&api, name, state, clock).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(e) => {
                tracing::debug!("the condition of group {group}: {e}");
                return;
            }
            Ok(()) => return,
        }
    }
}

async fn once(
    api: &Api<PodGroup>,
    name: &str,
    state: GroupState,
    clock: Clock,
) -> Result<(), kube::Error> {
    let Some(group) = api.get_opt(name).await? else {
        return Ok(());
    };
    let Some(conditions) = conditions(&group, state, Time(clock.now_in_seconds())) else {
        return Ok(());
    };
    let patch = json!({
        "metadata": {"resourceVersion": group.metadata.resource_version},
        "status": {"conditions": conditions},
    });
    let params = PatchParams::default();
    api.patch_status(name, &params, &Patch::Merge(patch))
        .await
        .map(drop)
}

/// The group's conditions with that of the state; none where there is nothing to write. Who was once
/// scheduled stays so: later pods are more than the group asked for, or come in the place of others.
fn conditions(group: &PodGroup, state: GroupState, now: Time) -> Option<Vec<Condition>> {
    let status = group.status.as_ref();
    let mut all = status
        .and_then(|s| s.conditions.clone())
        .unwrap_or_default();
    // The words are upstream's.
    let (is, reason, message) = match state {
        GroupState::Scheduled => ("True", "Scheduled", ""),
        GroupState::Unschedulable => ("False", "Unschedulable", "pod group is unschedulable"),
        GroupState::AwaitsRoom => (
            "False",
            "Unschedulable",
            "pod group is unschedulable, pod group is waiting for preemption to complete",
        ),
    };
    let mut new = Condition {
        last_transition_time: now,
        message: message.to_owned(),
        observed_generation: group.metadata.generation,
        reason: reason.to_owned(),
        status: is.to_owned(),
        type_: SCHEDULED.to_owned(),
    };
    let Some(old) = all.iter_mut().find(|c| c.type_ == SCHEDULED) else {
        all.push(new);
        return Some(all);
    };
    if old.status == "True" && state != GroupState::Scheduled {
        return None;
    }
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    if *old == new {
        return None;
    }
    *old = new;
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u8) -> Time {
        let time = json!(format!("2026-01-01T00:00:0{second}Z"));
        serde_json::from_value(time).expect("a time")
    }

    #[test]
    fn a_group_that_was_scheduled_stays_so() {
        let mut group: PodGroup = serde_json::from_value(json!({
            "apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup",
            "metadata": {"name": "g", "generation": 1},
            "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
            "status": {"conditions": [{"type": "Other", "status": "True", "reason": "R",
                "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .expect("a group");
        let mut write = |state, second| {
            let new = conditions(&group, state, at(second))?;
            group.status.as_mut().expect("a status").conditions = Some(new.clone());
            let own = new.into_iter().find(|c| c.type_ == SCHEDULED)?;
            Some((own.status, own.last_transition_time))
        };
        let no = |second| Some(("False".to_owned(), at(second)));
        assert_eq!(write(GroupState::Unschedulable, 1), no(1));
        assert_eq!(write(GroupState::Unschedulable, 2), None);
        assert_eq!(write(GroupState::AwaitsRoom, 3), no(1));
        assert_eq!(
            write(GroupState::Scheduled, 4),
            Some(("True".to_owned(), at(4)))
        );
        assert_eq!(write(GroupState::Unschedulable, 5), None);
        let all = group.status.and_then(|s| s.conditions).unwrap_or_default();
        assert_eq!(all.len(), 2);
    }
}
