//! How long a Job waits before it makes another pod: 10 s after a failure, doubled for each
//! further one since the last success, up to 10 minutes. The failures are counted on the pods that
//! are still there.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::common::{is_deleting, millis_of};

const FIRST_MILLIS: i64 = 10_000;
const LONGEST_MILLIS: i64 = 600_000;

/// When a pod ended: when its last container did; else since when it is not ready; else when its
/// deletion was asked for; else when it was made.
pub fn ended_millis(pod: &Pod) -> i64 {
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let at = millis_of(pod.metadata.deletion_timestamp.as_ref())?;
        Some(at - grace * 1_000)
    };
    containers_ended(pod)
        .or_else(|| not_ready_since(pod))
        .or_else(|| deleted().filter(|_| is_deleting(pod)))
        .or_else(|| millis_of(pod.metadata.creation_timestamp.as_ref()))
        .unwrap_or(0)
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
    use super::*;

    #[test]
    fn waits_double_since_the_last_success() {
        let waits: Vec<i64> = (1..=9).map(|n| due_millis(n, 0) / 1_000).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(due_millis(i32::MAX, 0), LONGEST_MILLIS);
        assert_eq!(failures([5].into_iter(), [1, 5, 7, 6].into_iter()), (2, 7));
        assert_eq!(failures([].into_iter(), [1, 2].into_iter()), (2, 2));
        assert_eq!(failures([3].into_iter(), [].into_iter()), (0, 0));
    }
}
