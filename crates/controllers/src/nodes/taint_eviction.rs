//! Which pods must leave a node because of its taints, and when. Pure, but for the memory of when
//! a taint without a time was first seen.

use std::collections::HashMap;

use control::action::reference;
use control::{Action, Plan};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::json;

use super::lifecycle::{NOT_READY, ObservedNode, UNREACHABLE, taints};
use crate::common::{is_deleting, is_finished, millis_of};
use crate::pods;

/// Why a pod goes, in its condition.
const REASON: &str = "DeletionByTaintManager";
const MESSAGE: &str = "Taint manager: deleting due to NoExecute taint";

/// What makes a taint another one.
type Key = (String, String, Option<String>);

fn key(taint: &Taint) -> Key {
    (taint.key.clone(), taint.effect.clone(), taint.value.clone())
}

fn executes(taint: &&Taint) -> bool {
    taint.effect == "NoExecute"
}

/// When taints of a node that do not say it were first seen, in milliseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub struct Since(HashMap<Key, i64>);

impl Since {
    /// Since when a taint is there.
    fn of(&self, taint: &Taint) -> i64 {
        let said = millis_of(taint.time_added.as_ref());
        said.or_else(|| self.0.get(&key(taint)).copied())
            .unwrap_or(0)
    }
}

/// [`Since`] for every node. It begins again with the process, as upstream's: then pods may stay
/// longer, never shorter.
#[derive(Default)]
pub struct FirstSeen(Mutex<HashMap<String, Since>>);

impl FirstSeen {
    /// Notes the taints that a node has now.
    pub fn note(&self, node: &Node, now_millis: i64) -> Since {
        let timeless = taints(node)
            .iter()
            .filter(executes)
            .filter(|t| t.time_added.is_none());
        let mut all = self.0.lock();
        let old = all.remove(&node.name_any()).unwrap_or_default();
        let now = timeless.map(|t| {
            let key = key(t);
            // Not later than now, where the clock was set back.
            let since = old
                .0
                .get(&key)
                .copied()
                .unwrap_or(now_millis)
                .min(now_millis);
            (key, since)
        });
        let now = Since(now.collect());
        if !now.0.is_empty() {
            all.insert(node.name_any(), now.clone());
        }
        now
    }

    pub fn forget(&self, node: &str) {
        self.0.lock().remove(node);
    }
}

/// Whether a toleration means a taint.
pub(crate) fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let taint = api::taint::Taint::of(&taint.key, &taint.value, &taint.effect);
    api::taint::Toleration::of(&t.key, &t.operator, &t.value, &t.effect).tolerates(&taint)
}

/// When the pod came to its node, in milliseconds since the epoch.
fn came(pod: &Pod) -> i64 {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let scheduled = conditions.into_iter().flatten();
    let mut scheduled = scheduled.filter(|c| c.type_ == "PodScheduled" && c.status == "True");
    let since = scheduled
        .next()
        .and_then(|c| millis_of(c.last_transition_time.as_ref()));
    // One that was made with its node.
    since
        .or_else(|| millis_of(pod.metadata.creation_timestamp.as_ref()))
        .unwrap_or(0)
}

/// For how long a pod may stay with these taints, from when each was set or the pod came: `None`
/// for ever, else the time at which it must go, in milliseconds since the epoch.
fn leaves_at(pod: &Pod, executing: &[&Taint], since: &Since) -> Option<i64> {
    let came = came(pod);
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|s| s.tolerations.as_deref())
        .unwrap_or_default();
    executing
        .iter()
        .filter_map(|taint| {
            let added = since.of(taint).max(came);
            // Of several the first one counts, so that one that somebody adds cannot make the stay
            // longer or shorter; one without seconds is for ever.
            let Some(first) = tolerations.iter().find(|t| tolerates(t, taint)) else {
                return Some(added);
            };
            let seconds = first.toleration_seconds?.max(0);
            Some(added.saturating_add(seconds.saturating_mul(1_000)))
        })
        .min()
}

