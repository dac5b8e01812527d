//! What the machine of a pod decides.

mod simulated;

use super::*;
use crate::pod::tests::{at, container, pod, seen};
use serde_json::json;
use std::time::Duration;

fn machine() -> Machine {
    let backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
    Machine::new(None, backoff)
}

struct Bench {
    pod: Pod,
    seen: SeenPod,
    facts: Facts,
    machine: Machine,
    end: Option<End>,
    refusal: Option<Refusal>,
}

impl Bench {
    fn new(spec: serde_json::Value, seen: SeenPod) -> Self {
        Self {
            pod: pod(spec),
            seen,
            facts: Facts::default(),
            machine: machine(),
            end: None,
            refusal: None,
        }
    }

    fn with(&mut self, second: i64, change: impl FnOnce(&mut World)) -> Decision {
        let mut world = World {
            pod: &self.pod,
            shown: None,
            seen: &self.seen,
            facts: &self.facts,
            gone: false,
            end: self.end.as_ref(),
            refused: self.refusal.as_ref(),
            objects_changed: false,
            awaits_exit: false,
            resize_waits: false,
        };
        change(&mut world);
        self.machine.step(&world, at(second))
    }

    fn note(&mut self, effect: &Effect, result: &Result, now: Timestamp) {
        self.machine.note(&self.pod, effect, result, now);
    }

    fn step(&mut self, second: i64) -> Decision {
        self.with(second, |_| {})
    }
}

fn one() -> serde_json::Value {
    json!({"containers": [{"name": "a"}]})
}

/// Whatever fails is tried again later and later, and the decision says when.
#[test]
fn every_failure_holds_back_what_failed() {
    let mut running = seen(vec![container("a", Run::Running, 0, 0)]);
    running.containers[0].started_at = Some(at(0));
    let end = End {
        reason: "Evicted".into(),
        message: String::new(),
        grace_seconds: 600,
    };
    let cases: [(&str, SeenPod, bool); 3] = [
        ("sandbox", SeenPod::default(), false),
        ("start", seen(vec![]), false),
        ("kill", running, true),
    ];
    for (what, seen, ends) in cases {
        let mut bench = Bench::new(one(), seen);
        let (mut now, mut tries) = (100, Vec::new());
        for _ in 0..40 {
            bench.end = ends.then(|| end.clone());
            let decision = bench.step(now);
            let kills = decision.kills.iter().cloned().map(Effect::Kill);
            let all: Vec<Effect> = kills.chain(decision.effects.clone()).collect();
            if all.is_empty() {
                let wake = decision.wake_at.expect("nothing would wake it");
                assert!(wake > at(now), "{what}");
                now = wake.as_second();
                continue;
            }
            tries.push(now);
            for effect in all {
                bench.note(&effect, &Result::Failed, at(now));
            }
        }
        let pauses: Vec<i64> = tries.windows(2).map(|w| w[1] - w[0]).collect();
        assert_eq!(pauses[..6], [1, 2, 4, 8, 16, 30], "{what}");
    }
}

#[test]
fn a_sandbox_that_vanishes_again_and_again_waits_longer_and_longer() {
    let mut bench = Bench::new(one(), SeenPod::default());
    let (mut now, mut made) = (0, Vec::new());
    while made.len() < 6 {
        let decision = bench.step(now);
        if let [create @ Effect::CreateSandbox { attempt: 0 }] = &decision.effects[..] {
            made.push(now);
            bench.note(create, &Result::Done, at(now));
        } else {
            let wake = decision.wake_at.expect("nothing would wake it");
            now = wake.as_second();
        }
    }
    let pauses: Vec<i64> = made.windows(2).map(|w| w[1] - w[0]).collect();
    assert_eq!(pauses, [0, 10, 20, 40, 80]);
}

#[test]
fn pulls_wait_for_all_containers_of_an_image() {
    let spec = json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let mut bench = Bench::new(spec, seen(vec![]));
    let first = bench.step(0).effects;
    assert_eq!(first.len(), 2);
    let failed = Result::NotPulled {
        image: "i".into(),
        message: "no".into(),
    };
    bench.note(&first[0], &failed, at(0));
    let held = bench.step(1);
    assert!(
        held.effects.is_empty() && held.wake_at == Some(at(10)),
        "{held:?}"
    );
    assert_eq!(held.said.len(), 2);
    let why = "Back-off pulling image \"i\": ErrImagePull: no".to_owned();
    let waiting = bench.machine.waiting();
    assert_eq!(waiting["a"], ("ImagePullBackOff".into(), why.clone()));
    assert_eq!(waiting["b"].1, why);
    assert!(bench.step(2).said.is_empty());
    let again = bench.step(10).effects;
    assert_eq!(again.len(), 2);
    bench.note(&again[0], &failed, at(10));
    assert_eq!(bench.step(11).wake_at, Some(at(30)));
    let again = bench.step(30).effects;
    bench.note(&again[0], &Result::Done, at(30));
    assert_eq!(bench.step(31).effects.len(), 2);
}

