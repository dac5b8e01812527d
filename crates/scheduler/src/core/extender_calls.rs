//! Decisions that extenders have a part in: what they are asked, and what follows from what they say.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Core, Step};
use crate::batch;
use crate::decide::{Decision, Outcome, decide_with, fitting};
use crate::extenders::{self, Chosen, Opinion, Question};
use crate::plugins::Events;
use crate::pod::Pod;
use crate::preempt::{self, Candidate, Preemption};

/// Of one in so many decisions, the first among them, each plugin's time is measured.
const SAMPLED: u64 = 10;

/// How often extenders are asked once more about a pod, since other nodes fit by then: nobody else is
/// decided about meanwhile.
const ASKED_AGAIN: usize = 3;

/// A pod about which extenders are asked.
pub(super) struct ExtenderCall {
    pub pod: Arc<Pod>,
    /// The place of its profile.
    pub profile: usize,
    pub seed: u64,
    /// The nodes that they are asked about.
    pub nodes: Vec<Arc<str>>,
    /// How often they were asked before, since other nodes fit by then.
    pub again: usize,
    /// Where it is about victims: why the pod has no node.
    pub message: Option<String>,
}

impl Core {
    pub(super) fn decide_about(
        &mut self,
        pod: Arc<Pod>,
        at: usize,
        seed: u64,
        now_ms: u64,
    ) -> Option<Step> {
        // Not by the seed, which leaps where pods come one by one.
        self.timings.sample(self.decisions.is_multiple_of(SAMPLED));
        self.decisions = self.decisions.wrapping_add(1);
        let profile = self.profiles.get(at)?;
        let timings = &self.timings;
        let decision = if extenders::ask_about_nodes(&self.extenders, &pod) {
            let (decision, nodes) = fitting(&self.snapshot, &pod, profile, seed, timings);
            if !nodes.is_empty() {
                self.asked = Some(ExtenderCall {
                    pod: pod.clone(),
                    profile: at,
                    seed,
                    nodes: nodes.clone(),
                    again: 0,
                    message: None,
                });
                return Some(Step::Ask(Question::Nodes { pod, nodes }));
            }
            decision
        } else {
            let own = (at, profile);
            let (batches, snapshot) = (&mut self.batches, &self.snapshot);
            batch::decide(batches, snapshot, &pod, own, seed, timings)
        };
        self.decided(pod, at, decision, seed, now_ms)
    }

    fn decided(
        &mut self,
        pod: Arc<Pod>,
        profile: usize,
        decision: Decision,
        seed: u64,
        now_ms: u64,
    ) -> Option<Step> {
        match &decision.outcome {
            Outcome::Node(node) => self.take_node(pod, node.clone(), profile, now_ms),
            Outcome::NoNodes | Outcome::Unschedulable => {
                let step = self.no_node(pod.clone(), profile, &decision, seed, now_ms);
                self.has_no_node(&pod, now_ms);
                Some(step)
            }
        }
    }

