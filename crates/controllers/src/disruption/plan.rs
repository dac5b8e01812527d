//! The plan of a PodDisruptionBudget: its status. Pods that an eviction has noted count as gone
//! until they are, or until it is clear that they stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control::action::{Action, Plan, reference};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::common::{
    controller_of, count, int_or_percent, is_deleting, is_ready, millis_of, time_at, update_status,
    value_of, wake_at,
};

/// A pod that was to be evicted and is not seen to be deleted for so long stays, as upstream.
const DELETED_WITHIN_MILLIS: i64 = 120_000;

/// Between questions of what scales pods, where there was no answer: nothing else may show it.
const ASK_AGAIN_MILLIS: i64 = 60_000;

/// What scales pods, and to how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub uid: String,
    pub replicas: i32,
}

/// A budget, the pods that it selects, and what scales them, by the UID of their owner.
#[derive(Clone)]
pub struct Observed {
    pub budget: Arc<PodDisruptionBudget>,
    pub pods: Vec<Arc<Pod>>,
    pub scales: BTreeMap<String, Scale>,
    /// Why it is not known what scales the pods of an owner, by its UID.
    pub unknown: BTreeMap<String, String>,
}

/// Whether the numbers of a budget depend on what scales its pods.
pub fn asks_for_scales(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|s| {
        s.max_unavailable.is_some() || matches!(s.min_available, Some(IntOrString::String(_)))
    })
}

/// How many pods there should be, and how many of them healthy.
struct ExpectedPods {
    expected: i32,
    healthy: i32,
    /// Some pods have no owner, so that nobody knows how many there should be.
    unmanaged: bool,
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let budget = &*seen.budget;
    let event = |warning: bool, reason: &'static str, message: String| Action::Event {
        about: reference(budget),
        warning,
        reason,
        message,
    };
    // One that is being deleted guards its pods until it is gone.
    if seen.pods.is_empty() {
        let text = "No matching pods found";
        plan.last.push(event(false, "NoPods", text.into()));
    }
    let published = budget.status.clone().unwrap_or_default();
    let mut status = match wanted(seen) {
        Ok(wanted) => {
            if wanted.unmanaged {
                let text = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
                plan.last.push(event(true, "UnmanagedPods", text.into()));
            }
            counted(seen, &published, &wanted, now_millis, &mut plan)
        }
        Err(why) => {
            let text = format!("Failed to calculate the number of expected pods: {why}");
            plan.last
                .push(event(true, "CalculateExpectedPodCountFailed", text));
            if !seen.unknown.is_empty() {
                wake_at(Some(now_millis + ASK_AGAIN_MILLIS), now_millis, &mut plan);
            }
            let mut failed = published.clone();
            failed.disruptions_allowed = Some(0);
            let conditions = failed.conditions.get_or_insert_default();
            let generation = published.observed_generation;
            let new = condition("False", "SyncFailed", &why, generation, now_millis);
            set_condition(conditions, new);
            failed
        }
    };
    status.disrupted_pods = status.disrupted_pods.filter(|d| !d.is_empty());
    if status != published {
        plan.last.push(update_status(budget, value_of(&status)));
    }
    plan
}

fn wanted(seen: &Observed) -> Result<ExpectedPods, String> {
    let spec = seen.budget.spec.as_ref();
    let pods = count(seen.pods.iter());
    if let Some(most) = spec.and_then(|s| s.max_unavailable.as_ref()) {
        let (expected, unmanaged) = scaled(seen)?;
        let away = int_or_percent(most, expected, true);
        return Ok(ExpectedPods {
            expected,
            healthy: (expected - away).max(0),
            unmanaged,
        });
    }
    match spec.and_then(|s| s.min_available.as_ref()) {
        Some(IntOrString::Int(least)) => Ok(ExpectedPods {
            expected: pods,
            healthy: *least,
            unmanaged: false,
        }),
        Some(share) => {
            let (expected, unmanaged) = scaled(seen)?;
            Ok(ExpectedPods {
                expected,
                healthy: int_or_percent(share, expected, true),
                unmanaged,
            })
        }
        None => Ok(ExpectedPods {
            expected: 0,
            healthy: 0,
            unmanaged: false,
        }),
    }
}

