//! A pod over the runtime in memory, on virtual time: its machine decides, this performs. One
//! thread, no clock, and so the same trace each time.

use super::*;
use crate::pod::runtime_state::{self, Ended, label};
use futures::FutureExt;
use host::runtime::fake::{Behaviour, Fake, Step};
use host::runtime::{ContainerSpec, Runtime, SandboxSpec, Texts};
use serde_json::json;

const SECOND: i64 = 1_000_000_000;

/// Nothing in the fake waits.
fn now_or_never<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("the fake answers at once")
}

struct Node {
    runtime: Fake,
    pod: Pod,
    machine: Machine,
    nanos: i64,
    trace: Vec<String>,
}

impl Node {
    fn new(spec: serde_json::Value) -> Self {
        let runtime = Fake::new(SECOND);
        Self {
            runtime,
            pod: pod(spec),
            machine: machine(),
            nanos: SECOND,
            trace: Vec::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.nanos)).expect("a time")
    }

    fn labels(&self, container: Option<&str>) -> Texts {
        let uid = (label::POD_UID.to_owned(), "u".to_owned());
        let name = container.map(|c| (label::CONTAINER_NAME.to_owned(), c.to_owned()));
        std::iter::once(uid).chain(name).collect()
    }

    fn perform(&self, effect: &Effect) -> Result {
        let sandbox = SandboxSpec {
            labels: self.labels(None),
            ..Default::default()
        };
        let runtime = &self.runtime;
        let done = match effect {
            Effect::CreateSandbox { .. } => now_or_never(runtime.run_sandbox(&sandbox, "")).is_ok(),
            Effect::StopSandbox { id } => now_or_never(runtime.stop_sandbox(id)).is_ok(),
            Effect::Start {
                name,
                attempt,
                sandbox_id,
                ..
            } => {
                let image = spec::find(&self.pod, name).and_then(|c| c.image);
                let image = now_or_never(runtime.image(&image.unwrap_or_default()));
                let container = ContainerSpec {
                    name: name.clone(),
                    attempt: *attempt,
                    image_id: image.ok().flatten().unwrap_or_default().id,
                    labels: self.labels(Some(name)),
                    annotations: [(label::RESTART_COUNT.to_owned(), attempt.to_string())].into(),
                    ..Default::default()
                };
                let made = runtime.create_container(sandbox_id, &container, &sandbox);
                let made = now_or_never(made);
                made.is_ok_and(|id| now_or_never(runtime.start_container(&id)).is_ok())
            }
            Effect::RemoveContainer { id, .. } => {
                now_or_never(runtime.remove_container(id)).is_ok()
            }
            _ => true,
        };
        if done { Result::Done } else { Result::Failed }
    }

    /// Lives until so many seconds after the beginning, or until nothing will happen any more.
    fn live(&mut self, seconds: i64, deleted_at: Option<i64>) {
        for _ in 0..10_000 {
            let mut ended = Ended::new();
            let seen = now_or_never(runtime_state::observe(&self.runtime, "u", &mut ended));
            let seen = seen.expect("the fake answers");
            let now = self.now();
            let world = World {
                pod: &self.pod,
                shown: None,
                seen: &seen,
                facts: &Facts::default(),
                gone: deleted_at.is_some_and(|at| self.nanos >= at * SECOND),
                end: None,
                refused: None,
                objects_changed: false,
                awaits_exit: false,
                resize_waits: false,
            };
            let decision = self.machine.step(&world, now);
            let kills = decision.kills.iter().cloned().map(Effect::Kill);
            let effects: Vec<Effect> = kills.chain(decision.effects.clone()).collect();
            for effect in &effects {
                let result = match effect {
                    Effect::Kill(kill) => {
                        let stop = self.runtime.stop_container(&kill.id, kill.grace_seconds);
                        match now_or_never(stop) {
                            Ok(()) => Result::Done,
                            Err(_) => Result::Failed,
                        }
                    }
                    other => self.perform(other),
                };
                let word = format!("{effect:?}");
                let word = word.split([' ', '(']).next().unwrap_or_default().to_owned();
                let second = self.nanos / SECOND;
                self.trace.push(format!("{second} {word} {result:?}"));
                self.machine.note(&self.pod, effect, &result, now);
            }
            if effects.contains(&Effect::DeleteObject) {
                return;
            }
            if !effects.is_empty() {
                continue;
            }
            let wake = decision.wake_at.map(|at| at.as_nanosecond());
            let wake = wake.and_then(|n| i64::try_from(n).ok());
            let deletion = deleted_at
                .map(|at| at * SECOND)
                .filter(|at| *at > self.nanos);
            let next = [wake, self.runtime.next_end(), deletion];
            let Some(next) = next.into_iter().flatten().min() else {
                return;
            };
            if next > seconds * SECOND {
                return;
            }
            self.nanos = next.max(self.nanos);
            self.runtime.advance(self.nanos);
        }
        panic!("it never rests: {:?}", self.trace.last());
    }
}

fn crashing() -> Vec<String> {
    let mut node = Node::new(json!({"containers": [{"name": "a", "image": "crash"}]}));
    let crash = Behaviour {
        runs_for: Some(Duration::from_secs(1)),
        exit_code: 1,
        stopped_code: None,
    };
    node.runtime.add_image("crash", crash);
    node.runtime.fail(Step::RunSandbox, 2);
    node.live(100, None);
    node.trace
}

#[test]
fn a_pod_that_fails_waits_longer_and_longer_and_does_the_same_each_time() {
    let trace = crashing();
    assert_eq!(trace, crashing());
    let starts: Vec<&String> = trace.iter().filter(|t| t.contains("Start")).collect();
    // After 1 s at first, then upstream's 10, 20 and 40 s from each end.
    assert_eq!(
        starts,
        [
            "4 Start Done",
            "5 Start Done",
            "16 Start Done",
            "37 Start Done",
            "78 Start Done"
        ]
    );
    let first: Vec<&str> = trace.iter().take(3).map(String::as_str).collect();
    assert_eq!(
        first,
        [
            "1 CreateSandbox Failed",
            "2 CreateSandbox Failed",
            "4 CreateSandbox Done"
        ]
    );
    // Two attempts are kept.
    assert!(trace.iter().any(|t| t.contains("RemoveContainer")));
}

#[test]
fn a_pod_that_is_deleted_leaves_nothing_running() {
    let spec = json!({
        "initContainers": [{"name": "side", "image": "web", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "web"}]
    });
    let mut node = Node::new(spec);
    let web = Behaviour {
        stopped_code: Some(0),
        ..Default::default()
    };
    node.runtime.add_image("web", web);
    node.runtime.fail(Step::StopContainer, 0);
    node.live(1000, Some(60));
    let words: Vec<&str> = node.trace.iter().map(String::as_str).collect();
    assert_eq!(
        words,
        [
            "1 CreateSandbox Done",
            "1 Start Done",
            "1 Start Done",
            "60 Kill Done",
            "60 Kill Done",
            "60 StopSandbox Done",
            "60 Release Done",
            "60 DeleteObject Done",
        ]
    );
    let left = now_or_never(node.runtime.containers(None)).expect("a list");
    let runs = |c: &host::runtime::Container| c.state == host::runtime::State::Running;
    assert!(!left.iter().any(runs));
}