    /// What extenders said of the nodes where a pod fits, or why one that must be heard said
    /// nothing. What has happened meanwhile is taken into account; where there are other nodes by then and
    /// none of these will do, they are asked again.
    pub fn heard_of_nodes(&mut self, answer: Result<Opinion, String>, now_ms: u64) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        // It was removed, or got a node elsewhere.
        if !self.queue.contains(&asked.pod.uid) {
            return;
        }
        let step = match answer {
            Ok(opinion) => {
                let Some(profile) = self.profiles.get(asked.profile) else {
                    return;
                };
                let (heard, timings) = (Some(&opinion), &self.timings);
                let (pod, seed) = (&asked.pod, asked.seed);
                let decision = decide_with(&self.snapshot, pod, profile, seed, heard, timings);
                // What has begun to fit meanwhile wakes nobody any more: they are asked about it.
                let mut others_fit = false;
                if decision.outcome == Outcome::Unschedulable {
                    let (_, nodes) = fitting(&self.snapshot, pod, profile, seed, timings);
                    others_fit = {
                        let known: HashSet<&Arc<str>> = asked.nodes.iter().collect();
                        nodes.iter().any(|node| !known.contains(node))
                    };
                    if others_fit && asked.again < ASKED_AGAIN {
                        let pod = pod.clone();
                        self.asked = Some(ExtenderCall {
                            nodes: nodes.clone(),
                            again: asked.again + 1,
                            ..asked
                        });
                        let question = Question::Nodes { pod, nodes };
                        self.ready.push_back(Step::Ask(question));
                        return;
                    }
                }
                let uid = asked.pod.uid.clone();
                let step = self.decided(asked.pod, asked.profile, decision, asked.seed, now_ms);
                if others_fit {
                    // Often enough for now: others have their turn before it.
                    self.queue.wake_one(&uid, Events::NONE.label(), now_ms);
                }
                step
            }
            Err(message) => {
                self.end_nomination(&asked.pod.uid);
                self.queue.retry(&asked.pod.uid, now_ms);
                let pod = asked.pod;
                Some(Step::Failed { pod, message })
            }
        };
        self.ready.extend(step);
    }

    /// Whose room extenders let be taken, or why one that must be heard said nothing.
    pub fn heard_of_victims(&mut self, answer: Result<Vec<Chosen>, String>, now_ms: u64) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        if !self.queue.contains(&asked.pod.uid) {
            return;
        }
        self.queue.release(&asked.pod.uid, false, now_ms);
        let found = answer.and_then(|chosen| {
            let found = chosen.iter().map(|c| self.candidate(c));
            found.collect::<Result<Vec<Arc<Candidate>>, String>>()
        });
        let outcome = match found {
            Ok(candidates) => preempt::best(candidates),
            Err(why) => Preemption::Hopeless(why),
        };
        let message = asked.message.unwrap_or_default();
        let step = self.without_node(asked.pod.clone(), message, outcome, now_ms);
        self.ready.push_back(step);
        self.has_no_node(&asked.pod, now_ms);
    }

    /// What an extender chose, as pods of this scheduler.
    fn candidate(&self, chosen: &Chosen) -> Result<Arc<Candidate>, String> {
        let Chosen { node, victims, .. } = chosen;
        let place = self.snapshot.node(node).filter(|n| n.exists);
        let place = place.ok_or_else(|| format!("node {node:?} not found"))?;
        let pods = victims.iter().map(|uid| {
            let found = place.pods.iter().find(|p| *p.uid == **uid).cloned();
            found.ok_or_else(|| {
                format!(
                    "an extender claims to preempt pod (UID: {uid}) on node: {node}, but the pod \
                     is not found on that node"
                )
            })
        });
        let victims = pods.collect::<Result<Vec<_>, String>>()?;
        let candidate = Candidate::new(place.name.clone(), victims, chosen.violations);
        Ok(Arc::new(candidate))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as k8s;
    use serde_json::{Value, json};

    use super::*;
    use crate::core::Nomination;
    use crate::decide::Profile;
    use crate::extenders::{Extender, No};
    use crate::queue::Waits;

    fn core(extender: Extender) -> Core {
        let core = Core::new(vec![Profile::default()], Waits::default());
        let mut core = core.with_extenders(vec![extender]);
        for name in ["a", "b"] {
            let node = json!({"metadata": {"name": name},
                "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "9",
                                           "example.com/gpu": "4"}}});
            let node: k8s::Node = serde_json::from_value(node).expect("a node");
            core.node_changed(None, Some(&node));
        }
        core
    }

    fn pod(name: &str, priority: i32, node: Option<&str>, requests: Value) -> k8s::Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"priority": priority, "nodeName": node, "containers": [
                {"name": "c", "resources": {"requests": requests}}]},
        }))
        .expect("a pod")
    }

    fn judge() -> Extender {
        Extender {
            filter: "filter".into(),
            prioritize: "prioritize".into(),
            weight: 3,
            ..Extender::default()
        }
    }

    fn names(step: Option<Step>) -> Vec<String> {
        let Some(Step::Ask(Question::Nodes { nodes, .. })) = step else {
            panic!("{step:?}")
        };
        let mut names: Vec<String> = nodes.iter().map(|n| n.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn extenders_choose_among_the_nodes_that_fit() {
        let mut core = core(judge());
        core.pod_changed(None, Some(&pod("p", 0, None, json!({"cpu": "1"}))), 0);
        core.pod_changed(None, Some(&pod("q", 0, None, json!({"cpu": "1"}))), 0);
        assert_eq!(names(core.step(1, 0)), ["a", "b"]);
        assert!(core.step(2, 0).is_none(), "one is asked about at a time");
        let both: Opinion = Opinion {
            good: ["a".into(), "b".into()].into(),
            scores: [("a".into(), 0), ("b".into(), 300)].into(),
            ..Opinion::default()
        };
        core.heard_of_nodes(Ok(both), 0);
        let Some(Step::Bind { node, .. }) = core.step(3, 0) else {
            panic!("the extender's points decide")
        };
        assert_eq!(&*node, "b");
        assert_eq!(names(core.step(4, 0)), ["a", "b"]);
        let no = |never| No {
            why: "no GPU".into(),
            never,
        };
        let none = Opinion {
            refused: [("a".into(), no(true)), ("b".into(), no(false))].into(),
            ..Opinion::default()
        };
        core.heard_of_nodes(Ok(none), 0);
        let Some(Step::Unschedulable { message, .. }) = core.step(5, 0) else {
            panic!("no node is good")
        };
        assert!(
            message.starts_with("0/2 nodes are available: 2 no GPU."),
            "{message}"
        );
        // Whatever happens may help.
        let node = json!({"metadata": {"name": "a", "labels": {"new": "label"}},
            "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "9"}}});
        let node: k8s::Node = serde_json::from_value(node).expect("a node");
        core.node_changed(None, Some(&node));
        assert_eq!(names(core.step(6, 60_000)), ["a", "b"]);
    }

    #[test]
    fn what_begins_to_fit_while_extenders_are_asked_is_asked_about_too() {
        let mut core = core(judge());
        core.pod_changed(None, Some(&pod("p", 0, None, json!({"cpu": "1"}))), 0);
        assert_eq!(names(core.step(1, 0)), ["a", "b"]);
        let node = json!({"metadata": {"name": "c"},
            "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "9"}}});
        let node: k8s::Node = serde_json::from_value(node).expect("a node");
        core.node_changed(None, Some(&node));
        // The event is looked at while the answer is awaited.
        assert!(core.step(2, 0).is_none());
        core.heard_of_nodes(Ok(Opinion::default()), 0);
        assert_eq!(names(core.step(3, 0)), ["a", "b", "c"]);
        // Of the same nodes they are not asked again.
        core.heard_of_nodes(Ok(Opinion::default()), 0);
        let step = core.step(4, 0);
        assert!(matches!(step, Some(Step::Unschedulable { .. })), "{step:?}");
        assert!(core.step(5, 0).is_none());
        // That they refused it without a word is a refusal of which nobody knows what ends it.
        let gone: k8s::Node =
            serde_json::from_value(json!({"metadata": {"name": "c"}})).expect("c");
        core.node_changed(Some(&gone), None);
        assert_eq!(names(core.step(6, 60_000)), ["a", "b"]);
    }

    #[test]
    fn a_pod_about_which_they_are_asked_again_and_again_lets_others_go_on() {
        let mut core = core(judge());
        core.pod_changed(None, Some(&pod("p", 0, None, json!({"cpu": "1"}))), 0);
        let mut asked = core.step(1, 0);
        let mut times = 0;
        while let Some(Step::Ask(_)) = asked {
            times += 1;
            let node = json!({"metadata": {"name": format!("n{times}")},
                "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "9"}}});
            let node: k8s::Node = serde_json::from_value(node).expect("a node");
            core.node_changed(None, Some(&node));
            // The event is looked at while the answer is awaited.
            assert!(core.step(2, 0).is_none());
            core.heard_of_nodes(Ok(Opinion::default()), 0);
            asked = core.step(3, 0);
        }
        assert_eq!(times, 1 + ASKED_AGAIN);
        assert!(
            matches!(asked, Some(Step::Unschedulable { .. })),
            "{asked:?}"
        );
        // It is tried again, though nothing happens any more.
        let last = names(core.step(4, 60_000)).pop();
        assert_eq!(last.as_deref(), Some("n4"));
    }

    #[test]
    fn an_extender_that_must_be_heard_and_is_not_fails_the_pod() {
        let mut core = core(judge());
        core.pod_changed(None, Some(&pod("p", 0, None, json!({}))), 0);
        names(core.step(1, 0));
        core.heard_of_nodes(Err("no answer".into()), 0);
        assert!(
            matches!(core.step(2, 0), Some(Step::Failed { message, .. }) if message == "no answer")
        );
        assert_eq!(core.next_due_ms(), Some(1_000));
        names(core.step(3, 1_000));
        // A pod that has gone meanwhile needs no answer.
        core.pod_changed(Some(&pod("p", 0, None, json!({}))), None, 1_000);
        core.heard_of_nodes(Ok(Opinion::default()), 1_000);
        assert!(core.step(4, 1_000).is_none());
    }

    #[test]
    fn extenders_of_resources_do_not_hear_of_other_pods() {
        let mut gpus = judge();
        gpus.managed = vec!["example.com/gpu".into()];
        let mut core = core(gpus);
        core.pod_changed(None, Some(&pod("plain", 0, None, json!({"cpu": "1"}))), 0);
        assert!(matches!(core.step(1, 0), Some(Step::Bind { .. })));
        let asks = json!({"example.com/gpu": "1"});
        core.pod_changed(None, Some(&pod("gpu", 0, None, asks)), 0);
        assert_eq!(names(core.step(2, 0)), ["a", "b"]);
    }

    #[test]
    fn extenders_say_whose_room_is_taken() {
        let preempts = Extender {
            preempt: "preempt".into(),
            ..Extender::default()
        };
        let all = || json!({"cpu": "2"});
        let made = |answer: Result<Vec<Chosen>, String>| {
            let mut core = core(preempts.clone());
            for node in ["a", "b"] {
                let low = pod(&format!("low-{node}"), 0, Some(node), all());
                core.pod_changed(None, Some(&low), 0);
            }
            core.pod_changed(None, Some(&pod("high", 9, None, all())), 0);
            let Some(Step::Ask(Question::Victims { candidates, .. })) = core.step(1, 0) else {
                panic!("victims are asked about")
            };
            assert_eq!(candidates.len(), 2);
            core.heard_of_victims(answer, 0);
            core.step(2, 0)
        };
        let chosen = |victim: &str| Chosen {
            node: "b".into(),
            victims: vec![victim.into()],
            violations: 0,
        };
        let Some(Step::Unschedulable {
            nomination: Nomination::Begins(room),
            ..
        }) = made(Ok(vec![chosen("low-b")]))
        else {
            panic!("room is made")
        };
        assert_eq!((&*room.node, &*room.victims[0].uid), ("b", "low-b"));
        for (answer, why) in [
            (Ok(vec![]), "preemption: no candidate node for preemption"),
            (
                Ok(vec![chosen("low-a")]),
                "the pod is not found on that node",
            ),
            (Err("no answer".into()), "preemption: no answer"),
        ] {
            let Some(Step::Unschedulable { message, .. }) = made(answer) else {
                panic!("{why}")
            };
            assert!(message.contains(why), "{message}");
        }
    }
}
