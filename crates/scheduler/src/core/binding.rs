//! From a node that was chosen to the binding: what plugins reserve, permit and want written before,
//! and how long a pod waits for that with its node.

use std::sync::Arc;
use std::time::Duration;

use clock::Instant;

use super::{Core, Nomination, Step};
use crate::decision_timings::{Code, Point};
use crate::gangs::GroupState;
use crate::message;
use crate::plugins::{Ready, Refused, Write};
use crate::pod::Pod;

/// A pod that has a node and waits until it can be bound.
pub(super) struct Waiting {
    pub pod: Arc<Pod>,
    pub node: Arc<str>,
    pub stage: Stage,
    /// Since when it is at this stage, and when it gives up.
    pub since_ms: u64,
    pub until_ms: u64,
    /// When it was permitted, where that is measured.
    pub permitted: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A plugin does not permit it yet.
    Permit,
    /// What must be there before is being written.
    Writing,
    /// It is written, and has not had its effect yet.
    PreBind,
}

impl Core {
    /// When the next pod that waits with its node gives up.
    pub(super) fn next_late_ms(&self) -> Option<u64> {
        let waiting = self.waiting.values();
        let waiting = waiting.filter(|w| w.stage != Stage::Writing);
        waiting.map(|w| w.until_ms).min()
    }

    /// The pod has a node: reserves what it takes there, and goes on as far as it can.
    pub(super) fn take_node(
        &mut self,
        pod: Arc<Pod>,
        node: Arc<str>,
        profile: usize,
        now_ms: u64,
    ) -> Option<Step> {
        let mut refused = None;
        let profile = self.profiles.get(profile);
        let plugins = profile.map_or(&[][..], |p| p.plugins.as_slice());
        let began = self.timings.now();
        for (at, (plugin, _)) in plugins.iter().enumerate() {
            if let Err(reason) = plugin.reserve(&pod, &node, &mut self.snapshot) {
                refused = Some((at, plugin.name(), reason));
                break;
            }
        }
        let code = match &refused {
            None => Code::Success,
            Some(_) => Code::Unschedulable,
        };
        self.timings.part(began, Point::Reserve, code, &pod);
        if let Some((at, name, reason)) = refused {
            for (plugin, _) in plugins {
                plugin.unreserve(&pod, &mut self.snapshot);
            }
            self.queue.failed(&pod.uid, Refused::NOBODY.and(at));
            let nomination = self.nomination_ends(&pod.uid);
            self.has_no_node(&pod, now_ms);
            let reasons: Vec<&str> = reason.texts().collect();
            return Some(Step::Unschedulable {
                message: format!("running Reserve plugin {name:?}: {}", reasons.join(", ")),
                pod,
                nomination,
                writes: Vec::new(),
            });
        }
        let patience = plugins.iter().map(|(p, _)| p.permit_patience_ms()).min();
        self.takes_its_room(&pod.uid, &node);
        self.snapshot.assume(&node, pod.clone());
        self.happened.pod_came(&node, &pod);
        let uid = pod.uid.clone();
        let waiting = Waiting {
            pod,
            node,
            stage: Stage::Permit,
            since_ms: now_ms,
            until_ms: now_ms.saturating_add(patience.unwrap_or(u64::MAX)),
            permitted: None,
        };
        self.waiting.insert(uid.clone(), waiting);
        let step = self.go_on(&uid, now_ms);
        if step.is_none() {
            self.call_others(&uid, now_ms);
        }
        step
    }

