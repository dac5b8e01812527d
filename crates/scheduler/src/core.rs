//! The scheduler without clock and client: takes what the informers report, and says which pod to
//! bind where or why it cannot be. Everything happens here in one order, so that a decision sees
//! all decisions before it.

mod binding;
mod extender_calls;
mod gang;
mod gang_trial;
mod observed;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use binding::{Stage, Waiting};
use extender_calls::ExtenderCall;
use gang_trial::VainTrials;

use crate::batch::Batches;
use crate::decide::{Decision, Outcome, Profile};
use crate::decision_timings::{Code, Point, Timings};
use crate::extenders::{self, Extender, Question};
use crate::interned::Strings;
use crate::message;
use crate::plugins::Write;
use crate::pod::Pod;
use crate::preempt::{self, Preemption, Trials};
use crate::queue::{Queue, Waits};
use crate::queueing_hints::Happened;
use crate::snapshot::Snapshot;

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
    /// Equal pods are decided together.
    batches: Batches,
    /// Trials of gangs that came to nothing, by group.
    vain: BTreeMap<Arc<str>, VainTrials>,
    timings: Timings,
    /// Made so far.
    decisions: u64,
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
            batches: Batches::default(),
            vain: BTreeMap::new(),
            timings: Timings::default(),
            decisions: 0,
        }
    }

    /// Has it measured what decisions take.
    #[must_use]
    pub fn timed(mut self, timings: Timings) -> Self {
        self.timings = timings;
        self
    }
    pub fn timings(&self) -> &Timings {
        &self.timings
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
    pub fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
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
            let Some(pod) = self.queue.take(now_ms) else {
                // A gang may have given back meanwhile what it had.
                return self.ready.pop_front();
            };
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
        // Who has waited that long does not believe any more that anybody goes for it.
        if self.queue.history(&pod.uid).is_some_and(|h| h.was_flushed) {
            self.nobody_goes_for(&pod.uid);
        }
        self.queue.failed(&pod.uid, decision.refused_by());
        let message = decision.message();
        let mut outcome = Preemption::Off;
        if decision.outcome == Outcome::Unschedulable
            && let Some(own) = self.profiles.get(profile)
        {
            let began = self.timings.now().filter(|_| own.candidates.is_some());
            let mut none = Trials::default();
            let trials = self.batches.trials(decision).unwrap_or(&mut none);
            let found = preempt::candidates(&self.snapshot, &pod, own, decision, seed, trials);
            // What changes their minds may let it displace others.
            if matches!(found, Err(Preemption::Hopeless(_))) {
                self.queue.also_refused(&pod.uid, trials.refused_by());
            }
            let code = match &found {
                Ok(_) => Code::Success,
                Err(_) => Code::Unschedulable,
            };
            self.timings.part(began, Point::PostFilter, code, &pod);
            let found = match found {
                Ok(candidates) if !self.gang_gets_room(&pod, &candidates, seed, now_ms) => {
                    Err(Preemption::Hopeless(message::GANG.to_owned()))
                }
                other => other,
            };
            outcome = match found {
                Ok(candidates) if extenders::ask_about_victims(&self.extenders, &pod) => {
                    // Until then nothing wakes it.
                    self.queue.hold(&pod.uid);
                    self.asked = Some(ExtenderCall {
                        pod: pod.clone(),
                        profile,
                        seed,
                        nodes: Vec::new(),
                        again: 0,
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
            Preemption::Off => {
                nomination = self.nomination_ends(&pod.uid);
                None
            }
            Preemption::NotEligible(why) => Some(why.to_owned()),
            Preemption::Hopeless(why) => {
                nomination = self.nomination_ends(&pod.uid);
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
        let mut happened = std::mem::take(&mut self.happened);
        if !happened.is_empty() {
            self.vain.clear();
        }
        happened.ask_for(self.queue.kinds());
        let (profiles, snapshot) = (&self.profiles, &self.snapshot);
        let refused = |uid: &str| self.queue.refused(uid);
        let own = happened.helped_where_room_is_made(snapshot, profiles, refused);
        for (pod, events) in own {
            self.queue.wake_one(&pod.uid, events.label(), now_ms);
        }
        let concerns = |refused| happened.concerns(refused, profiles);
        let helped = self.queue.helped(concerns, |pod, refused| {
            let mut own = profiles.iter().filter(|p| p.scheduler == *pod.scheduler);
            own.find_map(|p| happened.helps(pod, refused, p, snapshot))
        });
        for (uid, help) in helped {
            // Who waits for others to go displaces nobody else meanwhile.
            let waits = |pod: &Arc<Pod>| preempt::awaits_victims(snapshot, pod);
            if !(help.displaces && self.queue.pod(&uid).is_some_and(waits)) {
                self.queue.wake_one(&uid, help.events.label(), now_ms);
            }
        }
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

    /// Makes room for a pod on this node from now on; what was made elsewhere is for others.
    fn nominate(&mut self, node: Arc<str>, pod: Arc<Pod>) {
        let before = self.snapshot.nominate(node.clone(), pod);
        if let Some((before, pod)) = before.filter(|(before, _)| *before != node) {
            self.happened.pod_left(&before, &pod);
        }
    }

    /// A pod gets this node: what was made elsewhere for it is for others.
    fn takes_its_room(&mut self, uid: &str, node: &Arc<str>) {
        let left = self.snapshot.end_nomination(uid);
        if let Some((left, pod)) = left.filter(|(left, _)| left != node) {
            self.happened.pod_left(&left, &pod);
        }
    }

    /// Room that was made for a pod is for others. False where there was none.
    fn end_nomination(&mut self, uid: &str) -> bool {
        let Some((node, pod)) = self.snapshot.end_nomination(uid) else {
            return false;
        };
        self.happened.pod_left(&node, &pod);
        true
    }

    /// The same, as it is reported.
    fn nomination_ends(&mut self, uid: &str) -> Nomination {
        match self.end_nomination(uid) {
            true => Nomination::Ends,
            false => Nomination::Stays,
        }
    }

    /// Nobody may be about to go any more because of this pod: others who waited for that look again.
    fn nobody_goes_for(&mut self, uid: &str) {
        for node in self.snapshot.nobody_goes_for(uid) {
            self.happened.nobody_goes(&node);
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
            self.end_nomination(&other.uid);
            // What it asks for from now on takes the place of requests that were not sent yet.
            self.nobody_goes_for(&other.uid);
            self.queue.displaced(&other.uid, now_ms);
        }
        if self.snapshot.nomination(&pod.uid).is_some() {
            self.nobody_goes_for(&pod.uid);
        }
        self.nominate(node.clone(), pod.clone());
        self.snapshot.ask_to_go(&victims, &pod.uid);
        self.queue.hold(&pod.uid);
        Room {
            node,
            victims,
            displaced,
        }
    }

    /// The requests that make room for a pod were sent; where one failed, it is tried again.
    pub fn made_room(&mut self, uid: &Arc<str>, all: bool, now_ms: u64) {
        if !all {
            self.vain.clear();
            self.nobody_goes_for(uid);
        }
        self.queue.release(uid, !all, now_ms);
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

#[cfg(test)]
mod tests;
#[cfg(test)]
mod woken_tests;
