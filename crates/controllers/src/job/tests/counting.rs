//! How pods are counted: each once, by rounds that name, release and count them; whose they are.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::plan::plan;
use super::super::wait_of;
use super::Jobs;

/// The steps of a round follow one another at once; what ends meanwhile is the next round's.
#[test]
fn a_round_writes_the_status_twice() {
    for indexed in [false, true] {
        let spec = json!({ "completions": 6, "parallelism": 3 });
        let mut j = if indexed {
            Jobs::indexed(spec)
        } else {
            Jobs::new(spec)
        };
        j.settle();
        j.end(0);
        j.end(1);
        let step = |j: &mut Jobs| {
            let plan = plan(&j.seen(), j.world.now_millis);
            let wake = plan.wake_after_millis;
            let writes = plan.last.iter().filter(|a| a.target().is_some()).count();
            j.world.apply(plan);
            (wake, writes)
        };
        assert_eq!(step(&mut j), (Some(0), 1), "they are named");
        j.end(0);
        let (wake, _) = step(&mut j);
        assert_eq!(wake, Some(0), "they are let go");
        assert_eq!(
            j.tracked(),
            j.phases("Running").len() + j.phases("Pending").len() + 1
        );
        let (wake, writes) = step(&mut j);
        assert_eq!((wake, writes), (Some(1_000), 1), "they are counted");
        let counts = |j: &Jobs| {
            (
                j.status()["succeeded"].clone(),
                j.status()["failed"].clone(),
            )
        };
        assert_eq!(counts(&j), (json!(1), json!(1)));
        j.settle();
        assert_eq!(counts(&j), (json!(2), json!(1)));
    }
}

#[test]
fn a_status_is_gathered_and_what_users_change_is_not() {
    let mut j = Jobs::new(json!({}));
    let one = |j: &Jobs| Some(j.world.one("Job", "j"));
    let before = one(&j);
    j.world.at("Job", "j")["status"] = json!({ "active": 1 });
    let status = one(&j);
    j.world.at("Job", "j")["metadata"]["generation"] = json!(2);
    let spec = one(&j);
    j.world.at("Job", "j")["metadata"]["uid"] = json!("another");
    let another = one(&j);
    let wait = |old: &Option<_>, new: &Option<_>| {
        let change = client::Change {
            old: old.clone(),
            new: new.clone(),
        };
        wait_of(&change).as_millis()
    };
    assert_eq!(wait(&before, &status), 1_000);
    for (old, new) in [
        (&None, &before),
        (&status, &spec),
        (&spec, &another),
        (&spec, &None),
    ] {
        assert_eq!(wait(old, new), 0, "{old:?} {new:?}");
    }
}

/// What cannot be let go does not keep others from being counted for long, and a status full of
/// names is emptied at once.
#[test]
fn the_next_round_begins_though_a_pod_is_held_by_others() {
    let mut j = Jobs::new(json!({ "completions": 3, "parallelism": 2 }));
    j.settle();
    j.end(0);
    j.step();
    j.end(0);
    let names = |plan: &control::Plan| {
        let mut all = plan.last.iter().filter_map(|a| match a {
            control::action::Action::Update { object, .. } => {
                object["status"]["uncountedTerminatedPods"]["succeeded"]
                    .as_array()
                    .map(Vec::len)
            }
            _ => None,
        });
        all.next()
    };
    // Nothing of the plans happens: somebody refuses it. What ended later is not named for a while.
    assert_eq!(names(&plan(&j.seen(), j.world.now_millis)), None);
    j.world.now_millis += 10_000;
    assert_eq!(names(&plan(&j.seen(), j.world.now_millis)), Some(2));

    let mut j = Jobs::new(json!({ "completions": 2000, "parallelism": 600 }));
    j.settle();
    j.run();
    for name in j.phases("Running") {
        j.end_pod(&name, 0);
    }
    j.step();
    let released = plan(&j.seen(), j.world.now_millis)
        .actions
        .iter()
        .filter(|a| matches!(a, control::action::Action::Patch { .. }))
        .count();
    assert_eq!(released, 500);
}

#[test]
fn pods_are_adopted_and_let_go_with_their_finalizer() {
    let mut j = Jobs::new(json!({ "completions": 2, "parallelism": 2 }));
    let labels = json!({ "batch.kubernetes.io/controller-uid": "u" });
    j.world.put(
        "Pod",
        json!({ "metadata": { "name": "stray", "labels": labels }, "spec": { "containers": [] } }),
    );
    j.settle();
    assert_eq!((j.world.names("Pod").len(), j.tracked()), (2, 2));
    assert_eq!(
        j.world.at("Pod", "stray")["metadata"]["ownerReferences"][0]["uid"],
        "u"
    );
    j.world.at("Pod", "stray")["metadata"]["labels"] = json!({});
    j.settle();
    assert_eq!(
        j.world.at("Pod", "stray")["metadata"]["finalizers"],
        json!([])
    );
    assert_eq!((j.world.names("Pod").len(), j.tracked()), (3, 2));
}

#[test]
fn a_job_that_is_gone_holds_no_pod() {
    let mut j = Jobs::new(json!({}));
    j.settle();
    j.world.objects.remove(&("Job".into(), "j".into()));
    j.step();
    assert_eq!((j.world.names("Pod").len(), j.tracked()), (2, 0));
    // One of an earlier Job of the same name is let go, and not counted.
    let mut j = Jobs::new(json!({}));
    j.world.put("Pod", json!({ "metadata": { "name": "old", "finalizers": ["batch.kubernetes.io/job-tracking"],
        "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "earlier", "controller": true }] },
        "spec": { "containers": [] }, "status": { "phase": "Succeeded" } }));
    j.settle();
    assert_eq!(
        j.world.at("Pod", "old")["metadata"]["finalizers"],
        json!([])
    );
    assert_eq!(j.status()["succeeded"], Value::Null);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever pods come to, and whichever step of a plan is lost: each pod is counted once, and
    /// the Job ends with no pod held.
    #[test]
    fn each_pod_is_counted_once(
        indexed in any::<bool>(),
        parallelism in 1i32..5,
        ends in prop::collection::vec((0usize..5, prop::bool::weighted(0.7), 0usize..4), 1..40),
    ) {
        let spec = json!({ "completions": 6, "parallelism": parallelism, "backoffLimit": 1000 });
        let mut j = if indexed { Jobs::indexed(spec) } else { Jobs::new(spec) };
        let (mut succeeded, mut failed) = (0, 0);
        for (which, good, lost) in ends.into_iter().chain((0..20).map(|i| (i, true, 0))) {
            // A plan of which only the first actions happen.
            for _ in 0..lost {
                let mut plan = plan(&j.seen(), j.world.now_millis);
                plan.actions.truncate(1);
                plan.last.clear();
                j.world.apply(plan);
            }
            j.world.now_millis += 700_000;
            j.settle();
            j.run();
            let running = j.phases("Running");
            if running.is_empty() {
                break;
            }
            let name = running[which % running.len()].clone();
            j.end_pod(&name, i32::from(!good));
            if good { succeeded += 1 } else { failed += 1 }
        }
        j.settle();
        let published = |f: &str| j.status()[f].as_i64().unwrap_or(0);
        prop_assert_eq!((published("succeeded"), published("failed")), (succeeded, failed));
        if succeeded == 6 {
            let conditions = j.conditions();
            prop_assert_eq!(conditions.last().unwrap().0.as_str(), "Complete");
            prop_assert_eq!(j.tracked(), 0);
        }
    }
}
