//! Pods that use devices with a taint of effect NoExecute are deleted, unless their claims tolerate
//! it, and when the time that they tolerate it for is over. Where such devices are given out is the
//! scheduler's business.

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::reference;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use kube::ResourceExt;
use serde_json::json;

use crate::common::{Key, is_deleting, is_finished, key_of, millis_of, uid_of, wake_at};
use crate::pods;
use crate::resource_claim;

const EXECUTES: &str = "NoExecute";
/// Names of the indexes of claims and slices by pools, and of pods by claims.
const BY_POOL: &str = "device pool";
const PODS_BY_CLAIM: &str = "claim with devices";

/// Evicts pods for taints of devices.
pub struct DeviceTaints {
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
}

fn place(one: &str, two: &str) -> String {
    format!("{one}/{two}")
}

fn results(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let status = claim.status.as_ref();
    let devices = status.and_then(|s| s.allocation.as_ref()?.devices.as_ref());
    devices
        .and_then(|d| d.results.as_deref())
        .unwrap_or_default()
}

fn pool_of(slice: &ResourceSlice) -> String {
    place(&slice.spec.driver, &slice.spec.pool.name)
}

/// Pods by name that a claim is reserved for.
fn pods_of(claim: &ResourceClaim) -> Vec<Key> {
    let namespace = claim.namespace().unwrap_or_default();
    let users = resource_claim::pods_of(claim);
    users
        .map(|(name, _)| (namespace.clone(), name.to_owned()))
        .collect()
}

impl DeviceTaints {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            pods: informers.of(),
            claims: informers.of(),
            slices: informers.of(),
        };
        all.slices.index(BY_POOL, |slice| vec![pool_of(slice)]);
        all.claims.index(BY_POOL, |claim| {
            let pools = results(claim).iter().map(|r| place(&r.driver, &r.pool));
            pools.collect()
        });
        all.pods.index(PODS_BY_CLAIM, |pod| {
            let namespace = pod.namespace().unwrap_or_default();
            let names = resource_claim::names(pod);
            names.map(|name| place(&namespace, &name)).collect()
        });
        all
    }

    /// The taints of a device, as the newest slices of its pool show it.
    fn taints(&self, result: &DeviceRequestAllocationResult) -> Vec<DeviceTaint> {
        let slices = self
            .slices
            .by_index(BY_POOL, &place(&result.driver, &result.pool));
        let newest = slices.iter().map(|s| s.spec.pool.generation).max();
        let newest = slices
            .iter()
            .filter(|s| Some(s.spec.pool.generation) == newest);
        let mut devices = newest.flat_map(|s| s.spec.devices.iter().flatten());
        let device = devices.find(|d| d.name == result.device);
        device.and_then(|d| d.taints.clone()).unwrap_or_default()
    }
}

/// A pod, and the devices that it has: their taints, and what its claims tolerate of them.
pub struct Observed {
    pod: Arc<Pod>,
    devices: Vec<(Vec<DeviceTaint>, Vec<DeviceToleration>)>,
}

fn tolerates(t: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let taint = api::taint::Taint::of(&taint.key, &taint.value, &taint.effect);
    let means = api::taint::Toleration::of(&t.key, &t.operator, &t.value, &t.effect);
    t.effect.as_deref() == Some(EXECUTES) && means.tolerates(&taint)
}

/// When a taint makes the device's pod go, in milliseconds since the epoch; `None`: never. One
/// without a time, which the API server sets, counts from the beginning.
fn leaves_at(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> Option<i64> {
    if taint.effect != EXECUTES {
        return None;
    }
    let added = millis_of(taint.time_added.as_ref()).unwrap_or(0);
    let matching: Vec<_> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
    if matching.is_empty() {
        return Some(added);
    }
    // One without seconds is for ever, whatever others say.
    let seconds: Option<Vec<i64>> = matching.iter().map(|t| t.toleration_seconds).collect();
    let shortest = seconds?.into_iter().min()?;
    Some(added.saturating_add(shortest.max(0).saturating_mul(1_000)))
}

fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::nothing();
    let all = seen.devices.iter();
    let all = all
        .flat_map(|(taints, tolerations)| taints.iter().filter_map(|t| leaves_at(t, tolerations)));
    let Some(at) = all.min() else {
        return plan;
    };
    if at > now_millis {
        wake_at(Some(at), now_millis, &mut plan);
        return plan;
    }
    let pod = &*seen.pod;
    let condition = pods::disruption_target(
        pod,
        "DeletionByDeviceTaintManager",
        "Device Taint manager: deleting due to NoExecute taint",
        now_millis,
    );
    plan.actions.push(Action::Event {
        about: reference(pod),
        warning: false,
        reason: "DeviceTaintManagerEviction",
        message: "Marking for deletion".into(),
    });
    let status = json!({ "conditions": [condition] });
    plan.actions.push(pods::status_patch(pod, status));
    plan.last.push(Action::delete(pods::target(pod), pod.uid()));
    plan
}

