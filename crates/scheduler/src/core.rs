//! The scheduler without clock and client: takes what the informers tell, and says which pod to
//! bind where or why it cannot be. Everything happens here in one order, so that a decision sees
//! all decisions before it.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;

use crate::decide::{Outcome, Profile, decide};
use crate::node::Offer;
use crate::plugins::Events;
use crate::pod::{Pod, is_terminal};
use crate::preempt::{Preemption, preempt};
use crate::queue::{Queue, Waits};
use crate::snapshot::Snapshot;
use crate::strings::Strings;

/// What is to be done about a pod.
#[derive(Debug)]
pub enum Step {
    /// Bind it, and say how that went ([`Core::not_bound`], or nothing when it went well).
    Bind { pod: Arc<Pod>, node: Arc<str> },
    /// Tell why it has no node.
    Unschedulable {
        pod: Arc<Pod>,
        message: String,
        /// Where room is made for it, and what must go.
        preemption: Option<(Arc<str>, Vec<Arc<Pod>>)>,
    },
}

pub struct Core {
    snapshot: Snapshot,
    queue: Queue,
    strings: Strings,
    profile: Profile,
    scheduler_name: String,
    happened: Events,
}

impl Core {
    /// Schedules the pods that name `scheduler_name`.
    pub fn new(scheduler_name: &str, profile: Profile, waits: Waits) -> Self {
        Self {
            snapshot: Snapshot::default(),
            queue: Queue::new(waits),
            strings: Strings::default(),
            profile,
            scheduler_name: scheduler_name.to_owned(),
            happened: Events::NONE,
        }
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    fn note(&mut self, events: Events) {
        self.happened = self.happened.with(events);
    }

    pub fn node_changed(&mut self, old: Option<&k8s::Node>, new: Option<&k8s::Node>) {
        let name_of = |n: &k8s::Node| n.metadata.name.clone().unwrap_or_default();
        let Some(new) = new else {
            if let Some(old) = old {
                self.snapshot.remove_node(&name_of(old));
            }
            return;
        };
        let name = self.strings.get(&name_of(new));
        let offer = Offer::read(new, &mut self.strings);
        let events = match self.snapshot.node(&name).filter(|n| n.exists) {
            None => Events::NODE_ADDED,
            Some(before) => {
                let when = |changed: bool, event| if changed { event } else { Events::NONE };
                let resources = before.allocatable != offer.allocatable
                    || before.allowed_pods != offer.allowed_pods;
                let taints =
                    before.taints != offer.taints || before.unschedulable != offer.unschedulable;
                when(before.labels != offer.labels, Events::NODE_LABELS)
                    .with(when(taints, Events::NODE_TAINTS))
                    .with(when(resources, Events::NODE_RESOURCES))
            }
        };
        self.snapshot.set_node(&name, offer);
        self.note(events);
    }

    pub fn namespace_changed(
        &mut self,
        old: Option<&k8s::Namespace>,
        new: Option<&k8s::Namespace>,
    ) {
        let Some(object) = new.or(old) else { return };
        let name = self
            .strings
            .get(object.metadata.name.as_deref().unwrap_or_default());
        let labels = new.map(|n| self.strings.labels(n.metadata.labels.as_ref()));
        self.snapshot.set_namespace(name, labels);
        self.note(Events::NAMESPACE_LABELS);
    }

    pub fn pod_changed(&mut self, old: Option<&k8s::Pod>, new: Option<&k8s::Pod>, now_ms: u64) {
        let uid_of = |p: &k8s::Pod| p.metadata.uid.clone().unwrap_or_default();
        if let Some(old) = old
            && new.is_none_or(|n| n.metadata.uid != old.metadata.uid)
        {
            self.pod_gone(&uid_of(old));
        }
        let Some(new) = new else { return };
        if is_terminal(new) {
            return self.pod_gone(&uid_of(new));
        }
        let same = old.filter(|o| o.metadata.uid == new.metadata.uid);
        let unchanged = same.is_some_and(|old| unchanged(old, new));
        let bound = new.spec.as_ref().and_then(|s| s.node_name.as_deref());
        if bound.is_some_and(|n| !n.is_empty()) {
            let confirmed = self.snapshot.place(&uid_of(new));
            if unchanged && confirmed.is_some_and(|(_, assumed)| !assumed) {
                return;
            }
            let pod = Pod::read(new, &mut self.strings);
            self.pod_bound(pod);
        } else {
            self.pod_waits(new, unchanged, now_ms);
        }
    }

    fn pod_gone(&mut self, uid: &str) {
        self.queue.remove(&Arc::from(uid));
        self.snapshot.end_nomination(uid);
        if self.snapshot.remove_pod(uid) {
            self.note(Events::POD_REMOVED);
        }
    }

    fn pod_bound(&mut self, pod: Pod) {
        let Some(node) = pod.node.clone() else { return };
        self.queue.remove(&pod.uid);
        self.snapshot.end_nomination(&pod.uid);
        match self.snapshot.pod(&pod.uid) {
            None => self.note(Events::POD_ADDED),
            Some(before) => {
                let labels = before.labels != pod.labels;
                let less = before.request != pod.request;
                let elsewhere = self.snapshot.place(&pod.uid).map(|(n, _)| n) != Some(&node);
                if labels || elsewhere {
                    self.note(Events::POD_ADDED);
                }
                if less || elsewhere {
                    self.note(Events::POD_REMOVED);
                }
            }
        }
        self.snapshot.observe(&node, Arc::new(pod));
    }

    fn pod_waits(&mut self, new: &k8s::Pod, unchanged: bool, now_ms: u64) {
        let uid: Arc<str> = Arc::from(new.metadata.uid.as_deref().unwrap_or_default());
        let spec = new.spec.as_ref();
        let ours = spec.and_then(|s| s.scheduler_name.as_deref());
        let ours = ours.unwrap_or("default-scheduler") == self.scheduler_name;
        // Old news of a pod that has its node already, by decision or in the API.
        let placed = self.snapshot.place(&uid).is_some();
        if new.metadata.deletion_timestamp.is_some() || !ours {
            if !placed {
                self.queue.remove(&uid);
                self.snapshot.end_nomination(&uid);
            }
            return;
        }
        if placed && !self.queue.contains(&uid) {
            return;
        }
        let pod = Arc::new(Pod::read(new, &mut self.strings));
        if let Some(node) = pod.wants.nominated.clone().filter(|_| !placed) {
            self.snapshot.nominate(node, pod.clone());
        }
        self.queue.put(pod, !unchanged, now_ms);
    }

    /// Decides about the next pod, if one waits. Events so far are taken into account.
    pub fn step(&mut self, seed: u64, now_ms: u64) -> Option<Step> {
        let happened = std::mem::replace(&mut self.happened, Events::NONE);
        self.queue.wake(happened, now_ms);
        let pod = self.queue.take(now_ms)?;
        let decision = decide(&self.snapshot, &pod, &self.profile, seed);
        if let Outcome::Node(node) = decision.outcome {
            self.snapshot.end_nomination(&pod.uid);
            self.snapshot.assume(&node, pod.clone());
            self.note(Events::POD_ADDED);
            return Some(Step::Bind { pod, node });
        }
        let wakes_on = self.profile.wakes_on(&decision.rejections);
        let wakes_on = wakes_on.with(Events::NODE_ADDED);
        self.queue.failed(&pod.uid, wakes_on);
        let mut message = decision.message();
        let mut preemption = None;
        if decision.outcome == Outcome::Unschedulable {
            match preempt(&self.snapshot, &pod, &self.profile, &decision) {
                Preemption::Possible { node, victims } => {
                    self.snapshot.nominate(node.clone(), pod.clone());
                    preemption = Some((node, victims));
                }
                Preemption::Not(why) => {
                    message.push(' ');
                    message.push_str(&why);
                }
            }
        }
        Some(Step::Unschedulable {
            pod,
            message,
            preemption,
        })
    }

    /// The binding was refused: the pod takes no room any more and is tried again later.
    pub fn not_bound(&mut self, uid: &Arc<str>, now_ms: u64) {
        if self.snapshot.forget(uid) {
            self.note(Events::POD_REMOVED);
        }
        self.queue.retry(uid, now_ms);
    }

    /// When [`Core::step`] should be called next, if nothing happens before.
    pub fn next_due_ms(&self) -> Option<u64> {
        if self.happened.is_empty() {
            self.queue.next_due_ms()
        } else {
            Some(0)
        }
    }
}

/// Whether all is as before that a decision may depend on. Status changes of running pods are the
/// bulk of all events.
fn unchanged(old: &k8s::Pod, new: &k8s::Pod) -> bool {
    let resources = |p: &k8s::Pod| -> Vec<_> {
        let statuses = p.status.iter();
        statuses
            .flat_map(|s| {
                let init = s.init_container_statuses.iter().flatten();
                init.chain(s.container_statuses.iter().flatten())
            })
            .filter_map(|c| c.allocated_resources.clone())
            .collect()
    };
    old.spec == new.spec
        && old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && resources(old) == resources(new)
}
