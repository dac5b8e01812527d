//! What failures mean to a Job: when they are tried again, and when it ends by them.

use serde_json::{Value, json};

use super::super::plan::plan;
use super::{Jobs, pairs};

#[test]
fn failures_are_retried_later_each_time_up_to_the_limit() {
    let mut j = Jobs::new(json!({ "completions": 1, "parallelism": 1, "backoffLimit": 2 }));
    j.settle();
    for wait in [10, 20] {
        j.end(1);
        j.settle();
        assert_eq!(j.phases("Pending").len(), 0);
        let plan = plan(&j.seen(), j.world.now_millis);
        assert_eq!(
            plan.wake_after_millis.map(|w| w.div_ceil(1_000)),
            Some(wait)
        );
        j.world.now_millis += i64::try_from(wait).unwrap() * 1_000;
        j.settle();
        assert_eq!(j.phases("Pending").len(), 1);
    }
    j.end(1);
    j.settle();
    assert_eq!(j.status()["failed"], 3);
    let expected = pairs(&[
        ("FailureTarget", "BackoffLimitExceeded"),
        ("Failed", "BackoffLimitExceeded"),
    ]);
    assert_eq!(j.conditions(), expected);
    assert_eq!(j.tracked(), 0);
    assert!(j.status()["completionTime"].is_null());
}

#[test]
fn restarts_count_when_containers_restart_in_place() {
    let mut j = Jobs::new(
        json!({ "completions": 1, "parallelism": 1, "backoffLimit": 2, "template": { "spec": { "restartPolicy": "OnFailure" } } }),
    );
    j.settle();
    j.run();
    let name = j.phases("Running")[0].clone();
    j.world.at("Pod", &name)["status"]["containerStatuses"] =
        json!([{ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 2 }]);
    j.settle();
    assert_eq!(j.conditions().last().unwrap().1, "BackoffLimitExceeded");
}

#[test]
fn what_still_runs_ends_with_a_job_that_fails() {
    let mut j = Jobs::new(json!({ "backoffLimit": 0 }));
    j.settle();
    j.end(1);
    j.step();
    j.step();
    assert_eq!(
        j.conditions(),
        pairs(&[("FailureTarget", "BackoffLimitExceeded")]),
        "a pod still ends"
    );
    assert_eq!(j.status()["terminating"], 1);
    j.settle();
    assert_eq!(j.conditions().last().unwrap().0, "Failed");
    assert_eq!(j.status()["failed"], 2);
    assert_eq!(j.phases("Running").len(), 0);
}

#[test]
fn a_deadline_ends_it() {
    let mut j = Jobs::new(json!({ "activeDeadlineSeconds": 60 }));
    j.settle();
    let wake = plan(&j.seen(), j.world.now_millis).wake_after_millis;
    // Two pods took a millisecond each to be made.
    assert_eq!(wake, Some(59_998));
    j.run();
    j.world.now_millis += 60_000;
    j.settle();
    let expected = pairs(&[
        ("FailureTarget", "DeadlineExceeded"),
        ("Failed", "DeadlineExceeded"),
    ]);
    assert_eq!(j.conditions(), expected);
    assert_eq!(j.phases("Running").len(), 0);
}

#[test]
fn a_policy_says_what_a_failure_means() {
    let policy = json!({ "rules": [
        { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
        { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [4] } },
        { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [3] } } ] });
    let spec = json!({ "completions": 2, "parallelism": 2, "backoffLimit": 0, "podFailurePolicy": policy, "podReplacementPolicy": "Failed" });
    let mut j = Jobs::new(spec.clone());
    j.settle();
    j.run();
    let name = j.phases("Running")[0].clone();
    j.end_pod(&name, 1);
    j.world.at("Pod", &name)["status"]["conditions"] =
        json!([{ "type": "DisruptionTarget", "status": "True" }]);
    j.settle();
    assert_eq!(
        (j.status()["failed"].clone(), j.conditions()),
        (Value::Null, pairs(&[]))
    );
    j.world.now_millis += 10_000;
    j.settle();
    j.run();
    assert_eq!(j.phases("Running").len(), 2);
    j.end(3);
    j.settle();
    assert_eq!(
        j.conditions(),
        pairs(&[
            ("FailureTarget", "PodFailurePolicy"),
            ("Failed", "PodFailurePolicy")
        ])
    );
    let message = j.status()["conditions"][1]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.ends_with("failed with exit code 3 matching FailJob rule at index 2"),
        "{message}"
    );
    // An index fails at once.
    let mut j = Jobs::indexed(spec);
    j.spec(json!({ "backoffLimitPerIndex": 3, "backoffLimit": i32::MAX }));
    j.settle();
    j.run();
    let name = j.pod_of(1);
    j.end_pod(&name, 4);
    j.settle();
    assert_eq!(j.status()["failedIndexes"], "1");
}

#[test]
fn replacements_wait_for_the_end_when_asked_to() {
    for (policy, waits) in [("Failed", true), ("TerminatingOrFailed", false)] {
        let mut j = Jobs::new(
            json!({ "completions": 1, "parallelism": 1, "podReplacementPolicy": policy }),
        );
        j.settle();
        j.run();
        let name = j.phases("Running")[0].clone();
        j.world.at("Pod", &name)["metadata"]["deletionTimestamp"] =
            json!(crate::common::time_text(j.world.now_millis));
        j.world.now_millis += 20_000;
        for _ in 0..5 {
            j.step();
        }
        let others = j.world.names("Pod").iter().filter(|n| **n != name).count();
        assert_eq!(others, usize::from(!waits), "{policy}");
        assert_eq!(j.status()["terminating"], 1);
        j.settle();
        j.world.now_millis += 20_000;
        j.settle();
        assert_eq!(
            (j.phases("Pending").len(), j.status()["failed"].clone()),
            (1, json!(1)),
            "{policy}"
        );
    }
}
