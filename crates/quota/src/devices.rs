//! How claims of devices are counted: by the classes that they ask for, and by the extended resources
//! that these classes stand for, so that a quota of such a resource holds whichever way devices are
//! asked for. A claim that was made for the extended resources of a pod uses only what the pod has
//! not been counted for.

use std::collections::BTreeMap;

use api::Quantity;
use serde_json::Value;

use crate::amounts::Amounts;
use crate::evaluator::{Evaluator, IMPLICIT_DEVICES, REQUESTS};
use crate::pod::{list, text};

/// Devices that a request for all of them may get at most, by the API's own bound.
const DEVICES_MAX: i64 = 32;
const NUMBER: &str = "count/resourceclaims.resource.k8s.io";
const BY_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// Marks a claim that was made for a pod's extended resources.
const MADE: &str = "resource.kubernetes.io/extended-resource-claim";

/// What has to be known of other objects for claims of devices to be counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// The extended resource that each class stands for; empty for one without.
    classes: BTreeMap<String, String>,
    /// What their pods have been counted for, by the names of claims.
    counted: BTreeMap<String, Amounts>,
}

fn meta(object: &Value) -> &Value {
    object.get("metadata").unwrap_or(&Value::Null)
}

/// The pod for whose extended resources a claim was made: its name and UID.
pub fn made_for(claim: &Value) -> Option<(&str, &str)> {
    let marks = meta(claim).get("annotations")?;
    let mut owners = list(claim, "/metadata/ownerReferences").iter();
    let owner = owners.find(|o| o.get("controller") == Some(&Value::Bool(true)))?;
    let is_pod = text(owner, "kind") == "Pod" && text(owner, "apiVersion") == "v1";
    let is_made = text(marks, MADE) == "true" && is_pod;
    is_made.then(|| (text(owner, "name"), text(owner, "uid")))
}

/// Whether no other claim for the pod of this UID was there before.
fn is_first<'a>(claim: &Value, uid: &str, claims: impl IntoIterator<Item = &'a Value>) -> bool {
    // Times of one form, in the order of their texts.
    let rank = |c: &Value| {
        let part = |field: &str| text(meta(c), field).to_owned();
        (part("creationTimestamp"), part("name"))
    };
    let (own, own_uid) = (rank(claim), text(meta(claim), "uid"));
    let mut others = claims.into_iter().filter(|c| {
        made_for(c).is_some_and(|(_, of)| of == uid) && text(meta(c), "uid") != own_uid
    });
    // One that is just being made comes last.
    others.all(|other| !own.0.is_empty() && own < rank(other))
}

impl Devices {
    /// With these classes.
    pub fn of<'a>(classes: impl IntoIterator<Item = &'a Value>) -> Self {
        let named = classes.into_iter().map(|class| {
            let spec = class.get("spec").unwrap_or(&Value::Null);
            let name = text(meta(class), "name").to_owned();
            (name, text(spec, "extendedResourceName").to_owned())
        });
        Self {
            classes: named.collect(),
            counted: BTreeMap::new(),
        }
    }

    /// Notes what a pod has been counted for, if the claim is the one that was made for it. Of several
    /// that say so the pod's status distinguishes which it is; until then it is the first.
    pub fn note<'a>(
        &mut self,
        claim: &Value,
        pod: &Value,
        claims: impl IntoIterator<Item = &'a Value>,
        now_seconds: i64,
    ) {
        let Some((name, uid)) = made_for(claim) else {
            return;
        };
        if text(meta(pod), "name") != name || text(meta(pod), "uid") != uid {
            return;
        }
        let own = text(meta(claim), "name");
        let told = pod.pointer("/status/extendedResourceClaimStatus");
        let is_it = match told {
            Some(told) => text(told, "resourceClaimName") == own,
            None => is_first(claim, uid, claims),
        };
        if is_it {
            let used = Evaluator::Pods.usage(pod, now_seconds);
            self.counted.insert(own.to_owned(), used);
        }
    }

    /// Whether claims use of this resource of a quota.
    pub(crate) fn concern(&self, name: &str) -> bool {
        let resource = name.strip_prefix(REQUESTS).unwrap_or_default();
        let is_known = match resource.strip_prefix(IMPLICIT_DEVICES) {
            Some(class) => self.classes.contains_key(class),
            None => !resource.is_empty() && self.classes.values().any(|r| r == resource),
        };
        is_own(name) || is_known
    }

    /// What one claim uses.
    pub(crate) fn usage(&self, claim: &Value) -> Amounts {
        let mut out = by_class(claim);
        let mut extended = Amounts::default();
        for (name, amount) in out.iter() {
            let Some(class) = name.strip_suffix(BY_CLASS).filter(|c| !c.is_empty()) else {
                continue;
            };
            extended.set(format!("{REQUESTS}{IMPLICIT_DEVICES}{class}"), *amount);
            if let Some(resource) = self.classes.get(class).filter(|r| !r.is_empty()) {
                extended.add_to(&format!("{REQUESTS}{resource}"), *amount);
            }
        }
        let counted = self.counted.get(text(meta(claim), "name"));
        for (name, amount) in extended.iter() {
            let before = counted.and_then(|c| c.get(name)).copied();
            let more = *amount - before.unwrap_or_default();
            if more > Quantity::ZERO {
                out.set(name, more);
            }
        }
        out.set(NUMBER, Quantity::from_units(1));
        out
    }
}

