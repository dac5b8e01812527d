//! What a runtime in memory holds, and how its containers end.

use super::{Behaviour, Step};
use crate::runtime::types::{
    ContainerStatus, Event, Handler, IdRange, Image, Nanos, Resources, Sandbox, SandboxNetwork,
    State,
};
use crate::runtime::{Error, ErrorKind, Result};
use futures::channel::mpsc;
use std::collections::BTreeMap;

/// All sandboxes, containers and images.
#[derive(Debug, Default)]
pub(super) struct FakeState {
    pub(super) now: Nanos,
    pub(super) made: u64,
    pub(super) sandboxes: BTreeMap<String, (Sandbox, SandboxNetwork)>,
    pub(super) containers: BTreeMap<String, FakeContainer>,
    /// What its default handler can do.
    pub(super) handler: Option<Handler>,
    /// Whose users sandboxes have, by their ids.
    pub(super) users: BTreeMap<String, IdRange>,
    pub(super) images: BTreeMap<String, Image>,
    pub(super) behaviours: BTreeMap<String, Behaviour>,
    /// How often calls fail from now on.
    pub(super) failures: BTreeMap<Step, u32>,
    pub(super) listeners: Vec<mpsc::UnboundedSender<Event>>,
    /// Numbers of all calls, for tests of what is tried how often.
    pub(super) calls: BTreeMap<Step, u64>,
}

/// A container, and when it will end.
#[derive(Clone, Debug)]
pub(super) struct FakeContainer {
    pub(super) status: ContainerStatus,
    pub(super) resources: Resources,
    /// When it ends by itself.
    pub(super) ends_at: Option<Nanos>,
}

impl FakeState {
    pub(super) fn may_fail(&mut self, step: Step) -> Result<()> {
        for kind in [step, Step::Any] {
            if let Some(left) = self.failures.get_mut(&kind).filter(|left| **left > 0) {
                *left -= 1;
                return Err(Error::new(ErrorKind::Other, format!("{step:?} fails")));
            }
        }
        Ok(())
    }

    pub(super) fn id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}-{}", self.made)
    }

    pub(super) fn publish(&mut self, event: &Event) {
        self.listeners
            .retain(|listener| listener.unbounded_send(event.clone()).is_ok());
    }

    pub(super) fn behaviour(&self, id: &str) -> Behaviour {
        let container = self.containers.get(id).map(|c| &c.status.container);
        let image = container.map(|c| c.image_ref.as_str()).unwrap_or_default();
        self.behaviours.get(image).cloned().unwrap_or_default()
    }

    pub(super) fn end(&mut self, id: &str, exit_code: i32) {
        let now = self.now;
        let Some(kept) = self.containers.get_mut(id) else {
            return;
        };
        if kept.status.container.state != State::Running {
            return;
        }
        kept.ends_at = None;
        kept.status.container.state = State::Exited;
        kept.status.exit_code = exit_code;
        kept.status.finished_at = now;
        self.publish(&Event::Exited(id.to_owned()));
    }

    pub(super) fn stop(&mut self, id: &str, grace_seconds: i64) {
        /// What the kernel's SIGKILL gives.
        const KILLED: i32 = 137;
        let code = self
            .behaviour(id)
            .stopped_code
            .filter(|_| grace_seconds > 0);
        self.end(id, code.unwrap_or(KILLED));
    }

    pub(super) fn members(&self, sandbox: &str) -> Vec<String> {
        let all = self.containers.iter();
        all.filter(|(_, c)| c.status.container.sandbox_id == sandbox)
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub(super) fn image(&self, name: &str) -> Option<&Image> {
        let by_name = self.images.get(name);
        by_name.or_else(|| self.images.values().find(|i| i.id == name))
    }
}
