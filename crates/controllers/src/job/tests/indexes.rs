//! Indexed Jobs: each index has its pod, its failures and its success.

use serde_json::json;

use super::{Jobs, pairs};

#[test]
fn each_index_has_its_pod() {
    let mut j = Jobs::indexed(json!({ "completions": 3, "parallelism": 3 }));
    j.settle();
    let name = j.pod_of(1);
    let pod = j.world.at("Pod", &name).clone();
    assert!(name.starts_with("j-1-"));
    assert_eq!(pod["spec"]["hostname"], "j-1");
    assert_eq!(
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"],
        "1"
    );
    let variable = &pod["spec"]["containers"][0]["env"][0];
    assert_eq!(variable["name"], "JOB_COMPLETION_INDEX");
    assert_eq!(
        variable["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.labels['batch.kubernetes.io/job-completion-index']"
    );
    j.run();
    for index in [2, 0] {
        let name = j.pod_of(index);
        j.end_pod(&name, 0);
        j.settle();
    }
    assert_eq!(
        (
            j.status()["completedIndexes"].clone(),
            j.status()["succeeded"].clone()
        ),
        (json!("0,2"), json!(2))
    );
    // A failed index is tried again, in a pod of the same index.
    let failed = j.pod_of(1);
    j.end_pod(&failed, 1);
    j.settle();
    j.world.now_millis += 10_000;
    j.settle();
    assert_ne!(j.pod_of(1), failed);
    j.end(0);
    j.settle();
    assert_eq!(j.status()["completedIndexes"], "0-2");
    assert_eq!(j.conditions().last().unwrap().0, "Complete");
}

#[test]
fn completions_change_on_the_way() {
    let mut j = Jobs::indexed(json!({ "completions": 4, "parallelism": 4 }));
    j.settle();
    j.run();
    for index in [0, 3] {
        let name = j.pod_of(index);
        j.end_pod(&name, 0);
    }
    j.settle();
    j.spec(json!({ "completions": 2, "parallelism": 2 }));
    j.settle();
    assert_eq!(
        (
            j.status()["completedIndexes"].clone(),
            j.status()["succeeded"].clone()
        ),
        (json!("0"), json!(1))
    );
    assert_eq!(j.phases("Running").len(), 1);
    j.spec(json!({ "completions": 3, "parallelism": 3 }));
    j.settle();
    assert_eq!(j.phases("Pending").len() + j.phases("Running").len(), 2);
}

#[test]
fn each_index_may_fail_so_often() {
    let mut j = Jobs::indexed(
        json!({ "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1, "backoffLimit": i32::MAX }),
    );
    j.settle();
    j.run();
    for turn in 0..2 {
        let name = j.pod_of(0);
        j.end_pod(&name, 1);
        j.settle();
        if turn == 0 {
            assert_eq!(
                j.tracked(),
                2,
                "it waits for the next one, which takes over its count"
            );
            j.world.now_millis += 10_000;
            j.settle();
            j.run();
            let next = j.pod_of(0);
            assert_eq!(
                j.world.at("Pod", &next)["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"],
                "1"
            );
        }
    }
    assert_eq!(j.status()["failedIndexes"], "0");
    assert_eq!(j.conditions(), pairs(&[]), "the other index goes on");
    let name = j.pod_of(1);
    j.end_pod(&name, 0);
    j.settle();
    let expected = pairs(&[
        ("FailureTarget", "FailedIndexes"),
        ("Failed", "FailedIndexes"),
    ]);
    assert_eq!(
        (j.conditions(), j.status()["completedIndexes"].clone()),
        (expected, json!("1"))
    );
    assert_eq!(
        (
            j.status()["failed"].clone(),
            j.status()["succeeded"].clone(),
            j.tracked()
        ),
        (json!(2), json!(1), 0)
    );
}

#[test]
fn too_many_failed_indexes_end_it() {
    let mut j = Jobs::indexed(
        json!({ "completions": 4, "parallelism": 4, "backoffLimitPerIndex": 0, "maxFailedIndexes": 1, "backoffLimit": i32::MAX }),
    );
    j.settle();
    j.run();
    for index in [1, 3] {
        let name = j.pod_of(index);
        j.end_pod(&name, 1);
    }
    j.settle();
    assert_eq!(j.conditions().last().unwrap().1, "MaxFailedIndexesExceeded");
    assert_eq!(j.status()["failedIndexes"], "1,3");
}

#[test]
fn enough_successes_end_it_and_the_rest() {
    let mut j = Jobs::indexed(
        json!({ "completions": 5, "parallelism": 5, "successPolicy": { "rules": [{ "succeededIndexes": "2-4", "succeededCount": 1 }] } }),
    );
    j.settle();
    j.run();
    let name = j.pod_of(0);
    j.end_pod(&name, 0);
    j.settle();
    assert_eq!(j.conditions(), pairs(&[]));
    let name = j.pod_of(3);
    j.end_pod(&name, 0);
    j.settle();
    assert_eq!(
        j.conditions(),
        pairs(&[
            ("SuccessCriteriaMet", "SuccessPolicy"),
            ("Complete", "SuccessPolicy")
        ])
    );
    assert_eq!(
        (
            j.status()["completedIndexes"].clone(),
            j.phases("Running").len(),
            j.tracked()
        ),
        (json!("0,3"), 0, 0)
    );
}
