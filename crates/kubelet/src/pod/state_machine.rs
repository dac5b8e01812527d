//! What the task of a pod decides. From what it remembers and what it sees come effects; what
//! became of them changes what it remembers. All waits are decided here: back-off, holds after
//! failures ([`retries`]), deadlines, pauses between looks. Pure: time is an argument, and there is
//! no I/O; the task ([`super::worker`]) sees, performs and reports.
//!
//! It remembers only what neither the runtime nor the API shows: how often something failed in a
//! row, why containers wait, and when volumes were brought up to date.

mod retries;

use super::admit::Refusal;
use super::backoff::{self, Backoff};
use super::handle::End;
use super::plan::{Effect, Facts, Kill, Outcome};
use super::runtime_state::{Run, SeenPod};
use super::spec;
use super::stage::{Input, Stage, Why, step};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use retries::NotPulled;
use std::collections::HashMap;

/// Volumes from objects and tokens are brought up to date this often; changes come by events
/// before.
const REFRESH: SignedDuration = SignedDuration::from_secs(60);
/// A resize without room is asked for again.
const RESIZE_AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// Dead attempts of a container that are kept, for `logs` and `logs --previous`.
const ATTEMPTS: usize = 2;

/// Reason and message of what keeps a container from running, by its name.
pub type Waiting = HashMap<String, (String, String)>;

/// What is seen of a pod, and wanted of it.
#[derive(Clone, Debug)]
pub struct World<'a> {
    /// Its object, with what it was given and the status that the node knows.
    pub pod: &'a Pod,
    /// The phase that the API's own object shows.
    pub shown: Option<&'a str>,
    /// What the runtime has of it.
    pub seen: &'a SeenPod,
    /// What probes and control groups say.
    pub facts: &'a Facts,
    /// Its object is gone from the API.
    pub gone: bool,
    /// The node wants it to end.
    pub end: Option<&'a End>,
    /// The node does not take it.
    pub refused: Option<&'a Refusal>,
    /// An object that it uses changed.
    pub objects_changed: bool,
    /// The runtime reported an end that it does not show yet.
    pub awaits_exit: bool,
    /// It wants other resources, for which there is no room now.
    pub resize_waits: bool,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Containers to stop, all at once, before anything else.
    pub kills: Vec<Kill>,
    /// Then this, one after another. What depends on the kills is decided after them.
    pub effects: Vec<Effect>,
    /// Look again at this time, if nothing happens before.
    pub wake_at: Option<Timestamp>,
    /// What begins to be so, for events.
    pub said: Vec<ContainerEvent>,
}

/// Something of a container that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Its name.
    pub container: String,
    /// It is bad.
    pub warns: bool,
    /// For people.
    pub message: String,
}

impl Decision {
    /// Whether there is nothing to do but to wait.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.kills.is_empty() && self.effects.is_empty()
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }
}

/// What became of an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Result {
    /// It is done.
    Done,
    /// It failed.
    Failed,
    /// A container could not be started.
    NotStarted {
        /// Shown in the status.
        reason: String,
        /// Shown beside it.
        message: String,
        /// It came as far as the container's own start, which counts as a restart.
        tried: bool,
    },
    /// The image of a container could not be fetched.
    NotPulled {
        /// The image.
        image: String,
        /// Why.
        message: String,
    },
}

/// What the task of a pod remembers.
#[derive(Clone, Debug)]
pub struct Machine {
    stage: Stage,
    backoff: Backoff,
    waiting: Waiting,
    pulls: Backoff,
    /// Images that could not be fetched.
    not_pulled: HashMap<String, NotPulled>,
    /// When volumes were brought up to date; none: not by this kubelet.
    volumes_at: Option<Timestamp>,
    /// Volumes do not show the newest objects yet.
    is_stale: bool,
    /// A sandbox was made; one that the runtime no longer knows counts as one that ended.
    had_sandbox: bool,
    /// Looks in a row that did not show an end that was reported.
    looks: u32,
    /// By how much the clock was set since the pod was seen first.
    set_by: SignedDuration,
}

