//! Sets against pretended pods.

use std::sync::Arc;

use control::Action;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::core::ApiResource;
use proptest::prelude::*;
use serde_json::json;

use crate::ownership::Parent;

use super::plan::{Counts, Observed, plan};

fn observed(replicas: i32) -> Observed {
    let labels = [("app".to_owned(), "a".to_owned())];
    let meta = json!({ "name": "r", "namespace": "a", "uid": "r", "generation": 1 });
    Observed {
        resource: ApiResource::erase::<ReplicaSet>(&()),
        parent: Parent {
            namespace: "a".into(),
            name: "r".into(),
            uid: "r".into(),
            about: ObjectReference::default(),
            reference: json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true }),
            selector: api::LabelSelector::parse("app=a").unwrap(),
            deleting: false,
            finalizer: None,
        },
        meta: serde_json::from_value(meta).unwrap(),
        replicas,
        min_ready_seconds: 0,
        object: json!({
            "spec": { "template": { "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [] } } },
            "status": { "conditions": [{ "type": "Theirs", "status": "True" }] },
        }),
        template_labels: labels.into(),
        pods: Vec::new(),
        related: Vec::new(),
        published: Counts::default(),
        reports_terminating: true,
        published_generation: 0,
        failure: None,
    }
}

/// Does what is planned, as the API server would; returns the number of actions.
fn apply(seen: &mut Observed, now: i64) -> usize {
    let plan = plan(seen, now);
    let n = plan.actions.len() + plan.last.len();
    for action in plan.actions.into_iter().chain(plan.last) {
        let action = if let Action::Noted { action, .. } = action {
            *action
        } else {
            action
        };
        match action {
            Action::Create { mut object, target } => {
                object["metadata"]["uid"] = json!(target.name);
                object["status"] = json!({ "phase": "Pending" });
                seen.pods
                    .push(Arc::new(serde_json::from_value(object).unwrap()));
            }
            Action::Delete { uid, .. } => seen.pods.retain(|p| p.metadata.uid != uid),
            Action::Patch {
                target,
                patch: control::action::Patch::Merge(patch),
                ..
            } => {
                for pod in seen
                    .pods
                    .iter_mut()
                    .filter(|p| p.metadata.name.as_deref() == Some(&target.name))
                {
                    let owners =
                        serde_json::from_value(patch["metadata"]["ownerReferences"].clone())
                            .unwrap();
                    Arc::make_mut(pod).metadata.owner_references = Some(owners);
                }
            }
            Action::Update {
                subresource: "status",
                object,
                ..
            } => {
                let n =
                    |field: &str| i32::try_from(object["status"][field].as_i64().unwrap()).unwrap();
                seen.published = Counts {
                    replicas: n("replicas"),
                    fully_labeled: n("fullyLabeledReplicas"),
                    ready: n("readyReplicas"),
                    available: n("availableReplicas"),
                    terminating: Some(n("terminatingReplicas")),
                };
                seen.published_generation = 1;
                assert_eq!(object["status"]["conditions"][0]["type"], "Theirs");
            }
            other => panic!("{other:?}"),
        }
    }
    n
}

