//! The plan of a ResourceQuota: its status, as what was listed adds up to.
//!
//! The count is right though others write while it is made: each write that the quota counts changes
//! the quota, in the same transaction, and the lists are newer than the quota that was seen. So the
//! status, which is stored at that version of the quota only, misses nothing; what has ended since is
//! counted again when its end is heard of.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Quantity;
use control::Plan;
use k8s_openapi::api::core::v1::ResourceQuota;
use quota::devices::made_for;
use quota::{Amounts, Devices, Evaluator, Quota};
use serde_json::{Value, json};

use crate::common::{update_status, value_of};

/// From one count to the next when nothing was heard of; as upstream.
const AGAIN_MILLIS: u64 = 300_000;
/// When something could not be listed.
const RETRY_MILLIS: u64 = 5_000;

/// What was listed of one kind.
pub enum Content {
    Objects(Vec<Value>),
    /// Only their number counts.
    Number(i64),
}

impl Content {
    fn objects(&self) -> &[Value] {
        match self {
            Self::Objects(all) => all,
            Self::Number(_) => &[],
        }
    }
}

pub struct Counted {
    pub evaluator: Evaluator,
    pub content: Content,
}

/// A quota and the content of its namespace.
pub struct Observed {
    pub quota: Arc<ResourceQuota>,
    pub counted: Vec<Counted>,
    /// Classes of devices, where claims of devices are counted.
    pub classes: Vec<Value>,
    /// Kinds that could not be listed: what the status says of what they use stays.
    pub unlisted: Vec<Evaluator>,
    /// Something could not be listed, or nothing at all.
    pub failed: bool,
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let now_seconds = now_millis.div_euclid(1000);
    let quota = Quota::read(&value_of(&*seen.quota));
    let devices = Arc::new(devices(seen, now_seconds));
    // Several kinds may use of one resource.
    let mut sums = Amounts::default();
    for kind in &seen.counted {
        let evaluator = match &kind.evaluator {
            Evaluator::DeviceClaims(_) => Evaluator::DeviceClaims(Some(devices.clone())),
            other => other.clone(),
        };
        sums.add(&sum(&quota, &evaluator, &kind.content, now_seconds));
    }
    let mut used = quota.used.clone();
    for (name, amount) in sums.iter().filter(|(name, _)| is_known(seen, name)) {
        used.set(name, *amount);
    }
    let used = used.masked(|name| quota.wanted.get(name).is_some());
    let mut plan = Plan::default();
    if quota.wanted != quota.hard || used != quota.used {
        let status = json!({ "hard": quota.wanted.write(), "used": used.write() });
        plan.actions.push(update_status(&*seen.quota, status));
    }
    plan.wake_after_millis = Some(if seen.failed {
        RETRY_MILLIS
    } else {
        overdue(seen, now_seconds)
    });
    plan
}

/// Whether everything was listed that uses of a resource.
fn is_known(seen: &Observed, name: &str) -> bool {
    let mut unlisted = seen.unlisted.iter();
    unlisted.all(|kind| kind.concerned(std::iter::once(name)).is_empty())
}

/// What claims of devices are counted by: the classes, and the pods that claims were made for.
fn devices(seen: &Observed, now_seconds: i64) -> Devices {
    let of = |wanted: fn(&Evaluator) -> bool| {
        let kinds = seen.counted.iter().filter(move |c| wanted(&c.evaluator));
        kinds.flat_map(|c| c.content.objects())
    };
    let claims = || of(|e| matches!(e, Evaluator::DeviceClaims(_)));
    let mut devices = Devices::of(&seen.classes);
    if claims().next().is_none() {
        return devices;
    }
    let pods: BTreeMap<&str, &Value> = of(|e| *e == Evaluator::Pods)
        .filter_map(|pod| Some((pod.pointer("/metadata/name")?.as_str()?, pod)))
        .collect();
    for claim in claims() {
        if let Some(pod) = made_for(claim).and_then(|(name, _)| pods.get(name)) {
            devices.note(claim, pod, claims(), now_seconds);
        }
    }
    devices
}