impl Controller for DeviceTaints {
    const NAME: &'static str = "device-taint-eviction-controller";
    const QUEUE: &'static str = "device_taint_eviction";
    const ACCOUNT: &'static str = "device-taint-eviction-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on_change(&self.pods, |change| {
            let new = change.new.iter();
            let using = new.filter(|p| resource_claim::wanted(p).next().is_some());
            using.map(|p| key_of(&**p)).collect()
        });
        let pods = self.pods.clone();
        watches.on_change(&self.claims, move |change| {
            let Some(claim) = &change.new else {
                return Vec::new();
            };
            let (namespace, name) = key_of(&**claim);
            let users = pods.by_index(PODS_BY_CLAIM, &place(&namespace, &name));
            users.iter().map(|p| key_of(&**p)).collect()
        });
        let claims = self.claims.clone();
        watches.on(&self.slices, move |slice| {
            let claims = claims.by_index(BY_POOL, &pool_of(slice));
            claims.iter().flat_map(|c| pods_of(c)).collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let pod = self.pods.get(namespace, name)?;
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
        if is_deleting(&*pod) || is_finished(&pod) || node.unwrap_or_default().is_empty() {
            return None;
        }
        let uid = uid_of(&*pod);
        let claims = resource_claim::names(&pod).filter_map(|n| self.claims.get(namespace, &n));
        // Of a claim that is another's, by the same name, nothing is used.
        let own = claims.filter(|c| resource_claim::pods_of(c).any(|(_, of)| of == uid));
        let mut devices = Vec::new();
        for claim in own {
            for result in results(&claim) {
                let tolerations = result.tolerations.clone().unwrap_or_default();
                devices.push((self.taints(result), tolerations));
            }
        }
        (!devices.is_empty()).then_some(Observed { pod, devices })
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        plan(seen, now_millis)
    }
}

#[cfg(test)]
mod tests {
    use control::action::Patch;
    use serde_json::Value;

    use super::*;
    use crate::common::time_text;

    const NOW: i64 = 1_000_000;

    fn seen(taints: Value, tolerations: Value) -> Observed {
        let pod = json!({ "metadata": { "name": "p", "namespace": "a", "uid": "u" },
            "spec": { "containers": [], "nodeName": "n" } });
        let taints = serde_json::from_value(taints).expect("taints");
        let tolerations = serde_json::from_value(tolerations).expect("tolerations");
        Observed {
            pod: Arc::new(serde_json::from_value(pod).expect("a pod")),
            devices: vec![(taints, tolerations)],
        }
    }

    fn taint(effect: &str, before: i64) -> Value {
        json!({ "key": "k", "effect": effect, "timeAdded": time_text(NOW - before) })
    }

    fn toleration(effect: &str, seconds: Value) -> Value {
        json!({ "key": "k", "operator": "Exists", "effect": effect, "tolerationSeconds": seconds })
    }