/// Whether a resource of a quota is used by claims of devices alone.
pub(crate) fn is_own(name: &str) -> bool {
    name == NUMBER || name.ends_with(BY_CLASS)
}

fn by_class(claim: &Value) -> Amounts {
    let mut out = Amounts::default();
    let number = |request: &Value| match text(request, "allocationMode") {
        "ExactCount" => request.get("count").and_then(Value::as_i64).unwrap_or(0),
        "All" => DEVICES_MAX,
        _ => 0,
    };
    let class = |request: &Value| format!("{}{BY_CLASS}", text(request, "deviceClassName"));
    for request in list(claim, "/spec/devices/requests") {
        let alternatives = list(request, "/firstAvailable");
        if let (true, Some(exactly)) = (alternatives.is_empty(), request.get("exactly")) {
            out.add_to(&class(exactly), Quantity::from_units(number(exactly)));
        }
        // Of alternatives only one is given: the most of each class counts.
        let mut most = Amounts::default();
        for one in alternatives {
            let amount = Quantity::from_units(number(one));
            most.at_least(&[(class(one), amount)].into_iter().collect());
        }
        out.add(&most);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn classes() -> Devices {
        let gpu = json!({ "metadata": { "name": "gpu" },
            "spec": { "extendedResourceName": "example.com/gpu" } });
        let tpu = json!({ "metadata": { "name": "tpu" }, "spec": {} });
        Devices::of([&gpu, &tpu])
    }

    fn exactly(class: &str, mode: &str, count: i64) -> Value {
        json!({ "deviceClassName": class, "allocationMode": mode, "count": count })
    }

    fn claim(name: &str, made: &str, requests: &[Value]) -> Value {
        json!({
            "metadata": { "name": name, "uid": name, "creationTimestamp": made },
            "spec": { "devices": { "requests": requests } },
        })
    }

    #[test]
    fn a_claim_uses_what_its_classes_stand_for() {
        let one = |class, mode, count| json!({ "exactly": exactly(class, mode, count) });
        let of = |all: &[Value]| json!({ "firstAvailable": all });
        let mut admin = one("gpu", "ExactCount", 1);
        admin["exactly"]["adminAccess"] = json!(true);
        // Requests, and devices of gpu and tpu.
        let rows = [
            (vec![], None, None),
            (vec![one("gpu", "ExactCount", 1)], Some(1), None),
            (vec![one("gpu", "ExactCount", 5)], Some(5), None),
            (vec![one("gpu", "ExactCount", 1); 5], Some(5), None),
            (vec![one("gpu", "All", 0)], Some(32), None),
            (vec![one("gpu", "Later", 3)], Some(0), None),
            (vec![admin], Some(1), None),
            (vec![of(&[exactly("gpu", "ExactCount", 1)])], Some(1), None),
            (
                vec![of(&[
                    exactly("gpu", "ExactCount", 2),
                    exactly("gpu", "ExactCount", 1),
                ])],
                Some(2),
                None,
            ),
            (
                vec![of(&[
                    exactly("gpu", "ExactCount", 1),
                    exactly("tpu", "All", 0),
                ])],
                Some(1),
                Some(32),
            ),
            (
                vec![
                    of(&[exactly("gpu", "ExactCount", 1), exactly("gpu", "All", 0)]),
                    one("gpu", "ExactCount", 2),
                ],
                Some(34),
                None,
            ),
        ];
        for (requests, gpu, tpu) in rows {
            let mut want = vec![format!("{NUMBER}=1")];
            want.extend(gpu.map(|n| format!("gpu{BY_CLASS}={n}")));
            let (gpu, all) = (gpu.filter(|n| *n > 0), "requests.deviceclass.resource");
            want.extend(gpu.map(|n| format!("{all}.kubernetes.io/gpu={n}")));
            want.extend(tpu.map(|n| format!("{all}.kubernetes.io/tpu={n}")));
            want.extend(gpu.map(|n| format!("requests.example.com/gpu={n}")));
            want.extend(tpu.map(|n| format!("tpu{BY_CLASS}={n}")));
            let used = classes().usage(&claim("c", "1", &requests)).show();
            assert_eq!(used, want.join(","), "{requests:?}");
        }
    }

    #[test]
    fn a_quota_concerns_claims_by_what_classes_stand_for() {
        for (name, concerns) in [
            ("count/resourceclaims.resource.k8s.io", true),
            ("gpu.deviceclass.resource.k8s.io/devices", true),
            ("requests.example.com/gpu", true),
            ("requests.deviceclass.resource.kubernetes.io/gpu", true),
            ("requests.deviceclass.resource.kubernetes.io/tpu", true),
            ("requests.deviceclass.resource.kubernetes.io/no", false),
            ("requests.example.com/tpu", false),
            ("requests.", false),
            ("resourceclaims", false),
            ("storage", false),
            ("ephemeral-storage", false),
            ("bronze.deviceclass.resource.k8s.io/storage", false),
            ("gpu.storage.k8s.io/requests.storage", false),
        ] {
            assert_eq!(classes().concern(name), concerns, "{name}");
        }
    }

    fn made(name: &str, at: &str, count: i64) -> Value {
        let requests = [json!({ "exactly": exactly("gpu", "ExactCount", count) })];
        let mut claim = claim(name, at, &requests);
        claim["metadata"]["annotations"] = json!({ MADE: "true" });
        claim["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "Pod",
            "name": "p", "uid": "u", "controller": true }]);
        claim
    }

    #[test]
    fn what_the_pod_has_been_counted_for_is_not_counted_twice() {
        let container = |gpu: i64, implicit: i64| {
            let implicit_name = format!("{IMPLICIT_DEVICES}gpu");
            let mut requests = json!({});
            for (name, n) in [("example.com/gpu", gpu), (implicit_name.as_str(), implicit)] {
                if n > 0 {
                    requests[name] = json!(n.to_string());
                }
            }
            json!({ "name": "c", "resources": { "requests": requests } })
        };
        let pod = |init: &[&Value], containers: &[&Value], claim: Option<&str>| {
            let mut pod = json!({
                "metadata": { "name": "p", "uid": "u" },
                "spec": { "initContainers": init, "containers": containers },
                "status": {},
            });
            if let Some(name) = claim {
                pod["status"]["extendedResourceClaimStatus"] = json!({ "resourceClaimName": name });
            }
            pod
        };
        let own = Some("c");
        let (gpu, implicit, both) = (container(1, 0), container(0, 1), container(1, 1));
        let (gpu, implicit, both) = (&gpu, &implicit, &both);
        let mut elsewhere = pod(&[], &[gpu], own);
        elsewhere["metadata"]["uid"] = json!("other");
        let mut ended = pod(&[], &[gpu], own);
        ended["status"]["phase"] = json!("Failed");
        let early = made("a", "1", 1);
        let twin = made("b", "2", 1);
        let late = made("d", "3", 1);
        // Devices of the claim, its pod, other claims for the pod; and what it uses besides of the
        // resource that the class names, and of the class's own.
        let rows = [
            (1, pod(&[], &[implicit], own), vec![], 1, 0),
            (1, pod(&[gpu], &[], own), vec![], 0, 1),
            (2, pod(&[both], &[both], own), vec![], 1, 1),
            (2, pod(&[gpu], &[implicit], None), vec![], 1, 1),
            (2, pod(&[both, both], &[both], own), vec![], 1, 1),
            (1, pod(&[], &[gpu], None), vec![&late], 0, 1),
            (1, pod(&[], &[gpu], None), vec![&early], 1, 1),
            (1, pod(&[], &[gpu], None), vec![&twin], 1, 1),
            (1, pod(&[], &[gpu], own), vec![&early], 0, 1),
            (1, pod(&[], &[gpu], Some("b")), vec![], 1, 1),
            (1, elsewhere, vec![], 1, 1),
            (1, ended, vec![], 1, 1),
        ];
        for (count, pod, others, named, implied) in rows {
            let claim = made("c", "2", count);
            let mut devices = classes();
            let all = others.into_iter().chain([&claim]);
            devices.note(&claim, &pod, all, 0);
            let used = devices.usage(&claim);
            let of = |name: &str| {
                used.get(name)
                    .map_or_else(|| "0".to_owned(), ToString::to_string)
            };
            let got = [
                of("requests.example.com/gpu"),
                of("requests.deviceclass.resource.kubernetes.io/gpu"),
            ];
            assert_eq!(got, [named.to_string(), implied.to_string()], "{pod}");
            assert_eq!(
                of("gpu.deviceclass.resource.k8s.io/devices"),
                count.to_string()
            );
        }
    }

    #[test]
    fn who_is_just_being_made_comes_after_all_others() {
        let pod = json!({ "metadata": { "name": "p", "uid": "u" }, "spec": { "containers": [
            { "name": "c", "resources": { "requests": { "example.com/gpu": "1" } } }] } });
        let mut new = made("c", "", 1);
        new["metadata"]["uid"] = Value::Null;
        for (others, used) in [(vec![], None), (vec![made("d", "3", 1)], Some("1"))] {
            let mut devices = classes();
            devices.note(&new, &pod, &others, 0);
            let of = devices.usage(&new);
            let of = of.get("requests.example.com/gpu").map(ToString::to_string);
            assert_eq!(of.as_deref(), used);
        }
        // A claim that is not such a one gets nothing off.
        let mut plain = made("c", "1", 1);
        plain["metadata"]["annotations"] = json!({ MADE: "false" });
        assert_eq!(made_for(&plain), None);
        let mut other = made("c", "1", 1);
        other["metadata"]["ownerReferences"][0]["kind"] = json!("Job");
        assert_eq!(made_for(&other), None);
    }
}