/// What the objects of one kind use, of the resources that the quota limits.
fn sum(quota: &Quota, evaluator: &Evaluator, content: &Content, now_seconds: i64) -> Amounts {
    let concerned = evaluator.concerned(quota.wanted.names());
    let none = concerned.iter().map(|name| (name.as_str(), Quantity::ZERO));
    let mut sum: Amounts = none.collect();
    match content {
        Content::Objects(all) => {
            for object in all.iter().filter(|o| quota.holds(evaluator, o)) {
                let usage = evaluator.usage(object, now_seconds);
                sum.add(&usage.masked(|name| concerned.contains(name)));
            }
        }
        // A quota with scopes holds nothing that has none.
        Content::Number(n) if quota.scopes.is_empty() => {
            for name in &concerned {
                sum.set(name.as_str(), Quantity::from_units(*n));
            }
        }
        Content::Number(_) => {}
    }
    sum
}

/// Until the next count: a pod that should be gone by then uses nothing any more.
fn overdue(seen: &Observed, now_seconds: i64) -> u64 {
    let pods = seen
        .counted
        .iter()
        .filter(|c| c.evaluator == Evaluator::Pods);
    let objects = pods.flat_map(|c| c.content.objects());
    let left = objects
        .filter_map(quota::evaluator::overdue_at)
        .filter(|at| *at >= now_seconds)
        .map(|at| {
            u64::try_from(at - now_seconds + 1)
                .unwrap_or(0)
                .saturating_mul(1000)
        });
    left.min().unwrap_or(AGAIN_MILLIS).min(AGAIN_MILLIS)
}

#[cfg(test)]
mod tests {
    use control::action::Action;

    use super::*;

    fn observed(quota: Value, counted: Vec<Counted>) -> Observed {
        let mut object =
            json!({ "metadata": { "name": "q", "namespace": "n", "resourceVersion": "7" } });
        object["spec"] = quota["spec"].clone();
        object["status"] = quota["status"].clone();
        Observed {
            quota: Arc::new(serde_json::from_value(object).expect("quota")),
            counted,
            classes: Vec::new(),
            unlisted: Vec::new(),
            failed: false,
        }
    }

    fn pods(all: Vec<Value>) -> Counted {
        Counted {
            evaluator: Evaluator::Pods,
            content: Content::Objects(all),
        }
    }

