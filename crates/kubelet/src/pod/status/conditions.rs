//! The conditions of a pod that are the kubelet's to write, each with the reason and message that
//! upstream gives it.

use super::super::restart_policy;
use super::super::round::Round;
use super::super::runtime_state::SeenPod;
use super::super::spec;
use super::super::stage::Why;
use super::{View, whole_second};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether a condition of pods is the kubelet's alone to write. `DisruptionTarget` is whose it is
/// that ends the pod: the kubelet's where it made it.
#[must_use]
pub fn is_own_condition(kind: &str) -> bool {
    matches!(
        kind,
        "PodReadyToStartContainers"
            | "Initialized"
            | "Ready"
            | "ContainersReady"
            | "PodScheduled"
            | "AllContainersRestarting"
            | PENDING
            | IN_PROGRESS
    )
}

/// The conditions that the kubelet makes, and none of others': written as they were seen a moment
/// ago, they would undo what their owners write meanwhile.
pub(super) fn of_pod(
    pod: &Pod,
    seen: &SeenPod,
    view: &View,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    now: Timestamp,
) -> Vec<PodCondition> {
    let ready_to_start = seen
        .ready_sandbox()
        .is_some_and(|s| spec::host_network(pod) || !s.ips.is_empty());
    let containers_ready = containers_ready(init, main, phase, pod);
    let ready = ready(pod, &containers_ready);
    let mut wanted = vec![
        ("PodReadyToStartContainers", Verdict::of(ready_to_start)),
        ("Initialized", initialized(pod, init, main, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::of(true)),
    ];
    if let Some(Why::Failed {
        reason,
        message,
        disrupted: true,
    }) = view.stage.why()
    {
        let message = match reason.as_str() {
            PREEMPTING => "Pod was preempted by Kubelet to accommodate a critical pod.",
            _ => message,
        };
        let verdict = Verdict {
            is: true,
            reason: "TerminationByKubelet".into(),
            message: message.to_owned(),
        };
        wanted.push(("DisruptionTarget", verdict));
    }
    if restart_policy::may_restart_all(pod) {
        wanted.push(("AllContainersRestarting", restarting_all(pod, seen, view)));
    }
    resize_conditions(&mut wanted, view);
    let old = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.clone())
        .unwrap_or_default();
    let made = wanted.iter().map(|(kind, verdict)| PodCondition {
        observed_generation: match *kind {
            IN_PROGRESS => Some(view.resize.generation),
            _ => pod.metadata.generation,
        },
        ..condition(pod, kind, verdict, &old, now)
    });
    made.collect()
}

/// The reason of a pod that ended to make room for one that the cluster needs.
pub const PREEMPTING: &str = "Preempting";
/// The condition of a resize that the node has not given.
pub const PENDING: &str = "PodResizePending";
/// The condition of a resize that is given, but not all done.
pub const IN_PROGRESS: &str = "PodResizeInProgress";

fn restarting_all(pod: &Pod, seen: &SeenPod, view: &View) -> Verdict {
    let ends = Round::of(pod, seen).ends && view.stage.why().is_none();
    if !ends {
        return Verdict::of(false);
    }
    Verdict {
        is: true,
        reason: "RestartAllContainersStarted".into(),
        message: "container exited with restart policy rule".into(),
    }
}

fn resize_conditions(wanted: &mut Vec<(&str, Verdict)>, view: &View) {
    if view.stage.why().is_some() {
        return;
    }
    let mut add = |kind, reason: &str, message: &str| {
        let verdict = Verdict {
            is: true,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        wanted.push((kind, verdict));
    };
    if let Some((reason, message)) = &view.resize.pending {
        add(PENDING, reason, message);
    }
    if view.resize.in_progress {
        let error = view.resize.error.as_str();
        let reason = if error.is_empty() { "" } else { "Error" };
        add(IN_PROGRESS, reason, error);
    }
}

struct Verdict {
    is: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn of(is: bool) -> Self {
        Self {
            is,
            reason: String::new(),
            message: String::new(),
        }
    }
    fn no(reason: &str, message: String) -> Self {
        Self {
            is: false,
            reason: reason.to_owned(),
            message,
        }
    }
}

fn condition(
    pod: &Pod,
    kind: &str,
    verdict: &Verdict,
    old: &[PodCondition],
    now: Timestamp,
) -> PodCondition {
    let status = if verdict.is { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == kind && c.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: (!verdict.reason.is_empty()).then(|| verdict.reason.clone()),
        message: (!verdict.message.is_empty()).then(|| verdict.message.clone()),
        last_transition_time: before
            .and_then(|c| c.last_transition_time.clone())
            .or(Some(Time(whole_second(now)))),
        last_probe_time: None,
        observed_generation: pod.metadata.generation,
    }
}

/// Names as upstream's messages list them: `[a b]`.
fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn initialized(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
) -> Verdict {
    if phase == "Succeeded" {
        return Verdict {
            is: true,
            reason: "PodCompleted".into(),
            message: String::new(),
        };
    }
    if main.iter().any(|s| s.container_id.is_some()) {
        return Verdict::of(true);
    }
    let open: Vec<&str> = init
        .iter()
        .zip(spec::init_containers(pod))
        .filter(|(s, c)| {
            if spec::is_sidecar(c) {
                s.started != Some(true)
            } else {
                !s.ready
            }
        })
        .map(|(s, _)| s.name.as_str())
        .collect();
    if open.is_empty() {
        return Verdict::of(true);
    }
    let message = format!("containers with incomplete status: {}", listed(&open));
    Verdict::no("ContainersNotInitialized", message)
}

fn containers_ready(
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
    pod: &Pod,
) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", String::new()),
        "Failed" => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    let sidecars = init
        .iter()
        .zip(spec::init_containers(pod))
        .filter(|(_, c)| spec::is_sidecar(c))
        .map(|(s, _)| s);
    let unready: Vec<&str> = sidecars
        .chain(main)
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::of(true);
    }
    let message = format!("containers with unready status: {}", listed(&unready));
    Verdict::no("ContainersNotReady", message)
}

fn ready(pod: &Pod, containers: &Verdict) -> Verdict {
    if !containers.is {
        return Verdict::no(&containers.reason, containers.message.clone());
    }
    let have = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let open: Vec<String> = spec::of(pod)
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match have.iter().find(|c| &c.type_ == kind) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{kind}\" does not exist."
                )),
                Some(c) if c.status == "True" => None,
                Some(c) => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    c.status
                )),
            }
        })
        .collect();
    if open.is_empty() {
        Verdict::of(true)
    } else {
        Verdict::no("ReadinessGatesNotReady", open.join(", "))
    }
}
