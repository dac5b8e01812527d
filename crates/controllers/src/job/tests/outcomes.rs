//! What becomes of a Job with pods in many states, in the end.

use serde_json::{Value, json};

use super::super::job_of;
use super::super::pod::name_prefix;
use super::{Jobs, pairs};
use crate::testing::merge;

/// A pod of the Job that was made an hour ago, with what is said besides.
fn put(j: &mut Jobs, name: &str, more: &Value) {
    let mut pod = json!({
        "metadata": {
            "name": name, "uid": name, "creationTimestamp": "2023-11-14T21:13:20Z",
            "labels": { "batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j" },
            "finalizers": ["batch.kubernetes.io/job-tracking"],
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true }],
        },
        "spec": { "containers": [{ "name": "c" }] },
    });
    merge(&mut pod, more);
    j.world.put("Pod", pod);
}

/// Pods as `index phase failures`, a line for each; `-` has no index.
fn put_all(j: &mut Jobs, pods: &str) {
    let lines = pods.split(';').map(str::trim).filter(|l| !l.is_empty());
    for (number, line) in lines.enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let (index, phase) = (words[0], words[1]);
        let mut more = json!({ "metadata": { "annotations": {} }, "status": { "phase": phase } });
        let annotations = &mut more["metadata"]["annotations"];
        if index != "-" {
            annotations["batch.kubernetes.io/job-completion-index"] = json!(index);
        }
        if let Some(failures) = words.get(2) {
            annotations["batch.kubernetes.io/job-index-failure-count"] = json!(failures);
        }
        put(j, &format!("p{number}"), &more);
    }
}

fn outcome(j: &mut Jobs) -> Value {
    j.settle();
    let made = j.world.log.iter().filter(|l| l.starts_with("Create Pod"));
    let conditions = j.conditions().into_iter().map(|(t, r)| format!("{t} {r}"));
    let mut outcome = json!({
        "active": 0, "succeeded": 0, "failed": 0, "completedIndexes": "", "failedIndexes": null,
        "made": made.count(), "conditions": conditions.collect::<Vec<_>>(),
    });
    let status = j.status();
    for field in [
        "active",
        "succeeded",
        "failed",
        "completedIndexes",
        "failedIndexes",
    ] {
        if let Some(value) = status.get(field) {
            outcome[field] = value.clone();
        }
    }
    outcome
}

