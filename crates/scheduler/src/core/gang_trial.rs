//! A trial whether all pods that a gang lacks would get nodes, each with the room of less important pods
//! where that helps. No pod of a gang takes anybody's room before it: else a gang that can never be
//! complete would end others in vain. It is made on the snapshot itself, which is as before when the
//! trial is dropped.

use std::sync::Arc;

use crate::decide::{Outcome, Profile, decide};
use crate::pod::Pod;
use crate::preempt::{Preemption, preempt};
use crate::snapshot::Snapshot;

/// What is to be taken back, the last first.
enum Done {
    /// A pod was put on a node; whether plugins have reserved what it takes there.
    Placed { pod: Arc<Pod>, reserved: bool },
    /// A pod was taken off its node.
    Gone {
        pod: Arc<Pod>,
        node: Arc<str>,
        assumed: bool,
    },
}

/// Trials of one gang that came to nothing.
pub(super) struct VainTrials {
    /// The pods for which they were made.
    pub of: Vec<Arc<Pod>>,
    /// How long they count.
    pub until_ms: u64,
}

pub(super) struct Trial<'a> {
    snapshot: &'a mut Snapshot,
    profiles: &'a [Profile],
    group: Arc<str>,
    seed: u64,
    done: Vec<Done>,
}

impl<'a> Trial<'a> {
    pub fn begin(
        snapshot: &'a mut Snapshot,
        profiles: &'a [Profile],
        group: Arc<str>,
        seed: u64,
    ) -> Self {
        Self {
            snapshot,
            profiles,
            group,
            seed,
            done: Vec::new(),
        }
    }

    fn profile(&self, pod: &Pod) -> Option<&'a Profile> {
        let profiles: &'a [Profile] = self.profiles;
        profiles.iter().find(|p| p.scheduler == *pod.scheduler)
    }

    /// Looks for a node, and for room where there is none. Whether the pod has one now.
    pub fn place(&mut self, pod: &Arc<Pod>) -> bool {
        let Some(profile) = self.profile(pod) else {
            return false;
        };
        for (plugin, _) in &profile.plugins {
            plugin.index(pod, self.snapshot);
        }
        let decision = decide(self.snapshot, pod, profile, self.seed);
        match &decision.outcome {
            Outcome::Node(node) => self.reserve(pod, node, profile),
            Outcome::NoNodes => false,
            Outcome::Unschedulable => {
                match preempt(self.snapshot, pod, profile, &decision, self.seed) {
                    Preemption::Possible { node, victims } => self.take(pod, &node, &victims),
                    Preemption::NotEligible(_) | Preemption::Off | Preemption::Hopeless(_) => false,
                }
            }
        }
    }

    fn reserve(&mut self, pod: &Arc<Pod>, node: &Arc<str>, profile: &Profile) -> bool {
        let mut plugins = profile.plugins.iter();
        if plugins.any(|(p, _)| p.reserve(pod, node, self.snapshot).is_err()) {
            unreserve(pod, Some(profile), self.snapshot);
            return false;
        }
        self.snapshot.assume(node, pod.clone());
        self.done.push(Done::Placed {
            pod: pod.clone(),
            reserved: true,
        });
        true
    }

    /// Puts a pod on a node from which these go. What they use besides room may be free only when they
    /// have ended, so nothing of that is reserved. Not where the gang itself would lose a pod.
    pub fn take(&mut self, pod: &Arc<Pod>, node: &Arc<str>, victims: &[Arc<Pod>]) -> bool {
        if victims
            .iter()
            .any(|v| v.wants.group.as_ref() == Some(&self.group))
        {
            return false;
        }
        for victim in victims {
            let place = self.snapshot.place(&victim.uid);
            let Some((node, assumed)) = place.map(|(node, assumed)| (node.clone(), assumed)) else {
                continue;
            };
            self.snapshot.remove_pod(&victim.uid);
            self.done.push(Done::Gone {
                pod: victim.clone(),
                node,
                assumed,
            });
        }
        self.snapshot.assume(node, pod.clone());
        self.done.push(Done::Placed {
            pod: pod.clone(),
            reserved: false,
        });
        true
    }
}

fn unreserve(pod: &Pod, profile: Option<&Profile>, snapshot: &mut Snapshot) {
    for (plugin, _) in profile.iter().flat_map(|p| &p.plugins) {
        plugin.unreserve(pod, snapshot);
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        while let Some(done) = self.done.pop() {
            match done {
                Done::Placed { pod, reserved } => {
                    self.snapshot.forget(&pod.uid);
                    if reserved {
                        unreserve(&pod, self.profile(&pod), self.snapshot);
                    }
                }
                Done::Gone { pod, node, assumed } => match assumed {
                    true => self.snapshot.assume(&node, pod),
                    false => self.snapshot.observe(&node, pod),
                },
            }
        }
    }
}
