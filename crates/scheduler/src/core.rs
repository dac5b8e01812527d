//! The scheduler without clock and client: takes what the informers tell, and says which pod to
//! bind where or why it cannot be. Everything happens here in one order, so that a decision sees
//! all decisions before it.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

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
        nomination: Nomination,
    },
}

/// What becomes of the node where room is made for a pod.
#[derive(Debug)]
pub enum Nomination {
    /// As it was.
    Stays,
    /// No pod can make room for it any more.
    Ends,
    Begins(Room),
}

/// Room that is made for a pod. While it takes requests, the pod is not tried: say how they went
/// ([`Core::made_room`]).
#[derive(Debug)]
pub struct Room {
    pub node: Arc<str>,
    /// Pods that must go, also those that are going already.
    pub victims: Vec<Arc<Pod>>,
    /// Less important pods for which room was made there: they look for another node.
    pub displaced: Vec<Arc<Pod>>,
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

    pub fn budget_changed(
        &mut self,
        old: Option<&PodDisruptionBudget>,
        new: Option<&PodDisruptionBudget>,
    ) {
        self.snapshot.budgets_mut().changed(old, new);
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
            self.pod_waits(same, new, unchanged, now_ms);
        }
    }

    fn pod_gone(&mut self, uid: &str) {
        self.queue.remove(&Arc::from(uid));
        let waited = self.snapshot.end_nomination(uid);
        if self.snapshot.remove_pod(uid) || waited {
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

    fn pod_waits(&mut self, old: Option<&k8s::Pod>, new: &k8s::Pod, unchanged: bool, now_ms: u64) {
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
        match pod.wants.nominated.clone().filter(|_| !placed) {
            Some(node) => self.snapshot.nominate(node, pod.clone()),
            // Only what the API showed before has ended; what was decided since is not there yet.
            None if old.is_some_and(is_nominated) => {
                self.snapshot.end_nomination(&uid);
            }
            None => {}
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
        let mut nomination = Nomination::Stays;
        if decision.outcome == Outcome::Unschedulable {
            let outcome = preempt(&self.snapshot, &pod, &self.profile, &decision, seed);
            let why = match outcome {
                Preemption::Possible { node, victims } => {
                    nomination = Nomination::Begins(self.make_room(&pod, node, victims, now_ms));
                    None
                }
                Preemption::NotEligible(why) => Some(why.to_owned()),
                Preemption::Hopeless(why) => {
                    if self.snapshot.end_nomination(&pod.uid) {
                        nomination = Nomination::Ends;
                    }
                    Some(why)
                }
            };
            if let Some(why) = why {
                message.push_str(" preemption: ");
                message.push_str(&why);
            }
        }
        Some(Step::Unschedulable {
            pod,
            message,
            nomination,
        })
    }

    fn make_room(
        &mut self,
        pod: &Arc<Pod>,
        node: Arc<str>,
        victims: Vec<Arc<Pod>>,
        now_ms: u64,
    ) -> Room {
        let there = self.snapshot.nominated_on(&node).iter();
        let displaced: Vec<Arc<Pod>> = there
            .filter(|p| p.priority < pod.priority && p.uid != pod.uid)
            .cloned()
            .collect();
        for other in &displaced {
            self.snapshot.end_nomination(&other.uid);
            self.queue.displaced(&other.uid, now_ms);
        }
        self.snapshot.nominate(node.clone(), pod.clone());
        self.queue.hold(&pod.uid);
        Room {
            node,
            victims,
            displaced,
        }
    }

    /// The requests that make room for a pod were sent; where one failed, it is tried again.
    pub fn made_room(&mut self, uid: &Arc<str>, all: bool, now_ms: u64) {
        self.queue.release(uid, !all, now_ms);
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

fn is_nominated(pod: &k8s::Pod) -> bool {
    let status = pod.status.as_ref();
    let node = status.and_then(|s| s.nominated_node_name.as_deref());
    node.is_some_and(|n| !n.is_empty())
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
    let started = |p: &k8s::Pod| p.status.as_ref().and_then(|s| s.start_time.clone());
    old.spec == new.spec
        && started(old) == started(new)
        && old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && resources(old) == resources(new)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn core(nodes: &[&str]) -> Core {
        let mut core = Core::new("default-scheduler", Profile::default(), Waits::default());
        for name in nodes {
            let node = json!({"metadata": {"name": name},
                "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "9"}}});
            let node: k8s::Node = serde_json::from_value(node).expect("a node");
            core.node_changed(None, Some(&node));
        }
        core
    }

    fn pod(name: &str, priority: i32, node: Option<&str>, status: Value) -> k8s::Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"priority": priority, "nodeName": node, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": "2"}}}]},
            "status": status,
        }))
        .expect("a pod")
    }

    fn room(step: Option<Step>) -> Room {
        match step {
            Some(Step::Unschedulable {
                nomination: Nomination::Begins(room),
                ..
            }) => room,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_is_not_tried_while_its_room_is_made() {
        let mut core = core(&["a"]);
        let low = pod("low", 0, Some("a"), json!({}));
        core.pod_changed(None, Some(&low), 0);
        core.pod_changed(None, Some(&pod("high", 9, None, json!({}))), 0);
        let room = room(core.step(1, 0));
        assert_eq!((&*room.node, room.victims.len()), ("a", 1));
        // The victim is gone before the request about it has been answered.
        core.pod_changed(Some(&low), None, 1_000);
        assert!(core.step(2, 2_000).is_none());
        core.made_room(&"high".into(), true, 2_000);
        assert!(matches!(core.step(3, 2_000), Some(Step::Bind { .. })));
    }

    #[test]
    fn a_request_that_fails_is_made_again() {
        let mut core = core(&["a"]);
        core.pod_changed(None, Some(&pod("low", 0, Some("a"), json!({}))), 0);
        core.pod_changed(None, Some(&pod("high", 9, None, json!({}))), 0);
        room(core.step(1, 0));
        core.made_room(&"high".into(), false, 0);
        assert_eq!(room(core.step(2, 1_000)).victims.len(), 1);
    }

    #[test]
    fn less_important_nominations_end() {
        let mut core = core(&["a"]);
        core.pod_changed(None, Some(&pod("low", 0, Some("a"), json!({}))), 0);
        core.pod_changed(None, Some(&pod("middle", 5, None, json!({}))), 0);
        room(core.step(1, 0));
        core.pod_changed(None, Some(&pod("high", 9, None, json!({}))), 0);
        let room = room(core.step(2, 0));
        let displaced: Vec<&str> = room.displaced.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(displaced, ["middle"]);
        assert_eq!(core.snapshot().nomination("middle"), None);
    }

    #[test]
    fn a_nomination_ends_when_the_api_shows_so() {
        let mut core = core(&["a"]);
        let nominated = pod("p", 5, None, json!({"nominatedNodeName": "a"}));
        let plain = pod("p", 5, None, json!({}));
        core.pod_changed(None, Some(&nominated), 0);
        assert!(core.snapshot().nomination("p").is_some());
        core.pod_changed(Some(&nominated), Some(&plain), 0);
        assert_eq!(core.snapshot().nomination("p"), None);
    }
}
