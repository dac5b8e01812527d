//! Jobs in a pretended cluster.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Observed, plan};
use crate::testing::{World, merge};

struct Jobs {
    world: World,
}

impl Jobs {
    fn new(spec: Value) -> Self {
        let mut job = json!({
            "metadata": { "name": "j", "uid": "u", "generation": 1 },
            "spec": {
                "completions": 3, "parallelism": 2, "backoffLimit": 6, "suspend": false,
                "completionMode": "NonIndexed", "podReplacementPolicy": "TerminatingOrFailed",
                "selector": { "matchLabels": { "batch.kubernetes.io/controller-uid": "u" } },
                "template": {
                    "metadata": { "labels": { "batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j" } },
                    "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "one" }] },
                },
            },
        });
        merge(&mut job["spec"], &spec);
        let mut world = World::new();
        world.put("Job", job);
        Self { world }
    }

    fn indexed(spec: Value) -> Self {
        let mut all = json!({ "completionMode": "Indexed" });
        merge(&mut all, &spec);
        Self::new(all)
    }

    fn spec(&mut self, patch: Value) {
        merge(&mut self.world.at("Job", "j")["spec"], &patch);
    }

    fn seen(&self) -> Observed {
        let there = !self.world.names("Job").is_empty();
        Observed {
            job: there.then(|| self.world.one("Job", "j")),
            pods: self.world.all("Pod"),
        }
    }

    fn step(&mut self) -> usize {
        let plan = plan(&self.seen(), self.world.now_millis);
        self.world.apply(plan)
    }

