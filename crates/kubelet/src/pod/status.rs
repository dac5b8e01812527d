//! The status of a pod as the API shows it: a pure function of its spec, what the runtime
//! has, its stage and what probes say.

use super::plan::{Facts, Outcome};
use super::resize::Resize;
use super::round::{self, Round};
use super::runtime_state::{Run, SeenContainer, SeenPod};
use super::spec;
use super::stage::{Stage, Why};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::HashMap;

/// What is known beside spec and runtime.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The runtime's name.
    pub runtime: &'a str,
    /// How far the pod is.
    pub stage: &'a Stage,
    /// What probes say.
    pub facts: &'a Facts,
    /// Why containers wait, by name: reason and message.
    pub waiting: &'a HashMap<String, (String, String)>,
    /// Addresses of the node, the one that it is known by first.
    pub host_ips: &'a [String],
    /// When the kubelet first saw the pod.
    pub start_time: Timestamp,
    /// The resize that goes on, or waits.
    pub resize: &'a Resize,
}

/// The status to publish.
#[must_use]
pub fn status_of(pod: &Pod, seen: &SeenPod, view: &View, now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let init: Vec<ContainerStatus> = spec::init_containers(pod)
        .iter()
        .map(|c| container_status(pod, c, seen, view, true))
        .collect();
    let main: Vec<ContainerStatus> = spec::containers(pod)
        .iter()
        .map(|c| container_status(pod, c, seen, view, false))
        .collect();
    let debug: Vec<ContainerStatus> = spec::ephemeral_containers(pod)
        .iter()
        .map(|c| ContainerStatus {
            ready: false,
            started: None,
            ..container_status(pod, c, seen, view, true)
        })
        .collect();
    let phase = phase(pod, &init, &main, view, &old);
    let never_taken = was_never_taken(seen, view, &old);
    let most = MESSAGES / (init.len() + main.len() + debug.len()).max(1);
    let shown = |mut list: Vec<ContainerStatus>| {
        list.iter_mut().for_each(|s| shorten(s, most));
        (!list.is_empty() && !never_taken).then_some(list)
    };
    let (reason, message) = match view.stage.why() {
        Some(Why::Failed {
            reason, message, ..
        }) => (Some(reason.clone()), Some(message.clone())),
        // A pod that runs has none, whoever wrote one.
        None if *view.stage == Stage::Running => (None, None),
        Some(Why::Deleted | Why::Completed(_)) | None => (old.reason.clone(), old.message.clone()),
    };
    let ips = pod_ips(pod, seen, view, &old);
    let conditions = conditions(pod, seen, view, &phase, &init, &main, now);
    let group = view.facts.group.as_ref().filter(|_| phase == "Running");
    PodStatus {
        phase: Some(phase),
        conditions: Some(conditions),
        reason,
        message,
        host_ip: view.host_ips.first().cloned(),
        host_ips: Some(
            view.host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: old.start_time.or(Some(Time(whole_second(view.start_time)))),
        init_container_statuses: shown(init),
        container_statuses: shown(main),
        ephemeral_container_statuses: shown(debug),
        qos_class: old
            .qos_class
            .or_else(|| Some(super::resources::qos(pod).to_string())),
        observed_generation: pod.metadata.generation,
        resources: (!never_taken).then(|| super::resources::of_pod(pod, group)),
        allocated_resources: (!never_taken)
            .then(|| super::resources::quantities(pod, |r| r.requests.as_ref()))
            .filter(|all| !all.is_empty()),
        ..Default::default()
    }
}

/// The most bytes of all last words of a pod; upstream's. Each container has an equal part of them.
const MESSAGES: usize = 12 << 10;

/// Cuts the last words of a container to so many bytes.
fn shorten(status: &mut ContainerStatus, most: usize) {
    let states = [&mut status.state, &mut status.last_state];
    for state in states.into_iter().flatten() {
        let ended = state.terminated.as_mut();
        if let Some(text) = ended.and_then(|t| t.message.as_mut()) {
            let mut end = most.min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
    }
}

/// Whether the node refused the pod before anything of it was made: it has no containers then, of
/// which something could be unknown.
fn was_never_taken(seen: &SeenPod, view: &View, old: &PodStatus) -> bool {
    matches!(view.stage.why(), Some(Why::Failed { .. }))
        && seen.containers.is_empty()
        && seen.sandboxes.is_empty()
        && old.container_statuses.is_none()
}

/// The API keeps times of objects in whole seconds.
fn whole_second(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

fn time(t: Option<Timestamp>) -> Option<Time> {
    t.map(|t| Time(whole_second(t)))
}

fn pod_ips(pod: &Pod, seen: &SeenPod, view: &View, old: &PodStatus) -> Vec<String> {
    if spec::host_network(pod) && seen.ready_sandbox().is_some() {
        return view.host_ips.to_vec();
    }
    let current = seen
        .ready_sandbox()
        .map(|s| s.ips.clone())
        .unwrap_or_default();
    if current.is_empty() && view.stage.why().is_some() {
        // A pod that ends keeps the address that it had.
        return old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect();
    }
    current
}

fn container_status(
    pod: &Pod,
    container: &Container,
    seen: &SeenPod,
    view: &View,
    init: bool,
) -> ContainerStatus {
    let newest = seen.newest(&container.name);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        volume_mounts: volume_mounts(container, newest),
        stop_signal: newest
            .map(|c| c.stop_signal.clone())
            .filter(|s| !s.is_empty()),
        ..Default::default()
    };
    let why_waiting = view.waiting.get(&container.name);
    let given = container.resources.as_ref();
    if newest.is_some_and(|c| c.run != Run::Created) {
        status.allocated_resources = given.and_then(|r| r.requests.clone());
        status.resources = given.cloned();
    }
    let Some(c) = newest else {
        status.state = Some(unmade(pod, container, seen, view, why_waiting));
        return status;
    };
    status.image.clone_from(&c.image);
    status.image_id.clone_from(&c.image_ref);
    status.container_id = Some(full_id(view.runtime, c));
    status.restart_count = i32::try_from(c.attempt).unwrap_or(i32::MAX);
    status.last_state = seen
        .previous(&container.name)
        .filter(|p| p.run == Run::Exited)
        .map(|p| ContainerState {
            terminated: Some(ended(pod, seen, view, p)),
            ..Default::default()
        });
    match c.run {
        Run::Running => {
            let running = ContainerStateRunning {
                started_at: time(c.started_at),
            };
            status.state = Some(ContainerState {
                running: Some(running),
                ..Default::default()
            });
            status.started = Some(view.facts.is_started(c));
            status.ready = is_ready(c, view, init, container);
            if let Some(has) = view.resize.has.get(&c.id) {
                status.resources = Some(has.clone());
            }
        }
        Run::Exited => {
            let ended = ContainerState {
                terminated: Some(ended(pod, seen, view, c)),
                ..Default::default()
            };
            // One of an earlier round waits for its turn in this one.
            let waits = !Round::of(pod, seen).counts(pod, c);
            // What is not started again has ended, also where its start was what failed.
            let restarts = *view.stage == Stage::Running && will_restart(pod, container, c);
            match why_waiting.filter(|_| restarts || waits && !view.stage.is_over()) {
                Some(why) => {
                    status.last_state = Some(ended);
                    status.state = Some(waiting(&why.0, &why.1));
                }
                None if waits && !view.stage.is_over() => {
                    status.last_state = Some(ended);
                    let text = "The pod's containers are all started again";
                    status.state = Some(waiting(RESTARTING, text));
                }
                None => status.state = Some(ended),
            }
            let done = init && !spec::is_sidecar(container) && c.exit_code == 0;
            status.ready = done && !waits;
        }
        Run::Created | Run::Unknown => {
            status.state = Some(unmade(pod, container, seen, view, why_waiting));
            if c.run == Run::Created {
                status.container_id = None;
            }
        }
    }
    status
}

/// Whether a container that ended is started again. Those for debugging never are.
fn will_restart(pod: &Pod, container: &Container, c: &SeenContainer) -> bool {
    let of_pod = spec::container(pod, &container.name);
    of_pod.is_some_and(|own| spec::is_sidecar(own) || spec::should_restart(pod, own, c))
}

fn is_ready(c: &SeenContainer, view: &View, init: bool, container: &Container) -> bool {
    if init && !spec::is_sidecar(container) {
        return false;
    }
    view.facts.is_started(c) && view.facts.ready.get(&c.id).copied().unwrap_or(true)
}

fn volume_mounts(
    container: &Container,
    newest: Option<&SeenContainer>,
) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let recursive = |m: &VolumeMount| {
        let whole = newest.is_some_and(|c| c.recursive_read_only.contains(&m.mount_path));
        let word = if whole { "Enabled" } else { "Disabled" };
        m.read_only.filter(|r| *r).map(|_| word.to_owned())
    };
    Some(
        mounts
            .iter()
            .map(|m| VolumeMountStatus {
                name: m.name.clone(),
                mount_path: m.mount_path.clone(),
                read_only: m.read_only.filter(|r| *r),
                recursive_read_only: recursive(m),
                ..Default::default()
            })
            .collect(),
    )
}

/// Whether a container must have been started at some time: all that come before it were.
fn was_due(pod: &Pod, container: &Container, seen: &SeenPod) -> bool {
    let init = spec::init_containers(pod);
    let began = |c: &Container| seen.newest(&c.name).is_some();
    let later = match init.iter().position(|c| c.name == container.name) {
        Some(place) => init.get(place + 1..).unwrap_or_default(),
        // Ordinary ones are due when the last init container is done.
        None => {
            return init.last().is_none_or(|last| {
                seen.newest(&last.name).is_some_and(|c| {
                    let ended_well = c.run == Run::Exited && c.exit_code == 0;
                    ended_well || spec::is_sidecar(last) && c.run == Run::Running
                })
            }) || spec::containers(pod).iter().any(began);
        }
    };
    later.iter().chain(spec::containers(pod)).any(began)
}

/// State of a container that the runtime does not have. One whose turn never came, since an
/// init container failed, still waits when the pod is over; only what must have been there is
/// called lost.
fn unmade(
    pod: &Pod,
    container: &Container,
    seen: &SeenPod,
    view: &View,
    why: Option<&(String, String)>,
) -> ContainerState {
    if view.stage.is_over() && was_due(pod, container, seen) {
        return ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some(
                    "The container could not be located when the pod was terminated".into(),
                ),
                ..Default::default()
            }),
            ..Default::default()
        };
    }
    match why {
        Some((reason, message)) => waiting(reason, message),
        None if spec::init_containers(pod).is_empty() => waiting("ContainerCreating", ""),
        None => waiting("PodInitializing", ""),
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..Default::default()
    }
}

