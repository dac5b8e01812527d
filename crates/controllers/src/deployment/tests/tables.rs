//! One step of a Deployment, row by row: sizes of sets, what its status says, which sets go, names.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::Patch;
use control::{Action, Plan};
use serde_json::{Value, json};

use super::super::plan::{Observed, plan};
use crate::common::{merge, time_text};

const NOW: i64 = 1_700_000_000_000;
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment at the revision of its third set.
fn deployment(replicas: i32, more: Value) -> Value {
    let mut deployment = json!({
        "metadata": { "name": "d", "namespace": "a", "uid": "d", "generation": 2,
            "annotations": { REVISION: "3" } },
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 60, "revisionHistoryLimit": 10,
            "selector": { "matchLabels": { "app": "a" } },
            "strategy": { "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } },
            "template": { "metadata": { "labels": { "app": "a" } },
                "spec": { "containers": [{ "name": "c", "image": "v3" }] } },
        },
        "status": { "observedGeneration": 2 },
    });
    merge(&mut deployment, &more);
    deployment
}

fn surges(surge: i32, unavailable: i32) -> Value {
    json!({ "spec": { "strategy": { "rollingUpdate":
        { "maxSurge": surge, "maxUnavailable": unavailable } } } })
}

/// The set of a revision, made one after the other; the third is the new one.
fn set(revision: i64, size: i32, more: Value) -> Value {
    let name = format!("v{revision}");
    let mut set = json!({
        "metadata": { "name": name, "namespace": "a", "uid": name, "generation": 1,
            "resourceVersion": "1", "labels": { "app": "a" },
            "creationTimestamp": time_text(NOW - 1_000_000 + revision * 1_000),
            "annotations": { REVISION: revision.to_string() },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "d",
                "uid": "d", "controller": true }] },
        "spec": { "replicas": size, "selector": { "matchLabels": { "app": "a" } },
            "template": { "metadata": { "labels": { "app": "a" } },
                "spec": { "containers": [{ "name": "c", "image": name }] } } },
        "status": { "replicas": size, "observedGeneration": 1 },
    });
    merge(&mut set, &more);
    set
}

/// For how many, and for how many at most, a set was sized.
fn sized_for(desired: i32, most: i32) -> Value {
    json!({ "metadata": { "annotations": { DESIRED: desired.to_string(), MAX: most.to_string() } } })
}

fn available(replicas: i32, available: i32) -> Value {
    json!({ "status": { "replicas": replicas, "availableReplicas": available } })
}

fn planned(deployment: &Value, sets: &[Value], running: &[&str]) -> Plan {
    let object = |set: &Value| Arc::new(serde_json::from_value(set.clone()).unwrap());
    let seen = Observed {
        deployment: Arc::new(serde_json::from_value(deployment.clone()).unwrap()),
        sets: sets.iter().map(object).collect(),
        running_pods: running.iter().map(|&uid| uid.to_owned()).collect(),
        failure: None,
    };
    plan(&seen, NOW)
}

fn bare(action: Action) -> Action {
    match action {
        Action::Noted { action, .. } => *action,
        other => other,
    }
}

/// What is changed of a set by a merge patch.
fn changes(plan: Plan) -> Vec<(String, Value)> {
    let all = plan.actions.into_iter().map(bare);
    all.filter_map(|action| match action {
        Action::Patch {
            target,
            patch: Patch::Merge(patch),
            ..
        } => Some((target.name, patch)),
        _ => None,
    })
    .collect()
}

/// The sizes of all sets after a step, by name.
fn sizes(deployment: &Value, sets: &[Value]) -> BTreeMap<String, i64> {
    let name = |set: &Value| set["metadata"]["name"].as_str().unwrap().to_owned();
    let size = |set: &Value| set["spec"]["replicas"].as_i64().unwrap();
    let mut all: BTreeMap<_, _> = sets.iter().map(|s| (name(s), size(s))).collect();
    for (name, patch) in changes(planned(deployment, sets, &[])) {
        if let Some(size) = patch["spec"]["replicas"].as_i64() {
            all.insert(name, size);
        }
    }
    all
}

fn wanted(sizes: &[(&str, i64)]) -> BTreeMap<String, i64> {
    let all = sizes.iter();
    all.map(|(name, size)| ((*name).to_owned(), *size))
        .collect()
}

/// The status after a step.
fn status(deployment: &Value, sets: &[Value]) -> Value {
    let plan = planned(deployment, sets, &[]);
    let written = plan.then.into_iter().find_map(|action| match action {
        Action::Update {
            subresource: "status",
            object,
            ..
        } => Some(object["status"].clone()),
        _ => None,
    });
    written.unwrap_or_else(|| deployment["status"].clone())
}

