//! What becomes of nodes that are heard, silent or back again, and of their pods.

use super::*;

const NOW: i64 = 1_000_000;

fn node(ready: &str, taints: Value) -> Arc<Node> {
    let value = json!({
        "metadata": { "name": "n", "uid": "u", "resourceVersion": "5" },
        "spec": { "taints": taints },
        "status": { "conditions": [{ "type": "Ready", "status": ready }, { "type": "MemoryPressure", "status": "False" }] },
    });
    Arc::new(serde_json::from_value(value).expect("node"))
}

fn pod(tolerations: Value) -> Arc<Pod> {
    let value = json!({
        "metadata": { "name": "p", "namespace": "a", "uid": "pu" },
        "spec": { "containers": [], "tolerations": tolerations },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    Arc::new(serde_json::from_value(value).expect("pod"))
}

fn seen(node: Arc<Node>, silence: u64, everyone: bool, pods: Vec<Arc<Pod>>) -> ObservedNode {
    ObservedNode {
        node,
        pods,
        silence_millis: silence,
        grace_millis: 10_000,
        is_disrupted: everyone,
        eviction: match everyone {
            true => Eviction::Never,
            false => Eviction::Now,
        },
        since: Since::default(),
        is_new: false,
    }
}

fn words(plan: &Plan) -> Vec<String> {
    let all = plan.actions.iter().chain(&plan.last);
    all.map(|a| match a {
        Action::Patch {
            target,
            subresource,
            patch: Patch::Merge(p) | Patch::Strategic(p) | Patch::Json(p),
        } => {
            let taints: Vec<String> = p["spec"]["taints"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|t| {
                    format!(
                        "{}:{}",
                        t["key"].as_str().unwrap_or_default(),
                        t["effect"].as_str().unwrap_or_default()
                    )
                })
                .collect();
            format!("patch {} {subresource} {}", target.name, taints.join(","))
        }
        Action::Delete { target, .. } => format!("delete {}", target.name),
        Action::Event { reason, .. } => format!("event {reason}"),
        other => format!("{other:?}"),
    })
    .collect()
}

#[test]
fn a_node_that_is_heard_is_left_alone() {
    let plan = plan(
        &seen(
            node("True", Value::Null),
            1_000,
            false,
            vec![pod(Value::Null)],
        ),
        NOW,
    );
    assert!(plan.is_empty());
    assert_eq!(plan.wake_after_millis, Some(9_010));
}

#[test]
fn a_new_node_is_told_of() {
    let new = ObservedNode {
        is_new: true,
        ..seen(node("True", Value::Null), 0, false, vec![])
    };
    assert_eq!(words(&plan(&new, NOW)), ["event RegisteredNode"]);
}

#[test]
fn silence_is_marked_on_node_and_pods() {
    let plan = plan(
        &seen(
            node("True", Value::Null),
            10_000,
            false,
            vec![pod(Value::Null)],
        ),
        NOW,
    );
    assert_eq!(
        words(&plan),
        [
            "patch n status ",
            "event NodeNotReady",
            "patch p status ",
            "event NodeNotReady"
        ]
    );
}

/// The conditions that a silent node gets: kind, reason, heartbeat.
fn unknown(conditions: &Value) -> (Vec<[String; 3]>, Vec<&'static str>) {
    let value = json!({
        "metadata": { "name": "n", "creationTimestamp": "2012-01-01T00:00:00Z" },
        "status": { "conditions": conditions },
    });
    let node = Arc::new(serde_json::from_value(value).expect("node"));
    let plan = plan(&seen(node, 10_000, false, vec![]), NOW);
    let Some(Action::Patch {
        patch: Patch::Strategic(patch),
        ..
    }) = plan.actions.first()
    else {
        panic!("{plan:?}");
    };
    let all = patch["status"]["conditions"].as_array().into_iter();
    let of = |c: &Value| {
        assert_eq!(c["status"], "Unknown");
        assert_eq!(c["lastTransitionTime"], "1970-01-01T00:16:40Z");
        ["type", "reason", "lastHeartbeatTime"]
            .map(|field| c[field].as_str().unwrap_or_default().to_owned())
    };
    let events = plan.actions.iter().filter_map(|action| match action {
        Action::Event { reason, .. } => Some(*reason),
        _ => None,
    });
    (all.flatten().map(of).collect(), events.collect())
}

#[test]
fn of_a_silent_node_nothing_is_known() {
    let beat = "2015-01-01T12:00:00Z";
    let is = |kind: &str, status: &str| json!({ "type": kind, "status": status, "lastHeartbeatTime": beat, "lastTransitionTime": beat });
    let never = |kind: &'static str| [kind, "NodeStatusNeverUpdated", "2012-01-01T00:00:00Z"];
    let stopped = |kind: &'static str| [kind, "NodeStatusUnknown", beat];
    let [memory, disk, pids] = ["MemoryPressure", "DiskPressure", "PIDPressure"];
    for (conditions, expected, events) in [
        (
            json!([]),
            vec![never("Ready"), never(memory), never(disk), never(pids)],
            vec![],
        ),
        (
            json!([is("Ready", "True")]),
            vec![stopped("Ready"), never(memory), never(disk), never(pids)],
            vec!["NodeNotReady"],
        ),
        // It said before that it was not ready.
        (
            json!([
                is("Ready", "False"),
                is(memory, "True"),
                is(disk, "False"),
                is(pids, "False")
            ]),
            vec![
                stopped("Ready"),
                stopped(memory),
                stopped(disk),
                stopped(pids),
            ],
            vec![],
        ),
        // What is unknown already stays as it is; what the kubelet does not report is not asked of it.
        (
            json!([
                is("Ready", "True"),
                is(memory, "Unknown"),
                is(disk, "Unknown"),
                is(pids, "Unknown"),
                is("NetworkUnavailable", "False")
            ]),
            vec![stopped("Ready")],
            vec!["NodeNotReady"],
        ),
    ] {
        let (said, recorded) = unknown(&conditions);
        let owned = |c: [&str; 3]| c.map(str::to_owned);
        let expected: Vec<[String; 3]> = expected.into_iter().map(owned).collect();
        assert_eq!((said, recorded), (expected, events), "{conditions}");
    }
}

#[test]
fn pods_are_not_ready_where_nobody_speaks_for_them() {
    for (ready, expected) in [
        ("True", vec![]),
        // Its kubelet says so, and goes on to say how its pods are.
        (
            "False",
            vec!["patch n  node.kubernetes.io/not-ready:NoSchedule"],
        ),
        (
            "Unknown",
            vec![
                "patch p status ",
                "event NodeNotReady",
                "patch n  node.kubernetes.io/unreachable:NoSchedule",
            ],
        ),
    ] {
        let seen = ObservedNode {
            eviction: Eviction::Never,
            ..seen(node(ready, Value::Null), 0, false, vec![pod(Value::Null)])
        };
        assert_eq!(words(&plan(&seen, NOW)), expected, "{ready}");
    }
}

#[test]
fn a_node_that_has_said_nothing_yet_loses_no_pods() {
    let silent = json!({ "metadata": { "name": "n" }, "spec": {} });
    let silent: Arc<Node> = Arc::new(serde_json::from_value(silent).expect("node"));
    assert!(!asks_for_eviction(&silent, false));
    let planned = plan(&seen(silent, 0, false, vec![]), NOW);
    let kept_off = "patch n  node.kubernetes.io/not-ready:NoSchedule";
    assert_eq!(words(&planned), [kept_off]);
}

#[test]
fn labels_have_their_older_names_too() {
    let named = |os: &str, arch: &str| json!({ "beta.kubernetes.io/os": os, "beta.kubernetes.io/arch": arch });
    let both = json!({ "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64" });
    let with = |more: Value| {
        let mut labels = both.clone();
        crate::common::merge(&mut labels, &more);
        labels
    };
    for (labels, expected) in [
        (Value::Null, None),
        (json!({ "topology.kubernetes.io/region": "r" }), None),
        (both.clone(), Some(named("linux", "amd64"))),
        (with(named("windows", "arm")), Some(named("linux", "amd64"))),
        (
            with(named("linux", "arm")),
            Some(json!({ "beta.kubernetes.io/arch": "amd64" })),
        ),
        (with(named("linux", "amd64")), None),
    ] {
        let mut node = Arc::unwrap_or_clone(node("True", Value::Null));
        node.metadata.labels = serde_json::from_value(labels.clone()).expect("labels");
        let planned = plan(&seen(Arc::new(node), 0, false, vec![]), NOW);
        let patch = planned.actions.first().map(|action| match action {
            Action::Patch {
                patch: Patch::Merge(patch),
                ..
            } => patch["metadata"]["labels"].clone(),
            other => panic!("{other:?}"),
        });
        assert_eq!(patch, expected, "{labels}");
    }
}

#[test]
fn an_unreachable_node_is_tainted_unless_all_are_silent() {
    let alone = plan(
        &seen(node("Unknown", Value::Null), 20_000, true, vec![]),
        NOW,
    );
    assert_eq!(
        words(&alone),
        ["patch n  node.kubernetes.io/unreachable:NoSchedule"]
    );
    let others = plan(
        &seen(node("Unknown", Value::Null), 20_000, false, vec![]),
        NOW,
    );
    assert_eq!(
        words(&others),
        [
            "patch n  node.kubernetes.io/unreachable:NoSchedule,node.kubernetes.io/unreachable:NoExecute"
        ]
    );
}

#[test]
fn a_node_waits_for_its_turn_to_lose_its_pods() {
    let of = |taints: Value, eviction| ObservedNode {
        eviction,
        ..seen(node("Unknown", taints), 20_000, false, vec![])
    };
    let waits = plan(&of(Value::Null, Eviction::After(700)), NOW);
    let marked = "patch n  node.kubernetes.io/unreachable:NoSchedule";
    assert_eq!(words(&waits), [marked]);
    assert_eq!(waits.wake_after_millis, Some(701));
    let never = plan(&of(Value::Null, Eviction::Never), NOW);
    assert_eq!(words(&never), [marked]);
    assert_eq!(never.wake_after_millis, Some(LOOK_AGAIN_MILLIS));
    // One that has lost them for another reason has had its turn.
    let other = json!([{ "key": NOT_READY, "effect": "NoExecute" }]);
    let swapped = plan(&of(other.clone(), Eviction::Never), NOW);
    let both = format!("{marked},{UNREACHABLE}:NoExecute");
    assert_eq!(words(&swapped), [both]);
    let asks = |ready, taints: &Value, is_silent| {
        asks_for_eviction(&node(ready, taints.clone()), is_silent)
    };
    assert!(asks("Unknown", &Value::Null, true) && asks("False", &Value::Null, false));
    assert!(!asks("False", &Value::Null, true), "it is marked first");
    assert!(!asks("True", &Value::Null, false) && !asks("Unknown", &other, true));
}

#[test]
fn pods_leave_when_their_toleration_is_over() {
    let taints = json!([
        { "key": UNREACHABLE, "effect": "NoSchedule" },
        { "key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:16:00Z" },
    ]);
    // 960 s after the epoch; now is 1,000 s.
    let tolerate = |seconds: i64| json!([{ "key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds }]);
    for (tolerations, everyone, leaves) in [
        (tolerate(30), false, true),
        (tolerate(60), false, false),
        (tolerate(30), true, false),
        (Value::Null, false, true),
        (json!([{ "operator": "Exists" }]), false, false),
    ] {
        let plan = plan(
            &seen(
                node("Unknown", taints.clone()),
                50_000,
                everyone,
                vec![pod(tolerations.clone())],
            ),
            NOW,
        );
        let deleted = words(&plan).contains(&"delete p".to_owned());
        assert_eq!(deleted, leaves, "{tolerations} {everyone}");
    }
}

#[test]
fn a_node_that_returns_loses_our_taints_only() {
    let taints = json!([
        { "key": UNREACHABLE, "effect": "NoSchedule" },
        { "key": UNREACHABLE, "effect": "NoExecute" },
        { "key": "mine", "effect": "NoExecute" },
    ]);
    let plan = plan(&seen(node("True", taints), 0, false, vec![]), NOW);
    assert_eq!(words(&plan), ["patch n  mine:NoExecute"]);
}