fn stray(name: &str, label: &str, ready: bool) -> Arc<Pod> {
    let pod = json!({
        "metadata": { "name": name, "namespace": "a", "uid": name, "labels": { "app": label } },
        "spec": { "nodeName": "n", "containers": [] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

#[test]
fn strays_are_adopted_and_the_least_useful_go() {
    let mut seen = observed(1);
    seen.pods = vec![
        stray("ready", "a", true),
        stray("sick", "a", false),
        stray("other", "b", true),
    ];
    apply(&mut seen, 1_000);
    let names: Vec<_> = seen
        .pods
        .iter()
        .filter_map(|p| p.metadata.name.as_deref())
        .collect();
    assert_eq!(names, ["ready", "other"]);
    // A pod that loses its label is let go and replaced.
    Arc::make_mut(&mut seen.pods[0]).metadata.labels = None;
    apply(&mut seen, 2_000);
    assert!(
        seen.pods[0]
            .metadata
            .owner_references
            .as_ref()
            .unwrap()
            .is_empty()
    );
    assert_eq!(seen.pods.len(), 3);
}

#[test]
fn a_pod_goes_first_that_is_beside_pods_of_another_template() {
    let on = |name: &str, node: &str| {
        let mut pod = stray(name, "a", true);
        let spec = Arc::make_mut(&mut pod).spec.as_mut().unwrap();
        spec.node_name = Some(node.into());
        pod
    };
    for crowded in ["n1", "n2"] {
        let mut seen = observed(1);
        seen.pods = vec![on("a-n1", "n1"), on("b-n2", "n2")];
        seen.related = vec![on("new", crowded)];
        apply(&mut seen, 1_000);
        let left = seen.pods[0].metadata.name.as_deref().unwrap();
        assert_eq!(seen.pods.len(), 1);
        assert!(!left.ends_with(crowded), "{left} beside {crowded}");
    }
}

#[test]
fn pods_that_end_are_reported() {
    let mut seen = observed(1);
    let mut ending = Arc::unwrap_or_clone(stray("ending", "a", true));
    ending.metadata.deletion_timestamp = Some(crate::common::time_at(0));
    ending.metadata.owner_references = Some(vec![
        serde_json::from_value(seen.parent.reference.clone()).unwrap(),
    ]);
    let mut ended = ending.clone();
    ended.status.get_or_insert_default().phase = Some("Failed".into());
    seen.pods = vec![Arc::new(ending), Arc::new(ended)];
    let status = |seen: &Observed| {
        let plan = plan(seen, 1_000);
        match plan.last.last() {
            Some(Action::Update { object, .. }) => object["status"]["terminatingReplicas"].clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status(&seen), 1);
    seen.reports_terminating = false;
    assert_eq!(status(&seen), serde_json::Value::Null);
}

#[test]
fn what_is_counted_of_the_pods() {
    let now = 1_700_000_000_000;
    let pod = |(at, (labelled, ready)): (i32, (bool, Option<i64>))| -> Arc<Pod> {
        let since = ready.map(|seconds| crate::common::time_text(now - seconds * 1_000));
        let status = if ready.is_some() { "True" } else { "False" };
        let mut pod = json!({
            "metadata": { "name": at.to_string(), "namespace": "a", "uid": at.to_string(),
                "labels": { "app": "a" }, "ownerReferences": [{ "apiVersion": "apps/v1",
                    "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true }] },
            "spec": { "nodeName": "n", "containers": [] },
            "status": { "phase": "Running", "conditions": [
                { "type": "Ready", "status": status, "lastTransitionTime": since }] },
        });
        if labelled {
            pod["metadata"]["labels"]["tier"] = json!("x");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    // Of each pod, whether it has all labels of the template and since how many seconds it is ready;
    // for how long it must be; and the counts.
    for (pods, least, expected) in [
        (vec![(true, Some(0))], 0, [1, 1, 1, 1]),
        (vec![(false, Some(0))], 0, [1, 0, 1, 1]),
        (vec![(true, Some(0)), (true, Some(0))], 0, [2, 2, 2, 2]),
        (vec![(false, Some(0)), (true, Some(0))], 0, [2, 1, 2, 2]),
        (vec![(true, None)], 0, [1, 1, 0, 0]),
        (vec![(true, Some(0))], 3_600, [1, 1, 1, 0]),
        (vec![(true, Some(3_600))], 3_600, [1, 1, 1, 1]),
        (vec![(true, Some(7_200))], 3_600, [1, 1, 1, 1]),
    ] {
        let mut seen = observed(i32::try_from(pods.len()).unwrap());
        seen.min_ready_seconds = least;
        seen.template_labels.insert("tier".into(), "x".into());
        seen.pods = (0..).zip(pods.clone()).map(pod).collect();
        let planned = plan(&seen, now);
        let Some(Action::Update { object, .. }) = planned.last.last() else {
            panic!("{planned:?}");
        };
        let fields = [
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
        ];
        let said = fields.map(|field| object["status"][field].clone());
        assert_eq!(said, expected.map(|n| json!(n)), "{pods:?} {least}");
    }
}

#[test]
fn what_pods_cannot_be_made_for_is_said_once_and_taken_back() {
    let mut seen = observed(2);
    seen.pods = vec![stray("one", "a", true)];
    let conditions = |seen: &Observed| match plan(seen, 5_000).last.pop() {
        Some(Action::Update { object, .. }) => Some(object["status"]["conditions"].clone()),
        _ => None,
    };
    let theirs = json!({ "type": "Theirs", "status": "True" });
    seen.failure = Some("exceeded quota".into());
    let said = conditions(&seen).unwrap();
    assert_eq!(
        said,
        json!([theirs, {
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "message": "exceeded quota", "lastTransitionTime": "1970-01-01T00:00:05Z",
        }])
    );
    apply(&mut seen, 5_000);
    seen.pods.truncate(1);
    seen.object["status"]["conditions"] = said.clone();
    seen.failure = Some("exceeded quota, for another name".into());
    seen.published.replicas = 1;
    assert!(conditions(&seen).is_none_or(|now| now == said));
    // Fewer are wanted, or the next try goes well.
    let mut fewer = seen.clone();
    fewer.replicas = 1;
    assert_eq!(conditions(&fewer), Some(json!([theirs])));
    seen.failure = None;
    assert_eq!(conditions(&seen), Some(json!([theirs])));
    seen.object["status"]["conditions"] = json!([theirs]);
    seen.failure = Some("stuck".into());
    seen.replicas = 0;
    let said = conditions(&seen).unwrap();
    assert_eq!(said[1]["reason"], "FailedDelete");
}

proptest! {
    #[test]
    fn it_settles_at_the_wanted_number(sizes in prop::collection::vec(0i32..40, 1..6)) {
        let mut seen = observed(0);
        let mut now = 1_000;
        for size in sizes {
            seen.replicas = size;
            let mut rounds = 0;
            while apply(&mut seen, now) > 0 {
                now += 1;
                rounds += 1;
                prop_assert!(rounds < 5);
            }
            prop_assert_eq!(seen.pods.len(), usize::try_from(size).unwrap());
        }
    }
}

fn refused(name: &str, made_millis: i64) -> Arc<Pod> {
    let pod = json!({
        "metadata": { "name": name, "namespace": "a", "uid": name, "labels": { "app": "a" },
            "creationTimestamp": crate::common::time_text(made_millis),
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r",
                "uid": "r", "controller": true }] },
        "spec": { "nodeName": "n", "containers": [] },
        "status": { "phase": "Failed", "reason": "Evicted" },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// A node under pressure refuses all pods that name it.
#[test]
fn what_nodes_refuse_is_made_again_ever_more_rarely() {
    for replicas in [1, 5] {
        let mut seen = observed(replicas);
        let (begin, end) = (1_700_000_000_000, 1_700_000_600_000);
        let (mut now, mut made) = (begin, Vec::new());
        while now < end {
            let plan = plan(&seen, now);
            let creates = |a: &&Action| matches!(a, Action::Noted { action, .. } if matches!(**action, Action::Create { .. }));
            let count = plan.actions.iter().filter(creates).count();
            for number in 0..count {
                seen.pods.push(refused(&format!("{now}-{number}"), now));
            }
            if count > 0 {
                made.push((now - begin) / 1_000);
            }
            let wait = plan.wake_after_millis.filter(|_| count == 0).unwrap_or(0);
            now += i64::try_from(wait).unwrap();
        }
        assert_eq!(made[..8], [0, 1, 3, 7, 15, 31, 63, 123], "{replicas}");
        assert!(made.len() < 20, "{made:?}");
        // All of that is forgotten.
        let later = plan(&seen, end + 600_000);
        assert!(later.actions.len() >= usize::try_from(replicas).unwrap());
    }
    // A clock that is set back does not stop the set for hours.
    let mut seen = observed(1);
    seen.pods = vec![
        refused("a", 1_700_000_000_000),
        refused("b", 1_700_000_000_000),
    ];
    assert!(plan(&seen, 1_700_000_000_000).wake_after_millis.is_some());
    assert_eq!(plan(&seen, 1_699_990_000_000).wake_after_millis, None);
    // One that was refused among many is replaced at once.
    let mut seen = observed(5);
    seen.pods = (0..4).map(|n| stray(&format!("p{n}"), "a", true)).collect();
    seen.pods.push(refused("late", 1_700_000_000_000));
    let plan = plan(&seen, 1_700_000_000_100);
    let noted = |a: &&Action| matches!(a, Action::Noted { .. });
    assert_eq!(plan.actions.iter().filter(noted).count(), 1);
}
