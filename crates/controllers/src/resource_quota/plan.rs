//! The plan of a ResourceQuota: its status, as what was listed adds up to.
//!
//! The count is right though others write while it is made: each write that the quota counts changes
//! the quota, in the same transaction, and the lists are newer than the quota that was seen. So the
//! status, which is stored at that version of the quota only, misses nothing; what has ended since is
//! counted again when its end is heard of.

use std::sync::Arc;

use api::Quantity;
use control::Plan;
use k8s_openapi::api::core::v1::ResourceQuota;
use quota::{Amounts, Evaluator, Quota};
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

pub struct Counted {
    pub evaluator: Evaluator,
    pub content: Content,
}

/// A quota and the content of its namespace.
pub struct Observed {
    pub quota: Arc<ResourceQuota>,
    pub counted: Vec<Counted>,
    /// Some kinds could not be listed: what the status says of them stays.
    pub failed: bool,
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let now_seconds = now_millis.div_euclid(1000);
    let quota = Quota::read(&value_of(&*seen.quota));
    let mut used = quota.used.clone();
    for counted in &seen.counted {
        for (name, amount) in sum(&quota, counted, now_seconds).iter() {
            used.set(name, *amount);
        }
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

/// What the objects of one kind use, of the resources that the quota limits.
fn sum(quota: &Quota, counted: &Counted, now_seconds: i64) -> Amounts {
    let concerned = counted.evaluator.concerned(quota.wanted.names());
    let none = concerned.iter().map(|name| (name.as_str(), Quantity::ZERO));
    let mut sum: Amounts = none.collect();
    match &counted.content {
        Content::Objects(all) => {
            for object in all.iter().filter(|o| quota.holds(&counted.evaluator, o)) {
                let usage = counted.evaluator.usage(object, now_seconds);
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
    let objects = pods.flat_map(|c| match &c.content {
        Content::Objects(all) => all.as_slice(),
        Content::Number(_) => &[],
    });
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