    fn pod(phase: &str) -> Value {
        json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "300m" } } }] }, "status": { "phase": phase } })
    }

    fn status(plan: &Plan) -> Value {
        match plan.actions.as_slice() {
            [
                Action::Update {
                    object,
                    subresource: "status",
                    ..
                },
            ] => {
                assert_eq!(object["metadata"]["resourceVersion"], "7");
                object["status"].clone()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_quota_is_counted() {
        let spec = json!({ "hard": { "pods": "2", "requests.cpu": "1", "count/things.example.com": "5", "count/nothing": "1" } });
        let things = Counted {
            evaluator: Evaluator::of("example.com", "things").expect("counted"),
            content: Content::Number(3),
        };
        let seen = observed(
            json!({ "spec": spec }),
            vec![pods(vec![pod("Running"), pod("Succeeded")]), things],
        );
        let done = status(&plan(&seen, 0));
        assert_eq!(done["hard"], seen_hard(&seen));
        // What nobody can count has no usage: creations are refused as unknown.
        assert_eq!(
            done["used"],
            json!({ "pods": "1", "requests.cpu": "300m", "count/things.example.com": "3" })
        );
    }

    fn seen_hard(seen: &Observed) -> Value {
        value_of(&*seen.quota)["spec"]["hard"].clone()
    }

    #[test]
    fn what_is_right_is_not_written() {
        let hard = json!({ "pods": "2" });
        let quota = json!({ "spec": { "hard": hard }, "status": { "hard": hard, "used": { "pods": "1" } } });
        let seen = observed(quota.clone(), vec![pods(vec![pod("Running")])]);
        let done = plan(&seen, 0);
        assert!(done.is_empty());
        assert_eq!(done.wake_after_millis, Some(AGAIN_MILLIS));
        let gone = observed(quota.clone(), vec![pods(vec![])]);
        assert_eq!(status(&plan(&gone, 0))["used"], json!({ "pods": "0" }));
        // What could not be listed stays as it was.
        let mut failed = observed(quota, vec![]);
        failed.failed = true;
        let done = plan(&failed, 0);
        assert!(done.is_empty());
        assert_eq!(done.wake_after_millis, Some(RETRY_MILLIS));
    }

    #[test]
    fn pods_and_claims_of_devices_use_of_one_resource() {
        let hard = json!({ "requests.example.com/gpu": "9", "requests.cpu": "1",
            "count/resourceclaims.resource.k8s.io": "5" });
        let quota = json!({ "spec": { "hard": hard }, "status": { "hard": hard, "used": {
            "requests.example.com/gpu": "7", "requests.cpu": "0",
            "count/resourceclaims.resource.k8s.io": "7" } } });
        let mut asks = pod("Running");
        asks["metadata"] = json!({ "name": "p", "uid": "u" });
        asks["spec"]["containers"][0]["resources"]["requests"]["example.com/gpu"] = json!("2");
        asks["status"]["extendedResourceClaimStatus"] = json!({ "resourceClaimName": "made" });
        let claim = |name: &str, count: i64| {
            json!({ "metadata": { "name": name, "uid": name }, "spec": { "devices": { "requests": [
                { "exactly": { "deviceClassName": "gpu", "allocationMode": "ExactCount",
                    "count": count } }] } } })
        };
        let mut made = claim("made", 2);
        let mark = json!({ "resource.kubernetes.io/extended-resource-claim": "true" });
        made["metadata"]["annotations"] = mark;
        made["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "Pod",
            "name": "p", "uid": "u", "controller": true }]);
        let claims = Counted {
            evaluator: Evaluator::of("resource.k8s.io", "resourceclaims").expect("counted"),
            content: Content::Objects(vec![claim("own", 3), made]),
        };
        let mut seen = observed(quota, vec![pods(vec![asks]), claims]);
        let class = json!({ "metadata": { "name": "gpu" },
            "spec": { "extendedResourceName": "example.com/gpu" } });
        seen.classes = vec![class];
        let used = |seen: &Observed| status(&plan(seen, 0))["used"].clone();
        // Two of the pod, which its claim has not once more, and three of the other claim.
        assert_eq!(
            used(&seen),
            json!({ "requests.example.com/gpu": "5", "requests.cpu": "300m",
                "count/resourceclaims.resource.k8s.io": "2" })
        );
        // While claims cannot be listed, of what both use nothing new is known.
        seen.counted.pop();
        let kind = Evaluator::of("resource.k8s.io", "resourceclaims");
        seen.unlisted = kind.into_iter().collect();
        assert_eq!(
            used(&seen),
            json!({ "requests.example.com/gpu": "7", "requests.cpu": "300m",
                "count/resourceclaims.resource.k8s.io": "7" })
        );
    }

    #[test]
    fn scopes_and_overdue_pods() {
        let hard = json!({ "pods": "2", "secrets": "1" });
        let quota = json!({ "spec": { "hard": hard, "scopes": ["NotTerminating"] } });
        let mut brief = pod("Running");
        brief["spec"]["activeDeadlineSeconds"] = json!(5);
        let mut ending = pod("Running");
        ending["metadata"] = json!({ "deletionTimestamp": "1970-01-01T00:00:40Z", "deletionGracePeriodSeconds": 30 });
        let secrets = Counted {
            evaluator: Evaluator::of("", "secrets").expect("counted"),
            content: Content::Number(9),
        };
        let all = vec![pods(vec![pod("Running"), brief, ending]), secrets];
        let seen = observed(quota, all);
        let done = plan(&seen, 60_000);
        assert_eq!(
            status(&done)["used"],
            json!({ "pods": "2", "secrets": "0" })
        );
        assert_eq!(done.wake_after_millis, Some(11_000));
        let later = plan(&seen, 71_000);
        assert_eq!(status(&later)["used"]["pods"], "1");
    }
}
