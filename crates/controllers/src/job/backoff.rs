//! How long a Job waits before it makes another pod: 10 s after a failure, doubled for each
//! further one since the last success, up to 10 minutes. The failures are counted on the pods that
//! are still there.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::common::millis_of;

const FIRST_MILLIS: i64 = 10_000;
const LONGEST_MILLIS: i64 = 600_000;

/// When a pod ended: when its last container did; else since when it is not ready; else when its
/// deletion was asked for; else when it was made.
pub fn ended_millis(pod: &Pod) -> i64 {
    containers_ended(pod)
        .or_else(|| not_ready_since(pod))
        .or_else(|| deleted_millis(pod))
        .or_else(|| millis_of(pod.metadata.creation_timestamp.as_ref()))
        .unwrap_or(0)
}

/// When a pod's deletion was asked for, to the second.
pub fn deleted_millis(pod: &Pod) -> Option<i64> {
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let at = millis_of(pod.metadata.deletion_timestamp.as_ref())?;
    Some(at.saturating_sub(grace.saturating_mul(1_000)))
}

fn containers_ended(pod: &Pod) -> Option<i64> {
    let status = pod.status.as_ref()?;
    let specs = pod
        .spec
        .iter()
        .flat_map(|s| s.init_containers.iter().flatten());
    let sidecars: Vec<&str> = specs
        .filter(|c| c.restart_policy.as_deref() == Some("Always"))
        .map(|c| c.name.as_str())
        .collect();
    let init = status.init_container_statuses.iter().flatten();
    let init = init.filter(|s| sidecars.contains(&s.name.as_str()));
    let all = status.container_statuses.iter().flatten().chain(init);
    let ended = |s: &ContainerStatus| {
        let ended = s.state.as_ref()?.terminated.as_ref()?;
        millis_of(ended.finished_at.as_ref())
    };
    // None when one of them has not ended.
    let all: Option<Vec<i64>> = all.map(ended).collect();
    all?.into_iter().max()
}

fn not_ready_since(pod: &Pod) -> Option<i64> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "False")?;
    millis_of(ready.last_transition_time.as_ref())
}

/// The time from which the next pod may be made, after so many failures in a row.
pub fn due_millis(failures: i32, last_millis: i64) -> i64 {
    if failures <= 0 {
        return i64::MIN;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(10);
    last_millis + (FIRST_MILLIS << doublings).min(LONGEST_MILLIS)
}

/// The failures since the last success, and when the last of them was.
pub fn failures(
    succeeded: impl Iterator<Item = i64>,
    failed: impl Iterator<Item = i64>,
) -> (i32, i64) {
    let success = succeeded.max().unwrap_or(i64::MIN);
    let since: Vec<i64> = failed.filter(|t| *t > success).collect();
    let last = since.iter().copied().max().unwrap_or(0);
    (i32::try_from(since.len()).unwrap_or(i32::MAX), last)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn waits_double_since_the_last_success() {
        let waits: Vec<i64> = (1..=9).map(|n| due_millis(n, 0) / 1_000).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(due_millis(i32::MAX, 0), LONGEST_MILLIS);
        assert_eq!(failures([5].into_iter(), [1, 5, 7, 6].into_iter()), (2, 7));
        assert_eq!(failures([].into_iter(), [1, 2].into_iter()), (2, 2));
        assert_eq!(failures([3].into_iter(), [].into_iter()), (0, 0));
        assert_eq!(failures([5].into_iter(), [5].into_iter()), (0, 0));
    }

    #[test]
    fn a_pod_has_ended_when_the_best_witness_says() {
        let ended =
            |seconds: i64| json!({ "terminated": { "exitCode": 1, "finishedAt": time(seconds) } });
        let container = |name: &str, state: Value| json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state });
        let ready = |status: &str| json!([{ "type": "Ready", "status": status, "lastTransitionTime": time(50) }]);
        let (running, no_time) = (
            json!({ "running": {} }),
            json!({ "terminated": { "exitCode": 1 } }),
        );
        let all = |states: &[&Value]| {
            Value::Array(
                states
                    .iter()
                    .map(|s| container("c", (*s).clone()))
                    .collect(),
            )
        };
        let deleted = json!({ "deletionTimestamp": time(70) });
        let with_grace = json!({ "deletionTimestamp": time(70), "deletionGracePeriodSeconds": 30 });
        for (meta, status, expected) in [
            (
                json!({}),
                json!({ "containerStatuses": all(&[&ended(9), &ended(10), &ended(8)]) }),
                10,
            ),
            (
                deleted.clone(),
                json!({ "containerStatuses": all(&[&ended(9), &running]) }),
                70,
            ),
            (
                with_grace,
                json!({ "containerStatuses": all(&[&running]) }),
                40,
            ),
            (
                deleted.clone(),
                json!({ "containerStatuses": all(&[&no_time]), "conditions": ready("False") }),
                50,
            ),
            (
                deleted,
                json!({ "containerStatuses": all(&[&no_time]), "conditions": ready("True") }),
                70,
            ),
            (
                json!({}),
                json!({ "containerStatuses": all(&[&no_time]) }),
                1,
            ),
            // A sidecar ends last, and other init containers do not matter.
            (
                json!({}),
                json!({ "containerStatuses": all(&[&ended(9)]), "initContainerStatuses":
                    [container("sidecar", ended(11)), container("init", ended(30))] }),
                11,
            ),
        ] {
            let mut pod = json!({
                "metadata": { "creationTimestamp": time(1) },
                "spec": { "containers": [], "initContainers": [
                    { "name": "sidecar", "restartPolicy": "Always" }, { "name": "init" }] },
                "status": status,
            });
            crate::common::merge(&mut pod["metadata"], &meta);
            let found = ended_millis(&serde_json::from_value(pod.clone()).unwrap());
            assert_eq!(found, expected * 1_000, "{pod}");
        }
    }

    fn time(seconds: i64) -> Value {
        json!(crate::common::time_text(seconds * 1_000))
    }
}
