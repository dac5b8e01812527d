//! The scheduler without clock and client: takes what the informers report, and says which pod to
//! bind where or why it cannot be. Everything happens here in one order, so that a decision sees
//! all decisions before it.

mod extender_calls;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use extender_calls::ExtenderCall;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::decide::{Decision, Outcome, Profile};
use crate::devices::Devices;
use crate::extenders::{self, Extender, Question};
use crate::interned::Strings;
use crate::node::Offer;
use crate::plugins::{Events, Ready, Refused, Write};
use crate::pod::{Pod, is_terminal, scheduler_of};
use crate::preempt::{self, Preemption};
use crate::queue::{Queue, Waits};
use crate::queueing_hints::Happened;
use crate::resources::is_infeasible;
use crate::selectors::Selectors;
use crate::snapshot::Snapshot;
use crate::storage::{self, Storage};

/// What is to be done about a pod.
#[derive(Debug)]
pub enum Step {
    /// Bind it, and say how that went ([`Core::not_bound`], or nothing when it went well).
    Bind { pod: Arc<Pod>, node: Arc<str> },
    /// Write this before the pod can be bound, and say how that went ([`Core::prepared`]).
    Prepare {
        pod: Arc<Pod>,
        node: Arc<str>,
        writes: Vec<Write>,
    },
    /// Ask extenders, and say what they said ([`Core::heard_of_nodes`],
    /// [`Core::heard_of_victims`]). No other pod is decided before.
    Ask(Question),
    /// It had a node, and will not be bound to it; it is tried again later.
    Failed { pod: Arc<Pod>, message: String },
    /// Report why it has no node.
    Unschedulable {
        pod: Arc<Pod>,
        message: String,
        nomination: Nomination,
        /// What may help the next try.
        writes: Vec<Write>,
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

/// A pod that has a node and waits until it can be bound.
struct Waiting {
    pod: Arc<Pod>,
    node: Arc<str>,
    stage: Stage,
    /// When it gives up.
    until_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A plugin does not permit it yet.
    Permit,
    /// What must be there before is being written.
    Writing,
    /// It is written, and has not had its effect yet.
    PreBind,
}

pub struct Core {
    snapshot: Snapshot,
    queue: Queue,
    strings: Strings,
    profiles: Vec<Profile>,
    happened: Happened,
    /// By UID.
    waiting: BTreeMap<Arc<str>, Waiting>,
    /// Steps of pods that waited, to be taken before others.
    ready: VecDeque<Step>,
    extenders: Vec<Extender>,
    asked: Option<ExtenderCall>,
}

impl Core {
    /// Schedules the pods that name a scheduler of one of these profiles.
    pub fn new(profiles: Vec<Profile>, waits: Waits) -> Self {
        Self {
            snapshot: Snapshot::default(),
            queue: Queue::new(waits),
            strings: Strings::default(),
            profiles,
            happened: Happened::default(),
            waiting: BTreeMap::new(),
            ready: VecDeque::new(),
            extenders: Vec::new(),
            asked: None,
        }
    }

    /// Programs outside that have a say.
    #[must_use]
    pub fn with_extenders(mut self, extenders: Vec<Extender>) -> Self {
        self.extenders = extenders;
        self
    }

    /// The profile that decides about pods which name this scheduler.
    pub fn profile(&self, scheduler: &str) -> Option<&Profile> {
        self.profiles.iter().find(|p| p.scheduler == scheduler)
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    pub fn node_changed(&mut self, old: Option<&k8s::Node>, new: Option<&k8s::Node>) {
        let name_of = |n: &k8s::Node| n.metadata.name.clone().unwrap_or_default();
        let Some(new) = new else {
            if let Some(old) = old {
                self.snapshot.remove_node(&name_of(old));
                // A domain of its labels may have gone with it.
                self.happened.anything(Events::NODE_LABELS);
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
        self.happened.on_node(events, &name);
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
        self.happened.anything(Events::NAMESPACE_LABELS);
    }

    pub fn claim_changed(
        &mut self,
        old: Option<&k8s::PersistentVolumeClaim>,
        new: Option<&k8s::PersistentVolumeClaim>,
    ) {
        let Some(meta) = new.or(old).map(|c| &c.metadata) else {
            return;
        };
        let name = meta.name.as_deref().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let key = self.strings.get(&format!("{namespace}/{name}"));
        let claim = new.map(|c| storage::Claim::read(c, &mut self.strings));
        self.snapshot.storage_mut().set_claim(key.clone(), claim);
        self.happened.to_claim(Events::CLAIMS, &key);
    }

    pub fn volume_changed(
        &mut self,
        old: Option<&k8s::PersistentVolume>,
        new: Option<&k8s::PersistentVolume>,
    ) {
        let Some(meta) = new.or(old).map(|v| &v.metadata) else {
            return;
        };
        let name = self.strings.get(meta.name.as_deref().unwrap_or_default());
        let volume = new.map(|v| storage::Volume::read(v, &mut self.strings));
        self.snapshot.storage_mut().set_volume(name, volume);
        self.happened.anything(Events::STORAGE);
    }

    pub fn device_claim_changed(
        &mut self,
        old: Option<&ResourceClaim>,
        new: Option<&ResourceClaim>,
    ) {
        let Some(meta) = new.or(old).map(|c| &c.metadata) else {
            return;
        };
        let name = meta.name.as_deref().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let key = self.strings.get(&format!("{namespace}/{name}"));
        self.snapshot.devices_mut().set_claim(key, new);
        // A finalizer or the like helps nobody.
        let same = old.zip(new).is_some_and(|(old, new)| {
            let going = |c: &ResourceClaim| c.metadata.deletion_timestamp.is_some();
            old.status == new.status && going(old) == going(new)
        });
        if !same {
            self.happened.anything(Events::DEVICE_CLAIMS);
        }
    }

    /// Slices or classes of devices changed.
    pub fn devices_changed(&mut self, change: impl FnOnce(&mut Devices)) {
        change(self.snapshot.devices_mut());
        self.happened.anything(Events::DEVICES);
    }

    /// What a Service or a controller of pods selects.
    pub fn selectors_changed(&mut self, change: impl FnOnce(&mut Selectors)) {
        change(self.snapshot.selectors_mut());
    }

    /// Something else about volumes changed: a class, or what a driver says.
    pub fn storage_changed(&mut self, change: impl FnOnce(&mut Storage)) {
        change(self.snapshot.storage_mut());
        self.happened.anything(Events::STORAGE);
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
        self.settle(uid);
        if self.snapshot.end_nomination(uid) {
            self.happened.anything(Events::POD_REMOVED);
        }
        let node = self.snapshot.place(uid).map(|(node, _)| node.clone());
        if let Some(node) = node.filter(|_| self.snapshot.remove_pod(uid)) {
            self.happened.on_node(Events::POD_REMOVED, &node);
        }
    }

    fn pod_bound(&mut self, pod: Pod) {
        let Some(node) = pod.node.clone() else { return };
        self.queue.remove(&pod.uid);
        self.snapshot.end_nomination(&pod.uid);
        self.settle(&pod.uid);
        let mut events = Events::NONE;
        match self.snapshot.pod(&pod.uid) {
            None => events = Events::POD_ADDED,
            Some(before) => {
                let place = self.snapshot.place(&pod.uid).map(|(n, _)| n);
                let elsewhere = place.filter(|n| **n != node).cloned();
                if before.labels != pod.labels || elsewhere.is_some() {
                    events = events.with(Events::POD_ADDED);
                }
                if before.request != pod.request {
                    events = events.with(Events::POD_REMOVED);
                }
                if let Some(left) = elsewhere {
                    self.happened.on_node(Events::POD_REMOVED, &left);
                }
            }
        }
        self.happened.on_node(events, &node);
        self.snapshot.observe(&node, Arc::new(pod));
    }

    fn pod_waits(&mut self, old: Option<&k8s::Pod>, new: &k8s::Pod, unchanged: bool, now_ms: u64) {
        let uid: Arc<str> = Arc::from(new.metadata.uid.as_deref().unwrap_or_default());
        let spec = new.spec.as_ref();
        let ours = spec.is_some_and(|s| self.profile(scheduler_of(s)).is_some());
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
        let gated = self
            .profile(&pod.scheduler)
            .is_some_and(|p| p.gate(&pod).is_some());
        self.queue.put(pod, gated, !unchanged, now_ms);
    }

    /// Decides about the next pod, if one waits. Events so far are taken into account.
    pub fn step(&mut self, seed: u64, now_ms: u64) -> Option<Step> {
        self.look_around(now_ms);
        if let Some(step) = self.ready.pop_front() {
            return Some(step);
        }
        if self.asked.is_some() {
            return None;
        }
        loop {
            let pod = self.queue.take(now_ms)?;
            // Only pods of a profile come into the queue.
            let of = |p: &Profile| p.scheduler == *pod.scheduler;
            let at = self.profiles.iter().position(of)?;
            let profile = self.profiles.get(at)?;
            for (plugin, _) in &profile.plugins {
                plugin.index(&pod, &mut self.snapshot);
            }
            if let Some(step) = self.decide_about(pod, at, seed, now_ms) {
                return Some(step);
            }
        }
    }

    fn no_node(
        &mut self,
        pod: Arc<Pod>,
        profile: usize,
        decision: &Decision,
        seed: u64,
        now_ms: u64,
    ) -> Step {
        self.queue.failed(&pod.uid, decision.refused_by());
        let message = decision.message();
        let mut outcome = Preemption::Off;
        if decision.outcome == Outcome::Unschedulable
            && let Some(own) = self.profiles.get(profile)
        {
            let found = preempt::candidates(&self.snapshot, &pod, own, decision, seed);
            outcome = match found {
                Ok(candidates) if extenders::ask_about_victims(&self.extenders, &pod) => {
                    // Until then nothing wakes it.
                    self.queue.hold(&pod.uid);
                    self.asked = Some(ExtenderCall {
                        pod: pod.clone(),
                        profile,
                        seed,
                        message: Some(message),
                    });
                    return Step::Ask(Question::Victims { pod, candidates });
                }
                Ok(candidates) => preempt::best(candidates),
                Err(none) => none,
            };
        }
        self.without_node(pod, message, outcome, now_ms)
    }

    /// What the plugins want written for a pod without a node.
    fn given_up(&self, pod: &Pod) -> Vec<Write> {
        let profile = self.profile(&pod.scheduler);
        let plugins = profile.iter().flat_map(|p| &p.plugins);
        plugins
            .flat_map(|(p, _)| p.give_up(pod, &self.snapshot))
            .collect()
    }

    /// The report of a pod without a node, for which preemption went so.
    fn without_node(
        &mut self,
        pod: Arc<Pod>,
        mut message: String,
        outcome: Preemption,
        now_ms: u64,
    ) -> Step {
        let mut nomination = Nomination::Stays;
        let why = match outcome {
            Preemption::Possible { node, victims } => {
                nomination = Nomination::Begins(self.make_room(&pod, node, victims, now_ms));
                None
            }
            Preemption::Off => None,
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
        let writes = self.given_up(&pod);
        Step::Unschedulable {
            pod,
            message,
            nomination,
            writes,
        }
    }

    /// Wakes whom the events may help, and asks for pods that have a node whether they can be
    /// bound now.
    fn look_around(&mut self, now_ms: u64) {
        let due = self.next_late_ms().is_some_and(|at| at <= now_ms);
        if self.happened.is_empty() && !due {
            return;
        }
        let happened = std::mem::take(&mut self.happened);
        let (profiles, snapshot) = (&self.profiles, &self.snapshot);
        let concerns = |refused| happened.concerns(refused, profiles);
        self.queue.wake(now_ms, concerns, |pod, refused| {
            let mut own = profiles.iter().filter(|p| p.scheduler == *pod.scheduler);
            own.any(|profile| happened.helps(pod, refused, profile, snapshot))
        });
        let waits = |w: &&Waiting| w.stage != Stage::Writing;
        let uids: Vec<Arc<str>> = {
            let waiting = self.waiting.values().filter(waits);
            waiting.map(|w| w.pod.uid.clone()).collect()
        };
        for uid in uids {
            if let Some(step) = self.go_on(&uid, now_ms) {
                self.ready.push_back(step);
            }
        }
    }

    /// When the next pod that waits with its node gives up.
    fn next_late_ms(&self) -> Option<u64> {
        let waiting = self.waiting.values();
        let waiting = waiting.filter(|w| w.stage != Stage::Writing);
        waiting.map(|w| w.until_ms).min()
    }

    /// The pod has a node: reserves what it takes there, and goes on as far as it can.
    fn take_node(
        &mut self,
        pod: Arc<Pod>,
        node: Arc<str>,
        profile: usize,
        now_ms: u64,
    ) -> Option<Step> {
        let mut refused = None;
        let profile = self.profiles.get(profile);
        let plugins = profile.map_or(&[][..], |p| p.plugins.as_slice());
        for (at, (plugin, _)) in plugins.iter().enumerate() {
            if let Err(reason) = plugin.reserve(&pod, &node, &mut self.snapshot) {
                refused = Some((at, plugin.name(), reason));
                break;
            }
        }
        if let Some((at, name, reason)) = refused {
            for (plugin, _) in plugins {
                plugin.unreserve(&pod, &mut self.snapshot);
            }
            self.queue.failed(&pod.uid, Refused::NOBODY.and(at));
            let reasons: Vec<&str> = reason.texts().collect();
            return Some(Step::Unschedulable {
                message: format!("running Reserve plugin {name:?}: {}", reasons.join(", ")),
                pod,
                nomination: Nomination::Stays,
                writes: Vec::new(),
            });
        }
        let patience = plugins.iter().map(|(p, _)| p.patience_ms()).max();
        self.snapshot.end_nomination(&pod.uid);
        self.snapshot.assume(&node, pod.clone());
        self.happened.on_node(Events::POD_ADDED, &node);
        let uid = pod.uid.clone();
        let waiting = Waiting {
            pod,
            node,
            stage: Stage::Permit,
            until_ms: now_ms.saturating_add(patience.unwrap_or(0)),
        };
        self.waiting.insert(uid.clone(), waiting);
        self.go_on(&uid, now_ms)
    }

    /// The next step of a pod that has a node; none while it has to wait.
    fn go_on(&mut self, uid: &Arc<str>, now_ms: u64) -> Option<Step> {
        let waiting = self.waiting.get(uid)?;
        let (pod, node) = (waiting.pod.clone(), waiting.node.clone());
        let (stage, late) = (waiting.stage, waiting.until_ms <= now_ms);
        let profile = self.profile(&pod.scheduler)?;
        let place = self.snapshot.node(&node)?;
        let ask = |stage: Stage| {
            let answers = profile.plugins.iter().map(|(p, _)| {
                let answer = match stage {
                    Stage::Permit => p.permit(&pod, place, &self.snapshot),
                    _ => p.is_bindable(&pod, place, &self.snapshot),
                };
                (p.name(), answer)
            });
            let phase = if stage == Stage::Permit {
                "Permit"
            } else {
                "PreBind"
            };
            all_ready(answers, phase, late)
        };
        let mut answer = if place.exists {
            ask(stage)
        } else {
            Err(format!("node {node:?} is gone"))
        };
        if answer == Ok(true) && stage == Stage::Permit {
            let plugins = profile.plugins.iter();
            let writes = plugins.flat_map(|(p, _)| p.pre_bind(&pod, place, &self.snapshot));
            let writes: Vec<Write> = writes.collect();
            if !writes.is_empty() {
                self.set_stage(uid, Stage::Writing);
                return Some(Step::Prepare { pod, node, writes });
            }
            answer = ask(Stage::PreBind);
        }
        match answer {
            Ok(true) => {
                let mut plugins = profile.plugins.iter();
                let write = plugins.find_map(|(p, _)| p.bind(&pod, &node));
                self.waiting.remove(uid);
                if let Some(Write::BindPod { node }) = write {
                    return Some(Step::Bind { pod, node });
                }
                self.not_bound(uid, now_ms);
                let message = "no plugin of the profile binds pods".to_owned();
                Some(Step::Failed { pod, message })
            }
            Ok(false) => {
                let next = if stage == Stage::Permit && self.is_permitted(uid) {
                    Stage::PreBind
                } else {
                    stage
                };
                self.set_stage(uid, next);
                None
            }
            Err(message) => {
                self.not_bound(uid, now_ms);
                Some(Step::Failed { pod, message })
            }
        }
    }

    fn is_permitted(&self, uid: &str) -> bool {
        let Some(waiting) = self.waiting.get(uid) else {
            return false;
        };
        let (pod, node) = (&waiting.pod, self.snapshot.node(&waiting.node));
        let profile = self.profile(&pod.scheduler);
        profile.zip(node).is_some_and(|(profile, node)| {
            let mut plugins = profile.plugins.iter();
            plugins.all(|(p, _)| p.permit(pod, node, &self.snapshot) == Ready::Yes)
        })
    }

    fn set_stage(&mut self, uid: &str, stage: Stage) {
        if let Some(waiting) = self.waiting.get_mut(uid) {
            waiting.stage = stage;
        }
    }

    /// What had to be written before a pod is bound was written, or could not be.
    pub fn prepared(&mut self, uid: &Arc<str>, outcome: Result<(), String>, now_ms: u64) {
        if !self.waiting.contains_key(uid) {
            return;
        }
        let step = match outcome {
            Ok(()) => {
                self.set_stage(uid, Stage::PreBind);
                self.go_on(uid, now_ms)
            }
            Err(message) => {
                let pod = self.waiting.get(uid).map(|w| w.pod.clone());
                self.not_bound(uid, now_ms);
                pod.map(|pod| Step::Failed { pod, message })
            }
        };
        self.ready.extend(step);
    }

    /// Nothing of what was reserved for a pod is needed any more.
    fn settle(&mut self, uid: &str) {
        self.waiting.remove(uid);
        let Some(pod) = self.snapshot.pod(uid).cloned() else {
            return;
        };
        if let Some(profile) = self.profiles.iter().find(|p| p.scheduler == *pod.scheduler) {
            for (plugin, _) in &profile.plugins {
                plugin.unreserve(&pod, &mut self.snapshot);
            }
        }
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
        let node = self.snapshot.place(uid).map(|(node, _)| node.clone());
        self.settle(uid);
        if let Some(node) = node.filter(|_| self.snapshot.forget(uid)) {
            self.happened.on_node(Events::POD_REMOVED, &node);
        }
        self.queue.retry(uid, now_ms);
    }

    /// When [`Core::step`] should be called next, if nothing happens before.
    pub fn next_due_ms(&self) -> Option<u64> {
        if !self.happened.is_empty() || !self.ready.is_empty() {
            return Some(0);
        }
        let late = self.next_late_ms();
        // Nobody is decided about before the extenders have answered.
        let next = self.queue.next_due_ms().filter(|_| self.asked.is_none());
        late.into_iter().chain(next).min()
    }
}

/// Whether all plugins say yes; `late`: one that does not, does not any more.
fn all_ready(
    answers: impl Iterator<Item = (&'static str, Ready)>,
    phase: &str,
    late: bool,
) -> Result<bool, String> {
    let mut all = true;
    for (name, answer) in answers {
        match answer {
            Ready::Yes => {}
            Ready::Not if late => {
                return Err(format!("running {phase} plugin {name:?}: timed out"));
            }
            Ready::Not => all = false,
            Ready::Never(why) => return Err(format!("running {phase} plugin {name:?}: {why}")),
        }
    }
    Ok(all)
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
            .map(|c| {
                let in_effect = c.resources.as_ref().and_then(|r| r.requests.clone());
                (in_effect, c.allocated_resources.clone())
            })
            .filter(|(in_effect, set_aside)| in_effect.is_some() || set_aside.is_some())
            .collect()
    };
    let started = |p: &k8s::Pod| p.status.as_ref().and_then(|s| s.start_time.clone());
    let devices = |p: &k8s::Pod| {
        let status = p.status.as_ref();
        status.and_then(|s| s.resource_claim_statuses.clone())
    };
    old.spec == new.spec
        && devices(old) == devices(new)
        && started(old) == started(new)
        && old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && resources(old) == resources(new)
        && is_infeasible(old) == is_infeasible(new)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn core(nodes: &[&str]) -> Core {
        let mut core = Core::new(vec![Profile::default()], Waits::default());
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

    fn claim(more: Value) -> k8s::PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "c"},
            "spec": {"storageClassName": "x", "resources": {"requests": {"storage": "1Gi"}}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            claim["spec"][key] = value.clone();
        }
        claim["metadata"]["annotations"] = more["annotations"].clone();
        serde_json::from_value(claim).expect("a claim")
    }

    fn with_claim(core: &mut Core) -> k8s::Pod {
        core.storage_changed(|s| {
            let class = json!({"metadata": {"name": "x"}, "provisioner": "csi.example",
                "volumeBindingMode": "WaitForFirstConsumer"});
            let class = serde_json::from_value(class).expect("a class");
            s.set_class("x", Some(storage::Class::read(&class)));
        });
        core.claim_changed(None, Some(&claim(json!({}))));
        let mut pod = pod("p", 0, None, json!({}));
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let volume = serde_json::from_value(volume).expect("a volume");
        pod.spec.as_mut().expect("a spec").volumes = Some(vec![volume]);
        pod
    }

    #[test]
    fn a_pod_is_bound_after_its_volumes() {
        let mut core = core(&["a"]);
        let pod = with_claim(&mut core);
        core.pod_changed(None, Some(&pod), 0);
        let Some(Step::Prepare { writes, .. }) = core.step(1, 0) else {
            panic!("a node is selected for the claim")
        };
        assert!(matches!(&writes[..], [Write::SelectNode { .. }]));
        core.prepared(&"p".into(), Ok(()), 0);
        assert!(core.step(2, 0).is_none());
        let volume = json!({"metadata": {"name": "v"},
            "spec": {"claimRef": {"namespace": "d", "name": "c", "uid": "c"}}});
        let volume = serde_json::from_value(volume).expect("a volume");
        core.volume_changed(None, Some(&volume));
        assert!(core.step(3, 0).is_none());
        let bound = claim(json!({"volumeName": "v", "annotations": {
            "pv.kubernetes.io/bind-completed": "yes",
            "volume.kubernetes.io/selected-node": "a"}}));
        core.claim_changed(Some(&claim(json!({}))), Some(&bound));
        assert!(matches!(core.step(4, 0), Some(Step::Bind { .. })));
    }

    #[test]
    fn volumes_that_are_never_bound_give_the_node_back() {
        let mut core = core(&["a"]);
        let pod = with_claim(&mut core);
        core.pod_changed(None, Some(&pod), 0);
        assert!(matches!(core.step(1, 0), Some(Step::Prepare { .. })));
        core.prepared(&"p".into(), Ok(()), 0);
        assert_eq!(core.next_due_ms(), Some(0), "its room on the node is news");
        assert!(core.step(1, 0).is_none());
        assert_eq!(core.next_due_ms(), Some(600_000));
        let Some(Step::Failed { message, .. }) = core.step(2, 600_000) else {
            panic!("it waited long enough")
        };
        assert_eq!(
            message,
            "running PreBind plugin \"VolumeBinding\": timed out"
        );
        assert!(matches!(core.step(3, 600_000), Some(Step::Prepare { .. })));
        // What could not be written frees the node, too.
        core.prepared(&"p".into(), Err("no".into()), 600_000);
        assert!(matches!(core.step(4, 600_000), Some(Step::Failed { .. })));
        assert!(core.snapshot().place("p").is_none());
    }

    #[test]
    fn only_what_helps_wakes_a_pod() {
        let mut core = core(&["a", "b"]);
        for (name, node) in [("on-a", "a"), ("on-b", "b")] {
            core.pod_changed(None, Some(&pod(name, 5, Some(node), json!({}))), 0);
        }
        let mut picky = pod("picky", 0, None, json!({}));
        picky.spec.as_mut().expect("a spec").node_selector =
            Some([("disk".to_owned(), "ssd".to_owned())].into());
        core.pod_changed(None, Some(&picky), 0);
        assert!(matches!(core.step(1, 0), Some(Step::Unschedulable { .. })));
        // Room does not help: it was not the room.
        core.pod_changed(Some(&pod("on-a", 5, Some("a"), json!({}))), None, 9_000);
        assert!(core.step(2, 9_000).is_none());
        // Nor is a label that it does not want.
        let labelled = |value: &str| -> k8s::Node {
            serde_json::from_value(json!({
                "metadata": {"name": "a", "labels": {"disk": value}},
                "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "9"}}}))
            .expect("a node")
        };
        core.node_changed(None, Some(&labelled("hdd")));
        assert!(core.step(3, 9_000).is_none());
        core.node_changed(None, Some(&labelled("ssd")));
        assert!(matches!(core.step(4, 9_000), Some(Step::Bind { .. })));
    }

    #[test]
    fn each_profile_has_its_pods() {
        let other = Profile {
            scheduler: "other".into(),
            candidates: None,
            ..Profile::default()
        };
        let mut core = Core::new(vec![Profile::default(), other], Waits::default());
        for (name, scheduler) in [("mine", "default-scheduler"), ("his", "other"), ("no", "x")] {
            let mut pod = pod(name, 0, None, json!({}));
            pod.spec.as_mut().expect("a spec").scheduler_name = Some(scheduler.into());
            core.pod_changed(None, Some(&pod), 0);
        }
        let steps = std::iter::from_fn(|| core.step(1, 0));
        let steps: Vec<String> = steps
            .map(|step| match step {
                Step::Unschedulable { pod, .. } => pod.name.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(steps, ["mine", "his"]);
    }
}