/// Status and reason of a condition.
fn condition(status: &Value, kind: &str) -> Option<(String, String)> {
    let mut all = status["conditions"].as_array().into_iter().flatten();
    let found = all.find(|c| c["type"] == kind)?;
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    Some((text("status"), text("reason")))
}

/// A size, and for how many it was made.
type SizedFor = (i32, i32);

/// Number wanted, surge now and before; the new set and the old ones, the newest first; and what
/// becomes of them.
type Rescaled = (
    i32,
    (i32, i32),
    Option<SizedFor>,
    &'static [SizedFor],
    Option<i64>,
    &'static [i64],
);

#[test]
fn each_set_takes_its_share_of_another_size() {
    let rows: [Rescaled; 17] = [
        (12, (0, 0), Some((10, 10)), &[], Some(12), &[]),
        (5, (0, 0), Some((10, 10)), &[], Some(5), &[]),
        (10, (0, 0), Some((2, 5)), &[(3, 5)], Some(4), &[6]),
        (3, (0, 0), Some((2, 5)), &[(3, 5)], Some(1), &[2]),
        (4, (0, 0), Some((8, 9)), &[(1, 9)], Some(4), &[0]),
        (
            10,
            (0, 0),
            Some((2, 7)),
            &[(3, 7), (2, 7)],
            Some(3),
            &[4, 3],
        ),
        (
            8,
            (0, 0),
            Some((2, 13)),
            &[(8, 13), (3, 13)],
            Some(1),
            &[5, 2],
        ),
        // What is left over: the newest of equal sets grows, the oldest shrinks.
        (4, (0, 0), Some((1, 3)), &[(1, 3), (1, 3)], Some(2), &[1, 1]),
        (2, (0, 0), Some((1, 3)), &[(1, 3), (1, 3)], Some(1), &[1, 0]),
        // The template has changed, too: of one that is paused, the sets that there are. Else the new
        // set is made first, and all are sized then.
        (5, (0, 0), None, &[(2, 4), (2, 4)], None, &[3, 2]),
        (14, (0, 0), None, &[(7, 10), (3, 10)], None, &[10, 4]),
        (0, (0, 0), Some((3, 6)), &[(2, 6), (1, 6)], Some(0), &[0, 0]),
        (6, (0, 0), Some((0, 6)), &[(0, 6), (0, 6)], Some(6), &[0, 0]),
        // One that was not sized the last time.
        (5, (0, 0), Some((2, 5)), &[(1, 3), (1, 5)], Some(2), &[2, 1]),
        (20, (2, 2), Some((6, 10)), &[(6, 10)], Some(11), &[11]),
        (50, (6, 3), Some((5, 10)), &[(8, 10)], Some(22), &[34]),
        // Of a broken new set the old one's pods are not the price.
        (2, (1, 1), Some((2, 2)), &[(1, 2)], Some(2), &[1]),
    ];
    for (replicas, (surge, before), new, old, wanted_new, wanted_old) in rows {
        let made = |revision: i64, (size, desired): SizedFor| {
            set(revision, size, sized_for(desired, desired + before))
        };
        let mut sets: Vec<Value> = new.map(|n| made(3, n)).into_iter().collect();
        let mut expected: Vec<(String, i64)> = Vec::new();
        expected.extend(wanted_new.map(|n| ("v3".to_owned(), n)));
        for ((revision, one), size) in [2, 1].into_iter().zip(old).zip(wanted_old) {
            sets.push(made(revision, *one));
            expected.push((format!("v{revision}"), *size));
        }
        let expected: BTreeMap<String, i64> = expected.into_iter().collect();
        let ways: &[bool] = if new.is_some() {
            &[true, false]
        } else {
            &[true]
        };
        for paused in ways {
            let mut deployment = deployment(replicas, surges(surge, 1));
            deployment["spec"]["paused"] = json!(paused);
            let now = sizes(&deployment, &sets);
            assert_eq!(now, expected, "{replicas} {new:?} {old:?} {paused}");
        }
    }
}

#[test]
fn without_a_note_of_its_size_a_set_is_a_part_of_what_runs() {
    let made = |revision: i64, most: &str| {
        let mut set = set(revision, 50, sized_for(100, 100));
        set["metadata"]["annotations"][MAX] = json!(most);
        set
    };
    for (most, running, expected) in [
        ("100", 0, [60, 60]),
        ("0", 100, [60, 60]),
        ("2147483648", 100, [60, 60]),
        ("many", 100, [60, 60]),
        // Nothing is known: the rest goes to the newest.
        ("-1", 0, [50, 70]),
    ] {
        let mut deployment = deployment(120, json!({}));
        deployment["status"]["replicas"] = json!(running);
        let now = sizes(&deployment, &[made(3, most), made(1, most)]);
        let expected = wanted(&[("v1", expected[0]), ("v3", expected[1])]);
        assert_eq!(now, expected, "{most} {running}");
    }
}