/// What made a container fail may be what changed.
#[test]
fn another_image_or_other_resources_are_tried_at_once() {
    let spec = |image: &str, cpu: &str| {
        json!({"containers": [{"name": "a", "image": image,
            "resources": {"requests": {"cpu": cpu}}}]})
    };
    let crashed = seen(vec![container("a", Run::Exited, 1, 1)]);
    let mut bench = Bench::new(spec("bad", "1"), crashed);
    let start = bench.step(100).effects;
    assert!(matches!(start[..], [Effect::Start { attempt: 2, .. }]));
    bench.note(&start[0], &Result::Done, at(100));
    let waits = bench.step(101);
    assert!(waits.effects.is_empty() && waits.wake_at == Some(at(110)));
    for (image, cpu) in [("good", "1"), ("bad", "2")] {
        bench.pod = pod(spec(image, cpu));
        assert_eq!(bench.step(102).effects, start, "{image} {cpu}");
    }
    bench.pod = pod(spec("bad", "1"));
    assert!(bench.step(103).effects.is_empty());
}

#[test]
fn a_shorter_end_is_tried_at_once() {
    let running = seen(vec![container("a", Run::Running, 0, 0)]);
    let mut bench = Bench::new(one(), running);
    let end = |grace_seconds| End {
        reason: "Evicted".into(),
        message: String::new(),
        grace_seconds,
    };
    bench.end = Some(end(600));
    let first = bench.step(0);
    let kill = Effect::Kill(first.kills[0].clone());
    for _ in 0..5 {
        bench.note(&kill, &Result::Failed, at(0));
    }
    assert!(bench.step(1).is_idle());
    bench.end = Some(end(1));
    let again = bench.step(1);
    assert_eq!(again.kills[0].grace_seconds, 1);
}

#[test]
fn volumes_are_fresh_and_change_with_their_objects() {
    let mut spec = one();
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "m"}}]);
    let running = seen(vec![container("a", Run::Running, 0, 0)]);
    let mut bench = Bench::new(spec, running);
    let refresh = Effect::RefreshVolumes;
    assert_eq!(bench.step(0).effects, std::slice::from_ref(&refresh));
    bench.note(&refresh, &Result::Done, at(0));
    let idle = bench.step(1);
    assert!(idle.is_idle() && idle.wake_at == Some(at(60)), "{idle:?}");
    let changed = bench.with(2, |w| w.objects_changed = true);
    assert_eq!(changed.effects, std::slice::from_ref(&refresh));
    bench.note(&refresh, &Result::Failed, at(2));
    assert_eq!(bench.step(2).wake_at, Some(at(3)));
    // What changed again may be what was missing.
    let changed = bench.with(2, |w| w.objects_changed = true);
    assert_eq!(changed.effects, [refresh]);
}

#[test]
fn deadlines_wake_and_end() {
    let mut spec = one();
    spec["activeDeadlineSeconds"] = json!(10);
    let running = seen(vec![container("a", Run::Running, 0, 0)]);
    let mut bench = Bench::new(spec, running);
    let status = json!({"startTime": "1970-01-01T00:00:05Z"});
    bench.pod.status = serde_json::from_value(status).expect("a status");
    assert_eq!(bench.step(6).wake_at, Some(at(15)));
    assert_eq!(bench.step(15).kills.len(), 1);
    let why = bench.machine.stage().why();
    assert!(matches!(why, Some(Why::Failed { reason, .. }) if reason == "DeadlineExceeded"));
}

/// A pod has the time that it had, whatever the clock is set to, both ways.
#[test]
fn a_clock_that_is_set_moves_deadlines_with_it() {
    let hours = 5 * 3_600;
    for set in [hours, -hours] {
        let by = SignedDuration::from_secs(set);
        let mut spec = one();
        spec["activeDeadlineSeconds"] = json!(10);
        spec["terminationGracePeriodSeconds"] = json!(30);
        let running = seen(vec![container("a", Run::Running, 0, 0)]);
        let mut bench = Bench::new(spec, running);
        let start = 1_000_000_000;
        let status = json!({ "startTime": at(start).to_string() });
        bench.pod.status = serde_json::from_value(status).expect("a status");
        assert_eq!(bench.step(start + 1).wake_at, Some(at(start + 10)));
        bench.machine.clock_was_set(by);
        let waits = bench.step(start + set + 2);
        assert!(waits.kills.is_empty());
        assert_eq!(waits.wake_at, Some(at(start + set + 10)));
        let ends = bench.step(start + set + 10);
        assert_eq!(ends.kills[0].grace_seconds, 30);
        // Neither killed at once nor for hours.
        bench.machine.clock_was_set(-by);
        let goes_on = bench.step(start + 15);
        assert_eq!(goes_on.kills[0].grace_seconds, 25);
    }
}

