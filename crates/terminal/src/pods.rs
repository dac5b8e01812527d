//! What a pod is doing, in the words of `kubectl get pods`, and why it does not do what it should.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerStateTerminated, ContainerStatus, Pod, PodCondition,
};

use crate::style::Tone;

/// For how long being on the way is nothing to look at.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// Waiting reasons that pass by themselves.
const PASSING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub tone: Tone,
    /// Such as `Running` or `CrashLoopBackOff`.
    pub word: String,
    /// What the cluster says of it; empty when there is nothing to say.
    pub why: String,
}

impl State {
    fn new(tone: Tone, word: &str, why: &str) -> Self {
        Self {
            tone,
            word: word.to_owned(),
            why: why.to_owned(),
        }
    }
}

/// Whether it has ended and takes no room any more.
pub fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn phase(pod: &Pod) -> &str {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    phase.unwrap_or("Pending")
}

pub fn restarts(pod: &Pod) -> i32 {
    statuses(pod).iter().map(|c| c.restart_count).sum()
}

/// How many of its containers are ready, of how many.
pub fn readiness(pod: &Pod) -> (usize, usize) {
    let ready = statuses(pod).iter().filter(|c| c.ready).count();
    (ready, pod.spec.as_ref().map_or(0, |s| s.containers.len()))
}

fn statuses(pod: &Pod) -> &[ContainerStatus] {
    let all = pod.status.as_ref();
    all.and_then(|s| s.container_statuses.as_deref())
        .unwrap_or_default()
}

fn condition<'a>(pod: &'a Pod, name: &str) -> Option<&'a PodCondition> {
    let all = pod.status.as_ref()?.conditions.as_ref()?;
    all.iter().find(|c| c.type_ == name)
}

pub fn state(pod: &Pod, now: Timestamp) -> State {
    // A deletion's time is the one at which the pod should be gone.
    if let Some(due) = &pod.metadata.deletion_timestamp {
        return terminating(pod, now.duration_since(due.0) > PATIENCE);
    }
    if phase(pod) == "Succeeded" {
        return State::new(Tone::Quiet, "Completed", "");
    }
    if let Some(state) = init_state(pod) {
        return state;
    }
    if let Some(state) = statuses(pod).iter().find_map(container_state) {
        return state;
    }
    if phase(pod) == "Failed" {
        let status = pod.status.as_ref();
        let reason = status.and_then(|s| s.reason.as_deref()).unwrap_or("Failed");
        let message = status.and_then(|s| s.message.as_deref());
        return State::new(Tone::Bad, reason, message.unwrap_or_default());
    }
    if let Some(c) = condition(pod, "PodScheduled").filter(|c| c.status == "False") {
        let gated = c.reason.as_deref() == Some("SchedulingGated");
        let (tone, word) = if gated {
            (Tone::Warn, "SchedulingGated")
        } else {
            (Tone::Bad, "Pending")
        };
        return State::new(tone, word, c.message.as_deref().unwrap_or_default());
    }
    on_its_way(pod, now)
}

fn terminating(pod: &Pod, late: bool) -> State {
    let finalizers = pod.metadata.finalizers.as_deref().unwrap_or_default();
    let tone = if late { Tone::Warn } else { Tone::Way };
    let why = match (finalizers, late) {
        ([], false) => String::new(),
        ([], true) => "its node has not reported its end".to_owned(),
        (all, _) => format!("waits for its finalizers: {}", all.join(", ")),
    };
    State::new(tone, "Terminating", &why)
}

fn on_its_way(pod: &Pod, now: Timestamp) -> State {
    let late = |since: Option<Timestamp>| since.is_some_and(|t| now.duration_since(t) > PATIENCE);
    let tone = |late| if late { Tone::Warn } else { Tone::Way };
    if phase(pod) != "Running" {
        let waiting = statuses(pod)
            .iter()
            .find_map(|c| c.state.as_ref()?.waiting.as_ref());
        let word = waiting.and_then(|w| w.reason.as_deref());
        let since = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let why = waiting.and_then(|w| w.message.as_deref());
        let word = word.unwrap_or(phase(pod));
        return State::new(tone(late(since)), word, why.unwrap_or_default());
    }
    let ready = condition(pod, "Ready");
    let (is, of) = readiness(pod);
    if is == of && ready.is_none_or(|c| c.status == "True") {
        return State::new(Tone::Good, "Running", "");
    }
    let since = ready.and_then(|c| c.last_transition_time.as_ref().map(|t| t.0));
    let why = format!("{is} of {of} containers are ready");
    State::new(tone(late(since)), "NotReady", &why)
}

