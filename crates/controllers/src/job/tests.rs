//! Jobs in a pretended cluster, from their first pods to their end; by ideas in the files below.

mod counting;
mod failures;
mod indexes;
mod outcomes;

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