/// The pods that all owners together want, and whether some pods have none.
fn scaled(seen: &Observed) -> Result<(i32, bool), String> {
    let mut scales: BTreeMap<&str, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in &seen.pods {
        let Some(owner) = controller_of(&**pod) else {
            unmanaged = true;
            continue;
        };
        let Some(scale) = seen.scales.get(&owner.uid) else {
            if let Some(why) = seen.unknown.get(&owner.uid) {
                return Err(why.clone());
            }
            return Err(format!("found no controllers for pod {:?}", pod.name_any()));
        };
        scales.insert(&scale.uid, scale.replicas);
    }
    let total = scales.values().fold(0_i32, |a, b| a.saturating_add(*b));
    Ok((total, unmanaged))
}

fn counted(
    seen: &Observed,
    published: &PodDisruptionBudgetStatus,
    wanted: &ExpectedPods,
    now_millis: i64,
    plan: &mut Plan,
) -> PodDisruptionBudgetStatus {
    let disrupted = disrupted(seen, published, now_millis, plan);
    let going: BTreeSet<&String> = disrupted.keys().collect();
    let healthy = seen
        .pods
        .iter()
        .filter(|p| !is_deleting(&***p) && is_ready(p) && !going.contains(&p.name_any()));
    let healthy = count(healthy);
    // A budget without pods yet allows nothing, so that the first ones are guarded.
    let allowed = if wanted.expected > 0 {
        (healthy - wanted.healthy).max(0)
    } else {
        0
    };
    let generation = seen.budget.metadata.generation;
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let mut conditions = published.conditions.clone().unwrap_or_default();
    let new = condition(status, reason, "", generation, now_millis);
    set_condition(&mut conditions, new);
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(wanted.healthy),
        disrupted_pods: Some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(wanted.expected),
        observed_generation: generation,
    }
}

/// Pods that were to be evicted and have not gone yet.
fn disrupted(
    seen: &Observed,
    published: &PodDisruptionBudgetStatus,
    now_millis: i64,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut out = BTreeMap::new();
    let noted = published.disrupted_pods.as_ref();
    for pod in seen.pods.iter().filter(|p| !is_deleting(&***p)) {
        let name = pod.name_any();
        let Some(since) = noted.and_then(|n| n.get(&name)) else {
            continue;
        };
        let due = millis_of(Some(since)).unwrap_or(0) + DELETED_WITHIN_MILLIS;
        if due < now_millis {
            let (namespace, budget) = crate::common::key_of(&*seen.budget);
            plan.last.push(Action::Event {
                about: reference(&**pod),
                warning: true,
                reason: "NotDeleted",
                message: format!(
                    "Pod was expected by PDB {namespace}/{budget} to be deleted but it wasn't"
                ),
            });
        } else {
            wake_at(Some(due + 1), now_millis, plan);
            out.insert(name, since.clone());
        }
    }
    out
}

fn condition(
    status: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now_millis: i64,
) -> Condition {
    Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: time_at(now_millis.div_euclid(1_000) * 1_000),
    }
}

