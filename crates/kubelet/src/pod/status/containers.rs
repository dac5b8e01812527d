//! The status of one container: of its newest run, of the one before, and of what the runtime does not
//! have, since its turn has not come or it is lost.

use super::super::restart_policy;
use super::super::round::{self, Round};
use super::super::runtime_state::{Run, SeenContainer, SeenPod};
use super::super::spec;
use super::super::stage::Stage;
use super::{View, whole_second};
use host::runtime::ProcessUser;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, LinuxContainerUser, Pod, VolumeMount,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The most bytes of all termination messages of a pod; upstream's. Each container has an equal part of them.
pub(super) const MESSAGES: usize = 12 << 10;

/// Cuts the termination message of a container to so many bytes.
pub(super) fn shorten(status: &mut ContainerStatus, most: usize) {
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

fn time(t: Option<Timestamp>) -> Option<Time> {
    t.map(|t| Time(whole_second(t)))
}

pub(super) fn container_status(
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
        user: newest.and_then(|c| c.user.as_ref()).map(user),
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

fn user(of: &ProcessUser) -> ContainerUser {
    let groups = Some(of.more_groups.clone());
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: of.user,
            gid: of.group,
            supplemental_groups: groups.filter(|all| !all.is_empty()),
        }),
    }
}

/// Whether a container that ended is started again. Those for debugging never are.
fn will_restart(pod: &Pod, container: &Container, c: &SeenContainer) -> bool {
    let of_pod = spec::container(pod, &container.name);
    of_pod.is_some_and(|own| spec::is_sidecar(own) || restart_policy::should_restart(pod, own, c))
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