#[test]
fn a_refused_pod_ends_before_anything_is_made() {
    let mut bench = Bench::new(one(), SeenPod::default());
    bench.refusal = Some(Refusal {
        reason: "OutOfcpu".into(),
        message: "m".into(),
    });
    let decision = bench.step(0);
    assert_eq!(decision.effects, [Effect::Release]);
    let message = "Pod was rejected: m".to_owned();
    assert_eq!(
        bench.machine.stage().why(),
        Some(&failed("OutOfcpu", message))
    );
}

#[test]
fn only_the_newest_attempts_are_kept() {
    let ended = |attempt| container("a", Run::Exited, 1, attempt);
    let mut all = seen(vec![container("a", Run::Running, 0, 3), ended(2), ended(1)]);
    all.containers[2].sandbox_id = "old".into();
    let mut old = all.sandboxes[0].clone();
    (old.id, old.ready) = ("old".into(), false);
    all.sandboxes.push(old);
    let mut bench = Bench::new(one(), all);
    let effects = bench.step(0).effects;
    let want = [
        Effect::RemoveContainer {
            id: "a-1".into(),
            log: String::new(),
        },
        Effect::RemoveSandbox { id: "old".into() },
    ];
    assert_eq!(effects, want);
    bench.note(&effects[0], &Result::Failed, at(0));
    assert!(bench.step(0).is_idle());
    assert_eq!(bench.step(1).effects, want);
}

/// The kubelet died between making it and starting it.
#[test]
fn a_container_that_was_never_started_counts_as_no_restart() {
    let mut bench = Bench::new(one(), seen(vec![container("a", Run::Created, 0, 0)]));
    let effects = bench.step(0).effects;
    let remove = Effect::RemoveContainer {
        id: "a-0".into(),
        log: String::new(),
    };
    let [first, Effect::Start { attempt: 0, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(*first, remove);
    // Its name is taken as long as it is there.
    bench.note(first, &Result::Failed, at(0));
    assert!(bench.step(0).is_idle());
    assert_eq!(bench.step(1).effects, effects);
}

#[test]
fn a_deletion_that_fails_is_tried_again_and_ends_it() {
    let mut bench = Bench::new(one(), SeenPod::default());
    let deleted = |bench: &mut Bench, second| bench.with(second, |w| w.gone = true).effects;
    let want = [Effect::Release, Effect::DeleteObject];
    assert_eq!(deleted(&mut bench, 0), want);
    bench.note(&Effect::DeleteObject, &Result::Failed, at(0));
    assert!(deleted(&mut bench, 0).is_empty());
    assert_eq!(deleted(&mut bench, 1), [Effect::DeleteObject]);
}

/// Who counts disturbances of pods looks at the condition, not at the reason.
#[test]
fn a_pod_is_disrupted_by_an_end_that_its_node_decides() {
    use crate::pod::resize::Resize;
    use crate::pod::status::{View, status_of};
    let end = |reason: &str, message: &str| End {
        reason: reason.into(),
        message: message.into(),
        grace_seconds: 0,
    };
    let refusal = Refusal {
        reason: "Evicted".into(),
        message: "The node had condition: [MemoryPressure]. ".into(),
    };
    let going_down = "Pod was terminated in response to imminent node shutdown.";
    let preempted = "Pod was preempted by Kubelet to accommodate a critical pod.";
    for (end, refusal, want) in [
        (
            Some(end("Evicted", "low on memory")),
            None,
            Some("low on memory"),
        ),
        (Some(end("Terminated", going_down)), None, Some(going_down)),
        (
            Some(end("Preempting", "for another")),
            None,
            Some(preempted),
        ),
        // Nothing of it ran that could be disturbed.
        (None, Some(refusal), None),
        (None, None, None),
    ] {
        let mut spec = one();
        if end.is_none() && refusal.is_none() {
            spec["activeDeadlineSeconds"] = json!(10);
        }
        let mut bench = Bench::new(spec, SeenPod::default());
        let status = json!({"startTime": "1970-01-01T00:00:05Z"});
        bench.pod.status = serde_json::from_value(status).unwrap();
        (bench.end, bench.refusal) = (end, refusal);
        bench.step(100);
        let view = View {
            runtime: "fake",
            stage: bench.machine.stage(),
            facts: &bench.facts,
            waiting: &Waiting::new(),
            host_ips: &[],
            start_time: at(0),
            resize: &Resize::default(),
        };
        let status = status_of(&bench.pod, &bench.seen, &view, at(100));
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        let mut all = status.conditions.unwrap().into_iter();
        let found = all.find(|c| c.type_ == "DisruptionTarget");
        let message = found.and_then(|c| c.message);
        assert_eq!(message.as_deref(), want, "{:?}", status.reason);
    }
}