/// Its time stays while its status does.
fn set_condition(all: &mut Vec<Condition>, mut new: Condition) {
    match all.iter_mut().find(|c| c.type_ == new.type_) {
        None => all.push(new),
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::World;

    struct Budgets(World);

    impl Budgets {
        fn new(spec: Value) -> Self {
            let mut world = World::new();
            world.put(
                "PodDisruptionBudget",
                json!({ "metadata": { "name": "b", "generation": 1 }, "spec": spec }),
            );
            Self(world)
        }

        fn pod(&mut self, name: &str, owner: &str, ready: bool) {
            let ready = if ready { "True" } else { "False" };
            let mut pod = json!({ "metadata": { "name": name }, "spec": { "containers": [] },
                "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] } });
            if !owner.is_empty() {
                pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true }]);
            }
            self.0.put("Pod", pod);
        }

        fn seen(&self) -> Observed {
            let scale = |uid: &str, above: &str, replicas: i32| {
                (
                    uid.to_owned(),
                    Scale {
                        uid: above.into(),
                        replicas,
                    },
                )
            };
            Observed {
                budget: self.0.one("PodDisruptionBudget", "b"),
                pods: self.0.all("Pod"),
                // Two sets of one Deployment, and one of its own.
                scales: [
                    scale("r1", "d", 5),
                    scale("r2", "d", 5),
                    scale("r3", "r3", 3),
                ]
                .into(),
                unknown: [("odd".to_owned(), "odds do not scale".to_owned())].into(),
            }
        }

        /// Allowed, healthy, desired, expected; the reason of the condition.
        fn numbers(&mut self) -> ([i64; 4], String) {
            let plan = plan(&self.seen(), self.0.now_millis);
            self.0.apply(plan);
            assert_eq!(
                super::plan(&self.seen(), self.0.now_millis)
                    .last
                    .iter()
                    .filter(|a| !matches!(a, Action::Event { .. }))
                    .count(),
                0,
                "it settles"
            );
            let status = self.0.at("PodDisruptionBudget", "b")["status"].clone();
            let n = |f: &str| status[f].as_i64().unwrap_or(0);
            let numbers = [
                "disruptionsAllowed",
                "currentHealthy",
                "desiredHealthy",
                "expectedPods",
            ]
            .map(n);
            (
                numbers,
                status["conditions"][0]["reason"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            )
        }
    }

    #[test]
    fn numbers_follow_from_pods_and_what_scales_them() {
        for (spec, expected, reason) in [
            (json!({ "minAvailable": 2 }), [1, 3, 2, 4], "SufficientPods"),
            (
                json!({ "minAvailable": 3 }),
                [0, 3, 3, 4],
                "InsufficientPods",
            ),
            // Of 5 + 3 that the owners want.
            (
                json!({ "minAvailable": "25%" }),
                [1, 3, 2, 8],
                "SufficientPods",
            ),
            (
                json!({ "maxUnavailable": 6 }),
                [1, 3, 2, 8],
                "SufficientPods",
            ),
            (
                json!({ "maxUnavailable": "50%" }),
                [0, 3, 4, 8],
                "InsufficientPods",
            ),
            (
                json!({ "maxUnavailable": 100 }),
                [3, 3, 0, 8],
                "SufficientPods",
            ),
        ] {
            let mut b = Budgets::new(spec.clone());
            b.pod("a", "r1", true);
            b.pod("b", "r2", true);
            b.pod("c", "r3", true);
            b.pod("d", "r3", false);
            assert_eq!(b.numbers(), (expected, reason.into()), "{spec}");
        }
    }

    #[test]
    fn without_pods_or_with_strangers_nothing_is_allowed() {
        let mut b = Budgets::new(json!({ "maxUnavailable": 1 }));
        assert_eq!(b.numbers(), ([0, 0, 0, 0], "InsufficientPods".into()));
        b.pod("a", "unknown", true);
        assert_eq!(b.numbers().1, "SyncFailed");
        let mut b = Budgets::new(json!({ "maxUnavailable": 1 }));
        b.pod("a", "odd", true);
        assert_eq!(b.numbers().1, "SyncFailed");
        let status = &b.0.at("PodDisruptionBudget", "b")["status"];
        assert_eq!(status["conditions"][0]["message"], "odds do not scale");
        let wake = plan(&b.seen(), b.0.now_millis).wake_after_millis;
        assert_eq!(wake, Some(60_000));
        // Those without an owner are only left out.
        let mut b = Budgets::new(json!({ "maxUnavailable": 1 }));
        b.pod("a", "", true);
        b.pod("c", "r3", true);
        assert_eq!(b.numbers(), ([0, 2, 2, 3], "InsufficientPods".into()));
        assert!(b.0.done().contains(&"Event UnmanagedPods".to_owned()));
    }

    #[test]
    fn of_one_owner_by_number_and_share() {
        // What the owner of all pods wants, the budget, ready and other pods; what follows.
        for (replicas, spec, ready, others, expected) in [
            (7, json!({ "maxUnavailable": 2 }), 1, 0, [0, 1, 5, 7]),
            (5, json!({ "maxUnavailable": 2 }), 1, 0, [0, 1, 3, 5]),
            (7, json!({ "maxUnavailable": "30%" }), 1, 0, [0, 1, 4, 7]),
            (3, json!({ "maxUnavailable": "30%" }), 1, 0, [0, 1, 2, 3]),
            (10, json!({ "maxUnavailable": 5 }), 4, 0, [0, 4, 5, 10]),
            (10, json!({ "minAvailable": "20%" }), 1, 0, [0, 1, 2, 10]),
            (3, json!({ "minAvailable": "34%" }), 2, 0, [0, 2, 2, 3]),
            (3, json!({ "minAvailable": "34%" }), 3, 0, [1, 3, 2, 3]),
            (11, json!({ "minAvailable": "28%" }), 5, 6, [1, 5, 4, 11]),
            (22, json!({ "minAvailable": "28%" }), 9, 13, [2, 9, 7, 22]),
            (1, json!({ "minAvailable": "1%" }), 2, 0, [1, 2, 1, 1]),
            (4, json!({ "minAvailable": 3 }), 4, 0, [1, 4, 3, 4]),
            (4, json!({ "minAvailable": 3 }), 3, 1, [0, 3, 3, 4]),
            (4, json!({ "minAvailable": 3 }), 0, 0, [0, 0, 3, 0]),
            (4, json!({}), 2, 0, [0, 2, 0, 0]),
        ] {
            let mut b = Budgets::new(spec.clone());
            for n in 0..ready + others {
                b.pod(&format!("p{n}"), "r", n < ready);
            }
            let mut seen = b.seen();
            let scale = Scale {
                uid: "r".to_owned(),
                replicas,
            };
            seen.scales = [("r".to_owned(), scale)].into();
            let done = plan(&seen, b.0.now_millis);
            b.0.apply(done);
            let status = b.0.at("PodDisruptionBudget", "b")["status"].clone();
            let fields = [
                "disruptionsAllowed",
                "currentHealthy",
                "desiredHealthy",
                "expectedPods",
            ];
            let found = fields.map(|f| status[f].as_i64().unwrap_or(-1));
            assert_eq!(found, expected, "{replicas} {spec} {ready} {others}");
        }
    }

    #[test]
    fn other_conditions_stay_and_one_that_is_being_deleted_still_guards() {
        let mut b = Budgets::new(json!({ "minAvailable": 1 }));
        let budget = b.0.at("PodDisruptionBudget", "b");
        budget["metadata"]["deletionTimestamp"] = json!("2023-11-14T22:13:20Z");
        budget["metadata"]["finalizers"] = json!(["example.com/held"]);
        budget["status"] = json!({ "disruptionsAllowed": 5, "currentHealthy": 6, "desiredHealthy": 1,
            "expectedPods": 6, "conditions": [{ "type": "Other", "status": "True", "reason": "Test",
                "message": "", "lastTransitionTime": "2023-11-14T22:13:20Z" }] });
        b.pod("a", "r3", true);
        let done = plan(&b.seen(), b.0.now_millis);
        b.0.apply(done);
        let status = b.0.at("PodDisruptionBudget", "b")["status"].clone();
        assert_eq!(status["disruptionsAllowed"], 0);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let types: Vec<_> = conditions.iter().map(|c| c["type"].clone()).collect();
        assert_eq!(types, [json!("Other"), json!("DisruptionAllowed")]);
    }

    #[test]
    fn evicted_pods_count_as_gone_until_they_are() {
        let mut b = Budgets::new(json!({ "minAvailable": 1 }));
        for name in ["a", "b", "c"] {
            b.pod(name, "r3", true);
        }
        assert_eq!(b.numbers().0, [2, 3, 1, 3]);
        let now = crate::common::time_text(b.0.now_millis);
        b.0.at("PodDisruptionBudget", "b")["status"]["disruptedPods"] =
            json!({ "a": now, "gone": now });
        assert_eq!(b.numbers().0, [1, 2, 1, 3]);
        let noted = b.0.at("PodDisruptionBudget", "b")["status"]["disruptedPods"].clone();
        assert_eq!(noted, json!({ "a": now }));
        let wake = plan(&b.seen(), b.0.now_millis).wake_after_millis;
        assert_eq!(wake, Some(120_001));
        b.0.now_millis += 120_001;
        assert_eq!(b.numbers().0, [2, 3, 1, 3]);
        assert!(b.0.done().contains(&"Event NotDeleted".to_owned()));
        // One that is being deleted is not healthy.
        b.0.at("Pod", "a")["metadata"]["deletionTimestamp"] = json!(now);
        assert_eq!(b.numbers().0, [1, 2, 1, 3]);
    }
}
