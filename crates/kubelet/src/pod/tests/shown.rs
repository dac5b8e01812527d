//! What a pod's status shows of what the runtime has.

use super::*;

fn states(p: &Pod, s: &SeenPod, stage: &Stage) -> Vec<String> {
    states_waiting(p, s, stage, &Waiting::new())
}

fn states_waiting(p: &Pod, s: &SeenPod, stage: &Stage, waiting: &Waiting) -> Vec<String> {
    let status = status_at(p, s, stage, waiting);
    let lists = [status.init_container_statuses, status.container_statuses];
    let all = lists.into_iter().flatten().flatten();
    all.map(|c| {
        let state = c.state.unwrap_or_default();
        let waits = state.waiting.and_then(|w| w.reason);
        let ended = state.terminated.and_then(|t| t.reason);
        let what = waits.or(ended).unwrap_or_else(|| "runs".into());
        format!("{} {what}", c.name)
    })
    .collect()
}

#[test]
fn as_whom_a_container_runs_is_shown() {
    let p = pod(json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}));
    let run = |name, user| {
        let mut c = container(name, Run::Running, 0, 0);
        c.user = user;
        c
    };
    let user = |more_groups| host::runtime::ProcessUser {
        user: 1000,
        group: 3000,
        more_groups,
    };
    let s = seen(vec![
        run("a", Some(user(vec![3000, 4000]))),
        run("b", Some(user(Vec::new()))),
        run("c", None),
    ]);
    let status = status_at(&p, &s, &Stage::Running, &Waiting::new());
    let shown = status.container_statuses.unwrap();
    let users: Vec<Value> = shown.iter().map(|c| json!(c.user)).collect();
    let linux = |user: Value| json!({ "linux": user });
    assert_eq!(
        users,
        [
            linux(json!({ "uid": 1000, "gid": 3000, "supplementalGroups": [3000, 4000] })),
            linux(json!({ "uid": 1000, "gid": 3000 })),
            Value::Null,
        ]
    );
}

/// Its sandbox was made again, and the runtime has forgotten what ran in the old one.
#[test]
fn what_ended_to_look_into_a_pod_stays_ended() {
    let mut p = pod(json!({
        "containers": [{"name": "a"}],
        "ephemeralContainers": [{"name": "old"}, {"name": "new"}],
    }));
    p.status = serde_json::from_value(json!({"ephemeralContainerStatuses": [{
        "name": "old", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 3}},
    }]}))
    .unwrap();
    let s = seen(vec![container("a", Run::Running, 0, 0)]);
    assert_eq!(starts(&next(&p, &s, &Facts::default()).1), [("new", 0)]);
    let shown = status_at(&p, &s, &Stage::Running, &Waiting::new());
    let shown = json!(shown.ephemeral_container_statuses);
    assert_eq!(shown[0]["state"]["terminated"]["exitCode"], 3);
    assert!(shown[1]["state"]["waiting"].is_object(), "{shown}");
}

#[test]
fn a_start_that_failed_for_good_has_ended() {
    let mut failed = container("a", Run::Exited, 128, 0);
    failed.reason = "StartError".into();
    let s = seen(vec![failed, container("b", Run::Running, 0, 0)]);
    let why = |reason: &str| {
        let why = (reason.to_owned(), "no such file".to_owned());
        HashMap::from([("a".to_owned(), why)])
    };
    let of = |policy: &str, stage: &Stage, reason: &str| {
        let p = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
        states_waiting(&p, &s, stage, &why(reason)).remove(0)
    };
    let ending = Stage::Ending {
        why: Why::Deleted,
        until: at(9),
    };
    for reason in ["RunContainerError", "PostStartHookError"] {
        assert_eq!(of("Never", &Stage::Running, reason), "a StartError");
        assert_eq!(of("Always", &Stage::Running, reason), format!("a {reason}"));
        assert_eq!(
            of("OnFailure", &Stage::Running, reason),
            format!("a {reason}")
        );
        assert_eq!(of("Always", &ending, reason), "a StartError");
    }
    // What was never made waits, whatever the policy.
    let p = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    for reason in ["CreateContainerError", "CreateContainerConfigError"] {
        let shown = states_waiting(&p, &seen(vec![]), &Stage::Running, &why(reason));
        assert_eq!(shown, [format!("a {reason}")]);
    }
    // The pod is over when nothing of it goes on.
    let mut alone = s.clone();
    alone.containers.truncate(1);
    assert_eq!(outcome(&p, &alone), Some(Outcome::Failed));
}

#[test]
fn a_pod_that_the_node_refuses_has_no_containers_to_show() {
    let p = pod(json!({ "initContainers": [{"name": "i"}], "containers": [{"name": "a"}] }));
    let over = Stage::Finished(Why::Failed {
        reason: "SysctlForbidden".into(),
        message: "forbidden sysctl".into(),
        disrupted: false,
    });
    assert_eq!(states(&p, &SeenPod::default(), &over), Vec::<String>::new());
    let had = seen(vec![container("i", Run::Exited, 0, 0)]);
    assert_eq!(
        states(&p, &had, &over),
        ["i Completed", "a ContainerStatusUnknown"]
    );
}