    /// The next step of a pod that has a node; none while it has to wait.
    pub(super) fn go_on(&mut self, uid: &Arc<str>, now_ms: u64) -> Option<Step> {
        let waiting = self.waiting.get(uid)?;
        let (pod, node) = (waiting.pod.clone(), waiting.node.clone());
        let (stage, late) = (waiting.stage, waiting.until_ms <= now_ms);
        let since_ms = waiting.since_ms;
        let waited_ms = waiting.until_ms.saturating_sub(since_ms);
        let (mut permitted, began) = (waiting.permitted, self.timings.now());
        let profile = self.profile(&pod.scheduler)?;
        let place = self.snapshot.node(&node)?;
        let ask = |stage: Stage, late: bool| {
            let answers = profile.plugins.iter().map(|(p, _)| {
                let answer = match stage {
                    Stage::Permit => p.permit(&pod, place, &self.snapshot),
                    _ => p.is_bindable(&pod, place, &self.snapshot),
                };
                (p.name(), answer)
            });
            all_ready(answers, stage, late)
        };
        let mut answer = if place.exists {
            ask(stage, late)
        } else {
            Err(NotReady::Never(format!("node {node:?} is gone")))
        };
        if stage == Stage::Permit {
            let code = code_of(&answer);
            self.timings.part(began, Point::Permit, code, &pod);
            // When it came here first it was asked at the same moment.
            if answer != Ok(false) && now_ms > since_ms {
                let waited = Duration::from_millis(now_ms - since_ms);
                self.timings.permit(code, waited);
            }
        }
        if answer == Ok(true) && stage == Stage::Permit {
            permitted = self.timings.now();
            let plugins = profile.plugins.iter();
            let writes = plugins.flat_map(|(p, _)| p.pre_bind(&pod, place, &self.snapshot));
            let writes: Vec<Write> = writes.collect();
            if !writes.is_empty() {
                self.set_stage(uid, Stage::Writing, now_ms);
                return Some(Step::Prepare { pod, node, writes });
            }
            answer = ask(Stage::PreBind, false);
        }
        if answer != Ok(false) {
            let code = code_of(&answer);
            self.timings.part(permitted, Point::PreBind, code, &pod);
        }
        match answer {
            Ok(true) => {
                let mut plugins = profile.plugins.iter();
                let write = plugins.find_map(|(p, _)| p.bind(&pod, &node));
                self.waiting.remove(uid);
                if let Some(Write::BindPod { node }) = write {
                    self.tell_of_group(&pod, GroupState::Scheduled);
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
                self.set_stage(uid, next, now_ms);
                None
            }
            Err(NotReady::Never(message)) => {
                self.not_bound(uid, now_ms);
                Some(Step::Failed { pod, message })
            }
            // Nobody has failed: it is not to be bound, as if no node had been found.
            Err(NotReady::NotPermitted(plugin)) => {
                self.not_bound(uid, now_ms);
                Some(Step::Unschedulable {
                    message: message::not_permitted(plugin, waited_ms),
                    pod,
                    nomination: Nomination::Ends,
                    writes: Vec::new(),
                })
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

    fn set_stage(&mut self, uid: &str, stage: Stage, now_ms: u64) {
        let now = self.timings.now().filter(|_| stage != Stage::Permit);
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        // For its binding it waits once: writing counts, and how often it is asked does not.
        if waiting.stage == Stage::Permit && stage != Stage::Permit {
            let mut own = self.profiles.iter();
            let own = own.find(|p| p.scheduler == *waiting.pod.scheduler);
            let plugins = own.map_or(&[][..], |p| p.plugins.as_slice());
            let patience = plugins.iter().map(|(p, _)| p.patience_ms()).max();
            waiting.since_ms = now_ms;
            waiting.until_ms = now_ms.saturating_add(patience.unwrap_or(0));
        }
        waiting.stage = stage;
        waiting.permitted = waiting.permitted.or(now);
    }

    /// What had to be written before a pod is bound was written, or could not be.
    pub fn prepared(&mut self, uid: &Arc<str>, outcome: Result<(), String>, now_ms: u64) {
        if !self.waiting.contains_key(uid) {
            return;
        }
        let step = match outcome {
            Ok(()) => {
                self.set_stage(uid, Stage::PreBind, now_ms);
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
    pub(super) fn settle(&mut self, uid: &str) {
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

    /// A pod is leaving that has a node and has not been seen bound to it: one that waits gives its node
    /// back, and of one that is being bound it is only left to be heard how that went.
    pub(super) fn leaves_before_it_is_bound(&mut self, uid: &Arc<str>, now_ms: u64) {
        self.queue.remove(uid);
        let Some(waiting) = self.waiting.get(uid) else {
            return;
        };
        let group = waiting.pod.wants.group.clone();
        self.not_bound(uid, now_ms);
        if let Some(group) = group {
            self.give_back(&group, "one of them is leaving", now_ms);
        }
    }

    /// The binding was refused: the pod takes no room any more and is tried again later.
    pub fn not_bound(&mut self, uid: &Arc<str>, now_ms: u64) {
        let node = self.snapshot.place(uid).map(|(node, _)| node.clone());
        let place = node.zip(self.snapshot.pod(uid).cloned());
        self.settle(uid);
        if let Some((node, pod)) = place.filter(|_| self.snapshot.forget(uid)) {
            self.happened.pod_left(&node, &pod);
        }
        self.queue.retry(uid, now_ms);
    }
}

/// Why a pod is not bound to the node that it had.
#[derive(Debug, PartialEq, Eq)]
enum NotReady {
    /// This plugin has not permitted it in time.
    NotPermitted(&'static str),
    Never(String),
}

/// An answer of [`all_ready`] in figures.
fn code_of(answer: &Result<bool, NotReady>) -> Code {
    match answer {
        Ok(true) => Code::Success,
        Ok(false) => Code::Wait,
        Err(NotReady::NotPermitted(_)) => Code::Unschedulable,
        Err(NotReady::Never(_)) => Code::Error,
    }
}

/// Whether all plugins say yes; `late`: one that does not, does not any more.
fn all_ready(
    answers: impl Iterator<Item = (&'static str, Ready)>,
    stage: Stage,
    late: bool,
) -> Result<bool, NotReady> {
    let phase = match stage {
        Stage::Permit => "Permit",
        Stage::Writing | Stage::PreBind => "PreBind",
    };
    let never =
        |name: &str, why: &str| NotReady::Never(format!("running {phase} plugin {name:?}: {why}"));
    let mut all = true;
    for (name, answer) in answers {
        match answer {
            Ready::Yes => {}
            Ready::Not if late && stage == Stage::Permit => {
                return Err(NotReady::NotPermitted(name));
            }
            Ready::Not if late => return Err(never(name, "timed out")),
            Ready::Not => all = false,
            Ready::Never(why) => return Err(never(name, &why)),
        }
    }
    Ok(all)
}
