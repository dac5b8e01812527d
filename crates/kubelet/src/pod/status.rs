//! The status of a pod as the API shows it: a pure function of its spec, what the runtime
//! has, its stage and what probes say.

mod conditions;
mod containers;

pub use conditions::{IN_PROGRESS, PENDING, PREEMPTING, is_own_condition};
pub use containers::full_id;

use super::plan::{Facts, Outcome};
use super::resize::Resize;
use super::runtime_state::SeenPod;
use super::spec;
use super::stage::{Stage, Why};
use containers::{MESSAGES, container_status, shorten};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus};
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
        .map(|c| {
            let shown = ContainerStatus {
                ready: false,
                started: None,
                ..container_status(pod, c, seen, view, true)
            };
            match spec::ended_debugging(pod, &c.name) {
                Some(ended) if !spec::has_ended(&shown) => ended.clone(),
                _ => shown,
            }
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
    let conditions = conditions::of_pod(pod, seen, view, &phase, &init, &main, now);
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
