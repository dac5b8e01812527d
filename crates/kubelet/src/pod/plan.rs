//! What a pod that should run needs next: a function from its spec and what the runtime has
//! to effects. Sandbox first, then init containers one after another (restartable ones stay
//! and count as done once started), then all others at once.

use super::backoff::{self, Backoff};
use super::resize::{self, Change};
use super::restart_policy;
use super::round::{self, Round};
use super::runtime_state::{Run, SeenContainer, SeenPod};
use super::spec;
use host::cgroup::Limits;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use std::collections::HashMap;

/// Why a running container must be restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Said in the event.
    pub message: String,
    /// Grace period of the probe, where it has its own.
    pub grace_seconds: Option<i64>,
}

/// What is known beside the runtime's words.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// By container id: whether its startup probe succeeded (present: it has one).
    pub started: HashMap<String, bool>,
    /// By container id: whether its readiness probe succeeded (present: it has one).
    pub ready: HashMap<String, bool>,
    /// By container id: why it must be restarted.
    pub failed: HashMap<String, Failure>,
    /// By container id: the requests and limits that it has.
    pub given: HashMap<String, ResourceRequirements>,
    /// The limits of the pod's group, once they are set.
    pub group: Option<Limits>,
}

impl Facts {
    /// Whether a container counts as started.
    #[must_use]
    pub fn is_started(&self, c: &SeenContainer) -> bool {
        c.run == Run::Running && self.started.get(&c.id).copied().unwrap_or(true)
    }
}

/// Stopping a container: its preStop hook at once, then, when its turn comes, the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kill {
    /// Its id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// How long all of it may take.
    pub grace_seconds: i64,
    /// Said in the event; empty for none.
    pub message: String,
    /// Ids of the containers that end before it, as long as there is time.
    pub after: Vec<String>,
}

/// Something to do for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a sandbox, with volumes and the rest that it needs before.
    CreateSandbox {
        /// Which attempt it will be.
        attempt: u32,
    },
    /// Stop a sandbox.
    StopSandbox {
        /// Which.
        id: String,
    },
    /// Make and start a container.
    Start {
        /// Its name in the pod.
        name: String,
        /// Which attempt it will be.
        attempt: u32,
        /// Where.
        sandbox_id: String,
        /// Which round of the pod it is of.
        round: u32,
    },
    /// Stop a container.
    Kill(Kill),
    /// A container waits before its next start.
    BackOff {
        /// Its name in the pod.
        name: String,
        /// Shown in its status.
        message: String,
    },
    /// Give a running container other limits.
    Resize {
        /// Its id.
        id: String,
        /// Its name in the pod.
        name: String,
        /// Some limit becomes smaller.
        shrinks: bool,
    },
    /// Limit the pod as a whole.
    LimitPod {
        /// Its new limits.
        limits: Limits,
    },
    /// Bring volumes up to date.
    RefreshVolumes,
    /// Remove a dead attempt of a container, and its log.
    RemoveContainer {
        /// Its id.
        id: String,
        /// Its log.
        log: String,
    },
    /// Remove a dead sandbox.
    RemoveSandbox {
        /// Its id.
        id: String,
    },
    /// Look again at this time.
    WakeAt(Timestamp),
    /// Give back volumes and groups.
    Release,
    /// Remove the object from the API.
    DeleteObject,
}

/// Effects for a pod that should run.
#[must_use]
pub fn plan(
    pod: &Pod,
    seen: &SeenPod,
    facts: &Facts,
    backoff: &Backoff,
    now: Timestamp,
) -> Vec<Effect> {
    let Some(sandbox) = seen.ready_sandbox() else {
        return plan_sandbox(pod, seen, backoff, now);
    };
    let round = Round::of(pod, seen);
    if round.ends {
        return round::kills(pod, seen);
    }
    let mut planner = Planner {
        pod,
        seen,
        round,
        facts,
        backoff,
        now,
        sandbox: &sandbox.id,
        out: Vec::new(),
    };
    if planner.init_containers() {
        planner.main_containers();
        planner.debug_containers();
    }
    resize::order(&mut planner.out, pod, facts.group.as_ref());
    planner.out
}

