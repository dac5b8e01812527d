//! When what was found of nodes for one pod holds for another: the pods are equal, and all checks that
//! have a say look at the pod and one node alone ([`Check::is_steady`](crate::plugins::Check::is_steady)).

use std::sync::Arc;

use crate::decide::{Checks, Profile};
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// What equal pods have in common.
pub struct Alike {
    /// One of them, without a UID: room that is made for one of them is not for this one.
    pod: Arc<Pod>,
    /// The place of their profile.
    profile: usize,
    /// The places of the plugins that have a say.
    plugins: Vec<usize>,
}

impl Alike {
    /// None where nothing holds for other pods; one that is not even like itself is never equal.
    pub fn new(checks: &Checks<'_>, pod: &Arc<Pod>, profile: usize) -> Option<Self> {
        (pod.is_like(pod) && are_steady(checks)).then(|| Self {
            pod: Arc::new(Pod {
                uid: Arc::from(""),
                ..Pod::clone(pod)
            }),
            profile,
            plugins: plugins(checks).collect(),
        })
    }

    /// Any of them.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Whether a pod, with its profile at this place, is one of them.
    pub fn means(&self, pod: &Pod, profile: usize) -> bool {
        self.profile == profile && self.pod.is_like(pod)
    }

    /// The checks of a pod that is one of them. None where a plugin has a say that had none, or none that
    /// had one: a pod that came or went may have given or taken it.
    pub fn checks<'a>(
        &self,
        snapshot: &'a Snapshot,
        pod: &'a Pod,
        profile: &'a Profile,
    ) -> Option<Checks<'a>> {
        let checks = profile.prepare(pod, snapshot).ok()?;
        let same = are_steady(&checks) && plugins(&checks).eq(self.plugins.iter().copied());
        same.then_some(checks)
    }
}

fn are_steady(checks: &Checks<'_>) -> bool {
    checks.iter().all(|p| p.check.is_steady())
}

fn plugins(checks: &Checks<'_>) -> impl Iterator<Item = usize> {
    checks.iter().map(|p| p.plugin)
}
