//! Making room for a pod by removing pods of lower priority
//! (documentation "Pod Priority and Preemption"). Disruption budgets are not looked at yet, and
//! counts over several nodes (spread, affinity) are not redone without the victims: where these
//! keep a pod off, nothing is removed in vain.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::decide::{Checks, Decision, Profile, filter};
use crate::message;
use crate::node::Node;
use crate::plugins::Verdict;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// Nodes that are worked out at most before the best of them is taken.
const CANDIDATES: usize = 100;

#[derive(Clone, Debug)]
pub enum Preemption {
    /// Without these pods the pod fits on this node.
    Possible {
        node: Arc<str>,
        victims: Vec<Arc<Pod>>,
    },
    /// Why nothing can be done, as the end of the pod's message.
    Not(String),
}

struct Candidate {
    node: Arc<str>,
    victims: Vec<Arc<Pod>>,
}

/// Looks for pods whose removal would let `pod` in, after `decision` found no node.
pub fn preempt(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    decision: &Decision,
) -> Preemption {
    if let Some(why) = not_eligible(snapshot, pod, decision) {
        return Preemption::Not(format!("preemption: {why}"));
    }
    let checks = profile.prepare(pod, snapshot);
    let mut found: Vec<Candidate> = Vec::new();
    let mut failures: Vec<Verdict> = Vec::new();
    let mut hopeless = decision.nodes;
    for rejection in &decision.rejections {
        let hopeful = matches!(rejection.verdict, Verdict::NotNow(_));
        let Some(node) = snapshot.slots().get(rejection.node).filter(|_| hopeful) else {
            continue;
        };
        hopeless = hopeless.saturating_sub(1);
        match victims_on(node, pod, &checks) {
            Ok(victims) => found.push(Candidate {
                node: node.name.clone(),
                victims,
            }),
            Err(verdict) => failures.push(verdict),
        }
        if found.len() >= CANDIDATES {
            break;
        }
    }
    match found.into_iter().min_by_key(cost) {
        Some(best) => Preemption::Possible {
            node: best.node,
            victims: best.victims,
        },
        None => {
            let reasons = failures.iter().flat_map(Verdict::reasons);
            let rest = std::iter::repeat_n(message::NOT_HELPFUL, hopeless);
            let why = message::histogram(decision.nodes, reasons.chain(rest));
            Preemption::Not(format!("preemption: {why}"))
        }
    }
}

fn not_eligible(snapshot: &Snapshot, pod: &Pod, decision: &Decision) -> Option<&'static str> {
    if pod.wants.never_preempts {
        return Some(message::NEVER_PREEMPTS);
    }
    let node = snapshot.node(pod.wants.nominated.as_deref()?)?;
    let hopeless = decision.rejections.iter().any(|r| {
        let same = snapshot.slots().get(r.node).map(|n| &n.name) == Some(&node.name);
        same && matches!(r.verdict, Verdict::Never(_))
    });
    let leaving = |p: &Arc<Pod>| p.terminating && p.priority < pod.priority;
    (!hopeless && node.pods.iter().any(leaving)).then_some(message::STILL_TERMINATING)
}

/// The fewest and least important pods of lower priority without which the pod fits.
fn victims_on(node: &Node, pod: &Pod, checks: &Checks<'_>) -> Result<Vec<Arc<Pod>>, Verdict> {
    let lower = |p: &&Arc<Pod>| p.priority < pod.priority;
    let mut lesser: Vec<Arc<Pod>> = node.pods.iter().filter(lower).cloned().collect();
    if lesser.is_empty() {
        let reason = crate::plugins::Reason::one(message::NO_VICTIMS);
        return Err(Verdict::Never(reason));
    }
    let mut without = node.clone();
    for victim in &lesser {
        without.remove(&victim.uid);
    }
    if let Some((_, verdict)) = filter(checks, &without) {
        return Err(verdict);
    }
    // The most important may stay first: highest priority, then longest running.
    lesser.sort_by_key(|p| (Reverse(p.priority), p.started_seconds));
    let mut victims = Vec::new();
    for candidate in lesser {
        without.add(candidate.clone());
        if filter(checks, &without).is_some() {
            without.remove(&candidate.uid);
            victims.push(candidate);
        }
    }
    Ok(victims)
}

/// Less is better: the highest priority of a victim, the sum of priorities, the number of
/// victims, and how long the most important of them have run.
fn cost(candidate: &Candidate) -> (i32, i64, usize, Reverse<i64>) {
    let victims = &candidate.victims;
    let highest = victims.iter().map(|v| v.priority).max();
    let highest = highest.unwrap_or(i32::MIN);
    // Shifted to be positive, so that more victims never cost less.
    let sum = victims
        .iter()
        .map(|v| i64::from(v.priority) - i64::from(i32::MIN) + 1)
        .sum();
    let top = victims.iter().filter(|v| v.priority == highest);
    let since = top.map(|v| v.started_seconds).min().unwrap_or(i64::MAX);
    (highest, sum, victims.len(), Reverse(since))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decide::decide;
    use crate::plugins::testing::{Cluster, node};

    fn pod(cpu: &str, priority: i32) -> Value {
        json!({"spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn try_it(cluster: &mut Cluster, value: Value) -> (String, Preemption) {
        let pod = cluster.pod(value);
        let profile = Profile::default();
        let decision = decide(&cluster.snapshot, &pod, &profile, 1);
        let out = preempt(&cluster.snapshot, &pod, &profile, &decision);
        (decision.message(), out)
    }

    #[test]
    fn the_whole_message_is_upstreams() {
        let mut tainted = node("t", "4", "8Gi");
        tainted["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let mut c = Cluster::new([tainted, node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
        for name in ["a", "b"] {
            c.place(name, pod("3", 0));
        }
        let (message, preemption) = try_it(&mut c, pod("2", 0));
        let Preemption::Not(why) = preemption else {
            panic!("equal priority preempts nobody")
        };
        assert_eq!(
            format!("{message} {why}"),
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. \
             preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, \
             2 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn the_least_important_pods_make_room() {
        let mut c = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
        c.place("a", pod("4", 5));
        let small = c.place("b", pod("1", 1));
        c.place("b", pod("3", 2));
        let (_, preemption) = try_it(&mut c, pod("1", 10));
        let Preemption::Possible { node, victims } = preemption else {
            panic!("{preemption:?}")
        };
        assert_eq!((&*node, victims.len()), ("b", 1));
        assert_eq!(victims.first().map(|v| &v.uid), Some(&small.uid));
    }

    #[test]
    fn who_never_preempts_says_so() {
        let mut c = Cluster::new([node("a", "4", "8Gi")]);
        c.place("a", pod("4", 0));
        let mut polite = pod("1", 10);
        polite["spec"]["preemptionPolicy"] = json!("Never");
        let (_, preemption) = try_it(&mut c, polite);
        assert!(matches!(preemption, Preemption::Not(why)
                if why == "preemption: not eligible due to preemptionPolicy=Never."));
    }
}