#[test]
fn after_a_failed_init_container_the_others_wait_for_ever() {
    let p = pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]
    }));
    let s = seen(vec![container("i", Run::Exited, 1, 0)]);
    assert_eq!(outcome(&p, &s), Some(Outcome::Failed));
    let over = Stage::Finished(Why::Completed(Outcome::Failed));
    assert_eq!(
        states(&p, &s, &over),
        ["i Error", "j PodInitializing", "a PodInitializing"]
    );
    // What must have been there, since something after it was, is lost.
    let s = seen(vec![container("a", Run::Exited, 0, 0)]);
    assert_eq!(
        states(&p, &s, &over),
        [
            "i ContainerStatusUnknown",
            "j ContainerStatusUnknown",
            "a Completed"
        ]
    );
    let plain = pod(json!({"containers": [{"name": "a"}]}));
    assert_eq!(
        states(&plain, &SeenPod::default(), &over),
        ["a ContainerStatusUnknown"]
    );
}

fn phase_of(p: &Pod, s: &SeenPod, waiting: &[(&str, &str)]) -> (String, String) {
    let waiting: Waiting = waiting
        .iter()
        .map(|(n, r)| ((*n).to_owned(), ((*r).to_owned(), String::new())))
        .collect();
    let status = status_at(p, s, &Stage::Running, &waiting);
    let conditions: Vec<String> = status
        .conditions
        .unwrap()
        .iter()
        .filter(|c| c.status == "True")
        .map(|c| c.type_.clone())
        .collect();
    (status.phase.unwrap(), conditions.join(" "))
}

#[test]
fn phases_and_conditions() {
    let p = two_steps();
    let run = |name| container(name, Run::Running, 0, 0);
    let done = container("i", Run::Exited, 0, 0);
    assert_eq!(
        phase_of(&p, &SeenPod::default(), &[]),
        ("Pending".into(), "PodScheduled".into())
    );
    assert_eq!(
        phase_of(&p, &seen(vec![run("i")]), &[]),
        (
            "Pending".into(),
            "PodReadyToStartContainers PodScheduled".into()
        )
    );
    let all = "PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled";
    let up = vec![done.clone(), run("side"), run("a"), run("b")];
    assert_eq!(phase_of(&p, &seen(up), &[]), ("Running".into(), all.into()));
    let crashed = vec![
        done,
        run("side"),
        run("a"),
        container("b", Run::Exited, 1, 2),
    ];
    let started = "PodReadyToStartContainers Initialized PodScheduled";
    assert_eq!(
        phase_of(&p, &seen(crashed), &[("b", "CrashLoopBackOff")]),
        ("Running".into(), started.into())
    );
}

/// What others say of a pod is theirs: written as it was seen a moment ago, a gate that closes
/// meanwhile would open again.
#[test]
fn conditions_of_others_are_not_written() {
    let mut p = two_steps();
    let gates = json!([{"conditionType": "a.b/gate"}]);
    p.spec.as_mut().unwrap().readiness_gates = serde_json::from_value(gates).unwrap();
    let up = seen(vec![
        container("i", Run::Exited, 0, 0),
        container("side", Run::Running, 0, 0),
        container("a", Run::Running, 0, 0),
        container("b", Run::Running, 0, 0),
    ]);
    let kinds = |gate: &str| {
        let conditions = json!({"conditions": [
            {"type": "a.b/gate", "status": gate},
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
        ]});
        let mut p = p.clone();
        p.status = serde_json::from_value(conditions).unwrap();
        phase_of(&p, &up, &[]).1
    };
    let closed = "PodReadyToStartContainers Initialized ContainersReady PodScheduled";
    assert_eq!(kinds("False"), closed);
    let open = "PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled";
    assert_eq!(kinds("True"), open);
}

#[test]
fn the_last_words_of_a_pods_containers_share_its_room() {
    let lengths = |names: &[&str], text: &str| {
        let specs: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        let (init, main) = specs.split_at(1);
        let p = pod(json!({"restartPolicy": "Never", "initContainers": init, "containers": main}));
        let ended = |name: &&str| {
            let mut c = container(name, Run::Exited, 0, 0);
            c.message = text.into();
            c
        };
        let s = seen(names.iter().map(ended).collect());
        let stage = Stage::Finished(Why::Completed(Outcome::Succeeded));
        let status = status_at(&p, &s, &stage, &Waiting::new());
        let lists = [status.init_container_statuses, status.container_statuses];
        let all = lists.into_iter().flatten().flatten();
        all.map(|s| s.state.unwrap().terminated.unwrap().message.unwrap().len())
            .collect::<Vec<_>>()
    };
    let whole = "x".repeat(4096);
    assert_eq!(lengths(&["i", "a", "b"], &whole), [4096; 3]);
    assert_eq!(lengths(&["i", "a", "b", "c"], &whole), [3072; 4]);
    // No character is cut in two.
    assert_eq!(
        lengths(&["i", "a", "b", "c", "d"], &"ä".repeat(2048)),
        [2456; 5]
    );
    assert_eq!(lengths(&["i", "a", "b", "c"], "short"), [5; 4]);
}