#[test]
fn a_set_is_saturated_when_it_was_sized_for_all() {
    // As large as wanted by chance, in the middle of a larger rollout.
    for (desired, expected) in [(5, [1, 1]), (2, [0, 2])] {
        let mut new = set(3, 2, sized_for(desired, desired));
        merge(&mut new, &available(2, 2));
        let sets = [new, set(1, 3, sized_for(5, 5))];
        let expected = wanted(&[("v1", expected[0]), ("v3", expected[1])]);
        assert_eq!(sizes(&deployment(2, json!({})), &sets), expected);
    }
    // Where nothing runs, the newest of the old ones is sized while the new one may not be made.
    let paused = deployment(3, json!({ "spec": { "paused": true } }));
    let sets = [set(1, 0, json!({})), set(2, 0, json!({}))];
    let expected = wanted(&[("v1", 0), ("v2", 3)]);
    assert_eq!(sizes(&paused, &sets), expected);
}

#[test]
fn a_step_of_a_rolling_update_keeps_its_bounds() {
    // Surge and unavailable; size and available pods of the old set and of the new one; sizes then.
    for (surge, unavailable, old, new, expected) in [
        (0, 0, (10, 10), (0, 0), (9, 0)),
        (2, 0, (10, 10), (0, 0), (10, 2)),
        (2, 0, (5, 5), (0, 0), (5, 7)),
        (2, 0, (10, 10), (2, 0), (10, 2)),
        (2, 0, (2, 2), (11, 0), (2, 10)),
        (0, 2, (10, 10), (0, 0), (8, 0)),
        // Those that are not available go first.
        (0, 2, (10, 8), (0, 0), (8, 0)),
        (0, 2, (10, 9), (0, 0), (8, 0)),
        (0, 2, (10, 1), (0, 0), (8, 0)),
        // New ones that are not available do not let old ones go.
        (0, 2, (8, 8), (2, 0), (8, 2)),
    ] {
        let made = |revision: i64, (size, ready): (i32, i32)| {
            let mut set = set(revision, size, sized_for(10, 10 + surge));
            merge(&mut set, &available(size, ready));
            set
        };
        let sets = [made(2, old), made(3, new)];
        let now = sizes(&deployment(10, surges(surge, unavailable)), &sets);
        let expected = wanted(&[("v2", expected.0), ("v3", expected.1)]);
        assert_eq!(now, expected, "{surge} {unavailable} {old:?} {new:?}");
    }
}