impl Machine {
    /// Of a pod that this kubelet sees for the first time. One that the API calls ended does not
    /// start again.
    #[must_use]
    pub fn new(phase: Option<&str>, backoff: Backoff) -> Self {
        let stage = ended(phase).map_or(Stage::Running, |outcome| {
            Stage::Finished(Why::Completed(outcome))
        });
        Self {
            stage,
            backoff,
            waiting: Waiting::new(),
            pulls: retries::pulls(),
            not_pulled: HashMap::new(),
            volumes_at: None,
            is_stale: false,
            had_sandbox: false,
            looks: 0,
            set_by: SignedDuration::ZERO,
        }
    }

    /// How far the pod is.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Why containers wait.
    #[must_use]
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Whether this kubelet has made the volumes.
    #[must_use]
    pub fn has_volumes(&self) -> bool {
        self.volumes_at.is_some()
    }

    /// Notes by how much the clock was set; below zero: back. A pod has as long as it had before, until
    /// its own deadline and until what still runs of it is killed: those are counted by the clock only
    /// from one kubelet to the next. (Of back-offs see [`backoff`]: they are shorter.)
    pub fn clock_was_set(&mut self, by: SignedDuration) {
        self.set_by = self.set_by.saturating_add(by);
        if let Stage::Ending { until, .. } = &mut self.stage {
            *until = later(*until, by);
        }
    }

    /// The next step.
    pub fn step(&mut self, world: &World, now: Timestamp) -> Decision {
        if world.objects_changed {
            self.is_stale = true;
            self.backoff.let_go();
        }
        let input = self.input(world, now);
        let old = std::mem::replace(&mut self.stage, Stage::Gone);
        let until = end_of(&old);
        let (stage, planned) = step(
            old,
            world.pod,
            world.seen,
            world.facts,
            &self.backoff,
            input,
            now,
        );
        if end_of(&stage)
            .zip(until)
            .is_some_and(|(new, old)| new < old)
        {
            // Whoever shortens an end wants another try.
            self.backoff.succeeded(backoff::KILL);
        }
        self.stage = stage;
        self.waiting.retain(|name, _| {
            world
                .seen
                .newest(name)
                .is_none_or(|c| c.run != Run::Running)
        });
        let mut out = Decision::default();
        // A container that could not be stopped is not started beside itself.
        let stuck = self.backoff.held(backoff::KILL, now).is_some();
        let kills = planned.iter().filter_map(|e| match e {
            Effect::Kill(kill) if stuck => Some(kill.name.clone()),
            _ => None,
        });
        let stuck: Vec<String> = kills.collect();
        for effect in planned {
            let waits = matches!(&effect, Effect::Start { name, .. } if stuck.contains(name));
            if !waits {
                self.sort(world.pod, effect, &mut out, now);
            }
        }
        let starts = |e: &Effect| matches!(e, Effect::Start { .. });
        if !out.kills.is_empty() && !out.effects.iter().any(starts) {
            out.effects.clear();
        }
        if out.is_idle() {
            self.upkeep(world, &mut out, now);
        }
        self.looks = if world.awaits_exit { self.looks + 1 } else { 0 };
        if self.looks > 0 {
            // The event came before the runtime's own books were written: look again soon.
            out.wake(later(
                now,
                SignedDuration::from_millis(10 << self.looks.min(7)),
            ));
        }
        out
    }

    /// What goes on while nothing has to be done: fresh volumes, fewer dead containers, and the
    /// times at which to look again.
    fn upkeep(&mut self, world: &World, out: &mut Decision, now: Timestamp) {
        let runs = self.stage == Stage::Running;
        if runs && let Some(at) = self.deadline(world.pod) {
            out.wake(at);
        }
        if runs && world.resize_waits {
            out.wake(later(now, RESIZE_AGAIN));
        }
        let volumes = spec::of(world.pod).volumes.as_deref().unwrap_or_default();
        if runs && world.seen.ready_sandbox().is_some() && !volumes.is_empty() {
            let due = match self.volumes_at {
                // One that lies ahead: the clock was set back.
                Some(at) if !self.is_stale && at <= now => later(at, REFRESH),
                _ => now,
            };
            let due = due.max(self.backoff.held(backoff::VOLUMES, now).unwrap_or(due));
            if due <= now {
                out.effects.push(Effect::RefreshVolumes);
            } else {
                out.wake(due);
            }
        }
        if let Some(at) = self.backoff.held(backoff::REMOVE, now) {
            out.wake(at);
        } else {
            out.effects.extend(dead(world.seen));
        }
    }