/// No sandbox works: stop what is left of old ones and make a new one, unless that failed or
/// was needed too recently.
fn plan_sandbox(pod: &Pod, seen: &SeenPod, backoff: &Backoff, now: Timestamp) -> Vec<Effect> {
    let mut out: Vec<Effect> = seen
        .alive()
        .map(|c| {
            Effect::Kill(Kill {
                id: c.id.clone(),
                name: c.name.clone(),
                grace_seconds: spec::grace_seconds(pod),
                message: String::new(),
                ..Default::default()
            })
        })
        .collect();
    let lost = backoff.waiting(backoff::SANDBOX, Timestamp::MIN, now);
    let wait = backoff.held(backoff::SANDBOX, now).max(lost.map(|w| w.1));
    if let Some(until) = wait {
        out.push(Effect::WakeAt(until));
        return out;
    }
    let attempt = seen.sandboxes.first().map_or(0, |s| s.attempt + 1);
    out.extend(
        seen.sandboxes
            .first()
            .map(|s| Effect::StopSandbox { id: s.id.clone() }),
    );
    out.push(Effect::CreateSandbox { attempt });
    out
}

struct Planner<'a> {
    pod: &'a Pod,
    seen: &'a SeenPod,
    round: Round,
    facts: &'a Facts,
    backoff: &'a Backoff,
    now: Timestamp,
    sandbox: &'a str,
    out: Vec<Effect>,
}

impl Planner<'_> {
    /// The newest attempt of a container in this round.
    fn newest(&self, name: &str) -> Option<&SeenContainer> {
        let newest = self.seen.newest(name);
        newest.filter(|c| self.round.counts(self.pod, c))
    }

    fn here(&self, name: &str) -> Option<&SeenContainer> {
        self.newest(name).filter(|c| c.sandbox_id == self.sandbox)
    }

    /// True when the others may start.
    fn init_containers(&mut self) -> bool {
        let initialized = spec::containers(self.pod)
            .iter()
            .any(|c| self.here(&c.name).is_some());
        for container in spec::init_containers(self.pod) {
            let go_on = if spec::is_sidecar(container) {
                self.sidecar(container) || initialized
            } else {
                initialized || self.init_container(container)
            };
            if !go_on {
                return false;
            }
        }
        true
    }

    /// True when the next may start.
    fn init_container(&mut self, container: &Container) -> bool {
        match self.here(&container.name) {
            Some(c) if c.run == Run::Running => {
                let c = c.clone();
                self.resize(container, &c);
                false
            }
            Some(c) if c.run == Run::Exited && c.exit_code == 0 => true,
            Some(c)
                if c.run == Run::Exited
                    && !restart_policy::should_restart(self.pod, container, c) =>
            {
                false
            }
            _ => {
                self.start(container);
                false
            }
        }
    }

    fn sidecar(&mut self, container: &Container) -> bool {
        match self.here(&container.name).cloned() {
            Some(c) if c.run == Run::Running => {
                self.restart_if_failed(container, &c);
                self.facts.is_started(&c)
            }
            _ => {
                self.start(container);
                false
            }
        }
    }

    fn main_containers(&mut self) {
        for container in spec::containers(self.pod) {
            match self.newest(&container.name).cloned() {
                None => self.start(container),
                Some(c) if c.run == Run::Running && c.sandbox_id == self.sandbox => {
                    self.restart_if_failed(container, &c);
                }
                Some(c)
                    if c.run == Run::Created
                        || restart_policy::should_restart(self.pod, container, &c) =>
                {
                    self.start(container);
                }
                Some(_) => {}
            }
        }
    }

    /// Those for debugging are started once, and never again.
    fn debug_containers(&mut self) {
        for container in spec::ephemeral_containers(self.pod) {
            let newest = self.seen.newest(&container.name);
            let is_new = newest.is_none_or(|c| c.run == Run::Created);
            if is_new && spec::ended_debugging(self.pod, &container.name).is_none() {
                self.start(&container);
            }
        }
    }

    fn restart_if_failed(&mut self, container: &Container, c: &SeenContainer) {
        let name = &container.name;
        let (message, grace) = if let Some(failure) = self.facts.failed.get(&c.id) {
            (failure.message.clone(), failure.grace_seconds)
        } else if !c.hash.is_empty() && c.hash != spec::hash(container) {
            (
                format!("Container {name} definition changed, will be restarted"),
                None,
            )
        } else if self.resize(container, c) {
            (format!("Container {name} resize requires restart"), None)
        } else {
            return;
        };
        self.out.push(Effect::Kill(Kill {
            id: c.id.clone(),
            name: name.clone(),
            grace_seconds: grace.unwrap_or_else(|| spec::grace_seconds(self.pod)),
            message,
            ..Default::default()
        }));
    }

    /// Gives a running container what it was given; true if that takes a new start.
    fn resize(&mut self, container: &Container, c: &SeenContainer) -> bool {
        let Some(has) = self.facts.given.get(&c.id) else {
            return false;
        };
        match resize::change(container, has) {
            Change::None => {}
            Change::Restart => return true,
            Change::Update => self.out.push(Effect::Resize {
                id: c.id.clone(),
                name: container.name.clone(),
                shrinks: resize::shrinks(container, has),
            }),
        }
        false
    }

    /// Starts a container, unless it failed too recently.
    fn start(&mut self, container: &Container) {
        let (name, key) = (&container.name, backoff::of_container(container));
        if let Some(until) = self.backoff.held(&key, self.now) {
            // It shows why already.
            self.out.push(Effect::WakeAt(until));
            return;
        }
        let last = self.seen.newest(name);
        let failed_at = last
            .filter(|c| c.run == Run::Exited)
            .and_then(|c| c.finished_at);
        if let Some(since) = failed_at
            && let Some((delay, until)) = self.backoff.waiting(&key, since, self.now)
        {
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                backoff::words(delay),
                spec::full_name(self.pod)
            );
            self.out.push(Effect::BackOff {
                name: name.clone(),
                message,
            });
            self.out.push(Effect::WakeAt(until));
            return;
        }
        // What the runtime lost track of is stopped first.
        if let Some(c) = last.filter(|c| matches!(c.run, Run::Unknown | Run::Running)) {
            self.out.push(Effect::Kill(Kill {
                id: c.id.clone(),
                name: name.clone(),
                grace_seconds: spec::grace_seconds(self.pod),
                message: String::new(),
                ..Default::default()
            }));
        }
        // One that was made and never started is not an attempt: its number is used again, and nobody
        // who began to start it can end with two that run.
        let unstarted = last.filter(|c| c.run == Run::Created);
        if let Some(c) = unstarted {
            if let Some(until) = self.backoff.held(backoff::REMOVE, self.now) {
                self.out.push(Effect::WakeAt(until));
                return;
            }
            self.out.push(Effect::RemoveContainer {
                id: c.id.clone(),
                log: c.log_path.clone(),
            });
        }
        let next = |c: &SeenContainer| c.attempt + u32::from(unstarted.is_none());
        self.out.push(Effect::Start {
            name: name.clone(),
            attempt: last.map_or(0, next),
            sandbox_id: self.sandbox.to_owned(),
            round: self.round.number,
        });
    }
}

