//! Tables of the state machine: what the runtime has, and what must come of it.

mod security;
mod shown;

use super::backoff::Backoff;
use super::plan::{Effect, Facts, Failure, Kill, Outcome, outcome};
use super::resize::Resize;
use super::runtime_state::{Run, SeenContainer, SeenPod, SeenSandbox};
use super::stage::{Input, Stage, Why, step};
use super::status::{View, status_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

pub(super) fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec
    }))
    .unwrap()
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) fn container(name: &str, run: Run, exit_code: i32, attempt: u32) -> SeenContainer {
    SeenContainer {
        id: format!("{name}-{attempt}"),
        sandbox_id: "s".into(),
        name: name.into(),
        attempt,
        round: 0,
        run,
        created_at: Some(at(i64::from(attempt))),
        started_at: Some(at(i64::from(attempt))),
        finished_at: (run == Run::Exited).then(|| at(100)),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_ref: "i@1".into(),
        hash: String::new(),
        log_path: String::new(),
        message_file: None,
        message_falls_back: false,
        stop_signal: String::new(),
        user: None,
        recursive_read_only: Vec::new(),
    }
}

pub(super) fn seen(containers: Vec<SeenContainer>) -> SeenPod {
    let sandbox = SeenSandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created_at: Some(at(0)),
        ips: vec!["10.0.0.2".into()],
    };
    SeenPod {
        sandboxes: vec![sandbox],
        containers,
    }
}

/// Why containers wait, by name: reason and message.
type Waiting = HashMap<String, (String, String)>;

/// What a pod's status shows at this stage.
fn status_at(p: &Pod, s: &SeenPod, stage: &Stage, waiting: &Waiting) -> PodStatus {
    let view = View {
        runtime: "fake",
        stage,
        facts: &Facts::default(),
        waiting,
        host_ips: &["10.9.9.9".to_owned()],
        start_time: at(0),
        resize: &Resize::default(),
    };
    status_of(p, s, &view, at(1))
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_secs(10), Duration::from_secs(300))
}

/// The key of the first container.
fn key_of(pod: &Pod) -> String {
    super::backoff::of_container(&super::spec::containers(pod)[0])
}

pub(super) fn next(pod: &Pod, seen: &SeenPod, facts: &Facts) -> (Stage, Vec<Effect>) {
    step(
        Stage::Running,
        pod,
        seen,
        facts,
        &backoff(),
        Input::Sync,
        at(200),
    )
}

pub(super) fn starts(effects: &[Effect]) -> Vec<(&str, u32)> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Start { name, attempt, .. } => Some((name.as_str(), *attempt)),
            _ => None,
        })
        .collect()
}

fn two_steps() -> Pod {
    pod(json!({
        "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}]
    }))
}