    #[test]
    fn pods_go_when_their_claims_tolerate_a_taint_no_longer() {
        for (taints, tolerations, goes, wake) in [
            (json!([]), json!([]), false, None),
            (json!([taint("NoSchedule", 9_000)]), json!([]), false, None),
            (json!([taint("NoExecute", 9_000)]), json!([]), true, None),
            (
                json!([taint("NoExecute", 9_000)]),
                json!([toleration("NoExecute", Value::Null)]),
                false,
                None,
            ),
            // Upstream asks tolerations to name the effect.
            (
                json!([taint("NoExecute", 9_000)]),
                json!([{ "operator": "Exists" }]),
                true,
                None,
            ),
            (
                json!([taint("NoExecute", 9_000)]),
                json!([toleration("NoExecute", json!(30))]),
                false,
                Some(21_000),
            ),
            (
                json!([taint("NoExecute", 9_000)]),
                json!([
                    toleration("NoExecute", json!(5)),
                    toleration("NoExecute", json!(30))
                ]),
                true,
                None,
            ),
        ] {
            let plan = plan(&seen(taints.clone(), tolerations.clone()), NOW);
            let wakes = plan.wake_after_millis.is_some();
            assert_eq!(
                (!plan.is_empty(), wakes),
                (goes, wake.is_some()),
                "{taints} {tolerations}"
            );
            if let (Some(is), Some(wanted)) = (plan.wake_after_millis, wake) {
                assert!((wanted..=wanted + 1).contains(&is), "{is}");
            }
        }
    }

    #[test]
    fn each_taint_is_tolerated_for_itself() {
        // A minute ago.
        let added = time_text(NOW - 60_000);
        let taint = |key: &str, effect: &str| json!({ "key": key, "value": "v", "effect": effect, "timeAdded": added });
        let tolerates = |key: &str, value: &str, seconds: Option<i64>| {
            let operator = if value.is_empty() { "Exists" } else { "Equal" };
            let mut all = json!({ "operator": operator, "effect": "NoExecute" });
            for (field, text) in [("key", key), ("value", value)] {
                if !text.is_empty() {
                    all[field] = json!(text);
                }
            }
            if let Some(seconds) = seconds {
                all["tolerationSeconds"] = json!(seconds);
            }
            all
        };
        let evicts = |key: &str| taint(key, "NoExecute");
        let (now, never) = (Some(0), None);
        // What taints, what is tolerated; and in how many seconds the pod goes.
        let rows = [
            (vec![taint("k", "None")], vec![], never),
            (vec![taint("k", "Later")], vec![], never),
            (vec![taint("k", "None"), evicts("k")], vec![], now),
            (vec![evicts("k")], vec![tolerates("other", "v", None)], now),
            (vec![evicts("k")], vec![tolerates("k", "other", None)], now),
            (vec![evicts("k")], vec![tolerates("k", "v", None)], never),
            (
                vec![evicts("k")],
                vec![tolerates("k", "v", Some(3_600))],
                Some(3_540),
            ),
            (vec![evicts("k")], vec![tolerates("", "", None)], never),
            (
                vec![evicts("k")],
                vec![
                    tolerates("other", "v", Some(80)),
                    tolerates("", "", Some(120)),
                    tolerates("", "", Some(90)),
                ],
                Some(30),
            ),
            (
                vec![evicts("k")],
                vec![tolerates("", "", Some(120)), tolerates("", "", None)],
                never,
            ),
            (
                vec![evicts("k"), evicts("other")],
                vec![tolerates("k", "", None)],
                now,
            ),
            (
                vec![evicts("k"), evicts("other")],
                vec![
                    tolerates("k", "", Some(120)),
                    tolerates("other", "", Some(90)),
                ],
                Some(30),
            ),
        ];
        for (taints, tolerations, wanted) in rows {
            let seen = seen(json!(taints), json!(tolerations));
            let devices = &seen.devices[0];
            let at = devices
                .0
                .iter()
                .filter_map(|t| leaves_at(t, &devices.1))
                .min();
            let seconds = at.map(|at| (at - NOW).max(0) / 1_000);
            assert_eq!(seconds, wanted, "{taints:?} {tolerations:?}");
            assert_eq!(plan(&seen, NOW).is_empty(), wanted != now, "{taints:?}");
        }
    }

    #[test]
    fn a_pod_hears_why_before_it_goes() {
        let plan = plan(&seen(json!([taint("NoExecute", 1_000)]), json!([])), NOW);
        let [Action::Event { reason, .. }, Action::Patch { patch, .. }] = plan.actions.as_slice()
        else {
            panic!("{plan:?}");
        };
        assert_eq!(*reason, "DeviceTaintManagerEviction");
        let Patch::Strategic(patch) = patch else {
            panic!("{patch:?}");
        };
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["reason"], "DeletionByDeviceTaintManager");
        assert!(matches!(plan.last.as_slice(), [Action::Delete { uid: Some(u), .. }] if u == "u"));
    }
}