#[test]
fn what_is_said_of_the_progress() {
    let updated = Some(("True", "ReplicaSetUpdated"));
    let complete = Some(("True", "NewReplicaSetAvailable"));
    let timed_out = Some(("False", "ProgressDeadlineExceeded"));
    let old = || set(1, 0, available(1, 1));
    let new = |size: i32, replicas: i32, ready: i32| {
        let mut set = set(3, size, sized_for(3, 3));
        merge(&mut set, &available(replicas, ready));
        set
    };
    // What is published: pods, those of the new template, available ones; the condition, and how
    // many seconds ago it was written; the sets; what is said then.
    for (row, (replicas, new_ones, ready), before, ago, sets, expected) in [
        (
            "it moves",
            (2, 2, 2),
            updated,
            9,
            vec![old(), new(3, 2, 2)],
            updated,
        ),
        (
            "it hung",
            (2, 2, 2),
            timed_out,
            99,
            vec![old(), new(3, 2, 2)],
            updated,
        ),
        (
            "first",
            (2, 2, 2),
            None,
            0,
            vec![old(), new(3, 2, 2)],
            updated,
        ),
        ("done", (3, 3, 3), updated, 9, vec![new(3, 3, 3)], complete),
        (
            "done at last",
            (3, 3, 3),
            timed_out,
            99,
            vec![new(3, 3, 3)],
            complete,
        ),
        (
            "done at once",
            (3, 3, 3),
            None,
            0,
            vec![new(3, 3, 3)],
            complete,
        ),
        (
            "hangs",
            (2, 2, 2),
            updated,
            61,
            vec![new(3, 2, 2)],
            timed_out,
        ),
        (
            "may move yet",
            (2, 2, 2),
            updated,
            59,
            vec![new(3, 2, 2)],
            updated,
        ),
        (
            "still hangs",
            (2, 2, 2),
            timed_out,
            99,
            vec![new(3, 2, 2)],
            timed_out,
        ),
        (
            "a pod is lost",
            (3, 3, 3),
            complete,
            999,
            vec![new(3, 3, 2)],
            complete,
        ),
        (
            "one comes back",
            (3, 3, 1),
            complete,
            999,
            vec![new(3, 3, 2)],
            complete,
        ),
        (
            "a late deadline",
            (2, 2, 2),
            None,
            0,
            vec![new(3, 2, 2)],
            Some(("True", "FoundNewReplicaSet")),
        ),
    ] {
        let mut deployment = deployment(3, json!({}));
        merge(
            &mut deployment["status"],
            &json!({ "replicas": replicas, "updatedReplicas": new_ones, "availableReplicas": ready }),
        );
        if let Some((status, reason)) = before {
            let at = time_text(NOW - ago * 1_000);
            deployment["status"]["conditions"] = json!([{ "type": "Progressing", "status": status,
                "reason": reason, "message": "m", "lastUpdateTime": at, "lastTransitionTime": at }]);
        }
        let of = |deployment: &Value| condition(&status(deployment, &sets), "Progressing");
        let expected = expected.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
        assert_eq!(of(&deployment), expected, "{row}");
        // Another size begins nothing.
        if before == complete {
            deployment["spec"]["replicas"] = json!(5);
            deployment["metadata"]["generation"] = json!(3);
            assert_eq!(of(&deployment), expected, "{row}, sized");
        }
        // That it hung is not forgotten by a pause.
        deployment["spec"]["paused"] = json!(true);
        let paused = match before == timed_out {
            true => timed_out,
            false => Some(("Unknown", "DeploymentPaused")),
        };
        let paused = paused.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
        assert_eq!(of(&deployment), paused, "{row}, paused");
        deployment["spec"]["progressDeadlineSeconds"] = Value::Null;
        assert_eq!(of(&deployment), None, "{row}, without a deadline");
    }
}

#[test]
fn what_is_counted_over_all_sets() {
    let ending = |n: i32| json!({ "status": { "terminatingReplicas": n } });
    let mut new = set(3, 4, sized_for(10, 13));
    merge(&mut new, &available(4, 1));
    merge(&mut new, &ending(2));
    let mut old = set(2, 9, sized_for(10, 13));
    merge(&mut old, &available(9, 7));
    let of = |old: &Value| status(&deployment(10, surges(3, 2)), &[old.clone(), new.clone()]);
    let said = of(&old);
    assert_eq!(said["availableReplicas"], 8);
    assert_eq!(said["unavailableReplicas"], 5);
    assert_eq!(said["terminatingReplicas"], Value::Null, "unknown of one");
    // Of what was just made nothing can end.
    old["status"]["observedGeneration"] = json!(0);
    assert_eq!(of(&old)["terminatingReplicas"], 2);
    merge(&mut old, &ending(3));
    assert_eq!(of(&old)["terminatingReplicas"], 5);
    // What an old set cannot do is said, too, where the new one can all.
    assert_eq!(condition(&of(&old), "ReplicaFailure"), None);
    old["status"]["conditions"] = json!([{ "type": "ReplicaFailure", "status": "True",
        "reason": "FailedDelete", "message": "m", "lastTransitionTime": time_text(NOW) }]);
    let expected = ("True".to_owned(), "FailedDelete".to_owned());
    assert_eq!(condition(&of(&old), "ReplicaFailure"), Some(expected));
}

/// How many are kept; size, pods and revision of each old set; which go.
type Cleaned = (
    i32,
    &'static [(i32, i32, &'static str)],
    &'static [&'static str],
);

