//! Pods that ended stay for whoever wants to know how; when there are too many of them, some go:
//! first those that their nodes evicted, whose makers need them least, then the oldest.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers};
use control::{Controller, Count, Plan, Watches};
use k8s_openapi::api::core::v1::Pod;

use super::pod_gc::delete_at_once;
use crate::common::{is_deleting, is_finished, key_of, millis_of, phase};
use crate::metrics;
use crate::pods::BURST;

/// Between two looks. Upstream's.
const EVERY: Duration = Duration::from_secs(20);

/// Removes pods that ended, where there are more than so many.
pub struct EndedPods {
    pods: Informer<Pod>,
    most: usize,
}

impl EndedPods {
    pub fn new(informers: &Informers, most: usize) -> Self {
        Self {
            pods: informers.of(),
            most,
        }
    }
}

fn is_evicted(pod: &Pod) -> bool {
    let reason = pod.status.as_ref().and_then(|s| s.reason.as_deref());
    phase(pod) == "Failed" && reason == Some("Evicted")
}

/// The pods that ended beyond `most`, first those to go first.
fn surplus(pods: &[Arc<Pod>], most: usize) -> Vec<&Arc<Pod>> {
    let ended = |p: &&Arc<Pod>| is_finished(p) && !is_deleting(&***p);
    let mut ended: Vec<&Arc<Pod>> = pods.iter().filter(ended).collect();
    let count = ended.len().saturating_sub(most);
    if count == 0 {
        return Vec::new();
    }
    ended.sort_by_cached_key(|p| {
        let created = millis_of(p.metadata.creation_timestamp.as_ref());
        (!is_evicted(p), created, key_of(&***p))
    });
    ended.truncate(count);
    ended
}

impl Controller for EndedPods {
    const NAME: &'static str = "pod-garbage-collector";
    const QUEUE: &'static str = "terminated_pods";
    const ACCOUNT: &'static str = "pod-garbage-collector";
    /// All pods together.
    type Key = ();
    type Observed = Vec<Arc<Pod>>;

    fn watches(&self, watches: &mut Watches<()>) {
        watches.on_change_after(&self.pods, |change| {
            let ended = change.new.as_ref().is_some_and(|p| is_finished(p));
            ended.then_some(((), EVERY)).into_iter().collect()
        });
    }

    fn observe(&self, (): &()) -> Option<Vec<Arc<Pod>>> {
        Some(self.pods.list())
    }

    fn plan(&self, pods: &Vec<Arc<Pod>>, _: i64) -> Plan {
        let surplus = surplus(pods, self.most);
        let deletes = surplus.iter().take(BURST).map(|p| delete_at_once(p));
        let mut plan = Plan {
            actions: deletes.collect(),
            ..Plan::default()
        };
        if surplus.len() > BURST {
            plan.wake_after_millis = Some(1);
        }
        plan
    }

    fn metrics(&self, _: &Vec<Arc<Pod>>, plan: &Plan) -> Option<Count> {
        metrics::forced("terminated", plan)
    }

    fn workers(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, created: &str, status: Value, deleting: bool) -> Arc<Pod> {
        let deletion = match deleting {
            true => json!("2026-01-01T00:00:00Z"),
            false => Value::Null,
        };
        let value = json!({
            "metadata": { "name": name, "namespace": "a", "creationTimestamp": created,
                "deletionTimestamp": deletion },
            "status": status,
        });
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    #[test]
    fn of_too_many_the_evicted_and_then_the_oldest_go() {
        let failed = json!({ "phase": "Failed" });
        let evicted = json!({ "phase": "Failed", "reason": "Evicted" });
        let all = [
            pod("young", "2026-01-01T03:00:00Z", failed.clone(), false),
            pod("evicted", "2026-01-01T04:00:00Z", evicted, false),
            pod(
                "old",
                "2026-01-01T01:00:00Z",
                json!({ "phase": "Succeeded" }),
                false,
            ),
            pod("also-old", "2026-01-01T01:00:00Z", failed.clone(), false),
            pod(
                "runs",
                "2026-01-01T00:00:00Z",
                json!({ "phase": "Running" }),
                false,
            ),
            // It goes anyhow, when its finalizers are gone.
            pod("going", "2026-01-01T00:00:00Z", failed, true),
        ];
        let gone = |most| {
            let names = surplus(&all, most).into_iter();
            let names = names.filter_map(|p| p.metadata.name.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(gone(4), [""; 0]);
        assert_eq!(gone(3), ["evicted"]);
        assert_eq!(gone(1), ["evicted", "also-old", "old"]);
        assert_eq!(gone(0), ["evicted", "also-old", "old", "young"]);
    }
}