/// How a pod ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All containers ended well.
    Succeeded,
    /// One did not and will not be started again.
    Failed,
}

/// Whether all is over: no container will be started again.
#[must_use]
pub fn outcome(pod: &Pod, seen: &SeenPod) -> Option<Outcome> {
    let round = Round::of(pod, seen);
    if round.ends {
        return None;
    }
    let newest = |name: &str| seen.newest(name).filter(|c| round.counts(pod, c));
    let newest_sandbox = seen.sandboxes.first().map(|s| s.id.as_str());
    let initialized = spec::containers(pod)
        .iter()
        .any(|c| newest(&c.name).is_some());
    let init_failed = spec::init_containers(pod)
        .iter()
        .filter(|c| !spec::is_sidecar(c))
        .any(|c| {
            newest(&c.name).is_some_and(|s| {
                Some(s.sandbox_id.as_str()) == newest_sandbox
                    && s.run == Run::Exited
                    && s.exit_code != 0
                    && !restart_policy::should_restart(pod, c, s)
            })
        });
    if init_failed && !initialized {
        return Some(Outcome::Failed);
    }
    let mut failed = false;
    for container in spec::containers(pod) {
        let last = newest(&container.name).filter(|c| c.run == Run::Exited)?;
        if restart_policy::should_restart(pod, container, last) {
            return None;
        }
        failed |= last.exit_code != 0;
    }
    Some(if failed {
        Outcome::Failed
    } else {
        Outcome::Succeeded
    })
}