    /// Whether what follows an effect depends on it.
    #[must_use]
    pub fn bears_the_next(effect: &Effect) -> bool {
        matches!(
            effect,
            Effect::StopSandbox { .. }
                | Effect::Resize { .. }
                | Effect::LimitPod { .. }
                | Effect::CreateSandbox { .. }
                | Effect::Release
        )
    }

    fn input(&self, world: &World, now: Timestamp) -> Input {
        let pod = world.pod;
        let grace_seconds = spec::grace_seconds(pod);
        let end = |why, grace_seconds| Input::End { why, grace_seconds };
        if world.gone || pod.metadata.deletion_timestamp.is_some() {
            return end(Why::Deleted, grace_seconds);
        }
        if let Some(wanted) = world.end {
            let why = Why::Failed {
                reason: wanted.reason.clone(),
                message: wanted.message.clone(),
                disrupted: true,
            };
            return end(why, wanted.grace_seconds);
        }
        if self.stage != Stage::Running {
            return Input::Sync;
        }
        if let Some(outcome) = ended(world.shown) {
            // Somebody else ended it, such as the pod garbage collector.
            return end(Why::Completed(outcome), grace_seconds);
        }
        if self.deadline(pod).is_some_and(|at| at <= now) {
            let message = "Pod was active on the node longer than the specified deadline";
            return end(failed("DeadlineExceeded", message.into()), grace_seconds);
        }
        if let Some(refusal) = world.refused {
            let message = format!("Pod was rejected: {}", refusal.message);
            return end(failed(&refusal.reason, message), 0);
        }
        Input::Sync
    }

    /// When the pod's own deadline is over.
    fn deadline(&self, pod: &Pod) -> Option<Timestamp> {
        let seconds = spec::of(pod).active_deadline_seconds?;
        let start = pod.status.as_ref()?.start_time.as_ref()?.0;
        let at = start.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        Some(later(at, self.set_by))
    }
}

/// It fails for reasons of its own: its time is over, or the node never took it.
fn failed(reason: &str, message: String) -> Why {
    Why::Failed {
        reason: reason.to_owned(),
        message,
        disrupted: false,
    }
}

fn later(t: Timestamp, by: SignedDuration) -> Timestamp {
    t.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn end_of(stage: &Stage) -> Option<Timestamp> {
    match stage {
        Stage::Ending { until, .. } => Some(*until),
        Stage::Running | Stage::Finished(_) | Stage::Gone => None,
    }
}

/// The end that the API shows.
#[must_use]
pub fn ended(phase: Option<&str>) -> Option<Outcome> {
    match phase {
        Some("Succeeded") => Some(Outcome::Succeeded),
        Some("Failed") => Some(Outcome::Failed),
        _ => None,
    }
}

/// What need not be kept: all but the newest attempts of each container, and sandboxes in which
/// none of those is.
fn dead(seen: &SeenPod) -> Vec<Effect> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let (mut out, mut kept) = (Vec::new(), Vec::new());
    for container in &seen.containers {
        let count = counts.entry(&container.name).or_default();
        *count += 1;
        if *count > ATTEMPTS && matches!(container.run, Run::Exited | Run::Created) {
            out.push(Effect::RemoveContainer {
                id: container.id.clone(),
                log: container.log_path.clone(),
            });
        } else {
            kept.push(&container.sandbox_id);
        }
    }
    let old = seen.sandboxes.iter().skip(1);
    let unused = old.filter(|s| !s.ready && !kept.contains(&&s.id));
    out.extend(unused.map(|s| Effect::RemoveSandbox { id: s.id.clone() }));
    out
}

#[cfg(test)]
mod tests;