    /// Until nothing is to be done; pods that are being deleted are ended by their node.
    fn settle(&mut self) {
        for _ in 0..100 {
            let before = self.world.objects.clone();
            self.step();
            for name in self.world.names("Pod") {
                let pod = self.world.at("Pod", &name);
                if !pod["metadata"]["deletionTimestamp"].is_null()
                    && pod["status"]["phase"] == "Running"
                {
                    self.world.set_pod(&name, "Failed", false);
                }
            }
            if before == self.world.objects {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.world.log);
    }

    fn phases(&self, phase: &str) -> Vec<String> {
        let all = self
            .world
            .objects
            .iter()
            .filter(|((k, _), p)| k == "Pod" && p["status"]["phase"] == phase);
        all.map(|((_, n), _)| n.clone()).collect()
    }

    fn run(&mut self) {
        for name in self.phases("Pending") {
            self.world.set_pod(&name, "Running", true);
        }
    }

    /// The first running pod ends with this exit code; time passes.
    fn end(&mut self, code: i32) -> String {
        self.run();
        let name = self.phases("Running")[0].clone();
        self.end_pod(&name, code);
        name
    }

    fn end_pod(&mut self, name: &str, code: i32) {
        self.world.now_millis += 1_000;
        let now = crate::common::time_text(self.world.now_millis);
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.world.set_pod(name, phase, false);
        self.world.at("Pod", name)["status"]["containerStatuses"] = json!([{ "name": "c", "image": "one", "imageID": "",
            "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": code, "finishedAt": now } } }]);
    }

    fn pod_of(&self, index: i32) -> String {
        let index = index.to_string();
        let is = |p: &Value| {
            p["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == *index
        };
        let mut all = self
            .world
            .objects
            .iter()
            .filter(|((k, _), p)| k == "Pod" && is(p) && p["status"]["phase"] != "Failed");
        all.next()
            .unwrap_or_else(|| panic!("no pod of {index}"))
            .0
            .1
            .clone()
    }

    fn status(&self) -> Value {
        self.world.objects[&("Job".to_owned(), "j".to_owned())]["status"].clone()
    }

    fn conditions(&self) -> Vec<(String, String)> {
        let all = self.status()["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        all.iter()
            .map(|c| (text(&c["type"]), text(&c["reason"])))
            .collect()
    }

    fn tracked(&self) -> usize {
        let all = self.world.objects.iter().filter(|((k, _), _)| k == "Pod");
        all.filter(|(_, p)| {
            p["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|f| !f.is_empty())
        })
        .count()
    }
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[test]
fn it_runs_to_its_completions() {
    let mut j = Jobs::new(json!({}));
    j.settle();
    assert_eq!(j.phases("Pending").len(), 2);
    assert_eq!(j.status()["active"], 2);
    for n in 1..=3 {
        j.end(0);
        j.settle();
        assert_eq!(j.status()["succeeded"], n);
    }
    let expected = pairs(&[
        ("SuccessCriteriaMet", "CompletionsReached"),
        ("Complete", "CompletionsReached"),
    ]);
    assert_eq!(j.conditions(), expected);
    assert!(j.status()["completionTime"].is_string());
    assert_eq!(
        (j.tracked(), j.status()["uncountedTerminatedPods"].clone()),
        (0, json!({}))
    );
    assert_eq!(
        (
            j.status()["active"].clone(),
            j.status()["terminating"].clone()
        ),
        (Value::Null, json!(0))
    );
    assert_eq!(j.step(), 0);
}

/// A status that ends before it begins is refused: the Job would end when the clock has caught up.
#[test]
fn a_clock_that_is_set_back_ends_no_job_before_it_began() {
    let mut j = Jobs::new(json!({ "completions": 1, "parallelism": 1 }));
    j.settle();
    j.run();
    let began = j.status()["startTime"].clone();
    j.world.now_millis -= 5 * 3_600_000;
    j.end(0);
    j.settle();
    assert!(began.is_string(), "{began}");
    assert_eq!(j.status()["completionTime"], began);
    assert_eq!(j.status()["startTime"], began);
}

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
        super::wait_of(&change).as_millis()
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
fn without_completions_one_success_suffices() {
    let mut j = Jobs::new(json!({ "completions": null, "parallelism": 3 }));
    j.settle();
    j.end(0);
    j.settle();
    assert_eq!(j.phases("Running").len(), 2, "the others run on");
    assert_eq!(j.conditions(), pairs(&[]));
    j.end(0);
    j.end(1);
    j.settle();
    assert_eq!(
        (
            j.status()["succeeded"].clone(),
            j.status()["failed"].clone()
        ),
        (json!(2), json!(1))
    );
    assert_eq!(j.conditions().last().unwrap().0, "Complete");
}

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
fn suspended_it_has_no_pods_and_counts_none() {
    let mut j = Jobs::new(json!({ "suspend": true }));
    j.settle();
    assert_eq!(j.world.names("Pod").len(), 0);
    assert_eq!(
        (j.conditions(), j.status()["startTime"].clone()),
        (pairs(&[("Suspended", "JobSuspended")]), Value::Null)
    );
    j.spec(json!({ "suspend": false }));
    j.settle();
    j.run();
    assert_eq!(j.phases("Running").len(), 2);
    assert_eq!(j.conditions(), pairs(&[("Suspended", "JobResumed")]));
    assert!(j.status()["startTime"].is_string());
    j.spec(json!({ "suspend": true }));
    j.settle();
    assert_eq!(j.phases("Running").len(), 0);
    assert_eq!(
        j.status()["failed"],
        Value::Null,
        "those that were stopped did not fail"
    );
    assert_eq!(j.conditions(), pairs(&[("Suspended", "JobSuspended")]));
}

#[test]
fn fewer_at_once_lets_go_without_counting() {
    let mut j = Jobs::new(json!({ "completions": 5, "parallelism": 4 }));
    j.settle();
    j.run();
    j.spec(json!({ "parallelism": 1 }));
    j.settle();
    assert_eq!(
        (j.phases("Running").len(), j.status()["failed"].clone()),
        (1, Value::Null)
    );
}

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

#[test]
fn others_manage_what_is_theirs() {
    let mut j = Jobs::new(json!({ "managedBy": "example.com/other" }));
    assert_eq!(j.step(), 0);
    let mut j = Jobs::new(json!({ "managedBy": "kubernetes.io/job-controller" }));
    assert_ne!(j.step(), 0);
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let mut j = Jobs::new(json!({ "completions": 0 }));
    j.settle();
    assert_eq!(j.conditions().last().unwrap().0, "Complete");
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