/// Upstream's word for what is started again with all others.
const RESTARTING: &str = "RestartingAllContainers";

/// The end of a container; of one that was killed for the next round, that it was.
fn ended(pod: &Pod, seen: &SeenPod, view: &View, c: &SeenContainer) -> ContainerStateTerminated {
    let mut out = terminated(view.runtime, c);
    if round::was_killed(pod, seen, c) {
        out.reason = Some(RESTARTING.into());
    }
    out
}

/// The id of a container as statuses have it.
#[must_use]
pub fn full_id(runtime: &str, c: &SeenContainer) -> String {
    format!("{runtime}://{}", c.id)
}

fn terminated(runtime: &str, c: &SeenContainer) -> ContainerStateTerminated {
    let reason = match (c.reason.as_str(), c.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerStateTerminated {
        container_id: Some(full_id(runtime, c)),
        exit_code: c.exit_code,
        reason: Some(reason.to_owned()),
        message: (!c.message.is_empty()).then(|| c.message.clone()),
        started_at: time(c.started_at),
        finished_at: time(c.finished_at),
        signal: None,
    }
}

fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    view: &View,
    old: &PodStatus,
) -> String {
    // A phase that says the end never changes again.
    if let Some(end @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        return end.to_owned();
    }
    match (view.stage, view.stage.why()) {
        (Stage::Finished(_), Some(Why::Failed { .. })) => return "Failed".into(),
        (Stage::Finished(_), Some(Why::Completed(Outcome::Failed))) => return "Failed".into(),
        (Stage::Finished(_), Some(Why::Completed(Outcome::Succeeded))) => {
            return "Succeeded".into();
        }
        (Stage::Running | Stage::Ending { .. } | Stage::Finished(_) | Stage::Gone, _) => {}
    }
    let over = view.stage.is_over();
    let state = |s: &ContainerStatus| s.state.clone().unwrap_or_default();
    let ended = |s: &ContainerStatus| {
        let last = s.last_state.clone().unwrap_or_default();
        let waits = state(s).waiting.is_some();
        state(s).terminated.or(last.terminated.filter(|_| waits))
    };
    let initialized = main.iter().any(|s| s.container_id.is_some());
    let pending_init = !initialized
        && init.iter().zip(spec::init_containers(pod)).any(|(s, c)| {
            if spec::is_sidecar(c) {
                s.started != Some(true)
            } else {
                ended(s).is_none_or(|t| t.exit_code != 0)
            }
        });
    let running = main.iter().filter(|s| state(s).running.is_some()).count();
    let stopped: Vec<_> = main.iter().filter_map(ended).collect();
    let waiting = main.len() - running - stopped.len();
    let all_well = stopped.iter().all(|t| t.exit_code == 0);
    let phase = if over {
        if all_well && !pending_init {
            "Succeeded"
        } else {
            "Failed"
        }
    } else if pending_init || waiting > 0 {
        "Pending"
    } else {
        "Running"
    };
    // A pod that ran stays Running while a container of it is made again.
    if phase == "Pending" && old.phase.as_deref() == Some("Running") {
        return "Running".into();
    }
    phase.to_owned()
}

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
fn conditions(
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
    if spec::may_restart_all(pod) {
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