#[test]
fn pods_in_any_state_are_counted_replaced_and_ended() {
    let met = "SuccessCriteriaMet CompletionsReached";
    let complete = json!([met, "Complete CompletionsReached"]);
    let policy = json!(["SuccessCriteriaMet SuccessPolicy", "Complete SuccessPolicy"]);
    let fails = |why: &str| json!([format!("FailureTarget {why}"), format!("Failed {why}")]);
    let over = fails("BackoffLimitExceeded");
    let indexed = |completions: i32, parallelism: i32, more: Value| {
        let mut spec = json!({ "completionMode": "Indexed", "completions": completions, "parallelism": parallelism });
        merge(&mut spec, &more);
        spec
    };
    let per_index = |completions: i32, more: Value| {
        let mut own = json!({ "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1 });
        merge(&mut own, &more);
        indexed(completions, completions, own)
    };
    let rule = json!({ "rules": [{ "succeededIndexes": "0,1", "succeededCount": 1 }] });
    let by_policy = |completions: i32, more: Value| {
        let mut own = json!({ "backoffLimit": i32::MAX, "successPolicy": rule });
        merge(&mut own, &more);
        indexed(completions, completions, own)
    };
    let spec = |parallelism: i32, completions: Value| json!({ "parallelism": parallelism, "completions": completions });
    let six = "- Failed; - Failed; - Failed; - Failed; - Failed; - Failed";
    let (six_and_one_runs, seven) = (format!("- Running; {six}"), format!("- Failed; {six}"));
    for (spec, pods, expected) in [
        (spec(2, json!(5)), "", json!({ "active": 2, "made": 2 })),
        (
            spec(2, json!(5)),
            "- Running; - Succeeded",
            json!({ "active": 2, "succeeded": 1, "made": 1 }),
        ),
        (
            spec(2, json!(5)),
            "- Running; - Succeeded; - Failed",
            json!({ "active": 2, "succeeded": 1, "failed": 1, "made": 1 }),
        ),
        (
            spec(2, json!(null)),
            "- Running; - Succeeded",
            json!({ "active": 1, "succeeded": 1 }),
        ),
        (
            spec(2, json!(null)),
            "- Succeeded; - Failed",
            json!({ "succeeded": 1, "failed": 1, "conditions": complete }),
        ),
        (
            spec(3, json!(4)),
            "- Running; - Running; - Running; - Succeeded; - Succeeded",
            json!({ "active": 2, "succeeded": 2 }),
        ),
        (
            spec(2, json!(5)),
            "- Running; - Running; - Running; - Pending; - Running; - Running",
            json!({ "active": 2 }),
        ),
        (
            json!({ "backoffLimit": 0 }),
            "- Failed; - Running; - Running",
            json!({ "failed": 3, "conditions": over }),
        ),
        (
            spec(2, json!(2)),
            six_and_one_runs.as_str(),
            json!({ "active": 2, "failed": 6, "made": 1 }),
        ),
        (
            spec(2, json!(2)),
            seven.as_str(),
            json!({ "failed": 7, "conditions": over }),
        ),
        (
            json!({ "suspend": true, "completions": 2 }),
            "- Succeeded; - Succeeded",
            json!({ "succeeded": 2, "conditions": complete }),
        ),
        (
            indexed(3, 2, json!({})),
            "0 Succeeded; 1 Failed; 1 Succeeded; 2 Succeeded",
            json!({ "succeeded": 3, "failed": 1, "completedIndexes": "0-2", "conditions": complete }),
        ),
        (
            indexed(3, 2, json!({ "backoffLimit": 0 })),
            "0 Succeeded; 1 Failed; 2 Running",
            json!({ "succeeded": 1, "failed": 2, "completedIndexes": "0", "conditions": over }),
        ),
        (
            indexed(3, 2, json!({})),
            "0 Succeeded; 1 Succeeded; 1 Succeeded",
            json!({ "active": 1, "succeeded": 2, "completedIndexes": "0,1", "made": 1 }),
        ),
        (
            indexed(20, 8, json!({})),
            "0 Running; 2 Succeeded; 3 Pending; 4 Succeeded; 5 Succeeded; 7 Succeeded; 8 Succeeded; 9 Succeeded",
            json!({ "active": 8, "succeeded": 6, "completedIndexes": "2,4,5,7-9", "made": 6 }),
        ),
        (
            indexed(4, 3, json!({})),
            "0 Failed; 1 Pending; 2 Failed",
            json!({ "active": 3, "failed": 2, "made": 2 }),
        ),
        (
            indexed(5, 2, json!({})),
            "- Running; - Succeeded; - Failed; x Running; x Succeeded; x Failed; x Pending; 0 Succeeded; 1 Running; 2 Running",
            json!({ "active": 2, "succeeded": 1, "completedIndexes": "0" }),
        ),
        (
            indexed(5, 2, json!({})),
            "0 Succeeded; 5 Running; 6 Succeeded; 7 Pending; 8 Failed",
            json!({ "active": 2, "succeeded": 1, "completedIndexes": "0", "made": 2 }),
        ),
        (
            per_index(2, json!({})),
            "0 Failed 0; 0 Succeeded 1; 1 Succeeded 0",
            json!({ "succeeded": 2, "failed": 1, "completedIndexes": "0,1", "failedIndexes": "", "conditions": complete }),
        ),
        (
            per_index(2, json!({})),
            "0 Failed 1",
            json!({ "active": 1, "failed": 1, "failedIndexes": "0", "made": 1 }),
        ),
        (
            per_index(2, json!({})),
            "0 Failed 0; 0 Pending 1",
            json!({ "active": 2, "failed": 1, "failedIndexes": "", "made": 1 }),
        ),
        (
            per_index(2, json!({})),
            "0 Failed 1; 1 Succeeded 0",
            json!({ "succeeded": 1, "failed": 1, "completedIndexes": "1", "failedIndexes": "0", "conditions": fails("FailedIndexes") }),
        ),
        (
            per_index(4, json!({ "maxFailedIndexes": 1 })),
            "0 Failed 1; 1 Succeeded 0; 2 Failed 1; 3 Running 0",
            json!({ "succeeded": 1, "failed": 3, "completedIndexes": "1", "failedIndexes": "0,2", "conditions": fails("MaxFailedIndexesExceeded") }),
        ),
        (
            per_index(2, json!({ "backoffLimit": 1 })),
            "0 Failed 0; 1 Failed 0",
            json!({ "failed": 2, "failedIndexes": "", "conditions": over }),
        ),
        // What is ended because enough have succeeded has not failed.
        (
            by_policy(3, json!({})),
            "0 Failed; 0 Running; 1 Succeeded; 2 Running",
            json!({ "succeeded": 1, "failed": 1, "completedIndexes": "1", "conditions": policy }),
        ),
        (
            by_policy(2, json!({ "backoffLimitPerIndex": 1 })),
            "0 Failed 1; 1 Succeeded 0",
            json!({ "succeeded": 1, "failed": 1, "completedIndexes": "1", "failedIndexes": "0", "conditions": fails("FailedIndexes") }),
        ),
        (
            by_policy(2, json!({ "backoffLimit": 1 })),
            "0 Failed; 0 Failed; 1 Succeeded",
            json!({ "succeeded": 1, "failed": 2, "completedIndexes": "1", "conditions": over }),
        ),
    ] {
        let mut j = Jobs::new(spec.clone());
        put_all(&mut j, pods);
        let mut all = json!({ "active": 0, "succeeded": 0, "failed": 0, "completedIndexes": "", "made": 0, "conditions": [] });
        merge(&mut all, &expected);
        if all.get("failedIndexes").is_none() {
            all["failedIndexes"] = Value::Null;
        }
        assert_eq!(outcome(&mut j), all, "{spec} {pods}");
        let ended = !j.conditions().is_empty();
        assert!(!ended || j.tracked() == 0, "{spec} {pods}");
    }
}

/// What was decided is kept, also against what would decide otherwise.
#[test]
fn success_that_was_published_is_not_taken_back() {
    let rule = json!({ "rules": [{ "succeededCount": 1 }] });
    let mut j = Jobs::indexed(
        json!({ "completions": 2, "parallelism": 2, "backoffLimit": 0, "successPolicy": rule }),
    );
    j.world.at("Job", "j")["status"] = json!({ "succeeded": 1, "completedIndexes": "1", "conditions": [
        { "type": "SuccessCriteriaMet", "status": "True", "reason": "SuccessPolicy", "message": "m" }] });
    put_all(&mut j, "0 Failed; 1 Succeeded");
    let found = outcome(&mut j);
    assert_eq!(
        (&found["failed"], &found["succeeded"]),
        (&json!(1), &json!(1))
    );
    let expected = [
        ("SuccessCriteriaMet", "SuccessPolicy"),
        ("Complete", "SuccessPolicy"),
    ];
    assert_eq!(j.conditions(), pairs(&expected));
}

#[test]
fn a_condition_that_is_false_is_replaced() {
    let mut j = Jobs::new(json!({ "activeDeadlineSeconds": 10 }));
    j.world.at("Job", "j")["status"] = json!({ "startTime": "2023-11-14T21:13:20Z", "conditions": [
        { "type": "Failed", "status": "False", "reason": "ByHand" },
        { "type": "FailureTarget", "status": "False", "reason": "ByHand" }] });
    j.settle();
    let expected = [
        ("Failed", "DeadlineExceeded"),
        ("FailureTarget", "DeadlineExceeded"),
    ];
    assert_eq!(j.conditions(), pairs(&expected));
    let all = j.status()["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(all.iter().all(|c| c["status"] == "True"), "{all:?}");
}

#[test]
fn more_successes_than_wanted_are_reported() {
    for (pods, reported) in [
        ("- Succeeded; - Succeeded; - Succeeded", false),
        ("- Succeeded; - Succeeded; - Succeeded; - Succeeded", true),
    ] {
        let mut j = Jobs::new(json!({ "completions": 3 }));
        put_all(&mut j, pods);
        j.settle();
        let done = j.world.done();
        let seen = done.iter().any(|l| l == "Event TooManySucceededPods");
        assert_eq!(seen, reported, "{done:?}");
        let last = done.iter().rfind(|l| l.starts_with("Event"));
        assert_eq!(last.map(String::as_str), Some("Event Completed"));
    }
}

#[test]
fn one_that_is_being_deleted_is_complete_when_it_is_done() {
    for (pods, complete) in [
        ("- Succeeded; - Succeeded; - Succeeded", true),
        ("- Succeeded; - Succeeded; - Succeeded; - Running", false),
        ("- Succeeded; - Succeeded; - Running", false),
    ] {
        let mut j = Jobs::new(json!({ "completions": 3 }));
        let meta = &mut j.world.at("Job", "j")["metadata"];
        meta["deletionTimestamp"] = json!("2023-11-14T22:13:20Z");
        meta["finalizers"] = json!(["foregroundDeletion"]);
        put_all(&mut j, pods);
        j.settle();
        let last = j.conditions().last().map(|c| c.0.clone());
        let expected = complete.then(|| "Complete".to_owned());
        assert_eq!(last, expected, "{pods}");
        assert_eq!(j.tracked(), 0, "{pods}");
    }
}

#[test]
fn resumed_it_does_not_wait_as_after_failures() {
    let mut j = Jobs::new(json!({}));
    j.settle();
    j.run();
    j.spec(json!({ "suspend": true }));
    for _ in 0..3 {
        j.step();
    }
    j.spec(json!({ "suspend": false }));
    j.step();
    let counts = |j: &Jobs| (j.phases("Running").len(), j.phases("Pending").len());
    assert_eq!(counts(&j), (2, 2), "the others still end");
}

#[test]
fn a_pod_is_let_go_unless_it_is_of_another_controller() {
    let owner = |version: &str, kind: &str, controls: bool| json!([{ "apiVersion": version, "kind": kind, "name": "o", "uid": "x", "controller": controls }]);
    for (owners, label, job) in [
        (owner("batch/v1", "Job", true), None, Some("o")),
        (owner("batch/v1", "Job", true), Some("other"), Some("o")),
        (owner("batch/v1", "CronJob", true), None, None),
        (owner("example.com/v1", "Job", true), None, None),
        (owner("batch/v1", "Job", false), None, Some("")),
        (owner("example.com/v1", "Job", false), Some("j"), Some("j")),
        (json!([]), None, Some("")),
        (json!([]), Some("j"), Some("j")),
    ] {
        let mut pod = json!({ "metadata": { "name": "p", "namespace": "a", "ownerReferences": owners }, "spec": { "containers": [] } });
        if let Some(label) = label {
            pod["metadata"]["labels"] = json!({ "batch.kubernetes.io/job-name": label });
        }
        let found = job_of(&serde_json::from_value(pod.clone()).unwrap());
        let expected = job.map(|name| ("a".to_owned(), name.to_owned()));
        assert_eq!(found, expected, "{pod}");
    }
}

#[test]
fn a_long_name_keeps_the_index() {
    let long = "abcdefghij".repeat(7);
    for (job, index, expected) in [
        ("short", 1, "short-1-".to_owned()),
        (&long[..], 1, format!("{}-1-", &long[..55])),
        (&long[..57], 1, format!("{}-1-", &long[..55])),
        (&long[..55], 1, format!("{}-1-", &long[..55])),
        (&long[..], 12_345, format!("{}-12345-", &long[..51])),
    ] {
        assert_eq!(name_prefix(job, index), expected, "{job} {index}");
    }
}