#[test]
fn a_new_pod_gets_a_sandbox_and_then_its_init_containers_in_order() {
    let p = two_steps();
    let (_, effects) = next(&p, &SeenPod::default(), &Facts::default());
    assert_eq!(effects, [Effect::CreateSandbox { attempt: 0 }]);
    let of = |containers| {
        let s = seen(containers);
        starts(&next(&p, &s, &Facts::default()).1)
            .iter()
            .map(|(n, _)| (*n).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(vec![]), ["i"]);
    assert!(of(vec![container("i", Run::Running, 0, 0)]).is_empty());
    let done = || container("i", Run::Exited, 0, 0);
    assert_eq!(of(vec![done()]), ["side"]);
    assert_eq!(
        of(vec![done(), container("side", Run::Running, 0, 0)]),
        ["a", "b"]
    );
    // Once the others were started, an ended restartable one comes back beside them.
    let all = vec![
        container("side", Run::Exited, 1, 0),
        container("a", Run::Running, 0, 0),
        container("b", Run::Running, 0, 0),
    ];
    assert_eq!(of(all), ["side"]);
}

#[test]
fn a_sidecar_holds_the_others_back_until_it_started() {
    let p = two_steps();
    let side = container("side", Run::Running, 0, 0);
    let mut facts = Facts::default();
    facts.started.insert(side.id.clone(), false);
    let s = seen(vec![container("i", Run::Exited, 0, 0), side]);
    assert!(starts(&next(&p, &s, &facts).1).is_empty());
}

#[test]
fn restart_policies() {
    let cases = [
        ("Always", 0, true, None),
        ("Always", 1, true, None),
        ("OnFailure", 0, false, Some(Outcome::Succeeded)),
        ("OnFailure", 1, true, None),
        ("Never", 0, false, Some(Outcome::Succeeded)),
        ("Never", 1, false, Some(Outcome::Failed)),
    ];
    for (policy, code, restarts, end) in cases {
        let p = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let s = seen(vec![container("a", Run::Exited, code, 3)]);
        assert_eq!(outcome(&p, &s), end, "{policy} {code}");
        let (stage, effects) = next(&p, &s, &Facts::default());
        assert_eq!(
            starts(&effects),
            if restarts { vec![("a", 4)] } else { vec![] },
            "{policy} {code}"
        );
        assert_eq!(matches!(stage, Stage::Ending { .. }), end.is_some());
    }
}

#[test]
fn a_container_that_failed_too_recently_waits() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let s = seen(vec![container("a", Run::Exited, 1, 1)]);
    let mut b = backoff();
    b.next(&key_of(&p), at(99));
    let step_at = |second| {
        step(
            Stage::Running,
            &p,
            &s,
            &Facts::default(),
            &b,
            Input::Sync,
            at(second),
        )
        .1
    };
    expect_test::expect![[r#"
        [
            BackOff {
                name: "a",
                message: "back-off 10s restarting failed container=a pod=p_n(u)",
            },
            WakeAt(
                1970-01-01T00:01:50Z,
            ),
        ]
    "#]]
    .assert_debug_eq(&step_at(101));
    assert_eq!(starts(&step_at(110)), [("a", 2)]);
}

#[test]
fn a_failed_probe_kills_with_its_own_grace() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let s = seen(vec![container("a", Run::Running, 0, 0)]);
    let mut facts = Facts::default();
    let failure = Failure {
        message: "m".into(),
        grace_seconds: Some(3),
    };
    facts.failed.insert("a-0".into(), failure);
    let want = Effect::Kill(Kill {
        id: "a-0".into(),
        name: "a".into(),
        grace_seconds: 3,
        message: "m".into(),
        after: Vec::new(),
    });
    assert_eq!(next(&p, &s, &facts).1, [want]);
}

#[test]
fn a_lost_sandbox_is_replaced_and_init_runs_again() {
    let p = two_steps();
    let mut s = seen(vec![
        container("i", Run::Exited, 0, 0),
        container("a", Run::Exited, 255, 0),
    ]);
    s.sandboxes[0].ready = false;
    let (_, effects) = next(&p, &s, &Facts::default());
    assert_eq!(
        effects,
        [
            Effect::StopSandbox { id: "s".into() },
            Effect::CreateSandbox { attempt: 1 }
        ]
    );
    let fresh = SeenSandbox {
        id: "s2".into(),
        attempt: 1,
        ready: true,
        ..s.sandboxes[0].clone()
    };
    s.sandboxes.insert(0, fresh);
    assert_eq!(starts(&next(&p, &s, &Facts::default()).1), [("i", 1)]);
}

#[test]
fn an_end_stops_containers_then_sidecars_then_the_sandbox_and_never_goes_back() {
    let p = two_steps();
    let end = || Input::End {
        why: Why::Deleted,
        grace_seconds: 30,
    };
    let facts = Facts::default();
    let mut s = seen(vec![
        container("side", Run::Running, 0, 0),
        container("a", Run::Running, 0, 0),
    ]);
    let go = |stage, s: &SeenPod, input, second| {
        step(stage, &p, s, &facts, &backoff(), input, at(second))
    };
    let names = |effects: &[Effect]| {
        effects
            .iter()
            .map(|e| match e {
                Effect::Kill(kill) => format!("{} {}", kill.name, kill.grace_seconds),
                other => format!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    let (stage, effects) = go(Stage::Running, &s, end(), 0);
    assert_eq!(names(&effects), ["side 30", "a 30"]);
    // A longer grace does not lengthen it, a shorter one shortens it.
    let longer = Input::End {
        why: Why::Deleted,
        grace_seconds: 90,
    };
    let (stage, effects) = go(stage, &s, longer, 10);
    assert_eq!(names(&effects), ["side 20", "a 20"]);
    let shorter = Input::End {
        why: Why::Deleted,
        grace_seconds: 1,
    };
    let (stage, effects) = go(stage, &s, shorter, 10);
    assert_eq!(names(&effects), ["side 2", "a 1"]);
    s.containers[1].run = Run::Exited;
    let (stage, effects) = go(stage, &s, Input::Sync, 11);
    assert_eq!(names(&effects), ["side 2"]);
    s.containers[0].run = Run::Exited;
    let (stage, effects) = go(stage, &s, Input::Sync, 12);
    assert_eq!(effects, [Effect::StopSandbox { id: "s".into() }]);
    s.sandboxes[0].ready = false;
    let (stage, effects) = go(stage, &s, Input::Sync, 13);
    assert_eq!(effects, [Effect::Release, Effect::DeleteObject]);
    assert_eq!(stage, Stage::Gone);
    // Until the object is deleted.
    let again = (Stage::Gone, vec![Effect::DeleteObject]);
    assert_eq!(go(stage, &s, end(), 14), again);
}

fn ending(p: &Pod, s: &SeenPod, until: i64, now: i64) -> Vec<(String, i64, String)> {
    let stage = Stage::Ending {
        why: Why::Deleted,
        until: at(until),
    };
    let facts = Facts::default();
    let (_, effects) = step(stage, p, s, &facts, &backoff(), Input::Sync, at(now));
    let kill = |e: Effect| match e {
        Effect::Kill(mut kill) => {
            kill.after.sort();
            (kill.name, kill.grace_seconds, kill.after.join(" "))
        }
        other => (format!("{other:?}"), 0, String::new()),
    };
    effects.into_iter().map(kill).collect()
}

#[test]
fn sidecars_end_one_by_one_in_reverse_order() {
    let p = pod(json!({
        "initContainers": [
            {"name": "s1", "restartPolicy": "Always"}, {"name": "i"},
            {"name": "s2", "restartPolicy": "Always"}, {"name": "s3", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "a"}]
    }));
    let run = |name| container(name, Run::Running, 0, 0);
    // The runtime's order is that of creation; a restart changes it, but not the order of ends.
    let s = seen(vec![run("s1"), run("a"), run("s3"), run("s2")]);
    let mut all = ending(&p, &s, 30, 10);
    all.sort();
    let is = |name: &str, grace, after: &str| (name.to_owned(), grace, after.to_owned());
    let want = [
        is("a", 20, ""),
        is("s1", 20, "a-0 s2-0 s3-0"),
        is("s2", 20, "a-0 s3-0"),
        is("s3", 20, "a-0"),
    ];
    assert_eq!(all, want);
    // When no time is left, they end together, with the least that everyone gets.
    let s = seen(vec![run("s1"), run("s3"), run("s2")]);
    let mut all = ending(&p, &s, 30, 31);
    all.sort();
    assert_eq!(all, ["s1", "s2", "s3"].map(|name| is(name, 2, "")));
}

/// What a pod tries in 25 seconds when something fails each time, and something wakes it ten
/// times a second.
fn tries(
    p: &Pod,
    s: &SeenPod,
    fail: impl Fn(&Effect, &mut Backoff, &mut SeenPod, Timestamp),
) -> usize {
    let (mut b, mut s, mut count) = (backoff(), s.clone(), 0);
    let facts = Facts::default();
    for tenth in 0..250 {
        let now = at(1000) + SignedDuration::from_millis(tenth * 100);
        let (stage, effects) = step(Stage::Running, p, &s, &facts, &b, Input::Sync, now);
        assert_eq!(stage, Stage::Running);
        let tried = effects
            .iter()
            .filter(|e| matches!(e, Effect::Start { .. } | Effect::CreateSandbox { .. }));
        for effect in tried {
            count += 1;
            fail(effect, &mut b, &mut s, now);
        }
        let waits = effects.iter().any(|e| matches!(e, Effect::WakeAt(_)));
        assert!(waits || !effects.is_empty(), "nothing would wake it");
    }
    count
}

#[test]
fn whatever_fails_is_not_tried_all_the_time() {
    use super::backoff::SANDBOX;
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let no_sandbox = tries(&p, &SeenPod::default(), |_, b, _, now| {
        b.failed(SANDBOX, now)
    });
    assert_eq!(no_sandbox, 5);
    let key = key_of(&p);
    let not_created = tries(&p, &seen(vec![]), |_, b, _, now| b.failed(&key, now));
    assert_eq!(not_created, 5);
    // A start or a postStart hook that fails leaves an ended container behind.
    let not_started = tries(&p, &seen(vec![]), |effect, b, s, now| {
        let Effect::Start { attempt, .. } = effect else {
            panic!("{effect:?}");
        };
        if *attempt > 0 {
            b.next(&key, now);
        }
        b.failed(&key, now);
        let mut ended = container("a", Run::Exited, 128, *attempt);
        ended.finished_at = Some(now);
        s.containers.insert(0, ended);
    });
    assert_eq!(not_started, 3);
    // A sandbox that dies as soon as it is there.
    let dies = tries(&p, &SeenPod::default(), |effect, b, s, now| {
        let Effect::CreateSandbox { attempt } = effect else {
            panic!("{effect:?}");
        };
        if *attempt > 0 {
            b.next(SANDBOX, now);
        }
        let mut dead = seen(vec![]).sandboxes.remove(0);
        (dead.attempt, dead.ready) = (*attempt, false);
        s.sandboxes.insert(0, dead);
    });
    assert_eq!(dies, 3);
}

#[test]
fn a_sandbox_that_cannot_be_stopped_is_not_stopped_all_the_time() {
    use super::backoff::STOP;
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let s = seen(vec![container("a", Run::Exited, 0, 0)]);
    let mut b = backoff();
    b.failed(STOP, at(10));
    let go = |now| {
        let stage = Stage::Ending {
            why: Why::Deleted,
            until: at(5),
        };
        step(stage, &p, &s, &Facts::default(), &b, Input::Sync, at(now)).1
    };
    assert_eq!(go(10), [Effect::WakeAt(at(11))]);
    assert_eq!(go(11), [Effect::StopSandbox { id: "s".into() }]);
}

#[test]
fn an_eviction_leaves_the_object_and_a_deletion_after_it_removes_it() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let facts = Facts::default();
    let why = Why::Failed {
        reason: "Evicted".into(),
        message: "m".into(),
        disrupted: true,
    };
    let input = Input::End {
        why: why.clone(),
        grace_seconds: 0,
    };
    let mut s = seen(vec![container("a", Run::Exited, 137, 0)]);
    s.sandboxes[0].ready = false;
    let (stage, effects) = step(Stage::Running, &p, &s, &facts, &backoff(), input, at(0));
    assert_eq!(
        (stage.clone(), effects),
        (Stage::Finished(why), vec![Effect::Release])
    );
    let status = status_at(&p, &s, &stage, &Waiting::new());
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
    let delete = Input::End {
        why: Why::Deleted,
        grace_seconds: 0,
    };
    let (stage, effects) = step(stage, &p, &s, &facts, &backoff(), delete, at(0));
    assert_eq!(
        (stage, effects),
        (Stage::Gone, vec![Effect::Release, Effect::DeleteObject])
    );
}

/// All that a container can be.
fn arb_container() -> impl proptest::strategy::Strategy<Value = SeenContainer> {
    use proptest::prelude::*;
    let run = prop_oneof![
        Just(Run::Created),
        Just(Run::Running),
        Just(Run::Exited),
        Just(Run::Unknown)
    ];
    let name = prop_oneof![
        Just("i"),
        Just("side"),
        Just("a"),
        Just("b"),
        Just("stranger")
    ];
    (name, run, 0..2i32, 0..3u32).prop_map(|(n, r, code, attempt)| container(n, r, code, attempt))
}

proptest::proptest! {
    /// Whatever the runtime has: an ending pod starts nothing, and what is stopped only ends.
    #[test]
    fn an_ending_pod_starts_nothing(containers in proptest::collection::vec(arb_container(), 0..6), ready: bool) {
        let p = two_steps();
        let mut s = seen(containers);
        s.sandboxes[0].ready = ready;
        let stage = Stage::Ending { why: Why::Deleted, until: at(10) + SignedDuration::from_secs(1) };
        let (stage, effects) = step(stage, &p, &s, &Facts::default(), &backoff(), Input::Sync, at(0));
        let makes = effects.iter().any(|e| matches!(e, Effect::Start { .. } | Effect::CreateSandbox { .. }));
        proptest::prop_assert!(!makes);
        proptest::prop_assert_eq!(s.is_stopped(), stage == Stage::Gone);
        proptest::prop_assert!(stage == Stage::Gone || !effects.is_empty());
    }

    /// No container is started twice, and none beside a running attempt of itself.
    #[test]
    fn nothing_is_started_beside_itself(containers in proptest::collection::vec(arb_container(), 0..6)) {
        let p = two_steps();
        let s = seen(containers);
        let (_, effects) = next(&p, &s, &Facts::default());
        let started = starts(&effects);
        for (name, _) in &started {
            proptest::prop_assert_eq!(started.iter().filter(|(n, _)| n == name).count(), 1);
            let newest = s.newest(name);
            proptest::prop_assert!(newest.is_none_or(|c| c.run != Run::Running || c.sandbox_id != "s"));
        }
    }
}
