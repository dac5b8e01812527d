//! Rollouts against a pretended cluster: sets get their pods at once, pods become available when
//! the test says so.

use std::sync::Arc;

use control::Action;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};

use super::plan::{Observed, plan};

mod tables;

struct World {
    deployment: Value,
    sets: Vec<Value>,
    /// What happens at most and at least, over all sets.
    most: i64,
    least: i64,
    time: i64,
    /// Why nothing can be done.
    failure: Option<String>,
}

/// The generation that a status says was seen.
fn observed(action: &Action) -> Option<Value> {
    match action {
        Action::Update {
            subresource: "status",
            object,
            ..
        } => Some(object["status"]["observedGeneration"].clone()),
        _ => None,
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let (Some(all), Some(patch)) = (into.as_object_mut(), patch.as_object()) else {
        *into = patch.clone();
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            all.remove(key);
        } else {
            merge(all.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

impl World {
    fn new(spec: Value) -> Self {
        let mut full = json!({
            "replicas": 4, "selector": { "matchLabels": { "app": "a" } }, "progressDeadlineSeconds": 600,
            "template": { "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "c", "image": "one" }] } },
        });
        merge(&mut full, &spec);
        let deployment = json!({ "metadata": { "name": "d", "namespace": "a", "uid": "d", "generation": 1 }, "spec": full });
        Self {
            deployment,
            sets: Vec::new(),
            most: 0,
            least: i64::MAX,
            time: 1_000_000,
            failure: None,
        }
    }

    fn step(&mut self) -> usize {
        self.time += 1_000;
        let sets: Vec<Arc<ReplicaSet>> = self
            .sets
            .iter()
            .map(|s| Arc::new(serde_json::from_value(s.clone()).unwrap()))
            .collect();
        let running = self.sets.iter().flat_map(|s| {
            let n = s["status"]["replicas"].as_u64().unwrap_or(0);
            std::iter::repeat_n(
                s["metadata"]["uid"].as_str().unwrap().to_owned(),
                usize::try_from(n).unwrap(),
            )
        });
        let deployment: Arc<Deployment> =
            Arc::new(serde_json::from_value(self.deployment.clone()).unwrap());
        let seen = Observed {
            deployment,
            sets,
            running_pods: running.collect(),
            failure: self.failure.clone(),
        };
        let plan = plan(&seen, self.time);
        // What says that a generation was seen waits until all else is done.
        let seen = self.deployment["status"]["observedGeneration"].clone();
        let mut early = plan.actions.iter().chain(&plan.otherwise);
        assert!(
            early.all(|a| observed(a).is_none_or(|g| g == seen)),
            "{plan:?}"
        );
        assert!(plan.last.is_empty());
        let actions: Vec<Action> = match self.failure {
            Some(_) => plan.otherwise,
            None => plan.actions.into_iter().chain(plan.then).collect(),
        };
        let n = actions.len();
        for action in actions {
            self.apply(action);
        }
        n
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Noted { action, .. } => self.apply(*action),
            Action::Create { mut object, target } => {
                object["metadata"]["uid"] = json!(target.name);
                object["metadata"]["creationTimestamp"] =
                    json!(crate::common::time_text(self.time));
                self.sets.push(object);
            }
            Action::Patch { target, patch, .. } => {
                let control::action::Patch::Merge(patch) = patch else {
                    panic!("{patch:?}")
                };
                let named = |s: &&mut Value| s["metadata"]["name"] == json!(target.name);
                match self.sets.iter_mut().find(named) {
                    Some(set) => merge(set, &patch),
                    None => merge(&mut self.deployment, &patch),
                }
            }
            Action::Update {
                object,
                subresource,
                ..
            } => {
                let mut changed = object;
                if subresource == "status" {
                    let status = changed["status"].take();
                    changed = std::mem::take(&mut self.deployment);
                    changed["status"] = status;
                }
                self.deployment = changed;
            }
            Action::Delete { target, .. } => self
                .sets
                .retain(|s| s["metadata"]["name"] != json!(target.name)),
            other => panic!("{other:?}"),
        }
    }

    /// Sets reach their sizes; new pods become available, when they may.
    fn pods(&mut self, healthy: bool) {
        for set in &mut self.sets {
            let size = set["spec"]["replicas"].as_i64().unwrap();
            let was = set["status"]["availableReplicas"].as_i64().unwrap_or(0);
            let available = if healthy { size } else { was.min(size) };
            set["status"] = json!({ "replicas": size, "readyReplicas": available, "availableReplicas": available });
        }
        self.most = self.most.max(self.sum("replicas"));
        self.least = self.least.min(self.sum("availableReplicas"));
    }

    fn sum(&self, field: &str) -> i64 {
        self.sets
            .iter()
            .map(|s| s["status"][field].as_i64().unwrap_or(0))
            .sum()
    }

    fn settle(&mut self, healthy: bool) {
        for _ in 0..60 {
            let n = self.step();
            self.pods(healthy);
            if n == 0 {
                return;
            }
        }
        panic!("does not settle: {:#}", self.deployment);
    }

    fn image(&mut self, image: &str) {
        self.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        let generation = self.deployment["metadata"]["generation"].as_i64().unwrap();
        self.deployment["metadata"]["generation"] = json!(generation + 1);
        (self.most, self.least) = (0, i64::MAX);
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let all = self.deployment["status"]["conditions"].as_array().unwrap();
        let found = all.iter().find(|c| c["type"] == kind).unwrap();
        (
            found["status"].as_str().unwrap().into(),
            found["reason"].as_str().unwrap().into(),
        )
    }

    fn of_image(&self, image: &str) -> i64 {
        let has = |s: &&Value| s["spec"]["template"]["spec"]["containers"][0]["image"] == image;
        self.sets
            .iter()
            .filter(has)
            .map(|s| s["spec"]["replicas"].as_i64().unwrap())
            .sum()
    }
}

#[test]
fn a_rolling_update_keeps_its_bounds() {
    let mut w = World::new(json!({}));
    w.settle(true);
    assert_eq!(w.of_image("one"), 4);
    w.image("two");
    w.settle(true);
    assert_eq!((w.of_image("one"), w.of_image("two")), (0, 4));
    assert!(w.most <= 5 && w.least >= 3, "{} {}", w.most, w.least);
    assert_eq!(
        w.condition("Progressing"),
        ("True".into(), "NewReplicaSetAvailable".into())
    );
    assert_eq!(
        w.deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "2"
    );
    // Back to the first template: its set is used again, with the next revision.
    w.image("one");
    w.settle(true);
    assert_eq!((w.sets.len(), w.of_image("one")), (2, 4));
    assert_eq!(
        w.deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "3"
    );
}

#[test]
fn a_bad_template_stops_the_rollout() {
    let mut w = World::new(json!({ "progressDeadlineSeconds": 30 }));
    w.settle(true);
    w.image("bad");
    w.settle(false);
    assert_eq!(w.sum("availableReplicas"), 3);
    w.time += 60_000;
    w.settle(false);
    assert_eq!(
        w.condition("Progressing"),
        ("False".into(), "ProgressDeadlineExceeded".into())
    );
    w.image("one");
    w.settle(true);
    assert_eq!((w.of_image("one"), w.of_image("bad")), (4, 0));
}

#[test]
fn what_keeps_the_new_set_from_its_pods_is_said() {
    let mut w = World::new(json!({}));
    w.settle(true);
    let failure = json!([{ "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": "exceeded quota", "lastTransitionTime": "1970-01-01T00:00:05Z" }]);
    w.sets[0]["status"]["conditions"] = failure;
    w.step();
    assert_eq!(
        w.condition("ReplicaFailure"),
        ("True".into(), "FailedCreate".into())
    );
    w.sets[0]["status"]["conditions"] = json!([]);
    w.step();
    let left = w.deployment["status"]["conditions"].as_array().unwrap();
    assert!(left.iter().all(|c| c["type"] != "ReplicaFailure"));
}

#[test]
fn that_the_new_set_cannot_be_made_is_said() {
    let mut w = World::new(json!({}));
    w.settle(true);
    let before = w.deployment["status"]["observedGeneration"].clone();
    w.image("two");
    w.failure = Some("exceeded quota".into());
    w.settle(true);
    assert_eq!(
        w.condition("Progressing"),
        ("False".into(), "ReplicaSetCreateError".into())
    );
    let revision = "deployment.kubernetes.io/revision";
    let seen = &w.deployment["status"]["observedGeneration"];
    assert_eq!((seen, w.sets.len()), (&before, 1));
    assert_eq!(w.deployment["metadata"]["annotations"][revision], "1");
    w.failure = None;
    w.settle(true);
    assert_eq!(
        w.condition("Progressing"),
        ("True".into(), "NewReplicaSetAvailable".into())
    );
    assert_eq!(w.deployment["metadata"]["annotations"][revision], "2");
}

#[test]
fn recreate_never_mixes() {
    let mut w = World::new(json!({ "strategy": { "type": "Recreate" } }));
    w.settle(true);
    w.image("two");
    w.settle(true);
    assert_eq!(
        (w.of_image("one"), w.of_image("two"), w.most, w.least),
        (0, 4, 4, 0)
    );
}

#[test]
fn scaling_and_pausing() {
    let mut w = World::new(json!({}));
    w.settle(true);
    w.deployment["spec"]["replicas"] = json!(7);
    w.settle(true);
    assert_eq!(w.of_image("one"), 7);
    w.deployment["spec"]["paused"] = json!(true);
    w.image("two");
    w.settle(true);
    assert_eq!((w.of_image("one"), w.of_image("two")), (7, 0));
    assert_eq!(
        w.condition("Progressing"),
        ("Unknown".into(), "DeploymentPaused".into())
    );
    w.deployment["spec"]["replicas"] = json!(2);
    w.settle(true);
    assert_eq!(w.of_image("one"), 2);
    w.deployment["spec"]["paused"] = json!(false);
    w.settle(true);
    assert_eq!((w.of_image("one"), w.of_image("two")), (0, 2));
}

#[test]
fn while_paused_revisions_and_the_history_are_kept() {
    let mut w = World::new(json!({ "revisionHistoryLimit": 5 }));
    for image in ["a", "b", "c", "d"] {
        w.image(image);
        w.settle(true);
    }
    w.deployment["spec"]["paused"] = json!(true);
    w.deployment["spec"]["revisionHistoryLimit"] = json!(1);
    // Back to an older template, and with another note for its set.
    w.image("b");
    w.deployment["metadata"]["annotations"]["note"] = json!("mine");
    w.settle(true);
    assert_eq!(w.of_image("d"), 4, "nothing is rolled out");
    let revision = "deployment.kubernetes.io/revision";
    let annotations = &w.deployment["metadata"]["annotations"];
    assert_eq!(annotations[revision], "5");
    let is_b = |s: &&Value| s["spec"]["template"]["spec"]["containers"][0]["image"] == "b";
    let set = w.sets.iter().find(is_b).unwrap();
    assert_eq!(set["metadata"]["annotations"][revision], "5");
    assert_eq!(set["metadata"]["annotations"]["note"], "mine");
    // Of the old ones the empty ones that are too many go; one has pods.
    assert_eq!(w.sets.len(), 2);
}

#[test]
fn history_is_limited() {
    let mut w = World::new(json!({ "revisionHistoryLimit": 2 }));
    for image in ["a", "b", "c", "d", "e"] {
        w.image(image);
        w.settle(true);
    }
    assert_eq!(w.sets.len(), 3);
}

#[test]
fn a_set_that_was_relabelled_keeps_its_name_and_the_next_gets_another() {
    for strategy in ["RollingUpdate", "Recreate"] {
        let mut w = World::new(json!({ "strategy": { "type": strategy } }));
        w.settle(true);
        w.sets[0]["metadata"]["labels"] = json!({ "app": "other" });
        w.settle(true);
        assert!(w.sets[0]["metadata"]["ownerReferences"][0].is_null());
        assert_eq!(w.deployment["status"]["collisionCount"], 1, "{strategy}");
        // The released set's pods are nobody's concern, in a Recreate neither.
        assert_eq!((w.sets.len(), w.of_image("one")), (2, 8), "{strategy}");
        assert_ne!(w.sets[0]["metadata"]["name"], w.sets[1]["metadata"]["name"]);
    }
}
