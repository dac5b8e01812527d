//! When a pod's task tries again what failed: images that could not be fetched, containers and
//! sandboxes that could not be made, what could not be stopped, removed or given back. How long each
//! waits is the back-off's ([`crate::pod::backoff`]).

use super::{ContainerEvent, Decision, Machine, Result, later};
use crate::images::RequiredImage;
use crate::pod::backoff::{self, Backoff};
use crate::pod::plan::Effect;
use crate::pod::spec;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::time::Duration;

/// Between looks when the runtime, or whoever else must be asked first, does not answer.
const SILENCE: SignedDuration = SignedDuration::from_secs(1);
/// Upstream's back-off of pulls: 10 s doubling to 5 minutes.
const PULL: Duration = Duration::from_secs(10);
const PULL_MAX: Duration = Duration::from_secs(300);

/// Waits before pulls, by image.
#[must_use]
pub fn pulls() -> Backoff {
    Backoff::new(PULL, PULL_MAX)
}

/// An image that could not be fetched.
#[derive(Clone, Debug)]
pub struct NotPulled {
    since: Timestamp,
    why: String,
}

impl Machine {
    /// When to look again, if what must be asked does not answer.
    #[must_use]
    pub fn after_silence(now: Timestamp) -> Timestamp {
        later(now, SILENCE)
    }

    /// Does an effect, or waits until what it needs may be tried again.
    pub(super) fn sort(&mut self, pod: &Pod, effect: Effect, out: &mut Decision, now: Timestamp) {
        let held = match &effect {
            Effect::Kill(_) => self.backoff.held(backoff::KILL, now),
            Effect::Resize { .. } | Effect::LimitPod { .. } => {
                self.backoff.held(backoff::RESIZE, now)
            }
            Effect::Release => self.backoff.held(backoff::RELEASE, now),
            // Not before all is given back: then nobody would know of it any more.
            Effect::DeleteObject => {
                let released = self.backoff.held(backoff::RELEASE, now);
                released.or_else(|| self.backoff.held(backoff::DELETE, now))
            }
            Effect::Start { name, .. } => self.awaits_pull(pod, name, out, now),
            _ => None,
        };
        if let Some(at) = held {
            out.wake(at);
            return;
        }
        match effect {
            Effect::Kill(kill) => out.kills.push(kill),
            Effect::WakeAt(at) => out.wake(at),
            Effect::BackOff { name, message } => {
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    spec::full_name(pod)
                );
                self.waits(out, name, ("CrashLoopBackOff", message), true, text);
            }
            other => out.effects.push(other),
        }
    }

    /// Until when a container waits for the next try to fetch its image.
    fn awaits_pull(
        &mut self,
        pod: &Pod,
        name: &str,
        out: &mut Decision,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let container = spec::find(pod, name)?;
        let (image, failed, until) =
            RequiredImage::by(pod, &container).find_map(|(_, wanted)| {
                let failed = self.not_pulled.get(wanted.image)?;
                let (_, until) = self.pulls.waiting(wanted.image, failed.since, now)?;
                Some((wanted.image, failed, until))
            })?;
        let text = format!("Back-off pulling image \"{image}\"");
        let message = format!("{text}: ErrImagePull: {}", failed.why);
        self.waits(
            out,
            name.to_owned(),
            ("ImagePullBackOff", message),
            false,
            text,
        );
        Some(until)
    }

    /// Notes why a container waits; says so when that is new.
    fn waits(
        &mut self,
        out: &mut Decision,
        container: String,
        (reason, message): (&str, String),
        warns: bool,
        text: String,
    ) {
        let why = (reason.to_owned(), message);
        if self.waiting.insert(container.clone(), why.clone()) != Some(why) {
            out.said.push(ContainerEvent {
                container,
                warns,
                message: text,
            });
        }
    }

    /// Notes what became of an effect.
    pub fn note(&mut self, pod: &Pod, effect: &Effect, result: &Result, now: Timestamp) {
        let done = *result == Result::Done;
        let key = match effect {
            Effect::CreateSandbox { attempt } => {
                if *attempt > 0 || self.had_sandbox {
                    self.backoff.next(backoff::SANDBOX, now);
                }
                if done {
                    self.had_sandbox = true;
                    self.note_volumes(now);
                }
                backoff::SANDBOX
            }
            Effect::StopSandbox { .. } => {
                if !done {
                    self.backoff.failed(backoff::SANDBOX, now);
                }
                backoff::STOP
            }
            Effect::Start { name, attempt, .. } => {
                let container = spec::find(pod, name);
                let key = container.as_ref().map(backoff::of_container);
                if let Some(image) = container.and_then(|c| c.image)
                    && !matches!(result, Result::NotPulled { .. } | Result::Failed)
                {
                    self.note_pulled(&image);
                }
                let key = key.unwrap_or_else(|| name.clone());
                return self.note_start((name, &key), *attempt, result, now);
            }
            Effect::Kill(_) => backoff::KILL,
            Effect::Resize { .. } | Effect::LimitPod { .. } => backoff::RESIZE,
            Effect::RefreshVolumes => {
                if done {
                    self.note_volumes(now);
                }
                backoff::VOLUMES
            }
            Effect::RemoveContainer { .. } | Effect::RemoveSandbox { .. } => backoff::REMOVE,
            Effect::DeleteObject => backoff::DELETE,
            Effect::Release => backoff::RELEASE,
            Effect::WakeAt(_) | Effect::BackOff { .. } => return,
        };
        if done {
            self.backoff.succeeded(key);
        } else {
            self.backoff.failed(key, now);
        }
    }

    fn note_volumes(&mut self, now: Timestamp) {
        self.volumes_at = Some(now);
        self.is_stale = false;
    }

    fn note_start(
        &mut self,
        (name, key): (&str, &str),
        attempt: u32,
        result: &Result,
        now: Timestamp,
    ) {
        if let Result::NotPulled { image, message } = result {
            self.pulls.next(image, now);
            let failed = NotPulled {
                since: now,
                why: message.clone(),
            };
            self.not_pulled.insert(image.clone(), failed);
            let why = ("ErrImagePull".to_owned(), message.clone());
            self.waiting.insert(name.to_owned(), why);
            return;
        }
        let tried = match result {
            Result::Done => true,
            Result::NotStarted { tried, .. } => *tried,
            Result::Failed | Result::NotPulled { .. } => false,
        };
        if attempt > 0 && tried {
            // However it ends: a start that fails waits longer, too.
            self.backoff.next(key, now);
        }
        match result {
            Result::Done => {
                self.waiting.remove(name);
                self.backoff.succeeded(key);
            }
            Result::NotStarted {
                reason, message, ..
            } => {
                let why = (reason.clone(), message.clone());
                self.waiting.insert(name.to_owned(), why);
                self.backoff.failed(key, now);
            }
            Result::Failed | Result::NotPulled { .. } => self.backoff.failed(key, now),
        }
    }

    /// Notes that an image is here.
    fn note_pulled(&mut self, image: &str) {
        self.pulls.reset(image);
        self.not_pulled.remove(image);
    }
}