/// Deletes pods whose time is over; returns the milliseconds until the next one's.
pub fn evict(seen: &ObservedNode, now_millis: i64, plan: &mut Plan) -> Option<u64> {
    let executing: Vec<&Taint> = taints(&seen.node).iter().filter(executes).collect();
    if executing.is_empty() {
        return None;
    }
    // Taints that others set are obeyed whatever we think of the network.
    let held_back = |t: &Taint| seen.is_disrupted && (t.key == NOT_READY || t.key == UNREACHABLE);
    let executing: Vec<&Taint> = executing.into_iter().filter(|t| !held_back(t)).collect();
    let mut next: Option<u64> = None;
    for pod in seen
        .pods
        .iter()
        .filter(|p| !is_deleting(&***p) && !is_finished(p))
    {
        let Some(at) = leaves_at(pod, &executing, &seen.since) else {
            continue;
        };
        if at > now_millis {
            let wait = u64::try_from(at - now_millis).unwrap_or(0) + 1;
            next = Some(next.map_or(wait, |n| n.min(wait)));
            continue;
        }
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        plan.actions.push(Action::Event {
            about: reference(&**pod),
            warning: false,
            reason: "TaintManagerEviction",
            message: format!("Marking for deletion Pod {namespace}/{name}"),
        });
        let why = pods::disruption_target(pod, REASON, MESSAGE, now_millis);
        let status = json!({ "conditions": [why] });
        plan.actions.push(pods::status_patch(pod, status));
        plan.last.push(Action::delete(pods::target(pod), pod.uid()));
    }
    next
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::common::time_text;

    const NOW: i64 = 1_000_000;

    fn node(taints: &Value) -> Node {
        let value = json!({ "metadata": { "name": "n" }, "spec": { "taints": taints } });
        serde_json::from_value(value).expect("node")
    }

    /// A pod that came so many milliseconds before now and tolerates everything for 30 s.
    fn pod(before: i64) -> Pod {
        let value = json!({
            "metadata": { "name": "p", "namespace": "a" },
            "spec": { "containers": [], "tolerations": [
                { "key": "k", "operator": "Exists", "tolerationSeconds": 30 },
            ] },
            "status": { "conditions": [{
                "type": "PodScheduled", "status": "True",
                "lastTransitionTime": time_text(NOW - before),
            }] },
        });
        serde_json::from_value(value).expect("pod")
    }

    #[test]
    fn for_how_long_pods_stay() {
        let taint = |key: &str, effect: &str| json!({ "key": key, "value": "v", "effect": effect, "timeAdded": time_text(NOW) });
        let (one, two) = (taint("one", "NoExecute"), taint("two", "NoExecute"));
        let tolerates = |key: &str, value: &str, seconds: Option<i64>| json!({ "key": key, "value": value, "effect": "NoExecute", "tolerationSeconds": seconds });
        let forever = || tolerates("one", "v", None);
        let some = |key: &str, seconds: i64| tolerates(key, "v", Some(seconds));
        // None for ever, else the seconds.
        for (taints, tolerations, expected) in [
            (json!([]), json!([]), None),
            (json!([taint("one", "NoSchedule")]), json!([]), None),
            (json!([one]), json!([]), Some(0)),
            (json!([one]), json!([some("one", 100)]), Some(100)),
            (json!([one]), json!([forever()]), None),
            (json!([one]), json!([tolerates("two", "v", None)]), Some(0)),
            (json!([one]), json!([tolerates("one", "w", None)]), Some(0)),
            (json!([one]), json!([some("one", 0)]), Some(0)),
            (json!([one]), json!([some("one", -1)]), Some(0)),
            // Each must be tolerated, and the shortest stay counts.
            (json!([one, two]), json!([some("one", 100)]), Some(0)),
            (json!([one, two]), json!([forever()]), Some(0)),
            (
                json!([one, two]),
                json!([some("one", 1), some("two", 100)]),
                Some(1),
            ),
            (
                json!([one, two]),
                json!([forever(), some("two", 60)]),
                Some(60),
            ),
            // Of one taint, the first.
            (
                json!([one]),
                json!([some("one", 1), some("one", 100)]),
                Some(1),
            ),
            (
                json!([one]),
                json!([some("one", 100), some("one", 1)]),
                Some(100),
            ),
            (json!([one]), json!([forever(), some("one", 1)]), None),
        ] {
            let node = node(&taints);
            let all: Vec<&Taint> = super::taints(&node).iter().filter(executes).collect();
            let mut pod = pod(60_000);
            let given = serde_json::from_value(tolerations.clone()).expect("tolerations");
            pod.spec.get_or_insert_default().tolerations = Some(given);
            let leaves = leaves_at(&pod, &all, &Since::default());
            let seconds = leaves.map(|at| (at - NOW) / 1_000);
            assert_eq!(seconds, expected, "{taints} {tolerations}");
        }
    }

    #[test]
    fn a_taint_without_a_time_counts_from_when_it_was_seen() {
        let memory = FirstSeen::default();
        let tainted = node(&json!([{ "key": "k", "effect": "NoExecute" }]));
        let all: Vec<&Taint> = taints(&tainted).iter().collect();
        memory.note(&tainted, NOW - 10_000);
        let since = memory.note(&tainted, NOW);
        assert_eq!(leaves_at(&pod(60_000), &all, &since), Some(NOW + 20_000));
        // Gone and set again: another one.
        memory.note(&node(&Value::Null), NOW);
        let since = memory.note(&tainted, NOW + 1);
        assert_eq!(leaves_at(&pod(60_000), &all, &since), Some(NOW + 30_001));
    }

    #[test]
    fn a_pod_that_came_later_has_its_whole_time() {
        let said = node(&json!([
            { "key": "k", "effect": "NoExecute", "timeAdded": time_text(NOW - 500_000) },
        ]));
        let all: Vec<&Taint> = taints(&said).iter().collect();
        let since = FirstSeen::default().note(&said, NOW);
        let leaves = |before| leaves_at(&pod(before), &all, &since);
        assert_eq!(leaves(1_000), Some(NOW + 29_000));
        assert_eq!(leaves(600_000), Some(NOW - 470_000));
        let forever = Pod::default();
        assert_eq!(leaves_at(&forever, &all, &since), Some(NOW - 500_000));
    }
}