fn init_state(pod: &Pod) -> Option<State> {
    let all = pod.spec.as_ref()?.init_containers.as_deref()?;
    let status = pod.status.as_ref();
    let seen = status.and_then(|s| s.init_container_statuses.as_deref());
    for (at, spec) in all.iter().enumerate() {
        let Some(c) = seen
            .unwrap_or_default()
            .iter()
            .find(|c| c.name == spec.name)
        else {
            continue;
        };
        let ended = c.state.as_ref().and_then(|s| s.terminated.as_ref());
        if ended.is_some_and(|e| e.exit_code == 0) || (is_sidecar(spec) && c.started == Some(true))
        {
            continue;
        }
        if let Some(found) = container_state(c) {
            return Some(State {
                word: format!("Init:{}", found.word),
                ..found
            });
        }
        let word = format!("Init:{at}/{}", all.len());
        return Some(State::new(Tone::Way, &word, ""));
    }
    None
}

fn is_sidecar(spec: &Container) -> bool {
    spec.restart_policy.as_deref() == Some("Always")
}

/// What is wrong with a container, if anything is.
fn container_state(c: &ContainerStatus) -> Option<State> {
    let state = c.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref()?;
        if PASSING.contains(&reason) {
            return None;
        }
        let last = c.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let why = match last.filter(|_| reason == "CrashLoopBackOff") {
            Some(end) => format!(
                "container {} keeps ending: {}, after {}",
                c.name,
                sentence(end),
                restarted(c.restart_count)
            ),
            None => format!(
                "container {}: {}",
                c.name,
                waiting.message.as_deref().unwrap_or(reason)
            ),
        };
        return Some(State::new(Tone::Bad, reason, &why));
    }
    let end = state.terminated.as_ref().filter(|e| e.exit_code != 0)?;
    let why = format!("container {} has ended: {}", c.name, sentence(end));
    Some(State::new(Tone::Bad, &word(end), &why))
}

fn restarted(count: i32) -> String {
    crate::words::count(usize::try_from(count).unwrap_or_default(), "restart")
}

fn word(end: &ContainerStateTerminated) -> String {
    match (end.reason.as_deref(), end.signal) {
        (Some(reason), _) if reason != "Error" => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", end.exit_code),
    }
}

fn sentence(end: &ContainerStateTerminated) -> String {
    if end.reason.as_deref() == Some("OOMKilled") {
        return "out of memory".to_owned();
    }
    let meaning = match end.exit_code {
        126 => ", its command cannot be executed",
        127 => ", its command was not found",
        137 => ", killed (SIGKILL)",
        139 => ", segmentation fault",
        143 => ", ended by SIGTERM",
        _ => "",
    };
    format!("exit code {}{meaning}", end.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: serde_json::Value) -> (Tone, String, String) {
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "containers": [{ "name": "main" }], "initContainers": [{ "name": "first" }] },
            "status": status,
        }));
        let now = "2026-01-01T00:10:00Z".parse().expect("time");
        let state = state(&pod.expect("pod"), now);
        (state.tone, state.word, state.why)
    }

    #[test]
    fn a_pod_is_described_as_kubectl_does_and_says_why() {
        let main = |state| {
            serde_json::json!({ "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:09:50Z" }],
            "containerStatuses": [{ "name": "main", "image": "", "imageID": "", "ready": false,
                "restartCount": 4, "state": state,
                "lastState": { "terminated": { "exitCode": 3, "reason": "Error" } } }] })
        };
        let crash = main(serde_json::json!({ "waiting": { "reason": "CrashLoopBackOff" } }));
        let (tone, word, why) = shown(crash);
        assert_eq!((tone, word.as_str()), (Tone::Bad, "CrashLoopBackOff"));
        assert_eq!(
            why,
            "container main keeps ending: exit code 3, after 4 restarts"
        );
        let runs = main(serde_json::json!({ "running": {} }));
        let (tone, word, _) = shown(runs);
        assert_eq!((tone, word.as_str()), (Tone::Way, "NotReady"));
        let oom =
            main(serde_json::json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } }));
        let (tone, word, why) = shown(oom);
        assert_eq!((tone, word.as_str()), (Tone::Bad, "OOMKilled"));
        assert_eq!(why, "container main has ended: out of memory");
    }

    #[test]
    fn what_waits_is_only_to_be_looked_at_when_it_waits_long() {
        let unplaced = serde_json::json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled",
            "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" }] });
        let (tone, word, why) = shown(unplaced);
        assert_eq!(
            (tone, word.as_str(), why.as_str()),
            (Tone::Bad, "Pending", "0/1 nodes")
        );
        let init = serde_json::json!({ "phase": "Pending", "initContainerStatuses": [{ "name": "first",
            "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "running": {} } }] });
        let (tone, word, _) = shown(init);
        assert_eq!((tone, word.as_str()), (Tone::Way, "Init:0/1"));
        let (tone, word, _) = shown(serde_json::json!({ "phase": "Pending" }));
        assert_eq!((tone, word.as_str()), (Tone::Warn, "Pending"));
        let (tone, word, _) = shown(serde_json::json!({ "phase": "Succeeded" }));
        assert_eq!((tone, word.as_str()), (Tone::Quiet, "Completed"));
    }
}
