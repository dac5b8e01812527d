//! How far a pod is, and its next step. Pure.
//!
//! ```text
//!              Sync: plan → effects
//!               ┌────┐
//!               │    ▼
//!   new ──────▶ Running ──── all containers ended for good ────┐
//!                  │                                           │
//!                  │ End (deleted, evicted, past deadline)     │
//!                  ▼                                           ▼
//!              Ending(why, until) ◀──── End: only shortens ── Ending(Completed)
//!                  │
//!                  │ nothing runs any more: Release
//!           ┌──────┴───────────────┐
//!           ▼                      ▼
//!       Gone (deleted)         Finished (object stays, phase says how)
//!           ▲                      │
//!           └── End(Deleted) ──────┘
//! ```
//!
//! Never backwards from `Ending`; its deadline only gets shorter.

use super::backoff::{self, Backoff};
use super::plan::{self, Effect, Facts, Kill, Outcome};
use super::runtime_state::{SeenContainer, SeenPod};
use super::spec;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

/// Why a pod ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its object is being deleted or is gone.
    Deleted,
    /// The node or a deadline ends it: the phase becomes Failed with this reason.
    Failed {
        /// Such as `Evicted`.
        reason: String,
        /// Shown in the status.
        message: String,
        /// The node ends it for reasons of its own: it disturbs a pod that it had taken.
        disrupted: bool,
    },
    /// Its containers ended by themselves.
    Completed(Outcome),
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It should run.
    Running,
    /// It is being stopped.
    Ending {
        /// Why.
        why: Why,
        /// When what still runs is killed.
        until: Timestamp,
    },
    /// Nothing of it runs; the object stays.
    Finished(Why),
    /// Nothing of it is left.
    Gone,
}

impl Stage {
    /// Why it ends or ended, if it does.
    #[must_use]
    pub fn why(&self) -> Option<&Why> {
        match self {
            Self::Ending { why, .. } | Self::Finished(why) => Some(why),
            Self::Running | Self::Gone => None,
        }
    }

    /// Whether nothing runs any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Gone)
    }
}

/// What makes a pod take a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Look at everything again.
    Sync,
    /// It must end within this many seconds.
    End {
        /// Why.
        why: Why,
        /// How long it may take.
        grace_seconds: i64,
    },
}

/// The next stage and what to do for it.
#[must_use]
pub fn step(
    stage: Stage,
    pod: &Pod,
    seen: &SeenPod,
    facts: &Facts,
    backoff: &Backoff,
    input: Input,
    now: Timestamp,
) -> (Stage, Vec<Effect>) {
    match (stage, input) {
        (Stage::Running, Input::Sync) => match plan::outcome(pod, seen) {
            Some(outcome) => end(
                Why::Completed(outcome),
                deadline(now, spec::grace_seconds(pod)),
                pod,
                seen,
                backoff,
                now,
            ),
            None => (Stage::Running, plan::plan(pod, seen, facts, backoff, now)),
        },
        (Stage::Running, Input::End { why, grace_seconds }) => {
            end(why, deadline(now, grace_seconds), pod, seen, backoff, now)
        }
        (Stage::Ending { why, until }, Input::Sync) => end(why, until, pod, seen, backoff, now),
        (Stage::Ending { why: old, until }, Input::End { why, grace_seconds }) => {
            // Deletion outranks every other reason: then the object must go.
            let why = if why == Why::Deleted { why } else { old };
            end(
                why,
                until.min(deadline(now, grace_seconds)),
                pod,
                seen,
                backoff,
                now,
            )
        }
        (Stage::Finished(why), Input::Sync) => {
            if seen.is_stopped() {
                (Stage::Finished(why), release_again(backoff))
            } else {
                end(why, now, pod, seen, backoff, now)
            }
        }
        (Stage::Finished(old), Input::End { why, .. }) => match why {
            Why::Deleted => end(why, now, pod, seen, backoff, now),
            Why::Failed { .. } | Why::Completed(_) => (Stage::Finished(old), Vec::new()),
        },
        (Stage::Gone, Input::Sync | Input::End { .. }) => {
            let mut effects = release_again(backoff);
            effects.push(Effect::DeleteObject);
            (Stage::Gone, effects)
        }
    }
}

/// What is mounted is given back once; again only where that failed.
fn release_again(backoff: &Backoff) -> Vec<Effect> {
    let failed = backoff.has_failed(backoff::RELEASE);
    failed.then_some(Effect::Release).into_iter().collect()
}

fn deadline(now: Timestamp, grace_seconds: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(grace_seconds.max(0)))
        .unwrap_or(Timestamp::MAX)
}

fn end(
    why: Why,
    until: Timestamp,
    pod: &Pod,
    seen: &SeenPod,
    backoff: &Backoff,
    now: Timestamp,
) -> (Stage, Vec<Effect>) {
    if seen.is_stopped() {
        return match why {
            Why::Deleted => (Stage::Gone, vec![Effect::Release, Effect::DeleteObject]),
            Why::Failed { .. } | Why::Completed(_) => (Stage::Finished(why), vec![Effect::Release]),
        };
    }
    let effects = kills(until, pod, seen, backoff, now);
    (Stage::Ending { why, until }, effects)
}

/// Seconds that a sidecar gets at least when its turn comes; upstream's value.
const MINIMUM_SECONDS: i64 = 2;

/// Ordinary containers go first; sidecars serve them until then, and end one by one in the
/// reverse of their order, as long as there is time; the sandbox goes last. The hooks of all run
/// at once, as upstream.
fn kills(
    until: Timestamp,
    pod: &Pod,
    seen: &SeenPod,
    backoff: &Backoff,
    now: Timestamp,
) -> Vec<Effect> {
    let left = until.duration_since(now).as_secs().max(0);
    let turn = |name: &str| {
        spec::init_containers(pod)
            .iter()
            .position(|c| c.name == name && spec::is_sidecar(c))
    };
    let kill = |c: &SeenContainer| {
        let own = turn(&c.name);
        let before = |other: &&SeenContainer| {
            own.is_some() && turn(&other.name).is_none_or(|t| Some(t) > own)
        };
        let after = seen.alive().filter(|_| left > 0).filter(before);
        Effect::Kill(Kill {
            id: c.id.clone(),
            name: c.name.clone(),
            grace_seconds: own.map_or(left, |_| left.max(MINIMUM_SECONDS)),
            message: format!("Stopping container {}", c.name),
            after: after.map(|other| other.id.clone()).collect(),
        })
    };
    let all: Vec<Effect> = seen.alive().map(kill).collect();
    if !all.is_empty() {
        return all;
    }
    if let Some(until) = backoff.held(backoff::STOP, now) {
        return vec![Effect::WakeAt(until)];
    }
    let ready = seen.sandboxes.iter().filter(|s| s.ready);
    ready
        .map(|s| Effect::StopSandbox { id: s.id.clone() })
        .collect()
}
