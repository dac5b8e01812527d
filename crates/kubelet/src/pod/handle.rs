//! What the task of a pod is given, and what it shows to others.

use super::runtime_state::SeenPod;
use super::spec;
use arc_swap::ArcSwap;
use clock::watch;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a pod should be.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Its object, or the last one seen.
    pub pod: Arc<Pod>,
    /// The object is gone from the API.
    pub gone: bool,
    /// The node wants it to end.
    pub end: Option<End>,
    /// Where it is from.
    pub origin: Origin,
}

/// Where a pod is from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Origin {
    /// The API.
    #[default]
    Api,
    /// A file of the node. The API shows its mirror, once that is made.
    File {
        /// The mirror, if it shows this pod.
        mirror: Option<Arc<Pod>>,
    },
}

/// An end that the node decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Such as `Evicted`.
    pub reason: String,
    /// Shown in the status.
    pub message: String,
    /// How long it may take.
    pub grace_seconds: i64,
}

impl Desired {
    /// What the API has of it; none for a static pod without a mirror.
    #[must_use]
    pub fn shown(&self) -> Option<&Arc<Pod>> {
        match &self.origin {
            Origin::Api => Some(&self.pod),
            Origin::File { mirror } => mirror.as_ref(),
        }
    }

    /// Whether it is a file's.
    #[must_use]
    pub fn is_static(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }

    /// Whether it must end.
    #[must_use]
    pub fn must_end(&self) -> bool {
        self.gone || self.end.is_some() || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// How long an end may take at most; a smaller value interrupts a running one.
    #[must_use]
    pub fn urgency(&self) -> i64 {
        let own = if self.must_end() {
            spec::grace_seconds(&self.pod)
        } else {
            i64::MAX
        };
        self.end.as_ref().map_or(own, |e| own.min(e.grace_seconds))
    }
}

/// What others may know of a pod.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Its object with the newest status.
    pub pod: Arc<Pod>,
    /// What the runtime has.
    pub seen: Arc<SeenPod>,
    /// Nothing runs and nothing will.
    pub over: bool,
    /// The UID by which the API knows a static pod.
    pub mirror_uid: Option<String>,
    /// Cancelled when the sandbox that this shows works no more: what was connected to its
    /// address must not go on, since another pod may get it.
    pub life: CancellationToken,
}

/// The sandbox that works, and the token of its life.
#[derive(Debug, Default)]
pub struct Life {
    sandbox: Option<String>,
    token: CancellationToken,
}

impl Life {
    /// The token of the sandbox that works now; those of others are cancelled.
    #[must_use]
    pub fn follow(&mut self, sandbox: Option<&str>) -> CancellationToken {
        if self.sandbox.as_deref() != sandbox {
            self.token.cancel();
            self.token = CancellationToken::new();
            self.sandbox = sandbox.map(str::to_owned);
        }
        self.token.clone()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// The outside of a worker.
#[derive(Debug)]
pub struct Handle {
    /// What the pod should be.
    pub desired: watch::Sender<Desired>,
    /// Look again.
    pub poke: Arc<Notify>,
    /// Containers whose end the runtime reported, but may not show yet.
    pub exits: Arc<Mutex<HashSet<String>>>,
    /// Set when an object that the pod uses changed, before a poke.
    pub objects_changed: Arc<AtomicBool>,
    /// What it is.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The task; it ends when nothing of the pod is left.
    pub task: tokio::task::JoinHandle<()>,
}

impl Drop for Handle {
    /// The pod's containers go on; only nobody looks after them.
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_connected_ends_with_the_sandbox() {
        let mut life = Life::default();
        let first = life.follow(Some("a"));
        assert!(!life.follow(Some("a")).is_cancelled() && !first.is_cancelled());
        let second = life.follow(Some("b"));
        assert!(first.is_cancelled() && !second.is_cancelled());
        let none = life.follow(None);
        assert!(second.is_cancelled() && !none.is_cancelled());
        drop(life);
        assert!(none.is_cancelled());
    }
}
