//! A pod that was to be ended for no fault of its own, and after minutes has not been deleted, stays:
//! then its condition `DisruptionTarget` says so no longer.

use std::sync::Arc;

use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::common::{Key, is_deleting, is_finished, key_of, millis_of, time_text, wake_at};
use crate::pods::{DISRUPTION_TARGET, status_patch};

/// What is not deleted within this time stays. Upstream's.
const STALE_AFTER_MILLIS: i64 = 120_000;
/// The kubelet's own reason: it ends the pod by itself, however long that takes.
const BY_KUBELET: &str = "TerminationByKubelet";

/// Takes conditions back.
pub struct StaleDisruptions {
    pods: Informer<Pod>,
}

impl StaleDisruptions {
    pub fn new(informers: &Informers) -> Self {
        Self {
            pods: informers.of(),
        }
    }
}

/// When the condition of a pod that is to be ended is old, in milliseconds since the epoch.
fn stale_at(pod: &Pod) -> Option<i64> {
    if is_deleting(pod) || is_finished(pod) {
        return None;
    }
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let condition = conditions.find(|c| c.type_ == DISRUPTION_TARGET)?;
    if condition.status != "True" || condition.reason.as_deref() == Some(BY_KUBELET) {
        return None;
    }
    let since = millis_of(condition.last_transition_time.as_ref()).unwrap_or(0);
    Some(since.saturating_add(STALE_AFTER_MILLIS))
}

fn plan(pod: &Pod, now_millis: i64) -> Plan {
    let mut plan = Plan::nothing();
    let Some(at) = stale_at(pod) else {
        return plan;
    };
    if at > now_millis {
        wake_at(Some(at), now_millis, &mut plan);
        return plan;
    }
    let condition = json!({
        "type": DISRUPTION_TARGET, "status": "False", "reason": null, "message": null,
        "observedGeneration": pod.metadata.generation,
        "lastTransitionTime": time_text(now_millis),
    });
    let status = json!({ "conditions": [condition] });
    plan.actions.push(status_patch(pod, status));
    plan.because("it was not deleted")
}

impl Controller for StaleDisruptions {
    const NAME: &'static str = "stale-pod-disruption";
    const QUEUE: &'static str = "stale_pod_disruption";
    const ACCOUNT: &'static str = "disruption-controller";
    type Key = Key;
    type Observed = Arc<Pod>;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on_change(&self.pods, |change| {
            let targets = change.new.iter().filter(|p| stale_at(p).is_some());
            targets.map(|p| key_of(&**p)).collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Arc<Pod>> {
        self.pods.get(namespace, name)
    }

    fn plan(&self, pod: &Arc<Pod>, now_millis: i64) -> Plan {
        plan(pod, now_millis)
    }
}

#[cfg(test)]
mod tests {
    use control::action::{Action, Patch};
    use serde_json::Value;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn pod(status: &str, reason: &str, before: i64, phase: &str, deletion: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "a", "uid": "u", "deletionTimestamp": deletion },
            "status": { "phase": phase, "conditions": [{
                "type": DISRUPTION_TARGET, "status": status, "reason": reason,
                "lastTransitionTime": time_text(NOW - before),
            }] },
        }))
        .expect("a pod")
    }

    #[test]
    fn only_a_pod_that_stays_is_no_target_any_more() {
        let goes = json!("2026-01-01T00:00:00Z");
        for (pod, is_taken_back, wake) in [
            (
                pod(
                    "True",
                    "EvictionByEvictionAPI",
                    120_000,
                    "Running",
                    Value::Null,
                ),
                true,
                None,
            ),
            (
                pod(
                    "True",
                    "EvictionByEvictionAPI",
                    20_000,
                    "Running",
                    Value::Null,
                ),
                false,
                Some(100_000),
            ),
            (
                pod("True", "EvictionByEvictionAPI", 200_000, "Running", goes),
                false,
                None,
            ),
            (
                pod(
                    "True",
                    "EvictionByEvictionAPI",
                    200_000,
                    "Failed",
                    Value::Null,
                ),
                false,
                None,
            ),
            (
                pod("True", BY_KUBELET, 200_000, "Running", Value::Null),
                false,
                None,
            ),
            (
                pod("False", "", 200_000, "Running", Value::Null),
                false,
                None,
            ),
        ] {
            let planned = plan(&pod, NOW);
            assert_eq!(!planned.is_empty(), is_taken_back, "{pod:?}");
            assert_eq!(planned.wake_after_millis, wake, "{pod:?}");
        }
        let planned = plan(&pod("True", "x", 500_000, "Running", Value::Null), NOW);
        let [
            Action::Patch {
                patch: Patch::Strategic(patch),
                ..
            },
        ] = planned.actions.as_slice()
        else {
            panic!("{planned:?}");
        };
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(patch["status"]["conditions"][0]["status"], "False");
    }
}