#[test]
fn of_the_history_the_lowest_revisions_go() {
    let rows: [Cleaned; 13] = [
        (1, &[(0, 0, "1"), (0, 0, "2"), (0, 0, "3")], &["v1", "v2"]),
        (
            0,
            &[(0, 0, "1"), (0, 1, "2"), (1, 0, "3"), (1, 1, "4")],
            &["v1"],
        ),
        (0, &[(0, 0, "1"), (0, 0, "2")], &["v1", "v2"]),
        (0, &[(1, 1, "1"), (1, 1, "2")], &[]),
        (i32::MAX, &[(0, 0, "1"), (0, 0, "2"), (0, 0, "3")], &[]),
        (1, &[(0, 0, "1"), (0, 0, "2")], &["v1"]),
        (1, &[(0, 0, "2"), (0, 0, "1")], &["v2"]),
        (1, &[(0, 0, "1"), (0, 0, "")], &["v2"]),
        (1, &[(0, 0, ""), (0, 0, "2")], &["v1"]),
        // One that has pods counts and stays.
        (1, &[(1, 1, "1"), (0, 0, "2"), (0, 0, "3")], &["v2"]),
        (1, &[(1, 1, "1"), (1, 1, "2"), (0, 0, "3")], &[]),
        (
            2,
            &[(0, 0, "3"), (0, 0, "1"), (0, 0, "4"), (0, 0, "2")],
            &["v2", "v4"],
        ),
        (10, &[(0, 0, "1")], &[]),
    ];
    for (limit, sets, expected) in rows {
        // A template that no set has: all of them are old.
        let more = json!({ "spec": { "paused": true, "revisionHistoryLimit": limit,
            "template": { "spec": { "containers": [{ "name": "c", "image": "next" }] } } } });
        let deployment = deployment(0, more);
        let made = |(at, (size, replicas, revision)): (i64, &(i32, i32, &str))| {
            let mut set = set(at, *size, available(*replicas, 0));
            set["metadata"]["annotations"][REVISION] = json!(revision);
            set
        };
        let mut made: Vec<Value> = (1..).zip(sets).map(made).collect();
        let gone = |made: &[Value]| {
            let plan = planned(&deployment, made, &[]);
            let all = plan.actions.into_iter().map(bare);
            let deleted = all.filter_map(|action| match action {
                Action::Delete { target, .. } => Some(target.name),
                _ => None,
            });
            let mut deleted: Vec<String> = deleted.collect();
            deleted.sort();
            deleted
        };
        assert_eq!(gone(&made), expected, "{limit} {sets:?}");
        // What goes already does not go twice.
        for set in &mut made {
            set["metadata"]["deletionTimestamp"] = json!(time_text(NOW));
        }
        assert_eq!(gone(&made), [""; 0], "{limit} {sets:?}");
    }
}

#[test]
fn a_recreate_waits_until_no_old_pod_may_run() {
    for (replicas, running, waits) in [
        (0, vec![], false),
        // Its set says so, though no pod is seen yet.
        (1, vec![], true),
        (0, vec!["v2", "v1"], true),
        (0, vec!["v1"], true),
        // Pods of a set that only has a name of the kind.
        (0, vec!["other"], false),
    ] {
        let more = json!({ "spec": { "strategy": { "type": "Recreate", "rollingUpdate": null } } });
        let sets = [
            set(1, 0, json!({})),
            set(2, 0, json!({ "status": { "replicas": replicas } })),
        ];
        let plan = planned(&deployment(3, more), &sets, &running);
        let mut all = plan.actions.into_iter().map(bare);
        let creates = all.any(|action| matches!(action, Action::Create { .. }));
        assert_eq!(!creates, waits, "{replicas} {running:?}");
    }
}

#[test]
fn a_long_name_leaves_room_for_the_hash() {
    for (length, kept) in [(13, 13), (242, 242), (250, 242)] {
        let mut deployment = deployment(1, json!({}));
        deployment["metadata"]["name"] = json!("a".repeat(length));
        let plan = planned(&deployment, &[], &[]);
        let mut all = plan.actions.into_iter().map(bare);
        let made = all.find_map(|action| match action {
            Action::Create { target, .. } => Some(target.name),
            _ => None,
        });
        let made = made.unwrap();
        let (name, hash) = made.split_once('-').unwrap();
        assert_eq!((name.len(), hash.len()), (kept, 10));
    }
}

#[test]
fn earlier_revisions_of_a_set_are_kept_as_far_as_there_is_room() {
    let full = ["1234"; 400].join(",");
    for (before, expected) in [
        (String::new(), "3".to_owned()),
        ("1,2".to_owned(), "1,2,3".to_owned()),
        (full.clone(), format!("{},3", &full[5..])),
    ] {
        let mut new = set(3, 3, sized_for(3, 3));
        if !before.is_empty() {
            new["metadata"]["annotations"][HISTORY] = json!(before);
        }
        let mut later = set(2, 0, json!({}));
        later["metadata"]["annotations"][REVISION] = json!("9");
        let all = changes(planned(&deployment(3, json!({})), &[new, later], &[]));
        let (name, patch) = all.first().unwrap();
        let noted = &patch["metadata"]["annotations"];
        assert_eq!((&**name, &noted[REVISION]), ("v3", &json!("10")));
        assert_eq!(noted[HISTORY], json!(expected));
    }
}
