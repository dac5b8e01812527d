//! Making room for a pod by removing pods of lower priority
//! (documentation "Pod Priority and Preemption").

mod candidate;
mod trials;

use std::sync::Arc;

pub use candidate::{Candidate, Candidates};
pub use trials::Trials;
use trials::victims_on;

use crate::decide::{Decision, Profile, mix};
use crate::message;
use crate::plugins::Verdict;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

#[derive(Clone, Debug)]
pub enum Preemption {
    /// Without these pods the pod fits on this node.
    Possible {
        node: Arc<str>,
        victims: Vec<Arc<Pod>>,
    },
    /// The pod waits for its victims, or takes nobody's room: as the end of its message.
    NotEligible(&'static str),
    /// The profile has no preemption.
    Off,
    /// Nothing can be done: as the end of the pod's message.
    Hopeless(String),
}

/// Looks for pods whose removal would let `pod` in, after `decision` found no node. `seed` says
/// where the search begins.
pub fn preempt(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    decision: &Decision,
    seed: u64,
) -> Preemption {
    let mut trials = Trials::default();
    match candidates(snapshot, pod, profile, decision, seed, &mut trials) {
        Ok(found) => best(found),
        Err(none) => none,
    }
}

/// The best of these nodes.
pub fn best(candidates: Vec<Arc<Candidate>>) -> Preemption {
    match candidates.into_iter().min_by_key(|c| c.cost) {
        Some(best) => Preemption::Possible {
            node: best.node.clone(),
            victims: best.victims.clone(),
        },
        None => Preemption::Hopeless(message::NO_CANDIDATE.to_owned()),
    }
}

/// The nodes where pods can make room; at least one. What is found by trials is noted.
///
/// # Errors
/// Why there is none.
pub fn candidates(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    decision: &Decision,
    seed: u64,
    trials: &mut Trials,
) -> Result<Vec<Arc<Candidate>>, Preemption> {
    let Some(Candidates { percent, least }) = profile.candidates else {
        return Err(Preemption::Off);
    };
    if let Some(why) = not_eligible(snapshot, pod, decision) {
        return Err(Preemption::NotEligible(why));
    }
    let rejections = &decision.rejections;
    let hopeful = rejections.hopeful();
    let enough = (hopeful.len() * percent / 100).max(least);
    let mut checks = match profile.prepare(pod, snapshot) {
        Ok(checks) if decision.refused.is_none() => checks,
        // No node would do, whoever made room.
        _ => return Err(Preemption::Hopeless(hopeless(decision, &[]))),
    };
    trials.begin(snapshot, rejections.len());
    // Where room is made for this pod alone, a trial is its own.
    let own = snapshot.nomination(&pod.uid);
    let own = own.and_then(|node| rejections.nth_of(snapshot.slot_of(node)?));
    if let Some(nth) = own {
        trials.forget(nth);
    }
    let (mut found, mut harmless) = (Vec::new(), false);
    let begin = usize::try_from(mix(seed) % hopeful.len().max(1) as u64).unwrap_or(0);
    let (before, after) = hopeful.split_at(begin.min(hopeful.len()));
    for nth in after.iter().chain(before) {
        let place = rejections.get(*nth).map(|r| r.node);
        let Some(node) = place.and_then(|place| snapshot.slots().get(place)) else {
            continue;
        };
        let made = trials.candidate(*nth, || victims_on(snapshot, node, pod, &mut checks));
        if let Some(candidate) = made {
            harmless |= candidate.violations == 0;
            found.push(candidate.clone());
        }
        if harmless && found.len() >= enough {
            break;
        }
    }
    let out = match found.is_empty() {
        false => Ok(found),
        true => {
            let failures = hopeful.iter().filter_map(|nth| trials.failure(*nth));
            let failures: Vec<&Verdict> = failures.collect();
            Err(Preemption::Hopeless(hopeless(decision, &failures)))
        }
    };
    if let Some(nth) = own {
        trials.forget(nth);
    }
    out
}

fn hopeless(decision: &Decision, failures: &[&Verdict]) -> String {
    let others = decision.nodes.saturating_sub(failures.len());
    let reasons = failures.iter().flat_map(|v| v.reasons());
    let rest = std::iter::repeat_n(message::NOT_HELPFUL, others);
    message::histogram(decision.nodes, reasons.chain(rest))
}

fn not_eligible(snapshot: &Snapshot, pod: &Pod, decision: &Decision) -> Option<&'static str> {
    if pod.wants.never_preempts {
        return Some(message::NEVER_PREEMPTS);
    }
    let place = snapshot.slot_of(snapshot.nomination(&pod.uid)?)?;
    let rejections = &decision.rejections;
    let rejection = rejections.nth_of(place).and_then(|nth| rejections.get(nth));
    let hopeless = rejection.is_some_and(|r| matches!(r.verdict, Verdict::Never(_)));
    (!hopeless && awaits_victims(snapshot, pod)).then_some(message::STILL_TERMINATING)
}

/// Whether less important pods are about to go from the node where room is made for a pod: until they
/// have gone, it displaces nobody elsewhere.
pub fn awaits_victims(snapshot: &Snapshot, pod: &Pod) -> bool {
    let node = snapshot.nomination(&pod.uid);
    let node = node.and_then(|name| snapshot.node(name));
    let leaving = |p: &Arc<Pod>| p.priority < pod.priority && snapshot.makes_room(p);
    node.is_some_and(|n| n.exists && n.pods.iter().any(leaving))
}

#[cfg(test)]
mod tests;
